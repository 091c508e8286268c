"""ARMOR's scripts: the one-state game by hand and by a second way, the poster's means, and the matrix of improvements."""

import csv
import json
import re
from dataclasses import replace
from fractions import Fraction
from math import inf

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from benchmark import armor_improvement, armor_means, armor_toy
from benchmark.armor_toy import BETAS, CASES, COVERED, MIXED, SILENT, best, closed_form, penalised, value, worst_improvement, worst_return
from benchmark.engine import grid, tables
from benchmark.engine.grid import make
from benchmark.engine.jobs import cell
from benchmark.engine.runs import find_runs
from common import InputError
from common.physics import version
from tests.helpers import ROOT, run_script, write_npz

NAME = "hopper-medium-replay-v2"
TOY = ROOT / "benchmark/armor_toy.py"
POLICIES = armor_toy.grid(20)


# The one-state game


def test_the_game_by_hand():
    """The spec's two toys: (1 - q)(0.1 - rho) where the reference goes right, -0.1 q or 0.7 q where it goes left."""
    q = Fraction(1, 4)
    assert value(q, Fraction(1, 2)) == Fraction("0.075") + Fraction(1, 8)
    assert worst_improvement(q, 1, SILENT) == Fraction("-0.9") * (1 - q)
    assert worst_improvement(q, 0, SILENT) == Fraction("-0.1") * q
    assert worst_improvement(q, 0, COVERED) == Fraction("0.7") * q
    assert worst_return(q, SILENT) == Fraction("0.075") and worst_return(q, COVERED) == Fraction("0.275")
    solved = [armor_toy.solve(name, POLICIES) for name in CASES]
    assert [(found["armor"], found["armor_improvement"]) for found in solved] == [(1, 0), (0, 0), (1, Fraction("0.7"))]
    assert [found["absolute"] for found in solved] == [0, 0, 1]  # absolute pessimism goes left in both toys without data
    assert solved[0]["absolute_improvement"] == Fraction("-0.9") and solved[0]["absolute_return"] == Fraction("0.1")


@pytest.mark.parametrize("q_ref", MIXED, ids=str)
def test_no_worse_than_any_reference(q_ref):
    """Enumeration of worlds as a second way, which does not know that the least is at an end."""
    worlds = armor_toy.grid(50)
    for q in POLICIES:
        assert worst_improvement(q, q_ref, SILENT) == min(value(q, rho) - value(q_ref, rho) for rho in worlds)
    assert best(POLICIES, lambda q: worst_improvement(q, q_ref, SILENT)) == q_ref
    chosen = best(POLICIES, lambda q: worst_improvement(q, q_ref, COVERED))
    assert chosen == 1 and worst_improvement(chosen, q_ref, COVERED) == Fraction("0.7") * (1 - q_ref)


@pytest.mark.parametrize("beta", BETAS, ids=lambda beta: f"{float(beta):g}")
@pytest.mark.parametrize("q_ref", [0, Fraction(1, 2), 1], ids=str)
def test_the_penalty(beta, q_ref):
    """Against a numeric minimum over rho; no beta ends below the reference, in the worst case or in truth."""
    for q in POLICIES[::4]:
        if beta < inf:
            total = lambda rho: float(value(q, rho) - value(q_ref, rho)) + float(beta) * (rho - 0.8) ** 2
            inside = minimize_scalar(total, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).fun
            assert float(penalised(q, q_ref, beta)) == pytest.approx(min(inside, total(0), total(1)), abs=1e-8)
        else:
            assert penalised(q, q_ref, beta) == Fraction("0.7") * (q - q_ref)
    chosen = best(POLICIES, lambda q: penalised(q, q_ref, beta))
    assert penalised(chosen, q_ref, beta) >= 0 and value(chosen, armor_toy.RIGHT) >= value(q_ref, armor_toy.RIGHT)
    assert q_ref > 0 or chosen == closed_form(beta) == min(1, Fraction(7, 5) * beta if beta < inf else 1)


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0])
def test_a_slow_actor_finds_the_closed_form(beta):
    """It climbs J at the adversary's answer, which it takes as fixed; the reference goes left."""
    q = 0.5
    for _ in range(3000):
        q = min(1.0, max(0.0, q + 0.01 * (max(0.0, 0.8 - q / (2 * beta)) - 0.1)))
    assert q == pytest.approx(float(closed_form(Fraction(beta))), abs=1e-3)


