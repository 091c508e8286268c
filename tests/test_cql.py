"""What pins CQL: Delta and its gradient by hand, the multiplier, SAC as its limit, cloning, and CQL-smooth."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from algorithms import cql
from algorithms.cql import AUTHORS, CQL, PAPER, YOUNG_GENG, Actor, Args, Critics
from common import InputError
from common.args import parse
from common.sources import D4RL
from tests.helpers import ROOT, make_data, parameters, run_script, twin, write_npz


def make_agent(seed=0, **flags):
    return CQL(Args(**{"batch_size": 16, "num_actions": 10} | flags), make_data(), seed)


def delta(q, sampled_q, log_density, **flags):
    """Delta of both critics from tensors that are the same for both."""
    agent = make_agent(**flags)
    return agent.conservative(q.expand(2, -1), sampled_q.expand(2, -1, -1), log_density)


@pytest.mark.parametrize("c", [0.0, -7.0, 300.0])
def test_delta_of_a_constant_critic(c):
    """Densities are uniform and all values c: log 30 + A log 2."""
    found = delta(torch.full((4,), c), torch.full((4, 30), c), torch.full((4, 30), -3 * math.log(2)))
    torch.testing.assert_close(found, torch.full((2,), 5.480639), rtol=1e-5, atol=1e-5)


def test_delta_by_hand():
    q, sampled = torch.tensor([1.0]), torch.tensor([[0.0, 2.0]])
    log_density = torch.log(torch.tensor([[0.5, 0.25]]))
    assert delta(q, sampled, log_density)[0].item() == pytest.approx(math.log(2 + 4 * math.e**2) - 1)
    assert delta(q, sampled, log_density, cql_temperature=2.0)[0].item() == pytest.approx(2 * math.log(2**0.5 + 2 * math.e) - 1)
    assert delta(q, sampled, log_density, importance=False)[1].item() == pytest.approx(math.log(1 + math.e**2 + math.e) - 1)
    assert delta(q, sampled, log_density, cql_temperature=1e-4)[0].item() == pytest.approx(2 + math.log(4) - 1, abs=1e-3)  # a maximum


def test_rows_are_clipped_before_their_mean():
    q, none = torch.tensor([0.0, 100.0]), torch.zeros(2, 1)
    assert delta(q, none, none)[0].item() == -50
    assert delta(q, none, none, clip=(-10.0, 1e9))[0].item() == -5
    assert delta(q, none + 3, none, clip=(-10.0, 1.0))[0].item() == -4.5


def test_the_gradient_of_delta_is_a_softmax():
    q, sampled = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, 30, requires_grad=True)
    log_density = torch.randn(4, 30)
    make_agent().conservative(q, sampled, log_density).sum().backward()
    torch.testing.assert_close(sampled.grad, torch.softmax((sampled - log_density).detach(), -1) / 4)
    torch.testing.assert_close(q.grad, torch.full((2, 4), -0.25))  # both together: 0, a constant added to Q costs nothing


def test_two_actions_in_one_state():
    """pi plays the first of two actions that the data have equally often, all rewards are 0: Q = (-1/2, 1/2) for w = 1."""
    agent, table = make_agent(cql_weight=1.0), torch.zeros(2, requires_grad=True)
    for _ in range(200):
        q = table.expand(2, 2)  # both critics, both rows
        sampled = table[0].expand(2, 2, 30)
        loss = (q**2).mean(-1) + agent.penalty(agent.conservative(q, sampled, torch.zeros(2, 30)))
        (gradient,) = torch.autograd.grad(loss.sum() / 2, table)
        table.data -= 0.5 * gradient
    torch.testing.assert_close(table.detach(), torch.tensor([-0.5, 0.5]))


def test_both_brackets_of_the_multiplier():
    found = torch.tensor([7.0, 4.0])
    agents = {code: make_agent(gap=5.0, cql_weight=3.0, code=code) for code in ("corl", "young-geng", "authors")}
    assert [round(agent.log_multiplier.exp().item(), 5) for agent in agents.values()] == [2.71828, 2.71828, 1.0]
    torch.testing.assert_close(agents["corl"].penalty(found), math.e * torch.tensor([6.0, -3.0]))
    torch.testing.assert_close(agents["authors"].penalty(found), torch.tensor([16.0, 7.0]))
    for code, (weight, gap) in product(agents, ((1.0, 5.0), (3.0, 0.0))):  # where they agree
        agent = make_agent(gap=gap, cql_weight=weight, code=code)
        torch.testing.assert_close(agent.penalty(found), agent.log_multiplier.exp() * weight * (found - gap))
    loss = -0.5 * agents["corl"].penalty(found).sum()
    (gradient,) = torch.autograd.grad(loss, agents["corl"].log_multiplier)
    assert gradient.item() == pytest.approx(-0.5 * math.e * 3 * 1)  # Delta above the gap: log_m rises


def test_the_multiplier_rises_above_the_gap_and_is_bounded():
    for gap, sign in ((-100.0, 1), (100.0, -1)):
        agent = make_agent(gap=gap)
        before, logs = agent.log_multiplier.item(), agent.update()
        assert logs["multiplier"].item() == pytest.approx(math.e)
        assert agent.log_multiplier.item() - before == pytest.approx(sign * 3e-4, rel=1e-3)  # Adam's first step
        slope = -0.5 * math.e * 10 * 2 * (logs["delta"].item() - gap)  # of -1/2 sum_k m w (Delta_k - gap)
        assert agent.log_multiplier.grad.item() == pytest.approx(slope, rel=1e-4)
    with torch.no_grad():
        agent.log_multiplier.fill_(50.0)
    assert agent.penalty(torch.full((2,), 101.0))[0].item() == 1e7 and agent.update()["multiplier"].item() == 1e6
    assert make_agent().update()["multiplier"].item() == 0


def test_a_multiplier_of_one_and_no_gap_is_the_fixed_weight():
    fixed, lagrange = make_agent(), make_agent(gap=0.0)
    with torch.no_grad():
        lagrange.log_multiplier.zero_()
    fixed.update(), lagrange.update()
    for name in ("actor", "critics", "target_critics"):
        torch.testing.assert_close(parameters(getattr(fixed, name)), parameters(getattr(lagrange, name)))


def test_without_weight_it_is_sac_without_entropy_in_the_target():
    """One update against SAC's losses, written down once more, on the same rows and noise."""
    agent = make_agent(cql_weight=0.0)
    other, rng = twin(agent), torch.Generator()
    rng.set_state(agent.rng.get_state())
    agent.update()
    batch = other.data.sample(16, rng)
    mean, log_std = other.actor(batch.obs)
    noise = torch.randn((16, 3), generator=rng)
    z = mean + log_std.exp() * noise
    policy = torch.distributions.TransformedDistribution(torch.distributions.Normal(mean, log_std.exp()),
                                                         torch.distributions.TanhTransform(cache_size=1))
    action = policy.transforms[0](z)
    log_prob = policy.log_prob(action).sum(-1)
    actor_loss = (log_prob - other.critics(batch.obs, action).min(0).values).mean()
    with torch.no_grad():
        next_mean, next_log_std = other.actor(batch.next_obs)
        next_action = torch.tanh(next_mean + next_log_std.exp() * torch.randn((16, 1, 3), generator=rng)[:, 0])
        target = batch.reward + 0.99 * (1 - batch.done) * other.target_critics(batch.next_obs, next_action).min(0).values
    critic_loss = sum(((q - target) ** 2).mean() for q in other.critics(batch.obs, batch.action))
    for mine, loss in (("actor", actor_loss), ("critics", critic_loss)):
        gradients = torch.autograd.grad(loss, list(getattr(other, mine).parameters()), retain_graph=True)
        for p, gradient in zip(getattr(agent, mine).parameters(), gradients):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
    assert agent.log_alpha.grad.item() == pytest.approx(3 - log_prob.mean().item(), rel=1e-5)


