"""One HTML page of an algorithm's file: equations as mathematics beside their lines, and the diff to its parent.

Run: python -m common.reader algorithms/rorl.py (--all: every file of algorithms/, and an index)

A page needs no network. A file is read as text, never imported or executed. reader.html has the styles and the script.
"""

import keyword
import os
import re
import tokenize
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

import tyro

from common import InputError, friendly
from common.args import cli
from common.files import check_folder
from common.lesson import MARK, MOST, Lesson, difference
from common.mathml import convert

ALGORITHMS = Path(__file__).resolve().parents[1] / "algorithms"
SECTIONS = {"Paper / authors' code / here": ("differences", "Paper, authors' code, here"),
            "Logged:": ("logged", "Logged"), "Read before:": ("before", "")}
KINDS = {tokenize.STRING: "s", tokenize.COMMENT: "c", tokenize.NUMBER: "m"}
NEAR = 3  # equal lines around a change


@dataclass
class Args:
    file: tyro.conf.Positional[Path | None] = None  # an algorithm's file; with --all: their folder
    all: bool = False  # a page of every file, and an index of them
    out: Path = Path("reader")  # folder for the pages


def highlighted(lesson: Lesson) -> list[str]:
    """HTML of each line. Equations' marks and logged names are links back to where they are explained."""
    spans, before = [[] for _ in lesson.lines], ""
    for token in lesson.tokens:
        name = tokenize.tok_name[token.type]
        kind = "s" if name.startswith("FSTRING") else KINDS.get(token.type, "")
        if token.type == tokenize.NAME:
            kind = "k" if keyword.iskeyword(token.string) else "d" if before in ("def", "class") else ""
        before = token.string
        for n in range(token.start[0], token.end[0] + 1) if kind else ():
            first = token.start[1] if n == token.start[0] else 0
            last = token.end[1] if n == token.end[0] else len(lesson.lines[n - 1])
            spans[n - 1].append((first, last, kind))
    found = []
    for n, (line, parts) in enumerate(zip(lesson.lines, spans), 1):
        html, end = "", 0
        for first, last, kind in parts:
            html += escape(line[end:first]) + f'<i class="{kind}">{_linked(lesson, n, line[first:last], kind)}</i>'
            end = last
        found.append(html + escape(line[end:]))
    return found


def _linked(lesson, n, text, kind) -> str:
    """A token's HTML: `# (7)` is a link to equation 7, and a logged name one to its explanation."""
    html = escape(text)
    if kind == "c":
        return MARK.sub(lambda match: f'# <a href="#eq{match[1]}" data-on="e{match[1]}">({match[1]})</a>'
                        if int(match[1]) in lesson.equations else match[0], html)
    name = text.strip("\"'")
    if kind == "s" and lesson.logged.get(name) == n:
        return f'<a id="key-{name}" href="#log-{name}" data-on="{_lights(lesson, name)}">{html}</a>'
    return html


def _lights(lesson, name) -> str:
    """What is lit up with a logged name: itself, and its equations."""
    return " ".join([f"g-{name}", *(f"e{n}" for n in dict.fromkeys(lesson.formulas.get(name, [])))])


