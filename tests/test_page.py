"""Statistics against hand computations, curves of damaged files, and the page: what it says, and how Chromium shows it."""

import csv
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from benchmark.engine import page, robust, tables
from benchmark.engine.curves import Group
from benchmark.engine.figures import COLOURS
from benchmark.engine.robust import above, aggregates, comparisons, improvement, improvements, profiles, thresholds
from benchmark.engine.runs import read_run
from common.physics import version
from tests.helpers import DEADLINE

NASTY = '<b>&"\'$x</script><!--'


@pytest.fixture(autouse=True, scope="module")
def fewer_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "REPETITIONS", 300)
        yield


def write_run(folder, algorithm="rorl", env="hopper-medium-v2", evaluations={0: {100: 10.0, 200: 30.0}}, finished=True, kind="d4rl", raw=False, speed=2.0,
              started="20261101-000000", words="", **values):
    """The files of a run, as a run leaves them. `evaluations`: {seed: {step: score}}; a return is ten times a score."""
    folder.mkdir(parents=True)
    task = values.get("eval_env") if kind == "file" else env
    updates = max(step for row in evaluations.values() for step in row)
    args = {"env": env, "updates": updates, "seeds": list(evaluations), "device": "cpu", "eval_env": "auto"} | values
    config = {"algorithm": algorithm, "args": args, "dataset_source": kind, "device": "cpu", "started": started, "data": {"kind": kind, "sha256": kind}, "task": None if raw else task,
              "physics": version(None if raw else task, "d4rl"),
              "command": f"algorithms/{algorithm}.py --env {env} {words}"}
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "eval.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "seed", "episodes", "return_mean", "return_std", "score", "length_mean", "data", "returns"])
        for seed, row in evaluations.items():
            for step, score in row.items():
                writer.writerow([step, seed, 1, 10 * score, 0.0, "" if raw else score, 9.0, kind, 10 * score])
    if finished:
        seeds = {seed: {"last": list(row.values())[-1] * (10 if raw else 1), "mean_of_last_10": 1.0, "best": 2.0} for seed, row in evaluations.items()}
        result = {"step": updates, "unit": "return (no reference scores)" if raw else "normalised score", "seeds": seeds, "updates_per_second": speed,
                  "training_seconds": updates / speed, "evaluation_seconds": 12.5, "evaluation_waited": 2.5, "evaluation_after": 0.5}
        (folder / "result.json").write_text(json.dumps(result))
    return read_run(folder)


def group(folder, dataset="hopper-medium-v2", algorithm="rorl", scores=(30.0,), **more):
    """A run per seed, two evaluations each."""
    runs = {seed: write_run(folder / f"{dataset}-{abs(hash(algorithm))}-{seed}", env=dataset, evaluations={seed: {100: score / 2, 200: score}}, **more)
            for seed, score in enumerate(scores)}
    return Group(dataset, algorithm, runs)


def row(dataset, algorithm, scores=(), published="", verdict="", data="d4rl", source=""):
    quote = {"mean": published, "std": published and "1.5", "source": source}
    return tables.row(dataset, algorithm, data, quote, verdict, list(scores))


# Statistics


def test_aggregates_by_hand():
    scores = np.array([[0.0, 40.0], [20.0, 130.0]])  # two runs, two datasets: of the sorted 0 20 40 130, the middle half is 20 and 40
    (iqm, mean, median, gap), two = (aggregates({"a": scores, "b": scores + 1})[name] for name in "ab")
    assert (iqm[0], mean[0], median[0], gap[0]) == (30.0, 47.5, 47.5, 100 - (0 + 20 + 40 + 100) / 4)
    assert all(low <= value <= high and low < high for value, low, high in (iqm, mean, median, gap)) and two[0][0] == 31.0
    assert mean[1] == 20.0 and mean[2] == 75.0  # every run of a dataset is drawn twice in 1 of 4 draws: (0 + 40) / 2, (20 + 130) / 2


