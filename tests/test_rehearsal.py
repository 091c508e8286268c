"""What a GPU will be asked, rehearsed on the CPU for every algorithm: tests/test_cuda.py with graphs as tests/rehearsal.py pretends them."""

import json
import os
import re
import subprocess
import sys

from tests.helpers import ALGORITHMS, DEADLINE, ROOT


def test_cuda_tests_on_the_cpu(tmp_path):
    """In a process of its own, as benchmark/gpu.py starts them; each test says what it has measured, of each algorithm."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    env = os.environ | {"SOLO_CHECK_DEVICE": "cpu", "SOLO_MEASURED": str(tmp_path / "measured.jsonl"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0 and re.search(r"\d passed", done.stdout), done.stdout + done.stderr
    found = {}
    for row in map(json.loads, (tmp_path / "measured.jsonl").read_text().splitlines()):
        found.setdefault(row["test"], set()).add(row["algorithm"])
    assert len([test for test, algorithms in found.items() if algorithms >= set(ALGORITHMS)]) >= 6, found


def test_without_a_gpu_one_line_is_skipped():
    env = {name: value for name, value in os.environ.items() if name != "SOLO_CHECK_DEVICE"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-n0", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=DEADLINE)
    assert "1 skipped" in done.stdout and "needs a GPU; SOLO_CHECK_DEVICE=cpu rehearses without one" in done.stdout and "passed" not in done.stdout
