"""Tables: which runs belong to a cell, what is started, resumed and left alone, verdicts, and what the table says."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import replace

import pytest

from benchmark import edac_table1, pbrl_table1, rorl_attacks, rorl_table1, sql_noisy_data, sql_small_data
from benchmark.engine import derived, tables
from benchmark.engine.executors import Local
from benchmark.engine.figures import FORMATS
from benchmark.engine.grid import GYM, Column, Table, main, make
from benchmark.engine.jobs import CHANGED, STOPPED, cell, hold, work
from benchmark.engine.runs import find_runs, load_script
from benchmark.engine.tables import markdown, published, results, verdict
from common import InputError, friendly
from tests.helpers import BROKEN, DEADLINE, ENDLESS, ROOT, Pause, Script, children, pids, run_script, wait_until, write_npz

TABLE = Table(name="two", title="Two small ones", papers=("rorl_table1.csv",), quoted=("bc",), datasets=("hopper-medium-v2", "walker2d-medium-v2"),
              columns={"td3_bc": Column("td3_bc", published="rorl"), "sac_10": Column("sac_n", "--config sac-10")}, seeds=(0, 1))
SCRIPT = f'''
from benchmark.engine.grid import Column, Table, main
TABLE = {TABLE!r}
if __name__ == "__main__":
    main(TABLE)
'''
TINY = ["--", "--standin-rows", 2000, "--batch-size", 8, "--eval-episodes", 1]
INLINE = [*TINY, "--eval-workers", 0]  # one process less for each run, where it is not what is tested


def write_run(folder, algorithm, words, seeds=(0,), kind="d4rl", scores=(50.0,), speed=2.0, script=None, **values):
    """The files of a run, as a run leaves them; `scores`: None is unfinished; `values`: what its args had, whatever the words say."""
    folder.mkdir(parents=True)
    first, *others = words.replace("=", " ").split()
    assert first == "--env"
    args = json.loads(cell("x", algorithm, others[0], tuple(others[1:])).settings) | {"seeds": list(seeds), "device": "cpu"} | values
    config = {"algorithm": algorithm, "dataset_source": kind, "args": args, "data": {}, "task": others[0], "physics": "d4rl",
              "command": f"{script or f'algorithms/{algorithm}.py'} {words} --seeds {' '.join(map(str, seeds))}"}
    (folder / "config.json").write_text(json.dumps(config))
    if scores:
        rows = {seed: {"last": score, "mean_of_last_10": score + 1, "best": score + 2} for seed, score in zip(seeds, scores)}
        (folder / "result.json").write_text(json.dumps({"step": 100, "seeds": rows, "updates_per_second": speed}))


def test_verdicts():
    assert verdict([], 50.0, 1.0) == "missing"
    assert verdict([51.9], 50.0, 0.1) == "pass" and verdict([53.9], 50.0, 0.1) == "near" and verdict([54.1], 50.0, 0.1) == "miss"
    assert verdict([59.0], 50.0, 10.0) == "pass" and verdict([69.9], 50.0, 10.0) == "near"  # the published std, where it is above 2
    assert verdict([40.0, 70.0], 50.0, 0.1) == "pass"  # two seeds 30 apart say little: 55 +- 12.7 * 15
    assert verdict([57.0, 57.1, 56.9, 57.0], 50.0, 0.1) == "miss"
    half = 3.182 * 2 / 3**0.5 / 2  # four seeds: std 2 / sqrt(3) with ddof 1, t 3.182
    assert verdict([53.0, 55.0, 53.0, 55.0], 54.0 - half + 0.01, 0.0) == "pass"
    assert verdict([53.0, 55.0, 53.0, 55.0], 54.0 - 2.1, 0.0) == "near"


def test_a_run_belongs_to_the_cell_with_its_flags_whoever_started_it(tmp_path):
    write_run(tmp_path / "a", "sac_n", "--env hopper-medium-v2 --config sac-10 --device cpu --eval-workers 0")  # change no number
    write_run(tmp_path / "b", "sac_n", "--env=hopper-medium-v2 --config=sac-10", seeds=(1,))
    write_run(tmp_path / "c", "sac_n", "--env hopper-medium-v2 --config sac-10 --batch-size 64")
    write_run(tmp_path / "d", "sac_n", "--env hopper-medium-v2")
    write_run(tmp_path / "e", "sac_n", "--env hopper-medium-v2 --config sac-10", kind="standin")
    write_run(tmp_path / "f", "edac", "--env hopper-medium-v2 --config edac-10")
    write_run(tmp_path / "g", "sac_n", "--env hopper-medium-v2 --config sac-10", seeds=(2,), scores=None)
    write_run(tmp_path / "h", "sac_n", "--env hopper-medium-v2 --config sac-10", gamma=0.9)  # PAPER was another then
    (tmp_path / "sac_n.py").write_text("changed")
    write_run(tmp_path / "i", "sac_n", "--env hopper-medium-v2 --config sac-10", script=tmp_path / "sac_n.py")  # another file
    write_run(tmp_path / "j", "sac_n", "--env hopper-medium-v2 --num-critics 10 --normalize --batch-size 256", seeds=(5,))  # the same values
    (tmp_path / "nothing").mkdir()
    cells = make(TABLE, ["--runs", str(tmp_path), "--columns", "sac_10", "--datasets", "hopper-medium-v2"])
    (this,) = cells.cells
    assert {seed: run.folder.name for seed, run in cells.finished(this).items()} == {0: "a", 1: "b"} and cells.jobs(False) == []
    standins = make(TABLE, ["--runs", str(tmp_path), "--columns", "sac_10", "--standin", "--datasets", "hopper-medium-v2"])
    assert [run.folder.name for run in standins.found[this]] == ["e"]  # and never the other way round
    more = make(TABLE, ["--runs", str(tmp_path), "--columns", "sac_10", "--datasets", "hopper-medium-v2", "--seeds", "0", "1", "2", "3", "4", "5", "5"])
    assert more.finished(this)[5].folder.name == "j"
    resumed, new = more.jobs(True)
    assert resumed.resume.folder.name == "g" and resumed.seeds == (2,) and new.seeds == (3, 4) and not new.resume
    assert resumed.command[1:] == [os.path.relpath(ROOT / "algorithms/sac_n.py"), "--resume", str(tmp_path / "g")]
    assert new.command[2:] == ["--env", "hopper-medium-v2", "--config", "sac-10", "--no-standin", "--seeds", "3", "4", "--runs", str(tmp_path)]


def test_runs_of_older_physics_are_in_no_table(tmp_path, capsys):
    """One line for each that would be; a robot that is simulated as before keeps its runs."""
    for folder, words, now in (("hopper", "--env hopper-medium-v2", "d4rl-1"), ("cheetah", "--env halfcheetah-medium-v2", "d4rl-2")):
        for seed, its in enumerate(("d4rl", now, "d4rl-9")):
            write_run(tmp_path / f"{folder}-{its}", "td3_bc", words, seeds=(seed,))
            path = tmp_path / f"{folder}-{its}/config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"physics": its}))
    write_run(tmp_path / "stock", "td3_bc", "--env halfcheetah-medium-v2", seeds=(0,), physics="stock")
    path = tmp_path / "stock/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"physics": "stock"}))
    words = ["--runs", str(tmp_path), "--columns", "td3_bc", "--datasets", "hopper-medium-v2", "halfcheetah-medium-v2", "--seeds", "0", "1", "2"]
    for _ in range(2):
        grid = make(replace(TABLE, datasets=("hopper-medium-v2", "halfcheetah-medium-v2")), words)
        assert [sorted(grid.finished(cell)) for cell in grid.cells] == [[0, 1], [1]]
        stock = make(replace(TABLE, datasets=("hopper-medium-v2", "halfcheetah-medium-v2")), [*words, "--", "--physics", "stock"])
        assert [sorted(stock.finished(cell)) for cell in stock.cells] == [[], [0]]
    err = capsys.readouterr().err
    assert err.count("\n") == 3 and "passed over: " in err and all(
        f"{tmp_path}/{name}: is evaluated under the physics {its}, this version simulates {now}; no table mixes them\n" in err
        for name, its, now in (("hopper-d4rl-9", "d4rl-9", "d4rl-1"), ("cheetah-d4rl", "d4rl-1", "d4rl-2"), ("cheetah-d4rl-9", "d4rl-9", "d4rl-2")))


def test_seeds_share_a_process_on_a_gpu(tmp_path, monkeypatch):
    words = ["--runs", str(tmp_path), "--columns", "td3_bc", "--datasets", "hopper-medium-v2"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    table = make(TABLE, words)
    assert [job.seeds for job in table.jobs(True)] == [(0, 1)] and [job.seeds for job in table.jobs(False)] == [(0,), (1,)]
    assert table.args.gpus == () and table.args.jobs == len(os.sched_getaffinity(0)) and {job.cpus for job in table.jobs(False)} == {1}
    assert make(TABLE, [*words, "--cpus", "1000"]).args.jobs == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert make(TABLE, words).args.gpus == (0, 1) and make(TABLE, words).args.jobs == 2
    few, cpu = make(TABLE, [*words, "--gpus", "1", "--jobs", "4"]).args, make(TABLE, [*words, "--", "--device", "cpu"]).args
    assert few.gpus == (1,) and few.jobs == 4 and cpu.gpus == ()


def test_local_processes_take_gpus_in_turn(tmp_path, monkeypatch):
    seen, together = [], threading.Barrier(4, timeout=DEADLINE)
    monkeypatch.setattr("benchmark.engine.executors.work", lambda job, gpu, stopped: seen.append(gpu) or together.wait() and "" or "")
    for gpus, expected in (((3, 5), ["3", "3", "5", "5"]), ((), ["", "", "", ""])):  # four runs at a time, two on each
        seen.clear()
        local = Local(4, gpus)
        handles = [local.submit(None) for _ in range(4)]
        assert [handle.result() for handle in handles] == [""] * 4
        local.stop()
        assert sorted(seen) == expected and [local.outcome(handle) for handle in handles] == [""] * 4
        assert local.gpu == bool(gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,GPU-abc")  # a scheduler's: they are counted among these
    local = Local(1, (1,))
    assert local.slots.get() == "GPU-abc" and local.stop() is None
    with pytest.raises(InputError, match="--gpus 2: CUDA_VISIBLE_DEVICES has only 2"):
        Local(1, (0, 2))


def test_updates_of_the_command_line_replace_the_columns(tmp_path):
    table = Table(name="x", title="x", columns={"a": Column("td3_bc", "--updates 7 --alpha 2")}, datasets=("hopper-medium-v2",), seeds=(0,))
    words = ["--runs", str(tmp_path)]
    assert make(table, words).cells[0].words == ("--updates", "7", "--alpha", "2")
    assert make(table, [*words, "--ray", "node:1", "--", "--device", "cuda:7"]).cells[0].words[-1] == "cuda:7"  # there may be such GPUs where Ray is
    assert make(table, [*words, "--updates", "9", "--", "--tau", "0.1"]).cells[0].words == ("--alpha", "2", "--updates", "9", "--eval-every", "1", "--tau", "0.1")
    assert make(table, [*words, "--updates", "400"]).cells[0].words[-4:] == ("--updates", "400", "--eval-every", "40")  # a curve of ten
    assert "--eval-every" not in make(table, [*words, "--updates", "50000"]).cells[0].words
    assert make(table, [*words, "--updates", "400", "--", "--eval-every", "9"]).cells[0].words[-4:] == ("--updates", "400", "--eval-every", "9")


def test_table_text(tmp_path):
    for seed, score in enumerate((103.0, 107.0)):
        write_run(tmp_path / f"r{seed}", "td3_bc", "--env hopper-medium-v2", seeds=(seed,), scores=(score,))
    write_run(tmp_path / "s", "sac_n", "--env hopper-medium-v2 --config sac-10", scores=(30.0,))
    table = make(TABLE, ["--runs", str(tmp_path)])
    rows = results(table)
    assert make(TABLE, ["--runs", str(tmp_path), "--columns", "td3_bc", "td3_bc"]).cells == [c for c in table.cells if c.column == "td3_bc"]
    text = markdown(table, rows)
    assert "| dataset | td3_bc | sac_10 | bc (quoted) |" in text
    assert "| hopper-medium-v2 | 105.0 ± 2.0 (2 of 2) / 104.8 ± 0.1 pass | 30.0 (1 of 2) / 0.8 ± 0.2 miss | 54.1 ± 3.8 |" in text
    assert "| walker2d-medium-v2 | - / 102.4 ± 1.4 missing | - / 46.7 ± 45.3 missing | 70.9 ± 11.0 |" in text
    assert "| mean | 105.0 (mean of 1 dataset) / 103.6 (mean of 2 datasets) |" in text and "the last evaluation" in text
    (row,) = [row for row in rows if row["dataset"] == "hopper-medium-v2" and row["algorithm"] == "td3_bc"]
    assert "Fewer than five seeds in 2 cells: one seed has no std, with 2 the 95% interval of the mean is ± 12.7 times the std." in text
    assert row["scores"] == "103.0 107.0" and row["source"] == "RORL slides table 1" and row["verdict"] == "pass"
    assert [(row["algorithm"], row["seed"], row["run"], row["last"], row["best"]) for row in tables.runs(table)] == [
        ("td3_bc", 0, "r0", "103.0", "105.0"), ("td3_bc", 1, "r1", "107.0", "109.0"), ("sac_10", 0, "s", "30.0", "32.0")]
    best = Table(**{**vars(TABLE), "score": "best"})
    assert results(make(best, ["--runs", str(tmp_path)]))[0]["mean"] == "107.0"


@pytest.mark.parametrize("n, times", [(2, 12.706 / 1), (3, 4.303 / 2**0.5), (4, 3.182 / 3**0.5)])
def test_few_seeds(n, times):
    """Half a 95% interval is t s / sqrt(n), and the std that is shown, over n and not n - 1, is s sqrt((n - 1) / n)."""
    rows = [tables.row("x", name, "d4rl", {}, "", list(range(seeds))) for name, seeds in (("a", n), ("b", 5), ("c", 0), ("d", n))]
    assert tables.few(rows) == f"Fewer than five seeds in 2 cells: with {n} the 95% interval of the mean is ± {times:.1f} times the std."
    assert tables.few(rows[1:3]) == ""


def test_table_means_are_over_full_values(tmp_path):
    """2.1518 by two digits, then by one, would be 2.1."""
    write_run(tmp_path / "r", "td3_bc", "--env hopper-medium-v2", scores=(2.1518,))
    write_run(tmp_path / "s", "td3_bc", "--env walker2d-medium-v2", scores=(2.1518,))
    table = make(TABLE, ["--runs", str(tmp_path), "--columns", "td3_bc", "--out", str(tmp_path / "out")])
    text = tables.write(table)
    assert "| 2.2 (1 of 2) /" in text and "| mean | 2.2 (mean of 2 datasets) /" in text and "2.1518" in "".join(path.read_text() for path in (tmp_path / "out").glob("*.csv"))

def page_text(path):
    """A page's text and data, without the library that draws and the style sheet."""
    page = re.sub(r"<style>.*?</style>", "", path.read_text(), flags=re.S)
    return "".join(part for part in re.split(r"(<script.*?</script>)", page, flags=re.S) if len(part) < 1_000_000)


