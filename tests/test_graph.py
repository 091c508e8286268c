"""Every update() is fit for a CUDA graph (common/graph.py), shown without a GPU. Files, flags and phases are found, not listed.

A recording is replayed without its Python: an update may not read a tensor's value, take tensors or changing numbers from the host, or
depend on the host in a way that `phase` does not tell. Here each agent is built on the CPU, with its default flags, another value of
each, and each pair of switches, and moved without its data to the meta device, where reading a value raises. `Recorder` and `NoHostData`
refuse what else a recording cannot have (PyTorch lets a scalar of the CPU mix with anything), and two updates far apart in one phase
must be the same operations on the same numbers. Each set of operators is also run on fake tensors, which raise when a value is read.
That every line of an update has been run is checked too.

Not seen: an optimiser that is not capturable (Adam is replaced: PyTorch's refuses the meta device); a branch on the kind of device; what
waits for the device inside PyTorch, or reads a value to show it (linalg.inv, histc, print); an exchanged `.data`; a short phase beside
STEPS, and half of an expression that only an odd value of a number reaches. Where there is a GPU, test_cuda.py sees these.
"""

import ast
import inspect
import io
import pickle
import sys
from dataclasses import dataclass, fields, replace
from itertools import combinations, zip_longest
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from algorithms.mopo import MODEL
from benchmark.engine.runs import agent_class
from common import InputError, dynamics
from tests.helpers import make_data

ALGORITHMS = sorted((Path(__file__).parent.parent / "algorithms").glob("*.py"))
UPDATES = 12  # of a run, for stages and schedules that are shares of it
STEPS = sorted({*range(UPDATES), *(10**k + j for k in range(2, 8) for j in (-1, 0, 1))})  # where phases are looked for
KNOWN = {}  # {operation: (itself, shape, stride and type of its result if that is a new tensor)}: halves the time


class Recorder(TorchDispatchMode):
    """Lists the operations of an update, those of backward included. AssertionError: one that no recording can have."""

    def __init__(self, rng: torch.Generator):
        super().__init__()
        self.operations, self.seed = [], rng.initial_seed()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.namespace != "aten":  # the profiler's
            return function(*args, **kwargs)
        options = {**kwargs, "generator": kwargs["generator"].initial_seed()} if kwargs.get("generator") else kwargs
        if torch.Tag.nondeterministic_seeded in function.tags:
            assert options.get("generator") == self.seed, f"{function} does not draw from the agent's rng"
        operation = function, self.told(args), tuple(options), self.told(options.values())
        operation, form = KNOWN.setdefault(operation, (operation, None))
        self.operations.append(operation)
        if form:
            shape, stride, dtype = form
            return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        result, schema = function(*args, **kwargs), function._schema
        (form,) = self.told([result])
        if isinstance(result, Tensor) and not any(value.alias_info for value in [*schema.arguments, *schema.returns]):
            KNOWN[operation] = operation, form
        return result

    def told(self, values) -> tuple:
        """What an operation knows of its arguments: all but the data of tensors."""
        told = []
        for value in values:
            if isinstance(value, Tensor):
                assert value.device.type == "meta", f"a tensor of shape {tuple(value.shape)} is on the host"
                told.append((value.shape, value.stride(), value.dtype))
            else:
                told.append(self.told(value) if isinstance(value, (list, tuple)) else (type(value), value))
        return tuple(told)


class NoHostData(TorchFunctionMode):
    """AssertionError: a tensor made of Python's numbers, an index that is a list, or a mask of values. The meta device takes them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor
        assert function not in made, f"{function.__name__} copies from the host"
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            for index in args[1] if isinstance(args[1], tuple) else args[1:2]:
                assert not isinstance(index, list), f"the index {index} is copied from the host"
                mask = isinstance(index, Tensor) and index.dtype == torch.bool
                assert not (mask and isinstance(args[-1], Tensor) and len(args) == 3), "how many values a mask takes has to be read"
        return function(*args, **kwargs or {})


class Rng(torch.Generator):
    """Says that it is on the meta device, which has no generators of its own."""
    device = torch.device("meta")


def moved(agent, device: str):
    """A copy of an agent, all of it on a device, in which tensors are shared as they are in the agent; they have no data."""
    found, made, buffer = {}, {}, io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, (Tensor, torch.Generator, torch.device)):
                found[id(value)] = value
                return id(value)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, key):
            made[key] = made[key] if key in made else empty_like(found[key], device)
            return made[key]

    Pickler(buffer).dump(agent)
    return Unpickler(io.BytesIO(buffer.getvalue())).load()


def empty_like(value, device: str):
    if isinstance(value, torch.device):
        return torch.device(device)
    if isinstance(value, torch.Generator):
        return (Rng if device == "meta" else torch.Generator)().manual_seed(id(value))  # by which Recorder knows it
    tensor = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
    return nn.Parameter(tensor, value.requires_grad) if isinstance(value, nn.Parameter) else tensor.requires_grad_(value.requires_grad)


@torch.no_grad()
def plain_step(optimizer):
    """Instead of Adam's: it reads and writes what Adam's does."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.sub_(group["lr"] * parameter.grad)


