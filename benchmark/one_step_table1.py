"""One-step RL, Table 1: 16 D4RL datasets, 100 episodes, 3 seeds. Brandfonbrener et al., NeurIPS 2021, arXiv:2106.08909.

The paper chooses one of six temperatures (`exp_weight`) or weights (`rev_kl`) per dataset by the final score, and does
not tell which; here they are fixed, T = 3 and alpha = 1. `-- --inverse-temperature 10` is another table. Its Table 2
is quoted beside. Adroit's version is unverified, and its simulator not here yet.

Run: python benchmark/one_step_table1.py [--datasets hopper-medium-v2] [--columns exp_weight] [--gpus 0] [--dry-run]
"""

from benchmark.engine.grid import Column, Table, main

FIXED = ("Our one-step RL has a fixed T = 3 (rev_kl: alpha = 1); its published cells are the best of six per dataset, "
         "chosen by the final score.")
CLONING = ("The published BC and 10%BC are from another code base than algorithms/bc.py, which follows CORL; the two "
           "differ by up to 17 points on v2 data.")
EPISODES = "--eval-episodes 100 --eval-every 100000"
TABLE = Table(
    name="one_step_table1", title="One-step RL, Table 1: D4RL", papers=("one_step_table1.csv",), seeds=(0, 1, 2),
    datasets=(*(f"{robot}-{level}-v2" for level in ("medium", "medium-expert", "medium-replay", "random")
                for robot in ("halfcheetah", "walker2d", "hopper")),
              *(f"{task}-cloned-v1" for task in ("pen", "hammer", "relocate", "door"))),
    quoted=("bc", "best_iterative_d4rl_paper", "onestep_easy_bcq", "multistep_rev_kl", "iterative_rev_kl"),
    notes=(FIXED, "bc is the paper's cloning stage (a Gaussian of 1,024 units), not algorithms/bc.py: see a run's "
           "evaluations before its last stage. multistep_rev_kl and iterative_rev_kl are Table 2's."),
    columns={
        "exp_weight": Column("one_step", EPISODES, published="onestep_exp_weight"),
        "rev_kl": Column("one_step", f"--operator rev_kl {EPISODES}", published="onestep_rev_kl"),
    })

if __name__ == "__main__":
    main(TABLE)
