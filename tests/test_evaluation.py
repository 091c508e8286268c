"""Environments as data need them, and evaluations that end: by themselves, by a limit, or when the run is stopped."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

from algorithms import td3_bc
from common import InputError, RunError, end_workers, physics, worker_pool
from common.data import load_dataset
from common.evaluation import Evaluator, action_bounds, evaluation_task, normalized_score
from common.physics import make_env
from common.run import Run
from tests.helpers import ROOT, make_data, run_script, wait_until, write_npz
from tests.test_resume import same_results

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari.utils", "ignore::UserWarning:gymnasium")
LOW, HIGH = [-0.4, 0.0, -2.0], [0.4, 1.0, 6.0]


class Line(gymnasium.Env):
    """It never ends, notes the actions that it is given, and rewards each with 1."""
    observation_space, action_space = Box(-np.inf, np.inf, (11,), np.float32), Box(-1.0, 1.0, (3,), np.float32)
    given, signals = [], {}  # {number of a step: signals that come in the middle of it}

    def __init__(self, low=None, high=None):
        if low:
            self.action_space = Box(np.float32(low), np.float32(high))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(11, np.float32), {}

    def step(self, action):
        assert action in self.action_space and action.dtype == np.float32
        self.given.append(action.tolist())
        for number in self.signals.get(len(self.given), ()):
            signal.raise_signal(number)
        return np.zeros(11, np.float32), 1.0, False, False, {}


@pytest.fixture
def minari_line(monkeypatch):
    """A Minari dataset of a Line, or of no environment, by its id."""
    Line.given.clear()
    monkeypatch.setattr(Line, "signals", {})
    physics._say_limit.cache_clear()

    def make(name, steps=None, env=True, **kwargs):
        spec = f"{name.partition('/')[2].title().replace('-V', 'Line-v')}"
        if env:
            gymnasium.register(spec, f"{__name__}:Line", max_episode_steps=steps, kwargs=kwargs)
        episode = EpisodeBuffer(id=0, observations=np.zeros((5, 11), np.float32), actions=np.eye(4, 3, dtype=np.float32), rewards=np.zeros(4),
                                terminations=np.zeros(4, bool), truncations=np.arange(4) == 3)
        spaces = {} if env else {"observation_space": Line.observation_space, "action_space": Line.action_space}
        minari.create_dataset_from_buffers(name, [episode], env=gymnasium.make(spec).spec if env else None, **spaces)
        return name
    return make


class Constant(torch.nn.Module):
    """An actor that always does the same."""

    def __init__(self, *action):
        super().__init__()
        self.action = torch.nn.Parameter(torch.tensor(action), requires_grad=False)

    def act(self, obs):
        return self.action.expand(len(obs), -1)


def args_of(tmp_path, **flags):
    args = td3_bc.Args(env="tiny", device="cpu", updates=4, eval_every=2, eval_episodes=2, eval_workers=0, log_every=1, runs=tmp_path / "runs",
                       batch_size=8)
    vars(args).update(flags)
    return args


def scaled(data, low=LOW, high=HIGH):
    return replace(data, source=data.source | {"action_low": low, "action_high": high})


# What a dataset names


@pytest.mark.parametrize("entry_point, wrapper", [
    ("os:system", None), ("builtins:exec", None), ("subprocess:Popen", None), ("nowhere_at_all:Env", None), (f"{__name__}:make_env", None), ("os", None),
    (None, "os:system"), (None, f"{__name__}:Line")])
def test_only_installed_environments_and_wrappers_are_made(entry_point, wrapper, minari_line, tmp_path, monkeypatch):
    """Gymnasium would call whatever the metadata of a dataset name, with the arguments that stand there."""
    name = minari_line(f"solo/evil{abs(hash((entry_point, wrapper)))}-v0", steps=5)
    assert make_env(name).action_space == Line.action_space
    path = Path(os.environ["MINARI_DATASETS_PATH"], name, "data/metadata.json")
    facts = json.loads(path.read_text())
    spec, command = json.loads(facts["env_spec"]), {"command": f"touch {tmp_path}/PWNED"}
    spec |= {"entry_point": entry_point, "kwargs": command} if entry_point else {"additional_wrappers": [{"name": "x", "entry_point": wrapper, "kwargs": command}]}
    path.write_text(json.dumps(facts | {"env_spec": json.dumps(spec)}))
    monkeypatch.setattr(os, "system", lambda command: Path(tmp_path, "PWNED").touch())
    with pytest.raises(InputError, match="Minari cannot make its environment"):
        make_env(name)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("spaces", [{}, {"action_space": None}, {"action_space": 3}])
def test_an_environment_is_not_made_to_learn_its_spaces(spaces, minari_line, tmp_path):
    """Minari makes what a dataset without spaces names, as soon as the dataset is looked at."""
    name = minari_line(f"solo/spaceless{len(str(spaces))}-v0", steps=5)
    path = Path(os.environ["MINARI_DATASETS_PATH"], name, "data/metadata.json")
    facts = json.loads(path.read_text())
    spec = json.loads(facts["env_spec"]) | {"entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "made")}}
    facts = {key: value for key, value in facts.items() if key != "action_space"} | spaces
    path.write_text(json.dumps(facts | {"env_spec": json.dumps(spec)}))
    for look in (lambda: make_env(name), lambda: normalized_score(name, 1.0), lambda: load_dataset(name)):
        with pytest.raises(InputError, match="its metadata lacks the spaces"):
            look()
    assert not (tmp_path / "made").exists()


# Actions in the data's own bounds


def test_actions_go_back_to_the_data_s_own_bounds(minari_line, tmp_path):
    name = minari_line("solo/bounds-v0", steps=4, low=LOW, high=HIGH)
    evaluator = Evaluator(name, scaled(make_data()), args_of(tmp_path))
    for step, action in enumerate([(-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (0.0, 0.5, -0.5)]):
        evaluator.submit(step, 0, Constant(*action))
    assert [(step, list(lengths)) for step, _, _, lengths in evaluator.finished()] == [(0, [4, 4]), (1, [4, 4]), (2, [4, 4])]
    np.testing.assert_allclose(Line.given[::8], [LOW, HIGH, [0.0, 0.75, 0.0]], atol=1e-7)
    assert make_env(name, bounds=(LOW, HIGH)).action_space == Box(-1.0, 1.0, (3,), np.float32)
    assert make_env(name).action_space == Box(np.float32(LOW), np.float32(HIGH))  # without bounds: as it is


def test_integer_actions_are_rounded():
    """Not cut off, which would favour small ones."""
    class Whole(gymnasium.Env):
        observation_space, action_space = Box(-1.0, 1.0, (1,), np.float32), Box(0, 10, (3,), np.int64)

        def step(self, action):
            return np.zeros(1, np.float32), 0.0, False, False, {"action": action.tolist()}

        def reset(self, seed=None, options=None):
            return np.zeros(1, np.float32), {}
    gymnasium.register("WholeLine-v0", lambda: Whole(), max_episode_steps=5)
    bounded = physics.scaled(gymnasium.make("WholeLine-v0", disable_env_checker=True), ((0.0,) * 3, (10.0,) * 3))
    bounded.reset()
    assert bounded.step(np.array([0.98, -0.98, 0.1], np.float32))[4]["action"] == [10, 0, 6] and bounded.action_space == Box(-1.0, 1.0, (3,), np.float32)


def test_bounds_are_those_of_the_source():
    assert action_bounds({"kind": "file"}) is None
    assert action_bounds({"action_low": [-2.0, 0.0], "action_high": [2.0, 1.0]}) == ((-2.0, 0.0), (2.0, 1.0))


@pytest.mark.parametrize("low, high, data", [
    ([-0.4] * 3, [0.4] * 3, make_data()), ([-1.0] * 3, [1.0] * 3, scaled(make_data())), (LOW, HIGH, scaled(make_data(), high=[0.4, 1.0, 5.0]))])
def test_an_environment_with_other_bounds_than_the_data_is_refused(low, high, data, minari_line, tmp_path):
    name = minari_line("solo/other-v0", low=low, high=high)
    text = "solo/other-v0 takes actions from {0} to {1}, .*--action-low {0} --action-high {1}, or evaluate on another --eval-env".format(
        *(" ".join(f"{x:g}" for x in bound) for bound in (low, high)))
    with pytest.raises(InputError, match=text):
        Evaluator(name, data, args_of(tmp_path))


def test_an_environment_without_bounds_takes_any(minari_line, tmp_path):
    name = minari_line("solo/free-v0", steps=2, low=[-np.inf] * 3, high=[np.inf] * 3)
    Evaluator(name, make_data(), args_of(tmp_path))
    Evaluator(name, scaled(make_data()), args_of(tmp_path))


@pytest.mark.parametrize("robot", physics.ROBOTS)
def test_robots_take_actions_from_minus_1_to_1(robot, tmp_path):
    for kind in ("d4rl", "stock"):
        env = make_env(f"{robot}-medium-v2", kind)
        data = make_data(obs_size=env.observation_space.shape[0], action_size=env.action_space.shape[0])
        Evaluator(f"{robot}-medium-v2", data, args_of(tmp_path, physics=kind))
        assert env.spec.max_episode_steps == 1000


def test_attacks_act_in_the_data_s_bounds(minari_line):
    from benchmark.attacks import attacked_returns
    name = minari_line("solo/attacked-v0", steps=3, low=LOW, high=HIGH)

    class Agent:
        actor = Constant(1.0, 0.0, -1.0)
    world = name, "stored", (tuple(LOW), tuple(HIGH)), 2
    returns, _ = attacked_returns(Agent, None, world, torch.ones(11), [0.0], ("clean", "", ""), 1, 0, 0, "cpu", "")
    np.testing.assert_allclose(Line.given, [[0.4, 0.5, -2.0]] * 2, atol=1e-7)
    assert returns == [[2.0]]


# Episodes that end


def test_an_environment_without_a_limit_gets_1000_steps_and_a_line_once(minari_line, tmp_path, capsys):
    name = minari_line("solo/endless-v0")
    evaluator = Evaluator(name, make_data(), args_of(tmp_path))
    evaluator.submit(2, 0, Constant(0.0, 0.0, 0.0))
    ((_, _, returns, lengths),) = evaluator.finished()
    assert list(lengths) == [1000, 1000] and list(returns) == [1000, 1000]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "solo/endless-v0: its environment limits no episode; here they end after 1,000 steps (--max-episode-steps)" in said


@pytest.mark.parametrize("steps", [None, 5, 2000])
def test_max_episode_steps_is_for_every_environment(steps, minari_line, tmp_path, capsys):
    name = minari_line(f"solo/limit{steps}-v0", steps=steps)
    assert make_env(name, max_episode_steps=7).spec.max_episode_steps == 7 and capsys.readouterr().out == ""
    assert make_env(name).spec.max_episode_steps == (steps or 1000)
    evaluator = Evaluator(name, make_data(), args_of(tmp_path, max_episode_steps=7))
    evaluator.submit(2, 0, Constant(0.0, 0.0, 0.0))
    ((_, _, _, lengths),) = evaluator.finished()
    assert list(lengths) == [7, 7]
    assert make_env("hopper-medium-v2", max_episode_steps=7).spec.max_episode_steps == 7


# Evaluations that are stopped


def make_run(tmp_path, name, folder, **flags):
    data = tmp_path / "line.npz"
    if not data.exists():
        write_npz(data)
    args = args_of(tmp_path, **dict(env=str(data), eval_env=name, seeds=(0, 1), eval_every=1, updates=2, runs=tmp_path / folder) | flags)
    return Run(args, [td3_bc.TD3BC(args, load_dataset(args.env), seed) for seed in args.seeds])


def train(run):
    for step in run.steps(run.args.updates):
        run.log(step, [agent.update() for agent in run.agents])
        run.evaluate(step)
    run.report()
    return run.folder


@pytest.mark.parametrize("number, signals, waiting", [
    (9, [signal.SIGINT] * 5, [(1, 0), (1, 1)]), (25, [signal.SIGTERM], [(1, 1)]), (70, [signal.SIGTERM, signal.SIGINT], [(2, 1)])])
def test_an_evaluation_without_workers_stops_at_once_and_is_repeated(number, signals, waiting, minari_line, tmp_path):
    """Four evaluations of 2 x 10 steps; the signals come in the first, the second and the last."""
    name = minari_line("solo/stopped-v0", steps=10)
    whole = train(make_run(tmp_path, name, "whole"))
    Line.given.clear()
    Line.signals = {number: signals}
    run = make_run(tmp_path, name, "stopped")
    with pytest.raises(KeyboardInterrupt, match=f"stopped at update {waiting[0][0]}; continue with python .*--resume"):
        train(run)
    assert len(Line.given) == number  # not one step more, also not of the other evaluation
    saved = torch.load(run.folder / "checkpoint.pt", weights_only=True)
    assert [tuple(job[:2]) for job in saved["waiting"]] == waiting
    assert not signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    resumed = make_run(tmp_path, name, "stopped", resume=run.folder)
    train(resumed)
    same_results(whole, run.folder)
    assert len((whole / "eval.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.parametrize("at", ["the last evaluation", "training far ahead"])
def test_a_worker_that_hangs_is_ended_when_the_run_is_stopped(at, minari_line, tmp_path, monkeypatch):
    """In an episode that takes years; Ctrl-C comes while the run waits for it."""
    name, ahead = minari_line("solo/hanging-v0"), at == "training far ahead"
    run = make_run(tmp_path, name, "runs", max_episode_steps=10**12, eval_workers=1, updates=50 if ahead else 2)
    monkeypatch.setattr("common.evaluation.wait_for", lambda *_, **__: [signal.raise_signal(signal.SIGINT) for _ in range(3)])
    (worker,) = run.evaluator.pool._processes.values()
    with pytest.raises(KeyboardInterrupt, match="stopped at update 17; continue" if ahead else "evaluation is not finished; continue with python"):
        train(run)
    assert not worker.is_alive()
    saved = torch.load(run.folder / "checkpoint.pt", weights_only=True)
    assert len(saved["waiting"]) == (34 if ahead else 4) and not (run.folder / "result.json").exists()


def test_a_worker_that_hangs_is_ended_when_the_run_is_stopped_at_its_last_update(minari_line, tmp_path):
    run = make_run(tmp_path, minari_line("solo/late-v0"), "runs", max_episode_steps=10**12, eval_workers=1)
    (worker,) = run.evaluator.pool._processes.values()
    with pytest.raises(KeyboardInterrupt, match="stopped at update 2; continue with"):
        for step in run.steps(2):
            run.evaluate(step)
            step == 2 and signal.raise_signal(signal.SIGINT)
    assert not worker.is_alive()


def test_a_signal_to_all_processes_is_no_dead_worker(minari_line, tmp_path):
    """SLURM and timeout(1) do that; the worker may be the quicker one."""
    run = make_run(tmp_path, minari_line("solo/all-v0"), "runs", max_episode_steps=10**12, eval_workers=1, updates=50)
    (worker,) = run.evaluator.pool._processes.values()
    with pytest.raises(KeyboardInterrupt, match="stopped at update 2; continue with"):
        for step in run.steps(50):
            if step == 2:
                worker.terminate()
                worker.join()
                wait_until(lambda: run.evaluator.waiting[0][3].done())
                signal.raise_signal(signal.SIGTERM)
            run.evaluate(step)
    saved = torch.load(run.folder / "checkpoint.pt", weights_only=True)
    assert [tuple(job[:2]) for job in saved["waiting"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_an_actor_that_outputs_nan_is_named_before_it_acts(minari_line, tmp_path):
    evaluator = Evaluator(minari_line("solo/nan-v0"), make_data(), args_of(tmp_path))
    evaluator.submit(2, 0, Constant(0.0, float("nan"), 0.0))
    with pytest.raises(RunError, match="evaluation of update 2 failed .*the actor's action is not finite"):
        list(evaluator.finished())
    assert not Line.given


# Ctrl-C at other times


def test_ctrl_c_while_workers_start_comes_afterwards(monkeypatch):
    submit, jobs, workers, end = ProcessPoolExecutor.submit, [], [], threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()

    def interrupted(pool, *job):
        signal.raise_signal(signal.SIGINT)
        signal.pthread_kill(other.ident, signal.SIGINT)  # the system may choose any thread for it
        jobs.append(submit(pool, *job))
        workers[:] = pool._processes.values()
    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker_pool(2)
    end.set()
    assert len(jobs) == 2 and workers and not any(worker.is_alive() for worker in workers)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_start_in_a_thread_too():
    pools = []
    thread = threading.Thread(target=lambda: pools.append(worker_pool(1)))
    thread.start()
    thread.join()
    assert pools[0].submit(abs, -3).result() == 3
    end_workers(*pools, idle=True)


def ended(tmp_path, body, head=""):
    """How a script ends whose `with friendly()` has this body."""
    (tmp_path / "script.py").write_text("import os, signal, sys, time\nimport common\nfrom common import RunError, friendly, worker_pool\n"
                                        f"{textwrap.dedent(head)}\nif __name__ == '__main__':\n    with friendly():\n"
                                        + textwrap.indent(textwrap.dedent(body), "        "))
    return run_script(tmp_path / "script.py")


@pytest.mark.parametrize("end, code, err", [("raise RunError('diverged')", 1, "error: diverged\n"), ("print('done')", 0, ""),
                                            ("signal.raise_signal(signal.SIGINT)", 130, "\ninterrupted\n")])
def test_busy_workers_do_not_hold_up_a_script_s_end(end, code, err, tmp_path):
    assert ended(tmp_path, f"worker_pool(1).submit(time.sleep, 10**6)\n{end}")[::2] == (code, err)


def test_the_second_of_two_fast_ctrl_c_does_not_interrupt_what_the_first_one_ends(tmp_path):
    """Time is held still, then goes on: a later one does, should the first have been lost."""
    code, out, err = ended(tmp_path, """
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            print("saved", flush=True)
            now.append(5)
            signal.raise_signal(signal.SIGINT)
            print("never")
        """, "now = [3]\ncommon.time = type('', (), {'monotonic': staticmethod(lambda: now[-1])})")
    assert (code, out, err) == (130, "saved\n", "\ninterrupted\n")


def test_an_error_that_a_library_makes_of_ctrl_c_is_none(tmp_path):
    code, _, err = ended(tmp_path, """
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            raise ImportError("initialization failed") from None
        """)
    assert (code, err) == (130, "\ninterrupted\n")


def test_ctrl_c_while_mujoco_is_imported_comes_afterwards(tmp_path):
    (tmp_path / "mujoco.py").write_text("""import os, signal
