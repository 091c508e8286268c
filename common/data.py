"""Datasets: from a D4RL name, a Minari id or a file of the user's own to tensors on the device.

A name is looked up in this order, and a line says where it was found: (1) a path ending in .hdf5 or .npz, own arrays;
(2) an id with a `/`, Minari; (3) the cache ($SOLO_CACHE, else ~/.cache/solo) of converted D4RL files; (4) D4RL's own
folder ($D4RL_DATASET_DIR, else ~/.d4rl/datasets); (5) download ($SOLO_MIRRORS replaces the mirrors); (6) a stand-in.
`python -m common.data to-minari hopper-medium-v2` converts a D4RL dataset to the Minari dataset d4rl/hopper/medium-v2.
"""

import contextlib
import csv
import difflib
import errno
import hashlib
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.request
import warnings
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common import InputError, lock

MIRRORS = "http://rail.eecs.berkeley.edu/datasets/offline_rl https://huggingface.co/datasets/imone/D4RL/resolve/main"
SUFFIXES = (".hdf5", ".h5", ".npz")  # of files of the user's own
REQUIRED, OPTIONAL = ("observations", "actions", "rewards", "terminals"), ("next_observations", "timeouts")
with open(Path(__file__).parent / "d4rl.csv") as table:
    D4RL = {row["dataset"]: row for row in csv.DictReader(table)}  # D4RL's facts about its datasets, as strings
REWARDS = {  # --reward: (reward, first row of every episode) -> reward
    "raw": lambda r, starts: r,
    "r-1": lambda r, starts: r - 1,  # IQL, TD3+BC and others on AntMaze
    "10r-5": lambda r, starts: 10 * r - 5,  # CQL, Cal-QL on AntMaze
    "return_range": lambda r, starts: r * (1000 / np.ptp(np.add.reduceat(r, starts))),  # IQL, SQL on MuJoCo
    "standardize": lambda r, starts: (r - r.mean()) / r.std(),  # EDAC on Adroit
    "shift": lambda r, starts: r - r.min(),  # RORL's switch: the smallest reward is 0
}
Batch = namedtuple("Batch", "obs action reward next_obs done")  # (B, S) (B, A) (B,) (B, S) (B,); done: true ends only


@dataclass
class Dataset:
    """Transitions on one device: `obs action reward next_obs done` as in Batch, with N rows.

    `name`: as given; `task`: the D4RL name or Minari id it belongs to, None for own arrays; `source`: facts for a run's
    config (kind d4rl, minari, file or standin, path, sha256, view, rows); `rows`: (N, 2 S + A + 2) float32, a row a
    transition, so that a batch is one gather; `episodes`: (E, 2) rows [start, end); `obs_mean`, `obs_std`: population.
    """
    name: str
    task: str | None
    source: dict
    rows: Tensor
    obs_size: int
    action_size: int
    episodes: Tensor

    def __post_init__(self):
        self.device = self.rows.device
        self.obs, self.action, self.reward, self.next_obs, self.done = self._split(self.rows)
        std, mean = torch.std_mean(self.obs.cpu().double(), 0, correction=0)
        self.obs_mean, self.obs_std = mean.float().to(self.device), std.float().to(self.device)
        self.standin = self.source["kind"] == "standin"

    def _split(self, rows) -> Batch:
        s, a = self.obs_size, self.action_size
        return Batch(rows[:, :s], rows[:, s:s + a], rows[:, s + a], rows[:, s + a + 1:-1], rows[:, -1])

    def sample(self, batch_size: int, rng: torch.Generator) -> Batch:
        """Uniform with replacement; `rng` lives on the dataset's device, so nothing waits for the host."""
        index = torch.randint(len(self.rows), (batch_size,), generator=rng, device=self.device)
        return self._split(self.rows[index])

    @cached_property
    def followed(self) -> Tensor:
        """Rows whose episode has a next action, that of the next row, and true ends, which need none."""
        known = torch.ones(len(self.rows), dtype=torch.bool, device=self.device)
        last = self.episodes[:, 1].to(self.device) - 1
        known[last] = self.done[last] > 0
        return known.nonzero()[:, 0]

    def sample_sarsa(self, batch_size: int, rng: torch.Generator) -> tuple[Batch, Tensor]:
        """As `sample`, of `followed` rows, and the next action (B, A), which means nothing at a true end."""
        index = torch.randint(len(self.followed), (batch_size,), generator=rng, device=self.device)
        index = self.followed[index]
        return self._split(self.rows[index]), self.action[(index + 1).clamp(max=len(self.rows) - 1)]

    def subset(self, index: Tensor) -> "Dataset":
        """Some rows (M,) int64, ascending, as a dataset with statistics of its own; a gap ends an episode."""
        episode = torch.searchsorted(self.episodes[:, 1].contiguous(), index.cpu(), right=True)
        cuts = (((episode.diff() > 0) | (index.cpu().diff() > 1)).nonzero()[:, 0] + 1).tolist()
        episodes = torch.tensor([[0, *cuts], [*cuts, len(index)]]).T
        return replace(self, rows=self.rows[index.to(self.device)], episodes=episodes,
                       source=self.source | {"rows": len(index)})


