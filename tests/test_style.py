"""The repository's habits: order inside a file, equations, budgets, equal copies, floors, README."""

import ast
import csv
import difflib
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import tyro

from benchmark.engine.grid import make
from common.args import READS, RunArgs, cli, parse
from common.sources import D4RL
from tests.helpers import ROOT

ALGORITHMS = sorted((ROOT / "algorithms").glob("*.py"))
COMMON = sorted((ROOT / "common").glob("*.py"))
SCRIPTS = sorted(path for path in (ROOT / "benchmark").glob("*.py") if path.stem != "__init__")
ENGINE = sorted((ROOT / "benchmark/engine").glob("*.py"))
BUDGETS = {"td3_bc": 220, "sac_n": 250, "edac": 280, "pbrl": 285, "rorl": 335, "bc": 220, "iql": 241, "sql_eql": 275, "xql": 294,
           "awac": 225, "one_step": 221, "cql": 381, "atac": 290, "mopo": 317, "combo": 353, "rambo": 473,
           "mobile": 337, "morel": 442, "armor": 503, "fqe": 229}  # lines a file may have
APART = ("dynamics", "pretraining", "terminations", "loading", "reference", "holdout", "overview", "reader", "lesson", "mathml", "film")  # files of common/ beyond its budget, which was set without them
WIDTH = {"algorithms": 110, "common": 120, "benchmark": 120, "engine": 120}
every_algorithm = pytest.mark.parametrize("path", ALGORITHMS, ids=lambda path: path.stem)


def top_level(path):
    return ast.parse(path.read_text()).body


@every_algorithm
def test_order_inside_a_file(path):
    """Docstring, imports, Args, PAPER, networks, agent, main, guard."""
    kinds = []
    for node in top_level(path):
        if isinstance(node, ast.Expr):
            kinds.append("docstring")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            kinds.append("import")
        elif isinstance(node, ast.ClassDef):
            bases = {base.id if isinstance(base, ast.Name) else base.attr for base in node.bases}
            kinds.append("Args" if "RunArgs" in bases else "network" if bases else "agent")
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PAPER":
            kinds.append("PAPER")
        elif isinstance(node, ast.FunctionDef) and node.name == "main":
            kinds.append("main")
        elif isinstance(node, ast.If):
            kinds.append("guard")
    order = ["docstring", "import", "Args", "PAPER", "network", "agent", "main", "guard"]
    assert kinds == sorted(kinds, key=order.index) and set(kinds) == set(order)
    assert kinds.count("agent") == kinds.count("Args") == kinds.count("main") == 1


@every_algorithm
def test_every_equation_stands_at_its_line(path):
    """Equations are numbered in the docstring, at the right edge, and `# (n)` marks the line of code."""
    source = path.read_text()
    docstring = ast.get_docstring(ast.parse(source))
    numbered = {int(n) for n in re.findall(r"\S {2,}\((\d+)\)$", docstring, re.M)}
    tagged = {int(n) for n in re.findall(r"# \((\d+)\)", source)}
    assert numbered == set(range(1, max(numbered) + 1)) and numbered == tagged
    assert not {int(n) for n in re.findall(r"\((\d+)\)", docstring)} - numbered - {256}  # sqrt(256)


