"""Datasets: from a D4RL name, a Minari id or a file of the user's own to tensors on the device.

Where the arrays come from and whether they are sound is in common/sources.py; here they become transitions.
`python -m common.data to-minari hopper-medium-v2` converts a D4RL dataset to the Minari dataset d4rl/hopper/medium-v2.
"""

import os
import warnings
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from common import InputError, friendly
from common.files import minari_folder
from common.holdout import held_out, set_aside
from common.overview import overview
from common.sources import D4RL, read_arrays

REWARDS = {  # --reward: (reward, first row of every episode) -> reward
    "raw": lambda r, starts: r,
    "r-1": lambda r, starts: r - 1,  # IQL, TD3+BC and others on AntMaze
    "10r-5": lambda r, starts: 10 * r - 5,  # CQL, Cal-QL on AntMaze
    "4r-2": lambda r, starts: 4 * r - 2,  # CQL's authors on AntMaze
    "return_range": lambda r, starts: r * (1000 / np.ptp(np.add.reduceat(r, starts))),  # IQL, SQL on MuJoCo
    "standardize": lambda r, starts: (r - r.mean()) / r.std(),  # EDAC on Adroit
    "shift": lambda r, starts: r - r.min(),  # RORL's switch: the smallest reward is 0
}
Batch = namedtuple("Batch", "obs action reward next_obs done")  # (B, S) (B, A) (B,) (B, S) (B,); done: true ends only


