"""What pins AWAC: weights and targets by hand, the order of an update, which parameters each step moves."""

import math

import pytest
import torch

from algorithms.awac import AWAC, PAPER, Args
from common.sources import D4RL
from tests.helpers import make_data, parameters, twin


@pytest.fixture
def agent():
    return AWAC(Args(batch_size=32), make_data(), seed=0)


def with_args(agent, **flags):
    for name, value in flags.items():
        setattr(agent.args, name, value)
    return agent


@pytest.mark.parametrize("mode, expected", [("exp_clip", [2.71828, 1.0, 0.36788]), ("batch_softmax", [1.99572, 0.73418, 0.27009])])
def test_weights_by_hand(agent, mode, expected):
    with_args(agent, temperature=1.0, weight=mode)
    weight = agent.imitation_weight(torch.tensor([1.0, 0.0, -1.0]))
    torch.testing.assert_close(weight, torch.tensor(expected), rtol=0, atol=1e-5)
    if mode == "batch_softmax":
        assert weight.mean().item() == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("mode", ["exp_clip", "batch_softmax"])
def test_a_constant_added_to_all_advantages(agent, mode):
    with_args(agent, temperature=0.5, weight=mode)
    advantage = torch.randn(32, generator=agent.rng)
    before, after = agent.imitation_weight(advantage), agent.imitation_weight(advantage - 0.7)
    torch.testing.assert_close(after, before * (math.exp(-0.7 / 0.5) if mode == "exp_clip" else 1.0), rtol=1e-5, atol=0)


def test_temperature_divides(agent):
    with_args(agent, temperature=0.5)
    assert agent.imitation_weight(torch.tensor([1.0])).item() == pytest.approx(math.exp(2))


def test_weights_are_capped_without_overflow(agent):
    with_args(agent, temperature=0.1)
    weight = agent.imitation_weight(torch.tensor([1.0, 1e30, -1e30, 0.4]))  # A / lambda: 10, huge, -huge, 4
    torch.testing.assert_close(weight, torch.tensor([100.0, 100.0, 0.0, math.exp(4)]))


@pytest.mark.parametrize("mode", ["exp_clip", "batch_softmax"])
def test_an_infinite_temperature_is_behaviour_cloning(agent, mode):
    with_args(agent, temperature=1e9, weight=mode)
    batch = agent.data.sample(32, agent.rng)
    mean, log_std = agent.actor(batch.obs)
    log_prob = agent.actor.log_prob(mean, log_std, batch.action)
    weight = agent.imitation_weight(agent.advantage(batch, mean, log_std))
    torch.testing.assert_close(weight, torch.ones(32), rtol=0, atol=1e-6)
    nll = -torch.distributions.Normal(mean, log_std.exp()).log_prob(batch.action).sum(1).mean()
    assert agent.actor_loss(log_prob, weight).item() == pytest.approx(nll.item(), abs=1e-5)
    assert agent.actor_loss(log_prob, weight).item() == pytest.approx(-log_prob.mean().item(), abs=1e-6)


def test_actor_loss_by_hand(agent):
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = agent.actor_loss(log_prob, torch.tensor([3.0, 0.5]))
    assert loss.item() == pytest.approx((3 + 1) / 2)
    loss.backward()
    torch.testing.assert_close(log_prob.grad, torch.tensor([-1.5, -0.25]))


def test_log_probability_by_hand(agent):
    zero = torch.zeros(1, 3)
    assert agent.actor.log_prob(zero, torch.zeros(3), zero).item() == pytest.approx(-2.756816, abs=1e-6)
    # std 0.5, (a - mean) / std = 1, 0, -2: -0.5 (1 + 4) + 3 log 2 - 2.756816
    log_prob = agent.actor.log_prob(zero, torch.full((3,), math.log(0.5)), torch.tensor([[0.5, 0.0, -1.0]]))
    assert log_prob.item() == pytest.approx(-2.5 + 2.079442 - 2.756816, abs=1e-5)


