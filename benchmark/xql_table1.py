"""XQL, Table 1: 18 D4RL datasets, 1,000,000 updates, 5 seeds. Garg et al., ICLR 2023, arXiv:2301.02328.

Cells are those of the review version, which tunes up to six knobs per dataset on the score: `xql_tuned`. `xql` has one
setting per domain, the authors' "consistent" scripts; their column in the final version was not read, so both stand
beside the tuned one. `xql_draft` quotes an older draft. Whether cells are last or best evaluations: unverified.

Run: python benchmark/xql_table1.py [--datasets hopper-medium-v2] [--columns xql] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.sql_eql_table1 import KITCHEN, LOCOMOTION, MAZES

TABLE = Table(
    name="xql_table1", title="XQL, Table 1: D4RL", papers=("xql_table1.csv",), seeds=(0, 1, 2, 3, 4),
    datasets=(*LOCOMOTION, *(f"antmaze-{maze}-v0" for maze in MAZES), *KITCHEN),
    quoted=("xql_draft", "bc", "bc_10pct", "dt", "awac", "onestep_rl", "td3_bc", "cql", "iql"),
    notes=("xql has one setting per domain, xql_tuned the authors' per dataset. Both stand beside the review version's "
           "cells, tuned per dataset on the score; whether those are last or best evaluations is unverified.",),
    columns={
        "xql": Column("xql"),
        "xql_tuned": Column("xql", "--config tuned", published="xql"),
    })

if __name__ == "__main__":
    main(TABLE)
