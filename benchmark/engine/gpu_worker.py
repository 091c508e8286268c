"""Measurements of one algorithm for benchmark/gpu.py, in a process of its own: what breaks here breaks nothing else.

It reads jobs from stdin, JSON on a line each, and answers each with a line of JSON: {"failed": why} if it raised. What
is printed meanwhile goes to stderr. It ends with its stdin, and computes only from a job's line to its answer.

Run: echo '{"do": "count", "sizes": [11, 3], "env": "hopper-medium-v2"}' | python benchmark/engine/gpu_worker.py \
'{"algorithm": "bc", "flags": [], "device": "cpu"}'
"""

import gc
import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]  # where the project is not installed

import torch  # noqa: E402

from benchmark.engine.kernels import kernels, period_of  # noqa: E402
from benchmark.engine.runs import agent_class, arguments, load_script, script_of  # noqa: E402
from benchmark.engine.speed_worker import flops  # noqa: E402
from common import keep_memory  # noqa: E402
from common.data import Dataset  # noqa: E402
from common.graph import WARM_UP, side_by_side  # noqa: E402

ROWS = 100_000  # of random transitions


class Worker:
    """`algorithm`: a file in algorithms/; `flags`: beyond --env; `device`."""

    def __init__(self, algorithm: str, flags: list[str], device: str):
        self.algorithm, self.flags, self.data, self.ready = algorithm, flags, {}, None
        self.device = torch.zeros(1, device=device).device  # with its number; and makes CUDA's context
        self.cuda = self.device.type == "cuda"
        if self.cuda:
            torch.cuda.set_device(self.device)

    def agents(self, job: dict) -> list:
        """Of a job's `seeds`, `env`, `sizes` (S, A) and `mode`, with the paper's values for that env."""
        sizes = tuple(job["sizes"])
        if sizes not in self.data:
            rng, (obs_size, action_size) = torch.Generator().manual_seed(0), sizes
            rows = torch.randn(job.get("rows", ROWS), 2 * obs_size + action_size + 2, generator=rng)
            rows[:, -1] = 0.0  # done
            rows[:, obs_size:obs_size + action_size].tanh_()
            self.data[sizes] = Dataset(job["env"], None, {"kind": "none"}, rows.to(self.device), *sizes,
                                       torch.tensor([[0, len(rows)]]))
        words = ["--env", job["env"], *self.flags, "--device", str(self.device)]
        words += ["--seeds", *map(str, range(job["seeds"])), *["--compile"] * ("compile" in job["mode"])]
        args = arguments(self.algorithm, words)
        kind = agent_class(load_script(script_of(self.algorithm)))
        return [kind(args, self.data[sizes], seed) for seed in args.seeds]

    def prepared(self, job: dict):
        """Agents, a function that updates all of them once without logs, and after how many calls phases repeat."""
        torch.backends.cuda.matmul.allow_tf32 = job["tf32"]
        agents = self.agents(job)
        period = period_of(agents[0])
        for agent in agents[1:]:
            period_of(agent)
        if job["mode"] == "eager":
            def update():
                for agent in agents:
                    agent.update(log=False)
        else:
            together = side_by_side(agents)

            def update():
                together(log=False)
        for _ in range(period * (1 if job["mode"] == "eager" else WARM_UP + 2)):
            update()
        self.wait()
        return agents, update, period

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def prepare(self, job: dict) -> dict:
        """Agents, compiled and recorded as the job says: for `time`."""
        self.ready = None
        gc.collect()  # graphs are in cycles
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.ready = self.prepared(job)[1:]
        return {}

    def time(self, job: dict) -> dict:
        """Updates a second, all seeds together: the median, least and most of three turns of `seconds`."""
        (update, period), rates = self.ready, []
        count = period
        while len(rates) < 3:
            start = time.perf_counter()
            for _ in range(count):
                update()
            self.wait()
            took = time.perf_counter() - start
            if took < job["seconds"] / 2 and count < 10**6:  # too short to tell
                count = period * max(1, round(count / period * min(8, job["seconds"] / max(took, 1e-9))))
                continue
            rates.append(job["seeds"] * count / took)
        self.ready = None
        rates.sort()
        memory = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else None
        return {"updates_per_second": rates[1], "least": rates[0], "most": rates[2], "memory_mib": memory}

    def count(self, job: dict) -> dict:
        """GFLOP of the matrix products of an update, and operators that launch a kernel."""
        (agent,) = self.agents(job | {"seeds": 1, "mode": "eager"})
        period = period_of(agent)
        return {"gflop": flops(agent.update, period) / 1e9, "operators": kernels(agent.update, period).total()}

    def profile(self, job: dict) -> dict:
        """Kernels of an update as the GPU ran them, [name, how many an update, microseconds an update], longest first.

        `busy_us`: their sum, which may exceed the time if some overlap; `update_us`: an update's time without the
        profiler. After it nothing is timed in this process: a profiler may leave traces. A CPU's operators stand in
        for kernels.
        """
        from torch.profiler import ProfilerActivity, profile
        _, update, period = self.prepared(job)
        times = 5 * period
        start = time.perf_counter()
        for _ in range(4 * times):
            update()
        self.wait()
        took = (time.perf_counter() - start) / (4 * times)
        kind = ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU
        with profile(activities=[kind], acc_events=True) as profiler:  # else 2.11 warns
            for _ in range(times):
                update()
            self.wait()
        found = {}
        for event in profiler.events():
            on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
            if on_gpu == self.cuda and not event.cpu_children:
                number, length = found.get(event.name, (0, 0.0))
                found[event.name] = number + 1, length + event.time_range.elapsed_us()
        table = sorted(([name[:120], number / times, length / times] for name, (number, length) in found.items()),
                       key=lambda row: -row[2])
        if not table:
            raise RuntimeError("the profiler saw no kernels")
        return {"kernels": sum(row[1] for row in table), "busy_us": sum(row[2] for row in table),
                "update_us": 1e6 * took, "table": table[:25]}

    def device_facts(self, job: dict) -> dict:
        """What the card can do: TFLOP/s of float32 products with TF32 and without, microseconds of a kernel in a graph.
        """
        facts = {}
        for tf32 in (True, False):
            torch.backends.cuda.matmul.allow_tf32, best = tf32, 0.0
            for size in job["products"]:
                x, y = torch.randn(2, size, size, device=self.device)
                z = torch.empty_like(x)
                for _ in range(5):
                    start = time.perf_counter()
                    for _ in range(10):
                        torch.mm(x, y, out=z)
                    self.wait()
                    best = max(best, 10 * 2 * size**3 / (time.perf_counter() - start) / 1e12)
            facts["tflops_tf32" if tf32 else "tflops_float32"] = best
        return facts | ({"kernel_us": self.kernel_us()} if self.cuda else {})

    def kernel_us(self, number: int = 2000) -> float:
        x, graph, stream = torch.zeros(1, device=self.device), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            x.add_(1.0)
        self.wait()
        with torch.cuda.graph(graph):
            for _ in range(number):
                x.add_(1.0)
        best = float("inf")
        for _ in range(20):
            start = time.perf_counter()
            graph.replay()
            self.wait()
            best = min(best, time.perf_counter() - start)
        return best / number * 1e6

    def threads(self, job: dict) -> dict:
        torch.set_num_threads(job["threads"])
        return {"threads": torch.get_num_threads()}


def main(who: dict):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    keep_memory()  # as Run does
    worker = Worker(**who)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = getattr(worker, job["do"])(job)
        except Exception as error:  # CUDA's, the compiler's and ours
            told = str(error).strip().splitlines() or [""]
            answer = {"failed": f"{type(error).__name__}: {told[0]}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
