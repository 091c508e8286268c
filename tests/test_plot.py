"""benchmark/plot.py: which runs are one group, what is never mixed, and what a set of folders leaves."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from benchmark.engine import figures
from benchmark.engine.curves import Group, logged
from benchmark.engine.figures import COLOURS, FORMATS, MARKERS, apart, attack_figure, number, profile_figure, spread, styles, sweep_figure
from benchmark.engine.runs import read_run
from benchmark.plot import Args, brief, dataset, gather, main, read
from common import InputError
from common.args import cli
from tests.helpers import BROKEN, ROOT, run_script
from tests.test_page import write_run

SCRIPT = ROOT / "benchmark/plot.py"


def three(*names) -> set[str]:
    """The files of figures."""
    return {f"{name}.{form}" for name in names for form in FORMATS}


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


# Figures


@pytest.fixture
def drawn(monkeypatch):
    """[(figure, its caption)] of all that is saved; and it is saved."""
    found, save = [], figures.save
    monkeypatch.setattr(figures, "save", lambda figure, path, caption: (found.append((figure, caption)), save(figure, path, caption)))
    return found


def write_log(folder, rows):
    (folder / "log.csv").write_text("\n".join(",".join(map(str, row)) for row in [("step", "seed", "loss", "q_$x"), *rows]) + "\n")


def columns(figure) -> int:
    return max(ax.get_subplotspec().get_gridspec().ncols for ax in figure.axes)


def attack_rows(attacks, seeds=2):
    facts = {"task": "hopper", "agent": "rorl", "data": "standin", "episodes": "10"}
    return [facts | {"attack": attack, "optimizer": "", "step": "", "eps": eps, "score": 50 - seed - 100 * eps}
            for attack in ("clean", *attacks) for eps in ([0.0] if attack == "clean" else [0.1, 0.2]) for seed in range(seeds)]


def test_three_files_with_the_same_bytes_and_their_caption(tmp_path):
    """No date and no random name in any of them: what is committed changes only with what is shown."""
    for folder in "ab":
        attack_figure(attack_rows(("random", "min-q")), tmp_path / folder / "x.1.png")
    assert {path.name for path in (tmp_path / "a").iterdir()} == three("x.1")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate", path.read_bytes())
    caption = Image.open(tmp_path / "a/x.1.png").text["Description"]
    assert "n = 2 seeds, 10 episodes each" in caption and "Band: ± one population standard deviation" in caption
    svg, pdf = (tmp_path / "a/x.1.svg").read_text(), (tmp_path / "a/x.1.pdf").read_bytes()
    assert caption in svg and pdf.startswith(b"%PDF") and b"/Subject" in pdf and b"/Type3" not in pdf  # journals refuse fonts of type 3


def test_every_caption_has_n_and_the_intervals_name(tmp_path, drawn):
    for algorithm in ("rorl", "td3_bc"):
        for seed in (0, 1):
            write_log(write_run(tmp_path / f"runs/{algorithm}{seed}", algorithm, evaluations={seed: {100: 5.0, 200: 9.0 + seed}}).folder, [(100, seed, 2.0, -1.0)])
    main(Args(tuple((tmp_path / "runs").iterdir()), tmp_path / "out", "p", logs=True))
    attack_figure(attack_rows(("random",), seeds=1), tmp_path / "a.png")
    sweep_figure({"hopper": ({"c": {0.1: [20.0], 0.01: [3.0, 4.0]}}, {0.1: 12.0, 0.01: 2.0})}, "x", "data", tmp_path / "f.png")
    told = [caption for _, caption in drawn]
    assert len(told) == 6 and all("n = " in caption and re.search(r"Band: |interval is drawn", caption) for caption in told)
    curves, profile, *logs, attack, sweep = told
    assert "n = 2 seeds" in curves and "± one population standard deviation over seeds" in curves
    assert "n = 2 runs of each algorithm, 2 seeds on 1 dataset. Band: 95% bootstrap interval" in profile
    assert all("n = 2 seeds" in log and "no interval" in log for log in logs)
    assert "n = 1 seed, 10 episodes each" in attack and "No interval is drawn: one seed." in attack
    assert "n = 1 to 2 seeds" in sweep and "from the least to the greatest seed, none where n = 1" in sweep
    for figure, caption in drawn:
        assert any(text.get_text().replace("\n", " ") == caption for text in figure.texts)  # it is in the picture
    assert number([3]) == "n = 3 seeds" and number(map(int, "12"), "run") == "n = 1 to 2 runs" and spread([2], "x") == "Band: x."


@pytest.mark.parametrize("count, grid", [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (7, (2, 4)), (9, (3, 3))])
def test_no_row_has_more_than_four_panels(count, grid, tmp_path, drawn):
    attack_figure(attack_rows([f"attack {i}" for i in range(count)]), tmp_path / "a.png")
    ((figure, _),) = drawn
    spec = figure.axes[0].get_subplotspec().get_gridspec()
    assert (spec.nrows, spec.ncols) == grid and len(figure.axes) == count
    assert len({ax.get_ylim() for ax in figure.axes}) == 1  # comparable


def test_names_stand_at_their_lines(tmp_path, drawn):
    """In the line's colour, none over another, tied to its end; names that are too long go to a legend."""
    for i in range(9):
        write_run(tmp_path / f"short/{i}", f"algorithm{i}", evaluations={0: {100: 5.0, 200: 20 + i / 100}, **({1: {100: 5.0, 200: 21.0}} if not i else {})})
    main(Args(tuple((tmp_path / "short").iterdir()), tmp_path / "out", "p"))
    figure = drawn[0][0]
    (ax,) = figure.axes
    assert not figure.legends and sorted(text.get_text() for text in ax.texts) == [f"algorithm{i} ({2 if not i else 1})" for i in range(9)]
    figure.draw_without_rendering()  # its last drawing was an SVG's, of other pixels
    boxes = sorted((Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes)) and min(box.x0 for box in boxes) >= ax.get_window_extent().x1
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 9
    for name, x in (("a" * 40, 1), ("b" * 40, 2)):
        write_run(tmp_path / f"long/{x}", name)
    main(Args(tuple((tmp_path / "long").iterdir()), tmp_path / "out", "q"))
    curve = drawn[2][0]
    assert [text.get_text() for text in curve.legends[0].get_texts()] == ["a" * 40, "b" * 40] and not curve.axes[0].texts


