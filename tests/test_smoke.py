"""Every algorithm as a process, on tiny data; one of them, and a copy with another loss, as a person starts it."""

import json

import pytest

from tests.helpers import FLAGS, ROOT, run_script, write_npz

SCRIPTS = sorted((ROOT / "algorithms").glob("*.py"))
TINY = ["--updates", 4, "--eval-every", 2, "--eval-episodes", 1, "--log-every", 2, "--batch-size", 8]


def smoke(script, tmp_path, *flags, real=False):
    write_npz(tmp_path / "hopper.npz")
    code, out, err = run_script(script, "--env", tmp_path / "hopper.npz", "--eval-env", "hopper-medium-v2", "--runs", tmp_path / "runs",
                                *TINY, *flags, cwd=tmp_path, real=real)
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    header, *rows = (folder / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["2", "4"]
    assert json.loads((folder / "result.json").read_text())["step"] == 4 and "mean of last 10" in out
    assert err == ""  # no warning, no noise
    return dict(zip(header.split(","), rows[-1].split(",")))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_algorithm(script, tmp_path):
    few = {"sac_n": ["--num-critics", 20], "morel": FLAGS["morel"], "fqe": ["--policy", "still"]}  # not the paper's 500 or long episodes
    smoke(script, tmp_path, *few.get(script.stem, []), real=script.stem == "rorl")


def test_a_copy_with_another_loss_runs_elsewhere(tmp_path):
    """The README's diff, applied to td3_bc.py."""
    source = (ROOT / "algorithms/td3_bc.py").read_text()
    diff = (ROOT / "README.md").read_text().partition("```diff\n")[2].partition("```")[0].splitlines(keepends=True)
    start = int(diff[2].split()[1].split(",")[0].lstrip("-"))
    before, after = ("".join(line[1:] or "\n" for line in diff[3:] if line[0] in signs) for signs in (" -\n", " +\n"))
    assert source.splitlines(keepends=True)[start - 1:start - 1 + before.count("\n")] == before.splitlines(keepends=True) and before != after
    (tmp_path / "my_idea.py").write_text(source.replace(before, after))
    smoke(tmp_path / "my_idea.py", tmp_path, real=True)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("my_idea-hopper-")


def test_misaligned_and_attack_settings_run(tmp_path):
    row = smoke(ROOT / "algorithms/rorl.py", tmp_path, "--q-smooth-misaligned", "--num-critics", 3, "--num-perturbations", 2)
    assert float(row["q_smooth"]) > 0
