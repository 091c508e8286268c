"""COMBO: OfflineRL-Kit's numbers, the two pushes, rollouts without a penalty, and flags that exclude each other."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from algorithms import combo, mopo
from algorithms.combo import COMBO, Args
from common import InputError
from tests import recipe
from tests.helpers import make_data, parameters
from tests.recipe_models import A, B, batch, close, dataset, fill_agent, golden, norms, normals

GOLDEN, N = golden("combo"), 10


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


def small(data=None, **changed) -> COMBO:
    flags = dict(rollout_batch=10, rollout_length=2, rollout_every=4, batch_size=16, retain=2, updates=40, termination="never",
                 num_actions=4, lse_groups=4)
    return COMBO(Args(**flags | changed), make_data() if data is None else data, 0)


@pytest.mark.parametrize("case, beta, groups, states", [
    ("beta_5_groups_10_mix", 5.0, 10, "mix"), ("beta_5_groups_1_mix", 5.0, 1, "mix"), ("beta_5_groups_10_model", 5.0, 10, "model"),
    ("beta_5_groups_1_model", 5.0, 1, "model"), ("td_only_beta_0", 0.0, 10, "mix")])
def test_an_update_equals_the_kit(double, case, beta, groups, states):
    """With the exact log density: the Kit's own has 1e-6 in a logarithm. The first 32 rows are real."""
    theirs = GOLDEN[case]
    agent = COMBO(Args(batch_size=B, cql_weight=beta, lse_groups=groups, push_states=states, rollout_batch=10, device="cpu"), dataset(), 0)
    fill_agent(agent, hidden=3)
    agent.sample = batch
    agent.step = 1  # no rollout
    calls = recipe.remembered(agent, "critic_loss", "push_down", "alpha_loss")
    rows, first = (B, 0) if states == "mix" else (B // 2, B // 2)
    uniform = (np.random.RandomState(64).uniform(-1, 1, (N * rows, A)) + 1) / 2
    with recipe.injected([("randn", normals(60, B, A)), ("randn", normals(61, B, A)), ("randn", normals(62, N * rows, A).reshape(rows, N, A)),
                          ("randn", normals(63, N * rows, A).reshape(rows, N, A)), ("rand", uniform.reshape(rows, N, A))]):
        logs = agent.update()
    (_, (_, td_loss, up)), (_, down) = calls["critic_loss"][0], calls["push_down"][0]
    losses = theirs["losses"]
    close(td_loss + beta * (down - up), [losses["loss/critic1"], losses["loss/critic2"]])
    close(logs["critic_loss"], (losses["loss/critic1"] + losses["loss/critic2"]) / 2)
    close(logs["actor_loss"], losses["loss/actor"])
    close(calls["alpha_loss"][0][1], losses["loss/alpha"])
    close(agent.alpha(), losses["alpha"])
    for j in range(2):
        ours = torch.cat([p.grad[j].flatten() for p in agent.critics.parameters()]).norm()
        close(ours, theirs["grad_norms"][f"critic{j + 1}"][0][0])
    close(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]).norm(), theirs["grad_norms"]["actor"][0][0])
    if case == "beta_5_groups_10_mix":
        compare_norms(agent, theirs["after"])
        released = GOLDEN["kit_log_density_beta_5_groups_10_mix"]  # its 1e-6 in the logarithm is all that differs
        close(td_loss + beta * (down - up), [released["loss/critic1"], released["loss/critic2"]], 2e-6)
        close([logs["actor_loss"].item(), calls["alpha_loss"][0][1].item()], [released["loss/actor"], released["loss/alpha"]], 3e-6)


def compare_norms(agent, theirs):
    """Norms of W0, b0, W1, b1, ...; of the actor's last layer mean and log std are apart."""
    for name, network, j in (("critic1", agent.critics, 0), ("critic2", agent.critics, 1), ("target1", agent.target_critics, 0)):
        close(norms([p[j] for pair in zip(network.weights, network.biases) for p in pair]), theirs[name])
    *hidden, (weight, bias) = zip(agent.actor.weights, agent.actor.biases)
    heads = [half for pair in zip(weight.chunk(2), bias.chunk(2)) for half in pair]
    close(norms([*(p for pair in hidden for p in pair), *heads]), theirs["actor"])


