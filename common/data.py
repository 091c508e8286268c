"""Datasets: from a D4RL name, a Minari id or a file of the user's own to tensors on the device.

A name is looked up in this order, and one line says which source was used:
1. a path that ends in .hdf5 or .npz: the user's own arrays, in D4RL's layout;
2. an id with a `/`: Minari, local, then remote;
3. our cache ($SOLO_CACHE, else ~/.cache/solo): D4RL files converted once to flat arrays;
4. D4RL's own folder ($D4RL_DATASET_DIR, else ~/.d4rl/datasets), read-only;
5. download from the mirrors (checked by size and SHA-256 where known; $SOLO_MIRRORS replaces them, empty means offline);
6. a stand-in from policies that ship with the project (common/standin.py), marked as one everywhere.

Facts (paths, sizes, hashes, reference scores, policies of stand-ins) are in d4rl.csv. `python -m common.data --help` converts between formats.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common import InputError

MIRRORS = ("http://rail.eecs.berkeley.edu/datasets/offline_rl", "https://huggingface.co/datasets/imone/D4RL/resolve/main")
REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("next_observations", "timeouts")
REWARDS = {  # named transforms: (reward, bounds of the episodes) -> reward
    "raw": lambda r, episodes: r,
    "r-1": lambda r, episodes: r - 1,  # IQL, TD3+BC and others on AntMaze
    "10r-5": lambda r, episodes: 10 * r - 5,  # CQL, Cal-QL on AntMaze
    "100r": lambda r, episodes: 100 * r,  # ReBRAC on AntMaze
    "return_range": lambda r, episodes: r * (1000 / np.ptp(_returns(r, episodes))),  # IQL, SQL on MuJoCo
    "standardize": lambda r, episodes: (r - r.mean()) / r.std(),  # EDAC on Adroit
    "shift": lambda r, episodes: r - r.min(),  # RORL's switch: smallest reward 0
}


class Batch(NamedTuple):
    """`batch_size` B transitions: obs (B, S), action (B, A), reward (B,), next_obs (B, S), done (B,) = 1 at a true end only."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    done: Tensor


@dataclass
class Dataset:
    """Transitions on one device, with what algorithms ask of them.

    Attributes:
        name: as the user gave it; `task`: D4RL name or Minari id whose environment it belongs to, or None for own arrays.
        source: JSON-ready facts for a run's config: kind (d4rl, minari, file, standin), path, sha256, view, rows.
        rows: (N, 2S + A + 2) float32: one row a transition, so that a batch is one gather; `obs` ... `done` are views of it.
        episodes: (E, 2) int64, rows [start, end) of each episode, on the CPU.
        obs_mean, obs_std: (S,) over `obs`; population standard deviation.
    """

    name: str
    task: str | None
    source: dict
    rows: Tensor
    obs_size: int
    action_size: int
    episodes: Tensor
    obs_mean: Tensor = field(init=False)
    obs_std: Tensor = field(init=False)

    def __post_init__(self):
        self.obs, self.action, self.reward, self.next_obs, self.done = self._split(self.rows)
        std, mean = torch.std_mean(self.obs.double().cpu(), 0, correction=0)
        self.obs_mean, self.obs_std = mean.float().to(self.device), std.float().to(self.device)

    @property
    def device(self) -> torch.device:
        return self.rows.device

    @property
    def standin(self) -> bool:
        return self.source["kind"] == "standin"

    def __len__(self) -> int:
        return len(self.rows)

    def _split(self, rows) -> Batch:
        s, a = self.obs_size, self.action_size
        return Batch(rows[:, :s], rows[:, s:s + a], rows[:, s + a], rows[:, s + a + 1:-1], rows[:, -1])

    def sample(self, batch_size: int, rng: torch.Generator) -> Batch:
        """Uniform with replacement; `rng` lives on the dataset's device, so nothing waits for the host."""
        index = torch.randint(len(self.rows), (batch_size,), generator=rng, device=self.device)
        return self._split(self.rows[index])


