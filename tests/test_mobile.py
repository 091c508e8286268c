"""MOBILE: OfflineRL-Kit's numbers, the inconsistency by hand, the target, rollouts, and the values of the datasets."""

import numpy as np
import pytest
import torch
from torch import nn

from algorithms import mobile
from algorithms.mobile import MOBILE, Args
from algorithms.mopo import MOPO
from algorithms.mopo import Args as MOPOArgs
from common import InputError
from common.args import parse
from common.data import Batch
from tests import recipe
from tests.helpers import make_data, parameters
from tests.recipe import tensor
from tests.recipe_models import A, B, S, batch, close, dataset, fill_agent, fill_model, golden, norms, normals

GOLDEN, REAL = golden("mobile"), 3  # real rows of the golden batch


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


def small(**changed) -> MOBILE:
    flags = dict(rollout_batch=10, rollout_length=2, rollout_every=4, batch_size=16, retain=2, updates=40, termination="never")
    return MOBILE(Args(**flags | changed), make_data(), 0)


def filled(**changed) -> MOBILE:
    agent = MOBILE(Args(**dict(batch_size=B, rollout_batch=10, device="cpu", real_ratio=(REAL + 0.5) / B) | changed), dataset(), 0)
    fill_model(agent.model)
    fill_agent(agent)
    return agent


def draws(rows=slice(None)) -> list:
    """What the penalty of some rows of the golden batch draws: next states, then their actions, piece by piece."""
    next_obs, action = normals(70, 10, 5, B, S + 1)[:, :, rows, :S], normals(71, 10, 5, B, A)[:, :, rows].reshape(-1, A)
    return [("randn", next_obs), *(("randn", action[i:i + mobile.PIECE]) for i in range(0, len(action), mobile.PIECE))]


@pytest.mark.parametrize("case, flags", [
    ("lambda_1p5", dict(penalty_coef=1.5)), ("lambda_40_clamp_active", dict(penalty_coef=40.0)), ("lambda_0", dict(penalty_coef=0.0)),
    ("lambda_1p5_max_q_backup", dict(penalty_coef=1.5, max_q_backup=True)),
    ("lambda_1p5_entropy_in_backup", dict(penalty_coef=1.5, backup_entropy=True))])
def test_an_update_equals_the_kit(double, case, flags):
    theirs, agent = GOLDEN[case], filled(**flags)
    agent.sample = batch
    calls = recipe.remembered(agent, "penalty", "critic_target", "alpha_loss")
    agent.step = 1  # no rollout
    target_noise = normals(74, 10 * B, A) if "max_q" in case else normals(72, B, A)
    with recipe.injected([*draws(slice(REAL, None)), ("randn", target_noise), ("randn", normals(73, B, A))]):
        logs = agent.update()
    close(logs["critic_loss"], theirs["losses"]["loss/critic"])
    close(logs["actor_loss"], theirs["losses"]["loss/actor"])
    close(calls["alpha_loss"][0][1], theirs["losses"]["loss/alpha"])
    close(logs["alpha"], theirs["losses"]["alpha"])
    close([torch.cat([p.grad[j].flatten() for p in agent.critics.parameters()]).norm().item() for j in range(2)], theirs["grad_norms"]["critics"][0])
    close(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]).norm(), theirs["grad_norms"]["actor"][0][0])
    penalty, target = calls["penalty"][0][1], calls["critic_target"][0][1]
    close(logs["penalty"], penalty.sum() / (B - REAL))
    assert logs["clamped"] == (target == 0).to(target).mean() and target.min() == 0
    if "U" in theirs:
        close(penalty.sum() / 1.5, theirs["U"]["rows_3_to_63_sum"])
        compare_norms(agent, theirs["after"])


def compare_norms(agent, theirs):
    """Norms of W0, b0, W1, b1, ...; of the actor's last layer mean and log std are apart."""
    for j in range(2):
        close(norms([p[j] for pair in zip(agent.critics.weights, agent.critics.biases) for p in pair]), theirs[f"critic{j + 1}"])
    close(norms([p[0] for pair in zip(agent.target_critics.weights, agent.target_critics.biases) for p in pair]), theirs["target1"])
    *hidden, (weight, bias) = zip(agent.actor.weights, agent.actor.biases)
    heads = [half for pair in zip(weight.chunk(2), bias.chunk(2)) for half in pair]
    close(norms([*(p for pair in hidden for p in pair), *heads]), theirs["actor"])
    close([agent.log_alpha.item()], theirs["log_alpha"])


