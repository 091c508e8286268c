"""Where a dataset's arrays come from.

A name is looked up in this order, and a line says where it was found: (1) an own file, see `own_file`; (2) an id with a
`/`, Minari; (3) the cache ($SOLO_CACHE, else ~/.cache/solo) of converted D4RL files; (4) D4RL's own folder
($D4RL_DATASET_DIR, else ~/.d4rl/datasets); (5) download ($SOLO_MIRRORS replaces the mirrors); (6) a stand-in.
"""

import contextlib
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
from common.files import (BOUNDS, D4RL, REQUIRED, checked, digest, irregular, minari_facts, minari_folder, read,
                          reading, scale, sha256, stored)

MIRRORS = "http://rail.eecs.berkeley.edu/datasets/offline_rl https://huggingface.co/datasets/imone/D4RL/resolve/main"
SUFFIXES = (".hdf5", ".h5", ".npz")  # of files of the user's own


def own_file(env: str) -> Path | None:
    """The path of an own file; None for D4RL's names (a file of such a name is ./NAME) and for Minari's ids.

    An own file ends like one, in capitals or not, or starts like a path (/ . ~), or is there and is no folder. It goes
    before a Minari dataset of the same name.
    """
    path = os.path.expanduser(env)
    there = os.path.exists(path) and not os.path.isdir(path)
    own = there or env.startswith(("/", ".", "~")) or Path(env).suffix.lower() in SUFFIXES
    return Path(path) if own and env not in D4RL else None


def read_arrays(env: str, standin: bool = True, standin_rows: int = 1_000_000, action_low=(), action_high=()
                ) -> tuple[dict[str, np.ndarray], dict]:
    """All rows of a dataset in D4RL's layout, checked, and their source. Arguments and errors as `load_dataset`.

    `ends` (N,) is there too where episodes of Minari go on after a true end.
    """
    if path := own_file(env):
        arrays, _ = read(path, env)
        source = {"kind": "file", "path": str(path.absolute()), "sha256": sha256(path)}
        return arrays, source | scale(arrays, env, (action_low, action_high), [arrays.pop(key, ()) for key in BOUNDS])
    if "/" in env:
        arrays, source, space = _read_minari(env)
        return arrays, source | scale(arrays, env, (action_low, action_high), (space.low, space.high))
    if facts := D4RL.get(env):
        if np.size(action_low) or np.size(action_high):
            raise InputError(f"{env}: D4RL's actions are in [-1, 1]; leave --action-low and --action-high out")
        return _read_d4rl(env, facts, standin, standin_rows)
    like = name if (name := f"{env}-medium-v2") in D4RL else env  # a robot alone
    near = ", ".join(difflib.get_close_matches(like, D4RL, 3, 0.4)) or "hopper-medium-v2"
    raise InputError(f"{env}: no such dataset; did you mean {near}? (Own data: a path that ends in .npz or .hdf5. "
                     "Minari: an id with a /)")


def cache_file(name) -> Path:
    return Path(os.path.expanduser(os.environ.get("SOLO_CACHE") or "~/.cache/solo")).absolute() / name


def _read_d4rl(env, facts, standin, standin_rows):
    cached = cache_file(f"{env}.npz")

    def known():
        if os.path.isfile(cached):
            arrays, source = read(cached)
            if facts["sha256"] in ("", source.get("sha256")):
                return arrays, source | {"path": str(cached)}
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
        os.close(os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666))
        while not (descriptor := lock(path.with_suffix(".lock"))):
            time.sleep(0.2)
    try:
        yield
    finally:
        if descriptor:
            os.close(descriptor)