@pytest.fixture(scope="module", autouse=True)
def without_values():
    """Adam's step is replaced, and networks start with whatever their memory holds: nobody looks."""
    with pytest.MonkeyPatch.context() as patch:
        for optimizer in (torch.optim.Adam, torch.optim.AdamW):
            patch.setattr(optimizer, "step", plain_step)
        for name in dir(nn.init):
            if name.endswith("_") and not name.startswith("_"):
                patch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        yield


@pytest.fixture(scope="module")
def data():
    data = make_data(64)
    assert len(data.followed)  # found before the first update, as in one_step.py's main
    return data


def phases(agent) -> dict:
    """{phase: those of STEPS that have it}"""
    found = {}
    for agent.step in STEPS:
        found.setdefault(getattr(agent, "phase", None), []).append(agent.step)
    return found


def record(agent, step: int, log: bool = True) -> list:
    """The operations of the update that follows `step`."""
    agent.step = step
    before = dict(vars(agent))
    with NoHostData(), Recorder(agent.rng) as recorder:
        logs = agent.update(log=log)
    bound = {name for name in before | vars(agent) if getattr(agent, name, None) is not before.get(name)}
    assert bound == {"step"} and agent.step == step + 1, f"update() binds {sorted(bound)}, a replay only adds 1 to step"
    assert all(value.shape == () for value in logs.values()), "update() returns scalar tensors"
    assert bool(logs) == log, "update() returns its logs, and none if they are not wanted"
    return recorder.operations


def check(agent) -> dict:
    """{step: set of operators}, a step for each phase. Without logs, its operations are some of those, in that order. AssertionError, or PyTorch's own error: an update is not fit for a CUDA graph."""
    agent, operators = moved(agent, "meta"), {}
    for phase, steps in phases(agent).items():
        first, last = record(agent, steps[0]), record(agent, steps[-1])
        if first != last:
            first = record(agent, steps[0])  # the very first update may have created what later ones find
        differ = next((pair for pair in zip_longest(first, last) if pair[0] != pair[1]), None)
        assert not differ, f"updates {steps[0]} and {steps[-1]} have one phase, {phase}, and different operations: {differ}"
        rest = iter(first)
        assert all(operation in rest for operation in record(agent, steps[0], log=False)), f"without logs, phase {phase} has other operations"
        operators[steps[0]] = frozenset(function for function, *_ in first)
    return operators


def check_fake(agent, steps: list[int]) -> None:
    """DataDependentOutputException or DynamicOutputShapeException: an update reads a value, or has a shape that depends on one."""
    with FakeTensorMode():
        agent = moved(agent, "cpu")
        for agent.step in steps:
            agent.update()


def others(hint, value) -> list:
    """Other values of a flag: all of a switch, and of a number one that may end a term, or add a round to a loop."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != value]
    if get_origin(hint) is tuple and value is None:
        return [(-0.5, 0.5)]
    if get_origin(hint) is tuple:
        return [value[:i] + (0,) + value[i + 1:] for i in range(len(value))]
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return [None] * (value is not None) + [other for kind in kinds for other in others(kind, value)]
    if hint is str:  # a name that no other can replace: of a folder, of a file
        return []
    return {bool: [not value], int: [1 if (value or 0) > 1 else 2], float: [0.0 if value else 0.5]}[hint]


def variants(Args) -> list[dict]:
    """Flags: none, each other value of each, and each pair of switches. KeyError: a type for which `others` has no rule."""
    hints, shared = get_type_hints(Args), set(get_type_hints(Args.__base__)) | {"env", "seeds", "updates"}
    own = {field.name: field.default for field in fields(Args) if field.name not in shared}
    changes = [(flag, other) for flag, default in own.items() for other in others(hints[flag], default)]
    switches = [(flag, other) for flag, other in changes if not own[flag] or isinstance(own[flag], (bool, str))]  # not a number above 0
    return [{}, *(dict([change]) for change in changes), *(dict(pair) for pair in combinations(switches, 2) if pair[0][0] != pair[1][0])]


class Marker(ast.NodeTransformer):
    """Before each statement of a function, its line is added to the module's `lines`."""

    def generic_visit(self, node):
        super().generic_visit(node)
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list) and not isinstance(node, (ast.Module, ast.ClassDef)):
                marks = [ast.parse(f"lines.add({statement.lineno})").body for statement in statements]
                setattr(node, block, [part for mark, statement in zip(marks, statements) for part in (*mark, statement)])
        return node


