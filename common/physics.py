"""D4RL's physics on current MuJoCo.

The D4RL v2 data were recorded with gym on MuJoCo <= 2.1.0. Since then capsules got exact masses (MuJoCo 2.1.1; before,
they weighed as cylinders that reach half-way into the caps), contact margins of two geoms are summed (3.5; before, the
larger counted), walker2d_v5.xml has another right foot, impedances that start at 0 (HalfCheetah's) now start at 1e-4,
and RK4 is of fourth order for a free joint's quaternion too (seen in 4.0; before, of second; Ant). `patch` undoes all
that. One control step from each state that mujoco-py recorded in 2018 then gives the next one: the largest difference
of an entry of (qpos, qvel) is 1.2e-14 on Hopper, 7.1e-14 on Walker2d, 1.3e-10 (median 5.1e-14) on HalfCheetah and
1.2e-13 on Ant.
"""

import contextlib
import difflib
import importlib
import os
import re
import warnings
from functools import cache
from multiprocessing import parent_process

import numpy as np

from common import InputError, held_back
from common.files import D4RL, minari_facts

ROBOTS = {  # name -> (Gymnasium id, keyword arguments that undo v5's changes)
    "hopper": ("Hopper-v5", {}), "halfcheetah": ("HalfCheetah-v5", {}),
    "walker2d": ("Walker2d-v5", {"xml_file": "walker2d.xml"}),
    "ant": ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0})}
VERSIONS = {"halfcheetah": 2, "ant": 2}  # of what `d4rl` simulates; other robots, and runs from before this, have 1
FITS = {  # (S, A) -> tasks that can be simulated here with observations and actions of these sizes
    (11, 3): "hopper-medium-v2", (17, 6): "halfcheetah-medium-v2 walker2d-medium-v2", (111, 8): "ant-medium-v2",
    (105, 8): "Ant-v5", (348, 17): "Humanoid-v5 HumanoidStandup-v5", (9, 1): "InvertedDoublePendulum-v5",
    (4, 1): "InvertedPendulum-v5", (2, 1): "MountainCarContinuous-v0", (3, 1): "Pendulum-v1", (23, 7): "Pusher-v5",
    (10, 2): "Reacher-v5", (8, 2): "Swimmer-v5"}
LIMIT = 1000  # steps of an episode where an environment sets none: an evaluation has to end
Bounds = tuple[tuple[float, ...], tuple[float, ...]]  # (low, high), A numbers each


def make_env(name: str, physics: str = "d4rl", bounds: Bounds | None = None, max_episode_steps: int | None = None, *,
             typed: bool = False, render: bool = False):
    """A Gymnasium environment for a D4RL name (hopper, halfcheetah, walker2d, ant), a Minari id or a Gymnasium id.

    `physics`: `d4rl` (`patch`, terminal-reward fix, float32 observations, clipped actions), or `stock`, Gymnasium's v5;
    a Minari id gets the environment stored with it, a Gymnasium id its own. `bounds`: actions are taken in [-1, 1], the
    environment gets low + (action + 1) / 2 * (high - low). `max_episode_steps`: in place of the environment's own
    limit; without either it is LIMIT. `typed`: did the user name it? Only then is the module of a `module:Id-v0`
    imported, for a run folder may be somebody else's, and a module is code. `render`: with frames to look at.
    InputError: no simulator installed, none here for this task, spaces that are no flat Boxes, or another physics
    (`d4rl-2` is one where that is today's `version`).
    """
    options = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
    env = _make(name, physics, options | ({"render_mode": "rgb_array"} if render else {}), typed)
    import gymnasium
    if not getattr(env.spec, "max_episode_steps", None):
        _say_limit(name)
        env = gymnasium.wrappers.TimeLimit(env, LIMIT)
    return scaled(env, bounds) if bounds else env


def action_bounds(source: dict) -> Bounds | None:
    """Of the actions before loading scaled them to [-1, 1], from a dataset's source; None: they were so."""
    low, high = source.get("action_low"), source.get("action_high")
    return (tuple(low), tuple(high)) if low and high else None


def gymnasium_id(task: str) -> bool:
    """Is a task named by its Gymnasium id, `Pendulum-v1` or `module:Id-v0`? Else it has a D4RL name, or a Minari id."""
    versioned = re.search(r"-v\d+$", task) and "/" not in task
    return ":" in task or bool(versioned) and task not in D4RL and task.split("-")[0] not in ROBOTS


