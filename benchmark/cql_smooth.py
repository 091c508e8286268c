"""CQL and CQL-smooth under attack: a first lecture's example of robustness and its price. No paper's table.

The lecture says that CQL is fragile when somebody adds noise to the observations, that CQL with smoothing is less so,
and that robustness has to be traded against conservatism. It gives neither a formula nor a number, so CQL-SMOOTH IS OUR
RECONSTRUCTION: the losses (10) to (12) of algorithms/cql.py, switched on by --eps there and by --smooth-eps here. The
script trains or finds CQL and CQL-smooth at several radii, attacks all of them (benchmark/attacks.py), and draws:

- `.scores.png`: the clean score, and the worst score over all attacks at each radius, of every model side by side.
- `.plane.png`: how Q(s + delta, a) differs from Q(s, a) around one state s of the data, with its action a.
  delta = sigma (x u + y v); sigma is the std of the data's observations, x and y are within --around. u is the
  direction in which this model's Q is steepest at s, v a random direction, drawn once for all models and then made
  perpendicular to u. Q is the mean of both critics. The state is the one where the first model's range is the median of
  200 states of the data.
- `.plane.csv`, printed too, means over these 200 states. range: largest minus smallest Q in the plane. roughness: what
  the best linear function of x and y leaves of Q there, root mean square. Both have Q's own unit, so they are given in
  units of Q's std over the 200 states as well. action: how far the action goes from act(s), at most, in the plane.

Paper size: three datasets, the paper's CQL, a million updates, 4 seeds, --smooth-eps 0.005 0.01 0.05. --small is for a
CPU: hopper-medium-replay, one seed, CQL as benchmark/pessimism_small.py has it (which finds the same run), M = 4, and
larger radii and weights. Why these weights: benchmark/results/standin/README.md.

Run: python benchmark/cql_smooth.py [--datasets hopper-medium-v2] [--gpus 0] [--dry-run]
     python benchmark/cql_smooth.py --small --standin [--data hopper-medium-replay-v2=replay.npz]
"""

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from benchmark import attacks, pessimism_small
from benchmark.engine import derived, grid, tables
from benchmark.engine.figures import COLOURS, number, panels, save
from benchmark.engine.files import whole
from benchmark.engine.grid import Column, Table
from benchmark.engine.jobs import Cell
from benchmark.engine.runs import digest, load_agent
from common import InputError, friendly
from common.args import Positive, usable_device, within
from common.data import load_dataset

TITLE = "CQL and CQL-smooth, which is our reconstruction"
STATES, SIDE = 200, 31  # states of the data; points on a side of the plane
DATASETS = "halfcheetah-medium-v2", "walker2d-medium-v2", "hopper-medium-v2"
SMOOTH = (0.005, 0.01, 0.05), 1e-2, 0.1  # radii, beta_q, beta_pi: cql.py's weights
SMALL = (0.05, 0.1), 1.0, 3.0


@dataclass
class Args(grid.Args):
    small: bool = False  # one small model each, for a CPU
    smooth_eps: Annotated[tuple[float, ...], within("(0, inf)")] = ()  # radii; default: .005 .01 .05, small .05 .1
    beta_q: Annotated[float | None, within("[0, inf)")] = None  # CQL-smooth's weight of (10); default: 0.01, small 1
    beta_pi: Annotated[float | None, within("[0, inf)")] = None  # CQL-smooth's weight of (11); default: 0.1, small 3
    step: tuple[Literal["scaled", "authors"], ...] = ("scaled",)  # as in attacks.py, where all attacks are
    eps: Annotated[tuple[float, ...], within("[0, inf)")] = (0.0, 0.05, 0.1, 0.2, 0.3)  # the attacks' radii
    episodes: Annotated[int, within("[1, 1e4]")] = 10  # per agent, attack and radius
    around: Positive = 1.0  # half a side of the plane, in std of the observations
    device: str = "auto"  # where candidates of attacks are scored


