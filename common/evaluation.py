"""Evaluation: E episodes in E environments, one forward pass a step, in a worker process while training goes on.

Also a command, which plays trained policies again, of runs that are finished or still under way, on other start states,
under other physics or on another task, and films them. It changes nothing in a run's folder.

Run: python -m common.evaluation runs/* --episodes 100 --workers 4
"""

import copy
import pickle
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from common import InputError, RunError, end_workers, friendly, loading, worker_pool
from common.args import cli, within
from common.files import check_folder, minari_facts, reading
from common.physics import action_bounds, fitting, gymnasium_id, make_env, version, with_version
from common.sources import D4RL


@torch.no_grad()
def evaluate(actor, task: str, episodes: int = 10, seed: int = 0, physics: str = "d4rl", bounds=None,
             max_episode_steps: int | None = None, stopped=lambda: False):
    """Play E = `episodes` whole episodes with the deterministic action, `actor.act(obs (E, S) float32) -> (E, A)`.

    Environment i starts from reset(seed + 100 + i), always, as TD3+BC's authors do. Returns returns (E,), lengths (E,).
    The module of a `module:Id-v0` is imported: such a task comes from the user, never from a run folder alone.
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


_environments = cache(lambda episodes, *world: [make_env(*world, typed=True) for _ in range(episodes)])


def evaluation_task(data, eval_env: str) -> str | None:
    """What --eval-env names; auto: the data's own. None, with a line, where there is nothing to evaluate on."""
    task, why = {"auto": data.task, "none": None}.get(eval_env, eval_env), ""
    if eval_env == "auto" and "/" in str(task) and not data.source["env"]:
        task, why = None, f" ({task} is stored without an environment)"
    if not task:
        print(f"no evaluation{why}: name a task with --eval-env; {fitting(data.obs_size, data.action_size)}")
    return task


def normalized_score(task: str | None, returns, own: tuple = (None, None)):
    """100 (return - ref_min) / (ref_max - ref_min), by D4RL's references, `own` (--score-min, --score-max) or the
    Minari dataset's own; None without."""
    low, high = own if None not in own and task not in D4RL else _references(task)
    return None if low is None or high is None else 100.0 * (returns - low) / (high - low)


@cache
def _references(task):
    if row := D4RL.get(task):
        return float(row["ref_min"]), float(row["ref_max"])
    if task and not gymnasium_id(task) and "/" in task:
        with reading(task):
            low, high = map(minari_facts(task).get, ("ref_min_score", "ref_max_score"))
            return (None, None) if low is None or high is None else (float(low), float(high))
    return None, None


def reference_returns(folder: Path, config: dict) -> tuple:
    """--score-min and --score-max of a run, two None without. InputError: its config.json has no such numbers."""
    low, high = own = tuple(config["args"].get(name) for name in ("score_min", "score_max"))
    if own != (None, None) and not (all(type(x) in (int, float) and abs(x) < 1e300 for x in own) and low < high):
        raise InputError(f"{folder}: its config.json has score_min {str(low)[:20]} and score_max {str(high)[:20]}")
    return own


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
        self.scale = getattr(args, "score_min", None), getattr(args, "score_max", None)
        self.stopped = lambda: False
        if "/" not in task and task not in D4RL and not gymnasium_id(task):
            raise InputError(f"{task}: no D4RL task of this name; see --eval-env")
        env = make_env(task, args.physics, max_episode_steps=limit, typed=True)
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
            score = normalized_score(self.task, mean, self.scale)
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


# The command


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # run folders, finished or not
    episodes: Annotated[int, within("[1, 1e4]")] = 100  # of each trained seed
    seed: Annotated[int | None, within("[0, 1e18]")] = None  # of start states; default: as in training
    env: str = ""  # another task; or a run's own, where it is a module:Id-v0, because a module is code
    physics: Literal["d4rl", "stock"] | None = None  # default: the run's own
    workers: Annotated[int, within("[1, 256]")] = 1  # processes that play; they change no digit
    script: tuple[Path, ...] = ()  # your own algorithms' files, for runs that they trained: my_idea.py
    video: Path | None = None  # film the first episode of the first run's first seed: an .mp4 file
    frames: Path | None = None  # eight frames of it in a row: a .png file