@dataclass
class Dataset:
    """Transitions on one device: `obs action reward next_obs done` as in Batch, with N rows.

    `name`: as given; `task`: the D4RL name or Minari id it belongs to, None for own arrays; `source`: facts for a run's
    config (kind d4rl, minari, file or standin, path, sha256, view, rows; action_low and action_high, the bounds that
    were scaled to -1 and 1; env, has a Minari dataset one?); `rows`: (N, 2 S + A + 2) float32, a row a transition, so
    that a batch is one gather; `episodes`: (E, 2) rows [start, end); `obs_mean`, `obs_std`: population.
    `last_next_action`: (E, A), the action after each episode's last row, NaN where unknown; None: unknown everywhere.
    `holdout`: (M, 2 S + A + 2) rows of episodes that `rows` are without (common/holdout.py), None without --holdout.
    """
    name: str
    task: str | None
    source: dict
    rows: Tensor
    obs_size: int
    action_size: int
    episodes: Tensor
    last_next_action: Tensor | None = None
    holdout: Tensor | None = None

    def __post_init__(self):
        self.device = self.rows.device
        self.obs, self.action, self.reward, self.next_obs, self.done = self.split(self.rows)
        parts = self.obs.tensor_split(max(1, self.obs_size // 2), 1)  # two or three columns: float64 is large
        std, mean = map(torch.cat, zip(*(torch.std_mean(part.cpu().double(), 0, correction=0) for part in parts)))
        self.obs_mean, self.obs_std = mean.float().to(self.device), std.float().to(self.device)
        self.standin = self.source["kind"] == "standin"

    def split(self, rows: Tensor) -> Batch:
        """Views of rows (..., 2 S + A + 2) as a batch."""
        s, a = self.obs_size, self.action_size
        return Batch(rows[..., :s], rows[..., s:s + a], rows[..., s + a], rows[..., s + a + 1:-1], rows[..., -1])

    def sample(self, batch_size: int, rng: torch.Generator) -> Batch:
        """Uniform with replacement; `rng` lives on the dataset's device, so nothing waits for the host."""
        index = torch.randint(len(self.rows), (batch_size,), generator=rng, device=self.device)
        return self.split(self.rows[index])

    @cached_property
    def next_action(self) -> Tensor:
        """(N, A): the next row's action, or `last_next_action`; 0 at a true end, which needs none."""
        found, last = self.action.roll(-1, 0), self.episodes[:, 1].to(self.device) - 1
        found[last] = torch.nan if self.last_next_action is None else self.last_next_action.to(self.device)
        found[self.done > 0] = 0.0
        return found

    @cached_property
    def followed(self) -> Tensor:
        """Rows whose next action is known, and true ends."""
        return self.next_action.isfinite().all(1).nonzero()[:, 0]

    def sample_sarsa(self, batch_size: int, rng: torch.Generator) -> tuple[Batch, Tensor]:
        """As `sample`, of `followed` rows, and the next action (B, A), which means nothing at a true end."""
        index = torch.randint(len(self.followed), (batch_size,), generator=rng, device=self.device)
        index = self.followed[index]
        return self.split(self.rows[index]), self.next_action[index]

    def subset(self, index: Tensor) -> "Dataset":
        """Some rows (M,) int64, ascending, as a dataset with statistics of its own.

        A gap ends an episode; the action that followed the row before the gap stays known.
        """
        episode = torch.searchsorted(self.episodes[:, 1].contiguous(), index.cpu(), right=True)
        cuts = (((episode.diff() > 0) | (index.cpu().diff() > 1)).nonzero()[:, 0] + 1).tolist()
        episodes = torch.tensor([[0, *cuts], [*cuts, len(index)]]).T
        last = index.cpu()[episodes[:, 1] - 1].to(self.device)
        return replace(self, rows=self.rows[index.to(self.device)], episodes=episodes,
                       last_next_action=self.next_action[last].cpu(),
                       source=self.source | {"rows": len(index)})


def load_dataset(env: str, device: str = "cpu", view: str = "auto", reward: str = "raw", standin: bool = True,
                 standin_rows: int = 1_000_000, action_low=(), action_high=(), holdout: float = 0.0) -> Dataset:
    """Find, check and load a dataset.

    `env`: D4RL name, Minari id, or path of an .hdf5 or .npz file with observations (N, S), actions (N, A), rewards
    (N,), terminals (N,), and next_observations (N, S) or timeouts (N,) or both. `view`: d4rl, the papers'
    `qlearning_dataset` (no rows that a timeout cuts, no last row; only their actions stay, as next actions); next_obs,
    every row, timeouts as ordinary ones; auto, d4rl for D4RL names and for files without next_observations (whose
    true ends all stay), else next_obs. `reward`: a key of REWARDS. `standin`: may a stand-in of `standin_rows` rows
    replace a D4RL dataset that cannot be had? `action_low`, `action_high`: bounds of the actions, a number or one for
    each dimension, which are scaled to -1 and 1; without, those in the file (arrays of these names) or of Minari's
    action space, else -1 and 1. `holdout`: share of the episodes to set aside (common/holdout.py). InputError: what is
    wrong, in one line, and what to do.
    """
    if reward not in REWARDS:
        raise InputError(f"--reward {reward} is unknown; choose from {', '.join(REWARDS)}")
    arrays, source = read_arrays(env, standin, standin_rows, action_low, action_high)
    if view == "auto":
        view = "d4rl" if source["kind"] in ("d4rl", "standin") or "next_observations" not in arrays else "next_obs"
    columns, keep, episodes, last_next_action = transitions(arrays, view, env, D4RL.get(env))
    sizes = [column.shape[1] for column in columns[:2]]
    told = overview(arrays, _timeouts(arrays, env, None), source) if source["kind"] in ("file", "minari") else ()
    del arrays  # so that no more than it and `rows` are ever in memory
    rows = _side_by_side(columns, keep)
    if len(rows) > 1 and not np.ptp(rows[:, sizes[0]:sum(sizes)], 0).any():
        raise InputError(f"{env}: all of its {len(rows):,} actions are the same, so there is no better one to learn")
    with np.errstate(divide="ignore", invalid="ignore"):
        rewards = REWARDS[reward](rows[:, sum(sizes)].astype(np.float64), episodes[:, 0])
    if not np.isfinite(rewards).all():
        raise InputError(f"{env}: --reward {reward} divides by zero here: all rewards or all returns are the same")
    rows[:, sum(sizes)] = rewards
    print(f"{env}: {len(rows):,} transitions, {len(episodes):,} episode{'s' * (len(episodes) > 1)}, view {view}, from "
          f"{source['path']}")
    print(*told, sep="\n", end="\n" * bool(told))
    held, last = None, last_next_action
    if holdout:
        which = held_out(len(episodes), holdout, env)
        last = None if last is None else last[~which]
        rows, episodes, held = set_aside(rows, episodes, which)
    task = env.removeprefix("d4rl/").replace("/", "-", 1) if env.startswith("d4rl/") else env  # of to_minari
    return Dataset(env, None if source["kind"] == "file" else task, source | {"view": view, "rows": len(rows)},
                   torch.from_numpy(rows).to(device), *sizes, torch.from_numpy(episodes),
                   None if last is None else torch.from_numpy(last).float(),
                   None if held is None else torch.from_numpy(held).to(device))


def transitions(arrays: dict, view: str, name: str, facts: dict | None = None
                ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray | None]:
    """[obs, action, reward, next_obs, done] of all rows, which of them the view keeps (bool), the bounds (E, 2) of its
    episodes among these, and `last_next_action` (E, A).

    next_obs: the file's own, else the next row's; at a terminal row of a file without (masked), the row's own.
    last_next_action: the view d4rl drops the row of a timeout, so that row's action follows the last kept one; the view
    next_obs keeps it, and what would have been done after it is unknown: None.
    """
    obs, terminals, next_obs = arrays["observations"], arrays["terminals"], arrays.get("next_observations")
    if view != "d4rl" and (view != "next_obs" or next_obs is None):
        raise InputError(f"{name}: no view {view}; there are d4rl and, for files with `next_observations`, next_obs")
    timeouts, keep = _timeouts(arrays, name, facts), np.ones(len(obs), bool)
    if view == "d4rl":
        keep = ~timeouts
        keep[-1] = False
        if next_obs is None and not facts:  # a true end needs no next observation; D4RL's names are as in the papers
            keep |= terminals
    if not keep.any():
        raise InputError(f"{name}: view {view} leaves no transitions of the {len(obs)} rows in the file")
    if next_obs is None:
        next_obs = np.concatenate([obs[1:], obs[:1]])
        np.copyto(next_obs, obs, where=terminals[:, None])
    ends = arrays.get("ends", terminals | timeouts)
    kept = np.flatnonzero(keep)
    cuts = np.flatnonzero(np.diff((np.cumsum(ends) - ends)[kept])) + 1  # where the number of the episode changes
    episodes = np.stack([np.r_[0, cuts], np.r_[cuts, len(kept)]], axis=1).astype(np.int64)
    after = np.minimum(kept[episodes[:, 1] - 1] + 1, len(obs) - 1)  # past the file's end only after a true one
    return ([obs, arrays["actions"], arrays["rewards"], next_obs, terminals], keep, episodes,
            arrays["actions"][after] if view == "d4rl" else None)


def _side_by_side(columns, keep) -> np.ndarray:
    """Kept rows of a list of columns in one float32 array. The list is emptied: a column goes once it is copied."""
    sizes = [column[0].size for column in columns]
    rows, step = np.empty((keep.sum(), sum(sizes)), np.float32), max(1, 2**16 // max(sizes))
    while columns:
        column, row, place = columns.pop(), 0, sum(sizes[:len(columns)])
        for start in range(0, len(keep), step):  # in pieces: no second copy of a whole column
            piece = column[start:start + step][keep[start:start + step]]
            rows[row:row + len(piece), place:place + sizes[len(columns)]] = piece.reshape(len(piece), -1)
            row += len(piece)
    return rows


def _timeouts(arrays, name, facts):
    """The file's own, or D4RL's rule for files without (kitchen): step max_episode_steps - 1, as D4RL counts."""
    terminals = arrays["terminals"]
    if "timeouts" in arrays or "next_observations" in arrays:
        return arrays.get("timeouts", np.zeros_like(terminals))
    if not facts or not facts["max_episode_steps"]:
        raise InputError(f"{name}: has neither `next_observations` nor `timeouts`: where its episodes end is unknown")
    row, horizon = np.arange(len(terminals)), int(facts["max_episode_steps"])
    start = np.maximum.accumulate(np.where(np.r_[True, terminals[:-1]], row, 0))
    return (row - start + (start > 0)) % horizon == horizon - 1  # D4RL: the row after a terminal one is step 1, not 0


def to_minari(env: str) -> str:
    """Convert a D4RL dataset to a local Minari dataset and return its id, `d4rl/hopper/medium-v2` for hopper-medium-v2.

    Its transitions are those of view `next_obs`, bit for bit. Without next_observations a cut episode loses its last
    row, whose next one is unknown; at a true end (masked) the last observation is repeated.
    """
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    if not (facts := D4RL.get(env)):
        raise InputError(f"{env}: D4RL has no dataset of this name")
    if os.path.exists(minari_folder(name := "d4rl/" + env.replace("-", "/", 1))):
        raise InputError(f"{name}: is a Minari dataset already; `minari delete {name}` first")
    arrays, source = read_arrays(env, standin=False)
    obs, action, terminals = arrays["observations"], arrays["actions"], arrays["terminals"]
    true_end = arrays.get("next_observations")
    ends = np.union1d(np.flatnonzero(terminals | _timeouts(arrays, env, facts)) + 1, len(obs))
    buffers = []
    for start, end in zip(np.r_[0, ends[:-1]], ends):
        last = obs[end - 1] if true_end is None else true_end[end - 1]
        end -= true_end is None and not terminals[end - 1]
        if end > start:
            rows, cut = slice(start, end), np.arange(start, end) == end - 1
            buffers.append(EpisodeBuffer(
                id=len(buffers), observations=np.r_[obs[rows], last[None]], actions=action[rows],
                rewards=arrays["rewards"][rows], terminations=terminals[rows], truncations=cut & ~terminals[rows]))
    warnings.filterwarnings("ignore", module="minari")  # it asks for the author's address and the like
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=Box(-np.inf, np.inf, obs.shape[1:], np.float32),
        action_space=Box(-1.0, 1.0, action.shape[1:], np.float32),
        description=f"D4RL {env}, file with SHA-256 {source['sha256']}"
    ).storage.update_metadata({"ref_min_score": float(facts["ref_min"]), "ref_max_score": float(facts["ref_max"])})
    print(f"{env}: {len(buffers):,} episodes are now the Minari dataset {name}")
    return name


if __name__ == "__main__":
    import argparse
    parser = argparse.ArgumentParser(prog="python -m common.data", description=to_minari.__doc__.splitlines()[0])
    parser.add_argument("command", choices=["to-minari"])
    parser.add_argument("env", help="name of a D4RL dataset")
    with friendly():
        to_minari(parser.parse_args().env)