@pytest.mark.parametrize("words, kind, notes", [
    (["--standin"], "standin", ["STAND-IN DATA"]), (["--updates", "10"], "d4rl", ["Not the paper's setting: --updates 10"]),
    (["--standin", "--", "--batch-size", "64"], "standin", ["STAND-IN DATA", "Not the paper's setting: --batch-size 64"]),
    (["--", "--batch-size", "64"], "d4rl", ["Not the paper's setting: --batch-size 64"])])
def test_nothing_published_stands_beside_other_data_or_settings(words, kind, notes, tmp_path):
    own = " ".join(word for word in words if word not in ("--", "--standin"))
    often = " --eval-every 1" * ("--updates" in words)  # as the grid asks for
    write_run(tmp_path / "r", "td3_bc", f"--env hopper-medium-v2 {own}{often}", seeds=(0, 1), kind=kind, scores=(103.0, 107.0))
    cut = words.index("--") if "--" in words else len(words)
    table = make(TABLE, [*words[:cut], "--runs", str(tmp_path), "--out", str(tmp_path / "out"), *words[cut:]])
    text = tables.write(table)
    assert "105.0 ± 2.0 (2 of 2) |" in text and all(note in text for note in notes)
    (path,) = (tmp_path / "out").glob("*.md")
    for shown in (text, path.with_suffix(".csv").read_text(), page_text(path.with_suffix(".html"))):
        assert "104.8" not in shown and "54.1" not in shown and "pass" not in shown and "bc (quoted)" not in shown
    assert re.fullmatch("two" + r"\.standin" * ("--standin" in words) + r"\.changed\.[0-9a-f]{8}" * bool(own), path.stem)


