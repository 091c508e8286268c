"""Observation attacks: the score of a trained agent when it sees s^ = s + delta instead of s, at every step.

Yang et al., RORL, NeurIPS 2022, arXiv:2206.02829. The simulator goes on from the true s; delta stays in a box that is
measured in standard deviations of the training data's observations, for every agent, whatever its own normalisation.

    box: |delta_i| <= eps sigma_i;  sigma: std of the training data's observations                                   (1)
    random: delta_i uniform in the box                                                                               (2)
    action-diff: minimise f(delta) = -J(pi(s), pi(s + delta)), J the Gaussians' Jeffreys divergence before tanh      (3)
    min-q: minimise f(delta) = mean_k Qk(s, act(s + delta))                                                          (4)
    zero-order: the best of 50 uniform delta; min-q also tries delta = 0                                             (5)
    mixed-order: from 20 uniform delta, 10 steps delta <- clip(delta - h sign(df/ddelta)), the best of the 20 ends   (6)

Paper / authors' code / here:
- (6): the paper's gradient descent is, in the code, Adam made anew at each step, which is a sign step. Its size h is
  eps / 10 in RAW units, while the box is in units of sigma: where sigma is 10 it never gets far, where sigma is 0.05
  one step crosses the box. --step authors is that. --step scaled (default) has h = eps sigma / 10 and keeps the best
  start as well: use it for any claim of robustness.
- (3): no factor 1/2. A deterministic policy has no Gaussian: J is |act(s) - act(s + delta)|^2 there (ours).
- (4): mean over the ensemble's online critics, although RORL's policy is trained against the minimum. The agent's own
  critics attack it; --critic RUN has another agent's for all (the code can do both, the figures do not say which).
- The code draws candidates for all environments of a batch at once; here each environment has its own, and the same at
  every eps and for every agent. Report `worst`, the least score of all attacks: one attack's failure proves nothing.

Episodes start where the run's own evaluations start, so that eps 0 repeats its last evaluation, if the physics is the
same. Rows are written to attacks.csv in the run's folder and computed again only under another physics; a figure (score
against eps) and all rows go to --out, under a name that is another for other runs or flags. A run folder is data: only
files in algorithms/ are loaded, or --script.

Run: python benchmark/attacks.py runs/rorl-hopper-medium-v2-20261121-091549-151
"""

import csv
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from benchmark.engine.figures import attack_figure
from benchmark.engine.files import whole
from benchmark.engine.runs import Run, label, load_agent, named, read_run
from common import InputError, friendly
from common.args import cli, usable_device, within
from common.evaluation import normalized_score, reference_returns
from common.files import check_folder
from common.loading import own_scripts
from common.physics import action_bounds, make_env

