"""Files that are there whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path

from common import InputError


def check_folder(folder: Path, hint: str = " with --out") -> None:
    """InputError: nothing can be written there. For what computes long before it writes; makes nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    try:
        with contextlib.suppress(FileNotFoundError):  # what is not there yet is made, if its name can be one
            os.stat(folder)
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error}); choose another folder{hint}") from None


@contextlib.contextmanager
def whole(path: Path, hint: str = " with --out"):
    """A path to write to, in a folder that is made; it becomes `path` at the end. InputError: it cannot be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); free space, or choose another folder{hint}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