def test_statistics_are_the_same_each_time_and_leave_numpys_generator_alone():
    scores = {name: np.random.default_rng(i).normal(50, 20, (4, 5)) for i, name in enumerate("ab")}
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    first = aggregates(scores), improvements(scores)
    assert (np.random.get_state()[1] == state).all()
    np.random.seed(4)
    assert (aggregates(scores), improvements(scores)) == first


def test_improvement_is_rliables():
    from rliable.metrics import probability_of_improvement
    assert improvement(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0], [3.0, 0.0]])) == (  # dataset 1: 1.5 of 4 pairs; 2: 3 of 4
        1.5 / 4 + (0.5 + 1 + 0.5 + 1) / 4) / 2
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 4, (3, 6)).astype(float), rng.integers(0, 4, (3, 6)).astype(float)  # many ties
        assert improvement(x, y)[0] == pytest.approx(probability_of_improvement(x, y), abs=1e-12)
    found = improvements({"x": x, "y": y})
    (p, low, high), (q, *other) = found["x", "y"], found["y", "x"]
    assert 0 <= low <= p <= high <= 1 and p + q == 1 and other == [1 - high, 1 - low]


def test_profiles():
    from rliable.library import score_distributions
    scores, taus = np.array([[0.0, 50.0], [100.0, 120.0]]), np.array([-1.0, 0.0, 60.0, 120.0])
    rows = profiles({"a": scores}, taus)["a"]
    assert rows[0].tolist() == [1.0, 0.75, 0.5, 0.0] and (rows[1] <= rows[0]).all() and (rows[0] <= rows[2]).all()
    assert (above(scores, taus) == score_distributions(scores, taus)).all()
    assert thresholds({"a": scores}).tolist() == [-4.8, 0, 50, 100, 120, 124.8] and thresholds({"a": scores[:1, :1] + 7}).tolist() == [6.5, 7, 7.5]
    many = thresholds({"a": np.linspace(20, 30, 500)[None]})
    assert len(many) == 240 and many[0] == 19.5 and many[-1] == 30.5


def test_one_seed_has_values_and_no_interval():
    scores = {"a": np.array([[10.0, 30.0]]), "b": np.array([[20.0, 20.0]])}
    assert aggregates(scores)["a"][1][0] == 20.0 and np.isnan(aggregates(scores)["a"][1][1:]).all()
    assert improvements(scores)["a", "b"][0] == 0.5 and np.isnan(profiles(scores, np.zeros(1))["a"][1:]).all()


def test_a_small_column_does_not_shrink_the_comparison(tmp_path):
    """Two algorithms on three datasets, one of them and a third on one: the two stay; on two, all three."""
    def compared(*third):
        datasets = {"a": ("hopper", "walker2d", "ant"), "b": ("hopper", "walker2d", "ant"), "c": third}
        groups = [group(tmp_path / str(len(third)), f"{d}-medium-v2", name, (1.0,)) for name, row in datasets.items() for d in row]
        (only,) = comparisons(groups, "last")
        return list(only.scores), len(only.datasets)

    assert compared("hopper") == (["a", "b"], 3) and compared("hopper", "ant") == (list("abc"), 2) and compared("hopper", "walker2d", "ant") == (list("abc"), 3)


def test_what_is_compared(tmp_path):
    """Datasets that all have finished, the least number of seeds; stand-ins and raw returns apart; and it says so."""
    groups = [group(tmp_path, "hopper-medium-v2", "a", (1.0, 2.0, 3.0)), group(tmp_path, "hopper-medium-v2", "b", (4.0, 5.0)),
              group(tmp_path, "walker2d-medium-v2", "a", (6.0,)), group(tmp_path, "walker2d-medium-v2", "b", (6.0,), finished=False),
              group(tmp_path, "d4rl/pen/human-v2", "a", (8.0,), raw=True), group(tmp_path, "hopper-medium-v2", "c", (9.0,), finished=False),
              group(tmp_path, "ant-medium-v2", "d", (9.0,)), group(tmp_path, "hopper-expert-v2", "a", (7.0,), kind="standin")]
    real, standin = comparisons(groups, "last")
    assert {name: scores.tolist() for name, scores in real.scores.items()} == {"a": [[1.0], [2.0]], "b": [[4.0], [5.0]]}
    assert str(real) == ("2 algorithms, 1 dataset, 2 seeds each. Left out: c (no finished run); d (too few datasets in common); walker2d-medium-v2 (not finished "
                         "by b); d4rl/pen/human-v2 (raw returns); ant-medium-v2 (not finished by a, b); seeds beyond the first 2 of a cell.")
    assert standin.standin and standin.datasets == ["hopper-expert-v2"] and str(standin) == "1 algorithm, 1 dataset, 1 seed."
    assert comparisons(groups[3:4], "last") == [] and comparisons(groups, "best")[0].scores["a"].tolist() == [[2.0], [2.0]]