@every_algorithm
def test_docstring_has_its_parts(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert re.search(r"arXiv:\d{4}\.\d{5}|PMLR \d+", docstring.split("\n\n")[0])  # or its proceedings
    for part in ("Paper / authors' code / here", "Logged:", "Read before:", f"python algorithms/{path.name} --env"):
        assert part in docstring


@every_algorithm
def test_logged_numbers_are_explained(path):
    source = path.read_text()
    returned = re.search(r"return (\{\"(?:critic|actor)_loss\".*?\})\n", source, re.S)[1]
    docstring = ast.get_docstring(ast.parse(source))
    told = docstring + "".join((ROOT / "algorithms" / parent).read_text() for parent in re.findall(r"as in (\w+\.py)", docstring))
    for key in re.findall(r"\"(\w+)\":", returned):
        assert re.search(rf"\b{key}\b", told.partition("Logged:")[2]), key


def test_budgets():
    assert set(BUDGETS) == {path.stem for path in ALGORITHMS}
    for path in ALGORITHMS:
        assert len(path.read_text().splitlines()) <= BUDGETS[path.stem], path.name
    lines = {path.name: len(path.read_text().splitlines()) for path in COMMON if path.stem not in APART}
    assert sum(lines.values()) - lines["physics.py"] <= 2180 and max(lines.values()) <= 400, lines  # a simulator has the lines that it needs
    for path in ALGORITHMS + COMMON + SCRIPTS + ENGINE:
        assert max(map(len, path.read_text().splitlines())) <= WIDTH[path.parent.name], path.name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 45, f"{path.name} {node.name}"


@every_algorithm
def test_flags(path):
    module = importlib.import_module(f"algorithms.{path.stem}")
    own = {field.name for field in fields(module.Args)} - {field.name for field in fields(RunArgs)}
    assert len(own) <= {"cql": 23, "mobile": 24}.get(path.stem, 20) and {"env", "seeds", "updates"} <= own
    class_source = path.read_text().partition("class Args(RunArgs):\n")[2].partition("\n\n")[0]
    assert all(re.search(r"  # \S", line) for line in class_source.splitlines())  # the comment is the help text
    for name, hint in get_type_hints(module.Args, include_extras=True).items():  # a number's valid range is where it is declared
        text = str(hint)
        assert "metavar='" in text or not re.search(r"\b(int|float)\b", text), name
    for table in [value for name, value in vars(module).items() if name.isupper() and name[0] != "_" and isinstance(value, dict)]:
        for dataset, values in table.items():
            module.Args(**values)  # names that exist
            assert "-v" in dataset


@every_algorithm
def test_a_file_that_reads_the_number_of_updates_says_what_depends_on_it(path):
    """Whoever extends a run (--resume RUN --updates N) is told: common/args.py, SCHEDULED. A flag that it names is a switch, or always on."""
    args, reads = importlib.import_module(f"algorithms.{path.stem}").Args, re.findall(READS, path.read_text())
    assert bool(reads) == bool(args.SCHEDULED) == ("SCHEDULED" in vars(args)), (path.name, reads)
    assert getattr(args(), args.SCHEDULED or "cosine", True), path.name


def definitions(path):
    """{name: (source without the marking comment, file it says it is the same as)} of top-level classes and functions."""
    lines = path.read_text().splitlines()
    found = {}
    for node in top_level(path):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            start = min([node.lineno] + [decorator.lineno for decorator in node.decorator_list])
            mark = re.fullmatch(r"# same as (\w+\.py)", lines[start - 2])
            found[node.name] = "\n".join(lines[start - 1:node.end_lineno]), mark and mark[1]
    return found


def test_copies_are_equal():
    marked = 0
    for path in ALGORITHMS:
        for name, (source, original) in definitions(path).items():
            if original:
                marked += 1
                assert source == definitions(path.parent / original)[name][0], f"{path.name} {name} has drifted from {original}"
    assert marked >= 5


def test_equal_copies_are_marked():
    unmarked = {}
    for path in ALGORITHMS:
        for name, (source, original) in definitions(path).items():
            if not original and name != "main":
                assert source not in unmarked, f"{path.name} {name} equals {unmarked[source]}'s, and neither says so"
                unmarked[source] = path.name


def code_lines(path):
    """Lines of code: no docstring of the module, no PAPER and other tables, no blank lines."""
    lines, skipped = path.read_text().splitlines(), set()
    for node in top_level(path):
        if isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign)):
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    return [line for number, line in enumerate(lines, 1) if number not in skipped and line.strip()]


@every_algorithm
def test_the_distance_to_the_parent_is_told(path):
    """`Read before: sac_n.py (123 lines of code differ)`: lines of this file that a diff against the parent adds."""
    told = re.search(r"Read before: (?:nothing|(\w+\.py) \((\d+) lines of code differ\))", path.read_text())
    if told[1]:
        added = [line for line in difflib.ndiff(code_lines(path.parent / told[1]), code_lines(path)) if line.startswith("+ ")]
        most = {"edac": 40, "sql_eql": 70, "xql": 70, "cql": 210, "atac": 145, "mopo": 150, "rambo": 215, "morel": 275, "armor": 275}
        assert int(told[2]) == len(added) <= most.get(path.stem, 120)


