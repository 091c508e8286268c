"""Figures as PNG files, without a display."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmark.files import whole


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
                axes[i, j].plot(eps, mean, "o-", ms=3, lw=1.4, color=f"C{k}", label=agent)
                axes[i, j].fill_between(eps, mean - std, mean + std, color=f"C{k}", alpha=0.15, lw=0)
        axes[i, j].grid(alpha=0.3)
        axes[0, j].set_title(" ".join(filter(None, panel)), fontsize=9)
        standin = any(row["data"] == "standin" for row in rows if row["task"] == task)
        axes[i, 0].set_ylabel(f"{task}\nscore{' (stand-in data)' * standin}", fontsize=8)
    figure.supxlabel("eps, in standard deviations of the data's observations", fontsize=9)
    handles = {text: line for ax in axes.flat for line, text in zip(*ax.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(7, len(handles)), fontsize=8)
    save(figure, path)
