"""Arrays of one file, .npz or HDF5, and whether they are sound.

A file is data: no pickle is loaded, no link followed, and no pipe waited for. Arrays are read and checked in pieces, so
that loading needs no second copy of them.
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np

from common import InputError

REQUIRED, OPTIONAL = ("observations", "actions", "rewards", "terminals"), ("next_observations", "timeouts")
BOUNDS = ("action_low", "action_high")  # of an own file: a number, or one for each dimension
PIECE = 2**20  # numbers that are read and checked at a time
with open(Path(__file__).parent / "d4rl.csv") as table:
    D4RL = {row["dataset"]: row for row in csv.DictReader(table)}  # D4RL's facts about its datasets, as strings
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63  # bytes


def irregular(path) -> str:
    """Why a path cannot be opened like a file, else an empty string; a pipe would wait for ever."""
    if os.path.isfile(path):
        return ""
    return "is no regular file, but a folder, pipe, device or socket" if os.path.exists(path) else "no such file"


def text_of(path: Path, most: int = 2**28, errors: str = "strict") -> str:
    """A file's text. OSError, ValueError: it cannot be read, is not regular or is huge."""
    size = os.stat(path).st_size  # FileNotFoundError, where there is none
    if why := irregular(path):
        raise ValueError(f"it {why}")
    if size > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return path.read_text(encoding="utf-8", errors=errors)


def check_folder(folder: Path, flag: str = "--out") -> None:
    """InputError: nothing can be written there. For what writes only much later; makes nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    try:
        with contextlib.suppress(FileNotFoundError):  # what is not there yet is made, if its name can be one
            os.stat(folder)
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error}); choose another folder with {flag}") from None


def minari_folder(env: str) -> Path:
    """Where Minari keeps a dataset's files. Its own list would end at any folder that does not belong there."""
    root = os.environ.get("MINARI_DATASETS_PATH", os.path.join(os.path.expanduser("~"), ".minari", "datasets"))
    return Path(root, env, "data")


def minari_facts(env: str) -> dict:
    """A Minari dataset's metadata. OSError, ValueError: none, or without spaces: Minari, to learn them, would call
    whatever the metadata name as the environment, so that this comes before minari.load_dataset."""
    facts = json.loads(text_of(minari_folder(env) / "metadata.json"))
    if not all(isinstance(facts.get(space), str) for space in ("observation_space", "action_space")):
        raise ValueError("its metadata lacks the spaces")
    return facts


@contextlib.contextmanager
def reading(name, advice="is it damaged, or still being written?"):
    """NumPy, zip, zlib, HDF5, Minari and the HTTP library each raise their own kinds; all become one line."""
    try:
        yield
    except InputError:
        raise
    except BlockingIOError:  # HDF5's lock
        raise InputError(f"{name}: another program has it open for writing; close it there, or read a copy") from None
    except Exception as error:
        raise InputError(f"{name}: cannot be read ({type(error).__name__}: {error}); {advice}") from None


def read(path: Path, name: str | None = None) -> tuple[dict[str, np.ndarray], dict]:
    """D4RL's keys of an .npz or HDF5 file (its first bytes tell) and its bounds of actions; the rest is left alone.

    With `name`, what messages call it; without, a file of the cache and its source.
    """
    import h5py
    if why := irregular(path):
        raise InputError(f"{path}: {why}")
    with reading(path) if name else reading(path, "delete it, it is made anew"):
        with open(path, "rb") as file:
            start = file.read(8)
        if not (zipped := start[:2] == b"PK") and not h5py.is_hdf5(path):
            raise ValueError(f"neither HDF5 nor .npz; it starts with {start!r}")
        with np.load(path, allow_pickle=False) if zipped else h5py.File(path) as file:
            there, get = list(file), file.__getitem__ if zipped else lambda key: stored(file, key)
            if missing := [f"`{key}`" for key in REQUIRED if key not in there]:
                found = ", ".join(repr(key[:40]) for key in there[:8]) or "nothing"
                raise InputError(f"{name or path}: lacks {', '.join(missing)} (at its top level there is {found})")
            keys = [key for key in REQUIRED + OPTIONAL + (() if name else ("ends",)) if key in there]
            size = sum(file.zip.getinfo(f"{key}.npy").file_size if zipped else getattr(get(key), "nbytes", 0)
                       for key in keys)
            if size > MEMORY:
                raise InputError(f"{name or path}: its arrays have {size:,} bytes, more than this machine's memory")
            arrays = checked(((key, get(key)) for key in keys), name or str(path))
            if name:
                for key in (key for key in BOUNDS if key in there):
                    shape = getattr(get(key), "shape", None)  # of a group, and of HDF5's null: None
                    if shape is None or math.prod(shape) not in range(1, 10**6):
                        raise InputError(f"{name}: `{key}` is no number, and no array of one for each action")
                    arrays[key] = np.asarray(get(key)[()])
                return arrays, {}
            if not {"kind", "sha256"} <= set(source := json.loads(str(file["source"]))):
                raise ValueError("its source is not known")
            return arrays, source