def test_target_at_a_terminal_row_is_the_reward(agent):
    batch = agent.data.sample(64, agent.rng)
    batch = batch._replace(done=torch.ones(64), next_obs=torch.full_like(batch.next_obs, 1e6))
    assert torch.equal(agent.critic_target(batch), batch.reward)


def test_target_by_hand(agent):
    """The minimum of the target critics at one clamped sample of the actor at s'."""
    agent.target_critics.forward = lambda obs, action: torch.stack([obs[:, 0] + action.sum(1), obs[:, 1] - action.sum(1)])
    batch = agent.data.sample(32, agent.rng)
    other = twin(agent)
    target = agent.critic_target(batch)
    mean, log_std = other.actor(batch.next_obs)
    action = (mean + torch.randn(mean.shape, generator=other.rng)).clamp(-1, 1)  # std 1
    q = torch.minimum(batch.next_obs[:, 0] + action.sum(1), batch.next_obs[:, 1] - action.sum(1))
    torch.testing.assert_close(target, batch.reward + 0.99 * (1 - batch.done) * q)
    assert not target.requires_grad


def test_samples_are_clamped_and_have_the_std(agent):
    mean, log_std = torch.full((100_000, 3), 0.5), torch.full((3,), math.log(0.4))
    action = agent.actor.sample(mean, log_std, agent.rng)
    inside = action.abs() < 1
    assert action.abs().max() == 1 and 0.1 < 1 - inside.float().mean() < 0.12  # P(z > 1.25) = 0.1056
    assert (action < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert (action < 0.1).float().mean().item() == pytest.approx(0.1587, abs=0.01)  # one std below


def test_advantage_takes_the_minimum_twice(agent):
    """Of the online critics, at the data's action and at a clamped sample, without gradient."""
    agent.critics.forward = lambda obs, action: torch.stack([action.sum(1), obs[:, 0] - action.sum(1)])
    batch = agent.data.sample(32, agent.rng)
    other = twin(agent)
    mean, log_std = agent.actor(batch.obs)
    advantage = agent.advantage(batch, mean, log_std)
    sample = (mean + torch.randn(mean.shape, generator=other.rng)).clamp(-1, 1)
    expected = [torch.minimum(a.sum(1), batch.obs[:, 0] - a.sum(1)) for a in (batch.action, sample)]
    torch.testing.assert_close(advantage, (expected[0] - expected[1]).detach())
    assert not advantage.requires_grad and advantage.shape == (32,)


def test_critic_loss_is_a_sum_over_critics(agent):
    assert agent.critic_loss(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0])).item() == pytest.approx(2.5 + 0.5)


def test_each_loss_reaches_its_own_parameters_only(agent):
    batch = agent.data.sample(32, agent.rng)
    agent.critic_loss(agent.critics(batch.obs, batch.action), agent.critic_target(batch)).backward()
    assert all(p.grad is None for p in agent.actor.parameters()) and all(p.grad.abs().sum() > 0 for p in agent.critics.parameters())
    agent.critics.zero_grad()
    mean, log_std = agent.actor(batch.obs)
    weight = agent.imitation_weight(agent.advantage(batch, mean, log_std))
    agent.actor_loss(agent.actor.log_prob(mean, log_std, batch.action), weight).backward()
    assert all(p.grad is None for p in [*agent.critics.parameters(), *agent.target_critics.parameters()])
    assert all(p.grad.abs().sum() > 0 for p in agent.actor.parameters())


def test_the_gradient_reaches_the_actor_through_log_pi_alone(agent):
    batch = agent.data.sample(32, agent.rng)
    mean, log_std = agent.actor(batch.obs)
    weight = agent.imitation_weight(agent.advantage(batch, mean, log_std))
    loss = agent.actor_loss(agent.actor.log_prob(mean, log_std, batch.action), weight)
    by_mean, by_log_std = torch.autograd.grad(loss, [mean, agent.actor.log_std])
    error = batch.action - mean.detach()  # std 1
    torch.testing.assert_close(by_mean, -weight[:, None] * error / 32)
    torch.testing.assert_close(by_log_std, -(weight[:, None] * (error**2 - 1)).mean(0))


