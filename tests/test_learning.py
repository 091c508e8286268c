"""What learns for minutes: `pytest -m slow`."""

from pathlib import Path

import pytest

from tests.helpers import run_script

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("env, behaviour", [("hopper-medium-v2", 48.4), ("halfcheetah-medium-v2", 41.6)])
def test_td3_bc_beats_the_policy_that_made_the_standin(env, behaviour, tmp_path):
    """50,000 updates on 200,000 rows; `behaviour` is the policy's own normalised score with sampled actions."""
    code, out, err = run_script(ROOT / "algorithms/td3_bc.py", "--env", env, "--standin-rows", 200_000, "--updates", 50_000,
                                "--eval-every", 10_000, "--runs", tmp_path, timeout=3600)
    assert code == 0, err
    last = float(next(line for line in out.splitlines() if "mean ± std" in line).split()[3])
    assert last > behaviour