def load(path, patch):
    """An algorithm's module with `lines`, a set that grows as they are run."""
    module = ModuleType(f"{path.stem}_with_lines")
    vars(module).update(lines=set(), __file__=str(path))
    patch.setitem(sys.modules, module.__name__, module)
    exec(compile(Marker().visit(ast.parse(path.read_text())), path, "exec"), vars(module))
    return module


def lines_of_updates(path) -> set:
    """Of the statements in the methods of agent and networks, but those that build them or act. What is trained before, in a Regression of
    common/pretraining.py, is no part of an update, and has tests of its own."""
    apart, classes = {"RunArgs", "Regression"}, []  # and what is made of them
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            if {base.id for base in node.bases if isinstance(base, ast.Name)} & apart:
                apart.add(node.name)
            else:
                classes.append(node)
    methods = [node for kind in classes for node in kind.body if isinstance(node, ast.FunctionDef)
               and node.name not in ("__init__", "act") and not node.name.startswith("fit_")]
    return {node.lineno for method in methods for node in ast.walk(method) if isinstance(node, ast.stmt) and node is not method}


SHORT = {"morel": dict(horizon=6, starts=2)}  # of what an update does a thousand times, in a loop


def check_file(path, data, patch) -> None:
    """AssertionError or PyTorch's own error, with a note that names the flags: the updates of this algorithm are not fit for a CUDA graph."""
    patch.setattr(dynamics, "PIECE", 10**6)  # of fake tensors one piece tells as much as many
    module, faked = load(path, patch), set()
    for flags in variants(module.Args):
        try:
            agent = agent_class(module)(module.Args(**{"updates": UPDATES} | SHORT.get(path.stem, {}) | flags), data, 0)
            operators = check(agent)
            if new := [step for step, kinds in operators.items() if kinds not in faked]:
                check_fake(agent, new)
            faked |= set(operators.values())
        except Exception as error:
            if flags and isinstance(error, InputError):  # flags that exclude each other
                continue
            error.add_note(f"{path.name} with {flags or 'its defaults'}")
            raise
    missed = lines_of_updates(path) - module.lines
    assert not missed, f"{path.name}: no flags and no phase of these tests reach lines {sorted(missed)}"


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda path: path.stem)
def test_updates_fit_a_cuda_graph(path, data, monkeypatch):
    check_file(path, data, monkeypatch)


def test_a_models_training_fits_a_cuda_graph(data):
    """Its steps are all the same, but for the last batch of an epoch, which is smaller and a phase of its own."""
    preset = replace(MODEL, batch_size=24)  # 64 rows, 12 of them held out: batches of 24, 24 and 4
    fit = dynamics.Fit(dynamics.Ensemble(11, 3, preset, torch.Generator()), data, preset, 0)
    moved_fit, steps = moved(fit, "meta"), {}
    for step in range(6):
        before = dict(vars(moved_fit))
        moved_fit.step = step
        phase = moved_fit.phase
        with NoHostData(), Recorder(moved_fit.rng) as recorder:
            assert moved_fit.update() == {}
        assert {name for name in before if getattr(moved_fit, name) is not before[name]} <= {"step"} and moved_fit.step == step + 1
        steps.setdefault(phase, []).append(recorder.operations)
    assert [len(found) for found in steps.values()] == [4, 2] and steps[False][1] == steps[False][3] and steps[True][0] == steps[True][1]
    assert steps[False][1] != steps[True][0]
    with FakeTensorMode():
        faked = moved(fit, "cpu")
        for _ in range(4):
            faked.update()


@dataclass
class Shared:
    device: str = "cpu"


@dataclass
class Flags(Shared):
    env: str = "hopper-medium-v2"
    seeds: tuple[int, ...] = (0,)
    updates: int = 1000
    num: int = 10
    lr: float = 3e-4
    noise: float = 0.0
    clip: bool = True
    kind: Literal["a", "b", "c"] = "b"
    floor: float | None = None
    shares: tuple[int, int] = (5, 20)


