"""The model-based family's tables: every published cell, versions of the data, which runs fill a cell, and how far a model is."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark import combo_table, mobile_table, model_based_kit, mopo_table1, morel_table2, pessimism, rambo_table1, rambo_table3
from benchmark.engine import tables
from benchmark.engine.curves import Group
from benchmark.engine.grid import make
from benchmark.engine.jobs import cell
from benchmark.engine.runs import find_runs
from tests.helpers import ROOT, run_script

ROBOTS, LEVELS = ("halfcheetah", "hopper", "walker2d"), ("random", "medium", "medium-replay", "medium-expert")
SCRIPTS = {module.TABLE.name: module for module in (mopo_table1, combo_table, morel_table2, rambo_table1, rambo_table3, mobile_table, model_based_kit)}
CELLS = {  # {table: {column: mean, or mean and std, of each dataset, robots within levels}}; -: the preprint has a dash there, or it is unreadable
    "mopo_table1": {
        "mopo": "35.4 11.7 13.6 42.3 28.0 17.8 53.1 67.5 39.0 63.3 23.7 44.6",
    },
    "combo_table": {
        "combo": "38.8 17.9 7.0 54.2 97.2 81.9 55.1 89.5 56.0 90.0 111.1 103.3",
    },
    "morel_table2": {
        "morel": "25.6 53.6 37.3 42.1 95.4 77.8 40.2 93.6 49.8 53.3 108.7 95.6",
        "mopo": "34.4 11.7 13.6 42.3 28.0 17.8 53.1 67.5 39.0 63.3 23.7 44.6",
        "cql": "35.4 10.8 7 44.4 86.6 74.5 46.2 48.6 32.6 62.4 111 98.7",
        "sac_off": "30.5 11.3 4.1 -4.3 0.8 0.9 -2.4 3.5 1.9 1.8 1.6 -0.1",
        "bear": "25.1 11.4 7.3 41.7 52.1 59.1 38.6 33.7 19.2 53.4 96.3 40.1",
        "brac_p": "24.1 11 -0.2 43.8 32.7 77.5 45.4 0.6 -0.3 44.2 1.9 76.9",
        "brac_v": "31.2 12.2 1.9 46.3 31.1 81.1 47.7 0.6 0.9 41.9 0.8 81.6",
    },
    "rambo_table1": {
        "bc_v0": "2.1 9.8 1.6 36.1 29.0 6.6 38.4 11.8 11.3 35.8 111.9 6.4",
        "rambo_best_of_4": "41.3±3.8 31.8±0.8 0.0±0.3 76.7±3.9 85.7±21.1 84.5±1.1 68.8±5.6 102.1±1.5 94.5±0.6 96.4±8.7 107.9±4.1 103.4±11.6",
        "combo_v0": "38.8 17.9 7.0 54.2 97.2 81.9 55.1 89.5 56.0 90.0 111.1 103.3",
        "mopo_v0": "35.4 11.7 13.6 42.3 28.0 17.8 53.1 67.5 39.0 63.3 23.7 44.6",
        "morel_v0": "25.6 53.6 37.3 42.1 95.4 77.8 40.2 93.6 49.8 53.3 108.7 95.6",
        "cql_v0": "35.4 10.8 7.0 44.4 86.6 74.5 46.2 48.6 32.6 62.4 111.0 98.7",
        "fisher_brc_v0": "33.3 11.3 1.5 41.3 99.4 78.8 43.2 35.6 41.8 93.3 112.4 105.2",
        "td3_bc_v0": "10.2 11.0 1.4 42.8 99.5 79.7 43.3 31.4 25.2 97.9 112.2 101.1",
    },
    "rambo_table3": {
        "k1_lambda_3e-4": "33.9±4.4 31.8±0.8 - 67.6±6.1 - - 64.5±3.2 74.3±40.3 90.7±16.5 52.8±21.8 - -",
        "k2_lambda_3e-4": "34.0±3.7 16.7±14.1 - 62.7±12.9 - 82.8±6.9 65.3±5.5 67.5±37.6 8.9±10.7 96.4±8.7 - 103.4±11.6",
        "k5_lambda_3e-4": "37.4±4.8 23.9±14.1 0.0±0.3 76.7±3.9 85.7±21.1 77.0±5.8 68.8±5.6 102.1±1.5 42.6±36.2 92.2±9.0 78.3±41.3 4.3±3.9",
        "k5_lambda_0": "41.3±3.8 21.6±10.5 - 75.9±8.5 56.8±41.6 84.5±1.1 67.4±4.4 32.1±12.0 94.5±0.6 83.9±12.2 107.9±4.1 -",
    },
    "rambo_published": {
        "rambo": "40 21.6 11.5 77.6 92.8 86.9 68.9 96.6 85 93.7 83.3 68.3",
    },
    "mobile_table": {
        "mobile": "39.3 31.9 17.9 74.6 106.6 87.7 71.7 103.9 89.9 108.2 112.6 115.2",
        "mopo": "34 31.7 7.4 73.3 62.8 84.1 72.1 103.5 86.6 90.8 81.6 112.9",
        "combo_v0": "38.8 17.9 7 54.2 97.2 81.9 55.1 89.5 56.1 90.2 111.1 103.3",
        "rambo": "40 21.6 11.5 77.6 92.8 86.9 68.9 96.6 85 93.7 83.3 68.3",
        "edac": "28.4 25.3 16.6 65.9 101.6 92.5 61.3 101 87.1 106.3 110.7 114.7",
        "cql": "31.3 5.3 5.4 46.9 61.9 79.5 45.3 86.3 76.8 95 96.9 109.1",
        "td3_bc": "11 8.5 1.6 48.3 59.3 83.7 44.6 60.9 81.8 90.7 98 110.1",
        "iql": "11.2 7.9 5.9 47.4 66.2 78.3 44.2 94.7 73.8 86.7 91.5 109.6",
        "bc": "2.2 3.7 1.3 43.2 54.1 70.9 37.6 16.6 20.3 44 53.9 90.1",
    },
    "model_based_kit": {
        "cql": "49.4±0.2 59.1±4.1 83.6±0.5 47.0±0.3 98.6±1.5 71.3±17.9 93.0±2.2 111.4±0.5 109.8±0.5",
        "td3_bc": "48.2±0.5 60.8±3.4 84.4±2.1 45.0±0.5 67.3±13.2 83.4±7.0 90.7±2.7 91.4±11.3 110.2±0.3",
        "edac": "66.4±1.1 101.8±0.2 93.3±0.8 62.3±1.4 101.5±0.1 86.2±1.2 101.8±8.4 110.5±0.3 113.6±0.3",
        "iql": "47.4±0.5 65.7±8.1 81.1±2.6 44.2±0.6 94.8±6.7 77.3±11.0 88.0±2.8 106.2±5.6 108.3±2.6",
        "mopo": "72.4±4.2 62.8±38.1 84.1±3.2 72.1±3.8 92.7±20.7 85.9±5.3 83.6±12.5 74.6±44.2 108.2±4.3",
        "rambo": "78.7±1.1 82.1±38.0 86.1±1.0 68.5±3.6 93.4±11.4 73.7±6.5 98.8±4.3 85.0±30.7 78.4±45.4",
        "combo": "71.9±8.5 84.7±9.3 83.9±2.0 66.5±6.5 90.1±25.2 89.4±6.4 98.2±0.2 108.8±2.6 110.0±0.2",
        "mobile": "75.8±0.8 103.6±1.0 88.3±2.5 71.9±3.2 105.1±1.3 90.5±1.7 100.9±1.5 112.5±0.2 114.5±2.2",
    },
}
V0 = "mopo_table1", "combo_table", "morel_table2"


def datasets(name, count=12):
    return [f"{robot}-{level}-v{0 if name in V0 else 2}" for level in LEVELS for robot in ROBOTS][-count:]


def write_run(folder, column, words, seed, score, env, **files):
    """A finished run of a cell with this score; `files`: what else is in its folder, or None in place of the result."""
    args = json.loads(cell("x", column, env, tuple(words.split())).settings) | {"seeds": [seed], "device": "cpu"}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"algorithm": column, "args": args, "dataset_source": "d4rl", "data": {}, "task": env, "physics": "d4rl",
                                                    "command": f"algorithms/{column}.py --env {env} {words}"}))
    row = {"last": score, "mean_of_last_10": score, "best": score}
    result = {"step": args["updates"], "seeds": {seed: row}, "updates_per_second": 100.0, "pretraining_seconds": 3600.0}
    if files.pop("result", True):
        (folder / "result.json").write_text(json.dumps(result))
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)


# Published cells


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_the_published_one(name):
    with open(ROOT / f"benchmark/papers/{name}.csv", newline="") as file:
        ours = {(row["dataset"], row["algorithm"]): row for row in csv.DictReader(file)}
    wanted = {}
    for column, text in CELLS[name].items():
        values = text.split()
        wanted |= {(dataset, column): value for dataset, value in zip(datasets(name, len(values)), values, strict=True) if value != "-"}
    assert {key: row["mean"] + f"±{row['std']}" * bool(row["std"]) for key, row in ours.items()} == wanted
    assert not any(re.search(r"v0 (inferred|data)", row["source"]) and not (key[1].endswith("_v0") or name in V0) for key, row in ours.items())


def test_sums_that_are_known_otherwise():
    """The preprint prints RAMBO's total, the authors MOReL's mean, others COMBO's and MOPO's mean of nine and the published RAMBO's total."""
    def column(name, column, first=0):
        return [float(value.split("±")[0]) for value in CELLS[name][column].split()[first:]]

    assert sum(column("rambo_table1", "rambo_best_of_4")) == pytest.approx(893.1, abs=0.05) and sum(column("rambo_published", "rambo")) == pytest.approx(826.2, abs=0.05)
    assert np.mean(column("morel_table2", "morel")) == pytest.approx(64.42, abs=0.005) and np.mean(column("mobile_table", "mobile")) == pytest.approx(80.0, abs=0.05)
    assert np.mean(column("combo_table", "combo", 3)) == pytest.approx(82.0, abs=0.05) and np.mean(column("mopo_table1", "mopo", 3)) == pytest.approx(42.1, abs=0.05)
    assert np.mean(column("rambo_published", "rambo", 3)) == pytest.approx(83.7, abs=0.05) and CELLS["rambo_published"]["rambo"] == CELLS["mobile_table"]["rambo"]
    assert CELLS["rambo_table3"]["k5_lambda_0"].count("-") == 2 and sum(text.split().count("-") for text in CELLS["rambo_table3"].values()) == 10


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_table_shows_all_of_its_papers_cells(name, tmp_path):
    table = SCRIPTS[name].TABLE
    this = make(table, ["--runs", str(tmp_path)])
    rows = tables.results(this)
    shown = {(row["dataset"], row["algorithm"]): row["published_mean"] for row in rows if row["published_mean"]}
    published = {(column.published or name): name for name, column in table.columns.items()}
    for (dataset, algorithm), row in tables.published(table).items():
        names = [algorithm, *(n for n, column in table.columns.items() if column.published == algorithm)]
        assert row["mean"] in [shown.get((dataset, one)) for one in names], (dataset, algorithm, published)
    assert list(table.datasets) == datasets(name, len(table.datasets)) and len({row["source"] for row in rows if row["published_mean"]} - {""}) > 0


