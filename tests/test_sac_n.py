"""What pins SAC-N: hand-computed losses and targets, initialisation, which parameters each loss moves."""

import math

import pytest
import torch

from algorithms.sac_n import PAPER, SAC_10, SACN, Args
from tests.helpers import make_data, parameters, twin


@pytest.fixture
def agent():
    return SACN(Args(batch_size=32, num_critics=4), make_data(), seed=0)


def test_two_critics_are_clipped_double_q_sac():
    agent = SACN(Args(num_critics=2), make_data(), seed=0)
    batch, alpha = agent.data.sample(32, agent.rng), torch.tensor(0.7)
    state = agent.rng.get_state()
    target = agent.critic_target(batch, alpha)
    agent.rng.set_state(state)
    action, log_prob = agent.actor.sample(*agent.actor(batch.next_obs), agent.rng)
    q1, q2 = agent.target_critics(batch.next_obs, action)
    torch.testing.assert_close(target, batch.reward + 0.99 * (1 - batch.done) * (torch.minimum(q1, q2) - 0.7 * log_prob))
    loss = agent.actor_loss(torch.stack([q1, q2]), log_prob, alpha)
    torch.testing.assert_close(loss, (0.7 * log_prob - torch.minimum(q1, q2)).mean())


def test_equal_critics_give_n_times_one(agent):
    with torch.no_grad():
        for p in agent.critics.parameters():
            p.copy_(p[:1].expand_as(p))
    batch = agent.data.sample(32, agent.rng)
    q, target = agent.critics(batch.obs, batch.action), torch.randn(32)
    loss = agent.critic_loss(q, target)
    single = ((q[0] - target) ** 2).mean()
    assert loss.item() == pytest.approx(4 * single.item(), rel=1e-6)
    loss.backward(retain_graph=True)
    whole = agent.critics.weights[1].grad.clone()
    agent.critics.zero_grad()
    single.backward()
    for k in range(4):
        torch.testing.assert_close(whole[k], agent.critics.weights[1].grad[0])


def test_log_probability_by_hand(agent):
    mean, log_std = torch.zeros(1, 1), torch.zeros(1, 1)
    real, torch.randn = torch.randn, lambda *a, **k: torch.full((1, 1), 0.5)
    try:
        action, log_prob = agent.actor.sample(mean, log_std, agent.rng)
    finally:
        torch.randn = real
    assert action.item() == pytest.approx(math.tanh(0.5)) and log_prob.item() == pytest.approx(-0.803711, abs=1e-5)


def test_log_probability_integrates_to_one(agent):
    """exp(log_prob) averaged over uniform actions is 1/2: checks the change of variables without its formula."""
    mean, log_std = torch.tensor([[0.3]]), torch.tensor([[-0.5]])
    noise = torch.linspace(-8, 8, 20001)[:, None]
    real, torch.randn = torch.randn, lambda *a, **k: noise
    try:
        action, log_prob = agent.actor.sample(mean.expand(20001, 1), log_std.expand(20001, 1), agent.rng)
    finally:
        torch.randn = real
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=1e-3)


def test_terminal_row_gives_the_reward(agent):
    batch = agent.data.sample(16, agent.rng)
    batch = batch._replace(done=torch.ones(16), next_obs=torch.full_like(batch.next_obs, 1e4))
    assert torch.equal(agent.critic_target(batch, torch.tensor(1.0)), batch.reward)


def test_actor_loss_does_not_move_the_critics(agent):
    other = twin(agent)
    other.actor_loss = lambda q, log_prob, alpha: 0.0 * log_prob.mean()
    for a in (agent, other):
        a.update()
    assert torch.equal(parameters(agent.critics), parameters(other.critics))
    assert not torch.equal(parameters(agent.actor), parameters(other.actor))


def test_each_loss_moves_its_own_parameters(agent):
    for name, module in (("alpha_loss", "log_alpha"), ("actor_loss", "actor"), ("critic_loss", "critics")):
        other = twin(agent)
        for loss in {"alpha_loss", "actor_loss", "critic_loss"} - {name}:
            real = getattr(other, loss)
            setattr(other, loss, lambda *args, real=real: real(*args) * 0.0)
        before = {key: parameters(getattr(other, key)) for key in ("log_alpha", "actor", "critics")}
        other.update()
        moved = {key for key in before if not torch.equal(before[key], parameters(getattr(other, key)))}
        assert moved == {module}


def test_losses_see_the_parameters_before_the_update(agent):
    """alpha in the target and the actor's loss is the old one; a' comes from the old actor."""
    other = twin(agent)
    with torch.no_grad():
        agent.log_alpha.fill_(0.3), other.log_alpha.fill_(0.3)
    logs = agent.update()
    batch = other.data.sample(32, other.rng)
    action, log_prob = other.actor.sample(*other.actor(batch.obs), other.rng)
    alpha = torch.tensor(0.3).exp()
    torch.testing.assert_close(logs["actor_loss"], (alpha * log_prob - other.critics(batch.obs, action).amin(0)).mean())
    target = other.critic_target(batch, alpha)
    torch.testing.assert_close(logs["target"], target.mean())
    torch.testing.assert_close(logs["critic_loss"], ((other.critics(batch.obs, batch.action) - target) ** 2).mean())


