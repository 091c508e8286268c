"""What pins IQL; and what SQL, EQL and XQL share with it: the order of an update, which parameters each step may move,
the Gaussian policy, initialisation, dropout, the schedule."""

import math

import pytest
import torch

from algorithms import iql, sql_eql, xql
from algorithms.iql import IQL, PAPER, Args
from common.data import REWARDS
from tests.helpers import make_data, parameters, twin


def make(**flags):
    return IQL(Args(**dict(batch_size=32) | flags), make_data(), seed=0)


FAMILY = {"iql": (iql, IQL, {}), "sql": (sql_eql, sql_eql.IVR, dict(algorithm="sql")),
          "eql": (sql_eql, sql_eql.IVR, dict(algorithm="eql")), "xql": (xql, xql.XQL, {})}


@pytest.fixture(params=FAMILY)
def make_one(request):
    """A function that makes an agent of a family member with some flags."""
    module, cls, own = FAMILY[request.param]
    return lambda **flags: cls(module.Args(**dict(batch_size=32) | own | flags), make_data(), seed=0)


@pytest.fixture
def agent(make_one):
    return make_one()


def value_loss(agent, q, v):
    loss = agent.value_loss(q, v)
    return loss[0] if isinstance(loss, tuple) else loss  # XQL's comes with m


def slope(loss, q, v):
    """dL/dV for equally frequent q, float64."""
    v = torch.tensor(v, dtype=torch.float64, requires_grad=True)
    loss(torch.tensor(q, dtype=torch.float64), v.expand(len(q))).backward()
    return v.grad.item()


def minimiser(loss, q, low=None):
    """V between `low`, or the least q, and the largest q where the loss turns from falling to rising."""
    low, high = min(q) if low is None else low, max(q)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(loss, q, middle) > 0 else (middle, high)
    return low


@pytest.mark.parametrize("expectile, expected", [(0.5, 2.0), (0.7, 2.8), (0.9, 3.6)])
def test_expectile_of_0_and_4(expectile, expected):
    assert minimiser(make(expectile=expectile).value_loss, [0.0, 4.0]) == pytest.approx(expected, abs=1e-6)


def test_expectile_grows_with_its_level():
    q = [-3.0, 0.5, 1.0, 7.0]
    found = [minimiser(make(expectile=level).value_loss, q) for level in (0.3, 0.5, 0.7, 0.9, 0.99)]
    assert found == sorted(found) and found[1] == pytest.approx(sum(q) / 4, abs=1e-6) and 6 < found[-1] < 7


def test_level_one_half_is_half_the_squared_error():
    q, v = torch.randn(2, 64, dtype=torch.float64)
    assert make(expectile=0.5).value_loss(q, v).item() == pytest.approx(0.5 * ((q - v) ** 2).mean().item(), rel=1e-12)


@pytest.mark.parametrize("u, expected", [(-1.0, 0.2), (1.0, -1.8)])
def test_value_gradient_by_hand(u, expected):
    v = torch.zeros(1, requires_grad=True)
    make(expectile=0.9).value_loss(torch.tensor([u]), v).backward()
    assert v.grad.item() == pytest.approx(expected)


def test_weights_by_hand():
    weights = make(inverse_temperature=3.0).imitation_weight(torch.tensor([0.0, 1.0, 2.0, 1e4, -1e4]))
    torch.testing.assert_close(weights, torch.tensor([1.0, 20.0855, 100.0, 100.0, 0.0]), rtol=1e-5, atol=1e-6)
    agent = make(inverse_temperature=10.0)
    assert agent.imitation_weight(torch.tensor(math.log(100) / 10 + 1e-4)) == 100 > agent.imitation_weight(torch.tensor(0.4604))


def test_inverse_temperature_zero_is_behaviour_cloning():
    agent = make(inverse_temperature=0.0)
    batch = agent.data.sample(32, agent.rng)
    loss = agent.actor_loss(batch, agent.imitation_weight(torch.randn(32)))
    mean, std = agent.actor.act(batch.obs), agent.actor.log_std.exp()
    expected = -torch.distributions.Normal(mean, std).log_prob(batch.action).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_log_prob_has_no_correction_for_tanh_and_a_clamped_std(agent):
    obs, zero = torch.zeros(1, 11), torch.zeros(1, 3)  # biases are 0, so the mean at 0 is 0
    log_prob = agent.actor.log_prob(obs, zero, 0.0, agent.rng)
    assert log_prob.item() == pytest.approx(-0.918939 * 3, abs=1e-5)
    with torch.no_grad():
        agent.actor.biases[-1].fill_(0.5)
    log_prob = agent.actor.log_prob(obs, zero, 0.0, agent.rng)
    assert log_prob.item() == pytest.approx(3 * (-0.918939 - 0.5 * math.tanh(0.5) ** 2), abs=1e-5)
    assert agent.actor.act(obs)[0, 0].item() == pytest.approx(math.tanh(0.5))
    with torch.no_grad():
        agent.actor.log_std.fill_(5.0)
    log_prob = agent.actor.log_prob(obs, zero, 0.0, agent.rng)
    log_prob.sum().backward()
    assert agent.actor.log_std.grad.abs().max() == 0
    assert log_prob.item() == pytest.approx(3 * (-0.918939 - 2 - 0.5 * math.tanh(0.5) ** 2 * math.exp(-4)), abs=1e-5)


