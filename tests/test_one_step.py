"""What pins one-step RL: weights by hand, values of known policies, which stage moves which network."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from algorithms.one_step import PAPER, Args, OneStep
from benchmark.engine.runs import Run, load_agent
from common.args import parse
from common.data import Dataset, load_dataset
from common.run import snapshot
from tests.helpers import make_data, parameters, twin

SMALL = dict(batch_size=32, hidden_size=16)


@pytest.fixture
def agent():
    return OneStep(Args(updates=30, stages=(1, 1, 1), **SMALL), make_data(), seed=0)


def advance(agent, step):
    """To the state after `step` updates, in place of training: beta is a copy of the actor from the end of cloning on."""
    while agent.step < step:
        agent.update()
    return agent


def columns(obs, action, reward, next_obs, done, episodes):
    """A dataset with one-dimensional actions from plain lists."""
    rows = torch.cat([torch.tensor(x, dtype=torch.float32).reshape(len(obs), -1) for x in (obs, action, reward, next_obs, done)], 1)
    return Dataset("tiny", None, {"kind": "file"}, rows, len(obs[0]), 1, torch.tensor(episodes))


def sarsa_only(data, updates, start=0.0, **flags):
    """An agent after all its SARSA updates; Q starts near `start`."""
    agent = OneStep(Args(updates=updates + 2, stages=(0, 1, 0), **SMALL | dict(lr=1e-2) | flags), data, seed=0)
    with torch.no_grad():
        for critics in (agent.critics, agent.target_critics):
            critics.biases[-1].add_(start)
    return advance(agent, updates + 1)


def with_q(agent, q, v):
    """Q of the data's actions (B,), and of every draw of beta (B,)."""
    agent.critics.forward = lambda obs, action: torch.tensor(q if action.dim() == 2 else [v] * len(action))


def weights(agent, batch):
    """w of a batch: the gradient by the log probabilities. It has no other gradient."""
    leaf = torch.zeros(len(batch.obs), requires_grad=True)
    agent.actor.log_prob = lambda mean, log_std, action: leaf
    loss, *_ = agent.exp_weight(batch)
    del agent.actor.log_prob
    return -len(leaf) * torch.autograd.grad(loss, leaf)[0]


def test_temperature_zero_is_behaviour_cloning(agent):
    advance(agent, 20)
    agent.args.inverse_temperature = 0.0
    batch = agent.data.sample(32, agent.rng)
    batch = batch._replace(action=batch.action.clamp(-0.99, 0.99))
    with torch.no_grad():  # a policy that is not beta
        agent.actor.biases[-1].add_(0.1)
    assert torch.equal(weights(agent, batch), torch.ones(32))
    loss, _, capped, _ = agent.exp_weight(batch)
    (expected,) = agent.cloning(batch)
    assert capped.item() == 0
    assert loss.item() == expected.item()
    pairs = [torch.autograd.grad(x, list(agent.actor.parameters())) for x in (loss, expected)]
    torch.testing.assert_close(*pairs)
    agent.args.inverse_temperature = 3.0
    assert agent.exp_weight(batch)[0].item() != expected.item()


def test_weights_by_hand(agent):
    batch, agent.args.inverse_temperature = agent.data.sample(4, agent.rng), 1.0
    with_q(agent, [12.0, 2.0, 1.0, -4.0], [2.0] * 4)
    torch.testing.assert_close(weights(agent, batch), torch.tensor([100.0, 1.0, 0.36788, 0.00248]), rtol=1e-6, atol=1e-5)
    agent.args.inverse_temperature = 30.0
    with_q(agent, [0.153, 0.154, 1e30, -1e30], [0.0] * 4)  # log 100 / 30 = 0.15351
    torch.testing.assert_close(weights(agent, batch), torch.tensor([98.49443, 100.0, 100.0, 0.0]), rtol=1e-5, atol=0)
    assert agent.exp_weight(batch)[2].item() == 0.5


