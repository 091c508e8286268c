"""Trained policies, to act with: `load` takes a run folder of any algorithm, and needs no dataset.

    from common import load
    policy = load("runs/td3_bc-hopper-medium-v2-20261121-091549-151", seed=0)
    action = policy.act(obs)

`obs` is an array or a tensor (..., S), one observation or many; actions are those that the environment takes. Programs
without this project can have the same policy as TorchScript,

    torch.jit.trace(policy, policy.example).save("policy.pt")
    traced = torch.jit.load("policy.pt")
    action = traced(torch.as_tensor(obs))

or in ONNX's format (pip install onnx onnxscript onnxruntime); both take observations (B, S) of float32:

    torch.onnx.export(policy, (policy.example,), "policy.onnx", dynamic_shapes=({0: "B"},), external_data=False)
    session = onnxruntime.InferenceSession("policy.onnx")
    (action,) = session.run(None, {"obs": obs})

A run folder is data, whoever made it: only files of this project are loaded for it, or one that is named by hand.
"""

import hashlib
import importlib.util
import inspect
import os
import shlex
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import InputError
from common.args import read_config
from common.checkpoint import check_fit, read_checkpoint, snapshot
from common.data import Dataset
from common.files import sha256
from common.physics import Bounds, action_bounds, make_env

ALGORITHMS = Path(__file__).resolve().parents[1] / "algorithms"


class Policy(nn.Module):
    """The deterministic policy of a trained agent, from the environment's observations to the environment's actions.

    `actor`: the agent's own, with its input normalisation inside and actions in [-1, 1]; `low`, `high`: (A,), bounds of
    the environment's actions; `config`: the run's config.json; `seed`: whose actor it is; `origin`: its run folder and
    the user's own script. Pickled or copied, it comes from there again, and its weights are what they were.
    """

    def __init__(self, actor: nn.Module, low: Tensor, high: Tensor, config: dict, seed: int, origin: tuple):
        super().__init__()
        self.actor, self.config, self.seed, self.origin = actor, config, seed, origin
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, obs: Tensor) -> Tensor:
        """Observations (B, S) -> actions (B, A); what TorchScript and ONNX take."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2  # exactly 0 and 1, mostly
        return middle + half * self.actor.act(obs).clamp(-1, 1)

    @property
    def example(self) -> Tensor:
        """Two observations (2, S), all zero: what an export is traced with."""
        return self.low.new_zeros(2, len(self.config["obs_std"]))

    def __reduce__(self):
        return _again, (*self.origin, self.seed, str(self.low.device), self.state_dict())

    @torch.no_grad()
    def act(self, obs):
        """Observations (..., S), an array or a tensor -> actions (..., A), likewise."""
        x = torch.as_tensor(obs, dtype=torch.float32, device=self.low.device)
        action = self(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
        return action if isinstance(obs, Tensor) else action.cpu().numpy()


def load(folder, seed: int | None = None, script=None, device: str = "cpu") -> Policy:
    """The policy of a run folder as its last checkpoint has it, whether the run is finished or not.

    `seed`: whose, by default the run's first; `script`: the user's own algorithm file that trained it, if one did.
    InputError: no run, no checkpoint, no such seed, a file that is not the project's, networks of another version.
    """
    folder, script = Path(folder), script and Path(script)
    config, saved = read_trained(folder)
    seed, scripts = config["args"]["seeds"][0] if seed is None else seed, {script.stem: script} if script else {}
    size = action_size(folder, config)
    agent = load_agent(folder, config, saved["agents"], seed, size, device, scripts)
    low, high = (torch.tensor(bound, device=device) for bound in bounds_of(folder, config))
    origin = Path(os.path.abspath(folder)), script and Path(os.path.abspath(script))
    return Policy(agent.actor.eval(), low, high, config, seed, origin).to(device)


def _again(folder: Path, script: Path | None, seed: int, device: str, weights: dict) -> Policy:
    policy = load(folder, seed, script, device)
    policy.load_state_dict(weights)
    return policy


def read_trained(folder: Path) -> tuple[dict, dict]:
    """config.json and checkpoint.pt of a run. InputError: no run, no checkpoint, or two that are not of one run."""
    config = read_config(folder)
    if not os.path.lexists(folder / "checkpoint.pt"):
        raise InputError(f"{folder}: has no checkpoint yet; let it train (--resume {folder})")
    saved = read_checkpoint(folder / "checkpoint.pt", mmap=True)
    try:
        check_fit(saved, config)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{folder}: {error}; its checkpoint is of another run, or changed") from None
    return config, saved


def bounds_of(folder: Path, config: dict) -> Bounds:
    """Of the environment's actions, which -1 and 1 stand for, as a run's config.json has them."""
    size = action_size(folder, config)
    try:
        low, high = np.broadcast_to(np.array(action_bounds(config["data"]) or [[-1.0], [1.0]], float), (2, size))
        if not np.isfinite([low, high]).all() or (low >= high).any():
            raise ValueError("no numbers in order")
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder}: its config.json has no bounds of actions ({error})") from None
    return tuple(low.tolist()), tuple(high.tolist())


def action_size(folder: Path, config: dict) -> int:
    """A, the dimensions of a run's actions. InputError: an older run, of which no simulator tells it."""
    if type(size := config.get("action_size")) is int and 0 < size < 10**6:
        return size
    if not config["task"]:
        raise InputError(f"{folder}: its config.json has no `action_size`, an older version made it; train it again")
    return make_env(config["task"], "stock" if config["physics"] == "stock" else "d4rl").action_space.shape[0]


