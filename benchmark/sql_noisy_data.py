"""SQL's noisy-data experiment: expert data among many random ones, on three robots. Xu et al., arXiv:2303.15810.

A mixture of ratio rho has as many transitions as the noisy set, N: its first N - n ones, then the expert set's first
n = int(int(N (1 - rho)) rho), unshuffled, as the authors' script has it. The true share is rho (1 - rho): 0.21 for 0.3.
Ratio 0.05 is written 0.5 there (unverified). Rewards are scaled by the mixture's own returns. SQL has alpha 2.5 on
walker2d with random data, as there, else its own; the paper gives IQL the best of several expectiles (--expectiles).
Competitors that this project does not have yet are left out. The paper prints a figure, no numbers; its scripts ran on
the authors' tree of 14 March 2023, which differs from the release that runs here: benchmark/results/sql_eql_history.md.

Run: python benchmark/sql_noisy_data.py [--robots hopper] [--expectiles 0.5 0.6 0.7 0.8 0.9] [--gpus 0] [--dry-run]
     python benchmark/sql_noisy_data.py --standin --robots hopper --updates 30000 --seeds 0 1
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from benchmark.engine import derived, grid, tables
from benchmark.engine.derived import View
from benchmark.engine.figures import sweep_figure
from benchmark.engine.grid import Column, Table
from benchmark.engine.jobs import Own
from benchmark.engine.runs import script_of
from common import InputError, friendly
from common.args import within
from common.evaluation import normalized_score
from common.sources import D4RL, cache_file

TITLE = "SQL: score against the share of expert data"
RATIOS = 0.01, 0.05, 0.1, 0.2, 0.3
ROBOTS = "hopper", "walker2d", "halfcheetah"


@dataclass
class Args(grid.Args):
    robots: tuple[Literal["hopper", "walker2d", "halfcheetah"], ...] = ()  # default: all; stand-ins: that have them
    noise: Literal["random", "medium"] = "random"  # what expert data are mixed with
    expectiles: Annotated[tuple[float, ...], within("(0, 1)")] = ()  # of IQL, the best is taken; default: 0.7 only
    mixtures: Path | None = None  # folder of the mixtures; default: in the cache
    rows: Annotated[int, within("[1, 1e8]")] = 1_000_000  # transitions of a stand-in


def mix(noisy: View, expert: View, ratio: float) -> View:
    """InputError: too few expert transitions."""
    rows = len(noisy.ends)
    n = int(int(rows * (1 - ratio)) * ratio)
    if n > len(expert.ends):
        raise InputError(f"a mixture of {rows:,} needs {n:,} expert transitions, there are {len(expert.ends):,}")
    columns = [np.concatenate([a[:rows - n], b[:n]]) for a, b in zip(noisy.columns, expert.columns)]
    ends = np.concatenate([noisy.ends[:rows - n], expert.ends[:n]])
    ends[[rows - n - 1, -1]] = True  # the seam, and where the expert data are cut
    return View(columns, ends)


def mixtures(args: Args) -> dict[str, Own]:
    """{row of the table: its mixture}, there or not."""
    rows, folder = {}, args.mixtures or cache_file("mixtures")
    robots = args.robots or [robot for robot in ROBOTS
                             if not args.standin or D4RL[f"{robot}-expert-v2"]["standin"]]
    for robot in robots:
        names = f"{robot}-{args.noise}-v2", f"{robot}-expert-v2"
        mark = derived.tag(names, args.standin, args.rows)
        for ratio in RATIOS:
            path = Path(os.path.expanduser(folder)).absolute() / f"{names[1]}-in-{args.noise}-{ratio:g}{mark}.npz"
            rows[f"{robot}-{ratio:g}"] = Own(path, names[1])
    return rows


def make(row: str, own: Own, args: Args, views: dict) -> None:
    """Write a mixture, unless it is there."""
    robot, ratio = row.split("-")
    if own.file.exists():
        return
    for name in (f"{robot}-{args.noise}-v2", own.task):
        views[name] = views.get(name) or derived.read(name, args.standin, args.rows)
    view = mix(views[f"{robot}-{args.noise}-v2"], views[own.task], float(ratio))
    share, score = float(ratio) * (1 - float(ratio)), float(normalized_score(own.task, view.returns.mean()))
    derived.write(own.file, view, {"rows": len(view.ends), "share": share, "score": score}, " with --mixtures")
    print(f"{own.file}: {len(view.ends):,} transitions, {share:.2%} of them expert, score of the data {score:.1f}")


def table(args: Args, own: dict[str, Own]) -> Table:
    """The columns that there are files for, and what the mixtures are."""
    walker = tuple(row for row in own if row.startswith("walker2d") and args.noise == "random")
    others = tuple(row for row in own if row not in walker)
    columns = {"sql": Column("sql_eql", "--algorithm sql", datasets=others)} if others else {}
    if walker:
        columns["sql_alpha_2.5"] = Column("sql_eql", "--algorithm sql --sql-alpha 2.5", datasets=walker)
    columns["eql"] = Column("sql_eql", "--algorithm eql")
    swept = {f"iql_{e:g}": Column("iql", f"--expectile {e:g}") for e in args.expectiles}
    columns |= (swept or {"iql": Column("iql")}) | {"xql": Column("xql")}
    columns |= {"cql": Column("cql")} if script_of("cql").exists() else {}
    known = {row: derived.facts(mixture.file) for row, mixture in own.items()}
    told = ", ".join(f"{row} {fact['share']:.2%} ({fact['score']:.1f})" for row, fact in known.items() if fact)
    notes = [f"Rows are mixtures with {args.noise} data, ROBOT-RATIO; true share of expert data, and in brackets the "
             f"data's own score: {told or 'none is made yet'}."]
    if swept:
        notes.append(f"iql_best is in each row the best of expectiles {', '.join(f'{e:g}' for e in args.expectiles)}, "
                     "chosen by the very score that is shown, as in the paper; no other column is chosen so.")
    name = ".".join(["sql_noisy_data", *args.robots]) + ".medium" * (args.noise == "medium") + "".join(
        f".{column}" for column in swept) + f".rows-{args.rows}" * (args.standin and args.rows != Args.rows)
    return Table(name=name, title=TITLE, columns=columns, datasets=tuple(own),
                 seeds=(0, 1, 2, 3, 4), own=own, notes=tuple(notes), best={"iql_best": tuple(swept)} if swept else {})


def figure(this: grid.Grid, path: Path) -> bool:
    """A panel a robot, a line an algorithm; False without a score."""
    panels, swept = {}, {name for among in this.table.best.values() for name in among}
    rows = [row for row in tables.results(this) if row["mean"] and row["algorithm"] not in swept]
    for row in rows:
        robot, ratio = row["dataset"].split("-")
        lines = panels.setdefault(f"{robot}{' (stand-in data)' * this.args.standin}", ({}, {}))
        lines[0].setdefault(row["algorithm"], {})[float(ratio)] = list(map(float, row["scores"].split()))
        lines[1][float(ratio)] = derived.facts(this.own[row["dataset"]].file)["score"]
    if panels:
        sweep_figure(panels, "ratio rho (share of expert data: rho (1 - rho))", "the data's own", path)
    return bool(panels)


def main():
    args = grid.read(sys.argv[1:], Args, TITLE)
    own, views = mixtures(args), {}
    this = grid.make(table(args, own), sys.argv[1:], Args)  # all flags are checked before a file is made
    if not args.dry_run:
        for row in args.datasets or own:
            if row in own:  # else the grid tells
                make(row, own[row], args, views)
        views.clear()
        own = mixtures(args)
        this = grid.make(table(args, own), sys.argv[1:], Args)  # which knows the files
    if args.dry_run:
        return this.plan()
    grid.train(this)
    path = args.out / f"{tables.stem(this)}.png"
    if figure(this, path):
        print(f"figure: {path}")
    grid.finish(this)


if __name__ == "__main__":
    with friendly():
        main()