def test_reward_one_for_ever_is_worth_100():
    """Nothing ends: the episode is cut by time. Q starts 5 below; a target step takes 0.2 % off the distance."""
    obs, action = [[1.0, 0.0]] * 32, torch.linspace(-1, 1, 32).tolist()
    agent = sarsa_only(columns(obs, action, [1.0] * 32, obs, [0.0] * 32, [[0, 32]]), 800, 95.0, tau=0.2, lr=3e-3)
    q = agent.critics(torch.tensor(obs), torch.tensor(action)[:, None])
    torch.testing.assert_close(q, torch.full((32,), 100.0), rtol=0, atol=2.0)
    with torch.no_grad():  # and there it stays
        for critics in (agent.critics, agent.target_critics):
            critics.weights[-1].zero_()
            critics.biases[-1].fill_(100.0)
    loss, mean_q = agent.sarsa(*agent.data.sample_sarsa(32, agent.rng))
    assert loss.item() == pytest.approx(0, abs=1e-8) and mean_q.item() == 100


def test_reward_at_ends_is_worth_itself():
    obs, action = [[1.0, 0.0]] * 32, torch.linspace(-1, 1, 32).tolist()
    agent = sarsa_only(columns(obs, action, [1.0] * 32, obs, [1.0] * 32, [[i, i + 1] for i in range(32)]), 200, 3.0)
    torch.testing.assert_close(agent.critics(torch.tensor(obs), torch.tensor(action)[:, None]), torch.ones(32), rtol=0, atol=0.05)


def test_sarsa_gives_the_value_of_the_datas_policy_and_not_the_best():
    """Action +1 leads to state 0, -1 to state 1; reward 1 for +1 in state 0; the data's policy is a fair coin, gamma 1/2.

    V0 = (1 + V0 / 2) / 2 + V1 / 4 and V1 = V0 / 4 + V1 / 4: V0 = 3/4, V1 = 1/4. The best policy's Q: 2, 1/2, 1, 1/2.
    In a de Bruijn sequence each (action before, action, action after) comes once: no chance. The last row has no next
    action; its reward would spoil everything.
    """
    signs = [s * 2.0 - 1 for s in (0, 0, 0, 1, 0, 1, 1, 1, 0, 0)]
    obs = [[float(s > 0), float(s < 0)] for s in signs]  # after each action: the state that it leads to
    reward = [float(state == [1.0, 0.0] and a > 0) for state, a in zip(obs, signs[1:])]
    reward[-1] = 1000.0
    data = columns(obs[:-1], signs[1:], reward, obs[1:], [0.0] * 9, [[0, 9]])
    agent = sarsa_only(data, 400, tau=0.2, gamma=0.5, batch_size=128)
    q = agent.critics(torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2), torch.tensor([[1.0], [-1.0]] * 2))
    torch.testing.assert_close(q, torch.tensor([1 + 3 / 8, 1 / 8, 3 / 8, 1 / 8]), rtol=0, atol=0.1)


@pytest.mark.parametrize("operator", ["exp_weight", "rev_kl"])
def test_improvement_moves_the_actor_alone(agent, operator):
    agent.args.operator = operator
    advance(agent, 20)
    others = agent.critics, agent.target_critics, agent.behaviour
    before, actor = [parameters(x) for x in others], parameters(agent.actor)
    gradients = [p.grad.clone() for p in agent.critics.parameters()]
    assert torch.equal(actor, before[2])  # it starts from beta
    advance(agent, 30)
    assert all(torch.equal(parameters(x), y) for x, y in zip(others, before)) and not torch.equal(parameters(agent.actor), actor)
    assert all(torch.equal(p.grad, g) for p, g in zip(agent.critics.parameters(), gradients))


def test_policy_ranges(agent):
    obs = 5 * torch.randn(1000, 11)
    with torch.no_grad():
        agent.actor.weights[-1].mul_(10)
    mean, log_std = agent.actor.policy(obs)
    assert 0.9 < mean.abs().max() <= 1 and -5.00001 <= log_std.min() < -4.5 and -0.5 < log_std.max() <= 0
    with torch.no_grad():
        for p in agent.actor.parameters():
            p.zero_()
    mean, log_std = agent.actor.policy(obs)
    assert mean.abs().max() == 0
    torch.testing.assert_close(log_std.exp(), torch.full((1000, 3), 0.082085), rtol=1e-5, atol=0)


