"""The golden tests' inputs, made from seeds, and what an agent needs to run on them. golden/README.md has the recipes in words.

A recipe gave the authors' code and gives our files the same weights, rows and noise, so that losses and parameters must agree.
"""

import contextlib
import math
from copy import deepcopy
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch

from common.data import Batch, Dataset

S, A = 11, 3  # sizes of observations and actions
SEEDS = dict(actor=10, critic1=11, critic2=12, target1=13, target2=14, value=15, target_actor=16, behaviour=17)  # of in_sample


@dataclass
class Inputs:
    weights: dict[str, np.ndarray]  # by the names that parameters have in the JSON files
    columns: list[np.ndarray]  # obs action reward next_obs done: the first B rows are the first update's batch, and so on
    noise: list[dict[str, tuple[str, np.ndarray]]]  # of each update: name -> (randn or rand, numbers)
    next_action: np.ndarray | None = None  # the data's, at next_obs
    obs_mean: np.ndarray | None = None  # where they are not the rows' own
    obs_std: np.ndarray | None = None


def single(x) -> np.ndarray:
    """Rounded to what float32 can hold."""
    return np.asarray(x, np.float32).astype(np.float64)


def drawn(rng, noise) -> dict[str, tuple[str, np.ndarray]]:
    """{name: (kind, *shape)} -> {name: (kind, numbers)}, one after the other."""
    kinds = {"randn": rng.standard_normal, "rand": rng.random_sample}
    return {name: (kind, kinds[kind](shape)) for name, (kind, *shape) in noise.items()}


def in_sample(inputs, batch_size, shapes, noise) -> Inputs:
    """Five updates' rows; every network from a seed of its own; all noise from one."""
    rng, n = np.random.RandomState(0), 5 * batch_size
    obs = rng.randn(n, S) * np.linspace(0.5, 2, S) + np.linspace(-1, 1, S)
    action = np.clip(1.2 * rng.uniform(-1, 1, (n, A)), -1, 1)
    reward = rng.randn(n) * np.where(rng.rand(n) < 0.03, 30.0, 1.0)
    next_obs = obs + 0.3 * rng.randn(n, S)
    done = rng.rand(n) < 0.05
    next_action = np.clip(action + 0.3 * rng.randn(n, A), -1, 1)
    rngs, weights = {net: np.random.RandomState(seed) for net, seed in SEEDS.items()}, {}
    for name, shape in shapes.items():
        net, layer = name.split(".")
        if layer[0] == "W":
            fan_in = shape[-1]  # of the bias after it, too
            x = 2 * rngs[net].uniform(-1, 1, shape) / math.sqrt(fan_in)
        elif layer[0] == "b":
            x = rngs[net].uniform(-1, 1, shape) / math.sqrt(fan_in)
        elif layer == "log_std":
            x = rngs[net].uniform(-1, 0.5, shape)
        else:  # scale g and shift h of a LayerNorm
            x = (layer[0] == "g") + 0.2 * rngs[net].randn(*shape)
        weights[name] = single(x)
    for name in weights.keys() & {"target1.W2", "target2.W2"}:
        weights[name] = weights[name] * inputs.get("target_gain", 1)
    for name in weights.keys() & {"target1.b2", "target2.b2"}:
        weights[name] = weights[name] + inputs.get("target_shift", 0)
    rng = np.random.RandomState(1)
    noise = [{name: (kind, single(x)) for name, (kind, x) in drawn(rng, update).items()} for update in noise]
    return Inputs(weights, [single(x) for x in (obs, action, reward, next_obs, done)], noise, single(next_action))


