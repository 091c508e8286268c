"""`python -m common.evaluation`: trained policies played again, their intervals, and films of them."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from common import InputError, RunError, evaluation, film, loading
from common.args import cli
from common.evaluation import Args, Trained, evaluate, interval, main, play
from tests.helpers import ROOT, train
from tests.test_attacks import from_a_file, one_line, rows_of, without_facts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("judged")
    return {"td3_bc": train(place, "td3_bc", "--seeds", 0, 3), "sac_n": train(place, "sac_n")}


@pytest.fixture
def copies(trained, tmp_path):
    return {name: Path(shutil.copytree(folder, tmp_path / folder.name)) for name, folder in trained.items()}


def command(*words):
    return main(cli(Args, list(map(str, words))))


def lines(out) -> list[dict]:
    """The printed table."""
    head, *rows = [re.split(r"  +", line.strip()) for line in out.split("\n\n")[0].splitlines()]
    return [dict(zip(head, row)) for row in rows]


def state(folder):
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def returns_of(folder, *words):
    """Returns (seeds, episodes) as the command plays them."""
    args = cli(Args, [str(folder), *map(str, words)])
    return play([Trained(folder, args, {})], args)[0]


def test_a_run_s_last_evaluation_is_repeated_and_its_files_stay(trained, capsys):
    before = {name: state(folder) for name, folder in trained.items()}
    command(*trained.values(), "--episodes", 3)
    out, two = capsys.readouterr().out, trained["td3_bc"]
    assert [row["run"] for row in lines(out)] == [folder.name for folder in trained.values()]
    for row, (name, folder) in zip(lines(out), trained.items()):
        last = [float(line["return_mean"]) for line in rows_of(folder / "eval.csv")]
        assert returns_of(folder, "--episodes", 3).mean(1).tolist() == last  # to the last digit
        assert row["return"].startswith(f"{np.mean(last):.1f} [") and row["update"] == "40" and row["physics"] == "d4rl-1"
        assert row["episodes"] == ("2 x 3" if folder == two else "1 x 3") and row["data"] == "file" and row["task"] == "hopper-medium-v2"
        assert row["each seed"].split() == [f"{float(line['score']):.1f}" for line in rows_of(folder / "eval.csv")]
    assert "bootstrap over episodes, within each seed" in " ".join(out.split()) and "STAND-IN" not in out
    assert {name: state(folder) for name, folder in trained.items()} == before


def test_workers_and_blocks_change_no_digit(trained):
    one, two = (returns_of(trained["td3_bc"], "--episodes", 7, "--workers", workers) for workers in (1, 2))
    assert one.shape == (2, 7) and np.array_equal(one, two)
    assert np.array_equal(one[:, :3], returns_of(trained["td3_bc"], "--episodes", 3))


def test_the_seed_is_that_of_start_states(trained):
    """Without it each agent has its own, as in training."""
    folder = trained["td3_bc"]
    actors = [loading.load(folder, seed=seed).actor for seed in (0, 3)]
    for words, seeds in (([], (0, 3)), (["--seed", 5], (5, 5))):
        expected = [evaluate(actor, "hopper-medium-v2", 3, seed)[0] for actor, seed in zip(actors, seeds)]
        assert np.array_equal(returns_of(folder, "--episodes", 3, *words), expected)


def test_physics_and_another_task(trained, capsys):
    folder, printed = trained["sac_n"], []
    plain, stock = (returns_of(folder, "--episodes", 2, *words) for words in ([], ["--physics", "stock"]))
    assert not np.array_equal(plain, stock)
    for words in (["--physics", "stock"], ["--env", "Hopper-v5"]):
        command(folder, "--episodes", 2, *words)
        printed += lines(capsys.readouterr().out)
    first, second = printed
    assert first["physics"] == second["physics"] == "stock" and first["return"] == second["return"]  # one simulator, two names
    assert first["score"] != "-" and second["score"] == "-" and second["task"] == "Hopper-v5"
    assert second["each seed"] == f"{stock.mean():.1f}"


def test_an_unfinished_run_on_a_stand_in_is_told_as_such(copies, capsys):
    folder = copies["td3_bc"]
    (folder / "result.json").unlink()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({key: value for key, value in saved.items() if key != "facts"} | {"step": 17}, folder / "checkpoint.pt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dataset_source": "standin"}))
    command(folder, "--episodes", 1)
    out = capsys.readouterr().out
    (row,) = lines(out)
    assert row["update"] == "17" and row["data"] == "stand-in data" and "STAND-IN DATA, not D4RL's" in out and "[one episode]" in row["return"]


def test_another_version_of_the_physics_is_told(copies, capsys, monkeypatch):
    monkeypatch.setitem(evaluation.version.__globals__["VERSIONS"], "hopper", 2)
    command(copies["sac_n"], "--episodes", 1)
    out = capsys.readouterr().out
    assert "was evaluated under the physics d4rl-1, now under d4rl-2" in out and "d4rl-2" in lines(out.partition("\n")[2])[0]["physics"]


# Intervals


def test_the_interval_is_over_episodes_within_each_seed():
    assert interval(np.array([[1.0] * 9, [5.0] * 9])) == (3.0, 3.0)  # seeds are not drawn anew
    rng = np.random.default_rng(1)
    found = rng.normal(0, 1, (2, 200)) + np.array([[0.0], [50.0]])
    low, high = interval(found)
    half = 1.96 * np.sqrt((found.var(1) / 200).sum()) / 2  # of a mean of two independent means
    assert low == pytest.approx(found.mean() - half, abs=0.01) and high == pytest.approx(found.mean() + half, abs=0.01)
    assert interval(found) == (low, high)


def test_the_interval_holds_the_mean_in_about_95_of_100_cases():
    rng = np.random.default_rng(2)
    hit = [low <= 1.0 <= high for low, high in (interval(rng.uniform(0.0, 2.0, (3, 50)), draws=400) for _ in range(300))]
    assert 0.91 < np.mean(hit) < 0.98


# Films


class Drawn:
    """Around an environment: a picture whose colour counts the steps, as a renderer would give it."""

    def __init__(self, env):
        self.env, self.count, self.metadata = env, 0, {"render_fps": 20}

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset(self, seed):
        self.count = 0
        return self.env.reset(seed=seed)

    def step(self, action):
        self.count += 1
        return self.env.step(action)

    def render(self):
        return np.full((6, 4, 3), self.count, np.uint8)


@pytest.fixture
def drawn(monkeypatch):
    real = film.make_env
    monkeypatch.setattr(film, "make_env", lambda *world, render, **how: Drawn(real(*world, **how)))
    monkeypatch.setenv("MUJOCO_GL", "egl")


def test_a_strip_shows_the_first_episode_from_start_to_end(trained, drawn, tmp_path, capsys):
    folder = trained["td3_bc"]
    actor = loading.load(folder, seed=0).actor
    length = int(evaluate(actor, "hopper-medium-v2", 3, 0)[1][0])
    before = state(folder)
    command(folder, "--episodes", 3, "--frames", tmp_path / "new/strip.png")
    image = (imread(tmp_path / "new/strip.png") * 255).round().astype(int)
    assert image.shape == (6, 8 * 4, 3) and state(folder) == before
    assert image[0, ::4, 0].tolist() == np.linspace(0, length, 8).round().tolist()  # steps: the first, the last, and six between
    assert f"seed 0, its first episode:\nreset(100), {length} steps: {tmp_path}/new/strip.png" in capsys.readouterr().out


def test_png():
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    content = film.png(image)
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">2I", content[16:24]) == (7, 5)


def test_a_video_needs_an_encoder(trained, drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match="--video needs an encoder: pip install imageio-ffmpeg"):
        command(trained["td3_bc"], "--video", tmp_path / "a.mp4")
    assert not list(tmp_path.glob("a*"))


def test_a_video_has_a_frame_a_step(trained, tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    real = film.make_env
    monkeypatch.setattr(film, "make_env", lambda *world, render, **how: Drawn(real(*world, **how)))
    monkeypatch.setattr(Drawn, "render", lambda self: np.full((64, 64, 3), self.count, np.uint8))
    command(trained["td3_bc"], "--episodes", 3, "--video", tmp_path / "a.mp4")
    frames, _ = ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))
    assert frames == 1 + int(evaluate(loading.load(trained["td3_bc"]).actor, "hopper-medium-v2", 3, 0)[1][0])


def test_a_renderer_that_is_not_here_is_one_line_before_anything_is_played(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    monkeypatch.setattr(evaluation, "play", lambda *_: pytest.fail("played"))
    with pytest.raises(InputError, match="hopper-medium-v2: cannot be drawn here .*MUJOCO_GL=nonsense, try egl, osmesa or glfw"):
        command(trained["td3_bc"], "--frames", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_the_robot_is_seen(trained, tmp_path):
    """Where MuJoCo can draw, as a person would start it: without MUJOCO_GL, in a process of its own."""
    words = [sys.executable, "-m", "common.evaluation", trained["td3_bc"], "--episodes", "1", "--frames", tmp_path / "a.png"]
    env = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True, cwd=tmp_path)
    if "cannot be drawn here" in done.stderr:
        one_line(done.stderr)
        pytest.skip(done.stderr)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    frames = np.split(imread(tmp_path / "a.png"), 8, 1)
    orange = [(frame[..., 0] > frame[..., 2] + 0.25).sum() for frame in frames]  # its leg and foot
    assert min(orange) > 500 and not np.array_equal(frames[0], frames[-1])


@pytest.mark.parametrize("task", ["halfcheetah-medium-v2", "walker2d-medium-v2", "ant-medium-v2", "Hopper-v5"])
def test_the_camera_follows_the_robot(task, monkeypatch):
    """20 metres away it looks as at the start, and not as an empty floor."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    try:
        film.check((task, "d4rl"), None)
    except InputError as error:
        pytest.skip(str(error))
    env, pictures = film._stage((task, "d4rl")), []
    for x in (0.0, 20.0, 400.0):
        env.reset(seed=0)
        env.unwrapped.data.qpos[0] = x
        env.step(np.zeros(env.action_space.shape))
        pictures.append(env.render().astype(int))
    env.close()
    robot = [(picture[..., 0] > picture[..., 2] + 30).sum() for picture in pictures]  # reddish: no floor and no sky is
    assert min(robot) > 500 and max(robot) < 1.3 * min(robot), robot


