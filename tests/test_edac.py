"""What pins EDAC: its similarity by hand, the gradient that needs no double backward, and SAC-N as its limit."""

import pytest
import torch

from algorithms import sac_n
from algorithms.edac import ALTERNATIVE, EDAC, EDAC_10, PAPER, Args
from tests.helpers import make_data, parameters, twin


def make_agent(action_size=3, **flags):
    return EDAC(Args(**{"batch_size": 16, "num_critics": 4} | flags), make_data(action_size=action_size), seed=0)


def similarity(*gradients, **flags):
    """L_ES of N gradients at one state."""
    return make_agent(**flags).similarity(torch.tensor(gradients)[:, None].float()).item()


@pytest.mark.parametrize("flags", [{}, dict(normalize=True), dict(max_q_backup=True)])
def test_eta_0_is_sac_n_bitwise(flags):
    data = make_data()
    edac = EDAC(Args(batch_size=16, num_critics=4, eta=0.0, **flags), data, seed=3)
    sac = sac_n.SACN(sac_n.Args(batch_size=16, num_critics=4, **flags), data, seed=3)
    for _ in range(10):
        logs, sac_logs = edac.update(), sac.update()
    for module in ("actor", "critics", "target_critics", "log_alpha"):
        assert torch.equal(parameters(getattr(edac, module)), parameters(getattr(sac, module)))
    assert all(torch.equal(logs[key], sac_logs[key]) for key in sac_logs)


def test_similarity_by_hand():
    assert similarity((1, 2), (2, 4), (0.5, 1)) == pytest.approx(3)  # all agree: N
    assert similarity((1, 0), (0, 7)) == 0
    assert similarity((1, 0), (-0.5, 0.75**0.5), (-0.5, -(0.75**0.5))) == pytest.approx(-1.5)
    assert similarity((3, 4), (4, 3)) == pytest.approx(1.92)
    assert similarity((3, 4)) == 0  # one critic has nobody to resemble


def test_similarity_is_the_sum_over_ordered_pairs():
    agent, gradients = make_agent(), torch.randn(5, 16, 3, generator=torch.Generator().manual_seed(0))
    unit = gradients / gradients.norm(dim=-1, keepdim=True)
    pairs = sum((unit[i] * unit[j]).sum(-1) for i in range(5) for j in range(5) if i != j)
    torch.testing.assert_close(agent.similarity(gradients), (pairs / 4).mean(), rtol=1e-6, atol=1e-6)


def test_one_dimensional_actions():
    agent = make_agent(action_size=1)
    batch = agent.data.sample(64, agent.rng)
    _, gradient = agent.critics.with_action_gradient(batch.obs, batch.action)
    positive = (gradient > 0).sum(0).float()  # p of N; the other 4 - p are negative
    expected = ((2 * positive - 4) ** 2 - 4) / 3
    torch.testing.assert_close(agent.similarity(gradient), expected.mean())


def double(agent):
    for module in (agent.critics, agent.actor):
        module.double()
    return agent


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_is_the_authors_without_double_backward(normalize):
    """Against autograd through a repeated leaf (N, B, A): dQ/da, L_ES, and its gradient in every parameter, in float64."""
    agent = double(make_agent(normalize=normalize))
    with torch.no_grad():
        for bias in agent.critics.biases:
            bias += 0.3 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(1))
    obs, action = agent.data.obs[:16].double(), agent.data.action[:16].double()
    q, gradient = agent.critics.with_action_gradient(obs, action)
    assert torch.equal(q, agent.critics(obs, action))
    leaf = action.expand(4, -1, -1).clone().requires_grad_()
    x = torch.cat([((obs - agent.critics.obs_mean) / agent.critics.obs_scale).expand(4, -1, -1), leaf], -1)
    for i, (weight, bias) in enumerate(zip(agent.critics.weights, agent.critics.biases)):
        x = torch.baddbmm(bias, x if i == 0 else x.relu(), weight)
    (authors,) = torch.autograd.grad(x.sum(), leaf, create_graph=True)
    torch.testing.assert_close(gradient, authors, rtol=1e-12, atol=1e-14)
    weights = list(agent.critics.weights)
    ours = torch.autograd.grad(agent.similarity(gradient), weights)
    theirs = torch.autograd.grad(agent.similarity(authors), weights)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_positive_factor_on_a_critic_changes_nothing_and_a_negative_one_turns_it_round():
    agent = make_agent()
    batch = agent.data.sample(16, agent.rng)
    _, before = agent.critics.with_action_gradient(batch.obs, batch.action)
    loss = agent.similarity(before)
    with torch.no_grad():
        agent.critics.weights[-1][1] *= 7.0
    torch.testing.assert_close(agent.similarity(agent.critics.with_action_gradient(batch.obs, batch.action)[1]), loss)
    with torch.no_grad():
        agent.critics.weights[-1][1] *= -1.0
    turned = before * torch.tensor([1.0, -1.0, 1.0, 1.0])[:, None, None]
    torch.testing.assert_close(agent.similarity(agent.critics.with_action_gradient(batch.obs, batch.action)[1]), agent.similarity(turned))