def prose(lesson: Lesson, text: str, pages: set[str], logged: bool = False) -> str:
    """A paragraph: numbers of equations, files and (if `logged`) the first mention of each logged name are links."""
    seen = set()

    def link(match):
        kind, word = match.lastgroup, match.group()
        if kind == "elsewhere":
            return word
        if kind == "number" and int(word[1:-1]) in lesson.equations:
            return f'<a href="#eq{word[1:-1]}" data-on="e{word[1:-1]}">{word}</a>'
        if kind == "paper":
            return f'<a href="https://arxiv.org/abs/{word[6:]}">{word}</a>'
        if kind == "file" and word.removesuffix(".py") in pages and word != lesson.path.name:
            return f'<a href="{word.removesuffix(".py")}.html">{word}</a>'
        if kind in ("file", "flag", "command"):
            return f"<code>{word}</code>"
        if kind == "ticks":
            return f"<code>{word[1:-1]}</code>"
        if kind == "name" and logged and word in lesson.logged:
            anchor = "" if word in seen else f' id="log-{word}"'
            seen.add(word)
            return f'<a{anchor} href="#key-{word}" data-on="{_lights(lesson, word)}">{word}</a>'
        return word
    return re.sub(r"(?P<elsewhere>\(\d+\)(?: (?:to|and|or) \(\d+\))* of common/[\w.]+|target entropy)"
                  r"|(?P<number>(?<![\w)])\(\d{1,6}\))"
                  r"|(?P<paper>arXiv:\d{4}\.\d{4,5})|(?P<command>(?<=Run: )python [^(]*[^( ])|(?P<ticks>`[^`]+`)"
                  r"|(?P<file>\b[\w/]+\.(?:py|md|csv)\b)|(?P<flag>(?<![\w-])--[a-z][\w-]*)|(?P<name>\b[a-z_]\w*\b)",
                  link, escape(text, quote=False))


def shown_equation(lesson: Lesson, text: str, number: int | None, beside: bool = False) -> str:
    """An equation and its number, which leads to its line; `beside` the code: the number leads to the docstring's."""
    shown = convert(text) or f'<code class="source">{escape(text)}</code>'  # what cannot be read stays as it is
    body = f'<div class="math" role="math" aria-label="{escape(text)}">{shown}</div>'
    if number is None:
        return f'<div class="eq">{body}</div>'
    lines = lesson.marks.get(number, [])
    others = "".join(f' <a class="at" href="#L{n}">line {n}</a>' for n in lines) or " in no line"
    if beside:
        return f'<aside class="eq" data-on="e{number}">{body}<a href="#eq{number}">({number})</a></aside>'
    link = f'<a class="no" href="#L{lines[0]}">({number})</a>' if lines else f'<span class="no">({number})</span>'
    return f'<div class="eq" id="eq{number}" data-on="e{number}">{body}<span>{link}{others}</span></div>'


def explained(lesson: Lesson, pages: set[str]) -> str:
    """Text and equations of the docstring, and where logged names are explained that are not explained here."""
    name, about = lesson.title
    html, inside = [f"<h1>{escape(name)}</h1><p class=soft>{prose(lesson, about, pages)}</p>"], ""
    for kind, text, number in lesson.blocks[1:]:
        if kind != inside and "li" in (kind, inside):
            html.append("<ul>" if kind == "li" else "</ul>")
        if kind == "eq" and inside != "eq" and not any('id="equations"' in part for part in html):
            html.append('<h2 id="equations">Equations</h2>')
        for start, (anchor, title) in SECTIONS.items() if kind == "p" else ():
            if text.startswith(start):
                html.append(f'<h2 id="{anchor}">{title}</h2>' if title else '<hr id="before">')
        if kind == "eq":
            html.append(shown_equation(lesson, text, number))
        else:
            tag = kind if kind == "li" else "p"
            html.append(f"<{tag}>{prose(lesson, text, pages, logged=text == lesson.logged_text)}</{tag}>")
            html.append(elsewhere(lesson, pages) if text == lesson.logged_text else "")
        inside = kind
    return "\n".join(filter(None, [*html, "</ul>" if inside == "li" else ""]))