def test_rev_kl_at_beta_is_zero_for_every_sample_set(agent):
    advance(agent, 10)
    for _ in range(20):
        batch = agent.data.sample(32, agent.rng)
        loss, _, capped, kl = agent.rev_kl(batch)
        assert kl.item() == 0 and capped.item() == 0
    with torch.no_grad():
        agent.actor.biases[-1].add_(0.1)
    assert agent.rev_kl(batch)[3].item() > 0


def test_targets_follow_every_second_step_of_sarsa(agent):
    advance(agent, 10)
    start = parameters(agent.target_critics)
    assert torch.equal(start, parameters(agent.critics))
    advance(agent, 11)
    assert torch.equal(parameters(agent.target_critics), start) and not torch.equal(parameters(agent.critics), start)
    advance(agent, 12)
    once = parameters(agent.target_critics)
    torch.testing.assert_close(once, start + 0.005 * (parameters(agent.critics) - start), rtol=0, atol=1e-7)
    assert not torch.equal(once, start)
    advance(agent, 13)
    assert torch.equal(parameters(agent.target_critics), once)


def test_targets_count_from_the_first_step_of_sarsa():
    """After a first stage of odd length too."""
    agent = advance(OneStep(Args(updates=9, stages=(1, 1, 1), **SMALL), make_data(), seed=0), 4)
    start = parameters(agent.target_critics)
    assert not torch.equal(parameters(agent.critics), start)
    advance(agent, 5)
    assert not torch.equal(parameters(agent.target_critics), start)


def test_a_constant_on_q_changes_no_weight(agent):
    advance(agent, 20)
    batch, state = agent.data.sample(32, agent.rng), agent.rng.get_state()
    before = weights(agent, batch)
    with torch.no_grad():
        agent.critics.biases[-1].add_(7.0)
    agent.rng.set_state(state)
    torch.testing.assert_close(weights(agent, batch), before, rtol=1e-4, atol=0)
    assert before.std() > 1e-4  # they do differ from row to row


def test_cloning_loss_by_hand(agent):
    """With zero weights: mean 0, log std -2.5; -log N(x) = 0.918939 - 2.5 + x^2 e^5 / 2 in each of three dimensions."""
    with torch.no_grad():
        for p in agent.actor.parameters():
            p.zero_()
    batch = agent.data.sample(2, agent.rng)._replace(action=torch.tensor([[1.0, -1.0, 0.5], [0.0, 0.1, 0.0]]))
    constant, half = 3 * (0.5 * math.log(2 * math.pi) - 2.5), math.exp(5) / 2
    assert agent.cloning(batch)[0].item() == pytest.approx(constant + (2.25 + 0.01) / 2 * half, rel=1e-6)
    agent.args.inverse_temperature = 0.0  # improvement clamps the data's actions
    assert agent.exp_weight(batch)[0].item() == pytest.approx(constant + (2 * 0.9999**2 + 0.25 + 0.01) / 2 * half, rel=1e-6)


def test_value_is_the_mean_over_draws_of_beta_that_are_not_clipped(agent):
    with torch.no_grad():
        for p in agent.behaviour.parameters():
            p.zero_()
        agent.behaviour.biases[-1].fill_(9.0)  # mean 1, std 1
    seen = []
    agent.critics.forward = lambda obs, action: seen.append(action) or action.sum(-1)
    batch = agent.data.sample(400, agent.rng)
    _, advantage, *_ = agent.exp_weight(batch)
    (draws,) = [action for action in seen if action.dim() == 3]
    assert draws.shape == (10, 400, 3) and draws.max() > 3 and draws.min() < -1
    torch.testing.assert_close(advantage, (batch.action.sum(-1) - draws.sum(-1).mean(0)).mean())
    assert draws.sum(-1).mean().item() == pytest.approx(3.0, abs=0.15)  # 0.15: 5 standard errors


