"""300 bad inputs, drawn with a seed: flags, files and run folders. Each gets one line and exit code 2, and nothing is made.

Every trial is a fork of this process that does what a script does, so that one that hangs can be killed, and counts as what it is:
a traceback, a silent acceptance, a late or a wordy refusal, or a hang.
"""

import contextlib
import json
import math
import os
import pickle
import random
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import gymnasium  # noqa: F401  here, and not in each fork
import h5py
import minari  # noqa: F401
import mujoco  # noqa: F401
import numpy as np
import pytest
import torch
import torch._dynamo  # noqa: F401

from benchmark import attacks, plot
from benchmark.engine.runs import agent_class, find_runs
from benchmark.engine.tables import row
from common import friendly
from common.args import RunArgs, parse
from tests.helpers import FLAGS, ROOT, make_data

HANG = 60  # seconds: no trial takes one
ALGORITHMS = [import_module(f"algorithms.{path.stem}") for path in sorted((ROOT / "algorithms").glob("*.py"))]


def trial(function, *arguments) -> SimpleNamespace:
    """`code`, `out` and `err` of a script whose main is function(*arguments), in a fork; the code is None if it hangs."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("needs Linux")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of Python 3.12: pytest has threads
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                with friendly():
                    function(*arguments)
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        handle = os.pidfd_open(pid)
        ended = select.select([handle], [], [], HANG)[0]
        if not ended:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(handle)
        said = [os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace") for file in (out, err)]
        return SimpleNamespace(code=code if ended else None, out=said[0], err=said[1])


def kind(found: SimpleNamespace, made: Path) -> str:
    """What is wrong with a refusal; nothing, if it is one line, exit code 2 and nothing was made."""
    if found.code is None:
        return "hang"
    if "Traceback" in found.err:
        return "traceback"
    if found.code == 0:
        return "silent acceptance"
    if found.code != 2 or not re.fullmatch("error: [^\n]+\n", found.err):
        return "not one line"
    return "late" * made.exists()


def verdict(trials, made: Path):
    """AssertionError: a list of the trials that were not refused as they should be."""
    counts, told = Counter(), []
    for name, function, *arguments in trials:
        found = trial(function, *arguments)
        if wrong := kind(found, made):
            told.append(f"{wrong}: {name!r}: exit code {found.code}, {found.err[-300:]!r}")
            shutil.rmtree(made, ignore_errors=True)
        counts[wrong or "clean"] += 1
    assert not told, "\n".join([str(dict(counts)), *told])
    return counts["clean"]


def train(module, words):
    """What the last lines of an algorithm's file do."""
    configs = {name.lower().replace("_", "-"): table for name, table in vars(module).items()
               if name.isupper() and isinstance(table, dict) and name != "PAPER"}
    module.main(parse(module.Args, module.PAPER, [str(word) for word in words], **configs))


def outside(interval: str, rng) -> str:
    """A word that is no number in an interval."""
    low, high = map(float, interval[1:-1].split(","))
    words = ["nan", "inf", "-inf", "1e400", "x", "", "0x1f", "1,5", "--", "½", "9" * 5000, f"1e{rng.randrange(310, 999)}"]
    if math.isfinite(low):
        words += [str(low - 1), f"{low - rng.random():.3g}", str(int(low) - 10**13)] + [str(int(low))] * (interval[0] == "(")
    if math.isfinite(high):
        words += [str(high * (1 + rng.random()) + 1), str(int(high) + 10**13)] + [str(high)] * (interval[-1] == ")")
    return rng.choice(words)


