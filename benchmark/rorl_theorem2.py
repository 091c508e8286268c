"""Theorem 2 of RORL in numbers: where its bonus is smaller than PBRL's, and what smoothing biases.

RORL: Robust Offline Reinforcement Learning via Conservative Smoothing. Yang, Bai, Ma, Wang, Zhang and Han,
NeurIPS 2022, arXiv:2206.02829.

A critic linear in its features, Q(s, a) = phi(s, a)' w, is fitted by least squares to m targets y, to y^ at
OOD points and, in RORL, to "no change" from s to n perturbations s^. PBRL has all but the last. The theorem:
with true y^, Q is likely within Gamma of the truth; and RORL's Gamma is smaller than PBRL's.

    PBRL: Lambda = sum_i phi_i phi_i' + sum_OOD phi^ phi^'                                                 (1)
    RORL: Lambda~ = Lambda + S,  S = sum_i 1/n sum_j Phi_ij Phi_ij',  Phi_ij = phi_i - phi(s^_ij, a_i)     (2)
    w~ = inv(Lambda~) [sum_i phi_i y_i + sum_OOD phi^ y^]                                                  (3)
    Gamma = beta bonus(phi),  bonus(phi) = [phi' inv(Lambda~) phi]^(1/2)                                   (4)
    bias(phi) = phi' (E w~ - w*) = -phi' inv(Lambda~) S w*                                                 (5)
    |bias(phi)| <= shift bonus(phi),  shift = [w*' S inv(Lambda~) S w*]^(1/2)                              (6)

(a) A case by hand, printed. The figure has the others. (b) Lambda~ - Lambda is positive definite, so every
bonus shrinks. (c) The std of phi' w~ over refits with fresh unit noise on every row is the bonus: an
ensemble's std measures it. Without noise on rows Phi / sqrt(n) (the algorithm's target is exactly 0) it is
smaller. (d) The bias, and (e) how often Gamma covers the truth. The truth is linear: y and y^ are phi' w*
plus noise. A smoothing row says 0 where the truth is Phi' w*, of order eps, and pulls along Phi, of order
eps too: the bracket in (3) has mean Lambda w*, hence (5), of order eps^2. Gamma knows the noise of (c)
only: a fixed beta covers the truth while eps is small, beta + shift (of order eps^2 too) at any eps.

Run: python benchmark/rorl_theorem2.py
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from benchmark.engine.figures import line, name_lines, panels, save, styles
from common import friendly
from common.args import cli, within

DATA, NEAR, OOD, POINTS, SIZE = 40, 10, 40, 1000, 8  # m, n, OOD points, test points, d
HAND = np.array([[1.0, 0]]), np.array([[[1, 0.5]]]), np.array([[0, 1.0]])  # (a): phi, phi(s^), OOD
EPS = 0.3  # of (b) and (c)
GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)  # eps of (d) and (e)
BETA, NOMINAL = 2.0, 0.9545  # probability that a Gaussian is within 2 std
SCALE = 3.0  # std of the true Q over random features; the noise has std 1


@dataclass
class Args:
    out: Path = Path("results")  # folder of the figure
    refits: Annotated[int, within("[2, 1e5]")] = 20_000  # least-squares fits with fresh noise
    seed: Annotated[int, within("[0, 1e18]")] = 0  # of features, truth and noise


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def features(rng: np.random.Generator):
    """Unit features data (m, d), ood (40, d), points (1000, d); shifts (m, n, d) in +-1; truth w* (d,)."""
    data, ood, points = (unit(rng.standard_normal((rows, SIZE))) for rows in (DATA, OOD, POINTS))
    truth = SCALE * SIZE**0.5 * unit(rng.standard_normal(SIZE))
    return data, ood, points, rng.uniform(-1, 1, (DATA, NEAR, SIZE)), truth


def perturb(data, shifts, eps: float):
    """Features (m, n, d) of the perturbed states: uniform noise of +-eps, then unit length again."""
    return unit(data[:, None] + eps * shifts)


def smoothing_rows(data, near):
    """Rows Phi_ij / sqrt(n), (m n, d), from data (m, d) and near (m, n, d)."""
    return ((data[:, None] - near) / near.shape[1] ** 0.5).reshape(-1, data.shape[1])


def covariances(data, near, ood):
    """Lambda and Lambda~, each (d, d)."""
    pbrl, rows = data.T @ data + ood.T @ ood, smoothing_rows(data, near)  # (1)
    return pbrl, pbrl + rows.T @ rows  # (2)


def solve(covariance, rows, y):
    """w from rows (M, d): (d,) for targets y (M,), (d, R) for y (M, R). Rows with target 0 add nothing."""
    return np.linalg.solve(covariance, rows.T @ y)  # (3)


def bonus(covariance, points):
    """Gamma / beta at points (P, d): (P,)."""
    return np.sqrt((points * np.linalg.solve(covariance, points.T).T).sum(1))  # (4)


def bias(data, near, ood, truth, points):
    """Mean estimate minus truth at points (P, d), (P,), and the shift of beta that allows for it."""
    pbrl, rorl = covariances(data, near, ood)
    off = np.linalg.solve(rorl, (rorl - pbrl) @ truth)  # inv(Lambda~) S w*
    return -points @ off, (off @ rorl @ off) ** 0.5  # (5) # (6)


def refits(data, near, ood, truth, noise):
    """w~ (R, d) of R fits. noise (R, columns): data, OOD, smoothing rows; columns left out are zero."""
    known = np.concatenate([data, ood])
    rows = np.concatenate([known, smoothing_rows(data, near)])[:noise.shape[1]]
    covariance = covariances(data, near, ood)[1]
    return solve(covariance, known, known @ truth) + solve(covariance, rows, noise.T).T


def coverage(estimates, truth, points, width):
    """Share of refits (R, d) and points (P, d) whose Q is within width (P,) of the true Q."""
    error = estimates - truth  # then a point at a time, all refits: that stays in the cache
    return float(np.mean([(np.abs(error @ point) <= wide).mean() for point, wide in zip(points, width)]))


def sweep(data, ood, points, shifts, truth, noise):
    """(d) and (e), a row per eps: eps, rms bias, exponent since the row before, coverage, shift, coverage with it."""
    table = np.full((len(GRID), 6), np.nan)
    for row, eps in zip(table, GRID):
        near = perturb(data, shifts, eps)
        size = bonus(covariances(data, near, ood)[1], points)
        (off, shift), w = bias(data, near, ood, truth, points), refits(data, near, ood, truth, noise)
        row[[0, 1, 4]] = eps, (off**2).mean() ** 0.5, shift
        row[[3, 5]] = [coverage(w, truth, points, beta * size) for beta in (BETA, BETA + shift)]
    table[1:, 2] = np.diff(np.log(table[:, 1])) / np.diff(np.log(table[:, 0]))
    return table


def draw(ratio, size, std, table):
    titles = ["(b) RORL's bonus is smaller", "(c) std over refits is the bonus", "(d) RORL's bias", "(e) coverage"]
    figure, (left, right, below, last) = panels([titles], 2, (3.8, 2.8))
    names = "RORL", "RORL, beta + shift"
    style = styles(names) | {name: {"color": "black", "marker": ""} for name in ("slope 2", "without bias", "equal")}
    left.hist(ratio, bins=25, color=style["RORL"]["color"])
    left.axvline(1, color="black", linestyle="--")
    left.annotate("as large as PBRL's", (1, 0.5), (-4, 0), xycoords=("data", "axes fraction"), fontsize=8, rotation=90,
                  textcoords="offset points", ha="right", va="center")
    left.set(xlabel="bonus, RORL / PBRL", ylabel="test points")
    right.plot(size, size, "k--", lw=1)
    right.plot(size, std, ".", ms=3, color=style["RORL"]["color"])
    right.set(xlabel="bonus", ylabel="std of Q over refits")
    eps, rms, _, covered, _, wide = table.T
    slope = rms[0] * (eps / eps[0]) ** 2
    line(below, eps, rms, style["RORL"])
    below.plot(eps, slope, "k--", lw=1)
    below.set(xscale="log", yscale="log", xlabel="eps", ylabel="rms bias of Q (noise: 1)")
    line(last, eps, covered, style[names[0]])
    line(last, eps, wide, style[names[1]])
    last.axhline(NOMINAL, color="black", linestyle="--", lw=1)
    last.set(xscale="log", xlabel="eps", ylabel="coverage of the truth", ylim=(0, 1.05))
    ends = {right: {"equal": (size.max(), size.max())},
            below: {"RORL": (eps[-1], rms[-1]), "slope 2": (eps[-1], slope[-1])},
            last: {names[0]: (eps[-1], covered[-1]), names[1]: (eps[-1], wide[-1]),
                   "without bias": (eps[-1], NOMINAL)}}
    name_lines(figure, ends, style)
    return figure


def caption(refits: int) -> str:
    return (f"Theorem 2 in numbers, at {POINTS:,} test points; (b) and (c): eps {EPS:g}. (c) and (e): n = {refits:,} "
            "refits with fresh noise; (b) and (d): computed, n = 1. (e): the share of refits and points whose Q is "
            f"within beta = {BETA:g} bonuses of the truth, and with beta + shift. No interval is drawn: the features "
            "and the truth are drawn once.")


def main(args: Args):
    other = "".join(f".{name}-{value}" for name, value in (("refits", args.refits), ("seed", args.seed))
                    if value != getattr(Args, name))  # a figure of its own
    rng, path, known = np.random.default_rng(args.seed), args.out / f"rorl_theorem2{other}.png", DATA + OOD
    data, ood, points, shifts, truth = features(rng)
    near, noise = perturb(data, shifts, EPS), rng.standard_normal((args.refits, known + DATA * NEAR))
    pbrl, rorl = covariances(data, near, ood)
    size, ratio = bonus(rorl, points), bonus(rorl, points) / bonus(pbrl, points)
    fits = (refits(data, near, ood, truth, some) for some in (noise, noise[:, :known]))
    std, quiet = (np.sqrt((points @ np.cov(w.T) * points).sum(1)) for w in fits)  # of phi' w~ over refits
    wrong, table = np.abs(std / size - 1), sweep(data, ood, points, shifts, truth, noise)
    save(draw(ratio, size, std, table), path, caption(args.refits))
    for name, matrix in zip(("PBRL", "RORL"), covariances(*HAND)):
        w, top = solve(matrix, np.eye(2), np.array([2.0, 3.0])), bonus(matrix, HAND[2])[0]
        print(f"(a) {name}: covariance {matrix.tolist()}, w {w.round(6).tolist()}, bonus at e2 {top:.6f}")
    print(f"(b) eps {EPS}: smallest eigenvalue of Lambda~ - Lambda {np.linalg.eigvalsh(rorl - pbrl)[0]:.4f}")
    print(f"    bonus, RORL / PBRL, at {POINTS} points: max {ratio.max():.4f}, mean {ratio.mean():.4f}")
    print(f"(c) std over {args.refits} refits / bonus - 1: up to {wrong.max():.4f}, mean {wrong.mean():.4f}")
    print(f"    no noise on smoothing rows: std / bonus, mean {(quiet / size).mean():.4f}")
    print(f"(d)  eps  rms bias  exponent  (e) coverage, beta {BETA:g}     shift  coverage, beta + shift")
    for row in table:
        print("    {:4.2f}{:10.5f}{:10.2f}{:22.4f}{:10.4f}{:24.4f}".format(*row).replace("nan", "   "))
    print(f"figure: {path}")


if __name__ == "__main__":
    with friendly():
        main(cli(Args, description=(__doc__ or "").partition("\n")[0]))
