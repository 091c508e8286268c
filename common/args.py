"""The command line of an algorithm: flags that all share, the paper's values under `--env`, and what is checked."""

import contextlib
import inspect
import io
import json
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

import torch
import tyro

from common import InputError
from common.files import check_folder, text_of
from common.physics import gymnasium_id, make_env, version, with_version
from common.sources import D4RL, own_file

FREE = {"resume", "track", "eval_workers", "save_seconds"}  # flags that change no number: a resumed run may change them
READS = r"(?<!steps\()\bargs\.updates\b"  # in an algorithm's file: more than its loop's length
KINDS = {  # what config.json must have: {name: is this such a value?}
    "algorithm": lambda x: isinstance(x, str) and x == Path(x).name != "", "args": lambda x: isinstance(x, dict),
    "command": lambda x: isinstance(x, str), "data": lambda x: isinstance(x, dict),
    "dataset_source": lambda x: isinstance(x, str), "task": lambda x: x is None or isinstance(x, str),
    "physics": lambda x: isinstance(x, str) and re.fullmatch("d4rl(-[1-9][0-9]{0,3})?|stock|stored", x),
    "args.env": lambda x: isinstance(x, str),
    "args.seeds": lambda x: isinstance(x, list) and x != [] and all(type(seed) is int for seed in x),
    "args.updates": lambda x: type(x) is int and x > 0}


def within(interval: str):
    """For Annotated[float, within("(0, 1]")]: a flag's valid range, which `--help` shows and `check` holds it to."""
    return tyro.conf.arg(metavar=interval)


Size = Annotated[int, within("[1, 1e6]")]  # of what takes memory: batches, layers, ensembles
Count = Annotated[int, within("[1, 1e12]")]  # of updates
Seeds = Annotated[tuple[int, ...], within("[0, 1e18]")]
Numbers = Annotated[tuple[float, ...], within("(-inf, inf)")]
Number = Annotated[float | None, within("(-inf, inf)")]
Fraction = Annotated[float, within("[0, 1]")]
Positive = Annotated[float, within("(0, inf)")]
NonNegative = Annotated[float, within("[0, inf)")]


@dataclass
class RunArgs:
    """Flags that every algorithm shares."""
    SCHEDULED = ""  # what depends on `updates`, so that a run cannot be extended; a flag's name: only where it is on
    config: str = "paper"  # which table of the algorithm's file gives a dataset's defaults
    device: str = "auto"  # auto, cpu, cuda or mps
    view: Literal["auto", "d4rl", "next_obs"] = "auto"  # d4rl: the papers' qlearning_dataset; next_obs: every row
    reward: str = "raw"  # raw, r-1, 10r-5, 4r-2, return_range, standardize or shift
    action_low: Numbers = ()  # own data's least actions, a number or one for each dimension; default: the file's, or -1
    action_high: Numbers = ()  # likewise the greatest; default: the file's, or 1
    holdout: Annotated[float, within("[0, 1)")] = 0.0  # share of the episodes to set aside, whose errors are logged
    standin: bool = True  # allow a stand-in where a D4RL dataset cannot be had
    standin_rows: Annotated[int, within("[1, 1e8]")] = 1_000_000  # transitions of a stand-in
    eval_env: str = "auto"  # task: D4RL name, Minari id, Gymnasium id (Pendulum-v1, module:Id-v0), none, or the data's
    physics: Literal["d4rl", "stock"] = "d4rl"  # as the data were recorded, or Gymnasium as it is
    eval_every: Count = 5_000  # updates between evaluations
    eval_episodes: Annotated[int, within("[1, 1e4]")] = 10  # episodes of an evaluation
    eval_workers: Annotated[int, within("[0, 256]")] = 1  # processes that evaluate while training goes on; 0: inline
    max_episode_steps: Annotated[int | None, within("[1, 1e6]")] = None  # of an evaluation's episode; default: its own
    score_min: Number = None  # return that is a normalised score of 0, for a task without reference scores
    score_max: Number = None  # and of 100
    log_every: Count = 1_000  # updates between rows of log.csv
    save_seconds: NonNegative = 120.0  # seconds between checkpoints
    runs: Path = Path("runs")  # folder of run folders
    resume: Path | None = None  # run folder to continue exactly where its checkpoint left it; more --updates extend it
    init_from: Path | None = None  # run folder whose weights a new run starts with; its optimisers and model are new
    track: bool = False  # also log to Weights & Biases
    tf32: bool = True  # TF32 matrix products on GPUs that have them
    compile: bool = False  # torch.compile of the update: slow to start, other last digits