# Curves


def test_curves_of_different_steps_and_torn_rows(tmp_path, capsys):
    one = write_run(tmp_path / "a", evaluations={0: {100: 10.0, 200: 30.0}, 1: {100: 20.0}}, speed=2.0)
    two = write_run(tmp_path / "b", evaluations={2: {50: 5.0, 100: 60.0}}, finished=False, updates=1_000_000)
    with open(tmp_path / "b/eval.csv", "a") as file:
        file.write("150,2,10,77\n160,2,x,y,0,z,9,d4rl,1\n170,2,10,7\0")  # torn, garbage, torn
    both = Group("hopper-medium-v2", "rorl", {0: one, 1: one, 2: two})
    assert both.curve.steps.tolist() == [50, 100, 200] and both.curve.seeds == [0, 1, 2] and not both.raw
    np.testing.assert_array_equal(both.curve.values, [[np.nan, 10, 30], [np.nan, 20, np.nan], [5, 60, np.nan]])
    assert both.curve.mean.tolist() == [5, 30, 30] and both.curve.std[1] == pytest.approx(np.std([10, 20, 60]))
    assert np.isnan(both.curve.std[[0, 2]]).all()  # one seed has no spread, not one of 0
    assert both.curve.hours[:2].tolist() == [1 / 7200] * 2 and np.isnan(both.curve.hours[2])
    assert both.unfinished() == "100 of 1,000,000 updates" and both.scores("last") == {0: 30.0, 1: 20.0}
    assert both.times() == {"training_seconds": 100.0, "updates_per_second": 2.0, "evaluation_seconds": 12.5, "evaluation_waited": 2.5, "evaluation_after": 0.5,
                            "pretraining_seconds": None}
    for text in ("", "step,se", "step,seed,score\n1,0,2\n", "step,seed,score,return_mean\n1,7,2,2\n1,2,nan,2\n1,2,2,inf\n0,2,2,2\n1" + "0" * 30 + ",2,2,2\n",
                 f"step,seed,score,return_mean\n1,2,2,{'2' * 200_000}\n"):
        (tmp_path / "b/eval.csv").write_text(text)
        assert Group("hopper-medium-v2", "rorl", {2: two}).curve is None
    assert "b/eval.csv: 5 rows that are none of this run's" in capsys.readouterr().err
    (tmp_path / "b/eval.csv").unlink()
    os.mkfifo(tmp_path / "b/eval.csv")
    for _ in range(2):
        assert Group("hopper-medium-v2", "rorl", {2: two}).curve is None
    assert capsys.readouterr().err == f"passed over: {tmp_path}/b/eval.csv: cannot be read (it is no regular file, but a folder, pipe, device or socket)\n"  # told once
    pen = write_run(tmp_path / "c", env="d4rl/pen/human-v2", raw=True)
    assert Group("d4rl/pen/human-v2", "rorl", {0: pen}).curve.mean.tolist() == [100.0, 300.0] and Group("x", "y", {}).times() == {}


# The page