def bad_flags(rng) -> list[str]:
    """(module, words): one flag, of any algorithm, that cannot be right."""
    module = rng.choice(ALGORITHMS)
    flags = [(field.name, getattr(field.type, "__metadata__", [SimpleNamespace(metavar="")])[0].metavar) for field in fields(module.Args)]
    name, interval = rng.choice([flag for flag in flags if flag[1]])
    word, name = outside(interval, rng), f"--{name if rng.random() < 0.3 else name.replace('_', '-')}"
    return module, rng.choice([
        [name, word], [name, word], [f"{name}={word}"], [f"{name}={word}"], [name] if "action" not in name else [name, word], [f"{name}s", "1"],
        [word] if word != "--" else ["x"],  # alone, -- is right: the end of the flags
        ["--device", rng.choice(["meta", "hpu", "cuda:99", "cuda:-1", "gpu", "", "cpu:x", "CPU"])],
        ["--view", rng.choice(["all", "", "D4RL"])], ["--physics", "real"], ["--config", rng.choice(["none", "", "../x"])],
        ["--reward", rng.choice(["r+1", "", "RAW"])], ["--eval-env", rng.choice(["hopper", "", "Hoper-v5", "a b", "nowhere_at_all:Id-v0", "CartPole-v1"])], ["--score-min", "1"],
        ["--seeds", "1", "2", "1"], ["--seeds"], ["--seeds", "1.5"], ["--seeds", f"-{rng.randrange(1, 300)}"], ["--seeds", str(2**rng.randrange(63, 99))],
        ["--runs", rng.choice(["/dev/null/x", "/proc/runs", "x" * 5000])], ["--no-tf32=3"], ["--tf32", "1"], ["--learning_rate", "1"],
        ["--env", rng.choice(["hopper", "hopper-medium-v9", "", "~nouser/x.npz", "/", "/dev/null", ".", "x" * 5000, "x" * 5000 + ".npz", "a/../b"])],
        ["--resume", rng.choice(["/", "/dev/null", "nowhere", "x" * 5000, str(ROOT)])]])


def test_flags(tmp_path, standin, monkeypatch):
    """Also nothing is simulated: the cache stays as it is."""
    monkeypatch.chdir(tmp_path)
    rng, trials, cache = random.Random(13), [], sorted(os.listdir(os.environ["SOLO_CACHE"]))
    for _ in range(140):
        module, words = bad_flags(rng)
        runs = [] if "--runs" in words else ["--runs", "runs"]
        trials.append((f"{module.__name__} {' '.join(words)}", train, module, [*runs, "--updates", "3", "--standin-rows", "150", *words]))
    assert verdict(trials, tmp_path / "runs") == 140
    assert sorted(os.listdir(os.environ["SOLO_CACHE"])) == cache


def own(rows=120) -> dict[str, np.ndarray]:
    data = make_data(rows)
    return {"observations": data.obs.numpy(), "actions": data.action.numpy(), "rewards": data.reward.numpy(),
            "next_observations": data.next_obs.numpy(), "terminals": data.done.numpy() > 0}


def bad_arrays(rng) -> dict:
    """Arrays of which one cannot be right."""
    arrays = own()
    name = rng.choice(list(arrays))
    array, n = arrays[name].astype(np.float64), len(arrays[name])
    flags = name == "terminals"

    def at_a_row(value):
        changed = array.copy()
        changed[rng.randrange(n)] = value
        return changed
    choices = [at_a_row(np.nan), at_a_row(np.inf), at_a_row(-np.inf), at_a_row(1e39), array[:-1], np.r_[array, array[:1]], array[:0],
               array[None], np.array(3.0), np.array("x"), array.astype(str), array.astype(complex), array.astype("S8"),
               array[:, None, None]]
    choices += [at_a_row(0.5), at_a_row(-1.0), at_a_row(2.0)] * 3 if flags else []
    choices += [at_a_row(1.5), at_a_row(-1.001), array * 3] * 3 if name == "actions" else []
    choices += [array.ravel(), array[:, :0]] if array.ndim == 2 else [np.stack([array, array], 1)]
    chosen = rng.randrange(len(choices) + 2)
    if chosen == len(choices) and name != "next_observations":
        del arrays[name]
    else:
        arrays[name] = choices[chosen % len(choices)]
    return arrays


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array.astype("S") if array.dtype.kind == "U" else array


