"""The teaching page: the docstrings' notation as MathML, links between equations and lines, the diff, hostile files."""

import difflib
import html
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from common import InputError, reader
from common.lesson import Lesson
from common.mathml import convert
from tests.helpers import DEADLINE, ROOT
from tests.test_style import ALGORITHMS, code_lines, every_algorithm

UNREAD = set()  # (file, number) of equations that are shown as their source: none
LETTERS = dict(zip("αβγδεηθλμξπρστφχψωΔ∑−∼←≥≠…·′", "alpha beta gamma delta eps eta theta lambda mu xi pi rho sigma tau phi chi psi omega Delta sum - ~ <- >= != ... . '".split()))


def told(markup):
    """The tokens of a converted equation, written as in the source; independent of the converter's own check."""
    text = html.unescape(re.sub(r"<[^>]+>", "", markup))
    return re.sub(r"[\s/_^{}]", "", "".join(LETTERS.get(letter, letter) for letter in text))


@every_algorithm
def test_every_equation_is_mathematics(path):
    """Each is read; no token is lost, added or moved; only / _ ^ { } become layout."""
    lesson = Lesson(path)
    docstring = lesson.source.split('"""')[1]
    assert set(lesson.equations) == {int(n) for n in re.findall(r"\S {2,}\((\d+)\)$", docstring, re.M)}
    for kind, source, number in lesson.blocks:
        if kind == "eq":
            assert source.split("\n")[-1] in docstring  # as it stands there
            shown = convert(source)
            assert ((path.name, number) in UNREAD) == (shown is None), source
            if shown:
                assert told(shown) == re.sub(r"[\s/_^{}]", "", source)
                assert shown.count("<math") >= 1


def test_indented_lines_are_all_equations():
    """No equation of a docstring is overlooked, numbered or not."""
    for path in ALGORITHMS:
        lesson = Lesson(path)
        lines = [line for line in lesson.source.split('"""')[1].split("\n") if line.startswith("    ")]
        assert sum(source.count("\n") + 1 for kind, source, _ in lesson.blocks if kind == "eq") == len(lines) >= len(lesson.equations) > 0
    assert "\n" in Lesson(ROOT / "algorithms/sql_eql.py").equations[2]  # one in two lines
    assert Lesson(ROOT / "algorithms/one_step.py").equations[3] == "critic loss = mean_b (Q(s, a) - y)^2"


def shape(element):
    """A short text of a layout: [above|below] for a fraction, _{} ^{} for indices and powers, x~ for an accent."""
    parts = [shape(part) for part in element]
    tag, text = element.tag, element.text or ""
    if element.get("class") == "fold":
        return ""
    return {"mfrac": lambda: f"[{parts[0]}|{parts[1]}]", "msub": lambda: f"{parts[0]}_{{{parts[1]}}}", "munder": lambda: f"{parts[0]}_{{{parts[1]}}}",
            "msup": lambda: f"{parts[0]}^{{{parts[1]}}}", "mover": lambda: f"{parts[0]}{parts[1]}", "msqrt": lambda: f"√[{''.join(parts)}]"}.get(tag, lambda: text + "".join(parts))()


def shaped(source):
    markup = re.sub(r"<w?br>", "", convert(source))
    return re.sub(r"\s", "", shape(ElementTree.fromstring(f"<p>{markup.replace('&emsp;', '')}</p>")))


