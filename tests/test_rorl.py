"""What pins RORL: its three losses by hand, alignment, the schedule, and SAC-10 as its limit."""

import math

import pytest
import torch

from algorithms import sac_n
from algorithms.rorl import ATTACK, PAPER, RORL, Args, jeffreys
from tests.helpers import make_data, parameters, twin

OFF = dict(eps_pi=0.0, eps_q=0.0, beta_ood=0.0)


def make_agent(**flags):
    return RORL(Args(**{"batch_size": 16, "num_critics": 3, "num_perturbations": 4} | flags), make_data(), seed=0)


@pytest.mark.parametrize("off", [OFF, dict(beta_pi=0.0, beta_q=0.0, beta_ood=0.0)])
def test_without_regularisers_it_is_sac_10_bitwise(off):
    data = make_data()
    rorl = RORL(Args(batch_size=16, **off), data, seed=3)
    sac = sac_n.SACN(sac_n.Args(batch_size=16, num_critics=10, normalize=True), data, seed=3)
    for _ in range(5):
        logs, sac_logs = rorl.update(), sac.update()
    for module in ("actor", "critics", "target_critics", "log_alpha"):
        assert torch.equal(parameters(getattr(rorl, module)), parameters(getattr(sac, module)))
    assert all(torch.equal(logs[key], sac_logs[key]) for key in sac_logs)


def fixed_critics(agent, function):
    agent.critics.forward = function


def q_smoothing(agent, batch, q):
    """(8), as the update has it; `q`: (N, B) at (s, a), with its graph."""
    near_obs, rows = agent.worst_near(batch)
    return agent.asymmetric(agent.critics(near_obs, batch.action) - q[:, rows]).mean()


def smoothing_case(clean, near, misaligned=False):
    """L_Q for given Q(s, a) (N, B) and Q(s^_j, a) (N, B, n)."""
    clean, near = torch.tensor(clean), torch.tensor(near)
    n = near.shape[2]
    agent = make_agent(num_perturbations=n, q_smooth_misaligned=misaligned)
    delta = torch.arange(1.0, n + 1)[:, None].expand(n, 11)  # perturbation j adds j to every state
    agent.perturbations = lambda eps: delta
    batch = agent.data.sample(clean.shape[1], agent.rng)
    batch = batch._replace(obs=torch.arange(clean.shape[1])[:, None].float().expand(-1, 11) * 100)

    def values(obs, action):
        state, j = (obs[:, 0] / 100).floor().long(), (obs[:, 0] % 100).long()
        return torch.cat([clean[..., None], near], -1)[:, state, j]

    fixed_critics(agent, values)
    return q_smoothing(agent, batch, clean).item()


def test_q_smoothing_takes_one_perturbation_for_the_ensembles_mean():
    assert smoothing_case([[1.0], [2.0]], [[[1.5, 1.0]], [[2.0, 2.5]]]) == pytest.approx(0.1)  # a maximum per critic would give 0.2


def test_rises_weigh_more_than_falls():
    agent = make_agent()
    difference = torch.tensor([[0.5], [-1.0]])
    assert agent.asymmetric(difference).item() == pytest.approx(0.2)
    agent.args.tau_q = 0.8
    assert agent.asymmetric(difference).item() == pytest.approx(0.425)


def test_alignment():
    """Two states with Q 0 and 1 and no perturbation: nothing to smooth. The released code compared across rows."""
    clean, near = [[0.0, 1.0]], [[[0.0, 0.0], [1.0, 1.0]]]
    assert smoothing_case(clean, near) == 0.0
    assert smoothing_case(clean, near, misaligned=True) == pytest.approx((0.2 + 0.8) / 2)


def test_q_smoothing_of_a_linear_q_and_gradient_through_both_terms():
    agent = make_agent(eps_q=0.1)
    w = torch.randn(11, generator=torch.Generator().manual_seed(1), requires_grad=True)
    fixed_critics(agent, lambda obs, action: (obs @ w).expand(3, -1))
    batch = agent.data.sample(16, agent.rng)
    state = agent.rng.get_state()
    loss = q_smoothing(agent, batch, agent.critics(batch.obs, batch.action))
    agent.rng.set_state(state)
    rise = agent.perturbations(0.1) @ w.detach()  # (n,)
    expected = torch.where(rise > 0, 0.8 * rise**2, 0.2 * rise**2).max()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    q = torch.zeros(3, 16, requires_grad=True)
    near_gradient, clean_gradient = torch.autograd.grad(q_smoothing(agent, batch, q), (w, q))
    assert near_gradient.abs().sum() > 0 and clean_gradient.abs().sum() > 0


