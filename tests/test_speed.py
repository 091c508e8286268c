"""Speed: what a turn is, ratios round by round, FLOPs by hand, contenders that fail; and a whole run beside a peer."""

import csv
import json
import os
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.rorl import RORL
from algorithms.rorl import Args as RORLArgs
from algorithms.td3_bc import TD3BC
from algorithms.td3_bc import Args as TD3BCArgs
from benchmark import speed
from benchmark.engine.kernels import counted, kernels, period_of
from benchmark.engine.runs import script_of
from benchmark.engine.speed_worker import PEERS, flops, ours
from benchmark.speed import Args, Contender, checked, contenders, main, markdown, peer_versions, ratios, rows, write_data
from common import InputError
from common.data import load_dataset
from tests.helpers import ENDLESS, ROOT, Script, make_data, run_script

SCRIPT, THREE = ROOT / "benchmark/speed.py", ("", "_least", "_most")
PRODUCTS = ["product, 512 x 512", "product, 1024 x 1024", "product, 2048 x 2048"]
FAKE = """#!{python}
import json, os, sys
if "-c" in sys.argv:
    print("d3rlpy 0.0, torch 0.0")
    sys.exit()
job, log = json.loads(sys.argv[-1]), open({log!r}, "a")
print(json.dumps(job | {{"pid": os.getpid(), "flags": sys.argv[1:-1]}}), file=log, flush=True)
if job.get("mode") == "compile":
    sys.exit(print(json.dumps({{"failed": "torch.compile: no luck"}})))
print(json.dumps({{"parameters": 7, "flops": 1e6, "period": 2, "memory": 0, "hidden": [256, 256]}}), flush=True)
for turn, line in enumerate(sys.stdin):
    print(job["kind"], line, file=log, flush=True)
    if turn == {dies}.get(job["kind"]):
        sys.exit("lost\\nits way")
    print(int(line) / 1000, flush=True)
"""


@pytest.fixture
def fake(tmp_path):
    """Makes a program that passes for the peers' Python, or for speed_worker.py: 1000 updates a second. It logs what it is told, and dies at turn
    dies[kind]."""
    def make(**dies):
        path = tmp_path / "python"
        path.write_text(FAKE.format(python=sys.executable, log=str(tmp_path / "log"), dies=dies))
        path.chmod(0o755)
        return path
    return make


def read(folder):
    (path,) = folder.glob("speed.*.csv")  # not as the flags' defaults have it
    with open(path, newline="") as file:
        return {row["contender"]: row for row in csv.DictReader(file)}


def test_flops_by_hand():
    """Weights of TD3+BC's actor and of a critic, each a multiplication and an addition per sample of the batch and pass."""
    agent = TD3BC(TD3BCArgs(), make_data(), 0)
    assert period_of(agent) == 2 and agent.step == 3
    actor, critic = 11 * 256 + 256 * 256 + 256 * 3, 14 * 256 + 256 * 256 + 256
    target = actor + 2 * critic
    critics = 2 * critic + 2 * critic + 2 * (critic - 14 * 256)  # forward, to the weights, to the hidden layers
    policy = actor + critic + critic + actor + (actor - 11 * 256)  # forward, through Q1 to the action, weights, hidden layers
    assert flops(agent.update, 2) == 2 * 256 * (target + critics + policy / 2)


def test_a_period_ends_when_the_phase_comes_back():
    assert period_of(TD3BC(TD3BCArgs(policy_freq=3), make_data(), 0)) == 3
    assert period_of(RORL(RORLArgs(num_critics=2, num_perturbations=2, batch_size=8), make_data(), 0)) == 1  # a bool that stays
    agent = type("", (), {"step": 0, "update": lambda self: setattr(self, "step", self.step + 1), "phase": property(lambda self: self.step > 3)})
    assert period_of(agent()) == 1
    agent.phase = property(lambda self: self.step)
    assert period_of(agent()) == 1  # never comes back


def test_ratios_are_taken_round_by_round():
    assert ratios([1, 100, 6], [1, 50, 2]) == [2, 1, 3]  # of the medians: 3
    assert ratios([1, 2], []) == [None] * 3


