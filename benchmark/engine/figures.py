"""Figures for a paper, without a display: one palette, markers and names at the lines, a caption with n and interval.

A figure is saved as PNG, PDF and SVG at once, and the same numbers give the same bytes. Its caption stands below it and
in the files' metadata, from where it can be copied.
"""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from benchmark.engine.files import whole

COLOURS = "#1f78c8", "#d55e00", "#009e73", "#cc6fa8", "#7a4fd0", "#9c8200", "#757575", "#9a5a3c"
MARKERS = "o", "s", "^", "D", "v", "P", "X"  # seven beside eight colours: 56 pairs before one comes again
FORMATS = "png", "pdf", "svg"
WIDEST = 4  # panels in a row
LONGEST = 30  # characters of a name that stands at its line; longer names go to a legend
MOST = 24  # names beside a panel; more go to a legend, too
BAND = 0.16  # opacity

Style = dict[str, str]  # color and marker of a line


def save(figure: Figure, path: Path, caption: str) -> None:
    """`path` ends in .png; beside it are a .pdf and an .svg. The caption says what n is and which interval is drawn."""
    told = textwrap.fill(caption, max(40, int(17 * figure.get_figwidth())))
    figure.text(0.005, -0.01, told, va="top", fontsize=7, color="#444444", parse_math=False, linespacing=1.4)
    metadata = {"png": {"Description": caption, "Software": None}, "svg": {"Description": caption, "Date": None},
                "pdf": {"Subject": caption, "CreationDate": None}}
    figure.set_dpi(150)
    figure.draw_without_rendering()  # its layout, once for all three
    figure.set_layout_engine("none")
    edges = figure.get_tightbbox().padded(0.1)
    fixed = {"svg.hashsalt": "solo", "pdf.fonttype": 42, "svg.fonttype": "path"}  # 42: fonts that journals accept
    for form in FORMATS:
        with whole(path.with_suffix(f".{form}")) as part, matplotlib.rc_context(fixed):
            figure.savefig(part, dpi=150, bbox_inches=edges, format=form, metadata=metadata[form])


def styles(names) -> dict[str, Style]:
    """{name: its colour and marker}, in order of appearance."""
    return {name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            for i, name in enumerate(dict.fromkeys(names))}


def number(counts, what: str = "seed") -> str:
    """"n = 2 seeds", or "n = 1 to 2 seeds"."""
    counts = list(counts)
    low, high = min(counts), max(counts)
    return f"n = {low if low == high else f'{low} to {high}'} {what}{'s' * (high > 1)}"


def spread(counts, interval: str) -> str:
    """What of a line's band a caption says: one seed has no interval."""
    if max(counts) == 1:
        return "No interval is drawn: one seed."
    return f"Band: {interval}{', none where n = 1' * (min(counts) == 1)}."


# Panels, lines and names