def test_every_equation_of_the_game_stands_at_its_line():
    numbered = [int(n) for n in re.findall(r"\S {2,}\((\d+)\)$", armor_toy.__doc__, re.M)]
    tagged = sorted(map(int, re.findall(r"# \((\d+)\)", TOY.read_text())))
    assert numbered == tagged == list(range(1, 7))


def test_the_game_from_nothing_to_a_figure(tmp_path):
    code, out, err = run_script(TOY, "--out", tmp_path / "new/folder", "--steps", 20, real=True)
    assert code == 0 and not err, err
    figure = tmp_path / "new/folder/armor_toy.steps-20.png"
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and out.splitlines()[-1] == f"figure: {figure}"
    parts = {part[0]: [line.split() for line in part.splitlines()[2:]] for part in re.split(r"^\(", out, flags=re.M)[1:]}
    assert [line[-5:] for line in parts["a"]] == [["1.000", "1.000", "0.000", "0.000", "-0.900"], ["0.000"] * 5,
                                                 ["0.000", "1.000", "1.000", "0.700", "0.700"]]
    assert all(line[1] == f"{float(line[0]):.3f}" and line[2] == "0.000" for line in parts["b"])
    assert [line[1:] for line in parts["c"][:-1]][1] == ["0.350", "0.350", "0.122", "0.245"] and len(parts["c"]) == len(BETAS) + 1


def test_panels_of_the_game():
    """The lines that are drawn are (2) and (4), against the probability of leaving."""
    figure = armor_toy.draw(POLICIES)
    first, second, third, penalty = figure.axes
    ours, dot, absolute, chosen, risk = first.lines[:5]
    np.testing.assert_allclose(ours.get_ydata(), [-0.9 * p for p in map(float, ours.get_xdata())], atol=1e-12)
    np.testing.assert_allclose(absolute.get_ydata(), [0.1 * p for p in map(float, absolute.get_xdata())], atol=1e-12)
    assert (dot.get_xdata()[0], chosen.get_xdata()[0]) == (0, 1) and risk.get_ydata()[0] == pytest.approx(-0.9)
    assert [float(ax.lines[1].get_xdata()[0]) for ax in (second, third)] == [0, 1] and len(penalty.texts) == len(BETAS)


@pytest.mark.parametrize("flags, text", [(("--steps", 1), "--steps 1"), (("--steps", 20, "--out", TOY), f"cannot write {TOY}")])
def test_a_bad_flag_of_the_game_gives_one_line(flags, text):
    code, out, err = run_script(TOY, *flags)
    assert code == 2 and not out and err.startswith("error: ") and text in err and err.count("\n") == 1


# The poster's means


def write_run(folder, words, evaluations, algorithm="armor", seed=0, env=NAME, kind="d4rl", reference=None):
    """The files of a finished run with these evaluations, {step: score}; `reference`: its score beside them."""
    args = json.loads(cell("x", algorithm, env, tuple(words.split())).settings) | {"seeds": [seed], "device": "cpu"}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"algorithm": algorithm, "args": args, "dataset_source": kind, "data": {}, "task": env, "physics": version(env, "d4rl"),
                                                    "command": f"algorithms/{algorithm}.py --env {env} {words}"}))
    scores = list(evaluations.values())
    row = {"last": scores[-1], "mean_of_last_10": float(np.mean(scores[-10:])), "best": max(scores)}
    (folder / "result.json").write_text(json.dumps({"step": args["updates"], "seeds": {seed: row}, "updates_per_second": 2.0}))
    lines = ["step,seed,return_mean,score" + f",{armor_improvement.REFERENCE_SCORE}" * (reference is not None)]
    lines += [f"{step},{seed},1.0,{score}" + f",{reference}" * (reference is not None) for step, score in evaluations.items()]
    (folder / "eval.csv").write_text("\n".join(lines) + "\n")


