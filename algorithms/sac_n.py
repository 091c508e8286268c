"""SAC-N: Uncertainty-Based Offline RL with Diversified Q-Ensemble. An, Moon, Kim and Song, NeurIPS 2021,
arXiv:2110.01548.

SAC-N is Soft Actor-Critic (SAC) on a fixed dataset, with N critics instead of two. Where the data cover an
action, the critics agree, and their minimum is near their mean. Elsewhere they disagree, and the minimum is
far below: N Gaussian values of mean m and standard deviation u have a minimum of about m - c_N u, with
c_2 = 0.56, c_10 = 1.54, c_500 = 3.04. So the minimum is a penalty for uncertainty that grows with N, and
nothing else is added. EDAC, PBRL and RORL start from here.

A prime on Q marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout. mean_b
is the mean over a batch. k counts critics, i the A dimensions of an action. The actor pi gives the mean and
std of a Gaussian variable z, and the action is tanh(z). alpha, the temperature, is the weight of the entropy.

    y = r + gamma (1 - d) [min_k Qk'(s', a') - alpha log pi(a'|s')],  a' ~ pi(s'), no gradient             (1)
    critic loss = sum_k mean_b (Qk(s, a) - y)^2                                                            (2)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ = tanh(mean + std xi),  xi ~ N(0, I)   (3)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy],  target entropy = -A             (4)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - log(1 - tanh(z_i)^2 + 1e-6)],  a = tanh(z)            (5)

Paper / authors' code / here:
- (2): The paper writes one loss per critic; the code sums over critics. The gradients are the same here, but
  EDAC and RORL add terms whose weights are relative to the SUM.
- The code takes all three losses at the parameters before the update. Then come the three optimiser steps, so
  (1) and (3) have the old alpha. This file does the same.
- Hidden weights of critics start within 1/sqrt(inputs of the layer). The actor's start within 1/sqrt(256) in
  every layer, also in the first, because the authors' helper takes an ordinary layer's output size for its
  input size. This file does the same. Hidden biases are 0.1, and output layers are nearly 0.
- Target critics start from random weights of their own, not as a copy. This file does the same. With tau =
  0.005 the difference is forgotten in about a thousand updates.
- The actor's step leaves no gradient in the critics here. The authors compute one and throw it away.
- `--config sac-10` is the baseline of RORL's Table 1: 10 critics on standardised observations. It fails on
  hopper, as published (0.8 on hopper-medium).
- N comes from the configurations of CORL, a library. What PAPER marks "unverified" has no source.

Logged: critic_loss is (2) / N. q is the mean of Qk(s, a), and q_max is the largest. A healthy q levels off at
about the discounted return; if it passes 1e6, the ensemble is too small. q_std is the mean over b of the
critics' std, the disagreement that the minimum turns into pessimism. target is the mean of (1). actor_loss is
(3). alpha shrinks from 1. entropy is -mean_b log pi(a~|s) and settles at -A.

Read before: td3_bc.py (101 lines of code differ).
Run: python algorithms/sac_n.py --env halfcheetah-medium-v2
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common import friendly
from common.args import Count, Fraction, Positive, RunArgs, Seeds, Size, parse
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "halfcheetah-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 3_000_000  # gradient steps
    num_critics: Size = 10  # N
    batch_size: Size = 256  # B
    actor_lr: Positive = 3e-4  # of the actor and of log_alpha
    critic_lr: Positive = 3e-4  # of the critics
    gamma: Fraction = 0.99  # discount in (1)
    tau: Fraction = 0.005  # Polyak step of the target critics
    normalize: bool = False  # standardise observations inside every network (RORL's SAC-10)
    max_q_backup: bool = False  # y from the best of 10 next actions, online critics, no entropy (pen-cloned)


def _table(**levels):
    return {f"{robot}-{level.replace('_', '-')}-v2": dict(num_critics=n) for level, row in levels.items()
            for robot, n in zip(("halfcheetah", "hopper", "walker2d"), row)}


# N: the first row from CORL's configs/offline/sac_n; the second row is unverified
PAPER = _table(medium=(10, 500, 20), medium_replay=(10, 200, 20), medium_expert=(10, 200, 20),
               random=(10, 500, 20), expert=(10, 500, 100), full_replay=(10, 200, 20))
# Adroit: N is CORL's own choice, the rest is from the authors' README, which gives it for pen
_ADROIT = dict(num_critics=100, updates=200_000, actor_lr=3e-5, reward="standardize")
PAPER |= {f"{task}-{level}-v1": _ADROIT for task in ("pen", "door", "hammer", "relocate")
          for level in ("human", "cloned", "expert")}
PAPER["pen-cloned-v1"] = _ADROIT | dict(max_q_backup=True)
PAPER |= {f"antmaze-{maze}-v2": dict(num_critics=25) for maze in (  # CORL's own choice, not in the paper
    "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")}
PAPER |= {f"maze2d-{size}-v1": dict(num_critics=25) for size in ("umaze", "medium", "large")}  # as well
SAC_10 = {f"{robot}-{level}-v2": dict(num_critics=10, normalize=True)  # Yang et al., Table 1
          for robot in ("halfcheetah", "hopper", "walker2d")
          for level in ("random", "medium", "medium-expert", "medium-replay", "expert")}


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Actor(nn.Module):
    """Tanh-Gaussian policy on raw obs: S -> 256 x 3, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size, 256, 256, 256]
        # code: 1 / sqrt(outputs), in the first layer too
        self.weights = nn.ParameterList(uniform((o, i), 256**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.full((o,), 0.1)) for o in sizes[1:])
        self.head_weight = uniform((2 * action_size, 256), 1e-3, rng)  # rows: mean, then log std
        self.head_bias = uniform((2 * action_size,), 1e-3, rng)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of z before tanh, each (B, A)."""
        x = (obs - self.obs_mean) / self.obs_scale
        for weight, bias in zip(self.weights, self.biases):
            x = nn.functional.linear(x, weight, bias).relu_()
        mean, log_std = nn.functional.linear(x, self.head_weight, self.head_bias).chunk(2, -1)
        return mean, nn.functional.hardtanh(log_std, -5, 2)  # a clamp of fewer kernels

    def draw(self, mean: Tensor, log_std: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparameterised action and the noise xi in it, each (B, A)."""
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return torch.tanh(torch.addcmul(mean, log_std.exp(), noise)), noise

    def sample(self, mean: Tensor, log_std: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Action (B, A) and its log probability (B,); -log N(z) = log_std + noise^2 / 2 + log(2 pi) / 2."""
        action, noise = self.draw(mean, log_std, rng)
        surprise = torch.addcmul(log_std, noise, noise, value=0.5) + torch.log(1 - action**2 + 1e-6)
        return action, -0.5 * mean.shape[-1] * math.log(2 * math.pi) - surprise.sum(-1)  # (5)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


class Critics(nn.Module):
    """N networks S + A -> 256 x 3 -> 1 as one batched matmul: raw obs (B, S), action (B, A) -> (N, B)."""

    def __init__(self, num: int, obs_size: int, action_size: int, mean: Tensor, scale: Tensor,
                 rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size + action_size, 256, 256, 256]
        self.weights = nn.ParameterList(uniform((num, i, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.full((num, 1, o), 0.1)) for o in sizes[1:])
        self.weights.append(uniform((num, 256, 1), 3e-3, rng))
        self.biases.append(uniform((num, 1, 1), 3e-3, rng))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = (obs - self.obs_mean) / self.obs_scale
        x = torch.cat([x, action], -1).expand(len(self.weights[0]), -1, -1)  # (N, B, S + A)
        *hidden, (last_weight, last_bias) = zip(self.weights, self.biases)
        for weight, bias in hidden:
            x = torch.baddbmm(bias, x, weight).relu_()  # (N, B, 256); in place, which saves memory
        return torch.baddbmm(last_bias, x, last_weight).squeeze(-1)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class SACN:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        mean = data.obs_mean.cpu() if args.normalize else torch.zeros(data.obs_size)
        scale = data.obs_std.cpu() + 1e-6 if args.normalize else torch.ones(data.obs_size)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        network_args = data.obs_size, data.action_size, mean, scale, init
        self.actor = Actor(*network_args).to(data.device)
        self.critics = Critics(args.num_critics, *network_args).to(data.device)
        # code: targets start from random weights of their own, not as a copy
        self.target_critics = Critics(args.num_critics, *network_args).to(data.device)
        self.target_critics.requires_grad_(False)
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.actor_lr, **adam)  # code: actor's lr
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.critic_lr, **adam)
        self.step = 0

    @torch.no_grad()
    def critic_target(self, batch: Batch, alpha: Tensor) -> Tensor:
        if self.args.max_q_backup:
            next_obs = batch.next_obs.repeat_interleave(10, 0)
            actions, _ = self.actor.draw(*self.actor(next_obs), self.rng)
            q = self.critics(next_obs, actions).unflatten(1, (-1, 10))  # (N, B, 10)
            next_value = q.max(-1).values.min(0).values  # code: online critics, no entropy
        else:
            next_action, log_prob = self.actor.sample(*self.actor(batch.next_obs), self.rng)
            next_value = self.target_critics(batch.next_obs, next_action).min(0).values - alpha * log_prob
        return torch.addcmul(batch.reward, 1 - batch.done, next_value, value=self.args.gamma)  # (1), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(q, target.expand_as(q), reduction="sum") / q.shape[1]  # (2)

    def actor_loss(self, q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
        return (alpha * log_prob - q.min(0).values).mean()  # (3)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return self.log_alpha * (self.data.action_size - log_prob.detach().mean())  # (4), A: -target entropy

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        batch = self.data.sample(self.args.batch_size, self.rng)
        alpha = self.log_alpha.detach().exp()
        action, log_prob = self.actor.sample(*self.actor(batch.obs), self.rng)
        alpha_loss = self.alpha_loss(log_prob)
        actor_loss = self.actor_loss(self.critics(batch.obs, action), log_prob, alpha)
        target = self.critic_target(batch, alpha)
        q = self.critics(batch.obs, batch.action)
        critic_loss = self.critic_loss(q, target)
        optimizers = self.alpha_optimizer, self.actor_optimizer, self.critic_optimizer
        for loss, optimizer in zip((alpha_loss, actor_loss, critic_loss), optimizers):
            optimizer.zero_grad()
            loss.backward(inputs=optimizer.param_groups[0]["params"])  # a loss moves its own parameters only
            optimizer.step()
        polyak(self.target_critics, self.critics, self.args.tau)
        if not log:
            return {}
        return {"critic_loss": critic_loss / len(q), "q": q.mean(), "q_max": q.max(),
                "q_std": q.std(0, correction=0).mean(), "target": target.mean(), "actor_loss": actor_loss,
                "alpha": alpha, "entropy": -log_prob.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [SACN(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, **{"sac-10": SAC_10}))