def test_exp_weight_loss_by_hand(agent):
    """T = 3, V = 0.2, Q = (0.2, 0.7, 5): weights 1, e^1.5 and 100; log pi of the mean is 2.5 - 0.918939 a dimension."""
    with torch.no_grad():
        for p in agent.actor.parameters():
            p.zero_()
    batch = agent.data.sample(3, agent.rng)._replace(action=torch.zeros(3, 3))
    with_q(agent, [0.2, 0.7, 5.0], [0.2, 0.2, 0.2])
    loss, advantage, capped, kl = agent.exp_weight(batch)
    assert loss.item() == pytest.approx(-(1 + 4.4816891 + 100) / 3 * 3 * (2.5 - 0.918939), rel=1e-5)
    assert advantage.item() == pytest.approx((0 + 0.5 + 4.8) / 3, rel=1e-5) and capped.item() == pytest.approx(1 / 3) and kl.item() == 0


def test_rev_kl_loss(agent):
    """By the formula of the normal density, on the same draws; gradients go through Q and through the draws."""
    advance(agent, 10)
    agent.args.rev_kl_weight = 0.7
    with torch.no_grad():
        agent.actor.biases[-1].add_(0.3)
    batch, state = agent.data.sample(32, agent.rng), agent.rng.get_state()
    loss, advantage, _, kl = agent.rev_kl(batch)
    agent.rng.set_state(state)
    pi, beta = agent.actor.policy(batch.obs), agent.behaviour.policy(batch.obs)
    action, draws = (pi[0] + pi[1].exp() * torch.randn(k, 32, 3, generator=agent.rng) for k in (1, 10))

    def log_density(mean, log_std):
        return (-0.5 * ((draws - mean) / log_std.exp())**2 - log_std).sum(-1)  # but for a constant

    expected_kl = (log_density(*pi) - log_density(*beta)).mean()
    q = agent.critics(batch.obs, action[0])
    torch.testing.assert_close(kl, expected_kl)
    torch.testing.assert_close(loss, 0.7 * expected_kl - q.mean())
    torch.testing.assert_close(advantage, (q - agent.critics(batch.obs, batch.action)).mean())
    ours, theirs = (torch.autograd.grad(x, list(agent.actor.parameters())) for x in (loss, 0.7 * expected_kl - q.mean()))
    torch.testing.assert_close(ours, theirs)


def test_the_draws_estimate_the_divergence(agent):
    """KL of two Gaussians of std e^-2.5, half of one apart: 1/8 a dimension."""
    with torch.no_grad():
        for net in (agent.actor, agent.behaviour):
            for p in net.parameters():
                p.zero_()
        agent.actor.biases[-1][:3] = math.exp(-2.5) / 2
    agent.args.num_samples = 200
    mean = math.tanh(math.exp(-2.5) / 2)
    assert agent.rev_kl(agent.data.sample(256, agent.rng))[3].item() == pytest.approx(3 * mean**2 / 2 * math.exp(5), rel=0.03)


def test_sarsa_loss(agent):
    """The target is the slow copy's, without gradient; an end is worth its reward, whatever comes after it."""
    batch, next_action = agent.data.sample_sarsa(32, agent.rng)
    with torch.no_grad():
        agent.critics.biases[-1].add_(100.0)
    q = agent.critics(batch.obs, batch.action)
    target = batch.reward + 0.99 * (1 - batch.done) * agent.target_critics(batch.next_obs, next_action).detach()
    loss, mean_q = agent.sarsa(batch, next_action)
    torch.testing.assert_close((loss, mean_q), (((q - target) ** 2).mean(), q.mean()))
    loss.backward()
    torch.testing.assert_close(agent.critics.biases[-1].grad, 2 * (q - target).mean()[None])
    assert all(p.grad is None for p in agent.target_critics.parameters())
    ends = batch._replace(done=torch.ones(32), next_obs=torch.full_like(batch.next_obs, 1e6))
    torch.testing.assert_close(agent.sarsa(ends, 1e6 * next_action)[0], ((q - batch.reward) ** 2).mean())
    agent.critics.forward = lambda obs, action: torch.tensor([1.0, 3.0])
    ends = batch._replace(reward=torch.tensor([0.0, 1.0]), done=torch.ones(2), next_obs=batch.next_obs[:2])
    assert agent.sarsa(ends, next_action[:2])[0].item() == 2.5


