"""Where the runs of a grid are trained: processes on this machine, or a Ray cluster.

Both have `room` (jobs that they take at a time), `gpu` (do the runs get GPUs?), submit(job) -> handle, outcome(handle)
-> None while it is under way, then "" or why it failed, and stop(), after which all that was under way is saved.
"""

import os
import queue
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from benchmark.engine.jobs import STOPPED, Job, work
from common import InputError

FORWARDED = "SOLO_CACHE", "SOLO_MIRRORS", "D4RL_DATASET_DIR", "MINARI_DATASETS_PATH"  # to every node: where data are


class Local:
    """`jobs` processes at a time; with `gpus`, each process sees one of them, taken in turn. They outlive this one."""

    def __init__(self, jobs: int, gpus: tuple[int, ...]):
        self.room, self.gpu = jobs, bool(gpus)
        self.pool, self.stopping = ThreadPoolExecutor(jobs), threading.Event()
        own = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]  # a scheduler's
        names = [own[gpu] if gpu < len(own) else None for gpu in gpus] if own else list(map(str, gpus))
        if None in names:
            raise InputError(f"--gpus {gpus[names.index(None)]}: CUDA_VISIBLE_DEVICES has only {len(own)}")
        self.slots = queue.SimpleQueue()
        for slot in range(jobs):
            self.slots.put(names[slot % len(names)] if names else "")

    def submit(self, job: Job):
        return self.pool.submit(self._work, job)

    def _work(self, job):
        gpu = self.slots.get()
        try:
            return STOPPED if self.stopping.is_set() else work(job, gpu, stopped=self.stopping.is_set)
        finally:
            self.slots.put(gpu)

    def outcome(self, handle) -> str | None:
        """InputError: as work()."""
        if not handle.done():
            return None
        try:
            return handle.result()
        except Exception as error:
            return _reason(error)

    def stop(self) -> None:
        self.stopping.set()
        self.pool.shutdown()


class Ray:
    """Tasks of a Ray cluster, which places them; a task whose worker or node dies is started again, and resumes.

    `address`: a cluster's, or `local` for one on this machine that lasts as long as this process. `cpus`, `gpus`: of a
    task; `gpus` None: 1 where the cluster has any. Every node needs the project, its environment, the runs' folder and
    the data at the same paths (what says where data are goes along). InputError: no Ray, no cluster at the address.
    """

    room = float("inf")  # it keeps its own queue

    def __init__(self, address: str, cpus: int, gpus: float | None, retries: int):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # inherited: what is ignored here cancels no task
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        try:
            import ray
        except ImportError:
            raise InputError("--ray needs Ray: pip install -r requirements-cluster.txt") from None
        given = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        own = dict(include_dashboard=False, object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1")
        try:
            if host := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address):  # Ray itself tries for many minutes
                socket.create_connection(host.groups(), timeout=10).close()
            ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": given},
                     **own if address == "local" else {})
        except Exception as error:  # each way to fail has its own kind
            raise InputError(f"--ray {address}: no cluster answers there ({error}). Does one run (`ray status`)? One "
                             "with tokens needs RAY_AUTH_MODE=token and its token here too") from None
        self.ray, self.refs, total = ray, [], ray.cluster_resources()
        gpus = float(total.get("GPU", 0) > 0) if gpus is None else gpus
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            print(f"no node of the cluster has {cpus} CPUs and {gpus:g} GPUs for a run; Ray waits for one", flush=True)
        self.gpu = gpus > 0
        self.task = ray.remote(work).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
        print(f"Ray: nodes {len(nodes)}, CPUs {total.get('CPU', 0):g}, GPUs {total.get('GPU', 0):g}; a run takes CPUs "
              f"{cpus}, GPUs {gpus:g}", flush=True)

    def submit(self, job: Job):
        self.refs.append(self.task.remote(job, None if self.gpu else "", True))
        return self.refs[-1]

    def outcome(self, handle) -> str | None:
        """InputError: as work()."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(handle) if self.ray.wait([handle], timeout=0)[0] else None
        except errors.TaskCancelledError:
            return STOPPED
        except errors.RayTaskError as error:
            return _reason(error.cause)
        except errors.RayError as error:  # its worker or its node died, each time
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"

    def stop(self) -> None:
        """Cancelled tasks let their process save; wait for that, a minute at most."""
        for ref in self.refs:
            self.ray.cancel(ref, recursive=False)
        if self.refs:
            self.ray.wait(self.refs, num_returns=len(self.refs), timeout=60)
        self.ray.shutdown()


def _reason(error: BaseException) -> str:
    """Of one job's failure in work(); InputError is everybody's."""
    if isinstance(error, InputError):
        raise error
    return f"{type(error).__name__}: {error}"
