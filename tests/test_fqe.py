"""What pins FQE: its equations by hand, values that a linear solve knows, its bias off the data, and whose policy it evaluates."""

import json
import os
import pickle
import shutil
import signal

import numpy as np
import pytest
import torch

from algorithms import fqe, td3_bc
from algorithms.fqe import FQE, PAPER, Args
from common import InputError, load
from common.args import parse
from common.checkpoint import snapshot
from common.data import Dataset
from tests.helpers import ROOT, Pause, Script, assert_equal_trees, make_data, parameters, run_script, write_npz

RARELY = ["--save-seconds", 10**6]


def dataset(obs, action, reward, next_obs, done, length) -> Dataset:
    """Tensors of a world as data, cut into episodes of one length."""
    rows = torch.cat([obs, action, reward[:, None], next_obs, done[:, None]], 1).float()
    starts = torch.arange(0, len(rows), length)
    return Dataset("world", None, {"kind": "none"}, rows, obs.shape[1], action.shape[1], torch.stack([starts, (starts + length).clamp(max=len(rows))], 1))


def agent(data=None, **flags):
    return FQE(Args(**{"batch_size": 16, "num_critics": 3} | flags), data or make_data(), 0)


class Always(torch.nn.Module):
    """A policy with one action."""

    def __init__(self, action):
        super().__init__()
        self.action = torch.nn.Parameter(torch.tensor([action]), requires_grad=False)

    def act(self, obs):
        return self.action.expand(*obs.shape[:-1], -1)


def test_target_by_hand():
    fitted = agent(gamma=0.5)
    seen, batch = [], fitted.data.sample(4, fitted.rng)._replace(reward=torch.tensor([1.0, 1.0, -2.0, 0.0]), done=torch.tensor([0.0, 1.0, 0.0, 0.0]))
    q = torch.tensor([[4.0, 4.0, 4.0, 100.0], [0.0, 2.0, -6.0, -100.0], [2.0, 2.0, 2.0, 2.0]])
    fitted.target_critics.forward = lambda obs, action: seen.append((obs, action)) or q
    fitted.actor = Always([0.1, 0.2, 0.3])
    fitted.low, fitted.high = -4.5, 9.0
    expected = torch.tensor([[3.0, 1.0, 0.0, 9.0], [1.0, 1.0, -4.5, -4.5], [2.0, 1.0, -1.0, 1.0]])  # no minimum over networks: each has its own
    torch.testing.assert_close(fitted.critic_target(batch), expected)
    assert torch.equal(seen[0][0], batch.next_obs) and torch.equal(seen[0][1], torch.tensor([0.1, 0.2, 0.3]).expand(4, 3))


@pytest.mark.parametrize("rewards, bounds", [([1.0, 3.0], (1.0, 30.0)), ([-2.0, 3.0], (-20.0, 30.0)), ([-2.0, -1.0], (-20.0, -1.0))])
def test_bounds_hold_for_one_reward_and_for_rewards_for_ever(rewards, bounds):
    data = make_data()
    data.reward[:] = torch.tensor(rewards).repeat(128)
    fitted = agent(data, gamma=0.9)
    assert (fitted.low, fitted.high) == pytest.approx(bounds)


def test_loss_by_hand():
    fitted = agent()
    fitted.critics.unit.fill_(2.0)
    q = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.0, 0.0]], requires_grad=True)
    target, count = torch.tensor([[3.0, 2.0], [1.0, 1.0], [7.0, 7.0]]), torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    loss = fitted.critic_loss(q, target, count)  # errors / 2: -1 0, 1 2, and an episode that network 3 does not have
    assert loss.item() == pytest.approx((1 + 3 + 4) / 2)
    loss.backward()
    torch.testing.assert_close(q.grad, torch.tensor([[-0.5, 0.0], [1.5, 1.0], [0.0, 0.0]]))


