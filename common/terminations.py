"""When an imagined episode ends: the simulators' own rules as tensor operations on raw, un-normalised observations.

D4RL's robots end by their height and angle. A learned model can also leave what is physically possible, and then its
next observation is a wrong input for ever. So an episode of hopper, walker2d or halfcheetah also ends where coordinates
are not finite, or beyond 100. The authors' codes differ from each other and from these rules only there, and in pen,
which RAMBO's never ends: see tests/test_terminations.py.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from common import InputError
from common.sources import own_file

LIMIT = 100.0  # what a healthy robot's coordinates never reach


def _sane(x: Tensor) -> Tensor:
    return (x.abs() < LIMIT).all(-1)  # False for NaN, and for infinity


def _between(x: Tensor, low: float, high: float) -> Tensor:
    return (x > low) & (x < high)


def hopper(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height, angle = next_obs[..., 0], next_obs[..., 1]
    return ~(_between(height, 0.7, float("inf")) & _between(angle, -0.2, 0.2) & _sane(next_obs[..., 1:]))


def walker2d(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height, angle = next_obs[..., 0], next_obs[..., 1]
    return ~(_between(height, 0.8, 2.0) & _between(angle, -1.0, 1.0) & _sane(next_obs))


def halfcheetah(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~_sane(next_obs)


def ant(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height = next_obs[..., 0]
    return ~((height >= 0.2) & (height <= 1.0) & next_obs.isfinite().all(-1))


def humanoid(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    height = next_obs[..., 0]
    return ~((height >= 1.0) & (height <= 2.0))


def pen(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~(next_obs[..., 26] >= 0.075)  # the pen's height


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return ~next_obs.isfinite().all(-1)  # from what is not finite nothing can go on


RULES = {"hopper": hopper, "walker2d": walker2d, "halfcheetah": halfcheetah, "ant": ant, "humanoid": humanoid,
         "pen": pen, "never": never}
Rule = Literal["auto", "hopper", "walker2d", "halfcheetah", "ant", "humanoid", "pen", "never"]  # of --termination
NEVER = ("door", "hammer", "relocate", "antmaze", "maze2d", "kitchen")  # D4RL's tasks that only time ends
SIZES = {"hopper": 11, "walker2d": 17, "halfcheetah": 17, "pen": 45}  # of an observation, where it is always one


def robot_of(env: str, eval_env: str) -> str:
    """The first word of the data's task, which `env` names or, of an own file, `eval_env`."""
    task = eval_env if own_file(env) else env
    return task.removeprefix("d4rl/").replace("/", "-").split("-")[0]


def termination(name: str, env: str, eval_env: str, obs_size: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The rule: (obs (..., S), action (..., A), next_obs (..., S)) -> does the episode end there? (...,) bool.

    `name`: a key of RULES, or auto, the rule of the data's task, which `env` names or, of an own file, `eval_env`.
    InputError: no such rule, a task without one, or one for observations of another size.
    """
    robot = robot_of(env, eval_env) if name == "auto" else name
    rule = "never" if robot in NEVER else robot
    if rule not in RULES:
        named = robot if eval_env in ("auto", "none") else eval_env
        whose = named if not own_file(env) or eval_env != "auto" else "own data; name its task by --eval-env"
        raise InputError(f"--termination {name}: there is no rule for {whose}; choose from {', '.join(RULES)}, or "
                         "write one in a copy of the file")
    if obs_size != SIZES.get(rule, obs_size):
        raise InputError(f"--termination {rule}: observations have {SIZES[rule]} numbers there, and {obs_size} in "
                         f"{env}")
    return RULES[rule]
