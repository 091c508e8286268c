"""The table of a grid: published beside ours, a verdict per cell, as Markdown, CSV and a page with learning curves."""

import csv
import shlex
from pathlib import Path

import numpy as np
from scipy import stats

from benchmark.engine import page
from benchmark.engine.curves import FURTHER, TIMES, Group, further
from benchmark.engine.files import whole
from benchmark.engine.runs import IGNORED, SCORES, digest, flags

PAPERS = Path(__file__).parents[1] / "papers"


def verdict(scores: list[float], mean: float, std: float) -> str:
    """pass: |ours - published| is at most max(2, published std), or the published mean is in our 95% interval (of two
    seeds or more); near: at most twice that maximum; else miss, or missing without a score."""
    if not scores:
        return "missing"
    difference, allowed, n = abs(np.mean(scores) - mean), max(2.0, std), len(scores)
    half = stats.t.ppf(0.975, n - 1) * np.std(scores, ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return "pass" if difference <= max(allowed, half) else "near" if difference <= 2 * allowed else "miss"


def published(table) -> dict[tuple[str, str], dict]:
    """{(dataset, algorithm): row} of the papers' CSV files."""
    rows = {}
    for name in table.papers:
        with open(PAPERS / name, newline="") as file:
            rows |= {(row["dataset"], row["algorithm"]): row for row in csv.DictReader(file)}
    return rows


def results(grid) -> list[dict]:
    """A row per cell, and per cell of the paper's quoted columns; nothing published unless data and setting are too."""
    table, rows, paper = grid.table, [], published(grid.table) if grid.paper else {}
    for cell in grid.cells:
        done = {seed: run.result["seeds"].get(str(seed)) for seed, run in sorted(grid.finished(cell).items())}
        scores = {cell.column: [of[table.score] for of in done.values() if of]} | also(grid, cell)
        for name, ours in scores.items():
            its = table.columns[name].published if name == cell.column else ""
            quote = paper.get((cell.dataset, its or name), {})
            judged = verdict(ours, *(float(quote[key] or 0) for key in ("mean", "std"))) if quote else ""
            data = "file" if cell.own else "standin" if grid.args.standin else "d4rl"
            rows.append(row(cell.dataset, name, data, quote, judged, ours))
    for name, among in table.best.items():
        for dataset in grid.datasets:
            tried = [row for row in rows if row["dataset"] == dataset and row["algorithm"] in among]
            rows += best(dataset, name, tried, paper.get((dataset, name), {}))
    for dataset in grid.datasets if grid.paper else ():
        ours = grid.columns(dataset) if dataset in grid.quoted else {}
        names = {name: column.published or name for name, column in ours.items()}
        names |= {name: name for name, (column, _) in table.also.items() if column in ours}
        names |= dict(zip(table.quoted, table.quoted))
        quotes = {name: paper.get((dataset, its), {}) for name, its in names.items()}
        rows += [row(dataset, name, "quoted", quote, "quoted" if quote else "") for name, quote in quotes.items()]
    return rows


def best(dataset: str, name: str, tried: list[dict], quote: dict) -> list[dict]:
    """The row with the best mean of several of ours, judged by the paper's own best, if it has one; none of nothing."""
    done = [row for row in tried if row["mean"]]
    if not tried or not (done or quote):
        return []
    scores, told = [], []
    if done:
        of = max(done, key=lambda row: float(row["mean"]))
        scores, told = list(map(float, of["scores"].split())), [f"the best of {len(done)}: {of['algorithm']}"]
    judged = verdict(scores, *(float(quote[key] or 0) for key in ("mean", "std"))) if quote else ""
    made = row(dataset, name, tried[0]["data"], quote, judged, scores)
    return [made | {"source": "; ".join([*told, *filter(None, [made["source"]])])}]


def also(grid, cell) -> dict[str, list[float]]:
    """Further scores of a cell's finished runs, {name: those of its seeds}."""
    runs = sorted(grid.finished(cell).items())
    found = {name: [further(run, seed, score) for seed, run in runs]
             for name, (column, score) in grid.table.also.items() if column == cell.column}
    return {name: [score for score in scores if score is not None] for name, scores in found.items()}


def row(dataset: str, algorithm: str, data: str, quote: dict, judged: str, scores=()) -> dict[str, str | int]:
    """A cell, its numbers to their last digit: who shows them rounds, once. One score has no std.

    `data`: d4rl, standin, file, quoted or another source; `quote`: the paper's row, if any.
    """
    mean, std = repr(float(np.mean(scores))) if scores else "", repr(float(np.std(scores))) if len(scores) > 1 else ""
    return {"dataset": dataset, "algorithm": algorithm, "data": data, "seeds": len(scores), "mean": mean, "std": std,
            "scores": " ".join(repr(float(score)) for score in scores), "published_mean": quote.get("mean", ""),
            "published_std": quote.get("std", ""), "verdict": judged, "source": quote.get("source", "")}


def runs(grid) -> list[dict]:
    """A row per cell and finished seed: all scores, where they are from and what they cost, in seconds."""
    rows = []
    for cell in grid.cells:
        for seed, run in sorted(grid.finished(cell).items()):
            result, config = run.result, run.config
            scores = result["seeds"].get(str(seed), {})  # none without evaluation
            scores = {key: repr(float(scores[key])) if key in scores else "" for key in SCORES}
            for name, (column, score) in grid.table.also.items():
                value = further(run, seed, score) if column == cell.column else None
                scores[name] = "" if value is None else repr(value)
            cost = {key: repr(float(result[key])) if key in result else "" for key in TIMES}
            rows.append({"dataset": cell.dataset, "algorithm": cell.column, "seed": seed, **scores,
                         "updates": result["step"], **cost, "seeds_of_the_run": len(run.seeds), "run": run.folder.name,
                         "device": config.get("device", ""), "threads": config.get("threads", "")})
    return rows


def markdown(grid, rows: list[dict]) -> str:
    """Datasets down, algorithms across: ours / published and verdict; ours alone where nothing is comparable."""
    alone, seeds = not grid.paper, wanted(grid)
    names, datasets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("algorithm", "dataset"))
    cells = {(row["dataset"], row["algorithm"]): row for row in rows}
    quoted = page.quoted_columns(rows)

    def text(row):
        ours = "-"
        if row["mean"]:
            ours = f"{page.pair(row['mean'], row['std'])} ({row['seeds']} of {seeds})"
        theirs = row["published_mean"] + f" ± {row['published_std']}" * bool(row["published_std"]) or "-"
        if row["data"] == "quoted":
            return theirs if row["algorithm"] in quoted else f"{theirs} {row['verdict']}".strip()
        return ours if alone else f"{ours} / {theirs} {row['verdict']}".strip()

    def mean(name):
        column = [row for row in rows if row["algorithm"] == name and (row["data"] != "quoted" or name in quoted)]
        values = [[float(row[key]) for row in column if row[key]] for key in ("mean", "published_mean")]
        ours, theirs = (f"{np.mean(v):.1f} ({page.mean_of(len(v))})" if v else "-" for v in values)
        return theirs if name in quoted else ours if alone else f"{ours} / {theirs}"

    lines = [["dataset", *(name + " (quoted)" * (name in quoted) for name in names)], ["---"] * (len(names) + 1)]
    lines += [[dataset, *(text(cells[dataset, name]) if (dataset, name) in cells else "" for name in names)]
              for dataset in datasets]
    if page.alike(rows):
        lines.append(["mean", *map(mean, names)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"# {grid.table.title}", *(f"**{note}**" for note in notes(grid)), table,
                        f"{how(grid)} {few(rows)}".strip()]) + "\n"


