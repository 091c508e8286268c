"""How a script starts and ends: which clone's files it runs, and what it says of trouble that is nobody's flag."""

import os
import shutil
import subprocess
import sys

import pytest

from common import InputError, RunError, friendly, one_clone
from tests.helpers import ROOT, Script, run_script, write_npz

SCRIPT = ROOT / "algorithms/td3_bc.py"


@pytest.mark.parametrize("script", ["algorithms/td3_bc.py", "benchmark/plot.py"])
def test_another_clones_files_are_not_run(script, tmp_path):
    """A second clone, in an environment where the first one is installed; both are named, and nothing is run."""
    for name in ("common", "algorithms", "benchmark"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=shutil.ignore_patterns("__pycache__", "results", "papers", "policies"))
    (tmp_path / "clone/common/__init__.py").write_text("LATER = 1\n" + (ROOT / "common/__init__.py").read_text())
    for path in ("algorithms/td3_bc.py", "benchmark/engine/page.py"):  # a name that only the second clone has
        source = (tmp_path / "clone" / path).read_text()
        (tmp_path / "clone" / path).write_text(source.replace("from common import", "from common import LATER,", 1))
    words = [sys.executable, tmp_path / "clone" / script, "--help"]
    first, *second = (subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(path)})
                      for path in (ROOT, tmp_path / "clone")[:1 + ("td3_bc" in script)])
    assert first.returncode == 2 and first.stdout == "" and len(first.stderr.splitlines()) == 1
    assert f"is of {tmp_path / 'clone'}, but Python finds `common` in {ROOT}: two clones" in first.stderr
    assert all(run.returncode == 0 and "usage:" in run.stdout for run in second)


def test_a_copy_elsewhere_is_nobodys_clone(tmp_path):
    one_clone(str(tmp_path / "ideas/mine.py"))
    one_clone(None)  # a notebook
    one_clone(str(SCRIPT))
    (tmp_path / "common").mkdir()
    one_clone(str(tmp_path / "ideas/mine.py"))  # some folder of that name
    (tmp_path / "common/__init__.py").touch()
    one_clone(str(tmp_path / "ideas/mine.py"))  # somebody's package of that name
    (tmp_path / "common/d4rl.csv").touch()
    for deep in ("ideas/mine.py", "algorithms/mine/first/idea.py"):
        with pytest.raises(InputError, match="two clones"):
            one_clone(str(tmp_path / deep))


@pytest.mark.parametrize("error, code, told", [
    (InputError("a\n b"), 2, "error: a b\n"), (InputError("ü \x1b[2J\x07"), 2, "error: ü \\x1b[2J\\x07\n"), (RunError("it diverged"), 1, "error: it diverged\n"), (KeyboardInterrupt("stopped"), 130, "\nstopped\n"),
    (MemoryError("Unable to allocate 9 TiB"), 1, "error: out of memory (Unable to allocate 9 TiB); take fewer --seeds or a smaller batch\n"),
    (RuntimeError("CUDA out of memory. Tried\nto"), 1, "error: out of memory (CUDA out of memory. Tried); take fewer --seeds or a smaller batch\n"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "error: out of memory ([enforce fail] "
     "DefaultCPUAllocator: can't allocate memory: you tried); take fewer --seeds or a smaller batch\n")])
def test_ends(error, code, told, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # of this process, which does not end
    with pytest.raises(SystemExit) as stop, friendly():
        raise error
    assert (stop.value.code, capsys.readouterr().err) == (code, told)


def test_a_defect_keeps_its_traceback():
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x")):
        with pytest.raises(type(error)), friendly():
            raise error


def test_a_terminal_that_knows_only_ascii(tmp_path):
    """The report's ± and the box around an error are not its characters."""
    write_npz(tmp_path / "hopper.npz")
    words = ["--env", tmp_path / "hopper.npz", "--eval-env", "hopper-medium-v2", "--eval-episodes", 2, "--updates", 4, "--batch-size", 8, "--runs", tmp_path]
    for flags in (words, ["--lr", "x"]):
        script = Script(SCRIPT, *flags, real=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
        code, out, err = script.end()
        assert "Traceback" not in err and code == 2 * (flags[0] == "--lr"), err
        assert flags != words or "return" in out and "? " in out


def test_a_reader_that_has_read_enough():
    """`python script --help | head -1`."""
    help = subprocess.Popen([sys.executable, SCRIPT, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    help.stdout.close()
    assert "Traceback" not in help.communicate()[1]


def test_a_copy_from_an_older_version(tmp_path):
    """It has RunArgs, friendly and parse from common.run, where they once were."""
    source = SCRIPT.read_text()
    new = "from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse\n"
    assert new in source
    source = source.replace(new, "").replace("from common.run import Run\n", "from common.run import Run, RunArgs, friendly, parse\n").replace("from common import friendly\n", "")
    for alias, old in (("Seeds", "tuple[int, ...]"), ("Count", "int"), ("Size", "int"), ("Positive", "float"), ("NonNegative", "float"), ("Fraction", "float")):
        source = source.replace(f": {alias} =", f": {old} =")
    (tmp_path / "mine.py").write_text(source.replace(",\n                        args.action_low, args.action_high)", ")"))
    write_npz(tmp_path / "own.npz")
    code, out, err = run_script(tmp_path / "mine.py", "--env", tmp_path / "own.npz", "--updates", 3, "--batch-size", 4, "--runs", tmp_path / "runs")
    assert code == 0 and "3 updates" in out, err


def test_without_docstrings(tmp_path):
    """python -OO, and a copy that has lost its docstring."""
    source = SCRIPT.read_text().split('"""', 2)[2]
    (tmp_path / "mine.py").write_text(source)
    code, out, err = run_script(tmp_path / "mine.py", "--help")
    assert code == 0 and "Defaults are those for hopper-medium-v2" in out, err
    bare = subprocess.run([sys.executable, "-OO", SCRIPT, "--help"], capture_output=True, text=True)
    assert bare.returncode == 0 and "Defaults are those for" in bare.stdout, bare.stderr