def test_places_apart():
    assert apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6]) and apart([0.1, 0.9], 0.1).tolist() == [0.1, 0.9]
    assert apart([0.0, 0.0], 0.2).tolist() == [0, 0.2] and apart([1.0, 1.0], 0.2) == pytest.approx([0.8, 1])
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert (np.diff(apart(sorted(rng.random(6)), 0.15)) > 0.15 - 1e-9).all()


def test_a_profile_has_steps_on_an_axis_that_fits(tmp_path, drawn):
    taus = np.array([18.0, 20, 22, 24])
    share = np.array([1.0, 0.5, 0, 0])
    profile_figure({"one": (taus, {"a": np.vstack([share] * 3), "b": np.vstack([share[[0, 0, 1, 2]]] * 3)}, 2, 1)}, styles("ab"), tmp_path / "p.png")
    (ax,) = drawn[0][0].axes
    assert ax.get_xlim() == (18, 24) and {line.get_drawstyle() for line in ax.lines} == {"steps-post"}
    assert {text.get_text(): text.xy for text in ax.texts} == {"a": (22, 0.25), "b": (22, 0.75)}


def test_lines_differ_for_every_eye():
    """In grey and for the colour-blind too: no two lines of 56 have both colour and marker in common, the first four
    colours are apart for deuteranopes and protanopes (Machado et al., 2009), and each stands out on white and on black."""
    pairs = [tuple(style.values()) for style in styles(range(56)).values()]
    assert len(set(pairs)) == 56 == len(COLOURS) * len(MARKERS)
    linear = {colour: np.where((x := np.array(to_rgb(colour))) <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) for colour in COLOURS}
    seen = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]), np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])

    def lab(rgb):
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    for matrix in (np.eye(3), *seen):
        for one, two in itertools.combinations(COLOURS[:4], 2):
            assert np.linalg.norm(lab(matrix @ linear[one]) - lab(matrix @ linear[two])) > 15, (one, two)
    for rgb in linear.values():
        light = rgb @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (light + 0.05) > 3 and (light + 0.05) / 0.059 > 3  # the page's dark ground is #15181d


def test_short_names(tmp_path):
    """The algorithm, and one flag that tells it from its others, where one does."""
    words = {"a": "--batch-size 64", "b": "--batch-size 64 --eps 0.1 --beta-q 1", "c": "--batch-size 64 --eps 0.2 --beta-q 1", "d": "--batch-size 64 --x 1 --y 1",
             "e": "--batch-size 64 --x 1 --z 1", "f": "--batch-size 64 --z 1"}
    runs = {name: write_run(tmp_path / name, "cql", words=word) for name, word in words.items()} | {"g": write_run(tmp_path / "g", "bc", words="--batch-size 64")}
    assert brief(runs) == {"a": "cql", "b": "cql eps=0.1", "c": "cql eps=0.2", "d": "cql y=1", "e": "cql x=1 z=1", "f": "cql z=1", "g": "bc"}
    assert brief(runs | {"h": write_run(tmp_path / "h", "bc", words="--batch-size 64")}) | {"g": "g", "h": "h"} == brief(runs | {"h": runs["g"]})


