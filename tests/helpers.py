"""Small datasets and agents for the tests of algorithms, and scripts as processes."""

import copy
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

from benchmark.engine.runs import agent_class
from common.args import parse
from common.data import Dataset
from tests import zygote

ROOT = Path(__file__).parent.parent


def make_data(rows=256, obs_size=11, action_size=3, seed=0, device="cpu") -> Dataset:
    """Random transitions, a tenth of them terminal."""
    rng = torch.Generator().manual_seed(seed)
    obs, next_obs = (torch.randn(rows, obs_size, generator=rng) for _ in range(2))
    action, reward = torch.rand(rows, action_size, generator=rng) * 2 - 1, torch.randn(rows, 1, generator=rng)
    done = (torch.rand(rows, 1, generator=rng) < 0.1).float()
    return Dataset("tiny", None, {"kind": "file", "path": "memory", "sha256": "0" * 64, "view": "next_obs", "rows": rows},
                   torch.cat([obs, action, reward, next_obs, done], 1).to(device), obs_size, action_size, torch.tensor([[0, rows]]))


ALGORITHMS = sorted(path.stem for path in (ROOT / "algorithms").glob("*.py"))
FLAGS = {"td3_bc": ["--batch-size", "32"], "sac_n": ["--batch-size", "8", "--num-critics", "3"],
         "edac": ["--batch-size", "8", "--num-critics", "4", "--es-subsample", "--max-q-backup"],
         "pbrl": ["--batch-size", "4", "--num-critics", "3", "--num-actions", "2", "--adaptive"],
         "rorl": ["--batch-size", "4", "--num-critics", "3", "--num-perturbations", "2", "--lambda-max", "0.5", "--lambda-min", "0",
                  "--lambda-dec", "0.015"],  # lambda reaches 0 at update 34
         "bc": ["--batch-size", "16", "--gaussian"], "awac": ["--batch-size", "16"],
         "iql": ["--batch-size", "16", "--dropout", "0.1"], "sql_eql": ["--batch-size", "16", "--algorithm", "eql"],
         "xql": ["--batch-size", "16", "--num-random", "1", "--value-steps", "2"],
         "one_step": ["--batch-size", "16", "--hidden-size", "32", "--stages", "2", "2", "1"],  # the kill is in the second
         "cql": ["--batch-size", "8", "--num-actions", "2", "--bc-updates", "24", "--gap", "1", "--clip", "-9", "9", "--max-q-backup",
                 "--critic-layers", "3", "2", "--eps", "0.1", "--num-perturbations", "2"],
         "atac": ["--batch-size", "16", "--warm-start", "20", "--actor-every", "2"],
         "mopo": ["--batch-size", "16", *(MODEL := ["--rollout-batch", "10", "--rollout-length", "2", "--retain", "2", "--model-epochs", "2"]),
                  *(BLOCK := ["--rollout-every", "9"])],
         "combo": ["--batch-size", "8", *MODEL, *BLOCK, "--num-actions", "2", "--lse-groups", "1"], "mobile": ["--batch-size", "16", *MODEL, *BLOCK],
         "rambo": ["--batch-size", "16", *MODEL, "--rollout-every", "8", "--rollout-length", "3", "--bc-epochs", "2"],  # a kill is in a chain
         "armor": ["--batch-size", "8", "--warm-start", "12", "--restart-every", "3", "--pairs", "100", "--termination", "never", "--model-epochs", "1"],
         "fqe": ["--batch-size", "16", "--num-critics", "3", "--policy", "still"],
         "morel": ["--batch-size", "16", "--starts", "3", "--horizon", "8", "--cg-steps", "3", "--model-epochs", "2", "--cloning-epochs", "2"]}


def small_agents(algorithm, seeds, device="cpu", **changed):
    """Agents with few networks, and everything that could be forgotten in a checkpoint: schedules, dropout, phases. `changed`: more flags."""
    module, words = import_module(f"algorithms.{algorithm}"), [*map(str, FLAGS.get(algorithm, ["--batch-size", 16])), "--updates", "40", "--device", device]
    args, data = replace(parse(module.Args, {}, words), **changed), make_data(device=device)
    assert len(data.followed)  # found before the first update, as in one_step.py's main
    return [agent_class(module)(args, data, seed) for seed in seeds]


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


