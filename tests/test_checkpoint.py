"""A checkpoint that is damaged is never used; the one before stays until the next is on the disk."""

import io
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from common import InputError
from common.checkpoint import _sound, read_checkpoint, save_sealed, whole

STATE = {"step": 3, "seconds": 1.5, "agents": [{"weight": torch.arange(40.0), "step": 3}]}


def sealed(tmp_path, state=STATE) -> Path:
    with whole(tmp_path / "checkpoint.pt") as file:
        save_sealed(state, file)
    return tmp_path / "checkpoint.pt"


@pytest.mark.parametrize("mmap", [False, True])
def test_a_sealed_checkpoint_is_read_by_everything_that_reads_torch_files(mmap, tmp_path):
    path = sealed(tmp_path)
    for state in (read_checkpoint(path, mmap), torch.load(path, weights_only=True, mmap=mmap)):
        assert state["step"] == 3 and state["seconds"] == 1.5 and torch.equal(state["agents"][0]["weight"], torch.arange(40.0))
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None and len(file.comment) == 64


def test_every_flipped_bit_is_refused(tmp_path):
    """Headers, padding, end record and seal included: all of them by the check, some also through the whole way."""
    path, draw = sealed(tmp_path), random.Random(0)
    data = path.read_bytes()
    bits = range(8 * len(data))
    assert _sound(io.BytesIO(data))
    through = set(draw.sample(bits, 150)) | set(bits[:8 * 4]) | set(bits[-8 * 86:-8 * 60])  # first bytes, end record, its length, the seal
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert not _sound(io.BytesIO(flipped)), bit
        except Exception as error:  # not even a zip file
            assert type(error) is zipfile.BadZipFile, bit
        if bit in through:
            path.write_bytes(flipped)
            with pytest.raises(InputError, match="checkpoint.pt is damaged: its SHA-256 is not the one it was saved with; put a copy of it back, or delete"):
                read_checkpoint(path, mmap=bit % 2 == 0)


def test_truncations_and_additions_are_refused(tmp_path):
    data = sealed(tmp_path).read_bytes()
    sizes = [*range(0, len(data) - 90, 13), *range(len(data) - 90, len(data))]
    for changed in [data[:size] for size in sizes] + [data + b"\0", data + data, data[1:], b"\0" + data]:
        (tmp_path / "checkpoint.pt").write_bytes(changed)
        with pytest.raises(InputError, match="checkpoint.pt (is damaged|cannot be read, damaged)"):
            read_checkpoint(tmp_path / "checkpoint.pt")


def test_a_checkpoint_of_before_there_were_seals_has_its_zip_checksums(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(STATE, path)
    assert read_checkpoint(path)["step"] == 3
    data = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        (weight,) = (entry for entry in file.infolist() if entry.filename.endswith("data/0"))
    place = data.index(torch.arange(40.0).numpy().tobytes())
    assert weight.file_size == 160
    for at in range(place, place + 160):
        flipped = bytearray(data)
        flipped[at] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="is damaged"):
            read_checkpoint(path)


class Runs:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("state", [
    [], {}, STATE | {"step": -1}, STATE | {"step": True}, STATE | {"step": 1.0}, STATE | {"seconds": "1"}, STATE | {"agents": []},
    STATE | {"agents": {}}, STATE | {"agents": [1]}, STATE | {"more": Runs()}])
def test_what_is_no_checkpoint_of_a_run_is_refused(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(sealed(tmp_path, state))
    assert not (tmp_path / "executed").exists()


def test_no_file_a_folder_and_a_fifo_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("none", "", "fifo"):
        with pytest.raises(InputError, match="no file"):
            read_checkpoint(tmp_path / name)


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace

    def recorded(descriptor):
        done.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "replace", lambda part, path: done.append(("replace", part.stat().st_ino)) or replace(part, path))
    path = sealed(tmp_path)
    inode, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert done == [("fsync", inode), ("replace", inode), ("fsync", folder)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_a_save_that_ends_early_leaves_what_was_there(error, tmp_path):
    path = sealed(tmp_path)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else InputError):
        with whole(path) as file:
            file.write(b"half")
            raise error
    assert read_checkpoint(path)["step"] == 3 and [found.name for found in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "checkpoint.pt.part").symlink_to(tmp_path / "precious")
    assert read_checkpoint(sealed(tmp_path))["step"] == 3 and (tmp_path / "precious").read_text() == "mine"


def test_a_forged_checkpoint_has_a_seal_too(tmp_path):
    """What a seal does not say (SECURITY.md): who saved it."""
    forged = read_checkpoint(sealed(tmp_path)) | {"step": 4}
    assert read_checkpoint(sealed(tmp_path, forged))["step"] == 4
