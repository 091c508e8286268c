"""Work to do for a table: which runs belong to a cell, and training some seeds of it to the end.

A run belongs to a cell if it was trained by the cell's file with the values that the cell's flags give today, whoever
started it, and evaluated under the physics that is simulated today; a finished run has a result.json. `work` can be
called anywhere that sees the runs' folder, any number of times, by several processes at once: a seed is trained by one
of them, and a run that was killed goes on.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmark.engine.runs import Run, arguments, find_runs, script_of, settings
from common import InputError, lock
from common.files import sha256
from common.physics import ROBOTS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

STOPPED, CHANGED = "stopped; it can go on", "changed; to be planned anew"
FOLLOW = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.getppid() == int(sys.argv[1]) or sys.exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"""  # 1: PR_SET_PDEATHSIG, which outlives execv


@dataclass(frozen=True)
class Own:
    """A file in place of a D4RL dataset. It need not be there yet: then no run is found."""
    file: Path
    task: str  # whose values its runs have, and on which they are evaluated, if it has a simulator

    @cached_property
    def sha256(self) -> str:
        return sha256(self.file) if os.path.isfile(self.file) else ""


@dataclass(frozen=True)
class Cell:
    column: str
    algorithm: str
    dataset: str  # the row's name
    words: tuple[str, ...]  # flags beyond those for the data, and --seeds
    settings: str  # the arguments that they give (benchmark/engine/runs.py), as JSON
    data: tuple[str, ...] = ()  # flags for the data
    own: Own | None = None

    @property
    def task(self) -> str:
        return self.own.task if self.own else self.dataset

    def owns(self, run: Run) -> bool:
        mine, its = json.loads(self.settings), run.settings
        if self.own:  # by its bytes: wherever it lay, and never what it was before
            del mine["env"]
            if run.config["dataset_source"] != "file" or run.config["data"].get("sha256") != self.own.sha256:
                return False
        same = all(mine[name] == its[name] for name in mine.keys() & its.keys())
        same &= run.algorithm == self.algorithm and run.script == os.path.realpath(script_of(self.algorithm))
        return same and not run.outdated and not run.damaged


def cell(column: str, algorithm: str, dataset: str, words: tuple[str, ...], own: Own | None = None) -> Cell:
    """InputError: the file has no such flag, value or --config, or none for this dataset."""
    data = ("--env", dataset) if own is None else ("--env", str(own.file), "--eval-env", own.task)
    if own and not simulated(own.task):  # no evaluation, but the task's values
        of_task = settings(asdict(arguments(algorithm, ["--env", own.task, *words])))
        data = ("--env", str(own.file), "--eval-env", "none")
        plain = settings(asdict(arguments(algorithm, [*data, *words])))
        for name, value in of_task.items():
            if value != plain[name] and name not in ("env", "eval_env"):
                flag = name.replace("_", "-")
                data += (f"--{'no-' * (value is False)}{flag}", *([] if isinstance(value, bool) else [str(value)]))
    args = arguments(algorithm, [*data, *words])
    return Cell(column, algorithm, dataset, words, json.dumps(settings(asdict(args)), sort_keys=True), data, own)


def simulated(task: str) -> bool:
    """Is there a simulator for a D4RL task here?"""
    return task.split("-")[0] in ROBOTS


@dataclass(frozen=True)
class Job:
    """Some seeds of a cell that are to be trained in one process: a run to resume, or a new one."""
    cell: Cell
    seeds: tuple[int, ...]
    runs: Path  # folder of run folders
    standin: bool
    resume: Run | None = None
    cpus: int = 1  # threads; sums on a CPU have the same order, hence the same digits, for the same number
    retries: int = 0  # times that a process which was killed goes on

    def __str__(self):
        return f"{self.cell.column} {self.cell.dataset} seeds {' '.join(map(str, self.seeds))}"

    @property
    def locks(self) -> list[Path]:
        """A file for each seed of the cell."""
        facts = self.cell.algorithm, self.cell.settings, self.standin
        names = [hashlib.sha256(repr((*facts, seed)).encode()).hexdigest()[:16] for seed in self.seeds]
        return [self.runs / ".grid" / f"{name}.lock" for name in names]

    @property
    def log(self) -> Path:
        return self.runs / ".grid" / f"{str(self).replace(' ', '-')}-{self.locks[0].stem}.log"

    @property
    def command(self) -> list[str]:
        """What a person would type."""
        script = ["python", os.path.relpath(script_of(self.cell.algorithm))]
        if self.resume:
            return [*script, "--resume", str(self.resume.folder)]
        words = [*self.cell.data, *self.cell.words, *["--no-standin"] * (not self.standin and not self.cell.own)]
        return [*script, *words, "--seeds", *map(str, self.seeds), "--runs", str(self.runs)]

    def found(self) -> list[Run]:
        """The cell's runs as they are now, oldest first."""
        return [run for run in find_runs(self.runs) if run.standin == self.standin and self.cell.owns(run)]


