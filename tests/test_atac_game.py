"""ATAC's game: closed form, linear programs as a second way, ties, promises for every beta, play; and the script."""

import re
from fractions import Fraction
from math import inf

import numpy as np
import pytest
from scipy.optimize import linprog

from benchmark import atac_game
from benchmark.atac_game import (APART, BETAS, CURVE, FAST, F, LOW, SLOW, answers, bellman_error, closed_form, flat, improvement,
                                 leader, play, simplex, solve, values)
from tests.helpers import ROOT, run_script

SCRIPT = ROOT / "benchmark/atac_game.py"
GRID = simplex(20)
every_beta = pytest.mark.parametrize("beta", [*BETAS, *CURVE[3:5], *CURVE[6:20:4]], ids=lambda beta: f"{float(beta):g}")


def largest(objective, above=(), floors=()):
    """The policy with the largest objective (3,) @ pi subject to above @ pi >= floors, and that; None without any."""
    limits = dict(A_ub=-np.array(above, float), b_ub=-np.array(floors, float)) if len(above) else {}
    found = linprog(-np.array(objective, float), A_eq=[[1, 1, 1]], b_eq=[1], **limits)
    return (found.x, -found.fun) if found.status == 0 else None


def by_programs(hypotheses, beta, absolute=False):
    """(4) without a grid: where f is an answer is a polytope, on which the leader's gain is linear; the best over f."""
    f = values(hypotheses).astype(float)
    error = f[:, 0] ** 2
    told = f if absolute else f - f[:, :1]  # (K, 3), times pi
    if beta == inf:
        told, error, beta = told[error == error.min()], error[error == error.min()], 0
    found = [largest(row, np.delete(told - row, k, 0), np.delete(float(beta) * (error[k] - error), k)) for k, row in enumerate(told)]
    return max((one for one in found if one is not None), key=lambda one: one[1])


def test_by_hand():
    pi = np.array([[Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], [0, 1, 0]], dtype=object)
    f = values(F)
    half = Fraction(1, 2)
    assert improvement(pi, f).tolist() == [[half / 4, half / 4, 1, -half], [1, -half, 2, -1]]
    assert bellman_error(f).tolist() == [0, 0, 1, 25]
    told = improvement(pi, f)
    assert answers(told, bellman_error(f), Fraction(1, 40)).tolist() == [[True, True, False, True], [False, True, False, False]]
    assert answers(told, bellman_error(f), inf).tolist() == [[True, True, False, False], [False, True, False, False]]
    assert leader(told, bellman_error(f), Fraction(1, 40)).tolist() == [half / 4, -half]  # the tie is the leader's
    assert leader(told, bellman_error(f), Fraction(1, 100)).tolist() == [-half, -1]  # D has no rival any more