try:
    signal.raise_signal(signal.SIGINT)
    print("imported", signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
except BaseException:
    raise ImportError("initialization failed") from None
""")
    (tmp_path / "script.py").write_text("""from common import friendly
from common.physics import make_env
with friendly():
    make_env("hopper-medium-v2")
""")
    code, out, err = run_script(tmp_path / "script.py", env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}, real=True)
    assert (code, out, err) == (130, "imported True\n", "\ninterrupted\n")


def test_ctrl_c_while_an_error_is_printed_changes_nothing(tmp_path):
    code, _, err = ended(tmp_path, "signal.raise_signal(signal.SIGINT)", """
        class Slow:
            def write(self, text):
                signal.raise_signal(signal.SIGINT)
                return file.write(text)

            def flush(self):
                signal.raise_signal(signal.SIGINT)
                file.flush()
        file, sys.stderr = sys.stderr, Slow()
        common.time = type("", (), {"monotonic": staticmethod(iter(range(0, 10**6, 2)).__next__)})
        """)
    assert (code, err) == (130, "\ninterrupted\n")


# Data without an environment


def test_minari_data_without_an_environment_train_without_evaluation(minari_line, tmp_path, capsys):
    name = minari_line("solo/bare-v0", env=False)
    data = load_dataset(name)
    assert evaluation_task(data, "auto") is None
    assert "no evaluation (solo/bare-v0 is stored without an environment): name a task with --eval-env" in capsys.readouterr().out
    assert evaluation_task(data, "hopper-medium-v2") == "hopper-medium-v2" and evaluation_task(data, name) == name
    with pytest.raises(InputError, match="solo/bare-v0: Minari cannot make its environment .*--eval-env none"):
        Evaluator(name, data, args_of(tmp_path))
    kept = minari_line("solo/kept-v0")
    assert evaluation_task(load_dataset(kept), "auto") == kept
    code, out, err = run_script(ROOT / "algorithms/td3_bc.py", "--env", name, "--updates", 3, "--batch-size", 4, "--runs", tmp_path / "runs")
    assert code == 0 and out.count("no evaluation (solo/bare-v0 is stored") == 1, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "config.json").read_text())["task"] is None and not (folder / "eval.csv").exists()


# A renderer that is not here


@pytest.mark.parametrize("renderer", ["osmesa", "nonsense"])
def test_mujoco_gl_does_not_matter_and_is_kept(renderer):
    code = textwrap.dedent("""
        import os, sys
        from common.standin import generate
        if __name__ == "__main__":
            print(len(generate("hopper-medium-v2", ["uniform"], 30, workers=1)["rewards"]), os.environ["MUJOCO_GL"])
        """)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"MUJOCO_GL": renderer, "PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True)
    assert (done.stdout, done.stderr) == (f"30 {renderer}\n", "")