def shape(count: int, most: int) -> tuple[int, int]:
    """Rows and columns for `count` panels, at most `most` in a row, with few empty places."""
    rows = -(-count // most)
    return rows, -(-count // rows)


def panels(blocks: list[list[str]], most: int = 3, size=(3.3, 2.4)):
    """A figure and its axes, one a title; each block of titles begins a row. `size`: of a panel, in inches."""
    shapes = [shape(len(block), min(most, WIDEST)) for block in blocks]
    rows, columns = sum(rows for rows, _ in shapes), max(columns for _, columns in shapes)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.3), layout="constrained")
    grid, axes, first = figure.subplots(rows, columns, squeeze=False), [], 0
    for block, (its, across) in zip(blocks, shapes):
        for i, title in enumerate(block):
            ax = grid[first + i // across, i % across]
            tidy(ax, title)
            axes.append(ax)
        first += its
    for ax in set(grid.flat) - set(axes):
        ax.remove()
    return figure, axes


def sheet(rows: int, columns: int, size: tuple[float, float], **shared):
    """A figure, its size in inches, and its axes (rows, columns), for what is no row of `panels`."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def roomy(titles: list[str], lines: int, names):
    """A figure and its axes, with room for names beside each of them, of which `lines` has the most."""
    longest = min(LONGEST, max(map(len, names)))
    size = 2.4 + 0.07 * longest, max(2.4, 0.2 * min(lines, MOST))
    return panels([titles], 3 if size[0] < 3.5 else 2, size)


def tidy(ax, title: str) -> None:
    wrapped = [part for row in title.split("\n") for part in textwrap.wrap(row, 42, break_on_hyphens=False)]
    ax.set_title("\n".join(wrapped[:3]), fontsize=9, parse_math=False)  # a name may have a $
    ax.tick_params(labelsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_size(9)
    ax.grid(alpha=0.25, lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def line(ax, x, y, style: Style, low=None, high=None, steps: bool = False) -> None:
    """A line with a dozen markers or fewer, and its band."""
    x, drawn = np.asarray(x), {"drawstyle": "steps-post"} if steps else {}
    ax.plot(x, y, lw=1.5, ms=3.6, mew=0, markevery=max(1, len(x) // 12), **style, **drawn)
    if low is not None:
        ax.fill_between(x, low, high, color=style["color"], alpha=BAND, lw=0, step="post" if steps else None)


def name_lines(figure: Figure, ends: dict, style: dict[str, Style], words=lambda name: name) -> None:
    """`ends`: {axes: {name: (x, y), where its line ends}}: each name right of its line; else, in a legend.

    `words`: what is written for a name.
    """
    most = max((len(names) for names in ends.values()), default=0)
    shown = {name: words(name) for names in ends.values() for name in names}
    if shown and max(map(len, shown.values())) <= LONGEST and most <= MOST:
        for ax, names in ends.items():
            _at_the_lines(ax, {shown[name]: (*end, style[name]["color"]) for name, end in names.items()})
    elif shown:
        legend(figure, {text: style[name] for name, text in shown.items()})


def _at_the_lines(ax, names: dict[str, tuple]) -> None:
    """{text: (x, y, colour)} right of the axes, none over another, each tied to its line's end."""
    height = ax.get_figure().get_figheight() / ax.get_subplotspec().get_gridspec().nrows
    gap = 11 / 72 / (0.7 * height)  # of a line of text, in heights of the axes
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    places = [ax.transAxes.inverted().transform(ax.transData.transform(end[:2]))[1] for end in names.values()]
    for i, y in zip(np.argsort(places, kind="stable"), apart(sorted(places), gap)):
        text, (*end, colour) = list(names.items())[i]
        tie = {"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 2,
               "relpos": (0, 0.5)}
        ax.annotate(text, end, (1.05, y), textcoords="axes fraction", va="center", fontsize=8, color=ink(colour),
                    arrowprops=tie, annotation_clip=False, parse_math=False)


def apart(places: list[float], gap: float) -> np.ndarray:
    """Places in order, moved until they are `gap` apart, up and down alike, and within 0 to 1 if there is room."""
    up, down = np.array(places, float), np.array(places, float)
    for i in range(1, len(up)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-1 - i] = min(down[-1 - i], down[-i] - gap)
    both = (up + down) / 2  # two that are apart have a mean that is
    for i in range(len(both)):
        both[i] = max(both[i], i * gap)
    for i in range(len(both)):
        both[-1 - i] = min(both[-1 - i], 1 - i * gap)
    return both


def ink(colour: str) -> tuple:
    """A colour that is dark enough for letters."""
    return tuple(0.75 * x for x in to_rgb(colour))


def legend(figure: Figure, names: dict[str, Style], title: str = "") -> None:
    """{text: style} above a figure; a name is shown as it is, with $ or _ too."""
    lines = [Line2D([], [], lw=1.5, ms=4, **style) for style in names.values()]
    across = max(1, min(7, len(names), int(13 * figure.get_figwidth()) // (max(map(len, names)) + 5)))
    legend = figure.legend(lines, ["-"] * len(names), loc="outside upper center", ncols=across, fontsize=8,
                           frameon=False)
    if title:
        legend.set_title("-", {"size": 10})
        legend.get_title().set(text=title, parse_math=False, ma="center")
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, parse_math=False)


# Figures that several scripts draw


def attack_figure(rows: list[dict], path: Path) -> None:
    """Score against eps: panels per task and attack, a line per agent (mean of seeds, band: std)."""
    kind = [(row["attack"], row["optimizer"], row["step"]) for row in rows]
    attacks = [panel for panel in dict.fromkeys(kind) if panel[0] != "clean"] or [("clean", "", "")]
    tasks, agents = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "agent"))
    figure, axes = panels([[" ".join(filter(None, attack)) for attack in attacks]] * len(tasks), WIDEST, (2.8, 2.1))
    style, ends, counts = styles(agents), {}, []
    for (task, attack), ax in zip(((task, attack) for task in tasks for attack in attacks), axes):
        for agent in agents:
            curve = {}
            for row, this in zip(rows, kind):
                if (row["task"], row["agent"]) == (task, agent) and this in (attack, ("clean", "", "")):
                    curve.setdefault(float(row["eps"]), []).append(float(row["score"] or row["return_mean"]))
            if curve:
                eps = sorted(curve)
                mean, std = (np.array([f(curve[e]) for e in eps]) for f in (np.mean, np.std))
                line(ax, eps, mean, style[agent], mean - std, mean + std)
                ends.setdefault(ax, {})[agent] = eps[-1], mean[-1]
                counts += map(len, curve.values())
    for task, block in zip(tasks, np.reshape(axes, (len(tasks), -1))):
        low, high = zip(*(ax.get_ylim() for ax in block))
        standin = any(row["data"] == "standin" for row in rows if row["task"] == task)
        for ax in block:
            ax.set_ylim(min(low), max(high))
        block[0].set_ylabel(f"{task}\nscore{' (stand-in data)' * standin}", fontsize=8, parse_math=False)
    name_lines(figure, ends, style)
    figure.supxlabel("eps, in standard deviations of the data's observations", fontsize=9)
    episodes = {str(row["episodes"]) for row in rows if row.get("episodes")}
    each = f", {episodes.pop()} episodes each" if len(episodes) == 1 else ""
    save(figure, path, f"Score under attack against its radius eps; at eps 0, no attack. Mean over seeds "
                       f"({number(counts)}{each}). {spread(counts, '± one population standard deviation over seeds')}")


