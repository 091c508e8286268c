"""Every update equals the authors' code: its losses, targets and parameters, when both have the same weights, rows and noise.

golden/README.md tells where the numbers come from, what a recipe is, and how a new file joins.
"""

import importlib
import json

import numpy as np
import pytest
import torch

from benchmark.engine.runs import agent_class
from tests import recipe
from tests.helpers import ROOT
from tests.recipe import A, S

GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests/golden").glob("*.json"))}
NETWORKS = {  # an agent's attribute -> the networks side by side in it
    "actor": ("actor",), "target_actor": ("target_actor",), "behaviour": ("behaviour",), "value": ("value",),
    "critics": ("critic1", "critic2"), "target_critics": ("target1", "target2")}
ENSEMBLES = {"critics": "critics", "target_critics": "targets"}  # their names where all networks of one are compared together
SLOW = {"sac_n", "edac", "pbrl", "rorl", "one_step"}  # whose updates take long: of five, float32 makes the last one

LIMITS = {torch.float64: (1e-9, 1e-9), torch.float32: (1e-4, 1e-3)}  # relative: of an update's numbers, of parameters
EXCEPTIONS = {  # (precision, file, case or all, how it begins): limit
    # The authors subtract lambda_dec at every update, rorl.py multiplies it by their number; (9) has its square.
    (torch.float64, "rorl", "", "lambda"): 1e-6,
    (torch.float64, "rorl", "", "ood_loss"): 1e-6,
    # These numbers were written down with nine digits.
    (torch.float64, "bc", "gaussian_as_atac_warm_start", ""): 1e-8,
    # The authors' first update is one of today's, and so is cloning; afterwards their actor's gradient mixed new weights with old masks.
    **{(dtype, "cql", f"authors_{case}", end): value for dtype in LIMITS for case in ("gym", "gym_bc", "antmaze_lagrange", "rho_maxq")
       for end, value in (("", 1e-5 if case == "gym_bc" else 1e-3),)},
    (torch.float64, "cql", "", ""): 1e-8,
    (torch.float64, "atac", "", ""): 1e-8,
    # Radii of 0.001 change means and values by 1e-4, of which float32 resolves 1e-7; these terms are mean squares of such changes.
    (torch.float32, "rorl", "halfcheetah-medium-v2", "pi_smooth"): 3e-4,
    (torch.float32, "rorl", "halfcheetah-medium-v2", "q_smooth"): 5e-4,
    # Where rounding moves a ReLU's input over 0, a critic's gradient at that row jumps, and (6) by up to a hundredth of itself.
    (torch.float32, "edac", "", "similarity"): 2e-2,
    (torch.float32, "edac", "", "critic_loss"): 2e-2,  # up to 1000 times (6) is in it
    # A mean of numbers of either sign, 0.0003 in one case, by critics that have just made Adam's first step.
    (torch.float32, "atac", "", "q_policy"): 1e-3,
}


def normal(args, times=1):
    return "randn", times * args.batch_size, A


def sac_noise(args, k):
    noise = {"pi": normal(args), "next": normal(args)}
    return noise | {"backup": normal(args, 10)} if args.max_q_backup else noise


def edac_noise(args, k):
    return sac_noise(args, k) | ({"subset": ("rand", args.num_critics)} if args.es_subsample else {})


def rorl_noise(args, k):
    deltas = "rand", args.num_perturbations, S
    return {"pi": normal(args), "next": normal(args), "delta_pi": deltas, "delta_q": deltas, "delta_ood": deltas,
            "ood": normal(args, args.num_perturbations)}


def xql_noise(args, k):
    random = {"random": ("rand", args.num_random * args.batch_size, A)}
    return random if args.num_random else {"noise": normal(args)} if args.noise else {}


def one_step_noise(args, k):
    pi, samples = {"pi": ("randn", 1, args.batch_size, A)}, {"samples": ("randn", 10, args.batch_size, A)}
    return {} if k < 10 else samples if args.operator == "exp_weight" else pi | samples


def cql_noise(args, k):
    drawn = {"pi": ("randn", args.batch_size, 1, A), "next": ("randn", args.batch_size, 1, A), "next10": ("randn", args.batch_size, 10, A)}
    uniform, samples = (args.batch_size, args.num_actions, A), ("randn", args.batch_size, args.num_actions, A)
    return drawn | {"uniform": ("rand", *uniform), "current": samples, "following": samples}