def load_dataset(env: str, device: str = "cpu", view: str = "auto", reward: str = "raw", standin: bool = True,
                 standin_rows: int = 1_000_000) -> Dataset:
    """Find, check and load a dataset.

    Args:
        env: D4RL name, Minari id, or path of an .hdf5 or .npz file with observations (N, S), actions (N, A) in [-1, 1], rewards (N,),
            terminals (N,), and next_observations (N, S) or timeouts (N,) or both.
        view: `d4rl` is the papers' `qlearning_dataset` (rows cut by a timeout and the last row dropped); `next_obs` keeps every row, with
            timeouts as ordinary rows; `auto` is `d4rl` for D4RL names and `next_obs` elsewhere.
        reward: a key of `REWARDS`.
        standin, standin_rows: whether a stand-in may replace a D4RL dataset that cannot be had, and its size.
    Raises:
        InputError: one line that says what is wrong with the name, the file or the arrays, and what to do.
    """
    if reward not in REWARDS:
        raise InputError(f"--reward {reward} is unknown; choose from {', '.join(REWARDS)}")
    arrays, source = read_arrays(env, standin, standin_rows)
    own = source["kind"] == "file"
    if view == "auto":
        view = "d4rl" if source["kind"] in ("d4rl", "standin") or "next_observations" not in arrays else "next_obs"
    columns, episodes = transitions(arrays, view, env, None if own else reference(env))
    columns[2] = REWARDS[reward](columns[2].astype(np.float64), episodes).astype(np.float32)
    if not np.isfinite(columns[2]).all():
        raise InputError(f"{env}: --reward {reward} gives rewards that are not finite (all episodes or rewards are the same)")
    rows = np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1, dtype=np.float32)
    source |= {"view": view, "rows": len(rows), "reward": reward}
    data = Dataset(env, None if own else env, source, torch.from_numpy(rows).to(device), columns[0].shape[1], columns[1].shape[1],
                   torch.from_numpy(episodes))
    print(f"{env}: {len(rows):,} transitions, {len(episodes):,} episodes, view {view}, from {source['path']}")
    return data