def fitting(obs_size: int, action_size: int) -> str:
    """What --eval-env may name for data of these sizes, for people."""
    tasks = FITS.get((obs_size, action_size), "").split()
    if tasks:
        return f"its sizes fit --eval-env {' or '.join(tasks)}"
    return "for example --eval-env hopper-medium-v2, or a Gymnasium task, Pendulum-v1 or my_module:MyTask-v0"


def version(task: str | None, physics: str) -> str:
    """A run's physics as its config.json says it: `stored` with a Minari dataset, `stock`, or `d4rl-N`.

    N counts on when `d4rl` simulates a robot in another way than before. Scores of one robot compare where N is equal.
    A Gymnasium id is `stock`, whatever `physics` is.
    """
    if task and gymnasium_id(task):
        return "stock"
    if "/" in (task or ""):
        return "stored"
    return physics if physics != "d4rl" else f"d4rl-{VERSIONS.get((task or '').split('-')[0], 1)}"


def with_version(physics: str) -> str:
    """What a config.json says, as `version` would: runs from before there were versions say `d4rl`, meaning `d4rl-1`.
    """
    return "d4rl-1" if physics == "d4rl" else physics


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


def _make(name, physics, options, typed):
    without = "train without evaluation: --eval-env none"
    try:
        import gymnasium
        with _no_renderer():
            import mujoco
    except ImportError as error:
        raise InputError(f"{name}: {error}; pip install 'gymnasium[mujoco]', or {without}") from None
    if gymnasium_id(name):
        return _registered(name, options, typed)
    if "/" in name:
        if not re.fullmatch(r"[\w-]+(/[\w-]+)+", name):  # leads out of Minari's folder, to code
            raise InputError(f"{name}: is no Minari id, as D4RL/pen/human-v2 is; {without}")
        try:
            import minari
            _check_spec(minari_facts(name))
            return minari.load_dataset(name).recover_environment(eval_env=True, **options)
        except Exception as error:  # gymnasium, minari and the environment's package have their own kinds
            raise InputError(f"{name}: Minari cannot make its environment ({error}); {without}") from None
    if physics not in ("d4rl", "stock", version(name, "d4rl")):
        raise InputError(f"{name}: {str(physics)[:20]} is no physics that is simulated here; there are d4rl and stock")
    robot = name.split("-")[0]
    if robot not in ROBOTS:
        raise InputError(f"{name}: no simulator for it here yet (there are {', '.join(ROBOTS)}); {without}")
    (gym_id, kwargs), handler = ROBOTS[robot], mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)  # MuJoCo 4 deprecates a word in HalfCheetah's XML
    try:
        kwargs = {} if physics == "stock" else kwargs
        env = gymnasium.make(gym_id, disable_env_checker=True, **kwargs, **options)
        if physics == "stock":
            return env
        patch(env, robot)
    finally:
        mujoco.set_mju_user_warning(handler)
    return _d4rl_wrapper(env, robot)


def _registered(name, options, typed):
    """The environment of a Gymnasium id. InputError: none, or one that needs what is not here, in one line."""
    import gymnasium
    without = "choose another --eval-env, or train without evaluation: --eval-env none"
    module, _, plain = name.rpartition(":")
    try:
        if module and not typed:
            raise InputError(f"{name}: its module is code, and is imported only where you name it: add --env {name}")
        if module:
            importlib.import_module(module)
        if plain not in gymnasium.registry:
            near = " or ".join(difflib.get_close_matches(plain, gymnasium.registry, 2))
            raise InputError(f"{name}: is no task of D4RL, and no registered Gymnasium environment"
                             f"{f'; did you mean {near}?' if near else ''}; {without}")
        with warnings.catch_warnings(action="ignore"):  # that an id has a successor
            env = gymnasium.make(plain, disable_env_checker=True, **options)
    except InputError:
        raise
    except Exception as error:  # an environment's own code
        where = f"; is the folder of {module} in PYTHONPATH?" * bool(module and isinstance(error, ModuleNotFoundError))
        raise InputError(f"{name}: cannot be made ({type(error).__name__}: {error}){where}; {without}") from None
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise InputError(f"{name}: its {what} are {str(space)[:80]}; only flat Box spaces can be used; {without}")
    return env


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


