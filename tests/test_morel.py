"""MOReL: the authors' numbers, what is kept of an imagined episode, the natural gradient, and what is learned before."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from algorithms import morel
from algorithms.morel import Args, MOReL, before, conjugate_gradient, discounted, disagreement
from common import InputError
from tests import recipe
from tests.helpers import FLAGS, ROOT, Pause, Script, make_data, parameters, run_script, write_npz
from tests.recipe import tensor
from tests.recipe_models import SCALE, SHIFT, A, S, close, golden, norms, normals
from tests.test_resume import RARELY, common_flags, only_folder, same_results

GOLDEN = golden("morel")
LENGTHS = 80, 120, 50, 150  # of the data's episodes
N = sum(LENGTHS) - len(LENGTHS)


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


def small(rows=256, obs_size=11, **changed) -> MOReL:
    flags = dict(starts=3, horizon=8, batch_size=16, updates=40, cg_steps=3, device="cpu")
    return MOReL(Args(**flags | changed), make_data(rows, obs_size), 0)


def filled(**changed) -> MOReL:
    """On the authors' data; states are as they are, without a mask."""
    obs = [SHIFT + SCALE * normals(400 + p, length, S) for p, length in enumerate(LENGTHS)]
    action = np.concatenate([np.tanh(normals(410 + p, length, A))[:-1] for p, length in enumerate(LENGTHS)])
    first, following = (np.concatenate([x[part] for x in obs]) for part in (slice(-1), slice(1, None)))
    data = recipe.dataset(recipe.Inputs({}, [first, action, np.zeros(N), following, np.zeros(N)], []))
    agent = MOReL(Args(**dict(starts=6, horizon=30, c=0.7, truncate_reward=-2.0, cg_steps=4, device="cpu") | changed), data, 0)
    agent.model.mask.fill_(1)
    agent.actor.mask.fill_(1)
    fill_model(agent.model)
    for network, seed, gains in ((agent.actor, 430, (1, 1, 0.3)), (agent.baseline, 440, (1.4, 1.4, 1))):
        for layer, gain in enumerate(gains):
            fill(network, layer, 0, gain, normals(seed + layer, *network.weights[layer].shape[1:]), normals(seed + 5 + layer, network.biases[layer].shape[-1]))
    agent.first_obs = tensor(SHIFT + SCALE * normals(460, 6, S))
    return agent


@torch.no_grad()
def fill(network, layer, number, gain, weight, bias):
    network.weights[layer][number].copy_(tensor(gain / math.sqrt(len(weight)) * weight))
    network.biases[layer][number, 0].copy_(tensor(0.1 * bias))


def fill_model(model):
    for layer, gain in enumerate((1.4, 1.4, 0.15), 1):
        for i in range(1, 5):
            shape = model.weights[layer - 1].shape[1:]
            weight = normals(300 + layer, *shape) + 0.3 * normals(300 + 20 * i + layer, *shape)
            fill(model, layer - 1, i - 1, gain, weight, normals(310 + 20 * i + layer, shape[1]))


def ranks(order, size) -> np.ndarray:
    """Keys that this order sorts: of `size` places those that are not in it get 0, which is never asked for."""
    keys = np.zeros(size)
    keys[order] = np.arange(len(order)) / len(order)
    return keys


def permutation(rng):
    """The first network's; the others', of which nothing is known, are the same."""
    return "rand", np.tile(ranks(rng.permutation(N), N), (4, 1))


def test_two_epochs_of_the_model_equal_the_authors(double):
    theirs, agent, rng, told = GOLDEN["fit_net1_2_epochs"], filled(batch_size=64, model_epochs=2), np.random.RandomState(340), []
    with recipe.injected([permutation(rng)]):
        fit = agent.fit_model()
    with recipe.injected([permutation(rng) for _ in range(2)]):  # the last is drawn, and not used
        while not fit.done:
            for _ in range(fit.steps):
                fit.update()
            told.append(fit.end_epoch()[0]["train"])
    model, data = agent.model, agent.data
    close(told, theirs["mean_loss_per_epoch"])
    close(norms(weight[0] for weight in model.weights), theirs["norm_W"])
    close(((model(data.obs, data.action)[0] - data.next_obs) ** 2).mean(), theirs["raw_mse"])
    for ours, name in ((model.input_mean, "state_shift"), (model.input_scale - 1e-8, "state_scale"), (model.change_mean, "delta_shift"),
                       (model.change_scale - 1e-8, "delta_scale")):
        close(ours[:3], theirs[f"{name}_first3"])


