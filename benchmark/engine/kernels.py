"""Operators of an update that launch kernels on a GPU, counted without one.

A small network's update takes as long as its kernels take to start, whatever they compute. What PyTorch dispatches is
the same on every device; an operator is a kernel, a few are two or three, and views and empty tensors are none.
"""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.engine.runs import agent_class, arguments, load_script, script_of
from common.data import Dataset

ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "is_same_size"}


def period_of(agent) -> int:
    """Updates until the phase is the same again (common/graph.py), which are made: 2 with TD3's delayed actor. The very
    first may have one of its own (PBRL)."""
    agent.update()
    first = getattr(agent, "phase", None)
    for period in range(1, 101):
        agent.update()
        if getattr(agent, "phase", None) == first:
            return period
    return 1  # a schedule's end


class Operators(TorchDispatchMode):
    """`found`: how often each operator that launches a kernel was called, those of backward and Adam included."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        view = any(value.alias_info and not value.alias_info.is_write for value in function._schema.returns)
        name = function._schema.name.removeprefix("aten::")
        if function.namespace == "aten" and not view and name not in ALLOCATE:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def kernels(update, period: int, log: bool = False) -> Counter:
    """Of the `period` updates that follow, divided by their number. `update`: of an agent."""
    with Operators() as operators:
        for _ in range(period):
            update(log=log)
    return Counter({name: count / period for name, count in operators.found.items()})


def counted(algorithm: str, words: list[str]) -> dict[str, Counter]:
    """{"logs" or "no logs": kernels of an update} of an algorithm's file with these flags, on tiny networks' data.

    The number does not depend on sizes, but for MOReL's, which is that of 8 imagined episodes of 6 steps. Means over a
    period of phases, once all that is made in the first is there.
    InputError: no such flag.
    """
    args = arguments(algorithm, [*words, "--device", "cpu"])
    args.batch_size = 8
    if hasattr(args, "num_critics"):
        args.num_critics = min(args.num_critics, 10)
    if hasattr(args, "rollout_batch"):
        args.rollout_batch = 10
    if hasattr(args, "horizon"):
        args.horizon, args.starts = 6, 2
    rows = torch.rand(64, 2 * 11 + 3 + 2, generator=torch.Generator().manual_seed(0))
    rows[:, -1] = 0
    data = Dataset(args.env, None, {"kind": "none"}, rows, 11, 3, torch.tensor([[0, 64]]))
    agent = agent_class(load_script(script_of(algorithm)))(args, data, 0)
    period = period_of(agent)
    return {name: kernels(agent.update, period, log) for name, log in (("logs", True), ("no logs", False))}
