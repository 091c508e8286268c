"""D4RL's physics on current MuJoCo.

The D4RL v2 data were recorded with gym on MuJoCo <= 2.1.0. Since then capsules got exact masses (MuJoCo 2.1.1; before,
they weighed as cylinders that reach half-way into the caps), contact margins of two geoms are summed (3.5; before, the
larger counted), and walker2d_v5.xml has another right foot. Patched, replayed mujoco-py Hopper steps agree to 2e-7.
"""

import contextlib
import importlib
import os
import re
import warnings
from functools import cache
from multiprocessing import parent_process

import numpy as np

from common import InputError, held_back
from common.files import minari_facts

ROBOTS = {  # name -> (Gymnasium id, keyword arguments that undo v5's changes)
    "hopper": ("Hopper-v5", {}), "halfcheetah": ("HalfCheetah-v5", {}),
    "walker2d": ("Walker2d-v5", {"xml_file": "walker2d.xml"}),
    "ant": ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0})}
LIMIT = 1000  # steps of an episode where an environment sets none: an evaluation has to end
Bounds = tuple[tuple[float, ...], tuple[float, ...]]  # (low, high), A numbers each


def make_env(name: str, physics: str = "d4rl", bounds: Bounds | None = None, max_episode_steps: int | None = None):
    """A Gymnasium environment for a D4RL name (hopper, halfcheetah, walker2d, ant) or a Minari id.

    `physics`: `d4rl` (model patch, terminal-reward fix, float32 observations, clipped actions), or `stock`, Gymnasium's
    v5; a Minari id gets the environment stored with it. `bounds`: actions are taken in [-1, 1], the environment gets
    low + (action + 1) / 2 * (high - low). `max_episode_steps`: in place of the environment's own limit; without either
    it is LIMIT. InputError: no simulator installed, or none here for this task.
    """
    env = _make(name, physics, {"max_episode_steps": max_episode_steps} if max_episode_steps else {})
    import gymnasium
    if not getattr(env.spec, "max_episode_steps", None):
        _say_limit(name)
        env = gymnasium.wrappers.TimeLimit(env, LIMIT)
    return scaled(env, bounds) if bounds else env


def scaled(env, bounds: Bounds):
    """The environment with actions in [-1, 1], of which it is given low + (action + 1) / 2 * (high - low)."""
    import gymnasium
    (low, high), dtype = (np.array(bound, np.float64) for bound in bounds), env.action_space.dtype
    rounded = np.rint if np.issubdtype(dtype, np.integer) else np.asarray
    return gymnasium.wrappers.TransformAction(  # np.clip also where rounding has left the bounds
        env, lambda action: rounded(np.clip(low + (action + 1) / 2 * (high - low), low, high)).astype(dtype),
        gymnasium.spaces.Box(-1.0, 1.0, low.shape, np.float32))


@cache
def _say_limit(name):
    if not parent_process():  # a worker has nothing to add
        print(f"{name}: its environment limits no episode; here they end after {LIMIT:,} steps (--max-episode-steps)")


def _make(name, physics, options):
    without = "train without evaluation: --eval-env none"
    try:
        import gymnasium
        with _no_renderer():
            import mujoco
    except ImportError as error:
        raise InputError(f"{name}: {error}; pip install 'gymnasium[mujoco]', or {without}") from None
    if "/" in name:
        if not re.fullmatch(r"[\w-]+(/[\w-]+)+", name):  # leads out of Minari's folder, to code
            raise InputError(f"{name}: is no Minari id, as D4RL/pen/human-v2 is; {without}")
        try:
            import minari
            _check_spec(minari_facts(name))
            return minari.load_dataset(name).recover_environment(eval_env=True, **options)
        except Exception as error:  # gymnasium, minari and the environment's package have their own kinds
            raise InputError(f"{name}: Minari cannot make its environment ({error}); {without}") from None
    robot = name.split("-")[0]
    if robot not in ROBOTS:
        raise InputError(f"{name}: no simulator for it here yet (there are {', '.join(ROBOTS)}); {without}")
    (gym_id, kwargs), handler = ROBOTS[robot], mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)  # MuJoCo 4 deprecates a word in HalfCheetah's XML
    try:
        kwargs = kwargs if physics == "d4rl" else {}
        env = gymnasium.make(gym_id, disable_env_checker=True, **kwargs, **options)
        if physics == "stock":
            return env
        patch_model(env, robot)
    finally:
        mujoco.set_mju_user_warning(handler)
    return _d4rl_wrapper(env, robot)