@pytest.mark.parametrize("name, seeds, score", [("mopo_table1", 6, "last"), ("combo_table", 4, "mean_of_last_10"), ("morel_table2", 3, "mean_of_last_10"), ("rambo_table1", 3, "last"),
                                                ("rambo_table3", 3, "last"), ("mobile_table", 4, "mean_of_last_10"), ("model_based_kit", 4, "mean_of_last_10")])
def test_protocols(name, seeds, score):
    assert (len(SCRIPTS[name].TABLE.seeds), SCRIPTS[name].TABLE.score) == (seeds, score)


def test_versions_are_never_mixed(tmp_path):
    """A v0 cell in a table of v2 is quoted under a name that says so, and no run of ours is judged by it."""
    for name in ("rambo_table1", "mobile_table"):
        table = SCRIPTS[name].TABLE
        old = {algorithm for _, algorithm in tables.published(table) if algorithm.endswith("_v0")}
        assert old and old <= set(table.quoted) and not old & set(table.columns) and any("v0" in note for note in table.notes)
        text = tables.markdown(this := make(table, ["--runs", str(tmp_path)]), tables.results(this))
        assert all(f"{column} (quoted)" in text for column in old)


# Which runs


def settings(table, tmp_path):
    return {(one.dataset, one.column): json.loads(one.settings) for one in make(table, ["--runs", str(tmp_path)]).cells}


