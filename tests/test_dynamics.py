"""The probabilistic ensemble, its training and the ring: OfflineRL-Kit's numbers, and each property by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms.mopo import MODEL
from common import InputError
from common.dynamics import Ensemble, Fit, Preset, Ring, draw, shuffle, split, supervised_loss
from tests import recipe
from tests.helpers import make_data
from tests.recipe import tensor
from tests.recipe_models import SCALE, SHIFT, A, B, D, E, S, batch, close, dataset, fill_model, golden, norms, normals

GOLDEN = golden("dynamics_model")
PRESETS = {"mopo": MODEL, "rambo": replace(MODEL, lr=3e-4, max_log_var=1.0, min_log_var=-6.0, bound_coef=0.001)}


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(preset=MODEL) -> Ensemble:
    model = Ensemble(S, A, preset, rng())
    fill_model(model)
    return model


def small(seed=0, **changed) -> Preset:
    return replace(MODEL, hidden=(8, 8), decay=(1e-5, 1e-5, 1e-5), batch_size=16, **changed)


def fit(data=None, preset=None, seed=0) -> Fit:
    data, preset = make_data(100) if data is None else data, small() if preset is None else preset
    return Fit(Ensemble(data.obs_size, data.action_size, preset, rng(seed)), data, preset, seed)


def test_forward_equals_the_kit(double):
    rows = batch()
    model, theirs = filled(), GOLDEN["forward"]
    mean, log_var = model(rows.obs, rows.action)
    close(mean.sum((1, 2)), theirs["mean_sum_per_network"])
    close(log_var.sum((1, 2)), theirs["logvar_sum_per_network"])
    close(mean[0, 0], theirs["mean_net0_row0"])
    close(log_var[6, 63], theirs["logvar_net6_row63"])
    for ours, same in zip(model.predict(rows.obs, rows.action), (mean, log_var)):
        close(ours, same.detach(), 1e-12)


@pytest.mark.parametrize("preset, name", [("mopo", "mopo"), ("rambo", "rambo")])
def test_three_steps_equal_the_kit(preset, name, double):
    """(2), its gradients and Adam's steps. The decay's part of the loss is the optimiser's here."""
    preset, theirs, data = PRESETS[preset], GOLDEN[f"loss_{name}_preset"], dataset()
    trained = Fit(filled(preset), data, replace(preset, holdout=0.2), 0)
    fill_model(trained.model)  # its scaler, not that of these 64 rows
    index = torch.from_numpy(np.random.RandomState(6).randint(0, B, (E, B)))
    model, losses = trained.model, []
    weights = list(model.weights)
    trained.index, trained.steps = index.int(), 1
    for k in range(3):
        trained.column.zero_()
        obs, action, y = trained.targets(index)
        loss, data_terms = supervised_loss(model, obs, action, y, preset)
        decay = sum(w / 2 * (weight.detach() ** 2).sum() for w, weight in zip(preset.decay, weights))
        losses.append((loss + decay).item())
        if k == 0:
            mean, log_var = model(obs, action)
            error = (mean - y) ** 2
            close((error * (-log_var).exp()).mean((1, 2)), theirs["weighted_mse_per_network"])
            close(log_var.mean((1, 2)), theirs["logvar_mean_per_network"])
            close(error.mean((1, 2)), theirs["unweighted_mse_per_network"])
            close(data_terms.detach().sum() + theirs["bound_term"], loss)
            close(decay, theirs["decay"])
            grads = torch.autograd.grad(loss, [*weights, *model.biases, model.max_log_var, model.min_log_var])
            for w, weight, grad in zip(preset.decay, weights, grads):
                grad += w * weight.detach()
            close(norms(grads[:5]), theirs["grad_norm_W"])
            close(norms(grads[5:10]), theirs["grad_norm_b"])
            close(grads[10], theirs["grad_max_logvar"])
            close(grads[11], theirs["grad_min_logvar"])
            close(grads[4][2, 0, :6], theirs["grad_W5_net2_row0"])
        trained.update()
    close(losses, theirs["loss_before_steps_1_2_3"])
    after = theirs["after_3_adam_steps"]
    close(norms(weights), after["norm_W"])
    close(norms(model.biases), after["norm_b"])
    close(model.max_log_var[:3], after["max_logvar"])
    close(model.min_log_var[:3], after["min_logvar"])
    close(model.weights[0][0, 0, :4], after["W1_net0"])


