"""What pessimism does where the data are silent: six agents in one dimension.

The world is ours. One stands at a height s, and that is the reward of a step. An action a in [-1, 1] leads to the
height hill(a), wherever one was, with noise that grows towards the right. The data have random actions, all in [-1, 0]:
the further to the right, the higher. Beyond the data the ground stays level, and then there is an abyss. A model that
goes on as the data end promises more and more there. In the data 0 is the best action, and nowhere is a better one.

Every agent is its file's in algorithms/ and is trained by that file on these data, with flags for so small a world
(AGENTS). MBPO is MOPO without a penalty. It, MOPO, COMBO and MOBILE have the same fitted model. A panel shows the
height that an agent counts with after each action, where it stands in the middle, at height 0.5:

    MBPO and RAMBO: the mean of the model's elites, RAMBO's after its adversary has changed them
    MOPO: this mean minus lambda u / gamma, because a reward is lowered by lambda u now, and a height is one later
    COMBO and MOBILE: Q / gamma of the critics and y / gamma of the penalised target, each shifted by a constant, so
    that over the data's actions its mean is the truth's
    MOReL: the mean of its models where they agree; where they do not is HALT, and an imagined episode ends

A dotted line is the model as it was fitted. A full circle is the chosen action with the height that is counted with, an
empty one the height that is found there.

The penalties are chosen for this world, since no paper's value means anything in it. MOPO's measure is learned noise:
it grows beyond the data because the noise grows towards their edge. MOReL's HALT costs 100, and in its authors'
configuration nothing. But its actions have no bound: here they would lead so high in imagination that the four steps
which an episode keeps are worth more than staying. MOReL's c is 2. With 3, the known part is so narrow that all
imagined episodes end at once, and nothing leads back (seeds 0 and 1). With 1, it reaches into the abyss, as far as the
networks happen to agree (seed 0), and only a short training stays out.

Run: python benchmark/pessimism.py [--updates 1000] [--seed 0]
"""

import contextlib
import csv
import io
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from benchmark.engine.figures import COLOURS, panels, save
from benchmark.engine.files import whole
from benchmark.engine.runs import arguments, load_script, script_of
from common import InputError, friendly
from common.args import cli, within
from common.files import check_folder
from common.run import Run

HERE, BEST, EDGE = 0.5, 0.0, 0.2  # a height in the middle; the data's best action; where the abyss begins
GAMMA, HALT = 0.9, 100
SHARED = (f"--batch-size 64 --gamma {GAMMA} --tau 0.02 --actor-lr 1e-3 --critic-lr 1e-3 --real-ratio 0.5 "
          "--rollout-length 2 --rollout-batch 1000 --rollout-every 100 --model-epochs 80 --termination never")
AGENTS = {  # {name: (file, flags, updates in place of one)}
    "MBPO": ("mopo", f"{SHARED} --alpha-lr 1e-2 --penalty-coef 0", 1),
    "MOPO": ("mopo", f"{SHARED} --alpha-lr 1e-2 --penalty-coef 8", 1),
    "COMBO": ("combo", f"{SHARED} --actor-lr 3e-3 --cql-weight 2 --num-actions 4 --lse-groups 4", 1),
    "RAMBO": ("rambo", f"{SHARED} --alpha-lr 1e-2 --adversary-weight 0.5 --adversary-lr 1e-3 --bc-epochs 0", 2),
    "MOBILE": ("mobile", f"{SHARED} --alpha 0.05 --penalty-coef 20 --num-samples 4", 1),
    "MOReL": ("morel", f"--c 2 --truncate-reward -{HALT} --gamma {GAMMA} --horizon 30 --starts 50 --delta 0.005 "
                       "--damping 0.1 --cg-steps 10 --min-log-std -3 --model-epochs 80", 0.06),
}
TOLD = {"MBPO": "no pessimism", "MOPO": "a penalised reward", "COMBO": "Q pushed down", "RAMBO": "an adversarial model",
        "MOBILE": "a penalised target", "MOReL": "known and unknown"}


@dataclass
class Args:
    updates: Annotated[int, within("[20, 1e6]")] = 1_000  # gradient steps of an actor; MOReL: 60 iterations for 1,000
    rows: Annotated[int, within("[300, 1e6]")] = 2_000  # transitions in the data
    seed: Annotated[int, within("[0, 1e9]")] = 0  # of the data and of the agents
    agents: tuple[str, ...] = tuple(AGENTS)  # which of them
    out: Path = Path("results")  # folder of the figure and its numbers


def hill(action):
    """The height to which an action leads, on average."""
    slope = 1 + action + 0.1 * np.sin(3 * np.pi * action)
    return np.where(action <= 0, slope, np.clip(1 - 10 * (action - EDGE), -1, 1))


