"""What pins PBRL: both kinds of pessimism by hand, the schedule of beta, the order of the update, its limits."""

import pytest
import torch

from algorithms.pbrl import PAPER, PBRL, Args
from tests.helpers import make_data, parameters, twin


def make_agent(**flags):
    return PBRL(Args(**{"batch_size": 16, "num_critics": 3, "num_actions": 2} | flags), make_data(), seed=0)


def constant(*values):
    """Critics of fixed values, whatever the states and actions, as a leaf (N, 1)."""
    return torch.tensor(values)[:, None].requires_grad_()


def test_uncertainty_is_the_unbiased_std():
    agent = make_agent()
    assert agent.uncertainty(torch.tensor([[1.0], [2.0], [3.0]])).item() == pytest.approx(1.0)  # the population std is 0.8165


def test_ood_loss_by_hand():
    agent, q = make_agent(), constant(1.0, 2.0, 3.0)
    loss = agent.ood_loss(q, 2.0)[0]  # targets max(-1, 0), max(0, 0), 1: squares 1, 4, 4
    torch.testing.assert_close(loss, torch.tensor(9.0))
    agent.args.clip = False
    torch.testing.assert_close(agent.ood_loss(q, 2.0)[0], torch.tensor(12.0))  # targets -1, 0, 1


def test_equal_critics_have_nothing_to_fear():
    agent, q = make_agent(), torch.full((3, 8), 5.0, requires_grad=True)
    loss = agent.ood_loss(q, 2.0)[0]
    assert loss == 0 and not torch.autograd.grad(loss, q)[0].any()
    below = torch.full((3, 8), -2.0, requires_grad=True)  # the clip pulls negative values up to 0
    loss = agent.ood_loss(below, 2.0)[0]
    assert loss == 3 * 4 and (torch.autograd.grad(loss, below)[0] < 0).all()


def test_ood_gradient_is_the_same_push_for_every_critic():
    agent = make_agent()
    q = (10 + torch.randn(3, 64, generator=torch.Generator().manual_seed(0))).requires_grad_()  # 16 states x 4 actions
    (gradient,) = torch.autograd.grad(0.5 * agent.ood_loss(q, 1.5)[0], q)
    torch.testing.assert_close(gradient, (1.5 * q.detach().std(0) / 64).expand(3, -1))


def test_whole_ood_loss_pools_both_halves():
    """Half of the mean over policy actions at s with beta_ood, half of that at s' with 0.1."""
    agent = make_agent(beta_start=2.0, beta_end=2.0)
    forward = agent.critics.forward
    agent.critics.forward = lambda obs, action: 0 * forward(obs, action) + 100 + torch.arange(3.0)[:, None]  # u is 1 everywhere
    torch.testing.assert_close(agent.update()["ood_loss"], torch.tensor(0.5 * 2.0**2 + 0.5 * 0.1**2), rtol=1e-4, atol=0)


def test_target_follows_each_critics_own_target():
    agent = make_agent(beta_in=0.5)
    batch = agent.data.sample(16, agent.rng)
    state = agent.rng.get_state()
    target = agent.critic_target(batch)
    agent.rng.set_state(state)
    action, _ = agent.actor.sample(*agent.actor(batch.next_obs), agent.rng)
    q = agent.target_critics(batch.next_obs, action)
    assert target.shape == (3, 16) and (target[:, batch.done == 0].std(0) > 0).all()
    expected = batch.reward + 0.99 * (1 - batch.done) * (q - 0.5 * q.std(0))  # no entropy, no minimum
    torch.testing.assert_close(target, expected)
    torch.testing.assert_close(target.mean(0), batch.reward + 0.99 * (1 - batch.done) * (q.mean(0) - 0.5 * q.std(0)))


def test_terminal_row_gives_the_reward():
    agent = make_agent()
    batch = agent.data.sample(16, agent.rng)._replace(done=torch.ones(16))
    assert torch.equal(agent.critic_target(batch), batch.reward.expand(3, -1))


@pytest.mark.parametrize("update, beta", [(1, 4.99992), (25_000, 3.0), (49_999, 1.00008), (50_000, 1.0), (900_000, 1.0)])
def test_beta_falls_linearly(update, beta):
    agent = make_agent()
    agent.count.fill_(update - 1)
    assert agent.update()["beta_ood"].item() == pytest.approx(beta, abs=1e-6) and agent.count == update


def test_beta_of_expert_data_is_constant():
    agent = make_agent(**PAPER["hopper-expert-v2"])
    for count in (0, 30_000, 70_000):
        agent.count.fill_(count)
        assert agent.beta_ood().item() == 2.0


def epochs(agent, values, start=50_000):
    """beta_ood after each epoch whose first update has one of `values` as q_ood."""
    betas = []
    for i, value in enumerate(values):
        agent.count.fill_(start + 1000 * i)
        agent.relax(torch.tensor(value))
        betas.append(agent.beta_ood().item())
    return betas


