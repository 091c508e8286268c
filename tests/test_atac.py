"""What pins ATAC: losses by hand, the game's identity, the projection, the switch, and which gradient reaches which parameter."""

import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms import atac, bc
from algorithms.atac import ATAC, PAPER, Args, nsum
from common import InputError
from common.args import parse
from common.data import Batch
from common.run import snapshot
from common.sources import D4RL
from tests import recipe
from tests.helpers import assert_equal_trees, make_data, parameters, save_to_memory, twin

GAME = "game", True


def make(data=None, **flags):
    return ATAC(Args(**dict(batch_size=16, warm_start=0) | flags), data or make_data(), seed=0)


def advance(agent, updates):
    for _ in range(updates):
        agent.update(log=False)
    return agent


@pytest.fixture
def losses(monkeypatch):
    """What `descend` is given, in place of all steps: {id of the optimiser: loss}."""
    found = {}
    monkeypatch.setattr(atac.Critics, "project", lambda *args: None)
    monkeypatch.setattr(atac, "descend", lambda loss, optimizer: found.update({id(optimizer): loss}))
    return found


def reading_first(critics, scale=1.0):
    """Both critics give the state's first number, if it is not negative, times the scale."""
    with torch.no_grad():
        for parameter in critics.parameters():
            parameter.zero_()
        for weight in critics.weights:
            weight[:, 0, 0] = 1
        critics.weights[-1].mul_(scale)


def constant(critics, *values):
    with torch.no_grad():
        for parameter in critics.parameters():
            parameter.zero_()
        critics.biases[-1][:, 0, 0] = torch.tensor(values)


def one_row(agent, obs=2.0, next_obs=3.0, reward=1.0, done=0.0):
    """A batch whose states begin with these numbers, its states s' and s, and actions at them."""
    rows = torch.zeros(2, 1, agent.data.obs_size)
    rows[0, 0, 0], rows[1, 0, 0] = obs, next_obs
    batch = Batch(rows[0], torch.zeros(1, agent.data.action_size), torch.tensor([reward]), rows[1], torch.tensor([done]))
    return batch, torch.cat([rows[1], rows[0]]), torch.zeros(2, agent.data.action_size)


