"""Datasets that are made of D4RL's or stand-ins: files with next_observations, written once, then found."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.engine.files import whole
from common import InputError
from common.data import transitions
from common.sources import D4RL, read_arrays
from common.standin import standin_hash

KEYS = "observations", "actions", "rewards", "next_observations", "terminals"


@dataclass
class View:
    """Transitions as the loader gives them: `columns` in the order of KEYS, `ends` (N,): last rows of episodes."""
    columns: list[np.ndarray]
    ends: np.ndarray

    @property
    def rewards(self) -> np.ndarray:
        return self.columns[2].astype(np.float64)

    @property
    def starts(self) -> np.ndarray:
        return np.r_[0, np.flatnonzero(self.ends)[:-1] + 1]

    @property
    def returns(self) -> np.ndarray:
        """Of its episodes, (E,)."""
        return np.add.reduceat(self.rewards, self.starts)


def read(name: str, standin: bool, rows: int) -> View:
    """The view `d4rl` of a D4RL dataset; with `standin` of its stand-in, never of the data. InputError: not there."""
    if standin:
        os.environ |= {"SOLO_MIRRORS": "", "D4RL_DATASET_DIR": os.devnull}
    arrays, source = read_arrays(name, standin, rows)
    if standin and source["kind"] != "standin":
        raise InputError(f"D4RL's own {name} is in the cache; leave --standin out, or set SOLO_CACHE to another folder")
    columns, keep, episodes, _ = transitions(arrays, "d4rl", name, D4RL[name])
    ends = np.zeros(keep.sum(), bool)
    ends[episodes[:, 1] - 1] = True
    return View([column[keep] for column in columns], ends)


def tag(names: tuple[str, ...], standin: bool, rows: int) -> str:
    """For a file's name: other stand-ins, another file. InputError: a dataset without one."""
    if not standin:
        return ""
    if without := [name for name in names if not D4RL[name]["standin"]]:
        raise InputError(f"{without[0]}: there is no stand-in for it; it needs D4RL's own data (no --standin)")
    digest = hashlib.sha256("".join(standin_hash(name, D4RL[name]["standin"].split(), rows) for name in names).encode())
    return f".standin-{digest.hexdigest()[:8]}"


def write(path: Path, view: View, facts: dict, hint: str) -> None:
    """Whole or not at all. An end that is no true one is a timeout, so that loaders find the same episodes."""
    arrays = dict(zip(KEYS, view.columns)) | {"timeouts": view.ends & ~view.columns[4]}
    with whole(path, hint) as part, open(part, "wb") as file:
        np.savez(file, facts=json.dumps(facts), **arrays)


def facts(path: Path) -> dict | None:
    """What `write` was told; None without the file."""
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            return json.loads(str(file["facts"]))
    except Exception as error:  # NumPy and zip each raise their own kinds
        raise InputError(f"{path}: cannot be read ({error}); damaged? Delete it, it is made anew") from None
