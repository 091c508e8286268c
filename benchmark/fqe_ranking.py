"""How well FQE ranks policies whose true scores a simulator tells: rank correlation, regret and error, and a figure.

Every policy (each seed of the runs that are named) is evaluated by algorithms/fqe.py on one dataset; evaluations that
are there are found, others are trained, one after another. Then every policy is played. Measures are those of the
benchmark for deep off-policy evaluation (Fu et al., ICLR 2021):

    rank correlation  Spearman's, of FQE's value with the truth; its interval is a bootstrap over policies
    regret@1          how much worse the policy that FQE ranks first is than the best, in units of best minus worst
    absolute error    the mean of |value - truth|, where truth is the mean of sum_t gamma^t r_t over episodes

FQE estimates a discounted return, so the truth is that; the correlation with the normalised score is beside it. How
well the policies are ranked by `distance` alone, the nearest to the data's actions first, is the line to beat: for that
FQE is not needed. The policies of a few runs are no sample of anything: the interval says how much a correlation
depends on which of these policies there are, not how FQE ranks others.

Run: python benchmark/fqe_ranking.py runs/* --env hopper-medium-v2 [--updates 100000] [-- --tau 0.05]
"""

import csv
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from benchmark.engine.figures import save, sheet, styles
from benchmark.engine.files import whole
from benchmark.engine.grid import read
from benchmark.engine.jobs import Job, Own, cell, simulated, work
from benchmark.engine.runs import Run, flags, named, pass_over, read_run
from common import InputError, friendly, load
from common.args import Count, within
from common.evaluation import action_bounds, normalized_score
from common.files import check_folder, text_of
from common.physics import make_env
from common.sources import own_file

TITLE, REPETITIONS = "How well FQE ranks policies whose scores are known", 2000  # of the bootstrap
CAPTION = ("{}. n = {} policies; bars: the least and the largest of FQE's networks; in brackets: 95% of a bootstrap "
           "over policies.")
COLUMNS = ("policy", "seed", "value", "value_low", "value_high", "truth", "truth_std", "score", "distance")


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # run folders of the policies
    env: str = "hopper-medium-v2"  # FQE's data: D4RL name, or path of an .hdf5 or .npz file
    updates: Count = 100_000  # gradient steps of an evaluation
    episodes: Annotated[int, within("[1, 1e4]")] = 20  # that tell the truth about a policy
    standin: bool = False  # stand-in data in place of D4RL's
    cpus: Annotated[int, within("[1, 4096]")] = 1  # threads of an evaluation
    fqe_runs: Path = Path("runs")  # folder of the evaluations
    out: Path = Path("results")  # folder of the table and the figure
    name: str = ""  # their name; default: after the policies and the flags


def policies(folders: tuple[Path, ...]) -> list[tuple[Run, int]]:
    """(run, seed) of every policy, in one task. InputError: none, or of several tasks; what cannot be read is told."""
    found = {}
    for folder in folders:
        try:
            run = read_run(folder)
            if run.algorithm != "fqe":
                run.checkpoint
                found |= {(os.path.realpath(folder), seed): (run, seed) for seed in run.seeds}
        except InputError as error:
            pass_over(error)
    tasks = {run.config["task"] for run, _ in found.values()}
    if len(found) < 3 or len(tasks) > 1 or None in tasks or not simulated(min(tasks)):
        raise InputError(f"{len(found)} policies, of {', '.join(sorted(map(str, tasks))) or 'no task'}: name runs with "
                         "three or more, of one task that has a simulator")
    return list(found.values())


def evaluated(run: Run, seed: int, policy, args: Args, extra: list[str]) -> Run:
    """FQE's run of a policy, found or trained. InputError: it cannot be trained, or the policy was changed since."""
    own = Own(Path(args.env).expanduser().absolute(), run.config["task"]) if own_file(args.env) else None
    whose = "--policy", os.path.abspath(run.folder), "--policy-seed", str(seed), "--updates", str(args.updates)
    this = cell(f"{run.folder.resolve().name}.{seed}", "fqe", own.task if own else args.env, (*whose, *extra), own)
    job = Job(this, (0,), args.fqe_runs, args.standin and not own, cpus=args.cpus, retries=3)
    if why := work(job):
        raise InputError(f"FQE of {run.folder}, seed {seed}: {' '.join(why.splitlines())}; its log is {job.log}")
    found = [its for its in job.found() if its.result][-1]
    saved = found.checkpoint["agents"][0]["actor"]
    if not all(torch.equal(saved[f"policy.{name}"], value) for name, value in policy.state_dict().items()):
        raise InputError(f"{found.folder}: its policy is {run.folder} as it was, and that was trained on; move it away")
    return found