def cli(Args, argv: list[str] | None = None, default=None, description: str = ""):
    """Args of a command line. InputError: what tyro refuses, in one line, or a value outside its range."""
    argv, told = sys.argv[1:] if argv is None else argv, io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            given = {} if default is None else {"default": default}
            args = tyro.cli(Args, args=argv, description=description, **given)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        title, *lines = (line.strip("│╭╮╰╯ ") for line in told.getvalue().splitlines())  # a box, or ASCII
        text = " ".join(line for line in lines if line.strip("─-"))
        why, *more = re.split(r" (?=Argument helptext:|Perhaps you meant:|For full helptext)", text)
        why = why.removeprefix("Error parsing ").removeprefix(f"{Args.__name__}: ").rstrip(".")
        near = [flag for part in more if part[0] == "P" for flag in re.findall(r"--[a-z][\w-]*", part)][:3]
        advice = f"did you mean {' '.join(near)}? see --help" if near else "see --help"
        raise InputError(f"{why}; {advice}") from None
    return check(args)


def check(args):
    """The args. InputError: a value outside the range, within() above, that stands where its flag is declared."""
    for flag, hint in get_type_hints(type(args), include_extras=True).items():
        parts = hint, *get_args(hint)  # of a union too
        facts = [fact for part in parts for fact in getattr(part, "__metadata__", ())]
        for interval in (fact.metavar for fact in facts if hasattr(fact, "metavar")):
            low, high, value = *map(float, interval[1:-1].split(",")), getattr(args, flag)
            for x in value if isinstance(value, tuple) else () if value is None else (value,):
                if not (low <= x <= high) or x == low and interval[0] == "(" or x == high and interval[-1] == ")":
                    raise InputError(f"--{flag.replace('_', '-')} {x}: give a number in {interval}")
    return args


def parse(Args, paper: dict, argv: list[str] | None = None, here: bool = True, **configs):
    """Args from the command line: `--env` picks its entry of `paper` (or `configs[--config]`), flags override.

    `paper` and `configs` are {dataset: {flag: value}}; a dataset without an entry gets Args' own defaults; an own file
    has the entry of its `--eval-env`. With `--resume` the flags are the run's own, `--updates` may be another where no
    schedule depends on it. `here`: is the run to be on this machine? Then its device must be there. InputError: unknown
    config, a flag out of range, missing device, a run that does not fit, or whose task is a module's that is not typed
    again: a module is code, and a run folder is data.
    """
    argv = sys.argv[1:] if argv is None else argv
    first = cli(Args, [word for word in argv if word not in ("-h", "--help")])
    if first.resume is not None:
        saved = _saved_args(Args, first.resume)
        if ":" in saved.eval_env and saved.eval_env != first.eval_env:
            raise InputError(f"--resume {first.resume}: plays {saved.eval_env}, whose module is code, and is imported "
                             f"only where you name it; add --eval-env {saved.eval_env}")
        args = cli(Args, argv, default=replace(saved, resume=first.resume))
        free = FREE | {"updates"}
        if new := [flag for flag in vars(saved) if flag not in free and getattr(args, flag) != getattr(saved, flag)]:
            was = ", ".join(f"{flag}={getattr(saved, flag)}" for flag in new)
            raise InputError(f"--resume {args.resume}: the run has {was} and keeps it; leave that flag out")
        if args.updates != saved.updates and (tied := _scheduled(saved)):
            raise InputError(f"--resume {args.resume}: its {tied} depends on its --updates, {saved.updates}, and would "
                             f"have been another with {args.updates}; leave that flag out, or start a new run")
        return _checked(args, here)
    env, config, tables = first.env, first.config, {"paper": paper, **configs}
    task = first.eval_env if own_file(env) else env  # an own file has its task's values
    if config not in tables:
        raise InputError(f"--config {config} is unknown; choose from {', '.join(tables)}")
    values = tables[config].get(task)
    if values is None and config != "paper":
        raise InputError(f"--config {config} has no entry for {task}, only for {', '.join(tables[config])}")
    shown = ", ".join(f"{flag}={value}" for flag, value in (values or {}).items()) or "the shared defaults"
    name = env if task in (env, "auto") else f"{env} as {task}"
    origin = f"{name}{' (no entry)' if values is None else ''}, --config {config}: {shown}"
    module = inspect.getmodule(Args)
    title = " ".join((module.__doc__ or module.__name__).split("\n\n")[0].split())
    args = cli(Args, argv, Args(**(values or {}) | {"env": env, "config": config}),
               f"{title}\n\nDefaults are those for {origin}.\n\nConfigs: {', '.join(tables)}.")
    args = _checked(args, here)
    print(origin)
    return args


