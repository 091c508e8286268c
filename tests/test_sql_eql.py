"""What pins SQL and EQL: the two value losses by hand, the derivation, EQL's runaway and the guard; the rest they share
with IQL, in test_iql.py."""

import math

import numpy as np
import pytest
import torch

from algorithms.sql_eql import EARLY, IVR, PAPER, Args
from tests.helpers import make_data, twin
from tests.test_iql import minimiser, recorded, slope


def make(algorithm, alpha=1.0, **flags):
    return IVR(Args(**dict(batch_size=32, algorithm=algorithm, sql_alpha=alpha, eql_alpha=alpha) | flags), make_data(), seed=0)


def gradient(agent, q, v=0.0):
    v = torch.full((len(q),), v, dtype=torch.float64, requires_grad=True)
    agent.value_loss(torch.tensor(q, dtype=torch.float64), v).backward()
    return v.grad.tolist()


@pytest.mark.parametrize("q, alpha, expected", [
    ([0.0, 4.0], 2.0, 2.0), ([0.0, 4.0], 0.5, 3.0), ([0.0, 4.0], 0.1, 3.8),  # one active of n: max - 2 alpha (n - 1)
    ([0.0, 1.0, 4.0], 1.0, 5 / 3), ([0.0, 1.0, 4.0], 0.5, 2.0), ([0.0, 1.0, 4.0], 0.1, 3.6)])
def test_sql_minimiser(q, alpha, expected):
    assert minimiser(make("sql", alpha).value_loss, q) == pytest.approx(expected, abs=1e-9)


def test_sql_gradient_by_hand():
    assert gradient(make("sql"), [-10.0, 0.0, 1.0]) == pytest.approx([1 / 3, 0.0, -1 / 6])


def test_sql_early_form_is_a_quarter():
    q, v = torch.randn(2, 50, dtype=torch.float64) * 3
    for t in (2.0, 10.0):
        early = ((0.5 + (q - v) / t).clamp(min=0) ** 2 + v / t).mean()
        assert (early / make("sql", t / 4).value_loss(q, v)).item() == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("alpha, expected", [(2.0, 2.867562), (1.0, 3.325003)])
def test_eql_minimiser(alpha, expected):
    assert minimiser(make("eql", alpha).value_loss, [0.0, 4.0]) == pytest.approx(expected, abs=1e-6)
    assert alpha * math.log((1 + math.exp(4 / alpha)) / 2) == pytest.approx(expected, abs=1e-6)


def test_eql_gradient_and_loss_by_hand():
    assert gradient(make("eql"), [-10.0, 0.0, 1.0]) == pytest.approx([(1 - math.exp(-10)) / math.e / 3, 0.0, (1 - math.e) / math.e / 3])
    loss = make("eql").value_loss(torch.tensor([3.0]), torch.tensor([2.0]))
    assert loss.item() == pytest.approx(1 + 2 / math.e)  # m = 1


def test_eql_floor_of_m():
    """Far below V every z is very negative: m is -1, and the gradient e / (alpha B)."""
    assert gradient(make("eql"), [-50.0, -60.0]) == pytest.approx([math.e / 2] * 2)
    assert math.isfinite(make("eql").value_loss(torch.tensor([-1e6]), torch.zeros(1)).item())


def test_eql_clamp_as_released_and_guarded():
    assert gradient(make("eql"), [0.0, 100.0]) == pytest.approx([0.0, math.exp(-5) / 2])
    assert gradient(make("eql", clamp_both=True), [0.0, 100.0]) == pytest.approx([0.0, 0.0])


def descend(agent, q, steps):
    v = 0.0
    for _ in range(steps):
        v -= 0.1 * slope(agent.value_loss, [q], v)
    return v


def test_eql_runs_away_and_the_guard_holds_it():
    """One sample, alpha 1, V starting at 0."""
    released, guarded = make("eql"), make("eql", clamp_both=True)
    assert descend(released, 4.9, 300) == pytest.approx(4.9, abs=1e-6)
    assert descend(guarded, 4.9, 300) == pytest.approx(4.9, abs=1e-6)
    fallen = [descend(released, 5.1, steps) for steps in (100, 200, 400)]
    assert fallen == pytest.approx([-0.1 * math.exp(-5) * steps for steps in (100, 200, 400)])  # for ever
    assert descend(guarded, 5.1, 100) == 0.0


def test_guard_changes_nothing_within_the_clamp():
    q, v = torch.randn(2, 40, dtype=torch.float64).clamp(-2, 2)
    v.requires_grad_(True)
    grads = [torch.autograd.grad(make("eql", clamp_both=both).value_loss(q, v), v)[0] for both in (False, True)]
    torch.testing.assert_close(*grads)