def measured(**changed) -> MOReL:
    """With the authors' data transformations and threshold."""
    agent = filled(**changed)
    agent.fit_model().finish()
    return agent


def test_disagreement_and_threshold_equal_the_authors(double):
    agent, theirs = measured(), GOLDEN["disc"]
    predicted = agent.model(agent.data.obs, agent.data.action)
    disc = disagreement(predicted)
    close(disc.sum(), theirs["sum"])
    close(disc[:3], theirs["first3"])
    close(predicted[0, 0], GOLDEN["predict_net1_row0"])
    close(agent.model.spread, theirs["max"])
    close(agent.model.spread / 3, theirs["tau_c3"])
    close(agent.model.spread / 0.7, theirs["tau_c0p7"])


@pytest.fixture
def solved(monkeypatch):
    """Arguments and result of each solution of (7)."""
    monkeypatch.setattr(morel, "conjugate_gradient", conjugate_gradient)  # put back afterwards
    return recipe.remembered(morel, "conjugate_gradient")["conjugate_gradient"]


def iteration(**changed):
    """One update on the authors' starts and noise: (agent, what its methods got and gave, logs, the policy's parameters before)."""
    agent, lengths = measured(**changed), GOLDEN["iteration_halt_terminal"]["lengths"]
    places = np.concatenate([30 * i + np.arange(length) for i, length in enumerate(lengths)])  # of kept steps
    order = places[np.random.RandomState(470).permutation(len(places))]
    calls = recipe.remembered(agent, "cut", "advantage", "improve_policy", "improve_baseline")
    old = parameters(agent.actor)
    noise = np.concatenate([normals(450 + i, 30, 6, A) for i in range(4)], 1)
    with recipe.injected([("randint", np.arange(6)), ("randn", noise), ("rand", ranks(order, 24 * 30))]):
        logs = agent.update()
    return agent, {name: kept[0] for name, kept in calls.items()}, logs, old


@pytest.mark.parametrize("case", ["halt_terminal", "as_released"])
def test_an_iteration_equals_the_authors(case, double, solved):
    theirs = GOLDEN[f"iteration_{case}"]
    agent, calls, logs, old = iteration(halt_terminal=case == "halt_terminal")
    _, (reward, kept, last, terminal, _) = calls["cut"]
    assert kept.sum(1).tolist() == theirs["lengths"] and terminal.tolist() == theirs["terminated"]
    assert kept[:, 0].sum() == theirs["n_paths"] and logs["samples"] == theirs["samples"] and last.sum(1).tolist() == [1] * 24
    close(reward.sum(), theirs["reward_sum"])
    close(logs["imagined_return"], theirs["reward_sum"] / 24)
    (features, returns, flat), _ = calls["improve_baseline"]
    close(returns.sum(), theirs["return_sum"])
    _, advantage = calls["advantage"]
    close(advantage.sum(), theirs["advantage_sum_before_whitening"])
    close(advantage[0, :3], theirs["advantage_first_path_first3"])
    (_, _, whitened, _), _ = calls["improve_policy"]
    close(whitened[:3], theirs["whitened_first3"])
    close(logs["factor"], theirs["step_multiplier"])
    close((parameters(agent.actor) - old).norm(), theirs["parameter_change_norm"])
    close(agent.actor.log_std, theirs["log_std_after"])
    close(logs["kl"], theirs["kl"])
    close(-logs["actor_loss"], theirs["surrogate_gain"])
    with torch.no_grad():
        after = ((agent.baseline(features)[0, :, 0] - returns)[flat] ** 2).sum() / (returns**2).sum()
    close([logs["baseline_error"], after], theirs["baseline_error_before_after"])
    close(norms(p for pair in zip(agent.baseline.weights, agent.baseline.biases) for p in pair), theirs["baseline_norms"])
    ((_, gradient, _), _), = solved
    close(gradient.norm(), theirs["gradient_norm"])
    assert next(iter(agent.actor.parameters())) is agent.actor.log_std
    close(gradient[:A], theirs["gradient_log_std"])