def elsewhere(lesson: Lesson, pages: set[str]) -> str:
    """Logged names that another file's docstring explains: `the rest is as in sac_n.py`."""
    left, other, lines = [name for name in lesson.logged if name not in lesson.formulas], lesson, []
    while left and (told := re.search(r"\bas in (\w+)\.py", other.logged_text)):
        try:
            other = Lesson(lesson.path.with_name(f"{told[1]}.py"))
        except InputError:
            break
        here = [name for name in left if re.search(rf"\b{name}\b", other.logged_text)]
        left = [name for name in left if name not in here] if told[1] != lesson.path.stem else []
        names = ", ".join(f'<a href="#key-{name}" id="log-{name}" data-on="g-{name}">{name}</a>' for name in here)
        where = f"<code>{told[1]}.py</code>"
        where = f'<a href="{told[1]}.html#logged">{where}</a>' if told[1] in pages else where
        lines.append(f'<p class="soft">Explained in {where}: {names}.</p>' if here else "")
    rest = ", ".join(f'<a href="#key-{name}" id="log-{name}" data-on="g-{name}">{name}</a>' for name in left)
    return "".join(lines) + (f'<p class="soft">Not explained: {rest}.</p>' if left else "")


def listing(lesson: Lesson, new: set[int]) -> str:
    """The code after the docstring; where a line carries an equation's number, the equation stands beside it."""
    html, notes = highlighted(lesson), {}
    for n, lines in lesson.marks.items():
        notes.setdefault(lines[0], []).append(n)
    marked = {line: n for n, lines in lesson.marks.items() for line in lines}
    last = len(lesson.lines) - (not lesson.lines[-1])
    starts = sorted({lesson.start, *(line for line in notes if line > lesson.start)})
    parts, widest = [], max(map(len, lesson.lines[lesson.start - 1:]), default=0)
    for first, end in zip(starts, [*starts[1:], last + 1]):
        rows = "".join(f'<span class="l{" new" * (n in new)}" id="L{n}" data-n="{n}"' + (
            f' data-on="e{marked[n]}"' if n in marked else "") + f">{html[n - 1]}\n</span>" for n in range(first, end))
        asides = "".join(shown_equation(lesson, lesson.equations[n], n, beside=True) for n in notes.get(first, []))
        parts.append(f'<section>{f"<div class=notes>{asides}</div>" if asides else ""}<pre>{rows}</pre></section>')
    top = "\n".join(html[:lesson.start - 1])
    return (f'<details><summary>The docstring, as it stands in lines 1 to {lesson.start - 1}</summary>'
            f'<pre class="wide" tabindex="0">{top}</pre></details>'
            f'<div class="listing" style="--columns: {widest + 8}ch" tabindex="0" role="region" aria-label="code">'
            f'{"".join(parts)}</div>')


def diff(lesson: Lesson, pages: set[str]) -> tuple[str, set[int]]:
    """The diff to the parent, foldable, and the file's lines that are new in it."""
    if not lesson.parent:
        return '<p class="soft">The docstring names no file to read before, so there is no diff.</p>', set()
    try:
        parent = Lesson(lesson.path.with_name(lesson.parent))
        if len(parent.lines) + len(lesson.lines) > MOST:
            raise InputError("the two files are too long for one")
    except InputError as error:
        return f'<p class="soft">No diff to {escape(lesson.parent)}: {escape(str(error))}.</p>', set()
    rows, theirs, ours = difference(parent, lesson), highlighted(parent), highlighted(lesson)
    near = {i + j for i, row in enumerate(rows) if row[0] != " " for j in range(-NEAR, NEAR + 1)}
    added, removed = (sum(row[0] == sign for row in rows) for sign in "+-")
    html, hidden = [], 0
    for i, (mark, old, own) in enumerate([*rows, ("end", 0, 0)]):
        if i not in near and mark == " ":
            hidden += 1
            continue
        html.append(f'<span class="skip">{hidden} equal line{"s" * (hidden > 1)}\n</span>' if hidden else "")
        hidden, word = 0, {"+": "add", "-": "cut"}.get(mark, "")
        text = re.sub(r"</?a\b[^>]*>", "", ours[own - 1] if own else theirs[old - 1])
        html.append(f'<span class="l {word}" data-n="{mark} {own or old}">{text}\n</span>' if mark != "end" else "")
    name = f'<a href="{parent.path.stem}.html">{lesson.parent}</a>' if parent.path.stem in pages else lesson.parent
    told = f"; the docstring says {lesson.told}" if lesson.told and int(lesson.told) != added else ""
    return (f'<details class="diff"><summary>Diff to <code>{lesson.parent}</code>: <b>{added}</b> lines of code differ '
            f'(added or changed){told}; {removed} of its lines are not here</summary><p class="soft">Read {name} '
            f'before. Tables of the paper\'s values, the docstring and blank lines are left out. Removed lines have '
            f'the numbers of {lesson.parent}.</p><pre class="wide" tabindex="0">{"".join(html)}</pre></details>',
            {own for mark, _, own in rows if mark == "+"})


