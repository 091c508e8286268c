"""Theorem 2 of RORL: smaller bonus, the ensemble's std, bias of order eps^2, coverage; and the script itself."""

import runpy
import sys
from statistics import NormalDist

import numpy as np
import pytest

from benchmark.rorl_theorem2 import bias, bonus, covariances, coverage, features, perturb, refits, smoothing_rows, solve, sweep
from tests.helpers import ROOT, run_script

SCRIPT = ROOT / "benchmark/rorl_theorem2.py"


@pytest.fixture(scope="module")
def case():
    """data, ood, points, shifts, truth, and noise of 20,000 refits on every row."""
    rng = np.random.default_rng(0)
    return *features(rng), rng.standard_normal((20_000, 40 + 40 + 400))


@pytest.mark.parametrize("copies", [1, 4])  # n equal perturbations count as one
def test_by_hand(copies):
    data, ood = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    near = np.repeat([[[1.0, 0.5]]], copies, 1)
    pbrl, rorl = covariances(data, near, ood)
    np.testing.assert_allclose(pbrl, np.eye(2))
    np.testing.assert_allclose(rorl, np.diag([1, 1.25]))
    rows = np.concatenate([data, ood])
    np.testing.assert_allclose(solve(rorl, rows, np.array([2.0, 3.0])), [2, 2.4])
    rows = np.concatenate([rows, smoothing_rows(data, near)])  # the same by least squares on all rows
    np.testing.assert_allclose(np.linalg.lstsq(rows, np.array([2.0, 3.0] + [0.0] * copies))[0], [2, 2.4])
    assert bonus(pbrl, ood) == pytest.approx([1.0]) and bonus(rorl, ood) == pytest.approx([0.894427], abs=1e-6)


def test_the_bonus_shrinks_everywhere(case):
    data, ood, points, shifts, _, _ = case
    near = perturb(data, shifts, 0.3)
    assert near.shape == (40, 10, 8) and np.allclose((near**2).sum(-1), 1) and np.ptp(shifts) > 1.99
    pbrl, rorl = covariances(data, near, ood)
    assert np.linalg.eigvalsh(rorl - pbrl)[0] > 0.1
    ratio = bonus(rorl, points) / bonus(pbrl, points)
    assert ratio.shape == (1000,) and ratio.max() < 1 and ratio.mean() == pytest.approx(0.95, abs=0.01)


def test_std_over_refits_is_the_bonus(case):
    data, ood, points, shifts, truth, noise = case
    near = perturb(data, shifts, 0.3)
    pbrl, rorl = covariances(data, near, ood)
    size, some = bonus(rorl, points[:100]), points[:100]
    np.testing.assert_allclose((some @ refits(data, near, ood, truth, noise).T).std(1), size, rtol=0.02)
    quiet = (some @ refits(data, near, ood, truth, noise[:, :80]).T).std(1)  # no noise on the smoothing rows: too small
    half = np.linalg.solve(rorl, some.T)
    np.testing.assert_allclose(quiet, np.sqrt((half * (pbrl @ half)).sum(0)), rtol=0.02)
    assert (quiet < 0.98 * size).all()


def test_refits_are_biased_by_the_smoothing_rows(case):
    data, ood, points, shifts, truth, noise = case
    near = perturb(data, shifts, 1.0)
    off, shift = bias(data, near, ood, truth, points)
    exact = refits(data, near, ood, truth, np.zeros((1, 480)))[0]
    rows = np.concatenate([data, ood, smoothing_rows(data, near)])
    fit = np.linalg.lstsq(rows, np.concatenate([data @ truth, ood @ truth, np.zeros(400)]))[0]
    np.testing.assert_allclose(exact, fit)
    np.testing.assert_allclose(points @ (exact - truth), off, atol=1e-12)
    np.testing.assert_allclose(refits(data, near, ood, truth, noise).mean(0), exact, atol=0.02)
    pbrl, rorl = covariances(data, near, ood)
    worst = ((rorl - pbrl) @ truth)[None]  # the feature with the largest bias for its bonus
    size = bonus(rorl, points)
    assert (np.abs(off) <= shift * size).all()
    assert abs(bias(data, near, ood, truth, worst)[0]) == pytest.approx(shift * bonus(rorl, worst))
    assert not bias(data, data[:, None], ood, truth, points)[0].any()  # PBRL has none


def test_bias_is_of_order_eps_squared(case):
    data, ood, points, shifts, truth, _ = case
    eps = np.array([0.005, 0.01, 0.02, 0.05])
    rms, shift = np.array([[(off**2).mean() ** 0.5, shift] for off, shift in (
        bias(data, perturb(data, shifts, e), ood, truth, points) for e in eps)]).T
    for size in (rms, shift):
        assert np.polyfit(np.log(eps), np.log(size), 1)[0] == pytest.approx(2, abs=0.02)


def test_coverage_counts():
    estimates, truth = np.array([[0.0, 0.0], [3.0, 0.0]]), np.array([1.0, 0.0])
    points = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])  # errors -1, 1, 0 and 2, -2, 0
    assert coverage(estimates, truth, points, np.array([1.0, 0.5, 0.0])) == pytest.approx(3 / 6)


def test_coverage_breaks_as_eps_grows(case):
    """And is what the bias explains: the estimate is Gaussian around truth + bias with the bonus as std."""
    data, ood, points, shifts, truth, noise = case
    table = sweep(data, ood, points, shifts, truth, noise[:3000])
    eps, rms, exponent, covered, _, wide = table.T
    normal = NormalDist()
    for e, share in zip(eps, covered):
        near = perturb(data, shifts, e)
        shifted = bias(data, near, ood, truth, points)[0] / bonus(covariances(data, near, ood)[1], points)
        assert share == pytest.approx(np.mean([normal.cdf(2 - x) - normal.cdf(-2 - x) for x in shifted]), abs=0.01)
    assert (covered[eps <= 0.1] > 0.94).all() and (covered[eps >= 0.5] < 0.7).all() and covered[-1] < 0.4
    assert (wide > 0.945).all() and (np.diff(rms) > 0).all()
    assert exponent[1] == pytest.approx(2, abs=0.01) and exponent[-1] < 1  # it saturates: features have unit length


def test_the_script(tmp_path):
    code, out, err = run_script(SCRIPT, "--out", tmp_path / "new/folder", "--refits", 300, real=True)
    assert code == 0, err
    assert (tmp_path / "new/folder/rorl_theorem2.refits-300.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert str(tmp_path / "new/folder/rorl_theorem2.refits-300.png") in out.splitlines()[-1]
    for text in ("[[1.0, 0.0], [0.0, 1.25]], w [2.0, 2.4], bonus at e2 0.894427", "w [2.0, 3.0], bonus at e2 1.000000",
                 "smallest eigenvalue", "max 0.9", "std over 300 refits", "exponent"):
        assert text in out
    rows = [line.split() for line in out.partition("(d)")[2].splitlines()[1:-1]]
    assert len(rows) == 10 and float(rows[0][2]) > 0.9 > 0.5 > float(rows[-1][3])


@pytest.mark.parametrize("flags, text", [(("--refits", "1"), "--refits 1"), (("--seed", "-1"), "--seed -1"),
                                         (("--refits", "20", "--out", str(SCRIPT)), f"cannot write {SCRIPT}")])
def test_a_bad_flag_gives_one_line(monkeypatch, capsys, flags, text):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and not out and err.startswith("error: ") and text in err and err.count("\n") == 1
