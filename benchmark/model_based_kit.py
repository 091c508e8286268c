"""The table of OfflineRL-Kit, a library: 9 D4RL datasets, 4 seeds, mean of the last 10 evaluations.

OfflineRL-Kit (github.com/yihaosun1124/OfflineRL-Kit) tuned the model-based methods for v2 data and published both the
values and mean and std, so this is the table to judge them by.

Run: python benchmark/model_based_kit.py [--datasets hopper-medium-v2] [--columns mopo combo] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.rambo_table3 import DATASETS

TABLE = Table(
    name="model_based_kit", title="OfflineRL-Kit's table: D4RL Gym", papers=("model_based_kit.csv",),
    datasets=DATASETS[3:], score="mean_of_last_10",
    columns={
        "cql": Column("cql"),
        "td3_bc": Column("td3_bc"),
        "edac": Column("edac"),
        "iql": Column("iql"),
        "mopo": Column("mopo"),
        "combo": Column("combo"),
        "rambo": Column("rambo"),
        "mobile": Column("mobile"),
    })

if __name__ == "__main__":
    main(TABLE)
