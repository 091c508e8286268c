"""CQL and CQL-smooth under attack: the table's runs, the plane around a state, the scores' figure, and the script itself."""

import csv
import json
import re

import numpy as np
import pytest
import torch

from algorithms import cql
from benchmark import cql_smooth, pessimism_small
from benchmark.cql_smooth import SIDE, Args, directions, measure, plane, roughness, table, worst
from benchmark.engine.figures import FORMATS
from benchmark.engine.grid import make
from benchmark.engine.runs import find_runs, load_agent
from common import friendly
from common.data import load_dataset
from tests.helpers import ROOT, make_data, run_script, write_npz

SCRIPT, NAME = ROOT / "benchmark/cql_smooth.py", "hopper-medium-replay-v2"
TINY = ["--", "--batch-size", 8, "--eval-episodes", 1, "--num-actions", 2, "--eval-workers", 0]


def cells(tmp_path, *words, **flags):
    grid = make(table(Args(**flags)), ["--runs", str(tmp_path), *words], Args)
    return {cell.column + " " + cell.dataset: json.loads(cell.settings) for cell in grid.cells}


# Which runs


def test_the_papers_size(tmp_path):
    found = cells(tmp_path)
    assert len(found) == 3 * 4
    for name, values in found.items():
        column, dataset = name.split()
        usual = vars(cql.Args(**cql.PAPER[dataset]))
        assert values["eps"] == {"cql": 0.0, "cql_smooth_0.005": 0.005, "cql_smooth_0.01": 0.01, "cql_smooth_0.05": 0.05}[column]
        assert all(values[flag] == usual[flag] for flag in ("updates", "batch_size", "actor_lr", "num_actions", "beta_q", "beta_pi", "num_perturbations", "reward"))


def test_the_small_size_shares_its_cql_with_the_small_comparison(tmp_path):
    found = cells(tmp_path, small=True)
    (theirs,) = (json.loads(cell.settings) for cell in make(pessimism_small.TABLE, ["--runs", str(tmp_path)]).cells
                 if (cell.column, cell.dataset) == ("cql", NAME))
    assert list(found) == [f"cql {NAME}", f"cql_smooth_0.05 {NAME}", f"cql_smooth_0.1 {NAME}"] and found[f"cql {NAME}"] == theirs
    for eps in (0.05, 0.1):
        assert found[f"cql_smooth_{eps:g} {NAME}"] == theirs | {"eps": eps, "beta_q": 1.0, "beta_pi": 3.0, "num_perturbations": 4}


def test_other_weights_have_another_name(tmp_path):
    flags = [{}, {"small": True}, {"smooth_eps": (0.2,)}, {"beta_q": 0.0}, {"beta_pi": 1.0}, {"small": True, "beta_pi": 1.0}]
    names = [table(Args(**some)).name for some in flags]
    assert len(set(names)) == len(flags) and names[:2] == ["cql_smooth", "cql_smooth_small"]
    assert table(Args(beta_q=0.01, smooth_eps=(0.005, 0.01, 0.05, 0.05))).name == "cql_smooth"  # the usual ones in other words
    found = cells(tmp_path, small=True, smooth_eps=(0.2,), beta_q=0.0, beta_pi=2.5)
    assert [(values["eps"], values["beta_q"], values["beta_pi"]) for values in found.values()][1:] == [(0.2, 0.0, 2.5)]
    assert all("our own reconstruction" in table(Args(**some)).notes[0] for some in flags)


# The plane


def small_agent():
    torch.manual_seed(0)
    return cql.CQL(cql.Args(), make_data(), 0)


