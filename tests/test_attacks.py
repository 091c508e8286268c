"""What pins the attacks: the box, closed forms of linear policies, both step conventions, batches, clean scores, errors."""

import csv
import json
import math
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from algorithms import rorl
from benchmark import attacks
from benchmark.attacks import ZERO_ORDER, draws, jeffreys, mixed_order, objective, perturb, zero_order
from benchmark.engine import tables
from benchmark.engine.grid import Column, Table, make
from benchmark.engine.runs import Run, agent_class, flags, load_agent, load_script, read_run
from common import InputError
from common.args import cli
from common.physics import VERSIONS
from tests.helpers import ROOT, make_data, run_script, write_npz

SCRIPT = ROOT / "benchmark/attacks.py"
VARIANTS = [("random", "", ""), ("action-diff", "zero-order", ""), ("action-diff", "mixed-order", "authors"),
            ("action-diff", "mixed-order", "scaled"), ("min-q", "zero-order", ""), ("min-q", "mixed-order", "authors"),
            ("min-q", "mixed-order", "scaled")]
SIGMA = torch.tensor([0.05, 1.0, 10.0, 0.3])
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: " ".join(filter(None, v)))


class Gaussian(torch.nn.Module):
    """A small random tanh-Gaussian policy."""

    def __init__(self, obs_size=4, action_size=2):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(obs_size, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2 * action_size))

    def forward(self, obs):
        mean, log_std = self.net(obs).chunk(2, -1)
        return mean, log_std.clamp(-5, 2)

    def act(self, obs):
        return torch.tanh(self(obs)[0])


def random_critics(members=3, obs_size=4, action_size=2):
    torch.manual_seed(1)
    nets = [torch.nn.Sequential(torch.nn.Linear(obs_size + action_size, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)) for _ in range(members)]
    return lambda obs, action: torch.stack([net(torch.cat([obs, action], -1))[:, 0] for net in nets])


def noise(rows, variant, obs_size=4, seed=0):
    return 2 * torch.rand(rows, draws(*variant), obs_size, generator=torch.Generator().manual_seed(seed)) - 1


@every_variant
def test_the_box_is_never_left(variant):
    obs, eps = 5 * torch.randn(8, 4), torch.tensor([0.01, 0.1, 1.0, 3.0] * 2)
    seen = perturb(obs, eps, SIGMA, noise(8, variant), *variant, Gaussian(), random_critics())
    assert ((seen - obs).abs() <= eps[:, None] * SIGMA * (1 + 1e-6) + 2e-6).all() and not torch.equal(seen, obs)
    assert torch.equal(perturb(obs, 0 * eps, SIGMA, noise(8, variant), *variant, Gaussian(), random_critics()), obs)


@every_variant
def test_a_batch_equals_one_at_a_time(variant):
    obs, eps, draw = torch.randn(8, 4), torch.linspace(0.1, 0.8, 8), noise(8, variant)
    actor, critics = Gaussian().double(), random_critics()
    critics = (lambda nets: lambda o, a: nets(o.float(), a.float()))(critics)
    together = perturb(obs.double(), eps.double(), SIGMA.double(), draw.double(), *variant, actor, critics)
    for i in range(8):
        alone = perturb(obs[i:i + 1].double(), eps[i:i + 1].double(), SIGMA.double(), draw[i:i + 1].double(), *variant, actor, critics)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-6, atol=1e-6)


def test_random_is_uniform_in_the_box():
    obs, draw = torch.zeros(20_000, 4), noise(20_000, ("random", "", ""))
    delta = perturb(obs, torch.full((20_000,), 0.3), SIGMA, draw, "random") / SIGMA
    assert delta.mean(0).abs().max() < 0.005
    torch.testing.assert_close(delta.var(0), torch.full((4,), 0.3**2 / 3), rtol=0.02, atol=0)


def values(variant, obs, delta):
    return objective(variant[0], Gaussian(), random_critics(), obs)(delta[:, None])[:, 0]