def test_a_loss_reaches_its_own_parameters_only(monkeypatch):
    agent, reached = make_agent(gap=1.0, eps=0.1, num_perturbations=2), {}
    owners = {"actor": agent.actor, "critics": agent.critics, "targets": agent.target_critics}
    everything = {p: name for name, module in owners.items() for p in module.parameters()}
    everything |= {agent.log_alpha: "alpha", agent.log_multiplier: "multiplier"}
    names = {agent.alpha_optimizer: "alpha", agent.actor_optimizer: "actor", agent.critic_optimizer: "critics",
             agent.multiplier_optimizer: "multiplier"}
    real = cql.descend

    def descend(optimizer, loss):
        for p in everything:
            p.grad = None
        real(optimizer, loss)
        reached[names[optimizer]] = {everything[p] for p in everything if p.grad is not None}
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in optimizer.param_groups[0]["params"])

    monkeypatch.setattr(cql, "descend", descend)
    agent.update()
    assert reached == {name: {name} for name in names.values()}


def test_targets_follow_slowly_and_start_as_copies():
    agent, authors = make_agent(), make_agent(code="authors")
    before = parameters(agent.target_critics)
    assert torch.equal(before, parameters(agent.critics)) and not torch.equal(parameters(authors.target_critics), parameters(authors.critics))
    agent.update()
    torch.testing.assert_close(parameters(agent.target_critics), before + 0.005 * (parameters(agent.critics) - before))


