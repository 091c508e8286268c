"""Command line, folders, evaluation and errors of a run, through the scripts where a person would meet them."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pytest
import torch

from algorithms import sac_n, td3_bc
from benchmark.engine.runs import read_run
from common import InputError, RunError, physics
from common.args import cli, parse, read_config, within
from common.checkpoint import check_fit, read_checkpoint, save_sealed, whole
from common.data import load_dataset
from common.evaluation import Evaluator, evaluate
from common.files import sha256
from common.physics import make_env
from common.run import Run
from tests.helpers import ROOT, make_data, run_script, write_npz

SCRIPT = ROOT / "algorithms/td3_bc.py"
PAPER = {"hopper-medium-v2": dict(alpha=7.0, reward="r-1")}


def make_args(tmp_path, **flags):
    data = tmp_path / "hopper.npz"
    if not data.exists():
        write_npz(data)
    defaults = dict(env=str(data), eval_env="hopper-medium-v2", device="cpu", updates=4, eval_every=2, eval_episodes=2, eval_workers=0,
                    log_every=1, runs=tmp_path / "runs", batch_size=8)
    return td3_bc.Args(**defaults | flags)


def make_run(tmp_path, **flags):
    args = make_args(tmp_path, **flags)
    agents = [td3_bc.TD3BC(args, load_dataset(args.env), seed) for seed in args.seeds]
    return Run(args, agents), agents


def train(run, agents):
    for step in run.steps(run.args.updates):
        run.log(step, [agent.update() for agent in agents])
        run.evaluate(step)


def flags_of(args, *names):
    return [word for name in names for word in (f"--{name.replace('_', '-')}", getattr(args, name))]


def script_flags(tmp_path, **flags):
    args = make_args(tmp_path, **flags)
    return flags_of(args, "env", "eval_env", "updates", "eval_every", "eval_episodes", "eval_workers", "log_every", "runs", "batch_size")


def one_line(err):
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


# Command line


def test_env_picks_the_papers_values_and_flags_override(capsys):
    args = parse(td3_bc.Args, PAPER, ["--env", "hopper-medium-v2"])
    assert (args.alpha, args.reward, args.env) == (7.0, "r-1", "hopper-medium-v2")
    assert "hopper-medium-v2, --config paper: alpha=7.0, reward=r-1" in capsys.readouterr().out
    assert parse(td3_bc.Args, PAPER, ["--env=hopper-medium-v2", "--alpha", "3"]).alpha == 3.0
    assert parse(td3_bc.Args, PAPER, ["--seeds", "0", "1", "5", "--no-tf32"]).seeds == (0, 1, 5)


def test_a_dataset_without_an_entry_says_so(capsys):
    assert parse(td3_bc.Args, PAPER, ["--env", "walker2d-medium-v2"]).alpha == 2.5
    assert "walker2d-medium-v2 (no entry), --config paper: the shared defaults" in capsys.readouterr().out


def test_configs(capsys):
    args = parse(td3_bc.Args, PAPER, ["--env", "x-v0", "--config", "mine"], mine={"x-v0": dict(alpha=9.0)})
    assert (args.alpha, args.config) == (9.0, "mine")
    for argv, match in ((["--config", "other"], "--config other is unknown; choose from paper, mine"),
                        (["--config", "mine"], "--config mine has no entry for hopper-medium-v2, only for x-v0")):
        with pytest.raises(InputError, match=match):
            parse(td3_bc.Args, PAPER, argv, mine={"x-v0": {}})


@pytest.mark.parametrize("interval, inside, outside", [
    ("(0, 1]", "1 0.5 1e-300", "0 -0.0 1.0000001 nan inf -inf"), ("[0, 1)", "0 -0.0 0.9999", "1 -1e-9 nan"),
    ("(0, inf)", "1e-9 1e300", "0 inf nan -1"), ("[0, inf)", "0 1e300", "inf nan -1e-9"), ("(-inf, inf)", "-1e300 0", "inf -inf nan")])
def test_ranges(interval, inside, outside):
    """A flag's range is where it is declared, and nowhere else; NaN is in none."""
    @dataclass
    class Own:
        x: Annotated[float, within(interval)] = 0.5
        many: Annotated[tuple[float, ...], within(interval)] = ()

    for word in inside.split():
        assert cli(Own, ["--x", word, "--many", "0.5", word]) == Own(float(word), (0.5, float(word)))
    for word in outside.split():
        for flag in (["--x", word], [f"--x={word}"], ["--many", "0.5", word]):
            with pytest.raises(InputError, match=rf"--{flag[0][2:].split('=')[0]} {float(word)}: give a number in {re.escape(interval)}"):
                cli(Own, flag)


def test_whole_numbers_have_ranges_too():
    from algorithms import xql

    assert parse(xql.Args, {}, ["--num-random", "0"]).num_random == 0
    for flags in (["--num-random", "-1"], ["--value-steps", "0"], ["--batch-size", "0"], ["--batch-size", str(10**13)], ["--max-episode-steps", "0"]):
        with pytest.raises(InputError, match=f"{flags[0]} {flags[1]}: give a number in "):
            parse(xql.Args, {}, flags)


def test_a_flag_given_twice_counts_once():
    """Its last form counts for the data and for the values of its dataset alike."""
    table = {"hopper-medium-v2": dict(alpha=9.0), "walker2d-medium-v2": dict(alpha=8.0)}
    for words in (["--env=walker2d-medium-v2", "--env", "hopper-medium-v2"], ["--env", "walker2d-medium-v2", "--env=hopper-medium-v2"]):
        args = parse(td3_bc.Args, table, words)
        assert (args.env, args.alpha) == ("hopper-medium-v2", 9.0)
    args = parse(td3_bc.Args, {}, ["--env", "x-v0", "--config", "paper", "--config=mine"], mine={"x-v0": dict(alpha=7.0)})
    assert (args.config, args.alpha) == ("mine", 7.0)


def test_an_own_file_has_its_tasks_values(capsys):
    table = {"hopper-medium-v2": dict(alpha=9.0)}
    own = ["--env", "some/my.npz", "--eval-env", "hopper-medium-v2"]
    args = parse(td3_bc.Args, table, own)
    assert (args.alpha, args.env, args.eval_env) == (9.0, "some/my.npz", "hopper-medium-v2")
    assert "some/my.npz as hopper-medium-v2, --config paper: alpha=9.0" in capsys.readouterr().out
    assert parse(td3_bc.Args, table, [*own, "--alpha", "1"]).alpha == 1.0
    assert parse(td3_bc.Args, table, ["--env", "some/my.npz", "--eval_env=hopper-medium-v2"]).alpha == 9.0
    assert parse(td3_bc.Args, {}, own, mine=table).alpha == 2.5
    assert parse(td3_bc.Args, {}, [*own, "--config", "mine"], mine=table).alpha == 9.0
    assert parse(td3_bc.Args, table, ["--env", "walker2d-medium-v2", "--eval-env", "hopper-medium-v2"]).alpha == 2.5  # a D4RL name has its own
    assert parse(td3_bc.Args, table, own[:2]).alpha == 2.5