def load_dataset(env: str, device: str = "cpu", view: str = "auto", reward: str = "raw", standin: bool = True,
                 standin_rows: int = 1_000_000) -> Dataset:
    """Find, check and load a dataset.

    `env`: D4RL name, Minari id, or path of an .hdf5 or .npz file with observations (N, S), actions (N, A) in [-1, 1],
    rewards (N,), terminals (N,), and next_observations (N, S) or timeouts (N,) or both. `view`: d4rl, the papers'
    `qlearning_dataset` (no rows that a timeout cuts, no last row); next_obs, every row, timeouts as ordinary ones;
    auto, d4rl for D4RL names and files without next_observations. `reward`: a key of REWARDS. `standin`: may one of
    `standin_rows` replace a D4RL dataset that cannot be had. InputError: what is wrong, in one line, and what to do.
    """
    if reward not in REWARDS:
        raise InputError(f"--reward {reward} is unknown; choose from {', '.join(REWARDS)}")
    arrays, source = read_arrays(env, standin, standin_rows)
    if view == "auto":
        view = "d4rl" if source["kind"] in ("d4rl", "standin") or "next_observations" not in arrays else "next_obs"
    columns, episodes = transitions(arrays, view, env, D4RL.get(env))
    with np.errstate(divide="ignore", invalid="ignore"):
        columns[2] = REWARDS[reward](columns[2].astype(np.float64), episodes[:, 0])
    if not np.isfinite(columns[2]).all():
        raise InputError(f"{env}: --reward {reward} divides by zero here: all rewards or all returns are the same")
    rows = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1, dtype=np.float32)
    print(f"{env}: {len(rows):,} transitions, {len(episodes):,} episodes, view {view}, from {source['path']}")
    task = env.removeprefix("d4rl/").replace("/", "-", 1) if env.startswith("d4rl/") else env  # of to_minari
    return Dataset(env, None if source["kind"] == "file" else task, source | {"view": view, "rows": len(rows)},
                   torch.from_numpy(rows).to(device), *(c.shape[1] for c in columns[:2]), torch.from_numpy(episodes))