def test_policy_gradient_goes_through_the_smallest_critic_only(agent):
    q = torch.tensor([[1.0, 5.0], [2.0, 3.0], [4.0, 4.0]], requires_grad=True)
    agent.actor_loss(q, torch.zeros(2), torch.tensor(1.0)).backward()
    torch.testing.assert_close(q.grad, torch.tensor([[-0.5, 0.0], [0.0, -0.5], [0.0, 0.0]]))


@pytest.mark.parametrize("log_prob, sign", [(3.0, 0), (4.0, -1), (1.0, 1)])
def test_temperature_gradient(agent, log_prob, sign):
    (gradient,) = torch.autograd.grad(agent.alpha_loss(torch.full((8,), log_prob)), agent.log_alpha)
    assert gradient.item() == pytest.approx(-(log_prob - 3)) and torch.sign(gradient).item() == sign  # descent raises alpha if gradient < 0


def test_initialisation(agent):
    first = agent.critics.weights[0].abs().max()
    assert 0.95 / math.sqrt(14) < first <= 1 / math.sqrt(14)
    assert 0.95 / 16 < agent.critics.weights[2].abs().max() <= 1 / 16
    for weight in agent.actor.weights:
        assert 0.9 / 16 < weight.abs().max() <= 1 / 16  # the first layer too
    for bias in [*agent.actor.biases, *agent.critics.biases[:3]]:
        assert torch.equal(bias, torch.full_like(bias, 0.1))
    assert 0 < agent.actor.head_weight.abs().max() <= 1e-3 and 0 < agent.actor.head_bias.abs().max() <= 1e-3
    assert 0 < agent.critics.weights[3].abs().max() <= 3e-3 and 0 < agent.critics.biases[3].abs().max() <= 3e-3
    assert not torch.equal(parameters(agent.critics), parameters(agent.target_critics))
    assert agent.log_alpha.item() == 0


def test_polyak_step(agent):
    with torch.no_grad():
        for p, t in zip(agent.critics.parameters(), agent.target_critics.parameters()):
            p.fill_(1.0), t.fill_(0.0)
    agent.critic_optimizer.step = lambda: None  # critics stay at 1
    for t in range(1, 4):
        agent.update()
        assert parameters(agent.target_critics).sub(1 - 0.995**t).abs().max() < 1e-7
    assert not any(p.requires_grad or p.grad_fn for p in agent.target_critics.parameters())  # no graph grows behind them


def test_any_number_of_critics():
    for num in (1, 2, 5):
        agent = SACN(Args(num_critics=num, batch_size=8), make_data(), seed=0)
        assert all(torch.isfinite(value) for value in agent.update().values())


def test_minimum_of_ten_normals():
    draws = torch.randn(10, 1_000_000, generator=torch.Generator().manual_seed(0))
    assert draws.amin(0).mean().item() == pytest.approx(-1.539, abs=0.005)  # c_10 of the docstring


def test_log_std_is_clamped_with_zero_gradient(agent):
    with torch.no_grad():
        agent.actor.head_bias[3:] = torch.tensor([-9.0, 0.0, 9.0])
    _, log_std = agent.actor(torch.zeros(1, 11))
    assert log_std[0, 0] == -5 and log_std[0, 2] == 2
    (gradient,) = torch.autograd.grad(log_std.sum(), agent.actor.head_bias)
    assert gradient[3] == 0 and gradient[4] == 1 and gradient[5] == 0


def test_max_q_backup(agent):
    agent.args.max_q_backup = True
    batch = agent.data.sample(8, agent.rng)
    state = agent.rng.get_state()
    target = agent.critic_target(batch, torch.tensor(123.0))  # no entropy term
    agent.rng.set_state(state)
    next_obs = batch.next_obs.repeat_interleave(10, 0)
    actions, _ = agent.actor.sample(*agent.actor(next_obs), agent.rng)
    best = torch.stack([agent.critics(next_obs[10 * b:10 * b + 10], actions[10 * b:10 * b + 10]).amax(1).amin() for b in range(8)])
    torch.testing.assert_close(target, batch.reward + 0.99 * (1 - batch.done) * best)


def test_act_is_the_mean_on_raw_observations():
    data = make_data()
    agent = SACN(Args(normalize=True), data, seed=1)
    obs = data.obs[:5]
    x = (obs - data.obs_mean) / (data.obs_std + 1e-6)
    plain = SACN(Args(normalize=False), data, seed=1)
    torch.testing.assert_close(agent.actor.act(obs), torch.tanh(plain.actor(x)[0]))
    torch.testing.assert_close(agent.critics(obs, data.action[:5]), plain.critics(x, data.action[:5]))


def test_settings():
    assert PAPER["hopper-medium-v2"] == dict(num_critics=500) and PAPER["walker2d-expert-v2"] == dict(num_critics=100)
    assert len(SAC_10) == 15 and SAC_10["hopper-medium-v2"] == dict(num_critics=10, normalize=True)
    assert PAPER["pen-cloned-v1"]["max_q_backup"] and PAPER["pen-human-v1"]["actor_lr"] == 3e-5