def _fetch(env, facts, cached, standin, standin_rows):
    name = Path(facts["path"]).name
    local = Path(os.path.expanduser(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets")).absolute() / name
    with tempfile.TemporaryDirectory() as folder:
        path, origin = local, str(local)
        if not os.path.exists(local):
            impatient = any(cached.parent.glob(f"{env}.standin-*"))  # its stand-in is there already
            path, origin = download(facts, Path(folder), timeout=2.0 if impatient else 10.0)
        elif why := _wrong(local, facts):
            raise InputError(f"{local} {why}; fetch it again")
        if path:
            arrays, source = read(path, env)[0], {"kind": "d4rl", "sha256": sha256(path), "origin": origin}
            scale(arrays, env, ((), ()), [arrays.pop(key, ()) for key in BOUNDS])
            _write_npz(cached, arrays, source)
            return arrays, source | {"path": origin}
    if not (standin and facts["standin"]):
        why = "stand-ins are refused" if facts["standin"] else "there is no stand-in for it"
        raise InputError(f"{env}: not at hand ({origin}), and {why}; put {name} into {local.parent}")
    from common.standin import generate, standin_hash
    policies = facts["standin"].split()
    made = cache_file(f"{env}.standin-{standin_hash(env, policies, standin_rows)}.npz")
    print(f"{'!' * 110}\n!! STAND-IN DATA, not D4RL's: {env} is not at hand ({origin}).\n!! Made with this project's "
          f"own policies; compare its scores with nothing published. --no-standin refuses it.\n{'!' * 110}")
    if os.path.isfile(made):
        arrays, source = read(made)
        return arrays, source | {"path": str(made)}
    arrays = generate(env, policies, standin_rows)
    source = {"kind": "standin", "sha256": digest(arrays), "policies": policies}
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
    if why := irregular(path):
        return why
    with open(path, "rb") as file:
        signature = file.read(8)
    if signature != b"\x89HDF\r\n\x1a\n":
        return f"is not an HDF5 file (it starts with {signature!r})"
    if (have := path.stat().st_size) != (want := int(facts["bytes"] or size or have)):
        return f"has {have:,} bytes of {want:,}"
    return "has the wrong SHA-256" if facts["sha256"] and sha256(path) != facts["sha256"] else ""


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


def _read_minari(env):
    import minari
    from gymnasium.spaces import Box
    try:
        if not os.path.isdir(minari_folder(env)):
            minari.download_dataset(env)
    except Exception as error:
        raise InputError(f"{env}: no such Minari dataset, here or remote ({type(error).__name__}: {error})") from None
    with reading(env):
        files = sorted(minari_folder(env).rglob("*"))
        if strange := [path.name for path in files if not path.is_dir() and irregular(path)]:
            raise ValueError(f"{strange[0]} is no regular file")
        facts = minari_facts(env)
        dataset = minari.load_dataset(env)
        for what, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
            if not isinstance(space, Box) or len(space.shape) != 1:
                raise InputError(f"{env}: {what} are {space}; only flat Box spaces can be used")
        known = repr((2, env, [(path.name, path.stat().st_mtime_ns) for path in files]))  # 2: count on with `_episodes`
        cached = cache_file(f"minari-{env.replace('/', '_')}-{hashlib.sha256(known.encode()).hexdigest()[:8]}.npz")
        if os.path.isfile(cached):
            arrays, source = read(cached)
            path = str(cached)
        else:
            arrays = checked(_episodes(env, dataset), env)
            source = {"kind": "minari", "sha256": digest(arrays)}
            path = _write_npz(cached, arrays, source)
    source |= {"path": path, "env": bool(facts.get("env_spec") or facts.get("eval_env_spec"))}
    return arrays, source, dataset.action_space


def _episodes(env, dataset):
    """(key, array) of a Minari dataset, whose episodes end where Minari's do: by a true end, else by a timeout."""
    import h5py
    if (path := minari_folder(env) / "main_data.hdf5").exists():
        with h5py.File(path) as file:
            keys = []
            file.visit_links(keys.append)
            for key in keys:
                stored(file, key)
    parts = {key: [] for key in (*REQUIRED, "next_observations", "ends")}
    for e in dataset.iterate_episodes():
        with np.errstate(over="ignore"):
            obs, action = np.asarray(e.observations, np.float32), np.asarray(e.actions, np.float32)
        last = np.arange(len(e.rewards)) == len(e.rewards) - 1
        for key, column in zip(parts, (obs[:-1], action, e.rewards, e.terminations, obs[1:], last)):
            parts[key].append(column)
    terminals, ends = (np.concatenate(parts.pop(key) or [[]]).astype(bool) for key in ("terminals", "ends"))
    for key in list(parts):
        yield key, np.concatenate(parts.pop(key) or [[]])
    yield from {"terminals": terminals, "timeouts": ends & ~terminals}.items()
    if (terminals & ~ends).any():  # an episode goes on after a true end, which the two above do not tell
        yield "ends", ends