def test_a_terminal_row_has_no_next_value():
    agent = make_agent()
    batch = agent.data.sample(16, agent.rng)
    batch = batch._replace(done=torch.ones(16))
    assert torch.equal(agent.critic_target(batch, agent.actor(batch.next_obs)), batch.reward)


@pytest.mark.parametrize("code", ["corl", "authors"])
def test_the_best_of_ten_actions(code):
    """Of actions that are all one it is that one's value; else at least the value of any of them."""
    agent = make_agent(max_q_backup=True, code=code)
    with torch.no_grad():
        for p in agent.target_critics.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    batch, single = agent.data.sample(16, agent.rng), make_agent(code=code)
    single.target_critics = agent.target_critics
    mean, sharp, wide = agent.actor(batch.next_obs)[0], torch.full((16, 3), -30.0), torch.zeros(16, 3)
    with torch.no_grad():
        torch.testing.assert_close(agent.critic_target(batch, (mean, sharp)), single.critic_target(batch, (mean, sharp)))
        state = agent.rng.get_state()
        z, _ = agent.actor.draw(mean, wide, agent.rng, 10)
        q = agent.target_critics(batch.next_obs[:, None], torch.tanh(z))
        agent.rng.set_state(state)
        target = agent.critic_target(batch, (mean, wide))
    assert q.shape == (2, 16, 10)
    value = q.amax(-1).amin(0) if code == "authors" else q.amin(0).amax(-1)
    torch.testing.assert_close(target, batch.reward + 0.99 * (1 - batch.done) * value)
    assert (q.amax(-1).amin(0) >= q.amin(0).amax(-1)).all() and (q.amax(-1).amin(0) > q.amin(0).amax(-1)).any()


def test_many_samples_of_one_row_are_samples_of_many_rows():
    """The network runs once per state: ten draws from its output are draws from ten repeated rows, with the same noise."""
    agent = make_agent()
    obs, state = agent.data.obs[:16], agent.rng.get_state()
    actions, log_prob = agent.actor.sample(*agent.actor(obs), agent.rng, 10)
    agent.rng.set_state(state)
    mean, log_std = agent.actor(obs.repeat_interleave(10, 0))
    repeated, its = agent.actor.sample(mean, log_std, agent.rng, 1)
    torch.testing.assert_close(actions, repeated.view(16, 10, 3))
    torch.testing.assert_close(log_prob, its.view(16, 10))


