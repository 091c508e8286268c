"""MOPO: OfflineRL-Kit's numbers, the penalty, rollouts, batches, and what a cached model is shared by."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms import mopo
from algorithms.mopo import MOPO, Args
from tests import recipe
from tests.helpers import make_data, parameters
from tests.recipe import tensor
from tests.recipe_models import A, B, D, S, batch, close, dataset, fill_agent, fill_model, golden, norms, normals

GOLDEN, ROLLOUT = golden("mopo"), golden("dynamics_model")["rollout_hopper_5_steps"]


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


def small(**changed) -> MOPO:
    flags = dict(rollout_batch=8, rollout_length=2, rollout_every=4, batch_size=16, retain=2, updates=40, termination="never")
    return MOPO(Args(**flags | changed), make_data(), 0)


def filled(**changed) -> MOPO:
    agent = MOPO(Args(**dict(batch_size=B, rollout_batch=B, device="cpu") | changed), dataset(), 0)
    fill_model(agent.model)
    fill_agent(agent)
    return agent


def test_two_updates_equal_the_kit(double):
    """With the exact log density: the Kit's own has 1e-6 in a logarithm."""
    theirs, agent = GOLDEN["exact_log_density"], filled()
    agent.sample = batch
    calls = recipe.remembered(agent, "critic_target", "critic_loss", "actor_loss", "alpha_loss")
    agent.step = 1  # no rollout
    for k in range(2):
        for kept in calls.values():
            kept.clear()
        with recipe.injected([("randn", normals(50 + 2 * k, B, A)), ("randn", normals(51 + 2 * k, B, A))]):
            logs = agent.update()
        (q, target), _ = calls["critic_loss"][0]
        if k == 0:
            close(target.sum(), theirs["target"]["sum"])
            close(target[:3], theirs["target"]["first3"])
            close(q.sum(1), [theirs["q1_sum"], theirs["q2_sum"]])
        losses = theirs[f"losses_update_{k + 1}"]
        close(((q - target) ** 2).mean(1), [losses["loss/critic1"], losses["loss/critic2"]])
        close(logs["critic_loss"], (losses["loss/critic1"] + losses["loss/critic2"]) / 2)
        close(logs["actor_loss"], losses["loss/actor"])
        close(calls["alpha_loss"][0][1], losses["loss/alpha"])
        close(agent.alpha(), losses["alpha"])
        grads = theirs["grad_norms_updates_1_2"]
        for j in range(2):
            ours = torch.cat([p.grad[j].flatten() for p in agent.critics.parameters()]).norm()
            close(ours, grads[f"critic{j + 1}"][k][0])
        close(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]).norm(), grads["actor"][k][0])
        close(agent.log_alpha.grad.abs(), grads["log_alpha"][k][0])
    compare_norms(agent, theirs["after_2_updates"])


def compare_norms(agent, theirs):
    """Norms of W0, b0, W1, b1, ...; of the actor's last layer mean and log std are apart."""
    for name, network in (("critic", agent.critics), ("target", agent.target_critics)):
        for j in range(2):
            ours = [p[j] for pair in zip(network.weights, network.biases) for p in pair]
            close(norms(ours), theirs[f"{name}{j + 1}"])
    *hidden, (weight, bias) = zip(agent.actor.weights, agent.actor.biases)
    heads = [half for pair in zip(weight.chunk(2), bias.chunk(2)) for half in pair]
    close(norms([*(p for pair in hidden for p in pair), *heads]), theirs["actor"])
    close([agent.log_alpha.item()], theirs["log_alpha"])


def test_five_imagined_steps_equal_the_kit(double):
    """Actions, next states, rewards, penalties and ends of a hopper's rollout, and what is stored of it."""
    agent = filled(rollout_length=5, penalty_coef=0.5, retain=1)
    steps, told = [], []
    imagine = agent.imagine
    agent.imagine = lambda obs: (steps.append((obs, *imagine(obs))), steps[-1][1:])[1]
    for h in range(5):
        told += [("randn", normals(20 + h, B, A)), ("randint", np.random.RandomState(40 + h).randint(0, 5, B)), ("randn", normals(30 + h, B, D))]
    with recipe.injected([("randint", np.arange(B)), *told]):
        agent.rollout()
    alive = torch.ones(B, dtype=torch.bool)
    for (obs, action, next_obs, reward), theirs in zip(steps, ROLLOUT["steps"], strict=True):
        done = agent.terminal(obs, action, next_obs)
        assert alive.sum() == theirs["n_alive"]
        assert (alive & done).nonzero()[:, 0].tolist() == theirs["terminated_rows"]
        penalty = agent.penalty(agent.model.predict(obs, action)[1])
        action, next_obs, reward, penalty = (x[alive] for x in (action, next_obs, reward, penalty))
        close(action.sum(), theirs["action_sum"])
        close(next_obs.sum(), theirs["next_obs_sum"])
        close(next_obs.abs().sum(), theirs["next_obs_abs_sum"])
        close(next_obs[0], theirs["next_obs_first_alive_row"])
        close((reward + penalty).sum(), theirs["reward_sum"])
        close((reward + penalty)[:3], theirs["reward_first3"])
        close(reward[:3], theirs["penalised_reward_first3_lambda_half"])
        close(reward.sum(), theirs["penalised_reward_sum_lambda_half"])
        close(2 * penalty.sum(), theirs["penalty_max_std_norm"]["sum"])
        close(2 * penalty[:3], theirs["penalty_max_std_norm"]["first3"])
        alive = alive & ~done
    assert agent.ring.size == ROLLOUT["rows_stored"] == sum(step["n_alive"] for step in ROLLOUT["steps"])
    stored = agent.data.split(agent.ring.rows[:int(agent.ring.size)])
    close(stored.obs[:B], agent.data.obs)
    close(stored.reward[:B], steps[0][3])
    assert stored.done.sum() == sum(len(step["terminated_rows"]) for step in ROLLOUT["steps"])