NOISE = {  # what the recipe draws for update k = 0, 1, ..., in its order: {name: (kind, *shape)}; nothing for the other files
    "td3_bc": lambda args, k: {"next": normal(args)},
    "sac_n": sac_noise,
    "edac": edac_noise,
    "pbrl": lambda args, k: {"pi": normal(args), "next": normal(args), "ood": normal(args, 2 * args.num_actions)},
    "rorl": rorl_noise,
    "bc": lambda args, k: {"next": normal(args), "pi": normal(args)} if args.gaussian else {},
    "xql": xql_noise,
    "awac": lambda args, k: {"next": normal(args), "pi": normal(args)},
    "one_step": one_step_noise,
    "cql": cql_noise,
    "atac": lambda args, k: {"next_and_pi": normal(args, 2)},
}
TAKEN = {  # which of that an update takes, in its order, where it is not all of it in the recipe's; `theirs`: its golden numbers
    "sac_n": lambda args, theirs: ["pi", "backup" if args.max_q_backup else "next"],
    "edac": lambda args, theirs: ["pi", "backup" if args.max_q_backup else "next", *["subset"] * args.es_subsample],
    "rorl": lambda args, theirs: ["pi", "delta_pi", "next", "delta_q", *["delta_ood", "ood"] * (theirs["ood_loss"] != 0)],
    "bc": lambda args, theirs: ["pi"] * args.gaussian,
    "cql": lambda args, theirs: ["pi", "next10" if args.max_q_backup else "next", "uniform", "current", "following"],
}


def parameters(agent):
    """Views of an agent's parameters by their names in the JSON files; critics are there one by one and all together."""
    views = {}
    for attribute, names in NETWORKS.items():
        if module := getattr(agent, attribute, None):
            views |= recipe.members(module, *names)
            if attribute in ENSEMBLES and hasattr(module, "weights"):
                views |= recipe.together(module, ENSEMBLES[attribute])
    head = getattr(agent.actor, "head_weight", agent.actor.weights[-1]), getattr(agent.actor, "head_bias", agent.actor.biases[-1])
    if len(head[0]) == 2 * A:  # both heads in one layer
        for name, rows in (("mean", slice(A)), ("log_std", slice(A, None))):
            views |= {f"actor.{name}_W": head[0][rows], f"actor.{name}_b": head[1][rows]}
    views |= {name: getattr(agent, name).view(1) for name in ("log_alpha", "log_multiplier") if hasattr(agent, name)}
    return views


def numbers(agent, logs, calls):
    """What an update logs, and what its methods were given and gave."""
    found = dict(logs)
    if calls.get("alpha_loss"):
        found["alpha_loss"] = calls["alpha_loss"][0][1]
    if calls.get("bellman"):  # ATAC's: mean squares of each critic, and what its losses are made of
        (*_, target), (td, residual) = calls["bellman"][0]
        (pessimism, bellman), loss = calls["critic_loss"][0]
        found |= {"target_first": target[:4], "td_per_critic": td, "residual_per_critic": residual, "bellman_per_critic": bellman,
                  "pessimism_per_critic": pessimism, "loss_per_critic": loss, "q_policy": -calls["actor_loss"][0][0][0]}
    if calls.get("sample"):  # the actor's, of an ensemble
        (q, target), _ = (calls.get("critic_loss") or calls["td_loss"])[0]
        action, log_prob = calls["sample"][0][1]
        ood = [((args[0] - result[1]) ** 2).mean(1) if hasattr(agent, "past_q") else result[0]  # PBRL's of every critic
               for args, result in calls.get("ood_loss", ())] or [torch.zeros(())]
        found |= {"critic_loss": len(q) * logs["critic_loss"], "target": target, "td_per_critic": ((q - target) ** 2).mean(1),
                  "action": action, "log_prob": log_prob, "log_alpha_after": agent.log_alpha}
        found |= dict.fromkeys(("ood_loss", "ood_per_critic"), sum(ood) / len(ood))
    if calls.get("conservative"):
        (_, target), ((q, *_), delta), (_, penalty) = (calls[name][0] for name in ("critic_target", "conservative", "penalty"))
        td = ((q - target) ** 2).mean(1)
        found |= {"td_per_critic": td, "delta_per_critic": delta, "penalty_per_critic": penalty, "loss_per_critic": td + penalty,
                  "multiplier_loss": -penalty.sum() / 2, "q1_data": q[0].mean(), "target_first4": target[:4]}
    return found