def transitions(arrays: dict, view: str, name: str, facts: dict | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """[obs, action, reward, next_obs, done] of a view, and the episodes' bounds (E, 2) in it.

    `next_obs` is the file's own where it has one, else the next row's observation. At a terminal row of a file that has none the true one is
    unknown and masked by `done`: the row's own observation stands there, never the next episode's first one.
    """
    obs, terminals, next_obs = arrays["observations"], arrays["terminals"], arrays.get("next_observations")
    timeouts = arrays.get("timeouts")
    if timeouts is None:
        timeouts = _timeouts_from_horizon(terminals, facts, name) if next_obs is None else np.zeros_like(terminals)
    if view == "next_obs":
        if next_obs is None:
            raise InputError(f"{name}: has no `next_observations`, which --view next_obs needs; use --view d4rl")
        keep = np.arange(len(obs))
    elif view == "d4rl":
        keep = np.flatnonzero(~timeouts[:-1])
    else:
        raise InputError(f"--view {view} is unknown; choose from auto, d4rl, next_obs")
    if len(keep) == 0:
        raise InputError(f"{name}: no transitions are left in view {view} (the file has {len(obs)} rows)")
    if next_obs is None:
        next_obs = np.where(terminals[:, None], obs, np.roll(obs, -1, axis=0))
    ends = terminals | timeouts
    episode = (np.cumsum(ends) - ends)[keep]
    cuts = np.flatnonzero(np.diff(episode)) + 1
    episodes = np.stack([np.r_[0, cuts], np.r_[cuts, len(keep)]], axis=1).astype(np.int64)
    return [arrays["observations"][keep], arrays["actions"][keep], arrays["rewards"][keep], next_obs[keep], terminals[keep]], episodes


def _timeouts_from_horizon(terminals, facts, name):
    """D4RL's rule for files without `timeouts` (kitchen): a cut at every max_episode_steps-th row since the last end."""
    if not facts or not facts["max_episode_steps"]:
        raise InputError(f"{name}: has neither `next_observations` nor `timeouts`, so where its episodes are cut is unknown; add one of them")
    row = np.arange(len(terminals))
    start = np.maximum.accumulate(np.where(np.r_[True, terminals[:-1]], row, 0))
    horizon = int(facts["max_episode_steps"])
    return (row - start) % horizon == horizon - 1


def _returns(reward, episodes):
    return np.add.reduceat(reward, episodes[:, 0])


@cache
def _table() -> dict[str, dict]:
    with open(Path(__file__).parent / "d4rl.csv") as file:
        return {row["dataset"]: row for row in csv.DictReader(file)}


def reference(name: str | None) -> dict | None:
    """D4RL's facts for a dataset (d4rl.csv) as strings, or None if D4RL has no such dataset."""
    return _table().get(name)


def normalized_score(task: str | None, returns):
    """100 (return - ref_min) / (ref_max - ref_min), or None where nobody published references.

    References are D4RL's for its names, the dataset's own for a Minari id. Source: D4RL, infos.py.
    """
    if row := reference(task):
        low, high = float(row["ref_min"]), float(row["ref_max"])
    elif task and "/" in task:
        low, high = _minari_references(task)
    else:
        return None
    return None if low is None or high is None else 100.0 * (returns - low) / (high - low)


@cache
def _minari_references(task):
    import minari

    facts = minari.load_dataset(task).storage.metadata
    return facts.get("ref_min_score"), facts.get("ref_max_score")


# ---- where arrays come from


def read_arrays(env: str, standin: bool = True, standin_rows: int = 1_000_000) -> tuple[dict[str, np.ndarray], dict]:
    """All rows of a dataset in D4RL's layout, checked, and where they come from. Arguments and errors as `load_dataset`."""
    path = Path(env).expanduser()
    if path.suffix in (".hdf5", ".h5", ".npz"):
        if not path.is_file():
            raise InputError(f"{env}: no such file")
        arrays = _read_npz(path)[0] if path.suffix == ".npz" else read_hdf5(path)
        return _checked(arrays, env), {"kind": "file", "path": str(path), "sha256": _sha256(path)}
    if "/" in env:
        return _read_minari(env)
    if not (facts := reference(env)):
        near = difflib.get_close_matches(env, _table(), 3, 0.4)
        raise InputError(f"{env}: no such dataset; " + (f"did you mean {', '.join(near)}?" if near else "D4RL names look like hopper-medium-v2")
                         + " (own data: a path that ends in .npz or .hdf5; Minari: an id with a /)")
    return _read_d4rl(env, facts, standin, standin_rows)


def _cache_dir() -> Path:
    return Path(os.environ.get("SOLO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "solo")


def _read_d4rl(env, facts, standin, standin_rows):
    cached = _cache_dir() / f"{env}.npz"
    if cached.is_file():
        arrays, source = _read_npz(cached)
        if source.get("sha256") == facts["sha256"] or not facts["sha256"]:
            return arrays, source | {"path": str(cached)}
    name = Path(facts["path"]).name
    local = Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser() / name
    if local.is_file():
        _verify(local, facts)
        return _convert(env, local, str(local), cached)
    made, policies = None, facts["standin"].split()
    if standin and policies:
        from common.standin import standin_hash
        made = _cache_dir() / f"{env}.standin-{standin_hash(policies, standin_rows)}.npz"
    with tempfile.TemporaryDirectory() as folder:
        folder = cached.parent if _writable(cached.parent) else Path(folder)
        part, why = download(facts, folder, timeout=2.0 if made and made.is_file() else 10.0)
        if part:
            try:
                return _convert(env, part, why, cached)
            finally:
                part.unlink()
    if made is None:
        raise InputError(f"{env}: {why}; put {name} into {local.parent}"
                         + ("" if standin else " or allow a stand-in") + (", there is no stand-in for it" if standin else ""))
    print(f"{'!' * 100}\n!! STAND-IN DATA, not D4RL's: {env} could not be had ({why}).\n"
          f"!! Made with this project's own policies; scores on it compare with nothing published. --no-standin refuses it.\n{'!' * 100}")
    if not made.is_file():
        from common.standin import generate
        arrays = generate(env, policies, standin_rows)
        source = {"kind": "standin", "sha256": _digest(arrays), "policies": policies}
        path = _write_npz(made, arrays, source)
        return arrays, source | {"path": path}
    arrays, source = _read_npz(made)
    return arrays, source | {"path": str(made)}


def _convert(env, path, origin, cached):
    """Check a D4RL file's arrays and keep them in the cache."""
    arrays = _checked(read_hdf5(path), env)
    source = {"kind": "d4rl", "sha256": _sha256(path), "origin": origin}
    _write_npz(cached, arrays, source)
    return arrays, source | {"path": origin}


def download(facts: dict, folder: Path, timeout: float = 10.0) -> tuple[Path | None, str]:
    """Fetch a D4RL file into `folder` from the first mirror that has it whole.

    Returns:
        (path, address), or (None, reason) if no mirror could be reached.
    Raises:
        InputError: mirrors answered, but none with the file (403, 404, a web page, a wrong size or hash, a broken connection).
    """
    import http.client
    import urllib.error
    import urllib.request

    mirrors = os.environ["SOLO_MIRRORS"].split() if "SOLO_MIRRORS" in os.environ else MIRRORS
    name, answered, silent = Path(facts["path"]).name, [], []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{name if 'huggingface' in mirror else facts['path']}"
        part = folder / f"{name}.{os.getpid()}.part"
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response, open(part, "wb") as file:
                _copy(response, file, name)
            _verify(part, facts)
            return part, url
        except urllib.error.HTTPError as error:
            answered.append(f"{mirror} answered {error.code} {error.reason}")
        except InputError as error:
            answered.append(f"{mirror}: {error}")
        except http.client.HTTPException as error:
            answered.append(f"{mirror} broke off ({type(error).__name__})")
        except OSError as error:  # URLError included: no name, no route, refused, timed out
            if part.exists() and part.stat().st_size:
                answered.append(f"{mirror} broke off ({error})")
            else:
                silent.append(f"{mirror}: {getattr(error, 'reason', error)}")
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        part.unlink(missing_ok=True)
    if answered:
        raise InputError(f"cannot download {name}: {'; '.join(answered + silent)}. Put the file into ~/.d4rl/datasets, "
                         "or set SOLO_MIRRORS= (empty) to work offline")
    return None, "; ".join(silent) or "offline, SOLO_MIRRORS is empty"


def _copy(response, file, name):
    from tqdm import tqdm

    total = int(response.headers.get("Content-Length") or 0)
    with tqdm(total=total or None, unit="B", unit_scale=True, desc=f"downloading {name}", disable=not sys.stderr.isatty()) as bar:
        while block := response.read(1 << 20):
            file.write(block)
            bar.update(len(block))
        if total and bar.n < total and not bar.disable or file.tell() < total:
            raise InputError(f"stopped after {file.tell():,} of {total:,} bytes")


def _verify(path, facts):
    """Size, SHA-256 and HDF5 signature of a D4RL file, as far as they are known."""
    with open(path, "rb") as file:
        signature = file.read(8)
    size = path.stat().st_size
    if signature != b"\x89HDF\r\n\x1a\n":
        raise InputError(f"{path.name} is not an HDF5 file (it starts with {signature!r})")
    if facts["bytes"] and size != int(facts["bytes"]):
        raise InputError(f"{path} has {size:,} bytes instead of {int(facts['bytes']):,}: truncated or another file; delete it")
    if facts["sha256"] and _sha256(path) != facts["sha256"]:
        raise InputError(f"{path} has the wrong SHA-256: damaged or another file; delete it")


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """D4RL's keys of an HDF5 file; everything else in it (infos, metadata) is left alone."""
    import h5py

    try:
        with h5py.File(path) as file:
            return {key: file[key][()] for key in REQUIRED + OPTIONAL if key in file}
    except OSError as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({' '.join(str(error).split())}); truncated? fetch it again") from None


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            source = json.loads(str(file["source"])) if "source" in file else {}
            return {key: file[key] for key in REQUIRED + OPTIONAL if key in file}, source
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as .npz ({error}); delete it and start again") from None


def _write_npz(path, arrays, source) -> str:
    """Write a cache file whole or not at all; where that is impossible, say so and go on from memory."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, source=json.dumps(source), **arrays)
        part.replace(path)
        return str(path)
    except OSError as error:
        print(f"warning: cannot write the cache ({error}); this run works from memory. Set SOLO_CACHE to a folder that can be written")
        return f"memory ({path.name})"
    finally:
        try:
            part.unlink(missing_ok=True)
        except OSError:
            pass


def _writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return True
    except OSError:
        return False


def _sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(arrays) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()


def _checked(arrays: dict, name: str) -> dict[str, np.ndarray]:
    """The arrays with one shape and type each, or an InputError that names the first thing wrong with them."""
    if missing := [key for key in REQUIRED if key not in arrays]:
        raise InputError(f"{name}: lacks {', '.join(f'`{key}`' for key in missing)}")
    rows = len(arrays["observations"])
    if rows == 0:
        raise InputError(f"{name}: has no transitions (zero rows)")
    checked = {}
    for key, array in arrays.items():
        wide = key in ("observations", "actions", "next_observations")
        if not wide and array.size == len(array):
            array = array.reshape(-1)
        if array.ndim != 1 + wide or array.dtype.kind not in "fiub":
            raise InputError(f"{name}: `{key}` has shape {array.shape} and type {array.dtype}; expected "
                             + ("(N, size) numbers" if wide else "(N,) numbers"))
        if len(array) != rows:
            raise InputError(f"{name}: `{key}` has {len(array):,} rows, `observations` {rows:,}")
        if not np.isfinite(array).all():
            row = np.flatnonzero(~np.isfinite(array.reshape(rows, -1)).all(axis=1))[0]
            raise InputError(f"{name}: `{key}` has a NaN or infinite value in row {row:,}; mend or drop that row")
        checked[key] = array.astype(bool if key in ("terminals", "timeouts") else np.float32, copy=False)
    if checked.get("next_observations", checked["observations"]).shape != checked["observations"].shape:
        raise InputError(f"{name}: `next_observations` has shape {checked['next_observations'].shape}, "
                         f"`observations` {checked['observations'].shape}")
    if (largest := np.abs(checked["actions"]).max()) > 1 + 1e-5:
        raise InputError(f"{name}: actions reach {largest:.3g}, outside [-1, 1]; rescale them to the robot's normalised range")
    return checked


# ---- Minari


def _read_minari(env):
    import minari

    try:
        if env not in minari.list_local_datasets():
            minari.download_dataset(env)
        dataset = minari.load_dataset(env)
    except Exception as error:  # Minari, Hugging Face and HTTP libraries each raise their own kinds
        local = ", ".join(minari.list_local_datasets()) or "none"
        raise InputError(f"{env}: no such Minari dataset, here (local: {local}) or remote ({' '.join(str(error).split())[:160]})") from None
    _check_spaces(env, dataset.observation_space, dataset.action_space)
    key = hashlib.sha256(json.dumps([env, int(dataset.total_steps), sorted(
        (str(p), p.stat().st_mtime_ns) for p in Path(dataset.storage.data_path).iterdir())]).encode()).hexdigest()[:8]
    cached = _cache_dir() / f"minari-{env.replace('/', '_')}-{key}.npz"
    if cached.is_file():
        arrays, source = _read_npz(cached)
        return arrays, source | {"path": str(cached)}
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        raise InputError(f"{env}: has no transitions (zero episodes)")
    columns = {"observations": lambda e: e.observations[:-1], "actions": lambda e: e.actions, "rewards": lambda e: e.rewards,
               "next_observations": lambda e: e.observations[1:], "terminals": lambda e: e.terminations, "timeouts": lambda e: e.truncations}
    arrays = _checked({key: np.concatenate([column(e) for e in episodes]) for key, column in columns.items()}, env)
    source = {"kind": "minari", "sha256": _digest(arrays)}
    return arrays, source | {"path": _write_npz(cached, arrays, source)}


def _check_spaces(env, observation_space, action_space):
    from gymnasium import spaces

    if isinstance(observation_space, spaces.Dict):
        raise InputError(f"{env}: observations are a dictionary ({', '.join(observation_space.spaces)}); only flat Box observations can be used")
    for what, space in (("observations", observation_space), ("actions", action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise InputError(f"{env}: {what} are {space}; only flat Box spaces can be used")


def to_minari(env: str) -> str:
    """Convert a D4RL dataset to a local Minari dataset, `d4rl/hopper/medium-v2` for `hopper-medium-v2`, and return its id.

    Exact: its transitions are those of view `next_obs`, bit for bit. A file without next_observations does not know the last observation of
    its episodes: of a cut episode the last row is left out, at a true end (masked) the last observation is repeated.
    """
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    if not (facts := reference(env)):
        raise InputError(f"{env}: to-minari converts D4RL datasets, and D4RL has none of this name")
    arrays, source = read_arrays(env, standin=False)
    obs, terminals, next_obs = arrays["observations"], arrays["terminals"], arrays.get("next_observations")
    timeouts = arrays["timeouts"] if "timeouts" in arrays else _timeouts_from_horizon(terminals, facts, env)
    ends = np.flatnonzero(terminals | timeouts) + 1
    ends = ends if len(ends) and ends[-1] == len(obs) else np.r_[ends, len(obs)]
    buffers = []
    for start, end in zip(np.r_[0, ends[:-1]], ends):
        if next_obs is None and not terminals[end - 1]:
            end -= 1  # its true next observation is unknown
        last = obs[end - 1] if next_obs is None and terminals[end - 1] else obs[end] if next_obs is None else next_obs[end - 1]
        if end == start:
            continue
        cut = np.zeros(end - start, bool)
        cut[-1] = not terminals[end - 1]
        buffers.append(EpisodeBuffer(id=len(buffers), observations=np.concatenate([obs[start:end], last[None]]),
                                     actions=arrays["actions"][start:end], rewards=arrays["rewards"][start:end],
                                     terminations=terminals[start:end], truncations=cut, infos={}))
    robot, _, level = env.partition("-")
    name = f"d4rl/{robot}/{level}"
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=Box(-np.inf, np.inf, obs.shape[1:], np.float32), ref_min_score=float(facts["ref_min"]),
        action_space=Box(-1.0, 1.0, arrays["actions"].shape[1:], np.float32), ref_max_score=float(facts["ref_max"]),
        description=f"D4RL {env}, converted; SHA-256 of the original file: {source['sha256']}")
    print(f"{env}: {len(buffers):,} episodes written to Minari as {name}")
    return name


def to_hdf5(env: str, path: Path) -> None:
    """Write any dataset (D4RL name, Minari id, file) in D4RL's HDF5 layout."""
    import h5py

    arrays, source = read_arrays(env, standin=False)
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        with h5py.File(part, "w") as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array, compression="gzip")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None
    finally:
        part.unlink(missing_ok=True)
    print(f"{env}: {len(arrays['rewards']):,} rows written to {path}")


if __name__ == "__main__":
    import tyro

    from common.run import friendly
    with friendly():
        tyro.extras.subcommand_cli_from_dict({"to-minari": to_minari, "to-hdf5": to_hdf5}, prog="python -m common.data")
