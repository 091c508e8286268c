"""Several agents side by side: a loop on the CPU, one CUDA graph with a branch (stream) per agent on a GPU."""

from __future__ import annotations

import torch

WARM_UP = 3  # real updates before a recording: lazy initialisation (cuBLAS, optimiser state) must not be recorded


def side_by_side(agents: list):
    """A function that makes one update of every agent and returns their logs, a list of {name: scalar tensor}.

    On CUDA an update is recorded once and replayed: `update` has static shapes, no host sync and no branch on data. What it may have is a
    cycle that the host knows: an agent whose updates differ (TD3's delayed actor, a term that a schedule switches off) says so
    by `phase`, any hashable value, and each combination of phases gets a recording. The Python counter `step` is the
    only host state that an update may change. Every agent's generator is registered, so each draws as if it were alone.
    """
    if agents[0].rng.device.type != "cuda":
        return lambda: [agent.update() for agent in agents]
    recordings, eager_calls = {}, {}
    main, streams = torch.cuda.Stream(), [torch.cuda.Stream() for _ in agents]

    def all_agents():
        logs = []
        for agent, stream in zip(agents, streams):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                logs.append(agent.update())
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)
        return logs

    def record():
        graph = torch.cuda.CUDAGraph()
        for agent in agents:
            graph.register_generator_state(agent.rng)
        steps = [agent.step for agent in agents]
        with torch.cuda.graph(graph, stream=main):
            logs = all_agents()
        for agent, step in zip(agents, steps):
            agent.step = step  # recording runs Python but no kernel
        return graph, logs

    def update():
        phases = tuple(getattr(agent, "phase", None) for agent in agents)
        if phases not in recordings:
            eager_calls[phases] = eager_calls.get(phases, 0) + 1
            if eager_calls[phases] <= WARM_UP:
                main.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(main):
                    logs = all_agents()
                torch.cuda.current_stream().wait_stream(main)
                return logs
            recordings[phases] = record()
        graph, logs = recordings[phases]
        graph.replay()
        for agent in agents:
            agent.step += 1
        return logs

    return update