def test_the_proposals_and_their_densities():
    agent = make_agent(num_actions=4)
    with torch.no_grad():
        policy, following = agent.actor(agent.data.obs[:16]), agent.actor(agent.data.next_obs[:16])
        actions, log_density = agent.proposals(policy, following)
    assert actions.shape == (16, 12, 3) and log_density.shape == (16, 12) and actions.abs().max() < 1
    torch.testing.assert_close(log_density[:, :4], torch.full((16, 4), 3 * math.log(0.5)))
    for part, (mean, log_std) in ((slice(4, 8), policy), (slice(8, 12), following)):  # current ones by pi(s), next ones by pi(s')
        z = torch.atanh(actions[:, part].double())
        normal = torch.distributions.Normal(mean[:, None].double(), log_std[:, None].exp().double())
        expected = (normal.log_prob(z) - torch.log(1 - actions[:, part].double() ** 2)).sum(-1)
        torch.testing.assert_close(log_density[:, part].double(), expected, rtol=1e-3, atol=1e-3)


def test_densities_stay_finite_where_tanh_is_one():
    agent = make_agent()
    _, log_prob = agent.actor.sample(torch.full((5, 3), 40.0), torch.zeros(5, 3), agent.rng, 1)
    assert log_prob.isfinite().all() and (log_prob > 100).all()


def test_cloning_by_hand():
    """-log pi(0|s) of a policy with mean 0 and log std 0 is A log(2 pi) / 2."""
    agent = make_agent(bc_updates=5)
    batch = agent.data.sample(16, agent.rng)
    policy, zero = (torch.zeros(16, 3), torch.zeros(16, 3)), torch.zeros(16)
    loss = agent.actor_loss(batch._replace(action=torch.zeros(16, 3)), policy, None, zero, torch.ones(()))
    assert loss.item() == pytest.approx(3 * 0.918939, rel=1e-5)
    ends = agent.actor_loss(batch._replace(action=torch.ones(16, 3)), policy, None, zero, torch.ones(()))
    assert ends.item() == pytest.approx(3 * (0.918939 + math.atanh(0.999) ** 2 / 2 + math.log(1 - 0.999**2)), rel=1e-3)


