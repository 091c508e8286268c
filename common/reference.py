"""Reference policies: what an actor is compared with, from a run of any algorithm here or from a file of weights."""

import inspect
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import InputError
from common.data import Dataset
from common.files import irregular
from common.loading import load
from common.physics import action_bounds
from common.terminations import NEVER, RULES, robot_of

LARGEST = 2**26  # bytes of a policy's file
LAYERS = ("fc0", "fc1", "last_fc")  # of a policy's file


class Reference(nn.Module):
    """A policy that does not change, for raw observations (B, S), with actions (B, A) in [-1, 1].

    `sample` draws as the policy draws where it has noise of its own: where its actor has a `sample` of observations or
    of mean and log std, or tells mean and log std of a Gaussian before tanh. It acts without noise where not.
    """

    def __init__(self, actor: nn.Module, obs_size: int):
        super().__init__()
        self.actor = actor.requires_grad_(False).eval()
        given = list(inspect.signature(actor.sample).parameters) if hasattr(actor, "sample") else []
        self.kind = {("obs", "rng"): "sample", ("mean", "log_std", "rng"): "from_policy"}.get(tuple(given), "act")
        if not given and isinstance(actor(torch.zeros(1, obs_size, device=next(actor.parameters()).device)), tuple):
            self.kind = "gaussian"

    @torch.no_grad()
    def sample(self, obs: Tensor, rng: torch.Generator) -> Tensor:
        if self.kind == "act":
            return self.act(obs)
        if self.kind == "gaussian":
            mean, log_std = self.actor(obs)
            noise = torch.randn(mean.shape, generator=rng, device=obs.device)
            return torch.tanh(torch.addcmul(mean, log_std.exp(), noise))
        action = self.actor.sample(*([obs] if self.kind == "sample" else self.actor(obs)), rng)
        return (action[0] if isinstance(action, tuple) else action).clamp(-1, 1)  # else with its log probability

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        return self.actor.act(obs).clamp(-1, 1)


class StoredPolicy(nn.Module):
    """The tanh-Gaussian policy of a file as in common/policies: two ReLU layers, then mean and log std, A each."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__()
        self.weights, self.biases = (nn.ParameterList(torch.from_numpy(arrays[f"{layer}/{part}"].astype(np.float32))
                                                      for layer in LAYERS) for part in ("weight", "bias"))
        sizes = [weight.shape for weight in self.weights]
        if any(len(size) != 2 for size in sizes) or any(a[0] != b[1] for a, b in zip(sizes, sizes[1:])) \
                or any(bias.shape != size[:1] for bias, size in zip(self.biases, sizes)) or sizes[-1][0] % 2:
            raise ValueError(f"its matrices are {', '.join(str(tuple(size)) for size in sizes)}")
        if not all(parameter.isfinite().all() for parameter in self.parameters()):
            raise ValueError("it has numbers that are not finite")

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        x = obs
        for weight, bias in zip(self.weights[:2], self.biases):
            x = nn.functional.linear(x, weight, bias).relu_()
        mean, log_std = nn.functional.linear(x, self.weights[2], self.biases[2]).chunk(2, -1)
        return mean, log_std.clamp(-20, 2)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


def find_reference(args, data: Dataset) -> Reference:
    """The policy that `args.reference` names: a run's folder (its first seed) or an .npz file of weights.

    InputError, in one line: neither; a run or a file that is broken; a policy of another robot, with other sizes, or
    with actions that were scaled from other bounds. Its own normalisation of observations is inside its actor.
    """
    name, path = f"--reference {args.reference}", Path(args.reference)
    if path.is_dir():
        policy = load(path)
        robots = {robot_of(str(a["env"]), str(a["eval_env"])) for a in (policy.config["args"], vars(args))}
        if len(robots & {*RULES, *NEVER}) > 1:
            raise InputError(f"{name}: is a policy for another robot, {' and '.join(sorted(robots))} are two")
        given = len(policy.config["obs_std"]), len(policy.low)
        bounds = torch.tensor(action_bounds(data.source) or (-1.0, 1.0)).reshape(2, -1).expand(2, data.action_size)
        its, actor = torch.stack([policy.low, policy.high]), policy.actor
    else:
        actor, bounds = _stored(name, path), None
        given = actor.weights[0].shape[1], actor.weights[2].shape[0] // 2
    if given != (here := (data.obs_size, data.action_size)):
        raise InputError(f"{name}: has {given[0]} observations and {given[1]} actions, {args.env} has {here[0]} and "
                         f"{here[1]}")
    if bounds is not None and not torch.allclose(its, bounds, atol=1e-6):
        raise InputError(f"{name}: its actions were scaled from {its.tolist()}, those of {args.env} from "
                         f"{bounds.tolist()}")
    return Reference(actor, data.obs_size).to(data.device)


def _stored(name, path) -> StoredPolicy:
    try:
        if why := irregular(path):
            raise ValueError(why)
        with np.load(path) as file:
            keys = [f"{layer}/{part}" for layer in LAYERS for part in ("weight", "bias")]
            if (size := sum(file.zip.getinfo(f"{key}.npy").file_size for key in keys)) > LARGEST:
                raise ValueError(f"its arrays have {size:,} bytes")
            return StoredPolicy({key: file[key] for key in keys})
    except Exception as error:  # NumPy and zip raise many kinds
        raise InputError(f"{name}: is neither bc nor a run's folder nor an .npz file of a policy as in common/policies "
                         f"({type(error).__name__}: {error})") from None
