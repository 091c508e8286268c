"""What no ablation of a paper could touch: data, physics, evaluation, runs, graphs."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process


class InputError(ValueError):
    """Something the user can mend. Scripts print it as one line and exit with code 2 (`common.run.cli`)."""


class RunError(RuntimeError):
    """A run that cannot go on (diverged, evaluation crashed, disk full): one line, exit code 1, what was saved stays."""


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Fresh worker processes that leave Ctrl-C to their parent and do not outlive it, however it ends."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_parent)
    if threading.current_thread() is not threading.main_thread():
        return pool
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited, so that Ctrl-C is quiet even while they start
    try:
        pool.submit(int)
    finally:
        signal.signal(signal.SIGINT, handler)
    return pool


def _follow_parent():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
