"""The table of OfflineRL-Kit, a library, with four model-based methods: 9 D4RL datasets, 4 seeds, mean of the last 10.

OfflineRL-Kit (github.com/yihaosun1124/OfflineRL-Kit) tuned the model-based methods for v2 data, and published its
values with mean and std. So this is the table to judge them by. Our MOPO and COMBO have its values. Our RAMBO has the
authors' but for three datasets, where the library has others; it also makes its rollouts four times as often. Our
MOBILE has the library's 30 epochs of the model, and its lambda on halfcheetah-medium-expert. The library evaluates
every 1,000 updates, so its last 10 are of the last 10,000 updates, and ours of more.

Run: python benchmark/model_based_kit.py [--datasets hopper-medium-v2] [--columns mopo combo] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main
from benchmark.rambo_table3 import DATASETS, WITHOUT

NINE = DATASETS[3:]  # without random data
OTHER_K, NO_ADVERSARY = NINE[4:5], NINE[6:8]
TABLE = Table(
    name="model_based_kit", title="OfflineRL-Kit's table: D4RL Gym", papers=("model_based_kit.csv",),
    datasets=NINE, score="mean_of_last_10",
    notes=("rambo_k5 and rambo_lambda_0 are RAMBO with the library's k and lambda, where these are not the authors'; "
           "mobile_lambda_2 is MOBILE likewise. Their published cells are those of rambo and mobile.",
           "Ours of CQL, TD3+BC, EDAC and IQL have the values of their own files. The library's are unverified."),
    columns={
        "cql": Column("cql"),
        "td3_bc": Column("td3_bc"),
        "edac": Column("edac"),
        "iql": Column("iql"),
        "mopo": Column("mopo"),
        "combo": Column("combo"),
        "rambo": Column("rambo", datasets=tuple(name for name in NINE if name not in OTHER_K + NO_ADVERSARY)),
        "rambo_k5": Column("rambo", "--rollout-length 5", "rambo", OTHER_K),
        "rambo_lambda_0": Column("rambo", f"--adversary-weight 0 {WITHOUT}", "rambo", NO_ADVERSARY),
        "mobile": Column("mobile", "--model-epochs 30", datasets=NINE[:6] + NINE[7:]),
        "mobile_lambda_2": Column("mobile", "--penalty-coef 2 --real-ratio 0.05 --model-epochs 30", "mobile",
                                  NINE[6:7]),
    })

if __name__ == "__main__":
    main(TABLE)
