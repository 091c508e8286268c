"""What agents learn before their first update: epoch by epoch, kept for other runs, continued where it was killed.

A model depends on the data, the seed and its preset, not on the penalty or the horizon that a sweep changes. So it is
kept in the cache ($SOLO_CACHE, else ~/.cache/solo) under a name made of all that it depends on, and no other is found.
"""

import contextlib
import hashlib
import inspect
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common import InputError, RunError, lock
from common.checkpoint import read_checkpoint, save_sealed, snapshot, whole
from common.data import Dataset
from common.graph import side_by_side
from common.sources import cache_file

VERSION = 1  # of this file and dynamics.py: one more where the same data and seed give another result than before


class Stage:
    """What is trained before the first update, for instance a model: common/dynamics.py's `Fit`.

    It has `args`, a dataclass of its settings, and `data`; `update(log)`, `rng`, `step` and perhaps `phase`, as agents
    have them (common/graph.py); `steps`, the updates of an epoch; and `done`. All that training changes is in
    attributes that a checkpoint can save.
    """
    name: str  # of its log, NAME.csv in the run's folder
    kept: tuple[str, ...]  # the attributes that others use afterwards

    def end_epoch(self) -> list[dict]:
        """What an epoch's end does, and rows of the log: {column: number}."""
        raise NotImplementedError

    def status(self) -> str:
        """A few words about the last epoch, for a progress bar."""
        return ""

    def finish(self) -> str:
        """What the end does, and a line about the result."""
        return "done"


