"""A killed run, resumed, ends bitwise where an uninterrupted one ends; agents side by side equal agents alone."""

import json
import os
import signal
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmark.engine.runs import read_run
from common import InputError, load, run
from common.args import parse
from common.checkpoint import save_sealed
from common.graph import side_by_side
from common.run import snapshot
from tests.helpers import (ALGORITHMS, ENDLESS, FLAGS, ROOT, Pause, Script, assert_equal_trees, run_script, save_to_memory, small_agents, train,
                           wait_until, write_npz)

RARELY = ["--save-seconds", 10**6]  # once, at the end


def common_flags(tmp_path, name, updates, eval_every=40, save=("--save-seconds", 0)):
    data = tmp_path / "hopper.npz"
    if not data.exists():
        write_npz(data)
    return ["--env", data, "--eval-env", "hopper-medium-v2", "--updates", updates, "--eval-every", eval_every, "--eval-episodes", 2, "--log-every", 7,
            "--runs", tmp_path / name, *save]


def only_folder(path) -> Path:
    (folder,) = path.iterdir()
    return folder


def same_results(a: Path, b: Path):
    for name in ("log.csv", "eval.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    first, second = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (a, b))
    assert_equal_trees(first["agents"], second["agents"])
    assert first["step"] == second["step"]


@pytest.mark.parametrize("algorithm, real", [("td3_bc", True), ("rorl", False), ("one_step", False), ("mopo", False), ("rambo", False)])
def test_kill_9_and_resume_is_bitwise(algorithm, real, tmp_path):
    """Update 42 is in the logs and not in the checkpoint; the evaluation of update 40 may be under way. It is the adversary's in RAMBO."""
    script, updates, flags, pause = ROOT / f"algorithms/{algorithm}.py", 64, FLAGS[algorithm], Pause(tmp_path / "pause")
    seeds = ["--seeds", "0", "1"]
    code, _, err = run_script(script, *common_flags(tmp_path, "whole", updates, 20, RARELY), *flags, *seeds, "--eval-workers", 0)
    assert code == 0, err
    pause.at(42)
    killed = Script(script, *common_flags(tmp_path, "killed", updates, 20), *flags, *seeds, real=real, env=os.environ | pause.env)
    killed.until(lambda: pause.reached(42))
    code, _, _ = killed.end(signal.SIGKILL)
    folder = only_folder(tmp_path / "killed")
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert code == -signal.SIGKILL and step == 41 and "\n42,1," in (folder / "log.csv").read_text()
    with open(folder / "log.csv", "a") as file:
        file.write("999,0,torn li")  # what a kill in the middle of a write leaves
    code, out, err = run_script(script, "--resume", folder, *RARELY)
    assert code == 0 and err == "", err
    assert "resumed at update 41" in out
    same_results(only_folder(tmp_path / "whole"), folder)
    assert json.loads((folder / "result.json").read_text())["step"] == updates


def test_a_run_of_an_older_version_goes_on_and_is_still_readable(tmp_path):
    """Its config.json and its checkpoint lack what is younger; a checkpoint that has more than config.json would seem to be another run's."""
    folder, module = train(tmp_path, "td3_bc"), import_module("algorithms.td3_bc")
    config, saved = json.loads((folder / "config.json").read_text()), torch.load(folder / "checkpoint.pt", weights_only=True)
    for flag in ("init_from", "holdout", "score_min", "score_max"):
        del config["args"][flag], saved["settings"][flag]
    del config["action_size"], config["init_from"]
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "checkpoint.pt", "w+b") as file:
        save_sealed(saved, file)
    for words in ([], ["--updates", "44"]):
        module.main(parse(module.Args, {}, ["--resume", str(folder), *words]))
        assert load(folder).act([0.0] * 11).shape == (3,) and read_run(folder).checkpoint["step"] == int((words or [0, 40])[1])
    begun = train(tmp_path, "td3_bc", "--init-from", folder)
    assert json.loads((begun / "config.json").read_text())["init_from"]["step"] == 44


def test_an_extension_that_is_cut_short_loses_nothing(tmp_path, monkeypatch):
    """By a full disk, or by a kill before its config.json is written: then the same command goes on, and one without --updates says so."""
    folder, module, whole = train(tmp_path, "td3_bc"), import_module("algorithms.td3_bc"), run.whole
    words, before = ["--resume", str(folder)], {path: path.read_bytes() for path in folder.iterdir()}

    def fails(*_):
        raise OSError("no space left")
    with monkeypatch.context() as patch:
        patch.setattr(run, "save_sealed", fails)
        with pytest.raises(InputError, match="no space left"):
            module.main(parse(module.Args, {}, [*words, "--updates", "44"]))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with monkeypatch.context() as patch:
        patch.setattr(run, "whole", lambda path: fails() if path.name == "config.json" else whole(path))
        with pytest.raises(OSError, match="no space left"):
            module.main(parse(module.Args, {}, [*words, "--updates", "44"]))
    with pytest.raises(InputError, match="go on with --updates 44"):
        module.main(parse(module.Args, {}, words))
    module.main(parse(module.Args, {}, [*words, "--updates", "44"]))
    same_results(folder, train(tmp_path, "td3_bc", "--updates", 44))


