"""What pins BC: losses by hand, which trajectories are kept, and that rewards are ignored."""

import json
import math
import re

import numpy as np
import pytest
import torch

from algorithms import bc
from algorithms.bc import BC, PAPER, TOP_10, Args, best
from algorithms.td3_bc import TD3BC
from algorithms.td3_bc import Args as TD3BCArgs
from common import InputError
from common.args import parse
from common.data import load_dataset
from common.sources import D4RL
from tests.helpers import make_data, parameters, twin

TEN = (1, 5, 3, 2, 4, 9, 0, 7, 8, 6)


def make_episodes(returns, length=10):
    """An episode of `length` rows per return, all of it in the first row; obs[:, 0] is the row's number."""
    data = make_data(len(returns) * length)
    data.reward.zero_()
    data.reward[::length] = torch.tensor(returns, dtype=torch.float32)
    data.obs[:, 0] = torch.arange(len(data.rows))
    data.done.zero_()
    data.episodes = torch.tensor([[i * length, (i + 1) * length] for i in range(len(returns))])
    return data


def numbers(data):
    """The rows' numbers in the data they came from."""
    return data.obs[:, 0].int().tolist()


def constant_data(labels):
    """One state, one-hot, with these actions (N,), and batches of all of them."""
    data = make_data(len(labels), obs_size=4, action_size=1)
    data.obs[:] = torch.eye(4)[0]
    data.action[:, 0] = torch.tensor(labels)
    data.obs_mean, data.obs_std = torch.zeros(4), torch.ones(4)
    data.sample = lambda size, rng: data.split(data.rows)
    return data


def test_loss_is_a_mean_over_batch_and_dimensions():
    agent = BC(Args(), make_data(), seed=0)
    batch = agent.data.sample(5, agent.rng)
    batch = batch._replace(action=agent.actor(batch.obs).detach() - torch.tensor([1.0, -1.0, 1.0]))
    assert agent.actor_loss(batch).item() == pytest.approx(1.0)
    half = batch._replace(action=batch.action + torch.tensor([1.0, -1.0, 0.0]))  # errors 0, 0, 1
    assert agent.actor_loss(half).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("labels, output, loss", [([0.3] * 8, 0.3, 0.0), ([1.0, -1.0] * 4, 0.0, 1.0)])
def test_regression_converges_to_the_mean_label(labels, output, loss):
    agent = BC(Args(lr=3e-3), constant_data(labels), seed=0)
    for _ in range(200):
        logs = agent.update()
    assert agent.actor.act(agent.data.obs[:1]).item() == pytest.approx(output, abs=1e-2)
    assert logs["actor_loss"].item() == pytest.approx(loss, abs=1e-3)


def test_gradient_is_td3_bcs_without_q():
    data = make_data()
    agent, other = BC(Args(), data, seed=0), TD3BC(TD3BCArgs(alpha=0.0), data, seed=0)
    assert torch.equal(parameters(agent.actor), parameters(other.actor))  # same network, same draw
    batch = data.sample(64, agent.rng)
    agent.actor_loss(batch).backward()
    other.actor_loss(batch)[0].backward()
    for mine, theirs in zip(agent.actor.parameters(), other.actor.parameters()):
        assert mine.grad.abs().sum() > 0
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_an_update_is_one_adam_step():
    agent = BC(Args(batch_size=16), make_data(), seed=0)
    other, start = twin(agent), parameters(agent.actor)
    logs = agent.update()
    batch = other.data.sample(16, other.rng)
    loss = other.actor_loss(batch)
    loss.backward()
    torch.optim.Adam(other.actor.parameters(), 3e-4).step()
    torch.testing.assert_close(logs["actor_loss"], loss)
    torch.testing.assert_close(parameters(agent.actor), parameters(other.actor))
    assert 0 < (parameters(agent.actor) - start).abs().max() <= 3.1e-4 and agent.step == 1


@pytest.mark.parametrize("gaussian", [False, True])
def test_rewards_are_ignored_when_all_rows_are_kept(gaussian):
    data, other = make_data(), make_data()
    other.reward[:] = other.reward.flip(0)
    assert not torch.equal(data.reward, other.reward)
    agents = [BC(Args(batch_size=16, gaussian=gaussian), best(d, 1.0, 1.0, False), seed=0) for d in (data, other)]
    for _ in range(3):
        logs = [agent.update() for agent in agents]
    assert torch.equal(parameters(agents[0].actor), parameters(agents[1].actor)) and logs[0] == logs[1]


