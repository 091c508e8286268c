"""The repository's habits: order inside a file, equations, budgets, equal copies, floors, README."""

import ast
import csv
import difflib
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import tyro

from benchmark.grid import make
from common.run import RunArgs, parse

ROOT = Path(__file__).parent.parent
ALGORITHMS = sorted((ROOT / "algorithms").glob("*.py"))
COMMON = sorted((ROOT / "common").glob("*.py"))
BENCHMARK = sorted((ROOT / "benchmark").glob("*.py"))
BUDGETS = {"td3_bc": 200, "sac_n": 230, "edac": 260, "pbrl": 265, "rorl": 320, "bc": 205, "iql": 225, "sql_eql": 260, "xql": 275,
           "awac": 210, "one_step": 205}  # lines a file may have
WIDTH = {"algorithms": 110, "common": 120, "benchmark": 120}
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
    assert re.search(r"arXiv:\d{4}\.\d{5}", docstring.split("\n\n")[0])
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
    lines = {path.name: len(path.read_text().splitlines()) for path in COMMON if path.stem not in ("dynamics", "terminations")}
    assert sum(lines.values()) <= 1196, lines
    for path in ALGORITHMS + COMMON + BENCHMARK:
        assert max(map(len, path.read_text().splitlines())) <= WIDTH[path.parent.name], path.name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 45, f"{path.name} {node.name}"


@every_algorithm
def test_flags(path):
    module = importlib.import_module(f"algorithms.{path.stem}")
    own = {field.name for field in fields(module.Args)} - {field.name for field in fields(RunArgs)}
    assert len(own) <= 20 and {"env", "seeds", "updates"} <= own
    class_source = path.read_text().partition("class Args(RunArgs):\n")[2].partition("\n\n")[0]
    assert all(re.search(r"  # \S", line) for line in class_source.splitlines())  # the comment is the help text
    for table in [value for name, value in vars(module).items() if name.isupper() and name[0] != "_" and isinstance(value, dict)]:
        for dataset, values in table.items():
            module.Args(**values)  # names that exist
            assert "-v" in dataset


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
    seen = {}
    for path in sorted(ALGORITHMS, key=lambda path: ["td3_bc", "sac_n"].index(path.stem) if path.stem in ("td3_bc", "sac_n") else 9):
        for name, (source, original) in definitions(path).items():
            if source in seen and name not in ("main",):
                assert original, f"{path.name} {name} equals {seen[source]}'s and does not say so"
            seen[source] = path.name


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
        assert int(told[2]) == len(added) <= {"edac": 40, "sql_eql": 70, "xql": 70}.get(path.stem, 120)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_floors():
    for path in ALGORITHMS:
        assert set(imports(path)) <= {"common", "torch", "copy", "dataclasses", "math", "typing"}, path.name
    for path in COMMON:
        assert not {"algorithms", "benchmark", "tests"} & set(imports(path)), path.name
    for path in BENCHMARK:  # starts algorithms as processes; agents come from the file that trained them (benchmark/runs.py)
        assert not {"algorithms", "tests"} & set(imports(path)), path.name


def test_every_table_script_tells_how_to_run_it():
    for path in BENCHMARK:
        if 'if __name__ == "__main__"' in path.read_text():
            assert f"Run: python benchmark/{path.name}" in ast.get_docstring(ast.parse(path.read_text())), path.name


def test_papers_numbers():
    """Every cell is a number with a source; nothing is there twice."""
    for path in sorted((ROOT / "benchmark/papers").glob("*.csv")):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({(row["dataset"], row["algorithm"]) for row in rows}) == len(rows) > 0, path.name
        for row in rows:
            assert set(row) == set("paper table dataset algorithm mean std source".split()) and row["source"], row
            assert -50 < float(row["mean"]) < 200 and 0 <= float(row["std"] or 0) < 100 and "-v" in row["dataset"], row


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


def test_readme_commands(monkeypatch):
    """Every command in a code block names files that exist and flags that parse."""
    commands = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    assert len(commands) >= 5
    checked = 0
    for command in commands:
        for part in command.split("#")[0].split("&&"):
            words = shlex.split(part)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words.pop(0)
            if words[:1] == ["python"] and words[1].startswith("algorithms/") and "--resume" not in words:
                if (ROOT / words[1]).exists():
                    module = importlib.import_module(f"algorithms.{Path(words[1]).stem}")
                    configs = {name.lower().replace("_", "-"): table for name, table in vars(module).items()
                               if name.isupper() and isinstance(table, dict) and name != "PAPER"}
                    parse(module.Args, module.PAPER, words[2:], **configs)
                    checked += 1
                else:
                    assert Path(words[1]).name == "my_idea.py"
            elif words[:1] == ["python"] and words[1].startswith("benchmark/"):
                module, flags = importlib.import_module(f"benchmark.{Path(words[1]).stem}"), words[2:]
                if hasattr(module, "TABLE"):
                    make(module.TABLE, flags)
                else:
                    tyro.cli(module.Args, args=flags)
                checked += 1
            elif words[:2] == ["pip", "install"] and "-r" in words:
                assert (ROOT / words[words.index("-r") + 1]).exists()
    assert checked >= 3


def test_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert lines[0] == "-e ." and "torch==2.13.0" in lines
    assert all("==" in line for line in lines[1:])
