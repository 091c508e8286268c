"""Robust statistics over runs and datasets, by rliable: aggregates, performance profiles, probabilities of improvement.

Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021, arXiv:2108.13264.
Intervals are 95%, percentiles of a bootstrap that draws runs anew within each dataset; with few runs they are narrow.
"""

from dataclasses import dataclass

import numpy as np

from benchmark.engine.curves import Group

GAMMA = 100.0  # of the optimality gap, what scores lack to it: the expert's on D4RL's scale; more than that is no gain
NAMES = "IQM", "mean", "median", "optimality gap"
REPETITIONS = 2000  # of a bootstrap


@dataclass
class Comparison:
    """Scores of finished runs that can be compared: as many seeds on the same datasets for every algorithm."""
    standin: bool
    scores: dict[str, np.ndarray]  # {algorithm: (seeds, datasets)}
    datasets: list[str]
    left_out: list[str]

    @property
    def seeds(self) -> int:
        return len(next(iter(self.scores.values())))

    def __str__(self):
        used = ((len(self.scores), "algorithm"), (len(self.datasets), "dataset"), (self.seeds, "seed"))
        text = ", ".join(f"{n} {name}{'s' * (n > 1)}" for n, name in used) + " each" * (len(self.scores) > 1)
        return f"{text}. Left out: {'; '.join(self.left_out)}." if self.left_out else f"{text}."


def comparisons(groups: list[Group], score: str) -> list[Comparison]:
    """Of D4RL's (or one's own) data and of stand-ins, never both in one; of normalised scores only, and only of those
    under a physics that is simulated today."""
    found = [_comparison([group for group in groups if group.standin == standin], standin, score)
             for standin in (False, True)]
    return [comparison for comparison in found if comparison]


def _comparison(groups, standin, score) -> Comparison | None:
    """The datasets on which every algorithm has finished seeds, and the least number of them in a cell, lowest first.

    Algorithms without a finished seed are left out; then those with the fewest datasets, where that leaves more cells
    to compare, or where nothing is in common otherwise.
    """
    cells = {(group.algorithm, group.dataset): list(group.scores(score).values()) for group in groups
             if not (group.raw or group.outdated)}
    cells, has = {cell: scores for cell, scores in cells.items() if scores}, {}
    for algorithm, dataset in cells:
        has.setdefault(algorithm, []).append(dataset)
    if not has:
        return None
    order, choices = sorted(has, key=lambda algorithm: -len(has[algorithm])), []
    for count in range(1, len(order) + 1):
        common = [d for d in has[order[0]] if all(d in has[algorithm] for algorithm in order[:count])]
        choices.append(((count > 1 and bool(common), count * len(common), count), order[:count], common))
    _, chosen, common = max(choices)  # two algorithms or more, most cells, most algorithms
    kept = {algorithm: has[algorithm] for algorithm in has if algorithm in chosen}
    n = min(len(cells[algorithm, dataset]) for algorithm in kept for dataset in common)
    algorithms, datasets = (dict.fromkeys(getattr(group, key) for group in groups) for key in ("algorithm", "dataset"))
    out = [f"{name} ({'too few datasets in common' if name in has else 'no finished run'})"
           for name in algorithms if name not in kept]
    for dataset in (dataset for dataset in datasets if dataset not in common):
        missing = ", ".join(name for name in kept if dataset not in kept[name])
        raw = any(group.raw for group in groups if group.dataset == dataset)
        old = any(group.outdated for group in groups if group.dataset == dataset)
        why = "raw returns" if raw else "another physics" if old else f"not finished by {missing}"
        out.append(f"{dataset} ({why})")
    if any(len(cells[algorithm, dataset]) > n for algorithm in kept for dataset in common):
        out.append(f"seeds beyond the first {n} of a cell")
    return Comparison(standin, {a: np.array([cells[a, d][:n] for d in common]).T for a in kept}, common, out)


def aggregates(scores: dict[str, np.ndarray]) -> dict[str, list[tuple]]:
    """{algorithm: (value, low, high) of each of NAMES} of scores (runs, datasets); without an interval, two nan."""
    from rliable import metrics  # seconds, and only a page needs it

    def function(x):
        return np.array([metrics.aggregate_iqm(x), metrics.aggregate_mean(x), metrics.aggregate_median(x),
                         metrics.aggregate_optimality_gap(x, GAMMA)])
    return {name: [tuple(map(float, row)) for row in np.vstack(rows).T]
            for name, rows in _estimates(scores, function).items()}


def profiles(scores: dict[str, np.ndarray], taus: np.ndarray) -> dict[str, np.ndarray]:
    """{algorithm: (3, T)}: the share of all runs that score above each of taus (T,), and its interval."""
    return {name: np.vstack(rows) for name, rows in _estimates(scores, lambda x: above(x, taus)).items()}


def thresholds(scores: dict[str, np.ndarray]) -> np.ndarray:
    """(T,), the taus of a profile: a little beyond the scores, and every score, where it has a step; of more than 240
    scores, as many places at equal distances."""
    every = np.unique(np.concatenate([x.ravel() for x in scores.values()]))
    margin = max(0.04 * np.ptp(every), 0.5)
    low, high = every[0] - margin, every[-1] + margin
    return np.linspace(low, high, 240) if len(every) > 240 else np.concatenate([[low], every, [high]])


def above(scores: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """rliable's score_distributions, for all taus at once."""
    return (scores[..., None] > taus).mean((0, 1))


def improvements(scores: dict[str, np.ndarray]) -> dict[tuple[str, str], tuple]:
    """{(x, y): P(x scores higher than y on a dataset), low, high}, a tie counting half; runs of x and y drawn apart."""
    names = list(scores)
    pairs = {(x, y): [scores[x], scores[y]] for i, x in enumerate(names) for y in names[i + 1:]}
    found = {pair: np.vstack(rows)[:, 0].tolist() for pair, rows in _estimates(pairs, improvement).items()}
    mirrored = {(y, x): (1 - p, 1 - high, 1 - low) for (x, y), (p, low, high) in found.items()}
    return {pair: tuple(row) for pair, row in found.items()} | mirrored


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(1,), rliable's probability_of_improvement of scores (runs, datasets), without its significance test: fast."""
    return np.array([(np.sign(x[:, None] - y).mean() + 1) / 2])


def _estimates(scores: dict, function) -> dict:
    """{key: (value, interval (2, ..))} by rliable, the same at every call; nan for the interval of a single run."""
    runs = {len(x) for value in scores.values() for x in (value if isinstance(value, list) else [value])}
    if runs <= {1}:
        values = {key: function(*x) if isinstance(x, list) else function(x) for key, x in scores.items()}
        return {key: (value, np.full((2, len(value)), np.nan)) for key, value in values.items()}
    from rliable.library import get_interval_estimates
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from numpy's global generator, whatever random_state it is given
    try:
        values, intervals = get_interval_estimates(scores, function, reps=REPETITIONS)
    finally:
        np.random.set_state(state)
    return {key: (values[key], intervals[key]) for key in scores}