def inputs(algorithm, case):
    """(Args, the recipe's inputs, the noise that each update takes)."""
    args = importlib.import_module(f"algorithms.{algorithm}").Args(**case["flags"])
    noise = [NOISE[algorithm](args, k) if algorithm in NOISE else {} for k in range(len(case["updates"]))]
    shapes = {name: golden["shape"] for name, golden in case["params"][str(len(noise))].items()}
    made = getattr(recipe, case["recipe"])(case["inputs"], args.batch_size, shapes, noise)
    taken = [TAKEN[algorithm](args, golden) if algorithm in TAKEN else noise[k] for k, golden in enumerate(case["updates"])]
    return args, made, [[made.noise[k][name] for name in names] for k, names in enumerate(taken)]


def dataset(algorithm, args, made):
    data = recipe.dataset(made)
    module = importlib.import_module(f"algorithms.{algorithm}")
    return module.best(data, args.fraction, args.gamma, args.corl_split) if algorithm == "bc" else data


class Replay:
    """A file's agent on the inputs of a case, in one precision."""

    def __init__(self, algorithm, case, args, made, dtype):
        self.dtype, Agent = dtype, agent_class(importlib.import_module(f"algorithms.{algorithm}"))
        with recipe.precision(dtype):
            self.agent = agent = Agent(args, dataset(algorithm, args, made), 0)
            self.views = parameters(agent)
            recipe.load(self.views, made.weights)
        agent.step = case["inputs"].get("start", 0)
        if hasattr(agent, "count"):
            agent.count.fill_(agent.step)
        if "past_q" in case["inputs"]:
            agent.past_q.copy_(torch.tensor(case["inputs"]["past_q"]))
        self.calls = recipe.remembered(agent, "critic_loss", "td_loss", "ood_loss", "alpha_loss", "critic_target", "conservative", "penalty",
                                       *["bellman", "actor_loss"] * (algorithm == "atac"))
        if case["recipe"] == "ensemble":
            self.calls |= recipe.remembered(agent.actor, "sample")

    def update(self, k, noise):
        """The numbers of update k = 0, 1, ...: its batch are the next rows, around the end if need be."""
        size, rows = self.agent.args.batch_size, len(self.agent.data.rows)
        for kept in self.calls.values():
            kept.clear()
        with recipe.precision(self.dtype), recipe.injected([("randint", np.arange(k * size, (k + 1) * size) % rows), *noise]):
            return numbers(self.agent, self.agent.update(), self.calls)


def differences(algorithm, case):
    """(precision, what, relative difference) of every golden number. In float32 every update begins where float64's begins.

    For Adam's first steps are +-lr whatever the gradient's size: where it is rounding noise, float32 goes its own way, another one
    on every processor.
    """
    args, made, noise = inputs(algorithm, case)
    exact, rough = (Replay(algorithm, case, args, made, dtype) for dtype in (torch.float64, torch.float32))
    for k, golden in enumerate(case["updates"]):
        replays = [exact]
        if (k + 1) % 5 == 0 or algorithm not in SLOW:
            recipe.follow(rough.agent, exact.agent)
            replays.append(rough)
        for replay in replays:
            ours = replay.update(k, noise[k])
            for name, theirs in golden.items():
                yield replay.dtype, f"{name} of update {k + 1}", recipe.difference(ours[name], theirs)
            for name, theirs in case["params"].get(str(k + 1), {}).items():
                yield replay.dtype, f"parameter {name} after update {k + 1}", recipe.difference(replay.views[name], theirs)


def limit(precision, algorithm, case, what):
    for (dtype, file, name, start), value in EXCEPTIONS.items():
        if (dtype, file) == (precision, algorithm) and name in ("", case) and what.startswith(start):
            return value
    return LIMITS[precision][what.startswith("parameter")]


@pytest.mark.parametrize("algorithm, case", [(algorithm, case) for algorithm, cases in GOLDEN.items() for case in cases])
def test_every_update_equals_the_authors(algorithm, case):
    found = list(differences(algorithm, GOLDEN[algorithm][case]))
    wrong = [f"{precision} {what}: {difference:.1e} off" for precision, what, difference in found
             if not difference <= limit(precision, algorithm, case, what)]  # NaN is wrong too
    assert not wrong, f"{len(wrong)} of {len(found)} numbers: " + "; ".join(wrong)