def test_ten_epochs_equal_the_kit(double, monkeypatch):
    """Scaler, bootstrap, batches, patience, snapshots, elites."""
    n, theirs = 1000, GOLDEN["train_run"]
    obs, action = SHIFT + SCALE * normals(11, n, S), np.tanh(normals(12, n, A))
    next_obs = obs + 0.1 * action @ normals(13, A, S) + 0.02 * normals(14, n, S)
    reward = obs[:, 5] - 0.1 * (action**2).sum(1) + 0.05 * normals(15, n)
    rows = batch()._make(tensor(x) for x in (obs, action, reward, next_obs, np.zeros(n)))
    order = torch.from_numpy(np.random.RandomState(16).permutation(n))
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: order)
    drawn = np.random.RandomState(17)
    with recipe.injected([("randint", drawn.randint(0, 800, (E, 800)))]):
        trained = Fit(filled(), dataset(rows), replace(MODEL, lr=1e-2, max_epochs=10), 0)
    fresh = filled()
    for ours, start in zip(trained.model.parameters(), fresh.parameters()):
        ours.data.copy_(start)
    close(trained.model.input_mean[:3], theirs["scaler_mean_first3"])
    close(trained.model.input_std[:3], theirs["scaler_std_first3"])
    epochs, decays = [], []
    while not trained.done:
        decayed = 0.0
        for _ in range(trained.steps):
            decayed += sum(w / 2 * (weight.detach() ** 2).sum().item() for w, weight in zip(MODEL.decay, trained.model.weights))
            decayed += 0.01 * (trained.model.max_log_var - trained.model.min_log_var).sum().item()
            trained.update()
        with recipe.injected([("rand", drawn.uniform(size=(E, 800)))]):
            epochs.append(trained.end_epoch())
        decays.append(decayed / trained.steps)
    assert trained.steps == 4
    close([[row["holdout"] for row in rows] for rows in epochs], theirs["holdout_per_epoch"])
    close([sum(row["train"] for row in rows) + decay for rows, decay in zip(epochs, decays)], theirs["mean_batch_loss_per_epoch"])
    last = [max(t for t, rows in enumerate(epochs) if rows[e]["improved"]) for e in range(E)]
    assert last == theirs["snapshot_epoch"]
    trained.finish()
    assert trained.model.elites.tolist() == theirs["elites"]
    close(trained.errors(), theirs["holdout_after_restore"])
    close(norms(trained.model.weights), theirs["norm_W"])
    close(trained.model.max_log_var[:3], theirs["max_logvar_first3"])
    close(trained.model.min_log_var[:3], theirs["min_logvar_first3"])


@pytest.mark.parametrize("preset", PRESETS)
def test_soft_clamp(preset, double):
    model, theirs = filled(PRESETS[preset]), GOLDEN["soft_clamp"]
    close(model.bounded(tensor(theirs["inputs"])[:, None].expand(-1, D))[:, 0], theirs[preset])
    raw = torch.tensor([-100.0, -10, -5, 0, 0.5, 100], requires_grad=True)
    model.bounded(raw[:, None].expand(-1, D))[:, 0].sum().backward()
    if preset == "mopo":
        close(raw.grad, [0.0, 0.499979, 0.989237, 0.622414, 0.499972, 0.0], 1e-5)
    else:
        close(raw.grad[3], 0.728588, 1e-5)


