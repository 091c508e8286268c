"""Where a dataset's arrays come from, and whether they are sound.

A name is looked up in this order, and a line says where it was found: (1) a path ending in .hdf5 or .npz, own arrays;
(2) an id with a `/`, Minari; (3) the cache ($SOLO_CACHE, else ~/.cache/solo) of converted D4RL files; (4) D4RL's own
folder ($D4RL_DATASET_DIR, else ~/.d4rl/datasets); (5) download ($SOLO_MIRRORS replaces the mirrors); (6) a stand-in.
"""

import contextlib
import csv
import difflib
import errno
import hashlib
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import InputError, lock

MIRRORS = "http://rail.eecs.berkeley.edu/datasets/offline_rl https://huggingface.co/datasets/imone/D4RL/resolve/main"
SUFFIXES = (".hdf5", ".h5", ".npz")  # of files of the user's own
REQUIRED, OPTIONAL = ("observations", "actions", "rewards", "terminals"), ("next_observations", "timeouts")
with open(Path(__file__).parent / "d4rl.csv") as table:
    D4RL = {row["dataset"]: row for row in csv.DictReader(table)}  # D4RL's facts about its datasets, as strings


def read_arrays(env: str, standin: bool = True, standin_rows: int = 1_000_000) -> tuple[dict[str, np.ndarray], dict]:
    """All rows of a dataset in D4RL's layout, checked, and their source. Arguments and errors as `load_dataset`."""
    path = Path(env).expanduser()
    if path.suffix in SUFFIXES:
        return _checked(_read(path)[0], env), {"kind": "file", "path": str(path), "sha256": _sha256(path)}
    if "/" in env:
        return _read_minari(env)
    if facts := D4RL.get(env):
        return _read_d4rl(env, facts, standin, standin_rows)
    near = ", ".join(difflib.get_close_matches(env, D4RL, 3, 0.4)) or "hopper-medium-v2"
    raise InputError(f"{env}: no such dataset; did you mean {near}? (Own data: a path that ends in .npz or .hdf5. "
                     "Minari: an id with a /)")


def cache_file(name) -> Path:
    return Path(os.environ.get("SOLO_CACHE") or "~/.cache/solo").expanduser() / name


def _read_d4rl(env, facts, standin, standin_rows):
    def known():
        if cached.is_file():
            arrays, source = _read(cached)
            if facts["sha256"] in ("", source.get("sha256")):
                return arrays, source | {"path": str(cached)}

    cached = cache_file(f"{env}.npz")
    if found := known():
        return found
    with _alone(cached):
        return known() or _fetch(env, facts, cached, standin, standin_rows)


@contextlib.contextmanager
def _alone(path):
    """One process at a time: the others wait, and find what it made. Where no file can be locked, nobody waits."""
    descriptor = None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".lock").open("a").close()
        while not (descriptor := lock(path.with_suffix(".lock"))):
            time.sleep(0.2)
    try:
        yield
    finally:
        if descriptor:
            os.close(descriptor)


def _fetch(env, facts, cached, standin, standin_rows):
    name = Path(facts["path"]).name
    local = Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser() / name
    with tempfile.TemporaryDirectory() as folder:
        path, origin = local, str(local)
        if not local.is_file():
            impatient = any(cached.parent.glob(f"{env}.standin-*"))  # its stand-in is there already
            path, origin = download(facts, Path(folder), timeout=2.0 if impatient else 10.0)
        elif why := _wrong(local, facts):
            raise InputError(f"{local} {why}; delete it or fetch it again")
        if path:
            arrays, source = _checked(_read(path)[0], env), {"kind": "d4rl", "sha256": _sha256(path), "origin": origin}
            _write_npz(cached, arrays, source)
            return arrays, source | {"path": origin}
    if not (standin and facts["standin"]):
        why = "stand-ins are refused" if facts["standin"] else "there is no stand-in for it"
        raise InputError(f"{env}: not at hand ({origin}), and {why}; put {name} into {local.parent}")
    from common.standin import generate, standin_hash
    policies = facts["standin"].split()
    made = cache_file(f"{env}.standin-{standin_hash(policies, standin_rows)}.npz")
    print(f"{'!' * 110}\n!! STAND-IN DATA, not D4RL's: {env} is not at hand ({origin}).\n!! Made with this project's "
          f"own policies; compare its scores with nothing published. --no-standin refuses it.\n{'!' * 110}")
    if made.is_file():
        arrays, source = _read(made)
        return arrays, source | {"path": str(made)}
    arrays = generate(env, policies, standin_rows)
    source = {"kind": "standin", "sha256": _digest(arrays), "policies": policies}
    return arrays, source | {"path": _write_npz(made, arrays, source)}


def download(facts: dict, folder: Path, timeout: float = 10.0) -> tuple[Path | None, str]:
    """A D4RL file from the first mirror that has it whole: (path in `folder`, address), or (None, why none answers).

    InputError: mirrors answered, but none with the file (404, a web page, wrong size or hash, broken off).
    """
    path, answers, silent = folder / Path(facts["path"]).name, [], []
    for mirror in os.environ.get("SOLO_MIRRORS", MIRRORS).split():
        url, size, heard = f"{mirror}/{path.name if 'huggingface' in mirror else facts['path']}", 0, answers
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response, open(path, "wb") as file:
                size = int(response.headers.get("Content-Length") or 0)
                with tqdm.wrapattr(response, "read", size, desc=path.name, disable=not sys.stderr.isatty()) as body:
                    shutil.copyfileobj(body, file, 1 << 20)
            if not (why := _wrong(path, facts, size)):
                return path, url
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a mirror that is no address
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"{folder}: {error.strerror}; free space, or set TMPDIR to a larger disk") from None
            why = f"{getattr(error, 'code', '')} {getattr(error, 'reason', error)}".strip()
            blocked = "SOLO_MIRRORS" not in os.environ and getattr(error, "code", 0) in (403, 407, 502, 503)  # a proxy
            heard = answers if size or hasattr(error, "code") and not blocked else silent
        heard.append(f"{mirror}: {why}")
    if answers:
        raise InputError(f"cannot download {path.name} ({'; '.join(answers + silent)}). Put the file into "
                         "~/.d4rl/datasets, or set SOLO_MIRRORS= (empty) to work offline")
    return None, "; ".join(silent) or "offline: SOLO_MIRRORS is empty"


