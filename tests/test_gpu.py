"""benchmark/gpu.py, rehearsed on the CPU: all stages, a second call, and what is left when it is stopped or something breaks."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmark import gpu
from benchmark.engine import gpu_worker
from benchmark.engine.gpu import SPEED, Table, Worker, checks, json_lines, learned, published, speeds
from benchmark.engine.runs import load_script
from benchmark.gpu import LESSONS, ORDER, Args, Session, code, rate
from common import InputError
from tests.helpers import DEADLINE, ROOT, wait_until

SCRIPT = ROOT / "benchmark/gpu.py"
MISSING = "rliable wandb arch ray xdist d3rlpy".split()  # on a machine with a GPU that is bare but for what the README names
WORDS = ["--device", "cpu", "--minutes", "60", "--algorithms", "bc", "td3_bc"]


def environment(tmp_path):
    """Without the project on the path, and without packages that are not there on every machine."""
    bare = tmp_path / "bare"
    bare.mkdir(exist_ok=True)
    for name in MISSING:
        (bare / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    return os.environ | {"PYTHONPATH": str(bare), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def start(tmp_path, *words):
    return subprocess.Popen([sys.executable, SCRIPT, *map(str, words), "--out", tmp_path / "out"], cwd=tmp_path, env=environment(tmp_path),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, out, err


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def living(folder):
    """Processes that have this folder on their path."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                yield path.parent.name


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("gpu")
    return tmp_path, *ended(start(tmp_path, *WORDS))


def test_a_rehearsal_on_the_cpu(rehearsal):
    """All three stages, from another folder, without packages that may be missing; every number is a number."""
    tmp_path, code_, out, err = rehearsal
    log = (tmp_path / "out/log.txt").read_text()
    assert code_ == 0 and err == "", (err, log)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "summary.md", "device.json", "check.jsonl", "speed.csv", "profile.csv", "learn.csv", "learn.zip", "log.txt"}
    *_, last = map(json.loads, (tmp_path / "out/check.jsonl").read_text().splitlines())
    assert last["test"] == "all" and last["passed"] and " passed" in last["outcome"], log
    speed = rows_of(tmp_path / "out/speed.csv")
    assert [(row["algorithm"], row["mode"], row["seeds"]) for row in speed] == [
        (name, mode, seeds) for mode, seeds in (("eager", "1"), ("graph", "2")) for name in ("td3_bc", "bc")]
    for row in speed:
        assert 0 < float(row["least"]) <= float(row["updates_per_second"]) <= float(row["most"]) and row["note"] == ""
        assert (row["operators"] != "") == (row["seeds"] == "1") and float(row["gflop"]) > 0 and float(row["share_of_peak"]) > 0
    assert {row["algorithm"] for row in rows_of(tmp_path / "out/profile.csv")} == {"bc", "td3_bc"}
    (lesson,) = rows_of(tmp_path / "out/learn.csv")
    assert (lesson["algorithm"], lesson["env"], lesson["seeds"], lesson["updates"]) == ("td3_bc", "hopper-medium-v2", "2", "20") and float(lesson["last"]) > 0
    assert lesson["data"] == "standin" and lesson["paper_updates"] == "1000000"
    with zipfile.ZipFile(tmp_path / "out/learn.zip") as archive:
        assert sorted(archive.namelist()) == [f"td3_bc-hopper-medium-v2/{name}" for name in (
            "actor.pt", "config.json", "eval.csv", "log.csv", "result.json")]
        actor = torch.load(io.BytesIO(archive.read("td3_bc-hopper-medium-v2/actor.pt")), weights_only=True)
        result = json.loads(archive.read("td3_bc-hopper-medium-v2/result.json"))
    assert actor["weights.0"].dtype == torch.float16 and result["step"] == 20
    assert (tmp_path / "out/summary.md").read_text() in out and "| td3_bc | hopper-medium-v2 | eager, 1 seed |" in out


