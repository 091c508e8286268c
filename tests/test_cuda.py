"""Updates on a GPU: as on the CPU, in CUDA graphs, in TF32, compiled; all tests that need CUDA are here.

`SOLO_CHECK_DEVICE=cpu pytest tests/test_cuda.py` rehearses them without a GPU, graphs by tests/rehearsal.py. The file that SOLO_MEASURED
names gets a line of JSON from each test, with the largest differences that it found.
"""

import gc
import json
import math
import os
import shutil
import sysconfig
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest
import torch

from common import graph
from common.checkpoint import snapshot
from common.graph import WARM_UP, side_by_side
from tests import recipe, rehearsal
from tests.helpers import ALGORITHMS, assert_equal_trees, make_data, save_to_memory, small_agents

DEVICE = os.environ.get("SOLO_CHECK_DEVICE", "cuda")
CUDA = DEVICE.startswith("cuda")
if CUDA and not torch.cuda.is_available():
    pytest.skip("needs a GPU; SOLO_CHECK_DEVICE=cpu rehearses without one", allow_module_level=True)

LOSSES, PARAMETERS = 1e-4, 1e-3  # relative, as in test_golden.py: of one update's numbers, of parameters
SEVERAL = 1e-3  # of an update's numbers after others: noise in each product's last digit was up to 5e-5 after 40
TF32 = {"q": 1e-2, "gradient": 0.1}  # relative; pretended on a CPU: 2e-3 and 3e-2, where rounding moves inputs of ReLUs over 0
SMALL = 0.1  # losses and means below it are compared to it: some are differences of numbers of about 1
COMPILER, PYTHON = shutil.which("cc") or shutil.which("gcc"), Path(sysconfig.get_paths()["include"], "Python.h")
pytestmark = pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")  # the updates before a recording
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module", autouse=True)
def environment():
    measured("environment", "", torch=torch.__version__, cuda=torch.version.cuda, device=torch.cuda.get_device_name(DEVICE) if CUDA else DEVICE)