def test_an_update_by_hand(agent):
    """Target, critics' step, advantage under the new critics, actor's step, targets' step."""
    other = twin(agent)
    logs = agent.update()
    batch = other.data.sample(32, other.rng)
    target = other.critic_target(batch)
    critic_loss = ((other.critics(batch.obs, batch.action) - target) ** 2).mean(1).sum()
    critic_loss.backward()
    torch.optim.Adam(other.critics.parameters(), 3e-4).step()
    mean, log_std = other.actor(batch.obs)
    sample = (mean + torch.randn(mean.shape, generator=other.rng)).clamp(-1, 1).detach()
    with torch.no_grad():
        advantage = other.critics(batch.obs, batch.action).amin(0) - other.critics(batch.obs, sample).amin(0)
        weight = (advantage / other.args.temperature).exp().clamp(max=100)
    actor_loss = -(weight * torch.distributions.Normal(mean, 1.0).log_prob(batch.action).sum(1)).mean()
    names = dict(critic_loss=critic_loss, actor_loss=actor_loss, advantage=advantage.mean(), weight=weight.mean())
    for name, value in names.items():
        torch.testing.assert_close(logs[name], value, rtol=1e-4, atol=1e-5)
    loss = -(weight * other.actor.log_prob(mean, log_std, batch.action)).mean()
    other.actor.zero_grad()
    loss.backward()
    torch.optim.Adam(other.actor.parameters(), 3e-4).step()
    for name in ("actor", "critics"):
        torch.testing.assert_close(parameters(getattr(agent, name)), parameters(getattr(other, name)), rtol=0, atol=2e-6)
    assert agent.step == 1 and logs["log_std"].item() == 0 and logs["capped"].item() == 0


def test_steps_move_their_own_parameters(agent):
    names = ("actor", "critics", "target_critics")
    for loss, moved in (("critic_loss", {"actor"}), ("actor_loss", {"critics", "target_critics"})):
        other = twin(agent)
        real = getattr(other, loss)
        setattr(other, loss, lambda *args: 0.0 * real(*args))
        before = {name: parameters(getattr(other, name)) for name in names}
        other.update()
        assert {name for name in names if not torch.equal(before[name], parameters(getattr(other, name)))} == moved


def test_targets_are_a_copy_and_follow_every_update(agent):
    start = parameters(agent.critics)
    assert torch.equal(parameters(agent.target_critics), start)
    agent.update()
    first = parameters(agent.target_critics)
    torch.testing.assert_close(first, 0.995 * start + 0.005 * parameters(agent.critics), rtol=0, atol=1e-7)
    agent.update()
    torch.testing.assert_close(parameters(agent.target_critics), 0.995 * first + 0.005 * parameters(agent.critics), rtol=0, atol=1e-7)
    assert not any(p.requires_grad or p.grad_fn for p in agent.target_critics.parameters())


def test_two_passes_of_the_actor_are_enough(agent):
    calls, real = [], agent.actor.forward
    agent.actor.forward = lambda obs: calls.append(obs) or real(obs)
    agent.update()
    assert len(calls) == 2


def test_capped_is_the_share_at_the_cap(agent):
    agent.advantage = lambda batch, mean, log_std: torch.tensor([10.0] * 8 + [0.0] * 24)
    logs = agent.update()
    assert logs["capped"].item() == 0.25 and logs["weight"].item() == pytest.approx(25.75)


def test_log_std_is_one_clamped_vector(agent):
    obs = agent.data.obs[:5]
    assert torch.equal(agent.actor(obs)[1].exp(), torch.ones(3))  # std 1 at first
    with torch.no_grad():
        agent.actor.log_std[:] = torch.tensor([-99.0, 1.0, 99.0])
    assert agent.actor(obs)[1].tolist() == [-20, 1, 2]


