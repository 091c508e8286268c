"""What own data look like: a few lines at loading, and warnings of what is mostly a mistake in making them."""

import numpy as np

from common.files import BOUNDS

STILL = 0.01  # standard deviation, in bounds -1 and 1, below which an action barely moves
PIECE = 2**16  # rows at a time, so that no array is copied


def overview(arrays: dict, timeouts: np.ndarray, source: dict) -> list[str]:
    """Lines on arrays as `read_arrays` gives them: rewards are the file's own, actions are scaled to [-1, 1]."""
    terminals, rewards = arrays["terminals"], arrays["rewards"]
    ends = np.flatnonzero(arrays.get("ends", terminals | timeouts)) + 1
    stops = np.union1d(ends, len(rewards))
    lengths, timeouts = np.diff(stops, prepend=0), timeouts & ~terminals
    returns = np.add.reduceat(rewards, stops - lengths, dtype=np.float64)
    bounds = [source.get(key, []) for key in BOUNDS]
    low, high = (" ".join(f"{x:g}" for x in (b[:1] if len(set(b)) == 1 else b)) for b in bounds)
    scaled = f", scaled from bounds {low} and {high}" if low else ""
    unended = "; the last has no end" if len(stops) > len(ends) else ""
    return [f"  episodes      {len(stops):,} of {_range(lengths)} rows, {len(rewards):,} in all; true ends: "
            f"{terminals.sum():,}, timeouts: {timeouts.sum():,}{unended}",
            f"  returns       {_range(returns)}, mean {returns.mean():.5g}",
            f"  observations  {_columns(arrays['observations'])}",
            f"  actions       {_columns(arrays['actions'])}{scaled}",
            f"  rewards       {_range(rewards)}, mean {rewards.mean(dtype=np.float64):.5g}",
            *(f"warning: {text}" for text in _doubts(arrays, lengths[:len(ends)], timeouts))]


def _range(x):
    low, high = (f"{end:,}" if x.dtype.kind == "i" else f"{end:.5g}" for end in (x.min(), x.max()))
    return low if low == high else f"{low} to {high}"


def _columns(x):
    ends = np.stack([x.min(0), x.max(0)])
    still = int((ends[0] == ends[1]).sum())
    size = f"{x.shape[1]} dimension{'s' * (x.shape[1] > 1)}"
    return f"{_range(ends)} in {size}" + f", {still} of which never change" * (still > 0)


def _doubts(arrays, lengths, timeouts):
    """What is suspicious; `lengths` of episodes that have an end, `timeouts` that are no true ends too."""
    terminals, rewards, actions = arrays["terminals"], arrays["rewards"], arrays["actions"]
    longest = lengths.max(initial=0)
    at_limit = int((lengths == longest).sum())
    if longest > 1 and not timeouts.any() and (at_limit == len(lengths) > 1 or at_limit >= max(10, len(lengths) / 10)):
        yield (f"{at_limit:,} of {len(lengths):,} episodes end truly after {longest:,} rows, none by a timeout. If "
               "that is a time limit, mark it in `timeouts`, not in `terminals`: after a true end nothing counts")
    jumps = 0 if timeouts.any() else _jumps(arrays)
    if 0 < jumps <= len(rewards) / 2:  # more are rows in no order, which need no ends
        yield (f"{jumps:,} rows are no end, yet the next row does not go on from their next_observations. If episodes "
               "were cut there, mark it in `timeouts`, or they count as one")
    if still := [str(i) for i, std in enumerate(_std(actions)) if std < STILL]:
        which = "actions" if len(still) == actions.shape[1] else f"actions in dimension {', '.join(still)}"
        yield f"{which} barely move: their standard deviation is below {STILL:g}, of bounds -1 and 1"
    if (np.ptp(actions, 0) <= 1).all():
        yield (f"actions fill half of their bounds or less, {_range(actions)} of -1 to 1. If their true bounds are "
               "narrower, name them: --action-low, --action-high")
    if rewards.min() == rewards.max():
        yield (f"all rewards are {rewards[0]:g}: " + ("policies differ only in when they end" if terminals.any() else
               "no policy is better than another, only cloning (bc.py) has something to learn"))


def _jumps(arrays):
    """Rows without a true end whose next observation is not the next row's observation."""
    now, after, count = arrays["observations"], arrays.get("next_observations", ()), 0
    for start in range(0, len(after) - 1, PIECE):
        stop = min(start + PIECE, len(after) - 1)
        moved = (after[start:stop].astype(np.float32) != now[start + 1:stop + 1].astype(np.float32)).any(1)
        count += int((moved & ~arrays["terminals"][start:stop]).sum())
    return count


def _std(columns):
    """Standard deviation of each column, in float64."""
    sums = np.zeros((2, columns.shape[1]))
    for start in range(0, len(columns), PIECE):
        piece = columns[start:start + PIECE] - columns[0].astype(np.float64)
        sums += piece.sum(0), np.square(piece, out=piece).sum(0)
    mean, square = sums / len(columns)
    return np.sqrt(np.maximum(square - mean**2, 0))