@pytest.fixture(autouse=True)
def torch_stays_as_it_is(monkeypatch):
    """Products are in float32, graphs on the CPU are pretended, and what a test changes is changed back."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    if CUDA:
        stream = torch.cuda.current_stream()
    else:
        monkeypatch.setattr(graph, "torch", rehearsal.pretended)
    yield
    torch.backends.cuda.matmul.allow_tf32 = before
    if CUDA:
        torch.cuda.set_stream(stream)  # an error inside a recording leaves another one
        torch.cuda.synchronize()  # an error of the device is told where it was made


def measured(test, algorithm, **numbers):
    """A line of JSON at the end of the file SOLO_MEASURED, at once: a run that is killed leaves what it has found."""
    if path := os.environ.get("SOLO_MEASURED"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "algorithm": algorithm, **numbers}) + "\n")


def graphs(agents):
    """side_by_side, which records graphs on the CPU too."""
    return side_by_side(agents if CUDA else [rehearsal.Branch(agent) for agent in agents])


def relative(ours, theirs, least=0.0) -> float:
    """The norm of the difference to that of `theirs`, or to `least` if that is more. Infinite: one of them is not finite."""
    ours, theirs = (value.detach().double().cpu() for value in (ours, theirs))
    assert ours.shape == theirs.shape
    difference = (ours - theirs).norm().item()
    return difference / (max(theirs.norm().item(), least) or 1.0) if math.isfinite(difference) else math.inf


def weights(agent) -> dict:
    """Parameters and other tensors of an agent by their names."""
    found = {name: value for name, value in vars(agent).items() if isinstance(value, torch.Tensor)}
    for module, value in vars(agent).items():
        if isinstance(value, torch.nn.Module):
            found |= {f"{module}.{name}": parameter for name, parameter in value.named_parameters()}
    return found


def same(ours, theirs) -> bool:
    """Are two trees bitwise the same?"""
    try:
        assert_equal_trees(ours, theirs)
    except AssertionError:
        return False
    return True


class Worst:
    """The largest differences of some updates, and whether all was bitwise the same."""

    def __init__(self):
        self.losses, self.parameters, self.bitwise = 0.0, 0.0, True

    def logs(self, ours, theirs):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            self.losses = max(self.losses, relative(ours[name], value, SMALL))
            self.bitwise &= torch.equal(ours[name].cpu(), value.cpu())

    def agents(self, ours, theirs):
        ours, theirs = weights(ours), weights(theirs)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            self.parameters = max(self.parameters, relative(ours[name], value))
            self.bitwise &= torch.equal(ours[name].cpu(), value.cpu())

    def check(self, test, algorithm, losses=SEVERAL, bitwise=False, **more):
        """AssertionError: a difference is too large, or not 0 although it should be."""
        measured(test, algorithm, losses=self.losses, parameters=self.parameters, bitwise=self.bitwise, **more)
        assert self.losses <= losses and self.parameters <= PARAMETERS, vars(self)
        assert self.bitwise or not bitwise, vars(self)


@contextmanager
def same_draws(seed):
    """torch draws from one generator of the CPU, in float32, for agents on every device and in every precision."""
    rng = torch.Generator().manual_seed(seed)

    def fake(kind, real):
        def draw(*args, generator, device):
            if kind == "randint":
                return real(*args, generator=rng).to(device)
            return real(*args, generator=rng, dtype=torch.float32).to(device, torch.get_default_dtype())
        return draw

    with mock.patch.multiple(torch, **{kind: fake(kind, getattr(torch, kind)) for kind in ("randn", "rand", "randint")}):
        yield


@every_algorithm
def test_an_update_equals_the_cpus(algorithm):
    """Some of each phase, each from where the CPU stands: Adam's steps turn rounding noise in a gradient into differences of lr."""
    (ours,), (theirs,) = small_agents(algorithm, [0], DEVICE), small_agents(algorithm, [0])
    worst, seen, undrawn = Worst(), Counter(), ours.rng.get_state()
    worst.agents(ours, theirs)
    assert worst.bitwise, "other initial weights"
    for step in range(theirs.args.updates):
        phase = getattr(theirs, "phase", None)
        seen[phase] += 1
        chosen = seen[phase] <= 3 or step == theirs.args.updates - 1
        if chosen:
            recipe.follow(ours, theirs)
            with same_draws(step):
                logs = ours.update()
        with same_draws(step):
            expected = theirs.update()
        if chosen:
            worst.logs(logs, expected)
            worst.agents(ours, theirs)
    assert torch.equal(ours.rng.get_state(), undrawn), "a draw of another kind"
    worst.check("update = CPU's", algorithm, LOSSES)


@every_algorithm
def test_graph_equals_eager(algorithm):
    (ours,), (eager,) = (small_agents(algorithm, [0], DEVICE, updates=20) for _ in range(2))
    worst, update = Worst(), graphs([ours])
    for _ in range(20):
        worst.logs(update()[0], eager.update())
    worst.agents(ours, eager)
    assert ours.step == eager.step == 20
    worst.check("graph = eager", algorithm, everything=same(snapshot(ours), snapshot(eager)))


@every_algorithm
def test_a_seed_alone_equals_that_seed_among_four(algorithm):
    (alone,), four = (small_agents(algorithm, seeds, DEVICE, updates=14) for seeds in ([3], [0, 1, 2, 3]))
    worst, update_alone, update_four = Worst(), graphs([alone]), graphs(four)
    for _ in range(14):
        logs = update_alone()[0]
        worst.logs(update_four()[3], logs)
    worst.agents(four[3], alone)
    worst.bitwise &= same(snapshot(four[3]), snapshot(alone))
    part = "critics" if algorithm == "fqe" else "actor"  # FQE trains no actor
    assert not same(snapshot(four[2])[part], snapshot(alone)[part])
    worst.check("alone = among four", algorithm, bitwise=True)


