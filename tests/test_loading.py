"""A trained policy, loaded from its run folder to act with."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from algorithms import td3_bc
from common import InputError, load
from common.args import parse
from common.checkpoint import save_sealed


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
    ({"action_size": 5}, "its networks do not fit"),
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