def test_a_part_of_a_table_does_not_replace_the_whole(tmp_path):
    words = ["--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    for more in ([], ["--datasets", "hopper-medium-v2"], ["--seeds", "0"]):
        text = tables.write(make(TABLE, [*words, *more]))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(files) == 3 * 4 and {f"two.{suffix}" for suffix in ("md", "csv", "runs.csv", "html")} < files and "missing" in text
    assert all(re.fullmatch(r"two(\.part\.[0-9a-f]{8})?\.(md|csv|runs\.csv|html)", name) for name in files)
    write_run(tmp_path / "r", "td3_bc", "--env hopper-medium-v2")
    assert "50.0 (1 of 2)" in tables.write(make(TABLE, [*words, "--seeds", "0"]))  # of the paper's seeds


def test_no_two_tables_have_one_name(tmp_path):
    """Other parts, settings or data; the same in other words is the same."""
    for name, seed in (("a", 0), ("b", 1)):
        write_npz(tmp_path / f"{name}.npz", seed=seed)
    data = [["--data", f"hopper-medium-v2={tmp_path}/{name}.npz"] for name in "ab"]
    commands = [[], ["--seeds", "0"], ["--seeds", "1"], ["--datasets", "hopper-medium-v2"], ["--datasets", "walker2d-medium-v2"], ["--columns", "td3_bc"],
                ["--columns", "sac_10"], ["--updates", "10"], ["--updates", "20"], ["--updates", "10", "--seeds", "0"], ["--", "--batch-size", "8"],
                ["--", "--batch-size", "9"], ["--standin"], ["--standin", "--updates", "10"], *data]
    stems = [tables.stem(make(TABLE, ["--runs", str(tmp_path / "runs"), *words])) for words in commands]
    assert len(set(stems)) == len(commands) and stems[0] == "two" and stems[12] == "two.standin"
    again = [["--columns", "td3_bc", "td3_bc"], ["--", "--batch_size=8"], ["--seeds", "1", "1"]]
    assert {tables.stem(make(TABLE, ["--runs", str(tmp_path / "runs"), *words])) for words in again} == {stems[5], stems[10], stems[2]}
    noisy = [sql_noisy_data.table(args, sql_noisy_data.mixtures(args)).name for args in (
        sql_noisy_data.Args(), sql_noisy_data.Args(expectiles=(0.5,)), sql_noisy_data.Args(expectiles=(0.5, 0.7)), sql_noisy_data.Args(noise="medium"),
        sql_noisy_data.Args(robots=("hopper",)), sql_noisy_data.Args(standin=True, rows=500, robots=("hopper",)))]
    small = [sql_small_data.table(args).name for args in (sql_small_data.Args(), sql_small_data.Args(standin=True, rows=500), sql_small_data.Args(tasks=("hopper-medium-v2",)))]
    models = [rorl_attacks.table(ablation, small).name for ablation in (False, True) for small in (False, True)]
    assert len(set(noisy + small + models)) == 6 + 3 + 4 and noisy[0] == "sql_noisy_data" and small[0] == "sql_small_data" and models[0] == "rorl_attacks"


def test_plan_and_its_estimate(tmp_path, capsys):
    write_run(tmp_path / "r", "td3_bc", "--env hopper-expert-v2 --updates 100", seeds=(0,), speed=50.0)
    write_run(tmp_path / "s", "sac_n", "--env hopper-expert-v2 --batch-size 4", seeds=(0,), speed=50.0)  # other flags: says nothing
    make(TABLE, ["--runs", str(tmp_path), "--dry-run", "--jobs", "2"]).plan()
    out = capsys.readouterr().out
    assert "| hopper-medium-v2 | - / 104.8 ± 0.1 missing |" in out  # the table so far
    lines = [line for line in out.splitlines() if line.startswith("python") or "cells" in line]
    assert re.search(r"td3_bc.py --env hopper-medium-v2 --no-standin --seeds 0 .*# about 5.6 h", lines[0])  # 1,000,000 at 50 a second
    assert "walker2d" in lines[2] and "unknown" in lines[1] and "unknown" in lines[2] and "--seeds 1 " in lines[4]  # seed by seed
    assert "4 cells, 0 of 8 seeds finished; 8 runs to start or resume, about 5.6 h with --jobs 2, and 6 of unknown length" in lines[-1]


@pytest.mark.parametrize("words, match", [
    (["--datasets", "hoper"], "--datasets hoper: not in two; choose from hopper-medium-v2"), (["--columns", "cql"], "--columns cql: not in two"),
    (["--gpu-share", "0.5"], "--gpu-share goes with --ray"), (["--jobs", "0"], r"--jobs 0: give a number in \[1, 4096\]"), (["--jobs", "99999999999999"], "--jobs 9"),
    (["--cpus", "0"], "--cpus 0"), (["--retries", "-1"], r"--retries -1: give a number in \[0"), (["--gpus", "-1"], "--gpus -1"), (["--seeds", "-1"], "--seeds -1"),
    (["--seeds", "99999999999999999999999"], "--seeds 9"), (["--updates", "0"], "--updates 0"), (["--updates", "10000000000000"], "--updates 1"),
    (["--ray", "local", "--gpu-share", "nan"], "--gpu-share nan"), (["--ray", "local", "--gpu-share", "-1"], "--gpu-share -1"), (["--job"], "see --help"), (["--jobs", "x"], "see --help"),
    (["--", "--seeds", "3"], "--seeds belongs before the --"), (["--columns", "sac_10", "--", "--config", "sac-99"], "--config sac-99 is unknown"),
    (["--", "--alpha", "nan"], "--alpha nan"), (["--columns", "sac_10", "--", "--critic-lr", "-1"], r"--critic-lr -1.0: give a number in \(0"), (["--", "--gamma", "1.5"], "--gamma 1.5"),
    (["--", "--device", "meta"], "--device meta: choose auto, cpu"), (["--ray", "local", "--", "--device", "hpu"], "--device hpu: choose"), (["--", "--device", "cuda:77"], "--device cuda:77 cannot be used"),
    (["--", "--no-such-flag", "3"], "no-such-flag"), (["--", "3"], "3"), (["--", "--batch-size", "10000000000000"], "--batch-size 1"), (["--", "--eval-env", "nowhere"], "--eval-env nowhere")])
def test_bad_flags(words, match, tmp_path, monkeypatch, capsys):
    """One line and exit code 2, of flags that are passed on too, also with --dry-run; nothing is made."""
    cut = words.index("--") if "--" in words else len(words)
    for dry in ([], ["--dry-run"]):
        argv = [*words[:cut], *dry, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *words[cut:]]
        with pytest.raises(InputError, match=match):
            make(TABLE, argv)
    monkeypatch.setattr("sys.argv", ["two.py", *argv])
    with pytest.raises(SystemExit) as stop:
        main(TABLE)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module, words", [
    (sql_noisy_data, ["--rows", "0"]), (sql_noisy_data, ["--expectiles", "1.5"]), (sql_noisy_data, ["--robots", "ant"]), (sql_noisy_data, ["--", "--lr", "-1"]),
    (sql_noisy_data, ["--columns", "iql", "--", "--expectile", "2"]), (sql_small_data, ["--rows", "-3"]), (sql_small_data, ["--tasks", "nothing"]), (sql_small_data, ["--", "--device", "meta"]),
    (rorl_attacks, ["--eps", "nan"]), (rorl_attacks, ["--eps", "-1"]), (rorl_attacks, ["--episodes", "0"]), (rorl_attacks, ["--device", "meta"]),
    (sql_small_data, ["--data", "hopper-medium-replay-v2.hard=~nobody-of-this-name/x.npz"])])