def stored(group, key):
    """A group or array that an HDF5 file itself holds. InputError: a link, or numbers that lie in another file."""
    import h5py
    if isinstance(group.get(key, getlink=True), h5py.HardLink):
        item = group[key]
        if not isinstance(item, h5py.Dataset) or not (item.is_virtual or item.external):
            return item
    raise InputError(f"{group.file.filename}: `{key}` lies elsewhere; only what the file itself holds is read")


def sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(arrays) -> str:
    total = hashlib.sha256()
    for key in sorted(arrays):
        total.update(key.encode())
        total.update(arrays[key].reshape(-1).view(np.uint8))
    return total.hexdigest()


def checked(columns, name: str) -> dict[str, np.ndarray]:
    """Arrays of one shape and type each, of (key, array or HDF5 dataset), `observations` first, each read in pieces.

    InputError: the first thing that is wrong with them.
    """
    arrays = {}
    for key, column in columns:
        wide, flag = key in ("observations", "actions", "next_observations"), key in ("terminals", "timeouts", "ends")
        if getattr(column, "shape", None) is None:
            raise InputError(f"{name}: `{key}` is no array, but a group or empty")
        shape = column.shape[:1] if not wide and column.shape[1:] == (1,) else column.shape
        if len(shape) != 1 + wide or column.dtype.kind not in "fiub" or wide and shape[1] == 0:
            expected = "(N, size)" if wide else "(N,)"
            raise InputError(f"{name}: `{key}` has shape {shape} and type {column.dtype}, not numbers {expected}")
        if shape[0] == 0 and not arrays:
            raise InputError(f"{name}: has no transitions (zero rows)")
        obs = arrays.get("observations", column).shape
        if shape[:1] != obs[:1] or key == "next_observations" and shape != obs:
            raise InputError(f"{name}: `{key}` has shape {shape}, `observations` {obs}")
        arrays[key] = np.empty(shape, bool if flag else np.float32)
        step = max(1, PIECE // math.prod(shape[1:]))
        for start in range(0, len(column), step):
            piece = np.reshape(column[start:start + step], (-1, *shape[1:]))
            with np.errstate(over="ignore"):
                numbers = piece.astype(np.float32, copy=False)
            if not (finite := np.isfinite(numbers)).all():
                row = start + np.argwhere(~finite)[0, 0]
                raise InputError(f"{name}: `{key}` is NaN or infinite in row {row:,}; mend or drop that row")
            if flag and (other := (piece != 0) & (piece != 1)).any():
                row = np.argmax(other)
                raise InputError(f"{name}: `{key}` is {piece[row]} in row {start + row:,}; a flag is 0 or 1")
            arrays[key][start:start + step] = numbers
    return arrays


def scale(arrays: dict, name: str, flags, own) -> dict:
    """Actions from [low, high] to [-1, 1], in place; the bounds, for `source`, where they are others.

    `flags`, `own`: (low, high) as given and as the dataset has them, () for none; a number, or one for each dimension.
    """
    actions, bounds = arrays["actions"], []
    for flag, known in zip(flags, own if any(map(np.size, (*flags, *own))) else (-1.0, 1.0)):
        bounds.append(np.ravel(flag if np.size(flag) else known))
    with np.errstate(all="ignore"):
        try:
            low, high = (np.broadcast_to(x.astype(np.float64, casting="same_kind"), actions.shape[1]) for x in bounds)
            half = (high - low) / 2
            slack = np.maximum(1e-5 * half, np.finfo(np.float32).eps * np.maximum(abs(low), abs(high)))  # for rounding
            if not (np.isfinite(half) & (half > 0)).all():
                raise ValueError
        except (TypeError, ValueError):
            raise InputError(f"{name}: {actions.shape[1]} actions cannot lie between {bounds[0]} and {bounds[1]}; give "
                             "--action-low and --action-high one finite number for all, or one for each") from None
    for i, ends in enumerate(zip(actions.min(0).astype(np.float64), actions.max(0).astype(np.float64))):
        if outside := [end for end in ends if not low[i] - slack[i] <= end <= high[i] + slack[i]]:
            raise InputError(f"{name}: actions reach {outside[0]:.3g}, outside [{low[i]:.6g}, {high[i]:.6g}] "
                             f"(dimension {i}); name their bounds with --action-low and --action-high")
        if (low[i], high[i]) != (-1, 1):
            actions[:, i] = (actions[:, i].astype(np.float64) - low[i]) / half[i] - 1
    return {} if (low == -1).all() and (high == 1).all() else {BOUNDS[0]: low.tolist(), BOUNDS[1]: high.tolist()}
