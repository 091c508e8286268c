"""PBRL, Table 1: D4RL Gym, 1,000,000 updates. Bai et al., ICLR 2022, arXiv:2202.11566; cells as RORL's authors quote.

The number of seeds, and last evaluation or average, are in no source: here 4 and the last. The authors' README points
to an older build of the v2 files; every run's config.json has the hash of the file it was trained on.

Run: python benchmark/pbrl_table1.py [--datasets hopper-medium-v2] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main

TABLE = Table(name="pbrl_table1", title="PBRL, Table 1: D4RL Gym", papers=("pbrl_table1.csv",),
              columns={"pbrl": Column("pbrl")})

if __name__ == "__main__":
    main(TABLE)
