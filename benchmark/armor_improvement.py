"""ARMOR's robust improvement: is the policy ever worse than its reference? Bhardwaj et al., arXiv:2302.11048.

The paper's second experiment gives ARMOR references of other quality than the data, and promises that no weight beta of
the data ends below the reference. Which references, datasets and betas the paper had is in no source that we could
read, so the grid is ours. References are policies cloned from random, medium, medium-replay, medium-expert and expert
data of a robot, datasets are the same list, beta is 1, 4, 16 or 64, and there are three seeds. They share a reference,
which is of seed 0.

The script first trains the references, or finds them: bc.py --gaussian, with the warm start's values and its number of
updates, so that a reference has the networks and the observations that ARMOR's own actor has. Then it trains ARMOR
with --reference RUN, the folder of that run. The result is a matrix of J(pi) - J(ref) in points of the normalised
score. A cell is a mean over seeds, of the last evaluation, where both policies have the same start states. A cell is
kept if it is at least -2, a tolerance of ours. The share of kept cells is the paper's promise in one number. The same
share for the mean of the game's last ten evaluations stands beside it. So does each line's start: J(pi) - J(ref) when
the game begins, and pi is still the clone of the data. Where the start is above 0, the clone is better than the
reference already, and a kept cell shows little. Where it is far below 0, a short game may not have the time to arrive.

--small is a budget for a CPU: hopper; references random, medium and expert; data medium-replay and medium; beta 1, 4
and 16; one seed; and the constants below. The game is a two-hundredth of ATAC's and its actor 160 times as fast,
8e-5 (5e-7): 5,000 updates can then move a weight by 0.4, ATAC's million by 0.5. Target critics follow ten times as
fast, tau 0.05 (0.005), because an error of all values shrinks to 1/e in 1 / (tau (1 - gamma)) updates. That is 2,000
here; with 0.005 it is 20,000, longer than these games, which then ended far below references that they reach with 0.05
(benchmark/results/standin). One core of an AMD EPYC makes 90 updates of the warm start a second and 26 of the game.

Flags after a -- go to ARMOR's runs, and those that every algorithm has (--device, --eval-episodes) to the references
as well. --updates is ARMOR's, --reference-updates the references'.

Run: python benchmark/armor_improvement.py [--robots hopper] [--betas 1 16] [--gpus 0] [--dry-run]
     python benchmark/armor_improvement.py --small --standin [--data hopper-medium-replay-v2=replay.npz]
"""

import csv
import shlex
import sys
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmark.engine import grid, tables
from benchmark.engine.curves import evaluations
from benchmark.engine.figures import number, save, sheet
from benchmark.engine.files import whole
from benchmark.engine.grid import Column, Table
from benchmark.engine.runs import digest, flags
from common import InputError, friendly
from common.args import Count, RunArgs, within
from common.sources import D4RL

TITLE = "ARMOR: improvement on the reference"
ROBOTS = "hopper", "walker2d", "halfcheetah"
LEVELS = "random", "medium", "medium-replay", "medium-expert", "expert"
BETAS, SEEDS = (1.0, 4.0, 16.0, 64.0), (0, 1, 2)
CLONING = "--gaussian --lr 5e-4 --no-normalize"  # as in ARMOR's warm start
REFERENCE = f"{CLONING} --updates 100000"
SMALL_ROBOTS, SMALL_REFERENCES, SMALL_LEVELS = ("hopper",), ("random", "medium", "expert"), ("medium-replay", "medium")
SMALL_BETAS, SMALL_SEEDS = (1.0, 4.0, 16.0), (0,)
SMALL_REFERENCE = f"{CLONING} --updates 20000 --batch-size 64 --eval-every 2000"
SMALL_GAME = ("--warm-start 6000 --updates 11000 --actor-lr 8e-5 --tau 0.05 --batch-size 64 --eval-every 500 "
              "--model-epochs 20")