def test_the_mean_is_not_squashed_but_clamped_for_the_environment(agent):
    obs = agent.data.obs[:5]
    with torch.no_grad():
        agent.actor.biases[-1][:] = torch.tensor([5.0, 0.0, -5.0])
    mean, action = agent.actor(obs)[0], agent.actor.act(obs)
    assert (mean[:, 0] > 4).all() and (action[:, 0] == 1).all() and (action[:, 2] == -1).all()
    assert torch.equal(action[:, 1], mean[:, 1])


def test_the_authors_bounded_policy():
    """mean = tanh of the network, log std = -6 + 6 sigmoid(u): std exp(-3) at first, between exp(-6) and 1 for ever."""
    agent, free = (AWAC(Args(batch_size=32, bounded=bounded), make_data(), seed=0) for bounded in (True, False))
    obs = agent.data.obs[:5]
    mean, log_std = agent.actor(obs)
    assert torch.equal(mean, torch.tanh(free.actor(obs)[0])) and torch.equal(agent.actor.act(obs), mean)
    torch.testing.assert_close(log_std.exp(), torch.full((3,), 0.049787), rtol=0, atol=1e-6)
    assert agent.update()["log_std"].item() == -3 and free.update()["log_std"].item() == 0
    with torch.no_grad():
        agent.actor.log_std[:] = torch.tensor([-99.0, math.log(2), 99.0])  # sigmoid 0, 2/3, 1
    torch.testing.assert_close(agent.actor(obs)[1], torch.tensor([-6.0, -2.0, 0.0]), rtol=0, atol=1e-5)


def test_networks_and_their_initialisation(agent):
    assert [tuple(w.shape) for w in agent.actor.weights] == [(256, 11), (256, 256), (256, 256), (3, 256)]
    assert [tuple(w.shape) for w in agent.critics.weights] == [(2, 14, 256), (2, 256, 256), (2, 256, 256), (2, 256, 1)]
    for net, first in ((agent.actor, 11), (agent.critics, 14)):
        for weight, bias, fan_in in zip(net.weights, net.biases, (first, 256, 256, 256)):
            bound = fan_in**-0.5
            assert 0.95 * bound < weight.abs().max() <= bound and 0 < bias.abs().max() <= bound
    obs, action = agent.data.obs[:5], agent.data.action[:5]
    x = torch.cat([(obs - agent.data.obs_mean) / (agent.data.obs_std + 1e-3), action], 1)
    for k in range(2):
        h = x
        for i in range(4):
            h = h @ agent.critics.weights[i][k] + agent.critics.biases[i][k]
            h = torch.relu(h) if i < 3 else h
        torch.testing.assert_close(agent.critics(obs, action)[k], h[:, 0])
    raw = AWAC(Args(normalize=False), agent.data, seed=0)
    torch.testing.assert_close(raw.actor(x[:, :11])[0], agent.actor(obs)[0])


def test_settings():
    args = Args()
    assert (args.updates, args.batch_size, args.lr, args.gamma, args.tau, args.weight) == (1_000_000, 256, 3e-4, 0.99, 0.005, "exp_clip")
    assert set(PAPER) <= set(D4RL) and len(PAPER) == 18 + 15 + 6 + 6 + 12
    assert {values["temperature"] for name, values in PAPER.items() if name.startswith(("half", "hop", "walk"))} == {0.3333}
    assert {values["temperature"] for name, values in PAPER.items() if not name.startswith(("half", "hop", "walk"))} == {0.1}
    assert {name for name, values in PAPER.items() if values.get("reward")} == {name for name in PAPER if "antmaze" in name}
    assert PAPER["antmaze-umaze-v2"] == dict(temperature=0.1, reward="r-1", eval_episodes=100)
    assert PAPER["maze2d-large-v1"] == PAPER["maze2d-umaze-dense-v1"] == dict(temperature=0.1, eval_episodes=100)
    assert PAPER["pen-human-v1"] == dict(temperature=0.1)