def test_a_second_call_skips_what_is_done(rehearsal):
    """What it does not skip is the next lesson; and other code is measured again."""
    tmp_path, *_ = rehearsal
    before = {name: (tmp_path / "out" / name).read_bytes() for name in ("speed.csv", "profile.csv", "check.jsonl", "device.json")}
    code_, out, err = ended(start(tmp_path, *WORDS))
    assert code_ == 0 and "check: passed before, skipped" in out and err == ""
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before
    assert [(row["algorithm"], row["env"]) for row in rows_of(tmp_path / "out/learn.csv")] == [
        lesson for lesson in LESSONS if lesson[0] in ("td3_bc", "bc")][:2]
    with zipfile.ZipFile(tmp_path / "out/learn.zip") as archive:
        assert len(archive.namelist()) == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_done_stays_when_it_is_stopped(tmp_path, number):
    process = start(tmp_path, *WORDS, "--stages", "speed")
    wait_until(lambda: (tmp_path / "out/speed.csv").exists() or process.poll() is not None)
    assert list(living(tmp_path / "bare"))
    process.send_signal(number)
    code_, _, err = ended(process)
    assert code_ in (130, 0) and "Traceback" not in err, err
    rows = rows_of(tmp_path / "out/speed.csv")
    assert rows and all(float(row["updates_per_second"]) > 0 for row in rows) and not list((tmp_path / "out").glob("*.tmp"))
    assert not list(living(tmp_path / "bare"))


def test_what_breaks_is_a_note(tmp_path):
    """A worker that dies, one that raises, and one that is late: the others are not harmed."""
    soon = time.monotonic() + DEADLINE
    with open(tmp_path / "log", "wb", buffering=0) as log, contextlib.ExitStack() as stack:
        worker = Worker("bc", ["--batch-size", "8"], "cpu", log)
        stack.callback(worker.stop)
        assert "no_such_job" in worker.ask({"do": "no_such_job"}, soon)["failed"]
        assert worker.ask({"do": "threads", "threads": 1}, soon) == {"threads": 1}
        worker.process.send_signal(signal.SIGSTOP)
        assert worker.ask({"do": "threads", "threads": 1}, 0.0) == {"failed": "no answer in time"} and worker.process.poll() is not None
        assert worker.ask({"do": "threads", "threads": 1}, soon) == {"failed": "no answer in time"}
        worker = Worker("no_such_file", [], "cpu", log)
        stack.callback(worker.stop)
        assert "there is no such file" in worker.ask({"do": "count", "env": "hopper-medium-v2", "sizes": [11, 3]}, soon)["failed"]
        worker.read = b"Traceback\n"
        assert worker.ask({"do": "threads", "threads": 1}, soon) == {"failed": "no JSON"}
        worker = Worker("bc", [], "cpu", log)
        stack.callback(worker.stop)
        worker.process.kill()
        assert worker.ask({"do": "threads", "threads": 1}, soon) == {"failed": "died, see log.txt"}


