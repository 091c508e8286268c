"""Updates per second of every algorithm, beside d3rlpy's version of it.

Times alone mean little on a machine that does other things too, so contenders take turns in random order, one at a
time, and are compared round by round.

A contender is a process: an algorithm of ours in one mode (eager; compile: torch.compile of update; graph: a CUDA graph
with a branch per seed) with one or more seeds, which take turns on a CPU; or its peer. Both have the same data, batch,
networks (compare `parameters`), number of critics, learning rates and threads. A peer's update is a step of its fit()
but for logging: it draws a batch, in Python, and calls update(). The peer of sac_n.py is SAC with n_critics = N, the
same algorithm: target and actor loss take the minimum over all critics, and the critics' losses are summed. That of
sql_eql.py and xql.py is IQL: their losses are not in d3rlpy. one_step.py is measured in its first stage. Where there
is no file of ours yet, d3rlpy runs alone, with its own values. Data are random: an update's speed does not depend on
them. GFLOP are those of matrix products, forward and backward, a multiplication and an addition being two; they are
compared with the best of some square float32 products, the machine's peak, which take turns as well.

Run: python benchmark/speed.py --algorithms td3_bc "sac_n --config sac-10" --peers peers/bin/python [--kernels]
"""

import contextlib
import csv
import json
import math
import os
import platform
import random
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import numpy as np
import torch

from benchmark.engine.files import whole
from benchmark.engine.kernels import counted
from benchmark.engine.runs import ROOT, arguments, digest, script_of
from benchmark.engine.speed_worker import PEERS
from common import InputError, friendly
from common.args import cli, usable_device, within
from common.files import check_folder
from common.physics import ROBOTS, make_env

WORKER, DATA_ROWS = Path(__file__).parent / "engine/speed_worker.py", 100_000
INSTALL = "python -m venv peers && peers/bin/pip install -r requirements-peers.txt, then --peers peers/bin/python"
VERSIONS = "import d3rlpy, torch; print(f'd3rlpy {d3rlpy.__version__}, torch {torch.__version__}')"


@dataclass
class Args:
    algorithms: tuple[str, ...] = ()  # files in algorithms/, with flags: "sac_n --config sac-10"; default: all
    peers: Path | None = None  # Python of the peers' environment; default: no peers
    env: str = "hopper-medium-v2"  # its sizes, and the papers' values for it
    seeds: Annotated[tuple[int, ...], within("[1, 1e4]")] = (1, 2, 4, 8)  # how many of them in a process
    modes: tuple[Literal["eager", "compile", "graph", "graph+compile"], ...] = ("eager", "graph", "graph+compile")
    device: str = "auto"  # auto, cpu, cuda or mps; without CUDA there are no graphs
    rounds: Annotated[int, within("[1, 1e6]")] = 7  # turns of a contender
    seconds: Annotated[float, within("(0, 1e6]")] = 2.0  # that a turn takes, about
    threads: Annotated[int, within("[1, 4096]")] = 1  # of a contender
    kernels: bool = False  # only count the operators of an update that launch a kernel on a GPU
    out: Path = Path("results")  # folder of speed.md and speed.csv; with other flags, speed and eight digits