def test_the_authors_cloning():
    """Their own inverse of tanh and bounds of the mean, on actions at the ends and means beyond 9."""
    agent, zero = make_agent(bc_updates=5, code="authors"), torch.zeros(4)
    batch = agent.data.sample(4, agent.rng)
    action = torch.tensor([1.0, -1.0, 0.9995, 0.3])[:, None].expand(-1, 3)
    mean, log_std = torch.tensor([20.0, 1.0, -12.0, 0.0])[:, None].expand(-1, 3), torch.full((4, 3), -1.0)
    loss = agent.actor_loss(batch._replace(action=action), (mean, log_std), None, zero, torch.ones(()))
    a, std = action.double(), math.exp(-1)
    z = 0.5 * torch.log((1 + a).clamp(min=1e-6) / (1 - a).clamp(min=1e-6))
    log_normal = -((z - mean.clamp(-9, 9)) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    expected = -(log_normal - torch.log(1 - torch.tanh(z) ** 2)).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_cloning_ends():
    agent, never = make_agent(bc_updates=2), make_agent()
    assert [agent.phase for _ in range(4) if agent.update()] == [True, False, False, False] and not never.phase
    for fresh, unaffected in ((make_agent(bc_updates=1), True), (make_agent(), False)):  # an actor that clones does not see the critics
        other = twin(fresh)
        with torch.no_grad():
            for p in other.critics.parameters():
                p.mul_(3)
        fresh.update(), other.update()
        assert torch.equal(parameters(fresh.actor), parameters(other.actor)) == unaffected


def test_the_authors_actor_has_the_new_alpha():
    """Their temperature steps first: with a large rate the actor's loss changes, CORL's does not."""
    for code, equal in (("corl", True), ("authors", False)):
        agents = [make_agent(code=code) for _ in range(2)]
        agents[1].alpha_optimizer.param_groups[0]["lr"] = 0.5
        losses = [agent.update()["actor_loss"] for agent in agents]
        assert torch.equal(*losses) == equal


def test_initial_networks():
    """CORL's, young-geng's and the authors' own."""
    sizes, rng = (11, 3, torch.zeros(11), torch.ones(11)), torch.Generator().manual_seed(0)
    critics = Critics((5, 3), *sizes, "corl", rng)
    assert [[tuple(weight.shape) for weight in critic.weights] for critic in critics] == [
        [(256, 14), *[(256, 256)] * depth, (1, 256)] for depth in (4, 2)]
    for weight in [*critics[0].weights[1:-1], *critics[1].weights[1:-1]]:
        torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(256), atol=1e-4, rtol=0)
    assert critics[1].weights[-1].norm().item() == pytest.approx(0.01, rel=1e-4) and not any(bias.any() for bias in critics[0].biases)
    actor = Actor(*sizes, "corl", rng)
    for weight, bias, bound in zip(actor.weights, actor.biases, (11**-0.5, 1 / 16, 1 / 16)):
        assert 0.9 * bound < bias.abs().max() <= bound and 0.98 * bound < weight.abs().max() <= bound
    bound = 0.01 * (6 / (256 + 6)) ** 0.5
    assert 0.95 * bound < actor.weights[-1].abs().max() <= bound and not actor.biases[-1].any()
    young_geng = Actor(*sizes, "young-geng", rng)
    assert len(young_geng.weights) == 3 and (actor.log_std_scale.item(), young_geng.log_std_scale.item()) == (1, 0)
    assert actor.log_std_shift.item() == -1 and (young_geng(torch.randn(4, 11))[1] == -1).all()
    authors = Actor(*sizes, "authors", rng), *Critics((3, 3), *sizes, "authors", rng)
    assert len(list(authors[0].parameters())) == 8  # without a scale and a shift of log std
    for network, head in zip(authors, (1e-3, 3e-3, 3e-3)):
        for weight, bias in zip(network.weights[:-1], network.biases[:-1]):
            assert 0.98 / 16 < weight.abs().max() <= 1 / 16 and (bias == torch.tensor(0.1)).all()
        assert 0.9 * head < network.weights[-1].abs().max() <= head and 0 < network.biases[-1].abs().max() <= head


def test_observations_are_standardised():
    """With 1e-3 added to the std, in every network; not with --no-normalize. One observation alone is acted on, too."""
    for normalize in (True, False):
        agent = make_agent(normalize=normalize)
        mean, scale = (agent.data.obs_mean, agent.data.obs_std + 1e-3) if normalize else (torch.zeros(11), torch.ones(11))
        for network in (agent.actor, *agent.critics, *agent.target_critics):
            assert torch.equal(network.obs_mean, mean) and torch.equal(network.obs_scale, scale)
        x = (agent.data.obs[:4] - mean) / scale
        torch.testing.assert_close(agent.actor.act(agent.data.obs[:4]), torch.tanh(agent.actor.layers(x)[:, :3]))
        torch.testing.assert_close(agent.actor.act(agent.data.obs[0]), agent.actor.act(agent.data.obs[:1])[0])


def test_logs_are_what_they_say(monkeypatch):
    agent, kept = make_agent(), {}
    for name in ("conservative", "critic_target"):
        real = getattr(agent, name)
        monkeypatch.setattr(agent, name, lambda *args, name=name, real=real: kept.setdefault(name, (args, real(*args)))[1])
    logs = agent.update()
    ((q, sampled, _), delta), (_, target) = kept["conservative"], kept["critic_target"]
    expected = {"delta": delta.mean(), "q": q.mean(), "q_uniform": sampled[..., :10].mean(), "q_policy": sampled[..., 10:20].mean(),
                "td_loss": ((q - target) ** 2).mean(), "critic_loss": 2 * ((q - target) ** 2).mean() + 10 * delta.sum()}
    assert len({round(x.item(), 7) for x in expected.values()}) == len(expected)  # they can be told apart
    for name, value in expected.items():
        torch.testing.assert_close(logs[name], value)


