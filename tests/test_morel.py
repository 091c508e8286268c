"""MOReL: the authors' numbers, what is kept of an imagined episode, the natural gradient, and what is learned before."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from algorithms import morel
from algorithms.morel import Actor, Args, Model, MOReL, before, conjugate_gradient, discounted, disagreement
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


def iteration(case, **changed):
    """One update on the authors' starts and noise: (agent, what its methods got and gave, logs, parameters before)."""
    agent, theirs = measured(**changed), GOLDEN[case]
    kept = np.concatenate([24 * [0]]), theirs.get("lengths", GOLDEN["iteration_halt_terminal"]["lengths"])
    places = np.concatenate([30 * i + np.arange(length) for i, length in enumerate(kept[1])])
    order = places[np.random.RandomState(470).permutation(len(places))]
    calls = recipe.remembered(agent, "rollout", "cut", "advantage", "improve_policy", "improve_baseline")
    old = parameters(agent.actor)
    noise = np.concatenate([normals(450 + i, 30, 6, A) for i in range(4)], 1)
    with recipe.injected([("randint", np.arange(6)), ("randn", noise), ("rand", ranks(order, 24 * 30))]):
        logs = agent.update()
    return agent, {name: kept[0] for name, kept in calls.items()}, logs, old


@pytest.mark.parametrize("case", ["halt_terminal", "as_released"])
def test_an_iteration_equals_the_authors(case, double):
    theirs = GOLDEN[f"iteration_{case}"]
    agent, calls, logs, old = iteration(f"iteration_{case}", halt_terminal=case == "halt_terminal")
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
    (obs, action, whitened, weight), _ = calls["improve_policy"]
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
    fresh = filled(halt_terminal=case == "halt_terminal").actor
    gradient = torch.autograd.grad((weight * whitened) @ fresh.log_prob(fresh(obs), action), list(fresh.parameters()))  # (6)
    close(torch.cat([part.flatten() for part in gradient]).norm(), theirs["gradient_norm"])
    close(next(part for part, p in zip(gradient, fresh.parameters()) if p is fresh.log_std), theirs["gradient_log_std"])


def test_twenty_steps_of_the_conjugate_gradient_are_near_the_authors(double):
    """On 205 samples they amplify rounding: two float64 programs differ by 1e-3."""
    theirs = GOLDEN["iteration_halt_terminal_20_cg"]
    agent, _, logs, old = iteration("iteration_halt_terminal_20_cg", cg_steps=20)
    ours = logs["factor"], (parameters(agent.actor) - old).norm(), logs["kl"], -logs["actor_loss"]
    names = "step_multiplier", "parameter_change_norm", "kl", "surrogate_gain"
    assert [x.item() for x in ours] == pytest.approx([theirs[name] for name in names], rel=0.02)


def test_hoppers_reward_and_end_equal_the_authors(double):
    theirs = GOLDEN["hopper_edges"]
    reward, fallen = morel.hopper(tensor(theirs["states"]), tensor(theirs["action"]).expand(8, A))
    close(reward, theirs["reward"])
    assert fallen.tolist() == theirs["terminated"]