def test_without_pushes_it_is_sac(double):
    """beta = 0, real rows alone and the entropy in y: the gradient is twice that of SAC's halved squares."""
    agent = small(cql_weight=0.0, real_ratio=1.0, entropy_backup=True)
    agent.step = 1
    fill_agent(agent, hidden=3)
    before = deepcopy(agent.critics)
    drawn = recipe.remembered(agent.actor, "sample")["sample"]
    rows = agent.sample()
    agent.sample = lambda: rows
    agent.target_critics.weights[-1].data.mul_(1.1)
    old_targets = deepcopy(agent.target_critics)
    agent.update()
    _, (next_action, log_prob) = drawn[1]  # after the one at s
    next_value = old_targets(rows.next_obs, next_action).min(0).values - agent.log_alpha.detach().exp() * log_prob
    y = rows.reward + 0.99 * (1 - rows.done) * next_value
    (0.5 * (before(rows.obs, rows.action) - y) ** 2).mean(1).sum().backward()
    for ours, halved in zip(agent.critics.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, 2 * halved.grad)


def test_the_entropy_counts_in_y_where_the_flag_says_so():
    agent = small()
    rows = agent.data.split(agent.data.rows[:16])
    with torch.no_grad():
        policy = agent.actor(rows.next_obs)
    state = agent.rng.get_state()
    without = agent.critic_target(rows, policy)
    agent.rng.set_state(state)
    _, log_prob = agent.actor.sample(policy, agent.rng)
    agent.args.entropy_backup = True
    agent.log_alpha.data.fill_(-1.0)
    agent.rng.set_state(state)
    difference = agent.critic_target(rows, policy) - without
    torch.testing.assert_close(difference, -0.99 * (1 - rows.done) * math.exp(-1) * log_prob)


def pushes(agent, q, candidate_q, log_density):
    """down - up of each critic, from values of the batch (2, B) and of the candidates (2, M, n, 3)."""
    down = agent.push_down(candidate_q, log_density)
    return down - agent.critic_loss(q, q[0].detach(), down)[2]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_constant_in_q_changes_nothing(double, groups):
    agent = small(lse_groups=groups)
    q, candidate_q, log_density = torch.randn(2, 16), torch.randn(2, 16, 4, 3), torch.randn(16, 4, 3)
    before = pushes(agent, q, candidate_q, log_density)
    torch.testing.assert_close(pushes(agent, q + 7, candidate_q + 7, log_density), before)
    offset = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(pushes(agent, q + offset, candidate_q + offset, log_density).sum(), offset)
    assert slope.abs() < 1e-12


@pytest.mark.parametrize("groups, expected", [(1, 4.605170), (10, 2.302585)])
def test_groups_by_hand(double, groups, expected):
    """Q = 0, log pi = 0, three action dimensions: log(10 + 10 + 10 * 8), or log(1 + 1 + 8)."""
    agent = small(num_actions=10, lse_groups=groups)
    with torch.no_grad():
        policy = agent.actor(agent.data.obs[:16])
        actions, log_density = agent.candidates(policy, policy)
    assert actions.shape == (16, 10, 3, 3) and torch.allclose(log_density[..., 2], torch.tensor(-3 * math.log(2)))
    log_density[..., :2] = 0
    close(agent.push_down(torch.zeros(2, 16, 10, 3), log_density), [expected, expected])


