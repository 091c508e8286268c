"""Any set of run folders, finished or not, side by side: learning curves, robust statistics, scores and times.

Runs that differ in nothing but their seeds are one algorithm. Stand-in data and D4RL's are never in one group, panel or
statistic, and neither are normalised scores and raw returns, nor two versions of a robot's physics. Left in --out:
NAME.html and figures, which have the name of their one run, or one that is another for every set of runs, unless --name
chooses it.

Run: python benchmark/plot.py runs/*
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmark.engine import page
from benchmark.engine.curves import Group
from benchmark.engine.figures import colours, curve_figure, profile_figure
from benchmark.engine.robust import comparisons, profiles, thresholds
from benchmark.engine.runs import SCORES, Run, duration, label, named, pass_over, plain, read_run
from benchmark.engine.tables import few, row
from common import InputError, friendly
from common.args import cli

NOTE = ("STAND-IN DATA, not D4RL's: made with this project's own policies. No score that is marked so compares with a "
        "published one.")


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # run folders
    out: Path = Path("results")  # folder of the page and the figures
    name: str = ""  # their name; default: after the runs that they show
    score: Literal["last", "mean_of_last_10", "best"] = "last"  # which evaluations of a run are its score


def read(folders: tuple[Path, ...]) -> list[Run]:
    """Runs, oldest first, each once. Of several folders those that are no runs are passed over; InputError: none is."""
    found = {}
    for folder in folders:
        try:
            run = read_run(folder)
            if not run.result and os.path.lexists(folder / "checkpoint.pt"):
                run.checkpoint
            found[os.path.realpath(folder)] = run
        except InputError as error:
            if len(folders) == 1:
                raise
            pass_over(error)
    if not found:
        raise InputError("no run folder among them; name some, for example runs/*")
    return sorted(found.values(), key=Run.age)


def dataset(run: Run) -> str:
    """A panel's name: data, the task where it is not the data's own, whether it is a stand-in, and a physics of its
    evaluations that is not today's."""
    env, task = run.config["args"]["env"], run.config["args"].get("eval_env", "auto")
    env = Path(env).name if run.config["dataset_source"] == "file" else env
    its, now = run.physics
    marks = " (stand-in data)" * run.standin + f" (physics {its})" * (its != now)
    return plain(env + f" on {task}" * (task not in ("auto", "none", env))) + marks


def gather(runs: list[Run]) -> list[Group]:
    """A group per set of runs, oldest first, that differ in nothing but seeds; of two with a seed the newer counts, but
    a finished one before an unfinished one."""
    alike = {}
    for run in runs:
        data = run.config.get("data", {}).get("sha256"), run.standin, run.physics
        alike.setdefault(repr((run.algorithm, run.script, run.settings, data)), []).append(run)
    firsts, groups = [group[0] for group in alike.values()], []
    for group in alike.values():
        owner = {}
        for run in group:
            for seed in run.seeds:
                old = owner.get(seed)
                owner[seed] = old if old and old.result and not run.result else run
                if old:
                    print(f"seed {seed} of {label(run)}, {dataset(run)} is there twice: {owner[seed].folder.name} "
                          f"counts, not {(old if owner[seed] is run else run).folder.name}", file=sys.stderr)
        groups.append(Group(dataset(group[0]), name(group[0], firsts), dict(sorted(owner.items()))))
    return sorted(groups, key=lambda group: (group.dataset, group.algorithm))


def name(run: Run, firsts: list[Run]) -> str:
    """Its label, and what tells it from other groups with the same label on the same dataset: values, or its folder."""
    same = [other for other in firsts if (dataset(other), label(other)) == (dataset(run), label(run))]
    differ = [key for key, value in run.settings.items() if any(other.settings.get(key) != value for other in same)]
    told = [plain(f"{key.replace('_', '-')}={run.settings.get(key)}") for key in differ]
    alone = sum(other.settings == run.settings for other in same) == 1
    return plain(" ".join([label(run), *told, *([] if alone else [run.folder.name])]), 200)


def text(groups: list[Group], rows: list[dict]) -> str:
    """A table in columns: score, how far unfinished runs are, training time and speed."""
    lines = [["dataset", "algorithm", "score", "seeds", "training", "updates/s", ""]]
    for group, row in zip(groups, rows):
        times, shown = group.times(), page.pair(row["mean"], row["std"], 2) if row["mean"] else "-"
        speed = times.get("updates_per_second")
        left = f"unfinished: {group.unfinished()}" if group.unfinished() else ""
        lines.append([group.dataset, group.algorithm, shown + " (return)" * group.raw, str(row["seeds"]),
                      duration(times.get("training_seconds")), f"{speed:.1f}" if speed else "-", left])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main(args: Args):
    groups = gather(read(args.runs))
    sources = [next(iter(group.runs.values())).config["dataset_source"] for group in groups]
    rows = [row(group.dataset, group.algorithm, source, {}, "", list(group.scores(args.score).values()))
            for group, source in zip(groups, sources)]
    name = args.name or named(list({run.folder: run for group in groups for run in group.runs.values()}.values()),
                              args.score)
    files = [args.out / f"{name}.html"]
    how = (f"Normalised score (return where a task has none), {SCORES[args.score]} of each run, mean ± std over seeds. "
           f"{few(rows)}".strip())
    notes, colour = [NOTE] * any(group.standin for group in groups), colours(group.algorithm for group in groups)
    print("\n\n".join([text(groups, rows), how, *notes]))
    page.write(files[0], f"Runs: {name}", notes, how, rows, groups, args.score)
    if any(group.curve for group in groups):
        files.append(args.out / f"{name}.curves.png")
        curve_figure(groups, colour, files[-1])
    if compared := comparisons(groups, args.score):
        panels = {}
        for comparison in compared:
            taus, title = thresholds(comparison.scores), str(comparison).partition(".")[0]
            panels[title + " (stand-in data)" * comparison.standin] = taus, profiles(comparison.scores, taus)
        files.append(args.out / f"{name}.profile.png")
        profile_figure(panels, colour, files[-1])
    print("\n" + "\n".join(map(str, files)))


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