def test_target_of_a_terminal_and_of_a_timeout_row(agent):
    batch = agent.data.sample(2, agent.rng)._replace(done=torch.tensor([1.0, 0.0]), reward=torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(agent.critic_target(batch, torch.tensor([7.0, 7.0])), torch.tensor([3.0, 3.0 + 0.99 * 7]))


def test_critic_loss_sums_over_the_twin():
    assert make().critic_loss(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0])).item() == pytest.approx(3.0)


def recorded(agent, name):
    """What a method returned in the updates to come, and what it was given."""
    calls, real = [], getattr(agent, name)
    setattr(agent, name, lambda *args: calls.append((args, result := real(*args))) or result)
    return calls


def test_policy_and_critics_see_the_value_of_this_update(agent):
    before, weights, targets = twin(agent), recorded(agent, "imitation_weight"), recorded(agent, "critic_target")
    log = agent.update()
    (advantage,), _ = weights[0]
    (batch, next_v), target = targets[0]
    with torch.no_grad():
        old, new = before.value(batch.next_obs), agent.value(batch.next_obs)
        q = before.target_critics(batch.obs, batch.action).min(0).values
        torch.testing.assert_close(next_v, new)
        assert not torch.allclose(next_v, old, atol=1e-4)
        torch.testing.assert_close(target, batch.reward + 0.99 * (1 - batch.done) * new)
        torch.testing.assert_close(advantage, q - agent.value(batch.obs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log["value_loss"], value_loss(agent, q, before.value(batch.obs)))
        torch.testing.assert_close(log["critic_loss"], agent.critic_loss(before.critics(batch.obs, batch.action), target))


def test_each_loss_reaches_its_own_parameters_only(agent):
    batch = agent.data.sample(32, agent.rng)
    networks = dict(actor=agent.actor, value=agent.value, critics=agent.critics, target_critics=agent.target_critics)
    with torch.no_grad():
        q = agent.target_critics(batch.obs, batch.action).min(0).values
    losses = dict(value=value_loss(agent, q, agent.value(batch.obs)), actor=agent.actor_loss(batch, agent.imitation_weight(q)),
                  critics=agent.critic_loss(agent.critics(batch.obs, batch.action), agent.critic_target(batch, q)))
    for name, loss in losses.items():
        for network in networks.values():
            network.zero_grad()
        loss.backward()
        reached = {n for n, network in networks.items() if any(p.grad is not None and p.grad.any() for p in network.parameters())}
        assert reached == {name}
        assert all(p.grad.any() for p in networks[name].parameters())


def test_an_update_moves_everything_and_the_targets_by_tau(agent):
    before = twin(agent)
    agent.update()
    for name in ("actor", "value", "critics"):
        assert not torch.equal(parameters(getattr(agent, name)), parameters(getattr(before, name)))
    start = parameters(before.target_critics)
    torch.testing.assert_close(parameters(agent.target_critics), start + 0.005 * (parameters(agent.critics) - start), rtol=0, atol=1e-7)
    assert agent.step == 1 and agent.count.item() == 1


def test_advantage_is_of_the_target_twins_minimum(agent):
    calls = recorded(agent, "value_loss")
    with torch.no_grad():
        agent.target_critics.biases[-1][1] -= 100.0
    agent.update()
    (q, _), _ = calls[0]
    assert q.max() < -50


def test_initialisation(agent):
    for network in (agent.actor, agent.value, agent.critics):
        for matrix in network.weights[1]:
            torch.testing.assert_close(matrix @ matrix.T, 2 * torch.eye(256), rtol=0, atol=1e-4)
        for matrix in network.weights[2]:
            torch.testing.assert_close(matrix.norm(dim=0), torch.full((matrix.shape[1],), 2**0.5))
        assert all(not bias.any() for bias in network.biases)
    assert not agent.actor.log_std.any()
    first, second = agent.critics.weights[1]
    assert not torch.allclose(first, second)
    assert torch.equal(parameters(agent.critics), parameters(agent.target_critics))
    assert [tuple(w.shape) for w in agent.critics.weights] == [(2, 14, 256), (2, 256, 256), (2, 256, 1)]


def test_reward_transforms():
    import numpy as np

    rewards = np.array([4.0, 6.0, 30.0, 0.0])  # returns 10 and 30
    np.testing.assert_allclose(REWARDS["return_range"](rewards, np.array([0, 2])), 50 * rewards)
    assert set(REWARDS["r-1"](np.array([0.0, 1.0]), None)) == {-1.0, 0.0}
    for task, reward in (("hopper-medium-v2", "return_range"), ("antmaze-large-play-v0", "r-1"), ("kitchen-mixed-v0", "raw")):
        assert Args(**PAPER[task]).reward == reward


def test_papers_values():
    assert PAPER["antmaze-umaze-v2"] == PAPER["antmaze-umaze-v0"]
    for task, expected in (("walker2d-medium-replay-v2", (0.7, 3.0, 0.0)), ("antmaze-medium-play-v0", (0.9, 10.0, 0.0)),
                           ("kitchen-partial-v0", (0.7, 0.5, 0.1)), ("door-cloned-v0", (0.7, 0.5, 0.1))):
        args = Args(**PAPER[task])
        assert (args.expectile, args.inverse_temperature, args.dropout) == expected
        assert (args.lr, args.batch_size, args.gamma, args.tau, args.updates) == (3e-4, 256, 0.99, 0.005, 1_000_000)


def test_cosine_ends_at_zero_and_stays_there(make_one):
    agent = make_one(updates=8, batch_size=4)
    rates = [agent.update()["actor_lr"].item() for _ in range(12)]
    assert rates[0] == pytest.approx(3e-4) and rates[4] == pytest.approx(1.5e-4)
    assert rates[:8] == sorted(rates[:8], reverse=True) and rates[7] > 0
    assert max(rates[8:]) == pytest.approx(0, abs=1e-10)
    actor = parameters(agent.actor)
    agent.update()
    assert torch.equal(parameters(agent.actor), actor)  # the optimiser reads it
    for optimizer in (agent.value_optimizer, agent.critic_optimizer):
        assert optimizer.param_groups[0]["lr"] == 3e-4


def test_the_optimiser_steps_by_the_schedules_rate(make_one):
    """Adam's first step is the rate times the gradient's sign."""
    agent = make_one(updates=8)
    agent.count += 4  # half way
    before = parameters(agent.actor)
    agent.update()
    moved = (parameters(agent.actor) - before).abs().max()
    assert moved.item() == pytest.approx(1.5e-4, rel=1e-2)


def test_dropout_only_where_the_paper_has_it_and_only_in_the_loss(make_one):
    kitchen, mujoco = make_one(dropout=0.1), make_one()
    obs, action = torch.randn(4, 11), torch.zeros(4, 3)
    for agent, same in ((kitchen, False), (mujoco, True)):
        losses = [agent.actor.log_prob(obs, action, agent.args.dropout, agent.rng) for _ in range(2)]
        assert torch.equal(*losses) == same
        assert torch.equal(agent.actor.act(obs), agent.actor.act(obs))
    assert torch.equal(kitchen.actor.act(obs), mujoco.actor.act(obs))


def test_dropout_keeps_the_expectation_and_drops_a_tenth():
    agent, x = make(dropout=0.1), torch.randn(2000, 11)
    seen = []
    real = torch.baddbmm
    try:
        torch.baddbmm = lambda bias, x, weight: seen.append(x) or real(bias, x, weight)
        out = agent.actor(x, 0.1, agent.rng)
    finally:
        torch.baddbmm = real
    clean = torch.addmm(agent.actor.biases[0][0], x, agent.actor.weights[0][0]).relu()
    hidden = torch.addmm(agent.actor.biases[1][0], seen[1][0], agent.actor.weights[1][0]).relu()
    second = seen[2][0][hidden > 0] / hidden[hidden > 0]
    assert second.round(decimals=4).unique().tolist() == pytest.approx([0.0, 1 / 0.9], abs=1e-4)
    torch.testing.assert_close(out, real(agent.actor.biases[2], seen[2], agent.actor.weights[2]))  # not of the output
    kept = seen[1][0][clean > 0] / clean[clean > 0]
    assert kept.round(decimals=4).unique().tolist() == pytest.approx([0.0, 1 / 0.9], abs=1e-4)
    assert (kept == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_actions_at_the_bound_are_clipped(agent):
    with torch.no_grad():
        agent.data.action.fill_(1.0)
    calls = recorded(agent, "actor_loss")
    agent.update()
    assert calls[0][0][0].action.max().item() == pytest.approx(1 - 1e-5, abs=1e-7) and agent.data.action.max() == 1