def test_sarsa_takes_the_datas_next_action(agent):
    """The row after it, of the same episode; no policy is asked."""
    advance(agent, 10)
    data, seen, real = agent.data, [], agent.sarsa
    agent.actor.forward = agent.behaviour.forward = None
    agent.sarsa = lambda batch, next_action: seen.append((batch, next_action)) or real(batch, next_action)
    agent.update()
    ((batch, next_action),) = seen
    rows = [int((data.obs == obs).all(1).nonzero()[0, 0]) for obs in batch.obs]
    alive = [k for k, row in enumerate(rows) if not data.done[row]]
    assert len(alive) > 16 and max(rows[k] for k in alive) < 255
    assert torch.equal(next_action[alive], data.action[[rows[k] + 1 for k in alive]])


def test_sarsa_takes_the_action_of_the_row_that_a_timeout_cuts(tmp_path):
    """Rows 0 1 2 | 3 4 5, a timeout at 2: the view d4rl keeps 0 1 | 3 4, and 1's next action is row 2's; Q(s, a) = 10 a.

    Targets are 1 + 10 gamma a'; row 4's a' is that of row 5. With gamma 1/2 they are 1.5, 2, 3 and 3.5.
    """
    action = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [0.5]])
    np.savez(tmp_path / "six.npz", observations=np.arange(6.0)[:, None], actions=action, rewards=np.ones(6),
             terminals=np.zeros(6, bool), timeouts=np.arange(6) == 2)
    agent = OneStep(Args(updates=30, gamma=0.5, **SMALL), load_dataset(str(tmp_path / "six.npz")), seed=0)
    agent.target_critics.forward = lambda obs, action: 10 * action[:, 0]
    agent.critics.forward = lambda obs, action: torch.zeros(len(obs))
    batch, next_action = agent.data.sample_sarsa(200, agent.rng)
    for row, target in {0: 1.5, 1: 2.0, 3: 3.0, 4: 3.5}.items():
        mine = batch.obs[:, 0] == row
        assert mine.any()
        loss, _ = agent.sarsa(type(batch)(*(column[mine] for column in batch)), next_action[mine])
        assert loss.item() == pytest.approx(target**2)


@pytest.mark.parametrize("updates, stages, expected", [
    (2_600_000, (5, 20, 1), (500_000, 2_000_000, 100_000)), (26_000, (5, 20, 1), (5000, 20_000, 1000)),
    (2_600_001, (5, 20, 1), (500_000, 2_000_000, 100_001)), (3, (5, 20, 1), (1, 1, 1)), (4, (5, 20, 1), (1, 2, 1)), (3, (0, 0, 1), (1, 1, 1)),
    (100, (1, 0, 0), (98, 1, 1)), (5, (100, 1, 1), (3, 1, 1)), (10, (1, 1, 8), (1, 1, 8))])
def test_updates_are_divided(updates, stages, expected):
    agent = OneStep(Args(updates=updates, stages=stages, hidden_size=2), make_data(), 0)
    found = agent.end_a, agent.end_b - agent.end_a, updates - agent.end_b
    assert sum(found) == updates and min(found) >= 1
    assert found == expected


def test_phases():
    agent, phases = OneStep(Args(updates=9, stages=(1, 1, 1), **SMALL), make_data(), 0), []
    for _ in range(9):
        phases.append(agent.phase)
        agent.update()
    a, a_last, b, b_targets, c = phases[0], phases[2], phases[3], phases[4], phases[6]
    assert phases == [a, a, a_last, b, b_targets, b, c, c, c] and len({a, a_last, b, b_targets, c}) == 5