def write_world(path: Path, rows: int, seed: int) -> None:
    """Own data, as a person brings them: episodes of 20 steps with random actions in [-1, 0]."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 0, rows + 1)
    height = hill(action) + 0.01 * 8 ** (1 + action) * rng.standard_normal(rows + 1)
    np.savez(path, observations=height[:-1, None], actions=action[1:, None], rewards=height[:-1],
             next_observations=height[1:, None], terminals=np.zeros(rows), timeouts=np.arange(1, rows + 1) % 20 == 0)


def train(name: str, data: Path, args: Args, runs: Path):
    """The agent that the algorithm's own file trains, and its model as it was before the first update."""
    algorithm, flags, times = AGENTS[name]
    module, seen = load_script(script_of(algorithm)), []

    class Watched(Run):
        def steps(self, updates):
            seen.extend([self.agents[0], deepcopy(self.agents[0].model)])
            return super().steps(updates)

    module.Run = Watched
    if name == "MOReL":  # it has no learned reward: it is told this world's, as D4RL's robots'
        module._TASKS["none"] = (lambda obs, action: (obs[..., 0], torch.zeros_like(obs[..., 0], dtype=bool)), [1.0])
    words = ["--env", data, "--eval-env", "none", "--seeds", args.seed, "--device", "cpu", "--runs", runs]
    with contextlib.redirect_stdout(io.StringIO()):
        words += ["--updates", int(args.updates * times), *flags.split()]
        module.main(arguments(algorithm, list(map(str, words))))
    return seen


@torch.no_grad()
def model_heights(model, agent, action):
    """What each of the model's networks says, elites only where it has any, from there: (networks, n)."""
    obs = torch.full_like(action, HERE)
    if not hasattr(model, "elites"):
        return model(obs, action)[..., 0]  # MOReL's
    if not hasattr(agent, "standard"):
        return obs[:, 0] + model(obs, action, model.elites)[0][..., 0]
    change = model(agent.standard(obs), action)[0][model.elites][..., :1]  # RAMBO's, in standardised heights
    return (obs + agent.actor.obs_scale * change)[..., 0]


def value(name: str, agent, action):
    """COMBO's Q or MOBILE's target over gamma (n,): the reward now is the same for all actions, the height is later."""
    obs = torch.full_like(action, HERE)
    if name == "COMBO":
        return agent.critics(obs, action).min(0).values / GAMMA
    next_obs = model_heights(agent.model, agent, action).mean(0)[:, None]
    penalty = torch.stack([agent.penalty(obs, action) for _ in range(200)]).mean(0)  # it draws at random
    return agent.target_critics(next_obs, agent.actor.act(next_obs)).min(0).values - penalty / GAMMA


@torch.no_grad()
def counted(name: str, agent, action):
    """The height (n,) with which it counts after each action (n, 1), nan where that is HALT."""
    obs, mean = torch.full_like(action, HERE), model_heights(agent.model, agent, action).mean(0)
    if name == "MOPO":
        _, log_var = agent.model(obs, action)
        return mean - agent.penalty(log_var) / GAMMA
    if name in ("COMBO", "MOBILE"):
        data = torch.linspace(-1, BEST, 41)[:, None]  # over which the agent and the truth have the same mean
        shift = torch.from_numpy(hill(data[:, 0].numpy())).float().mean() - value(name, agent, data).mean()
        return value(name, agent, action) + shift
    if name == "MOReL":
        predicted = model_heights(agent.model, agent, action)
        unknown = predicted.amax(0) - predicted.amin(0) > agent.model.spread / agent.args.c
        return torch.where(unknown, torch.nan, mean)
    return mean


def measure(name: str, agent, before) -> list[dict]:
    """A row per action of a grid, and one for the action that the agent chooses there."""
    choice = agent.actor.act(torch.full((1, 1), HERE)).detach().clamp(-1, 1)
    action = torch.cat([torch.linspace(-1, 1, 81)[:, None], choice])
    columns = {"action": action[:, 0], "true": torch.from_numpy(hill(action[:, 0].double().numpy())),
               "model": model_heights(agent.model, agent, action).mean(0),
               "before": model_heights(before, agent, action).mean(0), "counted": counted(name, agent, action)}
    values = zip(*(column.tolist() for column in columns.values()))
    rows = [{"agent": name, "chosen": 0} | dict(zip(columns, row)) for row in values]
    rows[-1]["chosen"] = 1
    return rows