def of(kind, name, rates, flops=None, note="", seeds=1):
    return Contender("td3_bc", name, {"kind": kind}, seeds, rates=rates, note=note, facts={"parameters": 9} | ({"flops": flops} if flops else {}))


def test_rows():
    group = [of("ours", "eager", [10.0, 20, 60], 1e9), of("ours", "more", [20.0, 20, 30], seeds=2), of("ours", "gone", [5.0], note="died: of thirst"),
             of("peer", "theirs", [5.0, 5, 10], 2e9), of("peer", "theirs, compiled", [10.0, 10, 10]),
             of("product", "product, small", [10.0, 40, 100], 1e9), of("product", "product, large", [2.0, 2, 2], 10e9)]
    table = rows(group)
    eager, more, gone, theirs, compiled, small, _ = table
    assert [eager[f"to_peer{x}"] for x in THREE] == [4, 2, 6] and [eager[f"to_eager{x}"] for x in THREE] == [1, 1, 1]
    assert [more[f"to_eager{x}"] for x in THREE] == [1, 0.5, 2] and more["gflop"] == 1  # counted by the first
    assert eager["share_of_peak"] == 0.5 and more["share_of_peak"] == 0.5  # of 20, 40 and 100 GFLOP/s: 1/2, 1/2, 3/5 and 1, 1/2, 3/10
    assert eager["updates_per_second"] == 20 and eager["rates"] == "10 20 60"
    assert gone["to_peer"] is gone["updates_per_second"] is gone["share_of_peak"] is None and gone["rates"] == ""
    assert theirs["to_peer"] == 1 and theirs["to_eager"] == 0.25 and compiled["to_peer"] == 2 and compiled["gflop"] == 2
    assert small["to_eager"] is None and small["share_of_peak"] == 1 and eager["peak_gflop_per_second"] == 40
    lines = markdown(table, "# title", "how").splitlines()
    assert lines[0] == "# title" and lines[6] == "| td3_bc | eager | 9 | 20.0 | 4.00 (2.00 to 6.00) | 1.00 | 1 | 50% |"
    assert lines[8] == "| td3_bc | gone | 9 | died: of thirst |  |  |  |  |" and len(lines) == 11  # no products
    group[0].note = "died"  # nothing else is called ours, eager, 1 seed
    assert {row["to_eager"] for row in rows(group)} == {None} and rows(group)[1]["to_peer"] == 4
    assert rows(group[:1] + group[3:4])[1]["share_of_peak"] is None  # without products
    group[3].facts, group[3].note = {}, "died: a | b"  # before it counted anything
    alone = rows(group)[4]
    assert alone["updates_per_second"] == 10 and alone["gflop"] is alone["share_of_peak"] is alone["to_peer"] is None
    assert "| theirs |  | died: a / b | " in markdown(rows(group), "", "")


def test_who_takes_part(monkeypatch):
    args = Args(device="cpu", seeds=(1, 2), peers=Path("python"), modes=("eager", "compile", "graph", "graph+compile"))

    def names(algorithm, memory=0, **facts):
        found = []
        for contender in contenders(args, algorithm, {"data": "d"}):
            contender.facts = {"memory": memory, "hidden": [256, 256]} | facts
            found.append(contender)
        return {contender.name: contender for contender in found}

    found = names("td3_bc --policy-freq 3")
    assert list(found) == ["ours, eager, 1 seed", "ours, eager, 2 seeds", "ours, compile, 1 seed", "ours, compile, 2 seeds",
                           "d3rlpy TD3PlusBC, eager", *PRODUCTS]
    theirs = found["d3rlpy TD3PlusBC, eager"]
    assert theirs.job["args"]["policy_freq"] == 3 and theirs.job["hidden"] == [256, 256] and theirs.python == (Path("python"), "-I")
    assert [c.seeds for c in found.values()] == [1, 2, 1, 2, 1, 1, 1, 1] and not any(c.note for c in found.values())
    assert not any("d3rlpy" in name for name in names("rorl"))
    monkeypatch.setattr(speed, "free_memory", lambda: 3 * 2**30)
    found = names("sac_n", memory=2 * 2**30)
    out = [name for name, c in found.items() if c.note == "left out: needs 4.0 GB of memory, 3.0 are free"]
    assert out == ["ours, eager, 2 seeds", "ours, compile, 2 seeds"]
    assert found["ours, eager, 1 seed"].job["args"]["num_critics"] == 500  # the paper's for hopper-medium-v2
    monkeypatch.setattr(speed, "arguments", lambda *_: TD3BCArgs())
    args.device = "cuda:0"
    assert [name for name in names("td3_bc", memory=2 * 2**30) if "2 seeds" in name or "d3rlpy" in name or "8192" in name] == [
        "ours, eager, 2 seeds", "ours, compile, 2 seeds", "ours, graph, 2 seeds", "ours, graph+compile, 2 seeds", "d3rlpy TD3PlusBC, eager",
        "d3rlpy TD3PlusBC, compile_graph", "product, 8192 x 8192"]


