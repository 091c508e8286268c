"""ATAC's table and its sweep of beta: published cells, scores from evaluations, the data's own score, from nothing to a figure."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from benchmark import atac_beta, atac_table1, pessimism_small
from benchmark.engine import derived, tables
from benchmark.engine.curves import further
from benchmark.engine.figures import sweep_figure
from benchmark.engine.grid import make
from benchmark.engine.jobs import cell
from benchmark.engine.runs import Run, find_runs
from common import InputError
from tests.helpers import ROOT, run_script, write_npz

NAME = "hopper-medium-replay-v2"


def write_run(folder, words, evaluations, seed=0, env=NAME, kind="d4rl"):
    """The files of a finished run of ATAC with these evaluations, {step: score}."""
    args = json.loads(cell("x", "atac", env, tuple(words.split())).settings) | {"seeds": [seed], "device": "cpu"}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"algorithm": "atac", "args": args, "dataset_source": kind, "data": {}, "task": env, "physics": "d4rl",
                                                    "command": f"algorithms/atac.py --env {env} {words}"}))
    scores = list(evaluations.values())
    row = {"last": scores[-1], "mean_of_last_10": float(np.mean(scores[-10:])), "best": max(scores)}
    (folder / "result.json").write_text(json.dumps({"step": args["updates"], "seeds": {seed: row}, "updates_per_second": 2.0}))
    lines = ["step,seed,return_mean,score", *(f"{step},{seed},1.0,{score}" for step, score in evaluations.items())]
    (folder / "eval.csv").write_text("\n".join(lines) + "\n")


# Table 1


def test_the_table_has_the_papers_cells():
    table, paper = atac_table1.TABLE, tables.published(atac_table1.TABLE)
    assert len(table.datasets) == len(set(table.datasets)) == 24 and {dataset for dataset, _ in paper} == set(table.datasets) and len(table.seeds) == 10
    assert Counter(algorithm for _, algorithm in paper) == {"atac_best": 24, "behavior": 24, "cql_v0": 24, "bc_v0": 24, "combo_v0": 12, "td3_bc_v0": 12,
                                                            "iql": 9, "iql_v0": 8, "atac_last": 8}
    shown = {column.published or name for name, column in table.columns.items()} | set(table.also) | set(table.quoted)
    assert {algorithm for _, algorithm in paper} <= shown
    cells = {(NAME, "atac_best"): "102.8", ("hopper-medium-expert-v2", "atac_last"): "119.2", ("hopper-medium-v2", "td3_bc_v0"): "99.5",
             ("walker2d-medium-v2", "iql"): "78.3", ("pen-human-v1", "behavior"): "207.8", ("relocate-expert-v1", "bc_v0"): "101.3", ("hopper-random-v2", "cql_v0"): "10.8"}
    assert {key: paper[key]["mean"] for key in cells} == cells
    means = [float(paper[f"{robot}-{level}-v2", "atac_best"]["mean"]) for robot in ("halfcheetah", "hopper", "walker2d") for level in ("medium", "medium-replay", "medium-expert")]
    assert np.mean(means) == pytest.approx(91.0, abs=0.05)  # as ATAC's lecture has it
    assert "v0" in paper["hopper-medium-v2", "cql_v0"]["source"] and "suspect" in paper["hopper-medium-expert-v2", "atac_last"]["source"]


def test_a_v2_run_is_not_judged_by_a_v0_cell(tmp_path):
    this = make(atac_table1.TABLE, ["--runs", str(tmp_path)])
    rows = {(row["dataset"], row["algorithm"]): row for row in tables.results(this)}
    for name in ("cql", "td3_bc", "bc", "atac_median"):
        assert {rows[dataset, name]["verdict"] for dataset in atac_table1.TABLE.datasets[:12]} == {""}, name
    assert rows[NAME, "iql"]["published_mean"] == "94.7" and rows[NAME, "atac"]["published_mean"] == "" and rows["hopper-medium-v2", "atac"]["published_mean"] == "85.6"
    assert rows["pen-human-v1", "atac_best"]["data"] == "quoted" and rows["pen-human-v1", "atac_best"]["published_mean"] == "79.3"
    text = tables.markdown(this, list(rows.values()))
    assert "mixes versions" in text and "cql_v0 (quoted)" in text and "| pen-human-v1 | - | - | 79.3 quoted |" in text
    settings = {(this.dataset, this.column): json.loads(this.settings) for this in this.cells}
    assert settings[NAME, "atac"]["updates"] == 1_100_000 and settings[NAME, "atac"]["beta"] == 16 and settings["hopper-medium-expert-v2", "atac"]["beta"] == 1


def test_three_scores_of_a_run(tmp_path):
    """Evaluations every 5,000 updates, the score being their number: the ninths of the game are found by hand."""
    evaluations = {step: step / 5000 for step in range(5000, 1_100_001, 5000)}
    evaluations[205_000], evaluations[210_000], evaluations[95_000] = 900.0, 800.0, 1000.0  # beside a mark; the last before it; in the warm start
    write_run(tmp_path / "runs/a", "", evaluations)
    write_run(tmp_path / "runs/b", "", {5000: 1.0, 1_100_000: 3.0}, seed=1)
    this = make(atac_table1.TABLE, ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--datasets", NAME])
    rows = {row["algorithm"]: row for row in tables.results(this)}
    assert rows["atac"]["scores"] == "220.0 3.0"
    assert rows["atac_median"]["scores"] == "195.5 3.0"  # 171 to 220; the warm start does not count
    assert rows["atac_best"]["scores"] == "800.0 3.0"  # 211,111.1 is the first mark
    assert (rows["atac_best"]["verdict"], rows["atac_best"]["seeds"], rows["atac_median"]["verdict"], rows["atac"]["verdict"]) == ("pass", 2, "", "")
    assert "atac_best: the best of 9 evaluations" in tables.write(this)
    with open(next((tmp_path / "out").glob("*.runs.csv")), newline="") as file:
        assert [(row["last"], row["atac_median"], row["atac_best"]) for row in csv.DictReader(file)] == [("220.0", "195.5", "800.0"), ("3.0", "3.0", "3.0")]
    assert "atac_best" in next((tmp_path / "out").glob("*.html")).read_text()


def test_the_ninths_of_a_short_game(tmp_path):
    write_run(tmp_path / "a", "--updates 28 --warm-start 10", {step: float(step) for step in range(1, 29)} | {11: 99.0, 12: 50.0, 10: 98.0})
    run = Run(tmp_path / "a", json.loads((tmp_path / "a/config.json").read_text()))
    assert further(run, 0, "best_of_9") == 50.0  # marks 12, 14 ... 28
    assert further(run, 0, "median_of_last_50") == 21.5 and further(run, 1, "best_of_9") is None  # 13 to 28 and two large ones
    (tmp_path / "a/eval.csv").write_text("step,seed,return_mean,score\n5,0,1.0,\n20,0,1.0,\n")  # returns alone
    assert further(run, 0, "best_of_9") is None and further(run, 0, "median_of_last_50") is None
    (tmp_path / "a/eval.csv").write_text("step,seed,return_mean,score\n5,0,1.0,7.0\n")  # no evaluation of the game
    assert further(run, 0, "best_of_9") is further(run, 0, "median_of_last_50") is None


# Score against beta


def test_columns_of_the_sweep(tmp_path):
    this = make(atac_beta.table(atac_beta.Args()), ["--runs", str(tmp_path)], atac_beta.Args)
    values = [json.loads(this.settings) for this in this.cells]
    assert [value["beta"] for value in values] == [0, 1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64, 256] and {this.dataset for this in this.cells} == {NAME}
    assert {(value["updates"], value["warm_start"], value["actor_lr"], value["batch_size"]) for value in values} == {(1_100_000, 100_000, 5e-7, 256)}
    args = atac_beta.Args(small=True, betas=(4.0, 0.015625, 4.0), datasets=("walker2d-medium-v2",))
    table = atac_beta.table(args)
    assert list(table.columns) == ["beta_0.015625", "beta_4"] and table.name == "atac_beta.small.0.015625-4" and table.seeds == (0, 1)
    small = json.loads(make(table, ["--runs", str(tmp_path)], atac_beta.Args).cells[1].settings)
    column = pessimism_small.TABLE.columns["atac"]
    other = json.loads(cell("atac", "atac", "walker2d-medium-v2", tuple(f"{column.flags} --beta 4".split())).settings)
    assert small == other  # the small comparison's runs are found by the sweep, and its by that
    assert small["updates"] - small["warm_start"] == 21_000 and small["warm_start"] % small["eval_every"] == 0  # one evaluation is the warm start's


@pytest.mark.parametrize("words, match", [
    (["--datasets", "pen-human-v1"], "pen-human-v1: not in atac_beta; choose from hopper-medium-replay-v2, "), (["--betas", "1", "-1"], "--betas -1"),
    (["--betas", "inf"], "--betas inf"), (["--data", f"{NAME}=gone.npz"], "there is no .npz or HDF5 file"), (["--columns", "beta_3"], "--columns beta_3: not in atac_beta")])
def test_bad_flags(words, match, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["atac_beta.py", *words, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=match) as error:
        atac_beta.main()
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["atac_beta.py", "--small", "--standin", "--dry-run", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    atac_beta.main()
    out = capsys.readouterr().out
    assert f"algorithms/atac.py --env {NAME} --beta 256 --warm-start 9000 --actor-lr 2e-5 --updates 30000 --batch-size 64" in out and "8 runs to start" in out
    assert not list(tmp_path.iterdir())


def test_scores_by_hand(tmp_path, monkeypatch):
    """Two betas and the data: the warm start is the evaluation at the switch, and its own are not in the game's mean."""
    for seed, shift in ((0, 0.0), (1, 4.0)):
        game = {6: 20.0, **{step: 30.0 for step in range(7, 16)}, 16: 10.0}  # of the last ten of eleven the mean is 28
        write_run(tmp_path / f"runs/{seed}", "--beta 0.25 --updates 16 --warm-start 5", {4: 1.0, 5: 7.0} | {step: score + shift for step, score in game.items()}, seed)
    write_run(tmp_path / "runs/other", "--beta 4 --updates 16 --warm-start 5", {6: 20.0, 16: 30.0})  # no evaluation before the game
    monkeypatch.setattr(atac_beta, "data_score", lambda *_: 20.0)
    args = ["--betas", "0.25", "4", "--runs", str(tmp_path / "runs"), "--updates", "16", "--", "--eval-every", "5000", "--warm-start", "5"]
    this = make(atac_beta.table(atac_beta.Args(betas=(0.25, 4.0))), args, atac_beta.Args)
    rows = atac_beta.scores(this)
    assert [(row["beta"], row["seed"], row["last"], row["game"], row["warm_start"], row["data"]) for row in rows[:2]] == [
        (0.25, 0, 10.0, 28.0, 7.0, 20.0), (0.25, 1, 14.0, 32.0, 7.0, 20.0)]
    assert (rows[2]["beta"], rows[2]["last"], rows[2]["game"]) == (4.0, 30.0, 25.0) and np.isnan(rows[2]["warm_start"])
    text = atac_beta.report(this, rows)
    assert f"| {NAME} | 0.25 | 2 | 12.0 (10.0, 14.0) | 30.0 (28.0, 32.0) | 7.0 (7.0, 7.0) | 20.0 | mean only |" in text
    assert f"| {NAME} | 4 | 1 | 30.0 (30.0) | 25.0 (25.0) | - (-) | 20.0 | yes |" in text and "Not the paper's setting" in text
    assert [atac_beta.judged(*case) for case in ((1, 1, 1), (0, 0, 1), (2, 0, 1), (0, 2, 1))] == ["yes", "no", "last only", "mean only"]
    atac_beta.figures(this, rows, str(tmp_path / "f"))
    assert (tmp_path / "f.png").read_bytes()[:4] == (tmp_path / "f.curves.png").read_bytes()[:4] == b"\x89PNG"