def test_beta_relaxes_where_values_fall():
    """At an epoch's first update: the mean of the last 5 epochs' q below that of the 15 before, this epoch's left out."""
    betas = epochs(make_agent(adaptive=True), [100.0] * 20 + [90.0, 100.0, 200.0, 200.0])
    assert betas[:21] == [1.0] * 21  # equal means do not count; epoch 21's own 90 comes later
    assert betas[21] == pytest.approx(1 / 1.01)  # last five: 100 100 100 100 90
    assert betas[22] == pytest.approx(1 / 1.01**2)  # 100 100 100 90 100
    assert betas[23] == pytest.approx(1 / 1.01**2)  # 100 100 90 100 200
    assert epochs(make_agent(), [float(-i) for i in range(40)]) == [1.0] * 40  # not adaptive


def test_inside_an_epoch_nothing_happens():
    agent, relaxed = make_agent(adaptive=True), []
    agent.relax = lambda q_ood: relaxed.append(agent.step)
    for agent.step in (0, 1, 2, 999, 1000, 1001, 49_999, 50_000):
        agent.update()
    assert relaxed == [0, 1000, 50_000]


def test_epochs_before_50_000_are_remembered_but_do_not_relax():
    agent = make_agent(adaptive=True)
    epochs(agent, [float(-i) for i in range(50)], start=0)
    assert agent.relaxation == 1.0
    assert epochs(agent, [0.0])[0] == pytest.approx(1 / 1.01)


def test_beta_has_a_floor():
    betas = epochs(make_agent(adaptive=True), [float(-i) for i in range(200)])
    assert betas[-1] == pytest.approx(0.1995, abs=1e-4) and 1.01**-162 == pytest.approx(0.1995, abs=1e-4)
    assert sum(b < a for a, b in zip(betas, betas[1:])) == 162


def test_temperature_steps_first():
    """With mean log pi > A the new log_alpha is larger, and the actor's loss uses it."""
    agent = make_agent()
    with torch.no_grad():
        agent.actor.head_bias[3:] = -4.0  # a narrow policy
    logs = agent.update()
    assert agent.log_alpha > 0
    torch.testing.assert_close(logs["alpha"], agent.log_alpha.detach().exp())


def test_actor_sees_the_updated_critics_and_its_old_self():
    agent = make_agent()
    other = twin(agent)
    logs = agent.update()
    batch = other.data.sample(16, other.rng)
    action, log_prob = other.actor.sample(*other.actor(batch.obs), other.rng)
    expected = (logs["alpha"] * log_prob - agent.critics(batch.obs, action).amin(0)).mean()
    torch.testing.assert_close(logs["actor_loss"], expected)


def test_actor_loss_is_of_the_minimum_and_knows_no_beta():
    agent = make_agent()
    q = torch.tensor([[1.0, 5.0], [2.0, 3.0], [4.0, 4.0]], requires_grad=True)
    agent.actor_loss(q, torch.zeros(2), torch.tensor(1.0)).backward()
    torch.testing.assert_close(q.grad, torch.tensor([[-0.5, 0.0], [0.0, -0.5], [0.0, 0.0]]))


def test_each_loss_moves_its_own_parameters():
    agent = make_agent()
    other = twin(agent)
    other.actor_loss = lambda q, log_prob, alpha: 0.0 * (q.sum() + log_prob.sum())
    for a in (agent, other):
        a.update()
    assert torch.equal(parameters(agent.critics), parameters(other.critics))
    assert not torch.equal(parameters(agent.actor), parameters(other.actor))
    assert all(p.grad is None for p in agent.target_critics.parameters())


def test_ood_actions_and_pessimism_carry_no_gradient_to_the_actor():
    agent = make_agent()
    q, q_ood, _ = agent.values(agent.data.sample(16, agent.rng))
    loss, target = agent.ood_loss(q_ood, 2.0)
    assert not target.requires_grad and q_ood.shape == target.shape == (3, 32) and loss.shape == ()
    loss = loss + q.sum()
    assert all(g is None for g in torch.autograd.grad(loss, list(agent.actor.parameters()), allow_unused=True, retain_graph=True))
    assert all(g is not None for g in torch.autograd.grad(loss, list(agent.critics.parameters())))