def hold(job: Job) -> list | None:
    """Open files that keep the job's seeds from everybody else; None: they are not free.

    A process that inherits the files holds the seeds too, until it ends, however it ends. InputError: no such folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            files = [stack.enter_context(_opened(path)) for path in job.locks]
            for file in files:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            raise InputError(f"cannot write to {job.log.parent} ({error}); choose another folder with --runs") from None
        stack.pop_all()
    return files


def _opened(path):
    """A file to append to. OSError: a link, which would lead elsewhere, or a pipe, which would wait for ever."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))


def busy(run: Run | None) -> bool:
    """Is the run in training, by a person too?"""
    try:
        own = run and lock(run.folder / "config.json")
    except OSError:  # gone, or not ours: whoever resumes it is told
        return False
    if own:
        os.close(own)
    return run is not None and not own


def work(job: Job, gpu: str | None = None, follow: bool = False, stopped: Callable[[], bool] = lambda: False) -> str:
    """Train a job to its end in a process of its own: why that failed, with its log's last lines; or nothing.

    Waits for whoever trains one of its seeds; CHANGED: they left something else than this job's run. `gpu`:
    CUDA_VISIBLE_DEVICES; None: as it is. `follow`: the process saves and stops when this one is killed; else it goes on
    alone. On KeyboardInterrupt, or when `stopped()`, it saves and stops. InputError: no process can be started.
    """
    held, why = None, ""
    if follow:  # Ray's workers may ignore what cancels a task
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while not (held := hold(job)):
            if stopped():
                return STOPPED
            time.sleep(0.5)
        for attempt in range(job.retries + 1):
            runs, wanted = job.found(), set(job.seeds)
            finished = wanted & {seed for run in runs if run.result for seed in run.seeds}
            begun = [run for run in runs if not run.result and wanted & set(run.seeds)]
            if finished == wanted:
                return ""
            if not job.resume and (finished or begun and tuple(begun[-1].seeds) != job.seeds):
                return CHANGED
            run = job.resume or (begun[-1] if begun else None)
            while busy(run) and not stopped():
                time.sleep(0.5)
            if stopped():
                return STOPPED
            code, end = _train(replace(job, resume=run), held, gpu, follow, stopped)
            if code == 0 or stopped():
                return STOPPED if code else ""
            why = "\n".join([f"exit code {code}", *end])
            if code > 0 and code != 128 + signal.SIGINT and "the evaluation worker died" not in end[-1]:  # not killed
                break
        return why
    except KeyboardInterrupt:
        return STOPPED
    finally:
        for file in held or ():
            file.close()


def _train(job, held, gpu, follow, stopped) -> tuple[int, list[str]]:
    """Exit code, and the last lines that it left in its log."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job.cpus), "MKL_NUM_THREADS": str(job.cpus)}
    environment |= {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    if job.standin:  # neither downloaded nor from D4RL's own folder
        environment |= {"SOLO_MIRRORS": "", "D4RL_DATASET_DIR": os.devnull}
    before = ["-c", FOLLOW, str(os.getpid())] if follow and sys.platform == "linux" else []
    try:
        with _opened(job.log) as log:
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, *before, *job.command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, pass_fds=[file.fileno() for file in held],
                start_new_session=True)  # Ctrl-C comes through us
    except OSError as error:
        raise InputError(f"cannot start {job} ({error}); free space, or choose other --runs") from None
    try:
        while process.poll() is None and not stopped():
            time.sleep(0.2)
    finally:  # KeyboardInterrupt too
        if process.poll() is None:
            process.terminate()  # not SIGINT: below Ray's processes it is blocked, elsewhere it may be ignored
        process.wait()
    with open(job.log, "rb") as log:
        log.seek(start)
        return process.returncode, log.read().decode(errors="replace").strip().splitlines()[-5:] or ["no output"]