def example(folder):
    """Two algorithms of ours and a quoted one on three datasets: finished, unfinished, missing."""
    groups = [group(folder, "hopper-medium-v2", "rorl", (103.0, 107.0)), group(folder, "hopper-medium-v2", NASTY, (40.0, 41.0)),
              group(folder, "walker2d-medium-v2", "rorl", (91.0, 93.0)), group(folder, "walker2d-medium-v2", NASTY, (66.0,), finished=False, updates=12_000),
              Group("ant-medium-v2", "rorl", {})]
    rows = [row("hopper-medium-v2", "rorl", (103.0, 107.0), "104.8", "pass", source="Table 1"), row("hopper-medium-v2", NASTY, (40.0, 41.0), "58.5", "miss"),
            row("walker2d-medium-v2", "rorl", (91.0, 93.0), "96.4", "near"), row("walker2d-medium-v2", NASTY, (), "77.7", "missing"),
            row("ant-medium-v2", "rorl", (), "33.3", "missing"), row("hopper-medium-v2", "bc", (), "54.1", "quoted", "quoted")]
    return rows, groups


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    page.write(folder / "out/two.html", f"Two {NASTY}", [f"NOTE {NASTY}"], "The last evaluation.", *example(folder), "last")
    return folder / "out/two.html"


def test_what_the_page_says(html):
    own = html.read_text(encoding="utf-8")
    table, rest = own[own.index('<section id="results"'):].split("</section>", 1)
    for text in ("105.0 ± 2.0", "(2 seeds)", "104.8 ± 1.5", "40.5 ± 0.5", "58.5", "92.0 ± 1.0", "96.4", "77.7", "33.3", "54.1", "103.00 107.00", "Table 1",
                 "98.5 <small>mean of 2 datasets", "78.2 <small>mean of 3 datasets", "unfinished: 200 of 12,000 updates", "bc <small>quoted</small>", '<span class="badge quoted">quoted</span>'):
        assert text in table, text
    assert [table.count(f'"badge {word}">{word}<') for word in ("pass", "near", "miss", "missing")] == [1, 1, 1, 2]
    assert table.count("<td") == 3 * 3 + 3 and table.count('<a href="#p0-a') == 2 and table.count('<a href="#p1-a') == 2 and "#p2" not in own
    assert "2 algorithms, 1 dataset, 2 seeds each. Left out: walker2d-medium-v2" in rest and "105.0 <small>[103.0, 107.0]</small>" in rest
    assert "1.00 <small>[1.00, 1.00]</small>" in rest and "over rorl" in rest  # rorl's runs are all better
    assert "100.0 s" in rest and "12.5" in rest and ">2.5<" in rest  # evaluating, waited, in % of training
    assert own.count("200 of 12,000 updates") == 3  # table, chip, data


def test_nothing_in_the_page_is_taken_for_html(html):
    text = html.read_text(encoding="utf-8")
    assert NASTY not in text and "<b>&" not in text and text.count("</script>") == 2 and text.count("&lt;b&gt;&amp;&quot;&#x27;$x&lt;/script&gt;&lt;!--") > 5
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["names"] == ["rorl", NASTY, "bc"] and data["curve"][0]["lines"][0]["mean"] == [52.5, 105.0]
    assert not re.search(r'(src|href)="(?!#)|https?://(?!www.w3.org/2000/svg)', text)  # no network


def test_numbers_are_rounded_once(tmp_path):
    """2.1518 by two digits, then by one, would be 2.1 in the table and 2.2 in the statistics."""
    scores = (0.65180123, 3.65180123)
    groups = [group(tmp_path, "hopper-medium-v2", "rorl", scores), group(tmp_path, "walker2d-medium-v2", "rorl", (2.1518,))]
    rows = [row("hopper-medium-v2", "rorl", scores), row("walker2d-medium-v2", "rorl", (2.1518,))]
    assert [(row["mean"], row["std"], row["scores"]) for row in rows] == [("2.15180123", "1.5", "0.65180123 3.65180123"), ("2.1518", "", "2.1518")]
    page.write(tmp_path / "out/p.html", "P", [], "How.", rows, groups, "last", seeds=4)
    text = (tmp_path / "out/p.html").read_text(encoding="utf-8")
    table = text.partition('<section id="results">')[2].partition("</section>")[0]
    assert "2.2 ± 1.5</b> <small>(2 of 4)</small>" in table and "2.2</b> <small>(1 of 4)</small>" in table and "2.2 <small>mean of 2 datasets" in table and "± 0.0" not in text
    line, other = (panel["lines"][0] for panel in json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["curve"])
    assert line["mean"][-1] == 2.15180123 and line["std"][-1] == 1.5 and other["std"] == [None, None]


