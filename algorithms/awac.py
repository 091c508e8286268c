"""AWAC: Accelerating Online Reinforcement Learning with Offline Datasets. Nair et al. 2020, arXiv:2006.09359.

An actor-critic whose actor never asks the critics for a gradient. They learn by ordinary TD. The actor
imitates the dataset's actions, each with a weight that grows exponentially with how much better it is than
the policy's own. So it stays close to the data without a model of them. The paper's online part is not here.

A prime on Q marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout. mean_b
and softmax_b are over a batch, k counts critics, i action dimensions. xi ~ N(0, I), and clip is to [-1, 1].

    y = r + gamma (1 - d) min_k Qk'(s', a'),  a' = clip(mean + std xi) at s', no gradient                  (1)
    critic loss = sum_k mean_b (Qk(s, a) - y)^2                                                            (2)
    advantage = min_k Qk(s, a) - min_k Qk(s, a~),  a~ = clip(mean + std xi) at s, no gradient              (3)
    exp_clip: w = min(exp(advantage / lambda), 100);  batch_softmax: w = B softmax_b(advantage / lambda)   (4)
    log pi(a|s) = sum_i log N(a_i; mean_i, std_i), without tanh                                            (5)
    actor loss = -mean_b w log pi(a|s)                                                                     (6)

Paper / authors' code / here (CORL's variant and values, for v0 too; this library made the v2 numbers):
- (3): The authors take the critics before their step. CORL and this file take those after it.
- (4): The paper's normaliser is intractable. In its place the authors have a softmax over the batch, CORL a
  cap. Here the cap is on advantage / lambda, before exp can overflow. IQL's temperature is 1 / lambda.
- (5): --bounded is the authors' policy: its mean is a tanh, its log std -6 + 6 sigmoid(u), -3 at first. The
  authors start its layers with biases 0, hidden weights within 1/16 and output weights within 1e-3; here they
  start as PyTorch's. CORL's mean and log std are free, std 1 at first. The authors never clip in (1), (3).
- The authors' MuJoCo values: actor 4 x 256 with weight decay 1e-4, critics 2 x 256, lambda 2, batch 128,
  50,000 updates offline. For hand tasks: both 2 x 256, lambda 0.5, 25,000 updates, critics clamped at <= 0,
  no true ends, a~ the policy's mean, advantages up to 0.5. CORL evaluates every 1,000 updates.

Logged: critic_loss is (2). q is mean_b Q1(s, a): it grows to about the discounted return. advantage is the
mean of (3): 0, then below as the policy beats the data. weight is the mean of (4), 1 to 40 (batch_softmax:
1). capped is the share of weights above 99, up to 0.4. actor_loss is (6) and falls. log_std is its mean and
falls from 0 to about -2 (bounded: it rises from -3).

Read before: td3_bc.py (67 lines of code differ).
Run: python algorithms/awac.py --env hopper-medium-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common import friendly
from common.args import Count, Fraction, Positive, RunArgs, Seeds, Size, parse
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_000_000  # gradient steps
    batch_size: Size = 256  # B
    lr: Positive = 3e-4  # of actor and critics
    gamma: Fraction = 0.99  # discount in (1)
    tau: Fraction = 0.005  # Polyak step of the target critics
    temperature: Positive = 0.3333  # lambda in (4)
    weight: Literal["exp_clip", "batch_softmax"] = "exp_clip"  # which of (4)
    bounded: bool = False  # the authors' policy in (5)
    normalize: bool = True  # standardise observations with the dataset's mean and std


PAPER = {f"{robot}-{level}-{v}": dict(temperature=0.3333) for robot in ("halfcheetah", "hopper", "walker2d")
         for level in ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")
         for v in ("v2", "v0") if f"{level}-{v}" != "full-replay-v0"}  # CORL, configs/offline/awac
PAPER |= {f"{task}-{level}-v1": dict(temperature=0.1) for task in ("pen", "door", "hammer", "relocate")
          for level in ("human", "cloned", "expert")}
PAPER |= {f"maze2d-{maze}-v1": dict(temperature=0.1, eval_episodes=100) for maze in (
    "umaze", "umaze-dense", "medium", "medium-dense", "large", "large-dense")}
PAPER |= {f"antmaze-{maze}-v2": dict(temperature=0.1, reward="r-1", eval_episodes=100) for maze in (
    "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")}


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Actor(nn.Module):
    """Gaussian policy on raw obs: mean S -> 256 x 3 -> A, ReLU; one std for all states."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator,
                 bounded: bool = False):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        self.bounded = bounded
        sizes = [obs_size, 256, 256, 256, action_size]  # i**-0.5 is PyTorch's default bound for linear layers
        self.weights = nn.ParameterList(uniform((o, i), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((o,), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.log_std = nn.Parameter(torch.zeros(action_size))  # bounded: it is not the log std but u in (5)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:  # mean (B, A) and log std (A,)
        x = (obs - self.obs_mean) / self.obs_scale
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = nn.functional.linear(x, weight, bias)
        if self.bounded:
            return torch.tanh(x), -6 + 6 * torch.sigmoid(self.log_std)  # code: of the authors
        return x, nn.functional.hardtanh(self.log_std, -20, 2)  # a clamp whose gradient is one kernel

    def log_prob(self, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        squares = nn.functional.mse_loss(mean, action, reduction="none")  # (B, A)
        at_mean = -0.5 * math.log(2 * math.pi) * len(log_std) - log_std.sum()  # log pi(mean|s)
        return torch.addmv(at_mean, squares, torch.exp(-2 * log_std), alpha=-0.5)  # (5), (B,)

    def sample(self, mean: Tensor, log_std: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn(mean.shape, generator=rng, device=rng.device)
        return torch.addcmul(mean, log_std.exp(), noise).clamp(-1, 1)  # mean + std noise

    def act(self, obs: Tensor) -> Tensor:
        return self(obs)[0].clamp(-1, 1)


class Critics(nn.Module):
    """Q1 and Q2, S + A -> 256 x 3 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size + action_size, 256, 256, 256, 1]
        self.weights = nn.ParameterList(uniform((2, i, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((2, 1, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([(obs - self.obs_mean) / self.obs_scale, action], -1).expand(2, -1, -1)  # (2, B, S + A)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = torch.baddbmm(bias, x, weight)
        return x.squeeze(-1)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class AWAC:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        mean = data.obs_mean.cpu() if args.normalize else torch.zeros(data.obs_size)
        scale = data.obs_std.cpu() + 1e-3 if args.normalize else torch.ones(data.obs_size)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        sizes = data.obs_size, data.action_size, mean, scale, init
        self.actor = Actor(*sizes, args.bounded).to(data.device)
        self.critics = Critics(*sizes).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        adam = dict(lr=args.lr, fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), **adam)
        self.step = 0

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        next_action = self.actor.sample(*self.actor(batch.next_obs), self.rng)
        next_q = self.target_critics(batch.next_obs, next_action).min(0).values
        return torch.addcmul(batch.reward, 1 - batch.done, next_q, value=self.args.gamma)  # (1), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return len(q) * nn.functional.mse_loss(q, target.expand_as(q))  # (2), 2 times the mean over both

    @torch.no_grad()
    def advantage(self, batch: Batch, mean: Tensor, log_std: Tensor) -> Tensor:
        actions = torch.cat([batch.action, self.actor.sample(mean, log_std, self.rng)])  # (2 B, A)
        q, policy_q = self.critics(batch.obs.repeat(2, 1), actions).min(0).values.chunk(2)
        return q - policy_q  # (3), (B,)

    def imitation_weight(self, advantage: Tensor) -> Tensor:
        if self.args.weight == "batch_softmax":
            return len(advantage) * (advantage / self.args.temperature).softmax(0)
        return (advantage / self.args.temperature).clamp(max=math.log(100)).exp()  # (4), (B,)

    def actor_loss(self, log_prob: Tensor, imitation_weight: Tensor) -> Tensor:
        return imitation_weight @ log_prob / -len(log_prob)  # (6)

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        batch = self.data.sample(self.args.batch_size, self.rng)
        q = self.critics(batch.obs, batch.action)
        critic_loss = self.critic_loss(q, self.critic_target(batch))
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        mean, log_std = self.actor(batch.obs)  # one pass for the sample in (3) and for log pi(a|s)
        advantage = self.advantage(batch, mean, log_std)  # code: CORL's, by the critics just updated
        imitation_weight = self.imitation_weight(advantage)
        actor_loss = self.actor_loss(self.actor.log_prob(mean, log_std, batch.action), imitation_weight)
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        polyak(self.target_critics, self.critics, self.args.tau)
        if not log:
            return {}
        return {"critic_loss": critic_loss, "q": q[0].mean(), "advantage": advantage.mean(),
                "weight": imitation_weight.mean(), "capped": (imitation_weight > 99).float().mean(),
                "actor_loss": actor_loss, "log_std": log_std.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [AWAC(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER))
