"""RORL's attack figure: score against the attack's radius, on three medium datasets. Yang et al., arXiv:2206.02829.

The paper attacks RORL models that are trained for it (`--config attack`), and baselines. It prints figures, no numbers,
so there is no published column: look for the shape (RORL above the rest, random the weakest attack). Models that are
missing are trained, then all are attacked (benchmark/attacks.py). --ablation adds RORL without each of its losses (the
paper's Figure 11). --small is not the paper's: hopper-medium-replay, batch 64 (TD3+BC: 256), 2 perturbations, 30,000
updates, 1 seed. The code can attack every agent with RORL's critics; which figures did is not known: --common-q does.

Run: python benchmark/rorl_attacks.py [--datasets hopper-medium-v2] [--gpus 0] [--ablation] [--dry-run]
     python benchmark/rorl_attacks.py --small --standin --jobs 2
"""

import sys
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from benchmark import attacks
from benchmark.engine import grid, tables
from benchmark.engine.grid import Column, Table
from benchmark.engine.runs import digest
from common import friendly
from common.args import usable_device, within

BASELINES = {"sac_10": Column("sac_n", "--config sac-10"), "edac_10": Column("edac", "--config edac-10")}
LOSSES = {"rorl without OOD loss": "--beta-ood 0", "rorl without policy smoothing": "--beta-pi 0",
          "rorl without Q smoothing": "--beta-q 0"}


def table(ablation: bool, small: bool) -> Table:
    shared = "--batch-size 64 --updates 30000" if small else ""
    # small: the radii and weights of the paper's hopper attack model, on data from which ensembles learn soonest
    rorl = "--num-perturbations 2 --eps-ood 0.02 --lambda-max 2 --lambda-min 0.1" if small else "--config attack"
    rorl = f"{rorl} {shared}"
    columns = {"rorl": Column("rorl", rorl)}
    columns |= {name: Column(column.algorithm, f"{column.flags} {shared}") for name, column in BASELINES.items()}
    columns |= {"td3_bc": Column("td3_bc", "--updates 30000")} if small else {}
    columns |= {name: Column("rorl", f"{rorl} {off}") for name, off in LOSSES.items()} if ablation else {}
    if small:
        return Table(name="rorl_attacks_small" + ".ablation" * ablation, title="RORL, small attack models",
                     columns=columns, datasets=("hopper-medium-replay-v2",), seeds=(0,))
    return Table(name="rorl_attacks" + ".ablation" * ablation, title="RORL, attack models", columns=columns,
                 datasets=("halfcheetah-medium-v2", "walker2d-medium-v2", "hopper-medium-v2"))


@dataclass
class Args(grid.Args):
    ablation: bool = False  # also RORL without each of its losses
    small: bool = False  # one small model each, for a CPU: not the paper's
    common_q: bool = False  # also min-q of every agent with RORL's critics: a figure of its own
    step: tuple[Literal["scaled", "authors"], ...] = ("scaled", "authors")  # as in attacks.py, where all attacks are
    eps: Annotated[tuple[float, ...], within("[0, inf)")] = attacks.RADII  # radii
    episodes: Annotated[int, within("[1, 1e4]")] = 10  # per agent, attack and radius
    device: str = "auto"  # where candidates are scored


def main():
    words = sys.argv[1:sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    models = grid.make(table("--ablation" in words, "--small" in words), sys.argv[1:], Args)
    args = models.args
    usable_device(args.device)
    if args.dry_run:
        return models.plan()
    grid.train(models)
    agents = models.agents()  # one a column
    how = attacks.Args((), step=args.step, eps=args.eps, episodes=args.episodes, device=args.device, out=args.out)
    name = f"{tables.stem(models)}.attacked"
    if (flags := (how.step, how.eps, how.episodes)) != (Args.step, Args.eps, Args.episodes):
        name += f".{digest(flags)}"  # a figure of its own
    attacks.attack_all(agents, how, name)
    if args.common_q and "rorl" in agents:
        critics = {run.config["task"]: run for run, _ in agents["rorl"]}
        attacks.attack_all(agents, replace(how, attack=("min-q",)), f"{name}.common_q", critics)
    grid.finish(models)


if __name__ == "__main__":
    with friendly():
        main()
