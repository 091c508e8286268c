"""BC, TD3+BC, CQL and ATAC on four datasets at a budget for a CPU: no paper's table.

Batch 64 (papers: 256) and 30,000 updates (a million). CQL has 4 actions of each kind (10) and an actor ten times as
fast, 3e-4, so that a thirtieth of the updates can be enough. ATAC has a warm start of 9,000 updates (100,000), and in
its game an actor 40 times as fast, 2e-5: a weight moves by 0.4 at most, in the paper's million updates by 0.5. Its beta
is 16 everywhere, not tuned; atac_beta.py finds these runs. A place to start one's own comparison from: `--data` takes
replay buffers of one's own. benchmark/results/standin/ has what it gave.

Run: python benchmark/pessimism_small.py --standin [--data hopper-medium-replay-v2=replay.npz] [--dry-run]
"""

from benchmark.engine.grid import Column, Table
from benchmark.in_sample_small import BUDGET, main
from common import friendly

TABLE = Table(
    name="pessimism_small", title="Pessimistic critics at a small budget", seeds=(0, 1),
    datasets=tuple(f"{robot}-{level}-v2" for robot in ("hopper", "halfcheetah")
                   for level in ("medium", "medium-replay")),
    notes=("Not the papers' budgets: batch 64, 30,000 updates or as told; CQL with 4 actions of each kind and an "
           "actor ten times as fast as the paper's; ATAC with a warm start of 9,000, beta 16 and an actor 40 times as "
           "fast.",),
    columns={
        "bc": Column("bc", BUDGET),
        "td3_bc": Column("td3_bc", BUDGET),
        "cql": Column("cql", f"--num-actions 4 --actor-lr 3e-4 {BUDGET}"),
        "atac": Column("atac", f"--warm-start 9000 --beta 16 --actor-lr 2e-5 {BUDGET}"),
    })

if __name__ == "__main__":
    with friendly():
        main(TABLE)