@every_algorithm
def test_a_resumed_graph_equals_an_uninterrupted_one(algorithm):
    """The state after some updates goes into an agent that has drawn other weights; its first updates are no replays."""
    (ours,), (whole,) = (small_agents(algorithm, [seed], DEVICE, updates=20) for seed in (1, 0))
    worst, update = Worst(), graphs([whole])
    for _ in range(10):
        update()
    snapshot(ours, torch.load(save_to_memory(snapshot(whole)), weights_only=True))
    assert same(snapshot(ours), snapshot(whole))
    update_ours = graphs([ours])
    for _ in range(10):
        logs = update()[0]
        worst.logs(update_ours()[0], logs)
    worst.agents(ours, whole)
    worst.bitwise &= same(snapshot(ours), snapshot(whole))
    worst.check("resumed = uninterrupted", algorithm, bitwise=True)


def bring_to_a_turn(agent):
    """PBRL's schedule (9) ends at update 50,000, where (10) lowers beta_ood if values fell before."""
    if hasattr(agent, "relaxation"):
        agent.step, agent.args.beta_end = 49_990, 0.5
        agent.count.fill_(agent.step)
        agent.past_q.copy_(torch.arange(20, 0, -1))


@every_algorithm
def test_phases_change_at_the_right_update_in_graphs(algorithm):
    """All of a schedule (FLAGS in helpers.py), with logs at some updates only, as in a run."""
    (ours,), (eager,) = (small_agents(algorithm, [0], DEVICE) for _ in range(2))
    bring_to_a_turn(ours), bring_to_a_turn(eager)
    worst, update, calls, first = Worst(), graphs([ours]), Counter(), eager.step
    for step in range(40):
        log = step % 5 == 2
        calls[log, getattr(eager, "phase", None)] += 1
        logs, expected = update(log=log)[0], eager.update(log=log)
        assert bool(logs) == bool(expected) == log
        worst.logs(logs, expected)
        if log or step == 39:
            worst.agents(ours, eager)
    replays = sum(max(0, count - WARM_UP) for count in calls.values())
    assert ours.step == eager.step == first + 40 and replays >= 12, calls
    assert len({phase for _, phase in calls}) > 1 or not hasattr(eager, "phase"), "FLAGS lead to no other phase"
    assert getattr(eager, "relaxation", 0.0) < 1.0, "PBRL's turn did not come"
    worst.check("phases", algorithm, everything=same(snapshot(ours), snapshot(eager)), replays=replays)


def allocations():
    stats = torch.cuda.memory_stats(DEVICE)
    return stats["allocation.all.allocated"], stats["allocated_bytes.all.allocated"], torch.cuda.memory_allocated(DEVICE)


