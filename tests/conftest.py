"""Every test has empty folders of its own in place of the user's, and no network."""

import json
import multiprocessing
import os
import shutil
import signal

import pytest

from tests import zygote

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side, and digits depend on it


def pytest_runtest_logreport(report):
    """A failure is told at once where SOLO_MEASURED says: what is stopped later has told it."""
    if report.failed and (path := os.environ.get("SOLO_MEASURED")):
        with open(path, "a") as file:
            file.write(json.dumps({"test": "failed", "algorithm": report.nodeid, "why": str(report.longrepr)[-300:]}) + "\n")


def isolate(patch, folder):
    for variable in ("SOLO_CACHE", "D4RL_DATASET_DIR", "MINARI_DATASETS_PATH", "HF_HOME"):
        patch.setenv(variable, str(folder / variable.lower()))
    patch.setenv("SOLO_MIRRORS", "")
    patch.setenv("MINARI_REMOTE", "none://nowhere")  # a kind of remote that Minari does not know
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("no_proxy", "*")  # local servers are reached directly


@pytest.fixture(scope="session", autouse=True)
def forks():
    """Scripts, and runs of grids, are forks of tests/zygote.py, which is started with the first of them; workers are forks too."""
    import common
    from benchmark.engine import jobs
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job and all that it starts would ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_forkserver_preload(["common.standin", "common.evaluation"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "get_context", lambda method: multiprocessing.get_context("forkserver"))
        patch.setattr(jobs, "subprocess", zygote.processes)
        yield
    zygote.stop()


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory):
    """For fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("session"))
        yield


@pytest.fixture(autouse=True)
def isolated_test(isolated_session, tmp_path_factory, monkeypatch):
    isolate(monkeypatch, tmp_path_factory.mktemp("folders"))
    yield
    if signal.getsignal(signal.SIGINT) != signal.default_int_handler:  # common.friendly leaves it as a script ends
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def standin_folder(isolated_session, tmp_path_factory):
    """A cache with hopper-medium-v2's stand-in of 2,000 rows."""
    from common.data import load_dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLO_CACHE", str(tmp_path_factory.mktemp("standin")))
        load_dataset("hopper-medium-v2", standin_rows=2000)
        return os.environ["SOLO_CACHE"]


@pytest.fixture
def standin(standin_folder, isolated_test):
    """For tests that need the stand-in, not its making: the test's cache is a copy of that one."""
    shutil.copytree(standin_folder, os.environ["SOLO_CACHE"])
