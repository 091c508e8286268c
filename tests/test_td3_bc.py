"""What pins TD3+BC: hand-computed losses, invariances, which parameters each step moves."""

import pytest
import torch

from algorithms.td3_bc import AUTHORS, PAPER, TD3BC, Args
from common.sources import D4RL
from tests.helpers import make_data, parameters


@pytest.fixture
def agent():
    return TD3BC(Args(batch_size=32), make_data(), seed=0)


def with_q(agent, values):
    """Replace the critics by fixed values of Q1 (B,), which a leaf tensor holds."""
    leaf = torch.tensor(values, requires_grad=True)
    agent.critics.forward = lambda obs, action, q1_alone: leaf
    return leaf


def batch_at_policy(agent, size, offset=0.0):
    """Actions are the policy's own minus `offset`."""
    batch = agent.data.sample(size, agent.rng)
    return batch._replace(action=agent.actor(batch.obs).detach() - offset)


def test_actor_loss_by_hand(agent):
    q = with_q(agent, [-2.0, 4.0])
    loss, bc_mse, lam = agent.actor_loss(batch_at_policy(agent, 2))
    assert lam.item() == pytest.approx(2.5 / 3) and bc_mse.item() == 0
    assert loss.item() == pytest.approx(-0.83333, abs=1e-5)
    loss.backward()
    torch.testing.assert_close(q.grad, torch.full((2,), -2.5 / 3 / 2))  # nothing flows through lambda


def test_imitation_is_a_mean_over_dimensions(agent):
    with_q(agent, [1.0, 1.0])
    _, bc_mse, _ = agent.actor_loss(batch_at_policy(agent, 2, offset=1.0))
    assert bc_mse.item() == pytest.approx(1.0)


def actor_gradient(agent, batch):
    agent.actor.zero_grad()
    loss, bc_mse, _ = agent.actor_loss(batch)
    loss.backward()
    return loss.item(), bc_mse, torch.cat([p.grad.flatten() for p in agent.actor.parameters()])


def test_scale_invariance(agent):
    batch = agent.data.sample(32, agent.rng)
    loss, _, gradient = actor_gradient(agent, batch)
    with torch.no_grad():
        agent.critics.weights[-1].mul_(37.0)
        agent.critics.biases[-1].mul_(37.0)
    scaled_loss, _, scaled = actor_gradient(agent, batch)
    assert scaled_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(scaled, gradient, rtol=1e-4, atol=1e-7)


def test_alpha_zero_is_behaviour_cloning(agent):
    agent.args.alpha = 0.0
    batch = agent.data.sample(32, agent.rng)
    loss, bc_mse, gradient = actor_gradient(agent, batch)
    expected = torch.autograd.grad(((agent.actor(batch.obs) - batch.action) ** 2).mean(), list(agent.actor.parameters()))
    assert loss == bc_mse.item()
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected]))


def test_target_at_a_terminal_row_is_the_reward(agent):
    batch = agent.data.sample(64, agent.rng)
    batch = batch._replace(done=torch.ones(64), next_obs=torch.full_like(batch.next_obs, 1e6))
    assert torch.equal(agent.critic_target(batch), batch.reward)


def test_target_noise_is_clipped_and_zero_noise_is_ddpg_with_twin_minimum(agent):
    batch, seen = agent.data.sample(4096, agent.rng), {}
    real = agent.target_critics.forward
    agent.target_critics.forward = lambda obs, action: seen.update(action=action) or real(obs, action)
    clean = agent.target_actor(batch.next_obs)
    agent.critic_target(batch)
    noise = seen["action"] - clean
    assert noise.abs().max() <= 0.5 + 1e-6 and seen["action"].abs().max() <= 1
    inside = noise[seen["action"].abs() < 1]
    assert 0.18 < inside.std() < 0.22 and inside.abs().max() > 0.49  # std 0.2, and the clip is reached
    agent.args.policy_noise = 0.0
    expected = batch.reward + 0.99 * (1 - batch.done) * real(batch.next_obs, clean).amin(0)
    torch.testing.assert_close(agent.critic_target(batch), expected)


