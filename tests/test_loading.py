"""A trained policy, loaded from its run folder to act with."""

import csv
import inspect
import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from algorithms import td3_bc
from common import InputError, load, loading
from common.args import parse
from common.checkpoint import save_sealed
from common.physics import make_env
from tests.helpers import ALGORITHMS, train

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of two seeds on an own file whose actions go from -2 to 4."""
    place = tmp_path_factory.mktemp("loading")
    rng = np.random.default_rng(0)
    n = 300
    np.savez(place / "mine.npz", observations=rng.normal(size=(n, 3)).astype(np.float32),
             actions=rng.uniform(-2, 4, (n, 2)).astype(np.float32), rewards=rng.normal(size=n).astype(np.float32),
             terminals=np.arange(n) % 50 == 49, next_observations=rng.normal(size=(n, 3)).astype(np.float32))
    words = f"--env {place / 'mine.npz'} --action-low -2 --action-high 4 --updates 3 --seeds 4 7 --runs {place / 'runs'} --device cpu"
    td3_bc.main(parse(td3_bc.Args, td3_bc.PAPER, words.split()))
    (run,) = (place / "runs").iterdir()
    return run


def test_the_policy_is_the_actor_between_the_environments_bounds(folder):
    obs = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    for seed in (4, 7):
        policy = load(folder, seed=seed)
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)["agents"][(4, 7).index(seed)]["actor"]
        assert all(torch.equal(value, saved[key]) for key, value in policy.actor.state_dict().items())
        inner = policy.actor.act(torch.from_numpy(obs)).numpy()
        np.testing.assert_allclose(policy.act(obs), -2 + 3 * (inner + 1), atol=1e-6)
        np.testing.assert_allclose(policy.act(obs[2]), policy.act(obs)[2], atol=1e-6)
        assert policy.act(obs[2]).shape == (2,) and policy.act(torch.from_numpy(obs[None])).shape == (1, 5, 2)
    assert torch.equal(load(folder).actor.state_dict()["weights.0"], load(folder, seed=4).actor.state_dict()["weights.0"])


def test_loading_needs_no_dataset_and_starting_needs_no_loading(folder, tmp_path):
    code = f"import common, sys; assert 'torch' not in sys.modules; from common import load; print(load({str(folder)!r}).act([0.0, 1.0, 2.0]).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "(2,)\n" and done.returncode == 0, done.stderr


@pytest.mark.parametrize("change, why", [
    ({"algorithm": "mine"}, "was trained by mine.py, which is not in algorithms/"),
    ({"action_size": 5}, "its networks do not fit"), ({"action_size": 999_999}, "action_size is 999,999"),
    ({"action_size": None}, "has no `action_size`"),
    ({"obs_std": [1.0]}, "it was saved with obs_std"),
    ({"started": 5}, None)])
def test_what_a_folder_says_is_not_believed(folder, tmp_path, change, why):
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    if "algorithm" in change:
        saved = torch.load(copy / "checkpoint.pt", weights_only=True)
        saved["facts"]["algorithm"] = change["algorithm"]
        with open(copy / "checkpoint.pt", "w+b") as file:
            save_sealed(saved, file)
    (copy / "config.json").write_text(json.dumps(config | change))
    if why is None:
        assert load(copy).seed == 4
        return
    with pytest.raises(InputError, match=why):
        load(copy)


def test_bad_input_is_one_line(folder, tmp_path):
    with pytest.raises(InputError, match="has no seed 5, only 4 7"):
        load(folder, seed=5)
    with pytest.raises(InputError, match="no run folder"):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(InputError, match="has no checkpoint yet"):
        load(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged|cannot be read"):
        load(tmp_path)


# Every algorithm


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{algorithm: its run folder}, trained when it is first asked for."""
    place, runs = tmp_path_factory.mktemp("every"), {}

    def get(algorithm):
        if algorithm not in runs:
            runs[algorithm] = train(place, algorithm)
        return runs[algorithm]
    return get


def examples(namespace):
    """The lines of the module's docstring, executed block by block: [acting, TorchScript, ONNX]."""
    blocks = re.findall(r"(?:^    \S.*\n)+", inspect.getdoc(loading), re.M)
    assert len(blocks) == 3 and all(block.count("\n") == 3 for block in blocks)
    return [lambda block=block: exec(textwrap.dedent(block), namespace) or np.asarray(namespace["action"]) for block in blocks]


@every_algorithm
def test_a_loaded_policy_acts_as_the_run_evaluated_it(algorithm, trained, monkeypatch):
    """The same return as the last row of eval.csv, to the last bit, by someone who only calls act()."""
    folder = trained(algorithm)
    with open(folder / "eval.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    policy, envs, returns = load(folder), [make_env("hopper-medium-v2") for _ in range(3)], [0.0] * 3
    obs, running = np.stack([env.reset(seed=100 + i)[0] for i, env in enumerate(envs)]), {0, 1, 2}
    while running:
        actions = policy.act(obs)
        for i in list(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += reward
            running -= {i} if terminated or truncated else set()
    assert float(row["return_mean"]) == np.mean(returns) and policy.config["algorithm"] == algorithm


@every_algorithm
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript(algorithm, trained, tmp_path, monkeypatch):
    """The docstring's lines, as they stand there."""
    monkeypatch.chdir(tmp_path)
    obs = np.random.default_rng(1).normal(size=(7, 11)).astype(np.float32)
    policy, namespace = load(trained(algorithm)), {"torch": torch, "obs": obs}
    _, script, _ = examples(namespace | {"policy": policy})
    action = script()
    assert action.shape == (7, 3) and abs(action - policy.act(obs)).max() < 1e-6 and (np.ptp(action, 0).min() > 0 or algorithm == "fqe")  # whose policy stands still without --policy
    torch.testing.assert_close(torch.jit.load("policy.pt")(torch.tensor(obs[:1])).numpy(), policy.act(obs[:1]), rtol=0, atol=1e-6)


@every_algorithm
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx(algorithm, trained, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    obs = np.random.default_rng(1).normal(size=(7, 11)).astype(np.float32)
    policy = load(trained(algorithm))
    _, _, export = examples({"torch": torch, "onnxruntime": onnxruntime, "obs": obs, "policy": policy})
    action = export()
    assert action.shape == (7, 3) and abs(action - policy.act(obs)).max() < 1e-6 and (np.ptp(action, 0).min() > 0 or algorithm == "fqe")  # whose policy stands still without --policy
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_exports_give_the_environment_s_actions(folder, tmp_path, monkeypatch):
    """Between its bounds, -2 and 4; and the docstring's first lines run, with this run's name in them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/td3_bc-hopper-medium-v2-20261121-091549-151").symlink_to(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["args"]["seeds"] == [4, 7]
    monkeypatch.setattr(loading, "load", lambda run, seed: load(run))  # its seeds are others
    namespace = {"torch": torch, "obs": 3 * np.random.default_rng(1).normal(size=(99, 3)).astype(np.float32)}
    act, script, _ = examples(namespace)
    first, second = act(), script()
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)
    assert -2 <= first.min() < -1 and 3 < first.max() <= 4
