"""Run folders as algorithms leave them: flags, progress, scores, and the agents in their checkpoints."""

import contextlib
import importlib.util
import inspect
import io
import json
import shlex
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

from common import InputError
from common.args import parse
from common.data import Dataset

ROOT = Path(__file__).parents[2]
IGNORED = {"config", "seeds", "runs", "device", "eval_workers", "save_seconds", "log_every", "track", "standin",
           "resume"}


def settings(args: dict) -> dict:
    """The arguments of a run that change a score, as config.json has them; `config` only chose their defaults."""
    plain = json.loads(json.dumps(args, default=str))
    return {name: value for name, value in plain.items() if name not in IGNORED}


def script_of(algorithm: str) -> Path:
    return ROOT / f"algorithms/{algorithm}.py"


def flags(words: list[str]) -> dict[str, str]:
    """{flag: its values, joined} of a command line: `--x=1`, `--x 1`, `--x`, `--no-x` (False); numbers alike."""
    found, name = {}, None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, _, value = word[2:].partition("=")
            name = name.replace("_", "-")
            if name.startswith("no-"):
                name, value = name[3:], "False"
            found[name] = [value] * bool(value)
        elif name:
            found[name].append(word)
    return {name: " ".join(map(_spelling, values)) or "True" for name, values in found.items()}


def _spelling(word):
    try:
        return f"{float(word):g}"
    except ValueError:
        return word


@dataclass
class Run:
    """A run's folder and its config.json; everything else is read when it is asked for."""
    folder: Path
    config: dict

    @property
    def algorithm(self) -> str:
        return self.config["algorithm"]

    def age(self) -> tuple[str, str]:
        """Sorts older runs first: its start to the second, and its name, which has the milliseconds."""
        return str(self.config.get("started", "")), self.folder.name

    @property
    def seeds(self) -> list[int]:
        return self.config["args"]["seeds"]

    @property
    def script(self) -> Path:
        """The file that it was started with, or the project's of that name, where that is not here."""
        started = Path(shlex.split(self.config["command"])[0])
        return started if started.stem == self.algorithm and started.exists() else script_of(self.algorithm)

    @property
    def flags(self) -> dict[str, str]:
        """The flags of its command that change a score, `config` among them."""
        given, without = flags(shlex.split(self.config["command"])[1:]), IGNORED - {"config"}
        return {name: value for name, value in given.items() if name.replace("-", "_") not in without}

    @property
    def settings(self) -> dict:
        return settings(self.config["args"])

    @property
    def standin(self) -> bool:
        return self.config["dataset_source"] == "standin"

    @cached_property
    def result(self) -> dict | None:
        """result.json, which a run writes when it is finished; else None."""
        try:
            return json.loads((self.folder / "result.json").read_text())
        except (OSError, json.JSONDecodeError):
            return None

    @cached_property
    def checkpoint(self) -> dict:
        """checkpoint.pt, its tensors left on the disk until they are used."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            raise InputError(f"{self.folder}: has no checkpoint yet; let it train (--resume {self.folder})")
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except Exception as error:  # torch, zip and pickle each raise their own kinds
            raise InputError(f"{path}: cannot be read ({type(error).__name__}); damaged? Train it again") from None

    @property
    def progress(self) -> int:
        """Updates done, as far as they are saved."""
        try:
            return self.result["step"] if self.result else self.checkpoint["step"]
        except InputError:
            return 0

    @property
    def speed(self) -> float | None:
        """Updates per second."""
        try:
            if self.result:
                return self.result["updates_per_second"]
            return self.checkpoint["step"] / self.checkpoint["seconds"]
        except (InputError, ZeroDivisionError):
            return None


def read_run(folder: Path) -> Run:
    """InputError: no run folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
        config["args"]["seeds"], config["args"]["env"], config["dataset_source"]
        Path(shlex.split(config["command"])[0]), config["algorithm"] + ".py"
        return Run(folder, config)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder}: not a run folder ({type(error).__name__}: {error}); name one in runs/") from None