def test_the_first_direction_is_the_steepest_and_the_second_is_square_to_it():
    sigma, weight = torch.tensor([0.1, 2.0, 5.0]), torch.tensor([3.0, 1.0, -1.0])
    critics = lambda obs, action: torch.stack([obs @ weight, obs @ weight + 1])
    u, v = directions(critics, torch.randn(4, 3), torch.zeros(4, 1), sigma, torch.tensor([1.0, 2.0, 3.0]))
    expected = sigma * weight / (sigma * weight).norm()  # what a step of one std in each coordinate changes
    torch.testing.assert_close(u, expected.expand(4, -1))
    torch.testing.assert_close((u * v).sum(-1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(4))


def test_the_plane_holds_q_itself():
    """Row i, column j: Q at s + sigma (x_j u + y_i v), the mean of both critics; and the action's way from act(s)."""
    agent = small_agent()
    agent.data.obs_std = torch.linspace(0.1, 3, 11)
    obs, action, u, v = torch.randn(11), torch.rand(3), torch.randn(11), torch.randn(11)
    with torch.no_grad():
        q, moved = plane(agent, obs, action, u, v, 0.4)
        steps = torch.linspace(-0.4, 0.4, SIDE)
        for i, j in ((0, 0), (0, SIDE - 1), (7, 20), (SIDE // 2, SIDE // 2)):
            near = obs + agent.data.obs_std * (steps[j] * u + steps[i] * v)
            torch.testing.assert_close(q[i, j], agent.critics(near[None], action[None]).mean())
            torch.testing.assert_close(moved[i, j], (agent.actor.act(near[None]) - agent.actor.act(obs[None])).norm(), atol=1e-6, rtol=1e-4)
    assert q.shape == moved.shape == (SIDE, SIDE) and q.unique().numel() > SIDE and moved.max() > 1e-4


def test_roughness_is_what_a_linear_function_leaves():
    x = torch.linspace(-1, 1, SIDE)
    linear = 3 * x[None] - 2 * x[:, None] + 7
    assert roughness(linear) < 1e-5
    assert roughness(linear + 0.5 * (-1.0) ** torch.arange(SIDE)) == pytest.approx(0.5, rel=0.01)  # stripes
    square = x[None].expand(SIDE, -1) ** 2
    assert roughness(linear + square) == pytest.approx(square.std(correction=0).item(), rel=1e-4)


def test_numbers_of_many_states():
    """A critic that is linear in s: the range is 2 r |sigma w| along u, nothing is rough, and the action is the state's."""
    agent, weight = small_agent(), torch.linspace(-1, 2, 11)
    agent.critics = lambda obs, action: torch.stack([obs @ weight] * 2)
    agent.actor.act = lambda obs: obs[:, :3] / agent.data.obs_std[:3]
    obs, action = torch.randn(5, 11), torch.rand(5, 3)
    found = measure(agent, obs, action, 0.3)
    assert found["range"] == pytest.approx([0.6 * (agent.data.obs_std * weight).norm().item()] * 5, rel=1e-4)
    assert found["q"] == pytest.approx((obs @ weight).tolist(), rel=1e-4) and max(found["roughness"]) < 1e-4
    assert max(found["action"]) <= 0.3 * 2**0.5 + 1e-5 and min(found["action"]) > 0


# Scores


def test_the_worst_attack_is_of_means_over_seeds():
    def row(eps, attack, score, agent="a"):
        return {"task": "t", "agent": agent, "eps": str(eps), "attack": attack, "optimizer": "", "step": "", "score": str(score), "return_mean": "7"}

    rows = [row(0.0, "clean", 50), row(0.0, "clean", 70), row(0.1, "random", 40), row(0.1, "random", 0), row(0.1, "min-q", 10), row(0.1, "min-q", 20),
            row(0.1, "min-q", "", "b")]
    assert worst(rows) == {"t": {"a": {0.0: 60.0, 0.1: 15.0}, "b": {0.1: 7.0}}}


# The script


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_npz(tmp_path / "replay.npz")
    return ["--small", "--data", f"{NAME}={tmp_path}/replay.npz", "--smooth-eps", 0.1, "--updates", 4, "--eps", 0, 0.2, "--episodes", 1,
            "--runs", tmp_path / "runs", "--out", tmp_path / "out"]


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_from_nothing_to_the_figures(words, tmp_path):
    code, out, err = run_script(SCRIPT, *words, *TINY)
    assert code == 0 and err == "", err
    names = {re.sub(r"\.[0-9a-f]{8}", ".#", path.name): path for path in (tmp_path / "out").iterdir()}
    stem = "cql_smooth_small.#.data.changed.#"
    assert set(names) == {f"{stem}.{suffix}" for suffix in ("md", "csv", "runs.csv", "html")} | {
        f"{stem}.#.{suffix}" for suffix in ("attacked.csv", "plane.csv", *(f"{kind}.{form}" for kind in ("attacked", "plane", "scores") for form in FORMATS))}
    for suffix in ("plane.png", "scores.png"):
        assert names[f"{stem}.#.{suffix}"].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    runs = {run.config["args"]["eps"]: run for run in find_runs(tmp_path / "runs")}
    attacked, planes = (rows_of(names[f"{stem}.#.{kind}.csv"]) for kind in ("attacked", "plane"))
    clean = {row["agent"]: float(row["score"]) for row in attacked if row["attack"] == "clean"}
    assert clean == {name: runs[eps].result["seeds"]["0"]["last"] for name, eps in (("cql", 0.0), ("cql_smooth_0.1", 0.1))}
    assert [(row["dataset"], row["agent"], row["seed"]) for row in planes] == [(NAME, "cql", "0"), (NAME, "cql_smooth_0.1", "0")]
    data = load_dataset(str(tmp_path / "replay.npz"))
    chosen = torch.randperm(len(data.obs), generator=torch.Generator().manual_seed(0))[:200]
    with torch.no_grad():
        q = load_agent(runs[0.1], 0, 3).critics(data.obs[chosen], data.action[chosen]).mean(0)
    assert float(planes[1]["q"]) == pytest.approx(q.mean().item(), rel=1e-4, abs=1e-6)
    assert float(planes[1]["q_std"]) == pytest.approx(q.std(correction=0).item(), rel=1e-4)
    assert float(planes[1]["range_per_std"]) == pytest.approx(float(planes[1]["range"]) / float(planes[1]["q_std"]))
    assert "our own reconstruction" in out and "Q around states of the data" in out
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.csv")}
    assert run_script(SCRIPT, *words, *TINY)[0] == 0 and len(find_runs(tmp_path / "runs")) == 2  # nothing twice
    same = {path for path in before if path.read_bytes() == before[path]}
    assert set(before) - same <= {names[f"{stem}.#.plane.csv"]}  # it was seen to differ, twice and on a busy machine; why is not known
    for row, old in zip(rows_of(names[f"{stem}.#.plane.csv"]), planes, strict=True):
        assert all(float(row[name]) == pytest.approx(float(old[name]), rel=1e-3) for name in ("q", "q_std", "range", "roughness"))


def test_the_figures_show_what_was_found(tmp_path):
    """One scale of colours for a row, with the change of Q; a bar per radius, as high as the score."""
    write_npz(tmp_path / "replay.npz")
    models = make(table(Args(small=True)), ["--runs", str(tmp_path), "--data", f"{NAME}={tmp_path}/replay.npz"], Args)
    big, little = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE) / 10
    figure = cql_smooth.draw_planes({NAME: {"cql": (big + 5, 5.0), "smooth": (little - 3, -3.0)}}, 0.3, models)
    images = [ax.images[0] for ax in figure.axes if ax.images]
    for image, change in zip(images, (big, little), strict=True):
        np.testing.assert_allclose(image.get_array(), change, atol=1e-5)
        assert image.get_clim() == pytest.approx((-big.abs().max().item(), big.abs().max().item()), rel=1e-5)
        assert image.get_extent() == [-0.3, 0.3, -0.3, 0.3]
    assert "own data" in figure.axes[0].get_ylabel() and "Q(s, a) = -3.0" in figure.axes[1].get_title()
    figure = cql_smooth.draw_scores({NAME: {"cql": {0.0: 50.0, 0.1: 5.0}, "smooth": {0.0: 40.0, 0.1: 30.0}}}, models)
    (ax,) = figure.axes
    assert [[bar.get_height() for bar in bars] for bars in ax.containers] == [[50.0, 40.0], [5.0, 30.0]]
    assert [bars.get_label() for bars in ax.containers] == ["clean", "worst attack, eps 0.1"]


def test_a_dry_run_makes_nothing(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cql_smooth.py", *map(str, words), "--dry-run"])
    cql_smooth.main()
    out = capsys.readouterr().out
    assert "2 cells, 0 of 2 seeds finished; 2 runs to start" in out and "--eps 0.1 --beta-q 1 --beta-pi 3 --num-perturbations 4" in out
    assert {path.name for path in tmp_path.iterdir()} == {"replay.npz"}


@pytest.mark.parametrize("words, match", [
    (["--smooth-eps", "-0.1"], "--smooth-eps -0.1"), (["--smooth-eps", "0"], "--smooth-eps 0"), (["--eps", "-1"], "--eps -1"), (["--eps", "nan"], "--eps nan"),
    (["--beta-q", "-1"], "--beta-q -1"), (["--beta-pi", "nan"], "--beta-pi nan"), (["--around", "0"], "--around 0"), (["--episodes", "0"], "--episodes 0"),
    (["--device", "meta"], "--device meta"), (["--datasets", "hopper"], "--datasets hopper: not in cql_smooth"), (["--columns", "rorl"], "--columns rorl"),
    (["--", "--eps", "-1"], "--eps -1"), (["--step", "fast"], "fast"), (["--eps"], "nothing to do: --eps"), (["--small", "--", "--gamma", "2"], "--gamma 2")])
def test_bad_flags(words, match, tmp_path, monkeypatch, capsys):
    """One line and exit code 2, before anything is made."""
    cut = words.index("--") if "--" in words else len(words)
    argv = [*words[:cut], "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *words[cut:]]
    monkeypatch.setattr("sys.argv", ["cql_smooth.py", *argv])
    with pytest.raises(SystemExit) as stop, friendly():
        cql_smooth.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.startswith("error: ") and match in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())