def test_the_same_runs_give_the_same_bytes(html, tmp_path):
    page.write(tmp_path / "again.html", f"Two {NASTY}", [f"NOTE {NASTY}"], "The last evaluation.", *example(tmp_path), "last")
    assert (tmp_path / "again.html").read_bytes() == html.read_bytes() and not list(html.parent.glob("*.tmp"))


def test_a_page_is_small_and_says_n_and_the_interval(html):
    text = html.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000 and "plotly" not in text.lower()
    captions = re.findall(r'<p class="caption">(.*?)</p>', text)
    assert captions[:2] == ["Mean over seeds, n = 2 seeds. Band: ± one population standard deviation.",
                            "Mean over seeds, n = 1 to 2 seeds. Band: ± one population standard deviation, none where n = 1."]
    assert captions[2].startswith("n = 2 runs of each algorithm, 2 seeds on 1 dataset. Band: 95% bootstrap interval") and "No interval is drawn. n = 2 seeds." in captions[3]
    assert len(captions) == text.count('class="plot"') == 4
    assert text.count('<p class="hint" hidden>') == text.count('<div class="wide"') == 4  # every table
    assert tables.page.mean_of(1) == "mean of 1 dataset"


def test_a_grid_with_everything_is_small(tmp_path):
    """18 datasets, 6 algorithms, 4 seeds, 10 evaluations: less than 300 kB."""
    groups = [Group(f"d{d}", f"a{a}", {seed: write_run(tmp_path / f"{d}-{a}-{seed}", f"a{a}", env=f"d{d}", evaluations={seed: {100 * k: d + k / 3 for k in range(1, 11)}})
                                       for seed in range(4)}) for d in range(18) for a in range(6)]
    page.write(tmp_path / "p.html", "P", [], "How.", [row(group.dataset, group.algorithm, (1 / 3, 2.0)) for group in groups], groups, "last")
    assert len((tmp_path / "p.html").read_bytes()) < 300_000


def test_a_page_without_a_finished_run(tmp_path):
    rows = [row("hopper-medium-v2", "rorl", (), "104.8", "missing")]
    page.write(tmp_path / "none.html", "None", [], "How.", rows, [Group("hopper-medium-v2", "rorl", {})], "last")
    text = (tmp_path / "none.html").read_text(encoding="utf-8")
    assert "paper 104.8 ± 1.5" in text and "No evaluations yet" in text and "no finished run has" in text and "No finished run." in text
    page.write(tmp_path / "empty.html", "None", [], "How.", [], [], "last")


