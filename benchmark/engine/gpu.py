"""What benchmark/gpu.py stands on: workers that answer in time, tables that grow by whole rows, and its summary."""

import contextlib
import csv
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmark.engine.files import whole
from benchmark.engine.jobs import FOLLOW
from benchmark.engine.runs import ROOT
from common import InputError

WORKER, PUBLISHED = Path(__file__).parent / "gpu_worker.py", Path(__file__).parent / "update_times.csv"
CHEETAH = "halfcheetah-medium-v2"
SPEED = ("algorithm env mode seeds tf32 threads updates_per_second least most memory_mib gflop operators "
         "floor_us share_of_peak note code card").split()
PROFILE = "algorithm env kernel count us code card".split()
LEARN = ("algorithm env seeds updates paper_updates last mean_of_last_10 best training_seconds updates_per_second "
         "wall_seconds data note code card").split()


def follower(words: list, **options) -> subprocess.Popen:
    """A Python process with a session of its own, which ends with this one, however it ends (on Linux)."""
    before = ["-c", FOLLOW, str(os.getpid())] if sys.platform == "linux" else []
    return subprocess.Popen([sys.executable, *before, *map(str, words)], stdin=subprocess.DEVNULL,
                            start_new_session=True, **options)


def end(process: subprocess.Popen) -> None:
    """With all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(**more: str) -> dict:
    """For processes of the project, installed or not."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | more


class Worker:
    """A process of gpu_worker.py. `tell` a job, `answer` later, or `ask` for both; what fails, or is late, is a note
    {"failed": why}, and so is every answer after it."""

    def __init__(self, algorithm: str, flags: list[str], device: str, log, nice: int = 0, **variables: str):
        first = ["nice", "-n", str(nice)] if nice and shutil.which("nice") else []
        who = json.dumps({"algorithm": algorithm, "flags": flags, "device": device})
        self.process = subprocess.Popen(
            [*first, sys.executable, WORKER, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=environment(**variables), start_new_session=True)
        self.failed, self.late, self.read = None, 1, b""  # late: answers to come; the first says that it is ready

    def tell(self, job: dict) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
        self.late += 1

    def answer(self, until: float) -> dict:
        """To the last job; `until`: time.monotonic()."""
        while self.late and not self.failed:
            line = self._line(until)
            try:
                self.late, found = self.late - 1, json.loads(line or "")
            except ValueError:
                why = "no answer in time" if line is None else "no JSON" if line else "died, see log.txt"
                self.failed = {"failed": why}
                end(self.process)
        return self.failed or found

    def ask(self, job: dict, until: float) -> dict:
        self.tell(job)
        return self.answer(until)

    def _line(self, until):
        """None: not in time; b"": it has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.read:
                if not selector.select(max(0.0, until - time.monotonic())):
                    return None
                if not (more := os.read(self.process.stdout.fileno(), 65536)):
                    return b""
                self.read += more
        line, _, self.read = self.read.partition(b"\n")
        return line

    def stop(self) -> None:
        end(self.process)
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()


class Table:
    """A CSV file with these fields; rows are whole, whenever the process ends."""

    def __init__(self, path: Path, fields: list[str]):
        self.path, self.fields, self.rows = path, fields, []
        if path.is_file():
            with open(path, newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames not in (None, fields):
                    raise InputError(f"{path}: is a table of another version; choose another folder with --out")
                self.rows = [row for row in reader if None not in row.values()]  # all but a torn one

    def add(self, **row) -> None:
        row = {name: "" if row.get(name) is None else row[name] for name in self.fields}
        self.rows.append({name: str(value) for name, value in row.items()})
        with whole(self.path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def find(self, **facts) -> dict | None:
        """The newest row with these values and no note."""
        wanted = {name: str(value) for name, value in facts.items()}
        return next((row for row in reversed(self.rows)
                     if not row.get("note") and wanted.items() <= row.items()), None)


def shown(value: str, form: str = ",.1f") -> str:
    with contextlib.suppress(ValueError):
        return f"{float(value):{form}}"
    return value


def markdown(lines: list[list[str]]) -> str:
    if len(lines) < 2:
        return "Nothing yet."
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def json_lines(path: Path) -> list[dict]:
    """A file of JSON lines, without torn ones."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [row for row in found if isinstance(row, dict)]


def checks(rows: list[dict]) -> str:
    """What tests/test_cuda.py measured: the last of each test and algorithm."""
    found = {(row["test"], row.get("algorithm", "")): row for row in rows if row.get("test") not in ("all", None)}
    return markdown([["test", "algorithm", "measured"], *(
        [test, algorithm, ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                                    for name, value in row.items() if name not in ("test", "algorithm"))]
        for (test, algorithm), row in found.items())])


