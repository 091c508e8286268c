"""SQL and EQL, Table 1: 18 D4RL datasets, 1,000,000 updates, 5 seeds. Xu et al., ICLR 2023, arXiv:2303.15810.

Cells as on slides about the paper, which re-ran IQL and CQL, the best of a sweep per dataset (here: IQL's own value);
the others are quoted there, those of AntMaze from v0. Seeds and last evaluation: unverified. Rows of AntMaze and
Kitchen show published numbers only: their simulators are not here yet.

Run: python benchmark/sql_eql_table1.py [--datasets hopper-medium-v2] [--columns sql eql] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.one_step_table1 import CLONING, FIXED

LOCOMOTION = tuple(f"{robot}-{level}-v2" for level in ("medium", "medium-replay", "medium-expert")
                   for robot in ("halfcheetah", "hopper", "walker2d"))
MAZES = "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"
KITCHEN = tuple(f"kitchen-{level}-v0" for level in ("complete", "partial", "mixed"))
TABLE = Table(
    name="sql_eql_table1", title="SQL and EQL, Table 1: D4RL", papers=("sql_eql_table1.csv",), seeds=(0, 1, 2, 3, 4),
    datasets=(*LOCOMOTION, *(f"antmaze-{maze}-v2" for maze in MAZES), *KITCHEN), quoted=("bcq", "dt"),
    notes=(FIXED, CLONING, "The published IQL and CQL are the best of a sweep per dataset; ours has one value."),
    columns={
        "bc": Column("bc"),
        "bc_10pct": Column("bc", "--config top-10"),
        "onestep_rl": Column("one_step"),
        "td3_bc": Column("td3_bc"),
        "cql": Column("cql"),
        "iql": Column("iql"),
        "sql": Column("sql_eql", "--algorithm sql"),
        "eql": Column("sql_eql", "--algorithm eql"),
    })

if __name__ == "__main__":
    main(TABLE)
