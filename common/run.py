"""A run: its command line, folder, logs, checkpoints, progress and final report."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import inspect
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import InputError, RunError
from common.data import normalized_score
from common.evaluation import Evaluator, check_task

FREE = {"resume", "track", "eval_workers", "save_seconds"}  # flags that change no number: a resumed run may have others


@dataclass
class RunArgs:
    """Flags that every algorithm shares."""

    config: str = "paper"  # which of the algorithm's tables gives the dataset's defaults (named at the top of this help)
    device: str = "auto"  # auto, cpu, cuda or mps
    view: str = "auto"  # rows used: d4rl (the papers' qlearning_dataset), next_obs (all rows), auto (d4rl for D4RL names)
    reward: str = "raw"  # reward transform: raw, r-1, 10r-5, 100r, return_range, standardize, shift
    standin: bool = True  # allow a stand-in where a D4RL dataset cannot be had
    standin_rows: int = 1_000_000  # transitions of a stand-in
    eval_env: str = "auto"  # task to evaluate on: a D4RL name, a Minari id, none, or auto (the dataset's own)
    physics: str = "d4rl"  # d4rl (as the data were recorded) or stock (Gymnasium as it is)
    eval_every: int = 5_000  # updates between evaluations
    eval_episodes: int = 10  # episodes of an evaluation
    eval_workers: int = 1  # processes that evaluate while training goes on; 0 evaluates inline, with the same numbers
    log_every: int = 1_000  # updates between rows of log.csv
    save_seconds: float = 120.0  # seconds between checkpoints
    runs: Path = Path("runs")  # folder of run folders
    resume: Path | None = None  # folder of a run to continue exactly where its checkpoint left it
    track: bool = False  # also log to Weights & Biases
    tf32: bool = True  # TF32 matrix products on GPUs that have them


def parse(Args, paper: dict, argv: list[str] | None = None, **configs):
    """Args from the command line: `--env` picks its entry of `paper` (or of `configs[--config]`) as defaults, flags override.

    Args:
        paper: {dataset: {flag: value}}; a dataset without an entry gets Args' own defaults, and a line says so.
        configs: further tables of the same shape, by the name that `--config` takes.
    Raises:
        InputError: unknown config, missing device, or a --resume whose folder or flags do not fit.
    """
    import tyro

    argv = sys.argv[1:] if argv is None else argv
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("env", "config", "resume"):
        peek.add_argument(f"--{flag}")
    peek = peek.parse_known_args(argv)[0]
    if peek.resume:
        saved = _saved_args(Args, Path(peek.resume))
        args = tyro.cli(Args, default=dataclasses.replace(saved, resume=Path(peek.resume)), args=argv)
        changed = [f.name for f in dataclasses.fields(Args) if f.name not in FREE and getattr(args, f.name) != getattr(saved, f.name)]
        if changed:
            raise InputError(f"--resume {peek.resume}: this run has " + ", ".join(f"{name}={getattr(saved, name)}" for name in changed)
                             + "; a resumed run keeps its flags. Leave them out, or start a new run")
        return args
    env, tables = peek.env or Args.env, {"paper": paper, **configs}
    config = peek.config or Args.config
    if config not in tables:
        raise InputError(f"--config {config} is unknown; choose from {', '.join(tables)}")
    values = tables[config].get(env)
    if values is None and config != "paper":
        raise InputError(f"--config {config} has no entry for {env}; it has {', '.join(tables[config])}")
    origin = (f"{env}, --config {config}: " + (", ".join(f"{k}={v}" for k, v in values.items()) or "the shared defaults") if values is not None
              else f"{env} has no entry in --config {config}: the shared defaults are used")
    other = f" Configs: {', '.join(tables)}." if configs else ""
    args = tyro.cli(Args, default=Args(**(values or {}) | {"env": env, "config": config}), args=argv,
                    description=f"{(inspect.getmodule(Args).__doc__ or '').strip().splitlines()[0]}\n\nDefaults below are those for {origin}.{other}")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    for device, there in (("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)):
        if args.device.startswith(device) and not there():
            raise InputError(f"--device {args.device}: PyTorch sees no such device; use --device cpu")
    if not args.device.startswith(("cpu", "cuda", "mps")):
        raise InputError(f"--device {args.device} is unknown; choose from auto, cpu, cuda, mps")
    if not args.seeds or len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))}: give one or more different seeds")
    for name in ("updates", "eval_every", "eval_episodes", "log_every", "standin_rows", "batch_size"):
        if getattr(args, name, 1) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1")
    if args.tf32:
        torch.set_float32_matmul_precision("high")
    print(origin)
    return args


def cli(main, Args, paper: dict, **configs) -> None:
    """What a script does when started: parse, run, and turn errors the user can mend into one line."""
    with friendly():
        main(parse(Args, paper, **configs))


@contextlib.contextmanager
def friendly():
    """InputError: one line, exit code 2. RunError: one line, 1. Ctrl-C outside training: 130."""
    try:
        yield
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _saved_args(Args, folder):
    try:
        config = json.loads((folder / "config.json").read_text())
        algorithm, saved = config["algorithm"], config["args"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"--resume {folder}: no run's folder ({type(error).__name__}: {error})") from None
    if algorithm != _algorithm(Args):
        raise InputError(f"--resume {folder}: a run of {algorithm}.py, not of {_algorithm(Args)}.py; continue it with that file")
    try:
        return Args(**{k: tuple(v) if isinstance(v, list) else Path(v) if k == "runs" else v for k, v in saved.items()})
    except TypeError as error:
        raise InputError(f"--resume {folder}: its flags are not those of this {algorithm}.py ({error})") from None


def _algorithm(cls) -> str:
    return Path(inspect.getfile(cls)).stem


@contextlib.contextmanager
def _writing(path):
    """A file that cannot be written is one clear line, whatever the reason (full disk, read-only folder, quota)."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        if isinstance(error, RunError):
            raise
        raise InputError(f"cannot write {path} ({' '.join(str(error).split())[:200]}); free space or choose another folder with --runs. "
                         "The last checkpoint is intact: --resume continues from it") from None