def test_candidates():
    """Actions at s, at s', and uniform ones, with the log density under which each was drawn."""
    agent = small(num_actions=1000, lse_groups=1)
    mean, log_std = torch.tensor([[0.5, -0.5, 0.0]] * 16), torch.full((16, 3), -4.0)
    actions, log_density = agent.candidates((mean, log_std), (-mean, log_std))
    assert (actions[:, :, 0].mean((0, 1)) - torch.tanh(mean[0])).abs().max() < 0.01
    assert (actions[:, :, 1].mean((0, 1)) + torch.tanh(mean[0])).abs().max() < 0.01
    uniform = actions[:, :, 2]
    assert uniform.mean().abs() < 0.02 and abs(uniform.std() - 3**-0.5) < 0.01 and uniform.abs().max() <= 1
    z = torch.atanh(actions[:, :, 1].double())
    normal = torch.distributions.Normal(-mean[:, None].double(), math.exp(-4.0))
    by_hand = (normal.log_prob(z) - torch.log(1 - actions[:, :, 1].double() ** 2)).sum(-1)
    assert (log_density[:, :, 1] - by_hand).abs().max() < 0.01


def test_candidates_are_valued_at_s():
    """Those drawn at s' too, and of the imagined rows alone where the flag says so."""
    for states, first in (("mix", 0), ("model", 8)):
        agent = small(push_states=states)
        agent.update()
        asked = recipe.remembered(agent.critics, "forward")["forward"]
        rows = agent.sample()
        agent.sample = lambda: rows
        agent.update()
        (obs, action), _ = max(asked, key=lambda call: len(call[0][0]))  # after the data's own
        assert torch.equal(obs[16:], rows.obs[first:].repeat_interleave(12, 0)) and len(obs) == len(action) == 16 + 12 * (16 - first)


def test_push_up_is_of_the_real_rows(double):
    """d loss / d Q(s, a) is -beta / 128 in real rows and 0 in imagined ones, where Q is y."""
    agent = small(batch_size=256, cql_weight=5.0)
    q = torch.randn(256).expand(2, -1).clone().requires_grad_()
    loss, td_loss, up = agent.critic_loss(q, q[0].detach(), torch.zeros(2))
    (grad,) = torch.autograd.grad(loss, q)
    close(grad[:, :128], np.full((2, 128), -5 / 128))
    assert grad[:, 128:].abs().max() == 0 and td_loss.abs().max() == 0
    close(up, q[:, :128].mean(1))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_push_down_is_a_softmax(double, groups):
    """Gradients at a state's candidates are softmax weights of their group times beta over the number of groups, beta in all."""
    agent = small(lse_groups=groups, cql_weight=5.0)
    candidate_q, log_density, q = torch.randn(2, 16, 4, 3, requires_grad=True), torch.randn(16, 4, 3), torch.randn(2, 16)
    loss, _, _ = agent.critic_loss(q, q[0], agent.push_down(candidate_q, log_density))
    (grad,) = torch.autograd.grad(loss, candidate_q)
    close(grad.sum((1, 2, 3)), [5.0, 5.0])
    size = 4 // groups
    for g in range(groups):
        members = slice(g * size, (g + 1) * size)  # of each kind
        weights = torch.exp(candidate_q - log_density)[:, 3, members].detach()
        close(grad[:, 3, members], 5 / (16 * groups) * weights / weights.sum((1, 2), keepdim=True))


def test_a_soft_maximum_is_near_the_largest(double):
    agent = small(lse_groups=1, num_actions=10)
    candidate_q, log_density = 5 * torch.randn(2, 16, 10, 3), torch.randn(16, 10, 3)
    largest = (candidate_q - log_density).amax((2, 3)).mean(1)
    down = agent.push_down(candidate_q, log_density)
    assert (down >= largest).all() and (down <= largest + math.log(30)).all()


def test_uniform_actions_integrate(double):
    """Q = c a in one dimension: the mean of exp(Q + log 2) is the integral of exp(c a) over [-1, 1], 2 sinh(c) / c."""
    n, c = 100_000, 2.0
    agent = small(make_data(action_size=1), num_actions=n, lse_groups=1)
    with torch.no_grad():
        policy = agent.actor(agent.data.obs[:1])
    actions, log_density = agent.candidates(policy, policy)
    candidate_q = c * actions[..., 0].expand(2, -1, -1, -1).clone()
    candidate_q[..., :2] = -torch.inf
    down = agent.push_down(candidate_q, log_density) - math.log(n)
    assert (down - math.log(2 * math.sinh(c) / c)).abs().max() < 0.01 and abs(down[0] - 1.288) < 0.01


