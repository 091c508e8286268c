"""PBRL: Pessimistic Bootstrapping for Uncertainty-Driven Offline Reinforcement Learning. Bai et al., ICLR
2022, arXiv:2202.11566.

K critics, each bootstrapped from its own target, disagree where the data say little: their standard
deviation u is the uncertainty. PBRL is pessimistic twice. The Bellman target loses a little u at the next
action; and at the data's states every critic is pulled down at the policy's own actions, to its value minus a
multiple of u. In linear MDPs u is a lower-confidence-bound bonus.

    y_k = r + gamma (1 - d) [Qk'(s', a') - beta_in u'(s', a')],  a' ~ pi(s'), no gradient                  (1)
    L_in = sum_k mean_b (Qk(s, a) - y_k)^2                                                                 (2)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ = tanh(mean + std xi)                  (3)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy],  target entropy = -A             (4)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - log(1 - tanh(z_i)^2 + 1e-6)],  a = tanh(z)            (5)
    u(s, a) = std_k Qk(s, a);  u' the same of the target critics                                           (6)
    l_k(s, beta) = mean_b,m (Qk - const max(Qk - beta u, 0))^2 at (s, a_m),  a_m ~ pi(s), m = 1..M         (7)
    critic loss = L_in + sum_k [l_k(s, beta_ood) + l_k(s', ood_next)] / 2                                  (8)
    beta_ood = [start + (end - start) min(t, 50000) / 50000] relaxation,  update t = 1, 2, ...             (9)
    relaxation <- relaxation / 1.01 if values at policy actions fall, once in 1000 updates from 50001 on  (10)

Paper / authors' code / here (the code, where they differ):
- (6): the paper divides by K, the code by K - 1; the schedule was tuned with the code's.
- (7): the clip at 0 is in the code only. Where Q < 0 (halfcheetah-random) it pulls values UP at unknown
  actions: see `clipped`. --no-clip is the paper's equation.
- (8): the paper has the states s alone; the code adds s' with a weight of 0.1, which its author calls
  removable (authors' issue 1): --ood-next.
- (10): "fall": the mean of q_ood at the first update of the last 5 epochs (of 1000) is below that of the 15
  before, and beta_ood > 0.2. The code finds the datasets by name (*-random, *-medium, *-medium-replay); here
  PAPER has --adaptive. It acts from the next update on.
- The temperature steps first, and (3) has the new alpha; the critics step next, and (3) has the new ones.
  (SAC-N, EDAC and RORL take all three losses at the old parameters.)
- Hidden weights start within 1 / sqrt(256) in every layer, the first too. PBRL-Prior is not here.

Logged: critic_loss (8) / K; ood_loss, its second term / K; u (6) at the data and u_ood at policy actions,
healthy is larger; q_ood, mean Q there, held down while beta_ood (9) is large; clipped, share of the targets
in (7) that are 0: a tenth while beta_ood is large, near 1 if Q < 0; the rest as in sac_n.py.

Read before: sac_n.py (77 lines of code differ).
Run: python algorithms/pbrl.py --env hopper-medium-v2
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common import friendly
from common.args import RunArgs, parse
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: tuple[int, ...] = (0,)  # trained side by side in one process
    updates: int = 1_000_000  # gradient steps
    num_critics: int = 10  # K
    batch_size: int = 256  # B
    actor_lr: float = 1e-4  # of the actor and of log_alpha
    critic_lr: float = 3e-4  # of the critics
    gamma: float = 0.99  # discount in (1)
    tau: float = 0.005  # Polyak step of the target critics
    num_actions: int = 10  # M in (7), at s and at s'
    beta_in: float = 0.01  # weight of u' in (1)
    beta_start: float = 5.0  # in (9)
    beta_end: float = 1.0  # in (9), from update 50,000 on
    adaptive: bool = False  # (10)
    ood_next: float = 0.1  # weight of u at next states in (8)
    clip: bool = True  # pseudo-targets of (7) at least 0


ROBOTS = "halfcheetah", "hopper", "walker2d"
PAPER = {  # authors' code
    f"{robot}-{level}-v2": values for robot in ROBOTS for level, values in {
        "random": dict(adaptive=True), "medium": dict(adaptive=True), "medium-replay": dict(adaptive=True),
        "medium-expert": {}, "expert": dict(beta_start=2.0, beta_end=2.0)}.items()
} | {f"{task}-{level}-v0": dict(beta_in=1e-4, beta_start=at_s, beta_end=at_s, ood_next=at_next)
     for tasks, level, at_s, at_next in (
         ("pen", "human", 0.001, 0.001), ("hammer door relocate", "human", 0.01, 0.01),
         ("pen hammer door relocate", "cloned", 0.01, 0.01), ("pen hammer", "expert", 0.4, 0.1),
         ("door", "expert", 0.2, 0.1), ("relocate", "expert", 0.4, 0.2)) for task in tasks.split()}


# same as sac_n.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


# same as sac_n.py
class Actor(nn.Module):
    """Tanh-Gaussian policy on raw obs: S -> 256 x 3, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size, 256, 256, 256]
        # code: 1 / sqrt(out), the first layer too
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
        return mean, log_std.clamp(-5, 2)

    def sample(self, mean: Tensor, log_std: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparameterised action (B, A) and its log probability (B,)."""
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        action = torch.tanh(mean + log_std.exp() * noise)
        log_normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        return action, (log_normal - torch.log(1 - action**2 + 1e-6)).sum(-1)  # (5)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


# as sac_n.py, but with one bound for all hidden layers
class Critics(nn.Module):
    """N networks S + A -> 256 x 3 -> 1 as one batched matmul: raw obs (B, S), action (B, A) -> (N, B)."""

    def __init__(self, num: int, obs_size: int, action_size: int, mean: Tensor, scale: Tensor,
                 rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size + action_size, 256, 256, 256]
        self.weights = nn.ParameterList(uniform((num, i, o), 1 / 16, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.full((num, 1, o), 0.1)) for o in sizes[1:])
        self.weights.append(uniform((num, 256, 1), 3e-3, rng))
        self.biases.append(uniform((num, 1, 1), 3e-3, rng))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([(obs - self.obs_mean) / self.obs_scale, action], -1)  # (B, S + A)
        x = x.expand(len(self.weights[0]), -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias, x if i == 0 else x.relu_(), weight)  # (N, B, 256)
        return x.squeeze(-1)


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
        sizes = data.obs_size, data.action_size, mean, scale, init
        self.actor = Actor(*sizes).to(data.device)
        self.critics = Critics(args.num_critics, *sizes).to(data.device)
        self.target_critics = Critics(args.num_critics, *sizes).to(data.device)  # code: a second draw
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

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        """(K, B): critic k follows its own target network."""
        next_action, _ = self.actor.sample(*self.actor(batch.next_obs), self.rng)
        next_q = self.target_critics(batch.next_obs, next_action)
        next_value = next_q - self.args.beta_in * self.uncertainty(next_q)
        return batch.reward + self.args.gamma * (1 - batch.done) * next_value  # (1)

    def uncertainty(self, q: Tensor) -> Tensor:
        return q.detach().std(0)  # (6), code: divided by K - 1

    def beta_ood(self) -> Tensor:
        start, end = self.args.beta_start, self.args.beta_end
        return (start + (end - start) * (self.count + 1).clamp(max=50_000) / 50_000) * self.relaxation  # (9)

    def relax(self, q_ood: Tensor) -> None:
        """At an epoch's first update: if past epochs' q_ood fall, beta_ood does; remember this one's."""
        first, falling = self.count % 1000 == 0, self.past_q[15:].mean() < self.past_q[:15].mean()
        if self.args.adaptive:
            now = first & falling & (self.count >= 50_000) & (self.beta_ood() > 0.2)
            self.relaxation /= torch.where(now, 1.01, 1.0)  # (10)
        self.past_q.copy_(torch.where(first, torch.cat([self.past_q[1:], q_ood[None]]), self.past_q))

    def ood_loss(self, q: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
        """(K, B M) -> (7) of every critic (K,), and its targets (K, B M)."""
        target = q.detach() - beta * self.uncertainty(q)
        target = target.clamp(min=0) if self.args.clip else target  # code: the clip
        return ((q - target) ** 2).mean(1), target  # (7)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return ((q - target) ** 2).mean(1).sum()  # (2)

    def actor_loss(self, q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
        return (alpha * log_prob - q.min(0).values).mean()  # (3)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return -(self.log_alpha * (log_prob - self.data.action_size).detach()).mean()  # (4)

    def minimize(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward(inputs=optimizer.param_groups[0]["params"])  # a loss moves its own parameters only
        optimizer.step()

    def values(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Qk at (s, a) (K, B), and at policy actions of s and of s', (K, B M) each, in one forward pass."""
        obs = torch.cat([batch.obs, batch.next_obs]).repeat_interleave(self.args.num_actions, 0)  # (2 B M, S)
        with torch.no_grad():
            action, _ = self.actor.sample(*self.actor(obs), self.rng)
        q = self.critics(torch.cat([batch.obs, obs]), torch.cat([batch.action, action]))
        return q.split([len(batch.obs), len(obs) // 2, len(obs) // 2], 1)

    def update(self) -> dict[str, Tensor]:
        batch, beta = self.data.sample(self.args.batch_size, self.rng), self.beta_ood()
        action, log_prob = self.actor.sample(*self.actor(batch.obs), self.rng)
        self.minimize(self.alpha_loss(log_prob), self.alpha_optimizer)
        alpha = self.log_alpha.detach().exp()
        target = self.critic_target(batch)
        q, q_ood, q_next = self.values(batch)
        loss_s, pseudo_target = self.ood_loss(q_ood, beta)
        ood_loss = (loss_s + self.ood_loss(q_next, self.args.ood_next)[0]).sum() / 2
        critic_loss = self.critic_loss(q, target) + ood_loss  # (8)
        self.minimize(critic_loss, self.critic_optimizer)
        actor_loss = self.actor_loss(self.critics(batch.obs, action), log_prob, alpha)
        self.minimize(actor_loss, self.actor_optimizer)
        polyak(self.target_critics, self.critics, self.args.tau)
        self.relax(q_ood.detach().mean())
        self.step += 1
        self.count += 1
        return {"critic_loss": critic_loss / len(q), "ood_loss": ood_loss / len(q), "q": q.mean(),
                "q_max": q.max(), "u": self.uncertainty(q).mean(), "q_ood": q_ood.mean(),
                "u_ood": self.uncertainty(q_ood).mean(), "clipped": (pseudo_target == 0).to(q.dtype).mean(),
                "beta_ood": beta, "target": target.mean(), "actor_loss": actor_loss, "alpha": alpha,
                "entropy": -log_prob.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows)
    agents = [PBRL(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update()
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER))
