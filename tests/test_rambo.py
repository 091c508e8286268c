"""RAMBO: the authors' and OfflineRL-Kit's numbers of the adversary, its chains, cloning, and what moves whom."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms import mopo, rambo
from algorithms.rambo import RAMBO, Args, Cloning, log_mixture
from benchmark.engine.runs import load_agent, read_run
from common import InputError
from common.pretraining import _key
from common.run import snapshot
from tests import recipe
from tests.helpers import ROOT, Pause, Script, assert_equal_trees, make_data, parameters, run_script, save_to_memory, write_npz
from tests.recipe import tensor
from tests.recipe_models import A, B, D, E, S, batch, close, dataset, fill_agent, fill_model, golden, norms, normals

GOLDEN = golden("rambo")
OBS_MEAN, OBS_STD = 0.05 * normals(95, S), 1 + 0.1 * abs(normals(96, S))


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


def small(data=None, **changed) -> RAMBO:
    flags = dict(rollout_batch=10, rollout_length=2, rollout_every=4, batch_size=16, retain=2, updates=40, termination="never", bc_epochs=2)
    return RAMBO(Args(**flags | changed), make_data() if data is None else data, 0)


def filled(**changed) -> RAMBO:
    """An agent whose networks see the recipe's states as standardised ones."""
    rows = batch()
    rows = rows._replace(**{name: getattr(rows, name) * tensor(OBS_STD) + tensor(OBS_MEAN) for name in ("obs", "next_obs")})
    agent = RAMBO(Args(**dict(batch_size=B, rollout_batch=B + 1, device="cpu", rollout_every=3, rollout_length=3) | changed), dataset(rows), 0)
    fill_model(agent.model)
    fill_agent(agent)
    for network in (agent.actor, agent.critics, agent.target_critics):
        network.obs_mean.copy_(tensor(OBS_MEAN))
        network.obs_scale.copy_(tensor(OBS_STD))
    agent.train = torch.arange(B)
    agent.step = 3  # the adversary's first step
    return agent


def weights_and_rest(model):
    return [*model.weights], [*model.biases, model.max_log_var, model.min_log_var]


CASES = [("ours_lambda_3e4", 3e-4), ("ours_lambda_0p3", 0.3), ("kit_lambda_3e4", 3e-4)]


@pytest.mark.parametrize("case, weight", CASES)
def test_three_steps_of_the_adversary(case, weight, double, monkeypatch):
    """The chain, (1) to (4), their gradients and Adam's steps. Of the Kit also: its bounds, one set of real rows for all networks, and its
    unbiased standard deviation, which no flag of ours has."""
    theirs, kit = GOLDEN[case], case.startswith("kit")
    if kit:
        monkeypatch.setattr(rambo, "MODEL", replace(rambo.MODEL, max_log_var=0.5, min_log_var=-10.0))
        std_mean = torch.std_mean
        monkeypatch.setattr(torch, "std_mean", lambda x, *args, correction: std_mean(x, *args, correction=1 if x.shape == (B,) else correction))
    agent = filled(adversary_weight=weight)
    calls = recipe.remembered(agent, "play", "advantage", "adversary_loss")
    for t, step in enumerate(theirs["steps"]):
        for kept in calls.values():
            kept.clear()
        before = [weight.detach().clone() for weight in agent.model.weights]
        index = np.random.RandomState(90 + t).randint(0, B, (E, B))
        index = np.broadcast_to(index[:1], (E, B)).copy() if kit else index
        elite = np.random.RandomState(288 + 10 * t).randint(0, 5, B)
        draws = [("randn", normals(80 + t, B, A)), ("randint", elite), ("randn", normals(84 + t, B, D)), ("randint", index)]
        assert agent.phase == ("chain" if t else "start")
        with recipe.injected([("randint", np.arange(B)), *draws] if t == 0 else draws):
            logs = agent.update()
        (_, (next_obs, _, log_prob)), = calls["play"]
        (obs, action, reward, reached), _ = calls["advantage"][0]
        close(action.sum(), step["action_sum"])
        close(agent.standard(next_obs).sum(), step["next_obs_sum"])
        assert agent.terminal(obs, action, next_obs).sum() == step["terminated"] and torch.equal(agent.chain, next_obs)
        decay = sum(w / 2 * (weight**2).sum() for w, weight in zip(rambo.MODEL.decay, before))
        close(log_prob.mean(), step["adv_log_prob"])
        close(logs["log_likelihood"], step["adv_log_prob"])
        close(calls["adversary_loss"][0][1], step["adv_loss"])
        close(logs["adversary_loss"], step["adv_loss"])
        close(logs["model_loss"] + decay, step["sl_loss"])
        close(logs["model_loss"] + decay + weight * logs["adversary_loss"], step["all_loss"])
        grads = [parameter.grad + w * old for w, parameter, old in zip(rambo.MODEL.decay, agent.model.weights, before)]
        close(norms(grads), step["grad_norm_W"])
        if t == 0:
            close([grad.norm() for grad in grads[-1]], theirs["grad_W5_per_network_norm"])
    after = theirs["after"]
    close(norms(agent.model.weights), after["norm_W"])
    close(norms(agent.model.biases), after["norm_b"])
    close(agent.model.max_log_var[:3], after["max_logvar_first3"])
    close(agent.model.min_log_var[:3], after["min_logvar_first3"])
    close(agent.model.weights[0][1, 0, :4], after["W1_net1_row0"])
    close(agent.model.weights[-1][1, 0, :4], after["W5_net1_row0"])