def test_penalty_by_hand():
    """The largest norm of all seven networks' standard deviations, the reward's included, elite or not."""
    agent = small(penalty_coef=1.0)
    agent.model.elites.copy_(torch.arange(5))
    log_var = torch.full((7, 1, 3), -torch.inf)
    log_var[:, 0, 0] = 2 * torch.arange(1.0, 8).log()
    assert agent.penalty(log_var).tolist() == pytest.approx([7.0])
    log_var = torch.full((7, 1, 3), -torch.inf)
    log_var[2, 0, :2] = 2 * torch.tensor([3.0, 4.0]).log()
    assert agent.penalty(log_var).tolist() == pytest.approx([5.0])


def test_the_penalty_has_a_floor():
    agent = MOPO(Args(penalty_coef=1.0, rollout_batch=8), make_data(), 0)
    _, log_var = agent.model.predict(agent.data.obs, agent.data.action)
    assert agent.penalty(log_var).min() >= 0.0233 and (agent.penalty(torch.full((7, 1, 12), -10.0)) - 0.02334).abs() < 1e-4


def test_rewards_are_affine_in_the_coefficient():
    rewards = []
    for coef in (0.0, 1.0, 2.0):
        agent = small(penalty_coef=coef)
        action, _, reward = agent.imagine(agent.data.obs)
        rewards.append(reward)
    u = agent.penalty(agent.model.predict(agent.data.obs, action)[1]) / 2
    free = small(penalty_coef=0.0)
    drawn = free.rng.get_state()
    free.penalty = lambda log_var: torch.zeros(())
    assert torch.equal(free.imagine(free.data.obs)[2], rewards[0]) and not torch.equal(drawn, free.rng.get_state())  # bit for bit
    assert torch.allclose(rewards[2] - rewards[1], -u, atol=1e-5) and torch.allclose(rewards[1] - rewards[0], -u, atol=1e-5) and u.min() > 0


def test_an_elite_is_drawn_for_each_row():
    """With no noise in the model the next state is one of five means; each has a fifth of the rows, and nobody else any."""
    agent, n = MOPO(Args(rollout_batch=8), make_data(100_000), 0), 100_000
    agent.model.elites.copy_(torch.tensor([1, 3, 5, 6, 4]))
    with torch.no_grad():
        for weight in agent.model.weights:
            weight.zero_()
        for e in range(7):
            agent.model.biases[-1][e, 0, :D] = e
        agent.model.bounded = lambda raw: torch.full_like(raw, -60.0)
    _, next_obs, _ = agent.imagine(agent.data.obs)
    network = (next_obs - agent.data.obs)[:, 0].round().long()
    shares = torch.bincount(network, minlength=7) / n
    assert shares[[0, 2]].sum() == 0 and ((shares[[1, 3, 4, 5, 6]] - 0.2).abs() < 0.01).all()
    assert ((next_obs - agent.data.obs) - network[:, None]).abs().max() < 1e-5


def test_batches():
    """12 real rows come first, 244 imagined ones follow."""
    agent = small(batch_size=256, real_ratio=0.05)
    agent.rollout()
    real, stored = {tuple(row) for row in agent.data.rows.tolist()}, {tuple(row) for row in agent.ring.rows[:int(agent.ring.size)].tolist()}
    sample = [tuple(row) for row in torch.cat([x.reshape(256, -1) for x in agent.sample()], 1).tolist()]
    assert set(sample[:12]) <= real and set(sample[12:]) <= stored and len(sample) == 256


@pytest.mark.parametrize("k, capacity", [(1, 250_000), (5, 1_250_000)])
def test_capacity(k, capacity):
    assert MOPO(Args(rollout_length=k), make_data(), 0).ring.capacity == capacity


def test_an_update_with_real_rows_alone_is_sac(monkeypatch):
    """f = 1: the ring is never asked for anything that counts."""
    agent = small(real_ratio=1.0)
    other = small(real_ratio=1.0)
    agent.update()
    other.rollout = lambda: agent_noise(other)

    def agent_noise(other):
        MOPO.rollout(other)
        other.ring.rows.fill_(torch.nan)
    other.update()
    assert torch.equal(parameters(agent.critics), parameters(other.critics)) and torch.equal(parameters(agent.actor), parameters(other.actor))