@pytest.mark.parametrize("piece", [7, 2**11, 2**20])
def test_the_inconsistency_equals_the_kit(double, monkeypatch, piece):
    """However many rows a piece has, and of the real rows too, if they are asked for."""
    monkeypatch.setattr(mobile, "PIECE", piece)
    theirs, agent = GOLDEN["lambda_1p5"]["U"], filled(penalty_coef=1.0)
    with recipe.injected(draws()):
        u = agent.penalty(agent.data.obs, agent.data.action)
    close(u.sum(), theirs["sum_all_rows"])
    close(u[:5], theirs["first5"])
    close(u[REAL:].sum(), theirs["rows_3_to_63_sum"])


class Linear(nn.Module):
    """A critic with Q(s, a) = c s_0 + b a_0."""
    def __init__(self, c=0.0, b=0.0):
        super().__init__()
        self.c, self.b = c, b

    def forward(self, obs, action):
        return (self.c * obs[:, 0] + self.b * action[:, 0]).expand(2, -1)


def without_noise(agent, means=(0.0,) * 7, log_var=-torch.inf):
    """Network e's model says that s_0 will change by means[e], and nothing else."""
    with torch.no_grad():
        for weight in agent.model.weights:
            weight.zero_()
        for e, mean in enumerate(means):
            agent.model.biases[-1][e, 0, 0] = mean
    agent.model.bounded = lambda raw: torch.full_like(raw, log_var)
    return agent


def test_inconsistency_by_hand():
    """Elites that say 1 to 5 in any order, and two others that say anything: the unbiased deviation, times |c|."""
    agent = without_noise(small(penalty_coef=2.0), (50.0, 1.0, -70.0, 2.0, 4.0, 3.0, 5.0))
    agent.model.elites.copy_(torch.tensor([6, 1, 3, 5, 4]))
    for c in (1.0, -3.0):
        agent.target_critics = Linear(c)
        penalty = agent.penalty(agent.data.obs, agent.data.action)
        assert penalty.shape == (256,) and torch.allclose(penalty, torch.full((256,), 2 * 1.5811388 * abs(c)), rtol=1e-5)


def test_equal_elites_agree():
    agent = without_noise(small())
    agent.target_critics = Linear(1.0)
    assert agent.penalty(agent.data.obs, agent.data.action).abs().max() < 1e-6


def test_samples_are_averaged():
    """Equal elites whose next states vary: E[U^2] is the values' variance, over M."""
    agent = without_noise(small(penalty_coef=1.0), log_var=np.log(4.0))
    agent.target_critics = Linear(3.0)
    obs, action = torch.zeros(5_000, S), torch.zeros(5_000, A)
    assert agent.penalty(obs, action).square().mean() == pytest.approx(36.0 / 10, rel=0.05)
    agent.args.num_samples = 1
    assert agent.penalty(obs, action).square().mean() == pytest.approx(36.0, rel=0.05)


def test_actions_are_sampled_for_each_next_state():
    """Next states are equal here, so a mean action, or one for all, would leave no spread."""
    agent = without_noise(small())
    agent.target_critics = Linear(b=1.0)
    assert agent.penalty(agent.data.obs, agent.data.action).min() > 0.01


def test_target_critics_are_asked():
    """In the penalty and in the target; not the online ones."""
    agent, rows = small(), batch_of(16)
    agent.critics = None
    agent.critic_target(rows, agent.penalty(rows.obs, rows.action))


def batch_of(size) -> Batch:
    data = make_data(size)
    return Batch(data.obs, data.action, data.reward, data.next_obs, data.done)