def save_to_memory(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


def parameters(module) -> torch.Tensor:
    """All parameters of a module, or one tensor, flat and copied."""
    tensors = [module] if isinstance(module, torch.Tensor) else list(module.parameters())
    return torch.cat([p.detach().flatten() for p in tensors]).clone()


def twin(agent):
    """An independent copy of an agent, its generator included."""
    other = copy.copy(agent)
    memo = {id(agent.data): agent.data, id(agent.args): agent.args}
    state = agent.rng.get_state()
    memo[id(agent.rng)] = torch.Generator(agent.rng.device)
    memo[id(agent.rng)].set_state(state)
    other.__dict__ = copy.deepcopy(agent.__dict__, memo)
    return other


def train(folder, algorithm, *words):
    """The run folder of a small run in this process, on data with hopper's shapes in `folder`, played by hopper; `words`: more flags."""
    folder.mkdir(exist_ok=True)
    if not (folder / "hopper.npz").exists():
        write_npz(folder / "hopper.npz")
    module, before = import_module(f"algorithms.{algorithm}"), set(folder.glob("runs/*"))
    small = ["--env", folder / "hopper.npz", "--eval-env", "hopper-medium-v2", "--updates", 40, "--eval-every", 40, "--eval-episodes", 3,
             "--eval-workers", 0, "--runs", folder / "runs", "--device", "cpu", *FLAGS[algorithm]]
    module.main(parse(module.Args, {}, list(map(str, [*small, *words]))))
    (run,) = set(folder.glob("runs/*")) - before
    return run


ENDLESS = 10**12  # updates, more than could ever be done
DEADLINE = 600  # seconds: for what happens in a moment, but perhaps on a busy machine


class Script:
    """A script as a process: in a fork of tests/zygote.py or, if `real`, in an interpreter of its own, as a person starts it."""

    def __init__(self, path, *words, real=False, **options):
        self.files = [tempfile.TemporaryFile() for _ in range(2)]
        command = [sys.executable, str(path), *map(str, words)]
        self.process = zygote.popen(command, real, stdin=subprocess.DEVNULL, stdout=self.files[0], stderr=self.files[1], **options)

    def said(self) -> tuple[str, str]:
        """What it has written to stdout and stderr so far."""
        return tuple(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace") for file in self.files)

    def until(self, condition):
        """What the condition gives when it is first true. AssertionError: the script has ended before."""
        def checked():
            ended = self.process.poll() is not None
            found = condition()
            assert found or not ended, f"ended with exit code {self.process.returncode}: {self.said()}"
            return found
        return wait_until(checked)

    def end(self, signal=None, deadline=DEADLINE) -> tuple[int, str, str]:
        """(exit code, stdout, stderr), after the signal if one is given. TimeoutExpired: not within `deadline` seconds."""
        if signal:
            self.process.send_signal(signal)
        try:
            self.process.wait(deadline)
        finally:
            self.process.kill()
            self.process.wait()
            said = self.said()
            for file in self.files:
                file.close()
        return self.process.returncode, *said


def run_script(path, *words, deadline=DEADLINE, **options):
    """A script from its start to its end: (exit code, stdout, stderr). Options as Script."""
    return Script(path, *words, **options).end(deadline=deadline)


class Pause:
    """Runs started with its `env` wait at some updates (tests/pause) until they are let go, asked to stop, or killed."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.env = {"PAUSE": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, (f"{ROOT}/tests/pause", os.environ.get("PYTHONPATH"))))}

    def at(self, step: int, runs=1):
        """The next runs that make this update wait there."""
        for number in range(runs):
            (self.folder / f"{step}.{number}").touch()

    def reached(self, step: int) -> bool:
        """Do all of them?"""
        return not list(self.folder.glob(f"{step}.*"))

    def go_on(self, step: int):
        """Who waits there is let go."""
        (self.folder / f"{step}-go-on").touch()


def write_npz(path, rows=300, seed=0):
    """An own dataset with hopper's shapes."""
    import numpy as np

    data = make_data(rows, seed=seed)
    np.savez(path, observations=data.obs, actions=data.action, rewards=data.reward, next_observations=data.next_obs, terminals=data.done)


def wait_until(condition, seconds=DEADLINE):
    """What the condition gives when it is first true. AssertionError: it never was."""
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def pids(pattern) -> list[int]:
    """Processes whose command line matches, without their children (forks have their parents' command lines)."""
    found = list(map(int, subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()))
    return sorted(set(found) - {child for pid in found for child in children(pid)})


def children(pid) -> list[int]:
    """All processes below one."""
    below = list(map(int, subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()))
    return below + [pid for child in below for pid in children(child)]


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


BROKEN = {  # {how: a function that breaks the folder of a finished run}
    "a number for the seeds": lambda run: _edit(run / "result.json", **{"seeds": 3}),
    "a string for a score": lambda run: _edit(run / "result.json", **{"seeds": {"0": {"last": "9", "best": 1, "mean_of_last_10": 1}}}),
    "nan": lambda run: _edit(run / "result.json", **{"updates_per_second": float("nan")}),
    "a list": lambda run: (run / "result.json").write_text("[1]"),
    "binary": lambda run: (run / "result.json").write_bytes(b"\xff\xfe\x00"),
    "deep": lambda run: (run / "result.json").write_text("[" * 100_000),
    "deeper values": lambda run: _edit(run / "result.json", **{"x": [[[[[1]]]]]}),
    "a pipe": lambda run: ((run / "result.json").unlink(), os.mkfifo(run / "result.json")),
    "a folder": lambda run: ((run / "result.json").unlink(), (run / "result.json").mkdir()),
    "a deep config": lambda run: _edit(run / "config.json", **{"x": json.loads("[" * 200 + "]" * 200)}),
    "config in a pipe": lambda run: ((run / "config.json").unlink(), os.mkfifo(run / "config.json")),
    "config of other kinds": lambda run: _edit(run / "config.json", **{"args": 3}),
    "a torn checkpoint": lambda run: ((run / "result.json").unlink(), (run / "checkpoint.pt").write_bytes(b"PK")),
    "a checkpoint of another run": lambda run: ((run / "result.json").unlink(), torch.save({"step": 1, "seconds": 1.0, "agents": [{}, {}]}, run / "checkpoint.pt")),
    "a checkpoint of nothing": lambda run: ((run / "result.json").unlink(), torch.save([1], run / "checkpoint.pt")),
    "a checkpoint in a pipe": lambda run: ((run / "result.json").unlink(), os.mkfifo(run / "checkpoint.pt"))}
