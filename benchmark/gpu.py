"""One command that proves and measures the project on a GPU, within a number of minutes.

check: tests/test_cuda.py, of every algorithm: an update on the GPU is the CPU's, a recorded one the eager one, a seed
alone the seed among four, a resumed run the undisturbed one.
speed: updates a second of every algorithm at the paper's sizes, eager and as a CUDA graph, 1 to 8 seeds, with TF32 and
without, compiled, and on the CPU; beside it the floor that launches set (operators of an update that launch kernels,
times what a kernel in a graph takes) and the share of the card's best matrix product; kernels of the three that are
farthest above their floor, as the profiler counts them.
learn: real training of four seeds in one process, on stand-ins, in a declared order, with as many of the paper's
updates as fit into the time that is left.

Stages are independent. Whatever stops this, --out has what was done until then, and a second call skips what the same
code has done on the same kind of card. Files: summary.md says it all; device.json, check.jsonl, speed.csv, profile.csv,
learn.csv have the numbers; learn.zip each run's config.json, log.csv, eval.csv, result.json and the first seed's actor
(float16); log.txt is what all processes said. On --device cpu everything is tiny: a rehearsal.

Run: python benchmark/gpu.py --minutes 8 --out results/gpu
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

sys.path[:0] = [str(Path(__file__).parents[1])]  # where the project is not installed

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmark.engine.curves import evaluations  # noqa: E402
from benchmark.engine.files import whole  # noqa: E402
from benchmark.engine.gpu import (  # noqa: E402
    CHEETAH, LEARN, PROFILE, SPEED, Table, Worker, checks, end, environment, follower, json_lines, learned, profiles,
    published, speeds)
from benchmark.engine.runs import ROOT, arguments, read_run, script_of  # noqa: E402
from common import InputError, friendly  # noqa: E402
from common.args import cli, usable_device, within  # noqa: E402
from common.checkpoint import read_checkpoint  # noqa: E402
from common.files import check_folder  # noqa: E402
from common.physics import make_env  # noqa: E402
from common.run import commit  # noqa: E402

TASKS = "hopper-medium-v2", CHEETAH
SHARES = {"check": 0.19, "speed": 0.31, "learn": 0.5}  # of --minutes
ORDER = "td3_bc", "iql", "sql_eql", "edac", "rorl"  # measured and trained first; then the others by name
FLAGS = {"sac_n": ["--config", "sac-10"], "bc": ["--config", "top-10"],  # beyond the paper's, to compare with others,
         "atac": ["--warm-start", "10000"],  # or for a lesson to have both phases,
         "armor": ["--warm-start", "10000", "--model-epochs", "10"],
         **dict.fromkeys(("mopo", "combo", "mobile"), ["--model-epochs", "10"]),  # or time for the agent
         "rambo": ["--model-epochs", "10", "--bc-epochs", "5"],
         "morel": ["--model-epochs", "5", "--horizon", "200"]}
LESSONS = (  # (algorithm, task) in the order in which they are trained
    ("td3_bc", "hopper-medium-v2"), ("iql", "hopper-medium-v2"), ("sql_eql", "hopper-medium-v2"),
    ("edac", "hopper-medium-v2"), ("rorl", "hopper-medium-v2"), ("td3_bc", "halfcheetah-medium-v2"),
    ("xql", "hopper-medium-v2"), ("awac", "hopper-medium-v2"), ("bc", "hopper-medium-v2"),
    ("pbrl", "walker2d-medium-v2"), ("sac_n", "hopper-medium-v2"), ("one_step", "walker2d-medium-v2"),
    ("cql", "halfcheetah-medium-v2"), ("atac", "hopper-medium-v2"), ("mopo", "hopper-medium-v2"),
    ("combo", "hopper-medium-v2"), ("rambo", "hopper-medium-v2"), ("mobile", "hopper-medium-v2"),
    ("morel", "hopper-medium-v2"), ("armor", "hopper-medium-v2"))
START_SECONDS, LESSON_SECONDS = 20.0, 45.0  # of a training: imports, data, recordings, last evaluations; and in all
LEGEND = ("updates/s: of all seeds together, without logs, the median of three turns, while other processes of this "
          "command wait or compile. times eager: all seeds in a graph over one seed eagerly. GFLOP, operators (that "
          "launch kernels) and the floor that their launches set are of one seed's update. of the peak: of the best "
          "matrix product here, in the same precision. memory: PyTorch's, data included.")
SLOWER = {"one_step": 0.5}  # its first stage is what `speed` measures
TINY = ["--batch-size", "8"]  # on a CPU


@dataclass
class Args:
    minutes: Annotated[float, within("(0, 1e5]")] = 8.0  # for everything
    out: Path = Path("results/gpu")  # folder of the results
    stages: tuple[Literal["check", "speed", "learn"], ...] = ("check", "speed", "learn")
    algorithms: tuple[str, ...] = ()  # files in algorithms/; default: all
    device: str = "cuda"  # cuda, cuda:N or cpu


class Session:
    """Flags, the time that is left, what is known of the card, and the tables."""

    def __init__(self, args: Args):
        self.args, self.end = args, time.monotonic() + 60 * args.minutes
        args.device = usable_device(args.device)
        if args.device == "mps":
            raise InputError("--device mps: give cuda or cpu")
        known = {path.stem for path in (ROOT / "algorithms").glob("*.py")}
        if unknown := [name for name in args.algorithms if name not in known]:
            raise InputError(f"--algorithms {unknown[0]}: no such file; choose from {', '.join(sorted(known))}")
        self.cuda, chosen = args.device.startswith("cuda"), set(args.algorithms) or known
        self.algorithms = [*(name for name in ORDER if name in chosen), *sorted(chosen - set(ORDER))]
        check_folder(args.out)
        args.out.mkdir(parents=True, exist_ok=True)
        self.card = torch.cuda.get_device_name(args.device) if self.cuda else f"CPU {platform.machine()}"
        self.about = {"code": code(), "card": self.card}
        self.speed, self.profile, self.learn = (
            Table(args.out / f"{name}.csv", fields)
            for name, fields in (("speed", SPEED), ("profile", PROFILE), ("learn", LEARN)))
        self.outcome, self.facts, self.broken, self.cores = "", {}, [], os.cpu_count() or 1
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            saved = json.loads((args.out / "device.json").read_text())
            self.facts = dict(saved["facts"]) if saved["card"] == self.card else {}
        with contextlib.suppress(AttributeError):  # not on macOS
            self.cores = len(os.sched_getaffinity(0))

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def say(self, text: str) -> None:
        print(f"{60 * self.args.minutes - self.left:5.0f} s  {text}", flush=True)

    def summary(self) -> None:
        """summary.md as things are."""
        versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
        versions += f", commit {git}" if (git := commit(ROOT)) else ""
        units = {"tflops_tf32": "TFLOP/s in TF32", "tflops_float32": "TFLOP/s in float32", "kernel_us": "us a kernel"}
        facts = ", ".join(f"{value:.4g} {units.get(name, name)}" for name, value in self.facts.items())
        own = [[row for row in table.rows if self.about.items() <= row.items()]
               for table in (self.speed, self.profile, self.learn)]
        graphs = {row["algorithm"] for row in own[0] if row["mode"] == "graph" and row["updates_per_second"]}
        lessons = [lesson for lesson in LESSONS if lesson[0] in self.algorithms]
        done = [f"{len(graphs)} of {len(self.algorithms)} algorithms timed", f"{len(own[2])} of {len(lessons)} lessons",
                *self.broken]
        parts = [f"# {self.card}", f"{versions}, {self.cores} cores; code {self.about['code']}. {facts}".strip(),
                 f"**{'; '.join(done)}.** What other code did is in the CSV files only.",
                 "## Check", self.outcome or "Not run.", checks(json_lines(self.args.out / "check.jsonl")),
                 "## Speed", LEGEND, speeds(own[0]), "### Others", published(own[0], self.about),
                 "### Profiles", profiles(own[1]), "## Learning",
                 "Stand-in data, not D4RL's: no score here compares with a published one.", learned(own[2])]
        with whole(self.args.out / "summary.md") as part:
            part.write_text("\n\n".join(parts) + "\n")


def code() -> str:
    """Twelve digits of the files that are run, wherever they lie."""
    digest, folders = hashlib.sha256(), ("algorithms", "common", "benchmark", "tests")
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def check(session: Session, until: float, log) -> None:
    args, path, begin = session.args, session.args.out / "check.jsonl", time.monotonic()
    if any(row.get("passed") and session.about.items() <= row.items() for row in json_lines(path)):
        session.outcome = "Passed, in an earlier call."
        return session.say("check: passed before, skipped")
    words = ["-k", " or ".join(session.algorithms)] * bool(args.algorithms)
    process = follower(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=", "--tb=short",
         "-rfE", "tests/test_cuda.py", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment(SOLO_CHECK_DEVICE=args.device, SOLO_MEASURED=str(path.absolute()), COLUMNS="250",
                        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"))
    stopped, said = "", b""
    try:
        said, _ = process.communicate(timeout=max(1.0, until - begin - 8))
    except subprocess.TimeoutExpired:
        stopped = f"stopped after {time.monotonic() - begin:.0f} s; "
        os.killpg(process.pid, signal.SIGINT)  # pytest tells what has failed so far
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(timeout=10)
    finally:
        end(process)
        said = said or process.communicate()[0]
    log.write(said)
    told = said.decode(errors="replace").strip().splitlines() or ["nothing was said"]
    failed = [line for line in told if line.startswith(("FAILED", "ERROR"))]
    last = stopped + told[-1].strip("= !")
    session.outcome = "\n".join([last, *(f"- {line[:250]}" for line in failed)])
    with open(path, "a") as file:
        passed = process.returncode == 0 and not stopped
        file.write(json.dumps({"test": "all", "passed": passed, "outcome": last} | session.about) + "\n")
    session.say(f"check: {last}")


class Speed:
    """The stage `speed`. A worker per algorithm, all started at once. Job by job, most important first, all workers
    prepare at once, and then one after another is timed while the others wait: so a job takes little more than its
    timed turns, however many algorithms there are, and each has its most important numbers when time runs out.
    Compilers start when the first three jobs are done, on what the CPU's cores have left; if these jobs have taken all
    the time that the rounds have, none starts. They are timed last on the card, and then nothing is timed but the CPU.
    """

    def __init__(self, session: Session, until: float, log, stack: contextlib.ExitStack):
        self.session, self.until, self.log, self.stack, self.counts = session, until, log, stack, {}
        self.reserve, self.sizes = 0.35 * (until - time.monotonic()), {}  # seconds for what comes after the rounds
        for task in TASKS:
            env = make_env(task)
            self.sizes[task] = env.observation_space.shape[0], env.action_space.shape[0]

    def start(self, algorithm: str, device: str | None = None, **how) -> Worker:
        flags = flags_of(self.session, algorithm)
        worker = Worker(algorithm, flags, device or self.session.args.device, self.log, **how)
        self.stack.callback(worker.stop)
        return worker

    def by(self, seconds: float) -> float:
        """So many seconds from now, at most the stage's end."""
        return min(self.until, time.monotonic() + seconds)

    def jobs(self) -> list[dict]:
        """Of every algorithm, most important first; the first three make a whole."""
        hopper, cheetah = TASKS
        some = [(hopper, "graph", 1, True), (hopper, "eager", 1, True), (hopper, "graph", 4, True),
                (cheetah, "graph", 1, True), (hopper, "graph", 8, True), (hopper, "graph", 1, False),
                (hopper, "graph", 2, True), (cheetah, "graph", 4, True), (cheetah, "eager", 1, True)]
        if not self.session.cuda:
            some = [(hopper, "eager", 1, True), (hopper, "graph", 2, True)]
        return [dict(zip(("env", "mode", "seeds", "tf32"), job), threads="") for job in some]

    def is_there(self, algorithm: str, job: dict) -> bool:
        return bool(self.session.speed.find(algorithm=algorithm, **job, **self.session.about))

    def prepare(self, job: dict) -> dict:
        return job | {"do": "prepare", "sizes": self.sizes[job["env"]]}

    def together(self, workers: dict[str, Worker], job: dict) -> dict[str, dict]:
        """What workers answer to a job that all of them do at once."""
        for worker in workers.values():
            worker.tell(job)
        return {algorithm: worker.answer(self.by(60)) for algorithm, worker in workers.items()}

    def measure(self, worker: Worker, algorithm: str, job: dict, prepared: dict) -> None:
        """A row of speed.csv, by a worker that has answered `prepared`: what came out, or why nothing did."""
        timed = {"do": "time", "seconds": 0.1 if self.session.cuda else 0.01}
        answer = prepared if "failed" in prepared else worker.ask(job | timed, self.by(30))
        counted, facts = self.counts.get((algorithm, job["env"]), {}), self.session.facts
        rate, peak = answer.get("updates_per_second"), facts.get("tflops_tf32" if job["tf32"] else "tflops_float32")
        on_card, alone = not job["threads"], job["seeds"] == 1 and job["mode"] in ("eager", "graph")
        row = {"gflop": counted.get("gflop"), "operators": counted.get("operators") if alone else None}
        row["floor_us"] = facts.get("kernel_us", 0) * (row["operators"] or 0) * on_card or None
        row["share_of_peak"] = rate * counted["gflop"] / 1e3 / peak if rate and peak and counted and on_card else None
        self.session.speed.add(algorithm=algorithm, **job, **answer, **row, note=answer.get("failed"),
                               **self.session.about)

    def card(self) -> None:
        """What the card can do, while nothing else uses it."""
        if not self.session.facts:
            worker = self.start(self.session.algorithms[0])
            products = (4096, 8192) if self.session.cuda else (256,)
            facts = worker.ask({"do": "device_facts", "products": products}, self.by(60))
            worker.stop()
            self.session.facts = {} if "failed" in facts else facts
            with whole(self.session.args.out / "device.json") as part:
                part.write_text(json.dumps({"card": self.session.card, "facts": self.session.facts}))

    def rounds(self, workers: dict[str, Worker], jobs: list[dict]) -> bool:
        """Was there time for all of it?"""
        end = self.until - self.reserve
        for job in jobs:
            env = job["env"]
            new = {name: worker for name, worker in workers.items() if (name, env) not in self.counts}
            for name, counted in self.together(new, self.prepare(job) | {"do": "count"}).items():
                self.counts[name, env] = {} if "failed" in counted else counted
            missing = {name: worker for name, worker in workers.items() if not self.is_there(name, job)}
            for name, prepared in self.together(missing, self.prepare(job)).items():
                if time.monotonic() > end:
                    return False
                self.measure(missing[name], name, job, prepared)
            self.session.summary()
            self.session.say("speed: {env} {mode}, seeds {seeds}, TF32 {tf32}".format(**job))
        return True

    def compilers(self, job: dict) -> dict[str, Worker]:
        found = {}
        for algorithm in self.session.algorithms if self.session.cuda else ():
            if not self.is_there(algorithm, job):
                found[algorithm] = self.start(algorithm, nice=10, TORCHINDUCTOR_COMPILE_THREADS="2")
                found[algorithm].tell(self.prepare(job))
        return found

    def run(self) -> None:
        names, compiled = self.session.algorithms, self.jobs()[0] | {"mode": "graph+compile"}
        jobs = self.jobs()
        self.card()
        workers = {name: self.start(name) for name in names if not all(self.is_there(name, job) for job in jobs)}
        compilers, late = {}, self.until - 0.4 * self.reserve
        if self.rounds(workers, jobs[:3]):
            compilers = self.compilers(compiled)
            self.rounds(workers, jobs[3:])
        for algorithm, worker in compilers.items():
            prepared = worker.answer(late)  # after `late` nobody is waited for; who is ready then still counts
            if time.monotonic() < late + 5:
                self.measure(worker, algorithm, compiled, prepared)
            worker.stop()
        self.profiles(workers)
        for worker in workers.values():
            worker.stop()
        self.session.summary()
        on_cpu = {} if not self.session.cuda or self.until - time.monotonic() < 15 else {
            algorithm: self.start(algorithm, "cpu") for algorithm in names}
        for threads in (1, self.session.cores):
            for algorithm, worker in on_cpu.items():
                job = compiled | {"mode": "eager", "threads": threads}
                if not self.is_there(algorithm, job) and time.monotonic() < self.until - 5:
                    worker.ask({"do": "threads", "threads": threads}, self.until)
                    self.measure(worker, algorithm, job, worker.ask(self.prepare(job), self.by(60)))

    def profiles(self, workers: dict[str, Worker]) -> None:
        """Of the three algorithms whose graphs are farthest above the floor of their launches."""
        session, job = self.session, self.jobs()[0] | {"mode": "graph", "seeds": 1}
        rows = [row for row in session.speed.rows if row["mode"] == "graph" and row["env"] == TASKS[0]
                and row["updates_per_second"] and session.about.items() <= row.items()]
        above = {row["algorithm"]: int(row["seeds"]) * 1e6 / float(row["updates_per_second"])
                 / float(row["floor_us"] or 1) for row in reversed(rows)}
        for algorithm in sorted(above, key=above.get)[-3:]:
            if session.profile.find(algorithm=algorithm, **session.about) or time.monotonic() > self.until - 5:
                continue
            worker = workers.get(algorithm) or self.start(algorithm)
            answer = worker.ask(job | {"do": "profile", "sizes": self.sizes[TASKS[0]]}, self.by(30))
            if "failed" in answer:
                session.say(f"profile of {algorithm}: {answer['failed']}")
                continue
            total = f"all; an update takes {answer['update_us']:.0f} us"
            for kernel, count, us in [[total, answer["kernels"], answer["busy_us"]], *answer["table"]]:
                session.profile.add(algorithm=algorithm, env=TASKS[0], kernel=kernel, count=count, us=us,
                                    **session.about)


