"""Ranking by FQE: its measures by hand, and from three policies to a table and a figure."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from algorithms import bc, td3_bc
from benchmark import fqe_ranking
from benchmark.fqe_ranking import Args, interval, main, measures, played, ranks, regret, spearman
from common import InputError, load
from common.args import parse
from common.evaluation import evaluate
from tests.helpers import write_npz


def test_ranks_and_their_correlation():
    x, y = np.array([3.0, 1.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0, 5.0])
    assert ranks(x).tolist() == [3, 0, 1.5, 1.5]
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 5, (2, 9)).astype(float)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(np.arange(4.0), -np.arange(4.0) ** 3) == pytest.approx(-1) and np.isnan(spearman(np.ones(3), np.arange(3.0)))


def test_an_interval_is_wide_where_there_are_few():
    rng = np.random.default_rng(1)
    few, many = rng.normal(size=(2, 8)), rng.normal(size=(2, 200))
    wide, narrow = interval(*few), interval(*many)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0]) and narrow[0] < 0.1 and interval(*few) == wide
    assert interval(np.arange(9.0), np.arange(9.0)) == pytest.approx((1, 1))


def test_regret_and_errors_by_hand():
    value, truth = np.array([5.0, 9.0, 7.0]), np.array([10.0, 6.0, 2.0])
    assert regret(value, truth) == 0.5 and regret(-value, truth) == 0 and regret(value, np.ones(3)) == 0
    rows = [{"value": v, "truth": t, "score": s, "distance": d, "value_low": v - 1, "value_high": v + 3}
            for v, t, s, d in zip(value, truth, (1.0, 2.0, 3.0), (0.1, 0.2, 0.3))]
    told = dict(measures(rows))
    assert told["policies"] == "3" and told["absolute error of value"].startswith("4.3, where the discounted returns go from 2.0 to 10.0")
    assert told["discounted returns inside FQE's own interval"] == "0 of 3" and told["regret@1, score"] == "0.50"
    assert told["rank correlation of value and discounted return"].startswith("-0.50") and told["rank correlation of value and score"].startswith("0.50")
    assert told["rank correlation of minus distance and discounted return"].startswith("1.00")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """hopper.npz, a run of two policies and one of a third."""
    folder = tmp_path_factory.mktemp("ranking")
    write_npz(folder / "hopper.npz")
    words = f"--env {folder / 'hopper.npz'} --eval-env hopper-medium-v2 --updates 3 --eval-episodes 1 --eval-workers 0 --runs {folder / 'policies'} --device cpu"
    td3_bc.main(parse(td3_bc.Args, td3_bc.PAPER, [*words.split(), "--seeds", "4", "7"]))
    bc.main(parse(bc.Args, bc.PAPER, words.split()))
    return folder, tuple(sorted((folder / "policies").iterdir()))


def test_played_is_the_evaluation_and_its_discounted_return(place):
    policy = load(place[1][-1])
    returns, discounted = played(policy, Args((), episodes=2), 1.0)
    np.testing.assert_allclose(returns, evaluate(policy.actor, "hopper-medium-v2", 2, seed=10_000 - 100)[0])
    np.testing.assert_allclose(discounted, returns)
    shorter = played(policy, Args((), episodes=2), 0.5)[1]
    assert (shorter < returns).all() and (shorter > 0).all() and (shorter < 4).all()  # about a reward of 1 a step


def test_from_policies_to_a_figure(place, tmp_path, monkeypatch, capsys):
    folder, runs = place
    args = Args(runs, env=str(folder / "hopper.npz"), updates=2, episodes=1, fqe_runs=tmp_path / "fqe", out=tmp_path / "out", name="mine")
    extra = ["--batch-size", "8", "--num-critics", "2", "--eval-episodes", "1", "--eval-workers", "0", "--device", "cpu"]
    main(args, extra)
    table = (tmp_path / "out/mine.md").read_text()
    assert "| policies | 3 |" in table and table.count("td3_bc-hopper") == 2 and table.count("| bc-hopper") == 1
    assert "2 updates, 2 networks, gamma 0.99, tau 0.005; 1 episodes a policy" in table
    assert (tmp_path / "out/mine.png").stat().st_size > 10_000 and (tmp_path / "out/mine.csv").read_text().count("\n") == 4
    made = sorted(path for path in (tmp_path / "fqe").iterdir() if path.name != ".grid")
    assert len(made) == 3 and {json.loads((path / "config.json").read_text())["args"]["policy_seed"] for path in made} == {0, 4, 7}
    main(args, extra)  # finds them
    assert (tmp_path / "out/mine.md").read_text() == table and len(list((tmp_path / "fqe").iterdir())) == 4
    monkeypatch.setattr(fqe_ranking, "load", lambda *words: changed(load(*words)))
    with pytest.raises(InputError, match="was trained on; move it away"):
        main(args, extra)
    assert "| measure | |" in capsys.readouterr().out


def changed(policy):
    with torch.no_grad():
        next(policy.parameters()).add_(1)
    return policy


def test_bad_input_is_one_line(place, tmp_path, monkeypatch):
    folder, runs = place
    args = dict(env=str(folder / "hopper.npz"), updates=2, fqe_runs=tmp_path / "fqe", out=tmp_path / "out")
    with pytest.raises(InputError, match="2 policies, of hopper-medium-v2: name runs with three or more"):
        main(Args(runs[1:], **args), [])
    with pytest.raises(InputError, match="0 policies, of no task"):
        main(Args((tmp_path,), **args), [])
    with pytest.raises(InputError, match="--updates belongs before the --"):
        main(Args(runs, **args), ["--updates", "3"])
    words = f"--env {folder / 'hopper.npz'} --eval-env none --updates 3 --runs {tmp_path / 'none'} --device cpu"
    bc.main(parse(bc.Args, bc.PAPER, words.split()))
    (other,) = (tmp_path / "none").iterdir()
    with pytest.raises(InputError, match="name runs with three or more, of one task"):
        main(Args((*runs, other), **args), [])
    assert not (tmp_path / "fqe").exists()
    with pytest.raises(InputError, match="FQE of .*: exit code 2 .*; its log is "):
        main(Args(runs, **args | {"env": str(tmp_path / "none.npz")}), [])
