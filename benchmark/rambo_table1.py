"""RAMBO, Table 1 of the preprint: 12 D4RL datasets, 3 seeds. Rigter et al., arXiv:2204.12581v1.

RAMBO's column is the best of four settings in each row, chosen by the score itself, online: too high for a method that
may not try, as the preprint says. Ours, `rambo_best_of_4`, is chosen likewise among our runs of the four settings,
those of rambo_table3.py, which both tables share. The table mixes versions of the data: RAMBO is of v2, and the other
columns are copied from papers on v0, so they are quoted as `NAME_v0`, and no run of ours stands beside them.

Run: python benchmark/rambo_table1.py [--datasets hopper-medium-v2] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Table, main
from benchmark.rambo_table3 import DASHES, DATASETS, SETTINGS

TABLE = Table(
    name="rambo_table1", title="RAMBO, Table 1 of the preprint: D4RL Gym",
    papers=("rambo_table1.csv", "rambo_table3.csv"), datasets=DATASETS, seeds=(0, 1, 2), columns=SETTINGS,
    best={"rambo_best_of_4": tuple(SETTINGS)},
    quoted=("bc_v0", "combo_v0", "mopo_v0", "morel_v0", "cql_v0", "fisher_brc_v0", "td3_bc_v0"),
    notes=("rambo_best_of_4 is the best of four settings in each row, chosen online by the score that is reported, in "
           "the preprint and here. It overestimates what a method without such a choice would reach.",
           "RAMBO is of v2 data. The columns NAME_v0 are copied from papers on v0, which is inferred, and must not be "
           "compared with runs on v2.", DASHES))

if __name__ == "__main__":
    main(TABLE)