def test_kill_9_inside_a_save_leaves_the_checkpoint_before_it(tmp_path):
    """The tenth save writes half its bytes, and is killed."""
    (tmp_path / "td3_bc.py").write_text(f"""import io, os, runpy, torch
save, saves = torch.save, []
def half(state, file):
    save(state, whole := io.BytesIO())
    saves.append(1)
    data = whole.getvalue()
    file.write(data if len(saves) < 10 else data[:len(data) // 2])
    file.flush()
    len(saves) < 10 or os.kill(os.getpid(), 9)
torch.save = half
runpy.run_path({str(ROOT / "algorithms/td3_bc.py")!r}, run_name="__main__")""")
    words = [*FLAGS["td3_bc"], "--eval-workers", 0]
    code, _, _ = run_script(tmp_path / "td3_bc.py", *common_flags(tmp_path, "killed", 30), *words)
    folder = only_folder(tmp_path / "killed")
    assert code == -signal.SIGKILL and (folder / "checkpoint.pt.part").stat().st_size > 0
    for flags in (["--resume", folder], [*common_flags(tmp_path, "whole", 30), *words]):
        code, out, err = run_script(ROOT / "algorithms/td3_bc.py", *flags)
        assert code == 0 and ("resumed at update 9" in out) == (flags[0] == "--resume"), err
    same_results(only_folder(tmp_path / "whole"), folder)
    assert not (folder / "checkpoint.pt.part").exists()


def test_an_own_file_may_call_a_counter_as_it_likes(tmp_path):
    """Also by a name that a file of ours once had."""
    source = (ROOT / "algorithms/td3_bc.py").read_text()
    (tmp_path / "mine.py").write_text(source.replace("        self.step = 0\n", "        self.step = self.time = 0\n"))
    code, _, err = run_script(tmp_path / "mine.py", *common_flags(tmp_path, "runs", 4), *FLAGS["td3_bc"], "--eval-workers", 0)
    assert code == 0 and "self.time" in (tmp_path / "mine.py").read_text(), err
    code, out, err = run_script(tmp_path / "mine.py", "--resume", only_folder(tmp_path / "runs"))
    assert code == 0 and "resumed at update 4" in out, err


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_saved_and_restored_agent_goes_on_bitwise(algorithm):
    """Every file; the state goes into an agent that has drawn other weights, at many points of its schedules."""
    (whole,), logs, states = small_agents(algorithm, [0]), [], {}
    for step in range(40):
        if step in (7, 18, 31):
            states[step] = torch.load(save_to_memory(snapshot(whole)), weights_only=True)
        logs.append({key: value.clone() for key, value in whole.update().items()})
    for start, state in states.items():
        (other,) = small_agents(algorithm, [1])
        snapshot(other, state)
        assert_equal_trees(snapshot(other), state)
        for log in logs[start:]:
            assert_equal_trees({key: value.clone() for key, value in other.update().items()}, log)
        assert_equal_trees(snapshot(other), snapshot(whole))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_updates_without_logs_train_the_same_bitwise(algorithm):
    """At every point of its schedules; and what is logged now and then is what would have been logged always."""
    (quiet,), (loud,) = small_agents(algorithm, [0]), small_agents(algorithm, [0])
    for step in range(40):
        logs = loud.update()
        if step % 7 == 3:
            assert_equal_trees(quiet.update(log=True), logs)
        else:
            assert quiet.update(log=False) == {}
    assert_equal_trees(snapshot(quiet), snapshot(loud))


@pytest.mark.filterwarnings("ignore")
def test_compile_compiles_the_updates(monkeypatch, algorithm="td3_bc"):
    """With a compiler that traces (and warns of its own doings) and changes nothing, each agent's update is what it is without --compile."""
    compiled, compile = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda update: compiled.append(update) or compile(update, backend="eager"))
    plain, agents = small_agents(algorithm, [0, 1]), small_agents(algorithm, [0, 1])
    loop = side_by_side(plain)
    assert not compiled
    for agent in agents:
        agent.args.compile = True
    update = side_by_side(agents)
    assert compiled == [agent.update for agent in agents]
    for step in range(6):
        for log, other in zip(update(log=step % 3 == 0), loop(log=step % 3 == 0)):
            torch.testing.assert_close(log, other, rtol=1e-5, atol=1e-6)
    for agent, other in zip(agents, plain):
        assert agent.step == other.step == 6
        torch.testing.assert_close(snapshot(agent)["critics"], snapshot(other)["critics"], rtol=1e-4, atol=1e-6)
    torch.compiler.reset()