def test_help_shows_the_values_and_their_origin(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(td3_bc.Args, PAPER, ["--env", "hopper-medium-v2", "--help"], authors={})
    out = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "Defaults are those for hopper-medium-v2, --config paper: alpha=7.0, reward=r-1" in out and "Configs: paper, authors" in out
    assert re.search(r"weight of Q against imitation in \(4\) \(default: 7.0\)", out)


@pytest.mark.parametrize("argv, match", [
    (["--seeds", "1", "1"], "--seeds 1 1: give one or more seeds"), (["--updates", "0"], r"--updates 0: give a number in \[1, 1e12\]"),
    (["--device", "meta"], "--device meta: choose auto, cpu, cuda"), (["--log-every", "-3"], "--log-every -3: give a number"),
    (["--eval-workers", "-1"], "--eval-workers -1: give a number"), (["--policy-freq", "0"], "--policy-freq 0: give a number"),
    (["--seeds", "-1"], "--seeds -1: give"), (["--seeds", str(2**64)], f"--seeds {2**64}: give"), (["--seeds"], "--seeds : give one or more"),
    (["--eval-env", "hopper"], "--eval-env hopper: no D4RL task"), (["--lr"], "Missing value for argument '--lr'"), (["--lr", "x"], "--lr: could not convert"),
    (["--policyfreq", "3"], "--policyfreq, 3; did you mean --policy-freq"), (["--view", "x"], "invalid choice 'x' for argument '--view'"),
    (["--runs", "/dev/null/runs"], "cannot write /dev/null/runs")])
def test_bad_flags(argv, match):
    with pytest.raises(InputError, match=match):
        parse(td3_bc.Args, PAPER, argv)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu():
    with pytest.raises(InputError, match="--device cuda cannot be used .*; --device cpu can"):
        parse(td3_bc.Args, PAPER, ["--device", "cuda"])


def test_unknown_flag_is_exit_code_2():
    code, out, err = run_script(SCRIPT, "--learning-rate", 3)
    assert code == 2 and "learning-rate" in err and "Traceback" not in err


# Errors of scripts: one line, exit code 2


@pytest.mark.parametrize("flags, match", [
    (["--env", "hoper-medium-v2"], "did you mean .*hopper-medium-v2"),
    (["--env", "nobody/nothing-v0"], "no such Minari dataset"),
    (["--env", "nothing.npz"], "no such file"),
    (["--env", "hopper-medium-v2", "--no-standin"], "stand-ins are refused; put hopper_medium-v2.hdf5 into"),
])
def test_bad_data_from_the_command_line(flags, match, tmp_path):
    code, _, err = run_script(SCRIPT, *flags, "--runs", tmp_path / "runs")
    assert code == 2 and re.search(match, one_line(err))
    assert not (tmp_path / "runs").exists()


def test_evaluation_tasks_that_cannot_be(tmp_path):
    for task, match in (("pen-human-v1", "no simulator for it here yet"), ("halfcheetah-medium-v2", "observations \\(17,\\) .* the data \\(11,\\)"),
                        ("hopper-medum-v2", "hopper-medum-v2: no D4RL task")):
        with pytest.raises(InputError, match=match):
            make_run(tmp_path, eval_env=task)
    assert not (tmp_path / "runs").exists()


def test_missing_simulator(tmp_path):
    (tmp_path / "mujoco.py").write_text("raise ImportError('no MuJoCo here')")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    code, _, err = run_script(SCRIPT, *script_flags(tmp_path), env=env, real=True)
    assert code == 2 and re.search("no MuJoCo here; pip install 'gymnasium\\[mujoco\\]', or train without evaluation: --eval-env none", one_line(err))
    code, out, err = run_script(SCRIPT, *script_flags(tmp_path, eval_env="none"), env=env, real=True)
    assert code == 0 and "no evaluation: name a task with --eval-env" in out, err


def test_own_data_train_without_a_task(tmp_path, capsys):
    run, agents = make_run(tmp_path, eval_env="auto")
    train(run, agents)
    run.report()
    out = capsys.readouterr().out
    assert "no evaluation: name a task with --eval-env" in out and not (run.folder / "eval.csv").exists()
    assert json.loads((run.folder / "result.json").read_text())["seeds"] == {}


def test_run_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    code, _, err = run_script(SCRIPT, *script_flags(tmp_path))
    assert code == 2 and re.search("cannot write .*/runs .*Not a directory.*; choose another folder with --runs", one_line(err))


def test_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    resource = pytest.importorskip("resource")
    run, agents = make_run(tmp_path)
    train(run, agents)
    run.save()
    before = (run.folder / "checkpoint.pt").read_bytes()
    agents[0].update()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot write .*checkpoint.pt .*; free space.* --resume continues from it"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run.folder / "checkpoint.pt").read_bytes() == before
    assert not list(run.folder.glob("*.part"))


def test_divergence_stops_the_run(tmp_path):
    run, agents = make_run(tmp_path)
    with torch.no_grad():
        agents[0].critics.weights[0].fill_(float("nan"))
    with pytest.raises(RunError, match="diverged: critic_loss is nan, update 1, seed 0"):
        train(run, agents)


# Resume


def finished_run(tmp_path):
    run, agents = make_run(tmp_path)
    train(run, agents)
    run.report()
    return run


def test_a_run_that_is_named_without_its_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/one").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^one: no run folder, or a broken one \(did you mean runs/one\?\)$"):
        read_config(Path("one"))
    with pytest.raises(InputError, match=r"^two: no run folder, or a broken one \(there is nothing of this name\)$"):
        read_config(Path("two"))