# As Chromium shows it

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const sorted = () => [...document.querySelectorAll("#results tbody tr")].map(row => row.cells[0].textContent);
  const header = document.querySelectorAll("#results th button")[1], told = {lines: document.querySelectorAll(".line, .band").length};
  const box = element => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom].map(Math.round); };
  told.table = box(document.querySelector("#results table")); told.plot = box(document.querySelector(".plot svg"));
  told.orders = [sorted()]; for (let i = 0; i < 3; i++) { header.click(); told.orders.push(sorted()); if (!i) told.aria = header.parentElement.ariaSort; }
  told.last = document.querySelector("#results table").rows[4].cells[0].textContent;
  const shown = () => [...document.querySelectorAll(".panel")].map(panel => panel.querySelectorAll(".chip[aria-pressed=true]").length);
  const drawn = () => document.querySelectorAll(".panel:first-child :is(.line, .band)").length;
  told.before = [shown(), drawn()];
  document.querySelector("#results td a").click();
  setTimeout(() => {
    told.after = [shown(), drawn(), document.querySelector(":target").textContent];
    document.querySelector("[value=hours]").click();
    setTimeout(() => {
      told.axis = document.querySelector(".plot .xtitle").textContent;
      document.body.append(Object.assign(document.createElement("pre"), {id: "told", textContent: JSON.stringify(told)}));
    }, 500);
  }, 500);
}, 1000));
</script></body>"""


def chromium(path, folder, *flags):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={folder}", "--window-size=1300,2600",
               "--virtual-time-budget=15000", "--enable-logging=stderr", *flags, path.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert "CONSOLE" not in (log := done.stderr.decode(errors="replace")), log  # no error, nothing asked of a network
    return done.stdout.decode()


NARROW = """<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.querySelector("iframe").contentDocument, all = (selector, f) => [...page.querySelectorAll(selector)].map(f);
  const plot = page.querySelector(".plot"), mark = plot.querySelector(".marker").getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: mark.left + mark.width / 2, clientY: mark.top + mark.height / 2}));
  const told = {width: page.scrollingElement.scrollWidth, hints: all(".hint", hint => hint.hidden), tip: all(".tip div", line => line.textContent),
    over: all(".plot svg text", text => text.getBoundingClientRect().right).filter(right => right > 390).length, names: all("#curves .panel:first-child .name-of-line", name => name.firstChild.data)};
  const table = page.querySelector("#results .wide"), more = () => table.classList.contains("more");
  told.more = [more()]; table.scrollLeft = 9999; table.dispatchEvent(new Event("scroll")); told.more.push(more());
  document.body.append(Object.assign(document.createElement("pre"), {id: "told", textContent: JSON.stringify(told)}));
}, 2000));
</script></body>"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_chromium_on_a_telephone(html, tmp_path):
    """390 px: nothing hangs over, a wide table says that it goes on, and a touch tells a point's numbers."""
    inner = html.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    (tmp_path / "narrow.html").write_text(f'<body><iframe style="width: 390px; height: 3000px; border: 0" srcdoc="{inner}"></iframe>{NARROW}', encoding="utf-8")
    told = json.loads(re.search(r'<pre id="told">(.*?)</pre>', chromium(tmp_path / "narrow.html", tmp_path / "a", "--dump-dom"), re.S)[1])
    assert told["width"] == 390 and told["over"] == 0 and told["more"] == [True, False] and told["hints"][0] is False
    assert told["tip"][0] == "rorl" and told["tip"][1].startswith("update 100") and told["tip"][2] == "mean 52.5 ± 1.0, n = 2"
    assert "rorl" in told["names"]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_chromium(html, tmp_path):
    """The table sorts, a cell shows its curve, and both are there in pixels."""
    from matplotlib.image import imread
    (tmp_path / "probe.html").write_text(html.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    told = json.loads(re.search(r'<pre id="told">(.*?)</pre>', chromium(tmp_path / "probe.html", tmp_path / "a", "--dump-dom"), re.S)[1])
    hopper, walker, ant = "hopper-medium-v2", "walker2d-medium-v2", "ant-medium-v2"
    assert told["orders"] == [[hopper, walker, ant], [hopper, walker, ant], [ant, walker, hopper], [hopper, walker, ant]]  # 33 is the published one
    assert told["aria"] == "descending" and told["last"] == "mean"
    assert told["lines"] >= 2 * 2 + 2 and told["before"] == [[2, 2], 6]  # two bands, two curves, two published means
    assert told["after"][0] == [1, 2] and told["after"][1] == 5 and told["after"][2].strip() == "rorl"  # one alone has its two seeds
    assert told["axis"] == "wall-clock (hours)"
    chromium(html, tmp_path / "b", f"--screenshot={tmp_path}/page.png")
    image = imread(tmp_path / "page.png")[..., :3]

    def share(box, color, near):
        left, top, right, bottom = box
        return (np.abs(image[top:bottom, left:right] - np.array(color)).max(-1) < near).mean()

    for color in COLOURS[:2]:
        assert 0.001 < share(told["plot"], [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)], 0.1) < 0.2
    assert 0.01 < share(told["table"], (0.1, 0.1, 0.1), 0.2) < 0.3 and share(told["table"], (1, 1, 1), 0.1) > 0.5