def test_a_state_that_ends_leaves_one_row():
    agent = small(rollout_length=3, retain=1)
    agent.terminal = lambda obs, action, next_obs: torch.ones(len(obs), dtype=torch.bool)
    agent.rollout()
    stored = agent.data.split(agent.ring.rows[:int(agent.ring.size)])
    assert agent.ring.size == 8 and (stored.done == 1).all()
    assert torch.equal(agent.critic_target(stored), stored.reward)


def test_blocks():
    """A rollout before the first update, and every `rollout_every` updates; the ring keeps `retain` of them."""
    agent, begun = small(), []
    rollout = agent.rollout
    agent.rollout = lambda: (begun.append(agent.step), rollout())
    for _ in range(13):
        agent.update()
    assert begun == [0, 4, 8, 12] and agent.ring.size == agent.ring.capacity == 2 * 2 * 8


def test_the_actors_learning_rate():
    """(8): 1, then less with each block; constant where the flag says so."""
    agent, rates = small(), []
    for step in range(40):
        agent.update()
        rates.append(agent.actor_optimizer.param_groups[0]["lr"].item())
    expected = [1e-4 / 2 * (1 + np.cos(np.pi * (step // 4) / 10)) for step in range(40)]
    assert rates == pytest.approx(expected, rel=1e-5)
    constant = small(cosine=False)
    for _ in range(10):
        constant.update()
    assert constant.actor_optimizer.param_groups[0]["lr"].item() == pytest.approx(1e-4)


def test_temperature():
    """Less entropy than wanted lets alpha rise; as much as wanted leaves it; alpha is at most 1 in the losses unless told otherwise."""
    agent = small()
    for log_prob, sign in ((4.0, 1), (3.0, 0), (2.0, -1)):
        (grad,) = torch.autograd.grad(agent.alpha_loss(torch.full((5,), log_prob)), agent.log_alpha)
        assert grad.sign() == -sign
    agent.log_alpha.data.fill_(1.0)
    assert agent.alpha() == 1 and small(alpha_max=None).alpha() == 1
    free = small(alpha_max=None)
    free.log_alpha.data.fill_(1.0)
    assert free.alpha() == pytest.approx(np.e)
    assert torch.autograd.grad(small(target_entropy=-5.0).alpha_loss(torch.full((5,), 5.0)), agent.log_alpha, allow_unused=True)[0] is None
    fixed = small(target_entropy=-5.0)
    assert torch.autograd.grad(fixed.alpha_loss(torch.full((5,), 5.0)), fixed.log_alpha)[0] == 0


def test_log_density_by_hand(double):
    """m = 1, mean 0, log std 0: z = 0 gives -0.918939, z = 1 gives -0.551377."""
    actor = mopo.Actor(S, 1, torch.Generator())
    with torch.no_grad():
        actor.weights[-1].zero_()
        actor.biases[-1].zero_()
    for z, expected in ((0.0, -0.918939), (1.0, -0.551377)):
        with recipe.injected([("randn", np.full((1, 1), z))]):
            action, log_prob = actor.sample(torch.zeros(1, S), None)
        close(action, [[np.tanh(z)]])
        close(log_prob, [expected])


def test_polyak():
    agent = small(tau=0.005)
    with torch.no_grad():
        for target, online in zip(agent.target_critics.parameters(), agent.critics.parameters()):
            target.copy_(online + 1)
    for _ in range(100):
        mopo.polyak(agent.target_critics, agent.critics, 0.005)
    gap = parameters(agent.target_critics) - parameters(agent.critics)
    assert torch.allclose(gap, torch.full_like(gap, 0.995**100), atol=1e-4)


def test_gradients_reach_their_own_parameters():
    agent = small()
    agent.update()
    before = {name: parameters(getattr(agent, name)) for name in ("actor", "critics", "target_critics", "model")}
    assert all(p.grad is None for p in agent.model.parameters())
    agent.update()
    changed = {name for name, old in before.items() if not torch.equal(old, parameters(getattr(agent, name)))}
    assert changed == {"actor", "critics", "target_critics"}


def test_a_sweep_shares_the_model(tmp_path, monkeypatch):
    """Penalty and horizon are not in its key; data, seed and preset are."""
    from common.pretraining import _key

    def key(seed=0, data=0, **changed):
        agent = MOPO(Args(rollout_batch=8, **changed), make_data(seed=data), seed)
        return _key(agent.fit_model(), seed)
    one = key()
    assert one == key(penalty_coef=3.0, rollout_length=1, actor_lr=1e-3)
    assert len({one, key(seed=1), key(data=1), key(model_epochs=3)}) == 4
    monkeypatch.setattr(mopo, "MODEL", replace(mopo.MODEL, lr=1e-4))
    assert key() != one


def test_values_of_the_datasets():
    assert mopo.PAPER["hopper-medium-v2"] == dict(rollout_length=5, penalty_coef=5.0)
    assert mopo.PAPER["walker2d-medium-expert-v0"]["penalty_coef"] == 2.0 and mopo.PAPER["halfcheetah-medium-v0"]["rollout_length"] == 1
    assert len(mopo.PAPER) == 24
