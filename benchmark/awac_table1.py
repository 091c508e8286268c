"""AWAC on 12 D4RL datasets, v0, as the TD3+BC paper quotes it, without std. Nair et al., arXiv:2006.09359.

That the numbers are v0's is inferred, their protocol unverified, and the three medium-replay cells are not reported.
Ours has the values of CORL, whose v2 scores are known, and its 4 seeds.

Run: python benchmark/awac_table1.py [--datasets hopper-medium-v0] [--columns awac] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main

TABLE = Table(
    name="awac_table1", title="AWAC: D4RL Gym, v0", papers=("awac_table1.csv",),
    datasets=tuple(f"{robot}-{level}-v0" for level in ("random", "medium", "medium-expert", "expert")
                   for robot in ("halfcheetah", "hopper", "walker2d")),
    notes=("The published cells are those of the TD3+BC paper, without std; that they are v0's is inferred, their "
           "protocol unverified. Ours has CORL's values.",),
    columns={"awac": Column("awac")})

if __name__ == "__main__":
    main(TABLE)
