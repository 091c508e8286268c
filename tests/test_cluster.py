"""Ray: a table is the same wherever its runs were placed and whatever was killed. Needs requirements-cluster.txt."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmark.engine.executors import Ray
from benchmark.engine.runs import find_runs
from common import InputError
from tests.helpers import Pause, Script, children, pids, run_script, wait_until
from tests.test_grid import SCRIPT

needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="pip install -r requirements-cluster.txt")
FLAGS = ["--standin", "--datasets", "hopper-medium-v2", "--updates", 120]
TINY = ["--", "--standin-rows", 2000, "--batch-size", 8, "--eval-episodes", 1, "--log-every", 20, "--save-seconds", 0.5]
INLINE = [*TINY, "--eval-workers", 0]  # one process less for each run
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-this-test", "RAY_USAGE_STATS_ENABLED": "0",
         "RAY_health_check_period_ms": "500"}  # a dead node is noticed after 5 of these, not after 15 seconds


@pytest.fixture(scope="module")
def cluster():
    """(address, [head, node], pause): two nodes of one CPU each on this machine, reached by its loopback address alone."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets need short paths
    pause = Pause(Path(folder) / "pause")
    port = 20_000 + os.getpid() % 10_000
    command = [Path(sys.executable).parent / "ray", "start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0",
               "--object-store-memory=100000000", "--disable-usage-stats"]
    nodes = []
    for words in (["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"], [f"--address=127.0.0.1:{port}"]):
        told = Path(f"{folder}/start{len(nodes)}.log")
        with open(told, "w") as log:
            nodes.append(subprocess.Popen([*command, *words], stdout=log, stderr=log, env=os.environ | TOKEN | pause.env, start_new_session=True))
        wait_until(lambda: "Ray runtime started" in told.read_text() or nodes[-1].poll() is not None)
        assert nodes[-1].poll() is None, told.read_text()
    yield f"127.0.0.1:{port}", nodes, pause
    for node in reversed(nodes):
        kill(node)
    shutil.rmtree(folder, ignore_errors=True)


def kill(node):
    for pid in [node.pid, *children(node.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    node.wait()


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "two.py").write_text(SCRIPT)
    return tmp_path / "two.py"


def outputs(folder):
    (table,), (text,) = folder.glob("*.part.????????.csv"), folder.glob("*.md")
    return table.read_bytes(), text.read_bytes()


@pytest.mark.usefixtures("standin")
@needs_ray
def test_what_is_killed_on_a_cluster_is_resumed_and_the_table_is_the_same(cluster, script, tmp_path):
    address, nodes, pause = cluster
    sac = [*FLAGS, "--columns", "sac_10"]
    code, _, err = run_script(script, *sac, "--runs", tmp_path / "whole", "--out", tmp_path / "whole_out", *INLINE)
    assert code == 0, err
    words = [*sac, "--ray", address, "--runs", tmp_path / "runs", "--out", tmp_path / "out", *INLINE]

    pause.at(40, runs=2)
    grid = Script(script, *words, "--save-seconds", 10**6, env=os.environ | TOKEN)  # Ctrl-C: both save, which they would not have done by themselves
    grid.until(lambda: pause.reached(40))
    code, _, err = grid.end(signal.SIGINT)
    assert code == 130 and "the same command goes on from here" in err and "Traceback" not in err
    assert not pids(f"--runs {tmp_path}") and [run.progress for run in find_runs(tmp_path / "runs")] == [40, 40]

    pause.at(80, runs=2)
    grid = Script(script, *words, env=os.environ | TOKEN)  # a worker, and the training process of another
    grid.until(lambda: pause.reached(80))
    worker, other = (pid for node in nodes for pid in children(node.pid) if "ray::work" in Path(f"/proc/{pid}/cmdline").read_text())
    (training,) = children(other)[:1]
    os.kill(worker, signal.SIGKILL)
    os.kill(training, signal.SIGKILL)
    code, out, err = grid.end()
    assert code == 0, out + err
    assert "Ray: nodes 2, CPUs 2, GPUs 0; a run takes CPUs 1, GPUs 0" in out and out.count("submitted") == 2
    logs = [path.read_text() for path in (tmp_path / "runs/.grid").glob("*.log")]
    assert sorted(re.findall(r"resumed at update (\d+)", log) for log in logs) == [["40", "40"], ["40", "80"]]  # whose worker dies is asked to stop
    assert len(find_runs(tmp_path / "runs")) == 2 and outputs(tmp_path / "out") == outputs(tmp_path / "whole_out")

    code, out, err = run_script(script, *words, env=os.environ | TOKEN)  # nothing is done twice, not even a cluster is asked
    assert code == 0 and "submitted" not in out and "Ray" not in out


@needs_ray
def test_a_node_dies_and_its_run_goes_on_elsewhere(cluster, script, tmp_path):
    address, (head, node), pause = cluster
    words = [*FLAGS, "--columns", "td3_bc", "--ray", address, "--runs", tmp_path / "runs", "--out", tmp_path / "out", *TINY]
    pause.at(60, runs=2)
    grid = Script(script, *words, env=os.environ | TOKEN)
    grid.until(lambda: pause.reached(60))
    kill(node)
    pause.go_on(60)
    code, out, err = grid.end()
    assert code == 0, out + err
    assert sorted(seed for run in find_runs(tmp_path / "runs") if run.result["step"] == 120 for seed in run.seeds) == [0, 1]
    assert list(Path(os.environ["SOLO_CACHE"]).glob("*.standin-*"))  # the nodes were told where data are
    assert sum(path.read_text().count("resumed at update") for path in (tmp_path / "runs/.grid").glob("*.log")) == 1


@pytest.mark.usefixtures("standin")
@needs_ray
def test_ray_local_gives_the_same_table(script, tmp_path):
    for where, words in (("processes", []), ("ray", ["--ray", "local"])):
        code, out, err = run_script(script, *FLAGS, "--columns", "td3_bc", *words, "--runs", tmp_path / where, "--out", tmp_path / f"{where}_out", *INLINE)
        assert code == 0, out + err
    assert outputs(tmp_path / "ray_out") == outputs(tmp_path / "processes_out")
    assert sorted(run.seeds for run in find_runs(tmp_path / "ray")) == [[0], [1]]


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="--ray needs Ray: pip install -r requirements-cluster.txt"):
        Ray("local", 1, None, 0)


@needs_ray
def test_no_cluster_at_the_address(script, tmp_path):
    code, _, err = run_script(script, *FLAGS, "--ray", "127.0.0.1:9", "--runs", tmp_path / "runs", *TINY)
    assert code == 2 and "error: --ray 127.0.0.1:9: no cluster answers there" in err.splitlines()[-1]