@pytest.mark.parametrize("damage, flags, match", [
    (None, ["--alpha", "9"], "the run has alpha=2.5 and keeps it"),
    (None, ["--updates", "99", "--seeds", "0", "1"], r"the run has seeds=\(0,\) and keeps it"),
    (None, ["--updates", "3"], "4 updates are done; give more than that, not --updates 3"),
    ("other", [], "a run of rorl.py; continue it with that file"),
    ("no config", [], "no run folder, or a broken one .*No such file or directory"),
    ("bad config", [], "no run folder, or a broken one"),
    ("old flags", [], "its config.json does not fit this version, which has no --gone"),
    ("bad flags", [], "its config.json does not fit this version: --tau 2.0: give a number"),
    ("checkpoint", [], "checkpoint.pt is damaged: its SHA-256"),
    ("device", [], "--device nonsense: choose"),
    ("data", [], "its data had SHA-256 .*, .*hopper.npz has"),
])
def test_resume_that_does_not_fit(damage, flags, match, tmp_path):
    folder = finished_run(tmp_path).folder
    config = json.loads((folder / "config.json").read_text())
    if damage == "other":
        (folder / "config.json").write_text(json.dumps(config | {"algorithm": "rorl"}))
    elif damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "bad config":
        (folder / "config.json").write_text("{")
    elif damage == "device":  # a run from a machine with another device
        config["args"]["device"] = "nonsense"
        (folder / "config.json").write_text(json.dumps(config))
    elif damage == "old flags":
        config["args"]["gone"] = 1
        (folder / "config.json").write_text(json.dumps(config))
    elif damage == "bad flags":
        config["args"]["tau"] = 2
        (folder / "config.json").write_text(json.dumps(config))
    elif damage == "checkpoint":
        (folder / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:1000])
    elif damage == "data":
        write_npz(tmp_path / "hopper.npz", seed=1)
    log = (folder / "log.csv").read_bytes()
    code, _, err = run_script(SCRIPT, "--resume", folder, *flags)
    assert code == 2 and re.search(match, one_line(err))
    assert (folder / "log.csv").read_bytes() == log