def test_critic_loss_and_twin_symmetry(agent):
    assert agent.critic_loss(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0])).item() == pytest.approx(2.5 + 0.5)
    batch = agent.data.sample(32, agent.rng)
    state = agent.rng.get_state()

    def losses():
        agent.rng.set_state(state)
        target = agent.critic_target(batch)
        return target, agent.critic_loss(agent.critics(batch.obs, batch.action), target), agent.actor_loss(batch)[0]

    before = losses()
    with torch.no_grad():
        for p in [*agent.critics.parameters(), *agent.target_critics.parameters()]:
            p.copy_(p.flip(0))
    after = losses()
    torch.testing.assert_close(after[:2], before[:2])
    assert not torch.isclose(after[2], before[2])


def test_only_every_second_update_moves_actor_and_targets(agent):
    actor, targets = parameters(agent.actor), parameters(agent.target_critics)
    critics = parameters(agent.critics)
    agent.update()
    assert torch.equal(parameters(agent.actor), actor) and torch.equal(parameters(agent.target_critics), targets)
    assert torch.equal(parameters(agent.target_actor), actor) and not torch.equal(parameters(agent.critics), critics)
    agent.update()
    assert not torch.equal(parameters(agent.actor), actor)
    for target, start, online in ((agent.target_critics, targets, agent.critics), (agent.target_actor, actor, agent.actor)):
        torch.testing.assert_close(parameters(target), start + 0.005 * (parameters(online) - start), rtol=0, atol=1e-7)
    assert agent.step == 2 and agent.phase == 1


def test_actor_step_leaves_the_critics_alone(agent):
    """The same draws with and without the actor step give the same critics after two updates."""
    lazy = TD3BC(Args(batch_size=32, policy_freq=1000), agent.data, seed=0)
    for _ in range(2):
        agent.update(), lazy.update()
    assert torch.equal(parameters(agent.critics), parameters(lazy.critics))


def test_actor_loss_sees_the_critics_of_this_update(agent):
    seen, real = [], agent.actor_loss
    agent.actor_loss = lambda batch: seen.append(parameters(agent.critics)) or real(batch)
    agent.update()
    before = parameters(agent.critics)
    agent.update()
    assert torch.equal(seen[0], parameters(agent.critics)) and not torch.equal(seen[0], before)


def test_initialisation_is_pytorchs(agent):
    assert torch.equal(parameters(agent.critics), parameters(agent.target_critics))
    for net, first in ((agent.actor, 11), (agent.critics, 14)):
        for weight, bias, fan_in in zip(net.weights, net.biases, (first, 256, 256)):
            bound = fan_in**-0.5
            assert 0.95 * bound < weight.abs().max() <= bound and bias.abs().max() <= bound


def test_normalisation_lives_in_the_actor():
    data = make_data()
    data.obs_mean, data.obs_std = torch.ones(11), torch.ones(11)
    data.obs_std[1] = 0.0  # a constant feature
    agent = TD3BC(Args(), data, seed=0)
    obs = torch.ones(2, 11)
    obs[:, 0] = torch.tensor([0.0, 2.0])
    x = (obs - agent.actor.obs_mean) / agent.actor.obs_scale
    torch.testing.assert_close(x[:, 0], torch.tensor([-1 / 1.001, 1 / 1.001]))
    assert torch.equal(x[:, 1], torch.zeros(2))
    raw = TD3BC(Args(normalize=False), data, seed=0)
    assert torch.equal(raw.actor(x), agent.actor.act(obs))


def test_settings():
    assert PAPER["hopper-medium-v2"] == {} and len([name for name in PAPER if name.endswith("v0")]) == 15
    assert set(PAPER) <= set(D4RL) and len(PAPER) == 30 + 3 + 12 + 6 + 6  # the last four: CORL's
    assert PAPER["hopper-full-replay-v2"] == PAPER["pen-human-v1"] == PAPER["relocate-expert-v1"] == {}
    assert PAPER["maze2d-umaze-v1"] == PAPER["maze2d-large-dense-v1"] == dict(eval_episodes=100)
    assert list(AUTHORS) == [name for name in PAPER if "antmaze" in name] and len(AUTHORS) == 6
    assert PAPER["antmaze-umaze-v2"]["reward"] == "r-1" and AUTHORS["antmaze-umaze-v2"]["normalize"] is False
    args = Args()
    assert (args.updates, args.batch_size, args.lr, args.alpha, args.policy_freq) == (1_000_000, 256, 3e-4, 2.5, 2)
