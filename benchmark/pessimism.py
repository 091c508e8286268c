"""What pessimism does where the data are silent: MBPO, MOPO, COMBO, RAMBO, MOBILE and MOReL in a world of one dimension.

The world is ours. One stands at a height s, which is the reward of a step. An action a in [-1, 1] leads to the height
hill(a), whatever s was, with a little noise. The data have actions in [-1, 0] only, at random. Of these -0.5 is the
best, and leads to height 1. Towards 0 the ground rises again, so a model that goes on from there promises more and
more beyond the data. In truth there is an abyss at height -1.

Every agent is the one of its file in algorithms/, trained by that file on these data, with flags for so small a world
(FLAGS). MBPO is MOPO without a penalty. All agents of one panel but RAMBO and MOReL share one fitted model. A panel
shows the height that an agent counts with after each action, at the height where the best action of the data leads:

    MBPO, RAMBO: the mean height of the model's elites; RAMBO's also before its adversary changed them     (1)
    MOPO: (1) - lambda u / gamma, because it lowers a reward now by lambda u, and a height is one later    (2)
    COMBO, MOBILE: 1 + [q(a) - q(-0.5)] / gamma, with q = Q of COMBO's critics, its target of MOBILE's     (3)
    MOReL: the mean height of its models where they agree; where they do not, the episode ends             (4)

Which height is promised and which is found at the action that the agent chooses there is printed below, and drawn.

Run: python benchmark/pessimism.py [--updates 4000] [--seed 0]
"""

import contextlib
import io
import math
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from benchmark.engine.runs import arguments, load_script, script_of
from common import friendly
from common.args import cli, within
from common.run import Run

SHARED = ("--batch-size 64 --gamma 0.9 --rollout-length 2 --rollout-batch 1000 --rollout-every 100 --actor-lr 1e-3 "
          "--critic-lr 1e-3 --tau 0.02 --model-epochs 100")
FLAGS = {
    "MBPO": ("mopo", f"{SHARED} --alpha-lr 1e-2 --penalty-coef 0 --real-ratio 0.5"),
    "MOPO": ("mopo", f"{SHARED} --alpha-lr 1e-2 --penalty-coef 10 --real-ratio 0.5"),
    "COMBO": ("combo", f"{SHARED} --alpha-lr 1e-2 --cql-weight 1"),
    "RAMBO": ("rambo", f"{SHARED} --alpha-lr 1e-2 --bc-epochs 0 --adversary-weight 0.1 --adversary-lr 1e-3"),
    "MOBILE": ("mobile", f"{SHARED} --alpha 0.05 --penalty-coef 5 --real-ratio 0.5 --target-min None"),
    "MOReL": ("morel", "--horizon 30 --gamma 0.99 --model-epochs 60 --truncate-reward -100 --min-log-std -3"),
}
BEST, EDGE = 0.0, 0.2  # of the data's actions; where the abyss begins


@dataclass
class Args:
    updates: Annotated[int, within("[1, 1e6]")] = 4_000  # gradient steps of each agent
    rows: Annotated[int, within("[100, 1e6]")] = 2_000
    seed: int = 0
    only: tuple[str, ...] = ()
    out: Path = Path("results")


def hill(action):
    """The height to which an action leads: (1 + a)^1.5 within the data, level for a while beyond, then an abyss."""
    return np.where(action <= 0, np.maximum(1 + action, 0) ** 1.5, np.clip(1 - 10 * (action - EDGE), -1, 1))


def write_world(path, rows, seed):
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 0, rows + 1)
    obs = hill(action) + 0.05 * rng.standard_normal(rows + 1)
    start, obs_next, action = obs[:-1], obs[1:], action[1:]
    np.savez(path, observations=start[:, None], actions=action[:, None], rewards=start, next_observations=obs_next[:, None],
             terminals=np.zeros(rows, bool), timeouts=np.arange(1, rows + 1) % 20 == 0)


def trained(name, file, args, folder):
    algorithm, flags = FLAGS[name]
    module, kept = load_script(script_of(algorithm)), []

    class Watched(Run):
        def __init__(self, args, agents):
            kept.extend(agents)
            super().__init__(args, agents)

        def steps(self, updates):
            kept.append(deepcopy(self.agents[0].model))
            yield from super().steps(updates)

    words = ["--env", str(file), "--eval-env", "none", "--updates", str(args.updates), "--seeds", str(args.seed), "--runs", str(folder), "--device", "cpu", *flags.split()]
    if name == "MOReL":
        module._TASKS["none"] = (lambda obs, action: (obs[..., 0], torch.zeros_like(obs[..., 0], dtype=torch.bool)), [1.0])
    else:
        words += ["--termination", "never"]
    module.Run = Watched
    with contextlib.redirect_stdout(io.StringIO()) as said:
        module.main(arguments(algorithm, words))
    module.Run = Run
    return kept