def test_short_runs():
    for updates in (1, 2, 3, 4):
        advance(OneStep(Args(updates=updates, **SMALL), make_data(), 0), updates)


def test_cloning_moves_the_actor_alone_and_ends_with_a_frozen_copy(agent):
    others = agent.critics, agent.target_critics, agent.behaviour
    before = [parameters(x) for x in others]
    advance(agent, 9)
    assert all(torch.equal(parameters(x), y) for x, y in zip(others, before))
    assert not torch.equal(parameters(agent.actor), before[2])
    advance(agent, 10)
    assert torch.equal(parameters(agent.behaviour), parameters(agent.actor))
    assert not any(p.requires_grad for p in agent.behaviour.parameters()) and agent.behaviour.weights[0] is not agent.actor.weights[0]
    clone = parameters(agent.actor)
    advance(agent, 20)  # SARSA moves neither
    assert torch.equal(parameters(agent.behaviour), clone) and torch.equal(parameters(agent.actor), clone)
    assert not torch.equal(parameters(agent.critics), before[0])


def test_improvement_starts_with_a_fresh_adam(agent):
    """Its first step is that of a new Adam: what a cloning run of long memory would do is another."""
    advance(agent, 20)
    other = twin(agent)
    agent.update()
    adam = torch.optim.Adam(other.actor.parameters(), lr=1e-4)
    other.exp_weight(other.data.sample(32, other.rng))[0].backward(inputs=list(other.actor.parameters()))
    before = parameters(other.actor)
    adam.step()
    torch.testing.assert_close(parameters(agent.actor), parameters(other.actor), rtol=0, atol=1e-7)
    assert not torch.equal(parameters(agent.actor), before)


def test_operator_chooses_the_loss(agent):
    advance(agent, 20)
    other = twin(agent)
    other.args = Args(**vars(agent.args) | dict(operator="rev_kl"))
    agent.rev_kl = other.exp_weight = None
    first, second = agent.update(), other.update()
    assert first["kl"].item() == 0 and first["actor_loss"].item() != second["actor_loss"].item()


def test_logs_have_the_same_names_and_keep_the_last_values(agent):
    rows = [{name: value.item() for name, value in agent.update().items()} for _ in range(30)]
    assert all(list(row) == ["critic_loss", "q", "actor_loss", "advantage", "capped", "kl"] for row in rows)
    clone, sarsa, improved = rows[9], rows[19], rows[29]
    assert clone["actor_loss"] != rows[8]["actor_loss"] and clone["critic_loss"] == clone["q"] == clone["advantage"] == 0
    assert sarsa["actor_loss"] == clone["actor_loss"] and sarsa["critic_loss"] != rows[18]["critic_loss"] and sarsa["q"] != 0
    assert (improved["critic_loss"], improved["q"]) == (sarsa["critic_loss"], sarsa["q"])
    assert improved["actor_loss"] != rows[28]["actor_loss"] and improved["advantage"] != 0


def test_better_actions_become_likelier():
    """One state, actions -0.5 (reward 0) and 0.5 (reward 1): the clone stands between them, the improved policy at 0.5."""
    n = 64
    obs, action = [[1.0]] * n, [0.5 if i % 2 else -0.5 for i in range(n)]
    data = columns(obs, action, [float(a > 0) for a in action], obs, [1.0] * n, [[i, i + 1] for i in range(n)])
    agent = OneStep(Args(updates=300, stages=(1, 1, 1), lr=1e-2, **SMALL), data, 0)
    clone, improved = (advance(agent, step).actor.act(torch.ones(1, 1)).item() for step in (200, 300))
    assert abs(clone) < 0.2 and improved > 0.35