def test_twenty_steps_of_the_conjugate_gradient_are_near_the_authors(double):
    """On 205 samples they amplify rounding: two float64 programs differ by 1e-3."""
    theirs = GOLDEN["iteration_halt_terminal_20_cg"]
    agent, _, logs, old = iteration(cg_steps=20)
    ours = logs["factor"], (parameters(agent.actor) - old).norm(), logs["kl"], -logs["actor_loss"]
    names = "step_multiplier", "parameter_change_norm", "kl", "surrogate_gain"
    assert [x.item() for x in ours] == pytest.approx([theirs[name] for name in names], rel=0.02)


def test_hoppers_reward_and_end_equal_the_authors(double):
    theirs = GOLDEN["hopper_edges"]
    reward, fallen = morel.hopper(tensor(theirs["states"]), tensor(theirs["action"]).expand(8, A))
    close(reward, theirs["reward"])
    assert fallen.tolist() == theirs["terminated"]


def test_disagreement_by_hand():
    predicted = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])[:, None]
    assert disagreement(predicted).tolist() == [5.0]
    assert disagreement(predicted[:1].expand(4, -1, -1)).tolist() == [0.0]


def upright(agent, disc, fallen=()):
    """`cut` of one episode whose steps disagree so much, and which falls at these."""
    disc = torch.tensor([disc])
    agent.world = lambda obs, action: (torch.ones_like(disc), torch.tensor([[step in fallen for step in range(disc.shape[1])]]))
    return agent.cut(None, None, disc)


def test_the_threshold_is_strict():
    """Of a largest disagreement of 6, c = 3 makes 2."""
    agent = small(c=3.0)
    agent.model.spread.fill_(6)
    for disc, halted in ((2.0, False), (2.0001, True)):
        assert upright(agent, [0.0] * 5 + [disc] + [0.0] * 4)[4].item() == halted


@pytest.mark.parametrize("disc, fallen, length, terminal, halted", [
    ({}, (), 20, False, False),
    ({2: 5}, (), 4, True, True),  # the floor
    ({0: 5}, (), 4, True, True),
    ({3: 5}, (), 4, True, True),
    ({4: 5}, (), 5, True, True),
    ({10: 5}, (), 11, True, True),
    ({10: 5, 7: 5}, (), 8, True, True),
    ({19: 5}, (), 20, False, False),  # nothing is asked of the last step
    ({}, (9, 12), 10, True, False),  # the fall stays
    ({9: 5}, (9,), 10, True, False),
    ({8: 5}, (9,), 9, True, True),
    ({12: 5}, (9,), 10, True, False),
    ({}, (3,), 0, True, False),  # it is dropped
    ({0: 5}, (2,), 0, True, False),
    ({}, (4,), 5, True, False)])
def test_what_is_kept(disc, fallen, length, terminal, halted):
    disc = [float(disc.get(step, 0.1)) for step in range(20)]
    agent = small(c=1.0, truncate_reward=-7.0)
    agent.model.spread.fill_(1)
    reward, kept, last, ends, halts = upright(agent, disc, fallen)
    assert kept[0].tolist() == [step < length for step in range(20)]
    assert (ends.item(), halts.item()) == (terminal, halted)
    assert not length or last[0].nonzero().tolist() == [[length - 1]]
    assert reward[0].tolist() == [1.0 - 7 * (halted and step == length - 1) if step < length else 0.0 for step in range(20)]
    agent.args.halt_terminal = False  # as released: no episode ends
    other = upright(agent, disc, fallen)
    assert not other[3].any() and all(torch.equal(x, y) for x, y in zip(other[:3] + other[4:], (reward, kept, last, halts)))