def resumed(run, **flags):
    """A Run that continues another, whose process has ended."""
    run.close()
    args = replace(run.args, resume=run.folder, **flags)
    agents = [td3_bc.TD3BC(args, load_dataset(args.env), seed) for seed in args.seeds]
    return Run(args, agents), agents


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two runs of four updates: one whose checkpoint is of the second, and whose tables go on to the third; one that is finished."""
    runs = []
    for name in ("half", "whole"):
        run, agents = make_run(tmp_path_factory.mktemp(name), eval_every=1, eval_episodes=1)
        runs.append(run)
        if name == "whole":
            train(run, agents)
            run.report()
            return runs
        interrupted(run, agents)


@pytest.fixture
def half_done(both, tmp_path):
    """A copy of the first, to be damaged."""
    return SimpleNamespace(folder=Path(shutil.copytree(both[0].folder, tmp_path / both[0].folder.name)), args=both[0].args, close=lambda: None)


def interrupted(run, agents):
    for step in run.steps(3):
        if step == 3:
            run.save()
        run.log(step, [agent.update() for agent in agents])
        run.evaluate(step)
        if step == 3:
            break


@pytest.mark.parametrize("damage, told", [
    (lambda path, rows: path.write_bytes(b"".join(rows[:-1]) + rows[-1][:9]), False), (lambda path, rows: path.write_bytes(b"".join(rows[:3])), False),
    (lambda path, rows: path.write_bytes(b"".join(rows[:2])), True), (lambda path, rows: path.write_bytes(b"".join(rows[:2]) + rows[2][:9]), True),
    (lambda path, rows: path.write_bytes(rows[0] + rows[2] + rows[3]), True), (lambda path, rows: path.write_bytes(b""), True),
    (lambda path, rows: path.write_bytes(b"".join(rows).replace(b"1,0,", b"1,7,", 1)), True), (lambda path, rows: path.write_bytes(b"\0" * 500), True),
    (lambda path, rows: path.unlink(), True), (lambda path, rows: path.unlink() or os.mkfifo(path), True),
    (lambda path, rows: path.rename(path.with_suffix(".x")) and path.symlink_to(f"{path.stem}.x"), False), (lambda path, rows: None, False)])
def test_rows_that_were_lost_or_changed_come_back(damage, told, half_done, both, capsys):
    """Of both tables; it is said if they were of before the checkpoint; bitwise as if nothing had happened, scores too."""
    run, whole = half_done, both[1]
    for name in ("log.csv", "eval.csv"):
        rows = (run.folder / name).read_bytes().splitlines(keepends=True)
        assert [row.split(b",")[0] for row in rows] == [b"step", b"1", b"2", b"3"]
        damage(run.folder / name, rows)
    capsys.readouterr()
    run, agents = resumed(run)
    out = capsys.readouterr().out.splitlines()
    for name in ("log.csv", "eval.csv"):
        assert (f"{name}: rows were lost or changed since the checkpoint; restored from it" in out) == told
    for name in ("log.csv", "eval.csv"):
        assert (run.folder / name).is_file() and not (run.folder / name).is_symlink()
    train(run, agents)
    run.report()
    for name in ("log.csv", "eval.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert run.scores == whole.scores and len(run.scores[0]) == 4


def test_tables_that_cannot_be_written_are_one_line(half_done):
    (half_done.folder / "eval.csv").unlink()
    (half_done.folder / "eval.csv").mkdir()
    with pytest.raises(InputError, match="cannot write .*eval.csv"):
        resumed(half_done)


def test_tables_are_written_into_the_runs_own_folder_only(tmp_path):
    """A folder from somebody else, killed before its first checkpoint, whose table is a link to nothing yet."""
    run, agents = make_run(tmp_path)
    (run.folder / "log.csv").symlink_to(tmp_path / "start.sh")
    run, agents = resumed(run)
    train(run, agents)
    assert not (tmp_path / "start.sh").exists() and "\n4,0," in (run.folder / "log.csv").read_text()


@pytest.mark.parametrize("change, match", [
    ({"seeds": [0, 1]}, r"it was saved with seeds \[0\], config.json has \[0, 1\]"), ({"updates": 1}, "updates 4, config.json has 1"),
    ({"alpha": 9.0}, "alpha 2.5, config.json has 9.0"), ({"eval_env": "none"}, "eval_env hopper-medium-v2, config.json has none")])
def test_a_config_that_is_not_the_checkpoints_is_refused(change, match, half_done):
    folder = half_done.folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"args": config["args"] | change}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, err = run_script(SCRIPT, "--resume", folder)
    assert code == 2 and re.search(f"checkpoint.pt: cannot be continued \\({'.*' if 'it was' not in match else ''}{match}", one_line(err)), err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("change, match", [
    ({"algorithm": "my_idea"}, "algorithm td3_bc, config.json has my_idea"), ({"physics": "stock"}, "physics d4rl-1, config.json has stock"),
    ({"task": None}, "task hopper-medium-v2, config.json has None"), ({"obs_std": [1.0] * 11}, "obs_std"),
    ({"data": {"action_low": [-2.0] * 3}}, "action_low None, config.json has")])
def test_facts_that_are_not_the_checkpoints_are_refused(change, match, half_done):
    """What an attack takes from config.json; and a checkpoint of a copy with the same flags and networks, but another loss."""
    path, state = half_done.folder / "config.json", read_checkpoint(half_done.folder / "checkpoint.pt")
    config = json.loads(path.read_text())
    check_fit(state, config)
    check_fit({"step": 2, "agents": state["agents"]}, config | change)  # of an older version
    path.write_text(json.dumps(config | change | {"data": config["data"] | change.get("data", {})}))
    with pytest.raises(InputError, match=f"checkpoint.pt: cannot be continued .it was saved with {match}"):
        resumed(half_done)
    with pytest.raises(InputError, match=f"checkpoint.pt: it was saved with {match}"):
        read_run(half_done.folder).checkpoint


def test_a_run_of_older_physics_is_not_continued(half_done):
    """One eval.csv would hold two physics. A run that is older than versions goes on where its robot is simulated as then."""
    path, state = half_done.folder / "config.json", read_checkpoint(half_done.folder / "checkpoint.pt")
    config = json.loads(path.read_text())
    for task, its, now in (("hopper-medium-v2", "d4rl", None), ("hopper-medium-v2", "d4rl-7", "d4rl-1"), ("halfcheetah-medium-v2", "d4rl", "d4rl-2"),
                           ("halfcheetah-medium-v2", "d4rl-2", None), (None, "d4rl", None)):
        path.write_text(json.dumps(config | {"task": task, "physics": its}))
        check_fit(state | {"facts": state["facts"] | {"task": task, "physics": its}}, read_config(half_done.folder))
        if now is None:
            assert parse(td3_bc.Args, td3_bc.PAPER, ["--resume", str(half_done.folder)]).resume == half_done.folder
        else:
            with pytest.raises(InputError, match=f"is evaluated under the physics {physics.with_version(its)}, this version simulates {now}; go on with the version"
                                                 f" that began it, {config['git']}"):
                parse(td3_bc.Args, td3_bc.PAPER, ["--resume", str(half_done.folder)])


@pytest.mark.parametrize("its", [None, 2, ["d4rl"], "", "d4rl-", "d4rl-0", "d4rl-01", "d4rl-1\n", "d4rl-" + "1" * 5, "d4rl-\u0662", "D4RL", "stock-1"])
def test_a_physics_that_no_run_writes_is_refused(its, half_done):
    path = half_done.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"physics": its}))
    with pytest.raises(InputError, match="no run folder, or a broken one .its physics is "):
        read_config(half_done.folder)


def test_what_may_change_on_resume(half_done, tmp_path):
    run, agents = resumed(half_done, save_seconds=5.0, runs=tmp_path / "elsewhere")
    assert run.step == 2
    run.close()


def agent_lacks(state):
    del state["agents"][0]["step"]


@pytest.mark.parametrize("change, match", [
    (agent_lacks, "TD3BC and the checkpoint do not both have step"), (lambda s: s["agents"][0].update(more=1), "do not both have more"),
    (lambda s: s["agents"].append(s["agents"][0]), "it has 2 agents after 2 updates, config.json 1 seeds and 4 updates"),
    (lambda s: s.update(step=5), "it has 1 agents after 5 updates"), (lambda s: s["agents"][0].update(step={}), "TD3BC.step has another shape or kind"),
    (lambda s: s["agents"][0].update(actor_stats=torch.ones(1)), "TD3BC.actor_stats has another shape"),
    (lambda s: s["agents"][0]["actor"].update({"obs_mean": torch.ones(1)}), "size mismatch for obs_mean"),
    (lambda s: s.update(rows={"log.csv": ""}), "KeyError: 'eval.csv'"), (lambda s: s.update(settings=None), "AttributeError"),
    (lambda s: s.update(rows={"log.csv": "", "eval.csv": "step,seed,score\n1,8,3\n"}), "KeyError: 8"),
    (lambda s: s.update(waiting=[[2, 8, {}]]), "ValueError|not in tuple"),
    (lambda s: s.pop("rows"), "an older version saved it, git [0-9a-f]{7,40}(-dirty)?; continue it with that one, or start a new run")])
def test_a_checkpoint_that_is_not_the_runs_is_refused(change, match, half_done):
    run = half_done
    state = read_checkpoint(run.folder / "checkpoint.pt")
    change(state)
    with whole(run.folder / "checkpoint.pt") as file:
        save_sealed(state, file)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(InputError, match=f"checkpoint.pt: cannot be continued .*({match})"):
        resumed(run)
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


def test_own_data_are_found_from_another_folder(tmp_path):
    """Their path is given from where the run is started; another file of that name is refused."""
    write_npz(tmp_path / "hopper.npz")
    flags = script_flags(tmp_path, env="hopper.npz")
    assert run_script(SCRIPT, *flags, cwd=tmp_path)[0] == 0
    (folder,), there = (tmp_path / "runs").iterdir(), tmp_path / "there"
    assert folder.name.startswith("td3_bc-hopper-2")
    assert json.loads((folder / "config.json").read_text())["args"]["env"] == "hopper.npz"
    there.mkdir()
    write_npz(there / "hopper.npz", seed=1)
    for _ in range(2):
        code, out, err = run_script(SCRIPT, "--resume", folder, cwd=there)
        assert code == 0 and "resumed at update 4" in out, err
    folder.rename(there / folder.name)
    (tmp_path / "hopper.npz").unlink()  # as if all had been moved there, with other data
    code, _, err = run_script(SCRIPT, "--resume", folder.name, cwd=there)
    assert code == 2 and re.search("its data had SHA-256 .*/there/hopper.npz has", one_line(err)), err
    write_npz(there / "hopper.npz")
    code, out, err = run_script(SCRIPT, "--resume", folder.name, cwd=there)
    assert code == 0 and "resumed at update 4" in out, err


# An agent of one's own: what update() gives, what can be saved


def test_update_may_give_plain_numbers_and_tensors_of_any_type(tmp_path):
    run, _ = make_run(tmp_path)
    values = [1 / 3, 2**24 + 1, True, np.float64(1 / 3), np.int64(7), np.float32(0.1), torch.tensor(1 / 3, dtype=torch.float64), torch.tensor(2**24 + 1),
              torch.tensor(True), torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(0.1, requires_grad=True)]
    run.log(1, [{f"x{i}": value for i, value in enumerate(values)}])
    header, row = csv.reader((run.folder / "log.csv").read_text().splitlines())
    assert header == ["step", "seed", *(f"x{i}" for i in range(len(values)))] and row[:2] == ["1", "0"]
    assert list(map(float, row[2:])) == [float(value) for value in map(lambda v: v.detach() if isinstance(v, torch.Tensor) else v, values)]
    assert float(row[3]) == float(row[9]) == 2**24 + 1


@pytest.mark.parametrize("log, match", [
    ({"loss": torch.zeros(2)}, r"update\(\) gave 'loss', a tensor \(2,\) torch.float32: give plain numbers"), ({"loss": torch.zeros(1)}, r"a tensor \(1,\)"),
    ({"loss": "0.1"}, "'loss', a str"), ({"loss": None}, "a NoneType"), ({"loss": [1.0]}, "a list"), ({"loss": torch.tensor(1j)}, "complex64"),
    ({"q": 1.0, "step": 3}, "'step'.*other names than step and seed"), ({"seed": 1.0}, "'seed'")])
def test_what_update_may_not_give_is_refused_at_the_first(log, match, tmp_path):
    run, _ = make_run(tmp_path, log_every=3)
    with pytest.raises(InputError, match=match):
        run.log(1, [log])
    assert not (run.folder / "log.csv").exists()


def test_names_that_change_write_no_torn_table(tmp_path):
    """The order may; and a resumed run knows the names of before."""
    run, _ = make_run(tmp_path)
    run.log(1, [{"a": 1.0, "b": 2.0}])
    run.log(2, [{"b": 4.0, "a": 3.0}])
    run.save()
    run, _ = resumed(run)
    for log in ({"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "c": 1.0}):
        with pytest.raises(InputError, match=r"update\(\) gave step, seed, a.*, and before step, seed, a, b: .*log.csv needs the same names"):
            run.log(3, [log])
    assert (run.folder / "log.csv").read_text() == "step,seed,a,b\n1,0,1.0,2.0\n2,0,3.0,4.0\n"


def test_an_attribute_that_cannot_be_saved_is_refused_before_anything_is_made(tmp_path):
    args = make_args(tmp_path)
    agent = td3_bc.TD3BC(args, load_dataset(args.env), 0)
    agent.history = [1, 2]
    with pytest.raises(InputError, match="TD3BC.history: a checkpoint cannot save a list; keep state in modules"):
        Run(args, [agent])
    assert not (tmp_path / "runs").exists()
    agent.history = None
    run = Run(args, [agent])
    agent.history = torch.zeros(3)  # a resume would refuse it
    with pytest.raises(InputError, match="history came or went in training, and could not be resumed; give it its kind of value in __init__"):
        run.save()


def test_main_in_a_thread_and_on_an_ascii_terminal(tmp_path, monkeypatch):
    """As a notebook may call it; Python has signals in the main thread only."""
    told, errors = io.TextIOWrapper(io.BytesIO(), encoding="ascii"), []

    def called():
        try:
            td3_bc.main(make_args(tmp_path, eval_workers=1, seeds=(0, 1)))
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(sys, "stdout", told)
    thread = threading.Thread(target=called)
    thread.start()
    thread.join()
    told.flush()
    out = told.buffer.getvalue().decode("ascii")
    assert errors == [] and "return " in out and " ? " in out and "mean ? std" in out


def test_git_state_is_asked_without_a_shell(tmp_path, monkeypatch):
    from common.run import commit

    odd = tmp_path / "x'; touch PWNED; echo '$(touch PWNED)"
    odd.mkdir()
    monkeypatch.chdir(tmp_path)
    assert commit(odd) == "" and commit(tmp_path / "none") == ""
    git = ["git", "-C", str(odd), "-c", "user.name=x", "-c", "user.email=x"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    assert re.fullmatch("[0-9a-f]{40}", commit(odd)) and [path.name for path in tmp_path.iterdir()] == [odd.name]
    config = json.loads((make_run(tmp_path)[0].folder / "config.json").read_text())
    assert config["common"] == {"path": str(ROOT / "common"), "git": commit(ROOT)} and config["git"] == commit(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(odd) == ""


def test_resume_of_a_finished_run_reports_again(tmp_path):
    folder = finished_run(tmp_path).folder
    files = {name: (folder / name).read_bytes() for name in ("log.csv", "eval.csv")}
    code, out, err = run_script(SCRIPT, "--resume", folder, "--eval-workers", 1)
    assert code == 0 and "resumed at update 4" in out and "mean of last 10" in out, err
    assert files == {name: (folder / name).read_bytes() for name in files}


def test_memory_is_kept_between_updates(tmp_path, monkeypatch):
    """64 MB that come and go cost their pages once; every run asks for that."""
    (tmp_path / "touch.py").write_text("""import resource, sys, torch