@pytest.mark.parametrize("preset, bound", [("mopo", 0.21), ("rambo", 0.014)])
def test_loss_by_hand(preset, bound, double):
    """mu = 0, y = 1, log var = 0 everywhere: each network's data term is 1, in all 7."""
    model = Ensemble(1, 1, replace(PRESETS[preset], hidden=(), decay=(0.0,)), rng())
    model.bounded = torch.zeros_like
    torch.nn.init.zeros_(model.weights[0])
    loss, data_terms = supervised_loss(model, torch.zeros(5, 1), torch.zeros(5, 1), torch.ones(5, 2), PRESETS[preset])
    close(data_terms, np.ones(7))
    close(loss - data_terms.sum(), bound)


def test_decay_has_the_loss_terms_gradient(double):
    """Adam's weight_decay adds w W to the gradient: with a zero gradient of the data term, the first step is -lr sign(W)."""
    trained = fit()
    trained.optimizer.zero_grad()
    before = [weight.detach().clone() for weight in trained.model.weights]
    for group in trained.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trained.optimizer.step()
    for old, new in zip(before, trained.model.weights):
        moved = (new - old).detach()
        far = old.abs() > 1e-2
        assert torch.allclose(moved[far], -trained.args.lr * old.sign()[far], rtol=0.2) and far.any()
    assert all((bias == 0).all() for bias in trained.model.biases)


def test_the_log_variance_that_minimises_the_data_term():
    log_var = torch.zeros(4, requires_grad=True)
    error = torch.tensor([0.1, 0.5, 2.0, 3.0])
    optimizer = torch.optim.LBFGS([log_var], max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = (error**2 * (-log_var).exp() + log_var).sum()
        loss.backward()
        return loss
    optimizer.step(closure)
    assert torch.allclose(log_var, (error**2).log(), atol=1e-3)


def test_initial_weights():
    model = Ensemble(S, A, MODEL, rng())
    s = 0.5 / 200**0.5
    assert abs(model.weights[1].std() / (0.8796 * s) - 1) < 0.01 and model.weights[1].abs().max() <= 2 * s
    assert all((bias == 0).all() for bias in model.biases) and model.max_log_var.tolist() == [0.5] * D
    assert sum(p.numel() for p in model.parameters()) == 898_968 + 2 * D  # as many as the paper's for hopper
    assert not torch.equal(model.weights[0][0], model.weights[0][1])


@pytest.mark.parametrize("errors, epochs", [([1.0] * 20, 7), ([0.5, *[0.49] * 20], 8), ([1.0, *[0.991] * 20], 7), ([1.0, *[0.989] * 20], 8)])
def test_patience(errors, epochs, monkeypatch):
    """Patience 5: seven epochs of a constant error; what is less by 0.9% counts as constant, 1.1% do not."""
    trained, seen = fit(), 0
    monkeypatch.setattr(trained, "errors", lambda: torch.full((7,), errors[trained.epoch]))
    while not trained.done:
        trained.end_epoch()
        seen += 1
    assert seen == epochs
    assert "--model-epochs" not in trained.finish()


def test_errors_are_compared_with_the_best_that_counted(monkeypatch):
    """0.9% less in every epoch counts in every second one."""
    trained = fit()
    monkeypatch.setattr(trained, "errors", lambda: torch.full((7,), 0.991**trained.epoch))
    assert [trained.end_epoch()[0]["improved"] for _ in range(6)] == [1, 0, 1, 0, 1, 0]


def test_a_limit_of_epochs():
    trained = fit(preset=small(max_epochs=2))
    trained.end_epoch()
    assert not trained.done
    trained.end_epoch()
    assert trained.done and "stopped after the 2 epochs of --model-epochs" in trained.finish()


def test_improvement_is_of_each_network(monkeypatch):
    """0.9% does not count, 1.1% does; only that network is remembered, and bounds never are."""
    trained = fit()
    monkeypatch.setattr(trained, "errors", lambda: torch.ones(7))
    trained.end_epoch()
    monkeypatch.setattr(trained, "errors", lambda: torch.tensor([0.991, 0.989, *[1.0] * 5]))
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter += 1
    before = [snapshot.detach().clone() for snapshot in trained.snapshots]
    assert [row["improved"] for row in trained.end_epoch()] == [0, 1, 0, 0, 0, 0, 0] and trained.waited == 0
    for old, new in zip(before, trained.snapshots):
        assert torch.equal(old[0], new[0]) and torch.equal(old[1] + 1, new[1])
    bounds = trained.model.max_log_var.clone()
    trained.finish()
    assert torch.equal(trained.model.max_log_var, bounds) and torch.equal(trained.model.weights[0][0], before[0][0])


def test_elites():
    trained = fit()
    trained.best.copy_(torch.tensor([7.0, 1, 6, 2, 5, 3, 4]))
    trained.finish()
    assert trained.model.elites.tolist() == [1, 3, 5, 6, 4]


def test_a_networks_rows_move_it_alone():
    trained = fit()
    index = trained.index[:, :16].clone()

    def gradients():
        loss, _ = supervised_loss(trained.model, *trained.targets(index), trained.args)
        return torch.autograd.grad(loss, list(trained.model.weights))
    before = gradients()
    index[0] = index[0].roll(1) * 0 + 3
    for old, new in zip(before, gradients()):
        assert not torch.equal(old[0], new[0]) and torch.equal(old[1:], new[1:])


def test_rows_of_the_data():
    """Held-out rows are in no bootstrap and not in the scaler; a true end without its next state is nobody's."""
    data = make_data(100)
    data.done[:3], data.done[3:] = 1.0, 0.0
    data.next_obs[:3] = data.obs[:3]
    trained = fit(data)
    train, held = split(data, trained.args, 0)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(3, 100)) and len(held) == 19
    assert set(trained.index.unique().tolist()) <= set(train.tolist()) and trained.index.shape == (7, 78)
    inputs = torch.cat([data.obs, data.action], 1)[train]
    assert torch.allclose(trained.model.input_mean, inputs.mean(0), atol=1e-6)
    assert torch.allclose(trained.model.input_std, inputs.std(0, correction=0), atol=1e-6)
    assert len(split(make_data(20_000), MODEL, 0)[1]) == 1000
    assert not torch.equal(split(data, MODEL, 1)[1], held) and torch.equal(split(data, trained.args, 0)[1], held)
    with pytest.raises(InputError, match="3 rows are too few for a model"):
        split(make_data(3), MODEL, 0)


