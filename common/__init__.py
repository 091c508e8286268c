"""What no ablation of a paper could touch: data, physics, evaluation, runs, graphs."""

import contextlib
import ctypes
import importlib
import math
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for workers: numpy does little here, torch has threads of its own


def __getattr__(name):
    if name == "load":  # `from common import load`; nobody else waits for what that imports, which begins with this
        return importlib.import_module("common.loading").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class InputError(ValueError):
    """Something the user can mend: scripts print it as one line and exit with code 2."""

    def __str__(self):
        text = " ".join(super().__str__().split())  # libraries' messages, quoted in ours, have line breaks
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)  # a folder's text steers no terminal


class RunError(RuntimeError):
    """A run that cannot go on (diverged, evaluation failed): one line and exit code 1; what was saved stays."""


@contextlib.contextmanager
def friendly():
    """Around a script's main. InputError: one line, exit code 2; RunError: one line, 1; Ctrl-C: one line, 130.

    At the end workers are killed, and Ctrl-C is ignored.
    """
    plain_streams()
    main, raised = in_main_thread(), [-math.inf]

    def interrupt(*_):  # the second of two fast Ctrl-C would interrupt what the first one has started to end
        if time.monotonic() - raised[0] > 1:
            raised[0] = time.monotonic()
            raise KeyboardInterrupt

    if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        try:
            yield
        except Exception:
            if raised[0] > -math.inf:  # a library has made an error of its own of Ctrl-C
                raise KeyboardInterrupt from None
            raise
        finally:
            if main:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            end_workers()
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:  # of NumPy and of PyTorch, on a CPU or a GPU
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        why = str(error).strip().partition("\n")[0][:200]
        print(f"error: out of memory ({why}); take fewer --seeds or a smaller batch", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def plain_streams() -> None:
    """A terminal that knows only ASCII shows ? for other signs, and ends no script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def lock(path) -> int | None:
    """Descriptor of a file that is this process's alone until it closes it or ends, however it ends; None: taken."""
    descriptor = os.open(path, os.O_RDWR)
    with contextlib.suppress(ImportError):  # Windows has no such locks
        import fcntl
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.close(descriptor)
    return descriptor


def keep_memory() -> None:
    """glibc keeps freed memory for the next update: new pages cost a large one a fifth of its time or more on a CPU."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            ctypes.CDLL(None).mallopt(option, 2**31 - 1)


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Fresh worker processes that leave Ctrl-C to their parent and do not outlive it, however it ends."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_parent)
    _pools.add(pool)
    try:
        with held_back():
            for _ in range(workers):  # each starts a process
                pool.submit(int)
    except BaseException:
        end_workers(pool)
        raise
    return pool


def end_workers(*pools, idle: bool = False) -> None:
    """End the processes of these pools, or of all: `idle` ones end by themselves, others are killed.

    They are waited for: Python 3.11 may print a traceback if they end while it exits.
    """
    for pool in pools or list(_pools):
        for process in [] if idle else list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(cancel_futures=True)
        _pools.discard(pool)


_pools = set()  # those that are not ended


@contextlib.contextmanager
def held_back():
    """Ctrl-C comes only afterwards; processes started inside never get it, and so are quiet even while they start."""
    came, main, masks = [], in_main_thread(), hasattr(signal, "pthread_sigmask")  # Windows has none
    handler = main and signal.signal(signal.SIGINT, lambda *_: came.append(1))
    mask = masks and signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    try:
        yield
    finally:
        masks and signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        main and signal.signal(signal.SIGINT, handler)
        came and signal.raise_signal(signal.SIGINT)


def in_main_thread() -> bool:
    """Only the main thread may set handlers of signals, and only it gets them."""
    return threading.current_thread() is threading.main_thread()


def _follow_parent():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: connection.wait([parent_process().sentinel]) and os._exit(1), daemon=True).start()


def one_clone(script: str | None) -> None:
    """InputError: `script`, the file that was started, lies in another clone than this `common`."""
    here, above = Path(__file__).resolve().parents[1], Path(script or __file__).resolve().parents
    clone = next((folder for folder in above if (folder / "common/d4rl.csv").is_file()), here)
    if clone != here and "site-packages" not in str(script):  # pytest's, say, of an environment inside a clone
        raise InputError(f"{script} is of {clone}, but Python finds `common` in {here}: two clones, one environment. "
                         f"Choose by pip install -e {clone}, or by PYTHONPATH={clone}")


try:  # now, before a name is asked for that the other clone lacks
    one_clone(getattr(sys.modules["__main__"], "__file__", None))
except InputError as two:
    print(f"error: {two}", file=sys.stderr)
    sys.exit(2)
