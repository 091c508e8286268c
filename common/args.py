"""The command line of an algorithm: flags that all share, the paper's values under `--env`, and what is checked."""

import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from common import InputError
from common.sources import SUFFIXES

FREE = {"resume", "track", "eval_workers", "save_seconds"}  # flags that change no number: a resumed run may change them

KINDS = {  # what config.json must have: {name: is this such a value?}
    "algorithm": lambda x: isinstance(x, str) and x == Path(x).name != "", "args": lambda x: isinstance(x, dict),
    "command": lambda x: isinstance(x, str), "data": lambda x: isinstance(x, dict),
    "dataset_source": lambda x: isinstance(x, str), "task": lambda x: x is None or isinstance(x, str),
    "physics": lambda x: isinstance(x, str), "args.env": lambda x: isinstance(x, str),
    "args.seeds": lambda x: isinstance(x, list) and x != [] and all(type(seed) is int for seed in x),
    "args.updates": lambda x: type(x) is int and x > 0}


@dataclass
class RunArgs:
    """Flags that every algorithm shares."""
    config: str = "paper"  # which table of the algorithm's file gives a dataset's defaults
    device: str = "auto"  # auto, cpu, cuda or mps
    view: Literal["auto", "d4rl", "next_obs"] = "auto"  # d4rl: the papers' qlearning_dataset; next_obs: every row
    reward: str = "raw"  # raw, r-1, 10r-5, return_range, standardize or shift
    standin: bool = True  # allow a stand-in where a D4RL dataset cannot be had
    standin_rows: int = 1_000_000  # transitions of a stand-in
    eval_env: str = "auto"  # task to evaluate on: D4RL name, Minari id, none, or auto (the dataset's own)
    physics: Literal["d4rl", "stock"] = "d4rl"  # as the data were recorded, or Gymnasium as it is
    eval_every: int = 5_000  # updates between evaluations
    eval_episodes: int = 10  # episodes of an evaluation
    eval_workers: int = 1  # processes that evaluate while training goes on; 0: inline, with the same numbers
    log_every: int = 1_000  # updates between rows of log.csv
    save_seconds: float = 120.0  # seconds between checkpoints
    runs: Path = Path("runs")  # folder of run folders
    resume: Path | None = None  # run folder to continue exactly where its checkpoint left it
    track: bool = False  # also log to Weights & Biases
    tf32: bool = True  # TF32 matrix products on GPUs that have them


def parse(Args, paper: dict, argv: list[str] | None = None, **configs):
    """Args from the command line: `--env` picks its entry of `paper` (or `configs[--config]`), flags override.

    `paper` and `configs` are {dataset: {flag: value}}; a dataset without an entry gets Args' own defaults; an own file
    has the entry of its `--eval-env`. With `--resume` the flags are the run's own. InputError: unknown config, missing
    device, a run that does not fit.
    """
    import tyro
    argv = sys.argv[1:] if argv is None else argv
    given = dict(zip(argv, argv[1:])) | dict(word.split("=", 1) for word in argv if "=" in word)
    given = {word.replace("_", "-"): value for word, value in given.items()}  # tyro takes both
    if "--resume" in given:
        saved = _saved_args(Args, Path(given["--resume"]))
        args = tyro.cli(Args, default=saved, args=argv)
        if new := [flag for flag in vars(saved) if flag not in FREE and getattr(args, flag) != getattr(saved, flag)]:
            was = ", ".join(f"{flag}={getattr(saved, flag)}" for flag in new)
            raise InputError(f"--resume {args.resume}: the run has {was} and keeps it; leave that flag out")
        return _checked(args)
    env, config, tables = given.get("--env", Args.env), given.get("--config", "paper"), {"paper": paper, **configs}
    task = given.get("--eval-env", env) if Path(env).suffix in SUFFIXES else env  # an own file has its task's values
    if config not in tables:
        raise InputError(f"--config {config} is unknown; choose from {', '.join(tables)}")
    values = tables[config].get(task)
    if values is None and config != "paper":
        raise InputError(f"--config {config} has no entry for {task}, only for {', '.join(tables[config])}")
    shown = ", ".join(f"{flag}={value}" for flag, value in (values or {}).items()) or "the shared defaults"
    name = env if task == env else f"{env} as {task}"
    origin = f"{name}{' (no entry)' if values is None else ''}, --config {config}: {shown}"
    title = " ".join(inspect.getmodule(Args).__doc__.split("\n\n")[0].split())
    args = tyro.cli(Args, default=Args(**(values or {}) | {"env": env, "config": config}), args=argv,
                    description=f"{title}\n\nDefaults are those for {origin}.\n\nConfigs: {', '.join(tables)}.")
    print(origin)
    return _checked(args)


def usable_device(device: str) -> str:
    """`auto` is the GPU where there is one. InputError: a device that is not there."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, or a PyTorch without it
        raise InputError(f"--device {device} cannot be used ({error}); --device cpu can") from None
    return device


def _checked(args):
    args.device = usable_device(args.device)
    if not args.seeds or len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: give one or more seeds, each once")
    zero = {"eval_workers"} | {flag for flag, default in vars(type(args)).items() if default == 0}  # it may be 0
    if low := [flag for flag, value in vars(args).items() if type(value) is int and value < (flag not in zero)]:
        raise InputError(f"--{low[0].replace('_', '-')} {getattr(args, low[0])} is too small")
    return args


def read_config(folder: Path) -> dict:
    """A run's config.json, with the kinds of values that it must have; it is data, nothing in it is executed.

    InputError: no run, or one whose file is broken.
    """
    path, size = folder / "config.json", 2**24
    try:
        if not path.is_file():  # a FIFO would wait for ever
            raise ValueError("it has no config.json")
        if path.stat().st_size > size:
            raise ValueError(f"its config.json has more than {size:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
        fields = config | {f"args.{flag}": config["args"].get(flag) for flag in ("seeds", "env", "updates")}
        if wrong := [name for name, kind in KINDS.items() if not kind(fields[name])]:
            raise ValueError(f"its {wrong[0]} is {json.dumps(fields[wrong[0]])[:40]}")
        return config
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise InputError(f"{folder}: no run folder, or a broken one ({why})") from None


def _saved_args(Args, folder):
    try:
        config = read_config(folder)
        saved = {flag: tuple(value) if isinstance(value, list) else value for flag, value in config["args"].items()}
        saved["runs"] = Path(saved["runs"])
        if config["algorithm"] != Path(inspect.getfile(Args)).stem:
            raise InputError(f"--resume {folder}: a run of {config['algorithm']}.py; continue it with that file")
        return Args(**saved | {"resume": folder})
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"--resume {folder}: no run of this version ({type(error).__name__}: {error})") from None