def test_an_epoch_shows_each_network_its_bootstrap_once():
    trained, seen = fit(), []
    before = trained.index.sort(1).values.clone()
    targets = trained.targets
    trained.targets = lambda index: (seen.append(index.clone()), targets(index))[1]
    for _ in range(trained.steps):
        trained.update()
    assert [index.shape[1] for index in seen] == [16] * 5 and trained.index.shape[1] == 80
    assert torch.equal(torch.cat(seen, 1).sort(1).values, before)
    first = trained.index.clone()
    trained.end_epoch()
    assert torch.equal(trained.index.sort(1).values, before) and not torch.equal(trained.index, first) and trained.column == 0
    odd = fit(make_data(95))
    for _ in range(odd.steps):
        assert odd.phase == (odd.step == 4)
        odd.update()  # the last of 12 rows
    assert odd.steps == 5


def test_the_log():
    trained = fit()
    for _ in range(trained.steps):
        trained.update()
    rows = trained.end_epoch()
    assert [row["network"] for row in rows] == list(range(7)) and {row["epoch"] for row in rows} == {0}
    obs, action, y = trained.targets(trained.holdout)
    assert rows[0]["constant"] == pytest.approx(y.var(0, correction=0).mean().item(), rel=1e-5)
    mean, log_var = trained.model(obs, action)
    assert rows[3]["holdout"] == pytest.approx(((mean[3] - y) ** 2).mean().item(), rel=1e-5)
    assert rows[3]["std"] == pytest.approx((log_var[3] / 2).exp().mean().item(), rel=1e-5)