def test_the_four_settings(tmp_path):
    found = settings(rambo_table3.TABLE, tmp_path)
    assert len(found) == 48 and found == settings(rambo_table1.TABLE, tmp_path)  # both tables share the runs
    for (dataset, column), values in found.items():
        k, lam = re.fullmatch(r"k(\d)_lambda_(.*)", column).groups()
        assert (values["rollout_length"], values["adversary_weight"], values["bc_epochs"]) == (int(k), float(lam), 0)
        assert values["updates"] == (4_000_000 if float(lam) else 2_000_000) and values["eval_every"] == values["updates"] // 200  # every tenth iteration


def test_the_librarys_values(tmp_path):
    """k and lambda or beta of its README, dataset by dataset; as a v2 run has no value that its library has not."""
    found = settings(model_based_kit.TABLE, tmp_path)
    nine = datasets("model_based_kit", 9)
    mopo = [(5, 0.5), (5, 5.0), (5, 0.5), (5, 0.5), (5, 2.5), (1, 2.5), (5, 2.5), (5, 5.0), (1, 2.5)]
    combo = [(5, 0.5), (5, 5.0), (1, 5.0), (5, 0.5), (5, 0.5), (1, 0.5), (5, 5.0), (5, 5.0), (1, 5.0)]
    rambo = [(5, 3e-4), (5, 3e-4), (5, 0), (5, 3e-4), (5, 3e-4), (5, 0), (5, 0), (5, 0), (2, 3e-4)]
    mobile = [(5, 0.5), (5, 1.5), (5, 0.5), (5, 0.1), (5, 0.1), (1, 0.5), (5, 2.0), (5, 1.5), (1, 1.5)]
    for kind, values, name in (("mopo", mopo, "penalty_coef"), ("combo", combo, "cql_weight"), ("rambo", rambo, "adversary_weight"), ("mobile", mobile, "penalty_coef")):
        cells = {dataset: one for (dataset, column), one in found.items() if column.startswith(kind)}
        assert [(cells[dataset]["rollout_length"], cells[dataset][name]) for dataset in nine] == values
        assert len([column for _, column in found if column.startswith(kind)]) == 9  # one column a dataset
    assert {one["model_epochs"] for (_, column), one in found.items() if column.startswith("mobile")} == {30}