def test_log_std_has_bounds():
    for code, least in (("corl", -20), ("authors", -5)):
        actor = make_agent(code=code).actor
        for bias, value in ((1e3, 2), (-1e3, least)):
            with torch.no_grad():
                actor.biases[-1].fill_(bias)
            assert (actor(torch.randn(4, 11))[1] == value).all()


# CQL-smooth


def test_no_radius_is_cql_bitwise():
    agents = [make_agent(), make_agent(eps=0.0, beta_q=5.0, beta_pi=7.0, num_perturbations=3)]
    for _ in range(5):
        logs = [agent.update() for agent in agents]
    for name in ("actor", "critics", "target_critics", "log_alpha"):
        assert torch.equal(parameters(getattr(agents[0], name)), parameters(getattr(agents[1], name)))
    assert all(torch.equal(logs[0][key], logs[1][key]) for key in logs[0]) and logs[0]["q_smooth"] == logs[0]["pi_smooth"] == 0


class Linear(torch.nn.Module):
    """Critics g s, one g each: (2, S)."""

    def __init__(self, gradients):
        super().__init__()
        self.gradients = torch.nn.Parameter(gradients)

    def forward(self, obs, action):
        return torch.stack([obs @ gradient for gradient in self.gradients])


def test_smoothing_of_linear_critics():
    """The perturbation that changes both most, and at most (eps |g| std)^2 each; the gradient passes through Q at s^ and at s."""
    agent = make_agent(eps=0.3, num_perturbations=50)
    gradients = torch.randn((2, 11), generator=torch.Generator().manual_seed(2))
    agent.critics, batch, state = Linear(gradients), agent.data.sample(16, agent.rng), agent.rng.get_state()
    loss = agent.q_smoothing(batch, agent.critics(batch.obs, batch.action))
    agent.rng.set_state(state)
    delta = (2 * torch.rand((50, 11), generator=agent.rng) - 1) * 0.3 * agent.data.obs_std
    changes = delta @ gradients.T  # (50, 2)
    worst = (changes**2).sum(1).argmax()
    assert loss.item() == pytest.approx((changes[worst] ** 2).sum().item() / 2, rel=1e-3)
    assert worst != (changes**2).amax(1).argmax()  # neither critic's own
    assert loss.item() <= ((0.3 * gradients.abs() @ agent.data.obs_std) ** 2).sum().item() / 2
    (gradient,) = torch.autograd.grad(loss, agent.critics.gradients)
    torch.testing.assert_close(gradient, changes[worst][:, None] * delta[worst], rtol=1e-3, atol=1e-4)  # of (g delta)^2 / 2