from common import keep_memory
touch, faults = lambda: torch.ones(1 << 24), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if sys.argv[1:]:
    keep_memory()
[touch().size(0) for _ in range(20)]
before = faults()
[touch().size(0) for _ in range(20)]
print(faults() - before)""")
    kept, fresh = (int(run_script(tmp_path / "touch.py", *words)[1]) for words in (["keep"], []))
    if sys.platform == "linux":
        assert kept < fresh / 2, (kept, fresh)
    asked = []
    monkeypatch.setattr("common.run.keep_memory", lambda: asked.append(1))
    make_run(tmp_path)
    assert asked


def test_what_evaluation_costs(tmp_path, capsys, monkeypatch):
    """Inline, training waits for all of it; a resumed run goes on counting; the wait at the end is told apart.

    A clock that is a second later at each look: an evaluation takes 1, handing it over 3 with it, taking delivery 1.
    """
    monkeypatch.setattr("common.evaluation.time", SimpleNamespace(perf_counter=count().__next__))
    run, agents = make_run(tmp_path)
    train(run, agents)
    run.evaluator.submit(4, 0, agents[0].actor)  # one more, which training did not wait for
    run.evaluator.waited -= 3
    run.report()
    result, out = json.loads((run.folder / "result.json").read_text()), capsys.readouterr().out
    assert (result["evaluation_seconds"], result["evaluation_waited"], result["evaluation_after"]) == (3, 2 * 4, 1)
    assert f"training waited for {result['evaluation_waited']:.1f} s of it ({result['evaluation_waited'] / result['training_seconds']:.1%}), " in out
    again = Run(replace(run.args, resume=run.folder), [td3_bc.TD3BC(run.args, load_dataset(run.args.env), 0)])
    assert (again.evaluator.seconds, again.evaluator.waited, again.evaluator.after) == (3, 2 * 4, 1)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    run, agents = make_run(tmp_path)
    run.log(1, [agents[0].update()])
    whole = finished_run(tmp_path / "other") if (tmp_path / "other").mkdir() is None else None
    run.close()  # as the end of its process does
    code, _, err = run_script(SCRIPT, "--resume", run.folder)
    assert code == 0, err
    assert (run.folder / "log.csv").read_bytes() == (whole.folder / "log.csv").read_bytes()


# Evaluation


def test_evaluation_is_ten_seeded_episodes_of_the_deterministic_action():
    agent = td3_bc.TD3BC(td3_bc.Args(), make_data(), seed=0)
    threads = torch.get_num_threads()
    returns, lengths = evaluate(agent.actor, "hopper-medium-v2", episodes=3, seed=5)
    for i in range(3):
        env, total, steps = make_env("hopper-medium-v2"), 0.0, 0
        obs, _ = env.reset(seed=5 + 100 + i)
        while True:
            with torch.no_grad():
                action = agent.actor.act(torch.as_tensor(np.tile(obs, (3, 1))))[0].numpy()
            obs, reward, terminated, truncated, _ = env.step(action)
            total, steps = total + reward, steps + 1
            if terminated or truncated:
                break
        assert steps == lengths[i] and total == pytest.approx(returns[i], rel=1e-6)
    again, _ = evaluate(agent.actor, "hopper-medium-v2", episodes=3, seed=5)
    np.testing.assert_array_equal(again, returns)
    assert torch.get_num_threads() == threads


def collect(evaluator):
    return [(step, seed, list(returns)) for step, seed, returns, _ in evaluator.finished(wait=True)]


def test_worker_and_inline_give_the_same_numbers_with_their_steps(tmp_path):
    data = make_data()
    agent = td3_bc.TD3BC(td3_bc.Args(), data, seed=0)
    results, threads = [], set(threading.enumerate())
    for workers in (0, 1):
        evaluator = Evaluator("hopper-medium-v2", data, make_args(tmp_path, eval_workers=workers))
        torch.manual_seed(0)
        for step in (2, 4):
            evaluator.submit(step, 7, agent.actor)
            if step == 2:  # what is evaluated is the actor of that moment
                saved = [p.clone() for p in agent.actor.parameters()]
                with torch.no_grad():
                    for p in agent.actor.parameters():
                        p.add_(0.1)
        results.append(collect(evaluator))
        evaluator.close()
        assert set(threading.enumerate()) <= threads  # an idle worker has ended: none ends while the interpreter exits
        with torch.no_grad():
            for p, old in zip(agent.actor.parameters(), saved):
                p.copy_(old)
    assert results[0] == results[1]
    assert [(step, seed) for step, seed, _ in results[0]] == [(2, 7), (4, 7)] and results[0][0][2] != results[0][1][2]


def test_training_waits_for_evaluations_that_lag_far_behind(tmp_path):
    from concurrent.futures import Future

    class Slow(Future):
        asked = 0

        def done(self):
            Slow.asked += 1
            return True

    class Pool:
        def submit(self, *job):
            return Slow()

    agent = td3_bc.TD3BC(td3_bc.Args(), make_data(), seed=0)
    evaluator = Evaluator("hopper-medium-v2", agent.data, make_args(tmp_path, eval_workers=0))
    evaluator.pool = Pool()
    for step in range(40):
        evaluator.submit(step, 0, agent.actor)
    assert Slow.asked == 40 - 32


def test_a_dead_worker_is_one_clear_error_and_training_is_saved(tmp_path):
    run, agents = make_run(tmp_path, eval_workers=1)
    (worker,) = run.evaluator.pool._processes.values()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="worker died .*; see --eval-workers 0. Training is saved at update [234]; continue with python"):
        train(run, agents)
        run.evaluate(4, last=True)  # waits for it
    run.close()
    saved = torch.load(run.folder / "checkpoint.pt", weights_only=True)
    code, out, err = run_script(SCRIPT, "--resume", run.folder, "--eval-workers", 0)
    assert code == 0, err
    steps = [line.split(",")[0] for line in (run.folder / "eval.csv").read_text().splitlines()]
    assert steps == ["step", "2", "4"] and saved["step"] in (2, 3, 4)


def test_an_actor_that_outputs_nan_is_named(tmp_path):
    run, agents = make_run(tmp_path)
    with torch.no_grad():
        agents[0].actor.biases[-1].fill_(float("nan"))
    with pytest.raises(RunError, match="evaluation of update 2 failed .*the actor's action is not finite"):
        run.evaluate(2)


def test_files_and_report(tmp_path, capsys):
    run, agents = make_run(tmp_path, seeds=(3, 1))
    train(run, agents)
    run.report()
    out = capsys.readouterr().out
    rows = [line.split(",") for line in (run.folder / "eval.csv").read_text().splitlines()]
    header = rows.pop(0)
    assert [row[:2] for row in rows] == [["2", "3"], ["2", "1"], ["4", "3"], ["4", "1"]]
    for row in rows:
        row = dict(zip(header, row))
        returns = [float(value) for value in row["returns"].split()]
        assert len(returns) == 2 and np.mean(returns) == pytest.approx(float(row["return_mean"]), rel=1e-4)
        score = 100 * (float(row["return_mean"]) + 20.272305) / (3234.3 + 20.272305)
        assert float(row["score"]) == pytest.approx(score)
    result = json.loads((run.folder / "result.json").read_text())
    scores = [float(dict(zip(header, row))["score"]) for row in rows if row[1] == "1"]
    assert result["seeds"]["1"] == {"last": scores[-1], "mean_of_last_10": pytest.approx(np.mean(scores)), "best": max(scores)}
    assert "normalised score" in out and "mean ± std" in out
    config = json.loads((run.folder / "config.json").read_text())
    assert config["algorithm"] == "td3_bc" and config["args"]["batch_size"] == 8 and config["physics"] == "d4rl-1"
    assert config["versions"].keys() >= {"python", "torch", "numpy", "gymnasium", "mujoco"} and len(config["data"]["sha256"]) == 64
    assert run.folder.name.startswith("td3_bc-hopper-2")


def test_standin_is_marked_everywhere(tmp_path):
    code, out, err = run_script(SCRIPT, "--env", "hopper-random-v2", "--standin-rows", 500, "--updates", 2, "--eval-every", 1,
                                "--eval-episodes", 1, "--runs", tmp_path)
    assert code == 0, err
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("td3_bc-hopper-random-v2.standin-")
    assert json.loads((folder / "config.json").read_text())["dataset_source"] == "standin"
    assert json.loads((folder / "result.json").read_text())["dataset_source"] == "standin"
    assert "STAND-IN DATA" in out
    table = out.splitlines()[out.splitlines().index("normalised score, 1 episodes") + 1:-2]
    score_lines = [line for line in out.splitlines() if line.startswith("update ")] + table
    assert "±" not in "".join(score_lines)  # of one episode and one seed
    assert len(score_lines) == 4 and all("[stand-in data]" in line for line in score_lines)
    header, *rows = [line.split(",") for line in (folder / "eval.csv").read_text().splitlines()]
    assert [row[header.index("data")] for row in rows] == ["standin", "standin"]


def test_ctrl_c_while_waiting_for_the_last_evaluation(tmp_path, monkeypatch):
    run, agents = make_run(tmp_path)
    monkeypatch.setattr(run.evaluator, "finished", lambda wait=False: iter(()))  # the worker is slow
    train(run, agents)

    def interrupted(wait=False):
        for _ in range(5):
            signal.raise_signal(signal.SIGINT)
        return iter(())

    monkeypatch.setattr(run.evaluator, "finished", interrupted)
    with pytest.raises(KeyboardInterrupt, match="evaluation is not finished; continue with python .*--resume"):
        run.report()
    run.close()
    code, out, err = run_script(SCRIPT, "--resume", run.folder)
    assert code == 0 and "resumed at update 4" in out, err
    assert [line.split(",")[0] for line in (run.folder / "eval.csv").read_text().splitlines()] == ["step", "2", "4"]


def test_no_git_on_the_machine(tmp_path):
    code, _, err = run_script(SCRIPT, *script_flags(tmp_path), env=os.environ | {"PATH": str(tmp_path)})
    assert code == 0 and err == "", err


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_minari_dataset_with_its_own_environment_and_no_references(tmp_path, monkeypatch):
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    data = make_data(rows=40)
    episode = EpisodeBuffer(id=0, observations=np.concatenate([data.obs, data.next_obs[-1:]]).astype(np.float64), actions=data.action.numpy(),
                            rewards=data.reward.numpy(), terminations=np.zeros(40, bool), truncations=np.arange(40) == 39)
    minari.create_dataset_from_buffers("test/hopper-v0", [episode], env="Hopper-v5")
    code, out, err = run_script(SCRIPT, *script_flags(tmp_path, env="test/hopper-v0", eval_env="auto"))
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
    assert config["physics"] == "stored" and config["dataset_source"] == "minari"
    assert result["unit"] == "return (no reference scores)" and "return (no reference scores), 2 episodes" in out
    assert result["seeds"]["0"]["best"] > 0


def test_a_converted_d4rl_dataset_is_evaluated_as_d4rl(tmp_path, monkeypatch):
    from common.data import to_minari
    from common.sources import D4RL

    monkeypatch.setitem(D4RL["hopper-medium-v1"], "bytes", "")
    folder = Path(os.environ["D4RL_DATASET_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    import h5py
    data = make_data(rows=40)
    with h5py.File(folder / "hopper_medium-v1.hdf5", "w") as file:
        for key, value in dict(observations=data.obs, actions=data.action, rewards=data.reward, next_observations=data.next_obs,
                               terminals=data.done, timeouts=torch.arange(40) == 39).items():
            file[key] = value.numpy()
    name = to_minari("hopper-medium-v1")
    run, agents = make_run(tmp_path, env=name, eval_env="auto")
    assert run.task == "hopper-medium-v1"


# Weights & Biases


def test_tracking_is_offline_and_optional(tmp_path):
    env = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    code, _, err = run_script(SCRIPT, *script_flags(tmp_path), "--track", env=env)
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    (tmp_path / "probe.py").write_text(f"import runpy, sys\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')\nassert 'wandb' not in sys.modules")
    code, _, err = run_script(tmp_path / "probe.py", *script_flags(tmp_path))
    assert code == 0, err


@pytest.fixture
def wandb(monkeypatch):
    """A module that writes down what it is told."""
    told = SimpleNamespace(runs=[], rows=[], metrics=[])
    run = SimpleNamespace(log=told.rows.append, define_metric=lambda name, **options: told.metrics.append((name, options)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: told.runs.append(options) or run))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return told


def test_a_tracked_run_stays_the_same_one(wandb, tmp_path, monkeypatch):
    """By its id in config.json: through `.`, a link, another name, and in the project that the environment names."""
    run, agents = make_run(tmp_path, track=True, env=str(tmp_path / "höpper:v2.npz") if write_npz(tmp_path / "höpper:v2.npz") is None else "")
    ident = json.loads((run.folder / "config.json").read_text())["wandb_id"]
    assert re.fullmatch("td3_bc-h-pper-v2-2[0-9-]+", ident)
    run.save()
    (tmp_path / "link").symlink_to(run.folder)
    monkeypatch.chdir(run.folder)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    made = run.folder
    for folder in (Path("."), tmp_path / "link", tmp_path / "renamed"):
        if folder.name == "renamed":
            made.rename(folder)
        run.folder = folder
        run, _ = resumed(run)
    assert [options["id"] for options in wandb.runs] == [ident] * 4 and {options["resume"] for options in wandb.runs} == {"allow"}
    assert [options["project"] for options in wandb.runs] == ["solo", "mine", "mine", "mine"]
    assert {options["group"] for options in wandb.runs} == {f"td3_bc-{run.args.env}"[-128:]}
    config = json.loads(Path("config.json").read_text())
    del config["wandb_id"]  # of an older version
    Path("config.json").write_text(json.dumps(config))
    run.folder = Path(".")
    resumed(run)
    assert wandb.runs[-1]["id"] == "renamed"


def test_step_is_the_axis_of_everything_that_is_tracked(wandb, tmp_path):
    run, agents = make_run(tmp_path, track=True, seeds=(3, 1))
    train(run, agents)
    run.report()
    assert wandb.metrics == [("step", {}), ("*", {"step_metric": "step"})]
    assert [row["step"] for row in wandb.rows if "log/seed3/critic_loss" in row] == [1, 2, 3, 4]
    assert [(row["step"], row["eval/seed1/score"]) for row in wandb.rows if "eval/seed1/score" in row] == [(2, run.scores[1][0]), (4, run.scores[1][1])]
    assert all(isinstance(value, (int, float)) for row in wandb.rows for value in row.values())


def test_tracking_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="--track: .*wandb login, set WANDB_MODE=offline, or leave it out: --resume"):
        make_run(tmp_path, track=True)


# Weights of another run: --init-from


def states(agent, optimizers=False):
    """Parameters and buffers of an agent's modules, and its single parameters; or what its optimisers have."""
    if optimizers:
        return {name: value.state_dict()["state"] for name, value in vars(agent).items() if isinstance(value, torch.optim.Optimizer)}
    modules = {f"{name}.{key}": x.clone() for name, value in vars(agent).items() if isinstance(value, torch.nn.Module) for key, x in value.state_dict().items()}
    return modules | {name: value.detach().clone() for name, value in vars(agent).items() if isinstance(value, torch.Tensor) and value.requires_grad}