def trained_by(config: dict) -> str:
    """The file that trained a run, or the project's of that name where that is not here: a name that tells copies
    apart, never a file to load (`file_of` gives that)."""
    started = words(config)[0]
    try:
        copy = Path(started).stem == config["algorithm"] and os.path.exists(started)
        return os.path.realpath(started if copy else ALGORITHMS / f"{config['algorithm']}.py")
    except ValueError:  # signs that no file's name has
        return config["algorithm"]


def words(config: dict) -> list[str]:
    """A run's command, split: the file that it was started with, and flags."""
    try:
        return shlex.split(config["command"]) or [""]
    except ValueError:  # a quote that never ends
        return config["command"].split() or [""]


def file_of(folder: Path, config: dict, scripts: dict[str, Path] = {}) -> Path:
    """The file to load for a run: the user's of its name, `scripts` {algorithm: file}, or the project's own.

    InputError: it was trained by another file. That one is not loaded, whoever left the run folder might have left it.
    """
    own, algorithm = {path.stem: path for path in ALGORITHMS.glob("*.py")}, config["algorithm"]
    if algorithm in scripts:
        return scripts[algorithm]
    if algorithm not in own:
        raise InputError(f"{folder}: was trained by {algorithm}.py, which is not in algorithms/; name it with --script "
                         f"{algorithm}.py")
    if trained_by(config) != os.path.realpath(own[algorithm]):
        raise InputError(f"{folder}: was trained by another {algorithm}.py than the one in algorithms/; name the one "
                         "to load with --script")
    return own[algorithm]


def own_scripts(files: tuple[Path, ...], algorithms: set[str]) -> dict[str, Path]:
    """{algorithm: file} of --script. InputError: no such file, two of one name, or no run of it."""
    scripts = {path.stem: path for path in files}
    for path in files:
        if path.suffix != ".py" or not path.is_file():
            raise InputError(f"--script {path}: there is no such file, or it does not end in .py")
        if scripts[path.stem] != path:
            raise InputError(f"--script {path} {scripts[path.stem]}: two files of one name, which trained what?")
        if path.stem not in algorithms:
            raise InputError(f"--script {path}: none of these runs is of {path.stem}")
    return scripts


