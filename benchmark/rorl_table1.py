"""RORL, Table 1: ensembles on 15 D4RL datasets, 3,000,000 updates, 4 seeds. Yang et al., arXiv:2206.02829.

The paper trains SAC-10, EDAC-10 and RORL itself and quotes the other columns; PBRL and EDAC are run here too, as
their own authors do, and CQL with CORL's values, which may not be those behind the quoted numbers. Last evaluation
or average of several: the paper does not say. Here the last; a run's result.json has the others. `edac_10` is not
EDAC: see algorithms/edac.py.

Run: python benchmark/rorl_table1.py [--datasets hopper-medium-v2] [--columns rorl] [--gpus 0 1 --jobs 4] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main

TABLE = Table(
    name="rorl_table1", title="RORL, Table 1: D4RL Gym", papers=("rorl_table1.csv",), quoted=("bc",),
    columns={
        "cql": Column("cql"),
        "pbrl": Column("pbrl"),
        "sac_10": Column("sac_n", "--config sac-10"),
        "edac": Column("edac"),
        "edac_10": Column("edac", "--config edac-10"),
        "rorl": Column("rorl"),
    })

if __name__ == "__main__":
    main(TABLE)
