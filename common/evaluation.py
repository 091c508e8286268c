"""Evaluation: E episodes in E environments, one forward pass a step, in a worker process while training goes on."""

from __future__ import annotations

import copy
import pickle
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import numpy as np
import torch

from common import InputError, RunError, worker_pool
from common.physics import make_env


@torch.no_grad()
def evaluate(actor, task: str, episodes: int = 10, seed: int = 0, physics: str = "d4rl") -> tuple[np.ndarray, np.ndarray]:
    """Play whole episodes with `actor.act`, the deterministic action.

    Args:
        actor: has `act(obs (E, S) float32) -> action (E, A)` in [-1, 1] and parameters, whose device it runs on.
        task: D4RL name or Minari id (`common.physics.make_env`).
        seed: environment i starts from reset(seed + 100 + i), at every evaluation again (as TD3+BC's authors do), so that a resumed run
            repeats an uninterrupted one.
    Returns:
        undiscounted returns (E,) and lengths (E,), float64, in the order of the environments.
    """
    envs, device = _environments(task, physics, episodes), next(actor.parameters()).device
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # ten rows a forward pass; and one thread gives the same sums here as in the worker
    try:
        obs = np.stack([env.reset(seed=seed + 100 + i)[0] for i, env in enumerate(envs)]).astype(np.float32)
        returns, lengths, running = np.zeros(episodes), np.zeros(episodes), list(range(episodes))
        while running:
            actions = actor.act(torch.from_numpy(obs).to(device)).cpu().numpy()
            if not np.isfinite(actions).all():
                raise FloatingPointError("the actor's action is not finite")
            for i in tuple(running):
                obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
                returns[i] += reward
                lengths[i] += 1
                if terminated or truncated:
                    running.remove(i)
    finally:
        torch.set_num_threads(threads)
    return returns, lengths


@cache
def _environments(task, physics, episodes):
    return [make_env(task, physics) for _ in range(episodes)]


def check_task(task: str, physics: str, obs_size: int, action_size: int) -> None:
    """Raise an InputError now, rather than at the first evaluation, if `task` cannot be simulated or has another shape than the data."""
    env = make_env(task, physics)
    sizes = env.observation_space.shape, env.action_space.shape
    if sizes != ((obs_size,), (action_size,)):
        raise InputError(f"{task} under {physics} physics observes {sizes[0]} and acts {sizes[1]}, but the data have ({obs_size},) and "
                         f"({action_size},); name the data's own task with --eval-env")


def _job(actor_bytes, task, episodes, seed, physics):
    start = time.perf_counter()
    returns, lengths = evaluate(pickle.loads(actor_bytes), task, episodes, seed, physics)
    return returns, lengths, time.perf_counter() - start


class Evaluator:
    """Evaluations of (step, seed) in the order they were asked for, by one worker process or, with `workers` 0, inline: the same numbers.

    `waiting` holds (step, seed, actor's weights on the CPU, result) of what is not delivered yet; a checkpoint keeps the first three.
    """

    def __init__(self, task: str, physics: str, episodes: int, workers: int):
        self.settings = task, episodes, physics
        self.pool = worker_pool(workers) if workers else None
        self.waiting: deque[tuple[int, int, dict, Future]] = deque()
        self.seconds = self.waited = 0.0  # spent evaluating (anywhere); for which training stood still

    def submit(self, step: int, seed: int, actor) -> None:
        """Evaluate a copy of the actor as it is now."""
        actor = copy.deepcopy(actor).cpu()
        task, episodes, physics = self.settings
        job = pickle.dumps(actor), task, episodes, seed, physics
        if self.pool:
            future = self.pool.submit(_job, *job)
        else:
            future, start = Future(), time.perf_counter()
            future.set_result(_job(*job))
            self.waited += time.perf_counter() - start
        self.waiting.append((step, seed, actor.state_dict(), future))

    def finished(self, wait: bool = False):
        """Yield (step, seed, returns, lengths) of evaluations that are done, or of all with `wait`."""
        while self.waiting and (wait or self.waiting[0][3].done()):
            step, seed, _, future = self.waiting[0]
            start = time.perf_counter()
            try:
                returns, lengths, seconds = future.result()
            except BrokenProcessPool:
                raise RunError("the evaluation worker died (killed, or out of memory); --eval-workers 0 evaluates without one") from None
            except Exception as error:
                raise RunError(f"evaluation of step {step} failed: {type(error).__name__}: {error}") from error
            self.seconds += seconds
            self.waited += time.perf_counter() - start
            self.waiting.popleft()
            yield step, seed, returns, lengths

    def close(self) -> None:
        if self.pool:
            self.pool.shutdown(wait=False, cancel_futures=True)