def curve_figure(groups: list, style: dict[str, Style], path: Path) -> None:
    """Learning curves of groups (curves.py): a panel per dataset, a line per algorithm (mean, band: std)."""
    groups = [group for group in groups if group.curve]
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    lines, short = [group.dataset for group in groups], {group.algorithm: group.short for group in groups}
    figure, axes = roomy(datasets, max(map(lines.count, datasets)), short.values())
    ends, counts = {}, {}
    for group in groups:
        ax, curve = axes[datasets.index(group.dataset)], group.curve
        line(ax, curve.steps, curve.mean, style[group.algorithm], curve.mean - curve.std, curve.mean + curve.std)
        what = "return" if group.raw else "normalised score"
        ax.set_ylabel(what + "\n(stand-in data)" * group.standin, fontsize=8)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ends.setdefault(ax, {})[group.algorithm] = curve.steps[-1], curve.mean[-1]
        counts.setdefault(group.algorithm, set()).add(len(curve.seeds))
    every = set().union(*counts.values())
    name_lines(figure, ends, style, lambda name: short[name] + f" ({_range(counts[name])})" * (len(every) > 1))
    figure.supxlabel("updates", fontsize=9)
    torn = any(np.isnan(group.curve.values).any() for group in groups)
    save(figure, path, f"Evaluations during training, mean over seeds ({number(every)}"
         + f"{', in brackets after each name' * (len(every) > 1)}). "
         + spread(every, "± one population standard deviation over seeds")
         + " Where a seed was not evaluated, mean and band are of those that were." * torn
         + " A name has one flag that tells it from others." * any(name != its for name, its in short.items())
         + " Stand-in data: no score compares with a published one." * any(group.standin for group in groups))


def _range(counts: set[int]) -> str:
    return "-".join(dict.fromkeys(map(str, (min(counts), max(counts)))))