def test_settings_of_the_v0_tables(tmp_path):
    morel = settings(morel_table2.TABLE, tmp_path)
    assert {values["updates"] for (_, column), values in morel.items() if column == "morel"} == {500}
    assert {values["eval_every"] for (_, column), values in morel.items() if column == "morel"} == {10}  # ten evaluations: the last 100 iterations
    assert {(d, c): v for (d, c), v in morel.items() if c == "mopo"} == settings(mopo_table1.TABLE, tmp_path)
    assert len(settings(combo_table.TABLE, tmp_path)) == 12


def test_the_best_of_four_is_judged_by_table_1(tmp_path):
    """Of ours the best by the mean, of theirs theirs, even where the settings are not the same; dashes are no numbers."""
    env = "hopper-medium-v2"
    for column, score in (("k5_lambda_3e-4", 50.0), ("k5_lambda_0", 70.0)):
        for seed in (0, 1):
            write_run(tmp_path / f"{column}-{seed}", "rambo", rambo_table3.SETTINGS[column].flags, seed, score + seed, env)
    this = make(rambo_table1.TABLE, ["--runs", str(tmp_path)])
    rows = {(row["dataset"], row["algorithm"]): row for row in tables.results(this)}
    best = rows[env, "rambo_best_of_4"]
    assert (best["scores"], best["published_mean"], best["published_std"], best["verdict"], best["seeds"]) == ("70.0 71.0", "85.7", "21.1", "pass", 2)
    assert best["source"].startswith("the best of 2: k5_lambda_0; RAMBO preprint") and rows[env, "k5_lambda_0"]["published_mean"] == "56.8"
    assert rows[env, "k2_lambda_3e-4"]["published_mean"] == "" == rows[env, "k2_lambda_3e-4"]["verdict"]
    assert rows["hopper-random-v2", "rambo_best_of_4"]["verdict"] == "missing" and rows["hopper-random-v2", "rambo_best_of_4"]["published_mean"] == "31.8"
    text = tables.markdown(this, list(rows.values()))
    assert "| 70.5 ± 0.5 (2 of 3) / 85.7 ± 21.1 pass |" in text and "chosen online" in text and "A dash in the preprint" in text


