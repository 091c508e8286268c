"""Figures as PNG files, without a display."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from benchmark.engine.files import whole

COLOURS = ("#3b7dd8", "#d9730d", "#2e9e4f", "#d6404a", "#8f63d2", "#9c6b4a", "#d457a0", "#1497a8", "#8f9419", "#7f7f7f")


def save(figure: Figure, path: Path) -> None:
    with whole(path) as part:
        figure.savefig(part, dpi=150, bbox_inches="tight", format="png")


def attack_figure(rows: list[dict], path: Path) -> None:
    """Score against eps: a row of panels per task, a panel per attack, a line per agent (mean of seeds, band: std)."""
    kind = [(row["attack"], row["optimizer"], row["step"]) for row in rows]
    panels = [panel for panel in dict.fromkeys(kind) if panel[0] != "clean"] or [("clean", "", "")]
    tasks, agents = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "agent"))
    figure = Figure(figsize=(2.6 * len(panels) + 0.6, 2.6 * len(tasks) + 0.9), layout="constrained")
    axes = figure.subplots(len(tasks), len(panels), sharex=True, sharey="row", squeeze=False)
    for (i, task), (j, panel) in ((t, p) for t in enumerate(tasks) for p in enumerate(panels)):
        for k, agent in enumerate(agents):
            curve = {}
            for row, this in zip(rows, kind):
                if (row["task"], row["agent"]) == (task, agent) and this in (panel, ("clean", "", "")):
                    curve.setdefault(float(row["eps"]), []).append(float(row["score"] or row["return_mean"]))
            if curve:
                eps = sorted(curve)
                mean, std = (np.array([f(curve[e]) for e in eps]) for f in (np.mean, np.std))
                axes[i, j].plot(eps, mean, "o-", ms=3, lw=1.4, color=f"C{k}")
                axes[i, j].fill_between(eps, mean - std, mean + std, color=f"C{k}", alpha=0.15, lw=0)
        axes[i, j].grid(alpha=0.3)
        axes[0, j].set_title(" ".join(filter(None, panel)), fontsize=9)
        standin = any(row["data"] == "standin" for row in rows if row["task"] == task)
        axes[i, 0].set_ylabel(f"{task}\nscore{' (stand-in data)' * standin}", fontsize=8, parse_math=False)
    figure.supxlabel("eps, in standard deviations of the data's observations", fontsize=9)
    longest = max(map(len, agents))
    across = max(1, min(7, len(agents), 18 * (len(panels) + 1) // (longest + 5)))
    _legend(figure, {agent: f"C{k}" for k, agent in enumerate(agents)}, across)
    save(figure, path)


def colours(names) -> dict[str, str]:
    """{name: colour}, in order of appearance."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}


def curve_figure(groups: list, colours: dict[str, str], path: Path) -> None:
    """Learning curves of groups (curves.py): a panel per dataset, a line per algorithm (mean, band: std)."""
    groups = [group for group in groups if group.curve]
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    figure, axes = _panels(datasets, {group.algorithm: colours[group.algorithm] for group in groups})
    for dataset, ax in zip(datasets, axes):
        for group in (group for group in groups if group.dataset == dataset):
            curve, color = group.curve, colours[group.algorithm]
            ax.plot(curve.steps, curve.mean, "." if len(curve.steps) == 1 else "-", lw=1.4, color=color)
            ax.fill_between(curve.steps, curve.mean - curve.std, curve.mean + curve.std, color=color, alpha=0.15, lw=0)
            ax.set_ylabel(f"{'return' if group.raw else 'score'}{' (stand-in data)' * group.standin}", fontsize=8)
    figure.supxlabel("updates", fontsize=9)
    save(figure, path)


def profile_figure(panels: dict, colours: dict[str, str], path: Path) -> None:
    """`panels`: {title: (taus (T,), {algorithm: (3, T), share of runs above taus and its interval})}."""
    figure, axes = _panels(list(panels), {name: colours[name] for _, rows in panels.values() for name in rows})
    for (taus, rows), ax in zip(panels.values(), axes):
        for name, (share, low, high) in rows.items():
            ax.plot(taus, share, lw=1.4, color=colours[name])
            ax.fill_between(taus, low, high, color=colours[name], alpha=0.15, lw=0)
        ax.set_ylabel("share of runs above it", fontsize=8)
    figure.supxlabel("normalised score", fontsize=9)
    save(figure, path)


def sweep_figure(panels: dict, x: str, base: str, path: Path) -> None:
    """`panels`: {title: ({algorithm: {x: scores of its seeds}}, {x: score})}: mean, min to max; dashed: the second."""
    colour = colours(name for lines, _ in panels.values() for name in lines)
    figure, axes = _panels(list(panels), colour)
    for (lines, dashed), ax in zip(panels.values(), axes):
        for name, scores in lines.items():
            at = sorted(scores)
            mean, low, high = ([f(scores[key]) for key in at] for f in (np.mean, np.min, np.max))
            ax.plot(at, mean, "o-", ms=3, lw=1.4, color=colour[name])
            ax.fill_between(at, low, high, color=colour[name], alpha=0.15, lw=0)
        at = sorted(dashed)
        ax.plot(at, [dashed[key] for key in at], "k_--", ms=9, lw=1, label=base)  # a mark: one point has no line
        above = [key for key in at if key > 0]
        if above and at[0] == 0:  # left of all others
            ax.set_xscale("symlog", linthresh=above[0], linscale=0.5)
        else:
            ax.set_xscale("log")
        ax.set_xticks(at, [f"{key:g}" for key in at], minor=False)
        ax.set_xticks([], minor=True)
        ax.set_ylabel("normalised score", fontsize=8)
        ax.legend(fontsize=7)
    figure.supxlabel(x, fontsize=9)
    save(figure, path)


def _panels(names: list[str], legend: dict[str, str]):
    """A figure and its axes, one for each of `names`, at most three in a row; `legend`: {label: colour} above them."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    across = max(1, min(7, len(legend), 55 * columns // (max(map(len, legend)) + 5)))  # labels in a line
    height = 2.8 * rows + 0.2 * -(-len(legend) // across) + 0.3
    figure = Figure(figsize=(4.2 * columns, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, name in zip(axes, names):
        ax.set_title(name, fontsize=9, parse_math=False)  # a name may have a $
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.grid(alpha=0.3)
    for ax in axes[len(names):]:
        ax.remove()
    _legend(figure, legend, across)
    return figure, axes[:len(names)]


def _legend(figure: Figure, names: dict[str, str], across: int) -> None:
    """{name: colour} above a figure, `across` names in a line; a name is shown as it is, with $ or _ too."""
    lines = [Line2D([], [], color=color, lw=2) for color in names.values()]
    legend = figure.legend(lines, ["-"] * len(names), loc="outside upper center", ncols=across, fontsize=8)
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, parse_math=False)