def ensemble(inputs, batch_size, shapes, noise) -> Inputs:
    """Everything from one seed: networks, statistics, then each update's rows and noise."""
    rng, weights = np.random.RandomState(inputs["seed"]), {}
    for name, shape in shapes.items():
        if name == "log_alpha":
            weights[name] = np.array([-0.5])
        elif "W" in name:
            fan_in = shape[-1] if name.startswith("actor") else shape[-2]
            gain = 10 if name.endswith("W3") else 6 if name == "actor.log_std_W" else 1
            weights[name] = rng.uniform(-1, 1, shape) * gain / math.sqrt(fan_in)
        else:
            weights[name] = rng.uniform(-0.1, 0.1, shape)
    mean, std, batches, draws = rng.randn(S), rng.uniform(0.5, 2, S), [], []
    for update in noise:
        batches.append([rng.randn(batch_size, S), rng.uniform(-1, 1, (batch_size, A)), rng.randn(batch_size),
                        rng.randn(batch_size, S), rng.rand(batch_size) < 0.1])
        draws.append(drawn(rng, update))
    return Inputs(weights, [np.concatenate(column) for column in zip(*batches)], draws, obs_mean=mean, obs_std=std)


def model_free(inputs, batch_size, shapes, noise) -> Inputs:
    """All networks from one seed, in the order of `shapes`; each update's rows and its noise from seeds of their own."""
    rng, weights, batches, draws = np.random.RandomState(inputs["seed"]), {}, [], []
    scalars = {"log_alpha": 0.0} | inputs.get("scalars", {})
    for name, shape in shapes.items():
        if name in scalars:
            weights[name] = np.full(1, scalars[name])
        else:
            layer = name.split(".")[1]  # a matrix, a bias, or scale and shift of a LayerNorm
            weights[name] = (layer[0] == "g") + rng.randn(*shape) * (shape[-1] ** -0.5 if "W" in layer else 0.1)
            if name.startswith("critic") and "W" in layer:
                weights[name] *= inputs.get("critic_gain", 1)
    for k, update in enumerate(noise, 1):
        rng, done = np.random.RandomState(100 + k), np.isin(np.arange(batch_size), [5, 20, 41])
        obs, action, reward, next_obs = rng.randn(batch_size, S), rng.randn(batch_size, A), rng.randn(batch_size), rng.randn(batch_size, S)
        batches.append([obs, np.tanh(action), reward, next_obs, done, np.tanh(rng.randn(batch_size, A))])
        draws.append(drawn(np.random.RandomState(200 + k), update))
    *columns, next_action = [np.concatenate(column) for column in zip(*batches)]
    return Inputs(weights, columns, draws, next_action)


@contextlib.contextmanager
def precision(dtype):
    """Floating-point tensors made inside have this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tensor(x) -> torch.Tensor:
    return torch.as_tensor(x).to(torch.get_default_dtype())


class Rows(Dataset):
    """A dataset in torch's default precision, statistics too, that may know every row's next action."""
    next_actions = None

    def __post_init__(self):
        super().__post_init__()
        std, mean = torch.std_mean(self.obs.double(), 0, correction=0)
        self.obs_mean, self.obs_std = tensor(mean), tensor(std)

    def sample_sarsa(self, batch_size, rng):
        index = torch.randint(len(self.rows), (batch_size,), generator=rng, device=self.device)
        return Batch(*(getattr(self, field)[index] for field in Batch._fields)), self.next_actions[index]


def dataset(made: Inputs) -> Rows:
    rows = tensor(np.concatenate([column.reshape(len(column), -1) for column in made.columns], 1))
    data = Rows("golden", None, {"kind": "file", "rows": len(rows)}, rows, S, A, torch.tensor([[0, len(rows)]]))
    if made.next_action is not None:
        data.next_actions = tensor(made.next_action)
    if made.obs_mean is not None:
        data.obs_mean, data.obs_std = tensor(made.obs_mean), tensor(made.obs_std)
    return data


@contextlib.contextmanager
def injected(draws):
    """torch.randn, rand and randint give these (kind, numbers), in this order and in no other shape; all must be drawn."""
    waiting = list(draws)

    def fake(kind):
        def draw(*args, **options):
            expected, x = waiting.pop(0) if waiting else ("nothing", None)
            assert kind == expected, f"torch.{kind} is drawn, but the authors draw {expected}"
            shape = args if isinstance(args[-1], int) else args[-1]
            assert tuple(shape) == x.shape, f"torch.{kind} in shape {tuple(shape)}, but the authors' is {x.shape}"
            return torch.from_numpy(x) if kind == "randint" else tensor(x)
        return draw

    with mock.patch.multiple(torch, **{kind: fake(kind) for kind in ("randn", "rand", "randint")}):
        yield
    assert not waiting, f"not drawn: {', '.join(f'{kind} {x.shape}' for kind, x in waiting)}"


def members(module, *names) -> dict[str, torch.Tensor]:
    """Views of a module's parameters, of a batched one as several networks: W0 (out, in), b0 (out,), ...; g0, h0 of LayerNorms."""
    views = {}
    if isinstance(module, torch.nn.ModuleList):  # networks one by one
        return {key: view for network, name in zip(module, names, strict=True) for key, view in members(network, name).items()}
    for j, name in enumerate(names):
        for i, (weight, bias) in enumerate(zip(module.weights, module.biases)):
            batched = weight.ndim == 3
            views |= {f"{name}.W{i}": weight[j].mT if batched else weight, f"{name}.b{i}": bias[j, 0] if batched else bias}
        for i, norm in enumerate(getattr(module, "norms", ())):
            views |= {f"{name}.g{i}": norm.weight, f"{name}.h{i}": norm.bias}
        if hasattr(module, "log_std"):
            views[f"{name}.log_std"] = module.log_std
        for scalar in ("log_std_scale", "log_std_shift"):
            if hasattr(module, scalar):
                views[f"{name}.{scalar}"] = getattr(module, scalar).view(1)
    return views


