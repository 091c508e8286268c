"""Tables of the in-sample family: own files and quoted rows, mixtures, thinned data, the Bellman error, every script's plan."""

import csv
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark import awac_table1, cql_table, iql_table1, one_step_table1, sql_eql_table1, sql_noisy_data, sql_small_data, td3_bc_table2, xql_table1
from benchmark.engine import derived, tables
from benchmark.engine.derived import View
from benchmark.engine.figures import sweep_figure
from benchmark.engine.grid import Column, Table, main, make
from benchmark.engine.jobs import Own, cell
from benchmark.engine.runs import find_runs, load_agent
from benchmark.engine.tables import markdown, published, results
from common import InputError
from common.data import Dataset, load_dataset
from common.physics import ROBOTS
from tests.helpers import ROOT, make_data, run_script, write_npz

TABLES = awac_table1, cql_table, iql_table1, one_step_table1, sql_eql_table1, td3_bc_table2, xql_table1
NAME = "hopper-medium-replay-v2"
TABLE = Table(name="own", title="Own", papers=("rorl_table1.csv",), quoted=("bc",), datasets=(NAME, "walker2d-medium-v2", "antmaze-umaze-v2"),
              columns={"td3_bc": Column("td3_bc", published="rorl"), "sac_10": Column("sac_n", "--config sac-10")}, seeds=(0, 1))
SCRIPT = f"from benchmark.engine.grid import Column, Table, main\nfrom pathlib import PosixPath\nmain({TABLE!r})\n"
TINY = ["--", "--batch-size", 8, "--eval-episodes", 1, "--eval-workers", 0]


def own_run(folder, path, words=(), seed=0, score=40.0, env=None, name=NAME):
    """The files of a finished td3_bc run on an own file."""
    this = Own(Path(path), name)
    args = json.loads(cell("x", "td3_bc", name, tuple(words), this).settings) | {"seeds": [seed], "device": "cpu", "env": env or str(path)}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"algorithm": "td3_bc", "args": args, "dataset_source": "file", "data": {"sha256": this.sha256}, "task": name, "physics": "d4rl",
                                                    "command": f"algorithms/td3_bc.py --env {path}"}))
    (folder / "result.json").write_text(json.dumps({"step": 1, "seeds": {seed: {"last": score, "mean_of_last_10": 1.0, "best": 1.0}}, "updates_per_second": 2.0}))


# Own files as rows


@pytest.mark.parametrize("standin", [False, True])
def test_an_own_file_has_its_own_runs_and_no_published_number(standin, tmp_path):
    write_npz(tmp_path / "a.npz")
    words = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--datasets", NAME, "walker2d-medium-v2", "--data", f"{NAME}={tmp_path}/a.npz"]
    words += ["--standin"] * standin
    own_run(tmp_path / "runs/r", tmp_path / "a.npz", score=41.0)
    own_run(tmp_path / "runs/relative", tmp_path / "a.npz", seed=1, score=43.0, env="a.npz")  # typed by hand elsewhere
    table = make(TABLE, words)
    assert [this.data for this in table.cells] == [("--env", str(tmp_path / "a.npz"), "--eval-env", NAME)] * 2 + [("--env", "walker2d-medium-v2")] * 2
    rows = results(table)
    assert [(row["dataset"], row["data"], row["scores"], row["published_mean"], row["verdict"]) for row in rows if row["algorithm"] == "td3_bc"] == [
        (NAME, "file", "41.0 43.0", "", ""), ("walker2d-medium-v2", "standin" if standin else "d4rl", "", "", "")]
    text, stem = tables.write(table), tables.stem(table)
    assert stem.startswith("own" + ".standin" * standin + ".data.part.")
    assert f"OWN DATA in place of D4RL's: {NAME} is a.npz." in text and "| mean |" not in text and "quoted" not in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{stem}.{suffix}" for suffix in ("md", "csv", "runs.csv", "html")}
    assert "OWN DATA" in (tmp_path / f"out/{stem}.html").read_text().replace("&#x27;", "'")
    jobs = {job.cell.dataset: job for job in table.jobs(False)}
    assert "--no-standin" not in jobs[NAME].command and ("--no-standin" in jobs["walker2d-medium-v2"].command) == (not standin)
    plain = make(TABLE, ["--runs", str(tmp_path / "runs"), "--datasets", NAME])
    assert all(not plain.finished(this) for this in plain.cells) and plain.paper  # never in D4RL's own table
    write_npz(tmp_path / "a.npz", seed=7)  # the same path, other data
    assert not any(make(TABLE, words).finished(this) for this in make(TABLE, words).cells)