def table(args: Args) -> Table:
    """Its columns are CQL and CQL-smooth at each radius; other radii or weights have another name."""
    usual = SMALL if args.small else SMOOTH
    radii = tuple(dict.fromkeys(args.smooth_eps)) or usual[0]
    beta_q = usual[1] if args.beta_q is None else args.beta_q
    beta_pi = usual[2] if args.beta_pi is None else args.beta_pi
    cql = pessimism_small.TABLE.columns["cql"] if args.small else Column("cql")
    weights = f"--beta-q {beta_q:g} --beta-pi {beta_pi:g}" + " --num-perturbations 4" * args.small
    columns = {"cql": cql} | {f"cql_smooth_{eps:g}": Column("cql", f"{cql.flags} --eps {eps:g} {weights}".strip())
                              for eps in radii}
    changed = f".{digest(radii, beta_q, beta_pi)}" * ((radii, beta_q, beta_pi) != usual)
    notes = (f"CQL-smooth is our own reconstruction of a lecture's example; here with {weights}.",)
    if args.small:
        notes += ("Not CQL's budget: batch 64, 30,000 updates or as told, 4 actions of each kind, and an actor ten "
                  "times as fast as the paper's.",)
    return Table(name="cql_smooth" + "_small" * args.small + changed, title=TITLE, columns=columns, notes=notes,
                 datasets=("hopper-medium-replay-v2",) if args.small else DATASETS,
                 seeds=(0,) if args.small else (0, 1, 2, 3))


# The plane