def test_the_gradient_of_the_adversary_alone(double):
    """(3): the two networks that are no elites have none; the bounds do; actor and critics never."""
    theirs, agent = GOLDEN["adversarial_gradient_at_start"], filled()
    with recipe.injected([("randn", normals(80, B, A)), ("randint", np.random.RandomState(288).randint(0, 5, B)), ("randn", normals(84, B, D))]):
        _, advantage, log_prob = agent.play(agent.data.obs)
    assert not advantage.requires_grad
    weights, rest = weights_and_rest(agent.model)
    grads = torch.autograd.grad(agent.adversary_loss(advantage, log_prob), [*weights, *rest])
    close(norms(grads[:5]), theirs["norm_W"])
    close([grad.norm() for grad in grads[4]], theirs["W5_norm_per_network"])
    assert all((grad[[0, 2]] == 0).all() for grad in grads[:10])
    close(grads[4][1, 0, :6], theirs["W5_net1_row0"])
    close(grads[10], theirs["max_logvar"])
    close(grads[11].norm(), theirs["min_logvar_norm"])
    agent.update()
    assert all((weight.grad[0] != 0).any() and (weight.grad[2] != 0).any() for weight in weights)  # by real rows
    assert all(p.grad is None for network in (agent.actor, agent.critics, agent.target_critics) for p in network.parameters())


def test_the_step_is_that_of_a_sum_over_rows_divided_by_their_number(double):
    """The authors add the scalar L to each of B losses, and TensorFlow sums them."""
    agent = filled(adversary_weight=0.3)
    draws = [("randint", np.arange(B)), ("randn", normals(80, B, A)), ("randint", np.random.RandomState(288).randint(0, 5, B)),
             ("randn", normals(84, B, D)), ("randint", np.random.RandomState(90).randint(0, B, (E, B)))]
    weights, rest = weights_and_rest(agent.model)
    with recipe.injected(draws[1:4]):
        _, advantage, log_prob = agent.play(agent.data.obs)
    real = agent.targets(torch.from_numpy(draws[4][1]))
    normalised = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-6)
    assert normalised.shape == log_prob.shape == (B,)
    vector = rambo.supervised_loss(agent.model, *real, rambo.MODEL)[0] + 0.3 * normalised * log_prob
    expected = torch.autograd.grad(vector.sum(), [*weights, *rest])
    with recipe.injected(draws):
        agent.update()
    for parameter, grad in zip([*weights, *rest], expected):
        close(parameter.grad * B, grad)


def test_mixture_by_hand(double):
    """Five equal elites are one Gaussian; two with unit variance at 0 and 2; densities that underflow."""
    y, mean, log_var = (tensor(normals(k, *shape)) for k, shape in ((1, (6, 3)), (2, (1, 6, 3)), (3, (1, 6, 3))))
    normal = torch.distributions.Normal(mean[0], (0.5 * log_var[0]).exp()).log_prob(y).sum(-1)
    close(log_mixture(y, mean.expand(5, -1, -1), log_var.expand(5, -1, -1)), normal)
    mean = torch.tensor([0.0, 2.0]).view(2, 1, 1).requires_grad_()
    value = log_mixture(torch.zeros(1, 1), mean, torch.zeros(2, 1, 1))
    close(value, [-1.485158])
    close(torch.autograd.grad(value.sum(), mean)[0].flatten(), [0.0, -0.238406])
    with recipe.precision(torch.float32):
        far = (2 * (900 - 0.5 * np.log(2 * np.pi))) ** 0.5
        mean = torch.full((5, 1, 1), far, requires_grad=True)
        value = log_mixture(torch.zeros(1, 1), mean, torch.zeros(5, 1, 1))
        (grad,) = torch.autograd.grad(value.sum(), mean)
    assert value.item() == pytest.approx(-900, rel=1e-6) and torch.allclose(grad, torch.full_like(grad, -far / 5))


