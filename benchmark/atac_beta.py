"""ATAC's robust improvement: the score at every beta beside the data's own policy. Cheng et al., arXiv:2202.02446.

The paper's promise is that no beta ends below the policy that collected the data, and its figure is score against
beta. The grid of beta, 0 and powers of 4 up to 256, is ours, as is the number of seeds. Three scores stand beside one
another: the data's (the mean return of its episodes), the warm start's (a clone of the data's policy, evaluated when
the game begins, or at the last evaluation before) and the game's: its last evaluation, and the mean of its last ten.
The theory is about the whole game. In a short one, the warm start decides where it begins.

--small is a budget for a CPU: batch 64 (paper: 256), 30,000 updates (1,100,000), 9,000 of them the warm start, two
seeds and four betas. Its actor is 40 times as fast as the paper's, 2e-5 (5e-7): 21,000 updates can then move a weight
by 0.4, the paper's million by 0.5. benchmark/results/standin/ has what it gave.

Run: python benchmark/atac_beta.py [--datasets hopper-medium-replay-v2] [--betas 1 4 16] [--gpus 0] [--dry-run]
     python benchmark/atac_beta.py --small --standin [--data hopper-medium-replay-v2=replay.npz]
"""

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from benchmark.engine import derived, grid, tables
from benchmark.engine.curves import evaluations
from benchmark.engine.figures import curve_figure, styles, sweep_figure
from benchmark.engine.files import whole
from benchmark.engine.grid import Column, Table
from benchmark.engine.jobs import Cell
from benchmark.in_sample_small import BUDGET
from common import InputError, friendly
from common.args import within
from common.data import load_dataset
from common.evaluation import normalized_score

TITLE = "ATAC: score against beta"  # beta weighs the Bellman error in the critics' loss
BETAS, FEW = (0, 1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64, 256), (0, 1, 16, 256)
SMALL = f"--warm-start 9000 --actor-lr 2e-5 {BUDGET}"
DATASETS = tuple(f"{robot}-{level}-v2" for robot in ("hopper", "halfcheetah", "walker2d")
                 for level in ("medium-replay", "medium", "medium-expert", "random"))
SCORES = {"last": "last", "game": "mean of the game (its last 10)", "warm_start": "warm start", "data": "data"}


@dataclass
class Args(grid.Args):
    small: bool = False  # a budget for a CPU
    betas: Annotated[tuple[float, ...], within("[0, 1e6]")] = ()  # default: 0, 1/64 to 256; small: 0 1 16 256


def table(args: Args) -> Table:
    """A column a beta. InputError: no such dataset."""
    if unknown := [name for name in args.datasets if name not in DATASETS]:
        raise InputError(f"--datasets {unknown[0]}: not in atac_beta; choose from {', '.join(DATASETS)}")
    start = 9_000 if args.small else 100_000
    if args.updates and args.updates <= start and "--warm-start" not in sys.argv:
        raise InputError(f"--updates {args.updates}: the game begins after {start:,}; give more, or -- --warm-start N")
    betas = sorted(set(args.betas or (FEW if args.small else BETAS)))
    name = "atac_beta" + ".small" * args.small + f".{'-'.join(map(spelt, betas))}" * bool(args.betas)
    notes = (f"Not the paper's budget: {SMALL}.",) if args.small else ()
    return Table(name=name, title=TITLE, datasets=args.datasets or DATASETS[:1], notes=notes,
                 seeds=(0, 1) if args.small else (0, 1, 2, 3, 4),
                 columns={f"beta_{spelt(beta)}": Column("atac", f"--beta {beta!r} {SMALL if args.small else ''}")
                          for beta in betas})


def spelt(beta: float) -> str:
    return f"{beta:.12g}"


def data_score(cell: Cell, standin: bool) -> float:
    """Of the policy that collected the data: the mean return of their episodes, normalised."""
    settings = json.loads(cell.settings)
    if cell.own:
        data = load_dataset(str(cell.own.file), view=settings["view"])
        returns = np.add.reduceat(data.reward.double().numpy(), data.episodes[:, 0].numpy())
    else:
        returns = derived.read(cell.dataset, standin, settings["standin_rows"]).returns
    return float(normalized_score(cell.task, returns.mean()))