TOLERANCE = 2.0  # points below the reference that a cell may be
REFERENCE_SCORE = "reference"  # a column of ARMOR's eval.csv: J(ref) at the same start states as J(pi)
SCORES = {"last": "the last evaluation", "game": "the mean of the game's last ten evaluations"}


@dataclass
class Args(grid.Args):
    small: bool = False  # a budget for a CPU
    robots: tuple[Literal["hopper", "walker2d", "halfcheetah"], ...] = ()  # default: all, or those of --datasets
    references: tuple[Literal["random", "medium", "medium-replay", "medium-expert", "expert"], ...] = ()  # cloned data
    betas: Annotated[tuple[float, ...], within("(0, 1e9]")] = ()  # default: 1 4 16 64, small 1 4 16
    reference_updates: Count | None = None  # of the references; default: 100,000, small 20,000


# Which runs


def own_names(args: Args) -> list[str]:
    return [word.partition("=")[0] for word in args.data]


def chosen(args: Args) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The datasets of ARMOR, which are rows, and those that references are cloned from. InputError: no such dataset."""
    every = [f"{robot}-{level}-v2" for robot in ROBOTS for level in LEVELS]
    if unknown := [name for name in args.datasets if name not in every]:
        raise InputError(f"--datasets {unknown[0]}: not in armor_improvement; choose from {', '.join(every)}")

    def at_hand(names):
        return tuple(name for name in names if not args.standin or D4RL[name]["standin"] or name in own_names(args))
    robots = args.robots or (SMALL_ROBOTS if args.small else ROBOTS)
    levels = SMALL_LEVELS if args.small else LEVELS
    rows = args.datasets or at_hand(f"{robot}-{level}-v2" for robot in robots for level in levels)
    robots = tuple(dict.fromkeys(name.split("-")[0] for name in rows))
    if args.robots and set(args.robots) != set(robots):
        raise InputError(f"--robots {' '.join(args.robots)}: --datasets has {', '.join(robots)}; leave one of them out")
    names = [f"{robot}-{level}-v2" for robot in robots
             for level in args.references or (SMALL_REFERENCES if args.small else LEVELS)]
    names = tuple(dict.fromkeys(names)) if args.references else at_hand(names)
    if unknown := [name for name in own_names(args) if name not in rows + names]:
        raise InputError(f"--data {unknown[0]}: neither a dataset nor a reference of this table; choose from "
                         f"{', '.join(dict.fromkeys(rows + names))}")
    return rows, names


def spelt(beta: float) -> str:
    return f"{beta:.12g}"


def stem(args: Args, name: str, betas: tuple[float, ...] = ()) -> str:
    """A table's name; what is not the default has its part in it."""
    given = args.robots, args.references, tuple(map(spelt, sorted(set(betas))))
    return ".".join([name, *["small"] * args.small, *("-".join(words) for words in given if words)])


def shared(extra: tuple[str, ...]) -> tuple[str, ...]:
    """Of flags for ARMOR's runs those that are the references' as well: all algorithms have them (common/args.py)."""
    names, taken, kept = {field.name for field in fields(RunArgs)} - {"config"}, False, []
    for word in extra:
        if word.startswith("--") and len(word) > 2:
            taken = word[2:].partition("=")[0].replace("-", "_").removeprefix("no_") in names
        kept += [word] * taken
    return tuple(kept)


def given_to(args: Args, names: tuple[str, ...], **changed) -> Args:
    """Args for a grid with these datasets: own files that are not among them are another grid's."""
    return replace(args, data=tuple(word for word in args.data if word.partition("=")[0] in names), **changed)


def references(args: Args, names: tuple[str, ...], extra: tuple[str, ...]) -> grid.Grid:
    """The references' runs, a row a dataset."""
    cloning = Column("bc", SMALL_REFERENCE if args.small else REFERENCE)
    table = Table(name=stem(args, "armor_improvement.references"), title="References: clones of the data",
                  datasets=names, seeds=(0,), columns={"bc": cloning})
    args = given_to(args, names, datasets=(), columns=(), seeds=(), updates=args.reference_updates)
    return grid.Grid(table, args, shared(extra))


