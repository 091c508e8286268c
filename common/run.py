"""A run: its folder, logs, checkpoints, progress and final report."""

import contextlib
import copy
import csv
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import InputError, RunError, keep_memory, lock
from common.evaluation import Evaluator, normalized_score

RENAMED = {"time": "count"}  # attributes of agents in checkpoints of older versions


@contextlib.contextmanager
def _writing(path):
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise InputError(f"cannot write {path} ({error}); free space or choose another folder with --runs. A "
                         "checkpoint that is there is whole: --resume continues from it") from None


class Run:
    """Folder, logs, evaluations, checkpoints and report of agents trained side by side.

    Files: config.json, log.csv (a row per seed and `log_every` updates), eval.csv (a row per seed and evaluation, with
    each episode's return), checkpoint.pt, result.json at the end. The CSVs hold no times: a resumed run repeats them.
    """

    def __init__(self, args, agents: list):
        self.args, self.agents, self.data = args, agents, agents[0].data
        self.script = Path(inspect.getfile(type(agents[0])))
        self.task = {"auto": self.data.task, "none": None}.get(args.eval_env, args.eval_env)
        self.evaluator = Evaluator(self.task, self.data, args) if self.task else None
        if not self.task:
            print("no evaluation: name a task with --eval-env, for example --eval-env hopper-medium-v2")
        self.step, self.seconds, self.scores = 0, 0.0, {seed: [] for seed in args.seeds}
        self.mark, self.stop, self.bar, self.wandb = " [stand-in data]" * self.data.standin, None, None, None
        torch.backends.cuda.matmul.allow_tf32 = args.tf32
        keep_memory()
        self.folder = args.resume or self._create()
        with _writing(self.folder / "config.json"):
            self.lock = lock(self.folder / "config.json")
        if not self.lock:
            raise InputError(f"{self.folder}: another process is training this run; wait for it, or stop it")
        if args.resume:
            self._restore()
        print(f"run folder: {self.folder}")
        if args.track:
            import wandb
            self.wandb = wandb.init(project="solo", id=self.folder.name, resume="allow", dir=self.folder,
                                    config=vars(args))

    def _create(self) -> Path:
        env = Path(self.args.env).stem if self.data.source["kind"] == "file" else self.args.env.replace("/", "_")
        start, standin = time.strftime("%Y%m%d-%H%M%S"), ".standin" if self.data.standin else ""
        name = f"{self.script.stem}-{env}{standin}-{start}-{time.time_ns() // 1_000_000 % 1000:03}"
        git = subprocess.getoutput(f"git -C '{self.script.parent}' describe --always --dirty --abbrev=40 2>/dev/null")
        cuda, packages = self.args.device.startswith("cuda"), ("torch", "numpy", "gymnasium", "mujoco", "minari")
        versions = {d.name: d.version for d in distributions() if d.name in packages}
        config = {"algorithm": self.script.stem, "args": asdict(self.args), "task": self.task, "git": git,
                  "physics": "stored" if "/" in str(self.task) else self.args.physics, "data": self.data.source,
                  "dataset_source": self.data.source["kind"], "versions": versions | {"python": sys.version.split()[0]},
                  "device": torch.cuda.get_device_name(self.args.device) if cuda else self.args.device,
                  "command": shlex.join(sys.argv), "started": start, "obs_std": self.data.obs_std.tolist(),
                  "threads": torch.get_num_threads()}
        with _writing(self.args.runs / name):
            (self.args.runs / name).mkdir(parents=True)
            (self.args.runs / name / "config.json").write_text(json.dumps(config, indent=1, default=str))
        return self.args.runs / name

    def steps(self, updates: int):
        """Yield the numbers of the updates still to do; save now and then, at the end, and on Ctrl-C or SIGTERM."""
        handlers = {s: signal.signal(s, lambda *_: setattr(self, "stop", 1)) for s in (signal.SIGINT, signal.SIGTERM)}
        self.bar = tqdm(total=updates, initial=self.step, unit="update", disable=not sys.stderr.isatty())
        saved, begin = time.monotonic(), time.monotonic() - self.seconds
        try:
            while self.step < updates:
                yield self.step + 1
                self.step, now = self.step + 1, time.monotonic()
                self.seconds = now - begin
                self.bar.update()
                if self.stop or self.step == updates or now - saved >= self.args.save_seconds:
                    self.save()
                    saved = now
                if self.stop:
                    raise KeyboardInterrupt(f"stopped at update {self.step:,}; continue with {self._command()}")
        finally:
            self.bar.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self.step < updates:
                self._close()

    def _close(self):
        self.lock = self.lock and os.close(self.lock)
        if self.evaluator:
            self.evaluator.close()

    def _command(self):
        return shlex.join(["python", os.path.relpath(self.script), "--resume", str(self.folder)])

    def log(self, step: int, logs: list[dict]) -> None:
        """A row per seed of scalar tensors, each `log_every` updates and at the last; RunError if one is not finite."""
        if step % self.args.log_every and step != self.args.updates:
            return
        for seed, log in zip(self.args.seeds, logs):
            row = dict(zip(log, torch.stack([value.detach().float() for value in log.values()]).tolist()))
            if bad := [key for key, value in row.items() if not np.isfinite(value)]:
                raise RunError(f"diverged: {bad[0]} is {row[bad[0]]}, update {step:,}, seed {seed}; see {self.folder}")
            self._append("log.csv", {"step": step, "seed": seed, **row})

    def evaluate(self, step: int, last: bool = False) -> None:
        """Hand actors to the evaluator, each `eval_every` updates and at the last; take delivery of what is done."""
        try:
            if self.evaluator and not last and (step % self.args.eval_every == 0 or step == self.args.updates):
                for seed, agent in zip(self.args.seeds, self.agents):
                    self.evaluator.submit(step, seed, agent.actor)
            for result in self.evaluator.finished(wait=last) if self.evaluator else ():
                self._score(*result)
        except RunError as error:
            self.step = step
            self.save()
            raise RunError(f"{error}. Training is saved at update {step:,}; continue with {self._command()}") from error

    def _score(self, step, seed, returns, lengths):
        mean, score = returns.mean(), normalized_score(self.task, returns.mean())
        self._append("eval.csv", {"step": step, "seed": seed, "episodes": len(returns), "return_mean": mean,
                                  "return_std": returns.std(), "score": "" if score is None else score,
                                  "length_mean": lengths.mean(), "data": self.data.source["kind"],
                                  "returns": " ".join(f"{r:.6g}" for r in returns)})
        self.scores[seed].append(float(mean if score is None else score))
        shown = f"{mean:.1f} ± {returns.std():.1f}" + (f"   normalised score {score:.1f}" if score is not None else "")
        with tqdm.external_write_mode():
            print(f"update {step:>9,}   seed {seed}   return {shown}{self.mark}", flush=True)
        if self.bar is not None:
            self.bar.set_postfix_str(f"score {self.scores[seed][-1]:.1f}{self.mark}")

    def _append(self, name, row):
        with _writing(self.folder / name), open(self.folder / name, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(row)
            writer.writerow([repr(float(value)) if isinstance(value, float) else value for value in row.values()])
        if self.wandb:
            numbers = {key: value for key, value in row.items() if isinstance(value, float)}
            self.wandb.log({"step": row["step"], f"{name[:-4]}/seed{row['seed']}": numbers})

    def report(self) -> None:
        """Wait for the last evaluations; print last, mean of last 10 and best of every seed; write result.json."""
        waited = self.evaluator.waited if self.evaluator else 0.0  # while there was training to do
        try:
            self.evaluate(self.step, last=True)
        except KeyboardInterrupt:  # the checkpoint that `steps` left at the end has what is missing
            raise KeyboardInterrupt(f"evaluation is not finished; continue with {self._command()}") from None
        self.save()
        unit = "return (no reference scores)" if normalized_score(self.task, 0.0) is None else "normalised score"
        seeds = {seed: {"last": s[-1], "mean_of_last_10": float(np.mean(s[-10:])), "best": max(s)}
                 for seed, s in self.scores.items() if s}
        result = {"step": self.step, "unit": unit, "dataset_source": self.data.source["kind"], "seeds": seeds,
                  "training_seconds": self.seconds, "updates_per_second": self.step / max(self.seconds, 1e-9)}
        if self.evaluator:
            result |= {"evaluation_seconds": self.evaluator.seconds, "evaluation_waited": waited,
                       "evaluation_after": self.evaluator.waited - waited}
        self._close()
        with _writing(self.folder / "result.json"):
            (self.folder / "result.json").write_text(json.dumps(result, indent=1))
        if seeds:
            table = np.array([list(row.values()) for row in seeds.values()])
            rows = [(seed, *(f"{value:.1f}" for value in row)) for seed, row in zip(seeds, table)]
            rows.append(("mean ± std", *(f"{m:.1f} ± {s:.1f}" for m, s in zip(table.mean(0), table.std(0)))))
            print(f"\n{unit}, {self.args.eval_episodes} episodes")
            for row in [("seed", "last", "mean of last 10", "best"), *rows]:
                print("{:>12}{:>18}{:>18}{:>18}".format(*row) + self.mark)
        print(f"{self.step:,} updates, {result['updates_per_second']:.1f} a second; files in {self.folder}")
        if self.evaluator:
            print(f"evaluation took {self.evaluator.seconds:.1f} s; training waited for {waited:.1f} s of it "
                  f"({waited / max(self.seconds, 1e-9):.1%}), and {self.evaluator.waited - waited:.1f} s at its end")

    def save(self) -> None:
        """checkpoint.pt, whole or not at all: everything that the rest of the run depends on."""
        state = {"step": self.step, "seconds": self.seconds, "data": self.data.source["sha256"],
                 "agents": [snapshot(agent) for agent in self.agents],
                 "waiting": [list(job[:3]) for job in self.evaluator.waiting] if self.evaluator else [],
                 "evaluation": [self.evaluator.seconds, self.evaluator.waited] if self.evaluator else []}
        part = self.folder / "checkpoint.pt.part"
        with _writing(self.folder / "checkpoint.pt"):
            try:
                with open(part, "wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self.folder / "checkpoint.pt")
            finally:
                part.unlink(missing_ok=True)

    def _restore(self):
        path, state = self.folder / "checkpoint.pt", {"step": 0, "seconds": 0.0, "agents": [], "waiting": []}
        try:
            if path.exists():  # else the run was killed before its first checkpoint, and starts again
                state = torch.load(path, weights_only=True, map_location="cpu")
            if state.get("data", here := self.data.source["sha256"]) != here:
                raise ValueError(f"its data had SHA-256 {state['data']}, {self.data.source['path']} has {here}")
            for agent, saved in zip(self.agents, state["agents"]):
                names = [name if hasattr(agent, name) else RENAMED.get(name, name) for name in saved]
                snapshot(agent, dict(zip(names, saved.values())))
        except Exception as error:
            raise InputError(f"{path}: cannot be continued ({type(error).__name__}: {error})") from None
        waiting, self.step, self.seconds = {tuple(job[:2]) for job in state["waiting"]}, state["step"], state["seconds"]
        self._cut("log.csv", lambda step, seed: step <= self.step)
        for row in self._cut("eval.csv", lambda step, seed: step <= self.step and (step, seed) not in waiting):
            self.scores[int(row["seed"])].append(float(row["score"] or row["return_mean"]))
        if state.get("evaluation"):
            self.evaluator.seconds, self.evaluator.waited = state["evaluation"]
        for step, seed, weights in state["waiting"]:
            actor = copy.deepcopy(self.agents[self.args.seeds.index(seed)].actor)
            actor.load_state_dict(weights)
            self.evaluator.submit(step, seed, actor)
        print(f"resumed at update {self.step:,}")

    def _cut(self, name, known) -> list[dict]:
        """Leave the rows that the checkpoint knows of, and return them."""
        path, part = self.folder / name, self.folder / f"{name}.part"
        if not path.exists():
            return []
        header, *rows = csv.reader(path.read_text(errors="replace").replace("\0", "?").splitlines() or ["step,seed"])
        rows = [row for row in rows if len(row) == len(header) and row[0].isdigit() and known(int(row[0]), int(row[1]))]
        with _writing(path):
            with open(part, "w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([header, *rows] if rows else [])
            part.replace(path)
        return [dict(zip(header, row)) for row in rows]


def snapshot(agent, saved: dict | None = None) -> dict:
    """All that training changes in an agent's attributes (the branches below); `saved`, if given, is put back.

    Any other attribute but arguments, data, strings and devices is a TypeError: better than a resume that forgets it.
    """
    state = {}
    for name, value in list(vars(agent).items()):
        if name in ("args", "data") or value is None or isinstance(value, (str, torch.device)):
            continue
        if hasattr(value, "state_dict"):
            get, put = value.state_dict, value.load_state_dict
        elif isinstance(value, torch.Generator):
            get, put = value.get_state, value.set_state
        elif isinstance(value, torch.Tensor):
            get, put = value.detach, value.data.copy_
        elif isinstance(value, (bool, int, float)):
            get, put = (lambda: value), (lambda new: setattr(agent, name, new))
        else:
            raise TypeError(f"{type(agent).__name__}.{name}: a checkpoint cannot save a {type(value).__name__}; keep "
                            "state in modules, optimisers, tensors, generators or numbers")
        state[name] = get() if saved is None else put(saved[name])
    return state