@torch.no_grad()
def played(policy, args: Args, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns and discounted returns (episodes,) of a policy that acts by its mean."""
    config, clip = policy.config, partial(torch.clamp, min=-1, max=1)
    physics = "stock" if config["physics"] == "stock" else "d4rl"
    world = config["task"], physics, action_bounds(config["data"]), config["args"].get("max_episode_steps")
    envs = [make_env(*world) for _ in range(args.episodes)]
    obs = np.stack([env.reset(seed=10_000 + i)[0] for i, env in enumerate(envs)]).astype(np.float32)
    returns, discounted, running, factor = np.zeros(len(envs)), np.zeros(len(envs)), list(range(len(envs))), 1.0
    while running:
        actions = clip(policy.actor.act(torch.from_numpy(obs))).numpy()
        for i in tuple(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += reward
            discounted[i] += factor * reward
            if terminated or truncated:
                running.remove(i)
        factor *= gamma
    return returns, discounted


def ranks(x: np.ndarray) -> np.ndarray:
    """From 0; those that are equal share the mean of their ranks."""
    return (x[:, None] > x).sum(1) + ((x[:, None] == x).sum(1) - 1) / 2


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the ranks; nan where one of them has no two different values."""
    a, b = ranks(x) - (len(x) - 1) / 2, ranks(y) - (len(y) - 1) / 2
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())) if a.any() and b.any() else np.nan


