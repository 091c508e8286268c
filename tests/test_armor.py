"""ARMOR: its reduction to ATAC in numbers, the model and its pull on the reward, gradients, banks and pairs, and what a reference is."""

import csv
import json
import re

import numpy as np
import pytest
import torch

from algorithms import armor
from algorithms.armor import ARMOR, PAPER, Args, Fit
from common import InputError
from common.args import parse
from common.data import Batch
from common.reference import Reference, find_reference
from tests import recipe
from tests.helpers import ROOT, assert_equal_trees, make_data, parameters, run_script, twin, write_npz
from tests.recipe import tensor
from tests.recipe_models import A, B, S, batch, close, dataset, golden, mlp, normals

GOLDEN = golden("armor")


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


@torch.no_grad()
def fill(agent):
    """The recipe's actor, critics and targets; the second critic first, because the source's actor follows that."""
    *hidden, (w, b) = mlp(200, S, 3, 2 * A, 0.5)
    b[A:] -= 1.0
    layers = [*hidden, (w[:, :A], b[:A]), (w[:, A:], b[A:])]
    for weight, bias, (w, b) in zip(agent.actor.weights, agent.actor.biases, layers, strict=True):
        weight.copy_(tensor(w).T)
        bias.copy_(tensor(b))
    for j in range(2):
        critic, change = mlp(220 + 10 * j, S + A, 3, 1, 1.0), mlp(260 + 10 * j, S + A, 3, 1, 1.0)
        for layer, ((w, b), (dw, _)) in enumerate(zip(critic, change, strict=True)):
            for network, matrix in ((agent.critics, w), (agent.target_critics, w + 0.1 * dw)):
                network.weights[layer][1 - j].copy_(tensor(matrix))
                network.biases[layer][1 - j].copy_(tensor(b).view(1, -1))
    agent.log_alpha.fill_(-1.5)


def make(data=None, **flags):
    return ARMOR(Args(**dict(batch_size=16, warm_start=0, termination="never") | flags), data or make_data(), seed=0)


CASES = [("atac_reduction_beta_4", 4.0, 100.0), ("atac_reduction_beta_0p25_projection_15", 0.25, 15.0)]


def reduced(beta, max_norm) -> ARMOR:
    """Its model gives the stored rows, the reference takes the data's actions, there are no pairs and no first update."""
    agent, rows = make(dataset(), batch_size=B, beta=beta, max_norm=max_norm), batch()
    fill(agent)
    nothing = sum(parameter.sum() * 0 for parameter in agent.model.parameters())  # a fit that pulls the model nowhere
    agent.imagine = lambda real, pairs: (rows, nothing)
    agent.reference.sample = lambda obs, rng: rows.action
    agent.simulate = lambda obs, restart: None
    agent.step = 1
    return agent


def exact_entropy():
    """ATAC's (4) has 1e-6 in a logarithm, lightATAC's does not."""
    return lambda log_std, noise, action: A * (0.5 * noise**2 + log_std + 0.5 * np.log(2 * np.pi) + torch.log1p(-action**2)).mean()


@pytest.mark.parametrize("case, beta, max_norm", CASES)
def test_reduction_to_atac(case, beta, max_norm, double):
    """An update equals lightATAC's: losses, gradients, the projection (which is active in one case) and the targets."""
    theirs, agent = GOLDEN[case], reduced(beta, max_norm)
    agent.entropy = exact_entropy()
    calls = recipe.remembered(agent, "critic_loss", "alpha_loss", "bellman", "critic_target")
    noise = np.concatenate([normals(500, B, A), normals(501, B, A)])  # a', then a~
    with recipe.injected([("randint", np.zeros(B, int)), ("rand", np.zeros(B)), ("randn", noise)]):
        logs = agent.update()
    told, norms = theirs["log"], theirs["grad_norms"]
    (pessimism, bellman), critic_loss = calls["critic_loss"][0]
    close(critic_loss.sum(), told["qf_loss"])
    close([pessimism[0].item(), bellman[0].item()], [told["pess_loss"], told["qf_bellman_loss"]])  # of the critic that the actor follows
    close(calls["critic_target"][0][1].mean(), told["q_target_mean"])
    close(calls["bellman"][0][1][1, 0], told["bellman_surrogate"])
    close(calls["alpha_loss"][0][1], told["alpha_loss"])
    close(logs["actor_loss"], told["policy_loss"])
    close(logs["entropy"], told["policy_entropy"])
    close(logs["alpha"], told["alpha"])
    close(torch.cat([p.grad.flatten() for p in agent.critics.parameters()]).norm(), norms["critics"])
    close(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]).norm(), norms["actor"])
    after = theirs["after"]
    close([weight[1].norm().item() for weight in agent.critics.weights], after["q1_weight_norms"])
    close([weight[0].norm().item() for weight in agent.critics.weights], after["q2_weight_norms"])
    close([weight[1].norm().item() for weight in agent.target_critics.weights], after["target1_weight_norms"])
    close(agent.log_alpha.item(), after["log_alpha"])
    assert pessimism.abs().min() > 1e-3 and not any(parameter.grad.any() for parameter in agent.model.parameters())


@pytest.fixture
def losses(monkeypatch):
    """What the optimisers would descend, in place of all steps: {id of the optimiser: loss}; "adversary" is critics' and model's."""
    found = {}
    monkeypatch.setattr(armor.Critics, "project", lambda *args: None)
    monkeypatch.setattr(armor, "descend", lambda optimizer, loss: found.update({id(optimizer): loss}))
    monkeypatch.setattr(ARMOR, "adversary_step", lambda self, loss: found.update(adversary=loss))
    return found


