"""Golden numbers of D4RL's physics (data spec: measured against mujoco-py roll-outs; tolerance 1e-4)."""

import numpy as np
import pytest

from common import InputError
from common.physics import make_env

mujoco = pytest.importorskip("mujoco")


def rollout(name, physics):
    """20 steps of a_i = 0.3 (-1)^(i + t//5) from init_qpos at rest: sum of rewards, last observation."""
    env = make_env(name, physics)
    env.reset(seed=0)
    env.unwrapped.set_state(env.unwrapped.init_qpos, np.zeros_like(env.unwrapped.init_qvel))
    index, total = np.arange(env.action_space.shape[0]), 0.0
    for t in range(20):
        obs, reward, *_ = env.step((0.3 * (-1.0) ** (index + t // 5)).astype(np.float32))
        total += reward
    return total, obs


GOLDEN = {
    "hopper": (18.406795, [1.193963, -0.199311, -0.141081, -0.179246], 18.424621),
    "walker2d": (2.258922, [1.055109, -0.670931, -0.201166, -1.059772], 3.029546),
    "halfcheetah": (-0.530790, [-0.156166, 0.049018, -0.099025, 0.199587], -0.555386),
}


@pytest.mark.parametrize("robot", GOLDEN)
def test_golden_rollout(robot):
    patched, first_obs, stock = GOLDEN[robot]
    total, obs = rollout(f"{robot}-medium-v2", "d4rl")
    assert total == pytest.approx(patched, abs=1e-4)
    np.testing.assert_allclose(obs[:4], first_obs, atol=1e-4)
    assert obs.dtype == np.float32
    if robot != "walker2d":  # the stock number was recorded with the old feet
        assert rollout(f"{robot}-medium-v2", "stock")[0] == pytest.approx(stock, abs=1e-4)


def test_masses_inertias_and_feet():
    hopper = make_env("hopper-medium-v2").unwrapped.model
    np.testing.assert_allclose(hopper.body_mass[1:], [3.534292, 3.926991, 2.714336, 5.089380], atol=1e-6)
    np.testing.assert_allclose(np.sort(hopper.body_inertia[1]), [0.004418, 0.061850, 0.061850], atol=1e-6)
    assert hopper.body_mass.sum() == pytest.approx(15.265, abs=1e-3)
    walker = make_env("walker2d-medium-v2").unwrapped.model
    assert walker.body_mass.sum() == pytest.approx(22.698, abs=1e-3)
    feet = [walker.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom")]
    assert feet == [0.9, 1.9]
    cheetah = make_env("halfcheetah-medium-v2").unwrapped.model
    assert cheetah.body_mass.sum() == pytest.approx(14.0)
    assert cheetah.body_mass[1] == pytest.approx(6.360313, abs=1e-5)
    np.testing.assert_allclose(np.sort(cheetah.body_inertia[1]), [0.017618, 0.883565, 0.894454], atol=1e-5)
    assert make_env("ant-medium-v2").unwrapped.model.body_mass.sum() == pytest.approx(0.8787, abs=1e-4)


def test_margins_are_halved_where_robots_have_them():
    for robot in ("hopper", "ant"):
        stock, patched = (make_env(f"{robot}-medium-v2", physics).unwrapped.model for physics in ("stock", "d4rl"))
        assert stock.geom_margin.max() > 0
        np.testing.assert_allclose(patched.geom_margin, stock.geom_margin / 2)


@pytest.mark.filterwarnings("ignore:.*out of date.*")
@pytest.mark.parametrize("robot, version_4", [("hopper", "Hopper-v4"), ("walker2d", "Walker2d-v4"), ("halfcheetah", "HalfCheetah-v4"),
                                              ("ant", "Ant-v4")])
def test_wrapper_gives_v4_observations_and_rewards(robot, version_4):
    """v5 with our keyword arguments and the terminal reward equals v4 exactly, once v4's model is patched too."""
    import gymnasium

    from common.physics import patch_model
    ours, old = make_env(f"{robot}-medium-v2"), gymnasium.make(version_4)
    patch_model(old, robot)
    rng, falls = np.random.default_rng(0), 0
    for episode in range(5):
        obs, old_obs = ours.reset(seed=episode)[0], old.reset(seed=episode)[0]
        for _ in range(200):
            np.testing.assert_array_equal(obs[:len(old_obs)], old_obs.astype(np.float32))
            action = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)
            obs, reward, terminated, *_ = ours.step(action)
            old_obs, old_reward, old_terminated, *_ = old.step(action)
            assert reward == pytest.approx(old_reward, abs=1e-12) and terminated == old_terminated
            if terminated:
                falls += 1
                break
    assert falls > 0 or robot in ("halfcheetah", "ant")


def test_ant_observes_111_numbers():
    obs, _ = make_env("ant-medium-v2").reset(seed=0)
    assert obs.shape == (111,) and not obs[27:].any() and obs[:27].any()


def test_horizon_and_clipping():
    env = make_env("halfcheetah-medium-v2")
    twin = make_env("halfcheetah-medium-v2")
    env.reset(seed=0), twin.reset(seed=0)
    for step in range(1000):
        out, same = env.step(np.full(6, 7.0)), twin.step(np.ones(6))
        assert out[3] == (step == 999) and not out[2]
    np.testing.assert_array_equal(out[0], same[0])
    assert out[1] == same[1]


def test_no_deprecation_noise(capfd):
    make_env("halfcheetah-medium-v2")
    make_env("walker2d-medium-v2")
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_task_without_simulator_is_one_clear_line():
    with pytest.raises(InputError, match="pen-human-v1: no simulator .* --eval-env none"):
        make_env("pen-human-v1")
