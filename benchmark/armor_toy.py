"""ARMOR's promise in one state: copy the reference where the data are silent, improve on it where they speak.

ARMOR: Adversarial Model for Offline Reinforcement Learning. Bhardwaj, Xie, Boots, Jiang and Cheng, NeurIPS 2023,
arXiv:2302.11048. The game is the paper's, for horizon 1 and one state; the numbers are ours.

There are two actions. Left pays 0.1, and the data say so. Right pays rho, a number in [0, 1]. A policy goes right with
probability q, the reference with q_ref. A model of the world is a value of rho. Where the data hold right, they say
rho = 0.8. Where they do not, every rho agrees with them.

    J(q, rho) = 0.1 (1 - q) + rho q,  the return of a policy in the world rho                              (1)
    W(q) = min_rho [J(q, rho) - J(q_ref, rho)],  rho among all that agree with the data                    (2)
    q^ in argmax_q W(q):  ARMOR                                                                            (3)
    q_abs in argmax_q A(q),  A(q) = min_rho J(q, rho):  absolute pessimism                                 (4)
    W_beta(q) = min_rho [J(q, rho) - J(q_ref, rho) + beta (rho - 0.8)^2],  rho in [0, 1]                   (5)
    argmax_q W_beta(q) = min(1, 1.4 beta)  where q_ref = 0                                                 (6)

The reference itself, q = q_ref, has W = 0, so the largest W is at least 0. Hence q^ is at least as good as the
reference in every world that agrees with the data, whatever the reference does. Where right is not in the data, whoever
leaves the reference risks something. Who goes left where the reference goes right loses 0.9 if rho = 1, and who goes
right where it goes left loses 0.1 if rho = 0. So q^ = q_ref. Where right is in the data and the reference goes left,
W(q) = 0.7 q, and q^ = 1.

Absolute pessimism does not know the reference. Where right is not in the data it goes left: 0.1 is certain there, and
right may pay nothing. Yet a reference that goes right may have found rho = 1, and then this choice loses 0.9.

(5) has the data as a penalty, as ARMOR's losses have it, and not as a constraint; beta is its weight. Its least rho is
0.8 - q / (2 beta), or 0 if that is negative, and W_beta(q) = 0.7 q - q^2 / (4 beta) before that. Hence (6). A small
beta stays near the reference. No beta ends below it: q_ref has W_beta = 0, and in the world rho = 0.8, which has no
penalty, a policy gains at least its W_beta. A slow actor against an adversary that is solved at every step stops at
(6), since the slope of a minimum is the slope at its minimiser.

All is computed with fractions. Where --steps is a multiple of 20, the grid holds all solutions that are shown.

Run: python benchmark/armor_toy.py
"""

from dataclasses import dataclass
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Annotated

from matplotlib.figure import Figure

from benchmark.engine.figures import COLOURS, save, sheet
from common import friendly
from common.args import cli, within

LEFT, RIGHT = Fraction("0.1"), Fraction("0.8")  # what left pays; what right pays where the data hold it
SILENT, COVERED = (Fraction(0), Fraction(1)), (RIGHT, RIGHT)  # least and largest rho that agrees with the data
CASES = {  # name: q_ref, which rho agree with the data
    "reference right, right not in the data": (1, SILENT),
    "reference left, right not in the data": (0, SILENT),
    "reference left, right in the data": (0, COVERED),
}
MIXED = tuple(Fraction(k, 4) for k in range(5))  # references between left and right
BETAS = (*map(Fraction, ("0", "1/4", "1/2", "1")), inf)


@dataclass
class Args:
    out: Path = Path("results")  # folder of the figure
    steps: Annotated[int, within("[2, 1000]")] = 40  # the grid: probabilities are multiples of 1 / steps


def grid(steps: int) -> list[Fraction]:
    return [Fraction(k, steps) for k in range(steps + 1)]


def value(q, rho):
    return LEFT * (1 - q) + rho * q  # (1)


def worst_improvement(q, q_ref, worlds):
    """J is linear in rho, so its least is at an end of `worlds`."""
    return min(value(q, rho) - value(q_ref, rho) for rho in worlds)  # (2)


def worst_return(q, worlds):
    return min(value(q, rho) for rho in worlds)  # (4)


def penalised(q, q_ref, beta):
    """At the ends of [0, 1], or where the parabola in rho has its least."""
    if beta == inf:
        return worst_improvement(q, q_ref, COVERED)
    worlds = [*SILENT, RIGHT]
    if beta > 0 and 0 <= (least := RIGHT - (q - q_ref) / (2 * beta)) <= 1:
        worlds.append(least)
    return min(value(q, rho) - value(q_ref, rho) + beta * (rho - RIGHT) ** 2 for rho in worlds)  # (5)


def best(policies, earned) -> Fraction:
    """The policy that earns most; of several the one with the least q."""
    return max(policies, key=earned)  # (3)


def closed_form(beta):
    return min(Fraction(1), Fraction(7, 5) * beta) if beta < inf else Fraction(1)  # (6)


