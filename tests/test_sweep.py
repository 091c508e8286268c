"""A sweep: what it refuses before anything is trained, which runs it finds, its ranking by hand, its files and its figure."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from benchmark import plot, sweep
from benchmark.engine import grid, sweeps
from common import InputError
from tests.helpers import ROOT, run_script, write_npz
from tests.test_grid import write_run

DATASET = "hopper-medium-v2"
OVER = ["--over", "alpha=1,2.5,5", "lr=1e-4,3e-4"]


def make(tmp_path, *words, algorithm="td3_bc", extra=()):
    args = grid.read([algorithm, *map(str, words), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")], sweep.Args, "")
    table, chosen = sweep.table(args, list(extra))
    return sweeps.Sweep(table, replace(args, seeds=()), tuple(extra), chosen=chosen)


# What is to be trained


def test_every_combination_is_a_column_with_its_flags(tmp_path):
    this = make(tmp_path, *OVER, "--seeds", 0, 1)
    settings = [json.loads(cell.settings) for cell in this.cells]
    assert [(s["alpha"], s["lr"]) for s in settings] == [(a, lr) for a in (1.0, 2.5, 5.0) for lr in (1e-4, 3e-4)]
    assert {(s["env"], s["gamma"], s["updates"]) for s in settings} == {(DATASET, 0.99, 1_000_000)}  # all else is the paper's
    assert [cell.column for cell in this.cells][:2] == ["alpha=1 lr=1e-4", "alpha=1 lr=3e-4"]
    jobs = this.jobs(False)
    assert len(jobs) == 12 and jobs[0].command[2:] == ["--env", DATASET, "--alpha=1", "--lr=1e-4", "--no-standin", "--seeds", "0", "--runs",
                                                       str(tmp_path / "runs")]
    assert len(make(tmp_path, *OVER, "--env", DATASET, "walker2d-medium-v2").jobs(False)) == 6 * 2 * 3
    assert {cell.column for cell in make(tmp_path, *OVER, "--columns", "alpha=5 lr=1e-4").cells} == {"alpha=5 lr=1e-4"}


def test_switches_words_and_several_words(tmp_path):
    this = make(tmp_path, "--over", "normalize=True,False", algorithm="td3_bc")
    assert [json.loads(cell.settings)["normalize"] for cell in this.cells] == [True, False]
    this = make(tmp_path, "--over", "stages=1 2 1,5 20 1", "operator=exp_weight,rev_kl", algorithm="one_step")
    assert [json.loads(cell.settings)["stages"] for cell in this.cells] == [[1, 2, 1]] * 2 + [[5, 20, 1]] * 2
    assert this.cells[0].column == "stages=1:2:1 operator=exp_weight"
    this = make(tmp_path, "--over", "target-min=None,-3", algorithm="mobile")
    assert [json.loads(cell.settings)["target_min"] for cell in this.cells] == [None, -3.0]


@pytest.mark.parametrize("words, match", [
    (["td3_bc"], "--over: give at least one flag"), (["--over", "alpha=1"], "no algorithm: give one of armor, atac, "), (["nope", "--over", "a=1"], "nope: give one of"),
    (["../common/args", "--over", "a=1"], "give one of"), (["td3_bc", "--over", "alfa=1"], "td3_bc.py has no such flag; alpha?"),
    (["td3_bc", "--over", "alpha=-1,2"], r"--alpha -1.0: give a number in \[0, inf\)"), (["td3_bc", "--over", "alpha=1,x"], "could not convert string to float: 'x'"),
    (["td3_bc", "--over", "alpha="], "give a flag and its values"), (["td3_bc", "--over", "alpha"], "give a flag and its values"),
    (["td3_bc", "--over", "alpha=1,,2"], "give a flag and its values"), (["td3_bc", "--over", "alpha=1,1.0"], "1.0 stands twice"),
    (["td3_bc", "--over", "alpha=1", "alpha=2"], "--over alpha: stands twice"), (["td3_bc", "--over", "normalize=yes"], "give True or False"),
    (["td3_bc", "--over", "seeds=1,2"], "--over seeds: is no setting"), (["td3_bc", "--over", "eval_episodes=1,2"], "is no setting"),
    (["td3_bc", "--over", "resume=a,b"], "is no setting"), (["td3_bc", "--over", "alpha=1", "--env", "nothing-v0"], "--env nothing-v0: is no dataset of D4RL"),
    (["td3_bc", "--over", "alpha=1", "--env", "mine.npz"], "--env NAME --data NAME=FILE"), (["td3_bc", "--over", "alpha=1", "--env", "pen-human-v1"], "no simulator"),
    (["td3_bc", "--over", "alpha=1", "--env", DATASET, DATASET], "each once"), (["td3_bc", "--over", "alpha=1", "--env"], "."),
    (["td3_bc", "--over", "alpha=1", "--env", "ant-medium-v2", "--standin"], "there is no stand-in"), (["td3_bc", "--over", "updates=1,2", "--updates", "5"], "also given"),
    (["td3_bc", "--over", "alpha=1", "--", "--alpha", "3"], "--over alpha: is also given for all runs"),
    (["td3_bc", "--over", f"alpha={','.join(map(str, range(400)))}"], "1,200 runs, more than 1,000"), (["td3_bc", "--over", "alpha=1", "--", "--gama", "1"], "--gama"),
    (["td3_bc", "--over", "alpha=1", "--", "--gamma", "7"], "--gamma 7.0"), (["one_step", "--over", "operator=exp_weight,foo"], "invalid choice 'foo'"),
    (["td3_bc", "--over", "init_from=/nowhere,/else"], "/nowhere: no run folder")])
def test_what_cannot_be_trained_is_one_line_before_anything_is(words, match, tmp_path, monkeypatch):
    cut = words.index("--") if "--" in words else len(words)
    monkeypatch.setattr("sys.argv", ["sweep.py", *words[:cut], "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *words[cut:]])
    with pytest.raises(InputError, match=match) as error:
        sweep.main()
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_finished_runs_are_found_again(tmp_path):
    write_run(tmp_path / "runs/a", "td3_bc", f"--env {DATASET} --alpha 1 --lr 1e-4", seeds=(0, 1), scores=(10.0, 20.0))
    write_run(tmp_path / "runs/b", "td3_bc", f"--env {DATASET} --lr 1e-4", seeds=(0,), scores=(30.0,))  # alpha 2.5 is the paper's
    write_run(tmp_path / "runs/c", "td3_bc", f"--env {DATASET} --alpha 3 --lr 1e-4", seeds=(0,), scores=(99.0,))
    write_run(tmp_path / "runs/d", "td3_bc", f"--env {DATASET} --lr 1e-4", seeds=(1,), scores=(99.0,), kind="standin")
    this = make(tmp_path, *OVER, "--seeds", 0, 1)
    assert {name: of[DATASET] for name, of in this.scores().items() if of[DATASET]} == {"alpha=1 lr=1e-4": [10.0, 20.0], "alpha=2.5 lr=1e-4": [30.0]}
    assert len(this.jobs(False)) == 12 - 3
    ten = make(tmp_path, *OVER, "--seeds", 0, 1, "--score", "mean_of_last_10")
    assert ten.scores()["alpha=1 lr=1e-4"][DATASET] == [11.0, 21.0] and ten.stem != this.stem


def test_a_run_from_other_weights_is_another_run(tmp_path):
    """Also beside a run of an older version, whose config.json has no such flag: it began with its own."""
    write_run(tmp_path / "runs/a", "td3_bc", f"--env {DATASET} --alpha 1", seeds=(0,), scores=(10.0,))
    path = tmp_path / "runs/a/config.json"
    config = json.loads(path.read_text())
    assert config["args"].pop("init_from") is None
    path.write_text(json.dumps(config))
    assert make(tmp_path, "--over", "alpha=1", "--seeds", 0).scores()["alpha=1"][DATASET] == [10.0]
    assert make(tmp_path, "--over", "alpha=1", "--seeds", 0, extra=["--init-from", str(tmp_path / "runs/a")]).scores()["alpha=1"][DATASET] == []


def test_a_run_of_an_older_version_has_the_defaults_of_flags_that_it_lacks(tmp_path):
    """It trained on all episodes, so a column with a hold-out is not its; and it is in one group with today's runs."""
    for name, seed in (("a", 0), ("b", 1)):
        write_run(tmp_path / "runs" / name, "td3_bc", f"--env {DATASET} --alpha 1", seeds=(seed,), scores=(10.0,))
    path = tmp_path / "runs/a/config.json"
    config = json.loads(path.read_text())
    for flag in ("init_from", "holdout", "score_min", "score_max"):
        del config["args"][flag]
    path.write_text(json.dumps(config))
    found = make(tmp_path, "--over", "holdout=0,0.1", "--seeds", 0, 1, extra=["--alpha", "1"]).scores()
    assert found["holdout=0"][DATASET] == [10.0, 10.0] and found["holdout=0.1"][DATASET] == []
    this = make(tmp_path, "--over", "alpha=1", "--seeds", 0, 1, 2)
    (group,) = plot.gather(this.runs)
    assert sorted(group.runs) == [0, 1] and this.seconds(this.jobs(False)[0])