def test_the_quoted_means_are_means_of_known_cells():
    """Which version of the data each is of follows from the cells whose mean it is; ARMOR's cells are in no source."""
    quotes = {name: (dataset, float(row["mean"])) for (dataset, name), row in tables.published(armor_means.TABLE).items() if dataset.startswith("mean")}
    assert set(quotes) == set(armor_means.TABLE.columns) and quotes["armor"] == ("mean-of-nine-v2", 87.6) and quotes["atac"] == ("mean-of-nine-v2", 88.0)
    from_cells = {"mopo": ("mopo_table1", "mopo", "v0"), "morel": ("morel_table2", "morel", "v0"), "combo": ("combo_table", "combo", "v0"),
                  "cql": ("morel_table2", "cql", "v0"), "rambo": ("rambo_published", "rambo", "v2"), "iql": ("iql_table1", "iql", "v2")}
    for name, (file, column, its) in from_cells.items():
        paper = tables.published(replace(armor_means.TABLE, papers=(f"{file}.csv",)))
        mean = np.mean([float(paper[dataset.replace("-v2", f"-{its}"), column]["mean"]) for dataset in armor_means.NINE])
        assert quotes[name] == (f"mean-of-nine-{its}", pytest.approx(mean, abs=0.07)), name
    rows = tables.published(armor_means.TABLE)
    assert "unverified" in rows["mean-of-nine-v2", "armor"]["source"] and all("unverified" in rows[name, "armor"]["source"] for name in armor_means.ADROIT)


def test_means_by_hand(tmp_path):
    """ATAC: seeds 0 and 1 on all nine, seed 2 on one; IQL on two datasets; MOPO's quote is of v0; ARMOR has nothing."""
    runs = tmp_path / "runs"
    for k, dataset in enumerate(armor_means.NINE):
        for seed, shift in ((0, 0.0), (1, 2.0)):
            write_run(runs / f"atac-{k}-{seed}", "", {5000: 10.0, 1_100_000: 80.0 + k + shift}, "atac", seed, dataset)
    write_run(runs / "atac-2", "", {5000: 1.0, 1_100_000: 1.0}, "atac", 2, armor_means.NINE[0])
    write_run(runs / "iql-0", "", {5000: 60.0}, "iql", 0, armor_means.NINE[0])
    write_run(runs / "iql-1", "", {5000: 70.0}, "iql", 1, armor_means.NINE[1])
    for k, dataset in enumerate(armor_means.NINE):
        write_run(runs / f"mopo-{k}", "", {5000: 42.1}, "mopo", 0, dataset)
    words = ["--runs", str(runs), "--out", str(tmp_path / "out")]
    this = make(armor_means.TABLE, words)
    rows = {row["algorithm"]: row for row in armor_means.means(this)}
    assert (rows["atac"]["scores"], rows["atac"]["mean"], rows["atac"]["std"], rows["atac"]["verdict"]) == ("84.0 86.0", "85.0", "1.0", "pass")  # 3 off; interval +- 12.7
    assert (rows["iql"]["mean"], rows["iql"]["dataset"], rows["iql"]["seeds"], rows["iql"]["verdict"]) == ("65.0", "mean of 2 of 9", 0, "incomplete")
    assert (rows["mopo"]["mean"][:4], rows["mopo"]["published_mean"], rows["mopo"]["quoted_version"], rows["mopo"]["verdict"]) == ("42.1", "42.1", "v0", "")
    assert (rows["armor"]["mean"], rows["armor"]["verdict"]) == ("", "missing")
    text = armor_means.markdown(this, list(rows.values()))
    assert "| atac | 85.0 ± 1.0 | 9 of 9 | 2 | 88.0 | v2 | pass |" in text and "| mopo | 42.1 | 9 of 9 | 1 | 42.1 | v0 | - |" in text and "of v0 data and must not" in text
    armor_means.write(this)
    with open(tmp_path / "out/armor_means.means.csv", newline="") as file:
        assert [row["algorithm"] for row in csv.DictReader(file)] == list(armor_means.TABLE.columns)
    cells = {(row["dataset"], row["algorithm"]): row for row in tables.results(this)}
    assert cells["pen-human-v1", "armor"]["published_mean"] == "72.8" and ("pen-human-v1", "atac") not in cells
    changed = {row["algorithm"]: row for row in armor_means.means(make(armor_means.TABLE, [*words, "--standin"]))}
    assert all(row["published_mean"] == row["verdict"] == "" for row in changed.values())