def notes(grid) -> list[str]:
    """What must be read with the table."""
    notes = list(grid.table.notes)
    if grid.args.data:
        given = "; ".join(f"{name} is {own.file.name}" for name, own in grid.own.items() if name not in grid.table.own)
        notes.append(f"OWN DATA in place of D4RL's: {given}. No score of it compares with a published one.")
    if grid.quoted:
        what = "published numbers only" if grid.paper else "left out"
        notes.append(f"There is no simulator here for {', '.join(grid.quoted)}: {what}.")
    if grid.args.standin:
        notes.append("STAND-IN DATA, not D4RL's: made with this project's own policies. No score here compares with a "
                     "published one.")
    if setting := [*(["--updates", str(grid.args.updates)] if grid.args.updates else []), *grid.extra]:
        notes.append(f"Not the paper's setting: {shlex.join(setting)}.")
    return notes


def how(grid) -> str:
    how = (f"Normalised score, {SCORES[grid.table.score]} of each run, mean ± population std over seeds (how many of "
           "how many).")
    for name, (column, score) in grid.table.also.items():
        how += f" {name}: {FURTHER[score]} of {column}'s runs."
    if grid.paper:
        how += " Ours / published, verdict: pass, near, miss or missing (benchmark/engine/tables.py, `verdict`)."
    return how