def find_runs(folder: Path) -> list[Run]:
    """All runs in a folder of run folders, oldest first; folders that are none are passed over."""
    found = []
    for path in folder.glob("*/config.json"):
        try:
            found.append(read_run(path.parent))
        except InputError as error:
            print(f"passed over: {error}", file=sys.stderr)
    return sorted(found, key=Run.age)


def label(run: Run) -> str:
    """A run's name in a figure: its algorithm, and its flags beyond the dataset and the number of updates."""
    other = [f"{name}={value}" for name, value in run.flags.items() if name not in ("env", "updates", "eval-env")]
    return " ".join([run.algorithm, *other])


def duration(seconds: float | None) -> str:
    """For people: 2.5 h."""
    if seconds is None:
        return "-"
    units = ((86400, "days"), (3600, "h"), (60, "min"))
    size, unit = next((pair for pair in units if seconds >= 2 * pair[0]), (1, "s"))
    return f"{seconds / size:.1f} {unit}"


def load_agent(run: Run, seed: int, action_size: int, device: str = "cpu"):
    """The agent of one seed as its checkpoint has it: `actor`, `critics` and `value`, where it has them; the rest is
    untrained.

    InputError: no checkpoint, no such seed, the algorithm's file is gone or no longer has the networks it had.
    """
    if seed not in run.seeds:
        raise InputError(f"{run.folder}: has no seed {seed}, only {' '.join(map(str, run.seeds))}")
    if "obs_std" not in run.config:
        raise InputError(f"{run.folder}: its config.json has no `obs_std`, an older version made it; train it again")
    saved, module = run.checkpoint["agents"][run.seeds.index(seed)], load_script(run.script)
    cls, obs_std = agent_class(module), torch.tensor(run.config["obs_std"])
    rows = torch.zeros(1, 2 * len(obs_std) + action_size + 2)
    data = Dataset(run.config["args"]["env"], run.config["task"], {"kind": "none"}, rows.to(device), len(obs_std),
                   action_size, torch.tensor([[0, 1]]))
    data.obs_std = obs_std.to(device)
    try:
        agent = cls(module.Args(**run.config["args"] | {"seeds": tuple(run.seeds), "device": device}), data, seed)
        for name in ("actor", "critics", "value"):
            if isinstance(getattr(agent, name, None), torch.nn.Module):
                getattr(agent, name).load_state_dict(saved[name])
                getattr(agent, name).requires_grad_(False)
    except (TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"{run.folder}: its networks do not fit {module.__file__} ({error}); use the version that "
                         f"trained it, {run.config.get('git') or 'unknown'}") from None
    return agent


def agent_class(module):
    """The agent of an algorithm's file. InputError: it has none, or several."""
    classes = [c for c in vars(module).values() if inspect.isclass(c) and hasattr(c, "update")
               and list(inspect.signature(c).parameters) == ["args", "data", "seed"]]
    if len(classes) != 1:
        raise InputError(f"{module.__file__}: needs one agent class with update() and __init__(args, data, seed)")
    return classes[0]


def arguments(algorithm: str, words: list[str]):
    """Args of an algorithm's file for a command line. InputError: no such --config, or none for this dataset."""
    module = load_script(script_of(algorithm))
    configs = {name.lower().replace("_", "-"): table for name, table in vars(module).items()
               if name.isupper() and isinstance(table, dict) and name != "PAPER"}
    with contextlib.redirect_stdout(io.StringIO()):
        return parse(module.Args, module.PAPER, words, **configs)


@cache
def load_script(path: Path):
    """An algorithm's file as a module, wherever it lies. InputError: it is not there."""
    if not path.exists():
        raise InputError(f"{path}: this run's algorithm is not here; run this where its file is")
    name = f"{path.stem}_{abs(hash(path.resolve())):x}"  # no other module's, whatever the file is called
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look up their module
    spec.loader.exec_module(module)
    return module