def folders(refs: grid.Grid) -> dict[str, Path]:
    """{dataset: folder of the newest finished run that cloned it}; of a run, --reference takes the first seed: 0."""
    return {cell.dataset: run.folder for cell in refs.cells for run in refs.found[cell]
            if run.result and run.seeds[0] == 0}


def improvement(args: Args, rows: tuple[str, ...], refs: grid.Grid, found: dict, extra: tuple[str, ...]) -> grid.Grid:
    """ARMOR's runs: a row a dataset, a column a reference and beta. `found`: {reference's dataset: its folder}."""
    betas = sorted(set(args.betas or (SMALL_BETAS if args.small else BETAS)))
    columns = {}
    for reference, folder in found.items():
        robot, level = reference.removesuffix("-v2").split("-", 1)
        for beta in betas:
            words = f"--reference {shlex.quote(str(folder))} --beta {beta!r} {SMALL_GAME if args.small else ''}"
            columns[f"{robot}_{level}_beta_{spelt(beta)}"] = Column(
                "armor", words, datasets=tuple(row for row in rows if row.startswith(f"{robot}-")))
    notes = ("A column is a reference, cloned from ROBOT_LEVEL data with seed 0, and a beta. Scores here are those of "
             "the policy; the improvement on the reference is in the .improvement files.",)
    if args.small:
        notes += (f"Not the paper's budget: {SMALL_GAME}; references with {SMALL_REFERENCE}; or as told.",)
    name = stem(args, "armor_improvement", args.betas)
    if own := {name: own for name, own in refs.own.items() if name not in rows}:
        notes += ("References from OWN DATA in place of D4RL's: "
                  + "; ".join(f"{name} is {its.file.name}" for name, its in own.items()) + ".",)
    if own or args.reference_updates:  # which the grid of ARMOR does not know
        name += f".{digest(args.reference_updates, sorted((name, its.sha256) for name, its in own.items()))}"
    table = Table(name=name, title=TITLE, columns=columns, datasets=rows, notes=notes,
                  seeds=SMALL_SEEDS if args.small else SEEDS, alike=("reference", "beta"))
    return grid.Grid(table, given_to(args, rows), extra)


# What they found


def results(this: grid.Grid) -> list[dict]:
    """A row per cell and finished seed: J(pi), J(ref), and J(pi) - J(ref) three times; none without a game."""
    rows = []
    for cell in this.cells:
        robot, level, _, beta = cell.column.split("_")
        for seed, run in sorted(this.finished(cell).items()):
            ours, its = (evaluations(run, score).get(seed, {}) for score in ("score", REFERENCE_SCORE))
            gains = {step: ours[step][0] - its[step][0] for step in sorted(ours.keys() & its.keys())}
            start = [gain for step, gain in gains.items() if step <= run.config["args"]["warm_start"]]
            game = list(gains.values())[len(start):]
            if game:
                rows.append({"robot": robot, "dataset": cell.dataset, "reference": level, "beta": float(beta),
                             "seed": seed, "score": ours[max(gains)][0], "reference_score": its[max(gains)][0],
                             "last": game[-1], "game": float(np.mean(game[-10:])),
                             "start": start[-1] if start else float("nan"), "run": run.folder.name})
    return rows


def matrix(rows: list[dict], score: str) -> dict[tuple[str, str, float], float]:
    """{(dataset, reference, beta): the mean over its seeds}"""
    cells = {}
    for row in rows:
        cells.setdefault((row["dataset"], row["reference"], row["beta"]), []).append(row[score])
    return {key: float(np.mean(values)) for key, values in cells.items()}