def test_stored_rewards_are_the_models():
    """No penalty: what the model samples is what the ring has."""
    agent = small(rollout_length=3)
    told = recipe.remembered(agent.model, "sample")["sample"]
    agent.rollout()
    stored = agent.data.split(agent.ring.rows[:30])
    assert agent.ring.size == 30 and len(told) == 3
    assert torch.equal(stored.reward, torch.cat([reward for _, (_, reward) in told]))
    assert torch.equal(stored.next_obs, torch.cat([next_obs for _, (next_obs, _) in told]))
    assert torch.equal(stored.obs[10:], torch.cat([args[0] for args, _ in told[1:]]))


def test_each_step_has_an_elite_of_its_own():
    """A row's elite in the second step does not depend on the one in the first: all 25 pairs are there."""
    data = make_data()
    data.rows[:, :11] = 0
    agent = small(data, rollout_batch=1000)
    elites = [1, 3, 5, 6, 4]
    agent.model.elites.copy_(torch.tensor(elites))
    with torch.no_grad():
        for weight in agent.model.weights:
            weight.zero_()
        for e in range(7):
            agent.model.biases[-1][e, 0, :12] = e
        agent.model.bounded = lambda raw: torch.full_like(raw, -60.0)
    agent.rollout()
    second = agent.data.split(agent.ring.rows[1000:2000])
    pairs = torch.stack([second.obs[:, 0], (second.next_obs - second.obs)[:, 0]], 1).round().int()
    found, counts = pairs.unique(dim=0, return_counts=True)
    assert {tuple(pair) for pair in found.tolist()} == {(a, b) for a in elites for b in elites}
    assert counts.sum() == 1000 and counts.min() > 15 and counts.max() < 70


def test_nothing_follows_an_end():
    """Rows are shuffled with their flags: what has ended in one step is not there in the next."""
    agent = small(rollout_length=4, rollout_batch=1000, retain=1)
    agent.terminal = lambda obs, action, next_obs: next_obs[:, 0] > 0
    agent.rollout()
    stored = agent.data.split(agent.ring.rows[:int(agent.ring.size)])
    assert 1000 < len(stored.obs) < 4000 and (stored.obs[1000:, 0] <= 0).all()
    assert torch.equal(stored.done > 0, stored.next_obs[:, 0] > 0) and stored.done.sum() > 100


def test_batches():
    """128 real rows come first, 128 imagined ones follow; a batch has a real row whatever its share."""
    agent = small(batch_size=256)
    agent.rollout()
    real, stored = {tuple(row) for row in agent.data.rows.tolist()}, {tuple(row) for row in agent.ring.rows[:int(agent.ring.size)].tolist()}
    rows = [tuple(row) for row in torch.cat([x.reshape(256, -1) for x in agent.sample()], 1).tolist()]
    assert set(rows[:128]) <= real and set(rows[128:]) <= stored and len(rows) == 256
    assert Args(real_ratio=1e-9).real == 1 and Args(batch_size=1).real == 1


def test_real_rows_alone():
    """f = 1: the ring is never asked for anything that counts."""
    agent, other = small(real_ratio=1.0), small(real_ratio=1.0)
    agent.update()
    other.rollout = lambda: (COMBO.rollout(other), other.ring.rows.fill_(torch.nan))
    log = other.update()
    assert torch.equal(parameters(agent.critics), parameters(other.critics)) and all(value.isfinite() for value in log.values())