def constant(critics, *values):
    with torch.no_grad():
        for parameter in critics.parameters():
            parameter.zero_()
        critics.biases[-1][:, 0, 0] = torch.tensor(values)


def reading_first(critics):
    """Both critics give the state's first number, if it is not negative."""
    constant(critics, 0.0, 0.0)
    with torch.no_grad():
        for weight in critics.weights:
            weight[:, 0, 0] = 1


@pytest.mark.parametrize("done, weight, expected, of_reward", [(0.0, 0.5, 1.45, 1.6), (0.0, 0.0, 2.89, 3.4), (0.0, 1.0, 0.01, -0.2), (1.0, 0.5, 1.0, -2.0)])
def test_bellman_error_of_the_model_by_hand(done, weight, expected, of_reward, losses):
    """f(s, a) = 2, R = 1, f(s', a') = 3, the smaller target 1; the gradient is -2 [w (f - R - gamma f'_min) + (1 - w) (f - R - gamma f')]."""
    agent = make(target_weight=weight, gamma=0.9, beta=1.0)
    reading_first(agent.critics)
    constant(agent.target_critics, 5.0, 1.0)
    obs, action, reward = torch.zeros(2, 1, S), torch.zeros(1, A), torch.ones(1, requires_grad=True)
    obs[0, 0, 0], obs[1, 0, 0] = 2.0, 3.0
    bellman, pessimism, _ = agent.critic_step(Batch(obs[0], action, reward, obs[1], torch.tensor([done])), torch.zeros(2, A), action, torch.zeros(()))
    torch.testing.assert_close(bellman, torch.full((2,), expected), rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(losses["adversary"], reward)
    assert pessimism.tolist() == [0, 0] and gradient.item() == pytest.approx(2 * of_reward, rel=1e-5)  # of both critics


@torch.no_grad()
def flat_model(agent, reward):
    """M gives this reward, and no change but the data's mean."""
    for parameter in agent.model.parameters():
        parameter.zero_()
    agent.model.biases[-1][-1] = reward


def game(agent, size=16):
    """A batch of the game, twice the same real rows, the actor's actions and the reference's; and the fit."""
    real = agent.data.split(agent.data.rows[agent.train[:size]])
    batch, fit = agent.imagine(real, torch.cat([real.obs, real.action], 1))
    rng = torch.Generator().manual_seed(7)
    action, reference = (torch.rand(n * size, A, generator=rng) * 2 - 1 for n in (4, 2))
    return batch, action, reference, fit


@pytest.mark.parametrize("coef, omega, g, best", [(3.0, 1.0, (0.0, 0.0), 0.75), (1.5, 2.0, (0.0, 0.0), 0.75), (1e-9, 1.0, (0.0, 0.0), 0.0), (1e9, 1.0, (0.0, 0.0), 1.0),
                                                  (3.0, 1.0, (2.0, 0.5), 1.0625), (1e-9, 1.0, (2.0, 0.5), 1.25)])
@pytest.mark.parametrize("beta", [0.25, 16.0])
def test_the_best_reward(coef, omega, g, best, beta, double, losses):
    """R = (g_1 + g_2 + 2 lambda omega r) / (2 + 2 lambda omega), where the loss's slope in R, a straight line, is 0; all r are 1."""
    data = make_data()
    data.rows = data.rows.double()
    data.reward = data.split(data.rows).reward.fill_(1.0)
    agent, slopes = make(data, fit_coef=coef, reward_coef=omega, gamma=0.0, beta=beta), []
    constant(agent.critics, *g)
    for reward in (0.0, 1.0):
        flat_model(agent, reward)
        batch, action, reference, fit = game(agent)
        agent.critic_step(batch, action, reference, fit)
        (slope,) = torch.autograd.grad(losses["adversary"], agent.model.biases[-1])
        slopes.append(slope[-1].item())
    assert slopes[0] / (slopes[0] - slopes[1]) == pytest.approx(best, abs=1e-6)


def gradients(agent, **changed):
    """Of the critics, (2, n), and of the model, times max(1, lambda), in a step of the adversary on one batch; weights stay."""
    other = twin(agent)
    other.args = armor.Args(**vars(agent.args) | changed)
    other.beta.fill_(other.args.beta)
    other.critic_step(*game(other))
    critics = torch.cat([parameter.grad.flatten(1) for parameter in other.critics.parameters()], 1)
    return critics, max(1, other.args.fit_coef) * torch.cat([parameter.grad.flatten() for parameter in other.model.parameters()])


def exact(**flags) -> ARMOR:
    """In float64, with a little more in the model than its first weights have."""
    data = make_data()
    data.rows = data.rows.double()
    agent = make(data, **flags)
    with torch.no_grad():
        agent.model.weights[-1].mul_(10)
    return agent


def gradient_of_fit(agent):
    *_, fit = game(twin(agent))
    other = twin(agent)
    *_, fit = game(other)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(fit, list(other.model.parameters()))])


def test_who_gets_which_gradient(double):
    """The model's holds 2 lambda times the fit's, the critics' nothing of it; nor does one critic's hold the other's Bellman error."""
    agent = exact(beta=0.5, fit_coef=2.0)
    critics, model = gradients(agent)
    more_critics, more = gradients(agent, fit_coef=7.0)
    torch.testing.assert_close(more - model, 0.5 * 2 * (7 - 2) * gradient_of_fit(agent), rtol=1e-9, atol=1e-12)
    assert torch.equal(critics, more_critics) and critics.abs().max() > 1e-3
    rest = model - 0.5 * 2 * 2 * gradient_of_fit(agent)  # of both Bellman errors
    assert rest.abs().max() > 1e-4
    with torch.no_grad():
        agent.critics.weights[-1][1].mul_(-3)
    other_critics, other_model = gradients(agent)
    assert torch.equal(other_critics[0], critics[0]) and not torch.equal(other_critics[1], critics[1]) and not torch.equal(other_model, model)


