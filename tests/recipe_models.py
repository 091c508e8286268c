"""The inputs under which the authors' model-based codes were run, by seeds; golden/README.md tells their results' names.

Float64 throughout: use it inside recipe.precision(torch.float64).
"""

import json
import math

import numpy as np
import torch

from common.data import Batch, Dataset
from tests.helpers import ROOT
from tests.recipe import tensor

S, A, B, E, D = 11, 3, 64, 7, 12  # sizes: state, action, rows, networks, outputs
SHIFT, SCALE = np.array([1.1] + [0.0] * 10), np.array([0.15, 0.08] + [0.3] * 3 + [0.6] * 6)
ELITES = [1, 3, 5, 6, 4]


def golden(name: str) -> dict:
    return json.loads((ROOT / f"tests/golden/model_based/{name}.json").read_text())


def normals(seed, *shape) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape)


def batch() -> Batch:
    """64 transitions."""
    obs = SHIFT + SCALE * normals(1, B, S)
    columns = obs, np.tanh(normals(2, B, A)), 1 + 0.5 * normals(3, B), obs + 0.1 * normals(4, B, S), normals(5, B) > 1.2
    return Batch(*map(tensor, columns))


def dataset(rows: Batch | None = None) -> Dataset:
    rows = batch() if rows is None else rows
    table = torch.cat([column.reshape(len(column), -1) for column in rows], 1)
    return Dataset("golden", None, {"kind": "file", "rows": len(table), "sha256": "0"}, table, S, A, torch.tensor([[0, len(table)]]))


@torch.no_grad()
def fill_model(model) -> None:
    """Weights, scaler and elites; the bounds are those that the preset has."""
    sizes = [S + A, 200, 200, 200, 200, 2 * D]
    for layer, (weight, bias, i, o) in enumerate(zip(model.weights, model.biases, sizes[:-1], sizes[1:], strict=True), 1):
        gain = 1.2 if layer < 5 else 0.8
        weight.copy_(tensor(gain / math.sqrt(i) * (normals(100 + layer, i, o) + 0.2 * normals(110 + layer, E, i, o))))
        b = 0.1 * normals(120 + layer, E, 1, o)
        if layer == 5:
            b *= 0.3
            b[..., D:] -= 4.0
        bias.copy_(tensor(b))
    model.input_mean.copy_(tensor(np.r_[SHIFT, np.zeros(A)]))
    model.input_std.copy_(tensor(np.r_[SCALE, np.full(A, 0.6)]))
    model.elites.copy_(torch.tensor(ELITES))


def mlp(seed, fan_in, hidden, fan_out, last) -> list[tuple[np.ndarray, np.ndarray]]:
    """Layers (in, out) and (out,) of an MLP with `hidden` layers of 256."""
    sizes, layers = [fan_in, *[256] * hidden, fan_out], []
    for layer, (i, o) in enumerate(zip(sizes, sizes[1:])):
        gain = last if layer == hidden else 1.7
        layers.append((gain / math.sqrt(i) * normals(seed + layer, i, o), 0.1 * normals(seed + 5 + layer, o)))
    return layers


@torch.no_grad()
def fill_agent(agent, hidden=2) -> None:
    """Actor, critics, targets and temperature of an agent of our model-based files."""
    layers = mlp(200, S, hidden, 2 * A, 0.5)
    layers[-1][1][A:] -= 1.0
    for weight, bias, (w, b) in zip(agent.actor.weights, agent.actor.biases, layers, strict=True):
        weight.copy_(tensor(w).T)
        bias.copy_(tensor(b))
    for j in range(2):
        critic, change = mlp(220 + 10 * j, S + A, hidden, 1, 1.0), mlp(260 + 10 * j, S + A, hidden, 1, 1.0)
        for layer, ((w, b), (dw, _)) in enumerate(zip(critic, change)):
            for network, matrix in ((agent.critics, w), (agent.target_critics, w + 0.1 * dw)):
                network.weights[layer][j].copy_(tensor(matrix))
                network.biases[layer][j].copy_(tensor(b).view_as(network.biases[layer][j]))
    agent.log_alpha.fill_(-1.5)


def norms(parameters) -> list[float]:
    return [parameter.detach().norm().item() for parameter in parameters]




def close(ours, theirs, relative=1e-6) -> None:
    """AssertionError: a number is further off than `relative` times itself, or than that where it is below 1."""
    ours, theirs = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, float) for x in (ours, theirs))
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    worst = np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs)), initial=0)
    assert worst <= relative, f"{worst:.1e} off"