def test_weights_by_hand():
    sql, eql = make("sql", 3.0), make("eql", 2.0)
    torch.testing.assert_close(sql.imitation_weight(torch.tensor([-1.0, 0.0, 0.5, 150.0])), torch.tensor([0.0, 0.0, 0.5, 100.0]))
    torch.testing.assert_close(eql.imitation_weight(torch.tensor([0.0, 0.5, 1.0, 1e6])), torch.tensor([1.0, 12.1825, 100.0, 100.0]), rtol=1e-5, atol=0)


def test_derivation():
    """The docstring's: g inverts h' (numerically differentiated), and the policy's weights sum to one at the minimiser of
    the U form, which is our loss's minus alpha."""
    x = np.linspace(0.05, 5, 50)
    for f, g in ((lambda x: x - 1, lambda y: (y + 1) / 2), (np.log, lambda y: np.exp(y - 1))):
        slope = ((x + 1e-5) * f(x + 1e-5) - (x - 1e-5) * f(x - 1e-5)) / 2e-5  # h'(x), h(x) = x f(x)
        np.testing.assert_allclose(g(slope), x, rtol=1e-6)
    q, alpha = np.array([0.0, 1.0, 4.0]), 0.5
    u = minimiser(lambda q, u: ((0.5 + (q - u) / (2 * alpha)).clamp(min=0) ** 2 + u / alpha).mean(), q, -3.0)
    assert np.maximum(((q - u) / alpha + 1) / 2, 0).mean() == pytest.approx(1, abs=1e-6)
    assert minimiser(make("sql", alpha).value_loss, q) == pytest.approx(u + alpha, abs=1e-6)
    u = alpha * (math.log(np.exp(q / alpha).mean()) - 1)
    assert np.exp((q - u) / alpha - 1).mean() == pytest.approx(1)
    assert minimiser(make("eql", alpha).value_loss, q, 2.0) == pytest.approx(u + alpha, abs=1e-6)


def test_layer_norm_is_on_the_value_only():
    agent = make("sql")
    assert [norm.eps for norm in agent.value.norms] == [1e-6, 1e-6]
    assert not any(isinstance(m, torch.nn.LayerNorm) for net in (agent.actor, agent.critics) for m in net.modules())
    obs = torch.randn(5, 11)
    w, b, n = agent.value.weights, agent.value.biases, agent.value.norms
    x = obs
    for i in range(2):
        x = x @ w[i][0] + b[i][0]
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt() * n[i].weight + n[i].bias
        x = x.relu()
    torch.testing.assert_close(agent.value(obs), (x @ w[2][0] + b[2][0])[:, 0], rtol=1e-4, atol=1e-5)
    norms = [p for norm in n for p in norm.parameters()]
    before = [p.clone() for p in norms]
    agent.update()
    assert not any(torch.equal(p, old) for p, old in zip(norms, before))


def test_sql_policy_stands_still_where_no_action_is_above_v():
    agent = make("sql")
    with torch.no_grad():
        agent.target_critics.biases[-1] -= 1e4
    before, calls = twin(agent), recorded(agent, "actor_loss")
    agent.update()
    assert calls[0][1] == 0 and torch.equal(agent.actor.weights[0], before.actor.weights[0])


def test_logged_shares():
    agent, real = make("eql", 2.0), recorded(agent_q := make("eql", 2.0), "value_loss")
    log = agent_q.update()
    (q, _), _ = real[0]
    with torch.no_grad():
        batch = agent.data.sample(32, agent.rng)
        gap = q - agent_q.value(batch.obs)
    assert log["active"].item() == pytest.approx((gap > -4).float().mean().item())
    assert log["clamped"].item() == pytest.approx((gap > 10).float().mean().item())
    assert 0 < log["active"].item() <= 1


def test_values_of_paper_and_early_scripts():
    for task, sql, eql, lr in (("hopper-medium-v2", 1.0, 2.0, 3e-4), ("antmaze-large-play-v2", 0.1, 0.5, 2e-4),
                               ("antmaze-umaze-diverse-v2", 3.0, 5.0, 2e-4), ("kitchen-mixed-v0", 0.5, 2.0, 3e-4)):
        args = Args(**PAPER[task])
        assert (args.sql_alpha, args.eql_alpha, args.lr) == (sql, eql, lr)
        assert (args.dropout, args.reward) == {"h": (0.0, "return_range"), "a": (0.0, "r-1"), "k": (0.1, "raw")}[task[0]]
    assert EARLY.keys() == PAPER.keys()
    for task, sql, eql in (("hopper-medium-v2", 0.5, 2.0), ("hopper-medium-replay-v2", 0.5, 2.0), ("walker2d-medium-expert-v2", 1.25, 5.0), ("antmaze-umaze-v2", 0.125, 0.5),
                           ("antmaze-umaze-diverse-v2", 0.5, 5.0), ("kitchen-mixed-v0", 0.5, 2.0)):
        assert (EARLY[task]["sql_alpha"], Args(**EARLY[task]).eql_alpha) == (sql, eql)
        assert EARLY[task].get("reward") == PAPER[task].get("reward")
