"""What an algorithm's file says of itself: its docstring's equations, the lines with their numbers, what it logs.

A file is read as text, never imported or executed.
"""

import ast
import difflib
import io
import re
import tokenize
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common import InputError
from common.files import text_of

NUMBERED = re.compile(r"(\S) {2,}\((\d{1,6})\)$")
MARK = re.compile(r"# \((\d{1,6})\)")
PARENT = re.compile(r"Read before: (\w+\.py)(?: \((\d{1,6}) lines of code differ\))?")
MOST = 3000  # lines that a diff takes


@dataclass
class Lesson:
    """What a file's text says of itself. InputError: no Python, no docstring, no equation."""
    path: Path
    equations: dict[int, str] = field(default_factory=dict)  # {number: source}

    def __post_init__(self):
        try:
            self.source = text_of(self.path, 2**20).removeprefix("\ufeff")
            with warnings.catch_warnings(action="ignore"):
                self.tree = ast.parse(self.source)
            self.tokens = list(tokenize.generate_tokens(io.StringIO(self.source).readline))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
            raise InputError(f"{self.path}: is no Python file ({type(error).__name__}: {error})") from None
        self.lines = self.source.split("\n")
        docstring = (ast.get_docstring(self.tree, clean=False) or "").expandtabs().strip("\n")
        if not docstring.strip():
            raise InputError(f"{self.path}: has no docstring; a page is about a docstring's equations")
        self.blocks = blocks(docstring)
        for kind, text, number in self.blocks:
            if number in self.equations:
                raise InputError(f"{self.path}: two equations have the number ({number})")
            if number:
                self.equations[number] = text
        if not self.equations:
            raise InputError(f"{self.path}: its docstring has no equation, an indented line that ends with its (1)")
        told = PARENT.search(docstring)
        self.parent, self.told = (told[1], told[2]) if told else (None, None)
        self.logged_text = next((text for kind, text, _ in self.blocks if text.startswith("Logged:")), "")
        self.start = self.tree.body[0].end_lineno + 1  # the first line after the docstring

    @cached_property
    def marks(self) -> dict[int, list[int]]:
        """{equation: lines that carry its number}; a line inside a function comes before a flag's."""
        inside = {line for node in ast.walk(self.tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                  for line in range(node.lineno, node.end_lineno + 1)}
        found = [(int(n), token.start[0]) for token in self.tokens if token.type == tokenize.COMMENT
                 for n in MARK.findall(token.string)]
        return {n: sorted((line for m, line in found if m == n), key=lambda line: (line not in inside, line))
                for n in self.equations if n in {m for m, _ in found}}

    @cached_property
    def logged(self) -> dict[str, int]:
        """{name: line} of the numbers that an update returns: `return {"actor_loss": loss, **stats}`."""
        def names(table):
            return {key.value: key.lineno for key in table.keys
                    if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.isidentifier()}

        found, unpacked, nodes = {}, set(), list(ast.walk(self.tree))
        for node in nodes:
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict):
                if {"critic_loss", "actor_loss"} & set(names(node.value)):
                    found |= names(node.value)
                    pairs = zip(node.value.keys, node.value.values)
                    unpacked |= {value.id for key, value in pairs if key is None and isinstance(value, ast.Name)}
        for node in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                if {target.id for target in node.targets if isinstance(target, ast.Name)} & unpacked:
                    found |= names(node.value)
        return found

    @cached_property
    def formulas(self) -> dict[str, list[int]]:
        """{logged name: equations between it and the next name, or the sentence's end, in the `Logged:` paragraph}."""
        found = {}
        for name in self.logged:
            for match in re.finditer(rf"\b{name}\b(?! loss)", self.logged_text):
                rest = re.split(r"\.(?= |$)|\b(?:%s)\b" % "|".join(self.logged), self.logged_text[match.end():])[0]
                own = re.sub(r"\(\d+\)[^.]* of common/", "", rest)
                numbers = map(int, re.findall(r"\((\d{1,6})\)", own))
                found.setdefault(name, []).extend(n for n in numbers if n in self.equations)
        return found

    @cached_property
    def code(self) -> list[int]:
        """Lines of code: no docstring of the module, no PAPER and other tables, no blank lines."""
        skipped = {line for node in self.tree.body if isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign))
                   for line in range(node.lineno, node.end_lineno + 1)}
        return [n for n, line in enumerate(self.lines, 1) if n not in skipped and line.strip()]

    @cached_property
    def title(self) -> tuple[str, str]:
        """The paper's name, and the authors."""
        name, _, rest = self.blocks[0][1].partition(". ")
        return name, rest


def blocks(docstring: str) -> list[tuple[str, str, int | None]]:
    """(kind, text, number): paragraphs "p", items of a list "li" and equations "eq", which alone may have a number."""
    found, before = [], ""
    for line in docstring.split("\n"):
        text, number = line.strip(), NUMBERED.search(line)
        if line.startswith("    ") and text:
            text = NUMBERED.sub(r"\1", line).strip()
            deeper = len(line) - len(line.lstrip()) > indent if before == "eq" else False
            if before == "eq" and deeper and found[-1][2] is None:
                text = f"{found.pop()[1]}\n{text}"
            else:
                indent = len(line) - len(line.lstrip())
            found.append(("eq", text, int(number[2]) if number else None))
        elif text.startswith("- "):
            found.append(("li", text[2:], None))
        elif text and before in ("p", "li") and not re.match("Read before:|Run:", text):
            found[-1] = (found[-1][0], f"{found[-1][1]} {text}", None)
        elif text:
            found.append(("p", text, None))
        before = found[-1][0] if text else ""
    return found


def difference(parent: Lesson, own: Lesson) -> list[tuple[str, int, int]]:
    """(sign, line of the parent, line of the file) as a diff of their lines of code has them; 0 where there is none."""
    theirs, ours, found = iter(parent.code), iter(own.code), []
    texts = ([lesson.lines[n - 1] for n in lesson.code] for lesson in (parent, own))
    for line in difflib.ndiff(*texts):
        if line[0] != "?":
            found.append((line[0], next(theirs) if line[0] in " -" else 0, next(ours) if line[0] in " +" else 0))
    return found