def interval(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """95%, percentiles of a bootstrap over policies."""
    draws = np.random.default_rng(0).integers(len(x), size=(REPETITIONS, len(x)))
    return tuple(np.nanpercentile([spearman(x[draw], y[draw]) for draw in draws], (2.5, 97.5)))


def regret(value: np.ndarray, truth: np.ndarray) -> float:
    """Of taking the policy with the highest value, in units of best minus worst; 0 where all are equally good."""
    spread = truth.max() - truth.min()
    return float((truth.max() - truth[value.argmax()]) / spread) if spread else 0.0


def measures(rows: list[dict]) -> list[tuple[str, str]]:
    """(name, told) of everything that is measured."""
    value, truth, score, distance = (np.array([row[name] for row in rows]) for name in
                                     ("value", "truth", "score", "distance"))
    pairs = {"rank correlation of value and discounted return": (value, truth),
             "rank correlation of value and score": (value, score),
             "rank correlation of minus distance and discounted return": (-distance, truth)}
    told = [(name, "{:.2f}, 95% interval {:.2f} to {:.2f}".format(spearman(*pair), *interval(*pair)))
            for name, pair in pairs.items()]
    inside = sum(row["value_low"] <= row["truth"] <= row["value_high"] for row in rows)
    return [("policies", str(len(rows))), *told, ("regret@1, discounted return", f"{regret(value, truth):.2f}"),
            ("regret@1, score", f"{regret(value, score):.2f}"),
            ("absolute error of value", f"{np.abs(value - truth).mean():.1f}, where the discounted returns go from "
             f"{truth.min():.1f} to {truth.max():.1f}"),
            ("discounted returns inside FQE's own interval", f"{inside} of {len(rows)}")]


def markdown(rows: list[dict], about: str) -> str:
    """What is measured, and a row per policy, the best first."""
    lines = [f"# {TITLE}", "", about, "", "| measure | |", "|---|---|"]
    lines += [f"| {name} | {told} |" for name, told in measures(rows)]
    lines += ["", "| policy | FQE's value (its interval) | discounted return ± std | score | distance |",
              "|---|" + "---:|" * 4]
    for row in sorted(rows, key=lambda row: -row["truth"]):
        lines.append("| {policy}, seed {seed} | {value:.1f} ({value_low:.1f} to {value_high:.1f}) | {truth:.1f} ± "
                     "{truth_std:.1f} | {score:.1f} | {distance:.2f} |".format(**row))
    return "\n".join(lines) + "\n"


def draw(rows: list[dict]) -> Figure:
    """Value against discounted return, where a right value lies on the line, and against the score."""
    figure, (axes,) = sheet(1, 2, (9, 4.4), sharey=True)
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    value = np.array([row["value"] for row in rows])
    for ax, (name, label) in zip(axes, (
            ("truth", "discounted return in the simulator"), ("score", "normalised score in the simulator"))):
        truth, lefts = np.array([row[name] for row in rows]), 0
        for row in rows:
            colour, marker = styles(algorithms)[row["algorithm"]].values()
            ax.plot([row[name]] * 2, [row["value_low"], row["value_high"]], color=colour, lw=1.5)
            ax.plot(row[name], row["value"], marker, color=colour, ms=5)
            right = (truth - row[name]) / (np.ptp(truth) or 1), (value - row["value"]) / (np.ptp(value) or 1)
            left = ((right[0] > 0) & (right[0] < 0.15) & (np.abs(right[1]) < 0.05)).any()  # no room on the right
            lefts += left
            ax.annotate(row["algorithm"], (row[name], row["value"]), (-5, (3, -9)[lefts % 2]) if left else (5, 3),
                        textcoords="offset points", ha="right" if left else "left", color=colour, fontsize=7)
        if name == "truth":
            ends = [min(truth.min(), value.min()), max(truth.max(), value.max())]
            ax.plot(ends, ends, color="gray", lw=0.8, ls="--", zorder=0)
            ax.text(ends[1], ends[1], "value = return", fontsize=7, color="gray", ha="right", va="bottom")
        ax.set_title("rank correlation {:.2f} [{:.2f}, {:.2f}]".format(spearman(value, truth), *interval(value, truth)),
                     fontsize=10)
        ax.set_xlabel(label, fontsize=9)
        ax.margins(x=0.15)
    figure.axes[0].set_ylabel("FQE's value, bar: its bootstrap", fontsize=9)
    return figure


def main(args: Args, extra: list[str]):
    check_folder(args.out)
    if taken := {"env", "policy", "policy-seed", "updates", "seeds", "runs", "standin"} & set(flags(extra)):
        raise InputError(f"--{min(taken)} belongs before the --, or is not for you to say")
    chosen, rows, runs = policies(args.runs), [], []
    loaded = [load(run.folder, seed, flags(extra).get("script")) for run, seed in chosen]  # before anything is trained
    for k, ((run, seed), policy) in enumerate(zip(chosen, loaded)):
        print(f"[{k + 1}/{len(chosen)}] {run.folder}, seed {seed}", flush=True)
        its = evaluated(run, seed, policy, args, extra)
        last = list(csv.DictReader(text_of(its.folder / "log.csv").splitlines()))[-1]
        returns, truth = played(policy, args, its.config["args"]["gamma"])
        rows.append({"policy": run.folder.resolve().name, "seed": seed, "algorithm": run.algorithm}
                    | {name: float(last[name]) for name in ("value", "value_low", "value_high", "distance")}
                    | {"truth": truth.mean(), "truth_std": truth.std(),
                       "score": normalized_score(run.config["task"], returns.mean())})
        runs.append(its)
    flag, mark = runs[0].config["args"], " [stand-in data]" * any(run.standin for run in runs)
    about = (f"{Path(args.env).name if own_file(args.env) else args.env}{mark}: {len(rows)} policies, FQE with "
             f"{flag['updates']:,} updates, {flag['num_critics']} networks, gamma {flag['gamma']:g}, tau "
             f"{flag['tau']:g}; {args.episodes} episodes a policy")
    path = args.out / (args.name or f"fqe_ranking.{named(runs, args.episodes)}")
    with whole(Path(f"{path}.csv")) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()} for row in rows)
    with whole(Path(f"{path}.md")) as part:
        part.write_text(text := markdown(rows, about))
    save(draw(rows), Path(f"{path}.png"), CAPTION.format(about, len(rows)))
    print(f"\n{text}\nfigure: {path}.png, numbers: {path}.csv")


if __name__ == "__main__":
    with friendly():
        words = sys.argv[1:]
        cut = words.index("--") if "--" in words else len(words)
        main(read(words, Args, TITLE), words[cut + 1:])
