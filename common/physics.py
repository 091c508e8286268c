"""D4RL's physics on current MuJoCo.

The D4RL v2 data were recorded with gym 0.x on MuJoCo <= 2.1.0. Stock Gymnasium differs in three ways that move scores: capsules have
exact masses since MuJoCo 2.1.1 (before, a capsule weighed as a cylinder that reached half-way into its caps), the contact
margins of two geoms are summed since MuJoCo 3.5 (before, the larger one counted), and walker2d_v5.xml has another right foot. With the
patch below, replayed mujoco-py roll-outs agree to 2e-7 in the median step (Hopper; stock: 6e-3).
"""

from __future__ import annotations

import numpy as np

from common import InputError

ROBOTS = {  # name -> (Gymnasium id, keyword arguments that undo v5's changes, density of the geoms in kg/m^3)
    "hopper": ("Hopper-v5", {}, 1000.0),
    "halfcheetah": ("HalfCheetah-v5", {}, 1000.0),
    "walker2d": ("Walker2d-v5", {"xml_file": "walker2d.xml"}, 1000.0),
    "ant": ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}, 5.0),
}
ANT_CONTACT_FORCES = 84  # D4RL's ant observes 14 bodies x 6 contact forces, all zero under its MuJoCo 2.0


def make_env(name: str, physics: str = "d4rl"):
    """A Gymnasium environment for a D4RL name (hopper, halfcheetah, walker2d, ant) or a Minari id.

    Args:
        name: `hopper-medium-v2` (only the robot's name matters) or a Minari id such as `mujoco/hopper/medium-v0`.
        physics: `d4rl` (model patch, terminal-reward fix, float32 observations, clipped actions) or `stock` (Gymnasium's v5 as it is).
            A Minari id always gets the environment stored with its dataset.
    Raises:
        InputError: the simulator is not installed, or there is none here for this task.
    """
    try:
        import gymnasium
        import mujoco
    except ImportError as error:
        raise InputError(f"{name}: the simulator is missing ({error}); pip install 'gymnasium[mujoco]', "
                         "or train without evaluation: --eval-env none") from None
    if "/" in name:
        return _minari_env(name)
    robot = name.split("-")[0]
    if robot not in ROBOTS:
        raise InputError(f"{name}: its simulator is not part of this project yet (there are {', '.join(ROBOTS)}); "
                         "train without evaluation: --eval-env none")
    gym_id, kwargs, density = ROBOTS[robot]
    warn = mujoco.get_mju_user_warning()  # HalfCheetah's XML uses `settotalmass`, which MuJoCo 4 announces as deprecated
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        env = gymnasium.make(gym_id, disable_env_checker=True, **(kwargs if physics == "d4rl" else {}))
    finally:
        mujoco.set_mju_user_warning(warn)
    if physics == "stock":
        return env
    patch_model(env.unwrapped.model, density, total_mass=14.0 if robot == "halfcheetah" else None,
                halve_margins=robot in ("hopper", "ant"))

    class D4RLPhysics(gymnasium.Wrapper):
        """float32 observations, actions clipped to [-1, 1], and the healthy reward also on the step that falls (v5 drops it)."""

        def __init__(self, env):
            super().__init__(env)
            space = env.observation_space
            size = space.shape[0] + (ANT_CONTACT_FORCES if robot == "ant" else 0)
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
            self.healthy_reward = 0.0 if robot == "halfcheetah" else 1.0

        def observe(self, obs):
            padded = np.zeros(self.observation_space.shape, np.float32)
            padded[:len(obs)] = obs
            return padded

        def reset(self, **kwargs):
            obs, info = self.env.reset(**kwargs)
            return self.observe(obs), info

        def step(self, action):
            obs, reward, terminated, truncated, info = self.env.step(np.clip(action, -1.0, 1.0))
            return self.observe(obs), reward + self.healthy_reward * terminated, terminated, truncated, info

    return D4RLPhysics(env)


def _minari_env(name):
    import minari

    try:
        return minari.load_dataset(name).recover_environment(eval_env=True)
    except Exception as error:  # gymnasium, minari and the environment's package all have their own errors
        raise InputError(f"{name}: Minari cannot rebuild its environment ({' '.join(str(error).split())}); "
                         "train without evaluation: --eval-env none") from None


def patch_model(model, density: float, total_mass: float | None, halve_margins: bool) -> None:
    """Give a MuJoCo model the masses, inertias and contact margins it had before MuJoCo 2.1.1 and 3.5, in place.

    Args:
        density: of every geom, kg/m^3.
        total_mass: kg, to which masses and inertias are scaled at the end (the XML's `settotalmass`); None leaves them.
        halve_margins: the robot has contact margins (with MuJoCo >= 3.5 two halves sum to the old margin).
    """
    import mujoco

    for body in range(1, model.nbody):
        geoms = np.flatnonzero(model.geom_bodyid == body)
        parts = [_geom_inertia(model, geom, density) for geom in geoms]
        if len(parts) == 1:
            mass, moments = parts[0]
            centre, quat = model.geom_pos[geoms[0]], model.geom_quat[geoms[0]]
        elif parts:
            mass, moments, centre, quat = _combine(model, geoms, parts)
        else:
            continue
        model.body_mass[body], model.body_inertia[body] = mass, moments
        model.body_ipos[body], model.body_iquat[body] = centre, quat
    if total_mass is not None:
        scale = total_mass / model.body_mass.sum()
        model.body_mass *= scale
        model.body_inertia *= scale
    mujoco.mj_setConst(model, mujoco.MjData(model))  # contact impedance depends on these constants; it rewrites the scratch qpos
    if halve_margins and tuple(int(part) for part in mujoco.__version__.split(".")[:2]) >= (3, 5):
        model.geom_margin *= 0.5


def _geom_inertia(model, geom, density):
    """Mass (kg) and principal moments (x, y, z of the geom's frame, kg m^2) as MuJoCo <= 2.1.0 had them."""
    import mujoco

    radius, half_length = model.geom_size[geom, :2]
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
        mass = density * 4 / 3 * np.pi * radius**3
        return mass, np.full(3, 0.4 * mass * radius**2)
    if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_CAPSULE:
        raise ValueError(f"geom {geom}: only spheres and capsules have a known old inertia")
    half = half_length + radius / 2  # of the cylinder that stood for the capsule
    mass = density * np.pi * radius**2 * 2 * half
    transverse = mass * (3 * radius**2 + 4 * half**2) / 12
    return mass, np.array([transverse, transverse, mass * radius**2 / 2])


def _combine(model, geoms, parts):
    """One rigid body out of several geoms: mass, principal moments, centre of mass, orientation (parallel-axis theorem)."""
    import mujoco

    masses = np.array([mass for mass, _ in parts])
    centre = masses @ model.geom_pos[geoms] / masses.sum()
    inertia = np.zeros((3, 3))
    for geom, (mass, moments) in zip(geoms, parts):
        axes = np.empty(9)
        mujoco.mju_quat2Mat(axes, model.geom_quat[geom])
        axes = axes.reshape(3, 3)
        offset = model.geom_pos[geom] - centre
        inertia += axes @ np.diag(moments) @ axes.T + mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))
    moments, axes = np.linalg.eigh(inertia)
    axes[:, 2] *= np.sign(np.linalg.det(axes))  # a rotation, not a reflection
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, axes.ravel())
    return masses.sum(), moments, centre, quat