class Linear:
    """Critics whose value is `slope` times the state's first number plus a constant, and an actor that stands still."""

    def __init__(self, slope, constant=0.0):
        self.slope, self.constant = slope, constant

    def __call__(self, obs, action):
        return torch.stack([self.slope * obs[:, 0] + self.constant, self.slope * obs[:, 0] + self.constant + 1])  # the minimum is the first

    def act(self, obs):
        return torch.zeros(len(obs), A)


def linear(slope, constant=0.0) -> RAMBO:
    agent = small()
    agent.critics = agent.actor = Linear(slope, constant)
    return agent


@pytest.mark.parametrize("slope, sign", [(3.0, 1), (-3.0, -1)])
def test_model_gradient(slope, sign, double):
    """T = N(0.3, 0.5^2), V(s') = 3 s': the expected gradient is 1 / sigma in the mean, and 0 in log sigma. A step down lowers the value."""
    n, agent = 1_000_000, linear(slope)
    mean, log_std = torch.tensor(0.3, requires_grad=True), torch.tensor(0.5).log().requires_grad_()
    next_obs = torch.zeros(n, S)
    next_obs[:, 0] = 0.3 + 0.5 * tensor(normals(0, n))
    advantage = agent.advantage(torch.zeros(n, S), torch.zeros(n, A), torch.zeros(n), next_obs)
    log_prob = log_mixture(next_obs[:, :1], mean.expand(1, n, 1), 2 * log_std.expand(1, n, 1))
    grads = torch.autograd.grad(agent.adversary_loss(advantage, log_prob), [mean, log_std])
    assert grads[0].item() == pytest.approx(2.0 * sign, abs=0.02) and grads[1].item() == pytest.approx(0, abs=0.02)


def test_scale_and_shift_of_the_values_do_not_matter(double):
    obs, next_obs, action, reward = (tensor(normals(k, *shape)) for k, shape in enumerate([(50, S), (50, S), (50, A), (50,)]))
    log_prob = tensor(normals(9, 50))
    losses = [agent.adversary_loss(agent.advantage(obs, action, scale * reward, next_obs), log_prob)
              for scale, agent in ((1, linear(2.0)), (10, linear(20.0)), (1, linear(2.0, 7.0)))]
    close(torch.stack(losses), torch.stack(losses[:1] * 3), 1e-5)
    advantage = linear(2.0).advantage(obs, action, reward, next_obs)
    close(advantage, reward + 0.99 * 2 * next_obs[:, 0] - 2 * obs[:, 0])
    close(small().adversary_loss(advantage, torch.ones(50)), 0.0)  # mean 0
    close(small().adversary_loss(advantage, advantage), advantage.std(correction=0), 1e-5)  # std 1
    assert small().adversary_loss(torch.ones(50), log_prob) == 0  # critics that know nothing yet


def test_an_imagined_end_has_no_value_after_it(double):
    agent = linear(2.0)
    agent.terminal = lambda obs, action, next_obs: next_obs[:, 0] > 0
    obs, next_obs = tensor(normals(1, 50, S)), tensor(normals(2, 50, S))
    advantage = agent.advantage(obs, torch.zeros(50, A), torch.zeros(50), next_obs)
    ended = next_obs[:, 0] > 0
    close(advantage[ended], -2 * obs[ended, 0])
    close(advantage[~ended], 0.99 * 2 * next_obs[~ended, 0] - 2 * obs[~ended, 0])


def phases(agent, n) -> list[str]:
    found = []
    for agent.step in range(n):
        found.append(agent.phase)
    return found


@pytest.mark.parametrize("k, starts", [(1, 1000), (2, 500), (3, 334), (5, 200)])
def test_an_iteration(k, starts):
    """A rollout and 1,000 updates of the agent, then 1,000 of the model; the last chain may be cut."""
    found = phases(small(rollout_length=k, rollout_every=1000), 4000)
    assert found[:1000] == ["rollout", *["agent"] * 999] and found[1000:2000] == (["start", *["chain"] * (k - 1)] * starts)[:1000]
    assert found[2000:] == found[:2000] and found[1000:2000].count("start") == starts
    assert set(phases(small(rollout_every=1000, adversary_weight=0.0), 2001)[1:2000]) == {"agent", "rollout"}