def test_one_update_is_the_specs_written_out():
    """A plain transcription, critic by critic: the same parameters after an update."""
    agent = make_agent(num_actions=4)
    agent.count.fill_(60_000)
    other = twin(agent)
    logs = agent.update()
    assert agent.past_q[-1] == logs["q_ood"] and agent.count == 60_001 and agent.step == 1
    rng, actor, critics, targets = other.rng, other.actor, other.critics, other.target_critics
    batch = other.data.sample(16, rng)
    action, log_prob = actor.sample(*actor(batch.obs), rng)
    other.log_alpha.grad = -(log_prob - 3).mean().detach()
    torch.optim.Adam([other.log_alpha], 1e-4).step()
    with torch.no_grad():
        next_action, _ = actor.sample(*actor(batch.next_obs), rng)
        target_q = targets(batch.next_obs, next_action)
        repeated, next_repeated = (x.repeat_interleave(4, 0) for x in (batch.obs, batch.next_obs))
        ood, _ = actor.sample(*actor(repeated), rng)
        next_ood, _ = actor.sample(*actor(next_repeated), rng)
    q, q_ood, q_next = critics(batch.obs, batch.action), critics(repeated, ood), critics(next_repeated, next_ood)
    loss = 0.0
    for k in range(3):
        y = batch.reward + 0.99 * (1 - batch.done) * (target_q[k] - 0.01 * target_q.std(0))
        loss = loss + ((q[k] - y) ** 2).mean()
        for values, weight in ((q_ood, 1.0), (q_next, 0.1)):
            pseudo = (values[k] - weight * values.std(0)).clamp(min=0).detach()
            loss = loss + 0.5 * ((values[k] - pseudo) ** 2).mean()
    loss.backward(inputs=list(critics.parameters()))
    torch.optim.Adam(critics.parameters(), 3e-4).step()
    actor_loss = (other.log_alpha.detach().exp() * log_prob - critics(batch.obs, action).amin(0)).mean()
    actor_loss.backward(inputs=list(actor.parameters()))
    torch.optim.Adam(actor.parameters(), 1e-4).step()
    moved = [0.995 * t + 0.005 * q for t, q in zip(targets.parameters(), critics.parameters())]
    torch.testing.assert_close(parameters(agent.target_critics), torch.cat([p.detach().flatten() for p in moved]))
    for name in ("log_alpha", "critics", "actor"):
        torch.testing.assert_close(parameters(getattr(agent, name)), parameters(getattr(other, name)), rtol=1e-5, atol=1e-6)


def test_without_pessimism_it_is_independent_critics_under_a_common_policy():
    agent = make_agent(beta_in=0.0, beta_start=0.0, beta_end=0.0, ood_next=0.0, clip=False)
    assert agent.update()["ood_loss"].item() == 0
    q = torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    agent.target_critics.forward = lambda obs, action: q
    batch = agent.data.sample(16, agent.rng)
    torch.testing.assert_close(agent.critic_target(batch), batch.reward + 0.99 * (1 - batch.done) * q)


def test_std_of_refits_is_the_lower_confidence_bonus():
    """Linear features, least squares refitted to unit noise on the targets: std of phi w over refits = sqrt(phi' inv(L) phi)."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(40, 8, generator=rng, dtype=torch.float64)
    covariance = features.T @ features
    refits = torch.linalg.solve(covariance, features.T @ torch.randn(40, 20_000, generator=rng, dtype=torch.float64))
    points = torch.randn(20, 8, generator=rng, dtype=torch.float64)
    bonus = (points * torch.linalg.solve(covariance, points.T).T).sum(1).sqrt()
    torch.testing.assert_close((points @ refits).std(1), bonus, rtol=0.02, atol=0)


def test_initialisation():
    agent = make_agent()
    for weight in [*agent.critics.weights[:3], *agent.actor.weights]:  # the first layers too
        assert 0.9 / 16 < weight.abs().max() <= 1 / 16
    for bias in [*agent.actor.biases, *agent.critics.biases[:3]]:
        assert torch.equal(bias, torch.full_like(bias, 0.1))
    assert 0 < agent.critics.weights[3].abs().max() <= 3e-3 and 0 < agent.actor.head_weight.abs().max() <= 1e-3
    assert not torch.equal(parameters(agent.critics), parameters(agent.target_critics))


def test_settings():
    assert PAPER["hopper-expert-v2"] == dict(beta_start=2.0, beta_end=2.0)
    assert PAPER["hopper-medium-expert-v2"] == {}  # 5 -> 1, then constant
    assert PAPER["walker2d-medium-replay-v2"] == dict(adaptive=True) and PAPER["hopper-medium-v2"] == dict(adaptive=True)
    assert PAPER["pen-human-v0"] == dict(beta_in=1e-4, beta_start=0.001, beta_end=0.001, ood_next=0.001)
    for level in ("complete", "partial", "mixed"):
        assert PAPER[f"kitchen-{level}-v0"] == dict(beta_in=1e-4, beta_start=0.01, beta_end=0.01, ood_next=0.01)
    assert PAPER["relocate-expert-v0"]["beta_start"] == 0.4 and PAPER["relocate-expert-v0"]["ood_next"] == 0.2
    args = Args()
    assert (args.critic_lr, args.actor_lr, args.num_critics, args.num_actions, args.beta_in, args.updates) == (3e-4, 1e-4, 10, 10, 0.01, 1_000_000)
