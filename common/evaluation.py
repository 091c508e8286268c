"""Evaluation: E episodes in E environments, one forward pass a step, in a worker process while training goes on."""

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
from common.sources import D4RL


@torch.no_grad()
def evaluate(actor, task: str, episodes: int = 10, seed: int = 0, physics: str = "d4rl"):
    """Play E = `episodes` whole episodes with the deterministic action, `actor.act(obs (E, S) float32) -> (E, A)`.

    Environment i starts from reset(seed + 100 + i), always, as TD3+BC's authors do. Returns returns (E,), lengths (E,).
    """
    envs, device = _environments(task, physics, episodes), next(actor.parameters()).device
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a pass has ten rows; and one thread sums in the same order here and in the worker
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


_environments = cache(lambda task, physics, episodes: [make_env(task, physics) for _ in range(episodes)])


def normalized_score(task: str | None, returns):
    """100 (return - ref_min) / (ref_max - ref_min), D4RL's references or the Minari dataset's own; None without."""
    low, high = _references(task)
    return None if low is None or high is None else 100.0 * (returns - low) / (high - low)


@cache
def _references(task):
    if row := D4RL.get(task):
        return float(row["ref_min"]), float(row["ref_max"])
    if task and "/" in task:
        import minari
        facts = minari.load_dataset(task).storage.metadata
        return facts.get("ref_min_score"), facts.get("ref_max_score")
    return None, None


def _job(actor, task, episodes, seed, physics):
    start = time.perf_counter()
    return *evaluate(pickle.loads(actor), task, episodes, seed, physics), time.perf_counter() - start


class Evaluator:
    """Evaluations in the order they were asked for, by worker processes or, with 0 workers, inline: the same numbers.

    `waiting`: (step, seed, actor's weights, future) of what is not delivered; a checkpoint keeps the first three.
    InputError at once, not at the first evaluation: an unknown task, no simulator for it, or data of other sizes.
    """

    def __init__(self, task: str, data, args):
        self.task, self.physics, self.episodes = task, args.physics, args.eval_episodes
        if "/" not in task and task not in D4RL:
            raise InputError(f"{task}: no D4RL task of this name; see --eval-env")
        env, sizes = make_env(task, args.physics), ((data.obs_size,), (data.action_size,))
        if sizes != (here := (env.observation_space.shape, env.action_space.shape)):
            raise InputError(f"{task} ({args.physics} physics) has observations {here[0]} and actions {here[1]}, the "
                             f"data {sizes[0]} and {sizes[1]}; name the data's own task with --eval-env, or none")
        self.pool = worker_pool(args.eval_workers) if args.eval_workers else None
        self.waiting: deque[tuple[int, int, dict, Future]] = deque()
        self.seconds = self.waited = 0.0  # spent on evaluations, and for which training stood still

    def submit(self, step: int, seed: int, actor) -> None:
        """Evaluate a copy of the actor as it is now."""
        actor, start = copy.deepcopy(actor).cpu(), time.perf_counter()
        if len(self.waiting) >= 32:  # do not run ahead for ever
            self.waiting[0][3].exception()
        job = pickle.dumps(actor), self.task, self.episodes, seed, self.physics
        future = Future()
        try:
            future = self.pool.submit(_job, *job) if self.pool else future.set_result(_job(*job)) or future
        except Exception as error:  # delivered with the result, whether it was inline or the worker had died
            future.set_exception(error)
        self.waited += time.perf_counter() - start
        self.waiting.append((step, seed, actor.state_dict(), future))

    def finished(self, wait: bool = False):
        """Yield (step, seed, returns, lengths) of what is done, or of all with `wait`. RunError if a worker failed."""
        while self.waiting and (wait or self.waiting[0][3].done()):
            (step, seed, _, future), start = self.waiting[0], time.perf_counter()
            try:
                returns, lengths, seconds = future.result()
            except BrokenProcessPool:
                raise RunError("the evaluation worker died (killed, out of memory?); see --eval-workers 0") from None
            except Exception as error:
                raise RunError(f"evaluation of update {step:,} failed ({type(error).__name__}: {error})") from error
            self.seconds, self.waited = self.seconds + seconds, self.waited + time.perf_counter() - start
            self.waiting.popleft()
            yield step, seed, returns, lengths

    def close(self) -> None:
        if self.pool:  # idle workers are waited for: Python 3.11 may print a traceback if they end while it exits
            self.pool.shutdown(wait=all(job[3].done() for job in self.waiting), cancel_futures=True)
