"""Files as data: what they may hold, what is refused in one line, bounds of actions, Minari's episodes, memory."""

import json
import os
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from common import files
from common.data import Dataset, load_dataset, to_minari
from common.files import minari_folder
from common.sources import D4RL, own_file, read_arrays
from tests.test_data import KEYS, arrays, cached_files, d4rl_file, d4rl_path, minari_set, minari_warns, refuses, save


def same(path, columns, **options):
    """It is read as these columns."""
    data = load_dataset(str(path), **options)
    np.testing.assert_array_equal(data.obs.numpy(), columns["observations"])
    return data


# What is an own file


def test_own_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "hopper-medium-v2", "set/x-v0"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("folder/y-v0").mkdir(parents=True)
    own = {"a.npz": True, "b.HDF5": True, "c/d.H5": True, "data": True, "set/x-v0": True, "hopper-medium-v2": False, "./hopper-medium-v2": True,
           "folder/y-v0": False, "solo/none-v0": False, "zzz": False, "": False, "/nowhere": True, "~nobody/x": True, "a\0b.npz": True,
           "a\0b": False, "x" * 5000: False}
    assert {name: own_file(name) is not None for name in own} == own
    assert own_file("~/a.npz") == Path(os.path.expanduser("~/a.npz")) and own_file("data") == Path("data")


@pytest.mark.parametrize("name, kind", [("DATA.NPZ", "npz"), ("data", "npz"), ("data.bin", "hdf5"), ("data.npz", "hdf5"), ("data.h5", "npz")])
def test_the_first_bytes_tell_the_format(tmp_path, name, kind):
    f = arrays()
    path = Path(save(tmp_path / f"x.{kind}", f)).rename(tmp_path / name)
    same(path, f)


def test_path_is_stored_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOLO_CACHE", "cache")
    f = arrays()
    assert same(save("f.npz", f), f).source["path"] == str(tmp_path / "f.npz")
    d4rl_file("ant-medium-v2")
    assert [load_dataset("ant-medium-v2").source["path"] for _ in range(2)][1] == str(tmp_path / "cache/ant-medium-v2.npz")


# What cannot be opened


@pytest.mark.parametrize("env, match", [
    ("~nobody-here/x.npz", "no such file"), ("x" * 5000 + ".npz", "no such file"), ("/" + "x" * 5000, "no such file"), ("a\0b.hdf5", "no such file"),
    ("/dev/zero", "no regular file"), (".", "no regular file"), ("x" * 5000, "no such dataset"), ("solo/" + "x" * 5000, "no such Minari")])
def test_paths_that_are_no_files(env, match):
    with refuses(match):
        load_dataset(env)