class Trained:
    """A run's policies and what they are to play, checked before anything is played. InputError: what is in the way."""

    def __init__(self, folder: Path, args: Args, scripts: dict[str, Path]):
        self.folder, (self.config, saved) = folder, loading.read_trained(folder)
        self.seeds, flags, its = self.config["args"]["seeds"], self.config["args"], self.config["task"]
        self.step, self.task, bounds = saved["step"], args.env or its, action_bounds(self.config["data"])
        if not self.task:
            raise InputError(f"{folder}: was trained without a task (--eval-env none); name one with --env")
        self.file = loading.file_of(folder, self.config, scripts)
        size = loading.action_size(folder, self.config)
        self.actors = [loading.load_agent(folder, self.config, saved["agents"], seed, size, "cpu", scripts).actor.eval()
                       for seed in self.seeds]
        kind = args.physics or ("stock" if flags.get("physics") == "stock" else "d4rl")
        self.physics, own = version(self.task, kind), self.task == its
        self.scale = reference_returns(folder, self.config) if own else (None, None)
        limit = flags.get("max_episode_steps") if own else None
        if not (limit is None or type(limit) is int and limit > 0):
            raise InputError(f"{folder}: its config.json has max_episode_steps {str(limit)[:20]}")
        self.world = self.task, self.physics, loading.bounds_of(folder, self.config) if bounds else None, limit
        env = make_env(self.task, self.physics, max_episode_steps=limit, typed=self.task == args.env)
        here = env.observation_space.shape, env.action_space.shape
        if here != (sizes := ((len(self.config["obs_std"]),), (size,))):
            raise InputError(f"{folder}: {self.task} has observations {here[0]} and actions {here[1]}, its networks "
                             f"take {sizes[0]} and give {sizes[1]}")
        _check_bounds(env.action_space, self.task, self.world[2])
        if own and not args.physics and with_version(self.config["physics"]) != self.physics:
            print(f"{folder}: was evaluated under the physics {self.config['physics']}, now under {self.physics}")
        many = flags.get("eval_episodes")  # as many side by side as in training, which repeats it to the last digit
        self.rows = min(many if type(many) is int and many > 0 else 10, args.episodes)

    def jobs(self, args: Args):
        """What `_play` takes, for every seed and block of episodes."""
        for seed, actor in zip(self.seeds, self.actors):
            first = seed if args.seed is None else args.seed
            for start in range(0, args.episodes, self.rows):
                count = min(self.rows, args.episodes - start)
                yield self.file, pickle.dumps(actor), self.task, count, first + start, *self.world[1:]


def _play(file, actor, *others):
    """Returns (E,), lengths (E,); in a process in which the actor's class has to be made first."""
    loading.load_script(file)
    return evaluate(pickle.loads(actor), *others)


def play(runs: list[Trained], args: Args) -> list[np.ndarray]:
    """Returns (seeds, episodes) of each run. RunError: an episode failed."""
    jobs = [(run, job) for run in runs for job in run.jobs(args)]
    pool, results = worker_pool(args.workers) if args.workers > 1 else None, []
    futures = [pool.submit(_play, *job) for _, job in jobs] if pool else [None] * len(jobs)
    for (run, job), future in zip(tqdm(jobs, unit="block", leave=False, disable=None), futures):
        try:
            results.append((run, (future.result() if future else _play(*job))[0]))
        except BrokenProcessPool:
            raise RunError("a worker died (killed, out of memory?); take fewer --workers") from None
        except Exception as error:
            raise RunError(f"{run.folder}: evaluation failed ({type(error).__name__}: {error})") from error
    return [np.concatenate([found for of, found in results if of is run]).reshape(len(run.seeds), -1) for run in runs]


def interval(returns: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95% of the mean of returns (seeds, E): percentiles of a bootstrap that draws E episodes anew within each seed."""
    rng, episodes = np.random.default_rng(0), returns.shape[1]
    means = [row[rng.integers(episodes, size=(draws, episodes))].mean(1) for row in returns]
    return tuple(np.percentile(np.mean(means, 0), (2.5, 97.5)))


def table(runs: list[Trained], returns: list[np.ndarray]) -> str:
    """A line for each run: what was played, mean and interval, and the mean of each seed."""
    lines = [("run", "update", "data", "task", "physics", "episodes", "return", "score", "each seed")]
    for run, found in zip(runs, returns):
        normal = normalized_score(run.task, found, run.scale)
        cells = ["-" if x is None else f"{x.mean():.1f} " + ("[{:.1f}, {:.1f}]".format(*interval(x)) if x.shape[1] > 1
                                                            else "[one episode]") for x in (found, normal)]
        each = " ".join(f"{mean:.1f}" for mean in (found if normal is None else normal).mean(1))
        source = run.config["dataset_source"]
        lines.append((run.folder.resolve().name, f"{run.step:,}", "stand-in data" if source == "standin" else source,
                      run.task, run.physics, f"{len(run.seeds)} x {found.shape[1]}", *cells, each))
    lines = [["".join(c if c.isprintable() else "?" for c in cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main(args: Args):
    if not args.runs:
        raise InputError("name one or more run folders, for example runs/*")
    scripts = loading.own_scripts(args.script, {loading.read_config(folder)["algorithm"] for folder in args.runs})
    runs = [Trained(folder, args, scripts) for folder in args.runs]
    film = None
    if args.video or args.frames:
        from common import film
        for path, suffix, flag in ((args.video, ".mp4", "--video"), (args.frames, ".png", "--frames")):
            if path and path.suffix.lower() != suffix:
                raise InputError(f"{flag} {path}: name a file that ends in {suffix}")
            path and check_folder(path.absolute().parent, flag)
        film.check(runs[0].world, args.video)
    returns = play(runs, args)
    start = "an agent's own seed" if args.seed is None else args.seed
    print(table(runs, returns))
    print(f"\nMeans of seeds x episodes; episode i starts from reset(s + 100 + i), s: {start}.\n[95% intervals]: a "
          "bootstrap over episodes, within each seed. They tell how other start states would change the mean\nof these "
          "policies, and nothing of other training runs.")
    if any(run.config["dataset_source"] == "standin" for run in runs):
        print("STAND-IN DATA, not D4RL's: made with this project's own policies. Compare these scores with nothing "
              "published.")
    if film:
        print(f"\n{runs[0].folder}, seed {runs[0].seeds[0]}, its first episode:")
        seed = runs[0].seeds[0] if args.seed is None else args.seed
        film.record(runs[0].actors[0], runs[0].world, seed, runs[0].rows, args.video, args.frames)


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
