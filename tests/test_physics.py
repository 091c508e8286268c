"""Golden numbers of D4RL's physics, of code that replays what mujoco-py recorded."""

import numpy as np
import pytest

from common import InputError, physics
from common.physics import make_env, version

mujoco = pytest.importorskip("mujoco")


def at_rest(name, kind="d4rl"):
    """The environment in `init_qpos` at rest."""
    env = make_env(name, kind)
    env.reset(seed=0)
    env.unwrapped.set_state(env.unwrapped.init_qpos, np.zeros_like(env.unwrapped.init_qvel))
    return env


def rollout(name, kind):
    """20 steps of a_i = 0.3 (-1)^(i + t//5) from init_qpos at rest: sum of rewards, last observation."""
    env = at_rest(name, kind)
    index, total = np.arange(env.action_space.shape[0]), 0.0
    for t in range(20):
        obs, reward, *_ = env.step((0.3 * (-1.0) ** (index + t // 5)).astype(np.float32))
        total += reward
    return total, obs


GOLDEN = {
    "hopper": (18.406795, [1.193963, -0.199311, -0.141081, -0.179246], 18.424621),
    "walker2d": (2.258922, [1.055109, -0.670931, -0.201166, -1.059772], 3.029546),
    "halfcheetah": (-0.531182, [-0.156165, 0.049015, -0.099028, 0.199587], -0.555386),
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


# robot -> {control steps: (first five of qpos and qvel, their L1 norm, sum of rewards)}
SINUSOIDS = {
    "halfcheetah": {20: ([0.222387656, -0.272541742, 0.729409473, 0.497495453, 0.497468563], 34.59501311, -0.42988126),
                    60: ([0.915141155, -0.555735213, 3.292680842, -0.070401011, -0.507850262], 46.18815834, 3.70982488)},
    "ant": {20: ([0.264482412, 0.083585830, 0.826700777, 0.847186063, 0.140282541], 58.74170481, None),
            60: ([0.012790011, -0.977636973, 1.233816070, -0.356677026, 0.820093595], 65.29589462, None)},
    "hopper": {20: ([-0.047018674, 1.192322230, -0.286577103, -0.221757430, -0.168092197], 11.18632325, 14.09826986),
               60: ([-0.154671195, 1.033029797, -1.114335605, -0.777048225, -0.728250436], 12.86348115, 40.59312561)},
    "walker2d": {20: ([-0.069871226, 1.172642483, -0.552355051, -0.401870244, -0.289212338], 71.26805270, 11.21732041),
                 60: ([-0.074387408, 0.746205561, -2.988083409, -2.510756218, -0.697737854], 70.86238100, 50.55564401)},
}


def state(env):
    return np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel])


@pytest.mark.parametrize("robot", SINUSOIDS)
def test_strong_actions(robot):
    """u_i = 0.9 sin(0.7 t + i). HalfCheetah's and Ant's numbers are those of a prototype that replayed recordings of mujoco-py to
    1.3e-10 and 1.2e-13; today's MuJoCo alone is off by 0.76 and 1.2e-3 after 20 steps. Contacts multiply rounding by 60 steps."""
    env, total = at_rest(f"{robot}-medium-v2"), 0.0
    for t in range(60):
        total += env.step(0.9 * np.sin(0.7 * t + np.arange(env.action_space.shape[0])))[1]
        if t + 1 in SINUSOIDS[robot]:
            first, norm, rewards = SINUSOIDS[robot][t + 1]
            tolerance = 1e-6 if t < 20 else 1e-3
            np.testing.assert_allclose(state(env)[:5], first, rtol=0, atol=tolerance)
            assert np.abs(state(env)).sum() == pytest.approx(norm, abs=tolerance)
            assert rewards is None or total == pytest.approx(rewards, abs=tolerance)
    assert env.unwrapped.data.time == pytest.approx(60 * env.unwrapped.dt)


def test_impedances_start_from_zero(monkeypatch):
    """Every row of the solver, from its depth: d = max(1e-4, 0.8 y), where y is the curve of power 2 over the width of its solimp."""
    env, seen = at_rest("halfcheetah-medium-v2"), []
    model, data, step2 = env.unwrapped.model, env.unwrapped.data, mujoco.mj_step2

    def checked(*_):
        d, R, D, aref = (getattr(data, f"efc_{name}").copy() for name in ("KBIP", "R", "D", "aref"))
        K, B, today = d[:, :3].T
        limit = data.efc_type == mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT
        x = np.minimum(np.abs(data.efc_pos - data.efc_margin) / np.where(limit, 0.03, 0.01), 1)
        y = np.where(x <= 0.5, 2 * x**2, 1 - 2 * (1 - x) ** 2)
        old = np.maximum(1e-4, 0.8 * y)
        np.testing.assert_allclose(today, 1e-4 + y * (0.8 - 1e-4), rtol=1e-12)  # else MuJoCo has changed
        np.testing.assert_allclose(aref, -B * data.efc_vel - K * old * (data.efc_pos - data.efc_margin), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(D, 1 / R, rtol=1e-15)
        mujoco.mj_makeConstraint(model, data)  # today's R again, with the same rows
        np.testing.assert_allclose(R, data.efc_R * (1 - old) / old * today / (1 - today), rtol=1e-10)
        data.efc_R[:], data.efc_D[:], data.efc_aref[:] = R, D, aref
        seen.extend(zip(limit, x))
        step2(model, data)

    assert (model.geom_solimp[:, :3] == (0, 0.8, 0.01)).all() and (model.jnt_solimp[3:, :3] == (0, 0.8, 0.03)).all()
    assert (model.geom_solimp[:, 3:] == (0.5, 2)).all() and not model.geom_margin.any() and not model.jnt_margin.any()
    monkeypatch.setattr(mujoco, "mj_step2", checked)
    rng = np.random.default_rng(0)
    for _ in range(400):
        env.step(rng.uniform(-1, 1, 6))
    for kind in (0, 1):  # contacts, joint limits: light and deep ones
        depths = [x for limit, x in seen if limit == kind]
        assert min(depths) < 0.01 and max(depths) > 0.5, (kind, len(depths))


@pytest.mark.parametrize("robot", ["hopper", "walker2d"])
def test_runge_kutta_is_mujocos_own_for_hinges(robot):
    """These have no free joint, whose quaternion MuJoCo 4 treats otherwise: one substep of ours is `mj_step`, contacts and all."""
    env, rng, rows = at_rest(f"{robot}-medium-v2"), np.random.default_rng(0), 0
    model, data, other = env.unwrapped.model, env.unwrapped.data, mujoco.MjData(env.unwrapped.model)
    substep = physics._runge_kutta(model, data)
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    for _ in range(300):
        data.ctrl[:] = other.ctrl[:] = rng.uniform(-1, 1, model.nu)
        other.qpos[:], other.qvel[:], other.time = data.qpos, data.qvel, data.time
        other.qacc_warmstart[:] = data.qacc_warmstart
        substep()
        mujoco.mj_step(model, other)
        rows += data.nefc
        np.testing.assert_allclose(state(env), np.concatenate([other.qpos, other.qvel]), rtol=1e-10, atol=1e-10)
        assert data.time == pytest.approx(other.time)
    assert rows > 300


@pytest.mark.parametrize("robot", physics.ROBOTS)
def test_stock_is_gymnasiums(robot):
    stock, mine = (make_env(f"{robot}-medium-v2", kind).unwrapped for kind in ("stock", "d4rl"))
    assert "_step_mujoco_simulation" not in vars(stock) and ("_step_mujoco_simulation" in vars(mine)) == (robot in ("halfcheetah", "ant"))
    assert not stock.model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_ISLAND


@pytest.mark.parametrize("robot", physics.SUBSTEPS)
@pytest.mark.parametrize("where, value", [("qpos", np.nan), ("qvel", np.nan), ("qacc", np.inf)])
def test_a_simulation_that_bursts_is_reset_as_by_mujoco(robot, where, value):
    env = at_rest(f"{robot}-medium-v2")
    getattr(env.unwrapped.data, where)[1] = value
    if where == "qacc":  # it shows in the accelerations alone
        env.unwrapped.data.qfrc_applied[1] = 1e12
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: told.append(message))
    try:
        told = []
        env.step(np.zeros(env.action_space.shape[0]))
    finally:
        mujoco.set_mju_user_warning(handler)
    assert np.isfinite(state(env)).all() and f"Nan, Inf or huge value in {where.upper()}" in told[0]


def test_contact_forces_are_there_after_a_step():
    """As Gymnasium computes them for whoever asks."""
    for robot in physics.SUBSTEPS:
        env = make_env(f"{robot}-medium-v2")
        env.reset(seed=0)
        for _ in range(20):
            env.step(np.zeros(env.action_space.shape[0]))
        data = env.unwrapped.data
        before = data.cfrc_ext.copy()
        assert data.ncon and np.abs(before).max() > 0.01
        mujoco.mj_rnePostConstraint(env.unwrapped.model, data)
        np.testing.assert_array_equal(before, data.cfrc_ext)


def test_versions():
    assert [version(f"{robot}-medium-v2", "d4rl") for robot in physics.ROBOTS] == ["d4rl-1", "d4rl-2", "d4rl-1", "d4rl-2"]
    assert version("halfcheetah-medium-v2", "stock") == "stock" and version(None, "d4rl") == "d4rl-1"
    assert version("mujoco/halfcheetah/medium-v0", "d4rl") == version("a-b/hopper/x-v0", "stored") == "stored"
    assert [physics.with_version(its) for its in ("d4rl", "d4rl-1", "d4rl-2", "stock", "stored")] == ["d4rl-1", "d4rl-1", "d4rl-2", "stock", "stored"]


def test_an_unknown_physics_is_refused():
    """What config.json says is a physics where it is today's."""
    assert make_env("ant-medium-v2", "d4rl-2").observation_space == make_env("ant-medium-v2").observation_space
    for name, kind in (("ant-medium-v2", "d4rl-1"), ("hopper-medium-v2", "d4rl-2"), ("hopper-medium-v2", "stored"), ("hopper-medium-v2", "real" * 100)):
        with pytest.raises(InputError, match=f"{name}: {kind[:20]} is no physics that is simulated here; there are d4rl and stock"):
            make_env(name, kind)


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
        stock, patched = (make_env(f"{robot}-medium-v2", kind).unwrapped.model for kind in ("stock", "d4rl"))
        assert stock.geom_margin.max() > 0
        np.testing.assert_allclose(patched.geom_margin, stock.geom_margin / 2)


@pytest.mark.filterwarnings("ignore:.*out of date.*")
@pytest.mark.parametrize("robot, version_4", [("hopper", "Hopper-v4"), ("walker2d", "Walker2d-v4"), ("halfcheetah", "HalfCheetah-v4"),
                                              ("ant", "Ant-v4")])
def test_wrapper_gives_v4_observations_and_rewards(robot, version_4):
    """v5 with our keyword arguments and the terminal reward equals v4 exactly, once v4 is patched too."""
    import gymnasium
    ours, old = make_env(f"{robot}-medium-v2"), gymnasium.make(version_4)
    physics.patch(old, robot)
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
