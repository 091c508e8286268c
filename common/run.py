"""A run: its folder, logs, checkpoints, progress and final report."""

import contextlib
import copy
import csv
import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import distributions
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import InputError, RunError, friendly, in_main_thread, keep_memory, lock, plain_streams  # noqa: F401
from common.args import FREE, RunArgs, parse, read_config  # noqa: F401  files copied from older versions look here
from common.checkpoint import check_fit, facts, lengthen, read_checkpoint, save_sealed, snapshot, whole, writing
from common.evaluation import Evaluator, evaluation_task, normalized_score
from common.holdout import check_holdout, errors
from common.loading import start_from
from common.physics import version


class Run:
    """Folder, logs, evaluations, checkpoints and report of agents trained side by side.

    Files: config.json, log.csv (a row per seed and `log_every` updates), eval.csv (a row per seed and evaluation, with
    each episode's return), checkpoint.pt, result.json at the end. The CSVs hold no times: a resumed run repeats them.
    """

    def __init__(self, args, agents: list):
        self.args, self.agents, self.data = args, agents, agents[0].data
        self.script = Path(inspect.getfile(type(agents[0])))
        check_holdout(args, self.data, self.script)
        self.task = evaluation_task(self.data, args.eval_env)
        self.evaluator = Evaluator(self.task, self.data, args) if self.task else None
        self.step, self.seconds, self.scores = 0, 0.0, {seed: [] for seed in args.seeds}
        self.pretraining = 0.0  # seconds before the first update, of a kept model too (common/pretraining.py)
        self.mark, self.stop, self.bar, self.wandb = " [stand-in data]" * self.data.standin, None, None, None
        self.rows, self.headers = {"log.csv": [], "eval.csv": []}, {}  # the tables' text, as a checkpoint keeps it
        try:  # now, not at the first save
            self.attributes = [list(snapshot(agent)) for agent in agents]
        except TypeError as error:
            raise InputError(str(error)) from None
        if self.evaluator:
            self.evaluator.stopped = lambda: self.stop
        plain_streams()  # as `friendly` does: also where a person's own code calls main
        begun = args.resume and os.path.lexists(args.resume / "checkpoint.pt")
        self.start = start_from(args.init_from, args.seeds, agents) if args.init_from and not begun else None
        torch.backends.cuda.matmul.allow_tf32 = args.tf32
        keep_memory()
        self.folder = args.resume or self._create()
        self.config = read_config(self.folder)  # before it is locked: closing a file frees a process's locks on it
        self._lock()
        if args.resume:
            self._restore()
        print(f"run folder: {self.folder}")
        if args.track:
            self._track()

    def _lock(self):
        with writing(self.folder / "config.json"):
            self.lock = lock(self.folder / "config.json")
        if not self.lock:
            raise InputError(f"{self.folder}: another process is training this run; wait for it, or stop it")

    def _create(self) -> Path:
        env = Path(self.args.env).stem if self.data.source["kind"] == "file" else self.args.env.replace("/", "_")
        start, standin = time.strftime("%Y%m%d-%H%M%S"), ".standin" if self.data.standin else ""
        name = f"{self.script.stem}-{env}{standin}-{start}-{time.time_ns() // 1_000_000 % 1000:03}"
        common = Path(__file__).resolve().parent
        cuda, packages = self.args.device.startswith("cuda"), ("torch", "numpy", "gymnasium", "mujoco", "minari")
        versions = {d.name: d.version for d in distributions() if d.name in packages}
        config = {"algorithm": self.script.stem, "args": asdict(self.args), "task": self.task,
                  "git": commit(self.script.parent), "common": {"path": str(common), "git": commit(common)},
                  "physics": version(self.task, self.args.physics), "data": self.data.source,
                  "dataset_source": self.data.source["kind"], "versions": versions | {"python": sys.version.split()[0]},
                  "device": torch.cuda.get_device_name(self.args.device) if cuda else self.args.device,
                  "command": shlex.join(sys.argv), "started": start, "obs_std": self.data.obs_std.tolist(),
                  "action_size": self.data.action_size, "init_from": self.start,
                  "threads": torch.get_num_threads(), "wandb_id": re.sub("[^A-Za-z0-9_-]", "-", name)[-128:]}
        with writing(folder := self.args.runs / name):
            folder.mkdir(parents=True)
        with whole(folder / "config.json") as file:
            file.write(json.dumps(config, indent=1, default=str).encode())
        return folder

    def _track(self):
        try:
            import wandb
            self.wandb = wandb.init(
                id=self.config.get("wandb_id") or self.folder.resolve().name,  # as runs of older versions were called
                resume="allow", dir=self.folder, config=vars(self.args),
                project=os.environ.get("WANDB_PROJECT") or "solo", group=f"{self.script.stem}-{self.data.name}"[-128:])
            self.wandb.define_metric("step")
            self.wandb.define_metric("*", step_metric="step")
        except Exception as error:  # W&B raises many kinds
            raise InputError(f"--track: {type(error).__name__}: {error}; wandb login, set WANDB_MODE=offline, or leave "
                             f"it out: --resume {self.folder}") from None

    @contextlib.contextmanager
    def stoppable(self):
        """Ctrl-C and SIGTERM, as often as they come, only set `stop` meanwhile: nothing is left half done."""
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread() else ()
        handlers = {number: signal.signal(number, lambda *_: setattr(self, "stop", 1)) for number in numbers}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def steps(self, updates: int):
        """Yield the numbers of the updates still to do; save now and then, at the end, and on Ctrl-C or SIGTERM."""
        self.bar = tqdm(total=updates, initial=self.step, unit="update", disable=not sys.stderr.isatty())
        saved, begin = time.monotonic(), time.monotonic() - self.seconds
        with self.stoppable():
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
                        raise KeyboardInterrupt(f"stopped at update {self.step:,}; continue with {self.command()}")
            finally:
                self.bar.close()
                if self.stop or self.step < updates:
                    self.close()

    def close(self):
        self.lock = self.lock and os.close(self.lock)
        if self.evaluator:
            self.evaluator.close()

    def command(self):
        named = ["--eval-env", self.args.eval_env] if ":" in self.args.eval_env else []  # a module: typed again
        return shlex.join(["python", os.path.relpath(self.script), "--resume", str(self.folder), *named])

    def due(self, step: int) -> bool:
        """Does `log` look at this update's numbers? At each `log_every`-th, the last, and the first, to check them."""
        return self._has_row(step) or "log.csv" not in self.headers

    def _has_row(self, step):
        return step % self.args.log_every == 0 or step == self.args.updates

    def log(self, step: int, logs: list[dict]) -> None:
        """A row per seed, each `log_every` updates and at the last, of an update's numbers and scalar tensors.

        RunError if one is not finite; InputError if one is no number, at once, or the names are not those of before.
        """
        if not self.due(step):
            return
        logs = [log | errors(agent) for log, agent in zip(logs, self.agents)]
        rows = [{"step": step, "seed": seed} | _numbers(log) for seed, log in zip(self.args.seeds, logs)]
        self.headers.setdefault("log.csv", list(rows[0]))
        for row in rows if self._has_row(step) else ():
            if bad := [key for key, value in row.items() if not np.isfinite(value)]:
                raise RunError(f"diverged: {bad[0]} is {row[bad[0]]}, update {step:,}, seed {row['seed']}; see "
                               f"{self.folder}")
            self._append("log.csv", row)
        if self._has_row(step) and self.bar is not None and not self.evaluator:  # the first two and the held-out
            keys = [key for i, key in enumerate(rows[0]) if i in (2, 3) or key in ("holdout_cloning", "holdout_td")]
            self.bar.set_postfix_str("  ".join(f"{key} {np.mean([row[key] for row in rows]):.3g}" for key in keys))

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
            raise RunError(f"{error}. Training is saved at update {step:,}; continue with {self.command()}") from error

    def _score(self, step, seed, returns, lengths):
        mean, score = returns.mean(), self._normalised(returns.mean())
        value = float(mean if score is None else score)
        agent = self.agents[self.args.seeds.index(seed)]
        row = {"step": step, "seed": seed, "episodes": len(returns), "return_mean": mean,
               "return_std": returns.std(), "score": "" if score is None else score, "length_mean": lengths.mean(),
               "data": self.data.source["kind"], **self.evaluator.compared(step, seed, agent, value),
               "returns": " ".join(f"{r:.6g}" for r in returns)}
        self._append("eval.csv", row)
        self.scores[seed].append(value)
        shown = f"{mean:.1f}" + f" ± {returns.std():.1f}" * (len(returns) > 1)  # one episode has no spread
        shown += f"   normalised score {score:.1f}" if score is not None else ""
        with tqdm.external_write_mode():
            print(f"update {step:>9,}   seed {seed}   return {shown}{self.mark}", flush=True)
        if self.bar is not None:
            self.bar.set_postfix_str(f"score {self.scores[seed][-1]:.1f}{self.mark}")

    def _normalised(self, mean):
        return normalized_score(self.task, mean, (self.args.score_min, self.args.score_max))

    def _append(self, name, row):
        header, line = self.headers.setdefault(name, list(row)), io.StringIO()
        if set(row) != set(header):
            raise InputError(f"update() gave {', '.join(row)}, and before {', '.join(header)}: {self.folder / name} "
                             "needs the same names from every update and agent")
        writer = csv.writer(line, lineterminator="\n")
        if not self.rows[name]:
            writer.writerow(header)
        writer.writerow([repr(float(x)) if isinstance(x, float) else x for x in map(row.get, header)])
        self.rows[name].append(line.getvalue())
        with writing(self.folder / name), open(self.folder / name, "a", newline="", encoding="utf-8") as file:
            file.write(line.getvalue())
        if self.wandb:
            numbers = {key: value for key, value in row.items() if isinstance(value, float)}
            prefix = f"{name[:-4]}/seed{row['seed']}"
            self.wandb.log({"step": row["step"]} | {f"{prefix}/{key}": value for key, value in numbers.items()})

    def report(self) -> None:
        """Wait for the last evaluations; print last, mean of last 10 and best of every seed; write result.json."""
        with self.stoppable():
            self._report()
        if self.stop:
            raise KeyboardInterrupt(f"stopped when all was done; files in {self.folder}")

    def _report(self):
        self.evaluate(self.step, last=True)
        self.save()
        if self.evaluator and self.evaluator.waiting:
            self.close()
            raise KeyboardInterrupt(f"evaluation is not finished; continue with {self.command()}")
        self._write_tables()
        unit = "return (no reference scores)" if self._normalised(0.0) is None else "normalised score"
        seeds = {seed: {"last": s[-1], "mean_of_last_10": float(np.mean(s[-10:])), "best": max(s)}
                 for seed, s in self.scores.items() if s}
        result = {"step": self.step, "unit": unit, "dataset_source": self.data.source["kind"], "seeds": seeds,
                  "training_seconds": self.seconds, "updates_per_second": self.step / max(self.seconds, 1e-9)}
        for seed, row in seeds.items():
            if (reference := self.evaluator.references.get(seed)) is not None:
                row |= {"reference": reference, "difference": row["last"] - reference}
        result |= {"pretraining_seconds": self.pretraining} if self.pretraining else {}
        if self.evaluator:
            result |= {"evaluation_seconds": self.evaluator.seconds, "evaluation_waited": self.evaluator.waited,
                       "evaluation_after": self.evaluator.after}
        self.close()
        with whole(self.folder / "result.json") as file:
            file.write(json.dumps(result, indent=1).encode())
        if seeds:
            table = np.array([list(row.values()) for row in seeds.values()])
            rows = [(seed, *(f"{value:.1f}" for value in row)) for seed, row in zip(seeds, table)]
            if len(rows) > 1:  # one seed has no spread
                rows.append(("mean ± std", *(f"{m:.1f} ± {s:.1f}" for m, s in zip(table.mean(0), table.std(0)))))
            print(f"\n{unit}, {self.args.eval_episodes} episodes")
            for row in [["seed", *(name.replace("_", " ") for name in next(iter(seeds.values())))], *rows]:
                print(f"{row[0]:>12}" + "".join(f"{text:>18}" for text in row[1:]) + self.mark)
        print(f"{self.step:,} updates, {result['updates_per_second']:.1f} a second; files in {self.folder}")
        if self.evaluator:
            took, waited, after = (result[f"evaluation_{part}"] for part in ("seconds", "waited", "after"))
            print(f"evaluation took {took:.1f} s; training waited for {waited:.1f} s of it "
                  f"({waited / max(self.seconds, 1e-9):.1%}), and {after:.1f} s at its end")

    def save(self) -> None:
        """checkpoint.pt, whole or not at all: everything that the rest of the run depends on."""
        state = {"step": self.step, "seconds": self.seconds, "pretraining": self.pretraining,
                 "data": self.data.source["sha256"],
                 "facts": facts(self.config),
                 "settings": {flag: value for flag, value in self._settings().items() if flag in self.config["args"]},
                 "rows": {name: "".join(rows) for name, rows in self.rows.items()},
                 "agents": [snapshot(agent) for agent in self.agents],
                 "waiting": [list(job[:3]) for job in self.evaluator.waiting] if self.evaluator else [],
                 "evaluation": [e.seconds, e.waited, e.after] if (e := self.evaluator) else []}
        for agent, names in zip(state["agents"], self.attributes):
            if changed := set(agent) ^ set(names):
                raise InputError(f"{self.script}: {', '.join(sorted(changed))} came or went in training, and could not "
                                 "be resumed; give it its kind of value in __init__")
        with whole(self.folder / "checkpoint.pt") as file:
            save_sealed(state, file)

    def _settings(self) -> dict:
        """The flags that a resumed run keeps; its own file is known by its SHA-256, wherever it lies. A checkpoint has
        those of config.json, which an older version may have written: whoever reads both finds them equal."""
        free = FREE | {"runs", "resume"} | ({"env"} if self.data.source["kind"] == "file" else set())
        settings = {flag: value for flag, value in asdict(self.args).items() if flag not in free}
        return json.loads(json.dumps(settings, default=str))

    def _restore(self):
        path = self.folder / "checkpoint.pt"
        if os.path.lexists(path):  # else the run was killed before its first checkpoint, and starts again
            state = read_checkpoint(path)
            try:
                self._put_back(state)
            except Exception as error:
                why = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
                raise InputError(f"{path}: cannot be continued ({why})") from None
        elif self.start != self.config.get("init_from"):
            raise InputError(f"{self.args.init_from}: has other weights than those that {self.folder} started from")
        if self.args.updates != self.config["args"]["updates"]:
            self._lengthen()
        self._write_tables()
        print(f"resumed at update {self.step:,}")

    def _put_back(self, state):
        """Agents, counters, rows and scores as a checkpoint has them. ValueError: it does not fit the run."""
        if "rows" not in state:
            raise ValueError(f"an older version saved it, git {self.config.get('git') or 'unknown'}; continue it with "
                             "that one, or start a new run")
        if state["data"] != (here := self.data.source["sha256"]):
            advice = f"; go on with the version that simulated it, {self.config.get('git') or 'unknown'}"
            raise ValueError(f"its data had SHA-256 {state['data']}, {self.data.source['path']} has {here}"
                             + advice * self.data.standin)
        if self.args.updates != self.config["args"]["updates"]:
            lengthen(state, self.args)
        elif (more := state.get("settings", {}).get("updates", self.args.updates)) != self.args.updates:
            raise ValueError(f"it was saved with updates {more}, config.json has {self.args.updates}; if it was being "
                             f"extended, go on with --updates {more}")
        check_fit(state, self.config | {"args": self._settings()})
        for agent, saved in zip(self.agents, state["agents"]):
            snapshot(agent, saved)
        self.step, self.seconds, self.pretraining = state["step"], state["seconds"], state.get("pretraining", 0.0)
        for name in self.rows:
            text = state["rows"][name]
            self.rows[name], table = [text] * bool(text), csv.DictReader(io.StringIO(text))
            self.headers |= {name: table.fieldnames} if text else {}
            for row in table if name == "eval.csv" else ():
                self.scores[int(row["seed"])].append(float(row["score"] or row["return_mean"]))
                if row.get("reference"):
                    self.evaluator.references[int(row["seed"])] = float(row["reference"])
        if self.evaluator:
            self.evaluator.seconds, self.evaluator.waited, self.evaluator.after = state["evaluation"]
        for step, seed, weights in state["waiting"]:
            actor = copy.deepcopy(self.agents[self.args.seeds.index(seed)].actor)
            actor.load_state_dict(weights)
            self.evaluator.submit(step, seed, actor)

    def _lengthen(self):
        """The run has more updates from here on. The checkpoint is told first: a kill in between asks for the same
        command again."""
        if self.step:
            self.save()
        with writing(path := self.folder / "config.json"):
            (self.folder / "result.json").unlink(missing_ok=True)  # it is not finished
        args = self.config["args"]
        self.config |= {"args": args | {"updates": self.args.updates},
                        "extended": [*self.config.get("extended", []), args["updates"]]}
        with whole(path) as file:
            file.write(json.dumps(self.config, indent=1).encode())
        os.close(self.lock)  # it is of the file before
        self._lock()
        print(f"its updates are now {self.args.updates:,}, not {args['updates']:,}; rows that only the old last one "
              "had are left out")

    def _write_tables(self):
        """log.csv and eval.csv anew, on the disk for certain, without the rows that a resumed run will repeat."""
        for name, rows in self.rows.items():
            path, text = self.folder / name, "".join(rows).encode()
            with writing(path):
                here = path.read_bytes() if path.is_file() else b""
            if not here.startswith(text):
                print(f"{name}: rows were lost or changed since the checkpoint; restored from it")
            if text or os.path.lexists(path):  # not to append to what a link names
                with whole(path) as file:
                    file.write(text)


def commit(folder) -> str:
    """The commit of a folder's checkout; an empty string: it is in none, or there is no git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def _numbers(log: dict) -> dict[str, float]:
    """An update's numbers and scalar tensors as floats. InputError: something else, or a name that is the row's own."""
    for key, x in log.items():
        scalar = x.ndim == 0 and not x.is_complex() if isinstance(x, torch.Tensor) else isinstance(x, Real)
        if not scalar or key in ("step", "seed"):
            what = f"a tensor {tuple(x.shape)} {x.dtype}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise InputError(f"update() gave {key!r}, {what}: give plain numbers and tensors without dimensions, under "
                             "other names than step and seed")
    return {key: float(x.detach() if isinstance(x, torch.Tensor) else x) for key, x in log.items()}
