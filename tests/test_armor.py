"""ARMOR: its reduction to ATAC in numbers, the model and its pull on the reward, gradients, banks and pairs, and what a reference is."""

import numpy as np
import pytest
import torch

from algorithms import armor
from algorithms.armor import ARMOR, Args
from common.data import Batch
from tests import recipe
from tests.helpers import make_data, parameters
from tests.recipe import tensor
from tests.recipe_models import A, B, S, batch, close, dataset, golden, mlp, normals

GOLDEN = golden("armor_atac")


@pytest.fixture
def double():
    with recipe.precision(torch.float64):
        yield


@torch.no_grad()
def fill(agent):
    """The recipe's actor, critics and targets; the second critic first, because the source's actor follows that."""
    *hidden, (w, b) = mlp(200, S, 3, 2 * A, 0.5)
    b[A:] -= 1.0
    layers = [*hidden, (w[:, :A], b[:A]), (w[:, A:], b[A:])]
    for weight, bias, (w, b) in zip(agent.actor.weights, agent.actor.biases, layers, strict=True):
        weight.copy_(tensor(w).T)
        bias.copy_(tensor(b))
    for j in range(2):
        critic, change = mlp(220 + 10 * j, S + A, 3, 1, 1.0), mlp(260 + 10 * j, S + A, 3, 1, 1.0)
        for layer, ((w, b), (dw, _)) in enumerate(zip(critic, change, strict=True)):
            for network, matrix in ((agent.critics, w), (agent.target_critics, w + 0.1 * dw)):
                network.weights[layer][1 - j].copy_(tensor(matrix))
                network.biases[layer][1 - j].copy_(tensor(b).view(1, -1))
    agent.log_alpha.fill_(-1.5)


def make(data=None, **flags):
    return ARMOR(Args(**dict(batch_size=16, warm_start=0, termination="never") | flags), data or make_data(), seed=0)


CASES = [("atac_reduction_beta_4", 4.0, 100.0), ("atac_reduction_beta_0p25_projection_15", 0.25, 15.0)]


def reduced(beta, max_norm) -> ARMOR:
    """Its model gives the stored rows, the reference takes the data's actions, there are no pairs and no first update."""
    agent, rows = make(dataset(), batch_size=B, beta=beta, max_norm=max_norm), batch()
    fill(agent)
    nothing = sum(parameter.sum() * 0 for parameter in agent.model.parameters())  # a fit that pulls the model nowhere
    agent.imagine = lambda real, pairs: (rows, nothing)
    agent.reference.sample = lambda obs, rng: rows.action
    agent.simulate = lambda obs, restart: None
    agent.step = 1
    return agent


def exact_entropy():
    """ATAC's (4) has 1e-6 in a logarithm, lightATAC's does not."""
    return lambda log_std, noise, action: A * (0.5 * noise**2 + log_std + 0.5 * np.log(2 * np.pi) + torch.log1p(-action**2)).mean()


@pytest.mark.parametrize("case, beta, max_norm", CASES)
def test_reduction_to_atac(case, beta, max_norm, double):
    """An update equals lightATAC's: losses, gradients, the projection (which is active in one case) and the targets."""
    theirs, agent = GOLDEN[case], reduced(beta, max_norm)
    agent.entropy = exact_entropy()
    calls = recipe.remembered(agent, "critic_loss", "alpha_loss", "bellman", "critic_target")
    noise = np.concatenate([normals(500, B, A), normals(501, B, A)])  # a', then a~
    with recipe.injected([("randint", np.zeros(B, int)), ("rand", np.zeros(B)), ("randn", noise)]):
        logs = agent.update()
    told, norms = theirs["log"], theirs["grad_norms"]
    (pessimism, bellman), critic_loss = calls["critic_loss"][0]
    close(critic_loss.sum(), told["qf_loss"])
    close([pessimism[0].item(), bellman[0].item()], [told["pess_loss"], told["qf_bellman_loss"]])  # of the critic that the actor follows
    close(calls["critic_target"][0][1].mean(), told["q_target_mean"])
    close(calls["bellman"][0][1][1, 0], told["bellman_surrogate"])
    close(calls["alpha_loss"][0][1], told["alpha_loss"])
    close(logs["actor_loss"], told["policy_loss"])
    close(logs["entropy"], told["policy_entropy"])
    close(logs["alpha"], told["alpha"])
    close(torch.cat([p.grad.flatten() for p in agent.critics.parameters()]).norm(), norms["critics"])
    close(torch.cat([p.grad.flatten() for p in agent.actor.parameters()]).norm(), norms["actor"])
    after = theirs["after"]
    close([weight[1].norm().item() for weight in agent.critics.weights], after["q1_weight_norms"])
    close([weight[0].norm().item() for weight in agent.critics.weights], after["q2_weight_norms"])
    close([weight[1].norm().item() for weight in agent.target_critics.weights], after["target1_weight_norms"])
    close(agent.log_alpha.item(), after["log_alpha"])
    assert pessimism.abs().min() > 1e-3 and not any(parameter.grad.any() for parameter in agent.model.parameters())