def draw(tables: dict[str, list[dict]]):
    """A panel per agent: what is true, what it counts with, and at the action that it chooses both."""
    figure, axes = panels([[f"{name}\n{TOLD[name]}" for name in tables]], size=(2.8, 2.6))
    for k, (ax, (name, rows)) in enumerate(zip(axes, tables.items())):
        *grid, choice = rows
        x, true, model, before, ours = (np.array([row[key] for row in grid]) for key in
                                        ("action", "true", "model", "before", "counted"))
        colour = COLOURS[k % len(COLOURS)]
        ax.axvspan(-1, 0, color="black", alpha=0.07, lw=0)
        ax.plot(x, true, color="black", lw=1.2)
        if name in ("MOPO", "RAMBO", "MOBILE", "COMBO"):
            ax.plot(x, before, color="black", lw=0.9, ls=":")
        ax.plot(x, ours, color=colour, lw=2.2)
        for left, right in stretches(x, np.isnan(ours)):
            ax.axvspan(left, right, facecolor="none", edgecolor=colour, alpha=0.45, hatch="///", lw=0)
        ax.plot([choice["action"]] * 2, [choice["true"], choice["counted"]], color=colour, lw=1, ls="--")
        ax.plot(choice["action"], choice["counted"], "o", color=colour, ms=7)
        ax.plot(choice["action"], choice["true"], "o", color="black", mfc="white", ms=7)
        ax.set(xlim=(-1, 1), ylim=(-1.3, 3.3), xticks=(-1, 0, 1), yticks=(-1, 0, 1, 2, 3))
        ax.grid(False)
        names(ax, name, colour)
    figure.supxlabel("action; data in the shaded half only", fontsize=9)
    figure.supylabel("height after it", fontsize=9)
    return figure


CAPTION = ("What each agent counts with (coloured) beside the truth (black), and the action that it chooses: filled, "
           "what it is promised there, hollow, what it finds. n = 1 run of each, so no interval is drawn.")


def stretches(x, here) -> list[tuple[float, float]]:
    """Where a condition holds on a grid: left and right ends."""
    edges = np.flatnonzero(np.diff(np.r_[False, here, False]))
    half = (x[1] - x[0]) / 2
    return [(x[left] - half, x[right - 1] + half) for left, right in edges.reshape(-1, 2)]


def names(ax, name: str, colour: str) -> None:
    """Words at the lines themselves: what all panels share in the first, what is a panel's own in it."""
    right, box = dict(ha="right"), dict(facecolor="white", edgecolor="none", pad=1)
    words = {"MBPO": [("data", -0.95, 2.9, "dimgray", {}), ("its model", 0.3, 1.85, colour, right),
                      ("truth", 0.36, 0.3, "black", {})],
             "MOPO": [("reward - lambda u", -0.95, -0.8, colour, {}), ("as fitted", 0.95, 2.15, "black", right)],
             "COMBO": [("Q", -0.75, -0.4, colour, {})],
             "RAMBO": [("changed", 0.95, 0.15, colour, right), ("as fitted", 0.95, 2.15, "black", right)],
             "MOBILE": [("target", -0.95, 0.8, colour, {})],
             "MOReL": [("known", -0.95, 0.8, colour, {}), ("HALT", 0.72, 2.7, colour, dict(ha="center", bbox=box))]}
    for text, x, y, color, where in words[name]:
        ax.text(x, y, text, fontsize=8, color=color, **where)


def table(tables: dict[str, list[dict]]) -> str:
    """What each agent chooses at height 1, what it is promised there, and what it finds."""
    lines = ["agent     action  promised  found"]
    for name, rows in tables.items():
        choice = rows[-1]
        promised = "HALT" if np.isnan(choice["counted"]) else f"{choice['counted']:.2f}"
        lines.append(f"{name:<8}{choice['action']:>8.2f}{promised:>10}{choice['true']:>7.2f}")
    return "\n".join(lines)


def main(args: Args):
    if unknown := [name for name in args.agents if name not in AGENTS]:
        raise InputError(f"--agents {unknown[0]}: choose from {', '.join(AGENTS)}")
    check_folder(args.out)
    given = {name: value for name, value in vars(args).items() if value != getattr(Args, name)}
    parts = [f".{name}-{given[name]}" for name in ("updates", "rows", "seed") if name in given]
    path, tables = args.out / "".join(["pessimism", *parts, *(f".{name}" for name in given.get("agents", ()))]), {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "hill.npz")
        write_world(data, args.rows, args.seed)
        for name in dict.fromkeys(args.agents):
            print(f"{name}: {TOLD[name]}", flush=True)
            tables[name] = measure(name, *train(name, data, args, Path(folder)))
    with whole(Path(f"{path}.csv")) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(tables.values()))[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for rows in tables.values() for row in rows)
    save(draw(tables), Path(f"{path}.png"), CAPTION)
    print(f"\n{table(tables)}\n\nfigure: {path}.png, numbers: {path}.csv")


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
