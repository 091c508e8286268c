"""Own data judged on any Gymnasium task: registered ones, and those of a module that the user names; raw returns or a scale."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from algorithms import td3_bc
from benchmark import attacks
from benchmark.engine.runs import read_run
from common import InputError, evaluation, load, physics
from common.args import cli, parse
from common.evaluation import evaluation_task, normalized_score
from common.physics import FITS, fitting, gymnasium_id, make_env, version
from common.terminations import termination
from tests.helpers import ROOT, make_data, run_script
from tests.test_attacks import one_line, rows_of

MODULE = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box

with open({marker!r}, "a") as file:
    file.write("imported\\n")

class Mine(gymnasium.Env):
    observation_space, action_space = Box(-np.inf, np.inf, (3,), np.float32), Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=3).astype(np.float32)
        return self.x, {{}}

    def step(self, action):
        self.x = self.x + action
        return self.x, float(-abs(self.x).sum()), False, False, {{}}

gymnasium.register("{id}", lambda: Mine(), max_episode_steps=6)
"""


@pytest.fixture
def data(tmp_path):
    """A file with Pendulum's shapes, actions from -2 to 2."""
    rng, n = np.random.default_rng(0), 300
    np.savez(tmp_path / "own.npz", observations=rng.normal(size=(n, 3)), actions=rng.uniform(-2, 2, (n, 1)), rewards=rng.normal(size=n),
             terminals=np.zeros(n), next_observations=rng.normal(size=(n, 3)))
    return tmp_path / "own.npz"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """(module:Id-v0 that can be imported, the file that its import leaves)."""
    marker, name, task = tmp_path / "IMPORTED", f"robot_{os.getpid()}_{abs(hash(tmp_path)):x}", f"Mine{abs(hash(tmp_path)):x}-v0"
    (tmp_path / "modules").mkdir()
    (tmp_path / f"modules/{name}.py").write_text(MODULE.format(marker=str(marker), id=task))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield f"{name}:{task}", marker
    sys.modules.pop(name, None)
    gymnasium.registry.pop(task, None)


def words(data, task, *more):
    return list(map(str, ["--env", data, "--eval-env", task, "--action-low", -2, "--action-high", 2, "--updates", 4, "--eval-every", 2, "--batch-size", 8,
                          "--eval-episodes", 2, "--eval-workers", 0, "--device", "cpu", "--runs", data.parent / "runs", *more]))


def train(*given):
    td3_bc.main(parse(td3_bc.Args, td3_bc.PAPER, words(*given)))
    return max((given[0].parent / "runs").iterdir(), key=lambda path: path.name)


def played(policy, env, seeds):
    """Returns of whole episodes by a policy that sees both observations at once."""
    envs, returns = [gymnasium.make(env) for _ in seeds], np.zeros(len(seeds))
    obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds)])
    for _ in range(gymnasium.spec(env).max_episode_steps):
        for i, action in enumerate(policy.act(obs)):
            obs[i], reward, *_ = envs[i].step(action)
            returns[i] += reward
    return returns


def test_pendulum_with_and_without_a_scale(data, capsys):
    plain, scaled = train(data, "Pendulum-v1"), train(data, "Pendulum-v1", "--score-min", -1600, "--score-max", -100)
    before, after = (rows_of(run / "eval.csv")[-1] for run in (plain, scaled))
    assert before["return_mean"] == after["return_mean"] and before["score"] == ""
    mean = float(after["return_mean"])
    assert float(after["score"]) == 100 * (mean + 1600) / 1500 and mean < 0
    units = [json.loads((run / "result.json").read_text())["unit"] for run in (plain, scaled)]
    assert units == ["return (no reference scores)", "normalised score"]
    for run in (plain, scaled):
        config = json.loads((run / "config.json").read_text())
        assert config["task"] == "Pendulum-v1" and config["physics"] == "stock" and not read_run(run).outdated
    assert played(load(plain), "Pendulum-v1", (100, 101)).mean() == pytest.approx(mean, rel=1e-4)
    assert "own.npz as Pendulum-v1 (no entry)" in capsys.readouterr().out
    evaluation.main(cli(evaluation.Args, [str(plain), str(scaled), "--episodes", "2"]))
    out = capsys.readouterr().out.splitlines()
    assert f"{mean:.1f} [" in out[1] and "  -  " in out[1] and f"{float(after['score']):.1f} [" in out[2] and "  stock  " in out[1]
    attacks.main(cli(attacks.Args, [str(scaled), "--eps", "0", "--episodes", "2", "--out", str(data.parent / "out")]))
    assert float(rows_of(next((data.parent / "out").glob("*.csv")))[0]["score"]) == float(after["score"])