def test_the_means_plan_and_bad_flags(tmp_path):
    words = ["--runs", tmp_path / "runs", "--out", tmp_path / "out"]
    code, out, err = run_script(ROOT / "benchmark/armor_means.py", "--dry-run", "--columns", "armor", "atac", *words)
    assert code == 0 and not err and "| atac | - | 0 of 9 | 0 | 88.0 | v2 | missing |" in out and "18 cells, 0 of 72 seeds finished" in out and not list(tmp_path.iterdir())
    for flags, text in ((("--columns", "bcq"), "--columns bcq: not in armor_means"), (("--datasets", "hopper-random-v2"), "--datasets hopper-random-v2: not in armor_means")):
        code, out, err = run_script(ROOT / "benchmark/armor_means.py", *flags, *words)
        assert code == 2 and err.startswith("error: ") and text in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


# Improvement on references


def grids(tmp_path, *words):
    """(references, ARMOR) of a command line, as main has them before anything is trained."""
    args = grid.read(list(map(str, words)), armor_improvement.Args, "")
    args.runs, args.out = tmp_path / "runs", tmp_path / "out"
    rows, names = armor_improvement.chosen(args)
    refs = armor_improvement.references(args, names, ())
    found = {name: args.runs / f"REFERENCE-{name}" for name in names} | armor_improvement.folders(refs)
    return refs, armor_improvement.improvement(args, rows, refs, found, ())


def test_which_runs(tmp_path):
    refs, this = grids(tmp_path, "--betas", 1)  # of the four, for speed
    assert len(refs.cells) == 15 and {(json.loads(cell.settings)["updates"], json.loads(cell.settings)["normalize"]) for cell in refs.cells} == {(100_000, False)}
    assert len(this.cells) == 3 * 5 * 5 and armor_improvement.BETAS == (1, 4, 16, 64) and this.seeds == (0, 1, 2) and refs.seeds == (0,)
    for one in this.cells:  # a reference is of the data's robot
        assert one.column.split("_")[0] == one.dataset.split("-")[0] and f"REFERENCE-{one.dataset.split('-')[0]}-{one.column.split('_')[1]}-v2" in json.loads(one.settings)["reference"]
    refs, this = grids(tmp_path, "--small", "--standin")
    assert [cell.dataset for cell in refs.cells] == ["hopper-random-v2", "hopper-medium-v2", "hopper-expert-v2"] and len(this.cells) == 2 * 3 * 3 and this.seeds == (0,)
    values = [json.loads(cell.settings) for cell in this.cells]
    assert {value["beta"] for value in values} == {1, 4, 16} and {value["updates"] - value["warm_start"] for value in values} == {5_000}
    assert all(value["warm_start"] % value["eval_every"] == 0 for value in values)  # one evaluation is the start's
    refs, this = grids(tmp_path, "--standin", "--betas", 1)  # only what has a stand-in
    assert len(refs.cells) == 5 + 3 + 3 and len({cell.dataset for cell in this.cells}) == 11
    refs, this = grids(tmp_path, "--robots", "walker2d", "--references", "random", "--betas", 16, 4, 4, "--datasets", "walker2d-expert-v2", "--seeds", 5)
    assert [cell.column for cell in this.cells] == ["walker2d_random_beta_4", "walker2d_random_beta_16"] and this.seeds == (5,) and len(refs.cells) == 1
    assert this.table.name == "armor_improvement.walker2d.random.4-16" and refs.table.name == "armor_improvement.references.walker2d.random"
    assert grids(tmp_path, "--reference-updates", 7)[1].table.name != this.table.name.partition(".walker2d")[0]