def test_pessimism_does_not_reach_the_model(double):
    """Without the Bellman error its gradient is 0, and the critics' is not; nothing has one that must not."""
    agent = exact()
    agent.beta.fill_(0.0)
    agent.critic_step(*game(agent))
    assert all(not parameter.grad.any() for parameter in agent.model.parameters())
    assert torch.cat([parameter.grad.flatten() for parameter in agent.critics.parameters()]).abs().max() > 1e-3
    agent.update()
    for network in (agent.target_critics, agent.reference):
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def test_gradients_reach_what_they_may(losses, monkeypatch):
    monkeypatch.setattr(armor, "polyak", lambda *args: None)  # in place, where the loss has still to go back
    agent = make()
    for _ in range(3):
        agent.update()
    actor, critics, model = (list(network.parameters()) for network in (agent.actor, agent.critics, agent.model))

    def reached(loss, parameters):
        found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        return [gradient is not None and gradient.abs().sum().item() > 0 for gradient in found]

    assert all(reached(losses["adversary"], critics)) and all(reached(losses["adversary"], model)) and not any(reached(losses["adversary"], [*actor, agent.log_alpha]))
    loss = losses[id(agent.actor_optimizer)]
    assert all(reached(loss, actor)) and not any(reached(loss, [*model, agent.log_alpha]))
    assert reached(losses[id(agent.alpha_optimizer)], [agent.log_alpha]) == [True] and set(losses) == {"adversary", id(agent.actor_optimizer), id(agent.alpha_optimizer)}
    owned = {name: {id(p) for p in getattr(agent, f"{name}_optimizer").param_groups[0]["params"]} for name in ("critic", "model", "actor")}
    assert owned == {"critic": set(map(id, critics)), "model": set(map(id, model)), "actor": set(map(id, actor))}


def test_a_huge_lambda_leaves_the_model_to_the_data(double):
    """Its gradient is the fit's alone; and at a best fit, where that is 0, what is left of the game is 1e-8 of it."""
    agent = exact(fit_coef=1e8, beta=1.0)
    _, model = gradients(agent)
    fit = 2e8 * gradient_of_fit(agent)
    assert (model - fit).norm() < 1e-6 * fit.norm()
    other = twin(agent)
    batch, action, reference, fit_loss = game(other)
    other.critic_step(batch, action, reference, fit_loss * 0)
    left = torch.cat([parameter.grad.flatten() for parameter in other.model.parameters()])
    assert 0 < left.norm() < 1e-7 * fit.norm() / 1e8


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_gradient_through_the_next_state(weight, double, losses):
    """Linear critics: dE / ds' is -2 gamma (1 - d) (f - R - gamma f') df'/ds' in each half, and it reaches mu through c."""
    agent, rng = exact(target_weight=weight, gamma=0.9, beta=1.0), np.random.RandomState(0)
    slopes, targets = (tensor(rng.randn(2, S)) for _ in range(2))
    anchor = torch.zeros(2, 1, requires_grad=True)
    agent.critics.forward = lambda obs, action: anchor + slopes @ obs.T
    agent.target_critics.forward = lambda obs, action: targets @ obs.T
    real = agent.data.split(agent.data.rows[:8])
    mean = tensor(rng.randn(8, S)).requires_grad_()
    next_obs = agent.model.next_obs(real.obs, mean, torch.full((8, S), -200.0), agent.rng)  # sigma is 0
    done = tensor([0.0, 1.0] * 4)
    batch = Batch(real.obs, real.action, real.reward, next_obs, done)
    agent.critic_step(batch, torch.zeros(16, A), torch.zeros(8, A), torch.zeros(()))
    (gradient,) = torch.autograd.grad(losses["adversary"], mean)
    expected = torch.zeros(8, S)
    with torch.no_grad():
        lowest = (targets @ next_obs.T).min(0)
        for k in range(2):
            f, following = slopes[k] @ real.obs.T, slopes[k] @ next_obs.T
            for share, value, slope in ((weight, lowest.values, targets[lowest.indices]), (1 - weight, following, slopes[k].expand(8, S))):
                residual = f - real.reward - 0.9 * (1 - done) * value
                expected += share * (-2 * 0.9 * (1 - done) * residual)[:, None] * slope / 8 * agent.model.change_std
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 1e-2


def worst_case(q, reference, known, steps=800):
    """G of the actor that goes right with probability q of 10 rows, when the adversary has done its worst: one state, one step, rewards in [0, 1].

    `known`: rewards of left and right that the data tell, or None. The adversary is the file's own, with tables for networks.
    """
    agent = make(make_data(obs_size=2, action_size=1), beta=50.0, gamma=0.0, fit_coef=1.0, batch_size=10)
    values, rewards = torch.full((2, 2), 0.5, requires_grad=True), torch.full((2,), 0.5, requires_grad=True)
    agent.critics.forward = lambda obs, action: values[:, (action[:, 0] > 0).long()]
    agent.critics.project = lambda max_norm: None
    agent.critic_optimizer, agent.model_optimizer = torch.optim.SGD([values], 0.3), torch.optim.SGD([rewards], 0.3)
    right = (torch.arange(10) < round(10 * q)).float()[:, None] * 2 - 1
    sides, state = torch.tensor([-1.0, 1.0] * 5)[:, None], torch.zeros(10, 2)
    tied = torch.tensor([k is not None for k in known])
    for _ in range(steps):
        table = rewards.clamp(0, 1)
        batch = Batch(state, sides, table[(sides[:, 0] > 0).long()], state, torch.ones(10))
        fit = ((table - torch.tensor([k or 0.0 for k in known]))[tied] ** 2).sum()
        _, pessimism, _ = agent.critic_step(batch, torch.cat([right, right]), torch.full((10, 1), 1.0 if reference == "right" else -1.0), fit)
    return pessimism.mean().item()