def test_which_parameters_the_similarity_reaches():
    agent = make_agent()
    batch = agent.data.sample(16, agent.rng)
    _, gradient = agent.critics.with_action_gradient(batch.obs, batch.action)
    agent.similarity(gradient).backward()
    first, *others = agent.critics.weights
    assert not first.grad[:, :11].any() and first.grad[:, 11:].any()  # rows that read the observation: exactly zero
    assert all(weight.grad.any() for weight in others)
    assert all(bias.grad is None or not bias.grad.any() for bias in agent.critics.biases)
    assert all(p.grad is None for p in agent.actor.parameters())


def test_a_few_steps_on_the_similarity_lower_it():
    agent = make_agent()
    batch, optimizer = agent.data.sample(64, agent.rng), torch.optim.Adam(agent.critics.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        losses.append(agent.similarity(agent.critics.with_action_gradient(batch.obs, batch.action)[1]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1


def test_eta_moves_the_critics_only():
    one = make_agent(eta=0.0)
    other = twin(one)
    other.args = Args(**vars(one.args) | {"eta": 5.0})
    logs, other_logs = one.update(), other.update()
    assert torch.equal(parameters(one.actor), parameters(other.actor)) and torch.equal(one.log_alpha, other.log_alpha)
    assert not torch.equal(parameters(one.critics), parameters(other.critics))
    torch.testing.assert_close(other_logs["critic_loss"], logs["critic_loss"] + 5 * logs["similarity"] / 4)  # a sum over critics, / N


def test_dead_critic_is_finite():
    agent = make_agent()
    with torch.no_grad():
        agent.critics.biases[1][2] = -1e3  # no unit of critic 2's second layer is active: its gradient is zero
    batch = agent.data.sample(16, agent.rng)
    _, gradient = agent.critics.with_action_gradient(batch.obs, batch.action)
    assert not gradient[2].any()
    loss = agent.similarity(gradient)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(weight.grad).all() for weight in agent.critics.weights)


def test_subsampled_similarity_is_a_fraction_in_expectation():
    """RORL's EDAC-10: n = min(N, A) of N critics, divided by n - 1: n / N of the full loss on average."""
    agent = make_agent(num_critics=10, es_subsample=True)
    gradient = torch.randn(10, 16, 3, generator=torch.Generator().manual_seed(0)) + 1.0
    mean = torch.stack([agent.similarity(gradient) for _ in range(4000)]).mean()
    agent.args.es_subsample = False
    assert mean.item() == pytest.approx(0.3 * agent.similarity(gradient).item(), rel=0.02)


def test_subsample_takes_different_critics_without_repetition():
    agent = make_agent(num_critics=5, es_subsample=True)
    directions = torch.eye(5)[:, None]  # (N, 1, 5): a repeated critic would give a similarity above 0
    agent.data.action_size = 3
    assert all(agent.similarity(directions).item() == 0 for _ in range(50))
    marked = torch.cat([torch.ones(4, 1, 2), torch.zeros(1, 1, 2)])  # critic 4 has no gradient: the value tells whether it was drawn
    assert len({round(agent.similarity(marked).item(), 4) for _ in range(50)}) == 2


def test_settings():
    assert PAPER["hopper-medium-v2"] == dict(num_critics=50, eta=1.0) and PAPER["walker2d-medium-expert-v2"] == dict(num_critics=10, eta=5.0)
    assert PAPER["halfcheetah-random-v2"]["eta"] == 0.0 and ALTERNATIVE["halfcheetah-random-v2"]["eta"] == 1.0
    assert PAPER["pen-human-v1"] == dict(num_critics=20, eta=1000.0, updates=200_000, actor_lr=3e-5, reward="standardize")
    assert PAPER["pen-cloned-v1"]["eta"] == 10.0 and PAPER["pen-cloned-v1"]["max_q_backup"]
    assert PAPER["door-human-v1"]["num_critics"] == 50 and PAPER["door-human-v1"]["eta"] == 200.0
    assert len(EDAC_10) == 15 and EDAC_10["hopper-medium-v2"] == dict(num_critics=10, eta=1.0, normalize=True, es_subsample=True)