def test_chains():
    """They start from states of the data, go on from what was imagined, past ends too, and cost an Adam step each."""
    agent = small(rollout_length=3)
    agent.terminal = lambda obs, action, next_obs: torch.ones(len(obs), dtype=torch.bool)
    found, steps, rollouts, play = [], [], recipe.remembered(agent, "rollout")["rollout"], agent.play
    agent.play = lambda obs: (steps.append([obs.clone()]), steps[-1].extend(result := play(obs)), result)[2]
    states = {tuple(row) for row in agent.data.obs.tolist()}
    for _ in range(16):
        found.append(agent.phase)
        agent.update()
    assert found == ["rollout", "agent", "agent", "agent", "start", "chain", "chain", "start"] * 2 and len(rollouts) == 2
    for i in (0, 3, 4, 7):
        assert {tuple(row) for row in steps[i][0].tolist()} <= states
    for i in (1, 2, 5, 6):
        assert torch.equal(steps[i][0], steps[i - 1][1]) and len(steps[i][0]) == 16
    assert len(steps) == 8 and torch.equal(agent.chain, steps[-1][1]) and not torch.equal(steps[0][0], steps[4][0])
    assert all(state["step"] == 8 for state in agent.model_optimizer.state.values())


def test_without_an_adversary_the_model_stays():
    agent = small(adversary_weight=0.0)
    before = {name: x.clone() for name, x in agent.model.state_dict().items()}
    for _ in range(12):
        agent.update()
    assert_equal_trees({**agent.model.state_dict()}, before)
    assert not agent.model_optimizer.state and {agent.phase} <= {"agent", "rollout"}
    other = small()
    for _ in range(8):
        other.update()
    assert not torch.equal(parameters(other.model), parameters(agent.model))


def test_who_moves():
    """The agent's updates leave the model as it is, and the adversary's leave the agent; scaler and elites stay."""
    agent = small()
    for step in range(8):
        moves = {"actor", "critics", "target_critics"} if agent.phase in ("rollout", "agent") else {"model"}
        before = {name: parameters(getattr(agent, name)) for name in ("actor", "critics", "target_critics", "model")}
        buffers, alpha = {name: x.clone() for name, x in agent.model.named_buffers()}, agent.log_alpha.item()
        agent.update()
        assert {name for name, old in before.items() if not torch.equal(old, parameters(getattr(agent, name)))} == moves, step
        assert (agent.log_alpha.item() == alpha) == (moves == {"model"})
        assert_equal_trees(dict(agent.model.named_buffers()), buffers)


def test_rollouts_use_the_model_as_it_is_now():
    agent = small()
    agent.update()
    with torch.no_grad():
        agent.model.biases[-1][..., D - 1] += 100  # rewards
    agent.step, first = 8, int(agent.ring.size)
    agent.update()
    reward = agent.data.split(agent.ring.rows).reward
    assert reward[:first].max() < 50 < reward[first:int(agent.ring.size)].min() and agent.ring.size > first


def test_own_rows_for_every_network_and_none_held_out():
    """Rows of (4): the training split of the model's fit, drawn anew for each network."""
    agent = small()
    fit = agent.fit_model()
    assert set(fit.index.unique().tolist()) <= set(agent.train.tolist())
    assert torch.equal(fit.holdout, agent.holdout) and len(agent.holdout) == 25 and len(agent.train) == 256 - 25
    agent.step, calls = 4, recipe.remembered(agent, "targets")
    for _ in range(4):
        agent.update(log=False)
    index = torch.stack([index for (index,), _ in calls["targets"]])
    assert index.shape == (4, 7, 16) and set(index.unique().tolist()) <= set(agent.train.tolist()) and len(index.unique()) > 150
    assert len({tuple(row) for row in index.flatten(0, 1).tolist()}) == 28


def test_the_fit_and_the_adversary_have_the_same_targets():
    agent = small()
    fit, index = agent.fit_model(), torch.arange(20).view(4, 5)
    for ours, theirs in zip(agent.targets(index), fit.targets(index)):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(agent.holdout_error(), fit.errors()[agent.model.elites].mean())
    for ours, theirs in zip(agent.model_optimizer.param_groups, fit.optimizer.param_groups, strict=True):
        assert ours["weight_decay"] == theirs["weight_decay"] and [p.shape for p in ours["params"]] == [p.shape for p in theirs["params"]]


def test_statistics_of_ten_thousand_rows():
    """Of rows floor(linspace(0, N - 1, 10000)), and 1e-6 more."""
    data = make_data(25_000)
    data.rows[:, 0] = torch.arange(25_000) ** 2
    agent = small(data)
    rows = data.obs[np.floor(np.linspace(0, 24_999, 10_000)).astype(int)].double()
    assert torch.allclose(agent.actor.obs_mean, rows.mean(0).float()) and torch.allclose(agent.critics.obs_mean, rows.mean(0).float())
    assert torch.allclose(agent.actor.obs_scale, (rows.std(0, correction=0) + 1e-6).float())
    assert not torch.allclose(data.obs_mean, agent.actor.obs_mean)
    constant = make_data()
    constant.rows[:, 3] = 2.0
    assert small(constant).actor.obs_scale[3] == pytest.approx(1e-6)