@pytest.mark.parametrize("reference, known, value", [
    pytest.param("right", (0.1, None), lambda q: -0.9 * (1 - q), id="copy right"),
    pytest.param("left", (0.1, None), lambda q: -0.1 * q, id="copy left", marks=pytest.mark.slow),
    pytest.param("left", (0.1, 0.8), lambda q: 0.7 * q, id="improve", marks=pytest.mark.slow)])
def test_copy_where_data_are_silent_and_improve_where_they_speak(reference, known, value):
    """Left pays 0.1, right may pay anything in [0, 1] or, where the data tell it, 0.8. The actor's best is the reference, or right."""
    worst = [worst_case(q, reference, known) for q in (0.0, 0.5, 1.0)]
    assert worst == pytest.approx([value(q) for q in (0.0, 0.5, 1.0)], abs=0.07)  # of order 1 / beta
    assert np.argmax(worst) == (0 if reference == "left" and known[1] is None else 2)


NEXT = np.array([[[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], [[0.7, 0.3, 0.0], [0.0, 0.2, 0.8]], [[0.0, 0.6, 0.4], [0.1, 0.0, 0.9]]])  # a chain of 3 states, 2 actions
PAID, FIRST, GAMMA = np.array([[0.2, 0.0], [0.0, 0.1], [0.3, 1.0]]), np.array([1.0, 0.0, 0.0]), 0.8
POLICIES = [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]


def q_values(policy):
    chosen = NEXT[range(3), policy], PAID[range(3), policy]
    value = np.linalg.solve(np.eye(3) - GAMMA * chosen[0], chosen[1])
    return PAID + GAMMA * NEXT @ value, FIRST @ value


def adversary_on_the_chain(policy, reference, beta, covered, steps=30):
    """(3) of one critic, times max(1, beta), before and after each of the adversary's steps. It starts from the true world and the policy's
    true values. Networks are tables, which are linear: a row counts by how often the reference visits it, a next state is a mean of states,
    and an action is a table of what is done in each state. `covered` (3, 2): does the fit know of these states and actions?
    """
    agent = make(make_data(obs_size=3, action_size=2), beta=beta, gamma=GAMMA, fit_coef=10.0, batch_size=6)
    values, rewards, shift = tensor(np.stack([q_values(policy)[0]] * 2)), tensor(PAID.copy()), torch.zeros(3, 2, 3)
    targets = values.clone()
    for network, table in ((agent.critics, values), (agent.target_critics, targets)):
        network.forward = lambda obs, action, table=table: torch.einsum("bs,ksa,bsa->kb", obs, table, action)
    agent.critics.project = lambda max_norm: None
    agent.critic_optimizer = torch.optim.SGD([values.requires_grad_()], 0.02)
    agent.model_optimizer = torch.optim.SGD([rewards.requires_grad_(), shift.requires_grad_()], 0.02)
    led = NEXT[range(3), reference]
    visits = (1 - GAMMA) * np.linalg.solve(np.eye(3) - GAMMA * led.T, FIRST)
    states = tensor(np.repeat(np.eye(3) * visits[:, None] * 3, 2, 0))  # (6, 3), each with both actions
    size, each = states.sum(1), tensor(np.eye(2))[[0, 1] * 3][:, None].expand(6, 3, 2)
    followed, compared = (tensor(np.eye(2))[list(choice)].expand(6, 3, 2) for choice in (policy, reference))
    losses = []
    for _ in range(steps + 1):
        batch = Batch(states, each, size * rewards.view(6), size[:, None] * (tensor(NEXT) + shift).view(6, 3), torch.zeros(6))
        fit = (tensor(covered) * ((rewards - tensor(PAID)) ** 2 + (shift ** 2).sum(-1))).sum()
        bellman, pessimism, _ = agent.critic_step(batch, torch.cat([followed, followed]), compared, fit)
        losses.append((pessimism[0] + beta * (bellman[0] + 10.0 * fit)).item())
    return losses


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0, 16.0, 64.0])
@pytest.mark.parametrize("reference", [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)])
def test_never_worse_than_the_reference(reference, beta, double):
    """On a chain of which the data are the reference's: the policy that is best in the game is at least as good in truth, for every beta."""
    covered, own, worst = np.zeros((3, 2)), q_values(reference)[1], {}
    covered[range(3), reference] = 1.0
    for policy in POLICIES:
        losses = adversary_on_the_chain(policy, reference, beta, covered)
        assert losses[0] == pytest.approx((1 - GAMMA) * (q_values(policy)[1] - own), abs=1e-9)  # the true world is among the adversary's
        assert all(after <= before + 1e-12 for before, after in zip(losses, losses[1:])), "it goes down"
        assert losses[-1] < losses[0] - 1e-4 or abs(losses[0]) < 1e-12, "they differ where the reference never comes"
        worst[policy] = losses[-1]
    best = max(worst, key=worst.get)
    assert worst[reference] == pytest.approx(0, abs=1e-12) and worst[best] >= worst[reference] and q_values(best)[1] >= own - 1e-6