def test_bootstrap_draws_whole_episodes():
    data = make_data(60)
    data.episodes = torch.tensor([[0, 10], [10, 25], [25, 26], [26, 60]])
    fitted, plain = agent(data, num_critics=500), agent(data, bootstrap=False)
    assert (plain.counts == 1).all() and torch.equal(fitted.counts.sum(1), torch.full((500,), 4.0))
    assert (fitted.counts == 0).float().mean().item() == pytest.approx((1 - 1 / 4) ** 4, abs=0.03)
    rows, counts, sample = [0, 9, 10, 24, 25, 26, 59], torch.tensor([[5.0, 6.0, 7.0, 8.0]] * 3), []
    small = agent(data)
    small.counts, small.critic_loss = counts, lambda q, target, count: sample.append(count) or (q * count).sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: torch.tensor(rows))
        small.update()
    assert sample[0].tolist() == [[5, 5, 6, 6, 7, 8, 8]] * 3


def test_value_counts_first_states_as_often_as_their_episodes():
    data = make_data(60)
    data.episodes = torch.tensor([[0, 20], [20, 40], [40, 60]])
    fitted = agent(data, num_critics=2, tau=0.0)
    assert torch.equal(fitted.first_obs, data.obs[[0, 20, 40]])
    fitted.first_counts = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])
    fitted.target_critics.forward = lambda obs, action: torch.tensor([[1.0, 2.0, 6.0]] * 2) if len(obs) == 3 else torch.zeros(2, len(obs))
    log = fitted.update()
    assert [log[name].item() for name in ("value", "value_low", "value_high")] == [2.5, 2.0, 3.0]


def test_q_is_in_units_of_the_rewards():
    data = make_data()
    data.done[:] = 0
    fitted = agent(data, gamma=0.9)
    for bias in fitted.critics.biases[-1:]:
        torch.nn.init.constant_(bias, 2.0)
    torch.nn.init.zeros_(fitted.critics.weights[-1])
    with torch.no_grad():
        expected = (data.reward.mean() + 2 * data.reward.std(correction=0)) / 0.1
        torch.testing.assert_close(fitted.critics(data.obs, data.action), expected.expand(3, 256), rtol=1e-5, atol=1e-5)
        data.done[0] = 1  # then a return may be short, and is not shifted
        torch.testing.assert_close(agent(data, gamma=0.9).critics.shift, torch.tensor(0.0))


def test_each_network_is_the_same_alone():
    """Weights of the others change nothing: it is N evaluations, not one."""
    one, other = agent(), agent()
    with torch.no_grad():
        for net in (other.critics, other.target_critics):
            for p in net.parameters():
                p[1:] *= 1.5
    for fitted in (one, other):
        for _ in range(3):
            fitted.update()
    for a, b in zip(one.critics.parameters(), other.critics.parameters()):
        assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])


def test_weights_decay_before_adams_step_without_lr():
    plain, decaying = agent(weight_decay=0.0, lr=1e-3), agent(weight_decay=0.25, lr=1e-3)
    before = parameters(plain.critics)
    for fitted in (plain, decaying):
        fitted.update()
    torch.testing.assert_close(parameters(decaying.critics), parameters(plain.critics) - 0.25 * before, rtol=1e-4, atol=1e-6)


def test_only_critics_learn():
    fitted = agent()
    before, old = parameters(fitted.actor), parameters(fitted.target_critics)
    fitted.update()
    assert torch.equal(parameters(fitted.actor), before)
    torch.testing.assert_close(parameters(fitted.target_critics), 0.995 * old + 0.005 * parameters(fitted.critics))


GAMMA = 0.8
CHAIN = dict(gamma=GAMMA, tau=0.1, lr=1e-3, batch_size=64, num_critics=3)


def chain(rng, rows=3000, size=5):
    """States 0 to 4 in one-hot; an action above 0 leads to the right and others to the left, and one in five does nothing. The reward is the
    state's number minus a's square. State 4 is the end: its step is the last. Episodes start in 0 and 1."""
    step = lambda s, a: np.clip(s + np.where(rng.random(len(s)) < 0.2, 0, np.where(a > 0, 1, -1)), 0, size - 1)
    state, action = rng.integers(0, size, rows), rng.uniform(-1, 1, rows)
    state[::10] = rng.integers(0, 2, len(state[::10]))  # the first of an episode's ten rows: where it starts
    follow, one = step(state, action), torch.eye(size)
    tensors = [torch.from_numpy(x).float() for x in (action[:, None], state - action**2, state == size - 1)]
    return dataset(one[state], tensors[0], tensors[1], one[follow], tensors[2], 10)