def transitions(arrays: dict, view: str, name: str, facts: dict | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """[obs, action, reward, next_obs, done] of a view, and its episodes' bounds (E, 2).

    next_obs: the file's own, else the next row's; at a terminal row of a file without (masked), the row's own.
    """
    obs, terminals, next_obs = arrays["observations"], arrays["terminals"], arrays.get("next_observations")
    if view != "d4rl" and (view != "next_obs" or next_obs is None):
        raise InputError(f"{name}: no view {view}; there are d4rl and, for files with `next_observations`, next_obs")
    timeouts = _timeouts(arrays, name, facts)
    keep = np.flatnonzero(~timeouts[:-1]) if view == "d4rl" else np.arange(len(obs))
    if len(keep) == 0:
        raise InputError(f"{name}: view {view} leaves no transitions of the {len(obs)} rows in the file")
    if next_obs is None:
        next_obs = np.where(terminals[:, None], obs, np.roll(obs, -1, axis=0))
    ends = terminals | timeouts
    cuts = np.flatnonzero(np.diff((np.cumsum(ends) - ends)[keep])) + 1  # where the number of the episode changes
    episodes = np.stack([np.r_[0, cuts], np.r_[cuts, len(keep)]], axis=1).astype(np.int64)
    return [x[keep] for x in (obs, arrays["actions"], arrays["rewards"], next_obs, terminals)], episodes


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


def normalized_score(task: str | None, returns):
    """100 (return - ref_min) / (ref_max - ref_min), D4RL's references or the Minari dataset's own; None without."""
    low, high = _references(task)
    return None if low is None or high is None else 100.0 * (returns - low) / (high - low)


@cache
def _references(task):
    if row := D4RL.get(task):
        return float(row["ref_min"]), float(row["ref_max"])
    if task and "/" in task:
        import minari
        facts = minari.load_dataset(task).storage.metadata
        return facts.get("ref_min_score"), facts.get("ref_max_score")
    return None, None


def read_arrays(env: str, standin: bool = True, standin_rows: int = 1_000_000) -> tuple[dict[str, np.ndarray], dict]:
    """All rows of a dataset in D4RL's layout, checked, and their source. Arguments and errors as `load_dataset`."""
    path = Path(env).expanduser()
    if path.suffix in SUFFIXES:
        return _checked(_read(path)[0], env), {"kind": "file", "path": str(path), "sha256": _sha256(path)}
    if "/" in env:
        return _read_minari(env)
    if facts := D4RL.get(env):
        return _read_d4rl(env, facts, standin, standin_rows)
    near = ", ".join(difflib.get_close_matches(env, D4RL, 3, 0.4)) or "hopper-medium-v2"
    raise InputError(f"{env}: no such dataset; did you mean {near}? (Own data: a path that ends in .npz or .hdf5. "
                     "Minari: an id with a /)")


def cache_file(name) -> Path:
    return Path(os.environ.get("SOLO_CACHE") or "~/.cache/solo").expanduser() / name


def _read_d4rl(env, facts, standin, standin_rows):
    def known():
        if cached.is_file():
            arrays, source = _read(cached)
            if facts["sha256"] in ("", source.get("sha256")):
                return arrays, source | {"path": str(cached)}

    cached = cache_file(f"{env}.npz")
    if found := known():
        return found
    with _alone(cached):
        return known() or _fetch(env, facts, cached, standin, standin_rows)


@contextlib.contextmanager
def _alone(path):
    """One process at a time: the others wait, and find what it made. Where no file can be locked, nobody waits."""
    descriptor = None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".lock").open("a").close()
        while not (descriptor := lock(path.with_suffix(".lock"))):
            time.sleep(0.2)
    try:
        yield
    finally:
        if descriptor:
            os.close(descriptor)


def _fetch(env, facts, cached, standin, standin_rows):
    name = Path(facts["path"]).name
    local = Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser() / name
    with tempfile.TemporaryDirectory() as folder:
        path, origin = local, str(local)
        if not local.is_file():
            impatient = any(cached.parent.glob(f"{env}.standin-*"))  # its stand-in is there already
            path, origin = download(facts, Path(folder), timeout=2.0 if impatient else 10.0)
        elif why := _wrong(local, facts):
            raise InputError(f"{local} {why}; delete it or fetch it again")
        if path:
            arrays, source = _checked(_read(path)[0], env), {"kind": "d4rl", "sha256": _sha256(path), "origin": origin}
            _write_npz(cached, arrays, source)
            return arrays, source | {"path": origin}
    if not (standin and facts["standin"]):
        why = "stand-ins are refused" if facts["standin"] else "there is no stand-in for it"
        raise InputError(f"{env}: not at hand ({origin}), and {why}; put {name} into {local.parent}")
    from common.standin import generate, standin_hash
    policies = facts["standin"].split()
    made = cache_file(f"{env}.standin-{standin_hash(policies, standin_rows)}.npz")
    print(f"{'!' * 110}\n!! STAND-IN DATA, not D4RL's: {env} is not at hand ({origin}).\n!! Made with this project's "
          f"own policies; compare its scores with nothing published. --no-standin refuses it.\n{'!' * 110}")
    if made.is_file():
        arrays, source = _read(made)
        return arrays, source | {"path": str(made)}
    arrays = generate(env, policies, standin_rows)
    source = {"kind": "standin", "sha256": _digest(arrays), "policies": policies}
    return arrays, source | {"path": _write_npz(made, arrays, source)}