def module(path) -> str:
    """Its name, as an import has it."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in [*ALGORITHMS, *COMMON, *SCRIPTS, *ENGINE, *(ROOT / "benchmark").glob("__init__.py")]}


def imports(source, known=MODULES) -> set[str]:
    """Modules that a file imports, anywhere in it: our own by their full names, others by their first."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
    return {name if name in known else name.split(".")[0] for name in found}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, or an empty list."""
    done = set()

    def visit(name, trail):
        if name in trail:
            return [*trail[trail.index(name):], name]
        for other in sorted(graph.get(name, set()) - done):
            if ring := visit(other, [*trail, name]):
                return ring
        done.add(name)
        return []
    return next(filter(None, (visit(name, []) for name in graph)), [])


def floor(name: str) -> str:
    return "engine" if name.startswith("benchmark.engine") else name.split(".")[0]


MAY_IMPORT = {"common": {"common"}, "algorithms": {"common"}, "engine": {"engine", "common"}, "benchmark": {"benchmark", "engine", "common"}}


def test_floors():
    """The engine starts algorithms as processes; agents come from the file that trained them (common/loading.py)."""
    graph = {name: imports(path.read_text()) for name, path in MODULES.items()}
    for name, others in graph.items():
        ours = {floor(other) for other in others if other.split(".")[0] in ("algorithms", "benchmark", "common", "tests")}
        assert ours <= MAY_IMPORT[floor(name)], (name, ours)
    for path in ALGORITHMS:
        assert {name.split(".")[0] for name in graph[module(path)]} <= {"common", "torch", "copy", "dataclasses", "math", "typing"}, path.name
    assert circle(graph) == []


def test_floors_can_fail():
    known = {"common", "common.data", "common.run"}
    assert imports("from common import run, InputError", known) == {"common.run", "common"}
    assert imports("def late():\n    import common.data, os.path", known) == {"common.data", "os"}
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": {"elsewhere"}}) == []


def test_benchmark_holds_what_a_person_starts():
    """Each script tells in its first line what it makes, and how to run it; nothing else lies beside them."""
    assert {path.name for path in (ROOT / "benchmark").glob("*.*")} == {path.name for path in SCRIPTS} | {"__init__.py"}
    for path in SCRIPTS:
        tree = ast.parse(path.read_text())
        assert isinstance(tree.body[-1], ast.If) and ast.unparse(tree.body[-1].test) == "__name__ == '__main__'", path.name
        docstring = ast.get_docstring(tree)
        assert docstring.splitlines()[0].endswith(".") and docstring.splitlines()[1] == "", path.name
        assert f"Run: python benchmark/{path.name}" in docstring, path.name
    for path in ENGINE + COMMON:
        assert ast.get_docstring(ast.parse(path.read_text())).splitlines()[0].endswith("."), path.name


def test_papers_numbers():
    """Every cell is a number with a source; nothing is there twice."""
    for path in sorted((ROOT / "benchmark/papers").glob("*.csv")):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({(row["dataset"], row["algorithm"]) for row in rows}) == len(rows) > 0, path.name
        for row in rows:
            assert set(row) == set("paper table dataset algorithm mean std source".split()) and row["source"], row
            assert -50 < float(row["mean"]) < 250 and 0 <= float(row["std"] or 0) < 100 and "-v" in row["dataset"], row


def test_no_shell():
    """Names of folders, flags and files reach other programs as lists of arguments: nothing in them is a command."""
    for path in [path for path in ROOT.rglob("*.py") if path.is_relative_to(ROOT) and not path.relative_to(ROOT).parts[0].startswith(".")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords} if called else {}
            assert called not in ("getoutput", "getstatusoutput", "system", "create_subprocess_shell") and ast.unparse(node.func) != "os.popen" \
                if called else True, (path, ast.unparse(node))
            assert given.get("shell", "False") == "False", (path, ast.unparse(node))


@every_algorithm
def test_update_needs_no_host(path):
    source = path.read_text()
    (agent,) = (node for node in top_level(path) if isinstance(node, ast.ClassDef) and not node.bases)
    (init,) = (node for node in agent.body if getattr(node, "name", "") == "__init__")
    agent = "\n".join(source.splitlines()[init.end_lineno:agent.end_lineno])
    assert "def update" in agent
    assert not re.search(r"\.item\(\)|\.cpu\(\)|\.numpy\(\)|\.tolist\(\)|(?<!\.)\b(?:float|bool)\(", agent)


README = (ROOT / "README.md").read_text()


def test_readme_lists_every_algorithm():
    for path in ALGORITHMS:
        assert f"algorithms/{path.name}" in README


def commands():
    """(page, command) of every code block of README.md and docs/, and of every answer in a table that is one."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        blocks = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
        answers = re.findall(r"`(python [^`]+)`", text)
        for line in blocks + [answer.replace("RUN", "runs/one").replace("ADDRESS", "here:1") for answer in answers]:
            for part in line.split("#")[0].split("&&"):
                yield path.name, part


