"""Evaluation: E episodes in E environments, one forward pass a step, in a worker process while training goes on."""

import copy
import pickle
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import numpy as np
import torch

from common import InputError, RunError, end_workers, worker_pool
from common.files import minari_facts, reading
from common.physics import Bounds, make_env
from common.sources import D4RL


@torch.no_grad()
def evaluate(actor, task: str, episodes: int = 10, seed: int = 0, physics: str = "d4rl", bounds=None,
             max_episode_steps: int | None = None, stopped=lambda: False):
    """Play E = `episodes` whole episodes with the deterministic action, `actor.act(obs (E, S) float32) -> (E, A)`.

    Environment i starts from reset(seed + 100 + i), always, as TD3+BC's authors do. Returns returns (E,), lengths (E,).
    KeyboardInterrupt as soon as `stopped()`, which is asked before every step. The other arguments: as `make_env`.
    """
    envs, device = _environments(episodes, task, physics, bounds, max_episode_steps), next(actor.parameters()).device
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
                if stopped():
                    raise KeyboardInterrupt
                obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
                returns[i] += reward
                lengths[i] += 1
                if terminated or truncated:
                    running.remove(i)
    finally:
        torch.set_num_threads(threads)
    return returns, lengths


_environments = cache(lambda episodes, *world: [make_env(*world) for _ in range(episodes)])


def action_bounds(source: dict) -> Bounds | None:
    """Of the actions before loading scaled them to [-1, 1], from a dataset's source; None: they were so."""
    low, high = source.get("action_low"), source.get("action_high")
    return (tuple(low), tuple(high)) if low and high else None


def evaluation_task(data, eval_env: str) -> str | None:
    """What --eval-env names; auto: the data's own. None, with a line, where there is nothing to evaluate on."""
    task, why = {"auto": data.task, "none": None}.get(eval_env, eval_env), ""
    if eval_env == "auto" and "/" in str(task) and not data.source["env"]:
        task, why = None, f" ({task} is stored without an environment)"
    if not task:
        print(f"no evaluation{why}: name a task with --eval-env, for example --eval-env hopper-medium-v2")
    return task


def normalized_score(task: str | None, returns):
    """100 (return - ref_min) / (ref_max - ref_min), by D4RL's references or the Minari dataset's own; None without."""
    low, high = _references(task)
    return None if low is None or high is None else 100.0 * (returns - low) / (high - low)


@cache
def _references(task):
    if row := D4RL.get(task):
        return float(row["ref_min"]), float(row["ref_max"])
    if task and "/" in task:
        with reading(task):
            low, high = map(minari_facts(task).get, ("ref_min_score", "ref_max_score"))
            return (None, None) if low is None or high is None else (float(low), float(high))
    return None, None


def _job(actor, task, *others):
    start = time.perf_counter()
    return *evaluate(pickle.loads(actor), task, *others), time.perf_counter() - start


