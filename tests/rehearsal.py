"""CUDA's streams and graphs on the CPU: a rehearsal, without a GPU, of common/graph.py and of those who call it.

A recording runs Python once and undoes its numbers. A replay runs Python again, with `step` as it was at the recording, and writes the
recording's logs: as in a CUDA graph, what Python decides is what it decided then. An agent whose generator was not registered stays as it is.
"""

import contextlib
from copy import deepcopy
from types import SimpleNamespace

import torch

from common.checkpoint import snapshot


class Branch:
    """An agent that says it is on a GPU, and tells a recording what its update did."""

    def __init__(self, agent):
        vars(self)["agent"] = agent

    def __getattr__(self, name):
        return getattr(self.agent, name)

    def __setattr__(self, name, value):
        setattr(self.agent, name, value)

    @property
    def rng(self):
        return SimpleNamespace(device=torch.device("cuda"), agent=self.agent)

    def update(self, **words):
        step, logs = self.agent.step, self.agent.update(**words)
        if Graph.recording:
            Graph.recording.calls.append((self.agent, step, words, logs))
        return logs


class Graph:
    recording = None  # the graph that is being recorded

    def __init__(self):
        self.agents, self.calls = [], []

    def register_generator_state(self, rng):
        self.agents.append(rng.agent)

    def replay(self):
        for agent, step, words, logs in self.calls:
            now, agent.step = agent.step, step
            for name, value in agent.update(**words).items():
                logs[name].data.copy_(value)
            agent.step = now


@contextlib.contextmanager
def recorded(graph):
    before = [deepcopy(snapshot(agent)) for agent in graph.agents]
    Graph.recording = graph
    try:
        yield
    finally:
        Graph.recording = None
    for agent, state in zip(graph.agents, before):
        snapshot(agent, state | {"step": agent.step})


class Stream:
    def wait_stream(self, other):
        pass


cuda = SimpleNamespace(set_device=lambda device: None, Stream=Stream, current_stream=Stream, stream=lambda stream: contextlib.nullcontext(),
                       CUDAGraph=Graph, graph=recorded)
pretended = SimpleNamespace(cuda=cuda, compile=torch.compile)  # `torch`, for common/graph.py
