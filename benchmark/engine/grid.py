"""The runs behind a published table: which there are, and starting or resuming those that are missing.

A table script declares a Table (what the paper did) and calls main(TABLE). Runs are processes of `algorithms/`, with
the command line a person types (jobs.py), on this machine or a cluster (executors.py). Ctrl-C lets them save and stop;
the same command again goes on where they stopped.
"""

import json
import os
import shlex
import signal
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import h5py
import torch

from benchmark.engine import tables
from benchmark.engine.executors import Local, Ray
from benchmark.engine.jobs import CHANGED, Cell, Job, Own, busy, cell, fcntl, hold, simulated
from benchmark.engine.runs import Run, duration, find_runs, flags
from common import InputError, friendly
from common.args import Count, Seeds, cli, usable_device, within
from common.files import check_folder
from common.sources import D4RL, cache_file

GYM = tuple(f"{robot}-{level}-v2" for robot in ("halfcheetah", "hopper", "walker2d")
            for level in ("random", "medium", "medium-expert", "medium-replay", "expert"))


@dataclass(frozen=True)
class Column:
    """One algorithm of a table: a file in algorithms/ and flags beyond --env and --seeds."""
    algorithm: str
    flags: str = ""
    published: str = ""  # its name in the paper's CSV; default: the column's own
    datasets: tuple[str, ...] = ()  # default: all of the table's


@dataclass(frozen=True)
class Table:
    """What a paper did. `papers`: CSV files in benchmark/papers; `score`: last, mean_of_last_10 or best of a run."""
    name: str
    title: str
    columns: dict[str, Column]
    papers: tuple[str, ...] = ()
    quoted: tuple[str, ...] = ()  # columns that we do not run, from the papers' CSV
    datasets: tuple[str, ...] = GYM
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    score: str = "last"
    notes: tuple[str, ...] = ()  # what must be read with it
    own: dict[str, Own] = field(default_factory=dict)  # rows that are files, no D4RL datasets
    also: dict[str, tuple[str, str]] = field(default_factory=dict)  # {name: (column, further score)} (curves.py)
    best: dict[str, tuple[str, ...]] = field(default_factory=dict)  # {name: columns}: also the best of these in a row
    alike: tuple[str, ...] = ()  # arguments that do not change how long an update takes, for a plan


@dataclass
class Args:
    datasets: tuple[str, ...] = ()  # rows; default: all of the paper's
    columns: tuple[str, ...] = ()  # algorithms; default: all that we have
    seeds: Seeds = ()  # default: as many as the paper's
    updates: Count | None = None  # gradient steps in place of the paper's: a table of its own; few get 10 evaluations
    standin: bool = False  # stand-in data in place of D4RL's: a table of its own
    data: tuple[str, ...] = ()  # files in place of D4RL's: hopper-medium-replay-v2=replay.npz; a table of its own
    jobs: Annotated[int | None, within("[1, 4096]")] = None  # processes at a time; default: one a GPU, or by cores
    cpus: Annotated[int, within("[1, 4096]")] = 1  # threads of a run; on a CPU, its last digits depend on them
    gpus: Annotated[tuple[int, ...], within("[0, 4096]")] = ()  # taken in turn, with more --jobs several runs on each
    ray: str = ""  # a Ray cluster places the runs: its address, or local for one on this machine
    gpu_share: Annotated[float | None, within("[0, 4096]")] = None  # with Ray: GPUs of a run, 0.25 for four on each
    retries: Annotated[int, within("[0, 1e6]")] = 3  # times that a run which was killed goes on
    dry_run: bool = False  # print the commands and how long they may take
    runs: Path = Path("runs")  # folder of run folders
    out: Path = Path("results")  # folder of the tables


