"""What the runs of one algorithm on one dataset have to show: learning curves, scores, times, and how far they are."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.engine.runs import TIMES, Run, pass_over
from common import InputError
from common.files import text_of

FURTHER = {"median_of_last_50": "the median of the last 50 evaluations",
           "best_of_9": "the best of 9 evaluations, equally spaced after a warm start"}  # not in result.json


@dataclass
class Curve:
    """Evaluations at every step that any seed has one at; nan where a seed has none, and means are over those that do.

    steps (T,), updates; values (seeds, T), normalised scores or, if `raw`, returns; hours (seeds,), wall-clock per
    update at the run's mean speed, nan if it is not known.
    """
    steps: np.ndarray
    seeds: list[int]
    values: np.ndarray
    hours: np.ndarray
    raw: bool

    @property
    def mean(self) -> np.ndarray:
        return np.nanmean(self.values, 0)

    @property
    def std(self) -> np.ndarray:
        """nan where there is one seed: that is no spread of 0."""
        return np.where(np.isfinite(self.values).sum(0) > 1, np.nanstd(self.values, 0), np.nan)


@dataclass
class Group:
    """The runs of one algorithm on one dataset: a cell of a table."""
    dataset: str
    algorithm: str  # the column's name
    runs: dict[int, Run]  # {seed: run}, finished or not
    short: str = ""  # the name at a line of a figure; default: the column's

    def __post_init__(self):
        self.short = self.short or self.algorithm
        self.folders = {run.folder: run for run in self.runs.values()}  # seeds side by side share one
        self.curve = curve(self)
        self.standin = any(run.standin for run in self.runs.values())
        self.outdated = any(its != now for its, now in (run.physics for run in self.runs.values()))
        units = [(run.result or {}).get("unit", "") for run in self.folders.values()]
        self.raw = bool(self.curve and self.curve.raw) or any(unit.startswith("return") for unit in units)

    def scores(self, score: str) -> dict[int, float]:
        """{seed: its score} of the finished runs; `score`: last, mean_of_last_10 or best."""
        rows = {seed: (run.result or {}).get("seeds", {}).get(str(seed)) for seed, run in sorted(self.runs.items())}
        return {seed: row[score] for seed, row in rows.items() if row}

    def times(self) -> dict[str, float | None]:
        """Means over the finished runs, by the names in TIMES; None where no run has it; empty without such runs."""
        done = [run.result for run in self.folders.values() if run.result]
        known = {name: [result[name] for result in done if name in result] for name in TIMES if done}
        return {name: float(np.mean(values)) if values else None for name, values in known.items()}

    def unfinished(self) -> str:
        """"12,000 of 1,000,000 updates", of the run that has done the least; or how far its model is, which comes
        before them; empty if all are finished."""
        left = [run for run in self.folders.values() if not run.result]
        seen = {run.folder: max((s for steps in evaluations(run).values() for s in steps), default=0) for run in left}
        done = [(max(run.progress, seen[run.folder]), run.config["args"]["updates"]) for run in left]
        if models := [run.model for run in left if run.model]:
            return f"{models[0]}, then {min(done)[1]:,} updates"
        return "{:,} of {:,} updates".format(*min(done)) if done else ""


def evaluations(run: Run, score: str = "score") -> dict[int, dict[int, tuple[float | None, float]]]:
    """{seed: {step: (normalised score, return)}} of a run's eval.csv; rows that a kill has torn are passed over, and
    so, with a line, are whole ones that no run writes, or a file that cannot be read. `score`: the score's column."""
    path, found, bad = run.folder / "eval.csv", {}, 0
    for row in _table(path):
        try:
            value = float(row[score]) if row[score] else None, float(row["return_mean"])
            seed, step = int(row["seed"]), int(row["step"])
            sound = seed in run.seeds and 0 < step < 2**53 and all(x is None or math.isfinite(x) for x in value)
        except (KeyError, ValueError):
            sound = False
        if sound:
            found.setdefault(seed, {})[step] = value
        bad += not sound
    if bad:
        pass_over(InputError(f"{path}: {bad} rows that are none of this run's"))
    return found


def logged(group: Group) -> dict[int, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """{seed: (steps (T,), {column: values (T,)})} of log.csv, nan where a column has no number; seeds without a row are
    left out. Torn rows are passed over, and a file that cannot be read is, with a line."""
    rows = {}
    for run in group.folders.values():
        for row in _table(run.folder / "log.csv"):
            try:
                step, seed = int(row.pop("step")), int(row.pop("seed"))
                values = {name: float(value or "nan") for name, value in row.items()}
            except (KeyError, ValueError):
                continue
            if 0 < step < 2**53 and group.runs.get(seed) is run:
                rows.setdefault(seed, {})[step] = values
    tables = {seed: dict(sorted(of.items())) for seed, of in sorted(rows.items())}
    return {seed: (np.array(list(of)), {name: np.array([row.get(name, np.nan) for row in of.values()])
                                        for name in next(iter(of.values()))}) for seed, of in tables.items()}


def logs(groups: list[Group], every: bool) -> dict[str, dict]:
    """{title: logged(group)} of all groups, or of those that were never evaluated."""
    found = {f"{group.algorithm}, {group.dataset}": logged(group) for group in groups if every or not group.curve}
    return {title: table for title, table in found.items() if table}


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of a run's CSV file as far as they are whole; none without the file, or, with a line, if it is broken."""
    try:
        header, *rows = csv.reader(text_of(path, errors="replace").replace("\0", "?").splitlines() or ["step,seed"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        pass_over(InputError(f"{path}: cannot be read ({error})"))
        return []
    return [dict(zip(header, row)) for row in rows if len(row) == len(header)]


def curve(group: Group) -> Curve | None:
    """None without an evaluation. Raw returns are all that there is if an evaluation has no normalised score."""
    tables = {folder: evaluations(run) for folder, run in group.folders.items()}
    rows = {seed: tables[run.folder].get(seed) for seed, run in sorted(group.runs.items())}
    rows = {seed: row for seed, row in rows.items() if row}
    if not rows:
        return None
    steps = sorted({step for row in rows.values() for step in row})
    raw = any(score is None for row in rows.values() for score, _ in row.values())
    values = np.full((len(rows), len(steps)), np.nan)
    for i, row in enumerate(rows.values()):
        values[i, np.searchsorted(steps, list(row))] = [value[raw] for value in row.values()]
    speeds = [group.runs[seed].speed for seed in rows]
    hours = np.array([1 / speed / 3600 if speed else np.nan for speed in speeds])
    return Curve(np.array(steps), list(rows), values, hours, raw)


def further(run: Run, seed: int, score: str) -> float | None:
    """One of FURTHER, from the normalised scores in eval.csv; None without them.

    median_of_last_50: of the evaluations after the warm start.
    best_of_9: where 1/9, 2/9 ... 9/9 of the updates after the warm start are done, or at the last evaluation before.
    """
    scores = {step: score for step, (score, _) in sorted(evaluations(run).get(seed, {}).items())}
    if not scores or None in scores.values():
        return None
    args, steps = run.config["args"], np.array(list(scores))
    start = args.get("warm_start", 0)
    if score == "median_of_last_50":
        game = [value for step, value in scores.items() if step > start]
        return float(np.median(game[-50:])) if game else None
    marks = start + (args["updates"] - start) * np.arange(1, 10) / 9
    before = [steps[(start < steps) & (steps <= mark)] for mark in marks]
    return max((scores[at[-1]] for at in before if len(at)), default=None)
