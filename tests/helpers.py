"""Small datasets and arguments for the tests of algorithms."""

import copy
import subprocess
import sys
import time

import torch

from common.data import Dataset


def make_data(rows=256, obs_size=11, action_size=3, seed=0, device="cpu") -> Dataset:
    """Random transitions, a tenth of them terminal."""
    rng = torch.Generator().manual_seed(seed)
    obs, next_obs = (torch.randn(rows, obs_size, generator=rng) for _ in range(2))
    action, reward = torch.rand(rows, action_size, generator=rng) * 2 - 1, torch.randn(rows, 1, generator=rng)
    done = (torch.rand(rows, 1, generator=rng) < 0.1).float()
    return Dataset("tiny", None, {"kind": "file", "path": "memory", "sha256": "0" * 64, "view": "next_obs", "rows": rows},
                   torch.cat([obs, action, reward, next_obs, done], 1).to(device), obs_size, action_size, torch.tensor([[0, rows]]))


def parameters(module) -> torch.Tensor:
    """All parameters of a module, or one tensor, flat and copied."""
    tensors = [module] if isinstance(module, torch.Tensor) else list(module.parameters())
    return torch.cat([p.detach().flatten() for p in tensors]).clone()


def twin(agent):
    """An independent copy of an agent, its generator included."""
    other = copy.copy(agent)
    memo = {id(agent.data): agent.data, id(agent.args): agent.args}
    state = agent.rng.get_state()
    memo[id(agent.rng)] = torch.Generator(agent.rng.device)
    memo[id(agent.rng)].set_state(state)
    other.__dict__ = copy.deepcopy(agent.__dict__, memo)
    return other


def run_script(path, *arguments, **options):
    """A script as its own process, as a person starts it: (exit code, stdout, stderr)."""
    done = subprocess.run([sys.executable, str(path), *map(str, arguments)], capture_output=True, text=True, **{"timeout": 300} | options)
    return done.returncode, done.stdout, done.stderr


def write_npz(path, rows=300, seed=0):
    """An own dataset with hopper's shapes."""
    import numpy as np

    data = make_data(rows, seed=seed)
    np.savez(path, observations=data.obs, actions=data.action, rewards=data.reward, next_observations=data.next_obs, terminals=data.done)


def wait_until(condition, seconds=120):
    """What the condition gives when it is first true. AssertionError: it never was."""
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def pids(pattern) -> list[int]:
    """Processes whose command line matches."""
    return list(map(int, subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()))


def children(pid) -> list[int]:
    """All processes below one."""
    below = list(map(int, subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()))
    return below + [pid for child in below for pid in children(child)]
