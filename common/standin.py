"""Stand-in datasets: D4RL's own protocol, run again with policies that ship with this project.

D4RL let a SAC policy act (sampled actions), appended finished episodes until there were enough rows, cut there, and flagged
`timeouts` (not `terminals`) at step 1000. This does the same with our SAC policies under the same physics. A stand-in is NOT D4RL's
data: it has the shape and roughly the level (README), so that everything runs and learns without a download.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from common import worker_pool

POLICIES = Path(__file__).parent / "policies"
PROTOCOL = "1"  # part of a stand-in's hash: raise it when the same policies would give other rows
CHUNK = 25_000  # rows a worker collects with a seed of its own, so that the number of workers changes nothing
KEYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


def standin_hash(policies: list[str], rows: int) -> str:
    """Eight hex digits that change with the policies, the number of rows, the simulator's version and the protocol."""
    digest = hashlib.sha256(f"{PROTOCOL} {rows} {version('mujoco')} {version('gymnasium')}".encode())
    for name in policies:
        digest.update(b"uniform" if name == "uniform" else (POLICIES / f"{name}.npz").read_bytes())
    return digest.hexdigest()[:8]


def generate(dataset: str, policies: list[str], rows: int, workers: int | None = None) -> dict[str, np.ndarray]:
    """`rows` transitions in D4RL's layout, an equal share from each policy, in the order given.

    Args:
        dataset: D4RL name; its robot is simulated under D4RL's physics.
        policies: names of files in `common/policies`, or `uniform` for uniform random actions.
        workers: processes; all cores if None.
    """
    from tqdm import tqdm

    shares = _split(rows, len(policies))
    jobs = [(i, part) for i, share in enumerate(shares) for part in _split(share, -(-share // CHUNK))]  # (policy, rows)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the children read it: one thread each, or they fight over the cores
    pool = worker_pool(min(workers or cores, len(jobs)))
    try:
        futures = [pool.submit(_collect, dataset, policies[i], part, seed) for seed, (i, part) in enumerate(jobs)]
        with tqdm(total=rows, unit="row", unit_scale=True, desc=f"simulating {dataset}", disable=not sys.stderr.isatty()) as bar:
            for future, (_, part) in zip(futures, jobs):
                future.result()
                bar.update(part)
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.pop("OPENBLAS_NUM_THREADS") if threads is None else os.environ.update(OPENBLAS_NUM_THREADS=threads)
    columns = {key: [] for key in KEYS}
    for i, share in enumerate(shares):
        chunks = [future.result() for future, (policy, _) in zip(futures, jobs) if policy == i]
        for key in KEYS:
            columns[key].append(np.concatenate([chunk[key] for chunk in chunks])[:share])
        columns["timeouts"][-1][-1] = not columns["terminals"][-1][-1]  # the cut
    return {key: np.concatenate(parts) for key, parts in columns.items()}


def _split(total, parts):
    """`total` as `parts` whole numbers that differ by at most one."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _collect(dataset, policy, rows, seed):
    """Whole episodes of one policy, until there are at least `rows` rows."""
    from common.physics import make_env

    env, rng = make_env(dataset), np.random.default_rng(seed)
    act = _uniform(env.action_space.shape[0], rng) if policy == "uniform" else _sampler(policy, rng)
    columns = {key: [] for key in KEYS}
    obs, _ = env.reset(seed=seed)
    while True:
        action = act(obs)
        next_obs, reward, terminal, limit, _ = env.step(action)
        for key, value in zip(KEYS, (obs, action, reward, next_obs, terminal, limit and not terminal)):
            columns[key].append(value)
        if (terminal or limit) and len(columns["rewards"]) >= rows:
            break
        obs = env.reset()[0] if terminal or limit else next_obs
    flags = ("terminals", "timeouts")
    return {key: np.array(column, dtype=bool if key in flags else np.float32) for key, column in columns.items()}


def _uniform(action_size, rng):
    return lambda obs: rng.uniform(-1.0, 1.0, action_size).astype(np.float32)


def _sampler(policy, rng):
    """SAC's sampled action tanh(mean + std * noise) of a stored two-layer ReLU network, in numpy."""
    with np.load(POLICIES / f"{policy}.npz") as file:
        weights = [file[f"{layer}/{kind}"].astype(np.float32) for layer in ("fc0", "fc1", "last_fc") for kind in ("weight", "bias")]
    w0, b0, w1, b1, w2, b2 = weights

    def act(obs):
        hidden = np.maximum(w1 @ np.maximum(w0 @ obs + b0, 0.0) + b1, 0.0)
        mean, log_std = np.split(w2 @ hidden + b2, 2)
        noise = rng.standard_normal(len(mean), dtype=np.float32)
        return np.tanh(mean + np.exp(np.clip(log_std, -20.0, 2.0)) * noise)

    return act
