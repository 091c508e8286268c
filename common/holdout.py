"""Held-out episodes (`--holdout 0.1`): nothing is trained on them, and log.csv has how wrong an agent is there.

Loading sets the episodes aside, before an agent is made: batches, statistics of observations, models and `data.rows`
are of the other episodes alone. Only --reward still takes its constants from all of them, so that a reward means the
same whatever the share is. Which episodes these are depends on their number and on the share alone, not on a seed.
"""

import inspect

import numpy as np
import torch
from torch import Tensor, nn

from common import InputError

GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, spread evenly and have no period that the data could have too
MOST = 4096  # held-out rows that the errors are means over
PIECE = 256  # rows at a time: no more memory than an update takes


def held_out(episodes: int, share: float, name: str) -> np.ndarray:
    """Which episodes (E,) bool are set aside: `share` of them, rounded; spread over the file, old ones and new ones.

    InputError: fewer than 2, or none is left to train on.
    """
    count = round(share * episodes)
    if not 2 <= count < episodes:
        what = "sets none aside" if count == 0 else "sets 1 aside" if count == 1 else "leaves none to train on"
        raise InputError(f"{name}: --holdout {share:g} of its {episodes:,} episodes {what}; it takes 2 or more, and "
                         "one or more that are left")
    held = np.zeros(episodes, bool)
    held[np.argsort(np.arange(episodes) * GOLDEN % 1)[:count]] = True
    return held


def set_aside(rows: np.ndarray, episodes: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows and the bounds (E, 2) of the episodes that are left, and rows of those `held`, evenly spread, at most
    MOST; a line says how many. What is left moves forward within `rows`, which has no second copy."""
    lengths = np.diff(episodes)[:, 0]
    row_held = np.repeat(held, lengths)
    index = np.flatnonzero(row_held)
    out = rows[index[np.linspace(0, len(index) - 1, min(MOST, len(index))).astype(int)]]
    end = 0
    for start, stop in episodes[~held].tolist():
        rows[end:end + stop - start] = rows[start:stop]  # NumPy minds the overlap
        end += stop - start
    print(f"held out: {held.sum():,} episodes with {len(index):,} rows; errors are logged of {len(out):,} of them")
    ends = np.cumsum(lengths[~held])
    return rows[:end], np.stack([ends - lengths[~held], ends], 1), out


@torch.no_grad()
def errors(agent) -> dict[str, Tensor]:
    """Errors of an agent on held-out rows (s, a, r, s', d), actions in [-1, 1], rewards as --reward has them:

        holdout_cloning = mean (pi(s) - a)^2, over rows and dimensions; pi(s) is actor.act(s), as evaluation plays it
        holdout_td = mean (min_k Qk(s, a) - r - gamma (1 - d) min_k Qk(s', pi(s')))^2

    Qk are the agent's own critics, not the targets, so holdout_td is how far they are from their fixed point. It starts
    near the mean squared reward and falls as Q grows to the returns; the critic loss, whose target moves slowly, is
    small long before. The same error is taken of every algorithm, also of one with another target (IQL's V(s'),
    One-step's next action of the data, SAC's entropy). So compare a run with itself and with runs of its kind. Errors
    that rise again are those of a policy or a critic that overfits or diverges; low ones are no proof of a good policy.
    An agent without such critics (`has_critics`) has holdout_cloning alone.
    """
    data, total = agent.data, {}
    if getattr(data, "holdout", None) is None:
        return total
    with_critics = has_critics(agent)
    for rows in data.holdout.split(PIECE):
        obs, action, reward, next_obs, done = data.split(rows)
        squares = {"holdout_cloning": (agent.actor.act(obs) - action).square().mean(1)}
        if with_critics:
            q, next_q = (agent.critics(*pair).reshape(-1, len(rows)).min(0).values
                         for pair in ((obs, action), (next_obs, agent.actor.act(next_obs))))
            squares["holdout_td"] = (q - torch.addcmul(reward, 1 - done, next_q, value=agent.args.gamma)).square()
        for name, square in squares.items():
            total[name] = total.get(name, 0.0) + square.sum() / len(data.holdout)
    return total


@torch.no_grad()
def has_critics(agent) -> bool:
    """Is there a module `critics(obs, action) -> (k, B)`, or (B,) for a single one, and a gamma? There is in every file
    of algorithms/ but bc.py and morel.py; a file of the user's whose critics have another form has none."""
    critics = getattr(agent, "critics", None)
    if not (isinstance(critics, nn.Module) and hasattr(getattr(agent, "args", None), "gamma")
            and list(inspect.signature(critics.forward).parameters)[:2] == ["obs", "action"]):
        return False
    batch = agent.data.split(agent.data.rows[:7])
    q = critics(batch.obs, batch.action)
    return isinstance(q, Tensor) and q.ndim <= 2 and q.shape[-1:] == batch.reward.shape


def check_holdout(args, data, script) -> None:
    """InputError: --holdout is set, but the algorithm's file, of the user's own, does not hand it on at loading."""
    if getattr(args, "holdout", 0) and data.holdout is None:
        raise InputError(f"--holdout: {script} trains on all episodes; let its main hand args.holdout to load_dataset")