@pytest.mark.parametrize("source, layout", [
    ("mu_e + sigma_ei xi", "μ_{e}+σ_{ei}ξ"), ("beta_ood L_TD", "β_{ood}L_{TD}"), ("lambda_max", "λ_{max}"),
    ("log_alpha (H + A)", "log_alpha(H+A)"), ("clip(policy_noise z)", "clip(policy_noisez)"),  # names as in the code: log_alpha is no logarithm of base alpha
    ("Qk'(s', a'_j)", "Q_{k}′(s′,a′_{j})"), ("pi* = E_pi*[x]", "π^{*}=E_{π^{*}}[x]"), ("a~ ~ pi(s^)", "a~∼π(s^)"), ("s^_i, x^2", "s^_{i},x^{2}"),
    ("min_k Qk(s, a)", "min_{k}Q_{k}(s,a)"), ("mean_k,b,j (x)", "mean_{k,b,j}(x)"), ("sum_{j != k} u_j . u_k", "∑_{j≠k}u_{j}·u_{k}"),
    ("N(u_i; mean_i, std_i)", "N(u_{i};mean_{i},std_{i})"), ("gamma^t r_(t+1)", "γ^{t}r_{t+1}"), ("(F + eta I)^-1 g", "(F+ηI)^{−1}g"),
    ("(delta / (g x))^(1/2) x", "([δ|gx])^{1/2}x"),  # a power's fraction stays a slash
    ("(q - V(s)) / (2 alpha)", "[q−V(s)|2α]"), ("a + b c / d", "a+[bc|d]"), ("-1/2 sum_k P_k", "−[1|2]∑_{k}P_{k}"), ("a / b / c", "[[a|b]|c]"),
    ("alpha / mean_b |Q1(s, a)|, x", "[α|mean_{b}|Q_{1}(s,a)|],x"), ("g_k / |g_k|", "[g_{k}||g_{k}|]"), ("(a - its mean) / its std", "[a−itsmean|itsstd]"),
    ("x where 2 y / 3", "xwhere[2y|3]"), ("f(x) / g(y) z", "[f(x)|g(y)]z"), ("(a)(b) / 2", "[(a)(b)|2]"), ("x = 1,  y / 2", "x=1,[y|2]"),
    ("a / (b)^2", "[a|(b)^{2}]"), ("(a)' / b", "[(a)′|b]"),  # a bracket with a power or a prime keeps its signs
    ("sqrt(x + 1) / 2", "[√[x+1]|2]"), ("dQk/da", "[dQ_{k}|da]"), ("t log sum exp(v / t)", "tlog∑exp([v|t])"),
    ("|x|^2 + 20 |y| - |u - |v||", "|x|^{2}+20|y|−|u−|v||"), ("pi(a|s)", "π(a|s)"), ("KL(p | q)", "KL(p|q)"),
    ("W <- W min(1, c), t = 1..M, 0, 1, ...", "W←Wmin(1,c),t=1..M,0,1,…"), ("x += y >= 1e-6", "x+=y≥1e-6"), ("a block: 1,000 updates", "ablock:1,000updates"),
    ("in block: 1, x", "inblock:1,x"), ("in the first --bc-updates: x = 1.", "inthefirst--bc-updates:x=1."), ("H a constant here", "Haconstanthere"), ("(mean + std xi + 1e-6 + alpha + beta)^2", "(mean+stdξ+1e-6+α+β)^{2}"),
])
def test_layout(source, layout):
    assert shaped(source) == layout


def test_letters():
    """Symbols are single letters, set in italics; words are upright; `a` may be a symbol or the article."""
    assert convert("alpha").count("<mi>α</mi>") == 1 and '<mi class="w">log</mi>' in convert("log pi") and "<span>target entropy</span>" in convert("target entropy = 1")
    assert "<mi>a</mi>" in convert("at the data's a") and "<span>of a trajectory</span>" in convert("G of a trajectory")
    assert "<code>--gap</code>" in convert("--gap: x = 1") and '<mtext class="id">beta_like</mtext>' not in convert("beta_like")
    assert 'stretchy="true"' in convert("(x / 2)") and 'stretchy="true"' not in convert("(x + 2)")