@pytest.mark.parametrize("words, match", [
    (["hopper-medium-replay-v2"], "give NAME=FILE"), (["hoper=a.npz"], "hoper is not a dataset of this table"), ([f"{NAME}=b.npz"], "there is no .npz or HDF5 file .*b.npz"),
    ([f"{NAME}=config.json"], "there is no .npz or HDF5 file .*config.json"), ([f"{NAME}=a.npz", f"{NAME}=a.npz"], "a name once"), (["antmaze-umaze-v2=a.npz"], "no simulator for antmaze-umaze-v2")])
def test_bad_own_files(words, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "a.npz")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=match) as error:
        make(TABLE, ["--runs", str(tmp_path), "--data", *words])
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="--eval-env follows from a row's name"):
        make(TABLE, ["--runs", str(tmp_path), "--datasets", NAME, "--data", f"{NAME}=a.npz", "--", "--eval-env", "none"])
    with pytest.raises(InputError, match="is not a dataset of this table"):
        make(TABLE, ["--runs", str(tmp_path), "--datasets", "walker2d-medium-v2", "--data", f"{NAME}=a.npz"])


def test_own_files_from_nothing_to_a_table(tmp_path, monkeypatch):
    """A real grid: trained, stopped half-way, resumed, nothing twice."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_npz(tmp_path / "a.npz")
    (tmp_path / "own.py").write_text(SCRIPT)
    words = ["--datasets", NAME, "--data", f"{NAME}={tmp_path}/a.npz", "--columns", "td3_bc", "--seeds", 0, "--updates", 4, "--runs", tmp_path / "runs", "--out", tmp_path / "out"]
    code, out, err = run_script(tmp_path / "own.py", *words, *TINY)
    assert code == 0 and err == "" and "OWN DATA" in out, err
    (run,) = find_runs(tmp_path / "runs")
    assert run.config["dataset_source"] == "file" and run.config["task"] == NAME and run.result["seeds"]["0"]["last"] is not None
    (run.folder / "result.json").unlink()
    code, out, err = run_script(tmp_path / "own.py", *words, *TINY)
    assert code == 0 and "resumed td3_bc" in out, err
    again = make(TABLE, [*map(str, words), *map(str, TINY)])
    assert again.jobs(False) == [] and len(find_runs(tmp_path / "runs")) == 1


# Rows without a simulator


def test_rows_without_a_simulator_are_quoted(tmp_path):
    table = make(sql_eql_table1.TABLE, ["--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert len(table.quoted) == 9 and {this.dataset.split("-")[0] for this in table.cells} <= set(ROBOTS) and len(table.cells) == 9 * 8
    text = markdown(table, results(table))
    (line,) = [line for line in text.splitlines() if line.startswith("| antmaze-umaze-v2")]
    assert line == ("| antmaze-umaze-v2 | 54.6 quoted | 62.8 quoted | 64.3 quoted | 78.6 quoted | 84.8 ± 2.3 quoted | 85.5 ± 1.9 quoted "
                    "| 92.2 ± 1.4 quoted | 93.2 ± 2.2 quoted | 78.9 | 59.2 |")
    (line,) = [line for line in text.splitlines() if line.startswith("| kitchen-mixed-v0")]
    assert line.startswith("| kitchen-mixed-v0 | 47.5 quoted | - | - | - | 51.0 ± 6.5 quoted | 52.8 ± 4.5 quoted |") and line.endswith("| - | - |")
    assert "There is no simulator here for antmaze-umaze-v2, " in text and "| hopper-medium-v2 | - / 52.9 missing |" in text
    mean = [line for line in text.splitlines() if line.startswith("| mean")][0].split(" | ")
    assert mean[7] == "- / 83.3 (mean of 9 datasets)" and mean[10].rstrip(" |") == "52.3 (mean of 15 datasets)"  # ours are compared over what can be run
    standin = make(sql_eql_table1.TABLE, ["--runs", str(tmp_path), "--standin"])
    assert "antmaze-umaze-v2 |" not in markdown(standin, results(standin)) and "quoted" not in markdown(standin, results(standin))
    assert "kitchen-mixed-v0: left out." in markdown(standin, results(standin))


def test_quoted_rows_alone(tmp_path):
    code, out, err = run_script(ROOT / "benchmark/sql_eql_table1.py", "--datasets", "antmaze-umaze-v2", "--runs", tmp_path / "runs", "--out", tmp_path / "out", real=True)
    assert code == 0 and err == "" and "sql (quoted)" in out and "92.2 ± 1.4 |" in out and "started" not in out
    with open(next((tmp_path / "out").glob("sql_eql_table1.part.????????.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["data"] for row in rows} == {row["verdict"] for row in rows} == {"quoted"} and len(rows) == 10
    assert "92.2 ± 1.4" in next((tmp_path / "out").glob("sql_eql_table1.part.*.html")).read_text()
    alone = make(sql_eql_table1.TABLE, ["--datasets", "antmaze-umaze-v2", "--standin", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert "left out" in (text := tables.write(alone)) and "92.2" not in text and alone.run() is None


@pytest.mark.parametrize("module", TABLES, ids=lambda module: module.__name__)
def test_the_tables(module, tmp_path):
    """Every cell that is run has flags that its file accepts, an entry of its own there, and a published number."""
    table, paper = make(module.TABLE, ["--runs", str(tmp_path)]), published(module.TABLE)
    assert table.paper and table.cells and {dataset for dataset, _ in paper} == set(module.TABLE.datasets)
    for this in table.cells:
        assert (this.dataset, module.TABLE.columns[this.column].published or this.column) in paper, this
    for name in module.TABLE.quoted:
        assert any(algorithm == name for _, algorithm in paper), name
    shown = {column.published or name for name, column in module.TABLE.columns.items()} | set(module.TABLE.quoted)
    assert shown == {algorithm for _, algorithm in paper}  # no column of the paper is left out
    values = {this.column: json.loads(this.settings) for this in table.cells}
    expected = {awac_table1: ("awac", "temperature", 0.3333), cql_table: ("bc_10pct", "corl_split", True), iql_table1: ("bc_10pct", "fraction", 0.1), one_step_table1: ("rev_kl", "operator", "rev_kl"),
                sql_eql_table1: ("eql", "algorithm", "eql"), td3_bc_table2: ("td3_bc", "alpha", 2.5), xql_table1: ("xql_tuned", "batch_size", 256)}[module]
    assert values[expected[0]][expected[1]] == expected[2]
    assert len(module.TABLE.datasets) == {awac_table1: 12, cql_table: 30, iql_table1: 26, one_step_table1: 16, sql_eql_table1: 18, td3_bc_table2: 15, xql_table1: 18}[module]


def test_td3_bc_scores_as_its_paper_does(tmp_path):
    """The mean of the last ten evaluations; five seeds; the paper's totals, of which Fisher-BRC's does not agree with its cells."""
    name, words = "hopper-medium-v0", ["--runs", str(tmp_path / "runs"), "--datasets", "hopper-medium-v0"]
    write_npz(tmp_path / "a.npz")
    own_run(tmp_path / "runs/r", tmp_path / "a.npz", score=41.0, name=name)  # its mean of the last ten is 1
    table = make(td3_bc_table2.TABLE, [*words, "--data", f"{name}={tmp_path}/a.npz"])
    assert [(row["algorithm"], row["scores"]) for row in results(table)] == [("bc", ""), ("cql", ""), ("td3_bc", "1.0")]
    plain = make(td3_bc_table2.TABLE, words)
    assert plain.seeds == (0, 1, 2, 3, 4) and {json.loads(this.settings)["eval_every"] for this in plain.cells} == {5000}
    (line,) = [line for line in markdown(plain, results(plain)).splitlines() if line.startswith(f"| {name}")]
    assert line == f"| {name} | - / 30.0 ± 0.5 missing | - / 44.2 ± 10.8 missing | - / 99.5 ± 1.0 missing | 31.2 | 72.0 | 99.4 ± 0.4 |"
    paper = published(td3_bc_table2.TABLE)
    for column, total in (("bc", 595.3), ("brac_p", 284.1), ("cql", 764.3), ("td3_bc", 979.3), ("fisher_brc", 974.6 + 0.6)):
        assert sum(float(row["mean"]) for (_, algorithm), row in paper.items() if algorithm == column) == pytest.approx(total)


def test_the_averages_of_corls_table():
    """Cells of a domain have the mean that CORL prints below them, for CQL and two others."""
    paper, domains = published(cql_table.TABLE), {"locomotion": tuple(ROBOTS)[:3], "maze2d": ("maze2d",), "antmaze": ("antmaze",), "adroit": ("pen", "door", "hammer", "relocate")}
    for domain, column, printed in (("locomotion", "cql", 78.28), ("maze2d", "cql", 33.65), ("antmaze", "cql", 50.71), ("adroit", "cql", 1.53),
                                    ("locomotion", "sac_n", 83.52), ("adroit", "bc_10pct", 42.69)):
        cells = [float(row["mean"]) for (dataset, algorithm), row in paper.items() if algorithm == column and dataset.split("-")[0] in domains[domain]]
        assert len(cells) == {"locomotion": 9, "maze2d": 3, "antmaze": 6, "adroit": 12}[domain] and np.mean(cells) == pytest.approx(printed, abs=0.011)


# Mixtures


def view(rows, length, value):
    """Episodes of `length` steps that time out; everything is `value` plus the row's number."""
    number = value + np.arange(rows, dtype=np.float32)
    ends = np.arange(1, rows + 1) % length == 0
    ends[-1] = True
    return View([number[:, None], np.sin(number)[:, None], number, number[:, None] + 0.5, np.zeros(rows, bool)], ends)