def test_ood_loss_by_hand():
    agent = make_agent()
    q = torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, 64).clone().requires_grad_()
    loss, std = agent.ood_loss(q, torch.tensor(2.0))
    assert loss.item() == pytest.approx(4.0) and std.mean().item() == pytest.approx(1.0)  # the population std would give 2.667
    (gradient,) = torch.autograd.grad(loss, q)
    torch.testing.assert_close(gradient * 3 * 64, torch.full((3, 64), 4.0))  # 2 lambda u = 4 for every critic: sum over K of 4/3
    equal = torch.ones(3, 64, requires_grad=True)
    loss, _ = agent.ood_loss(equal, torch.tensor(2.0))
    assert loss.item() == 0 and not torch.autograd.grad(loss, equal)[0].any()


def test_ood_loss_leaves_the_actor_alone():
    agent = make_agent()
    obs, action = agent.ood_rows(agent.data.obs[:16])
    assert obs.shape == (64, 11) and action.shape == (64, 3) and not action.requires_grad
    loss, std = agent.ood_loss(agent.critics(obs, action), torch.tensor(1.0))
    assert not std.requires_grad and all(g is not None for g in torch.autograd.grad(loss, list(agent.critics.parameters())))


def test_jeffreys_divergence():
    zero, one = torch.zeros(1), torch.ones(1)
    assert jeffreys(zero, zero, one, zero).item() == pytest.approx(1.0)
    assert jeffreys(zero, zero, zero, torch.tensor([math.log(2)])).item() == pytest.approx(1.125)
    rng = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(5, 3, generator=rng) for _ in range(4))
    torch.testing.assert_close(jeffreys(a, b, c, d), jeffreys(c, d, a, b))
    assert torch.equal(jeffreys(a, b, a, b), torch.zeros(5))
    p, q = (torch.distributions.Normal(m, s.exp()) for m, s in ((a, b), (c, d)))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(jeffreys(a, b, c, d), (kl(p, q) + kl(q, p)).sum(-1))


def test_policy_smoothing_has_gradient_through_both_sides():
    agent = make_agent(eps_pi=0.5)
    obs = agent.data.obs[:16]
    mean, log_std = (x.detach().requires_grad_() for x in agent.actor(obs))
    loss = agent.policy_smoothing(obs, mean, log_std)
    clean, near = torch.autograd.grad(loss, (mean, agent.actor.head_weight))
    assert loss > 0 and clean.abs().sum() > 0 and near.abs().sum() > 0


def test_perturbations():
    agent = make_agent(num_perturbations=5000)
    delta = agent.perturbations(0.01)
    bound = 0.01 * agent.data.obs_std
    assert delta.shape == (5000, 11) and (delta.abs() <= bound).all()
    assert (delta.amax(0) > 0.99 * bound).all() and (delta.amin(0) < -0.99 * bound).all()


