"""Held-out episodes: which they are, that nothing is trained on them, and what log.csv has of them."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms import bc, td3_bc
from common import InputError
from common.args import parse
from common.checkpoint import snapshot
from common.data import load_dataset
from common.holdout import MOST, errors, has_critics, held_out
from common.run import Run
from tests.helpers import ALGORITHMS, ROOT, assert_equal_trees, make_data, run_script, small_agents

LENGTHS = [3, 5, 2, 7, 4, 6, 3, 3, 8, 2, 5, 4, 6, 1, 9, 2, 3, 5, 4, 6]  # of 20 episodes, every third with a true end


def write(path, lengths=LENGTHS, without=()) -> str:
    """Column 0 of observations is the row's number, and column 1 its episode's."""
    ends, rows, rng = np.cumsum(lengths) - 1, sum(lengths), np.random.default_rng(0)
    obs = np.stack([np.arange(rows), np.repeat(np.arange(len(lengths)), lengths)], 1).astype(np.float32)
    flags = np.zeros((2, rows), bool)
    flags[0, ends[::3]], flags[1, ends] = True, True
    flags[1] &= ~flags[0]
    columns = dict(observations=obs, actions=rng.uniform(-1, 1, (rows, 2)), rewards=rng.normal(size=rows) + obs[:, 1],
                   terminals=flags[0], timeouts=flags[1], next_observations=obs + [0.5, 0])
    np.savez(path, **{key: column for key, column in columns.items() if key not in without})
    return str(path)


def test_which_episodes():
    """As many as the share says; of a larger share the same ones and more; no stretch of the file has none or only such."""
    for episodes, share, count in ((20, 0.1, 2), (100, 0.1, 10), (1000, 0.25, 250), (7, 0.3, 2), (3, 0.6, 2)):
        held = held_out(episodes, share, "x")
        assert held.sum() == count and held.dtype == bool and (held == held_out(episodes, share, "y")).all()
    small, large = held_out(1000, 0.1, "x"), held_out(1000, 0.2, "x")
    assert not (small & ~large).any()
    assert all(8 <= part.sum() <= 12 for part in np.split(small, 10))
    for period in (2, 3, 4, 5, 7, 10):  # of a file in which several policies take turns
        assert all(small[turn::period].mean() == pytest.approx(0.1, abs=0.05) for turn in range(period))


@pytest.mark.parametrize("view, without", [("next_obs", ()), ("d4rl", ()), ("d4rl", ("next_observations",))])
def test_what_is_left_is_the_file_without_them(tmp_path, view, without):
    path = write(tmp_path / "f.npz", without=without)
    whole, rest = load_dataset(path, view=view), load_dataset(path, view=view, holdout=0.2)
    held = held_out(len(whole.episodes), 0.2, "x")
    number = torch.repeat_interleave(torch.arange(len(held)), whole.episodes.diff()[:, 0])  # of each row's episode
    left = torch.from_numpy(~held)[number]
    assert torch.equal(rest.rows, whole.rows[left]) and torch.equal(rest.holdout, whole.rows[~left]) and whole.holdout is None
    same = whole.subset(left.nonzero()[:, 0])
    np.testing.assert_array_equal(rest.next_action, same.next_action)  # NaN where unknown
    for name in ("episodes", "obs_mean", "obs_std", "followed", "obs", "done"):
        assert torch.equal(getattr(rest, name), getattr(same, name)), name
    assert rest.source == same.source and rest.source["rows"] == int(left.sum())


def test_nothing_that_is_held_out_is_drawn(tmp_path):
    """Nor through `subset`, as 10%BC takes it, nor as a next action; and a reward is what it is without --holdout."""
    path = write(tmp_path / "f.npz")
    for reward in ("raw", "standardize", "return_range"):
        whole, rest = load_dataset(path, reward=reward), load_dataset(path, reward=reward, holdout=0.2)
        held, rng = set(rest.holdout[:, 0].tolist()), torch.Generator().manual_seed(0)
        best = bc.best(rest, 0.3, 1.0, False)
        batches = rest.sample(5000, rng), rest.sample_sarsa(5000, rng)[0], best.sample(5000, rng), best
        for batch in batches:
            assert not held & set(batch.obs[:, 0].tolist())
        assert set(batches[0].obs[:, 0].tolist()) == set(rest.obs[:, 0].tolist()) == set(whole.obs[:, 0].tolist()) - held
        assert torch.equal(best.holdout, rest.holdout)
        of = {row[0].item(): row for row in whole.rows}
        assert all(torch.equal(of[row[0].item()], row) for row in torch.cat([rest.rows, rest.holdout]))


def test_many_held_out_rows_are_thinned_evenly(tmp_path, capsys):
    data = load_dataset(write(tmp_path / "f.npz", [100] * 200), holdout=0.5)
    assert len(data.holdout) == MOST and len(data.rows) == 10_000
    assert np.unique(data.holdout[:, 1], return_counts=True)[1].tolist() == pytest.approx([MOST / 100] * 100, abs=1)
    assert "held out: 100 episodes with 10,000 rows; errors are logged of 4,096 of them" in capsys.readouterr().out


@pytest.mark.parametrize("lengths, share, why", [
    (LENGTHS, 0.02, "of its 20 episodes sets none aside"), (LENGTHS, 0.05, "of its 20 episodes sets 1 aside"),
    ([50], 0.4, "of its 1 episodes sets none"), ([5, 5], 0.9, "of its 2 episodes leaves none to train on")])
def test_too_few_episodes(tmp_path, lengths, share, why):
    path = write(tmp_path / "f.npz", lengths)
    with pytest.raises(InputError, match=f"f.npz: --holdout {share} {why}"):
        load_dataset(path, holdout=share)
    assert len(load_dataset(path).rows) == sum(lengths)


# Errors


WITHOUT_CRITICS = {"bc", "morel"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_its_errors(algorithm):
    """As defined, over all rows at once; nothing of the agent moves, and no number is drawn that training would draw."""
    (agent,) = small_agents(algorithm, [0])
    assert errors(agent) == {}
    before, drawn = snapshot(agent), torch.get_rng_state()
    agent.data.holdout = make_data(600, seed=1).rows
    found = errors(agent)
    assert_equal_trees(snapshot(agent), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    s, a, r, after, d = agent.data.split(agent.data.holdout)
    with torch.no_grad():
        expected = {"holdout_cloning": ((agent.actor.act(s) - a) ** 2).mean()}
        if algorithm not in WITHOUT_CRITICS:
            q, next_q = agent.critics(s, a), agent.critics(after, agent.actor.act(after))
            assert q.shape == next_q.shape == ((600,) if algorithm == "one_step" else (len(q), 600))
            q, next_q = (x if x.ndim == 1 else x.amin(0) for x in (q, next_q))
            expected["holdout_td"] = ((q - r - agent.args.gamma * (1 - d) * next_q) ** 2).mean()
    assert has_critics(agent) == (algorithm not in WITHOUT_CRITICS)
    assert list(found) == list(expected) and all(x.ndim == 0 for x in found.values())
    for name in expected:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-4), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_main_hands_it_on(algorithm):
    source = (ROOT / f"algorithms/{algorithm}.py").read_text()
    assert re.search(r"load_dataset\(args\.env, .*?, args\.holdout\)\n", source, re.S)


@pytest.mark.parametrize("names, form", [("x", None), ("obs, action", lambda q: q.T), ("obs, action", lambda q: (q[0], q[1])),
                                         ("state, action", lambda q: q), ("obs, action", lambda q: q.expand(4, -1, -1))])
def test_critics_of_another_form_have_cloning_alone(names, form):
    (agent,) = small_agents("td3_bc", [0])
    agent.data.holdout, critics, other = make_data(20, seed=1).rows, agent.critics, torch.nn.Module()
    other.forward = eval(f"lambda {names}: form(critics({names}))", {"form": form, "critics": critics})
    assert list(errors(agent)) == ["holdout_cloning", "holdout_td"]
    agent.critics = other
    assert list(errors(agent)) == ["holdout_cloning"]


# Runs


def flags(tmp_path, name, *more):
    if not (tmp_path / "f.npz").exists():
        write(tmp_path / "f.npz")
    return ["--env", tmp_path / "f.npz", "--device", "cpu", "--updates", 12, "--log-every", 2, "--batch-size", 8, "--runs", tmp_path / name, *more]


def table(folder: Path):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_logs_them_and_resumes_bitwise(tmp_path):
    words = [str(word) for word in flags(tmp_path, "runs", "--holdout", 0.2, "--seeds", 0, 3)]

    def train(words, stop=None):
        args = parse(td3_bc.Args, {}, words)
        data = load_dataset(args.env, holdout=args.holdout)
        run = Run(args, agents := [td3_bc.TD3BC(args, data, seed) for seed in args.seeds])
        for step in run.steps(args.updates):
            run.log(step, [agent.update() for agent in agents])
            run.stop = step == stop
        return run
    whole = train(words)
    rows = table(whole.folder)
    assert [row["step"] for row in rows] == [str(step) for step in range(2, 13, 2) for _ in range(2)]
    assert list(rows[0])[-2:] == ["holdout_cloning", "holdout_td"] and rows[0]["holdout_td"] != rows[1]["holdout_td"]
    found = errors(whole.agents[1])
    assert [float(rows[-1][name]) for name in found] == [x.item() for x in found.values()]
    with pytest.raises(KeyboardInterrupt, match="stopped at update 5"):
        train(words, stop=5)
    (half,) = set((tmp_path / "runs").iterdir()) - {whole.folder}
    train(["--resume", str(half)])
    assert (half / "log.csv").read_bytes() == (whole.folder / "log.csv").read_bytes()


def test_logging_them_changes_no_update(tmp_path):
    """A run on a file that lacks the held-out episodes is the same run, but for the two columns."""
    held = np.repeat(held_out(len(LENGTHS), 0.2, "x"), LENGTHS)
    with np.load(write(tmp_path / "f.npz")) as file:
        np.savez(tmp_path / "rest.npz", **{key: file[key][~held] for key in file})
    for name, *more in (("with", "--holdout", 0.2), ("without", "--env", tmp_path / "rest.npz")):
        code, out, err = run_script(ROOT / "algorithms/td3_bc.py", *flags(tmp_path, name, *more))
        assert code == 0 and ("held out: 4 episodes" in out) == (name == "with"), err
    logs = [table(next((tmp_path / name).iterdir())) for name in ("with", "without")]
    assert [{key: value for key, value in row.items() if not key.startswith("holdout_")} for row in logs[0]] == logs[1]


def test_a_file_that_does_not_hand_it_on_is_refused(tmp_path):
    """A copy from before there was the flag would train on all episodes."""
    args = parse(td3_bc.Args, {}, [str(word) for word in flags(tmp_path, "runs", "--holdout", 0.2)])
    agent = td3_bc.TD3BC(args, load_dataset(args.env), 0)
    with pytest.raises(InputError, match=r"--holdout: .*td3_bc.py trains on all episodes; let its main hand args.holdout"):
        Run(args, [agent])
    assert not (tmp_path / "runs").exists()


def test_too_few_episodes_leave_no_folder(tmp_path):
    code, _, err = run_script(ROOT / "algorithms/td3_bc.py", *flags(tmp_path, "runs", "--holdout", 0.01))
    assert code == 2 and err == f"error: {tmp_path}/f.npz: --holdout 0.01 of its 20 episodes sets none aside; it takes 2 or more, and one or more that are left\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("holdout, shown", [(0.2, "critic_loss q holdout_cloning holdout_td"), (0.0, "critic_loss q")])
def test_without_an_evaluation_the_bar_shows_the_losses(tmp_path, holdout, shown):
    """The mean over seeds of the first two columns; of what is held out as well."""
    write(tmp_path / "f.npz")
    args = replace(td3_bc.Args(), env=str(tmp_path / "f.npz"), device="cpu", updates=4, log_every=2, batch_size=8, seeds=(0, 1),
                   runs=tmp_path / "runs", holdout=holdout)
    data = load_dataset(args.env, holdout=holdout)
    run, told = Run(args, agents := [td3_bc.TD3BC(args, data, seed) for seed in args.seeds]), []
    for step in run.steps(args.updates):
        run.bar.set_postfix_str = told.append
        run.log(step, [agent.update() for agent in agents])
    rows = table(run.folder)
    for number, text in enumerate(told):
        values = [np.mean([float(row[key]) for row in rows[2 * number:2 * number + 2]]) for key in shown.split()]
        assert text == "  ".join(f"{key} {value:.3g}" for key, value in zip(shown.split(), values))
    assert len(told) == 2