# How long, and how far


def test_a_plan_counts_each_model_once(tmp_path, capsys):
    """Known: 100 updates a second, and an hour of a model, which a cell's settings share for one dataset and seed."""
    env, flags = "hopper-medium-v2", rambo_table3.SETTINGS["k5_lambda_3e-4"].flags
    write_run(tmp_path / "a", "rambo", flags, 5, 1.0, env)
    this = make(rambo_table3.TABLE, ["--runs", str(tmp_path), "--datasets", env, "--columns", "k5_lambda_3e-4", "--jobs", "1"])
    jobs, models = this.jobs(False), set()
    assert [this.seconds(job, models) for job in jobs] == [43_600.0] * 3 and [this.seconds(job, models) for job in jobs] == [40_000.0] * 3
    assert this.seconds(jobs[0]) == 43_600.0
    this.plan()
    assert "about 36.3 h with --jobs 1" in capsys.readouterr().out  # 130,800 s


def test_a_run_that_trains_its_model_says_so(tmp_path):
    for name, files in (("a", {"model_csv": "seed,epoch,network\n0,0,0\n0,11,6\n"}), ("b", {"model_csv": "seed,epoch\n0,11\n", "log_csv": "step,seed\n"}), ("c", {}),
                        ("d", {"model_csv": "seed,ep"}), ("e", {"model_csv": ""})):
        write_run(tmp_path / name, "mopo", "", 0, 1.0, "hopper-medium-v2", result=False, **files)
    runs = {run.folder.name: run for run in find_runs(tmp_path)}
    told = {name: Group("hopper-medium-v2", "mopo", {0: run}).unfinished() for name, run in runs.items()}
    assert told["a"] == "the model of seed 0, 12 epochs so far, then 3,000,000 updates"
    assert told["b"] == told["c"] == told["d"] == told["e"] == "0 of 3,000,000 updates"


# The scripts


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_a_plan(name, tmp_path):
    code, out, err = run_script(ROOT / f"benchmark/{name}.py", "--help")
    assert code == 0 and SCRIPTS[name].TABLE.title in " ".join(out.split()), err
    column, dataset = list(SCRIPTS[name].TABLE.columns)[-1], SCRIPTS[name].TABLE.datasets[6]
    code, out, err = run_script(ROOT / f"benchmark/{name}.py", "--dry-run", "--datasets", dataset, "--columns", column, "--runs", tmp_path / "r", "--out", tmp_path / "o")
    flags = SCRIPTS[name].TABLE.columns[column].flags
    words = f"algorithms/{SCRIPTS[name].TABLE.columns[column].algorithm}.py --env {dataset} {flags}".strip()
    assert code == 0 and f"{words} --no-standin --seeds 0 --runs" in out and not list(tmp_path.iterdir()), err
    code, out, err = run_script(ROOT / f"benchmark/{name}.py", "--columns", "nobody", "--runs", tmp_path)
    assert code == 2 and err.startswith(f"error: --columns nobody: not in {name}") and err.count("\n") == 1


# Pessimism in one dimension


def chosen(folder) -> dict[str, dict]:
    """{agent: the row of the action that it chose}, of the only CSV in a folder."""
    (path,) = folder.glob("pessimism*.csv")
    with open(path, newline="") as file:
        return {row["agent"]: {key: float(value) for key, value in row.items() if key != "agent"} for row in csv.DictReader(file) if row["chosen"] == "1"}