@dataclass
class Contender:
    """A process of speed_worker.py; `rates`: updates per second of its seeds together, round by round."""
    algorithm: str
    name: str
    job: dict
    seeds: int = 1
    python: tuple = (sys.executable,)
    note: str = ""  # why it takes no turns
    facts: dict = field(default_factory=dict)
    updates: int = 1  # of a turn
    rates: list[float] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def start(self, seconds: float) -> None:
        """Wait until it is ready, and find how many updates, in whole periods, take about `seconds`."""
        print(f"{self.algorithm}: {self.name} warms up", file=sys.stderr, flush=True)
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.job["threads"]))
        self.process = subprocess.Popen(
            [*self.python, WORKER, json.dumps(self.job, default=str)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, env=os.environ | threads, start_new_session=True)  # Ctrl-C comes through us
        self.facts = self.answer() or {}
        self.note = self.note or self.facts.get("failed", "")
        period, took = self.facts.get("period", 1), 0.0
        self.updates = period
        while not self.note and took < seconds / 2 and (took := self.ask()):
            self.updates = period * math.ceil(self.updates / period * min(seconds / took, 10))

    def ask(self) -> float | None:
        """Seconds that the updates of a turn take; None: it died."""
        with contextlib.suppress(BrokenPipeError):
            print(self.updates, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        try:
            return json.loads(self.process.stdout.readline())
        except json.JSONDecodeError:  # nothing, or nothing that we know
            self.process.kill()
            self.log.seek(0)
            end = self.log.read().strip().splitlines()[-5:] or [f"exit code {self.process.wait()}"]
            self.note = f"died: {end[-1].strip()}"
            print("\n    ".join([f"DIED {self.algorithm}: {self.name}; its last words:", *end]), file=sys.stderr)

    def turn(self) -> None:
        if took := self.ask():
            self.rates.append(self.updates * self.seeds / took)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.log.close()


def write_data(env: str, path: Path) -> None:
    """Random transitions of the task's sizes in episodes of 1000 steps, in D4RL's layout."""
    if env.split("-")[0] not in ROBOTS:
        raise InputError(f"--env {env}: a simulator tells its sizes, and there is none; choose {', '.join(ROBOTS)}")
    task, rng = make_env(env), np.random.default_rng(0)
    obs_size, action_size = task.observation_space.shape[0], task.action_space.shape[0]
    np.savez(path, observations=rng.standard_normal((DATA_ROWS, obs_size), np.float32),
             actions=rng.uniform(-1, 1, (DATA_ROWS, action_size)).astype(np.float32),
             rewards=rng.standard_normal(DATA_ROWS, np.float32), terminals=np.zeros(DATA_ROWS, bool),
             timeouts=np.arange(DATA_ROWS) % 1000 == 999)


def free_memory() -> float:
    """Bytes, as far as the system tells."""
    with contextlib.suppress(OSError):
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return math.inf


def contenders(args: Args, algorithm: str, shared: dict):
    """Those of an algorithm. Each has to be started before the next is made: ours tell their networks and memory."""
    name, *words = shlex.split(algorithm)
    cuda, settings, first = args.device.startswith("cuda"), {}, None
    modes = [mode for mode in args.modes if cuda or "graph" not in mode]
    kinds = dict.fromkeys([("eager", 1), *((mode, seeds) for mode in modes for seeds in args.seeds)])
    if script_of(name).exists():
        settings = asdict(arguments(name, ["--env", args.env, *words, "--device", args.device]))
        for mode, seeds in kinds:
            job = {"kind": "ours", "mode": mode, "seeds": seeds, "args": settings, "script": str(script_of(name)),
                   "peer": name in PEERS}
            this = Contender(algorithm, f"ours, {mode}, {seeds} seed{'s' * (seeds > 1)}", shared | job, seeds)
            if first and not cuda and (need := seeds * first.facts["memory"]) > (free := free_memory()):
                this.note = f"left out: needs {need / 2**30:.1f} GB of memory, {free / 2**30:.1f} are free"
            yield this
            first = first or this
            if first.note:
                return
    else:
        first = Contender(algorithm, "ours", {"kind": "ours"}, note=f"there is no algorithms/{name}.py yet")
        yield first
    if name in PEERS and args.peers:
        job = {"kind": "peer", "algorithm": name, "args": settings, "hidden": first.facts.get("hidden")}
        for mode in ("eager", "compile_graph")[:1 + cuda]:
            yield Contender(algorithm, f"d3rlpy {PEERS[name]}, {mode}", shared | job | {"mode": mode},
                            python=(args.peers, "-I"))
    for size in (2048, 4096, 8192) if cuda else (512, 1024, 2048):
        yield Contender(algorithm, f"product, {size} x {size}", shared | {"kind": "product", "size": size})


def compare(args: Args, algorithm: str, shared: dict) -> list[dict]:
    """Start an algorithm's contenders, play the rounds and stop them; rows of the table."""
    group = []
    with contextlib.ExitStack() as stack:
        for contender in contenders(args, algorithm, shared):
            group.append(contender)
            stack.callback(contender.stop)
            if not contender.note:
                contender.start(args.seconds)
        for number in range(1, args.rounds + 1):
            playing = [contender for contender in group if not contender.note]
            print(f"{algorithm}: round {number} of {args.rounds}, {len(playing)} turns", file=sys.stderr, flush=True)
            for contender in random.sample(playing, len(playing)):
                contender.turn()
    return rows(group)


def ratios(rates: list[float], others: list[float]) -> list[float | None]:
    """Median, least and most of rate / other, round by round; None without others."""
    each = [rate / other for rate, other in zip(rates, others)]
    return [median(each), min(each), max(each)] if each else [None] * 3


def rows(group: list[Contender]) -> list[dict]:
    """A row per contender of an algorithm. Ratios are three columns: median, least, most; `rates` go by rounds."""
    first = {c.job["kind"]: c for c in reversed(group)}  # of ours and of the peers: eager, one seed
    base, peer = (first[kind].rates if kind in first and not first[kind].note else [] for kind in ("ours", "peer"))
    products = [c for c in group if c.job["kind"] == "product" and not c.note]
    peaks = [max(played) for played in zip(*([rate * c.facts["flops"] for rate in c.rates] for c in products))]
    table = []
    for c in group:
        rates, flops = [] if c.note else c.rates, c.facts.get("flops") or first[c.job["kind"]].facts.get("flops")
        row = {"algorithm": c.algorithm, "contender": c.name, "seeds": c.seeds, "parameters": c.facts.get("parameters"),
               "updates_per_second": median(rates) if rates else None}
        for name, others in (("to_peer", peer), ("to_eager", base)):
            row |= zip((name, f"{name}_least", f"{name}_most"), ratios([] if c in products else rates, others))
        counted = [rate * flops for rate in rates] if flops else []
        row |= {"gflop": flops / 1e9 if counted else None, "share_of_peak": ratios(counted, peaks)[0],
                "peak_gflop_per_second": median(peaks) / 1e9 if peaks else None}
        table.append(row | {"note": c.note, "rates": " ".join(f"{rate:.6g}" for rate in rates)})
    return table


def markdown(table: list[dict], title: str, how: str) -> str:
    """Products are in the CSV file only, unless one failed."""
    def text(row, name, form=""):
        value, least, most = row[name], row.get(f"{name}_least"), row.get(f"{name}_most")
        spread = "" if least == most else f" ({least:{form}} to {most:{form}})"
        return "" if value is None else f"{value:{form or (',.1f' if value >= 10 else '.3g')}}{spread}"

    lines = [["algorithm", "contender", "parameters", "updates/s", "times the peer", "times ours, eager, 1 seed",
              "GFLOP an update", "of the peak"], ["---", "---", *["---:"] * 6]]
    lines += [[row["algorithm"], row["contender"], text(row, "parameters", ","),
               row["note"].replace("|", "/") or text(row, "updates_per_second"), text(row, "to_peer", ".2f"),
               text(row, "to_eager", ".2f"), text(row, "gflop"), text(row, "share_of_peak", ".0%")]
              for row in table if row["note"] or not row["contender"].startswith("product")]
    return "\n\n".join([title, how, "\n".join(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError, TypeError):
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    return platform.processor() or platform.machine()


def peer_versions(python: Path) -> str:
    """InputError: no Python there, or none with d3rlpy."""
    try:
        done = subprocess.run([python, "-I", "-c", VERSIONS], capture_output=True, text=True)
    except OSError as error:
        raise InputError(f"--peers {python}: cannot be started ({error.strerror}); {INSTALL}") from None
    if done.returncode or not done.stdout.strip():
        raise InputError(f"--peers {python}: {(done.stderr.strip().splitlines() or ['fails'])[-1]}; {INSTALL}")
    return done.stdout.strip().splitlines()[-1]


def checked(args: Args) -> str:
    """Fill in defaults; the peers' versions. InputError: flags that cannot be."""
    args.device, files = usable_device(args.device), sorted(path.stem for path in (ROOT / "algorithms").glob("*.py"))
    known = [*files, *(name for name in PEERS if args.peers and name not in files)]
    args.algorithms = args.algorithms or tuple(known)
    for algorithm in args.algorithms:
        if not set(algorithm.split()[:1]) & set(known):
            raise InputError(f"--algorithms {algorithm!r}: no such file; choose from {', '.join(known)}")
        name, *words = shlex.split(algorithm)
        if name in files:
            arguments(name, ["--env", args.env, *words])
    return peer_versions(args.peers) if args.peers else "none"


def kernel_table(args: Args) -> str:
    """Of every algorithm: an update between two rows of log.csv, and one with its logs."""
    lines = ["algorithm | kernels | with logs | most frequent", "--- | ---: | ---: | ---"]
    for algorithm in args.algorithms:
        name, *words = shlex.split(algorithm)
        found = counted(name, ["--env", args.env, *words])
        most = ", ".join(f"{count:g} {operator}" for operator, count in found["no logs"].most_common(6))
        lines.append(f"{algorithm} | {found['no logs'].total():g} | {found['logs'].total():g} | {most}")
    return "\n".join(f"| {line} |" for line in lines)


def main(args: Args):
    other = {name: value for name, value in vars(args).items() if value != getattr(Args, name) and name != "out"}
    name = "speed" + f".{digest(sorted(map(repr, other.items())))}" * bool(other)
    versions, table = checked(args), []
    if args.kernels:
        return print(kernel_table(args))
    check_folder(args.out)
    if not args.peers:
        print(f"without peers; to have them: {INSTALL}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        shared = {"device": args.device, "threads": args.threads, "data": f"{folder}/data.npz"}
        write_data(args.env, Path(shared["data"]))
        try:
            for algorithm in args.algorithms:
                table += compare(args, algorithm, shared)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; nothing is written") from None
    peaks = sorted(row["peak_gflop_per_second"] for row in table if row["peak_gflop_per_second"]) or [math.nan]
    peaks = " to ".join(dict.fromkeys(f"{peak:,.0f}" for peak in (peaks[0], peaks[-1])))
    text = markdown(table, f"# Updates per second, {args.env}", (
        f"{device_name(args.device)}, {args.device}, threads: {args.threads}. Ours: torch {torch.__version__}. Peers: "
        f"{versions}. {args.rounds} rounds, a turn about {args.seconds:g} s: medians; ratios are taken round by round "
        f"(least to most). Peak: the best product of a round, {peaks} GFLOP/s."))
    with whole(args.out / f"{name}.md") as part:
        part.write_text(text)
    with whole(args.out / f"{name}.csv") as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(f"{text}\n{args.out / name}.md and .csv")
    if any(row["note"].startswith("died") for row in table):
        sys.exit(1)


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