def directions(critics, obs: Tensor, action: Tensor, sigma: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors u and v, (M, S) each, in units of sigma: along Q's gradient at obs (M, S), and `across` (S,) without
    its part along u."""
    x = torch.zeros_like(obs).requires_grad_()
    (gradient,) = torch.autograd.grad(critics(obs + sigma * x, action).mean(0).sum(), x)
    along = normalize(gradient, dim=-1)
    return along, normalize(across - (along @ across)[:, None] * along, dim=-1)


@torch.no_grad()
def plane(agent, obs: Tensor, action: Tensor, along: Tensor, across: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Q(s + delta, a), (SIDE, SIDE): rows go across, columns along; and how far act(s + delta) is from act(s).

    One state: obs, along and across (S,), action (A,).
    """
    t = torch.linspace(-radius, radius, SIDE)
    delta = agent.data.obs_std * (t[:, None, None] * across + t[None, :, None] * along)
    near = (obs + delta).flatten(0, 1)  # networks take (B, S)
    q = agent.critics(near, action.expand(len(near), -1)).mean(0)
    moved = (agent.actor.act(near) - agent.actor.act(obs[None])).norm(dim=-1)
    return q.view(SIDE, SIDE), moved.view(SIDE, SIDE)


def roughness(q: Tensor) -> float:
    """Root mean square of what the best linear function of a plane's two coordinates leaves of q (SIDE, SIDE)."""
    t = torch.linspace(-1, 1, SIDE, dtype=torch.double)
    x, y = t[None].expand(SIDE, -1).flatten(), t[:, None].expand(-1, SIDE).flatten()
    terms, q = torch.stack([torch.ones_like(x), x, y], 1), q.double().flatten()
    return (q - terms @ torch.linalg.lstsq(terms, q).solution).square().mean().sqrt().item()


def data_states(this: grid.Grid, cell: Cell) -> tuple[Tensor, Tensor]:
    """STATES observations (M, S) of a cell's data, drawn with seed 0, and their actions (M, A)."""
    args = json.loads(cell.settings)
    if cell.own:
        data = load_dataset(str(cell.own.file), action_low=args["action_low"], action_high=args["action_high"])
        obs, action = data.obs, data.action
    else:
        view = derived.read(cell.dataset, this.standin(cell), args["standin_rows"])
        obs, action = (torch.from_numpy(column).float() for column in view.columns[:2])
    rows = torch.randperm(len(obs), generator=torch.Generator().manual_seed(0))[:STATES]
    return obs[rows], action[rows]


def measure(agent, obs: Tensor, action: Tensor, radius: float) -> dict[str, list]:
    """Of every state: its plane (M, SIDE, SIDE), Q(s, a), and the numbers of the docstring."""
    across = torch.randn(obs.shape[-1], generator=torch.Generator().manual_seed(0))
    u, v = directions(agent.critics, obs, action, agent.data.obs_std, across)
    pairs = [plane(agent, *state, radius) for state in zip(obs, action, u, v)]
    planes = [q for q, _ in pairs]
    return {"plane": planes, "q": agent.critics(obs, action).mean(0).tolist(),
            "range": [(q.max() - q.min()).item() for q in planes], "roughness": [roughness(q) for q in planes],
            "action": [moved.max().item() for _, moved in pairs]}


def around_states(this: grid.Grid, radius: float) -> tuple[dict, list[dict]]:
    """{dataset: {column: (plane, Q(s, a))}} of the picture's state, from the first finished seed; and a row of means
    for every column and seed.
    """
    pictures, rows = {}, []
    for dataset in this.datasets:
        cells = [cell for cell in this.cells if cell.dataset == dataset and this.finished(cell)]
        states, state = data_states(this, cells[0]) if cells else (), None
        for cell in cells:
            for seed, run in sorted(this.finished(cell).items()):
                found = measure(load_agent(run, seed, states[1].shape[-1]), *states, radius)
                spread = np.std(found["q"])
                means = {name: np.mean(found[name]) for name in ("q", "range", "roughness", "action")}
                means |= {f"{name}_per_std": means[name] / spread for name in ("range", "roughness")}
                rows.append({"dataset": dataset, "agent": cell.column, "seed": seed, "q_std": spread} | means)
                if state is None:  # the first model chooses it
                    state = np.argsort(found["range"])[len(found["range"]) // 2]
                its = found["plane"][state], found["q"][state]
                pictures.setdefault(dataset, {}).setdefault(cell.column, its)
    return pictures, rows


# Figures


def worst(rows: list[dict]) -> dict[str, dict[str, dict[float, float]]]:
    """{task: {agent: {eps: the least of all attacks' mean scores over seeds}}} of the rows of attacks.py."""
    found = {}
    for row in rows:
        variants = found.setdefault(row["task"], {}).setdefault(row["agent"], {}).setdefault(float(row["eps"]), {})
        attack = row["attack"], row["optimizer"], row["step"]
        variants.setdefault(attack, []).append(float(row["score"] or row["return_mean"]))
    return {task: {agent: {eps: min(map(np.mean, variants.values())) for eps, variants in sorted(radii.items())}
                   for agent, radii in agents.items()} for task, agents in found.items()}


def remark(this: grid.Grid, dataset: str) -> str:
    """Which data, where they are not D4RL's."""
    return " (own data)" if dataset in this.own else " (stand-in data)" if this.args.standin else ""


def draw_scores(scores: dict, this: grid.Grid) -> Figure:
    """A panel per task, a group of bars per agent, a bar per radius; radius 0 is the clean score."""
    radii = sorted({eps for agents in scores.values() for curve in agents.values() for eps in curve})
    widest = (0.35 * len(radii) + 0.7) * max(map(len, scores.values())) + 1
    figure, axes = panels([list(scores)], max(1, int(12 / widest)), (widest, 3.0))
    for task, ax in zip(scores, axes):
        for k, eps in enumerate(radii):
            at = [(i, curve[eps]) for i, curve in enumerate(scores[task].values()) if eps in curve]
            bars = ax.bar([i + 0.8 * (k + 0.5) / len(radii) - 0.4 for i, _ in at], [score for _, score in at],
                          0.8 / len(radii), color=COLOURS[0] if eps == 0 else str(0.75 - 0.6 * k / len(radii)),
                          label="clean" if eps == 0 else f"worst attack, eps {eps:g}")
            ax.bar_label(bars, fmt="%.0f", fontsize=7)
        ax.set_xticks(range(len(scores[task])), scores[task], fontsize=8)
        ax.set_ylabel(f"normalised score{remark(this, task)}")
        ax.grid(False, axis="x")
    across = max(1, int(figure.get_figwidth() / 1.6))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=across, fontsize=8, frameon=False)
    return figure


def caption(rows: list[dict]) -> str:
    """Of the bars, from the rows of attacks.py."""
    seeds = {}
    for row in rows:
        seeds.setdefault((row["task"], row["agent"]), set()).add(row["seed"])
    episodes = sorted({int(row["episodes"]) for row in rows})
    return ("Score without an attack and under the worst of all attacks of a radius eps, in std of the observations: "
            f"the least of their means over seeds ({number(map(len, seeds.values()))}, "
            f"{number(episodes, 'episode')} each). No interval is drawn, for a least mean has none of its own.")


def draw_planes(pictures: dict, radius: float, this: grid.Grid) -> Figure:
    """A row per dataset, a panel per model: Q(s + delta, a) - Q(s, a), on one scale of colours for the whole row."""
    titles = [[f"{name}\nQ(s, a) = {its[1]:.1f}" for name, its in models.items()] for models in pictures.values()]
    figure, axes = panels(titles, 4, (2.9, 3.2))
    for dataset, models in pictures.items():
        row, axes = axes[:len(models)], axes[len(models):]
        changes = {name: (q - centre).numpy() for name, (q, centre) in models.items()}
        most = max(np.abs(change).max() for change in changes.values()) or 1.0
        for ax, change in zip(row, changes.values()):
            image = ax.imshow(change, cmap="RdBu_r", vmin=-most, vmax=most, origin="lower",
                              extent=[-radius, radius, -radius, radius])
            ax.contour(change, levels=np.linspace(-most, most, 21), colors="black", linewidths=0.4, origin="lower",
                       extent=[-radius, radius, -radius, radius])
            ax.set_xlabel("where Q is steepest, in std")
            ax.grid(False)
        row[0].set_ylabel(f"{dataset}{remark(this, dataset)}\nacross it, in std")
        bar = figure.colorbar(image, ax=row, shrink=0.7)
        bar.set_label("change of Q", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


PLANES = ("Q(s + delta, a) - Q(s, a) in a plane around one state of the data, the action as it was: that state of 200 "
          "whose Q changes as much as in the median. n = 1 model (the first seed) and state, so no interval is drawn.")


def report(rows: list[dict], path: Path) -> None:
    """Print the planes' rows, and write them."""
    with whole(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: repr(float(x)) if isinstance(x, float) else x for name, x in row.items()}
                         for row in rows)
    names = [name for name in rows[0] if name not in ("dataset", "agent", "seed")]
    print(f"\n{'Q around states of the data':<48}" + "".join(f"{name:>18}" for name in names))
    for row in rows:
        about = f"{row['dataset']} {row['agent']} seed {row['seed']}"
        print(f"{about:<48}" + "".join(f"{row[name]:18.3f}" for name in names))


def main():
    args = grid.read(sys.argv[1:], Args, TITLE)
    models = grid.make(table(args), sys.argv[1:], Args)
    usable_device(args.device)
    if not (args.eps and args.step):
        raise InputError("nothing to do: --eps and --step need a value each")
    if models.args.dry_run:
        return models.plan()
    grid.train(models)
    agents = models.agents()  # one a column
    how = attacks.Args((), step=args.step, eps=args.eps, episodes=args.episodes, device=args.device, out=args.out)
    name = tables.stem(models)
    flags, usual = ([of.step, of.eps, of.episodes, of.around] for of in (args, Args))
    name += f".{digest(flags)}" * (flags != usual)  # figures of their own
    pictures, rows = around_states(models, args.around)
    save(draw_planes(pictures, args.around, models), args.out / f"{name}.plane.png", PLANES)
    report(rows, args.out / f"{name}.plane.csv")
    attacked = attacks.attack_all(agents, how, f"{name}.attacked")
    save(draw_scores(worst(attacked), models), args.out / f"{name}.scores.png", caption(attacked))
    print(f"{args.out / name}.plane.png and .csv, .scores.png")
    grid.finish(models)


if __name__ == "__main__":
    with friendly():
        main()