# The ranking


def test_the_interval_is_a_bootstrap_over_seeds_within_each_dataset():
    assert all(map(np.isnan, sweeps.interval([[1.0], [2.0, 3.0]]))) and all(map(np.isnan, sweeps.interval([])))
    assert sweeps.interval([[4.0, 8.0]]) == (4.0, 8.0)  # both draws are one seed, each with probability 1/4
    low, high = sweeps.interval([[4.0, 8.0], [100.0, 104.0]])
    assert (low, high) == (52.0, 56.0)  # 1/16 at each end; if datasets were mixed, 4 and 104
    x = list(np.random.default_rng(1).normal(50, 5, 40))
    low, high = sweeps.interval([x])
    half = 1.96 * np.std(x) / 40**0.5  # of many seeds: the normal one
    assert abs(low - (np.mean(x) - half)) < 0.15 and abs(high - (np.mean(x) + half)) < 0.15


def test_ranking_by_hand():
    two = {"a": {"x": [1.0, 3.0], "y": [5.0, 7.0]}, "b": {"x": [9.0, 11.0], "y": [2.0, 4.0]}, "c": {"x": [99.0, 99.0], "y": []}, "d": {"x": [0.0, 1.0], "y": [9.0, 12.5]}}
    rows = sweeps.ranking(two)
    assert [(row["setting"], row["rank"]) for row in rows] == [("b", 1), ("d", 2), ("a", 3), ("c", "")]  # 6.5, 5.625, 4
    assert [row["within"] for row in rows] == [True, True, False, None] and (rows[0]["low"], rows[0]["high"]) == (5.5, 7.5)
    first, rest = sweeps.told(rows)
    assert first == "Best of 3: b, 6.5, 95% interval 5.5 to 7.5. Within this interval, hence not told from it: d."
    assert rest == "Without a rank, since a dataset has no finished run: c."
    one = sweeps.ranking({"a": {"x": [1.0]}, "b": {"x": [2.0]}})
    assert one[0]["setting"] == "b" and {row["within"] for row in one} == {None} and "One seed has no interval" in sweeps.told(one)[0]
    assert sweeps.told(sweeps.ranking({"a": {"x": []}})) == ["No setting has a score on every dataset yet."]
    alone = sweeps.told(sweeps.ranking({"a": {"x": [1.0, 1.0]}, "b": {"x": [0.0, 0.5]}}))
    assert alone == ["Best of 2: a, 1.0, 95% interval 1.0 to 1.0. No other setting's mean is within this interval."]


