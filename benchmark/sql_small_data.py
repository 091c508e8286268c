"""SQL on data that are scarce near the goal, and its Bellman error. Xu et al., ICLR 2023, arXiv:2303.15810.

The authors' data are lost (a private fork), so THE DEFINITION IS OURS and no number compares with the paper's:
nearness in [0, 1] is the dense rank of a transition's discounted return to go (0.99, raw reward) within its episode,
among all such values: in mazes 0 where the goal is not reached, then step by step to 1 at it. A transition is kept
with probability SHARE^nearness, so that SHARE of those at the goal remain: 1 (vanilla), 0.3, 0.1 or 0.03. Draws are the
same at every level (generator seed 0), hence each level is part of the one before. Rewards are what the agents train
on, transformed BEFORE rows are dropped (a gap ends an episode, and ranges of returns of what gaps leave mean nothing):
the scale is the same at all levels. Bellman error = mean over a level's data of (Qi(s, a) - r - gamma (1 - d) V(s'))^2
and over both Qi, at the last update.

Run: python benchmark/sql_small_data.py [--tasks antmaze-medium-play-v2] [--columns sql iql] [--gpus 0] [--dry-run]
     python benchmark/sql_small_data.py --standin --tasks hopper-medium-replay-v2 --updates 30000 --seeds 0
"""

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from benchmark.engine import derived, grid, tables
from benchmark.engine.derived import View
from benchmark.engine.files import whole
from benchmark.engine.grid import Column, Table
from benchmark.engine.jobs import Own
from benchmark.engine.runs import arguments, load_agent
from common import InputError, friendly
from common.args import within
from common.data import REWARDS, Dataset, load_dataset
from common.sources import D4RL, cache_file

TITLE = "SQL on data that are scarce near the goal: score and Bellman error"
LEVELS = {"vanilla": 1.0, "easy": 0.3, "medium": 0.1, "hard": 0.03}  # share of the transitions at the goal that remain
MAZES = "antmaze-medium-play-v2", "antmaze-large-play-v2"  # which two the paper has is unverified
STANDINS = "hopper-medium-replay-v2", "halfcheetah-medium-replay-v2", "walker2d-medium-replay-v2"
COLUMNS = {"sql": Column("sql_eql", "--algorithm sql --reward raw"), "iql": Column("iql", "--reward raw"),
           "eql": Column("sql_eql", "--algorithm eql --reward raw"), "xql": Column("xql", "--reward raw")}
NOTES = ("The levels are OURS, the authors' data are lost: kept with probability SHARE^nearness "
         f"({', '.join(f'{level} {share:g}' for level, share in LEVELS.items())}).",
         "Quoted, unverified, on other data: SQL's Bellman error in the paper is 1.6, 1.7, 2.1, 1.9, 1.4, 1.5, 1.3 and "
         "2.6 in the eight rows of a damaged table.")


@dataclass
class Args(grid.Args):
    tasks: tuple[str, ...] = ()  # D4RL datasets to thin out; default: two mazes, stand-ins: three robots
    thinned: Path | None = None  # folder of the thinned data; default: in the cache
    rows: Annotated[int, within("[1, 1e8]")] = 1_000_000  # transitions of a stand-in


def nearness(view: View, gamma: float = 0.99) -> np.ndarray:
    """(N,) in [0, 1]."""
    to_go, following = view.rewards, 0.0
    for i in range(len(to_go) - 1, -1, -1):
        following = to_go[i] = to_go[i] + gamma * following * (not view.ends[i])
    values, rank = np.unique(to_go, return_inverse=True)
    return rank / max(1, len(values) - 1)


def thin(view: View, near: np.ndarray, share: float) -> tuple[View, np.ndarray]:
    """The transitions that are kept, an episode ending where the next row is not the successor; and their rows."""
    rows = np.flatnonzero(np.random.default_rng(0).random(len(near)) < share**near)
    if not len(rows):
        raise InputError(f"no transition is left at share {share:g}; more --rows")
    gap = np.r_[np.diff(rows) > 1, True]
    return View([column[rows] for column in view.columns], view.ends[rows] | gap), rows


def make(task: str, own: dict[str, Own], args: Args) -> None:
    """Write all levels of a task, unless they are there."""
    wanted = {level: own[f"{task}.{level}"].file for level in LEVELS}
    if all(path.exists() for path in wanted.values()):
        return
    view = derived.read(task, args.standin, args.rows)
    near, raw = nearness(view), view.rewards
    goals = raw > 0 if len(np.unique(raw)) == 2 else None  # sparse rewards only
    view.columns[2] = REWARDS[arguments("sql_eql", ["--env", task]).reward](raw, view.starts).astype(np.float32)
    for level, path in wanted.items():
        kept, rows = thin(view, near, LEVELS[level])
        facts = {"rows": len(rows), "of": len(raw), "goals": None if goals is None else int(goals[rows].sum())}
        derived.write(path, kept, facts, " with --thinned")
        print(f"{path}: {told(facts)}")


