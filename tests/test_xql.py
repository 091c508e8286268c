"""What pins XQL: the Gumbel loss by hand, its clip and rescaling, the additions of the tuned set; the rest it shares with
IQL, in test_iql.py."""

import math

import pytest
import torch

from algorithms.sql_eql import IVR
from algorithms.sql_eql import Args as SqlArgs
from algorithms.xql import PAPER, TUNED, XQL, Args
from common import InputError
from tests.helpers import make_data, parameters, twin
from tests.test_iql import minimiser, recorded, slope


def make(**flags):
    return XQL(Args(**dict(batch_size=32) | flags), make_data(), seed=0)


def loss_of(agent):
    return lambda q, v: agent.value_loss(q, v)[0]


def gradient(agent, q, v=0.0):
    v = torch.full((len(q),), v, dtype=torch.float64, requires_grad=True)
    loss_of(agent)(torch.tensor(q, dtype=torch.float64), v).backward()
    return v.grad.tolist()


@pytest.mark.parametrize("beta, expected", [(2.0, 2.867562), (1.0, 3.325003), (0.5, 3.653594)])
def test_minimiser(beta, expected):
    assert minimiser(loss_of(make(beta=beta)), [0.0, 4.0], 2.0) == pytest.approx(expected, abs=1e-6)


def test_loss_by_hand():
    agent = make(beta=1.0)
    loss, m = agent.value_loss(torch.tensor([1.0]), torch.tensor([0.0]))
    assert m == 1 and loss.item() == pytest.approx((math.e - 2) / math.e, abs=1e-6)
    loss, m = agent.value_loss(torch.tensor([1.5]), torch.tensor([1.5]))
    assert m == 0 and loss == 0


def test_gradient_is_eqls():
    expected = [(1 - math.exp(-10)) / math.e / 3, 0.0, (1 - math.e) / math.e / 3]
    assert gradient(make(beta=1.0), [-10.0, 0.0, 1.0]) == pytest.approx(expected)
    eql = IVR(SqlArgs(algorithm="eql", eql_alpha=1.0), make_data(), 0)
    q, v = torch.randn(2, 30, dtype=torch.float64)
    v.requires_grad_(True)
    grads = [torch.autograd.grad(loss(q, v), v)[0] for loss in (loss_of(make(beta=1.0)), eql.value_loss)]
    torch.testing.assert_close(*grads)


def test_clipped_samples_have_no_gradient():
    """EQL as released has +exp(-5) / 2 there."""
    assert gradient(make(beta=1.0), [0.0, 100.0]) == [0.0, 0.0]
    agent = make(beta=1.0, clip=5.0)
    assert slope(loss_of(agent), [0.0] * 99 + [20.0], 0.0) == 0.0  # V is stuck; the log-mean-exp is above 15


def test_loss_is_never_negative_and_finite():
    agent, q = make(beta=0.5), torch.randn(1000, dtype=torch.float64) * 5
    for value in q:
        loss, m = agent.value_loss(value[None], torch.zeros(1, dtype=torch.float64))
        z = min(value.item() / 0.5, 7.0)
        assert loss >= -1e-12 and loss.item() == pytest.approx(math.exp(-m) * (math.exp(z) - z - 1), rel=1e-9, abs=1e-12)
    for extreme in (1e6, -1e6):
        assert torch.isfinite(agent.value_loss(torch.tensor([extreme, 0.0]), torch.zeros(2))[0])


def test_floor_of_m():
    agent = make(beta=2.0)
    assert agent.value_loss(torch.tensor([-100.0, -100.0]), torch.zeros(2))[1] == -1
    assert gradient(agent, [-100.0]) == pytest.approx([math.e / 2 * (1 - math.exp(-50))])


def test_large_beta_is_the_mean_and_beta_orders_the_values():
    q = [-4.0, 0.0, 1.0, 4.0]
    assert minimiser(loss_of(make(beta=1e3)), q) == pytest.approx(0.25, abs=1e-2)
    found = [minimiser(loss_of(make(beta=beta)), q, 0.0) for beta in (0.7, 1.0, 2.0, 5.0, 20.0)]
    assert found == sorted(found, reverse=True) and 0.25 < found[-1] < found[0] < 4


def test_huber_and_the_sum_over_critics():
    agent, q = make(), torch.tensor([[30.0], [10.0]], requires_grad=True)
    loss = agent.critic_loss(q, torch.zeros(1))
    loss.backward()
    assert loss.item() == pytest.approx(400 + 50) and q.grad[:, 0].tolist() == [20.0, 10.0]


def test_weights_do_not_depend_on_beta():
    for beta in (0.5, 5.0):
        torch.testing.assert_close(make(beta=beta).imitation_weight(torch.tensor([1.0])), torch.tensor([20.0855]), rtol=1e-5, atol=0)
    assert make(inverse_temperature=10.0).imitation_weight(torch.tensor([0.5])) == 100