# Its files


def finished(tmp_path, *words, alphas=(1, 2.5, 5), lrs=("1e-4", "3e-4"), envs=(DATASET,), seeds=(0, 1)):
    for i, (alpha, lr, env) in enumerate((a, lr, env) for a in alphas for lr in lrs for env in envs):
        write_run(tmp_path / f"runs/{i}", "td3_bc", f"--env {env} --alpha {alpha} --lr {lr}", seeds=seeds, scores=[10.0 * i + 4 * seed for seed in seeds])
    return make(tmp_path, *words, "--env", *envs, "--seeds", *seeds)


def test_table_csv_and_page(tmp_path):
    this = finished(tmp_path, *OVER)
    text = this.write()
    path = tmp_path / "out" / this.stem
    assert text == path.with_name(path.name + ".md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "| rank | alpha | lr | hopper-medium-v2 | 95% interval | seeds | within the best's |"
    assert lines[2:4] == ["| 1 | 5 | 3e-4 | 52.0 | 50.0 to 54.0 | 2 of 2 | yes |", "| 2 | 5 | 1e-4 | 42.0 | 40.0 to 44.0 | 2 of 2 | no |"]
    assert "optimistic estimate" in text and "no offline result" in text and "fitted Q evaluation" in text and "2 seeds are few" in text
    assert "Best of 6: alpha=5 lr=3e-4, 52.0" in text and "STAND-IN" not in text
    with open(f"{path}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"rank": "1", "alpha": "5", "lr": "3e-4", "mean": "52.0", "low": "50.0", "high": "54.0", "within_best": "True", "seeds": "2",
                       "hopper-medium-v2 (d4rl)": "50.0 54.0"} and len(rows) == 6
    html = (path.with_name(path.name + ".html")).read_text()
    assert "optimistic estimate" in html and "Best of 6: alpha=5 lr=3e-4" in html and "alpha=1 lr=1e-4" in html
    assert (path.with_name(path.name + ".png")).read_bytes()[1:4] == b"PNG" and this.drawn
    assert this.write() == text  # equal runs, equal files


def test_the_page_shows_the_best_settings_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "SHOWN", 2)
    this = finished(tmp_path, *OVER)
    this.write()
    html = (tmp_path / "out" / f"{this.stem}.html").read_text()
    assert "alpha=5 lr=1e-4" in html and "alpha=1 lr=1e-4" not in html and "The best 2 of 6 settings." in html