def _check_spec(facts):
    """ValueError: a Minari dataset's facts name something to call that is no Gymnasium environment or wrapper."""
    import gymnasium
    if not (text := facts.get("eval_env_spec") or facts.get("env_spec")):
        raise ValueError("it is stored without one")
    spec = gymnasium.envs.registration.EnvSpec.from_json(text)
    wrappers = spec.additional_wrappers or ()
    for name, kind in [(spec.entry_point, gymnasium.Env), *((w.entry_point, gymnasium.Wrapper) for w in wrappers)]:
        module, _, attribute = str(name).partition(":")
        found = getattr(importlib.import_module(module), attribute, None)
        if not (isinstance(found, type) and issubclass(found, kind)):
            raise ValueError(f"it names {name}, which is no gymnasium.{kind.__name__}")


@contextlib.contextmanager
def _no_renderer():
    """Around MuJoCo's import, which loads the renderer that MUJOCO_GL names and fails without it; here nothing renders.

    Gymnasium's own rendering reads the variable later, and finds it as it was. Ctrl-C, which the import would turn into
    an ImportError, comes afterwards.
    """
    renderer = os.environ.pop("MUJOCO_GL", None)
    try:
        with held_back():
            yield
    finally:
        if renderer is not None:
            os.environ["MUJOCO_GL"] = renderer


def _d4rl_wrapper(env, robot):
    import gymnasium
    zeros = np.zeros(84 if robot == "ant" else 0)  # 14 bodies x 6 contact forces, all zero under D4RL's MuJoCo 2.0
    size = env.observation_space.shape[0] + len(zeros)

    class D4RLPhysics(gymnasium.Wrapper):
        """float32 observations, actions clipped to [-1, 1], the healthy reward also on a fall's step (v5 drops it)."""
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

        def reset(self, **kwargs):
            obs, info = self.env.reset(**kwargs)
            return np.concatenate([obs, zeros], dtype=np.float32), info

        def step(self, action):
            obs, reward, terminated, truncated, info = self.env.step(np.clip(action, -1.0, 1.0))
            obs = np.concatenate([obs, zeros], dtype=np.float32)
            return obs, reward + 1.0 * (terminated and robot != "halfcheetah"), terminated, truncated, info

    return D4RLPhysics(env)


def patch_model(env, robot: str) -> None:
    """Give the MuJoCo model of a Gymnasium environment the masses, inertias and contact margins of old, in place.

    MuJoCo itself computes them, from the robot's XML with a cylinder of half-length h + r / 2 instead of every capsule.
    """
    import mujoco
    model, spec = env.unwrapped.model, mujoco.MjSpec.from_file(env.unwrapped.fullpath)
    for i, geom in enumerate(spec.geoms):
        if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_CAPSULE:
            radius, half, _ = model.geom_size[i]
            geom.type, geom.size = mujoco.mjtGeom.mjGEOM_CYLINDER, (radius, half + radius / 2, 0)
            geom.fromto, geom.pos, geom.quat = [np.nan] * 6, model.geom_pos[i], model.geom_quat[i]
    with warnings.catch_warnings(action="ignore"):  # that word again
        old = spec.compile()
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        getattr(model, name)[:] = getattr(old, name)
    mujoco.mj_setConst(model, mujoco.MjData(model))  # derived constants, which contacts use; it rewrites its data
    if robot in ("hopper", "ant") and tuple(map(int, mujoco.__version__.split(".")[:2])) >= (3, 5):
        model.geom_margin *= 0.5  # two halves sum to the old margin