def test_zero_order_takes_the_best_and_min_q_never_raises_its_own_q():
    obs, eps, variant = torch.randn(64, 4), torch.full((64,), 0.5), ("min-q", "zero-order", "")
    draw = noise(64, variant)
    delta = perturb(obs, eps, SIGMA, draw, *variant, Gaussian(), random_critics()) - obs
    best, clean = values(variant, obs, delta), values(variant, obs, torch.zeros_like(obs))
    assert (best <= clean + 1e-6).all() and (best < clean - 1e-3).any()
    candidates = objective("min-q", Gaussian(), random_critics(), obs)(draw * 0.5 * SIGMA)
    torch.testing.assert_close(best, torch.minimum(candidates.amin(1), clean), rtol=1e-4, atol=1e-5)
    worse = random_critics()
    rising = lambda o, a: worse(o, a) * 0 + (a[:, :1].T - torch.tanh(Gaussian()(o)[0])[:, :1].T).abs()  # 0 at the clean action only
    assert torch.equal(perturb(obs, eps, SIGMA, draw, *variant, Gaussian(), rising), obs)  # delta = 0 is a candidate


def test_action_diff_does_not_try_the_clean_state():
    obs, variant = torch.randn(8, 4), ("action-diff", "zero-order", "")
    draw = noise(8, variant)
    assert draws(*variant) == ZERO_ORDER == 50
    delta = perturb(obs, torch.full((8,), 0.5), SIGMA, draw, *variant, Gaussian()) - obs
    expected = objective("action-diff", Gaussian(), None, obs)(draw * 0.5 * SIGMA).amin(1)
    torch.testing.assert_close(values(variant, obs, delta), expected, rtol=1e-3, atol=1e-5)
    assert (expected < 0).all()


def test_scaled_mixed_order_is_at_least_as_good_as_its_best_start():
    obs, eps = torch.randn(64, 4), torch.full((64,), 0.5)
    for attack in ("action-diff", "min-q"):
        variant = attack, "mixed-order", "scaled"
        draw = noise(64, variant)
        start = objective(attack, Gaussian(), random_critics(), obs)(draw * 0.5 * SIGMA).amin(1)
        end = values(variant, obs, perturb(obs, eps, SIGMA, draw, *variant, Gaussian(), random_critics()) - obs)
        assert (end <= start + 1e-4 * start.abs() + 1e-6).all() and (end < start - 1e-3).any()


def test_scaled_mixed_order_keeps_a_start_that_its_steps_leave():
    """f has its minimum at a start, and beside it slopes away: ten steps end worse."""
    f = lambda delta: torch.where(delta[..., 0].abs() < 1e-3, -5.0, 0.0) - delta[..., 0]
    kept, left = (mixed_order(f, torch.zeros(1, 20, 1), torch.ones(1, 1), torch.full((1, 1), 0.1), keep_start=keep) for keep in (True, False))
    assert kept.item() == 0.0 and left.item() == pytest.approx(1.0)
    seen = perturb(torch.zeros(1, 1), torch.ones(1), torch.ones(1), torch.zeros(1, 20, 1), "min-q", "mixed-order", "scaled",
                   SimpleNamespace(act=lambda obs: obs), lambda obs, action: f(action)[None])
    assert seen.item() == 0.0


@pytest.mark.parametrize("sigma, step, expected", [(1.0, "authors", -0.1), (1.0, "scaled", -0.1), (10.0, "authors", -0.1), (10.0, "scaled", -1.0),
                                                   (0.05, "authors", -0.05), (0.05, "scaled", -0.005)])
@pytest.mark.parametrize("slope", [3.0, 0.02])
def test_one_step_from_zero(sigma, step, expected, slope, monkeypatch):
    """Of size eps / 10 in raw units (authors) or in units of sigma, whatever the gradient's size, clipped to the box."""
    monkeypatch.setattr(attacks, "STEPS", 1)
    box = torch.full((1, 1), 0.3 * sigma)
    size = 0.1 * (box if step == "scaled" else torch.full((1, 1), 0.3))
    delta = mixed_order(lambda delta: slope * delta.sum(-1), torch.zeros(1, 20, 1), box, size, keep_start=False)
    assert delta.item() == pytest.approx(0.3 * expected, rel=1e-5)


def linear(weight=0.01, sign=1.0):
    """S = A = 1: mean = weight s, Q = sign a."""
    actor = SimpleNamespace(act=lambda obs: torch.tanh(weight * obs))
    return actor, lambda obs, action: sign * action.T


