"""COMBO on 12 D4RL datasets, v0: the paper's means as others copy them. Yu et al., NeurIPS 2021, arXiv:2102.08363.

There is no authors' code and no readable source of the paper's settings, so no run here repeats the paper's. Ours has
OfflineRL-Kit's values, which are for v2: those of a v2 dataset stand for the v0 dataset of the same name. That the
published cells are v0's is inferred, and their std and protocol are in no source; here 4 seeds and the mean of the last
10 evaluations, as OfflineRL-Kit. The table to judge COMBO by is model_based_kit.py, whose settings are known.

Run: python benchmark/combo_table.py [--datasets hopper-medium-v0] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.mopo_table1 import V0

TABLE = Table(
    name="combo_table", title="COMBO: D4RL Gym, v0", papers=("combo_table.csv",), datasets=V0, score="mean_of_last_10",
    notes=("The published cells are as the RAMBO preprint copies them, without std; that they are v0's is inferred, "
           "their settings and protocol are unverified. Ours has OfflineRL-Kit's values for v2.",),
    columns={"combo": Column("combo")})

if __name__ == "__main__":
    main(TABLE)