def axes_of(this, monkeypatch):
    kept = []
    monkeypatch.setattr(sweeps, "save", lambda figure, *rest: kept.append(figure))
    this.write()
    return kept[0].axes if kept else None


def test_one_flag_is_a_curve(tmp_path, monkeypatch):
    this = finished(tmp_path, "--over", "alpha=5,1,2.5", "lr=1e-4", lrs=["1e-4"])  # one value: nothing varies there
    (ax,) = axes_of(this, monkeypatch)
    line = ax.containers[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[1, 2], [2.5, 12], [5, 22]])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["5", "1", "2.5"] or [t.get_text() for t in ax.get_xticklabels()] == ["1", "2.5", "5"]
    assert ax.get_xlabel() == "alpha" and ax.get_xscale() == "linear"
    seeds = [tuple(xy) for one in ax.lines if len(one.get_xdata()) == 2 for xy in one.get_xydata() if one.get_marker() == "o"]
    assert (1.0, 0.0) in seeds and (1.0, 4.0) in seeds and (5.0, 24.0) in seeds


def test_two_flags_are_a_heat_map_with_the_best_outlined(tmp_path, monkeypatch):
    envs = (DATASET, "walker2d-medium-v2")
    axes = axes_of(finished(tmp_path, *OVER, envs=envs), monkeypatch)
    maps = [ax for ax in axes if ax.images]
    assert [ax.get_title() for ax in maps] == ["mean of 2 datasets", *envs]
    np.testing.assert_allclose(maps[1].images[0].get_array(), [[2, 22], [42, 62], [82, 102]])
    np.testing.assert_allclose(maps[0].images[0].get_array(), [[7, 27], [47, 67], [87, 107]])
    assert maps[0].patches[0].get_xy() == (0.5, 1.5) and [t.get_text() for t in maps[0].get_yticklabels()] == ["1", "2.5", "5"]


def test_three_flags_or_no_scores_have_no_figure(tmp_path, monkeypatch):
    assert axes_of(make(tmp_path, *OVER), monkeypatch) is None
    assert axes_of(finished(tmp_path, *OVER, "tau=0.005,0.01"), monkeypatch) is None


def test_from_nothing_to_a_ranking(tmp_path):
    """Own data, two settings, two seeds; a second start trains nothing and gives the same files."""
    write_npz(tmp_path / "mine.npz")
    words = ["td3_bc", "--env", DATASET, "--data", f"{DATASET}={tmp_path / 'mine.npz'}", "--over", "alpha=0,2.5", "--seeds", 0, 1, "--updates", 4, "--runs",
             tmp_path / "runs", "--out", tmp_path / "out", "--jobs", 2, "--", "--batch-size", 8, "--device", "cpu", "--eval-workers", 0, "--eval-episodes", 1]
    code, out, err = run_script(ROOT / "benchmark/sweep.py", *words)
    assert code == 0, err
    names = {path.suffix: path for path in (tmp_path / "out").iterdir()}
    assert "OWN DATA in place of D4RL's" in out and "Best of 2: alpha=" in out and "2 of 2" in out and ".png" in names
    before = {path: path.read_bytes() for path in names.values() if path.suffix != ".png"}
    code, out, err = run_script(ROOT / "benchmark/sweep.py", *words)
    assert code == 0 and "started" not in out and before == {path: path.read_bytes() for path in before}, err


def test_a_cell_of_the_map_tells_its_interval(tmp_path, monkeypatch):
    (ax, _) = axes_of(finished(tmp_path, *OVER), monkeypatch)
    assert {text.get_text() for text in ax.texts} >= {"2.0\n0.0 to 4.0", "52.0\n50.0 to 54.0"}