@pytest.mark.parametrize("name", ["f.npz", "f.hdf5", "f"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_nobody_waits_for_a_pipe(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "folder":
        Path(name).mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(name)
    with refuses(f"{name}: is no regular file"):
        load_dataset(f"./{name}")


def test_pipes_in_other_places(tmp_path):
    d4rl_path("ant-medium-v2").parent.mkdir()
    os.mkfifo(d4rl_path("ant-medium-v2"))
    with refuses("ant_medium-v2.hdf5 is no regular file"):
        load_dataset("ant-medium-v2")
    d4rl_path("ant-medium-v2").unlink()
    f = d4rl_file("ant-medium-v2")
    for name in ("ant-medium-v2.npz", "ant-medium-v2.lock"):
        (Path(os.environ["SOLO_CACHE"]) / name).unlink(missing_ok=True)
        os.mkfifo(Path(os.environ["SOLO_CACHE"]) / name)
    same("ant-medium-v2", f, view="next_obs")  # the cache is made anew


@pytest.mark.parametrize("variable", ["SOLO_CACHE", "D4RL_DATASET_DIR"])
@pytest.mark.parametrize("folder", ["~nobody-here/x", "/" + "x" * 5000])
def test_folders_that_cannot_be(monkeypatch, tmp_path, variable, folder):
    monkeypatch.chdir(tmp_path)
    f = d4rl_file("ant-medium-v2")
    load_dataset("ant-medium-v2")
    monkeypatch.setenv(variable, folder)
    same("ant-medium-v2", f, view="next_obs")


def test_an_hdf5_that_another_program_writes(tmp_path):
    path = save(tmp_path / "f.hdf5", arrays())
    hold = "import h5py, sys\nfile = h5py.File(sys.argv[1], 'a')\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with refuses("another program has it open"):
            load_dataset(path)
        writer.stdin.close()
    same(path, arrays())


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(50), b"\x89PNG", b"\x93NUMPY"])
def test_what_no_one_but_the_owner_may_judge(tmp_path, content):
    (tmp_path / "f.npz").write_bytes(content)
    with refuses("^(?!.*[dD]elete).*cannot be read"):
        load_dataset(str(tmp_path / "f.npz"))


def test_robomimics_layout_is_told(tmp_path):
    path = save(tmp_path / "f.hdf5", {f"data/demo_0/{key}": column for key, column in arrays().items()} | {"mask/train": np.zeros(1)})
    with refuses("lacks `observations`, .*top level there is 'data', 'mask'"):
        load_dataset(path)


def test_an_own_array_named_source(tmp_path):
    f = arrays()
    same(save(tmp_path / "f.npz", f | {"source": np.array("my robot")}), f)


@pytest.mark.parametrize("source", ["{", "{}", '{"kind": "d4rl"}'])
def test_cache_whose_source_is_unknown(source):
    save(Path(os.environ["SOLO_CACHE"]) / "ant-medium-v2.npz", arrays() | {"source": np.array(source)})
    with refuses("ant-medium-v2.npz: cannot be read .*delete it"):
        load_dataset("ant-medium-v2")


# HDF5 files that point to other files


def external(file, secret):
    file.create_dataset("rewards", (50,), "<f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((50,), "<f4")
    layout[:] = h5py.VirtualSource(str(secret), "rewards", (50,))
    file.create_virtual_dataset("rewards", layout)


def external_link(file, secret):
    file["rewards"] = h5py.ExternalLink(str(secret), "rewards")


def soft_link(file, secret):
    file["elsewhere"] = h5py.ExternalLink(str(secret), "/")
    file["rewards"] = h5py.SoftLink("/elsewhere/rewards")


def group(file, secret):
    file["rewards/values"] = np.zeros(50)


def null(file, secret):
    file["rewards"] = h5py.Empty("f4")


OUTSIDE = (external, virtual, external_link, soft_link)


@pytest.mark.parametrize("make", [*OUTSIDE, group, null])
def test_only_arrays_of_the_file_itself(tmp_path, make):
    secret = save(tmp_path / "secret.hdf5", arrays())
    path = save(tmp_path / "f.hdf5", arrays(without=["rewards"]))
    with h5py.File(path, "a") as file:
        make(file, secret)
    with refuses("`rewards` lies elsewhere" if make in OUTSIDE else "`rewards` is no array, but a group or empty"):
        load_dataset(path)


@minari_warns
@pytest.mark.parametrize("make", OUTSIDE)
def test_minari_reads_no_other_file(tmp_path, make):
    minari_set("solo/linked-v0")
    with h5py.File(minari_folder("solo/linked-v0") / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        make(file["episode_0"], save(tmp_path / "secret.hdf5", arrays()))
    with refuses("episode_0/.* lies elsewhere"):
        load_dataset("solo/linked-v0")


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_arrays_larger_than_memory(tmp_path, monkeypatch, suffix):
    path = save(tmp_path / f"f.{suffix}", arrays())
    monkeypatch.setattr(files, "MEMORY", 1000)
    with refuses(r"its arrays have [2-4],\d\d\d bytes, more than this machine's memory"):
        load_dataset(path)


def test_a_declared_size_is_not_believed(tmp_path):
    path = save(tmp_path / "f.hdf5", arrays(without=["rewards"]))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (2**50,), "f4", chunks=(1024,))
    with refuses("more than this machine's memory"):
        load_dataset(path)


# Flags


@pytest.mark.parametrize("key", ["terminals", "timeouts"])
@pytest.mark.parametrize("value", [0.5, -1, 2, 255, 1e-40])
def test_a_flag_is_0_or_1(tmp_path, key, value):
    f = arrays()
    f[key] = f[key].astype(np.int64 if isinstance(value, int) else np.float64)
    f[key][7] = value
    with refuses(f"`{key}` is {value} in row 7; a flag is 0 or 1"):
        load_dataset(save(tmp_path / "f.npz", f))


@pytest.mark.parametrize("make", [bool, np.int8, np.uint8, np.int64, np.float16, np.float64])
def test_flags_of_every_type(tmp_path, make):
    f = arrays()
    f |= {key: f[key].astype(make) for key in ("terminals", "timeouts")}
    assert same(save(tmp_path / "f.npz", f), f).done.nonzero().tolist() == [[17]]


def test_a_true_end_keeps_its_reward(tmp_path):
    """Rows 3 and 9, the last, are true ends and timeouts, 6 a timeout. D4RL's names lose all three, as in the papers."""
    f = arrays(10, (3, 9), (3, 6, 9), without=["next_observations"])
    data = load_dataset(save(tmp_path / "f.npz", f))
    kept = [0, 1, 2, 3, 4, 5, 7, 8, 9]
    np.testing.assert_array_equal(data.reward.numpy(), f["rewards"][kept])
    np.testing.assert_array_equal(data.action.numpy(), f["actions"][kept])
    assert data.done.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 1] and data.episodes.tolist() == [[0, 4], [4, 6], [6, 9]]
    np.testing.assert_array_equal(data.next_obs[[2, 5, 7]].numpy(), f["observations"][[3, 6, 9]])
    np.testing.assert_array_equal(data.next_action[[2, 5, 7]].numpy(), f["actions"][[3, 6, 9]])
    assert data.next_action[[3, 8]].abs().sum() == 0 and len(data.followed) == 9
    save(d4rl_path("relocate-human-v1"), f)
    theirs = load_dataset("relocate-human-v1")
    np.testing.assert_array_equal(theirs.reward.numpy(), f["rewards"][[0, 1, 2, 4, 5, 7, 8]])
    assert theirs.done.sum() == 0


# Bounds of actions


def bounded(low, high, **options):
    """Arrays whose actions fill [low, high], and what they are in [-1, 1]."""
    f = arrays(**options)
    unit = f["actions"].astype(np.float64)
    unit[0], unit[1] = -1, 1
    f["actions"] = ((unit + 1) / 2 * (np.array(high) - low) + low).astype(np.float32)
    return f, unit


@pytest.mark.parametrize("low, high", [(-0.4, 0.4), (0, 1), ((-2, 0), (2, 10)), (99.9, 100.3), ((-1, 0), 1)])
@pytest.mark.parametrize("where", ["flags", "file"])
def test_actions_are_scaled(tmp_path, low, high, where):
    f, unit = bounded(low, high)
    flags, inside = dict(action_low=low, action_high=high), {}
    if where == "file":
        flags, inside = {}, flags
    data = same(save(tmp_path / "f.hdf5", f | inside), f, **flags)
    np.testing.assert_allclose(data.action.numpy(), unit, atol=1e-4 if low == 99.9 else 3e-7)
    assert data.action[0].tolist() == pytest.approx([-1, -1], abs=1e-4) and data.action[1].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert data.source["action_low"] == list(np.broadcast_to(low, 2)) and data.source["action_high"] == list(np.broadcast_to(high, 2))
    json.dumps(data.source)
    np.testing.assert_array_equal(data.next_action[2].numpy(), data.action[3].numpy())


def test_bounds_of_minus_1_and_1_change_nothing(tmp_path):
    f = arrays()
    f["actions"][0] = 1e-30
    plain = load_dataset(save(tmp_path / "f.npz", f))
    save(tmp_path / "g.npz", f | {"action_low": -1, "action_high": [1, 1]})
    for low, high, path in ((-1, 1, "f.npz"), ((-1, -1), 1.0, "f.npz"), ((), (), "g.npz")):
        data = load_dataset(str(tmp_path / path), action_low=low, action_high=high)
        assert torch.equal(data.rows, plain.rows) and "action_low" not in data.source
        np.testing.assert_array_equal(data.action.numpy(), f["actions"])
    half = load_dataset(str(tmp_path / "f.npz"), action_low=(-1, -2), action_high=(1, 2))
    np.testing.assert_array_equal(half.action[:, 0].numpy(), f["actions"][:, 0])
    assert half.source["action_low"] == [-1, -2]


def test_flags_win_over_the_files_bounds(tmp_path):
    f, unit = bounded(-0.4, 0.4)
    path = save(tmp_path / "f.npz", f | {"action_low": -3.0, "action_high": 0.4})
    data = load_dataset(path, action_low=-0.4)
    np.testing.assert_allclose(data.action.numpy(), unit, atol=3e-7)
    assert data.source["action_low"] == [-0.4, -0.4] and data.source["action_high"] == [0.4, 0.4]


@pytest.mark.parametrize("low, high, match", [
    (1, 1, "cannot lie between .1. and .1."), (2, -2, "cannot lie"), (-np.inf, 1, "cannot lie"), (np.nan, 1, "cannot lie"), (-2, (), "cannot lie"),
    ((), 2, "cannot lie"), ((-2, -2, -2), 2, "2 actions cannot lie"), ((-2,), (2, np.inf), "cannot lie"), (-1e308, 1e308, "cannot lie"),
    (-0.5, 0.5, r"actions reach -1, outside \[-0.5, 0.5\] \(dimension 0\); .*--action-low and --action-high"),
    ((-1, -1), (1, 0.5), r"actions reach 1, outside \[-1, 0.5\] \(dimension 1\)")])
@pytest.mark.parametrize("where", ["flags", "file"])
def test_bounds_that_cannot_be(tmp_path, low, high, match, where):
    f = bounded(-1, 1)[0]
    if where == "flags":
        with refuses(f"f.npz: .*{match}"):
            load_dataset(save(tmp_path / "f.npz", f), action_low=low, action_high=high)
    else:
        with refuses(f"f.npz: .*{match}"):
            load_dataset(save(tmp_path / "f.npz", f | {key: x for key, x in zip(files.BOUNDS, (low, high)) if np.size(x)}))


@pytest.mark.parametrize("low", ["left", np.array([b"left"]), 1j, True])
def test_bounds_that_are_no_numbers(tmp_path, low):
    path = save(tmp_path / "f.npz", arrays() | {"action_low": low, "action_high": 1})
    with refuses("cannot lie between"):
        load_dataset(path)


@pytest.mark.parametrize("make", [lambda file: file.create_group("action_low"), lambda file: file.create_dataset("action_low", data=h5py.Empty("f4")),
                                  lambda file: file.create_dataset("action_low", (0,), "f4"), lambda file: file.create_dataset("action_low", (10**9,), "f4")])
def test_bounds_that_are_no_arrays(tmp_path, make):
    path = save(tmp_path / "f.hdf5", arrays() | {"action_high": 1})
    with h5py.File(path, "a") as file:
        make(file)
    with refuses("`action_low` is no"):
        load_dataset(path)


def test_d4rls_actions_have_their_bounds():
    d4rl_file("ant-medium-v2")
    for bounds in (dict(action_low=0.0), dict(action_high=(1, 1))):
        with refuses("D4RL's actions are in .*leave --action-low and --action-high out"):
            load_dataset("ant-medium-v2", **bounds)


@minari_warns
def test_minaris_action_space_bounds_actions():
    from gymnasium.spaces import Box
    for name, low, high in (("small", -0.4, 0.4), ("positive", 0, 1), ("wide", -2, 2)):
        minari_set(f"solo/{name}-v0", action_space=Box(low, high, (2,), np.float32))
        raw = read_minari(f"solo/{name}-v0")["actions"].astype(np.float64)
        for _ in range(2):  # the cache too
            data = load_dataset(f"solo/{name}-v0")
            np.testing.assert_allclose(data.action.numpy(), 2 * (raw - low) / (high - low) - 1, atol=1e-6)
            assert data.source["action_low"] == [np.float32(low)] * 2 and data.source["action_high"] == [np.float32(high)] * 2
        assert load_dataset(f"solo/{name}-v0", action_low=-5).source["action_low"] == [-5, -5]  # flags win
    minari_set("solo/open-v0", action_space=Box(np.array([-1, -np.inf]), np.array([1, np.inf]), dtype=np.float64))
    with refuses(r"solo/open-v0: 2 actions cannot lie between .*inf.*--action-low and --action-high"):
        load_dataset("solo/open-v0")
    assert load_dataset("solo/open-v0", action_low=-9, action_high=9).source["action_high"] == [9, 9]


def read_minari(name):
    import minari
    (episode,) = minari.load_dataset(name).iterate_episodes()
    return {"actions": episode.actions}


# Minari


def minari_episodes(name, *flags):
    """A dataset of episodes with these (terminations, truncations); rewards are the numbers of the rows."""
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    rng, row, buffers = np.random.default_rng(0), 0, []
    for i, (terminations, truncations) in enumerate(flags):
        steps = len(terminations)
        buffers.append(EpisodeBuffer(
            id=i, observations=rng.normal(size=(steps + 1, 3)).astype(np.float32), actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            rewards=np.arange(row, row + steps, dtype=float), terminations=np.array(terminations, bool), truncations=np.array(truncations, bool)))
        row += steps
    minari.create_dataset_from_buffers(name, buffers, observation_space=Box(-np.inf, np.inf, (3,), np.float32),
                                       action_space=Box(-1.0, 1.0, (2,), np.float32))
    return buffers


@minari_warns
def test_minaris_episodes_are_its_own():
    """No flag at the end of the first and last; a true end in the middle of the third; both flags at the end of the fourth."""
    made = minari_episodes("solo/ends-v0", ([0, 0, 0], [0, 0, 0]), ([0, 0], [0, 1]), ([0, 1, 0], [1, 0, 1]), ([0, 1], [0, 1]), ([0, 0], [0, 0]))
    action = np.concatenate([e.actions for e in made])
    for _ in range(2):  # from Minari, from the cache
        data = load_dataset("solo/ends-v0")
        assert data.source["view"] == "next_obs" and data.episodes.tolist() == [[0, 3], [3, 5], [5, 8], [8, 10], [10, 12]]
        assert data.done.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0]
        np.testing.assert_array_equal(data.next_obs.numpy(), np.concatenate([e.observations[1:] for e in made]))
        assert data.followed.tolist() == [0, 1, 3, 5, 6, 8, 9, 10]
        np.testing.assert_array_equal(data.next_action[[0, 1, 3, 5, 8, 10]].numpy(), action[[1, 2, 4, 6, 9, 11]])
        kept = load_dataset("solo/ends-v0", view="d4rl")  # without the last rows that are no true ends
        assert kept.reward.tolist() == [0, 1, 3, 5, 6, 8, 9, 10] and kept.done.tolist() == [0, 0, 0, 0, 1, 0, 1, 0]
        assert kept.episodes.tolist() == [[0, 2], [2, 3], [3, 5], [5, 7], [7, 8]]
        np.testing.assert_array_equal(kept.next_action[[1, 2, 7]].numpy(), action[[2, 4, 11]])
        returns = load_dataset("solo/ends-v0", reward="return_range").reward / (data.reward + 1e-9)
        assert returns[1] == pytest.approx(1000 / (21 - 3))  # returns 3, 7, 18, 17 and 21
    assert len(cached_files()) == 1


