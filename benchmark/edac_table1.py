"""EDAC, Table 1: SAC-N and EDAC, 18 D4RL datasets, 3,000,000 updates, 4 seeds. An et al., arXiv:2110.01548.

`edac_alternative` repeats the rows whose eta or N no source confirms with the other candidate (algorithms/edac.py,
`--config alternative`). Published cells of Adroit are in papers/edac_adroit.csv; its simulator is not here yet.

Run: python benchmark/edac_table1.py [--datasets hopper-medium-v2] [--columns edac] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import GYM, Column, Table, main

UNVERIFIED = ("halfcheetah-random-v2", "halfcheetah-expert-v2", "hopper-random-v2", "walker2d-expert-v2")
TABLE = Table(
    name="edac_table1", title="EDAC, Table 1: D4RL Gym", papers=("edac_table1.csv",),
    datasets=(*GYM, "halfcheetah-full-replay-v2", "hopper-full-replay-v2", "walker2d-full-replay-v2"),
    columns={
        "sac_n": Column("sac_n"),
        "edac": Column("edac"),
        "edac_alternative": Column("edac", "--config alternative", published="edac", datasets=UNVERIFIED),
    })

if __name__ == "__main__":
    main(TABLE)