@pytest.mark.parametrize("fraction, kept", [(0.1, [5]), (0.19, [5]), (0.25, [5, 8]), (1e-6, [5]), (0.3, [5, 7, 8]), (1.0, range(10))])
def test_the_best_trajectories_are_kept(fraction, kept):
    data = best(make_episodes(TEN), fraction, 1.0, False)
    assert numbers(data) == [10 * episode + row for episode in kept for row in range(10)]
    assert data.episodes.tolist() == [[10 * i, 10 * i + 10] for i in range(len(kept))] and data.source["rows"] == 10 * len(kept)


def test_equal_returns_prefer_later_trajectories():
    returns = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    assert numbers(best(make_episodes(returns, 1), 0.4, 1.0, False)) == [2, 4]
    assert numbers(best(make_episodes(returns, 1), 0.7, 1.0, False)) == [1, 2, 4, 5]
    assert numbers(best(make_episodes([0.0] * 300, 1), 0.01, 1.0, False)) == [297, 298, 299]  # long enough for an unstable sort


def test_discounted_ranking():
    data = make_episodes([0, 0], 3)
    data.reward[:] = torch.tensor([0.0, 0.0, 10.0, 5.0, 0.0, 0.0])
    assert numbers(best(data, 0.5, 1.0, False)) == [0, 1, 2]
    assert numbers(best(data, 0.5, 0.5, False)) == [3, 4, 5]  # 2.5 < 5


def test_corl_split_cuts_at_true_ends_and_every_1000_rows():
    data = make_episodes([0.0] * 4, 700)  # 2800 rows
    data.done[299] = 1
    data.reward[:] = 0
    data.reward[1299] = 2.0  # in [300, 1300)
    data.reward[2299] = 1.0  # in [1300, 2300)
    assert numbers(best(data, 0.34, 1.0, True)) == list(range(300, 1300))
    assert numbers(best(data, 0.67, 1.0, True)) == list(range(300, 2300))
    assert numbers(best(data, 1.0, 1.0, True)) == list(range(2300))  # the tail of 500 rows is lost
    assert len(best(data, 1.0, 1.0, False).rows) == 2800
    data.done[2299] = 1  # a true end at the 1000th row cuts once
    assert numbers(best(data, 0.34, 1.0, True)) == list(range(300, 1300))
    data.done[:] = 0
    data.done[2799] = 1
    assert len(best(data, 1.0, 1.0, True).rows) == 2800


def test_split_of_a_raw_file(tmp_path, capsys):
    """Two episodes of 1000 rows that a timeout ends, D4RL's layout: 999 + 999 rows here, 1000 + 998 in CORL."""
    obs, timeouts = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32), np.zeros(2000, bool)
    obs[:, 0], timeouts[[999, 1999]] = np.arange(2000), True
    rewards = np.where(np.arange(2000) == 1000, 1.0, 0.0)  # the second episode is better, and CORL's first window
    np.savez(tmp_path / "two.npz", observations=obs, actions=np.tanh(obs[:, 1:]), rewards=rewards, terminals=np.zeros(2000, bool),
             timeouts=timeouts)
    data = load_dataset(str(tmp_path / "two.npz"))
    whole = best(data, 1.0, 1.0, False)
    assert whole.episodes.tolist() == [[0, 999], [999, 1998]] and torch.equal(whole.rows, data.rows)
    half = best(data, 0.5, 1.0, False)
    assert numbers(half) == list(range(1000, 1999)) and half.obs_mean[0].item() == pytest.approx(1499)
    assert "kept 1 of 2 trajectories, 999 of 1,998 rows" in capsys.readouterr().out
    window = best(data, 1.0, 1.0, True)
    assert numbers(window) == [*range(999), 1000]  # one row late: it ends in the second episode
    assert torch.equal(best(data, 0.5, 1.0, True).rows, window.rows)
    assert "kept 1 of 1 trajectories, 1,000 of 1,998 rows" in capsys.readouterr().out