def test_tables_grow_by_whole_rows(tmp_path):
    table = Table(tmp_path / "speed.csv", SPEED)
    table.add(algorithm="bc", mode="graph", seeds=1, tf32=True, updates_per_second=2.5, note=None, code="c", card="x")
    table.add(algorithm="bc", mode="graph", seeds=4, tf32=True, note="died", code="c", card="x")
    again = Table(tmp_path / "speed.csv", SPEED)
    assert again.rows == table.rows and again.find(algorithm="bc", seeds=1, tf32=True, code="c")["updates_per_second"] == "2.5"
    assert again.find(algorithm="bc", seeds=4) is None and again.find(seeds=1, code="d") is None  # a note; other code
    (tmp_path / "speed.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="speed.csv: is a table of another version; choose another folder with --out"):
        Table(tmp_path / "speed.csv", SPEED)


def test_numbers_of_a_card(tmp_path):
    """Ratios by hand: graph of one seed in times eager, and in times what others published."""
    row = dict.fromkeys(SPEED, "") | {"algorithm": "iql", "tf32": "True", "seeds": "1", "card": "x", "code": "c"}
    rows = [row | {"env": "hopper-medium-v2", "mode": "eager", "updates_per_second": "500", "least": "490", "most": "510"},
            row | {"env": "hopper-medium-v2", "mode": "graph", "updates_per_second": "4000", "least": "1", "most": "2", "share_of_peak": "0.031", "floor_us": "120.4"},
            row | {"env": "halfcheetah-medium-v2", "mode": "graph", "updates_per_second": "3703.7037"},
            row | {"env": "hopper-medium-v2", "mode": "graph+compile", "note": "no answer in time"}]
    text = speeds(rows)
    assert "| graph, 1 seed | 4,000.0 (1.0 to 2.0) | 8.00 |" in text and "| 120 | 3.1% |" in text and "no answer in time" in text
    text = published(rows, {"card": "x"})
    assert "| iql | JAX-CORL | 1,851.9 | GeForce GTX 1080 Ti | 3,703.7 | 2.0 |" in text and "| iql | CORL | 68.1 |" in text  # 1e6 in 9 min, in 4.08 h
    assert "Nothing yet" in published(rows, {"card": "y"}) and "Nothing yet" in learned([])
    (tmp_path / "check.jsonl").write_text('{"test": "eager", "algorithm": "bc", "difference": 1.5e-7}\n[]\n{"test": "eager", "algorithm": "bc", "difference": 2e-7}\n{"te')
    assert "| eager | bc | difference 2e-07 |" in checks(json_lines(tmp_path / "check.jsonl")) and json_lines(tmp_path / "none") == []


def test_flags(tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda cannot be used .*; --device cpu can"):
            Session(Args(out=tmp_path / "out"))
    with pytest.raises(InputError, match="--algorithms nope: no such file; choose from armor, atac, awac, bc"):
        Session(Args(out=tmp_path / "out", device="cpu", algorithms=("nope",)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        Session(Args(out=tmp_path / "file", device="cpu"))
    assert not (tmp_path / "out").exists()


def test_every_algorithm_has_its_lesson(tmp_path):
    """A new file adds its line; the first ones are those that are asked for first."""
    files = {path.stem for path in (ROOT / "algorithms").glob("*.py")}
    assert {algorithm for algorithm, _ in LESSONS} == files and tuple(algorithm for algorithm, _ in LESSONS[:5]) == ORDER
    for algorithm, task in LESSONS:
        assert task in load_script(ROOT / f"algorithms/{algorithm}.py").PAPER or algorithm in ("bc", "awac", "one_step", "morel")
    session = Session(Args(out=tmp_path, device="cpu"))
    assert session.algorithms[:5] == list(ORDER) and set(session.algorithms) == files and len(code()) == 12


def test_the_rate_that_a_lesson_is_planned_with(tmp_path):
    """Of its own task and number of seeds; else of its task with fewer seeds, whose sum four seeds reach; else of another task."""
    session = Session(Args(out=tmp_path, device="cpu"))
    def row(rate, **facts):
        session.speed.add(**dict(algorithm="edac", env="hopper-medium-v2", mode="graph", seeds=4, tf32=True, card=session.card, updates_per_second=rate) | facts)

    assert rate(session, "edac", "hopper-medium-v2", 4) is None
    row(5000.0, env="halfcheetah-medium-v2")
    assert rate(session, "edac", "hopper-medium-v2", 4) == 5000.0
    row(700.0, seeds=1)
    row(9.0, seeds=1, mode="eager"), row(9.0, card="other"), row(9.0, tf32=False), row(9.0, mode="graph+compile"), row(9.0, algorithm="iql")
    assert rate(session, "edac", "hopper-medium-v2", 4) == 700.0
    row(1900.0, seeds=8)
    assert rate(session, "edac", "hopper-medium-v2", 4) == 700.0
    row(1000.0)
    assert rate(session, "edac", "hopper-medium-v2", 4) == 1000.0 and rate(session, "edac", "halfcheetah-medium-v2", 4) == 5000.0
    row(400.0, algorithm="one_step")
    assert rate(session, "one_step", "hopper-medium-v2", 4) == 200.0  # its later stages have twice the operators


class Clock:
    """Instead of `time`, and of workers whose answers take as long as `costs` says."""

    def __init__(self, monkeypatch, costs):
        self.now, self.costs, self.busy = 0.0, costs, set()  # busy: workers with a job to answer, but for those that have to be nice
        monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(gpu, "Worker", lambda *words, **how: Fake(self, *words, **how))


class Fake:
    def __init__(self, clock, algorithm, flags, device, log, nice=0, **variables):
        self.clock, self.device, self.ready, self.failed, self.nice = clock, device, clock.now + (12 if nice else 8), None, nice

    def tell(self, job):
        self.job, busy = job, self.clock.busy
        busy |= {self} if not self.nice else set()
        assert job["do"] not in ("time", "profile", "device_facts") or busy <= {self}  # what is timed is alone
        self.done = max(self.clock.now, self.ready) + self.clock.costs["compile" if "compile" in job.get("mode", "") and job["do"] == "prepare" else job["do"]]

    def answer(self, until):
        self.clock.busy.discard(self)
        if self.failed is None and self.done > until:
            self.failed = {"failed": "no answer in time"}
        self.clock.now = max(self.clock.now, min(self.done, max(until, self.clock.now)))
        answers = {"time": {"updates_per_second": 1000.0, "least": 1.0, "most": 2.0}, "count": {"gflop": 1.0, "operators": 100},
                   "device_facts": {"kernel_us": 1.2, "tflops_tf32": 400.0, "tflops_float32": 50.0},
                   "profile": {"update_us": 1.0, "kernels": 1.0, "busy_us": 1.0, "table": []}}
        return self.failed or answers.get(self.job["do"], {})

    def ask(self, job, until):
        self.tell(job)
        return self.answer(until)

    def stop(self):
        pass


def pretended(monkeypatch, folder, slow, files):
    """(clock, session, rows without a note) of two minutes and a half on a pretended card, a job of which takes `slow` times the usual; with the
    files that there are, and some more if need be."""
    clock = Clock(monkeypatch, {"prepare": 0.4 * slow, "time": 0.5 * slow, "count": 0.4 * slow, "device_facts": 1.0, "profile": 2.0 * slow, "threads": 0.0, "compile": 40.0})
    session = Session(Args(out=folder, device="cpu"))
    session.algorithms += [f"file_{i}" for i in range(len(session.algorithms), files)]
    session.cuda, session.cores, session.summary = True, 16, lambda: None
    with contextlib.ExitStack() as stack:
        gpu.Speed(session, 150.0, None, stack).run()
    return clock, session, [row for row in session.speed.rows if not row["note"]]


@pytest.mark.parametrize("files", [0, 18])
@pytest.mark.parametrize("slow, rounds, profiled, compiled", [(1.0, 3, 3, 11), (2.0, 3, 2, 0), (4.0, 1, 2, 0), (6.0, 1, 1, 0)])
def test_the_most_important_numbers_come_first(tmp_path, monkeypatch, slow, rounds, profiled, compiled, files):
    """Whatever a job takes: every algorithm has a row before any has them all, and time is left for the rest; the stage ends in time."""
    clock, session, rows = pretended(monkeypatch, tmp_path, slow, files)
    first = {(row["algorithm"], row["mode"], row["seeds"]) for row in rows if row["env"] == "hopper-medium-v2" and not row["threads"]}
    for mode, seeds in (("graph", "1"), ("eager", "1"), ("graph", "4"))[:rounds]:
        assert {name for name, *job in first if job == [mode, seeds]} == set(session.algorithms), (mode, seeds)
    assert len([row for row in rows if row["mode"] == "graph+compile"]) >= compiled
    assert len({row["algorithm"] for row in session.profile.rows}) >= profiled and clock.now <= 165
    assert [row for row in rows if row["floor_us"]][0]["floor_us"] == "120.0" and float(rows[0]["share_of_peak"]) == pytest.approx(1000 / 1e3 / 400)
    assert not [row for row in rows if row["floor_us"] and (row["seeds"] != "1" or "compile" in row["mode"] or row["threads"])]


@pytest.mark.parametrize("files", [40, 100])
def test_more_files_than_there_is_time_for(tmp_path, monkeypatch, files):
    """The first ones have their first row, nothing else is begun but profiles of some of them, and the stage ends in time."""
    clock, session, rows = pretended(monkeypatch, tmp_path, 6.0, files)
    assert [row["algorithm"] for row in rows] == session.algorithms[:len(rows)] and 20 < len(rows) < files
    assert {(row["env"], row["mode"], row["seeds"], row["threads"]) for row in session.speed.rows} == {("hopper-medium-v2", "graph", "1", "")}
    assert session.profile.rows and clock.now <= 150


def test_a_stage_that_breaks_leaves_the_others(tmp_path, monkeypatch, capsys):
    def breaks(*_):
        raise ZeroDivisionError("by 0")

    monkeypatch.setattr(gpu, "speed", breaks)
    monkeypatch.setattr(gpu, "learn", lambda session, until, log: session.say("learned"))
    for text in ("[]", "{}", "{"):
        (tmp_path / "device.json").write_text(text)
        with pytest.raises(SystemExit) as stop:
            gpu.main(Args(out=tmp_path, device="cpu", stages=("speed", "learn")))
        assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "speed broke: ZeroDivisionError: by 0, see log.txt" in out and "learned" in out and "Traceback" in (tmp_path / "log.txt").read_text()


def test_rates_and_profiles_are_an_updates(monkeypatch):
    """Rates by a clock that every update moves by a quarter of a second; what a profiler takes is in no number."""
    worker = gpu_worker.Worker("bc", ["--batch-size", "8"], "cpu")
    job = {"env": "hopper-medium-v2", "sizes": [11, 3], "rows": 100, "mode": "graph", "tf32": True, "seconds": 0.2}
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(gpu_worker, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def prepared(job):
        def update():
            clock.now += 0.25
        return [], update, 2

    monkeypatch.setattr(worker, "prepared", prepared)
    worker.prepare(job | {"seeds": 3})
    assert worker.time(job | {"seeds": 3}) == {"updates_per_second": 12.0, "least": 12.0, "most": 12.0, "memory_mib": None}
    with pytest.raises(RuntimeError, match="the profiler saw no kernels"):
        worker.profile(job | {"seeds": 1})
    monkeypatch.setattr(worker, "prepared", lambda job: ([], lambda: setattr(clock, "now", clock.now + 0.25) or torch.ones(3).exp(), 2))
    found = worker.profile(job | {"seeds": 1})
    assert found["update_us"] == 250_000.0 and dict((name, count) for name, count, _ in found["table"])["aten::exp"] == 1.0


def python(code):
    """Instead of what `gpu.follower` would start."""
    return lambda words, **options: subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **options)


def test_a_check_counts_once_it_has_passed(tmp_path, monkeypatch):
    """One that fails, or is stopped, says what has failed and is made again; one that has passed is not."""
    session = Session(Args(out=tmp_path, device="cpu"))
    with open(tmp_path / "log.txt", "ab", buffering=0) as log:
        def checked(code):
            monkeypatch.setattr(gpu, "follower", python(code))
            gpu.check(session, time.monotonic() + DEADLINE, log)
            return session.outcome, json_lines(tmp_path / "check.jsonl")[-1]["passed"]

        fails = "print('FAILED a - b'); print('ERROR c'); print('== 1 failed in 2 s =='); raise SystemExit(1)"
        assert checked(fails) == ("1 failed in 2 s\n- FAILED a - b\n- ERROR c", False)
        waits = (f"import time\ntry:\n    open({str(tmp_path / 'ready')!r}, 'w').close()\n    time.sleep({DEADLINE})\n"
                 "except KeyboardInterrupt: print('FAILED d - e'); print('! stopped !')")

        def follower(words, **options):
            process = python(waits)(words, **options)
            wait_until((tmp_path / "ready").exists)
            return process

        begin = time.monotonic()
        monkeypatch.setattr(gpu, "follower", follower)
        gpu.check(session, begin, log)  # no time is left
        outcome, passed = session.outcome, json_lines(tmp_path / "check.jsonl")[-1]["passed"]
        assert outcome.startswith("stopped after ") and outcome.endswith("stopped\n- FAILED d - e") and not passed
        assert checked("print('== 3 passed in 4 s ==')") == ("3 passed in 4 s", True)
        assert checked(fails) == ("Passed, in an earlier call.", True)
    assert "1 failed in 2 s" in (tmp_path / "log.txt").read_text()


def test_a_lesson_has_as_many_updates_as_fit(tmp_path, monkeypatch):
    """(share - 20 s) 0.85 of the rate of four seeds, at most the paper's; what takes longer is asked to save, and its scores are kept."""
    session, seen = Session(Args(out=tmp_path, device="cpu")), []
    session.cuda, session.cores = True, 16
    session.speed.add(algorithm="bc", env="hopper-medium-v2", mode="graph", seeds=4, tf32=True, updates_per_second=8000.0, card=session.card)

    def follower(words, **options):
        seen.append(list(map(str, words)))
        return subprocess.Popen([sys.executable, "-c", "pass"], start_new_session=True)

    monkeypatch.setattr(gpu, "follower", follower)
    row = gpu.teach(session, "bc", "hopper-medium-v2", tmp_path / "runs", 60.0, time.monotonic() + DEADLINE, None)
    assert row["updates"] == int(0.85 * 40 * 2000) and row["seeds"] == 4 and row["note"] == ""
    assert f"--updates={row['updates']}" in seen[0] and seen[0][seen[0].index("--seeds") + 1:][:4] == ["0", "1", "2", "3"] and "--eval-workers=8" in seen[0]
    assert gpu.teach(session, "bc", "hopper-medium-v2", tmp_path / "runs", 1e6, time.monotonic() + DEADLINE, None)["updates"] == row["paper_updates"]
    monkeypatch.setattr(gpu, "follower", python("import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\ntime.sleep(600)"))
    row = gpu.teach(session, "bc", "hopper-medium-v2", tmp_path / "runs", 60.0, time.monotonic() + 2, None)
    assert row["note"] in ("ended with 130 before it was finished, see log.txt", "ended with -15 before it was finished, see log.txt")


@pytest.mark.parametrize("finished", [True, False])
def test_scores_of_a_lesson_are_means_over_its_seeds(tmp_path, finished):
    from tests.test_page import write_run
    session = Session(Args(out=tmp_path / "out", device="cpu"))
    write_run(tmp_path / "runs/a", "bc", evaluations={0: {100: 10.0, 200: 30.0}, 1: {100: 20.0, 200: 40.0}}, finished=finished)
    (tmp_path / "out/learn.zip").write_bytes(b"torn")
    gpu.keep(session, "bc", "hopper-medium-v2", tmp_path / "runs", {"seeds": 2, "note": "" if finished else "ended with 130"})
    (row,) = rows_of(tmp_path / "out/learn.csv")
    assert float(row["last"]) == 35.0 and (row["best"] == "2.0") == finished and row["note"] == ("" if finished else "ended with 130")
    with zipfile.ZipFile(tmp_path / "out/learn.zip") as archive:
        assert {"bc-hopper-medium-v2/config.json", "bc-hopper-medium-v2/eval.csv"} <= set(archive.namelist())