def test_smoothing_of_the_policy():
    """Half of both divergences at the worst of the perturbations, against torch's own."""
    agent = make_agent(eps=0.5, num_perturbations=6)
    with torch.no_grad():
        agent.actor.weights[-1].mul_(100)
    obs, state = agent.data.obs[:16], agent.rng.get_state()
    found = agent.policy_smoothing(obs, *agent.actor(obs))
    agent.rng.set_state(state)
    delta = (2 * torch.rand((6, 11), generator=agent.rng) - 1) * 0.5 * agent.data.obs_std

    def normal(obs):
        mean, log_std = agent.actor(obs)
        return torch.distributions.Normal(mean.double(), log_std.double().exp())

    here, near = normal(obs[:, None]), normal(obs[:, None] + delta)
    kl = torch.distributions.kl_divergence
    expected = ((kl(here, near) + kl(near, here)) / 2).sum(-1).amax(1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    weights = list(agent.actor.parameters())
    for ours, theirs in zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.parametrize("flag", ["beta_q", "beta_pi"])
def test_smoothing_smooths(flag):
    """With a large weight the smoothed quantity is smaller after a hundred updates than without."""
    name, flags = {"beta_q": "q_smooth", "beta_pi": "pi_smooth"}[flag], dict(eps=0.3, num_perturbations=4, actor_lr=1e-3, cql_weight=1.0)
    found = []
    for weight in (0.0, 1e3):
        agent = make_agent(**flags | dict(beta_q=0.0, beta_pi=0.0) | {flag: weight})
        for _ in range(100):
            logs = agent.update()
        found.append(logs[name].item())
    assert found[1] < 0.3 * found[0]


# Flags


def test_the_papers_values():
    assert set(PAPER) <= set(D4RL) and set(YOUNG_GENG) <= set(PAPER)
    args = parse(Args, PAPER, ["--env", "antmaze-large-play-v2"])
    assert (args.cql_weight, args.gap, args.clip, args.critic_layers, args.reward, args.normalize, args.max_q_backup) == (
        5, 0.8, (-200, 1e9), (5, 5), "10r-5", False, True)
    assert (args.actor_lr, args.eval_every, args.eval_episodes, args.bc_updates) == (1e-4, 50_000, 100, 0)
    args = parse(Args, PAPER, ["--env", "halfcheetah-medium-v2"])
    assert (args.cql_weight, args.actor_lr, args.gap, args.reward, args.normalize, args.code) == (10, 3e-5, None, "raw", True, "corl")
    assert [env for env in PAPER if PAPER[env].get("reward") == "return_range"] == ["hopper-medium-v2"]
    assert PAPER["pen-human-v1"] == dict(cql_weight=1.0, actor_lr=1e-4) and PAPER["maze2d-large-v1"]["gap"] == 5
    assert set(AUTHORS) <= set(D4RL) and AUTHORS["hopper-medium-v0"] == dict(code="authors", actor_lr=1e-4, normalize=False, bc_updates=40_000)
    assert PAPER["kitchen-mixed-v0"] == dict(cql_weight=5.0, actor_lr=1e-4)
    configs = {"authors": AUTHORS, "antmaze-young-geng": YOUNG_GENG}
    args = parse(Args, PAPER, ["--env", "antmaze-umaze-v2", "--config", "authors"], **configs)
    assert (args.code, args.gap, args.reward, args.bc_updates, args.clip, args.max_q_backup) == ("authors", 5, "4r-2", 40_000, None, False)
    args = parse(Args, PAPER, ["--env", "antmaze-umaze-v2", "--config", "antmaze-young-geng"], **configs)
    assert (args.code, args.gap, args.bc_updates, args.critic_layers, args.updates) == ("young-geng", 0.2, 40_000, (3, 3), 1_200_000)


@pytest.mark.parametrize("words, message", [
    (["--gap"], "--gap"), (["--gap", "nan"], "--gap nan"), (["--eps", "-0.1"], "--eps -0.1"), (["--beta-q", "-1"], "--beta-q"),
    (["--clip", "1"], "--clip"), (["--clip", "2", "1"], "--clip 2.0 1.0"), (["--cql-weight", "-1"], "--cql-weight"), (["--critic-layers", "0", "3"], "--critic-layers 0"),
    (["--num-actions", "0"], "--num-actions"), (["--code", "mine"], "--code"), (["--cql-temperature", "0"], "--cql-temperature")])
def test_bad_flags(words, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(Args, {}, words)
    assert "\n" not in str(caught.value)


def test_actions_that_are_all_alike(tmp_path):
    write_npz(tmp_path / "data.npz")
    arrays = dict(np.load(tmp_path / "data.npz"))
    np.savez(tmp_path / "data.npz", **arrays | {"actions": np.full_like(arrays["actions"], 0.3)})
    code, _, err = run_script(ROOT / "algorithms/cql.py", "--env", tmp_path / "data.npz", "--runs", tmp_path / "runs")
    assert code == 2 and "all of its 300 actions are the same" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