def test_a_mixture_has_the_papers_rows(tmp_path):
    noisy, expert = view(1000, 300, 0), view(1000, 100, 10_000)
    mixed = sql_noisy_data.mix(noisy, expert, 0.3)
    obs, _, _, next_obs, done = mixed.columns
    assert obs[:, 0].tolist() == [*range(790), *range(10_000, 10_210)] and not done.any()  # unshuffled, the first of each
    assert next_obs[789] == 789.5 and next_obs[790] == 10_000.5  # no row takes its successor's
    assert np.flatnonzero(mixed.ends).tolist() == [299, 599, 789, 889, 989, 999]  # the seam, and the cut
    assert mixed.returns[0] == sum(range(300)) and mixed.returns[2] == sum(range(600, 790))
    assert len(sql_noisy_data.mix(noisy, expert, 0.01).ends) == 1000 and (sql_noisy_data.mix(noisy, expert, 0.01).columns[0] >= 10_000).sum() == 9
    with pytest.raises(InputError, match="needs 210 expert transitions, there are 50"):
        sql_noisy_data.mix(noisy, view(50, 10, 0), 0.3)
    noisy.columns[4][789] = True  # a true end at the seam stays one
    derived.write(tmp_path / "m.npz", sql_noisy_data.mix(noisy, expert, 0.3), {"rows": 1000}, "")
    data, arrays = load_dataset(str(tmp_path / "m.npz")), np.load(tmp_path / "m.npz")
    assert len(data.rows) == 1000 and data.episodes.tolist() == [[0, 300], [300, 600], [600, 790], [790, 890], [890, 990], [990, 1000]]
    assert data.done.sum() == 1 and data.done[789] and not arrays["timeouts"][789] and derived.facts(tmp_path / "m.npz") == {"rows": 1000}
    scaled = load_dataset(str(tmp_path / "m.npz"), reward="return_range")  # by the mixture's own episodes
    returns = [float(data.reward[a:b].double().sum()) for a, b in data.episodes.tolist()]
    assert scaled.reward[790].item() == pytest.approx(10_000 * 1000 / (max(returns) - min(returns)))