def test_what_cannot_be_kept_is_an_error():
    data = make_episodes(TEN)
    with pytest.raises(InputError, match="--corl-split: finds no whole trajectory"):
        best(data, 1.0, 1.0, True)  # 100 rows, no true end
    for fraction in ("10.0", "0.0", "-0.1", "nan"):
        with pytest.raises(InputError, match=f"--fraction {fraction}: give a number in"):
            parse(Args, {}, ["--fraction", fraction])


def test_statistics_are_those_of_the_kept_rows():
    data = make_episodes(TEN)
    data.obs[50:60] = 7.0  # the best trajectory stands still
    agent = BC(Args(), best(data, 0.1, 1.0, False), seed=0)
    x = (agent.data.obs - agent.actor.obs_mean) / agent.actor.obs_scale
    assert torch.equal(x, torch.zeros(10, 11)) and torch.equal(agent.actor.obs_scale, torch.full((11,), 1e-3))
    assert torch.isfinite(agent.update()["actor_loss"])
    two = BC(Args(), best(make_episodes([0, 1, 0], 2), 0.1, 1.0, False), seed=0)  # rows 2 and 3: mean 2.5, population std 0.5
    assert two.actor.obs_mean[0].item() == pytest.approx(2.5) and two.actor.obs_scale[0].item() == pytest.approx(0.501)
    raw = BC(Args(normalize=False, gaussian=True), make_data(), seed=0)
    assert torch.equal(raw.actor.obs_mean, torch.zeros(11)) and torch.equal(raw.actor.obs_scale, torch.ones(11))


def test_main_trains_on_the_kept_rows(tmp_path, capsys):
    data = make_episodes(TEN)
    data.done[9::10] = 1.0  # true ends: a file's episodes
    np.savez(tmp_path / "ten.npz", observations=data.obs, actions=data.action, rewards=data.reward, next_observations=data.next_obs,
             terminals=data.done)
    bc.main(Args(env=str(tmp_path / "ten.npz"), eval_env="none", updates=2, log_every=1, runs=tmp_path / "runs", fraction=0.1, batch_size=4,
                 device="cpu"))
    (folder,) = (tmp_path / "runs").iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["rows"] == 10
    assert config["obs_std"] == pytest.approx(data.obs[50:60].double().std(0, correction=0).tolist(), rel=1e-5)
    assert "kept 1 of 10 trajectories, 10 of 100 rows" in capsys.readouterr().out


@pytest.fixture
def gaussian():
    return BC(Args(batch_size=32, gaussian=True), make_data(), seed=0)


def test_the_larger_of_the_two_weights_is_one(gaussian):
    """ATAC's nsum: x / c + y above c = 1, else x + c y."""
    for alpha, result in ((4.0, 2.75), (0.5, 4.0), (1.0, 5.0), (0.0, 3.0)):
        assert gaussian.gaussian_loss(torch.tensor(3.0), torch.tensor(-2.0), torch.tensor(alpha)).item() == pytest.approx(result)


def test_likelihood_by_hand(gaussian):
    actor, zero = gaussian.actor, torch.zeros(2, 3)
    assert -actor.log_prob(zero, zero, zero, zero)[0].item() == pytest.approx(3 * 0.918939, abs=1e-5)
    # u = 1, mean 0.5, std 2: -0.5 (0.25)^2 - log 2 - 0.918939 - log(1 - tanh(1)^2) = -1.643336 + 0.867562
    one = torch.ones(1, 1)
    log_prob = actor.log_prob(0.5 * one, math.log(2) * one, one, torch.tanh(one))
    assert log_prob.item() == pytest.approx(-0.775774, abs=1e-5)


def test_actions_at_the_edge_have_a_finite_likelihood(gaussian):
    """u = log(2 / 1e-6) / 2 = 7.2543 at a = 1, and the data may be a little beyond (common/sources.py)."""
    batch = gaussian.data.sample(4, gaussian.rng)
    expected = 3 * (0.5 * 7.2543**2 + 0.918939 - 13.815511)
    for edge in (1.0, -1.0, 1.00001):
        nll = gaussian.likelihood(batch._replace(obs=gaussian.actor.obs_mean.expand(4, -1), action=torch.full((4, 3), edge)))[0]
        assert nll.item() == pytest.approx(expected, abs=0.05)  # mean 0 and log std 0 there: biases are 0
        gaussian.actor.zero_grad()
        nll.backward()
        assert all(torch.isfinite(p.grad).all() for p in gaussian.actor.parameters())