def test_a_module_that_the_user_names_is_imported_and_no_other(data, mine, tmp_path):
    """Not by who resumes, evaluates, attacks, loads or lists a run folder: it may be somebody else's."""
    (task, marker), plain = mine, mine[0].partition(":")[2]
    run = train(data, task)
    assert marker.exists() and json.loads((run / "config.json").read_text())["task"] == task
    marker.unlink()
    del sys.modules[task.partition(":")[0]], gymnasium.registry[plain]
    (run / "result.json").unlink()
    load(run).act(np.zeros(3))
    read_run(run)
    for attempt, match in (
            (lambda: parse(td3_bc.Args, {}, ["--resume", str(run)]), f"plays {task}, whose module is code, .*; add --eval-env {task}"),
            (lambda: parse(td3_bc.Args, {}, ["--resume", str(run), "--eval-env", "Pendulum-v1"]), f"add --eval-env {task}"),
            (lambda: evaluation.main(cli(evaluation.Args, [str(run)])), f"{task}: its module is code, .*add --env {task}"),
            (lambda: attacks.main(cli(attacks.Args, [str(run), "--out", str(tmp_path / "out")])), f"add --env {task}"),
            (lambda: make_env(task), f"add --env {task}")):
        with pytest.raises(InputError, match=match):
            attempt()
    assert not marker.exists() and not (tmp_path / "out").exists()
    before = (run / "eval.csv").read_bytes()
    td3_bc.main(parse(td3_bc.Args, {}, ["--resume", str(run), "--eval-env", task]))
    assert marker.read_text() == "imported\n" and (run / "result.json").exists() and (run / "eval.csv").read_bytes() == before
    evaluation.main(cli(evaluation.Args, [str(run), "--env", task, "--episodes", "2"]))
    attacks.main(cli(attacks.Args, [str(run), "--env", task, "--eps", "0", "--episodes", "2", "--out", str(tmp_path / "out")]))


def test_a_module_s_task_in_a_worker_and_the_command_that_resumes_it(data, mine, tmp_path):
    task, _ = mine
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])}
    code, out, err = run_script(ROOT / "algorithms/td3_bc.py", *words(data, task, "--eval-workers", 1), env=env, real=True)
    assert code == 0 and "4 updates" in out and out.count("limits no episode") == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    (run / "result.json").unlink()
    args = parse(td3_bc.Args, {}, ["--resume", str(run), "--eval-env", task])
    from common.data import load_dataset
    from common.run import Run
    resumed = Run(args, [td3_bc.TD3BC(args, load_dataset(args.env, action_low=args.action_low, action_high=args.action_high), 0)])
    assert resumed.command().endswith(f"td3_bc.py --resume {run} --eval-env {task}")
    resumed.close()


@pytest.mark.parametrize("task, match", [
    ("Pendulm-v1", "Pendulm-v1: is no task of D4RL, and no registered Gymnasium environment; did you mean Pendulum-v1"),
    ("Pendulum", "a Gymnasium id with its version"), ("", "no D4RL task of this name"),
    ("CartPole-v1", r"its actions are Discrete\(2\); only flat Box spaces"), ("FrozenLake-v1", "its observations are Discrete"),
    ("Blackjack-v1", r"its observations are Tuple\("), ("Hopper-v2", "Hopper-v2: cannot be made .*; choose another --eval-env"),
    ("nowhere_at_all:Id-v0", "nowhere_at_all:Id-v0: cannot be made .*No module named.*; is the folder of nowhere_at_all in PYTHONPATH"),
    ("..x:Id-v0", "cannot be made"), ("json:Id-v0", "json:Id-v0: .*no registered Gymnasium environment"), ("hopper", "hopper: no D4RL task of this name")])
def test_tasks_that_cannot_be_played(task, match, data):
    with pytest.raises(InputError, match=match) as found:
        parse(td3_bc.Args, {}, words(data, task))
    assert "\n" not in str(found.value) and not (data.parent / "runs").exists()


