"""ATAC, Table 1: 24 D4RL datasets, 1,100,000 updates, 10 seeds. Cheng et al., ICML 2022, arXiv:2202.02446.

ATAC has three scores here: `atac` is the last evaluation, `atac_median` the median of the last 50 (what the authors'
script reports), and `atac_best` the best of 9 checkpoints, equally spaced over the game. Published are the last one,
eight cells of it, from a secondary site, and ATAC*, the paper's best of a few checkpoints. That these were nine, and
the seeds ten, is unverified (the authors' script plays 5 episodes every 2,000 updates; here 10 every 5,000). beta was
tuned per dataset, and no source has the table's values (algorithms/atac.py); `-- --beta 4` is another table.

The table mixes versions of the data. ATAC, behaviour and IQL on Gym are of v2; CQL, COMBO, TD3+BC and BC are copied
from papers on v0. The latter are quoted as `NAME_v0`, and ours of these names, on v2, have no published cell beside
them. Rows of Adroit show published numbers only: its simulator is not here yet.

Run: python benchmark/atac_table1.py [--datasets hopper-medium-v2] [--columns atac] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main

TABLE = Table(
    name="atac_table1", title="ATAC, Table 1: D4RL", papers=("atac_table1.csv",), seeds=tuple(range(10)),
    datasets=(*(f"{robot}-{level}-v2" for level in ("random", "medium", "medium-replay", "medium-expert")
                for robot in ("halfcheetah", "walker2d", "hopper")),
              *(f"{task}-{level}-v1" for level in ("human", "cloned", "expert")
                for task in ("pen", "hammer", "door", "relocate"))),
    quoted=("behavior", "cql_v0", "combo_v0", "td3_bc_v0", "iql_v0", "bc_v0"),
    also={"atac_median": ("atac", "median_of_last_50"), "atac_best": ("atac", "best_of_9")},
    notes=("The paper's table mixes versions of the data, which follow from where its numbers are from. On Gym, ATAC, "
           "behavior and IQL are of v2; CQL, COMBO, TD3+BC and BC are copied from papers on v0 and must not be "
           "compared with runs on v2. Adroit: v0 and v1 are unverified. COMBO's cells are an early preprint's: 78.4 on "
           "average over nine datasets, 82.0 in its last version.",
           "beta was tuned per dataset; ours is 1 on hopper-medium-expert and 16 elsewhere, a guess but for "
           "hopper-medium-replay.",
           "The published cells of atac are from a secondary site. One is suspect: hopper-medium-expert, 119.2, is "
           "above the best checkpoint of the paper, 112.6."),
    columns={
        "atac": Column("atac", published="atac_last"),
        "cql": Column("cql"),
        "td3_bc": Column("td3_bc"),
        "iql": Column("iql"),
        "bc": Column("bc"),
    })

if __name__ == "__main__":
    main(TABLE)