def test_the_ensemble_learns():
    """s' = s + 0.1 a in two of four coordinates, r = s_0 / 2, noise 0.01: every elite's held-out error is near the noise's 1e-4."""
    g, n = rng(1), 10_000
    obs, action = torch.randn(n, 4, generator=g), torch.rand(n, 2, generator=g) * 2 - 1
    change = torch.cat([0.1 * action, torch.zeros(n, 2)], 1) + 0.01 * torch.randn(n, 4, generator=g)
    reward = obs[:, :1] / 2 + 0.01 * torch.randn(n, 1, generator=g)
    data = make_data(n, 4, 2)
    data.rows.copy_(torch.cat([obs, action, reward, obs + change, torch.zeros(n, 1)], 1))
    trained = fit(data, replace(MODEL, hidden=(64, 64), decay=(0.0, 0.0, 0.0), max_epochs=25))
    while not trained.done:
        for _ in range(trained.steps):
            trained.update()
        trained.end_epoch()
    trained.finish()
    assert trained.errors()[trained.model.elites].max() < 2e-4
    mean, log_var = trained.model(data.obs[:100], data.action[:100])
    assert 0.005 < (log_var / 2).exp().mean() < 0.02


def test_draw():
    obs, mean, noise = torch.ones(3, 2), torch.arange(9.0).view(3, 3), torch.ones(3, 3)
    next_obs, reward = draw(obs, mean, torch.full((3, 3), 2 * torch.log(torch.tensor(0.5)).item()), noise)
    assert torch.allclose(next_obs, torch.tensor([[1.5, 2.5], [4.5, 5.5], [7.5, 8.5]]))
    assert torch.allclose(reward, torch.tensor([2.5, 5.5, 8.5]))


def test_sample_asks_each_elite_for_its_share(double):
    """Without noise each row is its elite's mean, and no other network's."""
    model = filled()
    rows = batch()
    obs, action = rows.obs[:60], rows.action[:60]
    mean, log_var = model(obs, action)
    with recipe.injected([("randn", np.zeros((60, D)))]):
        next_obs, reward = model.sample(obs, action, rng())
    for i in range(60):
        e = model.elites[i // 12]
        close(next_obs[i], (obs[i] + mean[e, i, :-1]).detach(), 1e-12)
        close(reward[i], mean[e, i, -1].detach(), 1e-12)
    noise = normals(9, 60, D)
    with recipe.injected([("randn", noise)]):
        noisy, _ = model.sample(obs, action, rng())
    e = model.elites.repeat_interleave(12)
    std = (log_var / 2).exp()[e, torch.arange(60)].detach()
    close(noisy - next_obs, std[:, :-1] * tensor(noise)[:, :-1], 1e-10)


def test_shuffle():
    a, b = torch.arange(1000), torch.arange(1000) * 2.0
    c, d = shuffle(rng(), a, b)
    assert torch.equal(c * 2.0, d) and torch.equal(c.sort().values, a) and not torch.equal(c, a)


def test_ring_is_first_in_first_out():
    """The rows that are marked, in their order, and the oldest go first: as a list does it."""
    g, ring, kept = rng(), Ring(10, 2), []
    for k in range(30):
        rows, keep = torch.randn(7, 2, generator=g), torch.rand(7, generator=g) < 0.6
        ring.append(rows, keep)
        kept = (kept + [row.tolist() for row in rows[keep]])[-10:]
        start = 0 if ring.size < 10 else int(ring.count)
        order = [(start + i) % 10 for i in range(int(ring.size))]
        assert [ring.rows[i].tolist() for i in order] == kept, k
    assert (ring.rows[10] == 0).all()
    drawn = ring.sample(1000, g)
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in kept}
    half = Ring(100, 1)
    half.append(torch.ones(3, 1), torch.tensor([True, False, True]))
    assert (half.sample(50, g) == 1).all() and half.size == 2


def test_rows_that_are_not_kept_leave_nothing():
    ring = Ring(4, 1)
    ring.append(torch.tensor([[float("nan")], [1.0]]), torch.tensor([False, True]))
    assert ring.rows.isfinite().all() and ring.size == 1