def speed(session: Session, until: float, log) -> None:
    with contextlib.ExitStack() as stack:
        Speed(session, until, log, stack).run()


def flags_of(session: Session, algorithm: str) -> list[str]:
    few = ["--num-critics", "2"] if algorithm in ("sac_n", "edac", "pbrl", "rorl") else []
    few += ["--horizon", "6", "--starts", "2"] if algorithm == "morel" else []
    return FLAGS.get(algorithm, []) + ([] if session.cuda else TINY + few)


def rate(session: Session, algorithm: str, env: str, seeds: int) -> float | None:
    """Updates a second of so many seeds together in a graph, as measured on this kind of card: of this task and number
    of seeds if there is such a row, else of what is nearest; None: nobody knows."""
    rows = [row for row in session.speed.rows if row["algorithm"] == algorithm and row["updates_per_second"]
            and row["mode"] == "graph" and row["tf32"] == "True" and row["card"] == session.card]
    rows.sort(key=lambda row: (row["env"] == env, int(row["seeds"]) <= seeds, int(row["seeds"])))
    return float(rows[-1]["updates_per_second"]) * SLOWER.get(algorithm, 1.0) if rows else None


def learn(session: Session, until: float, log) -> None:
    """One lesson after another; each has an equal share of the time that is left, but so much that it learns."""
    lessons = [(algorithm, task) for algorithm, task in LESSONS if algorithm in session.algorithms
               and not session.learn.find(algorithm=algorithm, env=task, **session.about)]
    with tempfile.TemporaryDirectory() as folder:
        for i, (algorithm, task) in enumerate(lessons if session.cuda else lessons[:1]):
            left = until - time.monotonic()
            share = max(left / (len(lessons) - i), min(LESSON_SECONDS, left))
            if session.cuda and share < START_SECONDS + 5:
                break
            row = teach(session, algorithm, task, Path(folder) / f"{algorithm}-{task}", share, until, log)
            keep(session, algorithm, task, Path(folder) / f"{algorithm}-{task}", row)
            session.summary()