# Logs


def test_logs_of_any_run(tmp_path, drawn, capsys):
    """A small panel per column and a line per seed; without --logs only of a run that nothing evaluates."""
    run = write_run(tmp_path / "runs/a", evaluations={0: {100: 1.0, 200: 2.0}, 1: {100: 1.5, 200: 2.5}})
    rows = [(step, seed, step / 10, "" if step < 100 else -step * (seed + 1)) for step in (50, 100, 150, 200) for seed in (0, 1)]
    write_log(run.folder, rows + [(250, 0, "x", 1), (300, 7, 1, 1), (0, 0, 1, 1)])
    with open(run.folder / "log.csv", "a") as file:
        file.write("350,0,1")  # torn
    main(Args((run.folder,), tmp_path / "out", "plain"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plain.html"} | three("plain.curves", "plain.profile")
    assert 'id="logs"' not in (tmp_path / "out/plain.html").read_text(encoding="utf-8") and len(drawn) == 2
    main(cli(Args, ["--logs", "--out", str(tmp_path / "out"), "--name", "logs", str(run.folder)]))
    assert three("logs.logs") <= {path.name for path in (tmp_path / "out").iterdir()} and "logs.logs.png" in capsys.readouterr().out
    figure = drawn[-1][0]
    assert [ax.get_title() for ax in figure.axes] == ["loss", "q_$x"] and columns(figure) <= 4
    loss, q = figure.axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[step, step / 10] for step in (50, 100, 150, 200)]] * 2
    assert [line.get_xydata().tolist() for line in q.lines] == [[[step, -step * n] for step in (100, 150, 200)] for n in (1, 2)]  # no number, no point
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed 0", "seed 1"] and figure.legends[0].get_title().get_text() == "rorl, hopper-medium-v2"
    page = (tmp_path / "out/logs.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [(plot["column"], [line["seed"] for line in plot["lines"]]) for plot in data["log"]] == [("loss", [0, 1]), ("q_$x", [0, 1])]
    assert data["log"][1]["lines"][1]["y"] == [None, -200, -300, -400] and "n = 2 seeds" in page.partition('id="logs"')[2]
    shutil.copytree(run.folder, tmp_path / "runs/b")
    (tmp_path / "runs/b/eval.csv").unlink()
    main(Args((tmp_path / "runs/b",), tmp_path / "bare", "bare"))
    assert three("bare.logs") <= {path.name for path in (tmp_path / "bare").iterdir()} and 'id="logs"' in (tmp_path / "bare/bare.html").read_text(encoding="utf-8")


def test_a_long_log_is_thinned_on_the_page_and_its_end_is_kept(tmp_path):
    run = write_run(tmp_path / "a")
    write_log(run.folder, [(step, 0, 10.0 ** (step / 100), step / 3) for step in range(1, 1000)])
    main(Args((run.folder,), tmp_path / "out", "p", logs=True))
    page = (tmp_path / "out/p.html").read_text(encoding="utf-8")
    loss, q = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["log"]
    assert loss["log"] and not q["log"] and len(loss["lines"][0]["y"]) <= 400 and loss["lines"][0]["steps"][-1] == 999 and q["lines"][0]["y"][-1] == 333
    steps, table = logged(Group("x", "rorl", {0: run}))[0]
    assert len(steps) == 999 and list(table) == ["loss", "q_$x"]


def test_a_broken_log_is_told_and_passed_over(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    (run.folder / "log.csv").mkdir()
    main(Args((run.folder,), tmp_path / "out", "p", logs=True))
    assert capsys.readouterr().err == f"passed over: {run.folder}/log.csv: cannot be read (it is no regular file, but a folder, pipe, device or socket)\n"
    for text in ("", "step,seed\n", "x,y\n1,2\n", "step,seed,loss\n100,zero,1\n"):
        (run.folder / "log.csv").rmdir() if (run.folder / "log.csv").is_dir() else None
        (run.folder / "log.csv").write_text(text)
        assert logged(Group("x", "rorl", {0: run})) == {}


def test_scripts_draw_with_one_module():
    """No script has a figure, a colour or a way of saving of its own."""
    for path in (ROOT / "benchmark").glob("*.py"):
        text = path.read_text()
        assert not re.search(r"savefig|plt\.|Figure\(|#[0-9a-f]{6}|colou?r=f?\"C\d", text), path.name
