"""What is trained before the first update: kept, shared, continued where it was killed; and runs of model-based files as processes."""

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from algorithms import mopo
from common import InputError, RunError, lock, pretraining
from common.dynamics import Ensemble, Fit
from common.pretraining import Pretraining, pretrain
from tests.helpers import FLAGS, ROOT, Script, assert_equal_trees, make_data, parameters, run_script, write_npz
from tests.test_resume import RARELY, common_flags, only_folder, same_results

SCRIPT, PRESET = ROOT / "algorithms/mopo.py", replace(mopo.MODEL, hidden=(8,), decay=(0.0, 0.0), batch_size=16, max_epochs=4)


class Stop(Exception):
    """What a kill is to the code: nothing after it is done."""


def fit(data=None, seed=0, preset=PRESET):
    data = make_data(100) if data is None else data
    return Fit(Ensemble(data.obs_size, data.action_size, preset, torch.Generator().manual_seed(seed)), data, preset, seed)


@pytest.fixture
def run(tmp_path):
    """What pretraining needs of a run."""
    import contextlib

    folder = tmp_path / "run"
    folder.mkdir()
    return SimpleNamespace(folder=folder, step=0, stop=None, pretraining=0.0, stoppable=contextlib.nullcontext, command=lambda: "python mopo.py --resume run",
                           close=lambda: None, args=SimpleNamespace(seeds=(0,), save_seconds=0.0))


def kept_files():
    return sorted(path for path in Path(os.environ["SOLO_CACHE"]).glob("*.pt"))


def test_a_model_is_trained_once(run, capsys):
    """The second time it comes from the cache, with its log; not one update is made."""
    first, second = fit(), fit()
    pretrain(run, [lambda: first])
    log = (run.folder / "model.csv").read_bytes()
    (run.folder / "model.csv").unlink()
    second.update = None
    pretrain(run, [lambda: second])
    assert torch.equal(parameters(first.model), parameters(second.model)) and torch.equal(first.model.elites, second.model.elites)
    assert torch.equal(first.model.input_mean, second.model.input_mean)
    assert (run.folder / "model.csv").read_bytes() == log and len(kept_files()) == 1
    rows = list(csv.DictReader(log.decode().splitlines()))
    assert len(rows) == 4 * 7 and rows[-1]["epoch"] == "3" and rows[-1]["seed"] == "0" and float(rows[0]["holdout"]) > 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"model, seed 0: 5 steps an epoch, progress in {run.folder}/model.csv"
    assert out[1] == out[2] and out[1].startswith("model, seed 0: 4 epochs, held-out error ") and "of --model-epochs" in out[1]