@pytest.mark.parametrize("source", ["x = (1", "x = 1)", "x @ y", "x / ", "/ 2", "x_", "x^", "sum_{", "|x", "a_ b", "x = <script>", "$x$", "x # y", "é", "()", "(" * 5000, "x " * 2000, "a ** b"])
def test_what_cannot_be_read_is_shown_as_it_is(source, tmp_path):
    assert convert(source) is None or told(convert(source)) == re.sub(r"[\s/_^{}]", "", source)
    shown = page_of(tmp_path, f'"""T. A.\n\n    y = {source}   (1)\n"""\nx = 1  # (1)\n')
    (equation,) = [node for node in shown.nodes if node["id"] == "eq1"]
    assert shown.text(equation).replace("line 5", "").replace(" ", "").startswith(re.sub(r"[\s/_^{}]", "", "y =").replace(" ", ""))
    if convert(f"y = {source}".strip()) is None:
        assert f"y = {source}".strip() in shown.text(equation)


# The page


class Page(HTMLParser):
    """Elements with their attributes and where their text begins and ends."""
    VOID = {"br", "wbr", "hr", "meta"}

    def __init__(self, markup):
        super().__init__()
        self.nodes, self.open, self.data, self.markup = [], [], "", markup
        self.feed(markup)
        self.close()
        assert not self.open, "elements that are never closed"

    def handle_starttag(self, tag, attributes):
        node = {"tag": tag, "class": "", "id": None, "href": None, "start": len(self.data), "above": list(self.open), **dict(attributes)}
        self.nodes.append(node)
        if tag not in self.VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        node = self.open.pop()
        assert node["tag"] == tag, (node, tag)
        node["end"] = len(self.data)

    def handle_data(self, data):
        self.data += data

    def text(self, node):
        return self.data[node["start"]:node["end"]]

    def having(self, **values):
        return [node for node in self.nodes if all(value in (node[key] or "").split() if key == "class" else node[key] == value for key, value in values.items())]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{stem: page} of all files, by the command."""
    out = tmp_path_factory.mktemp("pages") / "made/here"
    reader.main(["--all", "--out", str(out)])
    return {path.stem: Page(path.read_text(encoding="utf-8")) for path in out.iterdir()}


def page_of(folder, source, name="idea.py"):
    (folder / name).write_text(source, encoding="utf-8")
    return Page(reader.page(Lesson(folder / name)))


def test_all_files_and_an_index(pages):
    assert set(pages) == {path.stem for path in ALGORITHMS} | {"index"}
    links = [node["href"] for node in pages["index"].having(tag="a")]
    assert sorted(links) == sorted(f"{path.stem}.html" for path in ALGORITHMS)
    above = {node["href"]: sum(part["tag"] == "ul" for part in node["above"]) for node in pages["index"].having(tag="a")}
    assert above["td3_bc.html"] == 1 and above["sac_n.html"] == 2 and above["rorl.html"] == 3 and above["combo.html"] == 4  # below what to read before


@every_algorithm
def test_equation_to_line_and_back(path, pages):
    page, lines = pages[path.stem], path.read_text(encoding="utf-8").split("\n")
    for number in Lesson(path).equations:
        (equation,) = page.having(id=f"eq{number}")
        assert equation["data-on"] == f"e{number}"
        targets = [node["href"][2:] for node in page.having(**{"class": "at"}) if equation in node["above"]]
        (link,) = [node for node in page.having(**{"class": "no"}) if equation in node["above"]]
        assert link["href"] == f"#L{targets[0]}" and page.text(link) == f"({number})"
        assert sorted(map(int, targets)) == [n for n, line in enumerate(lines, 1) if f"# ({number})" in line]
        for n in targets:
            (line,) = page.having(id=f"L{n}")
            assert f"e{number}" in line["data-on"].split()
            back = [node for node in page.having(href=f"#eq{number}") if line in node["above"]]
            assert len(back) == 1 and page.text(back[0]) == f"({number})" and back[0]["data-on"] == f"e{number}"
        (note,) = [node for node in page.having(tag="aside") if node["data-on"] == f"e{number}"]  # beside the first line
        section = note["above"][-2]
        assert section["tag"] == "section" and next(node for node in page.having(**{"class": "l"}) if section in node["above"])["id"] == f"L{targets[0]}"


@every_algorithm
def test_links_lead_somewhere(path, pages):
    page = pages[path.stem]
    ids = Counter(node["id"] for node in page.nodes if node["id"])
    assert max(ids.values()) == 1
    for node in page.having(tag="a"):
        if (href := node["href"])[0] == "#":
            assert href[1:] in ids, href
        else:
            assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", href) or href.partition(".html")[0] in pages, href
            anchor = href.partition("#")[2]
            assert not anchor or pages[href.partition(".html")[0]].having(id=anchor)


@every_algorithm
def test_the_code_is_all_there(path, pages):
    page, lesson = pages[path.stem], Lesson(path)
    (listing,) = page.having(**{"class": "listing"})
    rows = [node for node in page.having(**{"class": "l"}) if listing in node["above"]]
    assert "".join(map(page.text, rows)) == "\n".join(lesson.lines[lesson.start - 1:])
    assert [int(node["data-n"]) for node in rows] == list(range(lesson.start, len(lesson.lines)))
    assert "\n".join(lesson.lines[:lesson.start - 1]) in page.data  # the docstring, folded


@every_algorithm
def test_the_diff_is_the_docstrings(path, pages):
    page, parent = pages[path.stem], re.search(r"Read before: (\w+\.py) \((\d+) lines", path.read_text())
    folds = page.having(**{"class": "diff"})
    if not parent:
        assert path.stem == "td3_bc" and not folds and "there is no diff" in page.data
        return
    (fold,) = folds
    assert fold["tag"] == "details" and "open" not in fold
    inside = {kind: [node for node in page.having(**{"class": kind}) if fold in node["above"]] for kind in ("add", "cut")}
    new = [node for node in page.having(**{"class": "new"})]
    assert len(inside["add"]) == int(parent[2]) == len(new) and f"{parent[2]} lines of code differ" in page.text(fold)
    shown = [line[:1] + " " + page.text(node).rstrip("\n") for kind, line in (("add", "+"), ("cut", "-")) for node in inside[kind]]
    wanted = [line for line in difflib.ndiff(code_lines(path.parent / parent[1]), code_lines(path)) if line[0] in "+-"]
    assert Counter(shown) == Counter(wanted) and "the docstring says" not in page.text(fold)


@every_algorithm
def test_logged_numbers_lead_to_their_line_and_equations(path, pages):
    page, lesson = pages[path.stem], Lesson(path)
    assert len(lesson.logged) >= 3 and {"actor_loss", "critic_loss"} & set(lesson.logged)
    for name, n in lesson.logged.items():
        (key,), (explained, *_) = page.having(id=f"key-{name}"), page.having(id=f"log-{name}")
        assert key["above"][-2]["id"] == f"L{n}" and key["href"] == f"#log-{name}" and explained["href"] == f"#key-{name}"
        assert f"g-{name}" in key["data-on"].split() and f"g-{name}" in explained["data-on"].split()
    assert "Not explained" not in page.data


def test_formulas_by_hand(pages):
    def lit(stem, name):
        return pages[stem].having(id=f"log-{name}")[0]["data-on"].split()
    assert lit("rorl", "critic_loss") == ["g-critic_loss", "e11"] and lit("rorl", "q_ood_std") == ["g-q_ood_std", "e9"] and lit("rorl", "lambda") == ["g-lambda", "e10"]
    assert lit("rorl", "q") == ["g-q"]  # explained in sac_n.py
    assert lit("iql", "value_loss") == ["g-value_loss", "e2"] and lit("sql_eql", "value_loss") == ["g-value_loss", "e1", "e2"]
    assert lit("atac", "actor_loss") == ["g-actor_loss", "e6", "e7"] and lit("td3_bc", "lambda") == ["g-lambda", "e4"]
    assert lit("rambo", "holdout") == ["g-holdout"]  # its (3) is another file's


def test_a_page_needs_no_network_and_no_script_of_others(pages):
    for page in pages.values():
        assert "default-src 'none'" in page.markup and not any(name in node for node in page.nodes for name in ("src", "srcset", "action", "data"))
        own = "".join(page.text(node) for tag in ("style", "script") for node in page.having(tag=tag))
        assert len(own) > 1000 and not re.search(r"url\(|@import|fetch|XMLHttp|import\(|https?:|innerHTML|eval", own)
        assert len(page.having(tag="script")) == 1 and not page.having(tag="link")


def test_the_same_file_gives_the_same_bytes():
    path = ROOT / "algorithms/pbrl.py"
    assert reader.page(Lesson(path), {"sac_n"}) == reader.page(Lesson(path), {"sac_n"})


# Files of strangers

BAD = '</script><img src=x onerror=alert(1)>&amp;"\'$x'


def test_hostile_text_stays_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = f'''"""{BAD}: t. {BAD} arXiv:1234.56789{BAD}