def test_losses_draw_their_own_perturbations_shared_by_the_batch():
    agent, seen = make_agent(eps_pi=0.1, eps_q=0.1, eps_ood=0.1), []
    real = agent.perturbations
    agent.perturbations = lambda eps: seen.append(real(eps)) or seen[-1]
    agent.update()
    assert len(seen) == 3 and not any(torch.equal(seen[i], seen[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    inputs = []
    real_critics = agent.critics.forward
    agent.critics.forward = lambda obs, action: inputs.append(obs) or real_critics(obs, action)
    batch = agent.data.sample(16, agent.rng)
    agent.worst_near(batch)
    clean, near = inputs[0].view(16, 5, 11).split([1, 4], 1)  # row b (1 + n) + j
    assert torch.equal(clean, batch.obs[:, None])
    delta = near - clean
    torch.testing.assert_close(delta, delta[:1].expand_as(delta), rtol=0, atol=1e-5)


def lam_at(agent, done):
    """lambda of the update after `done` updates, read from the log, the OOD forward counted."""
    agent.step, calls = done, []
    agent.count.fill_(done)
    real = agent.ood_loss
    agent.ood_loss = lambda *args: calls.append(1) or real(*args)
    return agent.update()["lambda"].item(), len(calls)


def test_lambda_schedule():
    agent = make_agent(**PAPER["hopper-medium-v2"])
    assert lam_at(agent, 0) == (2.0, 1)
    assert lam_at(twin(agent), 1000)[0] == pytest.approx(1.999, abs=1e-6)
    assert lam_at(twin(agent), 1_900_000)[0] == pytest.approx(0.1, abs=1e-6)
    assert lam_at(twin(agent), 2_900_000)[0] == pytest.approx(0.1, abs=1e-6)
    replay = make_agent(**PAPER["hopper-medium-replay-v2"])
    last = lam_at(twin(replay), 99_999)
    assert last[0] == pytest.approx(1e-6, rel=0.05) and last[1] == 1
    assert lam_at(twin(replay), 100_001) == (pytest.approx(0.0, abs=1e-9), 0)  # update 100,002: no OOD forward


def test_choosing_the_worst_without_a_graph_changes_nothing():
    """All n perturbations in one graph and a maximum over them give the same losses, gradients and parameters."""
    agent = make_agent(eps_q=0.1)
    batch = agent.data.sample(16, agent.rng)
    q, state = agent.critics(batch.obs, batch.action), agent.rng.get_state()
    fast = q_smoothing(agent, batch, q)
    agent.rng.set_state(state)
    near = (batch.obs[:, None] + agent.perturbations(0.1)).flatten(0, 1)
    near_q = agent.critics(near, batch.action.repeat_interleave(4, 0)).view(-1, 16, 4)
    slow = agent.asymmetric(near_q - q[..., None]).max(1).values.mean()
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-9)
    for a, b in zip(*(torch.autograd.grad(loss, list(agent.critics.parameters()), retain_graph=True) for loss in (fast, slow))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)
    fast = make_agent(eps_pi=0.1, beta_pi=1.0)
    slow = twin(fast)

    def policy_smoothing(obs, mean, log_std):
        delta = slow.perturbations(slow.args.eps_pi)
        near_mean, near_log_std = slow.actor((obs[:, None] + delta).flatten(0, 1))
        return jeffreys(mean[:, None], log_std[:, None], near_mean.view(16, 4, -1), near_log_std.view(16, 4, -1)).max(1).values.mean()

    slow.policy_smoothing = policy_smoothing
    for _ in range(3):
        logs, slow_logs = fast.update(), slow.update()
        for key in logs:
            torch.testing.assert_close(logs[key], slow_logs[key], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parameters(fast.actor), parameters(slow.actor), rtol=0, atol=1e-5)


def test_reductions_of_the_critic_loss():
    """TD is a sum over critics, the two others are means (the authors' weights are relative to that)."""
    agent = make_agent(beta_q=0.3, beta_ood=0.7)
    agent.td_loss = lambda q, target: q.sum() * 0 + 5.0
    agent.asymmetric = lambda difference: torch.full(difference.shape[1:], 2.0)
    agent.ood_loss = lambda q, lam: (torch.tensor(3.0), torch.tensor(0.0))
    assert agent.update()["critic_loss"].item() == pytest.approx((5 + 0.3 * 2 + 0.7 * 3) / 3)
    fresh = make_agent()
    assert fresh.td_loss(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2)).item() == pytest.approx(5.0)


def test_theorem_2_in_the_smallest_case():
    """Linear critics: smoothing rows shrink the bonus at an unseen feature from 1 to 0.894427 (spec, hand case)."""
    data, near, ood = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0])
    pbrl = torch.outer(data, data) + torch.outer(ood, ood)
    rorl = pbrl + torch.outer(data - near, data - near)
    torch.testing.assert_close(rorl, torch.diag(torch.tensor([1.0, 1.25])))
    torch.testing.assert_close(torch.linalg.solve(rorl, 2 * data + 3 * ood), torch.tensor([2.0, 2.4]))
    bonus = [torch.sqrt(ood @ torch.linalg.solve(matrix, ood)).item() for matrix in (pbrl, rorl)]
    assert bonus == [pytest.approx(1.0), pytest.approx(0.894427, abs=1e-6)]


def test_settings():
    assert len(PAPER) == 15 and len(ATTACK) == 3
    assert PAPER["walker2d-medium-v2"] == dict(num_perturbations=20, eps_pi=0.01, beta_pi=1.0, eps_q=0.01, eps_ood=0.01, beta_ood=0.1,
                                               lambda_max=1.0, lambda_min=0.1, lambda_dec=5e-7)
    assert ATTACK["halfcheetah-medium-v2"]["eps_pi"] == 0.05 and ATTACK["hopper-medium-v2"]["eps_ood"] == 0.02
    args = Args()
    assert (args.num_critics, args.beta_q, args.tau_q, args.updates) == (10, 1e-4, 0.2, 3_000_000)