def download(facts: dict, folder: Path, timeout: float = 10.0) -> tuple[Path | None, str]:
    """A D4RL file from the first mirror that has it whole: (path in `folder`, address), or (None, why none answers).

    InputError: mirrors answered, but none with the file (404, a web page, wrong size or hash, broken off).
    """
    path, answers, silent = folder / Path(facts["path"]).name, [], []
    for mirror in os.environ.get("SOLO_MIRRORS", MIRRORS).split():
        url, size, heard = f"{mirror}/{path.name if 'huggingface' in mirror else facts['path']}", 0, answers
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response, open(path, "wb") as file:
                size = int(response.headers.get("Content-Length") or 0)
                with tqdm.wrapattr(response, "read", size, desc=path.name, disable=not sys.stderr.isatty()) as body:
                    shutil.copyfileobj(body, file, 1 << 20)
            if not (why := _wrong(path, facts, size)):
                return path, url
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a mirror that is no address
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"{folder}: {error.strerror}; free space, or set TMPDIR to a larger disk") from None
            why = f"{getattr(error, 'code', '')} {getattr(error, 'reason', error)}".strip()
            blocked = "SOLO_MIRRORS" not in os.environ and getattr(error, "code", 0) in (403, 407, 502, 503)  # a proxy
            heard = answers if size or hasattr(error, "code") and not blocked else silent
        heard.append(f"{mirror}: {why}")
    if answers:
        raise InputError(f"cannot download {path.name} ({'; '.join(answers + silent)}). Put the file into "
                         "~/.d4rl/datasets, or set SOLO_MIRRORS= (empty) to work offline")
    return None, "; ".join(silent) or "offline: SOLO_MIRRORS is empty"


def _wrong(path, facts, size=0) -> str:
    """What is wrong with a D4RL file, as far as its signature, size and SHA-256 are known; else an empty string."""
    with open(path, "rb") as file:
        signature = file.read(8)
    if signature != b"\x89HDF\r\n\x1a\n":
        return f"is not an HDF5 file (it starts with {signature!r})"
    if (have := path.stat().st_size) != (want := int(facts["bytes"] or size or have)):
        return f"has {have:,} bytes of {want:,}"
    return "has the wrong SHA-256" if facts["sha256"] and _sha256(path) != facts["sha256"] else ""


def _read(path) -> tuple[dict[str, np.ndarray], dict]:
    """D4RL's keys of an .npz or HDF5 file, and a cache file's source; the rest (infos, metadata) is left alone."""
    import h5py
    try:
        with np.load(path, allow_pickle=False) if path.suffix == ".npz" else h5py.File(path) as file:
            source = json.loads(str(file["source"])) if path.suffix == ".npz" and "source" in file else {}
            return {key: file[key][()] for key in REQUIRED + OPTIONAL if key in file}, source
    except Exception as error:  # NumPy, zip, zlib and HDF5 each raise their own kinds
        why = f"cannot be read ({error}); damaged? Delete it or mend it" if path.is_file() else "no such file"
        raise InputError(f"{path}: {why}") from None


