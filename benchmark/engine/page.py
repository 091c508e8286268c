"""A results page: one HTML file that needs no network, with a table, learning curves, robust statistics and times.

page.html has its styles and the script that draws the plots; all numbers and nothing else are put in. The same runs
give the same bytes.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from benchmark.engine.curves import Group, logs as logs_of
from benchmark.engine.figures import COLOURS, MARKERS, number, profile_caption, spans, spread
from benchmark.engine.files import whole
from benchmark.engine.robust import (NAMES, REPETITIONS, Comparison, aggregates, comparisons, improvements, profiles,
                                     thresholds)
from benchmark.engine.runs import TIMES, duration, plain

NONE = "<p>No evaluations yet.</p>"
POINTS = 200  # of a logged line, at most twice as many
Cell = tuple[str, float | str | None]  # its HTML and what it is sorted by; None stays last


def write(path: Path, title: str, notes: list[str], how: str, rows: list[dict], groups: list[Group],
          score: str, seeds: int = 0, logs: bool = False) -> None:
    """`rows` as benchmark/engine/tables.py's results gives them, and the runs behind them, finished or not.

    `notes`: warnings on top; `how`: which scores the table has; `score`: their name in result.json; `seeds`: of a whole
    cell, where there is such a number; `logs`: of all runs, not of those alone that were never evaluated.
    """
    datasets, names = (list(dict.fromkeys([*(row[key] for row in rows), *(getattr(group, key) for group in groups)]))
                       for key in ("dataset", "algorithm"))
    published = {(row["dataset"], row["algorithm"]): row for row in rows if row["published_mean"]}
    its = {group.algorithm: group.short for group in groups}
    short = [its.get(name, name) for name in names]
    panels = [panel(dataset, names, groups, published) for dataset in datasets]
    panels = [panel for panel in panels if panel]
    compared = [statistics(comparison, i, names, short) for i, comparison in enumerate(comparisons(groups, score))]
    points, times = timing(groups, score, names, short)
    drawn, logged = logging(logs_of(groups, logs))
    parts = {
        "title": escape(title), "how": escape(how), "draws": f"{REPETITIONS:,}", "times": times,
        "logs": logged,
        "notes": "\n".join(f'<p class="banner" role="note">{escape(note)}</p>' for note in notes),
        "table": table(rows, groups, names, datasets, [panel["dataset"] for panel in panels], seeds),
        "curves": "\n".join(_panel(i, panel, names, short) for i, panel in enumerate(panels)) or NONE,
        "statistics": "\n".join(text for _, text in compared) or "<p>None: no finished run has a normalised score.</p>",
        "data": _json({"names": names, "short": short, "colours": COLOURS, "markers": len(MARKERS), "curve": panels,
                       "profile": [plot for plot, _ in compared], "time": [points], "log": drawn})}
    text = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8")).substitute(parts)
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def sortable(head: list[str], body: list[list[Cell]], foot: Sequence[str] = (), name: str = "") -> str:
    """A table that its header sorts; `head` and `foot`: HTML of a row; the first cell of a row is its header."""
    def line(cells):
        values = ["" if value is None else escape(str(value)) for _, value in cells]
        first, *others = (f' data-v="{value}">{text}' for value, (text, _) in zip(values, cells))
        return f'<tr><th scope="row"{first}</th>{"".join(f"<td{cell}</td>" for cell in others)}</tr>'

    top = "".join(f'<th scope="col"><button type="button">{text}</button></th>' for text in head)
    end = "".join(f"<td>{text}</td>" for text in foot[1:])
    foot = f'<tfoot><tr><th scope="row">{foot[0]}</th>{end}</tr></tfoot>' if foot else ""
    label = f' aria-label="{escape(name)}"'
    return _wide(f'<table class="sortable"{label}><thead><tr>{top}</tr></thead><tbody>\n'
                 f"{chr(10).join(map(line, body))}\n</tbody>{foot}</table>", label)


def _wide(html: str, label: str) -> str:
    """A table that scrolls where it is wider than the page, and a hint that is shown there."""
    return ('<p class="hint" hidden>More columns to the right: scroll the table sideways \u2192</p>'
            f'<div class="wide" tabindex="0" role="region"{label}>{html}</div>')


def table(rows: list[dict], groups: list[Group], names: list[str], datasets: list[str], drawn: list[str],
          seeds: int = 0) -> str:
    """Datasets down, algorithms across; a cell links to its curve, if its dataset is in `drawn`."""
    cells = {(row["dataset"], row["algorithm"]): row for row in rows}
    runs = {(group.dataset, group.algorithm): group for group in groups}
    quoted = quoted_columns(rows)

    def cell(dataset, name) -> Cell:
        row, group = cells.get((dataset, name), {}), runs.get((dataset, name))
        text = _cell(row, group, seeds)
        if group and group.curve:
            text = f'<a href="#p{drawn.index(dataset)}-a{names.index(name)}">{text}</a>'
        return text, next((float(row[key]) for key in ("mean", "published_mean") if row.get(key)), None)

    def mean(name):
        column = [row for row in rows if row["algorithm"] == name and (row["data"] != "quoted" or name in quoted)]
        values = {key: [float(row[key]) for row in column if row[key]] for key in ("mean", "published_mean")}
        texts = {key: f"{np.mean(value):.1f} <small>{mean_of(len(value))}</small>"
                 for key, value in values.items() if value}
        theirs = f'<small>paper</small> {texts["published_mean"]}' if "published_mean" in texts else ""
        return "<br>".join(filter(None, (texts.get("mean", ""), theirs)))

    head = [escape(name) + " <small>quoted</small>" * (name in quoted) for name in names]
    body = [[(_name(dataset), dataset), *(cell(dataset, name) for name in names)] for dataset in datasets]
    same = alike(rows) and not any(group.raw for group in groups)
    return sortable(["dataset", *head], body, ["mean", *map(mean, names)] if same else (), "results")


def quoted_columns(rows: list[dict]) -> set[str]:
    """Columns without a cell of ours."""
    return {row["algorithm"] for row in rows} - {row["algorithm"] for row in rows if row["data"] != "quoted"}


def alike(rows: list[dict]) -> bool:
    """Are all cells of ours from one kind of data? Otherwise a mean means nothing."""
    return len({row["data"] for row in rows} - {"quoted"}) < 2


def _cell(row, group, seeds) -> str:
    """Ours, published and verdict, and how far runs are that go on."""
    lines = []
    if row.get("mean"):
        count = f"{row['seeds']} of {seeds}" if seeds else f"{row['seeds']} seed{'s' * (int(row['seeds']) != 1)}"
        each = " ".join(f"{float(value):.2f}" for value in row["scores"].split())
        lines.append(f'<b title="{each}">{pair(row["mean"], row["std"])}</b> <small>({count})</small>')
    if row.get("published_mean"):
        theirs, word = pair(row["published_mean"], row["published_std"]), row["verdict"]
        badge = f' <span class="badge {escape(word)}">{escape(word)}</span>' if word else ""
        lines.append(f'<small title="{escape(row["source"])}">paper {theirs}</small>{badge}')
    if group and (left := group.unfinished()):
        lines.append(f"<small><i>unfinished: {left}</i></small>")
    return "<br>".join(lines) or "-"


def mean_of(datasets: int) -> str:
    return f"mean of {datasets} dataset{'s' * (datasets != 1)}"


def _name(text, whole=""):
    title = f' title="{escape(whole)}"' * (whole not in ("", text))
    return f'<span class="name"{title}>{escape(text)}</span>'


def pair(mean: str, std: str, digits: int = 1) -> str:
    """Numbers of a row, rounded here and nowhere before."""
    return f"{float(mean):.{digits}f}" + (f" ± {float(std):.{digits}f}" if std else "")


def panel(dataset: str, names: list[str], groups: list[Group], published: dict) -> dict | None:
    """What the plot of a dataset's curves is drawn from; None without a curve. `h`: hours per update."""
    groups = {group.algorithm: group for group in groups if group.dataset == dataset}
    lines = []
    for a, name in enumerate(names):
        line, group, row = {"a": a}, groups.get(name), published.get((dataset, name))
        if group and (curve := group.curve):
            line |= {"left": group.unfinished(), "steps": curve.steps, "mean": curve.mean, "std": curve.std,
                     "h": np.nanmean(curve.hours) if np.isfinite(curve.hours).any() else None,
                     "seeds": [{"seed": seed, "y": curve.values[i], "h": curve.hours[i]}
                               for i, seed in enumerate(curve.seeds)]}
        if row:
            line["published"] = {"mean": float(row["published_mean"]), "quoted": row["data"] == "quoted",
                                 "text": pair(row["published_mean"], row["published_std"]), "source": row["source"]}
        if len(line) > 1:
            lines.append(line)
    if not any("steps" in line for line in lines):
        return None
    return {"dataset": dataset, "lines": lines, "standin": any(group.standin for group in groups.values()),
            "unit": "return" if any(group.raw for group in groups.values()) else "normalised score"}


