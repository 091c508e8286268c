"""Files that are there whole or not at all."""

import contextlib
import os
from pathlib import Path

from common import InputError


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
