"""CQL in the table of CORL, a library: 30 D4RL datasets, 4 seeds, last evaluation. Kumar et al., arXiv:2006.04779.

The numbers of CQL's paper are for v0 data. algorithms/cql.py has CORL's values, so CORL's are the scores that it must
meet, std included; its other columns that are files here stand beside them. Rows of AntMaze, maze2d and Adroit show
published numbers only: their simulators are not here yet.

Run: python benchmark/cql_table.py [--datasets hopper-medium-v2] [--columns cql] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.sql_eql_table1 import LOCOMOTION, MAZES

ADROIT = tuple(f"{task}-{level}-v1" for task in ("pen", "door", "hammer", "relocate")
               for level in ("human", "cloned", "expert"))
TABLE = Table(
    name="cql_table", title="CQL in CORL's table: D4RL", papers=("cql_table.csv",),
    datasets=(*LOCOMOTION, *(f"maze2d-{maze}-v1" for maze in ("umaze", "medium", "large")),
              *(f"antmaze-{maze}-v2" for maze in MAZES), *ADROIT),
    quoted=("rebrac", "dt"),
    notes=("Three columns of CQL circulate, never to be mixed. On hopper-medium, its paper has 86.6 (v0), the TD3+BC "
           "paper 44.2 with the authors' code (v0), CORL 59.1 (v2, here); v2 cells in other papers are others again.",
           "Ours of BC, 10%BC, TD3+BC, AWAC and CQL have CORL's values. IQL, SAC-N and EDAC follow their authors, from "
           "whom CORL differs: its SAC-N has 40.8 on hopper-medium-v2, the authors' 100.3."),
    columns={
        "bc": Column("bc"),
        "bc_10pct": Column("bc", "--config top-10 --corl-split"),
        "td3_bc": Column("td3_bc"),
        "awac": Column("awac"),
        "cql": Column("cql"),
        "iql": Column("iql"),
        "sac_n": Column("sac_n"),
        "edac": Column("edac"),
    })

if __name__ == "__main__":
    main(TABLE)