class Run:
    """Folder, logs, evaluations, checkpoints and report of agents trained side by side.

    Files: config.json (flags, versions, data and its hash), log.csv (a row per seed and `log_every` updates), eval.csv (a row per seed
    and evaluation, with every episode's return), checkpoint.pt, and at the end result.json. No file but result.json holds a time, so that a
    resumed run's files are those of an uninterrupted one, byte for byte.
    """

    def __init__(self, args, agents: list):
        self.args, self.agents, self.data = args, agents, agents[0].data
        self.task = {"auto": self.data.task, "none": None}.get(args.eval_env, args.eval_env)
        if self.task:
            check_task(self.task, args.physics, self.data.obs_size, self.data.action_size)
        else:
            print("no evaluation: name a task with --eval-env (for example hopper-medium-v2)")
        self.evaluator = Evaluator(self.task, args.physics, args.eval_episodes, args.eval_workers) if self.task else None
        self.step, self.scores, self.stop, self.wandb = 0, {seed: [] for seed in args.seeds}, None, None
        self.bar, self.saved_at, self.seconds = None, time.monotonic(), 0.0
        self.mark = " [stand-in data]" if self.data.standin else ""
        if args.resume:
            self.folder = args.resume
            self._restore()
        else:
            self.folder = self._create()
        print(f"run folder: {self.folder}")
        if args.track:
            import wandb
            self.wandb = wandb.init(project="solo", name=self.folder.name, dir=self.folder, config=self._config())

    def _create(self) -> Path:
        env = Path(self.args.env).stem if self.data.source["kind"] == "file" else self.args.env.replace("/", "_")
        name = f"{_algorithm(type(self.agents[0]))}-{env}{'.standin' if self.data.standin else ''}-{time.strftime('%Y%m%d-%H%M%S')}"
        with _writing(self.args.runs / name):
            for suffix in ("", *(f"-{i}" for i in range(2, 100))):
                with contextlib.suppress(FileExistsError):
                    folder = self.args.runs / (name + suffix)
                    folder.mkdir(parents=True)
                    break
            (folder / "config.json").write_text(json.dumps(self._config(), indent=1, default=str))
        return folder

    def _config(self) -> dict:
        versions = {"python": platform.python_version()}
        for package in ("torch", "numpy", "gymnasium", "mujoco", "minari"):
            with contextlib.suppress(PackageNotFoundError):
                versions[package] = version(package)
        git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=Path(__file__).parent, capture_output=True, text=True)
        device = torch.cuda.get_device_name(self.args.device) if self.args.device.startswith("cuda") else platform.processor() or platform.machine()
        return {"algorithm": _algorithm(type(self.agents[0])), "args": dataclasses.asdict(self.args), "task": self.task,
                "physics": self.args.physics, "data": self.data.source, "dataset_source": self.data.source["kind"], "versions": versions,
                "git": git.stdout.strip() or None, "device": device, "command": shlex.join(sys.argv), "started": time.strftime("%Y-%m-%dT%H:%M:%S")}

    # ---- the training loop

    def steps(self, updates: int):
        """Yield 1, 2, ..., `updates`, from the checkpoint on when resumed; save now and then, at the end, and on Ctrl-C or SIGTERM."""
        handlers = {name: signal.signal(name, self._interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
        self.bar = tqdm(total=updates, initial=self.step, unit="update", disable=not sys.stderr.isatty(), smoothing=0.05)
        start = time.monotonic()
        try:
            while self.step < updates:
                yield self.step + 1
                self.step += 1
                self.bar.update()
                if self.stop:
                    self.seconds += time.monotonic() - start
                    self.save()
                    print(f"\nstopped at update {self.step:,} of {updates:,}; continue with\n  {self._command()}", file=sys.stderr)
                    sys.exit(128 + self.stop)
                if time.monotonic() - self.saved_at >= self.args.save_seconds:
                    self.seconds, start = self.seconds + time.monotonic() - start, time.monotonic()
                    self.save()
            self.seconds += time.monotonic() - start
        finally:
            self.bar.close()
            for name, handler in handlers.items():
                signal.signal(name, handler)
            if self.evaluator and self.step < updates:
                self.evaluator.close()

    def _interrupt(self, number, frame):
        self.stop = number
        signal.signal(number, signal.SIG_DFL)  # a second Ctrl-C ends it at once

    def _command(self):
        script = os.path.relpath(inspect.getfile(type(self.agents[0])))
        return f"python {shlex.quote(script)} --resume {shlex.quote(str(self.folder))}"

    def log(self, step: int, logs: list[dict]) -> None:
        """Every `log_every` updates and at the last: a row per seed of the agents' scalar tensors. Raises RunError if one is not finite."""
        if step % self.args.log_every and step != self.args.updates:
            return
        for seed, log in zip(self.args.seeds, logs):
            row = dict(zip(log, torch.stack([value.detach().float() for value in log.values()]).tolist()))
            if bad := [key for key, value in row.items() if not np.isfinite(value)]:
                raise RunError(f"diverged: {bad[0]} is {row[bad[0]]} at update {step:,}, seed {seed}. The checkpoint of update "
                               f"{self.step:,} or earlier, if there is one, is in {self.folder}")
            self._append("log.csv", {"step": step, "seed": seed, **row})
            if self.wandb:
                self.wandb.log({f"train/{key}/seed{seed}": value for key, value in row.items()} | {"step": step})

    def evaluate(self, step: int) -> None:
        """Every `eval_every` updates and at the last: hand each agent's actor to the evaluator; take delivery of what is done."""
        if not self.evaluator:
            return
        due = step % self.args.eval_every == 0 or step == self.args.updates
        try:
            if due:
                for seed, agent in zip(self.args.seeds, self.agents):
                    self.evaluator.submit(step, seed, agent.actor)
            for result in self.evaluator.finished():
                self._score(*result)
        except RunError as error:
            self.step = step
            self.save()
            raise RunError(f"{error}. Training is saved at update {step:,}; continue with {self._command()}") from error

    def _score(self, step, seed, returns, lengths):
        score = normalized_score(self.task, returns.mean())
        self._append("eval.csv", {"step": step, "seed": seed, "episodes": len(returns), "return_mean": returns.mean(), "return_std": returns.std(),
                                  "score": "" if score is None else score, "length_mean": lengths.mean(),
                                  "returns": " ".join(f"{r:.6g}" for r in returns)})
        self.scores[seed].append((step, returns.mean() if score is None else score))
        text = f"return {returns.mean():.1f} ± {returns.std():.1f}" + ("" if score is None else f"   normalised score {score:.1f}") + self.mark
        with contextlib.nullcontext() if self.bar is None else tqdm.external_write_mode():
            print(f"update {step:>9,}   seed {seed}   {text}", flush=True)
        if self.bar is not None:
            self.bar.set_postfix_str(f"score {self.scores[seed][-1][1]:.1f}{self.mark}")
        if self.wandb:
            self.wandb.log({f"eval/return/seed{seed}": returns.mean(), "step": step} | ({} if score is None else {f"eval/score/seed{seed}": score}))

    def _append(self, name, row):
        path = self.folder / name
        with _writing(path), open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({key: repr(float(value)) if isinstance(value, float) else value for key, value in row.items()})

    def report(self) -> None:
        """Wait for the last evaluations, print last, mean of last 10 and best for every seed and write result.json."""
        if self.evaluator:
            for result in self.evaluator.finished(wait=True):
                self._score(*result)
            self.evaluator.close()
        self.save()
        unit = "normalised score" if normalized_score(self.task, 0.0) is not None else "return"
        seeds = {seed: {"last": values[-1], "mean_of_last_10": float(np.mean(values[-10:])), "best": max(values)}
                 for seed, scores in self.scores.items() if (values := [float(score) for _, score in scores])}
        timing = {"training_seconds": self.seconds, "updates_per_second": self.step / self.seconds if self.seconds else None}
        if self.evaluator:
            timing |= {"evaluation_seconds": self.evaluator.seconds, "evaluation_waited_seconds": self.evaluator.waited}
        with _writing(self.folder / "result.json"):
            (self.folder / "result.json").write_text(json.dumps({"step": self.step, "unit": unit, "dataset_source": self.data.source["kind"],
                                                                 "seeds": seeds, **timing}, indent=1))
        if seeds:
            columns = list(next(iter(seeds.values())))
            print(f"\n{unit}{self.mark}, {self.args.eval_episodes} episodes\n{'seed':>10}" + "".join(f"{c:>18}" for c in columns))
            for seed, row in seeds.items():
                print(f"{seed:>10}" + "".join(f"{row[c]:>18.1f}" for c in columns))
            if len(seeds) > 1:
                table = np.array([[row[c] for c in columns] for row in seeds.values()])
                print(f"{'mean ± std':>10}" + "".join(f"{f'{m:.1f} ± {s:.1f}':>18}" for m, s in zip(table.mean(0), table.std(0))))
        if self.wandb:
            self.wandb.finish()
        print(f"{self.step:,} updates, {timing['updates_per_second'] or 0:.1f} a second; files in {self.folder}")

    # ---- checkpoints

    def save(self) -> None:
        """checkpoint.pt, whole or not at all: everything that the rest of the run depends on, for every agent."""
        waiting = [[step, seed, weights] for step, seed, weights, _ in self.evaluator.waiting] if self.evaluator else []
        state = {"step": self.step, "seconds": self.seconds, "agents": [snapshot(agent) for agent in self.agents], "waiting": waiting}
        path, part = self.folder / "checkpoint.pt", self.folder / "checkpoint.pt.part"
        with _writing(path):
            try:
                with open(part, "wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    def _restore(self):
        config = json.loads((self.folder / "config.json").read_text())
        if config["data"]["sha256"] != self.data.source["sha256"]:
            raise InputError(f"--resume {self.folder}: the data have changed (then from {config['data']['path']}, now from "
                             f"{self.data.source['path']}); put the old ones back or start a new run")
        path = self.folder / "checkpoint.pt"
        waiting = []
        if path.exists():  # else the run was killed before its first checkpoint: it starts again
            try:
                state = torch.load(path, weights_only=True, map_location="cpu")
                self.step, self.seconds, waiting = state["step"], state["seconds"], state["waiting"]
                for agent, saved in zip(self.agents, state["agents"], strict=True):
                    restore(agent, saved)
            except Exception as error:
                raise InputError(f"{path}: cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from None
        pending = {(step, seed) for step, seed, _ in waiting}
        self._keep("log.csv", lambda step, seed: step <= self.step)
        for row in self._keep("eval.csv", lambda step, seed: step <= self.step and (step, seed) not in pending):
            self.scores[int(row["seed"])].append((int(row["step"]), float(row["score"] or row["return_mean"])))
        for step, seed, weights in waiting:
            actor = self.agents[self.args.seeds.index(seed)].actor
            now = {key: value.clone() for key, value in actor.state_dict().items()}
            actor.load_state_dict(weights)
            self.evaluator.submit(step, seed, actor)
            actor.load_state_dict(now)
        print(f"resumed at update {self.step:,}")

    def _keep(self, name, wanted):
        """Cut a CSV back to the rows the checkpoint knows of; return them."""
        path = self.folder / name
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        header = lines[0].strip().split(",") if lines else []
        rows, kept = [], lines[:1]
        for line in lines[1:]:
            values = next(csv.reader([line]))
            if line.endswith("\n") and len(values) == len(header) and wanted(int(values[0]), int(values[1])):
                kept.append(line)
                rows.append(dict(zip(header, values)))
        with _writing(path):
            part = path.with_suffix(".part")
            part.write_text("".join(kept if rows else []))
            part.replace(path)
        return rows


def snapshot(agent) -> dict:
    """Everything in an agent's attributes that training changes, as tensors and plain values.

    Modules, optimisers and whatever else has a state_dict, generators, tensors and counters are saved; arguments, data and devices are not
    state. Any other attribute is a TypeError: better than a resume that forgets it.
    """
    state = {}
    for name, value in vars(agent).items():
        if hasattr(value, "state_dict"):
            state[name] = value.state_dict()
        elif isinstance(value, torch.Generator):
            state[name] = value.get_state()
        elif isinstance(value, torch.Tensor):
            state[name] = value.detach()
        elif isinstance(value, (bool, int, float)):
            state[name] = value
        elif not (isinstance(value, (str, torch.device, type(None))) or name in ("args", "data")):
            raise TypeError(f"{type(agent).__name__}.{name}: a checkpoint cannot save a {type(value).__name__}; "
                            "keep state in modules, optimisers, tensors, generators or counters")
    return state


def restore(agent, state: dict) -> None:
    """Put a snapshot back, tensors in place."""
    for name, saved in state.items():
        value = getattr(agent, name)
        if hasattr(value, "load_state_dict"):
            value.load_state_dict(saved)
        elif isinstance(value, torch.Generator):
            value.set_state(saved)
        elif isinstance(value, torch.Tensor):
            with torch.no_grad():
                value.copy_(saved)
        else:
            setattr(agent, name, saved)