def test_the_target_by_hand():
    """Real rows come first and are not charged; the end of an episode does not lift the charge; 0 is the least."""
    agent, rows = small(gamma=0.5), batch_of(5)
    agent.target_critics = Linear(2.0)
    rows.reward.copy_(torch.tensor([1.0, 1.0, 9.0, 9.0, -1.0]))
    rows.done.copy_(torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
    rows.next_obs[:, 0] = 4.0
    assert agent.critic_target(rows, torch.tensor([2.0, 3.0, 0.0])).tolist() == [5.0, 1.0, 7.0, 10.0, 0.0]
    assert agent.critic_target(rows, torch.tensor([200.0, 3.0, 0.0])).tolist() == [5.0, 1.0, 0.0, 10.0, 0.0]
    assert agent.critic_target(rows, torch.tensor([])).tolist() == [5.0, 1.0, 9.0, 13.0, 0.0]
    free = small(gamma=0.5, target_min=None)
    free.target_critics = Linear(2.0)
    assert free.critic_target(rows, torch.tensor([200.0, 3.0, 0.0])).tolist() == [5.0, 1.0, -191.0, 10.0, -1.0]
    low = small(gamma=0.5, target_min=-50.0)
    low.target_critics = Linear(2.0)
    assert low.critic_target(rows, torch.tensor([200.0, 3.0, 0.0])).tolist() == [5.0, 1.0, -50.0, 10.0, -1.0]


def test_max_q_backup_by_hand():
    """Q1(a) = a and Q2(a) = -a at -1 and 1: each has 1 at its best, so the least is 1, and not -1."""
    agent, rows = small(max_q_backup=True, gamma=1.0), batch_of(4)
    rows.reward.zero_(), rows.done.zero_()
    agent.target_critics = lambda obs, action: torch.stack([action[:, 0], -action[:, 0]])
    agent.actor.sample = lambda obs, rng: (torch.tensor([-1.0, 1.0]).repeat(len(obs) // 2)[:, None].expand(-1, A), None)
    assert agent.critic_target(rows, torch.zeros(2)).tolist() == [1.0] * 4


def test_without_pessimism_it_is_mopo(double):
    """With no penalty, no clamp, and entropy in the target: MOPO's target for the same draws, and half its critics' gradient."""
    ours = filled(penalty_coef=0.0, target_min=None, backup_entropy=True)
    theirs = MOPO(MOPOArgs(batch_size=B, rollout_batch=10, device="cpu"), dataset(), 0)
    fill_agent(theirs)
    rows, targets, grads = batch(), [], []
    penalty = ours.penalty(rows.obs[REAL:], rows.action[REAL:])
    assert not penalty.any()
    for agent, more in ((ours, [penalty]), (theirs, [])):
        with recipe.injected([("randn", normals(72, B, A))]):
            targets.append(agent.critic_target(rows, *more))
        agent.critic_loss(agent.critics(rows.obs, rows.action), targets[-1]).backward()
        grads.append(torch.cat([p.grad.flatten() for p in agent.critics.parameters()]))
    close(targets[0], targets[1], 1e-12)
    close(2 * grads[0], grads[1], 1e-12)
    assert (targets[0] < 0).any()  # which a clamp would have held


def test_the_update_charges_imagined_rows_only():
    """Twelve of 256 rows are real; their targets do not depend on lambda, all others do."""
    targets = []
    for coef in (0.1, 10.0):
        agent = small(batch_size=256, penalty_coef=coef, target_min=None)
        calls = recipe.remembered(agent, "critic_target")
        agent.update()
        targets.append(calls["critic_target"][0][1])
    assert torch.equal(targets[0][:12], targets[1][:12]) and (targets[0][12:] > targets[1][12:]).all()


def test_stored_rewards_are_the_models():
    """An imagined row's reward is what the elite of its place has drawn, and k steps of all rows are stored."""
    agent = without_noise(small(penalty_coef=100.0))
    with torch.no_grad():
        agent.model.biases[-1][:, 0, S] = torch.arange(7.0)  # the reward's mean
    agent.model.elites.copy_(torch.tensor([1, 3, 5, 6, 4]))
    agent.rollout()
    stored = agent.data.split(agent.ring.rows[:int(agent.ring.size)])
    assert agent.ring.size == 20 and torch.bincount(stored.reward.long(), minlength=7).tolist() == [0, 4, 0, 4, 4, 4, 4]


def test_each_start_comes_to_every_elite():
    """The rows are in a new order at every step, so an elite's rows of one step are not together in the next."""
    agent = MOBILE(Args(rollout_batch=1_000, rollout_length=2, termination="never"), make_data(), 0)
    asked = []
    sample = agent.model.sample
    agent.model.sample = lambda obs, action, rng: (asked.append(obs), sample(obs, action, rng))[1]
    without_noise(agent, tuple(1000.0 * e for e in range(7))).rollout()
    came_from = (asked[1][:, 0] / 1000).round().long().view(5, 200)  # the first step's elite of the second's rows
    counts = torch.stack([torch.bincount(row, minlength=5) for row in came_from])
    assert counts.sum(0).tolist() == [200] * 5 and counts.min() > 15  # 40 +- 5.7 of each


def test_a_state_that_ends_leaves_one_row():
    agent = small(rollout_length=3, retain=1)
    agent.terminal = lambda obs, action, next_obs: torch.ones(len(obs), dtype=torch.bool)
    agent.rollout()
    stored = agent.data.split(agent.ring.rows[:int(agent.ring.size)])
    assert agent.ring.size == 10 and (stored.done == 1).all()


def test_only_its_own_parameters_move():
    agent = small()
    agent.update()
    before = {name: parameters(getattr(agent, name)) for name in ("actor", "critics", "target_critics", "model", "log_alpha")}
    agent.update()
    changed = {name for name, old in before.items() if not torch.equal(old, parameters(getattr(agent, name)))}
    assert changed == {"actor", "critics", "target_critics", "log_alpha"}
    assert all(p.grad is None for p in [*agent.model.parameters(), *agent.target_critics.parameters()])


def test_a_fixed_temperature():
    agent = small(alpha=0.2)
    calls = recipe.remembered(agent, "actor_loss")
    for _ in range(3):
        assert agent.update()["alpha"] == pytest.approx(0.2)
    (q, log_prob), loss = calls["actor_loss"][0]
    assert torch.allclose(loss, (0.2 * log_prob - q.min(0).values).mean())
    agent = small()
    agent.log_alpha.data.fill_(1.0)
    assert agent.alpha() == 1


def test_an_exploded_state_ends():
    """The halfcheetah's rule keeps a state beyond 100 out of what follows it, so that (1) stays finite."""
    agent = MOBILE(Args(env="halfcheetah-medium-v2", rollout_batch=10), make_data(obs_size=17, action_size=6), 0)
    without_noise(agent, (1e9,) * 7).rollout()
    stored = agent.data.split(agent.ring.rows[:int(agent.ring.size)])
    assert agent.ring.size == 10 and (stored.done == 1).all()


def test_elites_must_divide_the_rollout(capsys):
    with pytest.raises(InputError, match="--rollout-batch 12: give a multiple of 5"):
        parse(Args, mobile.PAPER, ["--rollout-batch", "12", "--device", "cpu"])


def test_values_of_the_datasets():
    paper = mobile.PAPER
    assert paper["hopper-medium-replay-v2"] == dict(rollout_length=5, penalty_coef=0.1, alpha=0.2)
    assert paper["walker2d-medium-v2"] == dict(rollout_length=5, penalty_coef=0.5, model_epochs=30)
    assert paper["halfcheetah-medium-expert-v2"] == dict(rollout_length=5, penalty_coef=1.0, real_ratio=0.5)
    assert paper["walker2d-medium-expert-v2"] == dict(rollout_length=1, penalty_coef=1.5) and len(paper) == 14
    assert parse(Args, paper, ["--target-min", "None", "--device", "cpu"]).target_min is None


@pytest.mark.parametrize("task, patience", [("pen-cloned-v1", 10), ("pen-human-v1", 20)])
def test_adroit(task, patience):
    """Ten critics and an actor with three hidden layers; a larger model; a constant learning rate."""
    args = Args(**mobile.PAPER[task] | dict(env=task, rollout_batch=10, batch_size=8))
    agent = MOBILE(args, make_data(64, 45, 24), 0)
    fit = agent.fit_model()
    assert [tuple(weight.shape) for weight in agent.critics.weights] == [(10, 69, 256), (10, 256, 256), (10, 256, 256), (10, 256, 1)]
    assert len(agent.actor.weights) == 4 and agent.model.weights[1].shape == (7, 400, 400)
    assert fit.args.patience == patience and fit.args.lr == fit.optimizer.param_groups[0]["lr"] == 3e-4
    agent.update()
    assert all(value.isfinite() for value in agent.update().values()) and agent.actor_optimizer.param_groups[0]["lr"] == torch.tensor(3e-5)