def _write_npz(path, arrays, source) -> str:
    """A cache file, whole or not at all; where that is impossible, say so and go on from memory."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, source=json.dumps(source), **arrays)
        part.replace(path)
        return str(path)
    except OSError as error:
        print(f"warning: no cache ({error}), this run works from memory; set SOLO_CACHE to a writable folder")
        return f"memory ({path.name})"
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(arrays) -> str:
    return hashlib.sha256(b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays))).hexdigest()


def _checked(arrays: dict, name: str) -> dict[str, np.ndarray]:
    """The arrays with one shape and type each, or an InputError that names the first thing wrong with them."""
    if missing := [f"`{key}`" for key in REQUIRED if key not in arrays]:
        raise InputError(f"{name}: lacks {', '.join(missing)}")
    (rows, *_), checked = np.atleast_1d(arrays["observations"]).shape, {}
    if rows == 0:
        raise InputError(f"{name}: has no transitions (zero rows)")
    for key, array in arrays.items():
        wide = key in ("observations", "actions", "next_observations")
        array = array[:, 0] if not wide and array.ndim == 2 and array.shape[1] == 1 else array
        if array.ndim != 1 + wide or array.dtype.kind not in "fiub" or wide and array.shape[1] == 0:
            expected = "(N, size)" if wide else "(N,)"
            raise InputError(f"{name}: `{key}` has shape {array.shape} and type {array.dtype}, not numbers {expected}")
        like = arrays["observations"].shape if key == "next_observations" else (rows,)
        if array.shape[:len(like)] != like:
            raise InputError(f"{name}: `{key}` has shape {array.shape}, `observations` {arrays['observations'].shape}")
        with np.errstate(over="ignore"):
            checked[key] = array.astype(np.float32, copy=False)
        if not (finite := np.isfinite(checked[key])).all():
            row = np.argwhere(~finite)[0, 0]
            raise InputError(f"{name}: `{key}` is NaN or infinite in row {row:,}; mend or drop that row")
        if key in ("terminals", "timeouts"):
            checked[key] = array.astype(bool, copy=False)
    if (largest := np.abs(checked["actions"]).max()) > 1 + 1e-5:
        raise InputError(f"{name}: actions reach {largest:.3g}, outside [-1, 1]; rescale them")
    return checked


def _read_minari(env):
    import minari
    from gymnasium.spaces import Box
    try:
        if env not in minari.list_local_datasets():
            minari.download_dataset(env)
        dataset = minari.load_dataset(env)
    except Exception as error:  # Minari, Hugging Face and the HTTP library each raise their own kinds
        raise InputError(f"{env}: no such Minari dataset, here or remote ({type(error).__name__}: {error})") from None
    for what, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise InputError(f"{env}: {what} are {space}; only flat Box spaces can be used")
    files = [(path.name, path.stat().st_mtime_ns) for path in sorted(Path(dataset.storage.data_path).iterdir())]
    cached = cache_file(f"minari-{env.replace('/', '_')}-{hashlib.sha256(repr(files).encode()).hexdigest()[:8]}.npz")
    if cached.is_file():
        arrays, source = _read(cached)
        return arrays, source | {"path": str(cached)}
    episodes = list(dataset.iterate_episodes())
    columns = {"observations": [e.observations[:-1] for e in episodes], "actions": [e.actions for e in episodes],
               "rewards": [e.rewards for e in episodes], "next_observations": [e.observations[1:] for e in episodes],
               "terminals": [e.terminations for e in episodes], "timeouts": [e.truncations for e in episodes]}
    arrays = _checked({key: np.concatenate(parts or [[]]) for key, parts in columns.items()}, env)
    source = {"kind": "minari", "sha256": _digest(arrays)}
    return arrays, source | {"path": _write_npz(cached, arrays, source)}


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
    if (name := "d4rl/" + env.replace("-", "/", 1)) in minari.list_local_datasets():
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
    from common.run import friendly
    parser = argparse.ArgumentParser(prog="python -m common.data", description=to_minari.__doc__.splitlines()[0])
    parser.add_argument("command", choices=["to-minari"])
    parser.add_argument("env", help="name of a D4RL dataset")
    with friendly():
        to_minari(parser.parse_args().env)