def test_order_of_the_steps():
    """The actor's step comes first, with the old critics; y and candidates are the new actor's."""
    agent = small()
    agent.update()
    old_critics, old_actor, order = parameters(agent.critics), parameters(agent.actor), []
    actor_loss = agent.actor_loss

    def seen(name, method):
        def call(*args):
            order.append((name, torch.equal(parameters(agent.actor), old_actor), torch.equal(parameters(agent.critics), old_critics)))
            return method(*args)
        return call
    given = recipe.remembered(agent, "critic_target", "candidates")
    target, candidates = agent.critic_target, agent.candidates
    agent.actor_loss, agent.critic_target, agent.candidates = seen("actor", actor_loss), seen("target", target), seen("candidates", candidates)
    agent.update()
    assert order == [("actor", True, True), ("target", False, True), ("candidates", False, True)]
    (rows, next_policy), _ = given["critic_target"][0]
    (policy, candidates_next), _ = given["candidates"][0]
    for ours, obs in ((policy, rows.obs), (next_policy, rows.next_obs), (candidates_next, rows.next_obs)):
        assert all(torch.equal(a, b) for a, b in zip(ours, agent.actor(obs), strict=True))
    policies = recipe.remembered(agent.actor, "forward")["forward"]
    agent.update()
    assert [len(args[0]) for args, _ in policies] == [16, 16, 16]  # once a state, however many actions are drawn


def test_logs():
    agent = small(cql_weight=3.0)
    agent.rollout()
    agent.step = 1
    rows = agent.sample()
    agent.sample = lambda: rows
    log = {name: value.item() for name, value in agent.update().items()}
    assert log["conservative"] == pytest.approx(log["push_down"] - log["push_up"], abs=1e-6)
    assert log["critic_loss"] == pytest.approx(log["td_loss"] + 3 * log["conservative"], rel=1e-5)
    assert log["imagined_reward"] == pytest.approx(rows.reward[8:].mean().item()) and log["imagined_done"] == rows.done[8:].mean()


def test_the_actors_learning_rate():
    """(11): less with each block, nothing at the end."""
    agent, rates = small(), []
    for _ in range(40):
        agent.update()
        rates.append(agent.actor_optimizer.param_groups[0]["lr"].item())
    assert rates == pytest.approx([1e-4 / 2 * (1 + np.cos(np.pi * (step // 4) / 10)) for step in range(40)], rel=1e-5)


def test_gradients_reach_their_own_parameters():
    agent = small()
    agent.update()
    before = {name: parameters(getattr(agent, name)) for name in ("actor", "critics", "target_critics", "model")}
    assert all(p.grad is None for p in agent.model.parameters())
    agent.update()
    changed = {name for name, old in before.items() if not torch.equal(old, parameters(getattr(agent, name)))}
    assert changed == {"actor", "critics", "target_critics"}


@pytest.mark.parametrize("flags, told", [
    (dict(lse_groups=3), "--lse-groups 3"), (dict(num_actions=5), "--lse-groups 10"), (dict(rollout_batch=12), "--rollout-batch 12"),
    (dict(push_states="model", real_ratio=1.0), "--push-states model"), (dict(push_states="model", batch_size=1), "--push-states model")])
def test_flags_that_exclude_each_other(flags, told):
    with pytest.raises(InputError, match=told) as error:
        Args(**flags)
    assert "\n" not in str(error.value)


def test_mopo_shares_its_model():
    """The same data and seed: the same preset and initial weights, so one training serves both files."""
    from common.pretraining import _key

    data = make_data()
    agents = small(data, cql_weight=3.0), mopo.MOPO(mopo.Args(rollout_batch=8), data, 0)
    assert combo.MODEL == mopo.MODEL and len({_key(agent.fit_model(), 0) for agent in agents}) == 1


def test_values_of_the_datasets():
    robots, levels = ("halfcheetah", "hopper", "walker2d"), ("random", "medium", "medium-replay", "medium-expert")
    assert set(combo.PAPER) == {f"{robot}-{level}-{v}" for robot in robots for level in levels for v in ("v0", "v2")}
    assert combo.PAPER["hopper-medium-v2"] == dict(rollout_length=5, cql_weight=5.0)
    assert combo.PAPER["walker2d-medium-replay-v2"] == combo.PAPER["walker2d-random-v0"] == dict(rollout_length=1, cql_weight=0.5)
    assert combo.PAPER["halfcheetah-medium-v2"]["cql_weight"] == 0.5 and combo.PAPER["halfcheetah-medium-expert-v0"]["cql_weight"] == 5.0