def test_mixed_order_on_a_line():
    """Ten steps of eps / 10 go 1 eps down: the end is -eps unless every start is above 0."""
    actor, critics = linear()
    one = torch.ones(1)
    for starts, end in (((-0.3, 0.9), -0.2), ((0.4, 0.9), -0.12), ((0.1, 0.2), -0.18)):
        draw = torch.tensor(starts)[None, :, None].repeat(1, 10, 1)
        seen = perturb(torch.zeros(1, 1), 0.2 * one, one, draw, "min-q", "mixed-order", "authors", actor, critics)
        assert seen.item() == pytest.approx(end, rel=1e-4)


def test_authors_step_is_weak_where_the_box_is_wide():
    """A linear objective, 17 equal weights, sigma 10: 36% of the worst case against 89% (2,000 draws).

    By hand: the best of 20 starts has 1.87 sqrt(1 / 3 / 17) = 26%, and ten steps of a hundredth of the box's half add 10%.
    """
    rng = torch.Generator().manual_seed(0)
    weight, reached = torch.randn(2000, 1, 17, generator=rng).sign(), {}
    starts, box = 2 * torch.rand(2000, 20, 17, generator=rng) - 1, torch.full((2000, 17), 10.0)
    for step, size in (("authors", torch.full((2000, 17), 0.1)), ("scaled", 0.1 * box)):
        delta = mixed_order(lambda delta: (weight * delta).sum(-1), starts, box, size, keep_start=False)
        reached[step] = -((weight[:, 0] * delta).sum(-1) / (weight[:, 0].abs() * 10).sum(-1)).mean().item()
    assert reached["authors"] == pytest.approx(0.36, abs=0.02) and reached["scaled"] == pytest.approx(0.89, abs=0.02)


@pytest.mark.parametrize("step", ["authors", "scaled"])
def test_a_constant_policy_cannot_be_moved(step):
    actor = Gaussian()
    with torch.no_grad():
        actor.net[2].weight.zero_()
    f = objective("action-diff", actor, None, torch.randn(4, 4))
    assert not f(torch.randn(4, 50, 4)).any()
    seen = perturb(torch.zeros(4, 4), torch.ones(4), SIGMA, noise(4, ("action-diff", "mixed-order", step)), "action-diff", "mixed-order", step, actor)
    assert torch.equal(actor.act(seen), actor.act(torch.zeros(4, 4)))


def test_deterministic_policies_have_a_squared_difference():
    class Plain(torch.nn.Module):
        def act(self, obs):
            return 2 * obs[..., :1]

    class WithForward(Plain):
        def forward(self, obs):
            return self.act(obs), None, "something of its own"

    for actor in (Plain(), WithForward()):  # act() is all that an agent needs
        f = objective("action-diff", actor, None, torch.zeros(1, 4))
        torch.testing.assert_close(f(torch.tensor([[[0.5, 9.0, 9.0, 9.0]]])), torch.tensor([[-1.0]]))


def test_jeffreys():
    rng = torch.Generator().manual_seed(0)
    gaussians = [torch.randn(5, 3, generator=rng) for _ in range(4)]
    assert torch.equal(jeffreys(*gaussians), rorl.jeffreys(*gaussians))  # what the attacker looks for is what RORL smooths
    zero, one = torch.zeros(1), torch.ones(1)
    assert jeffreys(zero, zero, one, zero).item() == pytest.approx(1.0)
    assert jeffreys(zero, zero, zero, torch.tensor([math.log(2)])).item() == pytest.approx(1.125)


def test_min_q_is_scored_at_the_true_state():
    obs = torch.randn(3, 4)
    seen = []
    critics = lambda o, a: seen.append(o) or a.sum(-1)[None]
    objective("min-q", Gaussian(), critics, obs)(torch.randn(3, 5, 4))
    assert torch.equal(seen[0].view(3, 5, 4), obs[:, None].expand(3, 5, 4))