def test_the_units_of_states_do_not_matter(double):
    """Twice the states plus 5: the same numbers, with raw states in data, ring and chains."""
    data = make_data()
    data.rows = data.rows.double()
    agents = []
    for scale, shift in ((1, 0), (2, 5)):
        rows = data.rows.clone()
        for columns in (slice(0, S), slice(S + A + 1, -1)):
            rows[:, columns] = scale * rows[:, columns] + shift
        agents.append(small(replace(data, rows=rows)))
        agents[-1].fit_actor().update()
        agents[-1].fit_model().update()
    for _ in range(10):
        ours, others = (agent.update() for agent in agents)
        for name in ours:
            assert torch.allclose(ours[name], others[name], rtol=1e-3, atol=1e-4), name
    assert torch.allclose(2 * agents[0].chain + 5, agents[1].chain, atol=1e-3)
    obs, action = agents[0].data.obs, agents[0].data.action
    assert torch.allclose(agents[0].actor.act(obs), agents[1].actor.act(2 * obs + 5), atol=1e-3)  # as evaluations and attacks call them
    assert torch.allclose(agents[0].critics(obs, action), agents[1].critics(2 * obs + 5, action), atol=1e-3)


def test_ends_are_told_from_raw_states(double):
    """hopper's: height 1.1 in raw numbers is alive, and its standardised one would not be."""
    agent = filled(termination="hopper", rollout_length=1)
    seen = []
    terminal = agent.terminal
    agent.terminal = lambda *rows: (seen.append(rows), terminal(*rows))[1]
    with torch.no_grad():
        for p in (*agent.model.weights, *agent.model.biases):
            p.zero_()
        agent.model.bounded = lambda raw: torch.full_like(raw, -60.0)
        agent.data.obs[:, :2] = torch.tensor([1.1, 0.0])
        agent.actor.obs_mean[0] = 5.0
    agent.rollout()
    agent.play(agent.data.obs)
    for obs, _, next_obs in seen:
        assert torch.allclose(next_obs[:, :2], torch.tensor([1.1, 0.0])) and not terminal(obs, None, next_obs)[:1]
    assert agent.ring.size == agent.args.rollout_batch and len(seen) == 2


def test_an_elite_draws_a_fifth_of_the_rows(double):
    """No noise: a step goes to one of five means, in units of the states' std, whoever the elites are."""
    agent, n = filled(rollout_length=1, retain=1, rollout_batch=1000, termination="never"), 1000
    with torch.no_grad():
        for p in (*agent.model.weights, *agent.model.biases):
            p.zero_()
        agent.model.biases[-1][:, 0, :D] = torch.arange(7.0)[:, None]
        agent.model.bounded = lambda raw: torch.full_like(raw, -60.0)
    agent.rollout()
    stored = agent.data.split(agent.ring.rows[:n])
    close((stored.next_obs - stored.obs) / agent.actor.obs_scale, stored.reward[:, None].expand(-1, S))
    counts = torch.bincount(stored.reward.round().long(), minlength=7).tolist()
    assert counts == [0, 200, 0, 200, 200, 200, 200]


