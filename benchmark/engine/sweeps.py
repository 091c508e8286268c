"""A grid whose columns are settings of one algorithm: their ranking, with intervals, its files and its figure."""

import csv
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from benchmark.engine import page, tables
from benchmark.engine.figures import COLOURS, number, save, sheet
from benchmark.engine.files import whole
from benchmark.engine.grid import Grid
from benchmark.engine.runs import SCORES

WARNING = ("Chosen with a simulator: online evaluations rank these settings, and offline RL has none. The best one's "
           "score is an optimistic estimate, since it is the largest of several noisy means, and it is no offline "
           "result. Report it together with all settings of this table, or choose by an estimate that needs no "
           "simulator, such as fitted Q evaluation (FQE). New seeds of the chosen setting alone mend the noise, not "
           "the use of the simulator.")
DRAWS = 10_000  # of a bootstrap
SHOWN = 12  # settings on the page: more curves cannot be told apart


@dataclass
class Sweep(Grid):
    chosen: dict[str, dict[str, str]] = field(default_factory=dict)  # {column: {flag: its value, as it was typed}}
    drawn: bool = False  # is there a figure?

    def __post_init__(self):
        super().__post_init__()
        self.chosen = {cell.column: self.chosen[cell.column] for cell in self.cells}  # --columns may leave some out

    def over(self, job, why: str) -> str:
        """As Grid; and the files are as of now, whichever runs are still to come."""
        end = super().over(job, why)
        self.find()
        self.write()
        return end

    @cached_property
    def stem(self) -> str:
        return tables.stem(self)

    @property
    def swept(self) -> list[str]:
        """Flags with more than one value."""
        flags = next(iter(self.chosen.values()))
        return [flag for flag in flags if len({setting[flag] for setting in self.chosen.values()}) > 1]

    def value(self, column: str, flag: str):
        """What a run of this column has for a flag, a number where it is one; as typed, where config.json has none."""
        cell = next(cell for cell in self.cells if cell.column == column)
        return json.loads(cell.settings).get(flag, self.chosen[column][flag])

    def scores(self) -> dict[str, dict[str, list[float]]]:
        """{column: {dataset: the scores of its finished seeds}}, of what was evaluated."""
        found = {}
        for cell in self.cells:
            done = [run.result["seeds"].get(str(seed)) for seed, run in sorted(self.finished(cell).items())]
            found.setdefault(cell.column, {})[cell.dataset] = [row[self.table.score] for row in done if row]
        return found

    def write(self) -> str:
        """All files, each whole or not at all; the text of the .md."""
        ranked, path = ranking(self.scores()), Path(self.args.out) / self.stem
        text = markdown(self, ranked)
        with whole(Path(f"{path}.md")) as part:
            part.write_text(text)
        for suffix, rows in (("csv", [line(self, row) for row in ranked]), ("runs.csv", tables.runs(self))):
            with whole(Path(f"{path}.{suffix}")) as part, open(part, "w", newline="") as file:
                head = rows[0] if rows else ["dataset", "algorithm", "seed"]
                writer = csv.DictWriter(file, head, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        best = [row["setting"] for row in ranked[:SHOWN]]
        few = f"The best {SHOWN} of {len(ranked)} settings." if len(ranked) > SHOWN else ""
        how = " ".join(filter(None, [*told(ranked), tables.how(self), few]))
        rows = sorted((row for row in tables.results(self) if row["algorithm"] in best),
                      key=lambda row: best.index(row["algorithm"]))
        groups = sorted((group for group in tables.groups(self) if group.algorithm in best),
                        key=lambda group: best.index(group.algorithm))
        page.write(Path(f"{path}.html"), self.table.title, tables.notes(self), how, rows, groups, self.table.score,
                   tables.wanted(self))
        self.drawn = figure(self, ranked, Path(f"{path}.png"))
        return text


def interval(scores: list[list[float]]) -> tuple[float, float]:
    """The 95% bootstrap interval of a mean over datasets of the mean over their seeds: seeds are drawn anew within each
    dataset. Two nan where a dataset has fewer than two."""
    if min(map(len, scores), default=0) < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    means = [np.array(x)[rng.integers(len(x), size=(DRAWS, len(x)))].mean(1) for x in scores]
    low, high = np.percentile(np.mean(means, 0), (2.5, 97.5))
    return float(low), float(high)


def ranking(scores: dict[str, dict[str, list[float]]]) -> list[dict]:
    """The settings, best first, then those that lack a score on some dataset, which have no rank.

    `mean`: over datasets, of the means over seeds; `low`, `high`: interval() of it; `seeds`: of each dataset;
    `within`: is the mean in the best one's interval? None where that has none.
    """
    rows = []
    for name, of in scores.items():
        complete = all(of.values())
        mean = float(np.mean([np.mean(x) for x in of.values()])) if complete else np.nan
        low, high = interval(list(of.values())) if complete else (np.nan, np.nan)
        rows.append({"setting": name, "mean": mean, "low": low, "high": high, "scores": of,
                     "seeds": [len(x) for x in of.values()]})
    rows.sort(key=lambda row: (np.isnan(row["mean"]), -row["mean"]))  # a stable order
    best = rows[0]["low"]
    for rank, row in enumerate(rows, 1):
        row["rank"] = "" if np.isnan(row["mean"]) else rank
        row["within"] = None if np.isnan(best) or row["rank"] == "" else bool(row["mean"] >= best)
    return rows


def told(ranked: list[dict]) -> list[str]:
    """What the ranking says, in words."""
    best, among = ranked[0], [row for row in ranked if row["rank"] != ""]
    if not among:
        return ["No setting has a score on every dataset yet."]
    rest = ", ".join(row["setting"] for row in ranked[len(among):])
    without = [f"Without a rank, since a dataset has no finished run: {rest}."] * bool(rest)
    if best["within"] is None:
        return [f"Best of {len(among)}: {best['setting']}, {best['mean']:.1f}. One seed has no interval: nothing here "
                "tells it from the others.", *without]
    near = [row["setting"] for row in among[1:] if row["within"]]
    return [f"Best of {len(among)}: {best['setting']}, {best['mean']:.1f}, 95% interval {best['low']:.1f} to "
            f"{best['high']:.1f}. " + (f"Within this interval, hence not told from it: {', '.join(near)}." if near else
                                       "No other setting's mean is within this interval."), *without]


def line(this: Sweep, row: dict) -> dict:
    """A row of the .csv: numbers to their last digit."""
    def number(x):
        return "" if np.isnan(x) else repr(x)
    data = "standin" if this.args.standin else "d4rl"
    kinds = {cell.dataset: "file" if cell.own else data for cell in this.cells}
    within = "" if row["within"] is None else row["within"]
    return {"rank": row["rank"], **this.chosen[row["setting"]], "mean": number(row["mean"]), "low": number(row["low"]),
            "high": number(row["high"]), "within_best": within, "seeds": min(row["seeds"]),
            **{f"{name} ({kinds[name]})": " ".join(map(repr, x)) for name, x in row["scores"].items()}}


def markdown(this: Sweep, ranked: list[dict]) -> str:
    """Settings down, best first; datasets across, if there are several."""
    datasets, flags = list(ranked[0]["scores"]), list(next(iter(this.chosen.values())))
    several, wanted = len(datasets) > 1, tables.wanted(this)
    head = ["rank", *flags, f"mean of {len(datasets)} datasets" if several else datasets[0], "95% interval", "seeds",
            "within the best's", *(datasets if several else [])]
    lines = [head, ["---"] * len(head)]
    for row in ranked:
        shown = [f"{np.mean(x):.1f}" if x else "-" for x in row["scores"].values()]
        mean, low, high = row["mean"], row["low"], row["high"]
        within = {None: "-", True: "yes", False: "no"}[row["within"]]
        lines.append([str(row["rank"]) or "-", *this.chosen[row["setting"]].values(),
                      "-" if np.isnan(mean) else f"{mean:.1f}", "-" if np.isnan(low) else f"{low:.1f} to {high:.1f}",
                      f"{min(row['seeds'])} of {wanted}", within, *(shown if several else [])])
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([f"# {this.table.title}", *(f"**{note}**" for note in tables.notes(this)), *told(ranked), body,
                        how(this, ranked)]) + "\n"


def how(this: Sweep, ranked: list[dict]) -> str:
    fewest = min((min(row["seeds"]) for row in ranked if row["rank"] != ""), default=0)
    few = f" {fewest} seeds are few: their bootstrap gives intervals that are too narrow." * (1 < fewest < 5)
    among = "within each dataset, " * (len(ranked[0]["scores"]) > 1)
    return (f"Normalised score, {SCORES[this.table.score]} of each run, mean over seeds. The interval is that of a "
            f"bootstrap, which draws the seeds anew, {among}{DRAWS:,} times.{few}")


def figure(this: Sweep, ranked: list[dict], path: Path) -> bool:
    """One flag: its curve; two: a heat map; a panel a dataset, and their mean. Is there one? Otherwise none is left."""
    swept, datasets = this.swept, list(ranked[0]["scores"])
    if len(swept) not in (1, 2) or not any(x for row in ranked for x in row["scores"].values()):
        return False
    titles = {name: [name] for name in datasets}
    titles = {f"mean of {len(datasets)} datasets": datasets} | titles if len(datasets) > 1 else titles
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    size = (4.4, 3.2) if len(swept) == 1 else (4.6, 3.4)
    drawn, axes = sheet(rows, columns, (size[0] * columns, size[1] * rows + 0.5))
    axes = list(axes.flat)
    for ax in axes[len(titles):]:
        ax.remove()
    for (title, of), ax in zip(titles.items(), axes):
        cells = {row["setting"]: [row["scores"][name] for name in of] for row in ranked}
        cells = {name: scores for name, scores in cells.items() if all(scores)}
        standin = any(this.args.standin and name not in this.own for name in of)
        ax.set_title(title + " (stand-in data)" * standin, fontsize=9, parse_math=False)
        ax.tick_params(labelsize=8)
        (curve if len(swept) == 1 else heat_map)(this, ax, cells, swept)
    seeds = sorted({n for row in ranked for n in row["seeds"] if n})
    save(drawn, path, caption(len(swept), seeds, this.table.score))
    return True


def caption(flags: int, seeds: list[int], score: str) -> str:
    drawn = "points: seeds; bars: 95% bootstrap intervals of the mean; " if flags == 1 else (
        "means; below them 95% bootstrap intervals; outlined: the best; ")
    return f"{SCORES[score]}; {drawn}{number(seeds)}. Online evaluations: the best of them is an optimistic estimate."


def axis(this: Sweep, flag: str) -> list[tuple[float | str, str]]:
    """A flag's values in order, (value, as it was typed)."""
    pairs = {setting[flag]: this.value(name, flag) for name, setting in this.chosen.items()}
    numbers = all(type(value) in (int, float) for value in pairs.values())
    return sorted(((value, text) for text, value in pairs.items()), key=lambda pair: pair[0]) if numbers else \
        [(text, text) for text in pairs]


def curve(this: Sweep, ax, cells: dict, swept: list[str]) -> None:
    """Score against value. Numbers that go over a decade or more are on a logarithmic axis; words stand apart alike."""
    (flag,), scale = swept, axis(this, swept[0])
    numbers = [value for value, _ in scale] if isinstance(scale[0][0], (int, float)) else []
    at = {text: (value if numbers else i) for i, (value, text) in enumerate(scale)}
    points = sorted((at[this.chosen[name][flag]], scores) for name, scores in cells.items())
    x, means = [place for place, _ in points], [np.mean([np.mean(s) for s in scores]) for _, scores in points]
    bounds = np.array([interval(scores) for _, scores in points]).reshape(-1, 2)
    ax.errorbar(x, means, np.abs(bounds.T - means), fmt="o-", ms=4, lw=1.4, capsize=3, color=COLOURS[0])
    for place, scores in points:
        if len(scores) == 1:
            ax.plot([place] * len(scores[0]), scores[0], "o", ms=3.5, mfc="none", mew=0.8, color=COLOURS[1])
    if numbers and numbers[0] > 0 and numbers[-1] >= 10 * numbers[0]:
        ax.set_xscale("log")
    ax.set_xticks(list(at.values()), list(at), minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlabel(flag, fontsize=8)
    ax.set_ylabel("normalised score", fontsize=8)
    ax.grid(alpha=0.3)


def heat_map(this: Sweep, ax, cells: dict, swept: list[str]) -> None:
    """The second flag across, the first one down; mean and interval in each cell, and the best one outlined."""
    down, across = ([text for _, text in axis(this, flag)] for flag in swept)
    values, below = np.full((len(down), len(across)), np.nan), {}
    for name, scores in cells.items():
        place = down.index(this.chosen[name][swept[0]]), across.index(this.chosen[name][swept[1]])
        values[place], bounds = np.mean([np.mean(s) for s in scores]), interval(scores)
        below[place] = "" if np.isnan(bounds[0]) else "\n{:.1f} to {:.1f}".format(*bounds)
    if np.isnan(values).all():
        return ax.text(0.5, 0.5, "no setting is finished", ha="center", va="center", fontsize=8)
    image = ax.imshow(values, cmap="viridis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for i, j in np.ndindex(values.shape):
        known = np.isfinite(values[i, j])
        ax.text(j, i, f"{values[i, j]:.1f}{below[i, j]}" if known else "-", ha="center", va="center", fontsize=8,
                color="white" if known and values[i, j] < middle else "black")
    i, j = np.unravel_index(np.nanargmax(values), values.shape)
    ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, lw=2.5, ec=COLOURS[1], clip_on=False, zorder=3))
    ax.set_xticks(range(len(across)), across)
    ax.set_yticks(range(len(down)), down)
    ax.set_xlabel(swept[1], fontsize=8)
    ax.set_ylabel(swept[0], fontsize=8)
    bar = ax.figure.colorbar(image, ax=ax)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("normalised score", fontsize=8)