def test_flags_are_varied():
    single = [{}, {"num": 1}, {"lr": 0.0}, {"noise": 0.5}, {"clip": False}, {"kind": "a"}, {"kind": "c"}, {"floor": 0.5},
              {"shares": (0, 20)}, {"shares": (5, 0)}]
    pairs = [{"noise": 0.5, "clip": False}, {"noise": 0.5, "kind": "a"}, {"noise": 0.5, "kind": "c"}, {"noise": 0.5, "floor": 0.5},
             {"clip": False, "kind": "a"}, {"clip": False, "kind": "c"}, {"clip": False, "floor": 0.5},
             {"kind": "a", "floor": 0.5}, {"kind": "c", "floor": 0.5}]
    assert variants(Flags) == single + pairs

    @dataclass
    class Unknown(Flags):
        table: dict = None
    with pytest.raises(KeyError):
        variants(Unknown)


class Tiny:
    """An agent in the project's form; `defect` is a statement in its update."""

    def __init__(self, data, defect):
        self.data, self.defect, self.step, self.scale, self.logs = data, defect, 0, 1.0, {}
        self.rng, self.other_rng = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
        self.net, self.count = nn.Linear(data.obs_size, 1), torch.zeros(())
        self.optimizer = torch.optim.Adam(self.net.parameters(), fused=True)

    @property
    def phase(self):
        return self.step % 2

    def update(self, log=True):
        self.step += 1
        batch = self.data.sample(8, self.rng)
        q = self.net(batch.obs)[:, 0]
        exec(self.defect)
        loss = ((q - batch.reward) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"critic_loss": loss, **self.logs} if log else {}


@pytest.mark.parametrize("line", [
    "q[0] = 1.0", "q[0], q[1:3], q[:, None], q[q.argsort()]", "q = q.detach().clone(); q[q > 0] = 0.0", "torch.where(q > 0, 1.0, q)",
    "torch.arange(3, device=q.device)", "torch.full((3,), 2.0, device=q.device)",
    "x = q.detach().clone(); x.unsqueeze_(0); assert x.shape == (1, 8)", "self.count += q.detach().mean()",
    "self.count.copy_(q.detach().mean())", "torch.randn(q.shape, generator=self.rng, device=self.rng.device)",
    "if (self.step - 1) % 2: q.exp()", "q.sort(), q.std(), q.max(0), q.repeat_interleave(2)",
    "assert (q.long() * 2).dtype == torch.int64 and (q.long() * 2.0).dtype == torch.float32",
    "self.optimizer.param_groups[0]['lr'] = self.count / 10", "'made once' in self.logs or self.logs.update({'made once': q.sum()})",
    "torch.distributions.Normal(q, q.exp(), validate_args=False).log_prob(q)"])
def test_what_a_recording_can_have(line, data):
    check(Tiny(data, line))
    check_fake(Tiny(data, line), [0, 1])


@pytest.mark.parametrize("line", [
    "float(q.mean())", "q.mean().item()", "int(q.argmax())", "q.tolist()", "if q.mean() > 0: q = q * 2", "assert (q == q).all()", "max(q[0], q[1])",
    "q[q > 0]", "q[:q.argmax()]", "q.nonzero()", "torch.where(q > 0)", "q.masked_select(q > 0)", "q.unique()", "torch.bincount(q.long())",
    "q.repeat_interleave(q.long())", "torch.equal(q, q)", "torch.allclose(q, q)", "nn.functional.one_hot(q.long())",
    "torch.distributions.Normal(q, q.exp())"])
def test_a_value_that_is_read(line, data):
    """Both checks see it."""
    with pytest.raises(RuntimeError):
        check(Tiny(data, line))
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        check_fake(Tiny(data, line), [0])


@pytest.mark.parametrize("line", [
    "torch.zeros(3)", "q * torch.zeros(())", "q + torch.zeros(8)", "q[torch.arange(3)]", "torch.rand(3, generator=self.rng)",
    "q * torch.ones(8).to(q)", "q * torch.tensor(2.0)", "torch.tensor([1.0, 2.0], device=q.device)",
    "torch.as_tensor([1.0], device=q.device)", "q.new_tensor([1.0])",
    "q[[0, 1]]", "q[:, None][:, [0]]", "q = q.detach().clone(); q[[0, 1]] = 0.0", "torch.distributions.Normal(q, 1.0, validate_args=False)"])