def parsed(words: list[str]) -> bool:
    """Is a command one of the project's, whose file exists and whose flags parse?"""
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words = words[1:]
    if words[:2] == ["pip", "install"] and "-r" in words:
        assert (ROOT / words[words.index("-r") + 1]).exists()
    elif words[:1] == ["pytest"]:
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
    elif words[:2] == ["python", "-m"] and words[2].startswith("common."):
        module = importlib.import_module(words[2])
        assert words[3] == "to-minari" if words[2] == "common.data" else cli(module.Args, words[3:])
    elif words[:1] == ["python"] and words[1].startswith("algorithms/"):
        if not (ROOT / words[1]).exists():
            return Path(words[1]).name == "my_idea.py"
        module = importlib.import_module(f"algorithms.{Path(words[1]).stem}")
        configs = {name.lower().replace("_", "-"): table for name, table in vars(module).items()
                   if name.isupper() and isinstance(table, dict) and name != "PAPER"}
        if "--resume" in words:  # of a run that is not here
            place = words.index("--resume")
            words = words[:place] + words[place + 2:]
        parse(module.Args, module.PAPER, words[2:], **configs)
    elif words[:1] == ["python"] and words[1].startswith("benchmark/"):
        module, flags = importlib.import_module(f"benchmark.{Path(words[1]).stem}"), words[2:]
        if hasattr(module, "TABLE"):
            make(module.TABLE, flags)
        else:
            tyro.cli(module.Args, args=flags)
    else:
        return False
    return True


def test_commands_that_people_are_told():
    """Every command in README.md and docs/ names files that exist and flags that parse; a few are not the project's."""
    told = list(commands())
    others = [words for _, words in told if not parsed(shlex.split(words))]
    assert len(told) > 60 and {page for page, _ in told} >= {"README.md", "data.md", "benchmark.md", "runs.md", "speed.md", "use.md"}
    assert {shlex.split(words)[0] for words in others} <= {"cp", "python", "peers/bin/pip"}, others
    assert [words for words in others if "python" in words] == ["python -m venv peers "], others


def test_pages():
    """The README is short, and each link in it and in docs/ leads to a file."""
    lines = README.splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 120
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), (path.name, link)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"\(docs/(\w+\.md)\)", README)), pages
    questions = README.partition("## How do I")[2].partition("\n## ")[0]
    assert questions.count("\n| ") == 21  # twenty, and the heading


def test_lines_of_python_that_people_are_told():
    """Those of docs/use.md are those of common/loading.py, which tests/test_loading.py runs; the README's are the first."""
    told = importlib.import_module("common.loading").__doc__
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/use.md").read_text(), re.S)
    lines = [line.split("  #")[0] for block in blocks + re.findall(r"```python\n(.*?)```", README, re.S) for line in block.splitlines()]
    assert len(blocks) == 3 and len(lines) == 12 and not [line for line in lines if f"    {line}\n" not in told]


def test_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert lines[0] == "-e ." and "torch==2.13.0" in lines
    assert all("==" in line for line in lines[1:])


def test_security():
    """Each line of docs/SECURITY.md names tests that are there."""
    lines, defined = (ROOT / "docs/SECURITY.md").read_text().splitlines(), set()
    for path in (ROOT / "tests").glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.M))
    promises = [line for line in lines if line.startswith("- ")]
    assert len(promises) >= 10 and len(lines) <= 30
    for line in promises:
        named = re.findall(r"`(test_\w+)`", line)
        assert named and set(named) <= defined, line
    sums = [row["sha256"] != "" for row in D4RL.values()]
    assert f"for {sum(sums)} of {len(sums)};" in "\n".join(lines)


def test_no_flag_is_read_by_hand():
    """common.args.cli reads every command line: one parser, one line for what it refuses, ranges for numbers."""
    for path in [*ALGORITHMS, *COMMON, *SCRIPTS, *ENGINE]:
        assert path.name == "args.py" or "tyro.cli(" not in path.read_text(), path.name