def test_an_agent_needs_no_args_and_older_copies_no_argument():
    """README says what an agent has; a copy from before `log` is called as it always was."""
    class Old:
        rng = torch.Generator()

        def update(self):
            return {"q": 1.0}
    assert side_by_side([Old(), Old()])() == [{"q": 1.0}] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_updates_differ_in_their_last_digits_only():
    (plain,), (agent,) = small_agents("bc", [0]), small_agents("bc", [0])
    agent.args.compile = True
    for one in (plain, agent):
        update = side_by_side([one])
        for _ in range(20):
            update()
    torch.testing.assert_close(snapshot(agent)["actor"], snapshot(plain)["actor"], rtol=1e-4, atol=1e-5)


def test_evaluations_that_were_under_way_are_not_lost(tmp_path, monkeypatch):
    """A checkpoint keeps the weights of evaluations that have not been delivered."""
    from algorithms.td3_bc import TD3BC, Args
    from common.data import load_dataset
    from common.run import Run

    write_npz(tmp_path / "hopper.npz")
    args = Args(env=str(tmp_path / "hopper.npz"), eval_env="hopper-medium-v2", updates=4, eval_every=2, eval_episodes=1, eval_workers=0,
                log_every=1, runs=tmp_path / "runs", batch_size=8, device="cpu")

    def train(args, until):
        agent = TD3BC(args, load_dataset(args.env), 0)
        run = Run(args, [agent])
        if until == 3:
            monkeypatch.setattr(run.evaluator, "finished", lambda wait=False: iter(()))  # a slow worker
        for step in run.steps(until):
            run.log(step, [agent.update()])
            run.evaluate(step)
        run.save()
        return run

    first = train(args, 3)
    assert not (first.folder / "eval.csv").exists()
    args.resume = first.folder
    resumed = train(args, 4)
    resumed.report()
    whole = train(Args(**{**vars(args), "resume": None, "runs": tmp_path / "whole"}), 4)
    whole.report()
    assert (resumed.folder / "eval.csv").read_bytes() == (whole.folder / "eval.csv").read_bytes()
    assert [line.split(",")[0] for line in (whole.folder / "eval.csv").read_text().splitlines()] == ["step", "2", "4"]


def test_seeds_side_by_side_equal_seeds_alone(tmp_path):
    script, flags = ROOT / "algorithms/td3_bc.py", FLAGS["td3_bc"]
    for name, words in (("four", ["--seeds", 0, 1, 2, 3]), ("one", ["--seeds", 3, "--eval-workers", 0])):
        code, _, err = run_script(script, *common_flags(tmp_path, name, 50, save=RARELY), *flags, *words)
        assert code == 0, err
    four, one = only_folder(tmp_path / "four"), only_folder(tmp_path / "one")
    checkpoints = [torch.load(f / "checkpoint.pt", weights_only=True)["agents"] for f in (four, one)]
    assert_equal_trees(checkpoints[0][3], checkpoints[1][0])
    for name in ("log.csv", "eval.csv"):
        rows = [[line for line in (f / name).read_text().splitlines() if line.split(",")[1] in ("seed", "3")] for f in (four, one)]
        assert rows[0] == rows[1] and len(rows[0]) > 1


def endless(tmp_path, name, **options):
    """A run that goes on until it is stopped, once it has a log."""
    script = Script(ROOT / "algorithms/td3_bc.py", *common_flags(tmp_path, name, ENDLESS, save=RARELY), *FLAGS["td3_bc"], **options)
    script.until(lambda: list((tmp_path / name).glob("*/log.csv")))
    return script


@pytest.mark.parametrize("real", [True, False])
def test_ctrl_c_saves_and_names_the_command(real, tmp_path):
    code, _, err = endless(tmp_path, "stopped", real=real, cwd=ROOT).end(signal.SIGINT)
    assert code == 128 + signal.SIGINT
    folder = only_folder(tmp_path / "stopped")
    assert "Traceback" not in err and f"python algorithms/td3_bc.py --resume {folder}" in err
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert f"stopped at update {step:,}; continue with" in err and step > 0