class Regression(Stage):
    """Epochs of gradient steps, for E networks side by side, on batches of the data's rows.

    A subclass has `losses`: rows (E, B) -> the loss of each network on its own rows, (E,). It may have another `draw`.
    What is left of an epoch's N rows after the last full batch is not used.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, data: Dataset, rows: Tensor, args, epochs: int, seed: int):
        self.optimizer, self.data, self.rows, self.args, self.epochs = optimizer, data, rows, args, epochs
        self.rng = torch.Generator(data.device).manual_seed(seed)
        self.order = self.draw()
        self.steps = self.order.shape[1] // args.batch_size
        self.column = torch.zeros((), dtype=torch.int64, device=data.device)  # of the next batch's first row
        self.total = torch.zeros(len(self.order), device=data.device)  # of the losses in this epoch
        self.error = torch.inf  # mean loss of the last epoch
        self.step, self.epoch = 0, 0

    def draw(self) -> Tensor:
        """An epoch's rows for each network, in their order: (E, N)."""
        return self.rows[None]

    def losses(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def done(self) -> bool:
        return self.epoch >= self.epochs

    def update(self, log: bool = True) -> dict[str, Tensor]:
        columns = self.column + torch.arange(self.args.batch_size, device=self.data.device)
        losses = self.losses(self.order.index_select(1, columns))
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        self.total.add_(losses.detach())
        self.column.add_(self.args.batch_size)
        self.step += 1
        return {}

    def end_epoch(self) -> list[dict]:
        means = (self.total / self.steps).tolist()
        rows = [{"epoch": self.epoch, "network": e, "train": mean} for e, mean in enumerate(means)]
        self.error, self.epoch = sum(means) / len(means), self.epoch + 1
        self.order.copy_(self.draw())
        self.total.zero_()
        self.column.zero_()
        return rows

    def status(self) -> str:
        return f"training error {self.error:.4g}"

    finish = status


def pretrain(run, makers: list) -> None:
    """Train one stage after another; nothing, where a resumed run's checkpoint has them already. With --init-from a
    model is trained or found as ever, since it is the data's; no stage trains an actor that comes from another run.

    `makers`: for each of the run's seeds a function that makes its Stage.
    RunError: a number of the log is not finite. InputError: a kept file that is broken. KeyboardInterrupt: stopped.
    """
    if run.step:
        return
    with run.stoppable():
        try:
            lines = []
            for seed, make in zip(run.args.seeds, makers):
                fit = make()
                if "actor" in fit.kept and run.args.init_from:
                    print(f"{fit.name}, seed {seed}: left out, the actor is that of {run.args.init_from}", flush=True)
                else:
                    lines += Pretraining(run, seed, fit, lines).run_all()
        except BaseException:
            run.close()
            raise


class Pretraining:
    def __init__(self, run, seed: int, fit: Stage, lines: list[str]):
        self.run, self.seed, self.fit = run, seed, fit
        self.before, self.header, self.lines = lines, "", []  # of the log: of other seeds, its first line, of this one
        self.seconds = 0.0  # of training, whoever did it
        self.key = _key(fit, seed)
        self.path = cache_file(f"{fit.name}-{self.key[:32]}.pt")

    def run_all(self) -> list[str]:
        """The fit's kept attributes are trained, and these are its lines of the log."""
        with self._alone():
            state = self._restored()
            if not state["done"]:
                self._train()
                state = {"told": self.fit.finish(), "epoch": self.fit.epoch}
                self._save(state | {"done": True}, self._kept())
        self._write_log()
        self.run.pretraining += self.seconds
        print(f"{self.fit.name}, seed {self.seed}: {state['epoch']} epochs, {state['told']}", flush=True)
        return self.lines

    def _kept(self):
        return SimpleNamespace(**{name: getattr(self.fit, name) for name in self.fit.kept})

    def _train(self):
        fit, run, saved = self.fit, self.run, time.monotonic()
        begin = saved - self.seconds
        advance = side_by_side([fit])
        print(f"{fit.name}, seed {self.seed}: {fit.steps:,} steps an epoch, progress in "
              f"{run.folder / fit.name}.csv", flush=True)
        with tqdm(total=fit.steps, unit="step", disable=not sys.stderr.isatty()) as bar:
            while not fit.done:
                bar.set_description(f"{fit.name}, seed {self.seed}, epoch {fit.epoch}")
                advance(log=False)
                bar.update()
                if fit.step % fit.steps == 0:
                    self._log(fit.end_epoch())
                    bar.reset()
                    bar.set_postfix_str(fit.status())
                self.seconds = time.monotonic() - begin
                if run.stop or time.monotonic() - saved >= run.args.save_seconds:
                    self._save({"done": False})
                    saved = time.monotonic()
                if run.stop:
                    raise KeyboardInterrupt(f"stopped in epoch {fit.epoch} of the {fit.name}; continue with "
                                            f"{run.command()}")

    def _log(self, rows):
        self.header = ",".join(["seed", *rows[0]]) + "\n"
        self.lines += [",".join([str(self.seed), *map(repr, row.values())]) + "\n" for row in rows]
        self._write_log()
        if bad := [key for row in rows for key, value in row.items() if not np.isfinite(value)]:
            raise RunError(f"diverged: {bad[0]} of the {self.fit.name} is not finite, epoch {self.fit.epoch - 1}, seed "
                           f"{self.seed}; see {self.run.folder}")

    def _write_log(self):
        with whole(self.run.folder / f"{self.fit.name}.csv") as file:
            file.write("".join([self.header, *self.before, *self.lines]).encode())

    @contextlib.contextmanager
    def _alone(self):
        """While another process trains the same, wait; without a cache, go on alone."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            place = Path(f"{self.path}.lock")
            place.touch()
            told = False
            while (held := lock(place)) is None:
                if not told:
                    print(f"{self.fit.name}, seed {self.seed}: another process trains the same one; waiting for it",
                          flush=True)
                told = True
                if self.run.stop:
                    raise KeyboardInterrupt(f"stopped; continue with {self.run.command()}")
                time.sleep(0.2)
        except OSError as error:
            print(f"warning: the {self.fit.name} is not kept ({error}); set SOLO_CACHE to a writable folder")
            self.path = held = None
        try:
            yield
        finally:
            if held is not None:
                os.close(held)

    def _save(self, facts: dict, what=None):
        """The whole fit, to be continued, or what is left of it."""
        if self.path is None:
            return
        state = {"step": self.fit.step, "seconds": self.seconds, "key": self.key, "header": self.header,
                 "lines": self.lines, "agents": [snapshot(what or self.fit)]} | facts
        try:
            with whole(self.path) as file:
                save_sealed(state, file)
        except InputError as error:  # training goes on: what it has learned so far is worth more than the file
            print(f"warning: the {self.fit.name} is not kept ({error.__context__}); free space, or set SOLO_CACHE to "
                  "another folder", flush=True)

    def _restored(self) -> dict:
        if self.path is None or not os.path.lexists(self.path):
            return {"done": False}
        try:
            state = read_checkpoint(self.path)
            if state["key"] != self.key:
                raise ValueError("it is of other data, or of another version")
            snapshot(self._kept() if state["done"] else self.fit, state["agents"][0])
            self.header, self.lines, self.seconds = state["header"], state["lines"], state["seconds"]
        except InputError as error:
            raise InputError(f"{error}; then continue with {self.run.command()}") from None
        except Exception as error:
            raise InputError(f"{self.path}: cannot be used ({error}); delete it, and it is made again by "
                             f"{self.run.command()}") from None
        return state


def _key(fit: Stage, seed: int) -> str:
    """SHA-256 of all that the result depends on: data, seed, settings, initial weights, and the code that does it."""
    digest = hashlib.sha256()
    parts = [fit, *(getattr(fit, name) for name in fit.kept)]
    kinds = [type(part) for part in parts if not type(part).__module__.startswith(("torch.", "common."))]
    files = {inspect.getfile(kind) for kind in kinds}
    facts = {"version": VERSION, "name": fit.name, "seed": seed, "settings": asdict(fit.args),
             "files": sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files)}
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    digest.update(fit.data.rows.contiguous().cpu().numpy())
    for part in parts[1:]:
        for name, value in part.state_dict().items():
            digest.update(name.encode())
            digest.update(value.contiguous().cpu().numpy() if hasattr(value, "numpy") else repr(value).encode())
    return digest.hexdigest()