def test_rows_are_shuffled_before_each_step():
    """So that a row's elite, which is told by its place, is another one at its next step."""
    agent = small(rollout_batch=1000, rollout_length=2, retain=1)
    seen, imagine = [], agent.imagine
    agent.imagine = lambda obs: (seen.append([obs]), seen[-1].extend(result := imagine(obs)), result)[2]
    agent.rollout()
    reached = {tuple(row): place for place, row in enumerate(seen[0][2].tolist())}
    places = [reached[tuple(row)] for row in seen[1][0].tolist()]  # before, of the row that is in this place now
    table = torch.bincount(torch.tensor(places) // 200 * 5 + torch.arange(1000) // 200, minlength=25)
    assert sorted(places) == list(range(1000)) and 15 < table.min() and table.max() < 70


def test_uniform_actions():
    agent = small(uniform_actions=True, rollout_batch=1000, rollout_length=1)
    agent.actor.weights[-1].data.zero_()
    agent.actor.biases[-1].data.copy_(torch.tensor([2.0] * A + [-3.0] * A))
    agent.rollout()
    action = agent.data.split(agent.ring.rows[:1000]).action
    assert action.abs().max() <= 1 and action.mean().abs() < 0.1 and action.std() == pytest.approx(3**-0.5, abs=0.02)
    agent.args.uniform_actions = False
    agent.rollout()
    assert agent.data.split(agent.ring.rows[1000:2000]).action.mean() > 0.5


def test_batches():
    """128 real rows come first, 128 imagined ones follow."""
    agent = small(batch_size=256)
    agent.rollout()
    real, stored = {tuple(row) for row in agent.data.rows.tolist()}, {tuple(row) for row in agent.ring.rows[:int(agent.ring.size)].tolist()}
    sample = [tuple(row) for row in torch.cat([x.reshape(256, -1) for x in agent.sample()], 1).tolist()]
    assert set(sample[:128]) <= real and set(sample[128:]) <= stored and len(sample) == 256
    assert Args().rollout_batch * Args().retain * Args().rollout_length == 1_250_000 and agent.ring.capacity == 2 * 2 * 10


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_an_update_of_the_agent_is_mopos(ratio):
    """With the same networks, batch and noise, no penalty and no limits: SAC, on data rows alone where f = 1."""
    agent = small(real_ratio=ratio, adversary_weight=0.0)
    args = mopo.Args(rollout_batch=10, rollout_length=2, rollout_every=4, batch_size=16, retain=2, termination="never", real_ratio=ratio,
                     penalty_coef=0.0, cosine=False, alpha_max=None)
    other = mopo.MOPO(args, agent.data, 0)
    for network in (agent.actor, agent.critics, agent.target_critics):
        network.obs_mean.zero_()
        network.obs_scale.fill_(1.0)
    for name in ("actor", "critics", "target_critics"):
        for ours, theirs in zip(getattr(agent, name).parameters(), getattr(other, name).parameters(), strict=True):
            theirs.data.copy_(ours)
    agent.rollout()
    assert_equal_trees(agent.ring.state_dict().keys(), other.ring.state_dict().keys())
    other.ring.load_state_dict(agent.ring.state_dict())
    other.rng.set_state(agent.rng.get_state())
    agent.step = other.step = 1
    for _ in range(3):
        ours, theirs = agent.update(), other.update()
        for name in ("critic_loss", "q", "target", "actor_loss", "alpha", "entropy"):
            assert torch.allclose(ours[name], theirs[name], rtol=1e-5), name
    for name in ("actor", "critics", "target_critics"):
        assert torch.allclose(parameters(getattr(agent, name)), parameters(getattr(other, name)), atol=2e-5), name


def test_initial_weights():
    """Glorot's, and biases of 0."""
    agent = small()
    assert all((bias == 0).all() for network in (agent.actor, agent.critics) for bias in network.biases)
    for weight, units in ((agent.actor.weights[0], S + 256), (agent.critics.weights[1], 512), (agent.critics.weights[2], 257)):
        assert 0.97 * (6 / units) ** 0.5 < weight.abs().max() <= (6 / units) ** 0.5
    assert torch.equal(parameters(agent.critics), parameters(agent.target_critics)) and agent.alpha() == 1


def test_log_density(double):
    """Of the tanh of a normal, by the change of variables; of an action that the data have, the same."""
    actor, obs = filled().actor, batch().obs
    mean, log_std = actor(obs)
    with recipe.injected([("randn", normals(5, B, A))]):
        action, log_prob = actor.sample(obs, None)
    z = mean + log_std.exp() * tensor(normals(5, B, A))
    close(action, z.tanh())
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum(-1) - torch.log(1 - action**2).sum(-1)
    close(log_prob, expected.detach())
    with torch.no_grad():
        actor.biases[-1][A:] = -30.0
    assert actor(obs)[1].min() == -20


def cloning(data=None, **changed) -> Cloning:
    return small(data, **changed).fit_actor()


def test_cloning_loss(double):
    """(10) at the data's actions, and finite at +-1."""
    agent = filled()
    fit = Cloning(agent.actor, agent.actor_optimizer, agent.data, agent.args, 0)
    rows = agent.data
    mean, log_std = agent.actor(rows.obs)
    normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(torch.atanh(rows.action)).sum(-1)
    close(fit.losses(torch.arange(B)[None])[0], -(normal - torch.log(1 - rows.action**2).sum(-1)).mean())
    rows.action[0] = torch.tensor([1.0, -1.0, 1.0])
    edge = torch.atanh(torch.tensor([1 - 1e-6, -1 + 1e-6, 1 - 1e-6]))
    expected = torch.distributions.Normal(mean[0], log_std[0].exp()).log_prob(edge).sum() - torch.log(1 - torch.tanh(edge) ** 2).sum()
    close(fit.losses(torch.tensor([[0]]))[0], -expected)


def test_cloning_in_single_precision_is_finite_at_the_bounds():
    data = make_data()
    data.action.copy_(data.action.sign())
    fit = cloning(data)
    fit.update()
    assert torch.isfinite(fit.total) and torch.isfinite(parameters(fit.actor)).all() and fit.skipped == fit.steps


def test_cloning_goes_over_one_sample_in_one_order():
    fit = cloning()
    calls, held = recipe.remembered(fit, "losses"), set(fit.holdout.tolist())
    for _ in range(2):
        for _ in range(fit.steps):
            fit.update()
        fit.end_epoch()
    seen = [rows[0].tolist() for (rows,), _ in calls["losses"] if rows.shape == (1, 16)]
    assert len(held) == 25 and fit.steps == 231 // 16 == 14 and len(seen) == 28 and seen[:14] == seen[14:]
    drawn = [i for row in seen[:14] for i in row]
    assert not set(drawn) & held and len(set(drawn)) < len(drawn) - 50  # with replacement
    assert fit.done and len(cloning(make_data(25_000)).holdout) == 2000
    few = cloning(make_data(12), batch_size=16)
    few.update()
    assert few.steps == 1 and few.order.shape == (1, 16)


def test_batches_that_the_authors_would_skip():
    """By hand: those that have a row with an action at a bound."""
    data = make_data()
    data.action.clamp_(-0.99, 0.99)
    assert cloning(data).skipped == 0
    data.action[7, 1], data.action[100, 2] = 1.0, -1.0
    fit = cloning(data)
    expected = sum(7 in row or 100 in row for row in fit.order.view(-1, 16).tolist())
    assert fit.skipped == expected > 0
    assert fit.end_epoch()[0]["skipped"] == expected / 14 and f"{expected} of 14 batches" in fit.finish()


def test_cloning_moves_the_agents_actor_and_its_adam():
    agent = small(bc_epochs=20, actor_lr=1e-3)
    fit, before = agent.fit_actor(), parameters(agent.actor)
    rows = []
    while not fit.done:
        for _ in range(fit.steps):
            fit.update()
        rows += fit.end_epoch()
    assert not torch.equal(parameters(agent.actor), before) and rows[-1]["train"] < rows[0]["train"] and len(rows) == 20
    assert all(state["step"] == 20 * 14 for state in agent.actor_optimizer.state.values())  # and goes on in (7)
    assert [row["epoch"] for row in rows] == list(range(20)) and fit.total == 0
    assert fit.kept == ("actor", "optimizer") and fit.actor is agent.actor and fit.optimizer is agent.actor_optimizer


def test_a_sweep_shares_the_model_and_the_clone():
    """Weight, horizon and f are in neither's key; what each depends on is."""
    def keys(seed=0, data=0, **changed):
        agent = RAMBO(Args(**dict(rollout_batch=10, bc_epochs=2) | changed), make_data(seed=data), seed)
        return _key(agent.fit_actor(), seed), _key(agent.fit_model(), seed)
    one = keys()
    assert one == keys(adversary_weight=0.0, rollout_length=1, real_ratio=0.1, adversary_lr=1.0, updates=7)
    assert keys(bc_epochs=3)[0] != one[0] and keys(bc_epochs=3)[1] == one[1]
    assert keys(actor_lr=1e-3)[0] != one[0] and keys(batch_size=8)[0] != one[0]
    assert keys(model_epochs=3)[1] != one[1] and keys(model_epochs=3)[0] == one[0]
    assert len({*one, *keys(seed=1), *keys(data=1)}) == 6


def test_log_rows_of_both_kinds_have_the_same_names():
    """Numbers of whoever did not move are the agent's first ones of the iteration, or those of the last chain's start."""
    agent, rows = small(), []
    for _ in range(13):
        rows.append(agent.update())
    assert len({tuple(row) for row in rows}) == 1
    ours = ("critic_loss", "q", "target", "actor_loss", "entropy")
    theirs = ("model_loss", "adversary_loss", "log_likelihood", "advantage")
    for name in ours:
        assert len({rows[i][name].item() for i in range(4)}) == 4 and all(rows[i][name] == rows[0][name] for i in range(4, 8))
        assert rows[12][name] == rows[8][name] != rows[7][name]
    for name in theirs:
        assert all(rows[i][name] == 0 for i in range(4)) and len({rows[i][name].item() for i in range(4, 8)}) == 4
        assert all(rows[i][name] == rows[6][name] for i in range(8, 12)) and rows[12][name] != rows[6][name]


def test_in_the_adversarys_stage_a_checkpoint_has_everything():
    """A chain that is cut by a kill goes on, with the same numbers."""
    agent, other = small(rollout_length=3), small(rollout_length=3)
    for _ in range(6):
        agent.update()
    snapshot(other, torch.load(save_to_memory(snapshot(agent)), weights_only=True))
    assert agent.phase == other.phase == "chain"
    for _ in range(10):
        assert_equal_trees(agent.update(), other.update())
    assert_equal_trees(snapshot(agent), snapshot(other))


def test_divergence():
    """A mean Q beyond 1e10 is told as infinite, so that common/run.py ends the run."""
    for value, told in ((9e9, True), (2e10, False), (-2e10, False), (torch.nan, False)):
        agent = small()
        agent.critics.biases[-1].data.fill_(value)
        assert torch.isfinite(agent.update()["q"]) == told


def test_a_diverged_run_ends_with_one_line(tmp_path):
    write_npz(tmp_path / "hopper.npz")
    words = ["--env", tmp_path / "hopper.npz", "--eval-env", "none", "--termination", "never", "--runs", tmp_path / "runs",
             "--rollout-batch", 10, "--rollout-every", 4, "--model-epochs", 1, "--bc-epochs", 0, "--critic-lr", 1e12, "--log-every", 8,
             "--updates", 40]
    code, _, err = run_script(ROOT / "algorithms/rambo.py", *words, env=os.environ | {"SOLO_CACHE": str(tmp_path)})
    assert code == 1 and err.startswith("error: diverged: ") and err.count("\n") == 1, err


def test_a_killed_run_goes_on(tmp_path):
    """Killed in a chain of the adversary, after cloning and the model's training: the same logs, and the same networks."""
    write_npz(tmp_path / "hopper.npz")
    flags = ["--env", tmp_path / "hopper.npz", "--eval-env", "none", "--termination", "hopper", "--rollout-batch", 10, "--rollout-every", 6,
             "--rollout-length", 4, "--retain", 2, "--model-epochs", 1, "--bc-epochs", 2, "--batch-size", 16, "--log-every", 1, "--updates", 30,
             "--seeds", 0, 1]
    environment, script = os.environ | {"SOLO_CACHE": str(tmp_path / "cache")}, ROOT / "algorithms/rambo.py"
    code, out, err = run_script(script, *flags, "--runs", tmp_path / "whole", env=environment | {"SOLO_CACHE": str(tmp_path / "other")})
    assert code == 0, err
    assert out.count("cloning, seed") == out.count("model, seed") == 4 and out.count("batches\n") == 2  # at its start and end
    pause = Pause(tmp_path / "pause")
    pause.at(22)
    killed = Script(script, *flags, "--runs", tmp_path / "killed", "--save-seconds", 0, env=environment | pause.env)
    killed.until(lambda: pause.reached(22))
    assert killed.end(signal.SIGKILL)[0] == -signal.SIGKILL
    (whole,), (folder,) = (list((tmp_path / name).iterdir()) for name in ("whole", "killed"))
    code, out, err = run_script(script, "--resume", folder, env=environment)
    assert code == 0 and "resumed at update 21" in out and "cloning" not in out, err
    for name in ("log.csv", "model.csv", "cloning.csv"):
        assert (whole / name).read_bytes() == (folder / name).read_bytes(), name
    assert_equal_trees(*(torch.load(path / "checkpoint.pt", weights_only=True)["agents"] for path in (whole, folder)))
    assert (whole / "cloning.csv").read_text().splitlines()[0] == "seed,epoch,train,holdout,skipped"
    agent, saved = load_agent(read_run(folder), 1, A), torch.load(folder / "checkpoint.pt", weights_only=True)["agents"][1]
    for name in ("actor", "critics"):
        assert_equal_trees(dict(getattr(agent, name).state_dict()), dict(saved[name]))


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="--rollout-batch 12: give a multiple of .* 5"):
        Args(rollout_batch=12)
    with pytest.raises(InputError, match="too few for a model"):
        RAMBO(Args(), make_data(9), 0)
    code, out, err = run_script(ROOT / "algorithms/rambo.py", "--rollout-batch", 7, "--runs", tmp_path / "runs")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_values_of_the_datasets():
    assert rambo.PAPER["hopper-random-v2"] == dict(rollout_length=2, adversary_weight=3e-4, bc_epochs=50, updates=4_000_000, eval_every=20_000)
    assert rambo.PAPER["walker2d-medium-v2"] == dict(rollout_length=5, adversary_weight=0, bc_epochs=50, updates=2_000_000, eval_every=10_000)
    assert rambo.V1["halfcheetah-medium-expert-v2"]["rollout_length"] == 2 and rambo.V1["hopper-medium-expert-v2"]["adversary_weight"] == 0
    maze = rambo.PAPER["antmaze-large-play-v0"]
    assert maze["uniform_actions"] and maze["reward"] == "r-1" and maze["bc_epochs"] == 0 and maze["adversary_weight"] == 3e-4
    assert len(rambo.PAPER) == 18 and len(rambo.V1) == 12 and all(values["bc_epochs"] == 0 for values in rambo.V1.values())
    pairs = [sum((rambo.PAPER[name][flag] for flag in ("rollout_length", "adversary_weight"))) != sum(
        (values[flag] for flag in ("rollout_length", "adversary_weight"))) for name, values in rambo.V1.items()]
    assert sum(pairs) == 5
