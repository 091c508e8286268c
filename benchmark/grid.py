"""The runs behind a published table: which there are, and starting or resuming those that are missing.

A table script declares a Table (what the paper did) and calls main(TABLE). A run belongs to a cell if it was trained by
the cell's file with the values that the cell's flags give today, whoever started it; a finished run has a result.json.
Runs are processes of `algorithms/`, with the command line a person types. Ctrl-C lets them save and stop; the same
command again goes on where they stopped.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from benchmark import tables
from benchmark.runs import Run, find_runs, flags, load_script, script_of, settings
from common import InputError, lock
from common.data import D4RL, cache_file
from common.run import friendly, parse

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


@dataclass
class Args:
    datasets: tuple[str, ...] = ()  # rows; default: all of the paper's
    columns: tuple[str, ...] = ()  # algorithms; default: all that we have
    seeds: tuple[int, ...] = ()  # default: as many as the paper's
    updates: int | None = None  # gradient steps, in place of the paper's: a table of its own
    standin: bool = False  # stand-in data in place of D4RL's: a table of its own
    jobs: int = 1  # processes at a time
    gpus: tuple[int, ...] = ()  # GPUs that they take in turn; all seeds of a cell then share one
    dry_run: bool = False  # print the commands and how long they may take
    runs: Path = Path("runs")  # folder of run folders
    out: Path = Path("results")  # folder of the tables


@dataclass(frozen=True)
class Cell:
    column: str
    algorithm: str
    dataset: str
    words: tuple[str, ...]  # flags beyond --env and --seeds
    settings: str  # the arguments that they give (benchmark/runs.py), as JSON

    def owns(self, run: Run) -> bool:
        mine, its = json.loads(self.settings), run.settings  # a flag that is younger than the run has its default
        same = all(mine[name] == its[name] for name in mine.keys() & its.keys())
        return same and run.algorithm == self.algorithm and run.script.resolve() == script_of(self.algorithm).resolve()


def cell(column: str, algorithm: str, dataset: str, words: tuple[str, ...]) -> Cell:
    """InputError: the file has no such --config, or none for this dataset."""
    module = load_script(script_of(algorithm))
    tables = {name.lower().replace("_", "-"): table for name, table in vars(module).items()
              if name.isupper() and isinstance(table, dict) and name != "PAPER"}
    with contextlib.redirect_stdout(io.StringIO()):
        args = parse(module.Args, module.PAPER, ["--env", dataset, "--device", "cpu", *words], **tables)
    return Cell(column, algorithm, dataset, words, json.dumps(settings(asdict(args)), sort_keys=True))


@dataclass
class Job:
    """A process to start: a new run of some seeds of a cell, or a run to resume."""
    cell: Cell
    seeds: tuple[int, ...]
    resume: Run | None = None
    locks: list = field(default_factory=list)
    process: subprocess.Popen | None = None
    log: Path | None = None

    def release(self) -> None:
        for file in filter(None, self.locks):
            file.close()

    def __str__(self):
        return f"{self.cell.column} {self.cell.dataset} seeds {' '.join(map(str, self.seeds))}"


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
        if args.jobs < 1 or args.updates is not None and args.updates < 1:
            raise InputError("--jobs and --updates must be at least 1")
        if reserved := {"env", "seeds", "runs", "updates", "standin"} & set(flags(list(self.extra))):
            raise InputError(f"--{min(reserved)} belongs before the --, it is a flag of this script")
        self.seeds = tuple(dict.fromkeys(args.seeds or table.seeds))
        updates = () if args.updates is None else ("--updates", str(args.updates))
        self.paper = not (args.standin or updates or self.extra)  # the paper's setting and data: comparable
        self.cells = [cell(name, column.algorithm, dataset, (*_without(column.flags, updates), *updates, *self.extra))
                      for dataset in dict.fromkeys(args.datasets or table.datasets)
                      for name, column in table.columns.items() if name in (args.columns or table.columns)
                      if dataset in (column.datasets or table.datasets)]
        self.find()

    def find(self) -> None:
        """The runs of every cell, stand-ins and D4RL's data apart."""
        self.runs = [run for run in find_runs(self.args.runs) if run.standin == self.args.standin]
        self.found = {cell: [run for run in self.runs if cell.owns(run)] for cell in self.cells}

    def finished(self, cell: Cell) -> dict[int, Run]:
        """{seed: its newest finished run}"""
        return {seed: run for run in self.found[cell] if run.result for seed in run.seeds if seed in self.seeds}

    def jobs(self) -> list[Job]:
        """What is to be started: unfinished runs with a seed that is wanted, then the seeds that no run has."""
        jobs = []
        for cell in self.cells:
            wanted = set(self.seeds) - set(self.finished(cell))
            for run in reversed(self.found[cell]):
                if not run.result and wanted & set(run.seeds):
                    jobs.append(Job(cell, tuple(run.seeds), run))
                    wanted -= set(run.seeds)
            groups = [(seed,) for seed in sorted(wanted)]  # on a CPU, processes are the way to use its cores
            if self.args.gpus or self.args.jobs == 1:
                groups = [tuple(sorted(wanted))] * bool(wanted)
            jobs += [Job(cell, seeds) for seeds in groups]
        return jobs

    def command(self, job: Job) -> list[str]:
        script = ["python", os.path.relpath(script_of(job.cell.algorithm))]
        if job.resume:
            return [*script, "--resume", str(job.resume.folder)]
        data = [*job.cell.words] if self.args.standin else [*job.cell.words, "--no-standin"]
        seeds = map(str, job.seeds)
        return [*script, "--env", job.cell.dataset, *data, "--seeds", *seeds, "--runs", str(self.args.runs)]

    def lock(self, job: Job) -> bool:
        """Hold every seed of the job until its process has ended, however it ends; False: one is in other hands."""
        folder = self.args.runs / ".grid"
        facts = job.cell.algorithm, job.cell.settings, self.args.standin
        names = [hashlib.sha256(repr((*facts, seed)).encode()).hexdigest()[:16] for seed in job.seeds]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            job.locks = [_hold(folder / f"{name}.lock") for name in names]
        except OSError as error:
            raise InputError(f"cannot write to {folder} ({error}); choose another folder with --runs") from None
        job.log = folder / f"{str(job).replace(' ', '-')}-{names[0]}.log"
        if job.resume:  # a person may have resumed it
            own = lock(job.resume.folder / "config.json")
            if not own:
                return False
            os.close(own)
        return None not in job.locks

    def start(self, job: Job, slot: int) -> None:
        environment = os.environ.copy()
        if self.args.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.args.gpus[slot % len(self.args.gpus)])
        elif self.args.jobs > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // self.args.jobs)))
        if self.args.standin:  # neither downloaded nor from D4RL's own folder
            environment |= {"SOLO_MIRRORS": "", "D4RL_DATASET_DIR": os.devnull}
        try:
            with open(job.log, "w") as log:
                job.process = subprocess.Popen(
                    [sys.executable, *self.command(job)[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env=environment, pass_fds=[file.fileno() for file in job.locks],
                    start_new_session=True)  # Ctrl-C comes through us
        except OSError as error:
            raise InputError(f"cannot start {job} ({error}); free space, or choose other --runs") from None
        job.release()  # the process holds them now

    def run(self) -> None:
        """Run all jobs, `jobs` at a time. A job that fails is told with the end of its log, and the others go on."""
        waiting, running, slots, without = self.jobs(), [], list(range(self.args.jobs)), {}
        total = len(waiting)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        try:
            while waiting or running:
                while waiting and slots:
                    job = waiting.pop(0)
                    if reason := without.get(job.cell.dataset) or self.in_the_way(job):
                        self.failed.append(f"{job}: {reason}")
                        continue
                    self.start(job, slots[0])
                    running.append((job, slots.pop(0)))
                    verb = "resumed" if job.resume else "started"
                    print(f"[{total - len(waiting)}/{total}] {verb} {job}, log {job.log}", flush=True)
                for job, slot in [pair for pair in running if pair[0].process.poll() is not None]:
                    running.remove((job, slot))
                    slots.append(slot)
                    if job.process.returncode == 0:
                        print(f"finished {job}", flush=True)
                    elif (reason := self.failure(job)).startswith(f"error: {job.cell.dataset}: not at hand"):
                        without[job.cell.dataset] = reason
                time.sleep(0.2)
        except (KeyboardInterrupt, InputError) as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for job, _ in running:
                job.process.send_signal(signal.SIGINT)
            print(f"\nstopping {len(running)} runs; they save and can go on", file=sys.stderr, flush=True)
            for job, _ in running:
                job.process.wait()
            if isinstance(error, InputError):
                raise
            raise KeyboardInterrupt("stopped; the same command goes on from here") from None
        self.find()

    def failure(self, job: Job) -> str:
        """Tell it with the end of its log, and return the last line."""
        end = job.log.read_text(errors="replace").strip().splitlines()[-5:] or ["no output"]
        self.failed.append(f"{job}: exit code {job.process.returncode}, {end[-1]}")
        print("\n    ".join([f"FAILED {job}; the end of {job.log}:", *end]), flush=True)
        return end[-1]

    def in_the_way(self, job: Job) -> str:
        """Why a job cannot be started; or an empty string, and its locks are held."""
        if self.args.standin and cache_file(f"{job.cell.dataset}.npz").exists():
            return (f"D4RL's own {job.cell.dataset} is in the cache; leave --standin out, or set SOLO_CACHE to another "
                    "folder")
        if self.args.standin and not D4RL[job.cell.dataset]["standin"]:
            return "there is no stand-in for it"
        if self.lock(job):
            return ""
        job.release()
        return "is running already, started elsewhere"

    def plan(self) -> None:
        """Print the table so far, the commands that are to be run, and how long they may take."""
        print(tables.markdown(self, tables.results(self)))
        jobs, about = self.jobs(), []
        for job in jobs:
            about.append(self.seconds(job))
            told = "unknown: nothing like it has run here, a short run (--updates 500) would tell"
            told = told if about[-1] is None else f"about {_duration(about[-1])}"
            print(f"{shlex.join(self.command(job))}  # {told}")
        done = sum(len(self.finished(cell)) for cell in self.cells)
        known, unknown = [seconds for seconds in about if seconds is not None], about.count(None)
        length = [f"about {_duration(sum(known) / self.args.jobs)} with --jobs {self.args.jobs}"] * bool(known)
        length += [f"{unknown} of unknown length"] * bool(unknown)
        print(f"\n{len(self.cells)} cells, {done} of {len(self.cells) * len(self.seeds)} seeds finished; {len(jobs)} "
              f"runs to start or resume{', ' * bool(length)}{', and '.join(length)}")

    def seconds(self, job: Job) -> float | None:
        """From the updates per second of the newest run with the same values on the same robot; None without one."""
        def of(run):
            return {name: value for name, value in run.items() if name not in ("env", "eval_env", "updates")}

        robot, mine = job.cell.dataset.split("-")[0], json.loads(job.cell.settings)
        alike = [run for run in self.runs if run.algorithm == job.cell.algorithm and run.speed
                 and run.config["args"]["env"].startswith(robot) and of(run.settings) == of(mine)]
        if not alike:
            return None
        on_cpu = alike[-1].config["args"]["device"] == "cpu"  # there, seeds take turns
        share = len(job.seeds) / len(alike[-1].seeds) if on_cpu else 1.0
        return (mine["updates"] - (job.resume.progress if job.resume else 0)) * share / alike[-1].speed


def _hold(path):
    """An open file, locked for whoever has it open, a process that inherits it too; None: somebody else has."""
    file = open(path, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        return file.close()


def _without(words: str, updates) -> list[str]:
    """A column's flags, without its --updates where the command line has one."""
    words = words.split()
    if updates and "--updates" in words:
        i = words.index("--updates")
        words = words[:i] + words[i + 2:]
    return words


def _duration(seconds):
    for unit, name in ((86400, "days"), (3600, "h")):
        if seconds > 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 60:.0f} min"


def make(table: Table, argv: list[str], Args=Args) -> Grid:
    """The grid of a command line, `-- FLAGS` going to every run."""
    cut = argv.index("--") if "--" in argv else len(argv)
    args = tyro.cli(Args, args=argv[:cut], description=f"{table.title}. What follows a -- goes to every run.")
    return Grid(table, args, tuple(argv[cut + 1:]))


def finish(grid: Grid) -> None:
    """Tell what is missing, by the exit code too."""
    if grid.failed:
        print("\n".join(["", f"{len(grid.failed)} runs are missing:", *grid.failed]), file=sys.stderr)
        sys.exit(1)


def main(table: Table) -> None:
    with friendly():
        grid = make(table, sys.argv[1:])
        if grid.args.dry_run:
            return grid.plan()
        grid.run()
        tables.write(grid)
        finish(grid)
