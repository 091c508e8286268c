"""MBPO, MOPO, COMBO, RAMBO, MOBILE and BC on four datasets at a budget for a CPU: no paper's table.

Values are the papers', but for the budget: 20,000 updates (a million and more), RAMBO's adversary as many again;
5,000 states at the start of a rollout (50,000); models of at most 20 epochs; a constant learning rate of 3e-4 for
actor and temperature (1e-4, MOPO's authors have 3e-4); batches of 64 for COMBO and MOBILE (256), whose updates cost
most. MBPO is MOPO without its penalty. Models are shared: each is trained once for a dataset and a seed. A place to
start one's own comparison from: `--data` takes replay buffers of one's own. benchmark/results/standin/ has what it
gave.

Run: python benchmark/model_based_small.py --standin [--data hopper-medium-replay-v2=replay.npz] [--dry-run]
"""

from benchmark.engine.grid import Column, Table
from benchmark.in_sample_small import BUDGET, main
from common import friendly

MODEL = "--model-epochs 20 --rollout-batch 5000 --standin-rows 100000"
AGENT = f"{MODEL} --updates 20000 --eval-every 2000 --actor-lr 3e-4 --alpha-lr 3e-4 --no-cosine"
TABLE = Table(
    name="model_based_small", title="Learned models at a small budget", seeds=(0, 1),
    datasets=tuple(f"{robot}-{level}-v2" for robot in ("hopper", "halfcheetah")
                   for level in ("medium-replay", "medium")),
    notes=("Not the papers' budgets: 20,000 updates, rollouts from 5,000 states, models of at most 20 epochs, a "
           "constant learning rate of 3e-4 for actor and temperature; COMBO and MOBILE with batches of 64.",),
    columns={
        "bc": Column("bc", BUDGET),
        "mbpo": Column("mopo", f"--penalty-coef 0 {AGENT}"),
        "mopo": Column("mopo", AGENT),
        "combo": Column("combo", f"--batch-size 64 {AGENT}"),
        "rambo": Column("rambo", f"{AGENT.replace('20000', '40000').replace('2000 ', '4000 ')}"),
        "mobile": Column("mobile", f"--batch-size 64 {AGENT}"),
    })

if __name__ == "__main__":
    with friendly():
        main(TABLE)