def advance(agent, updates):
    for _ in range(updates):
        agent.update(log=False)
    return agent


def test_buffer_and_banks():
    """2 B pairs an update, without an eviction; all states are real again at k = 0 mod H, and at no other k."""
    agent, real = make(restart_every=3, batch_size=8), set(map(tuple, make_data().obs.tolist()))
    for k in range(8):
        agent.update()
        assert agent.ring.count.item() == agent.ring.size.item() == 16 * (k + 1)
        tried = agent.ring.rows[16 * k:16 * (k + 1), :S]
        begun = [tuple(row) in real for row in tried.tolist()]
        assert all(begun) if k % 3 == 0 else not any(begun)
        if k % 3 == 0:
            assert torch.equal(tried[:8], tried[8:])  # both banks
        else:
            assert torch.equal(tried, before)
        before = agent.banks.flatten(0, 1).clone()
    assert torch.equal(agent.ring.rows[16 * 8:], torch.zeros_like(agent.ring.rows[16 * 8:])) and agent.ring.rows[:128].abs().min() > 0


def test_banks_that_restart_always_hold_real_states():
    agent, real = make(restart_every=1, batch_size=8), set(map(tuple, make_data().obs.tolist()))
    advance(agent, 5)
    rows = agent.ring.rows[:80]
    assert all(tuple(row) in real for row in rows[:, :S].tolist())
    data = set(map(tuple, make_data().action.tolist()))
    assert not any(tuple(row) in data for row in rows[:, S:].tolist()) and rows[:, S:].abs().max() < 1  # fresh actions


def test_each_bank_is_led_by_its_policy():
    """The reference acts in the second, the actor in the first; the model moves both on, without a gradient."""
    agent = make(batch_size=8)
    agent.update()
    agent.sample = lambda obs: (torch.full((len(obs), A), 0.25),)
    agent.reference.sample = lambda obs, rng: torch.full((len(obs), A), -0.5)
    before, state = agent.banks.clone(), agent.rng.get_state()
    agent.simulate(agent.data.obs[:8], False)
    pairs = agent.ring.rows[16:32]
    assert torch.equal(pairs[:, :S], before.flatten(0, 1)) and (pairs[:8, S:] == 0.25).all() and (pairs[8:, S:] == -0.5).all()
    agent.rng.set_state(state)
    mean, log_var, _ = agent.model(pairs[:, :S], pairs[:, S:])
    noise = torch.randn(16, S, generator=agent.rng)
    expected = pairs[:, :S] + agent.model.change_mean + agent.model.change_std * (mean + (0.5 * log_var).exp() * noise)
    torch.testing.assert_close(agent.banks.flatten(0, 1), expected.detach())
    assert not agent.banks.requires_grad


def test_a_state_begins_anew_where_its_episode_ends_or_far_from_the_data():
    agent = make(batch_size=8)
    agent.update()
    ends = torch.zeros(16, dtype=torch.bool)
    ends[[1, 10]] = True
    agent.terminal = lambda obs, action, next_obs: ends
    next_obs = torch.zeros(16, S)
    for row, factor in ((2, 10.1), (3, 9.9), (12, -10.1)):
        next_obs[row, 4] = agent.model.obs_mean[4] + factor * agent.model.obs_std[4]
    agent.model.next_obs = lambda *args: next_obs
    agent.simulate(agent.data.obs[100:108], False)
    anew = [1, 2, 10, 12]
    kept = [row for row in range(16) if row not in anew]
    states = agent.banks.flatten(0, 1)
    assert torch.equal(states[anew], agent.data.obs[100:108].repeat(2, 1)[anew]) and torch.equal(states[kept], next_obs[kept])


def test_pairs_are_evaluated_anew():
    """What the game's batch holds: real pairs, then some of the buffer's; at first, when it is empty, the real ones twice."""
    agent, seen = make(batch_size=8), []
    imagine = agent.imagine
    agent.imagine = lambda real, pairs: (seen.append((real, pairs, *imagine(real, pairs))), seen[-1][2:])[1]
    advance(agent, 3)
    for k, (real, pairs, batch, _) in enumerate(seen):
        assert torch.equal(batch.obs[:8], real.obs) and torch.equal(torch.cat([batch.obs, batch.action], 1)[8:], pairs)
        here = {tuple(row) for row in (torch.cat([real.obs, real.action], 1) if k == 0 else agent.ring.rows[:16 * k]).tolist()}
        assert {tuple(row) for row in pairs.tolist()} <= here and len(pairs) == 8
        assert batch.reward.requires_grad and batch.next_obs.requires_grad and not batch.done.requires_grad


def test_what_the_rule_and_the_fit_see(double):
    """The rule: states, actions and the next states that M imagined, without a gradient. The fit: the real rows alone."""
    agent, asked = exact(), []
    agent.terminal = lambda *given: asked.append(given) or torch.zeros(len(given[0]), dtype=torch.bool)
    real, pairs = agent.data.split(agent.data.rows[:8]), torch.ones(8, S + A)
    batch, fit = agent.imagine(real, pairs)
    (given,) = asked
    assert all(torch.equal(x, y) for x, y in zip(given, (batch.obs, batch.action, batch.next_obs))) and not given[2].requires_grad
    torch.testing.assert_close(fit, agent.model.fit(real, *agent.model(real.obs, real.action), 1.0))