def test_data(tmp_path):
    write_data("walker2d-medium-v2", tmp_path / "data.npz")
    data = load_dataset(str(tmp_path / "data.npz"))
    assert (data.obs_size, data.action_size, len(data.rows), len(data.episodes)) == (17, 6, 99_900, 100)
    np.testing.assert_allclose(data.obs_std, 1, atol=0.02)
    with pytest.raises(InputError, match="--env pen-human-v1: .* choose hopper"):
        write_data("pen-human-v1", tmp_path / "pen.npz")


def test_a_whole_run_beside_a_peer(tmp_path, fake):
    code, out, err = run_script(SCRIPT, "--algorithms", "td3_bc --batch-size 32", "--peers", fake(), "--rounds", 2, "--seconds", 0.05,
                                "--seeds", 1, 2, "--device", "cpu", "--out", tmp_path / "new", real=True)
    assert code == 0, err
    table, text = read(tmp_path / "new"), next((tmp_path / "new").glob("speed.*.md")).read_text()
    assert text in out and "Peers: d3rlpy 0.0, torch 0.0. 2 rounds" in text and f"torch {speed.torch.__version__}" in text
    assert list(table) == ["ours, eager, 1 seed", "ours, eager, 2 seeds", "d3rlpy TD3PlusBC, eager", *PRODUCTS]
    assert all((f"| td3_bc --batch-size 32 | {name} | " in text) == (name not in PRODUCTS) for name in table) and "nan" not in text
    for name, row in table.items():
        assert row["note"] == "" and len(row["rates"].split()) == 2
        numbers = [float(row[key]) for key in row if key.startswith(("to_", "share", "gflop", "updates")) and not name.startswith("product")]
        assert np.isfinite(numbers).all() and min([1, *numbers]) > 0
    assert float(table["ours, eager, 2 seeds"]["gflop"]) == 788608 * 2 * 32 / 1e9  # as in test_flops_by_hand, batch 32 for 256
    assert [row["parameters"] for row in table.values()] == ["209413", "209413", "7", "", "", ""]
    assert table["d3rlpy TD3PlusBC, eager"]["rates"] == "1000 1000" and float(table["d3rlpy TD3PlusBC, eager"]["gflop"]) == 1e-3
    job, *turns = [line for line in (tmp_path / "log").read_text().splitlines() if line]
    job, turns = json.loads(job), [int(turn.split()[1]) for turn in turns]
    assert job["algorithm"] == "td3_bc" and job["hidden"] == [256, 256] and job["args"]["batch_size"] == 32 and job["threads"] == 1
    assert job["flags"] == ["-I", str(speed.WORKER)]
    assert turns[0] == 2 and not any(turn % 2 for turn in turns) and turns[-2:] == [50, 50]  # whole periods, 0.05 s


def test_turns(tmp_path, fake, monkeypatch):
    """One at a time, each once a round, in an order of its own."""
    monkeypatch.setattr(speed, "WORKER", fake())
    order, turn = [], Contender.turn
    monkeypatch.setattr(Contender, "turn", lambda self: order.append(self.name) or turn(self))
    table = speed.compare(Args(peers=fake(), rounds=20, seconds=1, seeds=(2,), device="cpu"), "td3_bc", {"threads": 1})
    rounds = [tuple(order[i:i + 6]) for i in range(0, 120, 6)]
    assert len(order) == 120 and {frozenset(names) for names in rounds} == {frozenset(row["contender"] for row in table)} and len(set(rounds)) > 5
    assert [row["updates_per_second"] for row in table] == [1000, 2000, 1000, 1000, 1000, 1000]


