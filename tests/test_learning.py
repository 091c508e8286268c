"""What learns for minutes: `pytest -m slow`."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from tests.helpers import ROOT, make_data, run_script


@pytest.mark.slow
@pytest.mark.parametrize("env, behaviour", [("hopper-medium-v2", 48.4), ("halfcheetah-medium-v2", 39.9)])
def test_td3_bc_beats_the_policy_that_made_the_standin(env, behaviour, tmp_path):
    """50,000 updates on 200,000 rows; `behaviour` is the policy's own normalised score with sampled actions."""
    code, out, err = run_script(ROOT / "algorithms/td3_bc.py", "--env", env, "--standin-rows", 200_000, "--updates", 50_000,
                                "--eval-every", 10_000, "--runs", tmp_path, deadline=3600)
    assert code == 0, err
    last = float(next(line for line in out.splitlines() if line.split()[:1] == ["0"]).split()[1])
    assert last > behaviour


@pytest.mark.slow
@pytest.mark.parametrize("algorithm, cls, flags", [
    ("sac_n", "SACN", dict(actor_lr=1e-3, critic_lr=1e-3)), ("edac", "EDAC", dict(actor_lr=1e-3, critic_lr=1e-3)),
    ("pbrl", "PBRL", dict(actor_lr=1e-3, critic_lr=1e-3, beta_start=1.0, num_actions=2)), ("rorl", "RORL", dict(lr=1e-3, num_perturbations=2))])
def test_ensembles_solve_a_bandit(algorithm, cls, flags):
    """One-step episodes with reward 1 - (a - best(s))^2, uniform actions: the policy finds best(s)."""
    module, data, rng = import_module(f"algorithms.{algorithm}"), make_data(4000, obs_size=2, action_size=1), torch.Generator().manual_seed(1)
    obs, action = (2 * torch.rand(4000, size, generator=rng) - 1 for size in (2, 1))
    best = 0.7 * torch.tanh(3 * obs[:, :1])
    data = replace(data, rows=torch.cat([obs, action, 1 - (action - best) ** 2, obs, torch.ones(4000, 1)], 1))
    agent = getattr(module, cls)(module.Args(batch_size=64, num_critics=3, **flags), data, seed=0)
    before = (agent.actor.act(obs) - best).abs().mean()
    for _ in range(3000):
        logs = agent.update()
    assert (agent.actor.act(obs) - best).abs().mean() < 0.1 < 0.4 < before, logs