def test_mixtures_are_made_once_and_whole(tmp_path, monkeypatch, capsys):
    args = sql_noisy_data.Args(standin=True, rows=500, mixtures=tmp_path, robots=("hopper",))
    own, asked = sql_noisy_data.mixtures(args), []
    assert list(own) == [f"hopper-{ratio}" for ratio in ("0.01", "0.05", "0.1", "0.2", "0.3")] and {mixture.task for mixture in own.values()} == {"hopper-expert-v2"}
    other = sql_noisy_data.mixtures(sql_noisy_data.Args(standin=True, rows=600, mixtures=tmp_path))
    assert not {mixture.file for mixture in own.values()} & {mixture.file for mixture in other.values()}  # other stand-ins, other files
    assert all(".standin-" in mixture.file.name for mixture in own.values())
    monkeypatch.setattr(derived, "read", lambda name, *_: asked.append(name) or view(1000, 100, "expert" in name and 1000))
    views = {}
    for row in ("hopper-0.1", "hopper-0.3", "hopper-0.3"):
        sql_noisy_data.make(row, own[row], args, views)
    assert asked == ["hopper-random-v2", "hopper-expert-v2"] and "21.00% of them expert" in capsys.readouterr().out
    before = own["hopper-0.3"].file.stat().st_mtime_ns
    sql_noisy_data.make("hopper-0.3", own["hopper-0.3"], args, {})
    assert own["hopper-0.3"].file.stat().st_mtime_ns == before and len(asked) == 2

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(InputError, match="disk full.*--mixtures"):
        sql_noisy_data.make("hopper-0.2", own["hopper-0.2"], args, views)
    assert {path.name for path in tmp_path.iterdir()} == {own["hopper-0.1"].file.name, own["hopper-0.3"].file.name}
    with pytest.raises(InputError, match="walker2d-expert-v2: there is no stand-in for it"):
        sql_noisy_data.mixtures(sql_noisy_data.Args(standin=True, robots=("walker2d",)))