def test_workers_do_not_outlive_a_killed_run(tmp_path):
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc")
    marker = f"SOLO_TEST_{os.getpid()}"
    run = endless(tmp_path, "orphans", real=True, env=os.environ | {marker: "1"})
    run.until(lambda: list((tmp_path / "orphans").glob("*/eval.csv")))

    def alive():
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if marker.encode() in (proc / "environ").read_bytes():
                    found.append(proc.name)
            except OSError:
                pass
        return found

    assert len(alive()) >= 2  # the run and its worker
    run.end(signal.SIGKILL)
    wait_until(lambda: not alive())


def test_a_run_in_training_cannot_be_resumed_beside_it(tmp_path):
    run = endless(tmp_path, "live")
    code, _, err = run_script(ROOT / "algorithms/td3_bc.py", "--resume", only_folder(tmp_path / "live"))
    assert code == 2 and "another process is training this run" in err and err.count("\n") == 1 and run.process.poll() is None
    run.end(signal.SIGKILL)


def test_a_state_that_cannot_be_saved_is_an_error():
    class Agent:
        def __init__(self):
            self.history = [1, 2]

    with pytest.raises(TypeError, match="Agent.history: a checkpoint cannot save a list"):
        snapshot(Agent())


def test_schedulers_and_counters_are_state():
    class Agent:
        def __init__(self):
            self.weight = torch.nn.Parameter(torch.ones(2))
            self.optimizer = torch.optim.Adam([self.weight], 0.1)
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
            self.rng, self.step, self.stats = torch.Generator().manual_seed(0), 0, torch.zeros(2)

        def update(self):
            self.weight.grad = torch.randn(2, generator=self.rng)
            self.optimizer.step(), self.schedule.step()
            self.step += 1
            self.stats += self.weight.detach()

    one, other = Agent(), Agent()
    for _ in range(3):
        one.update()
    snapshot(other, {key: torch.load(save_to_memory(value), weights_only=True) for key, value in snapshot(one).items()})
    one.update(), other.update()
    assert torch.equal(one.weight, other.weight) and torch.equal(one.stats, other.stats) and other.step == 4
    assert one.schedule.get_last_lr() == other.schedule.get_last_lr()


# Extended: --resume RUN --updates N


@pytest.mark.parametrize("algorithm", ["td3_bc", "rorl", "atac", "rambo"])
def test_an_extended_run_equals_the_one_that_had_all_updates_from_the_start(algorithm, tmp_path):
    """Update 33 is the last of the first part: its row and its evaluation are none of a run of 64 updates. RAMBO has a model; ATAC a warm start until 20."""
    script, words = ROOT / f"algorithms/{algorithm}.py", [*FLAGS[algorithm], "--seeds", "0", "1", "--eval-workers", 0]
    code, _, err = run_script(script, *common_flags(tmp_path, "whole", 64, 20, RARELY), *words)
    assert code == 0, err
    code, _, err = run_script(script, *common_flags(tmp_path, "first", 33, 20, RARELY), *words)
    assert code == 0, err
    whole, folder = only_folder(tmp_path / "whole"), only_folder(tmp_path / "first")
    assert "\n33,1," in (folder / "log.csv").read_text() and "\n33,1," in (folder / "eval.csv").read_text() and (folder / "result.json").exists()
    code, out, err = run_script(script, "--resume", folder, "--updates", 64)
    assert code == 0 and err == "", err
    assert "resumed at update 33" in out and "its updates are now 64, not 33; rows that only the old last one had are left out" in out and "lost" not in out
    same_results(whole, folder)
    config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
    assert config["args"]["updates"] == 64 and config["extended"] == [33] and result["step"] == 64
    assert result["seeds"] == json.loads((whole / "result.json").read_text())["seeds"]
    code, out, err = run_script(script, "--resume", folder)  # it is a run of 64 updates now
    assert code == 0 and "resumed at update 64" in out, err
    same_results(whole, folder)