@pytest.mark.parametrize("path", sorted((ROOT / "algorithms").glob("*.py")), ids=lambda path: path.stem)
@pytest.mark.parametrize("attack", ["action-diff", "min-q"])
def test_every_agent_can_be_attacked(path, attack):
    """The objective at several states at once is that of each alone."""
    module = load_script(path)
    small = {"num_critics": 3, "hidden_size": 16}
    args = module.Args(**{flag: value for flag, value in small.items() if flag in vars(module.Args)})
    agent, obs, delta = agent_class(module)(args, make_data(), 0), torch.randn(4, 11), torch.randn(4, 6, 11)
    if attack == "min-q" and not hasattr(agent, "critics"):
        pytest.skip("has no critics")
    with torch.no_grad():
        found = objective(attack, agent.actor, getattr(agent, "critics", None), obs)(delta)
        each = [objective(attack, agent.actor, getattr(agent, "critics", None), obs[i:i + 1])(delta[i:i + 1, k:k + 1])
                for i in range(4) for k in range(6)]
        torch.testing.assert_close(found.flatten(), torch.cat(each).flatten(), rtol=1e-4, atol=1e-5)
        constant = path.stem == "fqe"  # without --policy it has one action, which no change of what it sees changes
        assert found.shape == (4, 6) and (found.unique().numel() > 6 or constant)
        if attack == "action-diff":
            assert not objective(attack, agent.actor, None, obs)(torch.zeros(4, 1, 11)).abs().max() > 1e-6


def test_zero_order_with_the_clean_state():
    candidates = torch.tensor([[[1.0], [-1.0]]])
    assert zero_order(lambda d: d[..., 0] ** 2, candidates, torch.ones(1, 1), clean=True).item() == 0.0
    assert zero_order(lambda d: d[..., 0] ** 2, candidates, torch.ones(1, 1), clean=False).abs().item() == 1.0


# Whole runs


def train(folder, algorithm, *words, updates=4, episodes=2):
    folder.mkdir(exist_ok=True)
    if not (folder / "hopper.npz").exists():
        write_npz(folder / "hopper.npz")
    small = [] if algorithm == "td3_bc" else ["--num-critics", 3]
    code, _, err = run_script(ROOT / f"algorithms/{algorithm}.py", "--env", folder / "hopper.npz", "--eval-env", "hopper-medium-v2", "--updates",
                              updates, "--eval-every", updates, "--eval-episodes", episodes, "--batch-size", 8, "--runs", folder / "runs",
                              "--eval-workers", 0, *small, *words)
    assert code == 0, err
    return max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return {"sac_n": train(folder, "sac_n", "--seeds", 0, 1, "--normalize"), "td3_bc": train(folder, "td3_bc")}


@pytest.fixture
def copies(trained, tmp_path):
    return {name: Path(shutil.copytree(folder, tmp_path / folder.name)) for name, folder in trained.items()}


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def table_of(folder):
    """Rows of the only table in a folder."""
    (path,) = folder.glob("*.csv")
    return rows_of(path)


def one_line(err):
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_an_agent_comes_back_as_it_was_trained(trained):
    for name, folder in trained.items():
        run = read_run(folder)
        agent = load_agent(run, run.seeds[-1], 3)
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)["agents"][-1]
        for part in ("actor", "critics"):
            assert all(torch.equal(value, saved[part][key]) for key, value in getattr(agent, part).state_dict().items())
        assert not any(p.requires_grad for p in agent.actor.parameters())
        assert agent.data.obs_std.tolist() == pytest.approx(run.config["obs_std"])


def command(*words):
    """The script in this process."""
    attacks.main(cli(attacks.Args, list(map(str, words))))


def test_attacks_from_the_command_line(copies, tmp_path, monkeypatch, capsys):
    """Every attack on a Gaussian and a deterministic agent; the clean score is the run's own; nothing is computed twice."""
    words = [*copies.values(), "--eps", 0, 0.5, "--step", "scaled", "authors", "--episodes", 2, "--out", tmp_path / "out"]
    code, out, err = run_script(SCRIPT, *words)
    assert code == 0 and err == "", err
    rows = table_of(tmp_path / "out")
    assert len(rows) == (2 + 1) * (1 + 7)  # seeds x (clean + variants x radii)
    for name, folder in copies.items():
        last = [row for row in rows_of(folder / "eval.csv") if row["step"] == "4"]
        clean = [row for row in rows if row["run"] == folder.name and row["attack"] == "clean"]
        assert [(row["seed"], row["returns"]) for row in clean] == [(row["seed"], row["returns"]) for row in last]
    hit = [row for row in rows if row["attack"] == "min-q" and row["eps"] == "0.5"]
    assert any(row["returns"] != clean[0]["returns"] for row in hit)
    (figure,) = (tmp_path / "out").glob("2-runs.*.png")
    assert figure.read_bytes().startswith(b"\x89PNG") and "worst" in out
    before = {folder: (folder / "attacks.csv").read_bytes() for folder in copies.values()}
    figure.unlink()
    monkeypatch.setattr(attacks, "attacked_returns", None)  # would be called if anything were computed again
    command(*words)
    assert capsys.readouterr().out == out and figure.exists() and before == {folder: (folder / "attacks.csv").read_bytes() for folder in before}