def test_columns_of_the_noisy_data(tmp_path):
    args = sql_noisy_data.Args(mixtures=tmp_path, expectiles=(0.5, 0.9))
    table = sql_noisy_data.table(args, sql_noisy_data.mixtures(args))
    this = make(table, ["--runs", str(tmp_path / "runs")])
    values = {(this.dataset, this.column): json.loads(this.settings) for this in this.cells}
    assert values["hopper-0.1", "sql"]["sql_alpha"] == 1.0 and values["walker2d-0.1", "sql_alpha_2.5"]["sql_alpha"] == 2.5
    assert ("walker2d-0.1", "sql") not in values and ("hopper-0.1", "sql_alpha_2.5") not in values
    assert values["halfcheetah-0.3", "iql_0.9"]["expectile"] == 0.9 and values["hopper-0.1", "cql"]["reward"] == "raw"
    assert {value["reward"] for (_, column), value in values.items() if column != "cql"} == {"return_range"}
    assert "sql_alpha_2.5" not in sql_noisy_data.table(sql_noisy_data.Args(noise="medium"), sql_noisy_data.mixtures(sql_noisy_data.Args(noise="medium"))).columns
    one = sql_noisy_data.table(sql_noisy_data.Args(robots=("hopper",)), sql_noisy_data.mixtures(sql_noisy_data.Args(robots=("hopper",))))
    assert "iql" in one.columns and one.best == {} and one.name == "sql_noisy_data.hopper" and ("cql" in one.columns) == (ROOT / "algorithms/cql.py").exists()


