"""BC, 10%BC, AWAC, one-step, IQL, SQL, EQL and XQL on four datasets at a budget for a CPU: no paper's table.

Values are the papers', but for the budget: batch 64 (papers: 256, one-step 512), 30,000 updates (a million and more),
one-step with 256 units (1,024), its stages in the proportion 1 : 2 : 1. A place to start one's own comparison from:
`--data` takes replay buffers of one's own. benchmark/results/standin/ has what it gave.

Run: python benchmark/in_sample_small.py --standin --seeds 0 1 [--data hopper-medium-replay-v2=replay.npz] [--dry-run]
"""

import sys

from benchmark.engine import grid, tables
from benchmark.engine.figures import curve_figure, styles
from benchmark.engine.grid import Column, Table
from common import friendly

BUDGET = "--updates 30000 --batch-size 64 --eval-every 3000"
TABLE = Table(
    name="in_sample_small", title="The in-sample family at a small budget", seeds=(0, 1),
    datasets=tuple(f"{robot}-{level}-v2" for robot in ("hopper", "halfcheetah")
                   for level in ("medium", "medium-replay")),
    notes=("Not the papers' budgets: batch 64, 30,000 updates or as told; one-step with 256 units, a quarter of its "
           "updates for cloning, a half for SARSA, a quarter for improvement.",),
    columns={
        "bc": Column("bc", BUDGET),
        "bc_10pct": Column("bc", f"--config top-10 {BUDGET}"),
        "awac": Column("awac", BUDGET),
        "one_step": Column("one_step", f"--hidden-size 256 --stages 1 2 1 {BUDGET}"),
        "iql": Column("iql", BUDGET),
        "sql": Column("sql_eql", f"--algorithm sql {BUDGET}"),
        "eql": Column("sql_eql", f"--algorithm eql {BUDGET}"),
        "xql": Column("xql", BUDGET),
    })


def main(table: Table):
    this = grid.make(table, sys.argv[1:])
    if this.args.dry_run:
        return this.plan()
    grid.train(this)
    groups, path = tables.groups(this), this.args.out / f"{tables.stem(this)}.curves.png"
    if any(group.curve for group in groups):
        curve_figure(groups, styles(group.algorithm for group in groups), path)
        print(f"figure: {path}")
    grid.finish(this)


if __name__ == "__main__":
    with friendly():
        main(TABLE)