def test_a_tensor_of_the_host(line, data):
    with pytest.raises(AssertionError, match="host"):
        check(Tiny(data, line))


@pytest.mark.parametrize("line, message", [
    ("torch.randn(3, device=q.device)", "does not draw from the agent's rng"), ("torch.randn_like(q)", "does not draw from the agent's rng"),
    ("nn.functional.dropout(q)", "does not draw from the agent's rng"), ("q.multinomial(1)", "does not draw from the agent's rng"),
    ("torch.rand(3, generator=self.other_rng, device=q.device)", "does not draw from the agent's rng"),
    ("q = q.detach().clone(); q[q > 0] = q", "how many values a mask takes"),
    ("q.cpu()", "Cannot copy out of meta tensor"), ("q.detach().numpy()", "can't convert meta"),
    ("self.count = self.count + 1", r"binds \['count', 'step'\]"), ("self.last_q = q.detach()", r"binds \['last_q', 'step'\]"),
    ("self.logs['q'] = q", "returns scalar tensors"),
    ("self.scale *= 0.9", r"binds \['scale', 'step'\]"), ("self.step += 1", "adds 1 to step"),
    ("q * (1 / self.step)", "have one phase, 0, and different operations"), ("if self.step > 5000: q.exp()", "have one phase"),
    ("self.optimizer.param_groups[0]['lr'] = 1 / self.step", "have one phase"), ("None if log else q.exp()", "without logs, phase 0 has other operations"), ("self.net.bias.data = torch.zeros(1)", "host")])
def test_what_else_a_recording_cannot_have(line, message, data):
    with pytest.raises((AssertionError, NotImplementedError, TypeError), match=message):
        check(Tiny(data, line))


FILE = """
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from algorithms.mopo import MODEL
from benchmark.engine.runs import agent_class
from common import InputError, dynamics


class RunArgs:
    pass


@dataclass
class Args(RunArgs):
    updates: int = 1_000_000
    noise: float = 0.0
    kind: Literal["mean", "sum"] = "mean"


class Agent:
    def __init__(self, args, data, seed):
        self.args, self.data, self.step, self.rng = args, data, 0, torch.Generator().manual_seed(seed)
        if REFUSED:
            raise InputError("refused")

    @property
    def phase(self):
        return self.step == self.args.updates - 1

    def update(self, log=True):
        self.step += 1
        reward = self.data.sample(8, self.rng).reward
        if CONDITION:
            float(reward.mean())
        return {"actor_loss": reward.mean()} if log else {}
"""


@pytest.mark.parametrize("condition, flags", [
    ("True", "its defaults"), ("self.args.noise", "{'noise': 0.5}"), ("self.args.kind == 'sum'", "{'kind': 'sum'}"),
    ("self.args.kind == 'sum' and self.args.noise", "{'noise': 0.5, 'kind': 'sum'}"), ("self.step == self.args.updates", "its defaults")])
def test_a_value_read_for_some_flags_or_in_some_phase(condition, flags, tmp_path, monkeypatch, data):
    path = tmp_path / "tiny.py"
    path.write_text(FILE.replace("CONDITION", condition).replace("REFUSED", "False"))
    with pytest.raises(RuntimeError) as found:
        check_file(path, data, monkeypatch)
    assert found.value.__notes__ == [f"tiny.py with {flags}"]


@pytest.mark.parametrize("condition", ["self.step == 12345", "self.args.noise > 1"])
def test_a_line_that_no_flag_and_no_phase_reaches(condition, tmp_path, monkeypatch, data):
    path = tmp_path / "tiny.py"
    path.write_text(FILE.replace("CONDITION", condition).replace("REFUSED", "False"))
    number = path.read_text().splitlines().index("            float(reward.mean())") + 1
    with pytest.raises(AssertionError, match=rf"reach lines \[{number}\]"):
        check_file(path, data, monkeypatch)


def test_flags_that_exclude_each_other_are_left_out(tmp_path, monkeypatch, data):
    path = tmp_path / "tiny.py"
    path.write_text(FILE.replace("if CONDITION:\n            float(reward.mean())", "pass").replace("REFUSED", "args.noise and args.kind == 'sum'"))
    check_file(path, data, monkeypatch)
    path.write_text(path.read_text().replace("args.noise and", "not args.noise and").replace("'sum'", "'mean'"))
    with pytest.raises(InputError, match="refused"):  # the defaults are not
        check_file(path, data, monkeypatch)
