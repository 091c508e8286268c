"""What pins the loader: D4RL's own loop, exact conversions, one-line refusals of bad input, a marked stand-in."""

import contextlib
import gc
import io
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from common import InputError
from common.data import load_dataset, to_minari, transitions
from common.evaluation import normalized_score
from common.overview import overview
from common.sources import D4RL, read_arrays
from common.physics import VERSIONS
from common.standin import generate, standin_hash
from tests.helpers import ROOT, Script

KEYS = ("observations", "actions", "rewards", "terminals", "next_observations", "timeouts")
# `create_dataset_from_buffers` recommends an author, a permalink and more by one warning each
minari_warns = pytest.mark.filterwarnings("ignore::UserWarning:minari.utils")


def arrays(rows=50, terminals=(17,), timeouts=(33,), without=(), obs_size=4, action_size=2, seed=0):
    """A hand-made file: one true end, one timeout, a cut tail. The true next observation differs from the next row's at every end."""
    rng = np.random.default_rng(seed)
    flags = np.zeros((2, rows), bool)
    flags[0, list(terminals)] = flags[1, list(timeouts)] = True
    obs = rng.normal(size=(rows, obs_size)).astype(np.float32)
    next_obs = np.roll(obs, -1, axis=0)
    ends = np.flatnonzero(flags[0] | flags[1] | (np.arange(rows) == rows - 1))
    next_obs[ends] = rng.normal(size=(len(ends), obs_size)).astype(np.float32)
    made = {"observations": obs, "actions": rng.uniform(-1, 1, (rows, action_size)).astype(np.float32),
            "rewards": rng.normal(size=rows).astype(np.float32), "terminals": flags[0], "next_observations": next_obs, "timeouts": flags[1]}
    return {key: made[key] for key in KEYS if key not in without}


def save(path, columns) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if Path(path).suffix == ".npz":
        np.savez(path, **columns)
    else:
        with h5py.File(path, "w") as file:
            for key, column in columns.items():
                file[key] = column
    return str(path)


def d4rl_path(name) -> Path:
    return Path(os.environ["D4RL_DATASET_DIR"]) / Path(D4RL[name]["path"]).name


def d4rl_file(name, **options) -> dict:
    """A file where D4RL keeps its own; names without a known hash only."""
    columns = arrays(**options)
    save(d4rl_path(name), columns)
    return columns


def hdf5_bytes(tmp_path, **options) -> bytes:
    return Path(save(tmp_path / "served.hdf5", arrays(**options))).read_bytes()


def cached_files() -> list[str]:
    return sorted(path.name for path in Path(os.environ["SOLO_CACHE"]).rglob("*") if path.suffix != ".lock")


@contextlib.contextmanager
def refuses(match):
    with pytest.raises(InputError, match=match) as error:
        yield
    assert "\n" not in str(error.value)


def qlearning_loop(f, horizon=None):
    """D4RL's `qlearning_dataset`, restated: rows (obs, action, reward, next row's obs, done), raw row numbers, episode of each row."""
    rows, numbers, episodes, step, episode = [], [], [], 0, 0
    for i in range(len(f["rewards"]) - 1):
        final = f["timeouts"][i] if "timeouts" in f else step == horizon - 1
        if final:
            step, episode = 0, episode + 1
            continue
        rows.append(np.concatenate([f["observations"][i], f["actions"][i], f["rewards"][i:i + 1], f["observations"][i + 1],
                                    f["terminals"][i:i + 1]]))
        numbers.append(i)
        episodes.append(episode)
        step, episode = (1, episode + 1) if f["terminals"][i] else (step + 1, episode)  # sic: 1 after an end, 0 after a cut
    return np.array(rows, np.float32), np.array(numbers), np.array(episodes)


def bounds(labels):
    """[start, end) of the runs of equal labels."""
    starts = [i for i in range(len(labels)) if i == 0 or labels[i] != labels[i - 1]]
    return [[start, end] for start, end in zip(starts, starts[1:] + [len(labels)])]


# Views


def test_d4rl_view_is_qlearning_dataset_with_true_next_obs(tmp_path):
    f = arrays()
    data = load_dataset(save(tmp_path / "f.hdf5", f), view="d4rl")
    rows, numbers, _ = qlearning_loop(f)
    assert numbers.tolist() == [i for i in range(49) if i != 33]
    expected = rows.copy()
    expected[:, 7:11] = f["next_observations"][numbers]
    np.testing.assert_array_equal(data.rows.numpy(), expected)
    differs = (data.rows.numpy() != rows).any(axis=1)
    assert numbers[differs].tolist() == [17]
    assert data.done.tolist() == (numbers == 17).astype(float).tolist()
    assert data.episodes.tolist() == [[0, 18], [18, 33], [33, 48]]


def test_d4rl_view_without_next_observations(tmp_path):
    f = arrays(without=["next_observations"])
    data = load_dataset(save(tmp_path / "f.npz", f))
    rows, numbers, _ = qlearning_loop(f)
    rows[17, 7:11] = f["observations"][17]
    assert data.source["view"] == "d4rl"
    np.testing.assert_array_equal(data.rows.numpy(), rows)
    np.testing.assert_array_equal(data.next_obs[17].numpy(), f["observations"][17])
    assert data.done[17] == 1 and data.done.sum() == 1
    assert data.episodes.tolist() == [[0, 18], [18, 33], [33, 48]]


def test_next_obs_view_keeps_every_row(tmp_path):
    f = arrays()
    data = load_dataset(save(tmp_path / "f.npz", f))
    assert data.source["view"] == "next_obs" and len(data.rows) == data.source["rows"] == 50
    for column, key in zip((data.obs, data.action, data.reward, data.next_obs, data.done), KEYS[:3] + ("next_observations", "terminals")):
        np.testing.assert_array_equal(column.numpy(), f[key].astype(np.float32))
    assert data.done[33] == 0
    assert data.episodes.tolist() == [[0, 18], [18, 34], [34, 50]]


def drawn_with_next_actions(data, f) -> dict[int, np.ndarray]:
    """{row in the file: its next action} of many draws."""
    batch, next_action = data.sample_sarsa(4000, torch.Generator().manual_seed(0))
    number = {obs.tobytes(): i for i, obs in enumerate(f["observations"])}
    return {number[obs.numpy().tobytes()]: action.numpy() for obs, action in zip(batch.obs, next_action)}


@pytest.mark.parametrize("view, without", [("next_obs", ()), ("d4rl", ()), ("d4rl", ("next_observations",))])
def test_next_actions_are_the_files(tmp_path, view, without):
    """Rows: 0-17 end truly, 18-33 by a timeout, 34-49 by the end of the file.

    Nothing follows rows 33 and 49 in view next_obs. View d4rl has no such rows; the actions after 32 and 48 are theirs.
    """
    f = arrays(without=without)
    data = load_dataset(save(tmp_path / "f.npz", f), view=view)
    drawn = drawn_with_next_actions(data, f)
    assert sorted(drawn) == [i for i in range(50) if i not in (33, 49)]
    for row in set(drawn) - {17}:
        np.testing.assert_array_equal(drawn[row], f["actions"][row + 1])
    assert np.isfinite(drawn[17]).all()  # it means nothing, but 0 times it must be 0
    assert len(data.followed) == 48 and len(data.rows) == (50 if view == "next_obs" else 48)


