"""Any set of run folders, finished or not, side by side: learning curves, robust statistics, scores and times.

Runs that differ in nothing but their seeds are one algorithm. Stand-in data and D4RL's are never in one group, panel or
statistic, and neither are normalised scores and raw returns, nor two versions of a robot's physics. Left in --out:
NAME.html and figures (PNG, PDF and SVG), which have the name of their one run, or one that is another for every set of
runs, unless --name chooses it. --logs draws log.csv too, every column of it; of runs that are never evaluated it is
drawn anyway.

Run: python benchmark/plot.py runs/* [--logs]
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmark.engine import page
from benchmark.engine.curves import Group, logs
from benchmark.engine.figures import FORMATS, curve_figure, log_figure, profile_figure, styles
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
    logs: bool = False  # also draw log.csv: losses and all else that is logged, a small panel each


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
        alike.setdefault(repr((run.algorithm, run.script, sorted(run.settings.items()), data)), []).append(run)
    firsts, groups = [group[0] for group in alike.values()], []
    short = brief({name(run, firsts): run for run in reversed(firsts)})
    for group in alike.values():
        owner = {}
        for run in group:
            for seed in run.seeds:
                old = owner.get(seed)
                owner[seed] = old if old and old.result and not run.result else run
                if old:
                    print(f"seed {seed} of {label(run)}, {dataset(run)} is there twice: {owner[seed].folder.name} "
                          f"counts, not {(old if owner[seed] is run else run).folder.name}", file=sys.stderr)
        its = name(group[0], firsts)
        groups.append(Group(dataset(group[0]), its, dict(sorted(owner.items())), short[its]))
    return sorted(groups, key=lambda group: (group.dataset, group.algorithm))


def name(run: Run, firsts: list[Run]) -> str:
    """Its label, and what tells it from other groups with the same label on the same dataset: values, or its folder."""
    same = [other for other in firsts if (dataset(other), label(other)) == (dataset(run), label(run))]
    differ = [key for key, value in run.settings.items() if any(other.settings.get(key) != value for other in same)]
    told = [plain(f"{key.replace('_', '-')}={run.settings.get(key)}") for key in differ]
    alone = sum(other.settings == run.settings for other in same) == 1
    return plain(" ".join([label(run), *told, *([] if alone else [run.folder.name])]), 200)


def brief(runs: dict[str, Run]) -> dict[str, str]:
    """{name: what stands at a line of a figure}: the algorithm and one flag that no other of its names has, or all
    flags that not every one of them has; the whole name where that does not tell it from another."""
    short = {}
    for which, run in runs.items():
        others = [other.flags for name, other in runs.items() if other.algorithm == run.algorithm and name != which]
        mine = {key: value for key, value in run.flags.items() if key not in ("env", "eval-env")
                and any(other.get(key) != value for other in others)}
        alone = [key for key, value in mine.items() if all(other.get(key) != value for other in others)]
        told = [f"{key}={mine[key]}" for key in alone[:1] or mine]
        short[which] = plain(" ".join([run.algorithm, *told]))
    taken = list(short.values())
    return {which: its if taken.count(its) == 1 else which for which, its in short.items()}


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
    path = args.out / f"{name}.html"
    how = (f"Normalised score (return where a task has none), {SCORES[args.score]} of each run, mean ± std over seeds. "
           f"{few(rows)}".strip())
    notes = [NOTE] * any(group.standin for group in groups)
    print("\n\n".join([text(groups, rows), how, *notes]))
    page.write(path, f"Runs: {name}", notes, how, rows, groups, args.score, logs=args.logs)
    drawn = figures(groups, args, name)
    print("\n" + "\n".join(map(str, [path, *drawn])) + f"\nEach figure as {', '.join(FORMATS)}." * bool(drawn))


def figures(groups: list[Group], args: Args, name: str) -> list[Path]:
    """Learning curves, performance profiles and logs, as far as there are any; their PNG files."""
    style, files = styles(group.algorithm for group in groups), []
    if any(group.curve for group in groups):
        files.append(args.out / f"{name}.curves.png")
        curve_figure(groups, style, files[-1])
    if compared := comparisons(groups, args.score):
        panels = {}
        for comparison in compared:
            taus, title = thresholds(comparison.scores), str(comparison).partition(".")[0]
            drawn = taus, profiles(comparison.scores, taus), comparison.seeds, len(comparison.datasets)
            panels[title + " (stand-in data)" * comparison.standin] = drawn
        files.append(args.out / f"{name}.profile.png")
        profile_figure(panels, style, files[-1], {group.algorithm: group.short for group in groups})
    shown = logs(groups, args.logs)
    for i, (title, of) in enumerate(shown.items(), 1):
        files.append(args.out / f"{name}.logs{f'.{i}' * (len(shown) > 1)}.png")
        log_figure(title, of, files[-1])
    return files


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
