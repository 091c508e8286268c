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

import pytest
import torch

from benchmark.engine.gpu import SPEED, Table, Worker, checks, learned, published, speeds
from benchmark.engine.runs import load_script
from benchmark.gpu import LESSONS, ORDER, Args, Session, code, rate
from common import InputError
from tests.helpers import DEADLINE, ROOT, wait_until

SCRIPT = ROOT / "benchmark/gpu.py"
MISSING = "plotly rliable wandb arch ray xdist d3rlpy".split()  # on a machine with a GPU that is bare but for what the README names
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
        (name, mode, seeds) for name in ("td3_bc", "bc") for mode, seeds in (("eager", "1"), ("graph", "2"))]
    for row in speed:
        assert 0 < float(row["least"]) <= float(row["updates_per_second"]) <= float(row["most"]) and row["note"] == ""
        assert float(row["operators"]) > 10 and float(row["gflop"]) > 0 and float(row["share_of_peak"]) > 0
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
    with open(tmp_path / "log", "wb", buffering=0) as log:
        worker = Worker("bc", ["--batch-size", "8"], "cpu", log)
        soon = time.monotonic() + DEADLINE
        assert "no_such_job" in worker.ask({"do": "no_such_job"}, soon)["failed"]
        assert worker.ask({"do": "threads", "threads": 1}, soon) == {"threads": 1}
        assert worker.ask({"do": "threads", "threads": 1}, 0.0) == {"failed": "no answer in time"} and worker.process.poll() is not None
        assert worker.ask({"do": "threads", "threads": 1}, soon) == {"failed": "no answer in time"}
        worker.stop()
        worker = Worker("no_such_file", [], "cpu", log)
        assert "there is no such file" in worker.ask({"do": "count", "env": "hopper-medium-v2", "sizes": [11, 3]}, soon)["failed"]
        worker.process.kill()
        assert worker.ask({"do": "threads", "threads": 1}, soon) == {"failed": "died, see log.txt"}
        worker.stop()


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
    (tmp_path / "check.jsonl").write_text('{"test": "eager", "algorithm": "bc", "difference": 1.5e-7}\n{"test": "eager", "algorithm": "bc", "difference": 2e-7}\n{"te')
    assert "| eager | bc | difference 2e-07 |" in checks(tmp_path / "check.jsonl")


def test_flags(tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda cannot be used .*; --device cpu can"):
            Session(Args(out=tmp_path / "out"))
    with pytest.raises(InputError, match="--algorithms nope: no such file; choose from awac, bc"):
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
        assert task in load_script(ROOT / f"algorithms/{algorithm}.py").PAPER or algorithm in ("bc", "awac", "one_step")
    session = Session(Args(out=tmp_path, device="cpu"))
    assert session.algorithms[:5] == list(ORDER) and set(session.algorithms) == files and len(code()) == 12
    session.speed.add(algorithm="bc", mode="graph", seeds=4, updates_per_second=80.0, card=session.card)
    session.speed.add(algorithm="bc", mode="graph+compile", seeds=4, updates_per_second=90.0, card=session.card)
    assert rate(session, "bc", 4) == 80.0 and rate(session, "iql", 4) is None