def test_the_best_of_a_sweep_is_told_and_drawn(tmp_path, monkeypatch):
    path, drawn = tmp_path / "m.npz", []
    derived.write(path, view(100, 50, 0), {"rows": 100, "share": 0.09, "score": 12.0}, "")
    columns = {"a": Column("td3_bc", "--alpha 1"), "b": Column("td3_bc", "--alpha 2"), "c": Column("td3_bc", "--alpha 3")}
    table = Table(name="x", title="x", columns=columns, datasets=("hopper-0.1",), own={"hopper-0.1": Own(path, NAME)}, best={"ab": ("a", "b")}, seeds=(0,))
    for alpha, score in ((1, 10.0), (2, 30.0), (3, 20.0)):
        own_run(tmp_path / f"runs/{alpha}", path, ("--alpha", str(alpha)), score=score)
    this = make(table, ["--runs", str(tmp_path / "runs")])
    assert [(row["algorithm"], row["mean"], row["source"]) for row in results(this)] == [
        ("a", "10.0", ""), ("b", "30.0", ""), ("c", "20.0", ""), ("ab", "30.0", "the best of 2: b")]
    monkeypatch.setattr(sql_noisy_data, "sweep_figure", lambda panels, *_: drawn.append(panels))
    assert sql_noisy_data.figure(this, tmp_path / "f.png")
    assert drawn == [{"hopper": ({"c": {0.1: [20.0]}, "ab": {0.1: [30.0]}}, {0.1: 12.0})}]
    sweep_figure({"hopper": ({"c": {0.1: [20.0], 0.01: [3.0, 4.0]}}, {0.1: 12.0, 0.01: 2.0})}, "x", "data", tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"


# Small data


def test_nearness_by_hand():
    """A maze with two episodes: the goal is reached after three steps, and never. Then dense rewards, one of two alike."""
    maze = view(7, 4, 0)
    maze.columns[2] = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)
    assert sql_small_data.nearness(maze).tolist() == [0.25, 0.5, 0.75, 1.0, 0, 0, 0]  # 0, .99^3, .99^2, .99, 1: five values
    dense = view(3, 3, 0)
    dense.columns[2] = np.array([-1, 1, 1], np.float32)  # to go: -1 + .99 * 1.99 = .9701, 1.99, 1
    assert sql_small_data.nearness(dense).tolist() == [0, 1.0, 0.5]
    dense.columns[2] = np.zeros(3, np.float32)
    assert sql_small_data.nearness(dense).tolist() == [0, 0, 0]


def test_thinned_data(tmp_path):
    whole, near = view(4000, 400, 0), np.tile([0.0, 1.0], 2000)
    kept, rows = sql_small_data.thin(whole, near, 1.0)
    assert rows.tolist() == list(range(4000)) and (kept.ends == whole.ends).all()
    kept, rows = sql_small_data.thin(whole, near, 0.1)
    assert (rows % 2 == 0).sum() == 2000 and 150 < (rows % 2 == 1).sum() < 250  # a tenth of those at the goal
    fewer = sql_small_data.thin(whole, near, 0.03)[1]
    assert set(fewer) < set(rows) and np.array_equal(rows, sql_small_data.thin(whole, near, 0.1)[1])  # the same draws
    follows = np.r_[(np.diff(rows) == 1) & ~whole.ends[rows[:-1]], False]
    assert np.array_equal(kept.ends, ~follows) and np.array_equal(kept.columns[3][:, 0], rows + 0.5)
    derived.write(tmp_path / "t.npz", kept, {}, "")
    data = load_dataset(str(tmp_path / "t.npz"))
    assert len(data.rows) == len(rows) and len(data.episodes) == kept.ends.sum() and data.next_obs[:, 0].tolist() == (rows + 0.5).tolist()
    with pytest.raises(InputError, match="no transition is left"):
        sql_small_data.thin(view(3, 3, 0), np.ones(3), 1e-9)