def teach(session: Session, algorithm: str, task: str, runs: Path, share: float, until: float, log) -> dict:
    """Train for about `share` seconds, by `until` at the latest, into a folder of `runs`; facts for learn.csv."""
    seeds, begin, words = 4 if session.cuda else 2, time.monotonic(), ["--env", task, *flags_of(session, algorithm)]
    paper = arguments(algorithm, [*words, "--device", "cpu"]).updates
    fits = 0.85 * (share - START_SECONDS) * (rate(session, algorithm, task, seeds) or 200.0) / seeds
    updates = int(min(paper, max(20, fits))) if session.cuda else 20
    workers = min(8, max(1, session.cores - 2)) if session.cuda else 0
    given = {"device": session.args.device, "updates": updates, "runs": runs, "eval-every": max(1, updates // 10),
             "log-every": max(1, updates // 50), "eval-workers": workers}
    given |= {} if session.cuda else {"standin-rows": 2000, "eval-episodes": 1}
    words += ["--seeds", *map(str, range(seeds)), *(f"--{flag}={value}" for flag, value in given.items())]
    session.say(f"learn: {algorithm} on {task}, {updates:,} updates")
    process = follower([script_of(algorithm), *words], cwd=runs.parent, stdout=log, stderr=log,
                       env=environment(SOLO_MIRRORS=""))
    with contextlib.ExitStack() as stack:
        stack.callback(end, process)
        for seconds in (max(1.0, min(until, begin + 1.6 * share) - time.monotonic()), 10.0):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # it saves, and ends
    ended = "" if process.returncode == 0 else f"ended with {process.returncode} before it was finished, see log.txt"
    return dict(seeds=seeds, updates=updates, paper_updates=paper, wall_seconds=time.monotonic() - begin, note=ended)


def keep(session: Session, algorithm: str, task: str, runs: Path, row: dict) -> None:
    """A row of learn.csv, and the run's files in learn.zip."""
    folder = next(iter(runs.glob("*/config.json")), runs / "none").parent
    path, files = session.args.out / "learn.zip", {}
    for name in ("config.json", "log.csv", "eval.csv", "result.json"):
        with contextlib.suppress(OSError):
            files[name] = (folder / name).read_bytes()
    result = json.loads(files["result.json"]) if "result.json" in files else {}
    with contextlib.suppress(InputError):
        actor = read_checkpoint(folder / "checkpoint.pt")["agents"][0]["actor"]
        buffer = io.BytesIO()
        torch.save({name: x.half() if x.is_floating_point() else x for name, x in actor.items()}, buffer)
        files["actor.pt"] = buffer.getvalue()
    old = {}
    with contextlib.suppress(OSError, zipfile.BadZipFile):
        with zipfile.ZipFile(path) as archive:
            old = {name: archive.read(name) for name in archive.namelist()}
    old |= {f"{algorithm}-{task}/{name}": data for name, data in files.items()}
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in old.items():
            archive.writestr(name, data)
    scores = {name: float(np.mean([seed[name] for seed in result["seeds"].values()]))
              for name in ("last", "mean_of_last_10", "best") if result.get("seeds")}
    with contextlib.suppress(InputError):
        if not scores and (curves := evaluations(read_run(folder))):  # as far as it came
            scores["last"] = float(np.mean([list(curve.values())[-1][0] for curve in curves.values()]))
    session.learn.add(algorithm=algorithm, env=task, **row, **scores, data=result.get("dataset_source"),
                      training_seconds=result.get("training_seconds"),
                      updates_per_second=result.get("updates_per_second"), **session.about)
    session.say(f"learn: {algorithm} on {task}: last {scores.get('last', float('nan')):.1f} {row['note']}")


def simulate(log) -> subprocess.Popen:
    """Stand-ins of the lessons' tasks, into the cache, while something else has the GPU."""
    names = list(dict.fromkeys(task for _, task in LESSONS))
    program = f"import os\nos.nice(10)\nfrom common.data import load_dataset\nfor name in {names!r}: load_dataset(name)"
    return follower(["-c", program], stdout=log, stderr=log, cwd=ROOT, env=environment(SOLO_MIRRORS=""))


def main(args: Args):
    session = Session(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(args.out / "log.txt", "ab", buffering=0))
        session.say(f"{session.card}, torch {torch.__version__}, {args.minutes:g} minutes")
        if "learn" in args.stages and session.cuda:
            stack.callback(end, simulate(log))
        stages = [name for name in SHARES if name in args.stages]
        for i, name in enumerate(stages):
            parts = sum(SHARES[later] for later in stages[i:])
            until = time.monotonic() + (session.left - 5) * SHARES[name] / parts
            log.write(f"\n==== {name}\n".encode())
            try:
                {"check": check, "speed": speed, "learn": learn}[name](session, until, log)
            except Exception as error:  # the others are not harmed
                log.write(traceback.format_exc().encode())
                session.broken.append(f"{name} broke: {type(error).__name__}: {error}, see log.txt")
                session.say(session.broken[-1])
            session.summary()
    print(f"\n{(args.out / 'summary.md').read_text()}\n{args.out}/summary.md")
    if session.broken:
        sys.exit(1)


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