def test_those_that_fail_are_told_and_the_others_go_on(tmp_path, fake, monkeypatch, capsys):
    monkeypatch.setattr(speed, "WORKER", fake(peer=4))
    missing = [name for name in PEERS if not script_of(name).exists()]
    args = Args(algorithms=("td3_bc", *missing[:1]), peers=fake(peer=4), rounds=3, seconds=0.01, seeds=(1,), modes=("compile",), device="cpu",
                out=tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(args)
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and "DIED td3_bc: d3rlpy TD3PlusBC, eager; its last words:\n    lost\n    its way\n" in err
    assert "| d3rlpy TD3PlusBC, eager | 7 | died: its way |  |  |  |  |" in out
    assert "| td3_bc | ours, compile, 1 seed |  | torch.compile: no luck |  |  |  |  |" in out
    with open(next(tmp_path.glob("speed.*.csv")), newline="") as file:
        table = [row for row in csv.DictReader(file)]
    assert len(table[0]["rates"].split()) == 3 and table[0]["to_peer"] == "" and table[0]["to_eager"] == "1.0"
    if missing:
        assert f"| {missing[0]} | ours |  | there is no algorithms/{missing[0]}.py yet |" in out
    monkeypatch.setattr(speed, "WORKER", fake(ours=0))
    assert [row["note"] for row in speed.compare(args, "td3_bc", {"threads": 1})] == ["died: its way"]  # the first: nothing to compare with


def test_a_failing_compiler_is_a_note(tmp_path, monkeypatch):
    import torch

    def compiled(update):
        raise RuntimeError("no compiler\nat all")
    write_data("hopper-medium-v2", tmp_path / "data.npz")
    job = {"kind": "ours", "mode": "compile", "seeds": 1, "args": {"batch_size": 8}, "script": str(script_of("td3_bc")), "peer": True,
           "data": str(tmp_path / "data.npz"), "threads": 1}
    job["args"] |= {"device": "cpu"}
    monkeypatch.setattr(torch, "compile", lambda update: lambda: compiled(update))
    assert ours(job) == ({"failed": "torch.compile: RuntimeError: no compiler"}, None)
    monkeypatch.setattr(torch, "compile", lambda update: update)
    facts, update = ours(job | {"seeds": 2})
    assert facts["hidden"] == [256, 256] and facts["parameters"] == 209413 and facts["period"] == 2 and "flops" not in facts and len(update()) == 2


@pytest.mark.parametrize("flags, text", [
    (("--peers", "/nowhere/python"), "--peers /nowhere/python: cannot be started (No such file or directory); python -m venv peers && "),
    (("--peers", sys.executable), "ModuleNotFoundError: No module named 'd3rlpy'; python -m venv peers && "),
    (("--algorithms", "nothing"), "--algorithms 'nothing': no such file; choose from edac, pbrl, rorl, sac_n, td3_bc"),
    (("--algorithms", ""), "--algorithms '': no such file"), (("--rounds", "0"), "--rounds 0: give a number in [1"),
    (("--algorithms", "sac_n --config x"), "--config x is unknown; choose from paper, sac-10"), (("--env", "pen-human-v1"), "--env pen-human-v1:")])
def test_a_bad_flag_gives_one_line(monkeypatch, capsys, flags, text):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and not out
    assert text.replace("edac", "").split(",")[0] in err.replace("edac", "") and err.splitlines()[-1].startswith("error: ")


def test_ctrl_c_ends_all(tmp_path, fake):
    (tmp_path / "endless.py").write_text(
        f"from benchmark import speed\nspeed.WORKER = {str(fake())!r}\nwith speed.friendly():\n    speed.main(speed.Args("
        f"algorithms=('td3_bc',), rounds={ENDLESS}, seconds=0.01, seeds=(1,), device='cpu', out=speed.Path({str(tmp_path)!r})))")
    script = Script(tmp_path / "endless.py")
    script.until(lambda: "round 2 " in script.said()[1])
    code, out, err = script.end(signal.SIGINT)
    assert code == 130 and err.endswith("\ninterrupted; nothing is written\n") and "Traceback" not in err and not out
    started = [json.loads(line)["pid"] for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert len(started) == 4
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not list(tmp_path.glob("speed*.md"))


def test_requirements_of_the_peers():
    lines, own = ((ROOT / name).read_text().splitlines() for name in ("requirements-peers.txt", "requirements.txt"))
    assert lines[0] == "torch==2.13.0" and lines[0] in own and all("==" in line for line in lines) and "d3rlpy" in lines[-1]


@pytest.mark.skipif("SOLO_PEERS" not in os.environ, reason="SOLO_PEERS names the Python of no peers' environment")
def test_real_peers(tmp_path, capsys):
    """Same networks; and everything that d3rlpy is to be run with does run."""
    args = Args(algorithms=("td3_bc", "sac_n --config sac-10", *(name for name in PEERS if not script_of(name).exists())), seeds=(1,), rounds=1,
                seconds=0.01, device="cpu", peers=Path(os.environ["SOLO_PEERS"]), out=tmp_path)
    assert "d3rlpy 2.8.1" in peer_versions(args.peers) and "d3rlpy 2.8.1" in checked(args)
    main(args)
    with open(next(tmp_path.glob("speed.*.csv")), newline="") as file:
        table = list(csv.DictReader(file))
    sizes = {}
    for row in table:
        assert not row["note"].startswith("died")
        if row["parameters"]:
            sizes.setdefault(row["algorithm"], set()).add(int(row["parameters"]))
    assert sizes["td3_bc"] == {209413} and sizes["sac_n --config sac-10"] == {1493008} and len(sizes) == len(args.algorithms)


# Kernels


KERNELS = {"bc": 26, "one_step": 46, "one_step --stages 0 1 0": 35.5, "td3_bc": 76.5, "awac": 130, "iql": 122, "sql_eql": 133, "xql": 139,
           "sac_n --config sac-10": 159, "edac": 216, "pbrl": 192, "rorl": 345, "cql": 249, "atac": 193,
           "atac --warm-start 0": 177, "mopo": 142, "combo": 216, "mobile": 192, "rambo": 150,
           "rambo --rollout-every 2 --rollout-length 2": 260.25, "morel": 2659, "armor": 194,
           "armor --warm-start 0": 406}  # of an update without logs


def test_kernels_are_counted():
    weight, out = torch.ones(3, 2, requires_grad=True), torch.zeros(2)

    def update(log):
        product = (torch.ones(4, 3) @ weight)[:2].t().reshape(4)  # ones, mm, clone of what is no view
        if log:
            out.copy_(product[:2].detach()).add_(1)
        product.sum().backward(inputs=[weight])

    before = kernels(update, 1)
    assert before["mm"] == 2 and before["ones"] == before["sum"] == before["clone"] == 1 and not {"t", "view", "slice", "expand", "empty"} & set(before)
    assert kernels(update, 2, log=True) - kernels(update, 2) == {"copy_": 1, "add_": 1}


@pytest.mark.parametrize("algorithm", KERNELS)
def test_no_update_has_more_kernels_than_it_had(algorithm):
    name, *words = algorithm.split()
    found = counted(name, ["--env", "hopper-medium-v2", *words])
    assert found["no logs"].total() == KERNELS[algorithm], found["no logs"].most_common()
    assert found["logs"].total() >= found["no logs"].total()


def test_every_file_has_its_number_of_kernels():
    assert {algorithm.split()[0] for algorithm in KERNELS} == {path.stem for path in (ROOT / "algorithms").glob("*.py")}


def test_the_table_of_kernels(capsys):
    main(replace(Args(), kernels=True, algorithms=("bc", "one_step --stages 0 1 0"), device="cpu"))
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[:2] for row in rows] == [[f"| {name}", f"{KERNELS[name]:g}"] for name in ("bc", "one_step --stages 0 1 0")]