def kept(values) -> tuple[int, int]:
    """How many are at or above the reference, up to the tolerance; of how many."""
    values = list(values)
    return sum(value >= -TOLERANCE for value in values), len(values)


def signed(values: list[float]) -> str:
    """Their mean, and if there are several each of them."""
    each = f" ({', '.join(f'{value:+.1f}' for value in values)})" * (len(values) > 1)
    return f"{np.mean(values):+.1f}{each}".replace("+nan", "-").replace("nan", "-")


def report(this: grid.Grid, rows: list[dict]) -> str:
    """A line per dataset and reference, a column a beta; and the shares of kept cells."""
    betas = sorted({row["beta"] for row in rows})
    head = ["dataset", "reference", "J(ref)", "start", *(f"beta {beta:g}" for beta in betas)]
    lines = [head, ["---"] * len(head)]
    for dataset, level in dict.fromkeys((row["dataset"], row["reference"]) for row in rows):
        mine = [row for row in rows if (row["dataset"], row["reference"]) == (dataset, level)]
        cells = {beta: [row["last"] for row in mine if row["beta"] == beta] for beta in betas}
        texts = [signed(values) if values else "" for values in cells.values()]
        texts = [f"**{text}**" if text and not kept([np.mean(values)])[0] else text
                 for text, values in zip(texts, cells.values())]
        start = np.mean([row["start"] for row in mine])
        reference = np.mean([row["reference_score"] for row in mine])
        lines.append([dataset, level, f"{reference:.1f}", signed([start]), *texts])
    lines.append(["kept", "", "", "", *("{} of {}".format(*kept(
        value for key, value in matrix(rows, "last").items() if key[2] == beta)) for beta in betas)])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    shares = []
    for score, told in SCORES.items():
        yes, of = kept(matrix(rows, score).values())
        shares.append(f"By {told}, {yes} of {of} cells are kept{f' ({yes / of:.0%})' if of else ''}.")
    yes, of = kept(value for value in matrix(rows, "start").values() if np.isfinite(value))
    shares.append(f"When the game begins, {yes} of {of} are.")
    how = ("J(pi) - J(ref) in points of the normalised score, of the last evaluation: the mean over seeds (each seed). "
           f"Kept: at least {-TOLERANCE:g}; bold cells are not. reference: what data it is cloned from. start: J(pi) - "
           "J(ref) when the game begins, the mean of all runs in the line.")
    notes = (f"**{note}**" for note in tables.notes(this))
    return "\n\n".join([f"# {TITLE}", *notes, body, " ".join(shares), how]) + "\n"


def panel(ax, rows: list[dict], datasets: list[str], levels: list[str], limit: float, small: dict):
    """J(pi) - J(ref) of a robot and beta: a row a reference, a column a dataset; cells that are not kept are framed."""
    cells = {key[:2]: value for key, value in matrix(rows, "last").items()}
    values = np.array([[cells.get((dataset, level), np.nan) for dataset in datasets] for level in levels])
    image = ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * limit else "black"
            ax.text(j, i, f"{value:+.1f}", ha="center", va="center", color=colour, fontsize=9)
            if value < -TOLERANCE:
                ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, lw=1.6))
        else:
            ax.text(j, i, "-", ha="center", va="center", **small)
    names = [name.removesuffix("-v2").split("-", 1)[1] for name in datasets]
    ax.set_xticks(range(len(datasets)), names, rotation=30, ha="right", rotation_mode="anchor", **small)
    return image


