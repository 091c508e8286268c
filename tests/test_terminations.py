"""Rules of termination: at the edges where the authors' codes differ, and for names and files without one."""

from typing import get_args

import pytest
import torch

from common import InputError
from common.terminations import NEVER, RULES, Rule, termination
from tests.recipe_models import golden

GOLDEN = golden("terminations")


def states(case):
    rows = torch.zeros(len(case["edits"]), case["size"])
    for row, edits in zip(rows, case["edits"]):
        for index, value in (case["base"] | edits).items():
            row[int(index)] = float(value)
    return rows


@pytest.mark.parametrize("robot", GOLDEN)
def test_edges(robot):
    case = GOLDEN[robot]
    next_obs = states(case)
    action = torch.zeros(len(next_obs), 3)
    assert RULES[robot](next_obs, action, next_obs).int().tolist() == case["ours"]
    batched = RULES[robot](next_obs[None], action[None], next_obs[None])
    assert batched.shape == (1, len(next_obs)) and batched.dtype == torch.bool


def test_others():
    obs = torch.zeros(4, 45)
    obs[:, 26] = torch.tensor([0.2, 0.07, float("nan"), 0.076])
    assert RULES["pen"](obs, obs, obs).tolist() == [False, True, True, False]
    obs[:, 0] = torch.tensor([1.0, 0.99, 2.01, float("nan")])
    assert RULES["humanoid"](obs, obs, obs).tolist() == [False, True, True, True]
    obs = torch.tensor([[1e9, 1.0], [float("inf"), 1.0]])
    assert RULES["never"](obs, obs, obs).tolist() == [False, True]


@pytest.mark.parametrize("env, eval_env, size, robot", [
    ("hopper-medium-v2", "auto", 11, "hopper"), ("mine.npz", "walker2d-medium-v2", 17, "walker2d"), ("ant-medium-v2", "auto", 111, "ant"),
    ("antmaze-umaze-v0", "auto", 29, "never"), ("door-human-v1", "auto", 39, "never"), ("d4rl/halfcheetah/medium-v2", "auto", 17, "halfcheetah")])
def test_a_tasks_own_rule(env, eval_env, size, robot):
    assert termination("auto", env, eval_env, size) is RULES[robot]
    assert termination("never", env, eval_env, size) is RULES["never"] and "antmaze" in NEVER
    assert set(get_args(Rule)) == {"auto", *RULES}


@pytest.mark.parametrize("name, env, eval_env, size, message", [
    ("auto", "mine.npz", "auto", 11, "no rule for own data"), ("robot", "hopper-medium-v2", "auto", 11, "no rule for robot"),
    ("auto", "mujoco/pusher/expert-v0", "auto", 23, "no rule for mujoco"), ("hopper", "mine.npz", "auto", 17, "have 11 numbers there, and 17 in mine.npz")])
def test_no_rule(name, env, eval_env, size, message):
    with pytest.raises(InputError, match=message) as error:
        termination(name, env, eval_env, size)
    assert "\n" not in str(error.value) and "--termination" in str(error.value)
