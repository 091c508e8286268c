"""A run's checkpoint: the state of its agents in a file that proves that it is whole."""

import contextlib
import hashlib
import os
import zipfile
from pathlib import Path
from types import FunctionType

import torch

from common import InputError
from common.files import BOUNDS

SEAL = 64  # hexadecimal digits of a SHA-256


@contextlib.contextmanager
def writing(path):
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise InputError(f"cannot write {path} ({error}); free space or choose another folder with --runs. A "
                         "checkpoint that is there is whole: --resume continues from it") from None


@contextlib.contextmanager
def whole(path):
    """A file to write that becomes `path` when it is on the disk for certain; until then what was there stays."""
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        try:
            part.unlink(missing_ok=True)  # a link that somebody left there is not followed
            with open(part, "x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            with contextlib.suppress(OSError):  # Windows opens no folder
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


def _digest(file, size) -> bytes:
    """SHA-256 of a file's first bytes, in hexadecimal digits."""
    digest, left = hashlib.sha256(), size
    file.seek(0)
    while chunk := file.read(min(left, 2**20)):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest().encode()


def save_sealed(state: dict, file) -> None:
    """torch.save, which writes a zip file, and as the zip's comment the SHA-256 of all that stands before it."""
    torch.save(state, file)
    end = file.seek(0, os.SEEK_END)
    file.seek(end - 2)  # the length of the comment, 0 so far
    file.write(SEAL.to_bytes(2, "little"))
    file.write(_digest(file, end))


def _sound(file) -> bool:
    """Is a zip file as it was sealed or, from before there were seals, are the checksums of its parts right?"""
    end = file.seek(0, os.SEEK_END) - SEAL
    file.seek(max(end - 22, 0))
    tail = file.read()
    if tail[-22:-18] == b"PK\5\6" and tail[-2:] == b"\0\0":  # ends with a zip's end record: no comment, no seal
        return zipfile.ZipFile(file).testzip() is None
    return end > 0 and _digest(file, end) == tail[-SEAL:]


def read_checkpoint(path: Path, mmap: bool = False) -> dict:
    """A run's checkpoint.pt on the CPU; with `mmap` its tensors stay on the disk until they are used.

    It is data, nothing in it is executed. InputError: none, or one of which a single bit is not as it was saved.
    """
    mend = "put a copy of it back, or delete it and train from the start"
    try:
        if not path.is_file():  # a FIFO would wait for ever
            raise FileNotFoundError("no file")
        with open(path, "rb") as file:
            if not _sound(file):
                raise InputError(f"{path} is damaged: its SHA-256 is not the one it was saved with; {mend}")
            file.seek(0)
            state = torch.load(str(path) if mmap else file, weights_only=True, map_location="cpu", mmap=mmap)
        agents = state["agents"]
        if not (type(state["step"]) is int and state["step"] >= 0 and type(state["seconds"]) in (int, float)
                and 0 <= state["seconds"] < 1e300  # not nan
                and isinstance(agents, list) and agents and all(isinstance(agent, dict) for agent in agents)):
            raise ValueError("not the layout of a run's checkpoint")
        return state
    except InputError:
        raise
    except Exception as error:  # torch, zip and pickle each raise their own kinds
        raise InputError(f"{path} cannot be read, damaged? ({type(error).__name__}: {error}); {mend}") from None


def facts(config: dict) -> dict:
    """What a config.json says beside the flags on which an agent and its attacks depend; a checkpoint keeps it."""
    bounds = {name: config["data"].get(name) for name in BOUNDS}
    return bounds | {name: config.get(name) for name in ("algorithm", "task", "physics", "dataset_source", "obs_std")}


def check_fit(saved: dict, config: dict) -> None:
    """ValueError: a checkpoint is of another run than a config.json says. Older versions kept no flags in it."""
    args = config["args"]
    for here, its in ((args, saved.get("settings", {})), (facts(config), saved.get("facts", {}))):
        if other := [name for name in its if here.get(name) != its[name]]:
            name = other[0]
            raise ValueError(f"it was saved with {name} {its[name]}, config.json has {here.get(name)}"[:300])
    agents, step, seeds, updates = len(saved["agents"]), saved["step"], len(args["seeds"]), args["updates"]
    if agents != seeds or step > updates:
        raise ValueError(f"it has {agents} agents after {step:,} updates, config.json {seeds} seeds and {updates:,} "
                         "updates")


def lengthen(state: dict, args) -> None:
    """Make a checkpoint the one that a run of `args.updates` from the start would have had: without the row and the
    evaluation that only a last update gets. ValueError: so many updates are done already."""
    if state["step"] >= args.updates:
        raise ValueError(f"{state['step']:,} updates are done; give more than that, not --updates {args.updates}")
    state["settings"] = state.get("settings", {}) | {"updates": args.updates}
    for name, every in (("log.csv", args.log_every), ("eval.csv", args.eval_every)):
        header, *rows = state["rows"][name].splitlines(keepends=True) or [""]
        kept = [row for row in rows if int(row.partition(",")[0]) % every == 0]
        state["rows"][name] = "".join([header, *kept] if kept else [])
    state["waiting"] = [job for job in state["waiting"] if job[0] % args.eval_every == 0]


def snapshot(agent, saved: dict | None = None) -> dict:
    """All that training changes in an agent's attributes (the branches below); `saved`, if given, is put back.

    Any other attribute but arguments, data, strings, devices and functions is a TypeError: better than a resume that
    forgets it.
    ValueError: what is to be put back has other attributes or shapes.
    """
    state = {}
    if saved is not None and (odd := set(saved) ^ set(snapshot(agent))):
        raise ValueError(f"{type(agent).__name__} and the checkpoint do not both have {', '.join(sorted(odd))}")
    for name, value in list(vars(agent).items()):
        if name in ("args", "data") or value is None or isinstance(value, (str, torch.device, FunctionType)):
            continue
        if hasattr(value, "state_dict"):
            get, put = value.state_dict, value.load_state_dict
        elif isinstance(value, torch.Generator):
            get, put = value.get_state, value.set_state
        elif isinstance(value, torch.Tensor):
            get, put = value.detach, value.data.copy_
        elif isinstance(value, (bool, int, float)):
            get, put = (lambda: value), (lambda new: setattr(agent, name, new))
        else:
            raise TypeError(f"{type(agent).__name__}.{name}: a checkpoint cannot save a {type(value).__name__}; keep "
                            "state in modules, optimisers, tensors, generators or numbers")
        if saved is not None and isinstance(value, (torch.Tensor, bool, int, float)):
            if getattr(saved[name], "shape", ()) != getattr(value, "shape", ()) or isinstance(saved[name], (dict, str)):
                raise ValueError(f"{type(agent).__name__}.{name} has another shape or kind in the checkpoint")
        state[name] = get() if saved is None else put(saved[name])
    return state