def together(module, name) -> dict[str, torch.Tensor]:
    """A batched module's parameters as they are: W0 (N, in, out), b0 (N, 1, out), ..."""
    return {f"{name}.{letter}{i}": p for letter, ps in (("W", module.weights), ("b", module.biases)) for i, p in enumerate(ps)}


@torch.no_grad()
def load(views, weights) -> None:
    assert set(weights) <= set(views), set(weights) - set(views)
    for name, x in weights.items():
        assert views[name].shape == x.shape, name
        views[name].copy_(tensor(x))


@torch.no_grad()
def follow(agent, exact) -> None:
    """Give an agent the step, weights, tensors and optimisers' states of another, in its own precision and on its own device."""
    agent.step = exact.step
    for name, value in vars(exact).items():
        if isinstance(value, torch.nn.Module):
            getattr(agent, name).load_state_dict(value.state_dict())
        elif isinstance(value, torch.optim.Optimizer):
            own = getattr(agent, name)  # whose options stay: they depend on the device. A copy, or both would count steps in one tensor
            own.load_state_dict(deepcopy(value.state_dict()) | {"param_groups": own.state_dict()["param_groups"]})
        elif isinstance(value, torch.Tensor):
            getattr(agent, name).copy_(value)


def remembered(owner, *names) -> dict[str, list]:
    """Those of these methods that there are now also append (arguments, result) of each call to the lists returned."""
    calls = {name: [] for name in names if hasattr(owner, name)}

    def remembering(method, kept):
        def call(*args):
            kept.append((args, method(*args)))
            return kept[-1][1]
        return call

    for name, kept in calls.items():
        setattr(owner, name, remembering(getattr(owner, name), kept))
    return calls


def summary(x) -> dict:
    x = x.detach().double()
    return {"shape": list(x.shape), "sum": x.sum().item(), "norm": x.norm().item(), "first": x.flatten()[:3].tolist()}


def difference(ours, theirs) -> float:
    """Relative: a tensor's sum to its norm, its entries to their root mean square, numbers to the largest of them."""
    if isinstance(theirs, dict):
        ours, norm = summary(ours), theirs["norm"] or 1.0
        assert ours["shape"] == theirs["shape"]
        pairs = [(ours[key], theirs[key], norm) for key in ("sum", "norm")]
        pairs += [(x, y, norm / math.prod(theirs["shape"]) ** 0.5) for x, y in zip(ours["first"], theirs["first"], strict=True)]
        return float(np.max([abs(x - y) / scale for x, y, scale in pairs]))  # NaN, if there is one
    ours, theirs = torch.as_tensor(ours).detach().double(), torch.tensor(theirs, dtype=torch.float64)
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / (theirs.abs().max() or 1.0)).item()