def scores(this: grid.Grid) -> list[dict]:
    """A row per dataset, beta and finished seed; a run without evaluations has none."""
    rows, data = [], {}
    for cell in this.cells:
        beta = json.loads(cell.settings)["beta"]
        for seed, run in sorted(this.finished(cell).items()):
            found = {step: score for step, (score, _) in sorted(evaluations(run).get(seed, {}).items())}
            start = run.config["args"]["warm_start"]
            before = [score for step, score in found.items() if step <= start]
            game = [score for step, score in found.items() if step > start]
            if not game:
                continue
            if cell.dataset not in data:
                data[cell.dataset] = data_score(cell, this.standin(cell))
            rows.append({"dataset": cell.dataset, "beta": beta, "seed": seed, "last": game[-1],
                         "game": float(np.mean(game[-10:])), "warm_start": before[-1] if before else float("nan"),
                         "data": data[cell.dataset], "run": run.folder.name})
    return rows


def judged(last: float, game: float, data: float) -> str:
    """Is the game at or above the data's policy, by its last evaluation and by the mean of its last ten?"""
    return {(True, True): "yes", (False, False): "no", (True, False): "last only",
            (False, True): "mean only"}[last >= data, game >= data]


def report(this: grid.Grid, rows: list[dict]) -> str:
    """A line per dataset and beta: means over seeds, and of the game's two scores each seed's."""
    lines = [["dataset", "beta", "seeds", *SCORES.values(), "at or above the data"], ["---"] * 8]
    for dataset, beta in dict.fromkeys((row["dataset"], row["beta"]) for row in rows):
        mine = [row for row in rows if (row["dataset"], row["beta"]) == (dataset, beta)]
        mean = {name: float(np.mean([row[name] for row in mine])) for name in SCORES}
        each = {name: f" ({', '.join(f'{row[name]:.1f}' for row in mine)})" for name in SCORES if name != "data"}
        texts = [f"{mean[name]:.1f}{each.get(name, '')}".replace("nan", "-") for name in SCORES]
        lines.append([dataset, f"{beta:g}", str(len(mine)), *texts, judged(mean["last"], mean["game"], mean["data"])])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = (f"**{note}**" for note in tables.notes(this))
    how = ("Normalised scores, means over seeds (each seed's). data: the mean return of the dataset's episodes. warm "
           "start: when the game begins. at or above: by both of the game's scores; else by which.")
    return "\n\n".join([f"# {TITLE}", *notes, body, how]) + "\n"


def figures(this: grid.Grid, rows: list[dict], path: str) -> None:
    """Score against beta, a panel a dataset; and learning curves, a line a beta."""
    panels = {}
    for row in rows:
        title = row["dataset"] + " (stand-in data)" * (this.args.standin and row["dataset"] not in this.own)
        lines, dashed = panels.setdefault(title, ({}, {}))
        for name in ("last", "game", "warm_start"):
            if np.isfinite(row[name]):
                lines.setdefault(SCORES[name], {}).setdefault(row["beta"], []).append(row[name])
        dashed[row["beta"]] = row["data"]
    if panels:
        sweep_figure(panels, "beta", "data", Path(f"{path}.png"))
        groups = tables.groups(this)
        curve_figure(groups, styles(group.algorithm for group in groups), Path(f"{path}.curves.png"))
        print(f"figures: {path}.png and {path}.curves.png")


def main():
    args = grid.read(sys.argv[1:], Args, TITLE)
    this = grid.make(table(args), sys.argv[1:], Args)
    if args.dry_run:
        return this.plan()
    grid.train(this)
    rows, path = scores(this), f"{args.out / tables.stem(this)}.beta"
    text = report(this, rows)
    with whole(Path(f"{path}.md")) as part:
        part.write_text(text)
    with whole(Path(f"{path}.csv")) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["dataset", "beta", "seed"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figures(this, rows, path)
    print(f"\n{text}\n{path}.md and .csv")
    grid.finish(this)


if __name__ == "__main__":
    with friendly():
        main()