class Evaluator:
    """Evaluations in the order they were asked for, by worker processes or, with 0 workers, inline: the same numbers.

    `waiting`: (step, seed, actor's weights, future) of what is not delivered; a checkpoint keeps the first three.
    `stopped`: a function that says whether to stop. Then nothing is waited for; what is under way stays in `waiting`.
    InputError at once, not at the first evaluation: an unknown task, no simulator for it, data of other sizes or scale.
    """

    def __init__(self, task: str, data, args):
        bounds, limit = action_bounds(data.source), getattr(args, "max_episode_steps", None)
        self.task, self.episodes, self.world = task, args.eval_episodes, (args.physics, bounds, limit)
        self.stopped = lambda: False
        if "/" not in task and task not in D4RL:
            raise InputError(f"{task}: no D4RL task of this name; see --eval-env")
        env = make_env(task, args.physics, max_episode_steps=limit)
        sizes, here = ((data.obs_size,), (data.action_size,)), (env.observation_space.shape, env.action_space.shape)
        if sizes != here:
            raise InputError(f"{task} ({args.physics} physics) has observations {here[0]} and actions {here[1]}, the "
                             f"data {sizes[0]} and {sizes[1]}; name the data's own task with --eval-env, or none")
        _check_bounds(env.action_space, task, bounds)
        self.pool = worker_pool(args.eval_workers) if args.eval_workers else None
        self.waiting: deque[tuple[int, int, dict, Future]] = deque()
        self.references: dict[int, float] = {}  # {seed: score of the agent's reference}, once it is known
        self.seconds = self.waited = self.after = 0.0  # spent on evaluations, while training waited, when it was over

    def submit(self, step: int, seed: int, actor) -> None:
        """Evaluate a copy of the actor as it is now."""
        actor, start = copy.deepcopy(actor).cpu(), time.perf_counter()
        if len(self.waiting) >= 32:  # do not run ahead for ever
            self._wait()
        job, future = (pickle.dumps(actor), self.task, self.episodes, seed, *self.world), Future()
        try:
            if self.pool:
                future = self.pool.submit(_job, *job)
            else:
                future.set_result(_job(*job, self.stopped))
        except KeyboardInterrupt:
            if not self.stopped():
                raise
        except Exception as error:  # delivered with the result, whether it was inline or the worker had died
            future.set_exception(error)
        self.waited += time.perf_counter() - start
        self.waiting.append((step, seed, actor.state_dict(), future))

    def compared(self, step: int, seed: int, agent, value: float) -> dict:
        """Columns of eval.csv for an agent with a `reference`, a policy that is fixed once `compared_from` updates are
        made: its score, and by how much the actor's, `value`, is above. It is evaluated once, as actors are."""
        if not isinstance(getattr(agent, "reference", None), torch.nn.Module):
            return {}
        if step < agent.compared_from:
            return {"reference": "", "difference": ""}
        if seed not in self.references:
            actor = copy.deepcopy(agent.reference).cpu()
            mean = evaluate(actor, self.task, self.episodes, seed, *self.world)[0].mean()
            score = normalized_score(self.task, mean)
            self.references[seed] = float(mean if score is None else score)
        return {"reference": self.references[seed], "difference": value - self.references[seed]}

    def _wait(self) -> bool:
        """Until the first of `waiting` is done, which it says, or the run is to stop."""
        while not (done := self.waiting[0][3].done()) and not self.stopped():
            wait_for([self.waiting[0][3]], timeout=0.1)
        return done

    def finished(self, wait: bool = False):
        """Yield (step, seed, returns, lengths) of what is done, or of all with `wait`. RunError if a worker failed."""
        while self.waiting and (wait or self.waiting[0][3].done()):
            (step, seed, _, future), start = self.waiting[0], time.perf_counter()
            try:
                if not self._wait():
                    return
                returns, lengths, seconds = future.result()
            except BrokenProcessPool:
                if self.stopped():  # the signal was for all processes
                    return
                raise RunError("the evaluation worker died (killed, out of memory?); see --eval-workers 0") from None
            except Exception as error:
                raise RunError(f"evaluation of update {step:,} failed ({type(error).__name__}: {error})") from error
            self.seconds += seconds
            if wait:
                self.after += time.perf_counter() - start
            else:
                self.waited += time.perf_counter() - start
            self.waiting.popleft()
            yield step, seed, returns, lengths

    def close(self) -> None:
        if self.pool:
            end_workers(self.pool, idle=all(job[3].done() for job in self.waiting))


def _check_bounds(space, task, bounds):
    """InputError unless actions scaled back from [-1, 1] to `bounds` fill the environment's Box, as far as it ends."""
    low, high = bounds or (-np.ones(space.shape), np.ones(space.shape))
    if not all(np.allclose(np.where(np.isinf(own), given, own), given, atol=1e-6)
               for own, given in ((space.low, low), (space.high, high))):
        lows, highs = (" ".join(f"{x:g}" for x in bound) for bound in (space.low, space.high))
        raise InputError(f"{task} takes actions from {lows} to {highs}, the data's are "
                         f"{f'from {list(low)} to {list(high)}' if bounds else 'taken to be from -1 to 1'}; scale own "
                         f"data with --action-low {lows} --action-high {highs}, or evaluate on another --eval-env")