def patch(env, robot: str) -> None:
    """Give a Gymnasium MuJoCo environment the masses, inertias, contact margins and substeps of old, in place."""
    import mujoco
    model, data = env.unwrapped.model, env.unwrapped.data
    _patch_model(model, env.unwrapped.fullpath)
    if robot in ("hopper", "ant") and tuple(map(int, mujoco.__version__.split(".")[:2])) >= (3, 5):
        model.geom_margin *= 0.5  # two halves sum to the old margin
    if robot not in SUBSTEPS:
        return
    substep = SUBSTEPS[robot](model, data)

    def simulate(ctrl, n_frames):
        data.ctrl[:] = ctrl
        for _ in range(n_frames):
            substep()
        mujoco.mj_rnePostConstraint(model, data)  # contact forces, as the method does that this replaces

    env.unwrapped._step_mujoco_simulation = simulate


def _euler_from_zero(model, data):
    """A substep of a robot whose constraints (contacts, joint limits) ask for impedances from 0 on: HalfCheetah.

    With depth, a constraint's impedance d rises from 0 to `high`, along a curve y that goes from 0 to 1. In MuJoCo
    <= 2.1, d = max(1e-4, y * high). Today 0 is raised to 1e-4 first: d_now = 1e-4 + y * (high - 1e-4), from which y
    follows. What depends on d are the regularisation R, proportional to (1 - d) / d, its inverse D, and the reference
    acceleration aref = -B * velocity - K * d * (pos - margin).
    """
    import mujoco
    least, high = 1e-4, float(model.geom_solimp[0, 1])  # of all constraints, a test says
    stretch = high / (high - least)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND  # a solver by islands has its own copies of the rows

    def substep():
        mujoco.mj_step1(model, data)
        if data.nefc:
            K, _, d_now, _ = data.efc_KBIP.T  # a row per constraint
            R, D, aref = data.efc_R, data.efc_D, data.efc_aref  # views: the solver has what is written here
            d = np.maximum((d_now - least) * stretch, least)  # y * high, but for `least`
            R *= (1.0 - d) / d * d_now / (1.0 - d_now)
            np.reciprocal(R, out=D)
            aref -= K * (d - d_now) * (data.efc_pos - data.efc_margin)
        mujoco.mj_step2(model, data)

    return substep


def _runge_kutta(model, data):
    """A substep of the classical Runge-Kutta method, as MuJoCo < 4.0 takes it: Ant.

    A position is advanced along a velocity by `mj_integratePos`, which turns quaternions: from the substep's start, for
    the stages along the velocity of the stage before, at the end along the mean velocity. So it is of fourth order, but
    for a free joint's quaternion, where it is of second. Contact forces are solved without a warm start, which changes
    nothing but the last digit.
    """
    import mujoco
    h, qpos, qvel, qacc = model.opt.timestep, data.qpos, data.qvel, data.qacc
    stages = ((h / 2, 2), (h / 2, 2), (h, 1))  # (time from the start, weight in the sums); the first stage is the start

    def substep():
        mujoco.mj_checkPos(model, data)  # as mj_step: a simulation that has burst is reset
        mujoco.mj_checkVel(model, data)
        mujoco.mj_forward(model, data)
        mujoco.mj_checkAcc(model, data)
        start, first = qpos.copy(), qvel.copy()
        velocity, velocities, accelerations = first, first.copy(), qacc.copy()
        for time, weight in stages:
            qpos[:] = start
            mujoco.mj_integratePos(model, qpos, velocity, time)
            velocity = first + time * qacc
            qvel[:] = velocity
            mujoco.mj_forward(model, data)
            velocities += weight * velocity
            accelerations += weight * qacc
        qpos[:] = start
        mujoco.mj_integratePos(model, qpos, velocities / 6, h)
        qvel[:] = first + h / 6 * accelerations
        data.time += h

    return substep


SUBSTEPS = {"halfcheetah": _euler_from_zero, "ant": _runge_kutta}  # where today's would be others


def _patch_model(model, path: str) -> None:
    """Masses and inertias. MuJoCo itself computes them, from the robot's XML at `path`, with a cylinder of half-length
    h + r / 2 instead of every capsule."""
    import mujoco
    spec = mujoco.MjSpec.from_file(path)
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