@minari_warns
def test_old_caches_of_minari_are_not_used():
    """Arrays of an older version, which knew no ends, lie under another name."""
    import hashlib
    minari_episodes("solo/old-v0", ([0, 0], [0, 0]), ([0, 0], [0, 0]))
    listed = [(path.name, path.stat().st_mtime_ns) for path in sorted(minari_folder("solo/old-v0").iterdir())]
    old = f"minari-solo_old-v0-{hashlib.sha256(repr(listed).encode()).hexdigest()[:8]}.npz"
    save(Path(os.environ["SOLO_CACHE"]) / old, arrays() | {"source": np.array('{"kind": "minari", "sha256": ""}')})
    assert load_dataset("solo/old-v0").episodes.tolist() == [[0, 2], [2, 4]]


@minari_warns
@pytest.mark.parametrize("stray", ["data", "my notes/data", "solo/data", "solo/old (copy)/data", "x-v1/data"])
def test_strays_in_minaris_folder(stray):
    observations = minari_set("solo/there-v0")
    (Path(os.environ["MINARI_DATASETS_PATH"]) / stray).mkdir(parents=True)
    np.testing.assert_array_equal(load_dataset("solo/there-v0").obs.numpy(), observations[:-1])
    d4rl_file("ant-medium-v2")
    assert len(load_dataset(to_minari("ant-medium-v2")).rows) == 50
    with refuses("already"):
        to_minari("ant-medium-v2")


