"""ATAC's game solved exactly on a grid: neither the data's policy nor the best one for a hypothesis that fits them.

ATAC: Adversarially Trained Actor Critic for Offline Reinforcement Learning. Cheng, Xie, Jiang and Agarwal,
ICML 2022, arXiv:2202.02446. The game is the paper's, for horizon 1 and one state; the numbers are ours.

There are three actions. The data hold action 0 only, with reward 0: the data's policy is mu = (1, 0, 0). A
hypothesis f gives every action a value. The leader chooses a policy pi. The follower answers with the f that
makes pi look worst beside mu (1), unless that f contradicts the data (2); beta says how much this weighs.

    L(pi, f) = sum_a pi(a) f(a) - f(0),  the improvement of pi over mu if f is true                        (1)
    E(f) = (f(0) - 0)^2,  the Bellman error on the data                                                    (2)
    f^pi in argmin_f L(pi, f) + beta E(f);  beta = inf leaves the f of least E                             (3)
    pi^ in argmax_pi L(pi, f^pi)                                                                           (4)
    here: 1 - pi^(0) = q = min(1, 20 beta), divided evenly; value L = q/4 = min(1/4, 5 beta)               (5)
    absolute pessimism: sum_a pi(a) f(a) stands for L(pi, f) in (3) and (4)                                (6)
    play: pi(a) <- pi(a) exp(rate f^pi(a)) / sum, from (0.9, 0.07, 0.03): a slow actor, a solved critic    (7)

Why (5): A and B fit the data, E = 0. If actions 1 and 2 have probability q together, the worse of A and B is at
most q/4, and it is q/4 when q is divided evenly. C says 2q and never decides. D says -q and pays 25 beta. Where A
or B answers, the worse of them is at most q/4 and at most 25 beta - q, hence at most 5 beta; where D answers, the
leader loses. So the leader goes to q = 20 beta with an even division, where A, B and D are all answers in (3).
Such a tie goes to the leader here, as "in" allows. Were D the answer at the tie, (4) would have no maximum: q just
below 20 beta earns nearly 5 beta, q itself loses. The least of L + beta E has no such trouble. It is never below
the leader's L, at most 5 beta and at most 1/4 by the same bounds, and pi^ reaches that: it maximises both.

At beta 0, pi^ is mu. Beyond, it is neither mu nor the best policy for A or for B, the two that fit the data: those
risk 1/2. (Under C, which decides nowhere, all policies between actions 1 and 2 are equally good.)

No harm at any beta: L(mu, f) = 0 for every f, so the value is at least 0. If E(f) = 0, (3) says L(pi^, f) >=
L(pi^, f^pi) + beta E(f^pi) >= 0: pi^ improves on mu under every consistent f. Absolute pessimism has no such
promise. With F alone it plays (0, 1/2, 1/2) at every beta, since D, so high, never decides. But add LOW, which puts
all actions near -5. While beta is small it makes every policy look bad in (6), and the leader plays action 1,
where LOW is least bad. B, which may be the truth, says that this loses 1/2. In (1) LOW never decides, since it
says that no policy loses, and (5) stays.

All is computed with fractions, so a tie is a tie. Where --steps is a multiple of 20, the grid holds all
solutions that are printed or drawn.

Run: python benchmark/atac_game.py
"""

from dataclasses import dataclass
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Annotated

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from benchmark.engine.figures import COLOURS, name_lines, panels, save, styles
from common import friendly
from common.args import cli, within

MU = np.array([1, 0, 0])
HALF = Fraction(1, 2)
F = {"A": (0, 1, -HALF), "B": (0, -HALF, 1), "C": (1, 3, 3), "D": (5, 4, 4)}
LOW = {"LOW": (-5, -4, -5)}  # E = 25, as D
APART = {"A": (0, 1, -2), "B": (0, -2, 1)}  # no policy improves on mu under both
BETAS = (*map(Fraction, ("0", "0.01", "0.02", "0.05", "0.1", "1")), inf)
CURVE = [Fraction(k, 100) for k in range(26)]  # beta of the curves, 0 to 0.25
MAPS = {BETAS[0]: "D answers", BETAS[2]: "D answers beyond the cliff", BETAS[5]: "A or B answers"}
LABELS = (10, 0), (-12, -16), (-52, -16)  # of the corners, in points away from them
START, SLOW, FAST, UPDATES = (0.9, 0.07, 0.03), 0.01, 0.5, 10_000  # of (7)


@dataclass
class Args:
    out: Path = Path("results")  # folder of the figure
    steps: Annotated[int, within("[2, 200]")] = 40  # the grid: probabilities are multiples of 1 / steps


def simplex(steps: int):
    """Policies (P, 3), fractions: all with multiples of 1 / steps."""
    return np.array([(Fraction(steps - i - j, steps), Fraction(i, steps), Fraction(j, steps))
                     for i in range(steps + 1) for j in range(steps + 1 - i)])