def few(rows: list[dict]) -> str:
    """How little the std of less than five seeds says: half a 95% interval of the mean, in units of that std."""
    cells = [row["seeds"] for row in rows if row["data"] != "quoted" and 0 < row["seeds"] < 5]
    if not cells:
        return ""
    told = ["one seed has no std"] * (1 in cells)
    half = {n: stats.t.ppf(0.975, n - 1) / np.sqrt(n - 1) for n in (2, 3, 4) if n in cells}
    told += [f"with {n} the 95% interval of the mean is ± {times:.1f} times the std" for n, times in half.items()]
    return f"Fewer than five seeds in {len(cells)} cell{'s' * (len(cells) > 1)}: {', '.join(told)}."


def wanted(grid) -> int:
    """Seeds of a whole cell: the paper's number, or more where more are asked for."""
    return max(len(grid.table.seeds), len(grid.seeds))


def stem(grid) -> str:
    """Name of a grid's files: other data, other settings and a part of the table have names of their own, with eight
    digits that change with which data, settings or part it is."""
    args, part = grid.args, bool(grid.args.datasets or grid.args.columns or grid.args.seeds)
    changed = bool(args.updates or grid.extra)
    what = (list(grid.datasets), sorted(set(args.columns)), sorted(grid.seeds)) if part else ()
    given = {name: value for name, value in flags(list(grid.extra)).items() if name.replace("-", "_") not in IGNORED}
    how = (args.updates, sorted(given.items())) if changed else ()
    files = [(name, grid.own[name].sha256) for name in sorted(grid.own) if name not in grid.table.own]
    return (grid.table.name + ".standin" * args.standin + ".data" * bool(args.data) + ".changed" * changed
            + ".part" * part + f".{digest(what, how, files)}" * bool(what or how or files))


def write(grid) -> str:
    """`out`/name.md, .csv, .runs.csv and .html, each whole or not at all; equal scores give equal .md and .csv."""
    rows, path = results(grid), grid.args.out / stem(grid)
    text = markdown(grid, rows)
    with whole(Path(f"{path}.md")) as part:
        part.write_text(text)
    for suffix, lines in (("csv", rows), ("runs.csv", runs(grid))):
        with whole(Path(f"{path}.{suffix}")) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, lines[0] if lines else ["dataset", "algorithm", "seed"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    page.write(Path(f"{path}.html"), grid.table.title, notes(grid), f"{how(grid)} {few(rows)}".strip(), rows,
               groups(grid), grid.table.score, wanted(grid))
    print(f"\n{text}\n{path}.md, .csv and .runs.csv; with learning curves: {path}.html")
    return text


def groups(grid) -> list[Group]:
    """One per cell; of a seed's runs the newest, or a finished one where there is one."""
    def shown(cell):
        return {seed: run for run in grid.found[cell] for seed in run.seeds if seed in grid.seeds} | grid.finished(cell)
    return [Group(cell.dataset, cell.column, shown(cell)) for cell in grid.cells]