def test_the_grid_is_the_simplex():
    assert GRID.shape == (21 * 22 // 2, 3) and (GRID.sum(1) == 1).all() and GRID.min() == 0
    assert len({tuple(policy) for policy in GRID}) == len(GRID) and isinstance(GRID[7, 1], Fraction)
    corners = flat(np.eye(3))
    assert np.allclose([np.linalg.norm(corners[i] - corners[i - 1]) for i in range(3)], 1)


@every_beta
def test_the_solution_is_the_closed_form(beta):
    best, value, names = solve(GRID, F, beta)
    pi, expected = closed_form(beta)
    assert best.tolist() == [pi.tolist()] and value == expected  # one policy, exactly
    assert value == min(0.25, 5 * beta) and pi[0] == 1 - min(1, 20 * beta)
    assert set("AB") <= set(names) and ("D" in names) == (beta <= Fraction(1, 20)) and ("C" in names) == (beta == 0)


@every_beta
@pytest.mark.parametrize("hypotheses, absolute", [(F, False), (APART, False), (F | LOW, False), (F | LOW, True), (F, True)])
def test_linear_programs_agree(beta, hypotheses, absolute):
    best, value, _ = solve(GRID, hypotheses, beta, absolute)
    policy, expected = by_programs(hypotheses, beta, absolute)
    assert len(best) == 1 and np.allclose(best[0].astype(float), policy, atol=1e-6) and float(value) == pytest.approx(expected, abs=1e-6)


def test_random_hypotheses_agree_with_linear_programs():
    """A grid's best is a policy, so never above the exact one; and near it where no tie decides."""
    rng, near = np.random.default_rng(0), 0
    for _ in range(30):
        hypotheses = {name: tuple(map(int, rng.integers(-5, 6, 3))) for name in "ABCD"} | {"Z": (0, *map(int, rng.integers(-5, 6, 2)))}
        beta = Fraction(int(rng.integers(0, 20)), 20)
        value, exact = float(solve(GRID, hypotheses, beta)[1]), by_programs(hypotheses, beta)[1]
        assert -1e-9 <= value <= exact + 1e-9
        near += value > exact - 0.5
    assert near == 30


def test_no_common_improvement_clones_the_data():
    for beta in BETAS:
        best, value, _ = solve(GRID, APART, beta)
        assert best.tolist() == [[1, 0, 0]] and value == 0


@every_beta
def test_the_value_and_every_consistent_hypothesis_promise_improvement(beta):
    for hypotheses in (F, F | LOW, APART):
        best, value, _ = solve(GRID, hypotheses, beta)
        error = bellman_error(values(hypotheses))
        assert value >= 0 and (improvement(best, values(hypotheses))[:, error == 0] >= value).all()
    assert (solve(GRID, F | LOW, beta)[0] == solve(GRID, F, beta)[0]).all()


def test_neither_the_data_nor_the_best_for_one_hypothesis():
    gains = improvement(np.eye(3, dtype=int), values(F))  # (actions, hypotheses)
    assert [int(np.argmax(gains[:, k])) for k in (0, 1, 3)] == [1, 2, 0] and gains[1, 2] == gains[2, 2] == 2
    assert gains[:, :2].min(1).tolist() == [0, -0.5, -0.5]
    best = solve(GRID, F, 1)[0][0]
    assert improvement(best, values(F))[:2].tolist() == [0.25, 0.25] and max(best) < 1
    assert (best @ np.array(F["A"]), best @ np.array(F["B"])) < (max(F["A"]), max(F["B"]))


def test_absolute_pessimism_loses_to_the_data():
    for beta in CURVE:
        assert solve(GRID, F, beta, absolute=True)[0].tolist() == [[0, 0.5, 0.5]]  # before LOW is added
        worse = improvement(solve(GRID, F | LOW, beta, absolute=True)[0], values(F))[:, :2].min()
        assert worse == min(Fraction(1, 4), max(-Fraction(1, 2), 15 * beta - Fraction(13, 5)))


@every_beta
def test_ties(beta):
    """The leader's L is at most the least of L + beta E, with equality at the solution; a tie against it has no maximum."""
    f = values(F)
    error = bellman_error(f)
    told = improvement(GRID, f)
    earned = leader(told, error, beta)
    if beta < inf:
        least = (told + beta * error).min(1)
        assert (earned <= least).all() and earned.max() == least.max() and (GRID[least == least.max()] == closed_form(beta)[0]).all()
    if 0 < beta <= Fraction(1, 20):
        unkind = []
        for grid in (GRID, simplex(60)):
            told = improvement(grid, f)
            unkind.append(np.where(answers(told, error, beta), told, inf).min(1).max())
        assert unkind[0] < unkind[1] < 5 * beta


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.02, 1.0])
def test_play_finds_the_solution(beta):
    path = play(F, beta, SLOW, 10_000)
    assert path.shape == (10_001, 3) and np.allclose(path.sum(1), 1)
    np.testing.assert_allclose(path[-1], closed_form(beta)[0].astype(float), atol=0.005)
    first = path[0] * np.exp(SLOW * np.array([5, 4, 4] if beta < 0.001 else [0, -0.5, 1]))  # by hand: who answers the start
    np.testing.assert_allclose(path[1], first / first.sum())


def test_a_fast_actor_swings():
    slow, fast = (np.ptp(play(F, 0.02, rate, 2000)[-200:, 0]) for rate in (SLOW, FAST))
    assert slow < 0.005 and fast > 0.05


def test_every_equation_stands_at_its_line():
    source = SCRIPT.read_text()
    numbered = [int(n) for n in re.findall(r"\S {2,}\((\d+)\)$", atac_game.__doc__, re.M)]
    assert numbered == sorted(set(map(int, re.findall(r"# \((\d+)\)", source)))) == list(range(1, 8))


def test_the_script(tmp_path):
    code, out, err = run_script(SCRIPT, "--out", tmp_path / "new/folder", "--steps", 20, real=True)
    assert code == 0 and not err, err
    figure = tmp_path / "new/folder/atac_game.steps-20.png"
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and out.splitlines()[-1] == f"figure: {figure}"
    parts = {part[0]: [line.split() for line in part.splitlines()[2:]] for part in re.split(r"^\(", out, flags=re.M)[1:]}
    assert [line[-1] for line in parts["a"]] == ["D", "C", "C"]
    assert [line[:7] for line in parts["b"]][2] == ["0.02", "0.600", "0.200", "0.200", "0.100", "0.100", "0.100"]
    assert all(line[4] == line[5] for line in parts["b"]) and len(parts["b"]) == len(BETAS)
    assert [line[1:] for line in parts["c"]] == [["1.000", "0.000", "0.000", "0.000"]] * 3
    assert [line[-1] for line in parts["d"]] == ["-0.500", "-0.500", "-0.500", "-0.350", "0.250", "0.250"]
    assert float(parts["e"][-2][4]) > 0.1 > 0.01 > float(parts["e"][2][4])


@pytest.mark.parametrize("flags, text", [(("--steps", 1), "--steps 1"), (("--steps", 20, "--out", SCRIPT), f"cannot write {SCRIPT}")])
def test_a_bad_flag_gives_one_line(flags, text):
    code, out, err = run_script(SCRIPT, *flags)
    assert code == 2 and not out and err.startswith("error: ") and text in err and err.count("\n") == 1
