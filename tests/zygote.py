"""A process that has imported torch and the project, and forks: a script that starts as its fork costs a tenth of a second.

The fork runs the same file as `__main__`, with its own arguments, environment, folder, output and exit code, and ends as an
interpreter does. What is not the same: modules are imported already; workers of `common.worker_pool` are forked too, and so are
the runs of a grid (benchmark/engine/jobs.py). Where a script's start is what is tested, helpers.Script has `real=True`.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

AVAILABLE = hasattr(os, "pidfd_open")  # Linux; elsewhere every script has an interpreter of its own
ROOM = 4096  # bytes of the zygote's command line, for those of its forks: `pgrep -f` finds them as if they were started


class Fork:
    """Like subprocess.Popen([sys.executable, script, *words], ...), as far as tests and grids use it."""

    def __init__(self, command, stdin=subprocess.DEVNULL, stdout=None, stderr=None, env=None, cwd=None, pass_fds=(), start_new_session=False):
        assert command[0] == sys.executable and str(command[1]).endswith(".py"), command
        job = {"argv": list(map(str, command[1:])), "env": dict(os.environ if env is None else env), "cwd": str(cwd or os.getcwd()),
               "session": start_new_session}
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.connect(address())
        with open(os.devnull, "r+") as nothing:
            files = [nothing.fileno() if file == subprocess.DEVNULL else file.fileno() for file in (stdin, stdout, stderr)]
            socket.send_fds(self.connection, [json.dumps(job).encode()], [*files, *pass_fds])
        self.args, self.pid, self.returncode = command, int(self.connection.recv(100)), None

    def wait(self, timeout=None):
        if self.returncode is None:
            self.connection.settimeout(timeout)
            try:
                self.returncode = int(self.connection.recv(100))
            except (TimeoutError, BlockingIOError):  # the latter for a timeout of 0
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self.connection.close()
        return self.returncode

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


zygote = {}  # of this process and its forks: its socket's path, and in the process that started it what it takes to stop it


def popen(command, real=False, **options):
    """A Fork for a script; else, and on systems without forks like these, a process of its own."""
    forked = AVAILABLE and not real and str(command[1]).endswith(".py")
    return (Fork if forked else subprocess.Popen)(command, **options)


processes = SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)  # `subprocess`, for a module that starts scripts


def address() -> str:
    """The zygote's socket; it is started when it is first asked for."""
    if not zygote:
        folder = tempfile.TemporaryDirectory(prefix="zygote", dir="/tmp")  # a socket's path is short
        path = f"{folder.name}/socket"
        process = subprocess.Popen([sys.executable, __file__, path, "x" * ROOM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   cwd=Path(__file__).parents[1], start_new_session=True)  # Ctrl-C is for those who started it
        assert process.stdout.readline() == b"ready\n", "the zygote did not start"
        zygote.update(path=path, process=process, folder=folder)
    return zygote["path"]


def stop():
    """The end of the tests."""
    if process := zygote.get("process"):
        process.stdin.close()
        process.stdout.close()
        process.wait()
        zygote["folder"].cleanup()
        zygote.clear()


def preload():
    """Everything that scripts import, now or when they first need it; and no thread."""
    import h5py  # noqa: F401
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import minari  # noqa: F401
    import rliable.library
    import rliable.metrics
    import torch

    import benchmark.engine.jobs
    import benchmark.plot
    import benchmark.rorl_attacks
    import common
    from common.data import load_dataset  # noqa: F401
    from common.physics import make_env
    from common.run import Run  # noqa: F401

    make_env("hopper-medium-v2").close()
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], fused=True).zero_grad()
    from multiprocessing import get_context
    common.get_context = lambda method: get_context("fork")
    benchmark.engine.jobs.subprocess = processes


def serve(path):
    """Fork for everyone who asks, and tell them how their fork ended; returns (job, files) in a fork, None at the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(100)
    print("ready", flush=True)
    ready, asked = selectors.DefaultSelector(), {}  # {descriptor of a fork: (its number, who asked for it)}
    for file in (listener, sys.stdin):
        ready.register(file, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                message, files, *_ = socket.recv_fds(connection, 2**20, 64)
                if (pid := os.fork()) == 0:
                    for file in (listener, ready, connection, *(other for _, other in asked.values())):
                        file.close()
                    return json.loads(message), files
                for file in files:
                    os.close(file)
                with contextlib.suppress(OSError):  # who asked for it has ended
                    connection.send(str(pid).encode())
                asked[os.pidfd_open(pid)] = pid, connection
                ready.register(list(asked)[-1], selectors.EVENT_READ)
            elif key.fileobj is sys.stdin:  # the tests are over: nothing of them is left behind
                for pid, _ in asked.values():
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return None
            else:
                pid, connection = asked.pop(key.fileobj)
                ended = os.waitid(os.P_PIDFD, key.fileobj, os.WEXITED | os.WNOWAIT)  # its number stays its own until it has been told
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                with contextlib.suppress(OSError):  # who asked for it has ended
                    connection.send(str(code).encode())
                os.waitpid(pid, 0)
                ready.unregister(key.fileobj)
                os.close(key.fileobj)
                connection.close()


def become(job, files):
    """In a fork: the process that was asked for, up to its script."""
    import torch
    if job["session"]:
        os.setsid()
    for number, file in enumerate(files[:3]):  # any others are held open, as who asked wants it
        os.dup2(file, number)
        os.close(file)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    if "PAUSE" in os.environ:
        from common.run import Run
        from pause.sitecustomize import patch
        patch(Run)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    sys.argv, sys.path[0] = job["argv"], os.path.dirname(os.path.abspath(job["argv"][0]))
    first, last = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])  # of the command line
    line = b"\0".join(os.fsencode(word) for word in [sys.executable, *sys.argv])[:last - first - 1]
    ctypes.memmove(first, line.ljust(last - first, b"\0"), last - first)


if __name__ == "__main__":
    code = [1]  # of a fork that ends by an exception

    @atexit.register  # first, hence called last: a fork is spared taking apart what it never used, most of a second
    def end():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code[0])

    preload()
    gc.freeze()  # forks share what their garbage collectors need not visit
    zygote["path"] = sys.argv[1]
    if asked := serve(zygote["path"]):
        become(*asked)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            code[0] = 0
        except SystemExit as ended:
            code[0] = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            raise