def bad_file(folder: Path, number: int, rng) -> tuple[str, Path]:
    """(what is wrong with it, a file that no run can use)."""
    path = folder / f"{number}{rng.choice(['.npz', '.hdf5', '.h5', '.NPZ', ''])}"
    good = own()

    def damaged(write):
        write(path, good)
        data = bytearray(path.read_bytes())
        cut = rng.randrange(1, len(data) - 30)
        path.write_bytes(data[:cut])

    def special(name):
        path.unlink(missing_ok=True)
        if name == "fifo":
            os.mkfifo(path)
        elif name == "folder":
            path.mkdir()
        elif name == "loop":
            path.symlink_to(path)
        elif name == "device":
            path.symlink_to("/dev/zero")
        elif name == "gone":
            path.symlink_to(folder / "gone")
        else:
            with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)

    def hdf5(change):
        write_hdf5(path, {name: array for name, array in good.items() if name != "rewards"})
        other = folder / "other.h5"
        write_hdf5(other, good)
        (folder / "raw").write_bytes(b"root:x:0" * 120)
        with h5py.File(path, "a") as file:
            if change == "null":
                file["rewards"] = h5py.Empty("f4")
            elif change == "group":
                file.create_group("rewards")
            elif change == "external link":
                file["rewards"] = h5py.ExternalLink(str(other), "/rewards")
            elif change == "soft link":
                file["rewards"] = h5py.SoftLink("/nowhere")
            elif change == "external storage":
                file.create_dataset("rewards", (120,), "f4", external=[(str(folder / "raw"), 0, 480)])
            elif change == "virtual":
                layout = h5py.VirtualLayout((120,), "f4")
                layout[:] = h5py.VirtualSource(str(other), "rewards", (120,))
                file.create_virtual_dataset("rewards", layout)
            elif change == "compound":
                file["rewards"] = np.zeros(120, [("a", "f4"), ("b", "i4")])
            elif change == "references":
                file["rewards"] = np.array([file.ref] * 120, h5py.ref_dtype)
            else:
                file.create_dataset("rewards", (10**13,), "f4", chunks=(1000,))

    def text(content):
        path.write_bytes(content)

    def pickled():
        np.savez(folder / "objects.npz", **good | {"rewards": np.array([print] * 120, object)})
        (folder / "objects.npz").rename(path)

    def npz(arrays):
        np.savez(folder / "arrays.npz", **arrays)
        (folder / "arrays.npz").rename(path)
    changes = ["null", "group", "external link", "soft link", "external storage", "virtual", "compound", "references", "too large"]
    what, how, *arguments = rng.choice(
        [("arrays", npz, bad_arrays(rng)), ("arrays in HDF5", write_hdf5, path, bad_arrays(rng))] * 8
        + [(f"HDF5 {change}", hdf5, change) for change in changes]
        + [("cut", damaged, lambda path, arrays: npz(arrays)), ("cut HDF5", damaged, write_hdf5), ("pickled", pickled)]
        + [(name, special, name) for name in ("fifo", "folder", "loop", "device", "gone", "socket")]
        + [("not a file of data", text, content) for content in (
            b"", b"\x89PNG\r\n\x1a\n" + bytes(99), b"obs,action\n1,2\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n\x1a\n",
            b"\x89HDF\r\n\x1a\n" + bytes(2000), b"\x93NUMPY\x01\x00", bytes(1000), b"\x80\x04]\x94.", b"\x1f\x8b" + bytes(50))])
    how(*arguments)
    return what, path


def test_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, trials = random.Random(14), []
    td3_bc = import_module("algorithms.td3_bc")
    for number in range(90):
        what, path = bad_file(tmp_path, number, rng)
        trials.append((f"{what} {path.name}", train, td3_bc, ["--env", path, "--eval-env", "none", "--updates", "3", "--runs", "runs"]))
    assert verdict(trials, tmp_path / "runs") == 90


def test_a_good_file_is_no_bad_one(tmp_path):
    """What all these files are before they are damaged, so that none is refused for another reason."""
    td3_bc, runs = import_module("algorithms.td3_bc"), tmp_path / "runs"
    np.savez(tmp_path / "good.npz", **own())
    write_hdf5(tmp_path / "good.hdf5", own())
    for name in ("good.npz", "good.hdf5"):
        found = trial(train, td3_bc, ["--env", tmp_path / name, "--eval-env", "none", "--updates", "3", "--batch-size", "8", "--runs", runs])
        assert found.code == 0 and kind(found, runs) == "silent acceptance", found.err
    assert len(list(runs.iterdir())) == 2


