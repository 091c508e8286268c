"""Settings of one algorithm side by side: every combination of some flags' values, ranked by their scores.

Each setting is a column of a grid, on one dataset or several: runs that are finished are found again, those that were
stopped go on, and --jobs, --gpus and --ray place them as in every table. Every flag and value is checked before
anything is trained. After each run the files in `--out` are written anew: the ranking (.md, .csv) with 95% bootstrap
intervals over seeds, a page with the learning curves of the best settings, and a figure, if one flag or two vary.

A setting that was chosen by these scores was chosen with a simulator, which offline RL does not have. Its score is an
optimistic estimate; the ranking says so, and what to report instead.

Run: python benchmark/sweep.py td3_bc --env hopper-medium-v2 --seeds 0 1 --over alpha=1,2.5,5 lr=1e-4,3e-4 [--dry-run]
     python benchmark/sweep.py cql --env hopper-medium-v2 walker2d-medium-v2 --over cql_weight=1,5 normalize=True,False
"""

import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Literal, get_type_hints

import tyro

from benchmark.engine import grid, sweeps
from benchmark.engine.grid import Column, Table
from benchmark.engine.jobs import simulated
from benchmark.engine.runs import IGNORED, ROOT, arguments, digest, flags
from common import InputError, friendly
from common.args import Seeds
from common.files import check_folder
from common.loading import load_script
from common.sources import D4RL

TITLE = "A sweep over settings of one algorithm"
MOST = 1_000  # runs of a sweep
FIXED = IGNORED - {"config"} | {"env", "eval_env", "eval_every", "eval_episodes", "max_episode_steps", "physics",
                                "compile"}  # change no score, or what a score means


@dataclass
class Args(grid.Args):
    algorithm: tyro.conf.Positional[str] = ""  # a file in algorithms/, without .py
    env: tuple[str, ...] = ("hopper-medium-v2",)  # datasets, of D4RL; --data puts a file of your own in one's place
    over: tuple[str, ...] = ()  # a flag and its values each: alpha=1,2.5 lr=1e-4,3e-4 "stages=1 2 1,5 20 1"
    seeds: Seeds = ()  # default: 0 1 2
    score: Literal["last", "mean_of_last_10"] = "last"  # of a run: its last evaluation, or the mean of its last ten


def values_of(algorithm: str, words: tuple[str, ...], env: str) -> dict[str, dict]:
    """{flag: {value as it was typed: the words that give it}}. InputError: a flag or a value that cannot be, or that
    stands twice."""
    hints, found = get_type_hints(load_script(ROOT / f"algorithms/{algorithm}.py").Args), {}
    for word in words:
        name, given, texts = word.partition("=")
        flag = name.replace("-", "_")
        if not given or not all(text.strip() for text in texts.split(",")):
            raise InputError(f"--over {word}: give a flag and its values, as alpha=1,2.5")
        if flag not in hints:
            near = get_close_matches(flag, hints, 1)
            raise InputError(f"--over {name}: {algorithm}.py has no such flag" + f"; {near[0]}?" * bool(near))
        if flag in FIXED:
            raise InputError(f"--over {name}: is no setting of the algorithm; give it for all runs, before or after --")
        if flag in found:
            raise InputError(f"--over {name}: stands twice; give all its values at once")
        found[flag], meant = {}, {}
        for text in (text.strip() for text in texts.split(",")):
            found[flag][text] = typed = spelt(flag, text, hints[flag])
            value = getattr(arguments(algorithm, ["--env", env, *typed]), flag)
            if value in meant.values():
                raise InputError(f"--over {word}: {text} stands twice")
            meant[text] = value
    return found


def spelt(flag: str, text: str, hint) -> list[str]:
    """The words of a command line that give a flag its value. InputError: a switch that is neither True nor False."""
    name = flag.replace("_", "-")
    if hint is bool:
        if text not in ("True", "False"):
            raise InputError(f"--over {flag}={text}: give True or False")
        return [f"--{name}" if text == "True" else f"--no-{name}"]
    return [f"--{name}={text}"] if len(text.split()) == 1 else [f"--{name}", *text.split()]


def table(args: Args, extra: list[str]) -> tuple[Table, dict[str, dict[str, str]]]:
    """A column a setting, and {column: {flag: value, as it was typed}}. InputError: whatever cannot be trained."""
    known = sorted(path.stem for path in (ROOT / "algorithms").glob("*.py"))
    if args.algorithm not in known:
        raise InputError(f"{args.algorithm or 'no algorithm'}: give one of {', '.join(known)}")
    if not args.over:
        raise InputError("--over: give at least one flag and its values, as --over alpha=1,2.5,5")
    for env in args.env:
        if env not in D4RL:
            raise InputError(f"--env {env}: is no dataset of D4RL; a file of your own goes in the place of one whose "
                             f"task it has, --env NAME --data NAME=FILE")
        if not simulated(env):
            raise InputError(f"--env {env}: there is no simulator for it here, hence nothing to rank settings by")
        if args.standin and not D4RL[env]["standin"] and not any(word.startswith(f"{env}=") for word in args.data):
            raise InputError(f"--env {env}: there is no stand-in for it")
    if not args.env or len(set(args.env)) < len(args.env):
        raise InputError(f"--env {' '.join(args.env)}: give one dataset or more, each once")
    values = values_of(args.algorithm, args.over, args.env[0])
    given = {name.replace("-", "_") for name in flags(extra)} | ({"updates"} if args.updates else set())
    if both := given & set(values):
        raise InputError(f"--over {min(both)}: is also given for all runs; leave one of both out")
    seeds, count = args.seeds or (0, 1, 2), len(args.env)
    for texts in values.values():
        count *= len(texts)
    if count * len(set(seeds)) > MOST:
        raise InputError(f"--over: {count * len(set(seeds)):,} runs, more than {MOST:,}; give fewer values, seeds or "
                         "datasets")
    columns, settings = {}, {}
    for texts in product(*values.values()):
        setting = dict(zip(values, texts))
        name = " ".join(f"{flag}={text.replace(' ', ':').replace('/', '_')}" for flag, text in setting.items())
        words = [word for flag, text in setting.items() for word in values[flag][text]]
        columns[name], settings[name] = Column(args.algorithm, " ".join(words)), setting
    name = f"sweep_{args.algorithm}_{'_'.join(values)}"[:80] + f".{digest(args.over, args.env, seeds, args.score)}"
    return Table(name=name, title=f"{args.algorithm}: a sweep over {' and '.join(values)}", columns=columns,
                 datasets=args.env, seeds=seeds, score=args.score, notes=(sweeps.WARNING,)), settings


def main():
    argv = sys.argv[1:]
    args = grid.read(argv, Args, TITLE)
    extra = tuple(argv[argv.index("--") + 1:] if "--" in argv else ())
    made, settings = table(args, list(extra))
    this = sweeps.Sweep(made, replace(args, seeds=()), extra, chosen=settings)  # the table's
    if args.dry_run:
        return this.plan()
    check_folder(args.out)
    try:
        this.run()
    finally:  # Ctrl-C too: the ranking so far
        this.find()
        print(f"\n{this.write()}\n{Path(args.out)}/{this.stem}.md, .csv and .runs.csv; learning curves: .html"
              + "; figure: .png" * this.drawn)
    grid.finish(this)


if __name__ == "__main__":
    with friendly():
        main()