def test_dict_observations_and_a_module_that_fails(data, tmp_path, monkeypatch):
    (tmp_path / "broken_robot.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)

    class Named(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-1, 1, (3,))}), gymnasium.spaces.Box(-1, 1, (1,))
    gymnasium.register("NamedObservations-v0", lambda: Named())
    for task, match in (("NamedObservations-v0", "its observations are Dict"), ("broken_robot:Id-v0", "ZeroDivisionError")):
        with pytest.raises(InputError, match=match):
            parse(td3_bc.Args, {}, words(data, task))


@pytest.mark.parametrize("given, match", [
    (["--score-min", 0], "--score-min 0.0 --score-max None: give both"), (["--score-max", 1], "give both"),
    (["--score-min", 2, "--score-max", 2], "the least one first"), (["--score-min", "nan", "--score-max", 2], "--score-min nan"),
    (["--score-min", 0, "--score-max", 1, "--eval-env", "hopper-medium-v2"], "hopper-medium-v2: has D4RL's reference scores; leave --score-min")])
def test_scales_that_are_none(given, match, data):
    with pytest.raises(InputError, match=match):
        parse(td3_bc.Args, {}, words(data, "Pendulum-v1", *given))


def test_normalized_score():
    assert normalized_score("Pendulum-v1", 5.0) is None and normalized_score("Pendulum-v1", 5.0, (0.0, 20.0)) == 25.0
    assert normalized_score("hopper-medium-v2", 5.0, (0.0, 20.0)) == normalized_score("hopper-medium-v2", 5.0)  # D4RL's own is never replaced


def test_kinds_of_tasks():
    for task in ("Pendulum-v1", "my.module:Id-v0", "module:space/Id-v0", "highway-v0"):
        assert gymnasium_id(task) and version(task, "d4rl") == "stock"
    for task in ("hopper-medium-v2", "pen-human-v1", "D4RL/pen/human-v2", "hopper"):
        assert not gymnasium_id(task)


def test_the_hint_names_what_fits_the_data(capsys):
    for (obs_size, action_size), tasks in FITS.items():
        for task in tasks.split():
            env = make_env(task)
            assert (env.observation_space.shape, env.action_space.shape) == ((obs_size,), (action_size,)), task
    assert evaluation_task(make_data(obs_size=17, action_size=6), "auto") is None
    assert capsys.readouterr().out == ("no evaluation: name a task with --eval-env; its sizes fit --eval-env halfcheetah-medium-v2 or "
                                       "walker2d-medium-v2\n")
    assert "Pendulum-v1" in fitting(3, 1) and "hopper-medium-v2, or a Gymnasium task, Pendulum-v1 or" in fitting(5, 5)
    assert {robot for robot in physics.ROBOTS} == {task.split("-")[0] for tasks in FITS.values() for task in tasks.split() if task[0].islower()}


def test_other_sizes_and_bounds_than_the_data_are_one_line(data):
    for given, match in ((words(data, "Hopper-v5"), r"Hopper-v5 .* has observations \(11,\) and actions \(3,\), the data \(3,\) and \(1,\)"),
                         ([*words(data, "Pendulum-v1"), "--action-low", "-4"], "Pendulum-v1 takes actions from -2 to 2, .*--action-low -2 --action-high 2")):
        with pytest.raises(InputError, match=match):
            td3_bc.main(parse(td3_bc.Args, {}, given))
    assert not (data.parent / "runs").exists()


def test_model_based_algorithms_ask_for_a_rule(data):
    with pytest.raises(InputError, match="--termination auto: there is no rule for Pendulum-v1; choose from hopper"):
        termination("auto", str(data), "Pendulum-v1", 3)
    with pytest.raises(InputError, match="there is no rule for own data; name its task by --eval-env"):
        termination("auto", str(data), "auto", 3)
    assert termination("never", str(data), "Pendulum-v1", 3)


def test_nothing_is_imported_before_it_is_needed(tmp_path):
    code = ("import sys; from algorithms import td3_bc; from common.args import parse; parse(td3_bc.Args, {}, ['--runs', sys.argv[1]]); "
            "print([name for name in ('gymnasium', 'mujoco', 'common.film') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "runs")], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_bad_task_is_one_line_of_a_script(data):
    code, _, err = run_script(ROOT / "algorithms/td3_bc.py", *words(data, "CartPole-v1"))
    assert code == 2 and "only flat Box spaces can be used" in one_line(err) and not (data.parent / "runs").exists()