def test_the_actor_plays_at_real_states_and_at_those_of_the_buffer():
    """Its loss and its entropy are means over all 2 B states."""
    agent = advance(make(batch_size=8), 2)
    calls, asked, forward = recipe.remembered(agent, "imagine", "entropy"), [], agent.critics.forward
    agent.critics.forward = lambda obs, action, q1_alone=False: (asked.append(obs) if q1_alone else None, forward(obs, action, q1_alone))[1]
    agent.update()
    ((_, (batch, _)),), ((given, _),) = calls["imagine"], calls["entropy"]
    assert len(batch.obs) == 16 and torch.equal(asked[0], batch.obs) and len(asked) == 1 and [tuple(x.shape) for x in given] == [(16, A)] * 3


def test_the_banks_go_on_after_all_steps():
    """With the actor and the model that the update leaves; and the fast learn fast, the actor slowly."""
    agent, found = make(), []
    agent.simulate = lambda *given: found.extend([parameters(agent.actor), parameters(agent.model)])
    before = [parameters(agent.actor), parameters(agent.model)]
    agent.update()
    after = [parameters(agent.actor), parameters(agent.model)]
    assert all(torch.equal(x, y) and not torch.equal(x, z) for x, y, z in zip(found, after, before, strict=True))
    rates = {name: getattr(agent, f"{name}_optimizer").param_groups[0]["lr"] for name in ("critic", "model", "alpha", "actor", "cloning", "cloning_alpha")}
    assert rates == dict(critic=5e-4, model=5e-4, alpha=5e-4, actor=5e-7, cloning=5e-4, cloning_alpha=5e-4)


def test_ends_are_the_rule_s_or_those_stored():
    for stored in (False, True):
        agent = make(batch_size=16, stored_ends=stored)
        agent.terminal = lambda obs, action, next_obs: torch.arange(len(obs)) % 2 == 0
        real = agent.data.split(agent.data.rows[agent.train[:16]])
        batch, _ = agent.imagine(real, torch.cat([real.obs, real.action], 1))
        assert real.done.sum() > 0 and batch.done[16:].tolist() == [1.0, 0.0] * 8
        assert torch.equal(batch.done[:16], real.done) if stored else batch.done[:16].tolist() == [1.0, 0.0] * 8


def test_the_fit_by_hand(double):
    """(12): z = 1 in each dimension, mu = 0, sigma = 2, R = 3, r = 1, omega = 0.25; and (11) between its bounds."""
    agent = exact()
    model, zero = agent.model, torch.zeros(4, S)
    batch = Batch(zero, torch.zeros(4, A), torch.ones(4), model.change_mean + model.change_std, torch.zeros(4))
    batch = batch._replace(next_obs=batch.next_obs.expand(4, S))
    fit = model.fit(batch, zero, torch.full((4, S), 2 * np.log(2)), torch.full((4,), 3.0), 0.25)
    assert fit.item() == pytest.approx(0.5 * (1 / 4 + 2 * np.log(2)) + 0.25 * 4)
    for raw, log_var in ((-100.0, -10.0), (-10.0, -9.306867), (-5.0, -4.997336), (0.0, -0.474004), (0.5, -0.193092), (100.0, 0.500028)):
        flat_model(agent, 0.0)
        with torch.no_grad():
            model.biases[-1][S:2 * S] = raw
        assert model(zero, torch.zeros(4, A))[1][0, 0].item() == pytest.approx(log_var, abs=1e-5)


def test_the_model_first_changes_little_and_knows_the_data():
    agent = make()
    mean, log_var, reward = agent.model(agent.data.obs, agent.data.action)
    assert mean.abs().max() < 0.2 and reward.abs().max() < 0.2 and [tuple(w.shape) for w in agent.model.weights] == [(512, 14), (512, 512), (512, 512), (23, 512)]
    rows, change = torch.cat([agent.data.obs, agent.data.action], 1), agent.data.next_obs - agent.data.obs
    for name, x in (("input", rows), ("change", change), ("obs", agent.data.obs)):
        torch.testing.assert_close(getattr(agent.model, f"{name}_mean"), x.mean(0))
        torch.testing.assert_close(getattr(agent.model, f"{name}_std"), x.std(0, correction=0))


def learnable():
    """Data whose next state and reward a network can tell."""
    data = make_data(600)
    obs, action, _, _, done = data.split(data.rows)
    data.rows[:, S + A] = obs[:, 0]
    data.rows[:, S + A + 1:-1] = 0.9 * obs + 0.1 * action.sum(1, keepdim=True)
    return data


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(Fit, "batches", 20)


def test_the_model_s_training(short):
    """It learns; its best state on the held-out rows stays, with their error; nothing else of the agent's changes."""
    agent = make(learnable(), model_epochs=4)
    others = {name: parameters(getattr(agent, name)) for name in ("actor", "critics")}
    fit, rows = agent.fit_model(), []
    first = [x.item() for x in agent.model.errors(agent.data.split(agent.data.rows[agent.holdout]))]
    assert fit.steps == 20 and len(fit.holdout) == 60 and not set(fit.holdout.tolist()) & set(fit.order.unique().tolist())
    assert torch.equal(fit.holdout, agent.holdout) and torch.equal(fit.rows, agent.train)
    while not fit.done:
        for _ in range(fit.steps):
            fit.update()
        rows += fit.end_epoch()
    best = min(rows, key=lambda row: row["held_out"])
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3] and best["holdout"] < first[0] / 2 and best["reward_error"] < first[1] / 2
    with torch.no_grad():
        agent.model.weights[-1].add_(1)
    assert re.fullmatch(r"held-out loss -?[\d.]+, error [\d.]+", fit.finish())
    held = agent.data.split(agent.data.rows[agent.holdout])
    assert agent.model.errors(held)[0].item() == pytest.approx(best["holdout"], rel=1e-5) and agent.model.holdout_before.item() == pytest.approx(best["holdout"], rel=1e-5)
    assert all(torch.equal(parameters(getattr(agent, name)), before) for name, before in others.items())