# Bad input


def test_bad_input_is_one_line_and_makes_nothing(copies, tmp_path):
    folder, out = copies["td3_bc"], tmp_path / "out"
    alone, bare, torn = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("alone", "bare", "torn"))
    without_facts(alone)
    config = json.loads((alone / "config.json").read_text())
    (bare / "checkpoint.pt").unlink()
    (torn / "checkpoint.pt").write_bytes((torn / "checkpoint.pt").read_bytes()[:-9])

    def change(**values):
        args = {key: values.pop(key) for key in list(values) if key in config["args"]}
        (alone / "config.json").write_text(json.dumps(config | values | {"args": config["args"] | args}))
        saved = torch.load(alone / "checkpoint.pt", weights_only=True)
        torch.save({key: value for key, value in saved.items() if key != "settings"}, alone / "checkpoint.pt")
        return alone
    for words, match in (
            ([], "name one or more run folders|required"), ([tmp_path], "no run folder"), ([bare], "bare: has no checkpoint yet"), ([torn], "damaged"),
            ([folder, "--episodes", 0], "--episodes 0"), ([folder, "--workers", 0], "--workers 0"), ([folder, "--seed", -1], "--seed -1"),
            ([folder, "--physics", "real"], "--physics"), ([folder, "--env", "Hoper-v5"], "Hoper-v5: .*did you mean Hopper-v"),
            ([folder, "--env", "Pendulum-v1"], "Pendulum-v1 has observations .3,. and actions .1,., its networks take .11,. and give .3,."),
            ([folder, "--env", "CartPole-v1"], "only flat Box spaces"), ([folder, "--script", tmp_path / "x.py"], "there is no such file"),
            ([folder, "--video", out / "a.avi"], "--video .*a.avi: name a file that ends in .mp4"),
            ([folder, "--frames", out / "a.jpg"], "--frames .*a.jpg: name a file that ends in .png"),
            ([folder, "--frames", "/dev/null/a.png"], "cannot write /dev/null .*--frames"),
            ([change(task=None)], "alone: was trained without a task .*name one with --env")):
        with pytest.raises(InputError, match=match):
            command(*words)
    for values, match in (({"task": "pen-human-v1"}, "no simulator for it here yet"), ({"max_episode_steps": "x"}, "max_episode_steps x"),
                          ({"max_episode_steps": -1}, "max_episode_steps -1"), ({"score_min": 1.0}, "has score_min 1.0 and score_max None"),
                          ({"score_min": 5, "score_max": 1}, "has score_min 5"), ({"data": config["data"] | {"action_low": [0.0] * 3, "action_high": [2.0] * 3}},
                                                                                 "hopper-medium-v2 takes actions from")):
        with pytest.raises(InputError, match=match):
            command(change(**values), "--episodes", 1)
    assert not out.exists()
    done = subprocess.run([sys.executable, "-m", "common.evaluation", str(bare)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "has no checkpoint yet" in one_line(done.stderr)


def test_a_policy_that_diverged_is_named(copies):
    folder = copies["td3_bc"]
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    for parameter in saved["agents"][0]["actor"].values():
        parameter.fill_(float("nan"))
    torch.save(saved, folder / "checkpoint.pt")
    with pytest.raises(RunError, match=f"{folder.name}: evaluation failed .*the actor's action is not finite"):
        command(folder, "--episodes", 1)


def test_only_files_that_the_user_names_are_loaded(copies, tmp_path, capsys):
    """In the worker processes too."""
    folder, script = copies["td3_bc"], tmp_path / "elsewhere/mine.py"
    from_a_file(folder, script, f"open({str(tmp_path / 'EXECUTED')!r}, 'w')\n")
    with pytest.raises(InputError, match="was trained by mine.py, which is not in algorithms/; name it with --script"):
        command(folder)
    assert not (tmp_path / "EXECUTED").exists()
    script.write_text((ROOT / "algorithms/td3_bc.py").read_text())
    command(folder, "--script", script, "--episodes", 4, "--workers", 2)
    assert lines(capsys.readouterr().out)[0]["episodes"] == "2 x 4"