def test_levels_keep_the_scale_of_the_rewards(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(derived, "read", lambda *_: view(200, 100, 0))  # returns 4950 and 14950
    args = sql_small_data.Args(standin=True, thinned=tmp_path)
    for task, goals in ((NAME, None), ("antmaze-medium-play-v2", 4)):
        if goals:
            maze = view(200, 50, 0)
            maze.columns[2] = np.isin(np.arange(200), [49, 99, 149, 199]).astype(np.float32)
            monkeypatch.setattr(derived, "read", lambda *_: maze)
        own = {f"{task}.{level}": Own(tmp_path / f"{task}.{level}.npz", task) for level in sql_small_data.LEVELS}
        sql_small_data.make(task, own, args)
        facts = [derived.facts(this.file) for this in own.values()]
        assert facts[0] == {"rows": 200, "of": 200, "goals": goals} and facts[0]["rows"] > facts[1]["rows"] > facts[2]["rows"] > facts[3]["rows"]
        hard = load_dataset(str(own[f"{task}.hard"].file))
        number = hard.obs[:, 0]
        if goals:  # r - 1, and what remains of the goals
            assert hard.reward.tolist() == [0.0 if n in (49, 99, 149, 199) else -1.0 for n in number.tolist()] and facts[3]["goals"] < 4
            assert "at the goal" in capsys.readouterr().out
        else:
            torch.testing.assert_close(hard.reward, number * 0.1)  # 1000 / (14950 - 4950), whatever is left
            assert "at the goal" not in capsys.readouterr().out
    sql_small_data.make(NAME, {f"{NAME}.{level}": Own(tmp_path / f"{NAME}.{level}.npz", NAME) for level in sql_small_data.LEVELS}, args)
    assert capsys.readouterr().out == ""  # nothing twice


def test_an_unsimulated_task_has_its_values_and_no_evaluation():
    this = cell("sql", "sql_eql", "x", ("--algorithm", "eql", "--reward", "raw"), Own(Path("/data/t.npz"), "antmaze-umaze-diverse-v2"))
    values = json.loads(this.settings)
    assert (values["eval_env"], values["eql_alpha"], values["lr"], values["reward"], values["env"]) == ("none", 5.0, 2e-4, "raw", "/data/t.npz")


def test_bellman_error_by_hand():
    """Two transitions, Q = (1, 2) x obs, V = 10 x obs: errors from the targets 1 + .5 * 20 = 11 and 2, a true end."""
    rows = torch.tensor([[1.0, 0, 1, 2, 0], [3, 0, 2, 4, 1]])  # obs action reward next_obs done
    data = Dataset("tiny", None, {"kind": "file"}, rows, 1, 1, torch.tensor([[0, 2]]))
    agent = SimpleNamespace(args=SimpleNamespace(gamma=0.5), value=lambda obs: 10 * obs[:, 0],
                            critics=lambda obs, action: torch.stack([obs[:, 0], 2 * obs[:, 0]]))
    expected = ((1 - 11) ** 2 + (2 - 11) ** 2 + (3 - 2) ** 2 + (6 - 2) ** 2) / 4
    for size in (1, 2, 20):
        assert sql_small_data.bellman_error(agent, data, size) == pytest.approx(expected)


def test_bellman_error_of_a_run(tmp_path, monkeypatch):
    """From data to scores and Bellman errors, of an agent as its checkpoint has it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sql_small_data, "LEVELS", {"vanilla": 1.0, "hard": 0.03})
    tiny = make_data(300)
    ends = np.arange(1, 301) % 30 == 0
    monkeypatch.setattr(derived, "read", lambda *_: View([tiny.obs.numpy(), tiny.action.numpy(), tiny.reward.numpy(), tiny.next_obs.numpy(), tiny.done.numpy() > 0],
                                                         ends | (tiny.done.numpy() > 0)))
    words = ["--standin", "--tasks", NAME, "--columns", "iql", "--seeds", "0", "--updates", "3", "--thinned", str(tmp_path / "t"), "--runs", str(tmp_path / "runs"),
             "--out", str(tmp_path / "out"), "--jobs", "2", *map(str, TINY)]
    monkeypatch.setattr("sys.argv", ["sql_small_data.py", *words])
    sql_small_data.main()
    with open(next((tmp_path / "out").glob(f"sql_small_data.{NAME}.standin.changed.part.*.bellman.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["dataset"] for row in rows] == [f"{NAME}.{level}" for level in ("vanilla", "hard")]
    run = next(run for run in find_runs(tmp_path / "runs") if run.folder.name == rows[1]["run"])
    agent, data = load_agent(run, 0, 3), load_dataset(run.config["args"]["env"])
    saved = run.checkpoint["agents"][0]
    assert all(torch.equal(p, saved["value"][name]) for name, p in agent.value.named_parameters()) and float(rows[1]["score"]) == pytest.approx(run.result["seeds"]["0"]["last"], abs=0.01)
    y = data.reward + 0.99 * (1 - data.done) * agent.value(data.next_obs)
    q = agent.critics(data.obs, data.action)
    assert float(rows[1]["bellman_error"]) == pytest.approx(float(((q[0] - y) ** 2).mean() + ((q[1] - y) ** 2).mean()) / 2, rel=1e-4)
    text = next((tmp_path / "out").glob(f"sql_small_data.{NAME}.standin.changed.part.*.bellman.md")).read_text()
    assert "STAND-IN DATA" in text and "OURS" in text and "unverified" in text and f"| {NAME}.hard | " in text


# Every script tells what it would do


@pytest.mark.parametrize("script, words, line", [
    ("awac_table1", [], "algorithms/awac.py --env hopper-medium-v0 --no-standin --seeds 3"),
    ("iql_table1", [], "algorithms/bc.py --env hopper-medium-v2 --config top-10 --no-standin --seeds 4"),
    ("one_step_table1", ["--updates", 300], "algorithms/one_step.py --env hopper-random-v2 --operator rev_kl --eval-episodes 100 --eval-every 100000 --updates 300 --eval-every 30"),
    ("sql_eql_table1", [], "algorithms/sql_eql.py --env walker2d-medium-replay-v2 --algorithm eql"),
    ("cql_table", [], "algorithms/cql.py --env hopper-medium-v2 --no-standin --seeds 3"),
    ("td3_bc_table2", [], "algorithms/td3_bc.py --env hopper-medium-v0 --no-standin --seeds 4"),
    ("xql_table1", [], "algorithms/xql.py --env hopper-medium-v2 --config tuned"),
    ("sql_noisy_data", ["--standin"], "in-random-0.05.standin-"),
    ("sql_noisy_data", ["--robots", "walker2d"], "walker2d-expert-v2-in-random-0.3.npz --eval-env walker2d-expert-v2 --algorithm sql --sql-alpha 2.5"),
    ("sql_small_data", [], "antmaze-medium-play-v2.easy.npz --eval-env none"),
    ("sql_small_data", ["--standin"], "--eval-env halfcheetah-medium-replay-v2 --reward raw"),
    ("in_sample_small", ["--standin"], "algorithms/one_step.py --env hopper-medium-v2 --hidden-size 256 --stages 1 2 1 --updates 30000 --batch-size 64")])
def test_plans(script, words, line, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(f"benchmark.{script}")
    monkeypatch.setattr("sys.argv", [script, *map(str, words), "--dry-run", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    main(module.TABLE) if hasattr(module, "TABLE") else module.main()
    out = capsys.readouterr().out
    assert line in out, out[-2000:]
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()


def test_small_budget_gives_a_table_and_curves(tmp_path, monkeypatch, capsys):
    from benchmark import in_sample_small
    from tests.helpers import write_npz

    write_npz(tmp_path / "mine.npz")
    name = "hopper-medium-replay-v2"
    monkeypatch.setattr("sys.argv", ["in_sample_small", "--columns", "bc", "--datasets", name, "--data", f"{name}={tmp_path / 'mine.npz'}", "--updates", "4",
                                     "--seeds", "3", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--", "--eval-episodes", "1"])
    in_sample_small.main(in_sample_small.TABLE)
    stem = next((tmp_path / "out").glob("in_sample_small.data.changed.part.*.md")).stem
    text = (tmp_path / f"out/{stem}.md").read_text()
    assert f"{name} is mine.npz" in text and str(tmp_path) not in text and "30,000 updates or as told" in text and " / " not in text
    assert (tmp_path / f"out/{stem}.curves.png").read_bytes()[:4] == b"\x89PNG" and f"{stem}.curves.png" in capsys.readouterr().out


def test_real_data_are_not_used_for_standin_mixtures(monkeypatch):
    monkeypatch.setattr(derived, "read_arrays", lambda *_: ({}, {"kind": "d4rl"}))
    with pytest.raises(InputError, match="D4RL's own hopper-random-v2 is in the cache; leave --standin out"):
        derived.read("hopper-random-v2", True, 1000)