def _panel(i, panel, names, short) -> str:
    chips = []
    for line in panel["lines"]:
        told = f" <small>{escape(line['left'])}</small>" if line.get("left") else ""
        quoted = line.get("published", {}).get("quoted")
        told = told if "steps" in line else f" <small>{'quoted' if quoted else 'published only'}</small>"
        chips.append(f'<button type="button" class="chip" id="p{i}-a{line["a"]}" data-a="{line["a"]}" '
                     f'title="{escape(names[line["a"]])}" aria-pressed="{"true" if "steps" in line else "false"}">'
                     f'{_swatch(line["a"])}{escape(short[line["a"]])}{told}</button>')
    mark = ' <span class="badge">stand-in data</span>' * (panel["standin"] and "stand-in" not in panel["dataset"])
    chips.append('<button type="button" class="chip all">all</button>')
    return (f'<article class="panel"><h3>{escape(panel["dataset"])}{mark}</h3><div class="chips">{"".join(chips)}</div>'
            f'{_plot("curve", i, panel["dataset"])}{_caption(*_counts(panel))}</article>')


def _counts(panel) -> tuple[str, str]:
    """n, and what its interval is, of a plot of learning curves."""
    counts = [len(line["seeds"]) for line in panel["lines"] if "steps" in line]
    return f"Mean over seeds, {number(counts)}.", spread(counts, "\u00b1 one population standard deviation")


