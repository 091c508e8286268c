"""ARMOR's scripts: the one-state game by hand and by a second way, the poster's means, and the matrix of improvements."""

import re
from fractions import Fraction
from math import inf

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from benchmark import armor_toy
from benchmark.armor_toy import BETAS, CASES, COVERED, MIXED, SILENT, best, closed_form, penalised, value, worst_improvement, worst_return
from tests.helpers import ROOT, run_script

TOY = ROOT / "benchmark/armor_toy.py"
POLICIES = armor_toy.grid(20)

# The one-state game


def test_the_game_by_hand():
    """The spec's two toys: (1 - q)(0.1 - rho) where the reference goes right, -0.1 q or 0.7 q where it goes left."""
    q = Fraction(1, 4)
    assert value(q, Fraction(1, 2)) == Fraction("0.075") + Fraction(1, 8)
    assert worst_improvement(q, 1, SILENT) == Fraction("-0.9") * (1 - q)
    assert worst_improvement(q, 0, SILENT) == Fraction("-0.1") * q
    assert worst_improvement(q, 0, COVERED) == Fraction("0.7") * q
    assert worst_return(q, SILENT) == Fraction("0.075") and worst_return(q, COVERED) == Fraction("0.275")
    solved = [armor_toy.solve(name, POLICIES) for name in CASES]
    assert [(found["armor"], found["armor_improvement"]) for found in solved] == [(1, 0), (0, 0), (1, Fraction("0.7"))]
    assert [found["absolute"] for found in solved] == [0, 0, 1]  # absolute pessimism goes left in both toys without data
    assert solved[0]["absolute_improvement"] == Fraction("-0.9") and solved[0]["absolute_return"] == Fraction("0.1")


@pytest.mark.parametrize("q_ref", MIXED, ids=str)
def test_no_worse_than_any_reference(q_ref):
    """Enumeration of worlds as a second way, which does not know that the least is at an end."""
    worlds = armor_toy.grid(50)
    for q in POLICIES:
        assert worst_improvement(q, q_ref, SILENT) == min(value(q, rho) - value(q_ref, rho) for rho in worlds)
    assert best(POLICIES, lambda q: worst_improvement(q, q_ref, SILENT)) == q_ref
    chosen = best(POLICIES, lambda q: worst_improvement(q, q_ref, COVERED))
    assert chosen == 1 and worst_improvement(chosen, q_ref, COVERED) == Fraction("0.7") * (1 - q_ref)


@pytest.mark.parametrize("beta", BETAS, ids=lambda beta: f"{float(beta):g}")
@pytest.mark.parametrize("q_ref", [0, Fraction(1, 2), 1], ids=str)
def test_the_penalty(beta, q_ref):
    """Against a numeric minimum over rho; no beta ends below the reference, in the worst case or in truth."""
    for q in POLICIES[::4]:
        if beta < inf:
            total = lambda rho: float(value(q, rho) - value(q_ref, rho)) + float(beta) * (rho - 0.8) ** 2
            inside = minimize_scalar(total, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).fun
            assert float(penalised(q, q_ref, beta)) == pytest.approx(min(inside, total(0), total(1)), abs=1e-8)
        else:
            assert penalised(q, q_ref, beta) == Fraction("0.7") * (q - q_ref)
    chosen = best(POLICIES, lambda q: penalised(q, q_ref, beta))
    assert penalised(chosen, q_ref, beta) >= 0 and value(chosen, armor_toy.RIGHT) >= value(q_ref, armor_toy.RIGHT)
    assert q_ref > 0 or chosen == closed_form(beta) == min(1, Fraction(7, 5) * beta if beta < inf else 1)


def test_every_equation_of_the_game_stands_at_its_line():
    numbered = [int(n) for n in re.findall(r"\S {2,}\((\d+)\)$", armor_toy.__doc__, re.M)]
    tagged = sorted(map(int, re.findall(r"# \((\d+)\)", TOY.read_text())))
    assert numbered == tagged == list(range(1, 7))


def test_the_game_from_nothing_to_a_figure(tmp_path):
    code, out, err = run_script(TOY, "--out", tmp_path / "new/folder", "--steps", 20, real=True)
    assert code == 0 and not err, err
    figure = tmp_path / "new/folder/armor_toy.steps-20.png"
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and out.splitlines()[-1] == f"figure: {figure}"
    parts = {part[0]: [line.split() for line in part.splitlines()[2:]] for part in re.split(r"^\(", out, flags=re.M)[1:]}
    assert [line[-5:] for line in parts["a"]] == [["1.000", "1.000", "0.000", "0.000", "-0.900"], ["0.000"] * 5,
                                                 ["0.000", "1.000", "1.000", "0.700", "0.700"]]
    assert all(line[1] == f"{float(line[0]):.3f}" and line[2] == "0.000" for line in parts["b"])
    assert [line[1:] for line in parts["c"][:-1]][1] == ["0.350", "0.350", "0.122", "0.245"] and len(parts["c"]) == len(BETAS) + 1


def test_panels_of_the_game():
    """The lines that are drawn are (2) and (4), against the probability of leaving."""
    figure = armor_toy.draw(POLICIES)
    first, second, third, penalty = figure.axes
    ours, dot, absolute, chosen, risk = first.lines[:5]
    np.testing.assert_allclose(ours.get_ydata(), [-0.9 * p for p in map(float, ours.get_xdata())], atol=1e-12)
    np.testing.assert_allclose(absolute.get_ydata(), [0.1 * p for p in map(float, absolute.get_xdata())], atol=1e-12)
    assert (dot.get_xdata()[0], chosen.get_xdata()[0]) == (0, 1) and risk.get_ydata()[0] == pytest.approx(-0.9)
    assert [float(ax.lines[1].get_xdata()[0]) for ax in (second, third)] == [0, 1] and len(penalty.texts) == len(BETAS)


@pytest.mark.parametrize("flags, text", [(("--steps", 1), "--steps 1"), (("--steps", 20, "--out", TOY), f"cannot write {TOY}")])
def test_a_bad_flag_of_the_game_gives_one_line(flags, text):
    code, out, err = run_script(TOY, *flags)
    assert code == 2 and not out and err.startswith("error: ") and text in err and err.count("\n") == 1