@pytest.fixture(scope="module")
def finished(isolated_session, tmp_path_factory):
    """A run of two seeds to its end."""
    folder = tmp_path_factory.mktemp("runs")
    np.savez(folder / "own.npz", **own())
    found = trial(train, import_module("algorithms.td3_bc"), [
        "--env", folder / "own.npz", "--eval-env", "hopper-medium-v2", "--eval-episodes", "2", "--eval-workers", "0", "--eval-every", "3", "--updates", "6",
        "--log-every", "2", "--batch-size", "8", "--seeds", "0", "1", "--runs", folder / "runs"])
    assert found.code == 0, found.err
    return next((folder / "runs").iterdir())


JUNK = [None, True, -1, 3, 1.5, "", "x", "../../x", [], [[]], ["x"], {}, {"a": {}}, [None], 1e400, "x" * 5000]
BYTES = [b"", b"{", b"\x00\xff" * 50, b"[" * 100_000, b'{"a":' * 100_000, b"3", b'"x"', b"[1, 2]", b"null", b"\xef\xbb\xbf", "é".encode("latin1")]


def junk_config(config, rng):
    """Another value in a place where no reader can go on, or where a run would go on as another one."""
    if rng.random() < 0.5:
        key = rng.choice(["algorithm", "args", "command", "data", "dataset_source", "physics", "task"])
        junk = [value for value in JUNK if not isinstance(value, str) and not (key == "task" and value is None or key == "data" and value == {})]
        config[key] = rng.choice(junk if key != "algorithm" else [*junk, "../../x", "", "x/y"])
        if isinstance(config[key], dict) and key in ("data", "args"):
            config.pop(key)
    else:
        key = rng.choice(["seeds", "updates", "eval_every", "alpha", "gamma", "normalize", "reward", "batch_size", "gone"])
        config["args"][key] = rng.choice([value for value in JUNK if value is not None and value != config["args"].get(key)])
    return config


def bad_checkpoint(path, rng):
    data = bytearray(path.read_bytes())
    how = rng.choice(["flip", "flip", "flip", "flip", "cut", "more", "value", "value", "pickle", "bytes"])
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(len(data)):]
    elif how == "more":
        data += bytes(rng.randrange(1, 99))
    elif how == "value":
        torch.save(rng.choice([JUNK, {}, {"step": 1}, {"step": "x", "seconds": 0.0, "agents": [{}]}, {"step": 1, "seconds": 1.0, "agents": []}]), path)
        return how
    elif how == "pickle":
        data = pickle.dumps(os.getcwd)
    else:
        data = rng.choice(BYTES)
    path.write_bytes(data)
    return how


def special(path, rng):
    path.unlink()
    how = rng.choice(["fifo", "folder", "loop"])
    {"fifo": os.mkfifo, "folder": os.mkdir, "loop": lambda path: os.symlink(path, path)}[how](path)
    return how


def bad_folder(whole: Path, folder: Path, rng) -> str:
    """What is wrong with the config.json or checkpoint.pt of a copy of a run."""
    shutil.copytree(whole, folder)
    name = rng.choice(["config.json", "config.json", "checkpoint.pt"])
    path = folder / name
    if rng.random() < 0.2:
        how = special(path, rng)
    elif name == "checkpoint.pt":
        how = bad_checkpoint(path, rng)
    elif rng.random() < 0.3:
        path.write_bytes(how := rng.choice(BYTES))
    else:
        path.write_text(how := json.dumps(junk_config(json.loads(path.read_text()), rng)))
    return f"{name} {how!s}"


def bad_logs(whole: Path, folder: Path, rng) -> str:
    """What is wrong with one of the other files of a copy of a run."""
    shutil.copytree(whole, folder)
    name = rng.choice(["result.json", "eval.csv", "log.csv"])
    path, how = folder / name, "special"
    if rng.random() < 0.2:
        how = special(path, rng)
    elif rng.random() < 0.3:
        path.write_bytes(how := rng.choice([*BYTES, b"step,seed\n1,x\n", b"\n\n\n", path.read_bytes()[:rng.randrange(80)]]))
    elif name == "result.json":
        result = json.loads(path.read_text())
        key = rng.choice(list(result))
        result[key] = rng.choice([value for value in JUNK if type(value) is not type(result[key])])
        path.write_text(how := json.dumps(result))
    else:
        text = list(path.read_text())
        text[rng.randrange(len(text))] = rng.choice("x\0,\n\"-é")
        path.write_text(how := "".join(text))
    return f"{name} {how!s}"