def test_bad_flags_of_scripts_that_make_data(module, words, tmp_path, monkeypatch, capsys):
    """Nothing is simulated, mixed or trained before they are found."""
    monkeypatch.setattr(derived, "read", None)
    cut = words.index("--") if "--" in words else len(words)
    argv = [*words[:cut], *["--standin"] * (module is not rorl_attacks), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *words[cut:]]
    monkeypatch.setattr("sys.argv", ["x.py", *argv])
    with pytest.raises(SystemExit) as stop, friendly():
        module.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_bounds_of_actions_are_not_for_d4rls_names(tmp_path):
    with pytest.raises(InputError, match="hopper-medium-v2: D4RL's actions are in .-1, 1.; leave --action-low and --action-high out"):
        make(TABLE, ["--runs", str(tmp_path), "--", "--action-low", "-2", "--action-high", "2"])


def test_windows(tmp_path):
    """Without fcntl and resource: a table script tells in one line what it needs, plot.py and attacks.py work."""
    (tmp_path / "windows.py").write_text(f"""import runpy, sys
sys.modules |= dict.fromkeys(("fcntl", "resource"))  # importing them is an ImportError now
for name in [name for name in sys.modules if name.split(".")[0] in ("benchmark", "common", "algorithms")]:
    del sys.modules[name]
sys.path.insert(0, {str(ROOT)!r})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
""")
    write_run(tmp_path / "runs/a", "td3_bc", "--env hopper-medium-v2")
    code, out, err = run_script(tmp_path / "windows.py", ROOT / "benchmark/edac_table1.py", "--dry-run", "--runs", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: table scripts need locks of files that Windows does not have"), err
    code, out, err = run_script(tmp_path / "windows.py", ROOT / "benchmark/plot.py", tmp_path / "runs/a", "--out", tmp_path / "out")
    assert code == 0 and "td3_bc" in out, err
    for name, told in (("attacks", "a: has no checkpoint yet"), ("speed", "--algorithms 'x': no such file")):
        code, out, err = run_script(tmp_path / "windows.py", ROOT / f"benchmark/{name}.py", *([tmp_path / "runs/a"] if name == "attacks" else ["--algorithms", "x"]))
        assert (code, err.count("\n")) == (2, 1) and told in err, err


@pytest.mark.parametrize("module, columns, rows", [(rorl_table1, 6, 15), (edac_table1, 3, 18), (pbrl_table1, 1, 15)])
def test_the_papers_tables(module, columns, rows, tmp_path):
    """Every cell has a published number, and flags that its algorithm's file accepts for its dataset."""
    table = make(module.TABLE, ["--runs", str(tmp_path)])
    assert len(module.TABLE.columns) == columns and len(module.TABLE.datasets) == rows and len(GYM) == 15
    paper = published(module.TABLE)
    for this in table.cells:
        assert (this.dataset, module.TABLE.columns[this.column].published or this.column) in paper, this
        module_of = load_script(ROOT / f"algorithms/{this.algorithm}.py")
        config = dict(zip(this.words, this.words[1:])).get("--config", "paper").upper().replace("-", "_")
        assert this.dataset in vars(module_of)[config], this
        assert json.loads(this.settings)["updates"] == (1_000_000 if this.algorithm in ("pbrl", "cql") else 3_000_000)
    for name in module.TABLE.quoted:
        assert all((dataset, name) in paper for dataset in module.TABLE.datasets)


@pytest.mark.parametrize("small", [False, True])
def test_attack_models(small, tmp_path):
    table = make(rorl_attacks.table(True, small), ["--runs", str(tmp_path)], rorl_attacks.Args)
    assert len(table.table.columns) == 6 + small and len(table.cells) == (7 if small else 18)
    for this in table.cells:
        assert json.loads(this.settings)["updates"] == (30_000 if small else 3_000_000)


# Whole grids, on stand-ins of 2,000 rows


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "two.py").write_text(SCRIPT)
    return tmp_path / "two.py"