def _wrong(path, facts, size=0) -> str:
    """What is wrong with a D4RL file, as far as its signature, size and SHA-256 are known; else an empty string."""
    with open(path, "rb") as file:
        signature = file.read(8)
    if signature != b"\x89HDF\r\n\x1a\n":
        return f"is not an HDF5 file (it starts with {signature!r})"
    if (have := path.stat().st_size) != (want := int(facts["bytes"] or size or have)):
        return f"has {have:,} bytes of {want:,}"
    return "has the wrong SHA-256" if facts["sha256"] and _sha256(path) != facts["sha256"] else ""


def _read(path) -> tuple[dict[str, np.ndarray], dict]:
    """D4RL's keys of an .npz or HDF5 file, and a cache file's source; the rest (infos, metadata) is left alone."""
    import h5py
    try:
        with np.load(path, allow_pickle=False) if path.suffix == ".npz" else h5py.File(path) as file:
            source = json.loads(str(file["source"])) if path.suffix == ".npz" and "source" in file else {}
            return {key: file[key][()] for key in REQUIRED + OPTIONAL if key in file}, source
    except Exception as error:  # NumPy, zip, zlib and HDF5 each raise their own kinds
        why = f"cannot be read ({error}); damaged? Delete it or mend it" if path.is_file() else "no such file"
        raise InputError(f"{path}: {why}") from None


def _write_npz(path, arrays, source) -> str:
    """A cache file, whole or not at all; where that is impossible, say so and go on from memory."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, source=json.dumps(source), **arrays)
        part.replace(path)
        return str(path)
    except OSError as error:
        print(f"warning: no cache ({error}), this run works from memory; set SOLO_CACHE to a writable folder")
        return f"memory ({path.name})"
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(arrays) -> str:
    return hashlib.sha256(b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays))).hexdigest()


def _checked(arrays: dict, name: str) -> dict[str, np.ndarray]:
    """The arrays with one shape and type each, or an InputError that names the first thing wrong with them."""
    if missing := [f"`{key}`" for key in REQUIRED if key not in arrays]:
        raise InputError(f"{name}: lacks {', '.join(missing)}")
    (rows, *_), checked = np.atleast_1d(arrays["observations"]).shape, {}
    if rows == 0:
        raise InputError(f"{name}: has no transitions (zero rows)")
    for key, array in arrays.items():
        wide = key in ("observations", "actions", "next_observations")
        array = array[:, 0] if not wide and array.ndim == 2 and array.shape[1] == 1 else array
        if array.ndim != 1 + wide or array.dtype.kind not in "fiub" or wide and array.shape[1] == 0:
            expected = "(N, size)" if wide else "(N,)"
            raise InputError(f"{name}: `{key}` has shape {array.shape} and type {array.dtype}, not numbers {expected}")
        like = arrays["observations"].shape if key == "next_observations" else (rows,)
        if array.shape[:len(like)] != like:
            raise InputError(f"{name}: `{key}` has shape {array.shape}, `observations` {arrays['observations'].shape}")
        with np.errstate(over="ignore"):
            checked[key] = array.astype(np.float32, copy=False)
        if not (finite := np.isfinite(checked[key])).all():
            row = np.argwhere(~finite)[0, 0]
            raise InputError(f"{name}: `{key}` is NaN or infinite in row {row:,}; mend or drop that row")
        if key in ("terminals", "timeouts"):
            checked[key] = array.astype(bool, copy=False)
    if (largest := np.abs(checked["actions"]).max()) > 1 + 1e-5:
        raise InputError(f"{name}: actions reach {largest:.3g}, outside [-1, 1]; rescale them")
    return checked


def _read_minari(env):
    import minari
    from gymnasium.spaces import Box
    try:
        if env not in minari.list_local_datasets():
            minari.download_dataset(env)
        dataset = minari.load_dataset(env)
    except Exception as error:  # Minari, Hugging Face and the HTTP library each raise their own kinds
        raise InputError(f"{env}: no such Minari dataset, here or remote ({type(error).__name__}: {error})") from None
    for what, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise InputError(f"{env}: {what} are {space}; only flat Box spaces can be used")
    files = [(path.name, path.stat().st_mtime_ns) for path in sorted(Path(dataset.storage.data_path).iterdir())]
    cached = cache_file(f"minari-{env.replace('/', '_')}-{hashlib.sha256(repr(files).encode()).hexdigest()[:8]}.npz")
    if cached.is_file():
        arrays, source = _read(cached)
        return arrays, source | {"path": str(cached)}
    episodes = list(dataset.iterate_episodes())
    columns = {"observations": [e.observations[:-1] for e in episodes], "actions": [e.actions for e in episodes],
               "rewards": [e.rewards for e in episodes], "next_observations": [e.observations[1:] for e in episodes],
               "terminals": [e.terminations for e in episodes], "timeouts": [e.truncations for e in episodes]}
    arrays = _checked({key: np.concatenate(parts or [[]]) for key, parts in columns.items()}, env)
    source = {"kind": "minari", "sha256": _digest(arrays)}
    return arrays, source | {"path": _write_npz(cached, arrays, source)}