def look(folders):
    """What plot.py does with run folders, up to its figures."""
    groups = plot.gather(plot.read(tuple(folders)))
    rows = [row(group.dataset, group.algorithm, "file", {}, "", list(group.scores("last").values())) for group in groups]
    print(plot.text(groups, rows))


def test_run_folders(finished, tmp_path):
    """A broken config.json or checkpoint is refused by --resume and attacks.py, and never stops plot.py or a grid."""
    rng, trials, td3_bc = random.Random(15), [], import_module("algorithms.td3_bc")
    for number in range(50):
        folder = tmp_path / f"runs/{number}"
        what = bad_folder(finished, folder, rng)
        trials.append((f"--resume {what}", train, td3_bc, ["--resume", folder]))
        if number < 10:
            trials.append((f"attacks {what}", attacks.main, attacks.Args((folder,), eps=(0.0,), episodes=1, device="cpu", out=tmp_path / "out")))
    assert verdict(trials, tmp_path / "out") == 60
    found = trial(lambda: print(*(run.folder.name for run in find_runs(tmp_path / "runs"))))
    assert found.code == 0 and "Traceback" not in found.err and found.err.count("passed over") >= 10
    found = trial(look, [finished, *sorted((tmp_path / "runs").iterdir())])
    assert found.code == 0 and "Traceback" not in found.err and "passed over" in found.err


def test_logs_and_results(finished, tmp_path):
    """What a checkpoint holds is restored from it; what is not there is passed over."""
    rng, td3_bc = random.Random(16), import_module("algorithms.td3_bc")
    for number in range(20):
        folder = tmp_path / f"runs/{number}"
        what = bad_logs(finished, folder, rng)
        seen = trial(look, [finished, folder])
        assert seen.code == 0 and "Traceback" not in seen.err, (what, seen.err[-500:])
        found = trial(train, td3_bc, ["--resume", folder])
        assert found.code in (0, 2) and "Traceback" not in found.err, (what, found.err[-500:])
        if found.code == 0:
            for name in ("eval.csv", "log.csv"):
                assert (folder / name).read_bytes() == (finished / name).read_bytes(), what
            assert json.loads((folder / "result.json").read_text())["seeds"] == json.loads((finished / "result.json").read_text())["seeds"]


@pytest.mark.parametrize("module", ALGORITHMS, ids=lambda module: module.__name__.removeprefix("algorithms."))
def test_the_ends_of_a_range_can_be_trained_with(module):
    """What a closed end of an interval allows gives finite numbers (0 steps, a single sample, no discount)."""
    small, tried = [str(word) for word in FLAGS[module.__name__.removeprefix("algorithms.")]], 0
    for flag in {field.name: field for field in fields(module.Args) if field.name not in {field.name for field in fields(RunArgs)}}.values():
        interval = getattr(flag.type, "__metadata__", [SimpleNamespace(metavar="(,)")])[0].metavar
        for bound, bracket in zip(interval[1:-1].split(","), (interval[0], interval[-1])):
            if bracket not in "[]" or float(bound) > 2 or flag.name in ("seeds", "stages", "updates"):
                continue
            ends = [f"{float(bound):g}"] * (len(flag.default) if isinstance(flag.default, tuple) else 1)
            words = [*small, f"--{flag.name}", *ends, "--updates", "6", "--device", "cpu"]
            agent = agent_class(module)(parse(module.Args, {}, words), make_data(), 0)
            for _ in range(6):
                log = {name: float(value.detach()) for name, value in agent.update().items()}
                assert all(map(math.isfinite, log.values())), (flag.name, bound, log)
            assert all(x.isfinite().all() for x in agent.actor.parameters()), (flag.name, bound)
            tried += 1
    assert tried >= 4