def test_a_radius_does_not_depend_on_its_neighbours(copies, tmp_path):
    for out, eps in (("one", [0.3]), ("two", [0.1, 0.3])):
        command(copies["td3_bc"], "--attack", "random", "--eps", *eps, "--episodes", 2, "--out", tmp_path / out)
        (copies["td3_bc"] / "attacks.csv").unlink()
    one, two = (next(row for row in table_of(tmp_path / out) if row["eps"] == "0.3") for out in ("one", "two"))
    assert one == two


def test_the_box_is_in_units_of_the_training_data(copies, tmp_path, monkeypatch):
    boxes, real = [], attacks.perturb
    monkeypatch.setattr(attacks, "perturb", lambda obs, eps, sigma, *rest: boxes.append(sigma) or real(obs, eps, sigma, *rest))
    command(copies["sac_n"], "--attack", "random", "--eps", 0.1, "--episodes", 1, "--out", tmp_path / "out")
    assert boxes[0].tolist() == pytest.approx(read_run(copies["sac_n"]).config["obs_std"])


def test_runs_that_differ_in_more_than_seeds_are_agents_of_their_own(copies, trained, tmp_path):
    """The same seed twice is one; another number of updates another agent."""
    again, shorter = (Path(shutil.copytree(copies["td3_bc"], tmp_path / name)) for name in ("again", "shorter"))
    state = torch.load(shorter / "checkpoint.pt", weights_only=True)
    torch.save(state | {"step": 3}, shorter / "checkpoint.pt")
    (shorter / "result.json").unlink()
    command(copies["td3_bc"], again, shorter, "--attack", "random", "--eps", 0.1, "--episodes", 1, "--out", tmp_path / "out")
    rows = table_of(tmp_path / "out")
    assert [(row["run"], row["update"]) for row in rows] == [("again", "4"), ("shorter", "3")]
    assert len({row["agent"] for row in rows}) == 2 and "shorter" in rows[1]["agent"]


def test_a_run_folder_that_cannot_be_written_is_attacked_all_the_same(copies, tmp_path, capsys):
    (copies["td3_bc"] / "attacks.csv").mkdir()
    command(copies["td3_bc"], "--attack", "random", "--eps", 0.1, "--episodes", 1, "--out", tmp_path / "out")
    assert "these rows go to --out only" in capsys.readouterr().err and len(table_of(tmp_path / "out")) == 1


def test_critics_of_another_run(copies, tmp_path):
    flags = ["--attack", "min-q", "--optimizer", "zero-order", "--eps", 0.5, "--episodes", 1]
    for name in ("own", "common"):
        critic = ["--critic", copies["sac_n"]] if name == "common" else []
        command(copies["td3_bc"], *flags, *critic, "--out", tmp_path / name)
    own, common = (table_of(tmp_path / name)[0] for name in ("own", "common"))
    assert own["critic"] == "own" and common["critic"] == f"{copies['sac_n'].name}@4" and own["returns"] != common["returns"]


def test_a_table_is_named_after_what_it_holds(copies, tmp_path):
    """Other runs, radii, episodes, draws or critics: nothing is overwritten but by the same command; --name chooses."""
    one, both, flags, out = [copies["td3_bc"]], list(copies.values()), ["--attack", "random", "--episodes", 1], tmp_path / "out"
    commands = [[*both, *flags, "--eps", 0.1], [*one, *flags, "--eps", 0.1], [*one, *flags, "--eps", 0.2], [*one, *flags, "--eps", 0.1, "--seed", 1],
                [*one, "--attack", "random", "--episodes", 2, "--eps", 0.1], [*one, *flags, "--eps", 0.1, 0.2],
                [*one, *flags[2:], "--attack", "min-q", "--optimizer", "zero-order", "--eps", 0.1],
                [*one, *flags[2:], "--attack", "min-q", "--optimizer", "zero-order", "--eps", 0.1, "--critic", copies["sac_n"]], [*one, *flags, "--eps", 0.1, "--name", "mine"]]
    for words in commands:
        command(*words, "--out", out)
    tables, figures = ({path.stem: path.read_bytes() for path in out.glob(f"*.{suffix}")} for suffix in ("csv", "png"))
    assert len(tables) == len(commands) and tables.keys() == figures.keys() and "mine" in tables
    assert sum(name.startswith(f"{copies['td3_bc'].name}.") for name in tables) == 7 and sum(name.startswith("2-runs.") for name in tables) == 1
    for words in commands:
        command(*words, "--out", out)
    assert {path.stem: path.read_bytes() for path in out.glob("*.csv")} == tables