def words_of(tmp_path, *words):
    return ["--standin", "--datasets", "hopper-medium-v2", "--runs", tmp_path / "runs", "--out", tmp_path / "out", *words]


def test_from_nothing_to_a_table_and_nothing_twice(script, tmp_path):
    words = words_of(tmp_path, "--updates", 4, "--jobs", 2, *TINY)
    code, out, err = run_script(script, *words)
    assert code == 0 and err == "", err
    assert len(list((tmp_path / "runs").glob("*.standin-*"))) == 4 and "STAND-IN DATA" in out
    with open(next((tmp_path / "out").glob("two.standin.changed.part.????????.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["algorithm"], row["seeds"]) for row in rows if row["data"] == "standin"] == [("td3_bc", "2"), ("sac_10", "2")]
    for row in rows:
        if row["data"] == "standin":  # the table's numbers are the runs' own
            last = [run.result["seeds"][str(seed)]["last"] for run in find_runs(tmp_path / "runs")
                    if run.algorithm == {"sac_10": "sac_n"}.get(row["algorithm"], row["algorithm"]) for seed in run.seeds]
            assert sorted(map(repr, last)) == sorted(row["scores"].split())
    logs = [path.read_text() for path in (tmp_path / "runs/.grid").glob("*.log")]
    assert len(logs) == 4 and all("mean of last 10" in log and "mean ± std" not in log for log in logs)  # one seed has no spread
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if ".grid" not in str(path)}
    code, again, err = run_script(script, *words)
    assert code == 0 and "started" not in again and again.strip() == out[out.index("# Two"):].strip()
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.usefixtures("standin")
def test_ctrl_c_then_the_same_command_goes_on(script, tmp_path):
    words = words_of(tmp_path, "--columns", "td3_bc", "--seeds", 0, "--updates", 300, *TINY, "--log-every", 100, "--save-seconds", 10**6)
    pause = Pause(tmp_path / "pause")
    pause.at(150)
    grid = Script(script, *words, env=os.environ | pause.env)
    grid.until(lambda: pause.reached(150))
    code, _, err = grid.end(signal.SIGINT)
    assert code == 130 and "the same command goes on from here" in err and "Traceback" not in err
    (run,) = find_runs(tmp_path / "runs")
    assert run.progress == 150 and not run.result
    assert "| hopper-medium-v2 | - |" in next((tmp_path / "out").glob("two.standin.changed.part.*.md")).read_text()  # the table so far
    code, out, err = run_script(script, *words)
    assert code == 0 and "resumed td3_bc hopper-medium-v2 seeds 0" in out, err
    (run,) = find_runs(tmp_path / "runs")
    assert run.result["step"] == 300 and len((run.folder / "log.csv").read_text().splitlines()) == 4


@pytest.mark.usefixtures("standin")
def test_kill_9_of_the_grid_leaves_a_run_that_is_not_started_twice(script, tmp_path):
    words = words_of(tmp_path, "--columns", "td3_bc", "--seeds", 0, "--updates", ENDLESS, *INLINE)
    grid = Script(script, *words)
    grid.until(lambda: list((tmp_path / "runs").glob("*/log.csv")))
    grid.end(signal.SIGKILL)
    grid = Script(script, *words)
    grid.until(lambda: "td3_bc hopper-medium-v2 seeds 0: is running already, started elsewhere; it is waited for" in grid.said()[0])
    code, _, _ = grid.end(signal.SIGTERM)
    assert code == 130 and len(find_runs(tmp_path / "runs")) == 1
    other = make(TABLE, [*map(str, words_of(tmp_path, "--columns", "td3_bc", "--updates", ENDLESS)), *map(str, INLINE)])
    shutil.move(find_runs(tmp_path / "runs")[0].folder, tmp_path / "moved")  # as if it had no folder yet
    other.find()
    (job,), (first, second) = other.jobs(True), other.jobs(False)
    assert job.seeds == (0, 1) and not hold(job) and not hold(first)  # whatever the grouping of the seeds, 0 is held
    (file,) = hold(second)
    file.close()
    shutil.move(tmp_path / "moved", tmp_path / "runs" / "moved")
    (run,) = find_runs(tmp_path / "runs")
    subprocess.run(["pkill", "-KILL", "-f", f"td3_bc.py .*{tmp_path}"], check=True)  # now the run dies too
    wait_until(lambda: not pids(f"td3_bc.py .*{tmp_path}"))
    assert not run.result
    grid, (log,) = Script(script, *words), (tmp_path / "runs/.grid").glob("*.log")
    grid.until(lambda: "resumed at update" in log.read_text())
    code, _, _ = grid.end(signal.SIGTERM)
    assert code == 130 and len(find_runs(tmp_path / "runs")) == 1


@pytest.mark.usefixtures("standin")
def test_what_is_killed_goes_on(script, tmp_path):
    """The training process, and the process that evaluates: one command makes the table all the same."""
    words = words_of(tmp_path, "--columns", "td3_bc", "--seeds", 0, "--updates", 300, *TINY, "--eval-every", 50, "--log-every", 25, "--save-seconds", 0)
    pause = Pause(tmp_path / "pause")
    pause.at(110)
    grid = Script(script, *words, env=os.environ | pause.env)
    grid.until(lambda: pause.reached(110))
    pause.at(210)
    (training,) = pids(f"td3_bc.py .*{tmp_path}")
    os.kill(training, signal.SIGKILL)
    grid.until(lambda: pause.reached(210))
    (training,) = pids(f"td3_bc.py .*--resume {tmp_path}")
    os.kill(max(children(training)), signal.SIGKILL)  # the youngest child evaluates
    pause.go_on(210)
    code, out, err = grid.end()
    (run,), log = find_runs(tmp_path / "runs"), next((tmp_path / "runs/.grid").glob("*.log")).read_text()
    assert code == 0 and "started td3_bc" in out and run.result["step"] == 300, err
    assert log.count("resumed at update") == 2 and "the evaluation worker died" in log
    assert len((run.folder / "eval.csv").read_text().splitlines()) == 7


@pytest.mark.usefixtures("standin")
def test_a_failed_run_is_told_and_the_others_go_on(script, tmp_path):
    script.write_text(SCRIPT.replace("--config sac-10", "--config sac-10 --eval-env halfcheetah-medium-v2"))
    code, out, err = run_script(script, *words_of(tmp_path, "--seeds", 0, "--updates", 2, *INLINE))
    assert code == 1 and "finished td3_bc" in out and "FAILED sac_10 hopper-medium-v2 seeds 0, exit code 2; the end of" in out
    assert "error: halfcheetah-medium-v2 (d4rl physics) has observations (17,)" in out and err.count("\n") == 3 and "1 runs are missing" in err
    assert "| hopper-medium-v2 |" in next((tmp_path / "out").glob("two.standin.changed.part.*.md")).read_text()


def test_data_that_cannot_be_had(script, tmp_path):
    """One process finds out; the dataset's other runs are not tried. A stand-in never takes its place."""
    code, out, err = run_script(script, "--datasets", "hopper-medium-v2", "--jobs", 1, "--runs", tmp_path / "runs", "--out", tmp_path / "out", real=True)
    assert code == 1 and out.count("started") == 1 and err.count("hopper-medium-v2: not at hand") == 4
    assert not list((tmp_path / "runs").glob("*-*"))


def test_what_others_left_is_planned_anew(tmp_path, monkeypatch):
    """Seed 0 was finished, seed 1 begun in another grouping, while a job with both waited: only what is left is trained."""
    trained = []

    def train(job, *_):
        trained.append((job.seeds, job.resume and job.resume.folder.name))
        write_run(tmp_path / f"done{len(trained)}", "td3_bc", "--env hopper-medium-v2", seeds=job.seeds, scores=[1.0] * len(job.seeds))
        return 0, ["fine"]

    monkeypatch.setattr("benchmark.engine.jobs._train", train)
    table = make(TABLE, ["--runs", str(tmp_path), "--columns", "td3_bc", "--datasets", "hopper-medium-v2"])
    (both,) = table.jobs(True)
    write_run(tmp_path / "a", "td3_bc", "--env hopper-medium-v2", seeds=(0,))
    assert work(both) == CHANGED and not trained
    write_run(tmp_path / "b", "td3_bc", "--env hopper-medium-v2", seeds=(1, 7), scores=None)
    assert work(both) == CHANGED and not trained
    (rest,) = table.again(both, True)
    assert work(rest) == "" and trained == [((1, 7), "b")] and work(rest) == ""  # nothing twice
    stale, real = iter([[both]] * 2), table.jobs  # the plan is older than what they left
    monkeypatch.setattr(table, "jobs", lambda together: next(stale, None) or real(together))
    trained.clear()
    shutil.rmtree(tmp_path / "done1")
    table.run()
    assert trained == [((1, 7), "b")] and not table.failed


def test_a_run_that_is_not_the_cells_any_more_fails_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmark.engine.jobs._train", lambda *_: (0, ["fine"]))
    monkeypatch.setattr("benchmark.engine.grid.time.sleep", lambda seconds: None)
    table = make(TABLE, ["--runs", str(tmp_path), "--columns", "td3_bc", "--datasets", "hopper-medium-v2", "--seeds", "0"])
    table.run()
    assert "has no such run; was the algorithm's file changed?" in table.failed[0] and "FAILED td3_bc" in capsys.readouterr().out


def test_an_unexpected_error_stops_what_runs(tmp_path, monkeypatch):
    """Of one job: its failure. Of the grid itself: all runs are stopped before it goes on its way."""
    def broken(job, gpu, stopped):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr("benchmark.engine.executors.work", broken)
    table = make(TABLE, ["--runs", str(tmp_path), "--columns", "td3_bc", "--seeds", "0"])
    table.run()
    assert [line.partition(": ")[2] for line in table.failed] == ["ZeroDivisionError: broken"] * 2
    ended = []

    def patient(job, gpu, stopped):
        wait_until(stopped)
        ended.append(job)
        return STOPPED

    monkeypatch.setattr("benchmark.engine.executors.work", patient)
    monkeypatch.setattr(Local, "outcome", lambda self, handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        table.run()
    assert ended


def test_a_stale_log_is_not_blamed(tmp_path, monkeypatch):
    table = make(TABLE, ["--runs", str(tmp_path), "--columns", "td3_bc", "--datasets", "hopper-medium-v2", "--seeds", "0"])
    (job,) = table.jobs(False)
    job.log.parent.mkdir()
    job.log.write_text("error: hopper-medium-v2: not at hand\n")
    monkeypatch.setattr(type(job), "command", ["python", "-c", "raise SystemExit(3)"])
    assert work(job).splitlines() == ["exit code 3", "no output"]
    monkeypatch.setattr(type(job), "command", ["python", "-c", "import os; print(os.getpid(), flush=True); os.kill(os.getpid(), 15)"])
    assert work(replace(job, retries=2)).startswith("exit code -15") and len(job.log.read_text().splitlines()) == 1 + 3


def test_a_bad_folder_stops_nobodys_grid(tmp_path, capsys):
    """Somebody else's folders, of any kind, are told once and passed over; what is no run at all is left alone."""
    words = ["--runs", str(tmp_path), "--columns", "td3_bc", "--datasets", "hopper-medium-v2", "--out", str(tmp_path / ".out")]
    write_run(tmp_path / "r", "td3_bc", "--env hopper-medium-v2")
    for name in BROKEN:  # each would be of the cell, were it whole
        write_run(tmp_path / name, "td3_bc", "--env hopper-medium-v2", seeds=(1,))
        BROKEN[name](tmp_path / name)
    for name, config in (("bytes", b"\xff\xfe"), ("none", b"{}"), ("few", b'{"algorithm": "x", "command": "", "args": {"seeds": [0], "env": "x"}, "dataset_source": "d4rl"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(config)
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle/config.json").symlink_to(tmp_path / "circle/config.json")  # as a folder that we may not read: an OSError
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    table = make(TABLE, words)
    (this,) = table.cells
    assert [run.folder.name for run in table.found[this]] == ["r"] and [job.seeds for job in table.jobs(False)] == [(1,)]
    table.find()
    tables.write(table)
    table.plan()
    err = capsys.readouterr().err
    told = [name for name in (*BROKEN, "bytes", "none", "few", "circle") if err.count(f"{tmp_path}/{name}") != err.count(f"passed over: {tmp_path}/{name}")]
    assert err.count("passed over: ") == err.count("\n") == len(BROKEN) + 4, (told, err)


@pytest.mark.parametrize("what", ["locks", "log"])
def test_links_and_pipes_in_the_place_of_locks_and_logs(what, tmp_path):
    """A folder of runs from somebody else: nothing is written through a link, and no pipe is waited for."""
    job = make(TABLE, ["--seeds", "0", "--runs", str(tmp_path / "runs"), *map(str, TINY)]).jobs(False)[0]
    path, mine = job.log if what == "log" else job.locks[0], tmp_path / "mine.txt"
    path.parent.mkdir(parents=True)
    mine.write_text("mine")
    for put in (lambda: path.symlink_to(mine), lambda: os.mkfifo(path)):
        put()
        with pytest.raises(InputError, match="cannot (start|write)"):
            work(job)
        path.unlink()
    assert mine.read_text() == "mine" and not find_runs(tmp_path / "runs")


def test_a_folder_that_goes_meanwhile_or_cannot_be_read(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "r", "td3_bc", "--env hopper-medium-v2")
    write_run(tmp_path / "gone", "td3_bc", "--env hopper-medium-v2", seeds=(1,), scores=None)
    real = os.stat

    def stat(path, *args, **options):
        if str(path).startswith(str(tmp_path / "r/")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    table = make(TABLE, ["--runs", str(tmp_path), "--columns", "td3_bc", "--datasets", "hopper-medium-v2"])
    shutil.rmtree(tmp_path / "gone")
    assert table.seconds(table.jobs(False)[0]) is not None  # what was found before
    monkeypatch.setattr(os, "stat", stat)
    assert find_runs(tmp_path) == [] and "r: cannot be read" in capsys.readouterr().err and find_runs(tmp_path / "nowhere") == []
    monkeypatch.setattr(os, "listdir", lambda folder: stat(tmp_path / "r/x"))
    with pytest.raises(InputError, match="cannot be read .*choose another folder with --runs"):
        find_runs(tmp_path)


def test_real_data_are_not_used_for_a_standin_table(tmp_path):
    from common.sources import cache_file
    cache_file("").mkdir(parents=True)
    cache_file("hopper-medium-v2.npz").write_text("D4RL's")
    table = make(TABLE, list(map(str, words_of(tmp_path, "--columns", "td3_bc"))))
    table.run()
    assert "D4RL's own hopper-medium-v2 is in the cache; leave --standin out" in table.failed[0]


def test_out_must_be_writable(tmp_path):
    (tmp_path / "file").write_text("")
    table = make(TABLE, ["--runs", str(tmp_path), "--out", str(tmp_path / "file/out")])
    with pytest.raises(InputError, match="cannot write .*choose another folder with --out"):
        tables.write(table)


def test_attack_models_are_trained_then_attacked(tmp_path):
    words = ["--small", "--standin", "--columns", "td3_bc", "--updates", 4, "--eps", 0, 0.2, "--episodes", 1, "--step", "scaled", "--runs",
             tmp_path / "runs", "--out", tmp_path / "out"]
    code, out, err = run_script(ROOT / "benchmark/rorl_attacks.py", *words, *INLINE)
    assert code == 0 and err == "", err
    assert {re.sub(r"\.[0-9a-f]{8}", ".#", path.name) for path in (tmp_path / "out").iterdir()} == {f"rorl_attacks_small.standin.changed.part.#.{suffix}" for suffix in (
        "md", "csv", "runs.csv", "html", "attacked.#.csv", *(f"attacked.#.{form}" for form in FORMATS))}
    with open(next((tmp_path / "out").glob("*.attacked.*.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    (run,) = find_runs(tmp_path / "runs")
    assert {row["agent"] for row in rows} == {"td3_bc"} and {row["data"] for row in rows} == {"standin"} and len(rows) == 1 + 5
    assert float(rows[0]["score"]) == run.result["seeds"]["0"]["last"]  # radius 0 is the run's own evaluation