def values(hypotheses: dict):
    """(K, 3): f of each action, a hypothesis a row."""
    return np.array(list(hypotheses.values()), dtype=object)


def improvement(pi, f):
    """Of policies (P, 3) over mu, under each hypothesis (K, 3): (P, K)."""
    return (pi - MU) @ f.T  # (1)


def bellman_error(f):
    return (f @ MU) ** 2  # (2)


def answers(told, error, beta):
    """Which hypotheses are the follower's answer to each policy: (P, K). told (P, K): what the leader would get."""
    total = told + beta * error if beta < inf else np.where(error == error.min(), told, inf)
    return total == total.min(1, keepdims=True)  # (3)


def leader(told, error, beta):
    """What each policy earns, (P,): told (P, K) at the follower's answer, the best for the leader where many tie."""
    return np.where(answers(told, error, beta), told, -inf).max(1)  # (4)


def solve(pi, hypotheses: dict, beta, absolute: bool = False):
    """The policies that earn most (any number, 3), what they earn, and the names of the first one's answers."""
    f = values(hypotheses)
    told, error = pi @ f.T if absolute else improvement(pi, f), bellman_error(f)  # (6)
    earned = leader(told, error, beta)
    best = earned == earned.max()
    active = answers(told[best], error, beta)[0]
    return pi[best], earned.max(), [name for name, is_answer in zip(hypotheses, active) if is_answer]


def closed_form(beta):
    """pi^ and its value in the game with F."""
    q = min(1, 20 * beta)
    return np.array([1 - q, q / 2, q / 2]), q / 4  # (5)


def play(hypotheses: dict, beta: float, rate: float, updates: int):
    """The actor's path (updates + 1, 3): every update the critic is solved anew and the actor takes a small step."""
    f = values(hypotheses).astype(float)
    error, path = bellman_error(f), [np.array(START)]
    for _ in range(updates):
        answer = f[np.argmin((path[-1] - MU) @ f.T + beta * error)]
        pi = path[-1] * np.exp(rate * answer)
        path.append(pi / pi.sum())  # (7)
    return np.array(path)


def flat(pi):
    """Policies (P, 3) as points (P, 2) of a triangle: action 0 on top, 1 left, 2 right."""
    return pi.astype(float) @ np.array([[0.5, 3**0.5 / 2], [0, 0], [1, 0]])


def triangle(ax, pi, beta):
    """What every policy earns at this beta, with mu, the best of each hypothesis, the solution and play's path."""
    fine, f = simplex(200).astype(float), values(F).astype(float)
    earned = leader(improvement(fine, f), bellman_error(f), float(beta))
    image = ax.tripcolor(*flat(fine).T, earned, cmap="RdBu", norm=TwoSlopeNorm(0, -0.5, 0.25), shading="gouraud")
    ax.plot(*flat(play(F, float(beta), SLOW, UPDATES)).T, color="black", linewidth=1, label="play (7)")
    for name, corner, shift in zip(("mu, best for D", "best for A, C", "best for B, C"), flat(np.eye(3)), LABELS):
        ax.plot(*corner, "s", color="black", markersize=6, clip_on=False)
        ax.annotate(name, corner, shift, textcoords="offset points", fontsize=8)
    star = dict(color="gold", markeredgecolor="black", markersize=15, clip_on=False, label="solution (4)")
    ax.plot(*flat(solve(pi, F, beta)[0][0]), "*", **star)
    ax.set(aspect="equal", xlim=(-0.05, 1.05))
    ax.axis("off")
    return image


