"""benchmark/plot.py: which runs are one group, what is never mixed, and what a set of folders leaves."""

import json
import shutil

import pytest

from benchmark.engine.figures import attack_figure
from benchmark.engine.runs import read_run
from benchmark.plot import Args, dataset, gather, main, read
from common import InputError
from common.args import cli
from tests.helpers import BROKEN, ROOT, run_script
from tests.test_page import write_run

SCRIPT = ROOT / "benchmark/plot.py"


def three(*names) -> set[str]:
    """The files of figures."""
    return {f"{name}.{form}" for name in names for form in ("png", "pdf", "svg")}


def test_groups(tmp_path, capsys):
    """Runs that differ in nothing but seeds; of a seed that is there twice, the newest."""
    write_run(tmp_path / "b", "rorl", evaluations={0: {100: 1.0}, 1: {100: 2.0}}, words="--num-critics 5", num_critics=5, started="20261101-000001")
    write_run(tmp_path / "a", "rorl", evaluations={1: {100: 3.0}, 2: {100: 4.0}}, words="--num-critics 5", num_critics=5, started="20261101-000002")
    write_run(tmp_path / "c", "rorl", evaluations={0: {50: 9.0}}, words="--num-critics 5", num_critics=5)  # other updates, which a label does not have
    write_run(tmp_path / "d", "rorl", evaluations={0: {100: 5.0}})
    write_run(tmp_path / "e", "rorl", evaluations={0: {100: 6.0}}, kind="standin")
    write_run(tmp_path / "f", "rorl", evaluations={0: {100: 7.0}}, env="/data/mine.npz", kind="file", eval_env="hopper-medium-v2", words="--eval-env hopper-medium-v2")
    runs = read(tuple(sorted(tmp_path.iterdir())) + (tmp_path / "a" / ".." / "a",))
    assert len(runs) == 6 and [run.folder.name for run in runs][-2:] == ["b", "a"]
    groups = gather(runs)
    found = {(group.dataset, group.algorithm): {seed: run.folder.name for seed, run in group.runs.items()} for group in groups}
    assert found == {("hopper-medium-v2", "rorl"): {0: "d"}, ("hopper-medium-v2 (stand-in data)", "rorl"): {0: "e"}, ("mine.npz on hopper-medium-v2", "rorl"): {0: "f"},
                     ("hopper-medium-v2", "rorl num-critics=5 updates=100"): {0: "b", 1: "a", 2: "a"}, ("hopper-medium-v2", "rorl num-critics=5 updates=50"): {0: "c"}}
    assert "seed 1 of rorl num-critics=5, hopper-medium-v2 is there twice: a counts, not b" in capsys.readouterr().err
    copy = write_run(tmp_path / "g", "rorl", evaluations={0: {100: 6.5}}, kind="standin")  # as e, of other data: nothing but its folder tells it
    copy.config["data"]["sha256"] = "0"
    assert {group.algorithm for group in gather([*runs, copy]) if group.standin} == {"rorl e", "rorl g"} and dataset(copy).endswith("(stand-in data)")
    old = write_run(tmp_path / "h", "rorl", evaluations={1: {100: 5.0}})  # as d, simulated in another way
    assert [group.algorithm for group in gather([*runs, old]) if 1 in group.runs and len(group.runs) == 2] == ["rorl"]
    old.config["physics"] = "d4rl-9"
    assert {(group.dataset, group.algorithm) for group in gather([*runs, old]) if group.dataset not in {group.dataset for group in groups}} == {
        ("hopper-medium-v2 (physics d4rl-9)", "rorl")}