@minari_warns
def test_minari_tells_whether_there_is_an_environment():
    minari_set("solo/env-v0")
    assert [load_dataset("solo/env-v0").source["env"] for _ in range(2)] == [False, False]
    import gymnasium
    edit_metadata("solo/env-v0", lambda facts: facts.update(env_spec=gymnasium.spec("CartPole-v1").to_json()))
    assert read_arrays("solo/env-v0")[1]["env"] is True


def edit_metadata(name, change):
    path = minari_folder(name) / "metadata.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


@minari_warns
def test_minari_makes_no_environment_to_load_data(tmp_path):
    """Without spaces, Minari would make the environment whose code the metadata name."""
    minari_set("solo/code-v0")
    import gymnasium
    spec = json.loads(gymnasium.spec("CartPole-v1").to_json()) | {"entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "made")}}

    def change(facts):
        facts |= {"env_spec": json.dumps(spec)}
        del facts["action_space"], facts["observation_space"]

    edit_metadata("solo/code-v0", change)
    with refuses("solo/code-v0: cannot be read"):
        load_dataset("solo/code-v0")
    assert not (tmp_path / "made").exists()


@minari_warns
@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json", "notes"])
def test_pipe_in_a_minari_set(name):
    minari_set("solo/pipe-v0")
    (minari_folder("solo/pipe-v0") / name).unlink(missing_ok=True)
    os.mkfifo(minari_folder("solo/pipe-v0") / name)
    with refuses(f"solo/pipe-v0: cannot be read .*{name} is no regular file"):
        load_dataset("solo/pipe-v0")


# Memory


@pytest.mark.parametrize("kind", ["npz", "hdf5", "cache", "without next_observations", "bounds"])
def test_loading_takes_twice_the_rows(tmp_path, monkeypatch, kind):
    """Never more than the arrays and the rows, and pieces of them, at once: NumPy tells tracemalloc what it takes."""
    f = arrays(150_000, (17,), range(999, 150_000, 1000), ["next_observations"] * (kind[:7] == "without"), obs_size=15)
    f |= {"action_low": -1, "action_high": 2} if kind == "bounds" else {}
    if kind == "cache":
        env = "ant-medium-v2"
        save(Path(os.environ["SOLO_CACHE"]) / f"{env}.npz", f | {"source": np.array('{"kind": "d4rl", "sha256": ""}')})
    else:
        env = save(tmp_path / f"f.{'hdf5' if kind == 'hdf5' else 'npz'}", f)
    monkeypatch.setattr(files, "PIECE", 2**14)
    load_dataset(env)  # what is imported on the way
    del f
    tracemalloc.start()
    try:
        data = load_dataset(env, reward="standardize")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data.rows.nbytes > 20e6 and peak < 2.03 * data.rows.nbytes


def test_statistics_of_few_columns_at_a_time():
    """The same numbers, to the last bit, as of all columns at once."""
    for size in (1, 2, 3, 8, 11):
        rows = torch.randn(1000, 2 * size + 3, generator=torch.Generator().manual_seed(size)) * 3 + 100
        data = Dataset("x", None, {"kind": "file"}, rows, size, 1, torch.tensor([[0, 1000]]))
        std, mean = torch.std_mean(rows[:, :size].double(), 0, correction=0)
        assert torch.equal(data.obs_mean, mean.float()) and torch.equal(data.obs_std, std.float())


def test_names_are_those_of_d4rl():
    assert set(KEYS) == set(files.REQUIRED + files.OPTIONAL) and all(own_file(name) is None for name in D4RL)