def test_a_run_starts_from_the_weights_of_another_seed_by_seed(tmp_path):
    """Other data of the same sizes: weights, targets and normalisation are the old run's; optimisers, counters and random numbers are new."""
    run, agents = make_run(tmp_path, seeds=(0, 1))
    train(run, agents)
    run.report()
    write_npz(tmp_path / "other.npz", seed=5)
    new, others = make_run(tmp_path, seeds=(1, 0), init_from=run.folder, env=str(tmp_path / "other.npz"))
    fresh = td3_bc.TD3BC(new.args, others[0].data, 1)
    for agent, old in zip(others, agents[::-1]):
        mine, its = states(agent), states(old)
        assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine) and "actor.obs_mean" in mine
        assert agent.step == 0 and all(state == {} for state in states(agent, optimizers=True).values())
    assert torch.equal(others[0].rng.get_state(), fresh.rng.get_state()) and not torch.equal(others[0].actor.obs_mean, fresh.actor.obs_mean)
    config, checkpoint = read_config(new.folder), run.folder / "checkpoint.pt"
    assert config["init_from"] == {"run": str(run.folder), "step": 4, "sha256": sha256(checkpoint)} and config["args"]["init_from"] == str(run.folder)
    before = states(agents[0])
    train(new, others)  # and they are copies
    assert all(torch.equal(x, states(agents[0])[name]) for name, x in before.items()) and new.step == 4