def _caption(*sentences: str) -> str:
    return f'<p class="caption">{escape(" ".join(sentences))}</p>'


def _swatch(a):
    return f'<i class="swatch" data-a="{a}"></i>'


def _key(algorithms, names, short):
    return "".join(f'<span class="chip" title="{escape(name)}">{_swatch(names.index(name))}'
                   f"{escape(short[names.index(name)])}</span>" for name in algorithms)


def _plot(kind, i, label):
    return f'<div class="plot" data-kind="{kind}" data-i="{i}" role="img" aria-label="{kind}: {escape(label)}"></div>'


def statistics(comparison: Comparison, i: int, names: list[str], short: list[str]) -> tuple[dict, str]:
    """What the profile is drawn from, and the HTML of a comparison."""
    scores, algorithms = comparison.scores, list(comparison.scores)
    taus = thresholds(scores)
    plot = {"taus": taus, "lines": [{"a": names.index(name), "share": rows[0], "low": rows[1], "high": rows[2]}
                                    for name, rows in profiles(scores, taus).items()]}
    told = dict(zip(names, short))
    body = [[(_name(told[name], name), name), *((_interval(*row, ".1f"), row[0]) for row in rows)]
            for name, rows in aggregates(scores).items()]
    better, lines = improvements(scores), []
    for x in algorithms:
        row = "".join(f"<td>{_interval(*better[x, y], '.2f') if x != y else ''}</td>" for y in algorithms)
        lines.append(f'<tr><th scope="row">{_name(told[x], x)}</th>{row}</tr>')
    top = "".join(f'<th scope="col">{_name(f"over {told[name]}", name)}</th>' for name in algorithms)
    mark = ' <span class="badge">stand-in data</span>' * comparison.standin
    one = "<p>With one seed there is no interval: values only.</p>" if comparison.seeds == 1 else ""
    text = (f"<p>{escape(str(comparison))}{mark}</p>{one}" + sortable(["algorithm", *NAMES], body, name="aggregates")
            + f"<h3>Performance profile: the share of runs above a score</h3><p>{_key(algorithms, names, short)}</p>"
            + _plot("profile", i, "performance profile")
            + _caption(profile_caption(comparison.seeds, len(comparison.datasets))))
    if len(algorithms) > 1:
        text += ('<h3>Probability of improvement: that a row\'s algorithm scores higher than a column\'s</h3>'
                 + _wide(f'<table><thead><tr><td></td>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>',
                         ' aria-label="improvement"'))
    return plot, text