def test_the_training_ends_after_five_that_are_no_better(short, monkeypatch):
    """1% of the loss is better, less is not; the state of the last that was better stays."""
    fit = make(learnable()).fit_model()
    told = iter([1.0, 0.98, 0.975, 0.95, -0.1, -0.1005, -0.1009, -0.1, 5.0, -0.10099])
    monkeypatch.setattr(fit, "losses", lambda rows: torch.tensor([next(told)]))
    improved = []
    while not fit.done:
        fit.step += fit.steps
        with torch.no_grad():
            fit.model.biases[-1].fill_(float(len(improved)))
        improved += [row["improved"] for row in fit.end_epoch()]
    assert improved == [1, 1, 0, 1, 1, 0, 0, 0, 0, 0]
    fit.finish()
    assert (fit.model.biases[-1] == 4).all()


def test_a_kept_model_serves_every_beta_and_lambda():
    from common.pretraining import _key
    data = make_data()
    keys = [_key(make(data, **flags).fit_model(), 0) for flags in ({}, dict(beta=9.0, fit_coef=2.0, lr=1e-3), dict(reward_coef=2.0), dict(batch_size=8))]
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_the_reward_s_weight_may_be_the_paper_s():
    data = make_data()
    largest = data.reward.abs().max().item()
    agent = make(data, reward_coef=None)
    assert agent.reward_coef == pytest.approx((0.01 / largest) ** 2) and agent.fit_model().args.reward_coef == agent.reward_coef
    assert make(data, reward_coef=0.0).reward_coef == 0.0


def test_a_small_lambda_is_seen(short):
    """What the log is for: with a tiny lambda the model leaves the data, with a large one it does not."""
    errors = {}
    for coef in (1e-6, 1e3):
        agent = make(learnable(), model_epochs=8, fit_coef=coef, reward_coef=1.0, lr=2e-3)
        fit = agent.fit_model()
        while not fit.done:
            for _ in range(fit.steps):
                fit.update()
            fit.end_epoch()
        fit.finish()
        logs = advance(agent, 150).update()
        errors[coef] = logs["reward_error"].item(), logs["holdout"].item() / logs["holdout_before"].item()
    assert errors[1e-6][0] > 3 * errors[1e3][0] and errors[1e-6][1] > 2 > errors[1e3][1], errors


def test_divergence_is_told():
    agent = make()
    with torch.no_grad():
        agent.critics.biases[-1].fill_(2e5)
    assert agent.update()["q"] == torch.inf and make().update()["q"].isfinite()


def counts(optimizer):
    return {int(state["step"]) for state in optimizer.state.values()}


def test_the_switch_freezes_the_reference():
    """The actor as the warm start leaves it; alpha is 1 again; actor and alpha have new Adams, the critics go on."""
    agent = advance(make(warm_start=5), 5)
    clone, fresh = parameters(agent.actor), make(warm_start=5)
    assert agent.phase == ("switch", True) and agent.compared_from == 6 and not agent.model_optimizer.state
    assert torch.equal(parameters(agent.reference), parameters(fresh.reference)) and not torch.equal(clone, parameters(agent.reference))
    asked, alpha_loss = [], agent.alpha_loss
    agent.alpha_loss = lambda entropy: asked.append(agent.log_alpha.item()) or alpha_loss(entropy)
    agent.update()
    assert asked == [0.0] and counts(agent.critic_optimizer) == {6} and counts(agent.actor_optimizer) == counts(agent.model_optimizer) == {1}
    advance(agent, 4)
    assert torch.equal(parameters(agent.reference), clone) and not torch.equal(parameters(agent.actor), clone)
    assert [agent.phase for agent.step in (4, 5, 6, 10, 12, 15)] == [("warm start", False), ("switch", True), *[("game", False), ("game", True)] * 2]


def test_the_warm_start_is_atac_s():
    """The same weights, rows and draws: the same logs and parameters; the model and the banks wait."""
    from algorithms import atac
    data = make_data()
    agent, other = make(data, warm_start=9), atac.ATAC(atac.Args(batch_size=16, warm_start=9, beta=4.0), data, 0)
    model = parameters(agent.model)
    for k in range(6):
        index, noise = np.arange(16 * k, 16 * k + 16), np.random.RandomState(k).randn(32, A)
        with recipe.injected([("randint", index), ("randn", noise)]):
            logs = agent.update()
        with recipe.injected([("randint", agent.train[torch.from_numpy(index)].numpy()), ("randn", noise)]):
            theirs = other.update()
        assert {name: logs[name].item() for name in theirs} == {name: x.item() for name, x in theirs.items()}
        assert logs["fit"] == logs["simulated_done"] == 0
    for name in ("actor", "critics", "target_critics"):
        assert torch.equal(parameters(getattr(agent, name)), parameters(getattr(other, name)))
    assert torch.equal(parameters(agent.model), model) and agent.ring.count == 0 and not agent.banks.any()


def test_held_out_rows_are_never_drawn():
    agent, seen = make(make_data(60), batch_size=32), set()
    split = agent.data.split
    agent.data.split = lambda rows: (seen.update(map(tuple, rows.tolist())), split(rows))[1]
    for _ in range(40):
        agent.update(log=False)
    held = set(map(tuple, agent.data.rows[agent.holdout].tolist()))
    assert len(held) == 6 and not seen & held and len(seen) == 54