def test_next_actions_by_hand(tmp_path):
    """Ten rows whose actions are 0.0 to 0.9: a true end at row 2, timeouts at 5 and, straight after it, 6; the file ends at 9."""
    f = arrays(10, (2,), (5, 6), action_size=1)
    f["actions"] = np.arange(10, dtype=np.float32)[:, None] / 10
    kept = load_dataset(save(tmp_path / "f.npz", f), view="d4rl")  # rows 0 1 2 | 3 4 | 7 8
    assert kept.episodes.tolist() == [[0, 3], [3, 5], [5, 7]] and kept.followed.tolist() == [0, 1, 2, 3, 4, 5, 6]
    expected = [0.1, 0.2, 0.0, 0.4, 0.5, 0.8, 0.9]  # 0 at the true end
    np.testing.assert_allclose(kept.next_action[:, 0], expected)
    np.testing.assert_allclose(kept.last_next_action[:, 0], [0.3, 0.5, 0.9])
    every = load_dataset(f"{tmp_path}/f.npz", view="next_obs")
    assert every.followed.tolist() == [0, 1, 2, 3, 4, 7, 8] and every.last_next_action is None
    np.testing.assert_allclose(every.next_action[:, 0], [0.1, 0.2, 0.0, 0.4, 0.5, np.nan, np.nan, 0.8, 0.9, np.nan])
    for data, index, followed, found in (
            (kept, [0, 2, 4, 5], [0, 1, 2, 3], [0.1, 0.0, 0.5, 0.8]),  # gaps, the row before a timeout, half an episode
            (every, [0, 2, 4, 5, 7, 9], [0, 1, 2, 4], [0.1, 0.0, 0.5, np.nan, 0.8, np.nan])):
        part = data.subset(torch.tensor(index))
        assert part.followed.tolist() == followed
        np.testing.assert_allclose(part.next_action[:, 0], found)
        again = part.subset(torch.arange(1, len(index)))
        np.testing.assert_allclose(again.next_action[:, 0], found[1:])


def test_terminal_rows_without_next_actions(tmp_path):
    """The last row of a file is a true end: the view next_obs draws it, the view d4rl has lost it."""
    f = arrays(6, (2, 5), ())
    assert load_dataset(save(tmp_path / "f.npz", f), view="next_obs").followed.tolist() == [0, 1, 2, 3, 4, 5]
    assert load_dataset(f"{tmp_path}/f.npz", view="d4rl").followed.tolist() == [0, 1, 2, 3, 4]


def test_subset(tmp_path):
    data = load_dataset(save(tmp_path / "f.npz", arrays()))
    index = torch.tensor([3, 4, 16, 17, 40, 41, 49])
    part = data.subset(index)
    assert torch.equal(part.rows, data.rows[index]) and part.episodes.tolist() == [[0, 2], [2, 4], [4, 6], [6, 7]]  # cut at gaps too
    torch.testing.assert_close(part.obs_mean, data.obs[index].mean(0))
    torch.testing.assert_close(part.obs_std, data.obs[index].std(0, correction=0))
    assert part.source["rows"] == 7 and data.source["rows"] == 50 and part.source["sha256"] == data.source["sha256"]
    drawn = part.sample(500, torch.Generator().manual_seed(0))
    assert {tuple(obs.tolist()) for obs in drawn.obs} == {tuple(obs.tolist()) for obs in data.obs[index]}
    assert data.subset(torch.arange(50)).episodes.tolist() == data.episodes.tolist()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("with_next", [True, False])
def test_random_flags_equal_the_loop(seed, with_next):
    rng = np.random.default_rng(100 + seed)
    kind = rng.choice(3, 40, p=[0.6, 0.2, 0.2])
    f = arrays(40, np.flatnonzero(kind == 1), np.flatnonzero(kind == 2), [] if with_next else ["next_observations"], seed=seed)
    rows, numbers, labels = qlearning_loop(f)
    rows[:, 7:11] = (f["next_observations"] if with_next else np.where(f["terminals"][:, None], f["observations"],
                                                                        np.roll(f["observations"], -1, axis=0)))[numbers]
    columns, keep, episodes, _ = transitions(f, "d4rl", "f", D4RL["ant-medium-v2"])
    np.testing.assert_array_equal(np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1)[keep], rows)
    assert episodes.tolist() == bounds(labels)
    if with_next:
        columns, keep, episodes, _ = transitions(f, "next_obs", "f", None)
        assert keep.all()
        np.testing.assert_array_equal(columns[3], f["next_observations"])
        np.testing.assert_array_equal(columns[4], f["terminals"])
        ends = np.flatnonzero(f["terminals"] | f["timeouts"] | (np.arange(40) == 39)) + 1
        assert episodes.tolist() == [[start, end] for start, end in zip([0, *ends[:-1]], ends)]


def test_kitchen_is_cut_by_its_horizon():
    f = d4rl_file("kitchen-complete-v0", rows=900, terminals=(99, 899), timeouts=(), without=["timeouts", "next_observations"])
    data = load_dataset("kitchen-complete-v0")
    rows, numbers, labels = qlearning_loop(f, horizon=280)
    assert set(range(899)) - set(numbers) == {378, 658}
    rows[99, 7:11] = f["observations"][99]
    np.testing.assert_array_equal(data.rows.numpy(), rows)
    assert data.done.nonzero().flatten().tolist() == [99]
    assert data.episodes.tolist() == bounds(labels) == [[0, 100], [100, 378], [378, 657], [657, 897]]


def test_ends_unknown(tmp_path):
    path = save(tmp_path / "f.npz", arrays(without=["timeouts", "next_observations"]))
    for view in ("auto", "d4rl"):
        with refuses("neither `next_observations` nor `timeouts`"):
            load_dataset(path, view=view)


def test_next_observations_without_timeouts(tmp_path):
    f = arrays(without=["timeouts"])
    path = save(tmp_path / "f.npz", f)
    data = load_dataset(path)
    np.testing.assert_array_equal(data.next_obs.numpy(), f["next_observations"])
    assert data.episodes.tolist() == [[0, 18], [18, 50]]
    assert len(load_dataset(path, view="d4rl").rows) == 49


def test_float_flags_and_column_rewards(tmp_path):
    f = arrays()
    wide = f | {"terminals": f["terminals"].astype(np.float32)[:, None], "timeouts": f["timeouts"].astype(np.uint8),
                "rewards": f["rewards"].astype(np.float64)[:, None], "observations": f["observations"].astype(np.float64)}
    for view in ("d4rl", "next_obs"):
        plain = load_dataset(save(tmp_path / "plain.npz", f), view=view)
        data = load_dataset(save(tmp_path / "wide.hdf5", wide), view=view)
        assert data.reward.shape == data.done.shape == (len(data.rows),) and data.rows.dtype == torch.float32
        assert torch.equal(data.rows, plain.rows) and torch.equal(data.episodes, plain.episodes)


def test_infos_are_left_alone(tmp_path):
    f = arrays()
    data = load_dataset(save(tmp_path / "f.hdf5", f | {"infos/qpos": np.full(3, np.nan), "metadata/algorithm": np.bytes_("SAC")}))
    np.testing.assert_array_equal(data.obs.numpy(), f["observations"])


def test_view_d4rl_is_the_default_of_d4rl_names():
    d4rl_file("ant-medium-v2")
    data = load_dataset("ant-medium-v2")
    assert (data.source["view"], len(data.rows), data.task, data.standin) == ("d4rl", 48, "ant-medium-v2", False)
    assert len(load_dataset("ant-medium-v2", view="next_obs").rows) == 50


# Batches and statistics


@pytest.fixture
def numbered(tmp_path):
    """Row i holds i in every column."""
    i = np.arange(30, dtype=np.float32)
    return load_dataset(save(tmp_path / "numbered.npz", {
        "observations": i[:, None] * [1, 10, 100], "actions": i[:, None] / 100 * [1, -1], "rewards": i + 0.25,
        "next_observations": i[:, None] * [1, 10, 100] + 0.5, "terminals": i % 7 == 0}))


