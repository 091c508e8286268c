"""Several agents side by side: a loop on the CPU, one CUDA graph with a branch (stream) per agent on a GPU.

On CUDA an update is recorded once and replayed: it has static shapes, no host sync and no branch on data. An agent
whose updates differ in a way the host knows (TD3's delayed actor, a term that a schedule ends) has a `phase`, any
hashable value, and each combination of phases, with logs and without, is recorded. `step`, one more after each update,
is the only host state that an update may change.
"""

import warnings
from collections import Counter

import torch

WARM_UP = 3  # real updates before a recording: what is created lazily (cuBLAS, optimiser state) must not be recorded


def side_by_side(agents: list):
    """A function that makes one update of every agent and returns their logs, a list of {name: scalar tensor}.

    Its argument `log`, True by default, is handed on: agent.update(log=False) trains in the same way and returns {}, at
    the cost of fewer kernels. With `--compile` torch.compile compiles the updates: the last digits are others.
    Generators draw as if each agent were alone.
    """
    updates = [agent.update for agent in agents]
    if getattr(getattr(agents[0], "args", None), "compile", False):
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # its tracer's
        updates = [torch.compile(update) for update in updates]
    if agents[0].rng.device.type != "cuda":
        return lambda log=True: [update() if log else update(log=False) for update in updates]
    torch.cuda.set_device(agents[0].data.device)
    streams, recordings, calls = [torch.cuda.Stream() for _ in agents], {}, Counter()

    def branches(log):
        logs = []
        for update, stream in zip(updates, streams):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                logs.append(update() if log else update(log=False))
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)
        return logs

    def side_by_side_update(log=True):
        phases = log, *(getattr(agent, "phase", None) for agent in agents)
        calls[phases] += 1
        if calls[phases] <= WARM_UP:
            return branches(log)
        if phases not in recordings:
            graph = torch.cuda.CUDAGraph()
            for agent in agents:
                graph.register_generator_state(agent.rng)
            with torch.cuda.graph(graph):
                recordings[phases] = graph, branches(log)  # runs its Python, `step` included, but no kernel
        else:
            for agent in agents:
                agent.step += 1
        graph, logs = recordings[phases]
        graph.replay()
        return logs

    return side_by_side_update