@dataclass
class Grid:
    table: Table
    args: Args
    extra: tuple[str, ...] = ()  # flags for every run
    failed: list[str] = field(default_factory=list)

    def __post_init__(self):
        table, args = self.table, self.args
        for flag, known in (("datasets", table.datasets), ("columns", table.columns)):
            if unknown := [name for name in getattr(args, flag) if name not in known]:
                raise InputError(f"--{flag} {unknown[0]}: not in {table.name}; choose from {', '.join(known)}")
        if args.gpu_share is not None and not args.ray:
            raise InputError("--gpu-share goes with --ray; without Ray see --gpus and --jobs")
        given = flags(list(self.extra))
        if (args.data or table.own) and "eval-env" in given:
            raise InputError("--eval-env follows from a row's name; leave it out")
        if reserved := {"env", "seeds", "runs", "updates", "standin"} & set(given):
            raise InputError(f"--{min(reserved)} belongs before the --, it is a flag of this script")
        if args.ray and (args.gpus or args.jobs):
            raise InputError("--gpus and --jobs are for this machine; with --ray see --gpu-share and --cpus")
        if not args.gpus and not args.ray and given.get("device") != "cpu":
            args.gpus = tuple(range(torch.cuda.device_count()))
        args.jobs = args.jobs or len(args.gpus) or max(1, _cores() // args.cpus)
        self.seeds = tuple(dict.fromkeys(args.seeds or table.seeds))
        updates = () if args.updates is None else ("--updates", str(args.updates))
        if updates and args.updates < 50_000 and "eval-every" not in given:  # ten evaluations, or there is no curve
            updates += ("--eval-every", str(max(1, args.updates // 10)))
        self.own = table.own | self.files()
        changed = args.standin or updates or self.extra or self.own
        self.paper = bool(table.papers) and not changed  # the paper's setting and data: comparable
        self.datasets = tuple(dict.fromkeys(args.datasets or table.datasets))
        self.quoted = [dataset for dataset in self.datasets if dataset not in self.own and not simulated(dataset)]
        self.cells = [cell(name, column.algorithm, dataset, (*_without(column.flags, updates), *updates, *self.extra),
                           self.own.get(dataset))
                      for dataset in self.datasets if dataset not in self.quoted
                      for name, column in self.columns(dataset).items()]
        if "device" in given and not args.ray:
            usable_device(given["device"])
        self.find()

    def files(self) -> dict[str, Own]:
        """{dataset: own file}, as --data has them. InputError: no such dataset or file."""
        own = {}
        for word in self.args.data:
            name, given, path = word.partition("=")
            file = Path(os.path.expanduser(path)).absolute()
            if not given or name in own:
                raise InputError(f"--data {word}: give NAME=FILE, a name once, as hopper-medium-replay-v2=replay.npz")
            if name not in (self.args.datasets or self.table.datasets) or name in self.table.own:
                raise InputError(f"--data {word}: {name} is not a dataset of this table ({self.table.name})")
            if not simulated(name):
                raise InputError(f"--data {word}: there is no simulator for {name} here, it would get no score")
            if not (os.path.isfile(file) and (zipfile.is_zipfile(file) or h5py.is_hdf5(file))):
                raise InputError(f"--data {word}: there is no .npz or HDF5 file {file}")
            own[name] = Own(file, name)
        return own

    def columns(self, dataset: str) -> dict[str, Column]:
        """Those that a row has."""
        return {name: column for name, column in self.table.columns.items()
                if name in (self.args.columns or self.table.columns)
                and dataset in (column.datasets or self.table.datasets)}

    def find(self) -> None:
        """The runs of every cell; stand-ins, D4RL's data and own files apart."""
        self.runs = find_runs(self.args.runs)
        self.found = {cell: [run for run in self.runs if run.standin == self.standin(cell) and cell.owns(run)]
                      for cell in self.cells}

    def standin(self, cell: Cell) -> bool:
        return self.args.standin and not cell.own

    def finished(self, cell: Cell) -> dict[int, Run]:
        """{seed: its newest finished run}"""
        return {seed: run for run in self.found[cell] if run.result for seed in run.seeds if seed in self.seeds}

    def agents(self) -> dict[str, list[tuple[Run, list[int]]]]:
        """{column: its finished runs on all datasets, each with the seeds to take of it}. InputError: none at all."""
        agents = {}
        for cell in self.cells:
            done = self.finished(cell)
            runs = {run.folder: run for run in done.values()}
            taken = [(run, [seed for seed in done if done[seed] is run]) for run in runs.values()]
            agents.setdefault(cell.column, []).extend(taken)
        agents = {name: runs for name, runs in agents.items() if runs}
        if not agents:
            raise InputError("no model is trained, there is nothing to attack; see above")
        return agents

    def jobs(self, together: bool) -> list[Job]:
        """What is to be started: unfinished runs with a seed that is wanted, then seeds that no run has, one of every
        cell before another of any.

        `together`: the new seeds of a cell share a process, which is right on a GPU; on a CPU, processes use its cores.
        """
        args, resumed, new = self.args, [], []
        shared = dict(runs=args.runs.absolute() if args.ray else args.runs, cpus=args.cpus, retries=args.retries)
        for cell in self.cells:
            where = shared | {"standin": self.standin(cell)}
            wanted = set(self.seeds) - set(self.finished(cell))
            for run in reversed(self.found[cell]):
                if not run.result and wanted & set(run.seeds):
                    resumed.append(Job(cell, tuple(run.seeds), resume=run, **where))
                    wanted -= set(run.seeds)
            groups = [tuple(sorted(wanted))] * bool(wanted) if together else [(seed,) for seed in sorted(wanted)]
            new += [Job(cell, seeds, **where) for seeds in groups]
        return resumed + sorted(new, key=lambda job: self.seeds.index(job.seeds[0]))

    def run(self) -> None:
        """Run all jobs; one that fails is told with the end of its log, and the others go on. What somebody else trains
        at the moment is waited for."""
        args = self.args
        if not self.jobs(False):
            return
        executor = Ray(args.ray, args.cpus, args.gpu_share, args.retries) if args.ray else Local(args.jobs, args.gpus)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        try:
            self.loop(executor)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command goes on from here") from None
        finally:
            signal.signal(signal.SIGINT, lambda *_: None)  # once is enough; processes do not inherit it
            executor.stop()
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def loop(self, executor: Local | Ray) -> None:
        todo, running, told, without = self.jobs(executor.gpu), [], set(), {}
        total = len(todo)
        try:
            while todo or running:
                for job in list(todo):
                    if len(running) >= executor.room:
                        break
                    if reason := without.get(job.cell.dataset) or self.in_the_way(job):
                        self.failed.append(f"{job}: {reason}")
                    elif not busy(job.resume) and (free := hold(job)):
                        for file in free:  # for the executor to hold again
                            file.close()
                        verb = "submitted" if self.args.ray else "resumed" if job.resume else "started"
                        print(f"[{total - len(todo) + 1}/{total}] {verb} {job}, log {job.log}", flush=True)
                        running.append((job, executor.submit(job)))
                    else:
                        if str(job) not in told:
                            print(f"{job}: is running already, started elsewhere; it is waited for", flush=True)
                        told.add(str(job))
                        continue
                    todo.remove(job)
                for job, handle in list(running):
                    if (why := executor.outcome(handle)) == CHANGED:
                        todo += self.again(job, executor.gpu)
                    elif why is not None:
                        end = self.over(job, why)
                        if end.startswith(f"error: {job.cell.dataset}: not at hand") and not self.args.ray:
                            without[job.cell.dataset] = end
                    if why is not None:
                        running.remove((job, handle))
                time.sleep(0.2)
        except KeyboardInterrupt:
            print(f"\nstopping {len(running)} runs; they save and can go on", file=sys.stderr, flush=True)
            raise

    def again(self, job: Job, together: bool) -> list[Job]:
        """What is left of a job whose seeds somebody else has trained, or begun in another grouping."""
        self.find()
        return [new for new in self.jobs(together) if new.cell == job.cell and set(new.seeds) & set(job.seeds)]

    def over(self, job: Job, why: str) -> str:
        """Tell how a job ended, and return the last line of why it failed."""
        if why:
            first, *end = why.splitlines()
            self.failed.append(", ".join([f"{job}: {first}", *end[-1:]]))
            print("\n    ".join([f"FAILED {job}, {first}" + f"; the end of {job.log}:" * bool(end), *end]), flush=True)
            return end[-1] if end else first
        for _ in range(20):  # a shared disk may be slow to show what another node wrote
            if done := [run for run in job.found() if run.result and set(run.seeds) & set(job.seeds)]:
                scores = " ".join(f"{row[self.table.score]:.1f}" for row in done[-1].result["seeds"].values())
                took = duration(done[-1].result.get("training_seconds"))
                print(f"finished {job}: {scores or 'no score'}, {took}", flush=True)
                return ""
            time.sleep(0.5)
        return self.over(job, f"finished, but {self.args.runs} has no such run; was the algorithm's file changed?")

    def in_the_way(self, job: Job) -> str:
        """Why a job cannot be started, or an empty string."""
        if job.cell.own:
            return "" if job.cell.own.file.exists() else f"{job.cell.own.file}: no such file"
        if self.args.standin and cache_file(f"{job.cell.dataset}.npz").exists():
            return (f"D4RL's own {job.cell.dataset} is in the cache; leave --standin out, or set SOLO_CACHE to another "
                    "folder")
        if self.args.standin and not D4RL[job.cell.dataset]["standin"]:
            return "there is no stand-in for it"
        return ""

    def plan(self) -> None:
        """Print the table so far, the commands that are to be run, and how long they may take."""
        print(tables.markdown(self, tables.results(self)))
        jobs, about, models = self.jobs(bool(self.args.gpu_share if self.args.ray else self.args.gpus)), [], set()
        for job in jobs:
            about.append(self.seconds(job, models))
            told = "unknown: nothing like it has run here, a short run (--updates 500) would tell"
            told = told if about[-1] is None else f"about {duration(about[-1])}"
            print(f"{shlex.join(job.command)}  # {told}")
        done = sum(len(self.finished(cell)) for cell in self.cells)
        known, unknown = [seconds for seconds in about if seconds is not None], about.count(None)
        jobs_at_a_time = 1 if self.args.ray else self.args.jobs
        told = "one after another" if self.args.ray else f"with --jobs {self.args.jobs}"
        length = [f"about {duration(sum(known) / jobs_at_a_time)} {told}"] * bool(known)
        length += [f"{unknown} of unknown length"] * bool(unknown)
        print(f"\n{len(self.cells)} cells, {done} of {len(self.cells) * len(self.seeds)} seeds finished; {len(jobs)} "
              f"runs to start or resume{', ' * bool(length)}{', and '.join(length)}")

    def seconds(self, job: Job, models: set | None = None) -> float | None:
        """From the updates per second of the newest run with the same values on the same robot, and from the seconds of
        its model; None without one. `models`: those that are counted already, which jobs of one algorithm share."""
        free = {"env", "eval_env", "updates", "eval_every", *self.table.alike}

        def of(run):
            return {name: run[name] for name in run if name not in free}

        robot, mine = job.cell.task.split("-")[0], json.loads(job.cell.settings)
        alike = [run for run in self.runs if run.algorithm == job.cell.algorithm and run.speed
                 and (run.config.get("task") or run.config["args"]["env"]).startswith(f"{robot}-")
                 and of(run.settings) == of(mine)]
        if not alike:
            return None
        on_cpu = alike[-1].config["args"].get("device") == "cpu"  # there, seeds take turns
        share = len(job.seeds) / len(alike[-1].seeds) if on_cpu else 1.0
        done, models = job.resume.progress if job.resume else 0, set() if models is None else models
        new = {(job.cell.algorithm, job.cell.dataset, seed) for seed in job.seeds} - models if not done else set()
        models |= new
        model = alike[-1].pretraining * len(new) / len(alike[-1].seeds)  # models are trained one after another
        return (mine["updates"] - done) * share / alike[-1].speed + model


def _without(words: str, updates) -> list[str]:
    """A column's flags, without its --updates where the command line has one."""
    words = shlex.split(words)
    if updates and "--updates" in words:
        i = words.index("--updates")
        words = words[:i] + words[i + 2:]
    return words


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def make(table: Table, argv: list[str], Args=Args) -> Grid:
    """The grid of a command line, `-- FLAGS` going to every run."""
    return Grid(table, read(argv, Args, table.title), tuple(argv[argv.index("--") + 1:] if "--" in argv else ()))


def read(argv: list[str], Args, title: str):
    """Args of a command line; what is after its -- is for runs. InputError: a flag that cannot be, or Windows."""
    if not fcntl:
        raise InputError("table scripts need locks of files that Windows does not have: start them on Linux, macOS or "
                         "in WSL. Algorithms, plot.py and attacks.py run here")
    cut = argv.index("--") if "--" in argv else len(argv)
    return cli(Args, argv[:cut], description=f"{title}. What follows a -- goes to every run.")


def finish(grid: Grid) -> None:
    """Tell what is missing, by the exit code too."""
    if grid.failed:
        print("\n".join(["", f"{len(grid.failed)} runs are missing:", *grid.failed]), file=sys.stderr)
        sys.exit(1)


def train(grid: Grid) -> None:
    """Run what is missing, and write the table."""
    check_folder(grid.args.out)
    try:
        grid.run()
    finally:  # Ctrl-C too: the table so far
        grid.find()
        tables.write(grid)


def main(table: Table) -> None:
    with friendly():
        grid = make(table, sys.argv[1:])
        if grid.args.dry_run:
            return grid.plan()
        train(grid)
        finish(grid)