def test_the_world(tmp_path):
    """Best at 0 in the data, level to the edge, then an abyss; episodes of 20 steps, each row's next height the next row's."""
    assert pessimism.hill(np.array([-1, -0.5, 0, 0.2, 0.4, 1])).tolist() == pytest.approx([0, 0.6, 1, 1, -1, -1])
    grid = np.linspace(-1, 0, 101)
    assert (np.diff(pessimism.hill(grid)) > 0).all() and pessimism.hill(np.linspace(-1, 1, 201)).max() == 1  # nowhere better than in the data
    pessimism.write_world(tmp_path / "w.npz", 1000, 3)
    with np.load(tmp_path / "w.npz") as file:
        world = dict(file)
    assert -1 <= world["actions"].min() < -0.99 and -0.01 < world["actions"].max() <= 0 and world["timeouts"].sum() == 50 and not world["terminals"].any()
    assert np.array_equal(world["next_observations"][:-1], world["observations"][1:]) and np.array_equal(world["rewards"], world["observations"][:, 0])
    error = world["next_observations"] - pessimism.hill(world["actions"])
    assert abs(error.mean()) < 0.01 and error[world["actions"] > -0.1].std() > 4 * error[world["actions"] < -0.9].std()


def test_what_is_counted_with(tmp_path):
    """By hand: MOPO's penalty over gamma below the model's mean, HALT where MOReL's networks are further apart than the data's worst, over c."""
    action = torch.tensor([[-0.5], [0.5]])
    heights = torch.tensor([[1.0, 1.0], [1.1, 3.0], [0.9, 2.0]])
    agent = SimpleNamespace(model=lambda obs, action: (None, None), penalty=lambda log_var: torch.tensor([0.9, 1.8]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pessimism, "model_heights", lambda *_: heights)
        assert pessimism.counted("MBPO", agent, action).tolist() == pytest.approx([1.0, 2.0])
        assert pessimism.counted("MOPO", agent, action).tolist() == pytest.approx([0.0, 0.0])
        agent = SimpleNamespace(model=SimpleNamespace(spread=torch.tensor(1.0)), args=SimpleNamespace(c=2.0))
        known, halt = pessimism.counted("MOReL", agent, action).tolist()
        assert known == pytest.approx(1.0) and np.isnan(halt)
        agent = SimpleNamespace(model=None, critics=lambda obs, action: torch.stack([9 + 0.9 * action[:, 0], 99 + action[:, 0]]))
        truth = pessimism.hill(np.linspace(-1, 0, 41)).mean()  # Q rises by 0.9 for a unit of a, and is right on average over the data's actions, at -0.5
        assert pessimism.counted("COMBO", agent, action).tolist() == pytest.approx([truth, truth + 1], abs=1e-5)


@pytest.mark.slow
def test_a_figure_of_six_agents(tmp_path):
    words = ["--updates", 20, "--rows", 300, "--out", tmp_path / "out"]
    code, out, err = run_script(ROOT / "benchmark/pessimism.py", *words)
    assert code == 0 and (tmp_path / "out/pessimism.updates-20.rows-300.png").read_bytes()[:4] == b"\x89PNG", err
    rows = chosen(tmp_path / "out")
    assert list(rows) == list(pessimism.AGENTS) and all(-1 <= row["action"] <= 1 and row["true"] == pytest.approx(float(pessimism.hill(row["action"])), abs=1e-5) for row in rows.values())
    assert all(f"{name:<8}{row['action']:>8.2f}" in out for name, row in rows.items())


@pytest.mark.parametrize("words, told", [(["--agents", "SAC"], "--agents SAC: choose from MBPO, MOPO"), (["--updates", 0], "--updates 0: give a number in [20, 1e6]"),
                                         (["--seed", -1], "--seed -1"), (["--out", ROOT / "README.md"], "cannot write")])
def test_bad_flags(words, told, tmp_path):
    code, out, err = run_script(ROOT / "benchmark/pessimism.py", *words, cwd=tmp_path)
    assert code == 2 and err.startswith("error: ") and told in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_who_exploits_the_models_error(seed, tmp_path):
    """Without pessimism an agent leaves the data for a height that the model promises, and falls; each of the five stays where it is high."""
    code, out, err = run_script(ROOT / "benchmark/pessimism.py", "--seed", seed, "--out", tmp_path, deadline=3600)
    assert code == 0, err
    rows = chosen(tmp_path)
    naive = rows.pop("MBPO")
    assert naive["action"] > 0.4 and naive["true"] == -1 and naive["counted"] > 1.5, out
    for name, row in rows.items():
        assert row["true"] > 0.5, (name, out)