def test_runs_of_older_physics_change_no_statistic_of_todays(tmp_path, capsys):
    for algorithm in ("td3_bc", "edac"):
        for seed in (0, 1):
            for env in ("hopper-medium-v2", "halfcheetah-medium-v2"):
                write_run(tmp_path / f"runs/{algorithm}-{env}-{seed}", algorithm, env=env, evaluations={seed: {100: 40.0 + seed}})
    words = [*sorted((tmp_path / "runs").iterdir()), "--out", tmp_path / "out"]
    main(cli(Args, list(map(str, words))))
    before = capsys.readouterr().out
    old = write_run(tmp_path / "old", "td3_bc", env="halfcheetah-medium-v2", evaluations={0: {100: 99.0}}).config
    (tmp_path / "old/config.json").write_text(json.dumps(old | {"physics": "d4rl"}))
    main(cli(Args, list(map(str, [tmp_path / "old", *words]))))
    after = capsys.readouterr().out
    shown = [line for line in after.splitlines() if line not in before.splitlines() and "tmp" not in line]
    assert [line.split()[:4] for line in shown if "99" in line] == [["halfcheetah-medium-v2", "(physics", "d4rl-1)", "td3_bc"]]
    both, page = [next((tmp_path / "out").glob(f"{number}-runs.*.html")).read_text() for number in (8, 9)]
    assert "2 algorithms, 2 datasets, 2 seeds each." in both
    assert "2 algorithms, 2 datasets, 2 seeds each. Left out: halfcheetah-medium-v2 (physics d4rl-1) (another physics)." in page