@contextmanager
def no_sync():
    """RuntimeError inside: the host waits for the device. PyTorch warns that it does not notice every such wait."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        gc.disable()  # nothing is freed in between
        try:
            yield
        finally:
            gc.enable()
            torch.cuda.set_sync_debug_mode(before)


@pytest.mark.skipif(not CUDA, reason="the CPU waits for nobody")
@every_algorithm
def test_a_replay_neither_waits_nor_allocates(algorithm):
    agents, calls, replays = small_agents(algorithm, [0, 1], DEVICE), Counter(), 0
    update = graphs(agents)
    for step in range(40):
        log = step % 5 == 2
        key = log, *(getattr(agent, "phase", None) for agent in agents)
        calls[key] += 1
        if calls[key] <= WARM_UP + 1:  # and the recording
            update(log=log)
            continue
        with no_sync():
            before = allocations()
            update(log=log)
            after = allocations()
        assert after == before
        replays += 1
    with pytest.raises(RuntimeError, match="synchronizing"), no_sync():
        next(agents[0].actor.parameters()).sum().item()
    assert replays >= 8
    measured("no wait, no allocation", algorithm, replays=replays)


def in_float64(agent):
    """A copy on the CPU, where its weights, batches and draws are the same numbers."""
    data = replace(agent.data, rows=agent.data.rows.cpu().double())
    data.obs_mean, data.obs_std = agent.data.obs_mean.cpu().double(), agent.data.obs_std.cpu().double()
    with recipe.precision(torch.float64):
        copy = type(agent)(replace(agent.args, device="cpu"), data, 0)
    recipe.follow(copy, agent)
    return copy


def values_and_gradient(agent):
    """Q of all critics at 256 rows, if there are any, and the gradient of the actor in the next update; of MOReL, whose natural gradient
    goes to no optimiser, the actor itself after it."""
    with torch.no_grad():
        q = agent.critics(agent.data.obs, agent.data.action) if hasattr(agent, "critics") else None
    with same_draws(1):
        agent.update()
    return q, torch.cat([(parameter if parameter.grad is None else parameter.grad).detach().flatten() for parameter in agent.actor.parameters()])


@every_algorithm
def test_tf32_is_near_float64(algorithm):
    """In the second update, which moves every file's actor. On the CPU there is no TF32, but the same code."""
    plain, tf32 = (small_agents(algorithm, [0], DEVICE, batch_size=256)[0] for _ in range(2))
    with same_draws(0):
        plain.update()
    recipe.follow(tf32, plain)
    exact = in_float64(plain)
    with recipe.precision(torch.float64):
        expected = values_and_gradient(exact)
    found = {}
    for name, agent in (("float32", plain), ("tf32", tf32)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        for what, x, y in zip(("q", "gradient"), values_and_gradient(agent), expected):
            if y is not None:
                found[f"{what}_{name}"] = relative(x, y)
    measured("TF32 and float64", algorithm, **found)
    for name, value in found.items():
        what, _, precision = name.partition("_")
        assert value <= (TF32[what] if precision == "tf32" else 1e-4), found


def test_td3_bc_solves_a_bandit_in_a_graph_with_tf32():
    """One-step episodes with reward 1 - (a - best(s))^2, uniform actions: the policy finds best(s)."""
    rng, torch.backends.cuda.matmul.allow_tf32 = torch.Generator().manual_seed(1), True
    obs, action = (2 * torch.rand(2000, size, generator=rng) - 1 for size in (2, 1))
    best = 0.7 * torch.tanh(3 * obs[:, :1])
    rows = torch.cat([obs, action, 1 - (action - best) ** 2, obs, torch.ones(2000, 1)], 1)
    module, data = import_module("algorithms.td3_bc"), replace(make_data(2000, obs_size=2, action_size=1), rows=rows.to(DEVICE))
    agent = module.TD3BC(module.Args(batch_size=64, lr=1e-3, alpha=50.0, device=DEVICE), data, 0)
    update, errors = graphs([agent]), []
    for step in range(601):
        if step % 300 == 0:
            with torch.no_grad():
                errors.append((agent.actor.act(data.obs).cpu() - best).abs().mean().item())
        update(log=step % 100 == 99)
    measured("bandit with TF32", "td3_bc", errors=errors)
    assert errors[-1] < 0.1 < 0.4 < errors[0], errors


@pytest.mark.skipif(not CUDA, reason="takes half a minute on a CPU")
@pytest.mark.skipif(not (COMPILER and PYTHON.exists()), reason="torch.compile needs a C compiler and Python's headers")
@pytest.mark.filterwarnings("ignore")  # of Inductor
def test_compiled_graph_is_near_eager():
    """The last test, for it may take a minute. What is compiled is compiled before the recording."""
    (ours,), (eager,) = (small_agents("bc", [0], DEVICE, gaussian=False, compile=compile) for compile in (True, False))
    worst, update = Worst(), side_by_side([ours])
    for _ in range(8):
        worst.logs(update()[0], eager.update())
    worst.agents(ours, eager)
    assert ours.step == eager.step == 8
    worst.check("compiled graph = eager", "bc")
    torch.compiler.reset()