def page(lesson: Lesson, pages: set[str] = frozenset()) -> str:
    """HTML of a file; `pages`: stems of the files that have a page in the same folder, which it may link to."""
    changes, new = diff(lesson, pages)
    index = '<a href="index.html">All files</a>' if pages else ""
    parts = {"equations": "Equations", "differences": "Differences", "logged": "Logged", "diff": "Diff", "code": "Code"}
    text = explained(lesson, pages)
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in parts.items()
                    if anchor in ("diff", "code") or f'id="{anchor}"' in text)
    bar = ' A bar at a line\'s number marks a line that <code>%s</code> does not have.' % lesson.parent * bool(new)
    body = (f'<nav>{index}{links}</nav><article>{text}<h2 id="diff">Diff</h2>{changes}</article>'
            f'<h2 id="code"><code>{escape(lesson.path.name)}</code></h2><p>Point at an equation, its number or a line '
            f"that carries it: the others light up.{bar}</p>{listing(lesson, new)}")
    return filled(lesson.title[0], body)


def filled(title: str, body: str) -> str:
    template = Template((Path(__file__).parent / "reader.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), body=body)


def index(lessons: list[Lesson]) -> str:
    """All files in the order in which they may be read: each below the file to read before it."""
    known = {lesson.path.name: lesson for lesson in lessons}

    def above(lesson):  # None: it is a first one; so is each file of a ring
        seen, other = set(), lesson
        while other and other.path.name not in seen:
            seen.add(other.path.name)
            other = known.get(other.parent)
        return None if other is lesson else known.get(lesson.parent)

    def below(lesson):
        lines = ""
        for item in (item for item in lessons if above(item) is lesson):
            told = f", {item.told} lines of code differ" if item.told else ""
            lines += (f'<li><a href="{quote(item.path.stem)}.html">{escape(item.title[0])}</a> <code>'
                      f'{escape(item.path.name)}</code> <span class="soft">{len(item.equations)} equations{told}</span>'
                      f"{below(item)}</li>")
        return f"<ul>{lines}</ul>" * bool(lines)

    return filled("Algorithms to read", "<article><h1>Algorithms to read</h1><p>A file stands below the one to read "
                  f"before it.</p>{below(None)}</article>")


def write(folder: Path, name: str, text: str) -> Path:
    """InputError: it cannot be written."""
    path, part = folder / name, folder / f"{name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); choose another folder with --out") from None
    return path


def main(argv: list[str] | None = None) -> None:
    args = cli(Args, argv, description=(__doc__ or "").partition("\n")[0])
    check_folder(args.out)
    if not args.all and args.file is None:
        raise InputError("which file? python -m common.reader algorithms/rorl.py, or --all")
    if not args.all:
        print(write(args.out, f"{args.file.stem}.html", page(Lesson(args.file))))
        return
    folder = args.file or ALGORITHMS
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: no folder with .py files; --all makes a page of each")
    lessons = [Lesson(path) for path in files]
    pages = {lesson.path.stem for lesson in lessons}
    for lesson in lessons:
        write(args.out, f"{lesson.path.stem}.html", page(lesson, pages))
    print(f"{write(args.out, 'index.html', index(lessons))}: {len(lessons)} pages")


if __name__ == "__main__":
    with friendly():
        main()