def load_agent(folder: Path, config: dict, agents: list[dict], seed: int, action_size: int, device: str = "cpu",
               scripts: dict[str, Path] = {}):
    """The agent of one seed as a checkpoint's `agents` have it: `actor`, `critics` and `value`, where it has them; the
    rest is untrained. `scripts`: files of the user's, as `file_of` has them.

    InputError: no such seed, the algorithm's file is gone or no longer has the networks it had.
    """
    seeds = config["args"]["seeds"]
    if seed not in seeds:
        raise InputError(f"{folder}: has no seed {seed}, only {' '.join(map(str, seeds))}")
    if "obs_std" not in config:
        raise InputError(f"{folder}: its config.json has no `obs_std`, an older version made it; train it again")
    module, saved = load_script(file_of(folder, config, scripts)), agents[seeds.index(seed)]
    cls = agent_class(module)
    try:
        obs_std = torch.tensor(config["obs_std"], dtype=torch.float32)
        if not ((obs_std >= 0) & (obs_std < torch.inf)).all():
            raise ValueError("its obs_std is no std")
        if action_size > sum(weights.numel() for weights in saved["actor"].values()):  # and not built for its memory
            raise ValueError(f"action_size is {action_size:,}")
        rows = torch.zeros(10, 2 * len(obs_std) + action_size + 2)  # so many that rambo.py can hold one out
        data = Dataset(config["args"]["env"], config["task"], {"kind": "none"}, rows.to(device), len(obs_std),
                       action_size, torch.tensor([[0, 10]]))
        data.obs_std = obs_std.to(device)
        agent = cls(module.Args(**config["args"] | {"seeds": tuple(seeds), "device": device}), data, seed)
        for name in ("actor", "critics", "value"):
            if isinstance(getattr(agent, name, None), nn.Module):
                getattr(agent, name).load_state_dict(saved[name])
                getattr(agent, name).requires_grad_(False)
    except Exception as error:  # values of a config.json can be anything
        raise InputError(f"{folder}: its networks do not fit {module.__file__} ({type(error).__name__}: {error}); use "
                         f"the version that trained it, {config.get('git') or 'unknown'}") from None
    return agent


def start_from(folder: Path, seeds: tuple[int, ...], agents: list) -> dict:
    """Give new agents the weights of a run's last checkpoint, seed by seed, or those of its one seed to all.

    Weights are networks, target networks and their buffers (an actor keeps the normalisation that its weights were
    trained with), and single parameters such as log_alpha. All else is the agents' own: optimisers, counters, random
    numbers, imagined rows, and a dynamics `model`, which is the data's. Returns what config.json keeps of it.
    InputError: no checkpoint, no such seed, other sizes, networks of other flags or of another version.
    """
    path, config, data = folder / "checkpoint.pt", read_config(folder), agents[0].data
    if not os.path.lexists(path):
        raise InputError(f"--init-from {folder}: has no checkpoint yet; let it train (--resume {folder})")
    saved, its = read_checkpoint(path, mmap=True), config["args"]["seeds"]
    try:
        check_fit(saved, config)
        sizes = len(config["obs_std"]), action_size(folder, config)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"--init-from {folder}: {error}; an older version made it, or it was changed") from None
    if sizes != (data.obs_size, data.action_size):
        raise InputError(f"--init-from {folder}: its observations have {sizes[0]} numbers and its actions {sizes[1]}, "
                         f"those of {data.name} {data.obs_size} and {data.action_size}")
    if len(its) > 1 and (missing := sorted(set(seeds) - set(its))):
        raise InputError(f"--init-from {folder}: has no seed {missing[0]}, only {' '.join(map(str, its))}")
    for seed, agent in zip(seeds, agents):
        try:
            put_weights(agent, saved["agents"][its.index(seed) if len(its) > 1 else 0])
        except Exception as error:  # what a checkpoint holds can be anything
            why = " ".join(str(error).split())[:300]
            raise InputError(f"--init-from {folder}: its networks are not those of these flags ({why})") from None
    return {"run": str(folder), "step": saved["step"], "sha256": sha256(path)}


def put_weights(agent, saved: dict) -> None:
    """A checkpoint's weights into an agent. Exception: they do not fit."""
    if odd := set(saved) ^ set(snapshot(agent)):
        raise ValueError(f"only one of both has {', '.join(sorted(odd))}")
    for name, value in vars(agent).items():
        if isinstance(value, nn.Module) and name != "model" and any(True for _ in value.parameters()):
            value.load_state_dict(saved[name])
        elif isinstance(value, Tensor) and value.requires_grad:
            if saved[name].shape != value.shape:
                raise ValueError(f"{name} has another shape")
            value.data.copy_(saved[name])


def agent_class(module):
    """The agent of an algorithm's file. InputError: it has none, or several."""
    classes = [c for c in vars(module).values() if inspect.isclass(c) and hasattr(c, "update")
               and list(inspect.signature(c).parameters) == ["args", "data", "seed"]]
    if len(classes) != 1:
        raise InputError(f"{module.__file__}: needs one agent class with update() and __init__(args, data, seed)")
    return classes[0]


@cache
def load_script(path: Path):
    """An algorithm's file as a module, wherever it lies. InputError: it is not there, or cannot be loaded."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"  # no other module's
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise InputError(f"{path}: cannot be loaded ({type(error).__name__}: {error})") from None
    return module