def draw(pi):
    titles = [f"beta = {float(beta):g}: {title}" for beta, title in MAPS.items()]
    titles += ["A and B both fit the data", "from cloning to the compromise", "LOW added: the worse of A and B"]
    figure, (*above, bars, sweep, harm) = panels([titles], size=(3.7, 3.4))
    for ax, beta in zip(above, MAPS):
        image = triangle(ax, pi, beta)
    above[0].legend(fontsize=8, loc="upper left", frameon=False)
    bar = figure.colorbar(image, ax=above, location="top", shrink=0.4, aspect=40, extend="min")
    bar.set_label("what a policy earns: L(pi, f^pi)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    shown = {"mu": MU, "action 1": np.eye(3)[1], "action 2": np.eye(3)[2], "game,\nbeta = 1": solve(pi, F, 1)[0][0]}
    for k, name in enumerate("AB"):
        gains = np.array([improvement(policy, values(F))[k] for policy in shown.values()], float)
        bars.bar(np.arange(4) + 0.4 * k - 0.2, gains, 0.4, label=f"if {name} is true", color=COLOURS[k])
    bars.set_xticks(range(4), list(shown))
    bars.set(ylabel="improvement on mu", ylim=(-0.6, 1.3))
    bars.legend(fontsize=8, ncols=2, frameon=False)
    style = styles(("pi(0)", "value", "relative (1)", "absolute (6)"))
    name_lines(figure, {sweep: draw_sweep(sweep, pi, style), harm: draw_harm(harm, pi, style)}, style)
    for ax in (bars, sweep, harm):
        ax.axhline(0, color="black", linewidth=0.8)
    return figure


def draw_sweep(ax, pi, style):
    """The solution against beta up to 0.1, beside (5); where its lines end, by their names."""
    betas, ends = [beta for beta in CURVE if beta <= 0.1], {}
    games, closed = ([solve(pi, F, beta) for beta in betas], [closed_form(beta) for beta in betas])
    found = {"pi(0)": ([best[0][0] for best, _, _ in games], [best[0] for best, _ in closed]),
             "value": ([value for _, value, _ in games], [value for _, value in closed])}
    x = np.array(betas, float)
    for label, (ours, told) in found.items():
        ax.plot(x, np.array(ours, float), ls="", ms=4, **style[label])
        ax.plot(x, np.array(told, float), "k--", lw=1)
        ends[label] = x[-1], float(ours[-1])
    ax.set(xlabel="beta (dashed: closed form (5))")
    return ends


def draw_harm(ax, pi, style):
    """The worse improvement under A and B against beta, with LOW; where its lines end, by their names."""
    x, ends = np.array(CURVE, float), {}
    for label, absolute in (("relative (1)", False), ("absolute (6)", True)):
        best = [solve(pi, F | LOW, beta, absolute)[0][0] for beta in CURVE]
        its = [float(worse(policy)) for policy in best]
        ax.plot(x, its, ms=3, **style[label])
        ends[label] = x[-1], its[-1]
    ax.set(xlabel="beta", ylabel="improvement on mu", ylim=(-0.6, 0.5))
    return ends


CAPTION = ("ATAC's game, solved on a grid of policies. Above: what every policy earns, its path in play and the "
           "solution. Below: who improves on the data's policy mu, the solution against beta, and what absolute "
           "pessimism costs. All is computed with fractions, nothing is drawn at random: n = 1, no interval.")


def line(first, *cells):
    print(f"    {first:<10}", *(f"{cell:>7}" if isinstance(cell, str) else f"{float(cell):7.3f}" for cell in cells))


def worse(policy):
    """Improvement on mu under A or B, whichever is less: both fit the data, and either may be true."""
    return improvement(policy, values(F)[:2]).min()


def main(args: Args):
    path = args.out / f"atac_game{f'.steps-{args.steps}' * (args.steps != Args.steps)}.png"
    pi, probabilities = simplex(args.steps), ("pi(0)", "pi(1)", "pi(2)")
    save(draw(pi), path, CAPTION)
    print("(a) Improvement on mu if A, B, C or D is true. A and B fit the data: their worse is what counts.")
    line("policy", *F, "worse", "best for")
    for name, policy in zip(("mu", "action 1", "action 2"), np.eye(3, dtype=int)):
        wanted = [key for key, f in F.items() if policy @ np.array(f) == max(f)]
        line(name, *improvement(policy, values(F)), worse(policy), ", ".join(wanted))
    print("(b) The game, and (5) beside it.")
    line("beta", *probabilities, "value", "(5)", "worse", "answers")
    for beta in BETAS:
        best, value, names = solve(pi, F, beta)
        line(f"{float(beta):g}", *best[0], value, closed_form(beta)[1], worse(best[0]), ", ".join(names))
    print(f"(c) No policy improves on mu under both of {' and '.join(map(str, APART.values()))}.")
    line("beta", *probabilities, "value")
    for beta in BETAS[::3]:
        best, value, _ = solve(pi, APART, beta)
        line(f"{float(beta):g}", *best[0], value)
    print("(d) With LOW: relative pessimism (1), then absolute (6).")
    line("beta", *(*probabilities, "worse") * 2)
    for beta in (*CURVE[:21:5], inf):
        both = [solve(pi, F | LOW, beta, absolute)[0][0] for absolute in (False, True)]
        line(f"{float(beta):g}", *(cell for policy in both for cell in (*policy, worse(policy))))
    print(f"(e) Play (7) with F: pi after {UPDATES:,} updates, and how far it still swings in the last 200.")
    line("beta", *probabilities, "swing", "rate")
    for beta, rate in ((0.0, SLOW), (0.01, SLOW), (0.02, SLOW), (1.0, SLOW), (0.02, FAST)):
        actor = play(F, beta, rate, UPDATES)
        line(f"{beta:g}", *actor[-1], np.ptp(actor[-200:], 0).max(), rate)
    print(f"figure: {path}")


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