def test_every_file_has_golden_numbers():
    """But FQE, whose authors' code was not run: test_fqe.py has its equations by hand, and values that a linear solve knows."""
    models = {path.stem for path in (ROOT / "tests/golden/model_based").glob("*.json")} - {"dynamics_model", "terminations"}
    assert set(GOLDEN) | models | {"fqe"} == {path.stem for path in (ROOT / "algorithms").glob("*.py")}


@pytest.mark.parametrize("algorithm", GOLDEN)
def test_every_parameter_has_golden_numbers(algorithm):
    case = next(iter(GOLDEN[algorithm].values()))
    args, made, noise = inputs(algorithm, case)
    replay = Replay(algorithm, case, args, made, torch.float32)
    modules = [value for value in vars(replay.agent).values() if isinstance(value, torch.nn.Module)]
    expected = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    assert expected <= {replay.views[name].untyped_storage().data_ptr() for name in case["params"][str(len(noise))]} and modules


@pytest.mark.parametrize("case", [name for name, case in GOLDEN["bc"].items() if "kept" in case])
def test_bc_keeps_the_rows_that_the_authors_keep(case):
    case = GOLDEN["bc"][case]
    args, made, _ = inputs("bc", case)
    place = {tuple(row): i for i, row in enumerate(recipe.dataset(made).rows.tolist())}
    kept = [place[tuple(row)] for row in dataset("bc", args, made).rows.tolist()]
    assert {"rows": len(kept), "sum": sum(kept)} == case["kept"] and kept == sorted(kept)


@pytest.mark.parametrize("algorithm", ["pbrl", "rorl"])
def test_cases_have_the_values_of_their_datasets(algorithm):
    module = importlib.import_module(f"algorithms.{algorithm}")
    for case in GOLDEN[algorithm].values():
        table, env = case["table"]
        theirs, ours = vars(module.Args(**case["flags"])), vars(module.Args(**getattr(module, table)[env]))
        assert {flag for flag in ours if ours[flag] != theirs[flag]} <= {"batch_size", "q_smooth_misaligned"}


def test_an_update_must_draw_what_the_authors_draw():
    ones = np.ones((2, 3))
    with recipe.precision(torch.float64), recipe.injected([("rand", ones), ("randint", np.arange(4)), ("randn", ones)]):
        assert torch.rand(2, 3).dtype == torch.float64 and torch.randint(9, (4,)).tolist() == [0, 1, 2, 3]
        assert torch.equal(torch.randn((2, 3), generator=None, device="cpu"), torch.ones(2, 3))
    for waiting, message in (([], "authors draw nothing"), ([("rand", ones)], "authors draw rand"), ([("randn", ones.T)], "in shape")):
        with pytest.raises(AssertionError, match=message), recipe.injected(waiting):
            torch.randn(2, 3)
    with pytest.raises(AssertionError, match="not drawn: randn"), recipe.injected([("randn", ones)]):
        pass


def test_torch_is_as_it_was_afterwards():
    before = torch.randn, torch.rand, torch.randint, torch.get_default_dtype()
    with pytest.raises(KeyError), recipe.precision(torch.float64), recipe.injected([]):
        assert (torch.randn, torch.get_default_dtype()) != (before[0], before[-1])
        raise KeyError
    assert (torch.randn, torch.rand, torch.randint, torch.get_default_dtype()) == before


def test_differences_by_hand():
    golden = {"shape": [2, 2], "sum": 2.0, "norm": 2.0, "first": [1.0, 1.0, 1.0]}  # 1, 1, 1, -1: root mean square 1
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    assert recipe.difference(x, golden) == 0
    assert recipe.difference(x + torch.tensor([[0.01, 0.0], [0.0, 0.01]]), golden) == pytest.approx(0.01)
    assert np.isnan(recipe.difference(x * torch.nan, golden))
    assert recipe.difference([3.0, -4.0], [3.0, -4.4]) == pytest.approx(0.4 / 4.4) and recipe.difference(0.5, 0.0) == 0.5
    with pytest.raises(AssertionError):
        recipe.difference(x.T[0], golden)
