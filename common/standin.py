"""Stand-in datasets: D4RL's own protocol, run again with policies that ship with this project.

D4RL let a SAC policy act (sampled actions), appended finished episodes until there were enough rows, cut there, and
flagged `timeouts`, not `terminals`, at step 1000. So do our SAC policies here, under the same physics. A stand-in has
the shape and roughly the level of D4RL's data, so that all runs and learns without a download, but it is NOT that data.
"""

import hashlib
import os
import sys
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import end_workers, worker_pool
from common.physics import VERSIONS, make_env

POLICIES = Path(__file__).parent / "policies"
PROTOCOL = 0  # add 1 when what is below changes; 0 keeps the names that older caches have
CHUNK = 25_000  # rows that a worker collects with a seed of its own, so that the number of workers changes nothing
KEYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


def standin_hash(dataset: str, policies: list[str], rows: int) -> str:
    """Eight hex digits that change with the policies, the number of rows, the simulator's version, what it simulates
    of this robot (`VERSIONS` in physics.py) and the protocol."""
    versions = sorted((d.name, d.version) for d in distributions() if d.name in ("mujoco", "gymnasium"))
    protocol = PROTOCOL + VERSIONS.get(dataset.split("-")[0], 1)  # both only grow, so no sum comes twice
    digest = hashlib.sha256(repr((protocol, rows, versions)).encode())
    for name in policies:
        digest.update(b"uniform" if name == "uniform" else (POLICIES / f"{name}.npz").read_bytes())
    return digest.hexdigest()[:8]


def generate(dataset: str, policies: list[str], rows: int, workers: int | None = None) -> dict[str, np.ndarray]:
    """`rows` transitions in D4RL's layout, equal shares of the policies: files in common/policies, or `uniform`."""
    make_env(dataset).close()  # a missing simulator is an InputError here
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool, parts = worker_pool(workers or cores), []
    try:
        jobs = []
        for i, policy in enumerate(policies):
            share = rows // len(policies) + (i < rows % len(policies))
            chunks = max(1, -(-share // CHUNK))
            size = -(-share // chunks)
            jobs.append((share, [pool.submit(_collect, dataset, policy, size, 10_000 * i + j) for j in range(chunks)]))
        for policy, (share, futures) in zip(policies, jobs):
            bar = tqdm(futures, f"simulating {dataset} with {policy}", unit="chunk", disable=not sys.stderr.isatty())
            done = [future.result() for future in bar]
            part = {key: np.concatenate([chunk[key] for chunk in done])[:share] for key in KEYS}
            part["timeouts"][-1:] = ~part["terminals"][-1:]  # the cut
            parts.append(part)
    finally:
        end_workers(pool, idle=len(parts) == len(policies))
    return {key: np.concatenate([part[key] for part in parts]) for key in KEYS}


def _collect(dataset, policy, rows, seed):
    """Whole episodes of one policy, until there are at least `rows` rows."""
    env, rng, columns = make_env(dataset), np.random.default_rng(seed), {key: [] for key in KEYS}
    act, done = _actor(policy, env.action_space.shape[0], rng), False
    obs, _ = env.reset(seed=seed)
    while not (done and len(columns["rewards"]) >= rows):
        if done:
            obs, _ = env.reset()
        action = act(obs)
        next_obs, reward, terminal, limit, _ = env.step(action)
        for key, value in zip(KEYS, (obs, action, reward, next_obs, terminal, limit and not terminal)):
            columns[key].append(value)
        obs, done = next_obs, terminal or limit
    return {key: np.array(values, bool if key[0] == "t" else np.float32) for key, values in columns.items()}


def _actor(policy, action_size, rng):
    """Uniform actions, or SAC's sampled tanh(mean + std * noise) of a stored two-layer ReLU network, in numpy."""
    if policy == "uniform":
        return lambda obs: rng.uniform(-1.0, 1.0, action_size).astype(np.float32)
    with np.load(POLICIES / f"{policy}.npz") as file:
        w0, b0, w1, b1, w2, b2 = (file[f"{layer}/{part}"].astype(np.float32)
                                  for layer in ("fc0", "fc1", "last_fc") for part in ("weight", "bias"))

    def act(obs):
        mean, log_std = np.split(w2 @ np.maximum(w1 @ np.maximum(w0 @ obs + b0, 0) + b1, 0) + b2, 2)
        noise = rng.standard_normal(action_size, dtype=np.float32)
        return np.tanh(mean + np.exp(np.clip(log_std, -20, 2)) * noise)

    return act