def test_one_seed_is_the_start_of_all_and_log_alpha_is_a_weight(tmp_path):
    flags = dict(env=str(tmp_path / "hopper.npz"), updates=3, batch_size=8, num_critics=2, device="cpu", runs=tmp_path / "runs", eval_env="none")
    write_npz(tmp_path / "hopper.npz")
    args = sac_n.Args(**flags, seeds=(7,))
    data = load_dataset(args.env)
    old = sac_n.SACN(args, data, 7)
    run = Run(args, [old])
    train(run, [old])
    run.report()
    assert old.log_alpha.item() != 0
    args = sac_n.Args(**flags, seeds=(0, 1), init_from=run.folder)
    agents = [sac_n.SACN(args, data, seed) for seed in args.seeds]
    Run(args, agents)
    for agent in agents:
        assert all(torch.equal(x, states(old)[name]) for name, x in states(agent).items()) and "log_alpha" in states(agent)


@pytest.mark.parametrize("flags, match", [
    (["--init-from", "nowhere"], "nowhere: no run folder"), (["--init-from", "runs"], "no run folder"), (["--seeds", "0", "2"], "has no seed 2, only 0 1"),
    (["--env", "wide.npz"], "its observations have 11 numbers and its actions 3, those of .*wide.npz 5 and 3"), ("other", "a run of rorl.py"), ("no checkpoint", "has no checkpoint yet"),
    ("damaged", "checkpoint.pt is damaged"), ("changed", "it was saved with alpha 2.5, config.json has 9"), ("old", "KeyError|'action_size'|older version made it")])
