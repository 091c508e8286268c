"""A killed run, resumed, ends bitwise where an uninterrupted one ends; agents side by side equal agents alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import run_script, write_npz

ROOT = Path(__file__).parent.parent
FLAGS = {"td3_bc": ["--batch-size", "32"], "sac_n": ["--batch-size", "8", "--num-critics", "3"],
         "edac": ["--batch-size", "8", "--num-critics", "4", "--es-subsample"],
         "pbrl": ["--batch-size", "4", "--num-critics", "3", "--num-actions", "2", "--adaptive"],
         "rorl": ["--batch-size", "4", "--num-critics", "3", "--num-perturbations", "2", "--lambda-max", "0.5", "--lambda-min", "0",
                  "--lambda-dec", "0.01"],  # lambda reaches 0 inside the run
         "bc": ["--batch-size", "16", "--gaussian"], "awac": ["--batch-size", "16"],
         "iql": ["--batch-size", "16", "--dropout", "0.1"], "sql_eql": ["--batch-size", "16", "--algorithm", "eql"],
         "xql": ["--batch-size", "16", "--num-random", "1", "--value-steps", "2"],
         "one_step": ["--batch-size", "16", "--hidden-size", "32", "--stages", "2", "2", "1"]}  # the kill is in the second or third


def common_flags(tmp_path, name, updates, eval_every=40):
    data = tmp_path / "hopper.npz"
    if not data.exists():
        write_npz(data)
    return ["--env", data, "--eval-env", "hopper-medium-v2", "--updates", updates, "--eval-every", eval_every, "--eval-episodes", 2, "--log-every", 7,
            "--save-seconds", 0, "--runs", tmp_path / name]


def only_folder(path) -> Path:
    (folder,) = path.iterdir()
    return folder


def same_results(a: Path, b: Path):
    for name in ("log.csv", "eval.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    first, second = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (a, b))
    assert_equal_trees(first["agents"], second["agents"])
    assert first["step"] == second["step"]


def assert_equal_trees(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal_trees(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal_trees(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("algorithm", FLAGS)
def test_kill_9_and_resume_is_bitwise(algorithm, tmp_path):
    script, updates, flags = ROOT / f"algorithms/{algorithm}.py", 64, FLAGS[algorithm]
    seeds = ["--seeds", "0", "1"]
    code, _, err = run_script(script, *common_flags(tmp_path, "whole", updates, 20), *flags, *seeds, "--eval-workers", 0)
    assert code == 0, err
    process = subprocess.Popen([sys.executable, str(script), *map(str, common_flags(tmp_path, "killed", updates, 20)), *flags, *seeds],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while time.time() < deadline:  # kill it somewhere past the first evaluation, in the middle of whatever it does
        rows = [line.split(",")[0] for path in (tmp_path / "killed").glob("*/log.csv") for line in path.read_text().splitlines()[1:]]
        if rows and rows[-1].isdigit() and int(rows[-1]) >= 28 or process.poll() is not None:
            break
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    folder = only_folder(tmp_path / "killed")
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert 20 < step < updates
    with open(folder / "log.csv", "a") as file:
        file.write("999,0,torn li")  # what a kill in the middle of a write leaves
    inline = ["--eval-workers", 0] * (algorithm != "td3_bc")  # one process less; the numbers are the same
    code, out, err = run_script(script, "--resume", folder, *inline)
    assert code == 0 and err == "", err
    assert f"resumed at update {step}" in out
    same_results(only_folder(tmp_path / "whole"), folder)
    assert json.loads((folder / "result.json").read_text())["step"] == updates


def test_evaluations_that_were_under_way_are_not_lost(tmp_path, monkeypatch):
    """A checkpoint keeps the weights of evaluations that have not been delivered."""
    from algorithms.td3_bc import TD3BC, Args
    from common.data import load_dataset
    from common.run import Run

    write_npz(tmp_path / "hopper.npz")
    args = Args(env=str(tmp_path / "hopper.npz"), eval_env="hopper-medium-v2", updates=4, eval_every=2, eval_episodes=1, eval_workers=0,
                log_every=1, runs=tmp_path / "runs", batch_size=8, device="cpu")

    def train(args, until):
        agent = TD3BC(args, load_dataset(args.env), 0)
        run = Run(args, [agent])
        if until == 3:
            monkeypatch.setattr(run.evaluator, "finished", lambda wait=False: iter(()))  # a slow worker
        for step in run.steps(until):
            run.log(step, [agent.update()])
            run.evaluate(step)
        run.save()
        return run

    first = train(args, 3)
    assert not (first.folder / "eval.csv").exists()
    args.resume = first.folder
    resumed = train(args, 4)
    resumed.report()
    whole = train(Args(**{**vars(args), "resume": None, "runs": tmp_path / "whole"}), 4)
    whole.report()
    assert (resumed.folder / "eval.csv").read_bytes() == (whole.folder / "eval.csv").read_bytes()
    assert [line.split(",")[0] for line in (whole.folder / "eval.csv").read_text().splitlines()] == ["step", "2", "4"]


def test_seeds_side_by_side_equal_seeds_alone(tmp_path):
    script, flags = ROOT / "algorithms/td3_bc.py", FLAGS["td3_bc"]
    run_script(script, *common_flags(tmp_path, "four", 50), *flags, "--seeds", 0, 1, 2, 3)
    run_script(script, *common_flags(tmp_path, "one", 50), *flags, "--seeds", 3, "--eval-workers", 0)
    four, one = only_folder(tmp_path / "four"), only_folder(tmp_path / "one")
    checkpoints = [torch.load(f / "checkpoint.pt", weights_only=True)["agents"] for f in (four, one)]
    assert_equal_trees(checkpoints[0][3], checkpoints[1][0])
    for name in ("log.csv", "eval.csv"):
        rows = [[line for line in (f / name).read_text().splitlines() if line.split(",")[1] in ("seed", "3")] for f in (four, one)]
        assert rows[0] == rows[1] and len(rows[0]) > 1


def test_ctrl_c_saves_and_names_the_command(tmp_path):
    script = ROOT / "algorithms/td3_bc.py"
    process = subprocess.Popen([sys.executable, str(script), *map(str, common_flags(tmp_path, "stopped", 100_000)), *FLAGS["td3_bc"],
                                "--save-seconds", "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    deadline = time.time() + 120
    while time.time() < deadline and not list((tmp_path / "stopped").glob("*/log.csv")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    folder = only_folder(tmp_path / "stopped")
    assert "Traceback" not in err and f"python algorithms/td3_bc.py --resume {folder}" in err
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert f"stopped at update {step:,}; continue with" in err and step > 0


def test_workers_do_not_outlive_a_killed_run(tmp_path):
    script = ROOT / "algorithms/td3_bc.py"
    marker = f"SOLO_TEST_{os.getpid()}"
    process = subprocess.Popen([sys.executable, str(script), *map(str, common_flags(tmp_path, "orphans", 100_000)), *FLAGS["td3_bc"]],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {marker: "1"})
    deadline = time.time() + 120
    while time.time() < deadline and not list((tmp_path / "orphans").glob("*/eval.csv")):
        time.sleep(0.05)

    def alive():
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if marker.encode() in (proc / "environ").read_bytes():
                    found.append(proc.name)
            except OSError:
                pass
        return found

    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc")
    assert len(alive()) >= 2  # the run and its worker
    process.kill()
    process.wait()
    deadline = time.time() + 30
    while time.time() < deadline and alive():
        time.sleep(0.1)
    assert alive() == []


def test_a_run_in_training_cannot_be_resumed_beside_it(tmp_path):
    script = ROOT / "algorithms/td3_bc.py"
    process = subprocess.Popen([sys.executable, str(script), *map(str, common_flags(tmp_path, "live", 100_000)), *FLAGS["td3_bc"]],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while time.time() < deadline and not list((tmp_path / "live").glob("*/log.csv")):
        time.sleep(0.05)
    folder = only_folder(tmp_path / "live")
    code, _, err = run_script(script, "--resume", folder)
    assert code == 2 and "another process is training this run" in err and err.count("\n") == 1 and process.poll() is None
    process.kill()
    process.wait()


def test_a_state_that_cannot_be_saved_is_an_error():
    from common.run import snapshot

    class Agent:
        def __init__(self):
            self.history = [1, 2]

    with pytest.raises(TypeError, match="Agent.history: a checkpoint cannot save a list"):
        snapshot(Agent())


def test_schedulers_and_counters_are_state():
    from common.run import snapshot

    class Agent:
        def __init__(self):
            self.weight = torch.nn.Parameter(torch.ones(2))
            self.optimizer = torch.optim.Adam([self.weight], 0.1)
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
            self.rng, self.step, self.stats = torch.Generator().manual_seed(0), 0, torch.zeros(2)

        def update(self):
            self.weight.grad = torch.randn(2, generator=self.rng)
            self.optimizer.step(), self.schedule.step()
            self.step += 1
            self.stats += self.weight.detach()

    one, other = Agent(), Agent()
    for _ in range(3):
        one.update()
    snapshot(other, {key: torch.load(save_to_memory(value), weights_only=True) for key, value in snapshot(one).items()})
    one.update(), other.update()
    assert torch.equal(one.weight, other.weight) and torch.equal(one.stats, other.stats) and other.step == 4
    assert one.schedule.get_last_lr() == other.schedule.get_last_lr()


def save_to_memory(value):
    import io

    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def cuda_agents(algorithm, seeds):
    from importlib import import_module

    from benchmark.engine.runs import agent_class
    from tests.helpers import make_data

    module = import_module(f"algorithms.{algorithm}")
    flags = dict(batch_size=32, updates=40) | {
        "sac_n": dict(num_critics=3), "edac": dict(num_critics=3, es_subsample=True, max_q_backup=True),
        "pbrl": dict(num_critics=3, adaptive=True),
        "rorl": dict(num_critics=3, num_perturbations=3, lambda_max=0.2, lambda_min=0.0, lambda_dec=0.01),
        "bc": dict(gaussian=True), "iql": dict(dropout=0.1), "sql_eql": dict(algorithm="eql"),
        "xql": dict(num_random=1, value_steps=2), "one_step": dict(hidden_size=32, stages=(2, 2, 1))}.get(algorithm, {})
    data = make_data(device="cuda")
    return [agent_class(module)(module.Args(**flags), data, seed) for seed in seeds]


@cuda
@pytest.mark.parametrize("algorithm", FLAGS)
def test_graph_equals_eager_and_seed_alone_equals_seed_among_four(algorithm):
    from common.graph import side_by_side
    from common.run import snapshot

    (eager,), (alone,), four = cuda_agents(algorithm, [3]), cuda_agents(algorithm, [3]), cuda_agents(algorithm, [0, 1, 2, 3])
    graph_alone, graph_four = side_by_side([alone]), side_by_side(four)
    for _ in range(40):
        logs, alone_logs, four_logs = eager.update(), graph_alone()[0], graph_four()[3]
        for key in logs:
            torch.testing.assert_close(alone_logs[key], logs[key], rtol=1e-4, atol=1e-5)
            assert torch.equal(alone_logs[key], four_logs[key])
    assert_equal_trees(snapshot(alone)["actor"], snapshot(four[3])["actor"])
    trained = "critics" if hasattr(alone, "critics") else "actor"
    torch.testing.assert_close(snapshot(alone)[trained], snapshot(eager)[trained], rtol=1e-4, atol=1e-5)
    assert alone.step == eager.step == 40


@cuda
@pytest.mark.parametrize("algorithm", FLAGS)
def test_resumed_graph_equals_uninterrupted_graph(algorithm):
    from common.graph import side_by_side
    from common.run import snapshot

    (whole,), (first,), (second,) = (cuda_agents(algorithm, [0]) for _ in range(3))
    update, update_first = side_by_side([whole]), side_by_side([first])
    for _ in range(15):
        update(), update_first()
    snapshot(second, torch.load(save_to_memory(snapshot(first)), weights_only=True))
    update_second = side_by_side([second])
    for _ in range(15):
        update(), update_second()
    assert_equal_trees(snapshot(whole), snapshot(second))
    assert all(np.isfinite(value.item()) for value in whole.update().values())