def test_own_data_reach_the_references(tmp_path):
    write_npz(tmp_path / "a.npz")
    given = [f"hopper-medium-replay-v2={tmp_path / 'a.npz'}", f"hopper-random-v2={tmp_path / 'a.npz'}"]
    refs, this = grids(tmp_path, "--small", "--standin", "--data", *given)
    assert set(refs.own) == {"hopper-random-v2"} and set(this.own) == {"hopper-medium-replay-v2"}
    assert "hopper-random-v2 is a.npz" in " ".join(this.table.notes) and this.table.name.startswith("armor_improvement.small.")
    assert grids(tmp_path, "--small", "--standin", "--data", given[0])[1].table.name == "armor_improvement.small"


def test_flags_that_references_share():
    words = "--fit-coef 10 --batch-size 8 --device cpu --eval-episodes=1 --no-standin --lr 1e-3 --action-low -1 -2 --config x --beta 3".split()
    assert armor_improvement.shared(tuple(words)) == ("--device", "cpu", "--eval-episodes=1", "--no-standin", "--action-low", "-1", "-2")


@pytest.mark.parametrize("words, text", [
    (["--datasets", "pen-human-v1"], "--datasets pen-human-v1: not in armor_improvement; choose from hopper-random-v2, "), (["--betas", "0"], "--betas 0"),
    (["--betas", "1", "-4"], "--betas -4"), (["--references", "full-replay"], "full-replay"), (["--robots", "ant"], "ant"),
    (["--data", "hopper-medium-v2=gone.npz"], "there is no .npz or HDF5 file"), (["--data", "ant-medium-v2=x.npz"], "--data ant-medium-v2: neither a dataset nor a reference"),
    (["--data", "hopper-medium-v2"], "give NAME=FILE"), (["--robots", "hopper", "--datasets", "walker2d-medium-v2"], "--robots hopper: --datasets has walker2d"),
    (["--columns", "hopper_random_beta_3"], "--columns hopper_random_beta_3: not in"), (["--reference-updates", "0"], "--reference-updates 0"),
    (["--seeds", "-1"], "--seeds -1"), (["--", "--reference", "x"], "--reference"), (["--", "--no-such-flag"], "no-such-flag")])