def test_density_integrates_to_one(gaussian):
    u = torch.linspace(-7, 7, 100_001, dtype=torch.float64)[:, None]
    mean, log_std = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    density = gaussian.actor.log_prob(mean, log_std, u, torch.tanh(u)).exp()
    assert torch.trapezoid(density, torch.tanh(u[:, 0])).item() == pytest.approx(1.0, abs=1e-3)


def test_entropy_is_that_of_samples(gaussian):
    """Of z ~ N(0, 1), 1.418939, plus E log(1 - tanh(z)^2), by quadrature, for each dimension."""
    data, rows = gaussian.data, 20_000
    batch = data.sample(rows, gaussian.rng)._replace(obs=data.obs_mean.expand(rows, -1))
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    expected = 1.418939 + torch.trapezoid(density * torch.log(1 - torch.tanh(z) ** 2 + 1e-6), z)
    with torch.no_grad():
        _, entropy, log_std = gaussian.likelihood(batch)
    assert entropy.item() == pytest.approx(3 * expected.item(), abs=0.06) and torch.equal(log_std, torch.zeros(rows, 3))


@pytest.mark.parametrize("alpha", [0.25, 4.0])
def test_gaussian_loss_and_its_gradient(gaussian, alpha):
    """Against torch.distributions; the entropy's gradient flows through the sampled action."""
    agent, other = gaussian, twin(gaussian)
    batch = agent.data.sample(32, torch.Generator().manual_seed(5))
    nll, entropy = agent.likelihood(batch)[:2]
    loss = agent.gaussian_loss(nll, entropy, torch.tensor(alpha))
    expected = nll - alpha * entropy if alpha < 1 else nll / alpha - entropy
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    mean, log_std = other.actor(batch.obs)
    u = mean + log_std.exp() * torch.randn(mean.shape, generator=other.rng)
    normal = torch.distributions.Normal(mean, log_std.exp())
    by_hand = -(normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2 + 1e-6)).sum(1).mean()
    data_u = 0.5 * torch.log((1 + 1e-6 + batch.action) / (1 + 1e-6 - batch.action))
    data_nll = -(normal.log_prob(data_u) - torch.log(1 - batch.action**2 + 1e-6)).sum(1).mean()
    torch.testing.assert_close((nll, entropy), (data_nll, by_hand), rtol=1e-5, atol=1e-5)
    (data_nll / max(1, alpha) - min(1, alpha) * by_hand).backward()
    for mine, theirs in zip(agent.actor.parameters(), other.actor.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("entropy", [-5.0, -3.0, 1.0])
def test_temperature_gradient(gaussian, entropy):
    """Above the floor, -3, alpha falls; below it rises."""
    entropy = torch.tensor(entropy, requires_grad=True)
    loss = gaussian.alpha_loss(entropy)
    gradients = torch.autograd.grad(loss, [gaussian.log_alpha, entropy], allow_unused=True)
    assert gradients[0].item() == pytest.approx(entropy.item() + 3) and gradients[1] is None


def test_temperature_steps_before_the_actor(gaussian):
    agent, other = gaussian, twin(gaussian)
    start = parameters(agent.actor)
    logs = agent.update()
    nll, entropy, log_std = other.likelihood(other.data.sample(32, other.rng))
    assert logs["alpha"].item() == pytest.approx(math.exp(-3e-4), abs=1e-7)  # H starts above the floor; Adam's first step is lr
    torch.testing.assert_close(logs["actor_loss"], nll - logs["alpha"] * entropy)
    torch.testing.assert_close(logs["log_std"], log_std.mean())
    torch.testing.assert_close((logs["nll"], logs["entropy"]), (nll, entropy))
    assert agent.log_alpha.item() == pytest.approx(-3e-4) and 0 < (parameters(agent.actor) - start).abs().max() <= 3.1e-4
    assert not any(value.requires_grad for name, value in logs.items() if name == "alpha")


def test_actor_loss_leaves_the_temperature_alone(gaussian):
    still = twin(gaussian)
    still.gaussian_loss = lambda nll, entropy, alpha: 0.0 * nll
    gaussian.update(), still.update()
    assert gaussian.log_alpha.item() == still.log_alpha.item() != 0 and not torch.equal(parameters(gaussian.actor), parameters(still.actor))


def test_without_the_entropy_floor_it_is_maximum_likelihood():
    agent = BC(Args(batch_size=32, gaussian=True, entropy_floor=False), make_data(), seed=0)
    other = twin(agent)
    with torch.no_grad():
        agent.log_alpha.fill_(100.0)  # no overflow comes through
    logs = agent.update()
    assert logs["alpha"].item() == 0 and agent.log_alpha.item() == 100
    torch.testing.assert_close(logs["actor_loss"], logs["nll"])
    other.likelihood(other.data.sample(32, other.rng))[0].backward()
    torch.optim.Adam(other.actor.parameters(), 3e-4).step()
    torch.testing.assert_close(parameters(agent.actor), parameters(other.actor))


def test_gaussian_fits_mean_and_std():
    u = torch.tensor([0.2, 0.8] * 8)  # mean 0.5, population std 0.3
    agent = BC(Args(lr=1e-2, gaussian=True, entropy_floor=False), constant_data(torch.tanh(u).tolist()), seed=0)
    for _ in range(150):
        agent.update()
    mean, log_std = agent.actor(agent.data.obs[:1])
    assert mean.item() == pytest.approx(0.5, abs=0.02) and log_std.exp().item() == pytest.approx(0.3, abs=0.02)
    assert agent.actor.act(agent.data.obs[:1]).item() == pytest.approx(math.tanh(0.5), abs=0.02)


def test_gaussian_actor_is_atacs(gaussian):
    actor = gaussian.actor
    assert [tuple(w.shape) for w in actor.weights] == [(256, 11), (256, 256), (256, 256), (3, 256), (3, 256)]
    for weight in actor.weights:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < weight.abs().max() <= bound
    assert all(bias.abs().max() == 0 for bias in actor.biases)
    obs = gaussian.data.obs[:5]
    x = (obs - gaussian.data.obs_mean) / (gaussian.data.obs_std + 1e-3)
    for weight in actor.weights[:3]:
        x = torch.relu(x @ weight.T)
    mean, log_std = actor(obs)
    torch.testing.assert_close((mean, log_std), (x @ actor.weights[3].T, x @ actor.weights[4].T))
    torch.testing.assert_close(actor.act(obs), torch.tanh(mean))
    with torch.no_grad():
        actor.biases[4][:] = torch.tensor([-99.0, 0.0, 99.0])
    log_std = actor(obs)[1]
    torch.testing.assert_close(log_std[:, 0], torch.full((5,), math.log(1e-5)))
    assert (log_std[:, 2] == 2).all()


@pytest.mark.parametrize("flags", [{}, dict(gaussian=True)])
def test_every_logged_number_is_explained(flags):
    logs = BC(Args(batch_size=8, **flags), make_data(), seed=0).update()
    told = bc.__doc__.partition("Logged:")[2].partition("Read before")[0]
    assert list(logs)[0] == "actor_loss" and all(re.search(rf"\b{key}\b", told) for key in logs)


def test_initialisation_is_pytorchs():
    actor = BC(Args(), make_data(), seed=0).actor
    assert [tuple(w.shape) for w in actor.weights] == [(256, 11), (256, 256), (3, 256)]
    for weight, bias, fan_in in zip(actor.weights, actor.biases, (11, 256, 256)):
        bound = fan_in**-0.5
        assert 0.95 * bound < weight.abs().max() <= bound and 0 < bias.abs().max() <= bound


def test_settings():
    args = Args()
    assert (args.updates, args.batch_size, args.lr, args.fraction, args.gamma) == (1_000_000, 256, 3e-4, 1.0, 1.0)
    assert args.normalize and args.entropy_floor and not args.gaussian and not args.corl_split and args.reward == "raw"
    assert set(PAPER) <= set(D4RL) and len(PAPER) == 18 + 6 + 6 + 12
    assert PAPER["hopper-full-replay-v2"] == PAPER["pen-cloned-v1"] == {}
    assert PAPER["maze2d-umaze-v1"] == PAPER["maze2d-large-dense-v1"] == PAPER["antmaze-umaze-v2"] == dict(eval_episodes=100)
    assert TOP_10 == {name: values | dict(fraction=0.1) for name, values in PAPER.items()}
