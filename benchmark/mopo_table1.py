"""MOPO, Table 1: 12 D4RL datasets, v0, 1,000,000 updates, 6 seeds. Yu et al., NeurIPS 2020, arXiv:2005.13239.

The published means are those that the RAMBO preprint copies; their std is in no source. That the data are v0's follows
from the authors' configurations, whose values ours has. Six seeds and the last evaluation are how the table is commonly
cited, which nobody has verified here. On v2 data MOPO has other values and much higher scores: mobile_table.py and
model_based_kit.py. Before its first update a run trains its model; runs of one dataset and seed share it.

Run: python benchmark/mopo_table1.py [--datasets hopper-medium-v0] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main

LEVELS = "random", "medium", "medium-replay", "medium-expert"
V0 = tuple(f"{robot}-{level}-v0" for level in LEVELS for robot in ("halfcheetah", "hopper", "walker2d"))
TABLE = Table(
    name="mopo_table1", title="MOPO, Table 1: D4RL Gym, v0", papers=("mopo_table1.csv",), datasets=V0,
    seeds=tuple(range(6)),
    notes=("The published cells are as the RAMBO preprint copies them, without std. Six seeds and the last evaluation "
           "are unverified.",),
    columns={"mopo": Column("mopo")})

if __name__ == "__main__":
    main(TABLE)