def test_a_stopped_run_takes_more_updates_or_fewer_and_a_kill_is_no_harm(tmp_path):
    """Stopped at update 21 of 64, made a run of 90, killed at once at 42, made one of 50."""
    script, words, pause = ROOT / "algorithms/td3_bc.py", [*FLAGS["td3_bc"], "--eval-workers", 0], Pause(tmp_path / "pause")
    code, _, err = run_script(script, *common_flags(tmp_path, "whole", 50, 20, RARELY), *words)
    assert code == 0, err
    pause.at(21)
    run = Script(script, *common_flags(tmp_path, "runs", 64, 20), *words, env=os.environ | pause.env)
    run.until(lambda: pause.reached(21))
    run.end(signal.SIGKILL)
    folder = only_folder(tmp_path / "runs")
    pause.at(42)
    run = Script(script, "--resume", folder, "--updates", 90, "--save-seconds", 10**6, env=os.environ | pause.env)
    run.until(lambda: pause.reached(42))
    code, _, err = run_script(script, "--resume", folder, "--updates", 50)
    assert code == 2 and "another process is training this run" in err and err.count("\n") == 1  # the lock is of the new config.json
    run.end(signal.SIGKILL)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 20
    code, out, err = run_script(script, "--resume", folder, "--updates", 50)
    assert code == 0 and "resumed at update 20" in out, err
    same_results(only_folder(tmp_path / "whole"), folder)
    assert json.loads((folder / "config.json").read_text())["extended"] == [64, 90]


def test_a_kill_between_checkpoint_and_config_asks_for_the_same_command_again(tmp_path):
    script, words = ROOT / "algorithms/td3_bc.py", [*FLAGS["td3_bc"], "--eval-workers", 0]
    for name, updates in (("whole", 30), ("first", 16)):
        code, _, err = run_script(script, *common_flags(tmp_path, name, updates, 20, RARELY), *words)
        assert code == 0, err
    folder = only_folder(tmp_path / "first")
    before = (folder / "config.json").read_bytes()
    code, _, err = run_script(script, "--resume", folder, "--updates", 30)
    assert code == 0, err
    (folder / "config.json").write_bytes(before)
    code, _, err = run_script(script, "--resume", folder)
    assert code == 2 and "it was saved with updates 30, config.json has 16" in err and err.count("\n") == 1
    for name in ("checkpoint.pt", "config.json"):  # as they were after the checkpoint of update 16
        assert (folder / name).exists()
    (folder / "checkpoint.pt").unlink()
    (folder / "config.json").write_bytes(before)
    code, out, err = run_script(script, "--resume", folder, "--updates", 30)  # no checkpoint: from the start
    assert code == 0 and "resumed at update 0" in out, err
    same_results(only_folder(tmp_path / "whole"), folder)


@pytest.mark.parametrize("algorithm, extra, match", [
    ("iql", [], "its cosine depends on its --updates, 6"), ("combo", [], "its cosine depends"), ("one_step", [], "its stages depends"),
    ("mopo", [], "its cosine depends"), ("mopo", ["--no-cosine"], None), ("xql", ["--no-cosine"], None), ("cql", [], None), ("morel", [], None)])
def test_where_a_schedule_depends_on_the_number_of_updates(algorithm, extra, match, tmp_path, capsys):
    module, data = __import__(f"algorithms.{algorithm}", fromlist=["Args"]), tmp_path / "hopper.npz"
    write_npz(data)
    folder = tmp_path / "run"
    folder.mkdir()
    words = ["--env", str(data), "--eval-env", "hopper-medium-v2", "--updates", "6", "--device", "cpu", "--runs", str(tmp_path), *extra]
    args = parse(module.Args, {}, words)
    (folder / "config.json").write_text(json.dumps({"algorithm": algorithm, "args": asdict(args), "command": "", "data": {}, "dataset_source": "file",
                                                    "task": "hopper-medium-v2", "physics": "d4rl"}, default=str))
    if match:
        with pytest.raises(InputError, match=match) as error:
            parse(module.Args, {}, ["--resume", str(folder), "--updates", "9"])
        assert "\n" not in str(error.value)
    else:
        assert parse(module.Args, {}, ["--resume", str(folder), "--updates", "9"]).updates == 9
    assert parse(module.Args, {}, ["--resume", str(folder), "--updates", "6"]).updates == 6


@pytest.mark.parametrize("said, code", [("", 2), ('    SCHEDULED = ""\n', 0)])
def test_an_own_file_that_reads_the_number_of_updates_must_say_what_for(said, code, tmp_path):
    source = (ROOT / "algorithms/td3_bc.py").read_text()
    source = source.replace("        self.step = 0\n", "        self.step, self.half = 0, args.updates // 2\n").replace("class Args(RunArgs):\n", f"class Args(RunArgs):\n{said}")
    (tmp_path / "mine.py").write_text(source)
    end, _, err = run_script(tmp_path / "mine.py", *common_flags(tmp_path, "runs", 4), *FLAGS["td3_bc"], "--eval-workers", 0)
    assert end == 0, err
    end, _, err = run_script(tmp_path / "mine.py", "--resume", only_folder(tmp_path / "runs"), "--updates", 8)
    assert end == code and (code == 0 or "does not say what for (SCHEDULED in its Args)" in err and err.count("\n") == 1), err
