"""MOReL, Table 2: 12 D4RL datasets, v0, 500 iterations, 3 seeds. Kidambi et al., NeurIPS 2020, arXiv:2005.05951.

A score is the mean over the last 100 iterations: here of the last ten evaluations, one every ten iterations. The cells
are read from the table in the authors' README, without std. The authors released values for hopper-medium alone; those
of the other rows are our guess (algorithms/morel.py), so these rows are goals and no tests. The paper copies the other
columns: MOPO's has 34.4 on halfcheetah-random, where MOPO's own has 35.4.

Run: python benchmark/morel_table2.py [--datasets hopper-medium-v0] [--columns morel] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.mopo_table1 import V0

TABLE = Table(
    name="morel_table2", title="MOReL, Table 2: D4RL Gym, v0", papers=("morel_table2.csv",), datasets=V0,
    seeds=(0, 1, 2), score="mean_of_last_10", quoted=("sac_off", "bear", "brac_p", "brac_v"),
    notes=("MOReL's values are published for hopper-medium only. Those of the other rows are ours, a place to start.",
           "The published MOPO and CQL are copied from their own papers, whose scores are of the last evaluation. Ours "
           "of MOPO has its authors' values, ours of CQL those of its authors' README."),
    columns={
        "morel": Column("morel"),
        "mopo": Column("mopo"),
        "cql": Column("cql", "--config authors"),
    })

if __name__ == "__main__":
    main(TABLE)