def test_any_set_of_folders(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    for seed, score in enumerate((60.0, 80.0)):
        write_run(runs / f"rorl{seed}", "rorl", evaluations={seed: {100: score / 2, 200: score}})
    write_run(runs / "td3", "td3_bc", evaluations={0: {100: 5.0, 200: 7.0}}, finished=False, updates=5000)
    write_run(runs / "edac", "edac", evaluations={0: {100: 5.0, 200: 7.0}}, kind="standin")
    write_run(runs / "pen", "rorl", env="D4RL/pen/human-v2", raw=True)
    (runs / "junk").mkdir()
    (runs / "file").write_text("")
    (runs / "old").mkdir()
    (runs / "old/config.json").write_text(json.dumps({"algorithm": "x", "args": {"seeds": [0]}, "command": "x", "dataset_source": "d4rl"}))
    code, text, err = run_script(SCRIPT, *sorted(runs.iterdir()), "--out", out, cwd=tmp_path, real=True)
    assert code == 0 and err.count("passed over: ") == err.count("\n") == 3, err
    lines = [line.split() for line in text.splitlines()]
    assert ["D4RL/pen/human-v2", "rorl", "300.00", "(return)", "1", "100.0", "s", "2.0"] in lines
    assert ["hopper-medium-v2", "rorl", "70.00", "±", "10.00", "2", "100.0", "s", "2.0"] in lines and "STAND-IN DATA" in text
    assert ["hopper-medium-v2", "(stand-in", "data)", "edac", "7.00", "1", "100.0", "s", "2.0"] in lines
    assert "Fewer than five seeds in 3 cells: one seed has no std, with 2 the 95% interval of the mean is ± 12.7 times the std." in text
    assert ["hopper-medium-v2", "td3_bc", "-", "0", "-", "-", "unfinished:", "200", "of", "5,000", "updates"] in lines
    (page,) = out.glob("*.html")
    assert {path.name for path in out.iterdir()} == {page.name} | three(f"{page.stem}.curves", f"{page.stem}.profile") and text.count(str(out)) == 3
    assert page.stem.startswith("5-runs.")
    html = page.read_text(encoding="utf-8")
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    panels = {panel["dataset"]: panel for panel in data["curve"]}
    assert {name: (panel["unit"], panel["standin"], len(panel["lines"])) for name, panel in panels.items()} == {
        "D4RL/pen/human-v2": ("return", False, 1), "hopper-medium-v2": ("normalised score", False, 2), "hopper-medium-v2 (stand-in data)": ("normalised score", True, 1)}
    assert len(data["profile"]) == 2 and len(data["time"][0]) == 2 and "<tfoot>" not in html  # a mean over units and data means nothing
    assert "1 algorithm, 1 dataset, 2 seeds. Left out: td3_bc (no finished run); D4RL/pen/human-v2 (raw returns)." in html
    first = page.read_bytes()
    main(Args(tuple(reversed(sorted(runs.iterdir()))), out))
    assert page.read_bytes() == first and len(list(out.iterdir())) == 7
    for words in ({"score": "best"}, {"runs": (runs / "rorl0", runs / "rorl1")}, {"runs": (runs / "rorl0",)}):
        main(Args(**{"runs": tuple(sorted(runs.iterdir())), "out": out} | words))
    assert page.read_bytes() == first and len(list(out.glob("*.html"))) == 4 and len(list(out.glob("rorl0.*.html"))) == 1  # nothing is replaced by other runs


def test_nothing_finished_and_another_score(tmp_path, capsys):
    write_run(tmp_path / "a", finished=False, updates=900)
    main(Args((tmp_path / "a",), tmp_path / "out", "mine"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mine.html"} | three("mine.curves") and "200 of 900 updates" in capsys.readouterr().out
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/eval.csv").unlink()
    main(Args((tmp_path / "b",), tmp_path / "none"))
    assert [path.suffix for path in (tmp_path / "none").iterdir()] == [".html"] and "0 of 900 updates" in capsys.readouterr().out
    write_run(tmp_path / "c")
    main(Args((tmp_path / "c",), tmp_path / "out", "mine", "best"))
    assert " 2.00   1 " in (out := capsys.readouterr().out) and "the best evaluation" in out


def test_bad_folders(tmp_path, capsys):
    (tmp_path / "junk").mkdir()
    with pytest.raises(InputError, match="junk: no run folder, or a broken one"):
        main(Args((tmp_path / "junk",)))
    with pytest.raises(InputError, match="no run folder among them"):
        main(Args((tmp_path / "junk", tmp_path / "gone")))
    with pytest.raises(InputError, match="no run folder among them"):
        main(Args(()))
    assert capsys.readouterr().err.count("passed over") == 2
    write_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*choose another folder with --out"):
        main(Args((tmp_path / "a",), tmp_path / "file/out"))


NAMES = "a$\\frac{$b", "_x", "<script>alert(1)</script>", "x" * 5000, "x" * 5000 + "y", "two\nlines", "half\ud800 a letter", "\\$", "100%"


def test_names_are_data(tmp_path, capsys):
    """Whatever a dataset or an algorithm is called, the page and the figures are there, and each has its own panel and line."""
    for i, nasty in enumerate(NAMES):
        write_run(tmp_path / f"runs/{i}", "rorl", env=nasty, words=f"'{nasty}'")
        write_run(tmp_path / f"runs/{i}b", f"{nasty.replace('/', '')[:99]}", env="hopper-medium-v2", words=f"--x '{nasty}")
    main(Args(tuple((tmp_path / "runs").iterdir()), tmp_path / "out", "p"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"p.html"} | three("p.curves", "p.profile")
    html = (tmp_path / "out/p.html").read_text(encoding="utf-8")
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    assert len(data["curve"]) == len(NAMES) + 1 and len(data["names"]) == len(NAMES) and max(map(len, data["names"])) <= 200
    assert "<script>alert" not in html and html.count("</script>") == 2
    out = capsys.readouterr().out
    assert "two\\nlines" in out and out.partition("\n\n")[0].count("\n") == 2 * len(NAMES) - 1 and out.encode()


def test_attack_figures_have_any_name(tmp_path):
    rows = [{"attack": "random", "optimizer": "", "step": "", "task": nasty[:20], "agent": nasty[:100], "eps": "0.1", "score": "3", "data": "d4rl"}
            for nasty in NAMES if "\ud800" not in nasty]
    attack_figure(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_is_one_line(how, tmp_path, capsys):
    """Alone it is an error; among others it is passed over, told once."""
    write_run(tmp_path / "sound")
    write_run(tmp_path / "broken")
    BROKEN[how](tmp_path / "broken")
    with pytest.raises(InputError) as error:
        read((tmp_path / "broken",))
    assert str(tmp_path / "broken") in str(error.value)
    assert [run.folder.name for run in read((tmp_path / "broken", tmp_path / "sound"))] == ["sound"]
    assert [run.folder.name for run in read((tmp_path / "broken", tmp_path / "sound"))] == ["sound"]
    assert capsys.readouterr().err == f"passed over: {error.value}\n"


def test_a_result_that_a_kill_has_torn_is_none_yet(tmp_path):
    write_run(tmp_path / "a")
    whole = (tmp_path / "a/result.json").read_text()
    (tmp_path / "a/result.json").write_text(whole[:40])
    assert read_run(tmp_path / "a").result is None and gather(read((tmp_path / "a",)))[0].unfinished() == "200 of 200 updates"