def told(facts: dict) -> str:
    goals = "" if facts["goals"] is None else f", {facts['goals']:,} at the goal"
    return f"{facts['rows']:,} of {facts['of']:,} transitions{goals}"


@torch.no_grad()
def bellman_error(agent, data: Dataset, rows: int = 20_000) -> float:
    """Mean of squares over the data and over both critics, a slice of `rows` at a time."""
    total = 0.0
    for obs, action, reward, next_obs, done in zip(*(
            x.split(rows) for x in (data.obs, data.action, data.reward, data.next_obs, data.done))):
        target = reward + agent.args.gamma * (1 - done) * agent.value(next_obs)
        total += ((agent.critics(obs, action) - target) ** 2).double().mean(0).sum().item()
    return total / len(data.rows)


def errors(this: grid.Grid) -> list[dict]:
    """A row per cell and finished seed: score, if there is one, and Bellman error."""
    rows, data = [], {}
    for cell in this.cells:
        for seed, run in sorted(this.finished(cell).items()):
            if cell.dataset not in data:
                data = {cell.dataset: load_dataset(str(cell.own.file))}  # one at a time
            agent = load_agent(run, seed, data[cell.dataset].action_size)
            score = (run.result["seeds"].get(str(seed)) or {}).get("last")
            rows.append({"dataset": cell.dataset, "algorithm": cell.column, "seed": seed,
                         "score": "" if score is None else repr(float(score)),
                         "bellman_error": repr(bellman_error(agent, data[cell.dataset])), "run": run.folder.name})
    return rows


def report(this: grid.Grid, rows: list[dict]) -> str:
    """Levels down, algorithms across, score / Bellman error: means over seeds."""
    names = list(dict.fromkeys(cell.column for cell in this.cells))
    lines = [["data", "transitions", *names], ["---"] * (len(names) + 2)]
    for dataset in this.datasets:
        line = [dataset, told(derived.facts(this.own[dataset].file))]
        for name in names:
            mine = [row for row in rows if (row["dataset"], row["algorithm"]) == (dataset, name)]
            score, error = ([float(row[key]) for row in mine if row[key]] for key in ("score", "bellman_error"))
            line.append((f"{np.mean(score):.1f}" if score else "-") + " / " +
                        (f"{np.mean(error):.3g}" if error else "-"))
        lines.append(line)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = (f"**{note}**" for note in tables.notes(this))
    return "\n\n".join([f"# {this.table.title}", *notes, table, "Score / Bellman error, means over seeds."]) + "\n"


def table(args: Args) -> Table:
    """Its rows are files, there or not. InputError: no such dataset."""
    tasks = tuple(dict.fromkeys(args.tasks or (STANDINS if args.standin else MAZES)))
    if unknown := [task for task in tasks if task not in D4RL]:
        raise InputError(f"--tasks {unknown[0]}: D4RL has no dataset of this name")
    folder = Path(os.path.expanduser(args.thinned or cache_file("thinned"))).absolute()
    own = {f"{task}.{level}": Own(folder / f"{task}.{level}{derived.tag((task,), args.standin, args.rows)}.npz", task)
           for task in tasks for level in LEVELS}
    name = ".".join(["sql_small_data", *args.tasks]) + f".rows-{args.rows}" * (args.standin and args.rows != Args.rows)
    return Table(name=name, title=TITLE, columns=COLUMNS, datasets=tuple(own), seeds=(0, 1, 2, 3, 4), own=own,
                 notes=NOTES)


def main():
    args = grid.read(sys.argv[1:], Args, TITLE)
    this = grid.make(table(args), sys.argv[1:], Args)  # all flags are checked before a file is made
    if args.dry_run:
        return this.plan()
    for task in dict.fromkeys(own.task for own in this.table.own.values()):
        make(task, this.table.own, args)
    this = grid.make(table(args), sys.argv[1:], Args)  # which knows the files
    grid.train(this)
    rows, path = errors(this), args.out / f"{tables.stem(this)}.bellman"
    text = report(this, rows)
    with whole(Path(f"{path}.md")) as part:
        part.write_text(text)
    with whole(Path(f"{path}.csv")) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["dataset", "algorithm", "seed"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"\n{text}\n{path}.md and .csv")
    grid.finish(this)


if __name__ == "__main__":
    with friendly():
        main()