POLICY = ROOT / "common/policies/hopper-sac-040k.npz"


def test_a_stored_policy_acts_as_in_the_stand_ins(monkeypatch):
    """The mean for evaluation, and draws of the same distribution as common/standin.py's."""
    from common import standin
    reference = find_reference(make_args(reference=str(POLICY)), make_data())
    obs, zero = torch.randn(5, S), np.random.default_rng(0)
    theirs = standin._actor(POLICY.stem, A, type("Silent", (), {"standard_normal": staticmethod(lambda n, dtype: np.zeros(n, dtype))}))
    np.testing.assert_allclose(reference.act(obs), np.stack([theirs(row) for row in obs.numpy()]), atol=1e-5)
    drawing = standin._actor(POLICY.stem, A, zero)
    ours, theirs = reference.sample(obs[:1].expand(4_000, S), torch.Generator().manual_seed(0)), np.stack([drawing(obs[0].numpy()) for _ in range(4_000)])
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.06)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.06)


def make_args(**flags) -> Args:
    return Args(**dict(env="mine.npz", eval_env="hopper-medium-v2") | flags)


@pytest.mark.parametrize("algorithm, kind", [("mopo", "sample"), ("sac_n", "from_policy"), ("awac", "from_policy"), ("atac", "gaussian"), ("td3_bc", "act"), ("iql", "act"),
                                             ("combo", "act")])
def test_references_act_with_their_own_noise(algorithm, kind):
    from tests.helpers import small_agents
    (agent,) = small_agents(algorithm, [0], **({"termination": "never"} if algorithm in ("mopo", "combo") else {}))
    reference, obs = Reference(agent.actor, S), make_data().obs
    first, second = (reference.sample(obs, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert reference.kind == kind and first.shape == (256, A) and first.abs().max() <= 1 and not first.requires_grad
    assert torch.equal(first, second) == (kind == "act") and torch.equal(reference.act(obs), agent.actor.act(obs).clamp(-1, 1))
    assert torch.equal(first, reference.sample(obs, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name, told", [("nothing", "neither bc nor"), ("text.npz", "neither bc nor"), ("odd.npz", "its matrices are"), ("nan.npz", "not finite"),
                                        ("empty", "no run folder"), (str(ROOT / "common/policies/halfcheetah-sac-040k.npz"), "has 17 observations and 6 actions")])
def test_what_is_no_reference(name, told, tmp_path):
    arrays = dict(np.load(POLICY))
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "odd.npz", **arrays | {"fc1/weight": np.zeros((3, 3))})
    np.savez(tmp_path / "nan.npz", **arrays | {"fc1/bias": np.full(256, np.nan)})
    with pytest.raises(InputError, match=told) as error:
        find_reference(make_args(reference=str(tmp_path / name)), make_data())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [["--beta", "0"], ["--beta", "-1"], ["--fit-coef", "0"], ["--fit-coef", "-2"], ["--reward-coef", "-1"]])
def test_numbers_out_of_range(words):
    with pytest.raises(InputError, match=f"{words[0]} .*give a number in") as error:
        parse(Args, PAPER, ["--env", "hopper-medium-v2", *words])
    assert "\n" not in str(error.value)


RUN = ["--batch-size", 8, "--pairs", 100, "--model-epochs", 1, "--eval-env", "hopper-medium-v2", "--eval-episodes", 2, "--eval-workers", 0, "--log-every", 7, "--save-seconds", 0]


def table(folder):
    with open(folder / "eval.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_against_a_run(tmp_path):
    """Its score stands beside the actor's, in eval.csv, in result.json and in the report; a resumed run knows it."""
    write_npz(tmp_path / "hopper.npz")
    flags = ["--env", tmp_path / "hopper.npz", *RUN]
    script = ROOT / "algorithms/armor.py"
    code, out, err = run_script(script, *flags, "--runs", tmp_path / "bc", "--updates", 12, "--warm-start", 4, "--eval-every", 4, "--restart-every", 3)
    assert code == 0, err
    (bc,) = (tmp_path / "bc").iterdir()
    rows = table(bc)
    assert [row["reference"] == "" for row in rows] == [True, False, False] and rows[1]["reference"] == rows[2]["reference"]
    assert rows[1]["reference"] == rows[0]["score"]  # the actor as the warm start left it
    result = json.loads((bc / "result.json").read_text())["seeds"]["0"]
    assert result["difference"] == float(rows[2]["difference"]) == float(rows[2]["score"]) - result["reference"]
    assert "reference        difference" in out and f"{result['difference']:.1f}" in out
    code, _, err = run_script(script, *flags, "--runs", tmp_path / "run", "--updates", 6, "--warm-start", 2, "--eval-every", 3, "--reference", bc)
    assert code == 0, err
    (run,) = (tmp_path / "run").iterdir()
    before = {name: (run / name).read_bytes() for name in ("log.csv", "eval.csv")}
    assert len(table(run)) == 2 and all(row["reference"] == rows[-1]["score"] for row in table(run))
    state = torch.load(run / "checkpoint.pt", weights_only=True)["agents"][0]["reference"]
    theirs = torch.load(bc / "checkpoint.pt", weights_only=True)["agents"][0]["actor"]
    assert_equal_trees({f"actor.{name}": value for name, value in theirs.items()}, dict(state))
    (run / "result.json").unlink()
    code, out, err = run_script(script, "--resume", run)
    assert code == 0 and "resumed at update 6" in out and "reference" in json.loads((run / "result.json").read_text())["seeds"]["0"], err
    assert before == {name: (run / name).read_bytes() for name in before}