def solved(action, size=5):
    """The mean value of states 0 and 1 under a policy that always takes one action: (I - gamma P) v = r."""
    matrix, reward = np.zeros((size, size)), np.arange(size) - action**2
    for state in range(size - 1):
        matrix[state, state] += 0.2
        matrix[state, np.clip(state + (1 if action > 0 else -1), 0, size - 1)] += 0.8
    return np.linalg.solve(np.eye(size) - GAMMA * matrix, reward)[:2].mean()


@pytest.mark.parametrize("action", [0.5, -0.5])
def test_a_value_that_a_linear_solve_knows(action):
    fitted = agent(chain(np.random.default_rng(0)), **CHAIN)
    fitted.actor = Always([action])
    for _ in range(500):
        fitted.update(log=False)
    log, truth = fitted.update(), solved(action)
    assert log["value"].item() == pytest.approx(truth, abs=0.25), (log, truth)
    assert abs(solved(0.5) - solved(-0.5)) > 4  # the two are far apart, and so is each from the data's own policy
    assert log["clipped"] == 0 and log["value_high"] - log["value_low"] < 0.5


def test_where_the_policy_leaves_the_data_the_interval_is_wrong():
    """Data have actions in [-1, 0] and a reward of a; the policy takes 1, and finds -0.9. The bootstrap does not see it."""
    rng = torch.Generator().manual_seed(0)
    obs, action = torch.rand(2000, 1, generator=rng), -torch.rand(2000, 1, generator=rng)
    data = dataset(obs, action, action[:, 0], torch.rand(2000, 1, generator=rng), torch.zeros(2000), 20)
    inside, outside, truth = agent(data, **CHAIN), agent(data, **CHAIN), -0.9 / (1 - GAMMA)
    inside.actor, outside.actor = Always([-0.9]), Always([1.0])
    for _ in range(400):
        inside.update(log=False), outside.update(log=False)
    near, far = inside.update(), outside.update()
    assert near["value"].item() == pytest.approx(truth, abs=0.2)
    assert outside.low < truth < outside.high and far["value_low"].item() > truth + 3  # -4.5, and it says about 0
    assert far["distance"].item() == pytest.approx((7 / 3) ** 0.5, abs=0.1) and near["distance"] < 0.6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with hopper.npz, and a finished run of two seeds on it."""
    folder = tmp_path_factory.mktemp("fqe")
    write_npz(folder / "hopper.npz")
    words = f"--env {folder / 'hopper.npz'} --updates 3 --seeds 4 7 --eval-env none --runs {folder / 'policies'} --device cpu"
    td3_bc.main(parse(td3_bc.Args, td3_bc.PAPER, words.split()))
    (run,) = (folder / "policies").iterdir()
    return folder, run


def evaluate(*words):
    fqe.main(parse(Args, PAPER, [*map(str, words), "--eval-env", "none", "--device", "cpu", "--updates", "2", "--batch-size", "8"]))


def test_whose_policy_it_is(place, tmp_path):
    folder, run = place
    evaluate("--env", folder / "hopper.npz", "--policy", os.path.relpath(run), "--policy-seed", 7, "--runs", tmp_path)
    (made,) = tmp_path.iterdir()
    args = json.loads((made / "config.json").read_text())["args"]
    assert args["policy"] == str(run) and args["policy_seed"] == 7  # whole, wherever it is resumed
    obs = torch.randn(5, 11)
    theirs = load(run, seed=7).actor.act(obs)
    assert torch.equal(load(made).actor.act(obs), theirs) and torch.equal(pickle.loads(pickle.dumps(load(run, 7))).actor.act(obs), theirs)
    assert not torch.equal(load(run).actor.act(obs), theirs)


def test_the_checkpoint_has_the_policys_weights(place, tmp_path):
    """A policy that was trained further, or changed, changes no evaluation that has begun."""
    run = shutil.copytree(place[1], tmp_path / place[1].name)
    args, data = Args(policy=str(run), batch_size=8), make_data()
    whole = FQE(args, data, 0)
    for _ in range(3):
        whole.update()
    state = pickle.loads(pickle.dumps(snapshot(whole)))
    later = td3_bc.main  # another training of the same networks
    words = f"--env {place[0] / 'hopper.npz'} --updates 5 --seeds 4 7 --eval-env none --runs {tmp_path / 'again'} --device cpu"
    later(parse(td3_bc.Args, td3_bc.PAPER, words.split()))
    (other,) = (tmp_path / "again").iterdir()
    for name in ("checkpoint.pt", "config.json"):
        shutil.copy(other / name, run / name)
    resumed = FQE(args, data, 1)
    assert not torch.equal(parameters(resumed.actor), parameters(whole.actor))
    snapshot(resumed, state)
    for _ in range(3):
        assert_equal_trees(resumed.update(), whole.update())
    assert_equal_trees(snapshot(resumed), snapshot(whole))


def test_a_killed_evaluation_of_a_run_goes_on_bitwise(place, tmp_path):
    """With a worker, which gets the policy and plays it: its score is in eval.csv once."""
    folder, run = place
    script, pause = ROOT / "algorithms/fqe.py", Pause(tmp_path / "pause")
    words = ["--env", folder / "hopper.npz", "--policy", run, "--eval-env", "hopper-medium-v2", "--updates", 12, "--log-every", 3, "--batch-size", 8,
             "--eval-episodes", 2]
    code, out, err = run_script(script, *words, *RARELY, "--runs", tmp_path / "whole")
    assert "discounted value" in out.splitlines()[-1], out
    assert code == 0 and err == "", err
    pause.at(8)
    killed = Script(script, *words, "--save-seconds", 0, "--runs", tmp_path / "killed", env=os.environ | pause.env)
    killed.until(lambda: pause.reached(8))
    killed.end(signal.SIGKILL)
    (a,), (b,) = (tmp_path / "whole").iterdir(), (tmp_path / "killed").iterdir()
    moved = run.rename(run.with_name("elsewhere"))
    code, out, err = run_script(script, "--resume", b, *RARELY)
    assert code == 2 and err.count("\n") == 1 and "no run folder" in err and str(run) in err
    moved.rename(run)
    code, out, err = run_script(script, "--resume", b, *RARELY, cwd=tmp_path)
    assert code == 0 and err == "" and "resumed at update 7" in out, err
    for name in ("log.csv", "eval.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    assert (a / "eval.csv").read_text().count("\n") == 2


def test_a_policy_that_is_not_there_is_told_before_data_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(fqe, "load_dataset", lambda *_: pytest.fail("data were made"))
    with pytest.raises(InputError, match="nothing: no run folder"):
        fqe.main(parse(Args, PAPER, ["--policy", str(tmp_path / "nothing"), "--runs", str(tmp_path)]))


def test_bad_input_is_one_line(place, tmp_path, monkeypatch):
    folder, run = place
    monkeypatch.chdir(tmp_path)
    for words, why in (
            (["--env", folder / "hopper.npz"], "--policy: name the run folder"),
            (["--env", folder / "hopper.npz", "--policy", tmp_path], "no run folder"),
            (["--env", folder / "hopper.npz", "--policy", run, "--policy-seed", 5], "has no seed 5, only 4 7"),
            (["--env", folder / "hopper.npz", "--policy", run, "--action-low", -2, "--action-high", 2], "least and largest actions"),
            (["--env", "small.npz", "--policy", run], "size of observations"), (["--env", "endless.npz", "--policy", "still"], "is one episode"),
            (["--env", folder / "hopper.npz", "--policy", "stranger"], "was trained by another td3_bc.py")):
        rng = np.random.default_rng(0)
        for name, size, ends in (("small", 7, 50), ("endless", 11, 1000)):
            obs, action = rng.normal(size=(2, 300, size)).astype(np.float32), rng.uniform(-1, 1, (300, 3)).astype(np.float32)
            np.savez(f"{name}.npz", observations=obs[0], next_observations=obs[1], actions=action, rewards=obs[0][:, 0],
                     terminals=np.arange(300) % ends == ends - 1)
        if not os.path.exists("stranger"):
            shutil.copytree(run, "stranger")
            (tmp_path / "td3_bc.py").write_text("raise SystemExit('executed')")
            config = json.loads((run / "config.json").read_text()) | {"command": str(tmp_path / "td3_bc.py")}
            (tmp_path / "stranger/config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=why):
            evaluate(*words, "--runs", tmp_path / "runs")
        assert not (tmp_path / "runs").exists()
