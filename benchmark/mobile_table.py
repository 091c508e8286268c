"""MOBILE and others on 12 D4RL datasets: means from a secondary source. Sun et al., ICML 2023, PMLR 202.

The cells are those of a comparison table in the README of ECPI's repository: no std, and what the paper itself has is
unverified. Ours of MOBILE has the values of the authors' code, and so has RAMBO, the published version with cloning,
whose cells here are its paper's. The MOPO was run anew on v2; ours has OfflineRL-Kit's values, and on random data
those that its authors had for v0. COMBO's cells are of v0 and quoted as `combo_v0`. Here 4 seeds, unverified, and the
mean of the last 10 evaluations, which the authors' code reports.

Run: python benchmark/mobile_table.py [--datasets hopper-medium-v2] [--columns mobile] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.rambo_table3 import DATASETS

TABLE = Table(
    name="mobile_table", title="MOBILE: D4RL Gym", papers=("mobile_table.csv", "rambo_published.csv"),
    datasets=DATASETS, score="mean_of_last_10", quoted=("combo_v0",),
    notes=("All published cells are from a secondary source, means only. The number of seeds is unverified.",
           "combo_v0 is of v0 data, as COMBO's paper, and must not be compared with runs on v2. The settings behind "
           "the other copied columns are unverified."),
    columns={
        "bc": Column("bc"),
        "td3_bc": Column("td3_bc"),
        "cql": Column("cql"),
        "iql": Column("iql"),
        "edac": Column("edac"),
        "mopo": Column("mopo"),
        "rambo": Column("rambo"),
        "mobile": Column("mobile"),
    })

if __name__ == "__main__":
    main(TABLE)