def solve(name: str, policies) -> dict[str, Fraction]:
    """Of a case: both solutions, and the worst improvement and the worst return that each has."""
    q_ref, worlds = CASES[name]
    ours = best(policies, lambda q: worst_improvement(q, q_ref, worlds))
    absolute = best(policies, lambda q: worst_return(q, worlds))
    return {"reference": Fraction(q_ref), "armor": ours, "absolute": absolute,
            "armor_improvement": worst_improvement(ours, q_ref, worlds),
            "absolute_improvement": worst_improvement(absolute, q_ref, worlds),
            "absolute_return": worst_return(absolute, worlds)}


def panel(ax, policies, name: str):
    """W and A against the probability of leaving the reference, and where each is largest; what that risks."""
    q_ref, worlds = CASES[name]
    found, leaving = solve(name, policies), [abs(q - q_ref) for q in policies]
    for curve, chosen, colour, style in (
            (lambda q: worst_improvement(q, q_ref, worlds), found["armor"], COLOURS[0], "-"),
            (lambda q: worst_return(q, worlds), found["absolute"], COLOURS[1], "--")):
        ax.plot(leaving, [float(curve(q)) for q in policies], style, color=colour, lw=1.6)
        ax.plot(abs(chosen - q_ref), float(curve(chosen)), "o", color=colour, ms=8, zorder=3)
    if (risk := found["absolute_improvement"]) < 0:  # what the choice of absolute pessimism risks
        ax.plot(abs(found["absolute"] - q_ref), float(risk), "o", mfc="white", color=COLOURS[1], ms=8, zorder=3)
        ax.annotate(f"may lose {-float(risk):g}", (abs(found["absolute"] - q_ref), float(risk)), (-8, 0),
                    textcoords="offset points", fontsize=8, ha="right", va="center", color=COLOURS[1])
    ax.set_title(name.replace(", ", ",\n"), fontsize=9)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", f"1: {'left' if q_ref else 'right'}"], fontsize=8)


def penalty_panel(ax, policies):
    """W_beta of the last case, a line a beta."""
    for k, beta in enumerate(BETAS):
        curve, shade = [float(penalised(q, 0, beta)) for q in policies], str(0.75 - 0.75 * k / (len(BETAS) - 1))
        chosen = best(policies, lambda q: penalised(q, 0, beta))
        ax.plot(policies, curve, color=shade, lw=1.4)
        ax.plot(chosen, float(penalised(chosen, 0, beta)), "o", color=shade, ms=6, zorder=3)
        ax.annotate(f"beta {'inf' if beta == inf else beta}", (1, curve[-1]), (14, 0), textcoords="offset points",
                    fontsize=8, va="center", annotation_clip=False)
    ax.set_title("the third again, the data\nas a penalty (5)", fontsize=9)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1: right"], fontsize=8)


def draw(policies) -> Figure:
    figure, (axes,) = sheet(1, 4, (12.5, 3.8), sharey=True)
    for ax, name in zip(axes, CASES):
        panel(ax, policies, name)
    penalty_panel(axes[3], policies)
    for text, ax, place, colour in (
            ("worst improvement\non the reference: ARMOR", axes[0], (0, -0.68), COLOURS[0]),
            ("worst return:\nabsolute pessimism", axes[0], (0, 0.2), COLOURS[1])):
        ax.text(*place, text, color=colour, fontsize=8)
    for ax in axes:
        ax.axhline(0, color="black", lw=0.8, zorder=0)
        ax.set(xlim=(-0.05, 1.05), ylim=(-1, 1))
        ax.tick_params(axis="y", labelsize=8)
    axes[0].set_ylabel("worst case over worlds\nthat agree with the data", fontsize=9)
    figure.supxlabel("probability of leaving the reference", fontsize=9)
    return figure


def line(first, *cells):
    print(f"    {first:<40}", *(f"{cell:>11}" if isinstance(cell, str) else f"{float(cell):11.3f}" for cell in cells))


def main(args: Args):
    path = args.out / f"armor_toy{f'.steps-{args.steps}' * (args.steps != Args.steps)}.png"
    policies = grid(args.steps)
    save(draw(policies), path, "A dot is what each chooses. Left pays 0.1; right pays 0.8 where it is in the data, "
         "anything in [0, 1] where it is not. Exact: no samples, no interval.")
    print("(a) Probability of right, and the worst improvement on the reference that this choice has.")
    line("case", "reference", "ARMOR", "absolute", "W of ARMOR", "W of abs.")
    for name in CASES:
        found = solve(name, policies)
        line(name, *(found[key] for key in ("reference", "armor", "absolute", "armor_improvement",
                                            "absolute_improvement")))
    print("(b) Right not in the data, and references between left and right.")
    line("reference", "ARMOR", "W of ARMOR", "W of left", "W of right")
    for q_ref in MIXED:
        chosen = best(policies, lambda q: worst_improvement(q, q_ref, SILENT))
        line(f"{float(q_ref):g}", chosen, *(worst_improvement(q, q_ref, SILENT) for q in (chosen, 0, 1)))
    print("(c) Reference left, right in the data, the data as a penalty (5). In truth right pays 0.8.")
    line("beta", "ARMOR", "(6)", "W_beta", "in truth")
    for beta in BETAS:
        chosen = best(policies, lambda q: penalised(q, 0, beta))
        line(f"{float(beta):g}", chosen, closed_form(beta), penalised(chosen, 0, beta), value(chosen, RIGHT) - LEFT)
    print(f"figure: {path}")


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