def test_sample_rows_belong_together(numbered):
    batch = numbered.sample(1000, torch.Generator().manual_seed(0))
    i = batch.reward - 0.25
    assert [tuple(column.shape) for column in batch] == [(1000, 3), (1000, 2), (1000,), (1000, 3), (1000,)]
    assert all(column.dtype == torch.float32 for column in batch)
    assert set(i.tolist()) == set(range(30))
    assert torch.equal(batch.obs, i[:, None] * torch.tensor([1.0, 10.0, 100.0])) and torch.equal(batch.next_obs, batch.obs + 0.5)
    torch.testing.assert_close(batch.action, i[:, None] / 100 * torch.tensor([1.0, -1.0]))
    assert torch.equal(batch.done, (i % 7 == 0).float())


def test_sample_depends_on_the_generator_alone(numbered):
    rng = torch.Generator().manual_seed(3)
    first = numbered.sample(64, rng)
    torch.manual_seed(5)
    again = numbered.sample(64, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.obs, numbered.sample(64, rng).obs)
    assert not torch.equal(first.obs, numbered.sample(64, torch.Generator().manual_seed(4)).obs)


def test_population_statistics(tmp_path):
    f = arrays()
    f["observations"][:, 0] = 1e4 + np.arange(50) / 64  # float32 sums would lose the spread
    data = load_dataset(save(tmp_path / "f.npz", f))
    exact = f["observations"].astype(np.float64)
    np.testing.assert_allclose(data.obs_mean.numpy(), exact.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(data.obs_std.numpy(), exact.std(axis=0), rtol=1e-6)
    assert data.obs_mean.dtype == data.obs_std.dtype == torch.float32


@pytest.mark.parametrize("transform, expected", [
    ("raw", [1, 2, 3, 4, 5, 6]), ("r-1", [0, 1, 2, 3, 4, 5]), ("10r-5", [5, 15, 25, 35, 45, 55]),
    ("shift", [0, 1, 2, 3, 4, 5]),
    ("return_range", np.arange(1, 7) * 1000 / 8),  # returns 3, 7 and 11
    ("standardize", (np.arange(1, 7) - 3.5) / np.sqrt(35 / 12))])
def test_reward_transforms_by_hand(tmp_path, transform, expected):
    f = arrays(6, terminals=(1,), timeouts=(3,))
    f["rewards"] = np.arange(1, 7, dtype=np.float32)
    data = load_dataset(save(tmp_path / "f.npz", f), reward=transform)
    np.testing.assert_allclose(data.reward.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("transform, options", [("return_range", dict(terminals=(), timeouts=())), ("standardize", {})])
def test_reward_transform_without_a_scale(tmp_path, transform, options):
    f = arrays(**options)
    f["rewards"][:] = 1
    path = save(tmp_path / "f.npz", f)
    with refuses(f"--reward {transform} .*all"):
        load_dataset(path, reward=transform)


# Scores


def test_reference_scores_of_all_datasets():
    ranges = {"hopper": (-20.272305, 3234.3), "halfcheetah": (-280.178953, 12135.0), "walker2d": (1.629008, 4592.3),
              "ant": (-325.6, 3879.7), "antmaze": (0.0, 1.0), "kitchen": (0.0, 4.0), "pen": (96.262799, 3076.8331017826877),
              "hammer": (-274.856578, 12794.134825156867), "door": (-56.512833, 2880.5693087298737),
              "relocate": (-6.425911, 4233.877797728884)}
    mazes = {"umaze": (23.85, 161.86), "medium": (13.13, 277.39), "large": (6.7, 273.99), "umaze-dense": (68.537689, 193.66285642381482),
             "medium-dense": (44.264742, 297.4552547777125), "large-dense": (30.569041, 303.4857382709002)}
    names = [line.split(",")[0] for line in (ROOT / "common/d4rl.csv").read_text().splitlines()[1:]]
    assert len(set(names)) == len(names) == 115
    for name in names:
        facts = D4RL[name]
        low, high = float(facts["ref_min"]), float(facts["ref_max"])
        assert normalized_score(name, low) == 0 and normalized_score(name, high) == pytest.approx(100, abs=1e-9)
        robot, level = name.split("-", 1)
        published = mazes.get(level[:-3]) if robot == "maze2d" else ranges[robot]
        assert published in ((low, high), None) and (published or "open" in name)


def test_scores_of_many_returns_and_of_nobody():
    np.testing.assert_allclose(normalized_score("kitchen-mixed-v0", np.array([0.0, 1.0, 4.0])), [0, 25, 100])
    assert normalized_score(None, 3.0) is None and normalized_score("hopper", 3.0) is None


def test_own_arrays_have_no_score(tmp_path):
    data = load_dataset(save(tmp_path / "f.npz", arrays()))
    assert data.task is None and normalized_score(data.task, 1.0) is None
    assert data.source["kind"] == "file" and re.fullmatch("[0-9a-f]{64}", data.source["sha256"]) and not data.standin


# What own data look like


def overview_of(path, capsys, **options) -> tuple[list[str], list[str]]:
    """(lines, warnings) of the block below the line that all data have."""
    load_dataset(str(path), **options)
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.match(r"\S+: [\d,]+ transitions, \d+ episodes?, view \w+, from ", first)
    return [line for line in lines if line[0] == " "], [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def good(episodes=12, rows=100, seed=0):
    """Each episode ends by a timeout after `rows` rows, and the third truly after half of them."""
    f = arrays(episodes * rows, (), np.arange(episodes) * rows + rows - 1, seed=seed)
    f = {key: np.delete(column, np.s_[2 * rows + rows // 2:3 * rows], 0) for key, column in f.items()}
    f["terminals"][2 * rows + rows // 2 - 1] = True
    return f


def test_overview_by_hand(tmp_path, capsys):
    """Three episodes of 2, 3 and 1 rows with returns 3, 12 and 6; actions in -2 to 2 of the file's own bounds."""
    f = {"observations": np.array([[1, 5], [2, 5], [3, 5], [-4, 5], [5, 5], [6, 5.5]]) * [1, 0] + [0, 7],
         "actions": np.array([[-2.0], [2], [1], [0], [1], [0]]), "rewards": np.arange(1.0, 7), "terminals": np.arange(6) == 1,
         "timeouts": np.arange(6) == 4, "next_observations": np.zeros((6, 2)), "action_low": -2.0, "action_high": 2.0}
    lines, warnings = overview_of(save(tmp_path / "f.npz", f), capsys)
    assert lines == ["  episodes      3 of 1 to 3 rows, 6 in all; true ends: 1, timeouts: 1; the last has no end",
                     "  returns       3 to 12, mean 7", "  observations  -4 to 7 in 2 dimensions, 1 of which never change",
                     "  actions       -1 to 1 in 1 dimension, scaled from bounds -2 and 2", "  rewards       1 to 6, mean 3.5"]
    assert warnings == []
    assert overview_of(tmp_path / "f.npz", capsys, reward="r-1", view="d4rl")[0] == lines  # of the file, whatever is made of it


def test_good_data_are_not_doubted(tmp_path, capsys):
    lines, warnings = overview_of(save(tmp_path / "f.npz", good()), capsys)
    assert lines[0] == "  episodes      12 of 50 to 100 rows, 1,150 in all; true ends: 1, timeouts: 11" and warnings == []
    varied = arrays(200, np.cumsum([7, 12, 9, 30, 17, 25, 40, 11, 20]), ())  # ends of its own, none by a timeout
    assert overview_of(save(tmp_path / "g.npz", varied), capsys)[1] == []
    assert overview_of(save(tmp_path / "h.npz", arrays(50, range(50), ())), capsys)[1] == []  # bandits: every row an end


@pytest.mark.parametrize("change, match", [
    (lambda f: f | {"terminals": f["terminals"] | f["timeouts"]}, "11 of 12 episodes end truly after 100 rows, none by a timeout"),
    (lambda f: {key: column for key, column in f.items() if key != "timeouts"} | {"terminals": f["terminals"] | f["timeouts"]},
     "11 of 12 episodes end truly after 100 rows.* mark it in `timeouts`"),
    (lambda f: {key: column[-400:] for key, column in f.items()} | {"terminals": f["timeouts"][-400:]}, "4 of 4 episodes end truly"),
    (lambda f: f | {"actions": np.hstack([f["actions"][:, :1], 0.5 + f["actions"][:, 1:] / 100])}, "actions in dimension 1 barely move"),
    (lambda f: f | {"actions": (f["actions"] + 1) / 2}, "actions fill half of their bounds or less, .* to .* of -1 to 1"),
    (lambda f: f | {"rewards": np.full(1150, -1.0)}, "all rewards are -1: policies differ only in when they end"),
    (lambda f: f | {"rewards": np.zeros(1150), "terminals": np.zeros(1150, bool)}, "all rewards are 0: no policy is better than another")])
def test_doubts(tmp_path, capsys, change, match):
    (warning,) = overview_of(save(tmp_path / "f.npz", change(good())), capsys)[1]
    assert re.match(match, warning)


def test_cut_episodes_that_no_timeout_marks_are_doubted(tmp_path, capsys):
    """Four episodes of 25 rows from next_observations alone count as one; rows in no order are left alone."""
    f = arrays(100, (), (), without=["timeouts"])
    f["next_observations"] = np.roll(f["observations"], -1, 0)
    f["next_observations"][24::25] += 1
    lines, (warning,) = overview_of(save(tmp_path / "f.npz", f), capsys)
    assert lines[0].startswith("  episodes      1 of 100 rows") and re.match("3 rows are no end, yet .* mark it in `timeouts`", warning)
    assert overview_of(save(tmp_path / "g.npz", f | {"timeouts": np.arange(100) % 25 == 24}), capsys)[1] == []
    order = np.random.RandomState(0).permutation(100)
    assert overview_of(save(tmp_path / "h.npz", {key: column[order] for key, column in f.items()}), capsys)[1] == []


def test_actions_that_nobody_scaled_have_two_doubts(tmp_path, capsys):
    f = good()
    warnings = overview_of(save(tmp_path / "f.npz", f | {"actions": f["actions"] / 1000}), capsys)[1]
    assert len(warnings) == 2 and warnings[0].startswith("actions barely move")
    assert re.match(r"actions fill half of their bounds or less, -0\.000\d+ to 0\.000\d+ of -1 to 1", warnings[1])
    lines, warnings = overview_of(tmp_path / "f.npz", capsys, action_low=-0.001, action_high=[0.001, 0.002])
    assert warnings == [] and lines[3].endswith(" in 2 dimensions, scaled from bounds -0.001 and 0.001 0.002")


@minari_warns
def test_minari_has_an_overview_and_d4rl_its_line(capsys):
    minari_set("solo/seen-v0")
    lines, _ = overview_of("solo/seen-v0", capsys)
    assert lines[:2] == ["  episodes      1 of 4 rows, 4 in all; true ends: 0, timeouts: 1", "  returns       6, mean 6"]
    d4rl_file("ant-medium-v2")
    load_dataset("ant-medium-v2")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_overview_takes_pieces_of_memory():
    """Beside the arrays, a few numbers for each row and pieces."""
    f = arrays(300_000, (), np.arange(999, 300_000, 1000), obs_size=40, action_size=10)
    tracemalloc.start()
    try:
        overview(f, f["timeouts"], {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f["observations"].nbytes == 48e6 and peak < 14e6


# Minari


def minari_set(name, observation_space=None, action_space=None, references=None, scale=1.0):
    """One episode of four steps."""
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    observation_space = observation_space or Box(-np.inf, np.inf, (3,), np.float32)
    action_space = action_space or Box(-1.0, 1.0, (2,), np.float32)
    observations = [observation_space.sample() for _ in range(5)]
    if isinstance(observations[0], dict):
        observations = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    else:
        observations = np.stack(observations) * np.float32(scale)
    episode = EpisodeBuffer(id=0, observations=observations, actions=np.stack([action_space.sample() for _ in range(4)]),
                            rewards=np.arange(4.0), terminations=np.zeros(4, bool), truncations=np.arange(4) == 3, infos={})
    made = minari.create_dataset_from_buffers(name, [episode], observation_space=observation_space, action_space=action_space)
    if references:
        made.storage.update_metadata(dict(zip(("ref_min_score", "ref_max_score"), references)))
    return observations


@minari_warns
def test_minari_scores():
    minari_set("solo/scored-v0", references=(-10.0, 30.0))
    minari_set("solo/plain-v0")
    np.testing.assert_allclose(normalized_score("solo/scored-v0", np.array([-10.0, 0.0, 30.0])), [0, 25, 100])
    assert normalized_score("solo/plain-v0", 3.0) is None


@minari_warns
def test_minari_load_and_cache(capsys):
    observations = minari_set("solo/cached-v0")
    data = load_dataset("solo/cached-v0")
    np.testing.assert_array_equal(data.obs.numpy(), observations[:-1])
    np.testing.assert_array_equal(data.next_obs.numpy(), observations[1:])
    assert (data.task, data.source["kind"], data.source["view"]) == ("solo/cached-v0", "minari", "next_obs")
    assert data.reward.tolist() == [0, 1, 2, 3] and data.done.tolist() == [0, 0, 0, 0]
    again = load_dataset("solo/cached-v0")
    assert torch.equal(again.rows, data.rows) and again.source == data.source
    assert data.source["path"] in capsys.readouterr().out
    assert Path(data.source["path"]).name in cached_files()


@minari_warns
def test_minari_set_made_anew_is_read_anew():
    minari_set("solo/anew-v0")
    load_dataset("solo/anew-v0")
    shutil.rmtree(Path(os.environ["MINARI_DATASETS_PATH"]) / "solo")
    observations = minari_set("solo/anew-v0", scale=2.0)
    np.testing.assert_array_equal(load_dataset("solo/anew-v0").obs.numpy(), observations[:-1])


def test_unknown_minari_id():
    with refuses(r"solo/nothing-v0: no such Minari dataset"):
        load_dataset("solo/nothing-v0")


@minari_warns
def test_minari_spaces_that_cannot_be_used():
    from gymnasium.spaces import Box, Dict, Discrete

    minari_set("solo/dict-v0", Dict({"achieved_goal": Box(-1, 1, (2,)), "speed": Box(-1, 1, (1,))}))
    minari_set("solo/discrete-v0", action_space=Discrete(3))
    minari_set("solo/image-v0", Box(np.arange(-25.0, 0.0).reshape(5, 5), np.ones((5, 5)), dtype=np.float64))
    for name, what in (("dict", "achieved_goal.*speed"), ("discrete", r"actions are Discrete\(3\)"),
                       ("image", "observations are Box")):
        with refuses(f"solo/{name}-v0: .*{what}"):
            load_dataset(f"solo/{name}-v0")


# Conversions


@minari_warns
@pytest.mark.parametrize("ends", [dict(), dict(terminals=(0, 17, 49), timeouts=(18, 33)), dict(terminals=(), timeouts=(49,))])
def test_to_minari_and_back(ends):
    f = d4rl_file("ant-medium-v2", **ends)
    original = load_dataset("ant-medium-v2", view="next_obs")
    assert to_minari("ant-medium-v2") == "d4rl/ant/medium-v2"
    data = load_dataset("d4rl/ant/medium-v2")
    assert data.source["kind"] == "minari" and data.source["view"] == "next_obs"
    assert torch.equal(data.rows, original.rows) and torch.equal(data.episodes, original.episodes)

    back, _ = read_arrays("d4rl/ant/medium-v2")
    for key in KEYS[:5]:
        np.testing.assert_array_equal(back[key], f[key])
    np.testing.assert_array_equal(back["timeouts"][:-1], f["timeouts"][:-1])
    assert back["timeouts"][-1] == (not f["terminals"][-1])  # the cut tail is a truncation in Minari
    assert torch.equal(load_dataset("d4rl/ant/medium-v2", view="d4rl").rows, load_dataset("ant-medium-v2").rows)


@minari_warns
def test_to_minari_keeps_the_reference_scores():
    d4rl_file("ant-medium-v2")
    to_minari("ant-medium-v2")
    assert normalized_score("d4rl/ant/medium-v2", 3879.7) == pytest.approx(100)


@minari_warns
@pytest.mark.parametrize("terminals, kept", [((17, 18), 50 - 2), ((17, 49), 50 - 1)])
def test_to_minari_without_next_observations(terminals, kept):
    """A cut episode loses its last row; at a true end the last observation is repeated."""
    f = d4rl_file("relocate-human-v1", terminals=terminals, timeouts=(33,), without=["next_observations"])
    data = load_dataset(to_minari("relocate-human-v1"))
    rows = [i for i in range(50) if f["terminals"][i] or not (f["timeouts"][i] or i == 49)]
    np.testing.assert_array_equal(data.obs.numpy(), f["observations"][rows])
    np.testing.assert_array_equal(data.next_obs.numpy(), [f["observations"][i if f["terminals"][i] else i + 1] for i in rows])
    np.testing.assert_array_equal(data.action.numpy(), f["actions"][rows])
    np.testing.assert_array_equal(data.reward.numpy(), f["rewards"][rows])
    assert data.done.tolist() == f["terminals"][rows].astype(float).tolist() and len(data.rows) == kept


@minari_warns
def test_kitchen_to_minari_is_cut_by_its_horizon():
    f = d4rl_file("kitchen-complete-v0", rows=300, terminals=(), timeouts=(), without=["timeouts", "next_observations"])
    data = load_dataset(to_minari("kitchen-complete-v0"))
    assert data.episodes.tolist() == [[0, 279], [279, 298]]
    np.testing.assert_array_equal(data.obs.numpy(), np.delete(f["observations"], [279, 299], axis=0))


def test_what_cannot_be_converted():
    with refuses("hopper: .*D4RL"):
        to_minari("hopper")
    with refuses("hopper-medium-v2: .*offline"):  # a stand-in is never converted
        to_minari("hopper-medium-v2")


@minari_warns
def test_to_minari_twice():
    d4rl_file("ant-medium-v2")
    to_minari("ant-medium-v2")
    rows = load_dataset("d4rl/ant/medium-v2").rows
    with refuses("d4rl/ant/medium-v2.* already"):
        to_minari("ant-medium-v2")
    assert torch.equal(load_dataset("d4rl/ant/medium-v2").rows, rows)


def test_documented_command(monkeypatch, capsys):
    d4rl_file("ant-medium-v2")
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "common.data", "to-minari", "ant-medium-v2"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(load_dataset("d4rl/ant/medium-v2").rows) == 50
    monkeypatch.setattr(sys, "argv", ["data.py", "to-minari", "ant-medum-v2"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "common/data.py"), run_name="__main__")
    assert re.fullmatch("error: ant-medum-v2: .*D4RL.*\n", capsys.readouterr().err)


# The cache and D4RL's folder


def test_cache_replaces_the_hdf5(capsys):
    d4rl_file("ant-medium-v2")
    first = load_dataset("ant-medium-v2")
    assert first.source["kind"] == "d4rl" and first.source["path"] == str(d4rl_path("ant-medium-v2")) in capsys.readouterr().out
    d4rl_path("ant-medium-v2").unlink()
    second = load_dataset("ant-medium-v2")
    assert torch.equal(first.rows, second.rows) and torch.equal(first.episodes, second.episodes)
    assert second.source["kind"] == "d4rl" and second.source["sha256"] == first.source["sha256"]
    assert cached_files() == ["ant-medium-v2.npz"] and second.source["path"].endswith("ant-medium-v2.npz")


def test_cache_of_another_file_is_not_used(monkeypatch):
    """A cache entry counts only while it comes from the file whose hash is known."""
    d4rl_file("ant-medium-v2")
    load_dataset("ant-medium-v2")
    d4rl_path("ant-medium-v2").unlink()
    monkeypatch.setitem(D4RL["ant-medium-v2"], "sha256", "0" * 64)
    with refuses("ant-medium-v2: .*offline"):
        load_dataset("ant-medium-v2")


def test_default_folders(tmp_path, monkeypatch):
    for variable in ("SOLO_CACHE", "D4RL_DATASET_DIR"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / ".d4rl" / "datasets" / "ant_medium-v2.hdf5", arrays())
    assert len(load_dataset("ant-medium-v2").rows) == 48
    assert (tmp_path / ".cache" / "solo" / "ant-medium-v2.npz").is_file()


@pytest.mark.parametrize("name, size, match", [("hopper-medium-v2", 1000, "1,000 bytes.* 152,756,557"),
                                               ("pen-human-v1", 2040573, "SHA-256"), ("ant-medium-v2", 0, "not an HDF5 file")])
def test_wrong_file_in_d4rls_folder(name, size, match):
    path = d4rl_path(name)
    path.parent.mkdir()
    content = (b"\x89HDF\r\n\x1a\n" + bytes(size))[:size]
    path.write_bytes(content)
    with refuses(match):
        load_dataset(name)
    assert path.read_bytes() == content and cached_files() == []


def test_truncated_file_in_d4rls_folder():
    d4rl_file("ant-medium-v2")
    path = d4rl_path("ant-medium-v2")
    path.write_bytes(path.read_bytes()[:3000])
    with refuses("ant_medium-v2.hdf5: .*read"):
        load_dataset("ant-medium-v2")
    assert path.stat().st_size == 3000 and cached_files() == []


@pytest.fixture
def numpy_leaks():
    """numpy leaves a file open that is not a whole zip: let it go here, not in the middle of another test."""
    yield
    gc.collect()


unclosed = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@unclosed
def test_damaged_cache_is_named(numpy_leaks):
    d4rl_file("ant-medium-v2")
    load_dataset("ant-medium-v2")
    cached = Path(os.environ["SOLO_CACHE"]) / "ant-medium-v2.npz"
    cached.write_bytes(cached.read_bytes()[:500])
    with refuses(f"{re.escape(str(cached))}: .*read.*[dD]elete it"):
        load_dataset("ant-medium-v2")


def test_full_disk_leaves_no_part(capsys):
    resource = pytest.importorskip("resource")
    d4rl_file("ant-medium-v2", rows=2000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        data = load_dataset("ant-medium-v2", view="next_obs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(data.rows) == 2000 and "works from memory" in capsys.readouterr().out
    assert cached_files() == []


@pytest.fixture
def unwritable_cache(tmp_path, monkeypatch):
    (tmp_path / "regular").write_text("")
    monkeypatch.setenv("SOLO_CACHE", str(tmp_path / "regular" / "cache"))


def test_unwritable_cache_local_file(unwritable_cache, capsys):
    f = d4rl_file("ant-medium-v2")
    for _ in range(2):
        data = load_dataset("ant-medium-v2", view="next_obs")
        np.testing.assert_array_equal(data.obs.numpy(), f["observations"])
        assert "works from memory" in capsys.readouterr().out


def test_unwritable_cache_download(unwritable_cache, tmp_path, mirrors, capsys):
    mirrors((200, hdf5_bytes(tmp_path)))
    assert len(load_dataset("ant-medium-v2").rows) == 48
    assert "works from memory" in capsys.readouterr().out


@minari_warns
def test_unwritable_cache_minari(unwritable_cache, capsys):
    observations = minari_set("solo/memory-v0")
    np.testing.assert_array_equal(load_dataset("solo/memory-v0").obs.numpy(), observations[:-1])
    assert "works from memory" in capsys.readouterr().out


def test_unwritable_cache_standin(unwritable_cache, capsys):
    data = load_dataset("halfcheetah-random-v2", standin_rows=30)
    out = capsys.readouterr().out
    assert data.standin and len(data.rows) == 29 and "works from memory" in out and "STAND-IN" in out


# Files that cannot be used


def edit(key, value):
    def change(f):
        f[key] = value(f[key])
    return change


def at(row, value):
    def change(column):
        column = column.astype(np.float64)
        column[row] = value
        return column
    return change


BAD = {
    **{f"no {key}": (lambda f, key=key: f.pop(key), f"lacks `{key}`") for key in KEYS[:4]},
    **{f"short {key}": (edit(key, lambda c: c[:-1]), f"`{key}` has .*49.*50") for key in KEYS[1:]},
    **{f"nan {key}": (edit(key, at(7, np.nan)), f"`{key}` .*NaN or infinite .*row 7") for key in KEYS},
    **{f"inf {key}": (edit(key, at(7, -np.inf)), f"`{key}` .*NaN or infinite .*row 7") for key in KEYS[:3]},
    "too large for float32": (edit("rewards", at(7, 1e300)), "`rewards` .*row 7"),
    "zero rows": (lambda f: f.update({key: f[key][:0] for key in f}), "no transitions"),
    "action above 1": (edit("actions", at(3, 1.5)), r"actions reach 1.5, outside \[-1, 1\]"),
    "action below -1": (edit("actions", at(3, -2)), r"actions reach -2, outside \[-1, 1\]"),
    "flat observations": (edit("observations", lambda c: c[:, 0]), r"`observations` has shape \(50,\)"),
    "images": (edit("observations", lambda c: c.reshape(50, 2, 2)), r"`observations` has shape \(50, 2, 2\)"),
    "rewards of two": (edit("rewards", lambda c: np.stack([c, c], 1)), r"`rewards` has shape \(50, 2\)"),
    "scalar rewards": (edit("rewards", lambda c: np.float32(1)), r"`rewards` has shape \(\)"),
    "scalar observations": (edit("observations", lambda c: np.float32(1)), r"`observations` has shape \(\)"),
    "words": (edit("actions", lambda c: np.full(c.shape, b"left")), "`actions` has shape .* type"),
    "complex numbers": (edit("actions", lambda c: c.astype(np.complex64)), "`actions` has shape .* complex64"),
    "no action columns": (edit("actions", lambda c: c[:, :0]), "`actions`"),
    "other next size": (edit("next_observations", lambda c: c[:, :3]), r"`next_observations` has shape \(50, 3\)"),
}


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(tmp_path, case, suffix):
    change, match = BAD[case]
    f = arrays()
    change(f)
    path = save(tmp_path / f"f.{suffix}", f)
    with refuses(f"{re.escape(path)}: .*{match}"):
        load_dataset(path)


def test_bad_arrays_in_d4rls_folder():
    f = d4rl_file("ant-medium-v2")
    f["rewards"][7] = np.nan
    save(d4rl_path("ant-medium-v2"), f)
    with refuses("ant-medium-v2: `rewards` .*NaN"):
        load_dataset("ant-medium-v2")
    assert cached_files() == []


def test_actions_may_round_past_one(tmp_path):
    f = arrays()
    f["actions"][0, 0] = np.nextafter(np.float32(1), np.float32(2))
    assert load_dataset(save(tmp_path / "f.npz", f)).action.max() > 1


def truncated(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flipped(path):
    """A damaged byte inside the compressed rewards."""
    columns = arrays()
    np.savez_compressed(path, **columns)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("rewards.npy")
    for i in range(5):
        content[entry.header_offset + 60 + i] ^= 0xFF
    path.write_bytes(content)


def bare_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    np.savez(path, **arrays() | {"rewards": np.array([{}] * 50)})


def empty(path):
    path.write_bytes(b"")


def web_page(path):
    path.write_text("<html>\n<body>")


@unclosed
@pytest.mark.parametrize("damage", [truncated, flipped, bare_array, pickled, empty, web_page])
def test_corrupt_npz(tmp_path, numpy_leaks, damage):
    path = Path(save(tmp_path / "f.npz", arrays()))
    damage(path)
    with refuses(f"{re.escape(str(path))}: .*read"):
        load_dataset(str(path))
    assert path.is_file()


def overwritten(path):
    """A hole inside the compressed rewards."""
    with h5py.File(path, "w") as file:
        for key, column in arrays().items():
            file.create_dataset(key, data=column, compression="gzip")
        offset = file["rewards"].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(64))


@pytest.mark.parametrize("damage", [truncated, overwritten, empty, web_page])
def test_corrupt_hdf5(tmp_path, damage):
    path = Path(save(tmp_path / "f.hdf5", arrays()))
    damage(path)
    with refuses(f"{re.escape(str(path))}: .*read"):
        load_dataset(str(path))
    assert path.is_file()


def test_group_where_an_array_belongs(tmp_path):
    f = arrays()
    path = save(tmp_path / "f.hdf5", {key: f[key] for key in f if key != "rewards"} | {"rewards/values": f["rewards"]})
    with refuses(re.escape(path)):
        load_dataset(path)


@pytest.mark.parametrize("env, match", [
    ("hopper-medum-v2", "no such dataset; did you mean .*hopper-medium-v2"), ("hopper", "did you mean hopper-medium-v2"), ("Hopper-v5", "no such dataset; .*hopper-"),
    ("zzz", "zzz: no such dataset.*hopper-medium-v2"), ("nothing.npz", "nothing.npz: no such file"), ("a/b.hdf5", "a/b.hdf5: no such file"),
    (".npz", "no such"), ("", "no such dataset")])
def test_unknown_names(env, match):
    with refuses(match):
        load_dataset(env)


def test_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "f.hdf5").mkdir()
    with refuses("f.hdf5: is no regular file"):
        load_dataset(str(tmp_path / "f.hdf5"))


def test_unknown_reward_and_view(tmp_path):
    path = save(tmp_path / "f.npz", arrays())
    with refuses("--reward squared is unknown; choose from raw, .*shift"):
        load_dataset(path, reward="squared")
    with refuses("no view half; there are d4rl and, .* next_obs"):
        load_dataset(path, view="half")
    with refuses("no view next_obs; there are d4rl and, for files with `next_observations`, next_obs"):
        load_dataset(save(tmp_path / "g.npz", arrays(without=["next_observations"])), view="next_obs")


@pytest.mark.parametrize("rows, timeouts", [(1, ()), (5, range(5)), (3, (0, 1))])
def test_no_transitions_left(tmp_path, rows, timeouts):
    path = save(tmp_path / "f.npz", arrays(rows, (), timeouts))
    with refuses(f"no transitions.* {rows} rows"):
        load_dataset(path, view="d4rl")
    assert len(load_dataset(path, view="next_obs").rows) == rows


# Downloads


PAGE = b"<!DOCTYPE html>\n<html><body>Sign in to the network</body></html>"


@pytest.fixture
def mirrors(monkeypatch):
    """Call with one (status, body[, announced length]) per mirror, in order; returns the list of paths asked for."""
    replies, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, body, *length = replies[int(self.path.split("/")[1])]
            if status:
                self.send_response(status)
                self.send_header("Content-Length", str(*length or [len(body)]))
                self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def serve(*mirrors):
        replies[:] = mirrors
        monkeypatch.setenv("SOLO_MIRRORS", " ".join(f"http://127.0.0.1:{server.server_port}/{i}" for i in range(len(mirrors))))
        return asked

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


def refused_mirror() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_download(tmp_path, mirrors, capsys):
    body = hdf5_bytes(tmp_path)
    asked = mirrors((200, body))
    data = load_dataset("ant-medium-v2", view="next_obs")
    np.testing.assert_array_equal(data.obs.numpy(), arrays()["observations"])
    assert asked == ["/0/gym_mujoco_v2/ant_medium-v2.hdf5"] and f"{asked[0]}\n" in capsys.readouterr().out
    assert cached_files() == ["ant-medium-v2.npz"] and data.source["kind"] == "d4rl"
    assert torch.equal(load_dataset("ant-medium-v2", view="next_obs").rows, data.rows) and len(asked) == 1


@pytest.mark.parametrize("reply, match", [
    ((403, PAGE), "403"), ((404, PAGE), "404"), ((200, PAGE), "not an HDF5 file"), ((200, b""), "not an HDF5 file"),
    ("half", "3,000 (bytes )?of"), ("short", "cannot be read|not readable")])
@pytest.mark.parametrize("name", ["ant-medium-v2", "halfcheetah-random-v2"])
def test_mirror_without_the_file(tmp_path, mirrors, name, reply, match):
    """An answer of a mirror that the user named is never replaced by a stand-in."""
    body = hdf5_bytes(tmp_path)
    mirrors({"half": (200, body[:3000], len(body)), "short": (200, body[:3000])}[reply] if isinstance(reply, str) else reply)
    if reply == "short" and D4RL[name]["bytes"]:
        match = "3,000 bytes.* 237,338,037"
    with refuses(match):
        load_dataset(name, standin_rows=30)
    assert cached_files() == []


def test_mirror_with_another_file_of_the_same_size(mirrors):
    mirrors((200, (b"\x89HDF\r\n\x1a\n" + bytes(2040573))[:2040573]))
    with refuses("wrong SHA-256"):
        load_dataset("pen-human-v1")
    assert cached_files() == []


def test_downloaded_file_with_bad_arrays(tmp_path, mirrors):
    mirrors((200, hdf5_bytes(tmp_path, without=["rewards"])))
    with refuses("ant-medium-v2: lacks `rewards`"):
        load_dataset("ant-medium-v2")
    assert cached_files() == []


@pytest.mark.parametrize("status, standin", [(403, True), (407, True), (502, True), (503, True), (404, False), (500, False)])
def test_a_filtering_proxy_counts_as_no_network(mirrors, monkeypatch, capsys, status, standin):
    """Before the built-in mirrors a proxy may stand that refuses them; a mirror without the file is an error all the same."""
    mirrors((status, PAGE))
    monkeypatch.setattr("common.sources.MIRRORS", os.environ["SOLO_MIRRORS"])
    monkeypatch.delenv("SOLO_MIRRORS")
    if standin:
        assert load_dataset("hopper-random-v2", standin_rows=30).standin and str(status) in capsys.readouterr().out
    else:
        with refuses(str(status)):
            load_dataset("hopper-random-v2", standin_rows=30)


@pytest.mark.parametrize("first", [(404, PAGE), (403, PAGE), (200, PAGE), "half", "refused"])
def test_second_mirror(tmp_path, mirrors, monkeypatch, first):
    body = hdf5_bytes(tmp_path)
    asked = mirrors((200, body[:3000], len(body)) if first == "half" else (404, PAGE) if first == "refused" else first, (200, body))
    if first == "refused":
        monkeypatch.setenv("SOLO_MIRRORS", f"{refused_mirror()} {os.environ['SOLO_MIRRORS'].split()[1]}")
    data = load_dataset("ant-medium-v2", view="next_obs")
    np.testing.assert_array_equal(data.next_obs.numpy(), arrays()["next_observations"])
    assert [path.split("/")[1] for path in asked] == (["1"] if first == "refused" else ["0", "1"])
    assert cached_files() == ["ant-medium-v2.npz"]


def test_known_hash(tmp_path, mirrors, monkeypatch):
    import hashlib

    good, bad = hdf5_bytes(tmp_path), hdf5_bytes(tmp_path, seed=1)
    monkeypatch.setitem(D4RL["ant-medium-v2"], "bytes", str(len(good)))
    monkeypatch.setitem(D4RL["ant-medium-v2"], "sha256", hashlib.sha256(good).hexdigest())
    asked = mirrors((200, bad), (200, good))
    data = load_dataset("ant-medium-v2", view="next_obs")
    np.testing.assert_array_equal(data.obs.numpy(), arrays()["observations"])
    assert data.source["sha256"] == hashlib.sha256(good).hexdigest() and cached_files() == ["ant-medium-v2.npz"]
    assert torch.equal(load_dataset("ant-medium-v2", view="next_obs").rows, data.rows) and len(asked) == 2


def test_mirror_that_does_not_speak_http(mirrors):
    mirrors((None, b"220 mail.example ESMTP\r\n"))
    with refuses("ant.medium-v2.*220 mail"):
        load_dataset("ant-medium-v2")
    assert cached_files() == []


def test_hugging_face_has_no_folders(tmp_path, mirrors, monkeypatch):
    asked = mirrors((200, hdf5_bytes(tmp_path)))
    monkeypatch.setenv("SOLO_MIRRORS", f"{os.environ['SOLO_MIRRORS']}/huggingface.co")
    load_dataset("ant-medium-v2")
    assert asked == ["/0/huggingface.co/ant_medium-v2.hdf5"]


def test_mirror_that_is_no_address(monkeypatch):
    monkeypatch.setenv("SOLO_MIRRORS", "mirror.example/d4rl")
    with refuses("mirror.example"):
        load_dataset("ant-medium-v2")


def test_refused_connection(monkeypatch, capsys):
    monkeypatch.setenv("SOLO_MIRRORS", refused_mirror())
    for name, standin in (("halfcheetah-random-v2", False), ("ant-medium-v2", True)):
        with refuses(f"{name}: .*refused.*put {Path(D4RL[name]['path']).name} into {re.escape(os.environ['D4RL_DATASET_DIR'])}"):
            load_dataset(name, standin=standin, standin_rows=30)
    assert cached_files() == []
    data = load_dataset("halfcheetah-random-v2", standin_rows=30)
    assert data.standin and len(data.rows) == 29 and "refused" in capsys.readouterr().out
    assert [name for name in cached_files() if ".standin-" not in name] == []


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), OSError(101, "Network is unreachable"),
                                   TimeoutError("timed out")])
def test_default_mirrors_out_of_reach(monkeypatch, capsys, error):
    def getaddrinfo(host, *args, **kwargs):
        hosts.append(host)
        raise error

    hosts = []
    monkeypatch.delenv("SOLO_MIRRORS")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert load_dataset("halfcheetah-random-v2", standin_rows=30).standin
    assert hosts == ["rail.eecs.berkeley.edu", "huggingface.co"] and str(error) in capsys.readouterr().out


# Stand-ins


ROWS = 2000


@pytest.fixture(scope="module")
def standins(tmp_path_factory):
    """{name: (dataset, what was printed)} and the cache they lie in."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("standins")
        patch.setenv("SOLO_CACHE", str(cache))
        made = {}
        for name in ("hopper-medium-v2", "halfcheetah-random-v2"):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                made[name] = load_dataset(name, standin_rows=ROWS), out.getvalue()
    return made, cache


@pytest.fixture(params=["hopper-medium-v2", "halfcheetah-random-v2"])
def standin(request, standins, monkeypatch):
    made, cache = standins
    monkeypatch.setenv("SOLO_CACHE", str(cache))
    return request.param, *made[request.param]


def check_protocol(f, cuts):
    """D4RL's generator: terminals and timeouts never both, a next row is the next observation unless an episode ends.

    `cuts` are the last rows of each policy's share: there alone a timeout may come before step 1000.
    """
    assert not (f["terminals"] & f["timeouts"]).any()
    ends = f["terminals"] | f["timeouts"]
    joined = (f["next_observations"][:-1] == f["observations"][1:]).all(axis=1)
    np.testing.assert_array_equal(joined, ~ends[:-1])
    lengths = dict(zip(np.flatnonzero(ends), np.diff(np.r_[-1, np.flatnonzero(ends)])))
    assert ends[cuts].all() and max(lengths.values()) <= 1000
    assert all(lengths[row] == 1000 for row in set(np.flatnonzero(f["timeouts"])) - set(cuts))
    if f["actions"].shape[1] == 3:  # hopper starts within 0.005 of rest, at height 1.25
        assert np.abs(f["observations"][np.r_[True, ends[:-1]]] - np.eye(11)[0] * 1.25).max() < 0.0051
    assert np.abs(f["actions"]).max() <= 1 and all(np.isfinite(column).all() for column in f.values())
    assert {key: str(f[key].dtype) for key in f} == {key: "bool" if key in ("terminals", "timeouts") else "float32" for key in KEYS}


def test_standin_is_marked(standin):
    name, data, out = standin
    policies = D4RL[name]["standin"].split()
    assert data.standin and data.source["kind"] == "standin" and data.source["policies"] == policies
    assert Path(data.source["path"]).name == f"{name}.standin-{standin_hash(name, policies, ROWS)}.npz"
    assert "STAND-IN DATA, not D4RL's" in out and "--no-standin" in out and ".standin-" in out.splitlines()[-1]


def test_standin_follows_d4rls_protocol(standin):
    name, data, _ = standin
    f, _ = read_arrays(name, standin_rows=ROWS)
    check_protocol(f, [ROWS - 1])
    assert len(f["rewards"]) == ROWS and f["terminals"].any() == (name == "hopper-medium-v2")
    assert (data.obs_size, data.action_size) == ((11, 3) if name == "hopper-medium-v2" else (17, 6))
    assert data.source["view"] == "d4rl" and len(data.rows) == ROWS - 1 - f["timeouts"][:-1].sum()


def test_standin_is_made_once(standin, capsys):
    name, data, _ = standin
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in Path(os.environ["SOLO_CACHE"]).iterdir()}
    again = load_dataset(name, standin_rows=ROWS)
    assert torch.equal(again.rows, data.rows) and again.source == data.source and again.standin
    assert before == {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in Path(os.environ["SOLO_CACHE"]).iterdir()}
    assert "STAND-IN" in capsys.readouterr().out


def test_two_processes_make_a_standin_once(tmp_path):
    """Whoever comes second waits, and reads what the first has made."""
    (tmp_path / "load.py").write_text("""import common.standin as s
from common.data import load_dataset
make = s.generate
s.generate = lambda *a: print("made") or make(*a)
print(load_dataset("hopper-medium-v2", standin_rows=2000).source["sha256"])""")
    codes, outs, _ = zip(*[script.end() for script in [Script(tmp_path / "load.py"), Script(tmp_path / "load.py")]])
    assert codes == (0, 0) and sum("made" in out.split() for out in outs) == 1
    assert outs[0].split()[-1] == outs[1].split()[-1]


def test_no_standin_refuses_a_cached_one(standin):
    name = standin[0]
    with refuses(f"{name}: .*offline.*stand-in"):
        load_dataset(name, standin=False, standin_rows=ROWS)


def test_level_without_a_policy():
    with refuses("hopper-full-replay-v2: .*offline.*there is no stand-in"):
        load_dataset("hopper-full-replay-v2")


@pytest.fixture
def without_simulator(tmp_path, monkeypatch):
    """As if MuJoCo were not installed: neither the module nor its version is found, in worker processes neither."""
    found = Distribution.from_name

    def from_name(name):
        if name == "mujoco":
            raise PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(Distribution, "from_name", from_name)
    (tmp_path / "mujoco.py").write_text("raise ImportError('no mujoco here')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mujoco", None)


def test_data_at_hand_needs_no_simulator(without_simulator, monkeypatch):
    for key in ("bytes", "sha256"):
        monkeypatch.setitem(D4RL["hopper-medium-v2"], key, "")
    d4rl_file("hopper-medium-v2")
    assert not load_dataset("hopper-medium-v2").standin


def test_standin_without_a_simulator(without_simulator):
    with refuses("mujoco"):
        load_dataset("hopper-medium-v2", standin_rows=30)


@pytest.mark.parametrize("name, rows, cuts", [("hopper-medium-expert-v2", 601, [300, 600]), ("hopper-random-v2", 900, [899])])
def test_rows_do_not_depend_on_the_workers(name, rows, cuts, monkeypatch):
    """Two policies of one chunk each; one policy of two chunks."""
    monkeypatch.setattr("common.standin.CHUNK", 500)
    policies = D4RL[name]["standin"].split()
    one, two = (generate(name, policies, rows, workers) for workers in (1, 2))
    check_protocol(one, cuts)
    assert set(one) == set(two) == set(KEYS) and len(one["rewards"]) == rows
    for key in KEYS:
        np.testing.assert_array_equal(one[key], two[key])
    assert len(np.unique(one["observations"], axis=0)) == rows  # every chunk has a seed of its own


def test_fewer_rows_than_policies():
    assert len(load_dataset("hopper-medium-replay-v2", view="next_obs", standin_rows=3).rows) == 3


def test_standin_hash():
    name, policies = "hopper-medium-v2", ["hopper-sac-130k"]
    same = standin_hash(name, policies, 100)
    assert re.fullmatch("[0-9a-f]{8}", same) and same == standin_hash(name, policies, 100)
    assert len({same, standin_hash(name, policies, 101), standin_hash(name, ["uniform"], 100), standin_hash(name, ["hopper-sac-100k"], 100),
                standin_hash(name, ["hopper-sac-130k", "uniform"], 100)}) == 5


def test_standin_hash_changes_with_the_physics_of_its_robot(monkeypatch):
    """A cache that was simulated in another way is not taken for today's; that of another robot stays."""
    def hashes():
        return [standin_hash(name, D4RL[name]["standin"].split(), 100) for name in ("halfcheetah-medium-v2", "hopper-medium-v2")]

    today = hashes()
    assert standin_hash("halfcheetah-random-v2", ["uniform"], 100) != standin_hash("hopper-random-v2", ["uniform"], 100)
    monkeypatch.setitem(VERSIONS, "halfcheetah", 1)
    monkeypatch.setitem(VERSIONS, "hopper", 1)  # as a robot that is not named
    before = hashes()
    assert before[0] != today[0] and before[1] == today[1]
    assert standin_hash("halfcheetah-random-v2", ["uniform"], 100) == standin_hash("hopper-random-v2", ["uniform"], 100)
    monkeypatch.setitem(VERSIONS, "hopper", 2)
    assert hashes()[1] != before[1]
    monkeypatch.setattr("common.standin.PROTOCOL", 2)
    assert not set(hashes()) & set(before + today)