def _interval(value, low, high, form):
    return f"{value:{form}} <small>[{low:{form}}, {high:{form}}]</small>" if np.isfinite(low) else f"{value:{form}} [-]"


def timing(groups: list[Group], score: str, names: list[str], short: list[str]) -> tuple[list[dict], str]:
    """Points of the plot of score against wall-clock, and the HTML of the table beside it; means over finished runs."""
    points, body = [], []
    for group in groups:
        times, scores = group.times(), list(group.scores(score).values())
        seconds, speed, evaluating, waited, after, before = (times.get(name) for name in TIMES)
        if not times:
            continue
        mean = float(np.mean(scores)) if scores else None
        done = [run for run in group.folders.values() if run.result]
        share = 100 * waited / seconds if waited is not None and seconds else None
        shown = f"{mean:.1f}" + " (return)" * group.raw + " (stand-in)" * group.standin if scores else "-"
        device, seeds = (", ".join(sorted(set(map(str, values)))) for values in (
            [plain(str(run.config.get("device", "-"))) for run in done], [len(run.seeds) for run in done]))
        numbers = ((_number(x), x) for x in (speed, evaluating, waited, share, after))
        body.append([(_name(group.dataset), group.dataset), (_name(group.algorithm), group.algorithm), (shown, mean),
                     (duration(before), before), (duration(seconds), seconds), *numbers, (seeds, seeds),
                     (_name(device), device)])
        if seconds and scores and not group.raw:
            points.append({"a": names.index(group.algorithm), "x": seconds / 3600, "y": mean, "dataset": group.dataset,
                           "standin": group.standin, "text": duration(seconds), "n": len(scores)})
    if not body:
        return points, "<p>No finished run.</p>"
    head = ["dataset", "algorithm", "score", "its model", "training", "updates/s", "evaluating (s)", "waited (s)",
            "waited (%)", "at its end (s)", "seeds a run", "device"]
    key = _key(dict.fromkeys(names[point["a"]] for point in points), names, short)
    told = "A point is the mean of a cell's finished seeds, and is filled but for stand-in data. No interval is drawn."
    counts = number([point["n"] for point in points]) if points else ""
    plot = f"<p>{key}</p>{_plot('time', 0, 'score against wall-clock')}{_caption(told, counts + '.')}" if points else ""
    return points, plot + sortable(head, body, name="times")


def logging(groups: dict[str, dict]) -> tuple[list[dict], str]:
    """Plots of what was logged, one a column and a line a seed, thinned to POINTS; and their HTML. Empty without any.
    """
    plots, articles = [], []
    for title, logged in groups.items():
        html = []
        for column in dict.fromkeys(name for _, table in logged.values() for name in table):
            drawn = {seed: (steps, table[column]) for seed, (steps, table) in logged.items() if column in table}
            lines = [{"seed": seed, "steps": steps[::-max(1, len(steps) // POINTS)][::-1],
                      "y": values[::-max(1, len(steps) // POINTS)][::-1]} for seed, (steps, values) in drawn.items()]
            html.append(f"<figure><figcaption>{escape(plain(column))}</figcaption>"
                        f'{_plot("log", len(plots), f"{column}: {title}")}</figure>')
            plots.append({"column": plain(column), "lines": lines, "log": spans([row for _, row in drawn.values()])})
        told = f"A line a seed, {number([len(logged)])}; single updates, so no interval is drawn."
        articles.append(f'<article class="panel"><h3>{escape(title)}</h3><div class="logs">{"".join(html)}</div>'
                        f"{_caption(told)}</article>")
    if not articles:
        return [], ""
    return plots, ('<section id="logs"><h2>Logged during training</h2><p>Every column of log.csv; the docstring of an '
                   f'algorithm\'s file says what each means.</p>{"".join(articles)}</section>')


def _number(value):
    return "-" if value is None else f"{value:,.1f}"


def _json(value) -> str:
    """JSON that stands in a script element: no `<`, null for what is not finite."""
    def plain(x):
        if isinstance(x, float):
            return float(f"{x:.9g}") if np.isfinite(x) else None
        if isinstance(x, dict):
            return {key: plain(item) for key, item in x.items()}
        x = x.tolist() if isinstance(x, np.ndarray) else x
        return [plain(item) for item in x] if isinstance(x, (list, tuple)) else x

    text = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")