def profile_figure(compared: dict, style: dict[str, Style], path: Path, short: dict[str, str] = {}) -> None:
    """`compared`: {title: (taus (T,), {algorithm: share of runs above taus and its interval (3, T)}, seeds, datasets)};
    `short`: names at the lines."""
    figure, axes = panels([list(compared)], size=(3.8, 2.8))
    texts = {name: short.get(name, name) for _, rows, *_ in compared.values() for name in rows}
    fit = max(map(len, texts.values())) <= LONGEST and max(len(rows) for _, rows, *_ in compared.values()) <= MOST / 2
    for (taus, rows, *_), ax in zip(compared.values(), axes):
        for name, (share, low, high) in rows.items():
            line(ax, taus, share, style[name], low, high, steps=True)
        for name, (x, y) in steps(taus, {name: row[0] for name, row in rows.items()}).items() if fit else ():
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            ax.annotate(texts[name], (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8, bbox=box,
                        color=ink(style[name]["color"]), annotation_clip=False, parse_math=False)
        ax.set(xlim=taus[[0, -1]], ylim=(-0.02, 1.02))
        ax.set_ylabel("share of runs above it", fontsize=8)
    if not fit:
        legend(figure, {text: style[name] for name, text in texts.items()})
    figure.supxlabel("normalised score", fontsize=9)
    told = dict.fromkeys(profile_caption(seeds, datasets) for *_, seeds, datasets in compared.values())
    save(figure, path, f"Performance profile: the share of runs with a higher score. {' '.join(told)}")


def profile_caption(seeds: int, datasets: int) -> str:
    return (f"{number([seeds * datasets], 'run')} of each algorithm, {seeds} seed{'s' * (seeds > 1)} on {datasets} "
            f"dataset{'s' * (datasets > 1)}. {spread([seeds], '95% bootstrap interval over seeds')}")


def steps(taus, shares: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """{name: (x, y)}, places on the downward steps of profiles, one above another: the better, the higher."""
    order = sorted(shares, key=lambda name: np.trapezoid(shares[name], taus))
    places = {name: (k + 0.5) / len(order) for k, name in enumerate(order)}
    return {name: (taus[np.argmax(shares[name] < y)], y) for name, y in places.items()}


def sweep_figure(swept: dict, x: str, base: str, path: Path) -> None:
    """`swept`: {title: ({algorithm: {x: scores of its seeds}}, {x: score})}: mean, min to max; dashed: the second."""
    style = styles(name for lines, _ in swept.values() for name in lines)
    figure, axes = roomy(list(swept), 1 + len(style), [base, *style])
    ends, counts = {}, []
    for (lines, dashed), ax in zip(swept.values(), axes):
        for name, scores in lines.items():
            at = sorted(scores)
            mean, low, high = ([f(scores[key]) for key in at] for f in (np.mean, np.min, np.max))
            line(ax, at, mean, style[name], low, high)
            ends.setdefault(ax, {})[name] = at[-1], mean[-1]
            counts += map(len, scores.values())
        at = sorted(dashed)
        ax.plot(at, [dashed[key] for key in at], "k_--", ms=9, lw=1)  # a mark: one point has no line
        ends[ax][base] = at[-1], dashed[at[-1]]
        above = [key for key in at if key > 0]
        if above and at[0] == 0:  # left of all others
            ax.set_xscale("symlog", linthresh=above[0], linscale=0.5)
        else:
            ax.set_xscale("log")
        ax.set_xticks(at, [f"{key:g}" for key in at], minor=False)
        ax.set_xticks([], minor=True)
        ax.set_ylabel("normalised score", fontsize=8)
    name_lines(figure, ends, style | {base: {"color": "#000000", "marker": "_"}})
    figure.supxlabel(x, fontsize=9)
    save(figure, path, f"Mean over seeds ({number(counts)}). {spread(counts, 'from the least to the greatest seed')} "
                       f"Dashed: {base}.")


def log_figure(title: str, logged: dict[int, tuple], path: Path) -> None:
    """`logged`: {seed: (steps (T,), {column: values (T,)})} (curves.py): a small panel per column, a line per seed."""
    columns, style = list(dict.fromkeys(name for _, table in logged.values() for name in table)), styles(logged)
    figure, axes = panels([columns], WIDEST, (2.5, 1.7))
    for column, ax in zip(columns, axes):
        drawn = [(seed, steps, table[column]) for seed, (steps, table) in logged.items() if column in table]
        for seed, steps, values in drawn:
            there = np.isfinite(values)
            line(ax, steps[there], values[there], style[seed])
        if spans([values for *_, values in drawn]):
            ax.set_yscale("log")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    told = textwrap.wrap(title, int(12 * figure.get_figwidth()), break_on_hyphens=False)[:3]
    legend(figure, {f"seed {seed}": its for seed, its in style.items()}, "\n".join(told))
    figure.supxlabel("updates", fontsize=9)
    save(figure, path, f"Every logged quantity during training, a line a seed ({number([len(logged)])}); single values "
                       "of the update that was logged, not averaged, so no interval is drawn.")


def spans(values: list[np.ndarray]) -> bool:
    """Are all above 0 and so far apart that only a logarithmic axis shows them?"""
    every = np.concatenate([row[np.isfinite(row)] for row in values])
    return len(every) > 0 and bool(every.min() > 0 and every.max() / 1000 > every.min())