def test_bad_flags_of_the_improvement(words, text, tmp_path, monkeypatch):
    cut = words.index("--") if "--" in words else len(words)
    monkeypatch.setattr("sys.argv", ["armor_improvement.py", *words[:cut], "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *words[cut:]])
    with pytest.raises(InputError) as error:
        armor_improvement.main()
    assert text in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_plan_of_the_improvement(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["armor_improvement.py", "--small", "--standin", "--dry-run", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    armor_improvement.main()
    first, then = capsys.readouterr().out.split("Then ARMOR:")
    assert "algorithms/bc.py --env hopper-expert-v2 --gaussian --lr 5e-4 --no-normalize --updates 20000" in first and "3 runs to start" in first
    assert f"--env {NAME} --reference {tmp_path}/runs/REFERENCE-hopper-random-v2 --beta 16.0 {armor_improvement.SMALL_GAME}" in then and "18 runs to start" in then
    assert not list(tmp_path.iterdir())


def small_matrix(tmp_path, seeds=(0, 1)):
    """Runs of two references, two betas; J(ref) is 50 and 5. Each has evaluations at the start (step 20,000) and in the game."""
    for level, its in (("medium", 50.0), ("random", 5.0)):
        reference = tmp_path / f"runs/bc-{level}"
        write_run(reference, armor_improvement.SMALL_REFERENCE, {20_000: its}, "bc", 0, f"hopper-{level}-v2")
        for beta, last in ((1, 47.5), (4, 60.0)):
            for seed in seeds:
                game = {6_400: 40.0, **{step: 52.0 for step in range(6_500, 11_000, 500)}, 11_000: last + seed}
                words = f"--reference {reference} --beta {beta} {armor_improvement.SMALL_GAME}"
                write_run(tmp_path / f"runs/{level}-{beta}-{seed}", words, {5_500: 1.0, 6_000: 30.0} | game, "armor", seed, NAME, reference=its)
    return grids(tmp_path, "--small", "--datasets", NAME, "--references", "random", "medium", "--betas", 1, 4, "--seeds", *seeds)


def test_a_reference_is_the_first_seed_of_the_newest_run(tmp_path):
    for k, seeds in enumerate(([0, 1], [0], [1, 0])):
        write_run(tmp_path / f"runs/{k}", armor_improvement.SMALL_REFERENCE, {20_000: 5.0}, "bc", 0, "hopper-random-v2")
        config = json.loads((tmp_path / f"runs/{k}/config.json").read_text())
        config |= {"args": config["args"] | {"seeds": seeds}, "started": f"2026010{k}"}
        (tmp_path / f"runs/{k}/config.json").write_text(json.dumps(config))
    refs, _ = grids(tmp_path, "--small", "--references", "random", "medium")
    assert armor_improvement.folders(refs) == {"hopper-random-v2": tmp_path / "runs/1"}


def test_references_that_cannot_be_trained_are_told(tmp_path):
    code, out, err = run_script(ROOT / "benchmark/armor_improvement.py", "--standin", "--datasets", "walker2d-medium-v2", "--references", "expert",
                                "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert code == 1 and "1 runs are missing" in err and "bc walker2d-expert-v2 seeds 0: there is no stand-in for it" in err and "ARMOR" not in out


def test_improvement_by_hand(tmp_path):
    refs, this = small_matrix(tmp_path)
    assert armor_improvement.folders(refs) == {f"hopper-{level}-v2": tmp_path / f"runs/bc-{level}" for level in ("random", "medium")}
    rows = {(row["reference"], row["beta"], row["seed"]): row for row in armor_improvement.results(this)}
    assert len(rows) == 8
    first = rows["medium", 1.0, 0]
    assert (first["score"], first["reference_score"], first["last"], first["start"]) == (47.5, 50.0, -2.5, -20.0)
    assert first["game"] == pytest.approx((9 * 52 + 47.5) / 10 - 50)  # the last ten of eleven
    cells = armor_improvement.matrix(list(rows.values()), "last")
    assert cells == {(NAME, "medium", 1.0): -2.0, (NAME, "medium", 4.0): 10.5, (NAME, "random", 1.0): 43.0, (NAME, "random", 4.0): 55.5}
    assert armor_improvement.kept(cells.values()) == (4, 4) and armor_improvement.kept([-2.01, -2.0, 0.0, 5.0]) == (3, 4)
    text = armor_improvement.report(this, list(rows.values()))
    assert f"| {NAME} | medium | 50.0 | -20.0 | -2.0 (-2.5, -1.5) | +10.5 (+10.0, +11.0) |" in text and "| kept |  |  |  | 2 of 2 | 2 of 2 |" in text
    assert "By the last evaluation, 4 of 4 cells are kept (100%)" in text and "When the game begins, 2 of 4 are." in text and "Not the paper's budget" in text
    worse = [row | {"last": row["last"] - 1} for row in rows.values()]
    assert "| **-3.0 (-3.5, -2.5)** |" in armor_improvement.report(this, worse) and "3 of 4 cells are kept (75%)" in armor_improvement.report(this, worse)
    assert armor_improvement.caption(this, worse) == "n = 2 seeds a cell, last evaluation, no interval. Framed: worse than the reference by more than 2 points."
    assert armor_improvement.caption(this, worse[1:]).startswith("n = 1 to 2 seeds a cell")
    armor_improvement.write(this, worse)
    (path,) = (tmp_path / "out").glob("*.improvement.csv")
    with open(path, newline="") as file:
        assert [float(row["last"]) for row in csv.DictReader(file) if (row["reference"], row["beta"]) == ("medium", "1.0")] == [-3.5, -2.5]
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG" and path.with_suffix(".md").exists()


def test_the_heat_map_has_every_cell(tmp_path):
    _, this = small_matrix(tmp_path, (0,))
    rows = armor_improvement.results(this)
    figure = armor_improvement.draw(this, [row for row in rows if (row["reference"], row["beta"]) != ("random", 4.0)])
    first, second, _ = figure.axes
    assert (first.get_title(), second.get_title()) == ("beta 1: 1 of 2 kept", "beta 4: 1 of 1 kept")
    assert [text.get_text() for text in first.texts] == ["+42.5", "-2.5"] and [text.get_text() for text in second.texts] == ["-", "+10.0"]
    assert len(first.patches) == 1 and not second.patches  # the cell that is not kept has a frame
    assert [label.get_text() for label in first.get_yticklabels()] == ["random, J = 5", "medium, J = 50"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["medium-replay"]


def test_a_run_without_a_game_or_a_references_score_has_no_row(tmp_path):
    reference = tmp_path / "runs/bc"
    write_run(reference, armor_improvement.SMALL_REFERENCE, {20_000: 5.0}, "bc", 0, "hopper-random-v2")
    for k, (evaluations, its) in enumerate((({6_000: 1.0}, 5.0), ({11_000: 1.0}, None), ({11_000: 1.0}, 5.0))):
        write_run(tmp_path / f"runs/{k}", f"--reference {reference} --beta {4**k} {armor_improvement.SMALL_GAME}", evaluations, reference=its)
    (row,) = armor_improvement.results(grids(tmp_path, "--small", "--references", "random")[1])
    assert row["beta"] == 16 and np.isnan(row["start"]) and row["last"] == -4
    text = armor_improvement.report(grids(tmp_path, "--small", "--references", "random")[1], [row])
    assert f"| {NAME} | random | 5.0 | - | **-4.0** |" in text
    assert "0 of 0 cells are kept" in armor_improvement.report(grids(tmp_path, "--small")[1], [])


def test_from_nothing_to_a_heat_map(tmp_path, monkeypatch):
    """Both stages, in folders with a space in their names; the same command again trains nothing; a plan knows the time of another beta."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in "ab":
        write_npz(tmp_path / f"{name}.npz", seed=ord(name))
    words = ["--small", "--references", "random", "--datasets", NAME, "--updates", 4, "--reference-updates", 3, "--jobs", 1, "--runs", tmp_path / "my runs", "--out", tmp_path / "out",
             "--data", f"{NAME}={tmp_path / 'a.npz'}", f"hopper-random-v2={tmp_path / 'b.npz'}"]
    flags = ["--", "--warm-start", 2, "--batch-size", 8, "--model-epochs", 1, "--eval-episodes", 1, "--eval-every", 1, "--eval-workers", 0]
    script = ROOT / "benchmark/armor_improvement.py"
    code, out, err = run_script(script, *words, "--betas", 4, *flags)
    assert code == 0 and err == "", err
    runs = {run.algorithm: run for run in find_runs(tmp_path / "my runs")}
    assert runs["armor"].config["args"]["reference"] == str(runs["bc"].folder) and runs["bc"].config["args"]["gaussian"] and not runs["bc"].config["args"]["normalize"]
    with open(runs["armor"].folder / "eval.csv", newline="") as file:
        differences = [float(row["score"]) - float(row["reference"]) for row in csv.DictReader(file)]
    with open(next((tmp_path / "out").glob("armor_improvement.small.random.4.*.improvement.csv")), newline="") as file:
        (row,) = csv.DictReader(file)
    assert [float(row[key]) for key in ("start", "game", "last")] == pytest.approx([differences[1], np.mean(differences[2:]), differences[3]])
    assert len(list((tmp_path / "out").glob("*.improvement.png"))) == 1 and "OWN DATA" in out and "cells are kept" in out
    code, out, err = run_script(script, *words, "--betas", 4, *flags)
    assert code == 0 and "started" not in out, err
    code, out, err = run_script(script, *words, "--betas", 16, "--dry-run", *flags)
    assert code == 0 and "1 of 1 seeds finished; 0 runs to start" in out.partition("Then ARMOR")[0] and "--beta 16.0" in out and "1 runs to start or resume, about" in out