def speeds(rows: list[dict]) -> str:
    """Times are those of one card; ratios are to the same file's eager updates of one seed, where there are some."""
    if not rows:
        return markdown([])
    head = ["algorithm", "task", "how", "updates/s (least to most)", "times eager", "memory, MiB", "GFLOP", "operators",
            "floor, us", "of the peak"]
    eager = {(row["algorithm"], row["env"]): row["updates_per_second"] for row in rows
             if (row["mode"], row["seeds"], row["threads"]) == ("eager", "1", "")}
    lines = [head]
    for row in rows:
        how = f"{row['mode']}, {row['seeds']} seed{'s' * (row['seeds'] != '1')}"
        how += ", float32" * (row["tf32"] == "False")
        how += f", CPU with {row['threads']} threads" if row["threads"] else ""
        rate, base = row["updates_per_second"], eager.get((row["algorithm"], row["env"]))
        spread = f" ({shown(row['least'])} to {shown(row['most'])})" if rate else ""
        lines.append([row["algorithm"], row["env"], how, row["note"] or shown(rate) + spread,
                      f"{float(rate) / float(base):.2f}" if rate and base else "", shown(row["memory_mib"], ",.0f"),
                      shown(row["gflop"], ".3g"), shown(row["operators"], "g"), shown(row["floor_us"], ".0f"),
                      shown(row["share_of_peak"], ".1%")])
    return markdown(lines)


def published(rows: list[dict], about: dict) -> str:
    """Ours, one seed in a graph, in times the updates a second that others have published of theirs, on another card.
    """
    lines = [["algorithm", "project", "published, other card: updates/s", "its card", "ours", "ours in times theirs"]]
    with open(PUBLISHED, newline="") as file:
        for row in csv.DictReader(file):
            ours = [other["updates_per_second"] for other in rows if other["algorithm"] == row["algorithm"]
                    and (other["mode"], other["seeds"], other["tf32"], other["env"]) == ("graph", "1", "True", CHEETAH)
                    and about.items() <= other.items() and other["updates_per_second"]]
            theirs = float(row["updates"]) / float(row["minutes"]) / 60
            if ours:
                lines.append([row["algorithm"], row["project"], shown(str(theirs)), row["card"], shown(ours[-1]),
                              f"{float(ours[-1]) / theirs:.1f}"])
    return markdown(lines)


def profiles(rows: list[dict]) -> str:
    return markdown([["algorithm", "kernel", "an update", "us an update"], *(
        [row["algorithm"], row["kernel"].replace("|", "/"), shown(row["count"], "g"), shown(row["us"])]
        for row in rows)])


def learned(rows: list[dict]) -> str:
    head = ["algorithm", "task", "seeds", "updates", "of the paper's", "last", "mean of last 10", "best", "updates/s",
            "seconds, all in all", "data"]
    return markdown([head, *(
        [row["algorithm"], row["env"], row["seeds"], shown(row["updates"], ",.0f"), shown(row["paper_updates"], ",.0f"),
         row["note"] or shown(row["last"]), shown(row["mean_of_last_10"]), shown(row["best"]),
         shown(row["updates_per_second"]), shown(row["wall_seconds"], ".0f"), row["data"]] for row in rows)])
