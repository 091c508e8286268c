"""MBPO, MOPO, COMBO, RAMBO, MOBILE and BC on four datasets at a budget for a CPU: no paper's table.

Values are the papers', but for the budget: 20,000 updates of the agent (a million and more), and in RAMBO as many of
the adversary; rollouts from 5,000 states (50,000); models of at most 20 epochs; a learning rate of the actor of 3e-4
(1e-4), constant in MOPO, as its authors have it, and of the temperature likewise in MOPO and RAMBO; batches of 64 for
COMBO and MOBILE (256), whose updates cost most. MBPO is MOPO without its penalty. Its model, MOPO's, COMBO's and
MOBILE's is one, trained once for a dataset and seed. A place to start one's own comparison from: `--data` takes replay
buffers of one's own. benchmark/results/standin/ has what it gave.

Run: python benchmark/model_based_small.py --standin [--data hopper-medium-replay-v2=replay.npz] [--dry-run]
"""

from benchmark.engine.grid import Column, Table
from benchmark.in_sample_small import BUDGET, main
from common import friendly

MODEL = "--model-epochs 20 --rollout-batch 5000 --standin-rows 100000"
AGENT = f"{MODEL} --updates 20000 --eval-every 2000 --actor-lr 3e-4"
TABLE = Table(
    name="model_based_small", title="Learned models at a small budget", seeds=(0, 1),
    datasets=tuple(f"{robot}-{level}-v2" for robot in ("hopper", "halfcheetah")
                   for level in ("medium-replay", "medium")),
    notes=("Not the papers' budgets: 20,000 updates of the agent, rollouts from 5,000 states, models of at most 20 "
           "epochs, an actor three times as fast; COMBO and MOBILE with batches of 64; BC as in pessimism_small.py.",),
    columns={
        "bc": Column("bc", BUDGET),
        "mbpo": Column("mopo", f"--penalty-coef 0 --no-cosine --alpha-lr 3e-4 {AGENT}"),
        "mopo": Column("mopo", f"--no-cosine --alpha-lr 3e-4 {AGENT}"),
        "combo": Column("combo", f"--batch-size 64 {AGENT}"),
        "rambo": Column("rambo", f"--alpha-lr 3e-4 {MODEL} --updates 40000 --eval-every 4000 --actor-lr 3e-4"),
        "mobile": Column("mobile", f"--batch-size 64 {AGENT}"),
    })

if __name__ == "__main__":
    with friendly():
        main(TABLE)