@pytest.mark.parametrize("c", [None, 0.0])
@pytest.mark.parametrize("halt_terminal", [True, False])
def test_without_pessimism_only_falls_cut(c, halt_terminal):
    agent = small(c=c, halt_terminal=halt_terminal)
    for fallen, length in (((), 20), ((9,), 10)):
        _, kept, _, terminal, halted = upright(agent, [5.0] * 20, fallen)
        assert kept.sum() == length and not halted.any() and terminal.item() == bool(fallen)


def test_advantages_by_hand(double):
    """gamma lambda = 0.96903."""
    agent, reward = small(), torch.tensor([[1.0, 1, 1, 0, 0]])
    kept, last = reward > 0, torch.arange(5)[None] == 2
    for value, terminal, expected in ((0.0, True, (2.908049, 1.96903, 1.0)), (10.0, True, (-6.5018, -7.7313, -9.0)), (10.0, False, (2.879, 1.9493, 0.99))):
        values = torch.where(kept, value, 99.0)  # what comes after the last step does not count
        found = agent.advantage(reward, values, kept, last, torch.tensor([terminal]))
        assert found[0].tolist() == pytest.approx([*expected, 0, 0], abs=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 64, 65])
def test_discounted_sums(steps, double):
    x, gamma = torch.randn(3, steps, generator=torch.Generator().manual_seed(0)), 0.97
    expected, total = torch.zeros_like(x), torch.zeros(3)
    for step in reversed(range(steps)):
        expected[:, step] = total = x[:, step] + gamma * total
    assert torch.allclose(discounted(x, gamma), expected, atol=1e-12)