@pytest.mark.parametrize("done, weight, expected", [(0.0, 0.5, 1.45), (0.0, 0.0, 2.89), (0.0, 1.0, 0.01), (1.0, 0.5, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("game", [False, True])
def test_bellman_loss_by_hand(done, weight, expected, game, losses):
    """f(s, a) = 2, f(s', a') = 3, the smaller target 1: y = 1.9, and the residual's backup is 3.7."""
    agent = make(target_weight=weight, gamma=0.9, batch_size=1)
    reading_first(agent.critics)
    constant(agent.target_critics, 5.0, 1.0)
    _, bellman, pessimism, q = agent.critic_step(*one_row(agent, done=done), game)
    torch.testing.assert_close(bellman, torch.full((2,), expected), rtol=1e-5, atol=1e-7)
    assert q.tolist() == [[2.0], [2.0]] and pessimism.tolist() == [0, 0]  # this critic does not look at actions


def critic_loss_of(agent, losses, q, batch, states, game=False):
    """The critic loss when the critics give `q`, (2, rows), whatever they are asked."""
    agent.critics.forward = lambda obs, action: q
    agent.critic_step(batch, states, torch.zeros(len(states), agent.data.action_size), game)
    return losses[id(agent.critic_optimizer)]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_residual_gradient(weight, losses):
    """dE/df(s', a') = -2 (1 - w) gamma (1 - d) (f - r - gamma f') / B; none reaches the targets."""
    agent, size = make(target_weight=weight, gamma=0.9, beta=1.0), 8
    batch = agent.data.sample(size, agent.rng)
    batch = batch._replace(done=torch.tensor([1.0, 0.0] * 4))
    q = torch.randn(2, 2 * size, requires_grad=True)
    agent.target_critics.requires_grad_(True)
    loss = critic_loss_of(agent, losses, q, batch, torch.cat([batch.next_obs, batch.obs]))
    gradient, *others = torch.autograd.grad(loss, [q, *agent.target_critics.parameters()], allow_unused=True)
    now, following = q.detach().split(size, 1)
    residual = now - batch.reward - 0.9 * (1 - batch.done) * following
    torch.testing.assert_close(gradient[:, size:], -2 * (1 - weight) * 0.9 * (1 - batch.done) * residual / size)
    with torch.no_grad():
        next_action = torch.zeros(size, agent.data.action_size)
        target = batch.reward + 0.9 * (1 - batch.done) * agent.target_critics(batch.next_obs, next_action).min(0).values
    torch.testing.assert_close(gradient[:, :size], 2 * (weight * (now - target) + (1 - weight) * residual) / size)
    assert set(others) == {None} and gradient[:, size:].abs().sum().item() > 0 or weight == 1


def test_nsum_by_hand():
    def numbers(*xs):
        return [torch.tensor(x, dtype=torch.float64) for x in xs]

    assert nsum(*numbers(3, 2, 4)).item() == 2.75 and nsum(*numbers(3, 2, 0.5)).item() == 4
    assert nsum(*numbers(3, 2, 1)).item() == 5 and nsum(*numbers(3, 2, 1 + 1e-12)).item() == pytest.approx(5, rel=1e-11)
    assert nsum(*numbers(3, 2, 0)).item() == 3
    for c in (0.1, 1.0, 16.0, 1e6):
        x, y, c = (z.requires_grad_() for z in numbers(3, 2, c))
        gradient = torch.autograd.grad(nsum(x, y, c.detach()), [x, y])
        assert gradient[1] / gradient[0] == pytest.approx(c.item()) and max(gradient).item() == pytest.approx(1)


@pytest.mark.parametrize("beta, of_pessimism, of_bellman", [(0.0, 1, 0), (0.5, 1, 0.5), (1.0, 1, 1), (16.0, 1 / 16, 1)])
def test_beta_weighs_the_bellman_loss(beta, of_pessimism, of_bellman):
    pessimism, bellman = torch.tensor([3.0, -1.0]), torch.tensor([2.0, 7.0])
    torch.testing.assert_close(make(beta=beta).critic_loss(pessimism, bellman), of_pessimism * pessimism + of_bellman * bellman)


def gradient_of_critics(agent, losses, batch, states, action):
    agent.critic_step(batch, states, action, game=True)
    return torch.cat([g.flatten() for g in torch.autograd.grad(losses[id(agent.critic_optimizer)], list(agent.critics.parameters()))])


def test_without_beta_critics_imitate(losses):
    """Rewards, ends and targets are not there; and where pi is the data's policy, nothing is."""
    with recipe.precision(torch.float64):
        agent = make(beta=0.0)
        batch = Batch(*(x.double() for x in agent.data.sample(16, agent.rng)))
        states, action = torch.cat([batch.next_obs, batch.obs]), torch.rand(32, agent.data.action_size) * 2 - 1
        gradient = gradient_of_critics(agent, losses, batch, states, action)
        other = batch._replace(reward=10 * batch.reward, done=1 - batch.done)
        with torch.no_grad():
            agent.target_critics.biases[-1].add_(7)
        assert torch.equal(gradient_of_critics(agent, losses, other, states, action), gradient) and gradient.abs().max() > 1e-3
        clone = torch.cat([action[:16], batch.action])
        assert gradient_of_critics(agent, losses, batch, states, clone).abs().max() < 1e-12
        agent.beta.fill_(1.0)
        assert not torch.allclose(gradient_of_critics(agent, losses, other, states, action), gradient_of_critics(agent, losses, batch, states, action))


def test_projection():
    """Matrices of norm 200, 50 and 0; every layer of both critics, no bias, no target, no state of Adam."""
    agent = make()
    agent.update()
    with torch.no_grad():
        for i, weight in enumerate(agent.critics.weights):
            for k, norm in enumerate((200, 50) if i % 2 else (0, 200)):
                weight[k].mul_(norm / weight[k].norm())
    before, target, state = deepcopy(agent.critics), parameters(agent.target_critics), deepcopy(agent.critic_optimizer.state_dict())
    agent.critics.project(100.0)
    for i, (weight, old) in enumerate(zip(agent.critics.weights, before.weights, strict=True)):
        large = 0 if i % 2 else 1
        torch.testing.assert_close(weight[large], old[large] / 2, rtol=1e-5, atol=0)
        assert torch.equal(weight[1 - large], old[1 - large]) and weight.isfinite().all()
    assert i == 3 and all(torch.equal(x, y) for x, y in zip(agent.critics.biases, before.biases))
    assert torch.equal(parameters(agent.target_critics), target)
    assert_equal_trees(agent.critic_optimizer.state_dict(), state)


@pytest.mark.parametrize("warm_start", [0, 9])
def test_each_step_is_projected(warm_start):
    agent = make(warm_start=warm_start, max_norm=0.5, lr=1e-2)
    for _ in range(3):
        agent.update()
        norms = torch.stack([weight[k].norm() for weight in agent.critics.weights for k in range(2)])
        torch.testing.assert_close(norms, torch.full((8,), 0.5), rtol=1e-5, atol=0)
    assert max(weight.norm() for weight in agent.target_critics.weights) > 1 and agent.actor.weights[1].norm() > 1


def test_performance_difference():
    """For f = Q^pi and states as mu visits them, G is (1 - gamma) (J(pi) - J(mu)): 4 states, 3 actions, all cases in one batch."""
    rng, gamma, states, actions = np.random.RandomState(0), 0.9, 4, 3
    transition, pi, mu = (x / x.sum(-1, keepdims=True) for x in (rng.rand(states, actions, states), rng.rand(states, actions), rng.rand(states, actions)))
    reward, first = rng.randn(states, actions), np.array([0.4, 0.3, 0.2, 0.1])

    def value(policy):
        return np.linalg.solve(np.eye(states) - gamma * np.einsum("sa,sat->st", policy, transition), (policy * reward).sum(1))

    visits = (1 - gamma) * np.linalg.solve(np.eye(states) - gamma * np.einsum("sa,sat->st", mu, transition).T, first)
    q_pi = reward + gamma * transition @ value(pi)
    cases = [(s, a, b, visits[s] * mu[s, a] * pi[s, b]) for s in range(states) for a in range(actions) for b in range(actions)]
    assert sum(case[-1] for case in cases) == pytest.approx(1)
    with recipe.precision(torch.float64):
        agent = make(make_data(obs_size=states, action_size=actions), batch_size=len(cases))
        table, zero = torch.from_numpy(q_pi), torch.zeros(len(cases))
        anchor = torch.zeros(2, 1, requires_grad=True)
        agent.critics.forward = lambda obs, action: anchor + torch.einsum("bs,sa,ba->b", obs, table, action)
        obs = torch.stack([torch.eye(states)[s] * p * len(cases) for s, *_, p in cases])  # a row counts by its probability
        batch = Batch(obs, torch.stack([torch.eye(actions)[a] for _, a, _, _ in cases]), zero, obs, zero)
        action = torch.stack([torch.eye(actions)[b] for _, _, b, _ in cases])
        agent.critic_optimizer = torch.optim.SGD([anchor], 0.0)
        _, _, pessimism, _ = agent.critic_step(batch, torch.cat([obs, obs]), torch.cat([action, action]), game=True)
    expected = (1 - gamma) * first @ (value(pi) - value(mu))
    assert abs(expected) > 1e-3 and pessimism.tolist() == pytest.approx([expected] * 2, abs=1e-12)


def test_temperature():
    """d loss / d log_alpha = H + A: entropy above the floor -A lowers alpha, below it raises it."""
    agent = make()
    for entropy in (-5.0, -3.0, 1.77):
        x = torch.tensor(entropy, requires_grad=True)
        gradient, through = torch.autograd.grad(agent.alpha_loss(x), [agent.log_alpha, x], allow_unused=True)
        assert gradient.item() == pytest.approx(entropy + 3) and through is None
    logs = agent.update()
    assert logs["entropy"].item() > -3 and logs["alpha"].item() < 1
    with torch.no_grad():  # a narrow policy
        agent.actor.biases[-1].fill_(-8.0)
    before = agent.log_alpha.item()
    for _ in range(10):  # until Adam's mean has turned
        logs = agent.update()
    assert logs["entropy"].item() < -3 and agent.log_alpha.item() > before


def counts(optimizer):
    return {int(state["step"]) for state in optimizer.state.values()}


def test_the_switch():
    """log_alpha is 0 again, it and the actor have new Adams; critics, targets and the critics' Adam go on."""
    agent, asked = make(warm_start=5), []
    advance(agent, 5)
    assert agent.log_alpha.item() == pytest.approx(-5 * 5e-4, rel=0.05)
    assert counts(agent.cloning_optimizer) == counts(agent.cloning_alpha_optimizer) == counts(agent.critic_optimizer) == {5}
    assert not agent.actor_optimizer.state and not agent.alpha_optimizer.state and agent.phase == ("switch", True)
    other, alpha_loss = twin(agent), agent.alpha_loss
    agent.alpha_loss = lambda entropy: asked.append(agent.log_alpha.item()) or alpha_loss(entropy)
    cloned = deepcopy(agent.cloning_optimizer.state_dict())
    agent.update()
    assert asked == [0.0] and agent.log_alpha.item() == pytest.approx(-5e-4, rel=1e-4)
    assert counts(agent.actor_optimizer) == counts(agent.alpha_optimizer) == {1} and counts(agent.critic_optimizer) == {6}
    assert_equal_trees(agent.cloning_optimizer.state_dict(), cloned)
    other.args = replace(other.args, warm_start=10**6)  # the same update as one of the warm start: the targets are what they were, not a copy
    other.update()
    assert (parameters(agent.target_critics) - parameters(other.target_critics)).abs().max() < 1e-5
    agent.update()
    assert asked[1] == pytest.approx(-5e-4, rel=1e-4) and agent.phase == GAME  # once


@pytest.mark.parametrize("start", [4, 5, 6])
def test_resume_around_the_switch_is_bitwise(start):
    whole = advance(make(warm_start=5), start)
    other = advance(ATAC(whole.args, whole.data, seed=1), 7 if start < 5 else 0)
    state = torch.load(save_to_memory(snapshot(whole)), weights_only=True)
    other.step = start
    snapshot(other, state)
    advance(whole, 8 - start), advance(other, 8 - start)
    assert_equal_trees(snapshot(other), snapshot(whole))


def test_first_steps_are_small():
    """Adam's first step is its learning rate at most: 5e-4 in the warm start, 5e-7 for the actor in the game."""
    for warm_start, lr in ((9, 5e-4), (0, 5e-7)):
        with recipe.precision(torch.float64):
            agent = make(warm_start=warm_start)
            agent.data.rows = agent.data.rows.double()
            before, critics = parameters(agent.actor), parameters(agent.critics)
            agent.update()
            moved, followed = (parameters(agent.actor) - before).abs().max(), (parameters(agent.critics) - critics).abs().max()
        assert 0.9 * lr < moved <= lr * (1 + 1e-6) and 0.9 * 5e-4 < followed <= 5e-4 * (1 + 1e-6)


def test_the_critics_follow_and_the_actor_leads():
    """The game's actor step uses critic 1 alone, after its step; it leaves critics and their gradients alone."""
    agent = make()
    agent.critic_step = lambda *args: [torch.zeros(2)] * 4
    other, third = twin(agent), twin(agent)
    with torch.no_grad():
        other.critics.weights[-1][1].mul_(-3)
        third.critics.weights[-1][0].mul_(-3)
    for one in (agent, other, third):
        one.actor_before, critics = parameters(one.actor), parameters(one.critics)
        one.update()
        assert torch.equal(parameters(one.critics), critics) and not torch.equal(parameters(one.actor), one.actor_before)
        assert all(p.grad is None for p in one.critics.parameters())
    assert torch.equal(parameters(agent.actor), parameters(other.actor)) and not torch.equal(parameters(agent.actor), parameters(third.actor))


@pytest.mark.parametrize("warm_start", [0, 9])
def test_gradients_reach_what_they_may(warm_start, losses):
    agent = make(warm_start=warm_start)
    agent.update()
    actor, critics = list(agent.actor.parameters()), list(agent.critics.parameters())
    optimizers = {False: (agent.alpha_optimizer, agent.actor_optimizer), True: (agent.cloning_alpha_optimizer, agent.cloning_optimizer)}
    (alpha_optimizer, actor_optimizer), unused = optimizers[warm_start > 0], optimizers[warm_start == 0]
    assert set(losses) == {id(alpha_optimizer), id(actor_optimizer), id(agent.critic_optimizer)} and not any(id(x) in losses for x in unused)

    def reached(optimizer, parameters):
        return [g is not None and g.abs().sum().item() > 0
                for g in torch.autograd.grad(losses[id(optimizer)], parameters, allow_unused=True, retain_graph=True)]

    assert all(reached(agent.critic_optimizer, critics)) and not any(reached(agent.critic_optimizer, [*actor, agent.log_alpha]))
    assert reached(alpha_optimizer, [agent.log_alpha]) == [True] and not any(reached(alpha_optimizer, actor + critics))
    assert all(reached(actor_optimizer, actor)) and not any(reached(actor_optimizer, [agent.log_alpha]))
    assert all(p.grad is None and not p.requires_grad for p in agent.target_critics.parameters())
    held = {id(p) for optimizer in (actor_optimizer, agent.critic_optimizer, alpha_optimizer) for p in optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in [*actor, *critics, agent.log_alpha]}


@pytest.mark.parametrize("beta", [0.0, 16.0])
def test_the_warm_start_clones_as_bc_does(beta):
    """bc.py --gaussian with the same rows and draws, of which it takes those at s."""
    data, rng = make_data(), np.random.RandomState(0)
    agent = make(data, warm_start=9, beta=beta)
    other = bc.BC(bc.Args(batch_size=16, gaussian=True, normalize=False, lr=5e-4), data, seed=0)
    assert torch.equal(parameters(agent.actor), parameters(other.actor))  # the same draw of initial weights
    start = parameters(agent.actor)
    for k in range(6):
        index, noise = np.arange(16 * k, 16 * k + 16), rng.randn(32, 3)
        with recipe.injected([("randint", index), ("randn", noise)]):
            ours = agent.update()
        with recipe.injected([("randint", index), ("randn", noise[16:])]):
            theirs = other.update()
        for name in ("actor_loss", "alpha", "entropy"):
            assert ours[name].item() == pytest.approx(theirs[name].item(), rel=1e-4), name
    torch.testing.assert_close(parameters(agent.actor), parameters(other.actor), rtol=1e-4, atol=1e-5)
    assert (parameters(agent.actor) - start).abs().max() > 1e-3


def test_log_prob_of_data_actions():
    """log N(u) - log(1 - a^2 + 1e-6), finite at the bounds, where u is 7.25; u of a draw gives the draw's probability."""
    agent = make()
    mean, log_std = torch.zeros(3, 3), torch.zeros(3, 3)
    action = torch.tensor([[0.0] * 3, [1.0] * 3, [-1.0] * 3])
    at_zero, at_one, at_minus_one = agent.log_prob(mean, log_std, action).tolist()
    assert at_zero == pytest.approx(3 * (-0.9189385 - 1e-6), rel=1e-6) and at_one == pytest.approx(at_minus_one, rel=1e-4)
    assert at_one == pytest.approx(3 * (-0.5 * 7.2543**2 - 0.9189 + 13.8155), rel=1e-2)
    mean, log_std, noise = (torch.randn(50, 3, generator=torch.Generator().manual_seed(k)) for k in range(3))
    action = torch.tanh(mean + (log_std - 1).exp() * noise)
    entropy = agent.entropy(log_std - 1, noise, action)
    inside = (action.abs() < 0.99).all(1)
    assert inside.sum() > 25
    pairs = [(-agent.log_prob(mean, log_std - 1, action)[i], agent.entropy((log_std - 1)[i:i + 1], noise[i:i + 1], action[i:i + 1]))
             for i in inside.nonzero()[:, 0].tolist()]
    torch.testing.assert_close(*map(torch.stack, zip(*pairs)), rtol=1e-3, atol=1e-3)
    assert entropy.shape == ()


def test_a_warm_start_without_beta_leaves_the_critics_alone():
    agent = make(warm_start=2, beta=0.0)
    before = parameters(agent.critics)
    advance(agent, 2)
    assert torch.equal(parameters(agent.critics), before) and not agent.critic_optimizer.state
    agent.update()
    assert not torch.equal(parameters(agent.critics), before) and counts(agent.critic_optimizer) == {1}


def test_networks_start_as_the_authors_do():
    agent = make(make_data(obs_size=200, action_size=30))
    for module in (agent.actor, agent.critics):
        assert all(not bias.any() for bias in module.biases)
    for weight in agent.critics.weights:
        _, inputs, outputs = weight.shape
        for one in weight:
            assert one.std().item() == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.1 if one.numel() > 1000 else 0.2)
        assert not torch.equal(*weight) and weight.abs().max() > 2 * weight.std()
    for weight in agent.actor.weights:
        assert 0.99 < weight.abs().max().item() / (6 / sum(weight.shape)) ** 0.5 <= 1
    assert torch.equal(parameters(agent.target_critics), parameters(agent.critics))
    assert not agent.actor.obs_mean.any() and (agent.actor.obs_scale == 1).all()  # raw observations


@pytest.mark.parametrize("bounds, expected", [({}, 1.0), (dict(v_min=2.0), 2.0), (dict(v_max=-4.0), -4.0), (dict(v_min=-1.0, v_max=0.5), 0.5)])
def test_bounds_hold_for_targets_only(bounds, expected, losses):
    agent = make(gamma=0.9, batch_size=1, **bounds)
    reading_first(agent.critics)
    constant(agent.target_critics, 5.0, 1.0)
    batch, states, action = one_row(agent)
    assert agent.critic_target(batch, action[:1]).item() == pytest.approx(1 + 0.9 * expected)
    _, bellman, _, _ = agent.critic_step(batch, states, action, True)
    torch.testing.assert_close(bellman, torch.full((2,), 0.5 * (1 - 0.9 * expected) ** 2 + 0.5 * 2.89))


def test_entropy_per_dim_is_a_mean_over_dimensions():
    log_std, noise = torch.full((4, 3), -1.0), torch.randn(4, 3)
    action = torch.tanh(log_std.exp() * noise)
    whole, per_dim = (make(entropy_per_dim=x).entropy(log_std, noise, action) for x in (False, True))
    expected = (log_std + noise**2 / 2 + 0.9189385 + torch.log(1 - action**2 + 1e-6)).sum(1).mean()
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(per_dim, expected / 3)


def test_absolute_pessimism_is_at_first_states():
    """ATAC0. Every third row begins an episode, and has a state that begins with its number."""
    data = make_data(30)
    data.episodes = torch.tensor([[i, i + 3] for i in range(0, 30, 3)])
    data.obs[:, 0] = torch.arange(30.0) + 1
    agent, asked = make(data, absolute=True, batch_size=64), []
    reading_first(agent.critics)
    critic_step = agent.critic_step
    agent.critic_step = lambda *args: asked.append((args, critic_step(*args))) or asked[-1][1]
    agent.update()
    ((batch, states, action, game), (_, _, pessimism, _)) = asked[0]
    first = states[128:, 0]
    assert game and len(states) == len(action) == 192 and set(first.tolist()) == {float(i + 1) for i in range(0, 30, 3)}
    torch.testing.assert_close(pessimism, first.mean().expand(2))
    assert torch.equal(states[:128], torch.cat([batch.next_obs, batch.obs]))


def test_actor_every():
    agent = make(warm_start=2, actor_every=3)
    phases, moved = [], []
    for _ in range(9):
        phases.append(agent.phase)
        before = parameters(agent.actor)
        agent.update()
        moved.append(not torch.equal(parameters(agent.actor), before))
    assert moved == [True, True, False, False, True, False, False, True, False] == [moves for _, moves in phases]
    assert [stage for stage, _ in phases] == ["warm start"] * 2 + ["switch"] + ["game"] * 6
    assert counts(agent.actor_optimizer) == {2} and counts(agent.alpha_optimizer) == {7}


@pytest.mark.parametrize("words, message", [(["--beta", "-1"], "--beta -1.0: give a number in"), (["--warm-start", "-1"], "--warm-start -1"),
                                            (["--v-min", "1", "--v-max", "0"], "--v-min 1.0 --v-max 0.0: the first must be the smaller"),
                                            (["--target-weight", "1.5"], "--target-weight 1.5"), (["--max-norm", "0"], "--max-norm 0"),
                                            (["--actor-every", "0"], "--actor-every 0"), (["--beta", "inf"], "--beta inf")])
def test_bad_flags(words, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse(Args, PAPER, words)


def test_values_of_the_paper():
    """24 datasets; the two betas that a source has; the rest are defaults, which every text says to sweep."""
    robots = {f"{robot}-{level}-v2" for robot in ("halfcheetah", "hopper", "walker2d") for level in ("random", "medium", "medium-replay", "medium-expert")}
    hands = {f"{task}-{level}-v1" for task in ("pen", "hammer", "door", "relocate") for level in ("human", "cloned", "expert")}
    assert set(PAPER) == robots | hands and set(PAPER) <= set(D4RL) and len(PAPER) == 24
    assert {task: values for task, values in PAPER.items() if values} == {"hopper-medium-replay-v2": {"beta": 16.0}, "hopper-medium-expert-v2": {"beta": 1.0}}
    args = parse(Args, PAPER, ["--env", "pen-human-v1", "--device", "cpu"])
    assert (args.beta, args.gamma, args.tau, args.batch_size, args.target_weight, args.max_norm) == (16, 0.99, 0.005, 256, 0.5, 100)
    assert (args.lr, args.actor_lr, args.warm_start, args.updates, args.actor_every) == (5e-4, 5e-7, 100_000, 1_100_000, 1)


def bandit():
    """One state; actions near 0, better the nearer they are to 0.4; every row ends."""
    data = make_data(512, obs_size=2, action_size=1)
    data.obs[:], data.next_obs[:], data.done[:] = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), 1
    data.action[:] = 0.3 * torch.randn(512, 1, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    data.reward[:] = -10 * (data.action[:, 0] - 0.4) ** 2
    return data


def test_the_game_improves_on_the_data():
    agent, played = ATAC(Args(beta=64.0, warm_start=150, lr=2e-3, actor_lr=2e-3, tau=0.05, batch_size=32), bandit(), seed=0), []
    for _ in range(300):
        agent.update(log=False)
        played.append(agent.actor.act(agent.data.obs[:1]).item())
    assert abs(played[149]) < 0.12 and 0.3 < np.mean(played[-100:]) < 0.5  # cloned, then improved


def test_without_beta_the_game_never_looks_at_rewards():
    """Also not through the warm start's critics: the actors are equal bit by bit."""
    agents = [ATAC(Args(beta=beta, warm_start=10, batch_size=16), bandit(), seed=0) for beta in (0.0, 0.0, 1.0, 1.0)]
    for agent in agents[::2]:
        agent.data.reward.neg_()
    zero, other_zero, one, other_one = [parameters(advance(agent, 20).actor) for agent in agents]
    assert torch.equal(zero, other_zero) and not torch.equal(one, other_one)
