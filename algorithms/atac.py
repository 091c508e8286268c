"""ATAC: Adversarially Trained Actor Critic for Offline RL. Cheng et al., ICML 2022, arXiv:2202.02446.

Actor and critics play a game. Of all values that fit the data's transitions, the critics look for those under
which the actor looks worst, compared with the policy that collected the data. The actor improves under them.
A copy of the data's policy scores 0 in this comparison, whatever the critics, so in theory the actor never
ends below the data. It leads slowly, the critics follow fast. A warm start first clones the data's policy.

Qk, the paper's f, is critic k of two. A prime on Q marks a target network, s' is the next state, and d = 1 at
a true end, never at a timeout. mean_b is the mean over a batch, i counts the A dimensions of an action. pi
gives the mean and std of a Gaussian variable u, and the action is tanh(u). H is its entropy, and alpha is the
weight of H. a~ and a' are draws from pi at s and s'; a gradient passes through a~ in (6) and (7) alone, and
in the second half of (2) through both values of Qk. beta weighs the Bellman error E, and w its two halves.

    y = r + gamma (1 - d) min_k Qk'(s', a')                                                                (1)
    E_k = w mean_b (Qk(s, a) - y)^2 + (1 - w) mean_b (Qk(s, a) - r - gamma (1 - d) Qk(s', a'))^2           (2)
    critic loss = sum_k nsum(G_k, E_k, beta),  G_k = mean_b [Qk(s, a~) - Qk(s, a)], 0 in warm start        (3)
    log pi(a|s) = sum_i [log N(u_i; mean_i, std_i) - log(1 - a_i^2 + 1e-6)],  a = tanh(u)                  (4)
    temperature loss = log_alpha (H + A), H a constant here;  H = -mean_b log pi(a~|s)                     (5)
    warm start: actor loss = nsum(-mean_b log pi(a|s), -H, alpha)                                          (6)
    game: actor loss = nsum(-mean_b Q1(s, a~), -H, alpha)                                                  (7)
    W <- W min(1, C / |W|), after each step, for the critics' matrices W; |W| is Frobenius's norm          (8)
    nsum(x, y, c) = (x + c y) / max(1, c)                                                                  (9)

Paper / authors' code / here (the code that made the table, followed here; lightATAC is the authors' second):
- (3): The paper writes G + beta E. The code and this file rescale it by (9): no beta makes gradients larger.
- (5): lightATAC averages log pi over dimensions, and the std may fall much lower: --entropy-per-dim.
- (1): --v-min and --v-max bound min_k Qk' and are off. lightATAC can clamp both backups in (2).
- When the game begins, log_alpha is 0 again, and it and the actor get new Adams. All else goes on. lightATAC
  renews the critics' Adam, too, has random targets there by mistake, and omits (8) in the warm start.
- --absolute is the paper's ablation ATAC0: G_k = mean Qk(s0, a~) at B first states s0 of episodes.
- No source has the table's beta per dataset. The script has 16 on hopper-medium-replay, lightATAC's example 1
  on hopper-medium-expert; sweep 1, 4, 16, 64. ATAC* is the best of a few checkpoints (unverified).

Logged: critic_loss is (3) and bellman (2), averages over both critics. q is mean_b Qk(s, a), and pessimism
averages G_k. actor_loss is (6), which falls, then (7), near -q. entropy is H. alpha falls from 1 in a phase
while H is above -A. A run of 20,000 updates on a stand-in, 8,000 warm: bellman 2 to 5, seldom 12; q rises to
141, pessimism from -0.3 to 0.3; entropy falls from 1.8 to -1.1, and from -0.1 to -1.8 in the game.

Read before: bc.py (143 lines of code differ).
Run: python algorithms/atac.py --env hopper-medium-replay-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from common import InputError, friendly
from common.args import Count, Fraction, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-replay-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_100_000  # gradient steps, warm start included
    warm_start: Annotated[int, within("[0, 1e12]")] = 100_000  # of them, before the game; all: cloning alone
    beta: Annotated[float, within("[0, 1e9]")] = 16.0  # in (3), to be swept: see above
    batch_size: Size = 256  # B
    lr: Positive = 5e-4  # of critics and log_alpha, and of the actor in the warm start
    actor_lr: Positive = 5e-7  # of the actor in the game
    actor_every: Size = 1  # updates of the game per actor step; in a fork 100, with --actor-lr 5e-5
    gamma: Fraction = 0.99  # discount in (1) and (2)
    tau: Fraction = 0.005  # Polyak step of the target critics
    target_weight: Fraction = 0.5  # w in (2)
    max_norm: Positive = 100.0  # C in (8)
    v_min: Annotated[float | None, within("(-inf, inf)")] = None  # least min_k Qk' in (1); default: none
    v_max: Annotated[float | None, within("(-inf, inf)")] = None  # likewise the greatest
    entropy_per_dim: bool = False  # H divided by A, as in lightATAC
    absolute: bool = False  # ATAC0: G_k at first states, and not compared with the data's actions

    def __post_init__(self):
        if None not in (self.v_min, self.v_max) and self.v_min > self.v_max:
            raise InputError(f"--v-min {self.v_min} --v-max {self.v_max}: the first must be the smaller")


PAPER = {f"{robot}-{level}-v2": {} for robot in ("halfcheetah", "hopper", "walker2d")  # Table 1; beta: above
         for level in ("random", "medium", "medium-replay", "medium-expert")}
PAPER |= {f"{task}-{level}-v1": {} for task in ("pen", "hammer", "door", "relocate")
          for level in ("human", "cloned", "expert")}
PAPER |= {"hopper-medium-replay-v2": dict(beta=16.0), "hopper-medium-expert-v2": dict(beta=1.0)}


# same as bc.py
class GaussianActor(nn.Module):
    """ATAC's tanh-Gaussian policy on raw obs: S -> 256 x 3, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [(256, obs_size), (256, 256), (256, 256), (action_size, 256), (action_size, 256)]
        self.weights = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(s), generator=rng) for s in sizes)
        self.biases = nn.ParameterList(torch.zeros(outputs) for outputs, _ in sizes)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:  # mean and log std of u, each (B, A)
        *hidden, mean, log_std = zip(self.weights, self.biases)  # layers; the last two are the heads
        x = (obs - self.obs_mean) / self.obs_scale
        for weight, bias in hidden:
            x = nn.functional.linear(x, weight, bias).relu_()
        return nn.functional.linear(x, *mean), nn.functional.linear(x, *log_std).clamp(math.log(1e-5), 2)

    def log_prob(self, mean: Tensor, log_std: Tensor, u: Tensor, action: Tensor) -> Tensor:
        log_normal = -0.5 * ((u - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        return (log_normal - torch.log(1 - action**2 + 1e-6)).sum(-1)  # (4), (B,)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


class Critics(nn.Module):
    """Q1 and Q2, S + A -> 256 x 3 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size + action_size, 256, 256, 256, 1]
        self.weights = nn.ParameterList(torch.empty(2, i, o).normal_(0, (2 / (i + o)) ** 0.5, generator=rng)
                                        for i, o in zip(sizes, sizes[1:]))  # Xavier's normal
        self.biases = nn.ParameterList(torch.zeros(2, 1, o) for o in sizes[1:])

    def forward(self, obs: Tensor, action: Tensor, q1_alone: bool = False) -> Tensor:  # Q1 alone: (B,)
        x = torch.cat([obs, action], -1)  # (B, S + A)
        x = x if q1_alone else x.expand(2, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = torch.addmm(bias[0], x, weight[0]) if q1_alone else torch.baddbmm(bias, x, weight)
        return x.squeeze(-1)

    @torch.no_grad()
    def project(self, max_norm: float) -> None:
        norms = [torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True) for weight in self.weights]
        excess = torch._foreach_div(norms, max_norm)  # (2, 1, 1) for each layer
        torch._foreach_clamp_min_(excess, 1.0)  # a small W is divided by 1, and stays as it is
        torch._foreach_div_(list(self.weights), excess)  # (8)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


def nsum(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    return torch.addcmul(x, c, y) / c.clamp(min=1)  # (9)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step, of the optimiser's own parameters only."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


class ATAC:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        raw = torch.zeros(data.obs_size), torch.ones(data.obs_size)  # observations as they are
        self.actor = GaussianActor(data.obs_size, data.action_size, *raw, init).to(data.device)
        self.critics = Critics(data.obs_size, data.action_size, init).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        self.beta = torch.tensor(args.beta, device=data.device)
        self.starts = data.episodes[:, 0].to(data.device)  # first rows of episodes
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.lr, **adam)
        self.cloning_alpha_optimizer = torch.optim.Adam([self.log_alpha], args.lr, **adam)
        self.cloning_optimizer = torch.optim.Adam(self.actor.parameters(), args.lr, **adam)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.lr, **adam)  # fresh for the game
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)  # as well
        self.step = 0

    @property
    def phase(self) -> tuple[str, bool]:
        """The next update's stage, and whether it moves the actor (see common/graph.py)."""
        played = self.step - self.args.warm_start  # updates of the game so far
        stage = "warm start" if played < 0 else "switch" if played == 0 else "game"
        return stage, played < 0 or (played + 1) % self.args.actor_every == 0

    def backup(self, batch: Batch, next_q: Tensor) -> Tensor:
        return torch.addcmul(batch.reward, 1 - batch.done, next_q, value=self.args.gamma)

    @torch.no_grad()
    def critic_target(self, batch: Batch, next_action: Tensor) -> Tensor:
        next_q = self.target_critics(batch.next_obs, next_action).min(0).values
        bounds = self.args.v_min, self.args.v_max
        next_q = next_q if bounds == (None, None) else next_q.clamp(*bounds)
        return self.backup(batch, next_q)  # (1), (B,)

    def bellman(self, batch: Batch, q: Tensor, next_q: Tensor, target: Tensor) -> Tensor:
        """Both mean squares in (2), of each critic: (2, 2). `q`, `next_q`: (2, B)."""
        backups = torch.stack([target.expand_as(q), self.backup(batch, next_q)])  # (2, 2, B)
        return nn.functional.mse_loss(q.expand_as(backups), backups, reduction="none").mean(-1)

    def critic_loss(self, pessimism: Tensor, bellman: Tensor) -> Tensor:
        return nsum(pessimism, bellman, self.beta)  # (3), of each critic: (2,)

    def entropy(self, log_std: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        surprise = torch.addcmul(log_std, noise, noise, value=0.5) + torch.log(1 - action**2 + 1e-6)
        per_dim = surprise.mean() + 0.5 * math.log(2 * math.pi)  # -log N(u) = log_std + noise^2 / 2 + this
        return per_dim if self.args.entropy_per_dim else self.data.action_size * per_dim

    def alpha_loss(self, entropy: Tensor) -> Tensor:
        return self.log_alpha * (entropy.detach() + self.data.action_size)  # (5)

    def log_prob(self, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        action = action.clamp(-1, 1)  # the data's, not a draw of pi
        u = 0.5 * torch.log((1 + action + 1e-6) / (1 - action + 1e-6))  # the inverse of tanh, but finite at 1
        return self.actor.log_prob(mean, log_std, u, action)

    def actor_loss(self, objective: Tensor, entropy: Tensor) -> Tensor:
        return nsum(objective, -entropy, self.log_alpha.detach().exp())  # code: alpha after its step

    def critic_step(self, batch: Batch, states: Tensor, action: Tensor, game: bool) -> tuple[Tensor, ...]:
        """Of both. `action`: of pi at each of `states`, which are s', then s, then s0 in ATAC0."""
        size = len(batch.obs)
        target = self.critic_target(batch, action[:size])
        used = slice(None if game else size)  # the warm start's loss needs s' alone
        q = self.critics(torch.cat([batch.obs, states[used]]), torch.cat([batch.action, action[used]]))
        q, next_q, *policy_q = q.split(size, 1)  # (2, B) each
        td, residual = self.bellman(batch, q, next_q, target)
        bellman = torch.lerp(residual, td, self.args.target_weight)  # (2)
        pessimism = torch.zeros_like(bellman)
        if game:
            pessimism = (policy_q[-1] if self.args.absolute else policy_q[-1] - q).mean(1)  # G of (3)
        critic_loss = self.critic_loss(pessimism, bellman)
        if game or self.args.beta > 0:  # code: a warm start with beta 0 leaves the critics alone
            descend(self.critic_optimizer, critic_loss.sum())
            self.critics.project(self.args.max_norm)
        return critic_loss, bellman, pessimism, q

    def update(self, log: bool = True) -> dict[str, Tensor]:
        (stage, moves), args, size = self.phase, self.args, self.args.batch_size
        self.step += 1
        warm = stage == "warm start"
        if stage == "switch":
            self.log_alpha.detach().zero_()
        batch = self.data.sample(size, self.rng)
        states = [batch.next_obs, batch.obs]
        if args.absolute:
            index = torch.randint(len(self.starts), (size,), generator=self.rng, device=self.data.device)
            states.append(self.data.obs[self.starts[index]])
        states = torch.cat(states)
        mean, log_std = self.actor(states)  # one pass for s' and s (and s0): (2 B, A)
        noise = torch.randn(mean.shape, generator=self.rng, device=self.data.device)
        action = torch.tanh(torch.addcmul(mean, log_std.exp(), noise))  # a', then a~
        critic_terms = self.critic_step(batch, states, action.detach(), not warm)
        mean, log_std, noise, action = (x[size:2 * size] for x in (mean, log_std, noise, action))  # at s
        entropy = self.entropy(log_std, noise, action)
        descend(self.cloning_alpha_optimizer if warm else self.alpha_optimizer, self.alpha_loss(entropy))
        if warm:
            objective = -self.log_prob(mean, log_std, batch.action).mean()  # (6)
        else:
            objective = -self.critics(batch.obs, action, q1_alone=True).mean()  # (7), after Q1's step
        actor_loss = self.actor_loss(objective, entropy)
        if moves:
            descend(self.cloning_optimizer if warm else self.actor_optimizer, actor_loss)
        polyak(self.target_critics, self.critics, args.tau)
        if not log:
            return {}
        critic_loss, bellman, pessimism, q = (x.mean() for x in critic_terms)  # over both critics
        return {"critic_loss": critic_loss, "bellman": bellman, "pessimism": pessimism, "q": q,
                "actor_loss": actor_loss, "alpha": self.log_alpha.exp(), "entropy": entropy}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [ATAC(args, data, seed) for seed in args.seeds]
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