def usable_device(device: str, here: bool = True) -> str:
    """`auto` is the GPU where there is one. InputError: a device that is not there (if `here`), or of another kind."""
    if not re.fullmatch("auto|cpu|mps|cuda(:[0-9]+)?", device):
        raise InputError(f"--device {device}: choose auto, cpu, cuda, cuda:N or mps")
    if not here:
        return device
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, or a PyTorch without it
        raise InputError(f"--device {device} cannot be used ({error}); --device cpu can") from None
    return device


def _checked(args, here):
    args.device = usable_device(args.device, here)
    if not args.seeds or len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: give one or more seeds, each once")
    if args.eval_env not in ("auto", "none", *D4RL):
        if gymnasium_id(args.eval_env):
            here and make_env(args.eval_env, typed=True).close()
        elif "/" not in args.eval_env:
            raise InputError(f"--eval-env {args.eval_env}: no D4RL task of this name; give one, a Minari id, a "
                             "Gymnasium id with its version (Pendulum-v1), none or auto")
    if (args.score_min is None) != (args.score_max is None) or args.score_min is not None and not (
            args.score_min < args.score_max):
        raise InputError(f"--score-min {args.score_min} --score-max {args.score_max}: give both, the least one first, "
                         "or none for plain returns")
    if args.score_min is not None and (task := args.env if args.eval_env == "auto" else args.eval_env) in D4RL:
        raise InputError(f"{task}: has D4RL's reference scores; leave --score-min and --score-max out")
    if args.env in D4RL and args.action_low + args.action_high:
        raise InputError(f"{args.env}: D4RL's actions are in [-1, 1]; leave --action-low and --action-high out")
    if args.init_from and not args.resume:
        args.init_from = args.init_from.resolve()  # the same run, however it is named
        _of(type(args), "--init-from", args.init_from)
    if here and not args.resume:
        check_folder(args.runs, "--runs")
    return args


def read_config(folder: Path) -> dict:
    """A run's config.json, with the kinds of values that it must have; it is data, nothing in it is executed.

    InputError: no run, or one whose file is broken.
    """
    try:
        config = json.loads(text_of(folder / "config.json", 2**24))
        fields = config | {f"args.{flag}": config["args"].get(flag) for flag in ("seeds", "env", "updates")}
        if wrong := [name for name, kind in KINDS.items() if not kind(fields[name])]:
            raise ValueError(f"its {wrong[0]} is {json.dumps(fields[wrong[0]])[:40]}")
        return config
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
        if not os.path.lexists(folder):
            near = Path("runs") / folder
            why = f"did you mean {near}?" if os.path.isdir(near) else "there is nothing of this name"
        raise InputError(f"{folder}: no run folder, or a broken one ({why})") from None


def _of(Args, flag, folder) -> dict:
    """The config.json of a run of the file that has these Args. InputError: no run, or one of another algorithm."""
    config = read_config(folder)
    if config["algorithm"] != Path(inspect.getfile(Args)).stem:
        raise InputError(f"{flag} {folder}: a run of {config['algorithm']}.py; continue it with that file")
    return config


def _scheduled(args) -> str:
    """What of a run depends on its number of updates. A file of one's own that says nothing must not read it."""
    name = type(args).SCHEDULED
    source = Path(inspect.getfile(type(args))).read_text(encoding="utf-8")
    if "SCHEDULED" not in vars(type(args)) and re.search(READS, source):
        return "file reads args.updates and does not say what for (SCHEDULED in its Args), which perhaps"
    return name if name and getattr(args, name, True) else ""


def _saved_args(Args, folder):
    """A run's args, by the command line that gives them: what nobody could have typed, its config.json may not say."""
    config, words = _of(Args, "--resume", folder), []
    own = config["data"].get("path")  # whole: an own file's relative path means nothing in another folder
    if config["dataset_source"] == "file" and isinstance(own, str) and os.path.isabs(own) and os.path.isfile(own):
        config["args"]["env"] = own
    if odd := set(config["args"]) - set(get_type_hints(Args)):
        raise InputError(f"--resume {folder}: its config.json does not fit this version, which has no --{min(odd)}")
    for flag, value in config["args"].items():
        name = flag.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    try:
        args = cli(Args, words)
    except InputError as error:
        raise InputError(f"--resume {folder}: its config.json does not fit this version: {error}") from None
    if (its := with_version(config["physics"])) != (now := version(config["task"], args.physics)):
        raise InputError(f"--resume {folder}: is evaluated under the physics {its}, this version simulates {now}; go "
                         f"on with the version that began it, {config.get('git') or 'unknown'}")
    return args