def test_steps_before_an_event():
    assert before(torch.tensor([[0, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()).tolist() == [2, 0, 5]


def test_natural_gradient_by_hand():
    """F = 4, g = 2: x = 1/2, of which (7) takes sqrt(0.02 / 1), and the quadratic KL is half of delta."""
    x = conjugate_gradient(lambda v: 4 * v, torch.tensor([2.0]), 10)
    assert x.tolist() == pytest.approx([0.5])
    step = (0.02 / (2 * x)).sqrt() * x
    assert step.item() == pytest.approx(0.070711, abs=1e-6) and (4 * step**2 / 2).item() == pytest.approx(0.01)


def test_conjugate_gradient_solves_small_systems(double):
    rng = np.random.RandomState(0)
    basis, _ = np.linalg.qr(rng.randn(10, 10))
    matrix, g = tensor(basis * np.linspace(1, 5, 10) @ basis.T), tensor(rng.randn(10))
    asked = []
    x = conjugate_gradient(lambda v: (asked.append(1), matrix @ v)[1], g, 10)
    close(x, torch.linalg.solve(matrix, g))
    assert len(asked) == 11
    later = conjugate_gradient(lambda v: matrix @ v, g, 30)  # the residual is below 1e-10 after ten: nothing moves any more
    assert torch.equal(later, conjugate_gradient(lambda v: matrix @ v, g, 20))
    assert torch.equal(conjugate_gradient(lambda v: matrix @ v, torch.zeros(10), 5), torch.zeros(10))  # not NaN


def samples(agent, n) -> tuple:
    """obs, action, advantage and weight: random states, the policy's actions, a better first action where the first coordinate is high."""
    rng = torch.Generator().manual_seed(1)
    obs, noise, other = (torch.randn(n, size, generator=rng) for size in (S, A, 1))
    action = agent.actor(obs).detach() + agent.actor.log_std.detach().exp() * noise
    advantage = noise[:, 0] * torch.tanh(obs[:, 0]) + other[:, 0]
    return obs, action, (advantage - advantage.mean()) / advantage.std(), torch.full((n,), 1 / n)


def test_a_step_has_the_kl_that_it_was_given(double, solved):
    """Half of delta, by the quadratic model and nearly so in truth."""
    agent = small(cg_steps=20)
    old = parameters(agent.actor)
    gain, kl, factor = agent.improve_policy(*samples(agent, 5000))
    ((_, g, _), x), = solved
    assert 0.008 < kl < 0.012 and gain > 0
    close(factor**2 * (g @ x), 0.02)
    close(parameters(agent.actor) - old, factor * x, 1e-9)


def test_the_fisher_matrix(double, monkeypatch):
    """2 for each log std and nothing beside it; for the weights, of the means' Jacobian J, J^T J / std^2. And eta on the diagonal."""
    agent, found = small(), []
    obs, *rest = samples(agent, 40)
    v = torch.randn(len(parameters(agent.actor)), generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(morel, "conjugate_gradient", lambda product, g, steps: (found.append([product(torch.eye(len(g))[i]) for i in range(A)]),
                                                                                found.append(product(v)), g)[2])
    weights = [p for p in agent.actor.parameters() if p is not agent.actor.log_std]
    rows = [torch.cat([part.flatten() for part in torch.autograd.grad(mean, weights, retain_graph=True)]) for mean in agent.actor(obs).flatten()]
    jacobian = torch.stack(rows)  # (40 A, weights)
    agent.improve_policy(obs, *rest)
    units, product = found
    close(torch.stack(units), (2 + 1e-3) * torch.eye(len(v))[:A])
    expected = jacobian.T @ (jacobian @ v[A:]) / math.exp(-0.5) / 40 + 1e-3 * v[A:]
    close(product[A:], expected)


def test_log_std_stays_in_its_range():
    for start, end in ((-3.0, -0.25), (3.0, 1.0)):
        agent = small(min_log_std=-0.25, delta=1e-6)
        with torch.no_grad():
            agent.actor.log_std.fill_(start)
        agent.update()
        assert agent.actor.log_std.tolist() == [end] * A


@pytest.mark.parametrize("kept", [300, 65, 40, 16, 5])
def test_the_baselines_epoch_is_that_of_the_kept_rows_alone(kept, double):
    """Batches of 16, the last full one left out, one at least; Adam goes on in the next iteration where it was."""
    agent, rows = small(), 512
    plain = morel.MLP(1, [S + 4, 128, 128, 1], torch.relu_, torch.Generator())
    plain.load_state_dict(agent.baseline.state_dict())
    optimizer = torch.optim.Adam(plain.parameters(), 1e-3, weight_decay=1e-3)
    rng = np.random.RandomState(0)
    for _ in range(2):
        places = np.sort(rng.choice(rows, kept, replace=False))
        features, returns, order = tensor(rng.randn(rows, S + 4)), tensor(rng.randn(rows)), places[rng.permutation(kept)]
        mask = torch.zeros(rows, dtype=torch.bool)
        mask[places] = True
        with recipe.injected([("rand", ranks(order, rows))]):
            agent.improve_baseline(features, returns, mask)
        for step in range(max(kept // 16 - 1, 1)):
            batch = order[16 * step:16 * (step + 1)]
            optimizer.zero_grad()
            ((plain(features[batch])[0, :, 0] - returns[batch]) ** 2).mean().backward()
            optimizer.step()
        close(parameters(agent.baseline), parameters(plain), 1e-9)


def test_an_iteration_without_a_kept_step_changes_nothing_and_is_finite():
    agent = small()
    agent.world = lambda obs, action: (torch.ones_like(obs[..., 0]), torch.ones_like(obs[..., 0], dtype=torch.bool))  # all fall at once
    old = parameters(agent.actor)
    logs = agent.update()
    assert all(torch.isfinite(value) for value in logs.values()) and logs["samples"] == 0
    assert torch.equal(parameters(agent.actor), old) and torch.isfinite(parameters(agent.baseline)).all()


def test_rollouts(double):
    """Each model has a quarter of the episodes, all quarters begin in the same states of the data, and actions are not squashed."""
    agent = small(starts=5, horizon=6)
    agent.fit_model()
    with torch.no_grad():
        agent.actor.log_std.fill_(1.0)
        obs, action, disc = agent.rollout()
        assert obs.shape == (20, 6, S) and action.shape == (20, 6, A) and disc.shape == (20, 6)
        assert all(torch.equal(obs[:5, 0], obs[5 * i:5 * (i + 1), 0]) for i in range(4))
        assert (obs[:5, 0, None] == agent.first_obs).all(-1).any(1).all()
        predicted = agent.model(obs.flatten(0, 1), action.flatten(0, 1)).unflatten(1, (20, 6))
        for i in range(4):
            quarter = slice(5 * i, 5 * (i + 1))
            assert torch.allclose(obs[quarter, 1:], predicted[i, quarter, :-1].clamp(-100, 100))
        assert torch.allclose(disc, disagreement(predicted)) and action.abs().max() > 1


def test_first_states_are_episodes_first_rows():
    data = make_data(100)
    data.episodes = torch.tensor([[0, 40], [40, 100]])
    agent = MOReL(Args(batch_size=16, device="cpu"), data, 0)
    mask = torch.tensor([1.0] * 5 + [0.02] * 6)
    assert torch.equal(agent.first_obs, data.obs[[0, 40]] * mask) and torch.equal(agent.model.mask, mask)


def test_times_of_the_baseline():
    agent = small()
    features = agent.features(torch.full((2, 3, S), 25.0)).view(2, 3, S + 4)
    assert (features[..., :S] == 1).all()  # clipped to 10, over 10
    assert features[1, 2, S:].tolist() == pytest.approx([2e-3, 4e-6, 8e-9, 16e-12]) and (features[:, 0, S:] == 0).all()


def test_acting():
    """On raw observations, velocities of a hopper times 0.02, clipped to the box."""
    agent = small()
    obs = torch.randn(4, S)
    assert torch.equal(agent.actor.act(obs), agent.actor(torch.cat([obs[:, :5], obs[:, 5:] * 0.02], 1)).clamp(-1, 1))
    with torch.no_grad():
        agent.actor.biases[-1].fill_(3.0)
    assert (agent.actor.act(obs) == 1).all()


def test_initial_policy():
    """PyTorch's weights, the last layer's a hundredth of them."""
    agent = small()
    assert agent.actor.log_std.tolist() == [-0.25] * A
    for layer, bound in enumerate((S**-0.5, 1 / 8, 1 / 800)):
        assert 0.8 * bound < agent.actor.weights[layer].abs().max() <= bound


@pytest.mark.parametrize("robot, reward, fallen", [("walker2d", 3 + 1 - 0.001 * 3, False), ("halfcheetah", 3 - 0.1 * 3, False)])
def test_other_robots(robot, reward, fallen):
    obs, action = torch.zeros(4, 17), torch.tensor([2.0, -1, 1]).expand(4, 3)
    obs[:, 0], obs[:, 8] = 1.2, 3.0
    obs[1, 0], obs[2, 0], obs[3, 1] = 0.8, 2.0, 1.0
    rewards, falls = getattr(morel, robot)(obs, action)
    assert rewards.tolist() == pytest.approx([reward] * 4)
    assert falls.tolist() == [False, *[robot == "walker2d"] * 3]
    agent = MOReL(Args(env=f"{robot}-medium-v2", batch_size=16, starts=2, horizon=6), make_data(100, 17, 6), 0)
    assert agent.world is getattr(morel, robot) and (agent.model.mask == 1).all()
    agent.update()


@pytest.mark.parametrize("env, obs_size, message", [
    ("pen-human-v1", 45, "imagined rewards are known for D4RL's hopper"), ("hopper-medium-v2", 17, "not for hopper with 17"),
    ("data.npz", 11, "not for auto")])
def test_rewards_that_are_not_known(env, obs_size, message):
    with pytest.raises(InputError, match=message):
        MOReL(Args(env=env, device="cpu"), make_data(300, obs_size), 0)


def test_too_few_rows(tmp_path):
    write_npz(tmp_path / "hopper.npz", 20)
    args = Args(env=str(tmp_path / "hopper.npz"), eval_env="hopper-medium-v2", runs=tmp_path / "runs", device="cpu")
    with pytest.raises(InputError, match="rows that go on fill no batch of 256"):
        morel.main(args)
    assert not (tmp_path / "runs").exists()


def test_gradients_reach_their_own_parameters():
    agent = small()
    agent.model.spread.fill_(1000)
    old = {name: parameters(getattr(agent, name)) for name in ("actor", "baseline", "model")}
    agent.world = lambda obs, action: (obs[..., 5], torch.zeros_like(obs[..., 0], dtype=torch.bool))
    agent.update()
    assert {name for name in old if not torch.equal(old[name], parameters(getattr(agent, name)))} == {"actor", "baseline"}
    assert all(p.grad is None for p in [*agent.actor.parameters(), *agent.model.parameters()])


def test_rows_of_the_model_fit():
    """All that go on, in an epoch once for each network, in orders of their own; what is left of a batch waits."""
    agent = small()
    fit, going = agent.fit_model(), (agent.data.done == 0).nonzero()[:, 0]
    assert fit.steps == len(going) // 16 and len(going) % 16
    orders = []
    for _ in range(2):
        assert all(torch.equal(order.sort().values, going) for order in fit.order)
        orders += list(fit.order.clone())
        for _ in range(fit.steps):
            fit.update()
        assert fit.column == 16 * fit.steps
        assert [row["network"] for row in fit.end_epoch()] == [0, 1, 2, 3] and fit.column == 0
    assert len({tuple(order.tolist()) for order in orders}) == 8


def test_a_networks_loss_moves_it_alone():
    agent = small()
    loss = agent.fit_model().losses(torch.arange(16).expand(4, -1))[2]
    for gradient in torch.autograd.grad(loss, [*agent.model.weights, *agent.model.biases]):
        assert [bool(part.any()) for part in gradient] == [False, False, True, False]


def test_the_largest_disagreement_is_of_all_rows():
    """In pieces as at once; and c is no part of it."""
    agent = small(rows=2**11 + 700, c=0.5)
    fit = agent.fit_model()
    told = fit.finish()
    obs, action, _ = fit.columns(fit.rows)
    with torch.no_grad():
        most = disagreement(agent.model(obs, action)).max()
    assert agent.model.spread.item() == pytest.approx(most.item(), rel=1e-5) and f"{most:.4g}" in told


def test_cloning():
    """The mean nears the data's actions, the log std stays, rows are drawn with replacement."""
    agent = small()
    agent.data.action.copy_(torch.tanh(agent.data.obs[:, :A]))
    fit, errors = agent.fit_actor(), []
    assert len(fit.order.unique()) < len(agent.data.rows) == fit.order.numel() and fit.steps == 16
    for _ in range(20):
        for _ in range(fit.steps):
            fit.update()
        errors += [row["train"] for row in fit.end_epoch()]
    assert errors[-1] < 0.3 * errors[0] and fit.epoch == 20 and fit.status() == fit.finish() == f"training error {errors[-1]:.4g}"
    assert agent.actor.log_std.tolist() == [-0.25] * A


def test_epochs():
    agent = small(model_epochs=3, cloning_epochs=1)
    for fit, epochs in ((agent.fit_model(), 3), (agent.fit_actor(), 1)):
        for epoch in range(epochs):
            assert not fit.done and fit.epoch == epoch
            for _ in range(fit.steps):
                fit.update()
            fit.end_epoch()
        assert fit.done


def test_a_sweep_shares_what_was_learned_before():
    """Pessimism, horizon and the like are not in the keys; data, seed and epochs are."""
    from common.pretraining import _key

    def keys(seed=0, data=0, **changed):
        agent = MOReL(Args(batch_size=16, **changed), make_data(seed=data), seed)
        return tuple(_key(fit, seed) for fit in (agent.fit_model(), agent.fit_actor()))
    one = keys()
    assert one == keys(c=None, truncate_reward=-30.0, horizon=9, starts=2, gamma=0.9, min_log_std=-2.0, halt_terminal=False, eval_every=3)
    for other in (keys(seed=1), keys(data=1), keys(lr=1e-4)):
        assert not set(one) & set(other)
    assert keys(model_epochs=3)[1] == one[1] != keys(model_epochs=3)[0] and keys(cloning_epochs=3)[0] == one[0] != keys(cloning_epochs=3)[1]


def linear_system(rows):
    """A hopper's data, but s' = s + 0.1 a in three coordinates, and nothing moves in the others."""
    data = make_data(rows)
    data.done.zero_()
    data.next_obs.copy_(data.obs)
    data.next_obs[:, :A] += 0.1 * data.action
    return data


@pytest.mark.parametrize("rows, epochs, limit", [(2000, 8, 2e-2), pytest.param(10_000, 25, 1e-3, marks=pytest.mark.slow)])
def test_the_model_learns_a_linear_system(rows, epochs, limit):
    """Where there are no data, its networks disagree."""
    agent = MOReL(Args(model_epochs=epochs, device="cpu"), linear_system(rows), 0)
    fit = agent.fit_model()
    while not fit.done:
        for _ in range(fit.steps):
            fit.update()
        rows = fit.end_epoch()
    fit.finish()
    assert max(row["train"] for row in rows) < limit
    obs, action, _ = fit.columns(fit.rows)
    with torch.no_grad():
        assert disagreement(agent.model(obs[:20], 10 * action[:20] / action[:20].abs())).min() > agent.model.spread
        still = agent.model(obs, action) - obs
    assert still[..., A:].abs().max() < 1e-6 and (still[..., :A] - 0.1 * action).abs().mean() < 0.02


KILL = """import os, runpy, common.pretraining as pretraining
save = pretraining.Pretraining._save
def killed(self, facts, what=None):
    save(self, facts, what)
    (self.fit.name, self.fit.step) == {where} and os.kill(os.getpid(), 9)
pretraining.Pretraining._save = killed
runpy.run_path({script!r}, run_name="__main__")"""


@pytest.mark.parametrize("where", [("model", 19), ("cloning", 5), None])
def test_kill_9_and_resume_is_bitwise(where, tmp_path):
    """In the model's second epoch, in the policy's first, and, without a place, between iterations."""
    script, updates, caches = ROOT / "algorithms/morel.py", 6, [os.environ | {"SOLO_CACHE": str(tmp_path / name)} for name in ("one", "other")]
    words = [*FLAGS["morel"], "--eval-workers", 0, "--log-every", 1]
    code, _, err = run_script(script, *common_flags(tmp_path, "whole", updates, 20, RARELY), *words, env=caches[0])
    assert code == 0, err
    if where:
        (tmp_path / "morel.py").write_text(KILL.format(where=where, script=str(script)))
        code, _, err = run_script(tmp_path / "morel.py", *common_flags(tmp_path, "killed", updates, 20), *words, env=caches[1])
    else:
        pause = Pause(tmp_path / "pause")
        pause.at(4)
        killed = Script(script, *common_flags(tmp_path, "killed", updates, 20), *words, env=caches[1] | pause.env)
        killed.until(lambda: pause.reached(4))
        code, _, err = killed.end(signal.SIGKILL)
    assert code == -signal.SIGKILL, err
    folder, whole = only_folder(tmp_path / "killed"), only_folder(tmp_path / "whole")
    code, out, err = run_script(script, "--resume", folder, *RARELY, env=caches[1])
    assert code == 0 and f"resumed at update {0 if where else 3}" in out, err
    same_results(whole, folder)
    for name in ("model.csv", "cloning.csv"):
        assert (whole / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((folder / "result.json").read_text())["step"] == updates


def test_values_of_the_datasets():
    assert morel.PAPER["hopper-medium-v0"] == dict(c=3.0, truncate_reward=0.0, starts=50, horizon=700, min_log_std=-1.0)
    assert len(morel.PAPER) == 12 and {len(row) for row in morel.PAPER.values()} == {2, 5}
    assert all((row["truncate_reward"] < 0) == name.startswith("halfcheetah") for name, row in morel.PAPER.items())