def test_random_actions_are_in_the_value_loss_only():
    agent = make(num_random=2)
    before, value, actor, critic = twin(agent), recorded(agent, "value_loss"), recorded(agent, "actor_loss"), recorded(agent, "critic_loss")
    agent.update()
    assert value[0][0][0].shape == (96,) and actor[0][0][1].shape == (32,) and critic[0][0][0].shape == (2, 32)
    batch = actor[0][0][0]
    with torch.no_grad():
        q = before.target_critics(batch.obs, batch.action).min(0).values
        torch.testing.assert_close(value[0][0][0][:32], q)
        torch.testing.assert_close(actor[0][0][1], agent.imitation_weight(q - agent.value(batch.obs)), rtol=1e-4, atol=1e-5)
    obs, action = agent.value_batch(batch)
    assert torch.equal(obs, batch.obs.repeat(3, 1)) and torch.equal(action[:32], batch.action)
    assert action[32:].min() < -0.8 and action[32:].max() > 0.8 and abs(action[32:].mean()) < 0.15


def test_noise_is_clipped_and_in_the_value_loss_only():
    agent = make(noise=0.4, batch_size=4000)
    batch = agent.data.sample(4000, agent.rng)._replace(action=torch.full((4000, 3), 0.2))
    _, action = agent.value_batch(batch)
    assert action.min().item() == pytest.approx(-0.3) and action.max().item() == pytest.approx(0.7)
    assert 0.25 < action.std() < 0.4 and (batch.action == 0.2).all()
    actor = recorded(agent, "actor_loss")
    agent.update()
    rows = {tuple(row) for row in agent.data.action.clamp(-1 + 1e-5, 1 - 1e-5).tolist()}
    assert all(tuple(row) in rows for row in actor[0][0][0].action.tolist())


def test_both_at_once_are_refused():
    with pytest.raises(InputError, match="exclude"):
        make(num_random=1, noise=0.1)


def test_value_steps():
    agent = make(value_steps=4)
    target, value = parameters(agent.target_critics), recorded(agent, "value_loss")
    agent.update()
    assert len(value) == 4 and all(torch.equal(value[0][0][0], call[0][0]) for call in value)
    assert len({call[1][0].item() for call in value}) == 4  # V moved in between
    assert {int(state["step"]) for state in agent.value_optimizer.state.values()} == {4}
    assert {int(state["step"]) for state in agent.critic_optimizer.state.values()} == {1}
    torch.testing.assert_close(parameters(agent.target_critics), target + 0.005 * (parameters(agent.critics) - target), rtol=0, atol=1e-7)


def test_logged_m_and_clipped_share():
    agent = make(beta=0.1)
    value = recorded(agent, "value_loss")
    with torch.no_grad():
        agent.target_critics.biases[-1] += 0.2
    log = agent.update()
    (q, _), (_, m) = value[0]
    with torch.no_grad():
        assert log["max"] == m and 0 < m <= 7
    high = make(beta=0.01, lr=0.0)  # V stays
    value = recorded(high, "value_loss")
    log = high.update()
    (q, v), _ = value[0]
    assert log["clipped"].item() == pytest.approx((q - v > 0.07).float().mean().item()) and 0 < log["clipped"] < 1


def test_rate_is_constant_on_antmaze():
    agent = make(**PAPER["antmaze-umaze-v0"] | dict(updates=4, batch_size=4))
    assert [agent.update()["actor_lr"].item() for _ in range(6)] == pytest.approx([3e-4] * 6)
    for task, cosine in (("hopper-medium-v2", True), ("kitchen-mixed-v0", True), ("pen-human-v0", True), ("antmaze-large-play-v0", False)):
        assert Args(**PAPER[task]).cosine == cosine


def test_values_of_both_tables():
    for task, expected in (("hopper-medium-v2", (2, 7, 256, 3.0)), ("antmaze-large-diverse-v0", (0.6, 7, 256, 10.0)),
                           ("kitchen-partial-v0", (5, 7, 256, 0.5))):
        args = Args(**PAPER[task])
        assert (args.beta, args.clip, args.batch_size, args.inverse_temperature) == expected
    assert len(TUNED) == 18
    tuned = """halfcheetah-medium-v2 1 7 1024 noise, hopper-medium-v2 5 7 1024, walker2d-medium-v2 10 7 1024,
        halfcheetah-medium-replay-v2 1 5 256, hopper-medium-replay-v2 2 7 256, walker2d-medium-replay-v2 5 5 1024,
        halfcheetah-medium-expert-v2 1 5 1024, hopper-medium-expert-v2 2 7 1024 random, walker2d-medium-expert-v2 2 5 256,
        antmaze-umaze-v0 2 7 256, antmaze-umaze-diverse-v0 5 7 256 random, antmaze-medium-play-v0 0.8 5 256,
        antmaze-medium-diverse-v0 0.6 7 256 steps, antmaze-large-play-v0 0.6 5 1024, antmaze-large-diverse-v0 0.55 5 1024,
        kitchen-complete-v0 2 7 1024, kitchen-partial-v0 5 7 1024, kitchen-mixed-v0 8 7 1024"""
    for task, beta, clip, size, *extra in map(str.split, tuned.split(",")):
        args = Args(**TUNED[task])
        expected = float(beta), float(clip), int(size), int(extra == ["random"]), 0.1 * (extra == ["noise"]), 4 if extra == ["steps"] else 1
        assert (args.beta, args.clip, args.batch_size, args.num_random, args.noise, args.value_steps) == expected
        assert (args.reward, args.cosine) == (PAPER[task].get("reward", "raw"), "antmaze" not in task)
