"""PBRL: Pessimistic Bootstrapping for Uncertainty-Driven Offline Reinforcement Learning. Bai et al., ICLR
2022, arXiv:2202.11566.

N critics, each with a target network of its own, disagree where the data say little. So their standard
deviation u measures uncertainty, and PBRL is pessimistic twice. The Bellman target loses a little u at the
next action. And at the data's states every critic is also trained at the policy's own actions, towards its
value minus a multiple of u. (In linear MDPs, Q minus a multiple of u is a lower confidence bound.)

A prime on Q and u marks target networks, s' is the next state, and d = 1 at a true end, never at a timeout.
k counts the N critics, t the updates, and const x is x without its gradient. sac_n.py has the other symbols.

    y_k = r + gamma (1 - d) [Qk'(s', a') - beta_in u'(s', a')],  a' ~ pi(s'), no gradient                  (1)
    L_in = sum_k mean_b (Qk(s, a) - y_k)^2                                                                 (2)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ = tanh(mean + std xi),  xi ~ N(0, I)   (3)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy],  target entropy = -A             (4)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - log(1 - tanh(z_i)^2 + 1e-6)],  a = tanh(z)            (5)
    u(s, a) = std_k Qk(s, a)                                                                               (6)
    l_k(s, beta) = mean_b,m (Qk - const max(Qk - beta u, 0))^2 at (s, a_m),  a_m ~ pi(s), m = 1..M         (7)
    critic loss = L_in + sum_k [l_k(s, beta_ood) + l_k(s', ood_next)] / 2                                  (8)
    beta_ood = [beta_start + (beta_end - beta_start) min(t / 50000, 1)] relaxation,  t = 1, 2, ...         (9)
    relaxation <- relaxation / 1.01 at t = 50001, 51001, ... if values at policy actions fall             (10)

Paper / authors' code / here: this file follows the code where they differ.
- (6): The paper divides by N, the code by N - 1. The schedule (9) was tuned with the code's.
- (7): The clip at 0 is in the code only. Where Q < 0 (halfcheetah-random) it pulls values UP at unknown
  actions: watch `clipped`. --no-clip is the paper's equation.
- (8): The paper has s alone. The code adds s' with 0.1 u (--ood-next), removable by the authors' issue 1.
- (10): An epoch is 1000 updates, and its first one notes q_ood. Values fall if the last 5 epochs have a lower
  mean q_ood than the 15 before. relaxation starts at 1, acts from the next update on and stops at beta_ood <=
  0.2. The code goes by names (*-random, *-medium, *-medium-replay); here PAPER has --adaptive for these.
- (3) comes last, with the new alpha and the new critics. SAC-N, EDAC and RORL take all losses at the old.
- Hidden weights start within 1 / sqrt(256) in every layer, also in the first. PBRL-Prior is not here.

Logged: critic_loss is (8) / N, and ood_loss is its second term / N. u is (6) at the data; a healthy u_ood, at
policy actions, is larger. q_ood is the mean Q there, held down while beta_ood (9) is large. clipped is the
share of zeros among (7)'s targets: 0.1 while beta_ood is large, near 1 if Q < 0. The rest is as in sac_n.py.

Read before: sac_n.py (86 lines of code differ).
Run: python algorithms/pbrl.py --env hopper-medium-v2
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from common import friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_000_000  # gradient steps
    num_critics: Annotated[int, within("[2, 1e6]")] = 10  # N, the paper's K
    batch_size: Size = 256  # B
    actor_lr: Positive = 1e-4  # of the actor and of log_alpha
    critic_lr: Positive = 3e-4  # of the critics
    gamma: Fraction = 0.99  # discount in (1)
    tau: Fraction = 0.005  # Polyak step of the target critics
    num_actions: Size = 10  # M in (7), at s and at s'
    beta_in: NonNegative = 0.01  # weight of u' in (1)
    beta_start: NonNegative = 5.0  # in (9)
    beta_end: NonNegative = 1.0  # in (9), from update 50,000 on
    adaptive: bool = False  # (10)
    ood_next: NonNegative = 0.1  # weight of u at next states in (8)
    clip: bool = True  # targets of (7) are at least 0


PAPER = {  # authors' code
    f"{robot}-{level}-v2": values for robot in ("halfcheetah", "hopper", "walker2d") for level, values in {
        "random": dict(adaptive=True), "medium": dict(adaptive=True), "medium-replay": dict(adaptive=True),
        "medium-expert": {}, "expert": dict(beta_start=2.0, beta_end=2.0)}.items()
} | {f"{task}-{level}-v0": dict(beta_in=1e-4, beta_start=at_s, beta_end=at_s, ood_next=at_next)
     for tasks, level, at_s, at_next in (
         ("pen", "human", 0.001, 0.001), ("hammer door relocate", "human", 0.01, 0.01),
         ("pen hammer door relocate", "cloned", 0.01, 0.01), ("pen hammer", "expert", 0.4, 0.1),
         ("door", "expert", 0.2, 0.1), ("relocate", "expert", 0.4, 0.2), ("kitchen", "complete", 0.01, 0.01),
         ("kitchen", "partial", 0.01, 0.01), ("kitchen", "mixed", 0.01, 0.01)) for task in tasks.split()}


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


# same as sac_n.py
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


# as sac_n.py, but with one bound for all hidden layers, and observations as they are
class Critics(nn.Module):
    """N networks S + A -> 256 x 3 -> 1 as one batched matmul: raw obs (B, S), action (B, A) -> (N, B)."""

    def __init__(self, num: int, obs_size: int, action_size: int, mean: Tensor, scale: Tensor,
                 rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())  # both: not used, but in older checkpoints
        sizes = [obs_size + action_size, 256, 256, 256]
        self.weights = nn.ParameterList(uniform((num, i, o), 1 / 16, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.full((num, 1, o), 0.1)) for o in sizes[1:])
        self.weights.append(uniform((num, 256, 1), 3e-3, rng))
        self.biases.append(uniform((num, 1, 1), 3e-3, rng))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([obs, action], -1).expand(len(self.weights[0]), -1, -1)  # (N, B, S + A)
        *hidden, (last_weight, last_bias) = zip(self.weights, self.biases)
        for weight, bias in hidden:
            x = torch.baddbmm(bias, x, weight).relu_()  # (N, B, 256); in place, which saves memory
        return torch.baddbmm(last_bias, x, last_weight).squeeze(-1)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class PBRL:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        mean, scale = torch.zeros(data.obs_size), torch.ones(data.obs_size)  # observations as they are
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        network_args = data.obs_size, data.action_size, mean, scale, init
        self.actor = Actor(*network_args).to(data.device)
        self.critics = Critics(args.num_critics, *network_args).to(data.device)
        # code: targets start from random weights of their own, not as a copy
        self.target_critics = Critics(args.num_critics, *network_args).to(data.device)
        self.target_critics.requires_grad_(False)
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.actor_lr, **adam)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.critic_lr, **adam)
        self.step = 0
        self.count = torch.zeros((), dtype=torch.int64, device=data.device)  # `step` on the device, for (9)
        self.relaxation = torch.ones((), device=data.device)
        self.past_q = torch.zeros(20, device=data.device)  # q_ood at the first updates of the last 20 epochs

    @property
    def phase(self) -> bool:  # is the next update an epoch's first? (see common/graph.py)
        return self.step % 1000 == 0

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        """(N, B): critic k follows its own target network."""
        next_action, _ = self.actor.draw(*self.actor(batch.next_obs), self.rng)
        next_q = self.target_critics(batch.next_obs, next_action)
        next_value = next_q.sub(self.uncertainty(next_q), alpha=self.args.beta_in)
        return torch.addcmul(batch.reward, 1 - batch.done, next_value, value=self.args.gamma)  # (1)

    def uncertainty(self, q: Tensor) -> Tensor:
        return q.detach().std(0)  # (6), code: divided by N - 1

    def beta_ood(self) -> Tensor:
        start, end = self.args.beta_start, self.args.beta_end
        return (start + (end - start) * (self.count + 1).clamp(max=50_000) / 50_000) * self.relaxation  # (9)

    def relax(self, q_ood: Tensor) -> None:
        """At an epoch's first update: lower beta_ood if q_ood fell over past epochs; note this one's."""
        if self.args.adaptive:
            falling = self.past_q[15:].mean() < self.past_q[:15].mean()
            relaxes = falling & (self.count >= 50_000) & (self.beta_ood() > 0.2)
            self.relaxation /= torch.where(relaxes, 1.01, 1.0)  # (10)
        self.past_q.copy_(torch.cat([self.past_q[1:], q_ood[None]]))

    def ood_loss(self, q: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
        """(N, B M) -> sum of (7) over critics, and its targets (N, B M)."""
        target = q.detach() - beta * self.uncertainty(q)
        target = target.clamp(min=0) if self.args.clip else target  # code: the clip
        return nn.functional.mse_loss(q, target, reduction="sum") / q.shape[1], target  # (7)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(q, target.expand_as(q), reduction="sum") / q.shape[1]  # (2)

    def actor_loss(self, q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
        return (alpha * log_prob - q.min(0).values).mean()  # (3)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return self.log_alpha * (self.data.action_size - log_prob.detach().mean())  # (4), A: -target entropy

    def minimize(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward(inputs=optimizer.param_groups[0]["params"])  # a loss moves its own parameters only
        optimizer.step()

    def values(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Qk at (s, a) (N, B), and at policy actions of s and of s', (N, B M) each, in one forward pass."""
        obs = torch.cat([batch.obs, batch.next_obs])
        with torch.no_grad():  # (2 B M, S) and twice (2 B M, A)
            obs, *policy = (x.repeat_interleave(self.args.num_actions, 0) for x in (obs, *self.actor(obs)))
            action, _ = self.actor.draw(*policy, self.rng)
        q = self.critics(torch.cat([batch.obs, obs]), torch.cat([batch.action, action]))
        return q.split([len(batch.obs), len(obs) // 2, len(obs) // 2], 1)

    def update(self, log: bool = True) -> dict[str, Tensor]:
        beta = self.beta_ood()
        batch = self.data.sample(self.args.batch_size, self.rng)
        action, log_prob = self.actor.sample(*self.actor(batch.obs), self.rng)
        self.minimize(self.alpha_loss(log_prob), self.alpha_optimizer)
        alpha = self.log_alpha.detach().exp()
        target = self.critic_target(batch)
        q, q_ood, q_ood_next = self.values(batch)
        loss_at_s, ood_target = self.ood_loss(q_ood, beta)
        ood_loss = (loss_at_s + self.ood_loss(q_ood_next, self.args.ood_next)[0]) / 2
        critic_loss = self.critic_loss(q, target) + ood_loss  # (8)
        self.minimize(critic_loss, self.critic_optimizer)
        actor_loss = self.actor_loss(self.critics(batch.obs, action), log_prob, alpha)
        self.minimize(actor_loss, self.actor_optimizer)
        polyak(self.target_critics, self.critics, self.args.tau)
        if self.phase:
            self.relax(q_ood.detach().mean())
        self.step += 1
        self.count += 1
        if not log:
            return {}
        return {"critic_loss": critic_loss / len(q), "ood_loss": ood_loss / len(q), "q": q.mean(),
                "q_max": q.max(), "u": self.uncertainty(q).mean(), "q_ood": q_ood.mean(),
                "u_ood": self.uncertainty(q_ood).mean(), "clipped": (ood_target == 0).to(q.dtype).mean(),
                "beta_ood": beta, "target": target.mean(), "actor_loss": actor_loss, "alpha": alpha,
                "entropy": -log_prob.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [PBRL(args, data, seed) for seed in args.seeds]
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