{BAD} `{BAD}` --flag{BAD}

    {BAD} = 1    (1)
    y = x    (2)

- {BAD} (1)

Logged: critic_loss is (2) {BAD}.

Read before: idea.py{BAD}
"""
open("ran", "w").write("it was executed")
raise SystemExit(3)


def update():
    text = {BAD!r}  # (2) {BAD}
    return {{"critic_loss": text, '<b>': 1}}  # (1)
'''
    page = page_of(tmp_path, source)
    assert not (tmp_path / "ran").exists()
    assert {node["tag"] for node in page.nodes} <= set("html head meta title style body nav a article h1 h2 p ul li div span math mrow mi mo mn mspace msub aside details summary pre code i section script hr wbr b".split())
    assert all(not name.startswith("on") for node in page.nodes for name in node)
    assert len(page.having(tag="script")) == 1 and page.data.count(BAD) >= 6
    (title,) = page.having(tag="title")
    assert page.text(title) == f"{BAD}: t"


def test_missing_parent_and_wrong_count(tmp_path):
    text = '"""T. A.\n\n    y = x  (1)\n\nRead before: {}.\n"""\n\nx = 1\n\n\ndef f():\n    return {}  # (1)\n'
    page = page_of(tmp_path, text.format("base.py (3 lines of code differ)", 1))
    assert "No diff to base.py" in page.data and "cannot be read" in page.data and not page.having(**{"class": "diff"})
    (tmp_path / "base.py").write_text(text.format("nothing", 2))
    page = page_of(tmp_path, text.format("base.py (3 lines of code differ)", 1))
    assert "1 lines of code differ" in page.data and "the docstring says 3" in page.data  # what is counted, and what is claimed
    (tmp_path / "base.py").write_text("x = 1\n" * 4000)
    assert "No diff to base.py" in page_of(tmp_path, text.format("base.py", 1)).data
    (tmp_path / "base.py").write_text(text.format("nothing", 2) + "x = 1\n" * 4000)
    assert "too long" in page_of(tmp_path, text.format("base.py", 1)).data
    page = page_of(tmp_path, text.format("nothing", 1).replace("  # (1)", ""))
    assert "in no line" in page.data and not page.having(**{"class": "no", "tag": "a"})


GOOD = '"""T.\n\n    y = x  (1)\n"""\n'


@pytest.mark.parametrize("content, why", [
    (None, "cannot be read"), ("x = (\n", "no Python"), ("\0", "no Python"), (b"\xff\xfe", "no Python"), ("(" * 100_000, "no Python"), ("", "no docstring"), ("x = 1\n", "no docstring"),
    ('"""Words (1)."""\n', "no equation"),
    ('"""T.\n\n    y = x  (1)\n    z = x  (1)\n"""\n', "two equations"), ("#" * 2**21, "more than")])
def test_bad_files_get_one_line(content, why, tmp_path):
    path = tmp_path / "idea.py"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=why) as refused:
        reader.main([str(path), "--out", str(tmp_path / "out")])
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_bad_commands_get_one_line(tmp_path):
    (tmp_path / "idea.py").write_text(GOOD)
    (tmp_path / "full").write_text("")
    for words, why in ((["--out", str(tmp_path)], "which file"), ([str(tmp_path / "idea.py"), "--out", str(tmp_path / "full")], "cannot write"), ([str(tmp_path), "--out", str(tmp_path)], "cannot be read|no Python"),
                       ([str(tmp_path / "none"), "--all"], "no folder"), (["--al"], "see --help")):
        with pytest.raises(InputError, match=why):
            reader.main(words)
    done = subprocess.run([sys.executable, "-m", "common.reader", "nowhere.py"], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 2 and done.stdout == "" and re.fullmatch("error: nowhere.py: cannot be read .*\n", done.stderr), done.stderr


def test_a_page_of_ones_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a"<b>.py').write_text(GOOD)
    (tmp_path / "c.py").write_text("\ufeff" + GOOD.replace("T.", "T. Read\n\nRead before: d.py (1 lines of code differ)."))
    (tmp_path / "d.py").write_text(GOOD.replace("T.", "T.\n\nRead before: c.py."))  # each names the other: no first one
    reader.main([".", "--all"])
    assert {path.name for path in (tmp_path / "reader").iterdir()} == {'a"<b>.html', "c.html", "d.html", "index.html"}
    index = Page((tmp_path / "reader/index.html").read_text())
    assert sorted(node["href"] for node in index.having(tag="a")) == ["a%22%3Cb%3E.html", "c.html", "d.html"]


def test_nothing_is_imported_that_need_not_be():
    code = "import sys, common.reader; assert 'algorithms' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=DEADLINE).returncode == 0
    code = "import sys, common.run, common.args, common.data; assert not {'common.reader', 'common.lesson', 'common.mathml'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=DEADLINE).returncode == 0
    for name in ("reader", "lesson", "mathml"):  # they are apart from the budget of common/, but not from that of a file
        assert len((ROOT / f"common/{name}.py").read_text().splitlines()) <= 350


# As Chromium shows it

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<iframe id="phone" width="390" height="800"></iframe><pre id="told"></pre><script>
addEventListener("load", () => {
  const frame = document.getElementById("phone"), inner = PAGE;
  frame.srcdoc = inner;
  frame.onload = () => {
    const page = frame.contentDocument, view = frame.contentWindow, lit = () => [...page.querySelectorAll(".lit")].map(part => part.id || part.className || part.tagName);
    const light = (part, kind) => { part.dispatchEvent(new view.MouseEvent(kind, {bubbles: true})); return lit(); };
    const wide = page.documentElement.scrollWidth, listing = page.querySelector(".listing");
    const equation = page.getElementById("eq7"), mark = page.querySelector(".l a[href='#eq7']"), told = {wide, scrolls: listing.scrollWidth > listing.clientWidth};
    told.equation = light(equation, "mouseover"); told.nothing = light(page.body, "mouseover"); told.line = light(mark, "mouseover"); light(page.body, "mouseover");
    mark.focus(); mark.dispatchEvent(new view.FocusEvent("focusin", {bubbles: true})); told.key = lit();
    told.height = Math.max(...[...page.querySelectorAll("math mfrac")].map(part => part.getBoundingClientRect().height));
    told.fold = [...page.querySelectorAll(".fold")].every(part => part.getBoundingClientRect().width == 0);
    told.under = [...page.querySelectorAll(".eq .math")].filter(part => part.getBoundingClientRect().right > 390).length;
    document.getElementById("told").textContent = JSON.stringify(told);
  };
});
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_chromium(pages, tmp_path):
    """On a phone only the code scrolls sideways; a mouse and the keyboard light up an equation and its line."""
    inner = json.dumps(pages["rorl"].markup).replace("<", "\\u003c")
    (tmp_path / "probe.html").write_text(PROBE.replace("PAGE", inner), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
               "--disable-sync", f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=15000", "--dump-dom", (tmp_path / "probe.html").as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE, text=True)
    told = json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.S)[1]))
    assert told["wide"] <= 390 and told["scrolls"] and told["under"] == 0 and told["fold"]
    line = f"L{Lesson(ROOT / 'algorithms/rorl.py').marks[7][0]}"
    for kind in ("equation", "line", "key"):
        assert {"eq7", line} <= set(told[kind]), kind
    assert told["nothing"] == []