def test_initialisation_is_pytorchs_and_acting_is_the_mean(agent):
    assert torch.equal(parameters(agent.critics), parameters(agent.target_critics))
    for net, first in ((agent.actor, 11), (agent.critics, 14)):
        for weight, bias, fan_in in zip(net.weights, net.biases, (first, 16, 16)):
            bound = fan_in**-0.5
            assert 0.8 * bound < weight.abs().max() <= bound and bias.abs().max() <= bound
    assert [tuple(w.shape) for w in agent.actor.weights] == [(16, 11), (16, 16), (6, 16)]
    assert [tuple(w.shape) for w in agent.critics.weights] == [(16, 14), (16, 16), (1, 16)]
    obs = 3 * torch.randn(5, 11) + 7
    x = torch.tanh(agent.actor.weights[2] @ (agent.actor.weights[1] @ (agent.actor.weights[0] @ obs.T + agent.actor.biases[0][:, None]).relu()
                                             + agent.actor.biases[1][:, None]).relu() + agent.actor.biases[2][:, None]).T
    torch.testing.assert_close(agent.actor.act(obs), x[:, :3])  # raw observations
    torch.testing.assert_close(agent.actor.policy(obs)[1], -5 + 2.5 * (x[:, 3:] + 1))
    assert agent.critics(obs, torch.randn(5, 3)).shape == (5,)


def test_draws(agent):
    mean, std = torch.tensor([[0.5, -0.5]]), torch.tensor([[1.0, 0.3]])
    draws = agent.sample(mean, std.log(), 20_000)
    assert draws.shape == (20_000, 1, 2)
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(draws.std(0), std, rtol=0.03, atol=0)


@pytest.mark.parametrize("step", [5, 15, 25])
def test_a_checkpoint_continues(agent, step):
    """In each stage, also into the next one."""
    advance(agent, step)
    other = OneStep(agent.args, agent.data, seed=5)
    saved = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in snapshot(twin(agent)).items()}
    snapshot(other, saved)
    for a in (agent, other):
        advance(a, 30)
    assert torch.equal(parameters(agent.actor), parameters(other.actor)) and torch.equal(agent.stats, other.stats)
    assert torch.equal(parameters(agent.critics), parameters(other.critics))


def test_runs_load_it(agent, tmp_path):
    advance(agent, 25)
    torch.save({"step": 25, "seconds": 1.0, "agents": [snapshot(agent)]}, tmp_path / "checkpoint.pt")
    config = {"algorithm": "one_step", "args": asdict(agent.args) | dict(seeds=[0], stages=[1, 1, 1]), "task": None, "obs_std": [1.0] * 11,
              "command": "algorithms/one_step.py", "dataset_source": "file", "data": {}}
    loaded = load_agent(Run(tmp_path, config), 0, action_size=3)
    obs, action = torch.randn(4, 11), torch.rand(4, 3)
    assert torch.equal(loaded.actor.act(obs), agent.actor.act(obs)) and torch.equal(loaded.critics(obs, action), agent.critics(obs, action))


def test_stages_and_data_that_cannot_be():
    from common import InputError

    with pytest.raises(InputError, match="--stages 0 0 0: one share must be more than 0"):
        Args(stages=(0, 0, 0))
    with pytest.raises(InputError, match="--stages -1: give a number"):
        parse(Args, {}, ["--stages", "-1", "3", "1"])
    lonely = columns([[0.0], [1.0]], [0, 0], [1, 1], [[0.0], [1.0]], [0, 0], [[0, 1], [1, 2]])
    assert len(lonely.followed) == 0 and len(make_data().followed) >= 255


def test_settings():
    assert len(PAPER) == 16 and all(values == {} for values in PAPER.values())
    assert {"hopper-random-v2", "walker2d-medium-expert-v2", "door-cloned-v1"} < set(PAPER)
    args = Args()
    assert (args.updates, args.stages, args.batch_size, args.hidden_size, args.lr) == (2_600_000, (5, 20, 1), 512, 1024, 1e-4)
    assert (args.gamma, args.tau, args.operator, args.inverse_temperature) == (0.99, 0.005, "exp_weight", 3.0)
    assert args.num_samples == 10