def test_what_cannot_be_a_start_is_one_line(flags, match, tmp_path):
    run, agents = make_run(tmp_path, seeds=(0, 1), eval_env="none")
    train(run, agents)
    run.report()
    data = make_data(obs_size=5)
    np.savez(tmp_path / "wide.npz", observations=data.obs, actions=data.action, rewards=data.reward, next_observations=data.next_obs, terminals=data.done)
    config = read_config(run.folder)
    change = {"other": {"algorithm": "rorl"}, "changed": {"args": config["args"] | {"alpha": 9.0}}}.get(flags if isinstance(flags, str) else "", {})
    config |= change
    if flags == "old":
        del config["action_size"]
    (run.folder / "config.json").write_text(json.dumps(config))
    if flags == "no checkpoint":
        (run.folder / "checkpoint.pt").unlink()
    elif flags == "damaged":
        (run.folder / "checkpoint.pt").write_bytes((run.folder / "checkpoint.pt").read_bytes()[:1000])
    words = [str(tmp_path / word) if word in ("wide.npz", "nowhere", "runs") else word for word in ([] if isinstance(flags, str) else flags)]
    before = sorted((tmp_path / "runs").iterdir())
    code, _, err = run_script(SCRIPT, "--env", tmp_path / "hopper.npz", "--updates", 2, "--runs", tmp_path / "runs", "--init-from", run.folder, *words)
    assert code == 2 and re.search(match, one_line(err)), err
    assert sorted((tmp_path / "runs").iterdir()) == before


def test_networks_of_other_flags_are_one_line(tmp_path):
    write_npz(tmp_path / "hopper.npz")
    words = ["--env", tmp_path / "hopper.npz", "--updates", 2, "--batch-size", 8, "--runs", tmp_path / "runs"]
    code, _, err = run_script(ROOT / "algorithms/sac_n.py", *words, "--num-critics", 2)
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    code, _, err = run_script(ROOT / "algorithms/sac_n.py", *words, "--num-critics", 3, "--init-from", folder)
    assert code == 2 and "its networks are not those of these flags (Error(s) in loading state_dict" in one_line(err)
    code, out, err = run_script(ROOT / "algorithms/sac_n.py", *words, "--num-critics", 2, "--init-from", os.path.relpath(folder))
    assert code == 0, err
    new = max((tmp_path / "runs").iterdir())
    assert read_config(new)["args"]["init_from"] == str(folder)  # however it was named
    shutil.rmtree(folder)
    code, out, err = run_script(ROOT / "algorithms/sac_n.py", "--resume", new)  # its own weights are in its checkpoint
    assert code == 0 and "resumed at update 2" in out, err
    (new / "checkpoint.pt").unlink()
    code, out, err = run_script(ROOT / "algorithms/sac_n.py", "--resume", new)
    assert code == 2 and "no run folder" in one_line(err)


def test_a_run_without_a_checkpoint_starts_from_the_same_weights_or_not_at_all(tmp_path):
    first, agents = make_run(tmp_path, eval_env="none")
    train(first, agents)
    first.report()
    new, others = make_run(tmp_path, eval_env="none", init_from=first.folder)
    start = states(others[0])
    again, others = resumed(new)
    assert all(torch.equal(x, start[name]) for name, x in states(others[0]).items())
    again.close()
    longer, agents = resumed(first, updates=6)
    train(longer, agents)
    longer.report()
    with pytest.raises(InputError, match="has other weights than those that .* started from"):
        resumed(new)
