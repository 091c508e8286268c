"""RAMBO, Table 3 of the preprint: four settings on 12 D4RL datasets, 3 seeds. Rigter et al., arXiv:2204.12581v1.

A column is a rollout length k and the weight lambda of the adversary. A score is of the last evaluation, after 2,000
iterations of 1,000 updates of the agent and, where lambda is not 0, of 1,000 of the model. Ten of the 48 cells have no
number: the preprint prints a dash where at least one of three seeds diverged. Five are such dashes. Of five more, all
of k = 1, the source that we read lost one, and shows a single dash for each pair of the others. A run of ours that
diverges ends with a line that says so, and its score is missing.

Run: python benchmark/rambo_table3.py [--datasets hopper-medium-v2] [--columns k5_lambda_0] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.mopo_table1 import LEVELS

DATASETS = tuple(f"{robot}-{level}-v2" for level in LEVELS for robot in ("halfcheetah", "hopper", "walker2d"))
WITH, WITHOUT = "--updates 4000000 --eval-every 20000", "--updates 2000000 --eval-every 10000"  # an adversary's steps
SETTINGS = {f"k{k}_lambda_{lam}": Column("rambo", f"--config v1 --rollout-length {k} --adversary-weight {lam} {size}")
            for k, lam, size in ((1, "3e-4", WITH), (2, "3e-4", WITH), (5, "3e-4", WITH), (5, "0", WITHOUT))}
DASHES = ("Ten published cells have no number. A dash in the preprint: at least one of three seeds diverged. Five are "
          "dashes for certain: k = 2 on walker2d-random, hopper-medium and hopper-medium-expert, k = 5 with lambda = 0 "
          "on walker2d-random and walker2d-medium-expert. Five of k = 1 are unreadable, and probably dashes: "
          "walker2d-random, and hopper and walker2d of medium and medium-expert.")
TABLE = Table(
    name="rambo_table3", title="RAMBO, Table 3 of the preprint: D4RL Gym", papers=("rambo_table3.csv",),
    datasets=DATASETS, seeds=(0, 1, 2), notes=(DASHES,), columns=SETTINGS)

if __name__ == "__main__":
    main(TABLE)