def test_beta_0_has_a_place_on_the_axis(tmp_path, monkeypatch):
    """Left of all others, on an axis that is logarithmic from the least of them on; without 0 it is logarithmic."""
    seen = []
    monkeypatch.setattr("benchmark.engine.figures.save", lambda figure, path, caption: seen.append(figure.axes[0]))
    for betas in ((0, 0.25, 4), (0.25, 4)):
        sweep_figure({"x": ({"last": {beta: [1.0] for beta in betas}}, {beta: 2.0 for beta in betas})}, "beta", "data", tmp_path / "f.png")
    places = [ax.transData.transform([(beta, 0) for beta in (0, 0.25, 4)])[:, 0] for ax in seen[:1]][0]
    assert [ax.get_xscale() for ax in seen] == ["symlog", "log"] and np.isfinite(places).all() and (np.diff(places) > 0).all()
    assert [tick.get_text() for tick in seen[0].get_xticklabels()] == ["0", "0.25", "4"]


def test_the_datas_own_score(tmp_path, monkeypatch):
    """Mean return of the episodes, normalised by D4RL's references: 100 (r + 20.27) / 3254.57 for hopper."""
    write_npz(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        rewards, ends = file["rewards"].astype(float).ravel(), file["terminals"].astype(bool).ravel()
    ends[-1] = True
    returns = [part.sum() for part in np.split(rewards, np.flatnonzero(ends)[:-1] + 1)]
    this = make(atac_beta.table(atac_beta.Args(small=True)), ["--runs", str(tmp_path), "--small", "--data", f"{NAME}={tmp_path}/a.npz"], atac_beta.Args)
    assert atac_beta.data_score(this.cells[0], False) == pytest.approx(100 * (np.mean(returns) + 20.272305) / (3234.3 + 20.272305), rel=1e-5)
    asked = []
    monkeypatch.setattr(derived, "read", lambda *words: asked.append(words) or derived.View([None, None, np.array([1, 2, 3.0])], np.array([0, 1, 1], bool)))
    plain = make(atac_beta.table(atac_beta.Args()), ["--runs", str(tmp_path), "--standin", "--", "--standin-rows", "3000"], atac_beta.Args)
    assert atac_beta.data_score(plain.cells[0], True) == pytest.approx(100 * (3 + 20.272305) / (3234.3 + 20.272305)) and asked == [(NAME, True, 3000)]


def test_from_nothing_to_a_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_npz(tmp_path / "mine.npz")
    words = ["--small", "--betas", 0, 16, "--seeds", 0, "--updates", 4, "--data", f"{NAME}={tmp_path / 'mine.npz'}", "--runs", tmp_path / "runs", "--out", tmp_path / "out",
             "--jobs", 2, "--", "--warm-start", 2, "--batch-size", 8, "--eval-episodes", 1, "--eval-every", 1]
    code, out, err = run_script(ROOT / "benchmark/atac_beta.py", *words)
    assert code == 0 and err == "", err
    runs = {run.config["args"]["beta"]: run for run in find_runs(tmp_path / "runs")}
    assert set(runs) == {0, 16}
    with open(next((tmp_path / "out").glob("atac_beta.small.0-16.data.changed.part.*.beta.csv")), newline="") as file:
        rows = {float(row["beta"]): row for row in csv.DictReader(file)}
    for beta, run in runs.items():
        with open(run.folder / "eval.csv", newline="") as file:
            scores = [float(row["score"]) for row in csv.DictReader(file)]
        row = rows[beta]
        assert (float(row["warm_start"]), float(row["last"])) == (scores[1], scores[3]) and float(row["game"]) == pytest.approx(np.mean(scores[2:]))
    assert rows[0]["data"] == rows[16]["data"] and f"| {NAME} | 16 | 1 | " in out and "at or above the data" in out and "OWN DATA" in out
    assert len(list((tmp_path / "out").glob("*.beta.png"))) == len(list((tmp_path / "out").glob("*.beta.curves.png"))) == 1
    code, out, err = run_script(ROOT / "benchmark/atac_beta.py", *words)
    assert code == 0 and "started" not in out, err  # nothing twice