def without_facts(folder):
    """A checkpoint as an older version left it: then config.json is believed."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({key: value for key, value in state.items() if key != "facts"}, folder / "checkpoint.pt")


def from_a_file(folder, script, source, algorithm=None):
    """A run's folder as if a file of the user's own had trained it."""
    script.parent.mkdir(exist_ok=True)
    script.write_text(source)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"algorithm": algorithm or script.stem, "command": f"{script} --env x"}))
    without_facts(folder)
    return folder


def test_nothing_that_a_run_folder_names_is_executed(copies, tmp_path, capsys):
    """Neither the file in its command nor one that `algorithm` leads to, by any reader; a file that the user names is."""
    trap = f"open({str(tmp_path / 'EXECUTED')!r}, 'w')\n"
    runs = tmp_path / "runs"
    outside = os.path.relpath(tmp_path / "evil", ROOT / "algorithms")
    for name, algorithm in (("file", None), ("copy", None), ("path", f"{outside}/evil"), ("absolute", f"{tmp_path}/evil/evil"), ("dots", "..")):
        script = tmp_path / "evil" / ("td3_bc.py" if name == "copy" else "evil.py")
        from_a_file(Path(shutil.copytree(copies["td3_bc"], runs / name)), script, trap, algorithm)
    small = ["--attack", "random", "--eps", 0.1, "--episodes", 1, "--out", tmp_path / "out"]
    for name, match in (("file", "was trained by evil.py, which is not in algorithms/; name it with --script evil.py"),
                        ("copy", "was trained by another td3_bc.py than the one in algorithms/; name the one to load with --script"),
                        ("path", "its algorithm is"), ("absolute", "its algorithm is"), ("dots", "--script|its algorithm is")):
        with pytest.raises(InputError, match=match):
            command(runs / name, *small)
        with pytest.raises(InputError, match=match):
            command(copies["td3_bc"], "--critic", runs / name, *small)
    for task in ("a/../../evil-v0", "../evil-v0", str(tmp_path / "evil-v0")):  # a Minari dataset's environment is code: none but an installed one
        config = json.loads((copies["td3_bc"] / "config.json").read_text())
        (runs / "dots/config.json").write_text(json.dumps(config | {"task": task}))
        with pytest.raises(InputError, match="is no Minari id"):
            command(runs / "dots", *small)
    from benchmark import plot
    plot.main(plot.Args(tuple(runs.iterdir()), tmp_path / "out"))
    words = ["--runs", str(runs), "--out", str(tmp_path / "out"), "--columns", "td3_bc", "--datasets", "hopper-medium-v2"]
    grid = make(Table(name="t", title="T", columns={"td3_bc": Column("td3_bc")}, seeds=(0,)), words)
    tables.write(grid)
    assert [run.folder.name for run in grid.runs if any(this.owns(run) for this in grid.cells)] == []
    assert not (tmp_path / "EXECUTED").exists() and "passed over" in capsys.readouterr().err
    source = (ROOT / "algorithms/td3_bc.py").read_text()
    from_a_file(runs / "file", tmp_path / "elsewhere/evil.py", source)
    command(runs / "file", *small, "--script", tmp_path / "elsewhere/evil.py")
    for words, match in ((["--script", tmp_path / "none.py"], "there is no such file"), (["--script", tmp_path / "elsewhere"], "there is no such file"),
                         (["--script", tmp_path / "evil/evil.py", tmp_path / "elsewhere/evil.py"], "two files of one name"),
                         (["--script", tmp_path / "evil/td3_bc.py"], "none of these runs is of td3_bc")):
        with pytest.raises(InputError, match=match):
            command(runs / "file", *small, *words)
    assert not (tmp_path / "EXECUTED").exists()
    command(runs / "file", copies["td3_bc"], *small, "--critic", runs / "file", "--script", tmp_path / "elsewhere/evil.py")


def test_bad_runs(copies, tmp_path):
    names = "bare", "torn", "other", "old", "walker", "two", "free", "wrong", "sizes"
    bare, torn, other, old, walker, two, free, wrong, sizes = (Path(shutil.copytree(copies["td3_bc"], tmp_path / name)) for name in names)
    (bare / "checkpoint.pt").unlink()
    (torn / "checkpoint.pt").write_bytes((torn / "checkpoint.pt").read_bytes()[:1000])
    for folder, change in ((other, {"obs_std": [1.0] * 17, "task": "halfcheetah-medium-v2"}), (old, {"task": "pen-human-v1"}),
                           (walker, {"obs_std": [1.0] * 17, "task": "walker2d-medium-v2"}), (wrong, {"obs_std": ["x"]}), (sizes, {"task": "walker2d-medium-v2"})):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        without_facts(folder)
    source = (ROOT / "algorithms/td3_bc.py").read_text()
    from_a_file(free, tmp_path / "imitation.py", source.replace("self.critics", "self.scorers"))  # without critics
    from_a_file(two, tmp_path / "two.py", source.replace("def main", "class Other(TD3BC):\n    pass\n\n\ndef main", 1))
    (tmp_path / "broken.py").write_text("1 / 0")
    out, script = ["--out", tmp_path / "out"], ["--script", tmp_path / "imitation.py"]
    for obs_std in (["x"], [math.nan] * 11, [-1.0] * 11, 3, None):
        config = json.loads((wrong / "config.json").read_text())
        (wrong / "config.json").write_text(json.dumps(config | {"obs_std": obs_std}))
        with pytest.raises(InputError, match="wrong: its networks do not fit"):
            command(wrong, *out)
    state = torch.load(copies["td3_bc"] / "checkpoint.pt", weights_only=True)
    for parameter in state["agents"][0]["actor"].values():
        parameter.fill_(math.nan)
    nan = Path(shutil.copytree(copies["td3_bc"], tmp_path / "nan"))
    torch.save(state, nan / "checkpoint.pt")
    with pytest.raises(InputError, match="nan.*the agent's action is not finite"):
        command(nan, "--eps", 0, "--episodes", 1, *out)
    for words, match in (([bare], "bare: has no checkpoint yet"), ([torn], "checkpoint.pt cannot be read, damaged|checkpoint.pt is damaged"),
                         ([tmp_path], "no run folder"), ([tmp_path / "nothing"], "no run folder"),
                         ([free, *script], "free: has no critics for min-q; name a run that has some with --critic"),
                         ([copies["td3_bc"], "--critic", other], "--critic .*other: is of halfcheetah-medium-v2, another robot than hopper-medium-v2"),
                         ([walker, "--critic", other], "--critic .*other: is of halfcheetah-medium-v2, another robot than walker2d-medium-v2"),
                         ([two, "--script", tmp_path / "two.py"], "two.py: needs one agent class with update"), ([copies["td3_bc"], "--eps"], "nothing to do: --eps"),
                         ([sizes], "sizes: its networks do not fit|observations of 17 numbers"),
                         ([from_a_file(wrong, tmp_path / "broken.py", "1 / 0"), "--script", tmp_path / "broken.py"], r"broken.py: cannot be loaded \(ZeroDivisionError"),
                         ([copies["td3_bc"], "--attack", "--eps", 0.1], "nothing to do: --eps, --attack"),
                         ([copies["td3_bc"], "--eps", -0.1], "--eps -0.1"), ([copies["td3_bc"], "--eps", "nan"], "--eps nan"), ([copies["td3_bc"], "--episodes", 0], "--episodes"),
                         ([copies["td3_bc"], "--device", "cuda"], "--device cuda"), ([old], "pen-human-v1: no simulator for it here yet")):
        with pytest.raises(InputError, match=match):
            command(*words, *out)
    code, _, err = run_script(SCRIPT, bare, *out, real=True)
    assert code == 2 and "bare: has no checkpoint yet" in one_line(err)
    command(free, *script, "--attack", "random", "action-diff", "--optimizer", "zero-order", "--eps", 0.1, "--episodes", 1, *out)  # these need no critics
    assert not (copies["td3_bc"] / "attacks.csv").exists()


def test_out_must_be_writable(copies, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*choose another folder"):
        command(copies["td3_bc"], "--attack", "random", "--eps", 0.1, "--episodes", 1, "--out", tmp_path / "file/out")


def test_flags():
    assert flags(["--reward=return_range", "--batch_size=1_000"]) == flags(["--reward", "return_range", "--batch-size", "1000"])
    assert flags(["--env", "x-v2", "--eps-q=0.10", "--no-clip", "--track", "--seeds", "0", "1"]) == {
        "env": "x-v2", "eps-q": "0.1", "clip": "False", "track": "True", "seeds": "0 1"}
    assert flags(["--updates", "1_000"]) == flags(["--updates=1000"])




def test_a_torn_row_is_computed_again_and_nothing_else(copies, tmp_path):
    words = [copies["td3_bc"], "--attack", "random", "--eps", 0.1, 0.2, "--episodes", 1, "--out", tmp_path / "out"]
    command(*words)
    path = copies["td3_bc"] / "attacks.csv"
    whole = path.read_text()
    path.write_text(whole[:whole.rindex(",") - 3])  # what a full disk leaves of the last line
    command(*words)
    assert path.read_text() == whole and not list(path.parent.glob("*.tmp"))
    path.write_text("something,else\n1,2\n")
    command(*words)
    assert path.read_text() == whole


def test_rows_of_older_physics_are_computed_again(copies, tmp_path, monkeypatch, capsys):
    """Rows without the column are of the run's physics; what is attacked today is never called that of another day."""
    words = [copies["td3_bc"], "--attack", "random", "--eps", 0.1, "--episodes", 1, "--out", tmp_path / "out"]
    command(*words)
    path = copies["td3_bc"] / "attacks.csv"
    (row,) = rows_of(path)
    assert row["physics"] == "d4rl-1"
    fields = [name for name in row if name != "physics"]
    path.write_text("\n".join([",".join(fields), ",".join([*(row[name] for name in fields[:-1]), "7.0"])]) + "\n")
    command(*words)
    assert [(r["physics"], r["returns"]) for r in table_of(tmp_path / "out")] == [("d4rl-1", "7.0")]
    monkeypatch.setitem(VERSIONS, "hopper", 2)
    assert "is evaluated under" not in capsys.readouterr().out
    command(*words)
    assert f"{copies['td3_bc']}: is evaluated under the physics d4rl-1, and attacked under today's, d4rl-2\n" in capsys.readouterr().out
    assert sorted((r["physics"], r["returns"]) for r in rows_of(path)) == [("d4rl-1", "7.0"), ("d4rl-2", row["returns"])]
    assert sorted(r["physics"] for table in (tmp_path / "out").glob("*.csv") for r in rows_of(table)) == ["d4rl-1", "d4rl-2"]


@pytest.mark.parametrize("task, its, kind, made", [
    ("hopper-medium-v2", "stock", "stock", "stock"), ("hopper-medium-v2", "d4rl", "d4rl", "d4rl-1"), ("halfcheetah-medium-v2", "d4rl", "d4rl", "d4rl-2"),
    ("a-b/hopper/medium-v0", "stored", "d4rl", "stored")])
def test_a_run_is_attacked_under_its_kind_of_physics(task, its, kind, made, monkeypatch, tmp_path):
    def make_env(*world, **_):
        raise InputError(repr(world))

    monkeypatch.setattr(attacks, "make_env", make_env)
    run = Run(tmp_path, {"task": task, "physics": its, "data": {}, "args": {"physics": kind}})
    with pytest.raises(InputError) as found:
        attacks.Target(run, [0], None, SimpleNamespace(env=""), {})
    assert str(found.value) == repr((task, made, None, None))


def test_scripts_of_one_name_are_two_modules(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "json.py").write_text(f"where = '{folder}'")
    assert [load_script(tmp_path / folder / "json.py").where for folder in ("a", "b")] == ["a", "b"]
    assert json.dumps({}) == "{}" and sys.modules["json"] is json
