"""IQL, Table 1 and its Adroit table: 26 D4RL datasets, 1,000,000 updates. Kostrikov et al., arXiv:2110.06169.

Cells as the XQL paper quotes them, without std. Seeds: unverified, 5 as there. AntMaze is v0. Rows of AntMaze, Kitchen
and Adroit show published numbers only: their simulators are not here yet.

Run: python benchmark/iql_table1.py [--datasets hopper-medium-v2] [--columns iql] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.one_step_table1 import CLONING, FIXED
from benchmark.sql_eql_table1 import KITCHEN, LOCOMOTION, MAZES

ADROIT = tuple(f"{task}-{level}-v0" for level in ("human", "cloned") for task in ("pen", "hammer", "door", "relocate"))
TABLE = Table(
    name="iql_table1", title="IQL, Table 1: D4RL", papers=("iql_table1.csv",), seeds=(0, 1, 2, 3, 4),
    datasets=(*LOCOMOTION, *(f"antmaze-{maze}-v0" for maze in MAZES), *KITCHEN, *ADROIT),
    quoted=("dt", "cql", "brac_p", "bear"),
    notes=(FIXED, CLONING),
    columns={
        "bc": Column("bc"),
        "bc_10pct": Column("bc", "--config top-10"),
        "awac": Column("awac"),
        "onestep_rl": Column("one_step"),
        "td3_bc": Column("td3_bc"),
        "iql": Column("iql"),
    })

if __name__ == "__main__":
    main(TABLE)