def draw(this: grid.Grid, rows: list[dict]) -> Figure:
    """A row of panels a robot, a panel a beta."""
    robots, betas = list(dict.fromkeys(row["robot"] for row in rows)), sorted({row["beta"] for row in rows})
    limit, small = max(10.0, *(abs(value) for value in matrix(rows, "last").values())), dict(fontsize=8)
    widest = max(len({row["dataset"] for row in rows if row["robot"] == robot}) for robot in robots)
    tallest = max(len({row["reference"] for row in rows if row["robot"] == robot}) for robot in robots)
    size = (0.65 * widest + 0.5) * len(betas) + 2.6, (0.5 * tallest + 1.1) * len(robots) + 1
    figure, axes = sheet(len(robots), len(betas), size)
    for robot, line in zip(robots, axes):
        mine = [row for row in rows if row["robot"] == robot]
        levels = [level for level in LEVELS if any(row["reference"] == level for row in mine)]
        datasets = [name for name in this.datasets if any(row["dataset"] == name for row in mine)]
        of = {level: np.mean([row["reference_score"] for row in mine if row["reference"] == level]) for level in levels}
        for beta, ax in zip(betas, line):
            image = panel(ax, [row for row in mine if row["beta"] == beta], datasets, levels, limit, small)
            yes, cells = kept(value for key, value in matrix(mine, "last").items() if key[2] == beta)
            ax.set_title(f"{f'{robot}, ' * (len(robots) > 1)}beta {beta:g}: {yes} of {cells} kept", fontsize=9)
            ax.set_yticks(range(len(levels)), [""] * len(levels))
        line[0].set_yticks(range(len(levels)), [f"{level}, J = {of[level]:.0f}" for level in levels], **small)
        line[0].set_ylabel("reference: a clone of", **small)
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.02)
    bar.set_label("J(pi) - J(ref), points", **small)
    bar.ax.tick_params(labelsize=8)
    figure.supxlabel("data that ARMOR learns from", fontsize=9)
    return figure


def caption(this: grid.Grid, rows: list[dict]) -> str:
    """How many seeds a cell has, what a frame means, and whose data these are."""
    n = number(Counter((row["dataset"], row["reference"], row["beta"]) for row in rows).values())
    data = " Stand-in data." * this.args.standin + " Own data among them." * bool(this.args.data)
    return (f"{n} a cell, last evaluation, no interval. Framed: worse than the reference by more than "
            f"{TOLERANCE:g} points.{data}")


def main():
    args = grid.read(sys.argv[1:], Args, TITLE)
    extra = tuple(sys.argv[sys.argv.index("--") + 1:]) if "--" in sys.argv else ()
    if taken := {"reference", "beta"} & set(flags(list(extra))):
        raise InputError(f"--{min(taken)} is what the table varies; see --references and --betas")
    rows, names = chosen(args)
    refs = references(args, names, extra)
    waiting = {name: args.runs / f"REFERENCE-{name}" for name in names}
    this = improvement(args, rows, refs, waiting | folders(refs), extra)  # all flags are checked before a run begins
    if args.dry_run:
        print("References first:")
        refs.plan()
        print("\nThen ARMOR:")
        return this.plan()
    grid.train(refs)
    if not (found := folders(refs)):
        grid.finish(refs)
        raise InputError("no reference is trained with 0 as its first seed, there is nothing to improve on")
    this = improvement(args, rows, refs, found, extra)
    grid.train(this)
    write(this, results(this))
    this.failed[:0] = [*refs.failed, *(f"all with a reference cloned from {name}: it is not trained"
                                       for name in names if name not in found)]
    grid.finish(this)


def write(this: grid.Grid, rows: list[dict]) -> None:
    """The matrix as .md, its runs as .csv, and the heat map as .png."""
    path, text = f"{this.args.out / tables.stem(this)}.improvement", report(this, rows)
    with whole(Path(f"{path}.md")) as part:
        part.write_text(text)
    with whole(Path(f"{path}.csv")) as part, open(part, "w", newline="") as file:
        names = rows[0] if rows else ["dataset", "reference", "beta", "seed"]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if rows:
        save(draw(this, rows), Path(f"{path}.png"), caption(this, rows))
    print(f"\n{text}\n{path}.md and .csv{', .png, .pdf and .svg' * bool(rows)}")


if __name__ == "__main__":
    with friendly():
        main()
