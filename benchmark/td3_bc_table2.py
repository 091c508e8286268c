"""TD3+BC, Table 2: 15 D4RL datasets, v0, 1,000,000 updates, 5 seeds. Fujimoto and Gu, NeurIPS 2021, arXiv:2106.06860.

A score is the mean of the last 10 evaluations, one every 5,000 updates with 10 episodes from the same start states;
std is over seeds. That the data are v0's follows from the authors' script, which has no other. v0 and v2 differ:
TD3+BC has 99.5 on hopper-medium-v0 in this table, and about 60 on hopper-medium-v2 in others.

Run: python benchmark/td3_bc_table2.py [--datasets hopper-medium-v0] [--columns td3_bc] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main

TABLE = Table(
    name="td3_bc_table2", title="TD3+BC, Table 2: D4RL Gym, v0", papers=("td3_bc_table2.csv",),
    seeds=(0, 1, 2, 3, 4), score="mean_of_last_10", quoted=("brac_p", "awac", "fisher_brc"),
    datasets=tuple(f"{robot}-{level}-v0" for level in ("random", "medium", "medium-replay", "medium-expert", "expert")
                   for robot in ("halfcheetah", "hopper", "walker2d")),
    notes=("The published BC, CQL and Fisher-BRC have a std, as runs of the paper's own have; BRAC-p and AWAC have "
           "none (AWAC: see awac_table1). The paper's settings of BC and CQL are unverified: our BC has CORL's, our "
           "CQL those of its authors' README, with w = 10 of its two. The cells of Fisher-BRC sum to 975.2, the paper's "
           "total is 974.6: one is off by 0.6.",),
    columns={
        "bc": Column("bc"),
        "cql": Column("cql", "--config authors"),
        "td3_bc": Column("td3_bc"),
    })

if __name__ == "__main__":
    main(TABLE)