RADII = (0.0, 0.01, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
ZERO_ORDER, STARTS, STEPS = 50, 20, 10  # (5), (6)


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # folders of trained runs
    attack: tuple[Literal["random", "action-diff", "min-q"], ...] = ("random", "action-diff", "min-q")  # (2)-(4)
    optimizer: tuple[Literal["zero-order", "mixed-order"], ...] = ("zero-order", "mixed-order")  # (5), (6)
    step: tuple[Literal["scaled", "authors"], ...] = ("scaled",)  # sign step of (6), in units of sigma or raw
    eps: Annotated[tuple[float, ...], within("[0, inf)")] = RADII  # radii of the box (1)
    critic: Path | None = None  # run whose critics attack every agent in min-q; default: the agent's own
    episodes: Annotated[int, within("[1, 1e4]")] = 10  # episodes per agent, attack and radius, side by side
    device: str = "auto"  # where candidates are scored: auto, cpu, cuda; the agent acts on the CPU, as in evaluations
    seed: Annotated[int, within("[0, 1e18]")] = 0  # of the attacker's noise
    env: str = ""  # the runs' task typed again, where it is a module:Id-v0, because a module is code
    script: tuple[Path, ...] = ()  # your own algorithms' files, for runs that they trained: my_idea.py
    out: Path = Path("results/attacks")  # folder for the table and the figure
    name: str = ""  # of the table and the figure; default: after the runs and flags


def jeffreys(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL in both directions between diagonal Gaussians, summed over the last dimension: (..., A) -> (...)."""
    precisions = (-2 * log_std).exp() + (-2 * other_log_std).exp()
    spread = 2 * torch.sinh(log_std - other_log_std) ** 2
    return (spread + (mean - other_mean) ** 2 * precisions / 2).sum(-1)


def objective(attack: str, actor, critics, obs: Tensor):
    """f of an attack as a function of delta (R, n, S) -> (R, n), at observations (R, S); the attacker minimises it."""
    clean = [x[:, None] for x in policy(actor, obs)] if attack == "action-diff" else []

    def change(delta):
        moved = policy(actor, (obs[:, None] + delta).flatten(0, 1))  # networks take (B, S)
        moved = [x.view(*delta.shape[:2], -1) for x in moved]
        return -jeffreys(*clean, *moved) if len(clean) == 2 else -((clean[0] - moved[0]) ** 2).sum(-1)  # (3)

    def mean_q(delta):
        action, still = actor.act((obs[:, None] + delta).flatten(0, 1)), obs[:, None].expand_as(delta).flatten(0, 1)
        return critics(still, action).view(-1, *delta.shape[:2]).mean(0)  # (4)
    return change if attack == "action-diff" else mean_q


def policy(actor, obs: Tensor) -> tuple[Tensor, ...]:
    """Mean and log std before tanh, where the actor's forward gives these two; else its deterministic action alone."""
    try:
        output = actor(obs)
    except NotImplementedError:  # a module with act() only
        output = None
    if isinstance(output, tuple) and len(output) == 2:
        return output[0], output[1].expand_as(output[0])  # one log std may serve all states
    return (actor.act(obs),)


@torch.no_grad()
def zero_order(f, candidates: Tensor, box: Tensor, clean: bool) -> Tensor:
    """The best of `candidates` (R, n, S) in [-1, 1] times the box (R, S), and of 0 if `clean`: delta (R, S)."""
    delta = candidates * box[:, None]  # (1)
    delta = torch.cat([delta, torch.zeros_like(delta[:, :1])], 1) if clean else delta
    return _best(f(delta), delta)  # (5)


def mixed_order(f, starts: Tensor, box: Tensor, size: Tensor, keep_start: bool) -> Tensor:
    """From `starts` (R, n, S) in [-1, 1] times the box (R, S), sign steps of `size` (R, S): the best end, (R, S)."""
    box = box[:, None]
    delta = begin = starts * box
    for _ in range(STEPS):
        delta = delta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(f(delta).sum(), delta)
        with torch.no_grad():
            delta = (delta - size[:, None] * gradient.sign()).clamp(-box, box)  # (6)
    with torch.no_grad():
        delta = torch.cat([delta, begin], 1) if keep_start else delta
        return _best(f(delta), delta)


def _best(values, delta):
    return delta[torch.arange(len(delta), device=delta.device), values.argmin(1)]


def perturb(obs: Tensor, eps: Tensor, sigma: Tensor, noise: Tensor, attack: str, optimizer: str = "", step: str = "",
            actor=None, critics=None) -> Tensor:
    """s^ (R, S) for true observations (R, S), radii eps (R,), noise (R, n, S) uniform in [-1, 1]: n from `draws`."""
    box = eps[:, None] * sigma
    if attack == "random":
        return obs + noise[:, 0] * box  # (2)
    f = objective(attack, actor, critics, obs)
    if optimizer == "zero-order":
        return obs + zero_order(f, noise, box, clean=attack == "min-q")
    size = 0.1 * (box if step == "scaled" else eps[:, None].expand_as(box))
    return obs + mixed_order(f, noise, box, size, keep_start=step == "scaled")


def draws(attack: str, optimizer: str, step: str) -> int:
    """n, perturbations that a variant draws per observation."""
    return 1 if attack == "random" else ZERO_ORDER if optimizer == "zero-order" else STARTS


def attacked_returns(agent, critics, world: tuple, sigma: Tensor, eps: list[float], variant: tuple,
                     episodes: int, seed: int, noise_seed: int, device: str, show: str):
    """Whole episodes under attack: returns and lengths (G, E) for G radii and E episodes, all side by side.

    `world` is what `make_env` takes. Episode i starts from reset(seed + 100 + i), and the agent acts on rows of E
    observations on one CPU thread, both as in common/evaluation.py: at eps 0 it is the same arithmetic.
    """
    envs = [[make_env(*world, typed=True) for _ in range(episodes)] for _ in eps]
    obs = np.array([[env.reset(seed=seed + 100 + i)[0] for i, env in enumerate(row)] for row in envs], np.float32)
    radii = torch.tensor(eps)[:, None].expand(-1, episodes)  # (G, E)
    returns, lengths, running = np.zeros(radii.shape), np.zeros(radii.shape), np.ones(radii.shape, bool)
    rng, actor = torch.Generator().manual_seed(noise_seed), deepcopy(agent.actor).cpu()
    threads = torch.get_num_threads()
    shape = episodes, draws(*variant), obs.shape[-1]
    with tqdm(total=1000, desc=show, unit="step", leave=False, disable=None) as bar:
        while running.any():
            noise = 2 * torch.rand(shape, generator=rng) - 1  # (E, n, S), the same at every radius and on every device
            seen, rows = torch.from_numpy(obs).clone(), torch.from_numpy(running) & (radii > 0)
            if rows.any():
                draw = noise.expand(len(eps), -1, -1, -1)[rows]
                there = (x.to(device) for x in (seen[rows], radii[rows], sigma, draw))
                seen[rows] = perturb(*there, *variant, agent.actor, critics).cpu()
            torch.set_num_threads(1)
            actions = [actor.act(row).numpy() for row in seen]
            torch.set_num_threads(threads)
            if not np.isfinite(actions).all():
                raise InputError(f"{show}: the agent's action is not finite; its checkpoint is of a run that diverged")
            for g, i in np.argwhere(running):
                obs[g, i], reward, terminated, truncated, _ = envs[g][i].step(actions[g][i])
                returns[g, i] += reward
                lengths[g, i] += 1
                running[g, i] = not (terminated or truncated)
            bar.update()
    return returns, lengths


def variants(args: Args) -> list[tuple[str, str, str]]:
    """(attack, optimizer, step) of every curve."""
    found = [("random", "", "")] if "random" in args.attack else []
    for attack in ("action-diff", "min-q"):
        if attack in args.attack:
            found += [(attack, "zero-order", "")] if "zero-order" in args.optimizer else []
            found += [(attack, "mixed-order", step) for step in args.step if "mixed-order" in args.optimizer]
    return found


class Target:
    """A run's agents and what attacks them, checked before anything is computed. InputError: what is in the way."""

    def __init__(self, run: Run, seeds: list[int], critic: Run | None, args: Args, scripts: dict[str, Path]):
        self.run, self.seeds, self.task = run, seeds, run.config["task"]
        if not self.task:
            raise InputError(f"{run.folder}: was trained without a task (--eval-env none), there is nothing to play")
        bounds, limit = action_bounds(run.config["data"]), run.config["args"].get("max_episode_steps")
        its, self.physics = run.physics
        self.world = self.task, self.physics, bounds, limit
        if self.physics != its:
            print(f"{run.folder}: is evaluated under the physics {its}, and attacked under today's, {self.physics}")
        self.env = make_env(*self.world, typed=self.task == args.env)
        self.scale = reference_returns(run.folder, run.config)
        if critic and robot(critic.config["task"]) != robot(self.task):
            raise InputError(f"--critic {critic.folder}: is of {critic.config['task']}, another robot than {self.task}")
        if run.checkpoint["step"] < run.config["args"]["updates"]:
            print(f"{run.folder}: unfinished, attacked at update {run.checkpoint['step']:,}")
        self.agents = [self._load(run, seed, args, scripts) for seed in seeds]
        if (there := self.env.observation_space.shape[0]) != (size := self.agents[0].data.obs_size):
            raise InputError(f"{run.folder}: {self.task} has observations of {there} numbers, its networks take {size}")
        self.critic = f"{critic.folder.name}@{critic.checkpoint['step']}" if critic else "own"
        owners = self.agents
        if critic:
            owners = [self._load(critic, seed if seed in critic.seeds else critic.seeds[0], args, scripts)
                      for seed in seeds]
        self.critics = [getattr(owner, "critics", None) for owner in owners]
        if "min-q" in args.attack and None in self.critics:
            raise InputError(f"{(critic or run).folder}: has no critics for min-q; name a run that has some with "
                             "--critic, or leave min-q out of --attack")

    def _load(self, run, seed, args, scripts):
        return load_agent(run, seed, self.env.action_space.shape[0], args.device, scripts)


def robot(task: str | None) -> str:
    """Of a D4RL name; a Minari dataset's id and version."""
    return (task or "").split("-")[0]


FACTS = "update seed attack optimizer step critic episodes attacker physics eps".split()  # one row of attacks.csv each


def attack_run(target: Target, args: Args) -> list[dict]:
    """Rows of a run's attacks.csv for every seed, variant and radius; those that are there are not computed again."""
    path, run, rows = target.run.folder / "attacks.csv", target.run, []
    known = {}
    if path.is_file():
        with open(path, newline="") as file:
            its = [row | {"physics": row.get("physics") or run.physics[0]}  # older rows had the run's
                   for row in csv.DictReader(file) if row.get("returns")]
            known = {tuple(row.get(name) for name in FACTS): row for row in its}
    for seed, agent, critics in zip(target.seeds, target.agents, target.critics):
        for variant in [("clean", "", "")] * (0.0 in args.eps) + variants(args):
            critic = target.critic if variant[0] == "min-q" else ""
            facts = run.checkpoint["step"], seed, *variant, critic, args.episodes, args.seed, target.physics
            keys = {eps: tuple(map(str, (*facts, eps))) for eps in args.eps if (eps == 0) == (variant[0] == "clean")}
            if missing := [eps for eps, key in keys.items() if key not in known]:
                results = attacked_returns(
                    agent, critics, target.world, agent.data.obs_std, missing, variant, args.episodes,
                    seed, args.seed, args.device, show=f"{run.folder.name} {' '.join(variant)}")
                for eps, returns, lengths in zip(missing, *results):
                    known[keys[eps]] = dict(zip(FACTS, keys[eps])) | summary(target, returns, lengths)
                try:
                    write_rows(path, known.values(), hint="")
                except InputError as error:
                    print(f"warning: {error}; these rows go to --out only", file=sys.stderr)
            rows += [known[key] for key in keys.values()]
    return rows


def summary(target: Target, returns: np.ndarray, lengths: np.ndarray) -> dict[str, str]:
    score = normalized_score(target.task, returns.mean(), target.scale)
    return {"return_mean": repr(float(returns.mean())), "return_std": repr(float(returns.std())),
            "score": "" if score is None else repr(float(score)), "length_mean": repr(float(lengths.mean())),
            "returns": " ".join(f"{r:.6g}" for r in returns)}


def table(rows: list[dict]) -> list[list[str]]:
    """Mean score (return, where a task has no reference) of every variant and radius, and the worst of all variants."""
    scores = {}
    for row in rows:
        name = " ".join(filter(None, (row["attack"], row["optimizer"], row["step"])))
        scores.setdefault(name, {}).setdefault(float(row["eps"]), []).append(float(row["score"] or row["return_mean"]))
    means = {name: {eps: np.mean(values) for eps, values in row.items()} for name, row in scores.items()}
    clean, radii = means.pop("clean", {}), sorted({float(row["eps"]) for row in rows})
    means = {name: clean | row for name, row in means.items()} or {"clean": clean}
    means["worst"] = {eps: min(row[eps] for row in means.values()) for eps in radii}
    lines = [[name, *(f"{row[eps]:.1f}" for eps in radii)] for name, row in means.items()]
    return [["eps", *(f"{eps:g}" for eps in radii)], *lines]


def attack_all(agents: dict[str, list[tuple[Run, list[int]]]], args: Args, name: str, critics={}) -> list[dict]:
    """Attack agents {label: [(run, seeds)]}; print tables, write `name`.csv and `name`.png to args.out; without a name,
    one after the rows that they hold.

    `critics`: {task: run} whose critics attack all agents in min-q, in place of --critic.
    """
    if not args.eps or not variants(args) and 0.0 not in args.eps:
        raise InputError("nothing to do: --eps, --attack, --optimizer and --step need a value each")
    check_folder(args.out)
    args.device = usable_device(args.device)
    critic = read_run(args.critic) if args.critic else None
    all_runs = [run for runs in agents.values() for run, _ in runs]
    scripts = own_scripts(args.script, {run.algorithm for run in all_runs + [critic] * bool(critic)})
    targets = {agent: [Target(run, seeds, critics.get(run.config["task"], critic), args, scripts)
                       for run, seeds in runs]
               for agent, runs in agents.items()}
    rows = []
    for agent, group in targets.items():
        for target in group:
            found, source = attack_run(target, args), target.run.config["dataset_source"]
            facts = {"agent": agent, "task": target.task, "data": source, "run": target.run.folder.name}
            rows += [facts | row for row in found]
            print(f"\n{agent}, {target.task}{' [stand-in data]' * target.run.standin}, {target.run.folder}")
            for first, *cells in table(found):
                print(f"{first:>32}" + "".join(f"{cell:>8}" for cell in cells))
    name = name or named(all_runs, [[row[fact] for fact in ("run", *FACTS)] for row in rows])
    write_rows(args.out / f"{name}.csv", rows)
    attack_figure(rows, args.out / f"{name}.png")
    print(f"\n{args.out / name}.csv and .png")
    return rows


def write_rows(path: Path, rows, hint: str = " with --out") -> None:
    rows = list(rows)
    with whole(path, hint) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(args: Args):
    runs = [read_run(folder) for folder in args.runs]
    if not runs:
        raise InputError("name one or more run folders, for example runs/*")
    alike = {}  # runs that differ in nothing but their seeds are one agent
    for run in runs:
        facts = run.algorithm, run.script, sorted(run.settings.items()), run.config["data"].get("sha256"), run.progress
        alike.setdefault(repr(facts), []).append(run)
    agents, names = {}, [label(group[0]) for group in alike.values()]
    for name, group in zip(names, alike.values()):
        name = f"{name} {group[0].folder.name}" if names.count(name) > 1 else name
        owner = {seed: run for run in group for seed in run.seeds}  # the last one named, of runs with the same seed
        shares = [(run, [seed for seed in run.seeds if owner[seed] is run]) for run in group]
        agents[name] = [(run, seeds) for run, seeds in shares if seeds]
    attack_all(agents, args, args.name)


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