@pytest.mark.parametrize("step", [1, 5, 6, 13])
def test_a_kill_inside_an_epoch(step, run, monkeypatch):
    """Training goes on from the last save, and ends bitwise where it would have ended."""
    whole = fit()
    while not whole.done:
        whole.update()
        if whole.step % whole.steps == 0:
            whole.end_epoch()
    whole.finish()
    killed, update = fit(), Fit.update
    monkeypatch.setattr(Fit, "update", lambda self, log=True: (_ for _ in ()).throw(Stop()) if self.step == step else update(self, log))
    with pytest.raises(Stop):
        pretrain(run, [lambda: killed])
    monkeypatch.setattr(Fit, "update", update)
    again, made = fit(), []
    advance = again.update
    again.update = lambda log=True: (made.append(again.step), advance(log))[1]
    pretrain(run, [lambda: again])
    assert made[0] == step and torch.equal(parameters(whole.model), parameters(again.model)) and torch.equal(whole.best, again.best)
    rows = list(csv.DictReader((run.folder / "model.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [epoch for epoch in range(4) for _ in range(7)]


def test_what_is_shared_and_what_is_not(run, monkeypatch):
    """Data, seed and preset make another model; so does another version. Each alone: also a seed with the other's initial weights, and
    data that differ in a reward, of which the scaler knows nothing."""
    other = make_data(100)
    other.reward[7] += 1
    weights = fit().model
    assert len({pretraining._key(Fit(weights, data, PRESET, seed), seed) for data, seed in ((make_data(100), 0), (make_data(100), 1), (other, 0))}) == 3
    keys = {pretraining._key(one, seed) for one, seed in (
        (fit(), 0), (fit(seed=1), 1), (fit(make_data(100, seed=1)), 0), (fit(preset=replace(PRESET, lr=1e-4)), 0))}
    assert len(keys) == 4 and pretraining._key(fit(), 0) in keys
    monkeypatch.setattr(pretraining, "VERSION", 2)
    assert pretraining._key(fit(), 0) not in keys


def test_several_seeds(run):
    run.args.seeds = 0, 1
    fits = {seed: fit(seed=seed) for seed in (0, 1)}
    pretrain(run, [lambda seed=seed: fits[seed] for seed in (0, 1)])
    text = (run.folder / "model.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["seed"] for row in rows] == ["0"] * 28 + ["1"] * 28 and text.count("seed,") == 1
    run.args.seeds = 1, 0  # both from the cache, in another order
    pretrain(run, [lambda seed=seed: fit(seed=seed) for seed in (1, 0)])
    assert sorted((run.folder / "model.csv").read_text().splitlines()) == sorted(text.splitlines())
    alone = fit(seed=1)
    while not alone.done:
        alone.update()
        if alone.step % alone.steps == 0:
            alone.end_epoch()
    alone.finish()
    assert torch.equal(parameters(alone.model), parameters(fits[1].model))


def test_a_resumed_run_has_its_model_already(run):
    run.step = 5
    pretrain(run, [lambda: pytest.fail("nothing is made")])


def test_another_process_is_waited_for(run, capsys):
    """Who waits finds the model that the other has left."""
    path = Pretraining(run, 0, fit(), []).path
    path.parent.mkdir(parents=True, exist_ok=True)
    ready, go = run.folder / "ready", run.folder / "go"
    script = run.folder / "holder.py"
    script.write_text(f"import pathlib, time\nfrom common import lock\npathlib.Path({str(path) + '.lock'!r}).touch()\n"
                      f"held = lock({str(path) + '.lock'!r})\nassert held is not None\npathlib.Path({str(ready)!r}).touch()\n"
                      f"while not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.05)\n")
    holder = Script(script, real=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    holder.until(ready.exists)
    sleep = pretraining.time.sleep
    try:
        pretraining.time.sleep = lambda seconds: (go.touch(), sleep(seconds))
        pretrain(run, [fit])
    finally:
        pretraining.time.sleep = sleep
        go.touch()
        code, _, err = holder.end()
    assert code == 0, err
    assert "another process trains the same one; waiting" in capsys.readouterr().out and len(kept_files()) == 1
    assert lock(f"{path}.lock") is not None


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "damaged|cannot be read"),
    (lambda path: path.write_bytes(b"PK"), "damaged|cannot be read"),
    (lambda path: torch.save({"step": 1, "seconds": 0.0, "agents": [{}]}, path), "cannot be used .*delete it"),
    (lambda path: (path.unlink(), os.mkfifo(path)), "cannot be read")])
def test_a_broken_file(damage, message, run):
    pretrain(run, [fit])
    (path,) = kept_files()
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        pretrain(run, [fit])
    assert "\n" not in str(error.value) and "python mopo.py --resume run" in str(error.value)


def test_a_file_of_another_version_under_this_ones_name(run, monkeypatch):
    pretrain(run, [fit])
    (path,) = kept_files()
    monkeypatch.setattr(pretraining, "VERSION", 2)
    path.rename(Pretraining(run, 0, fit(), []).path)
    with pytest.raises(InputError, match="of other data, or of another version.*delete it"):
        pretrain(run, [fit])


def test_a_model_that_diverges(run, monkeypatch):
    monkeypatch.setattr(Fit, "errors", lambda self: torch.full((7,), torch.nan))
    with pytest.raises(RunError, match="diverged: holdout of the model is not finite, epoch 0, seed 0"):
        pretrain(run, [fit])


def test_without_a_writable_cache(run, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOLO_CACHE", str(tmp_path / "file"))
    trained = fit()
    pretrain(run, [lambda: trained])
    out = capsys.readouterr().out
    assert "warning: the model is not kept" in out and trained.done and (run.folder / "model.csv").exists()


def test_a_cache_that_fills_up(run, monkeypatch, capsys):
    """Training goes on without it, and says so; the file that was there before stays, and the last save is tried as all others."""
    saved, save, full = [], pretraining.save_sealed, {3, 4, 5}

    def sealed(state, file):
        saved.append(state["step"])
        if state["step"] in full:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(pretraining, "save_sealed", sealed)
    update = Fit.update
    monkeypatch.setattr(Fit, "update", lambda self, log=True: (_ for _ in ()).throw(Stop()) if self.step == 5 else update(self, log))
    with pytest.raises(Stop):
        pretrain(run, [fit])
    assert capsys.readouterr().out.count("warning: the model is not kept ([Errno 28] No space left on device); free space") == 3
    monkeypatch.setattr(Fit, "update", update)
    full.clear()
    saved.clear()
    trained = fit()
    pretrain(run, [lambda: trained])
    assert saved[0] == 3 and trained.done and len(kept_files()) == 1 and not list(kept_files()[0].parent.glob("*.part"))
    again = fit()
    again.update = None
    pretrain(run, [lambda: again])
    assert torch.equal(parameters(trained.model), parameters(again.model)) and "not kept" not in capsys.readouterr().out


def test_ctrl_c_saves_and_names_the_command(run):
    trained = fit()
    update = trained.update
    trained.update = lambda log=True: (setattr(run, "stop", 1) if trained.step == 7 else None, update(log))[1]
    with pytest.raises(KeyboardInterrupt, match="stopped in epoch 1 of the model; continue with python mopo.py --resume run"):
        pretrain(run, [lambda: trained])
    run.stop, again = None, fit()
    pretrain(run, [lambda: again])
    assert again.step == 4 * again.steps


PAUSED = """
import os, pathlib, runpy, sys, time
from common.dynamics import Fit
update = Fit.update
def paused(self, log=True):
    if self.step == 3 and pathlib.Path({flag!r}).exists():
        pathlib.Path({flag!r}).rename({flag!r} + ".reached")
        while pathlib.Path({flag!r} + ".reached").exists():
            time.sleep(0.02)
    return update(self, log)
Fit.update = paused
sys.argv[0] = {script!r}
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_run_killed_while_its_model_trains(end, tmp_path, monkeypatch):
    """--resume goes on with the model, and all ends bitwise as if nothing had happened."""
    flags = [*FLAGS["mopo"], "--model-epochs", 6, "--seeds", 0, 1]
    code, out, err = run_script(SCRIPT, *common_flags(tmp_path, "whole", 20, 20, RARELY), *flags, "--eval-workers", 0)
    assert code == 0, err
    monkeypatch.setenv("SOLO_CACHE", str(tmp_path / "another"))
    flag, script = tmp_path / "pause", tmp_path / "mopo.py"
    flag.touch()
    script.write_text(PAUSED.format(flag=str(flag), script=str(SCRIPT)))
    killed = Script(script, *common_flags(tmp_path, "killed", 20, 20), *flags, "--eval-workers", 0)
    killed.until(lambda: not flag.exists())
    killed.process.send_signal(end)
    Path(f"{flag}.reached").unlink()
    code, out, err = killed.end()
    folder = only_folder(tmp_path / "killed")
    assert not (folder / "checkpoint.pt").exists() and "Traceback" not in err
    if end == signal.SIGINT:
        assert code == 130 and f"--resume {folder}" in out + err
    code, out, err = run_script(SCRIPT, "--resume", folder)
    assert code == 0 and err == "", err
    same_results(only_folder(tmp_path / "whole"), folder)
    assert (folder / "model.csv").read_bytes() == (only_folder(tmp_path / "whole") / "model.csv").read_bytes()


def test_own_data_needs_a_rule(tmp_path):
    write_npz(tmp_path / "mine.npz")
    code, out, err = run_script(SCRIPT, "--env", tmp_path / "mine.npz", "--runs", tmp_path / "runs", "--updates", 2)
    assert code == 2 and err.count("\n") == 1 and "--termination auto: there is no rule for own data" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flag, value", [("--rollout-length", 0), ("--penalty-coef", -1), ("--rollout-batch", 0), ("--model-epochs", 0)])
def test_flags_out_of_range(flag, value, tmp_path):
    code, _, err = run_script(SCRIPT, "--env", "hopper-medium-v2", "--runs", tmp_path / "runs", flag, value)
    assert code == 2 and err.startswith(f"error: {flag} {value}") and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["mopo", "combo", "mobile", "rambo", "morel"])
def test_help_shows_the_range_of_the_epochs(name):
    code, out, _ = run_script(ROOT / f"algorithms/{name}.py", "--help")
    assert code == 0 and "--model-epochs [1, 1e6]" in out


@pytest.mark.parametrize("name", ["mopo", "combo", "mobile", "rambo"])
def test_too_few_rows(name, tmp_path):
    """One line, and no run's folder is left behind."""
    write_npz(tmp_path / "mine.npz", rows=4)
    code, _, err = run_script(ROOT / f"algorithms/{name}.py", "--env", tmp_path / "mine.npz", "--eval-env", "hopper-medium-v2", "--runs",
                              tmp_path / "runs", "--updates", 2)
    assert code == 2 and "4 rows are too few for a model" in err and err.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_checkpoints_hold_the_ring_and_the_model(tmp_path):
    write_npz(tmp_path / "hopper.npz")
    code, _, err = run_script(SCRIPT, *common_flags(tmp_path, "runs", 5, 5), *FLAGS["mopo"], "--eval-workers", 0)
    assert code == 0, err
    (agent,) = torch.load(only_folder(tmp_path / "runs") / "checkpoint.pt", weights_only=True)["agents"]
    assert agent["ring"]["rows"].shape == (2 * 2 * 10 + 1, 2 * 11 + 3 + 2) and agent["ring"]["count"] > 0 and "elites" in agent["model"]
    assert_equal_trees(agent["ring"]["rows"][-1], torch.zeros(27))


@pytest.mark.parametrize("algorithm", ["mopo", "rambo", "morel"])
def test_from_other_weights_a_model_is_found_and_no_actor_is_cloned(algorithm, tmp_path):
    """The same data and seed: the model comes from the cache, as without --init-from. The actor is the other run's, and no stage touches it."""
    script, words = ROOT / f"algorithms/{algorithm}.py", [*FLAGS[algorithm], "--eval-workers", 0]
    code, out, err = run_script(script, *common_flags(tmp_path, "first", 9, save=RARELY), *words)
    assert code == 0 and "progress in" in out and ("cloning, seed 0: 2 epochs" in out) == (algorithm != "mopo"), err
    first = only_folder(tmp_path / "first")
    models = {path: path.read_bytes() for path in kept_files()}
    assert models
    code, out, err = run_script(script, *common_flags(tmp_path, "second", 1, save=RARELY), *words, "--init-from", first)
    assert code == 0 and "model, seed 0: 2 epochs" in out and "progress in" not in out, err
    assert (f"cloning, seed 0: left out, the actor is that of {first}" in out) == (algorithm != "mopo")
    assert {path: path.read_bytes() for path in kept_files()} == models
    old, new = (torch.load(f / "checkpoint.pt", weights_only=True)["agents"][0] for f in (first, only_folder(tmp_path / "second")))
    change = max((new["actor"][name] - x).abs().max() for name, x in old["actor"].items())
    assert change < 0.05 and new["step"] == 1, change  # one update from there
