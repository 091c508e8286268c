"""TD3+BC: A Minimalist Approach to Offline Reinforcement Learning. Fujimoto and Gu, NeurIPS 2021,
arXiv:2106.06860.

Take TD3 as it is and add one term to the actor's loss: stay close to the dataset's action. Because the Q term
is divided by its own mean magnitude, one coefficient works on every task, whatever its rewards. Observations
are standardised. That is the whole algorithm.

    a' = clip(pi'(s') + clip(policy_noise z, -noise_clip, noise_clip), -1, 1),  z ~ N(0, I)                (1)
    y = r + gamma (1 - d) min(Q1'(s', a'), Q2'(s', a'))                                                    (2)
    critic loss = mean_b (Q1(s, a) - y)^2 + mean_b (Q2(s, a) - y)^2                                        (3)
    lambda = alpha / mean_b |Q1(s, pi(s))|, a constant of the batch                                        (4)
    actor loss = -lambda mean_b Q1(s, pi(s)) + mean_b,i (pi(s)_i - a_i)^2                                  (5)

Paper / authors' code / here:
- (5): the paper writes a squared distance, the code takes its mean over action dimensions (a factor 1/A).
  Here: the code; it made the tables.
- (4): the paper averages |Q| over dataset pairs (as far as we could verify), the code over (s, pi(s)). Here:
  the code.
- The authors' `--normalize False` is a non-empty string, hence true: observations were always standardised.
  Here: --no-normalize means it.
- AntMaze: the code has no settings; an author turned standardisation off there (`--config authors`). Here:
  CORL's, rewards minus 1.
- Table 2 was made on the v0 datasets; ours is v2 unless you say --env hopper-medium-v0. The two differ a lot:
  name the version.
- Each evaluation starts from the same states; Table 2 is the mean of the last 10 evaluations, over 5 seeds,
  the std over seeds.

Logged: critic_loss (3); q, mean_b Q1(s, a), grows to about the discounted return and stays; actor_loss (5),
of either sign and below alpha + bc_mse at first, then around -alpha (when Q1 is positive); bc_mse, its second
term, 0.01 to 0.2 on a policy's data; lambda (4), large at first, then alpha / q.

Read before: nothing, this is the place to start.
Run: python algorithms/td3_bc.py --env hopper-medium-v2
"""

from copy import deepcopy
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
    updates: int = 1_000_000  # gradient steps on the critics
    batch_size: int = 256  # B
    lr: float = 3e-4  # of actor and critics
    gamma: float = 0.99  # discount in (2)
    tau: float = 0.005  # Polyak step of the targets
    policy_noise: float = 0.2  # std of the target policy's noise in (1)
    noise_clip: float = 0.5  # bound of that noise in (1)
    policy_freq: int = 2  # critic steps per actor and target step
    alpha: float = 2.5  # weight of Q against imitation in (4)
    normalize: bool = True  # standardise observations with the dataset's mean and std


ANTMAZE = [f"antmaze-{maze}-v2" for maze in ("umaze", "umaze-diverse", "medium-play", "medium-diverse",
                                              "large-play", "large-diverse")]
PAPER = {  # authors' code: one setting for every task
    f"{robot}-{level}-{v}": {} for v in ("v2", "v0") for robot in ("halfcheetah", "hopper", "walker2d")
    for level in ("random", "medium", "medium-replay", "medium-expert", "expert")
} | {maze: dict(reward="r-1", eval_episodes=100) for maze in ANTMAZE}  # CORL, configs/offline/td3_bc/antmaze
AUTHORS = {maze: dict(normalize=False, eval_episodes=100) for maze in ANTMAZE}  # authors' issue 2


def uniform(shape: tuple[int, ...], fan_in: int, rng: torch.Generator) -> nn.Parameter:
    """PyTorch's default for linear layers, weights and biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -fan_in**-0.5, fan_in**-0.5, generator=rng))


class Actor(nn.Module):
    """pi: raw observations (B, S) -> actions (B, A) in [-1, 1]; S -> 256 -> 256 -> A, ReLU, tanh."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size, 256, 256, action_size]
        self.weights = nn.ParameterList(uniform((o, i), i, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((o,), i, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor) -> Tensor:
        x = (obs - self.obs_mean) / self.obs_scale
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = nn.functional.linear(x if i == 0 else x.relu_(), weight, bias)
        return torch.tanh(x)

    act = forward


class Critics(nn.Module):
    """Q1 and Q2, S + A -> 256 -> 256 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size + action_size, 256, 256, 1]
        self.weights = nn.ParameterList(uniform((2, i, o), i, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((2, 1, o), i, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor, action: Tensor, members: slice = slice(None)) -> Tensor:
        x = torch.cat([(obs - self.obs_mean) / self.obs_scale, action], -1)  # (B, S + A)
        x = x.expand(len(self.weights[0][members]), -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias[members], x if i == 0 else x.relu_(), weight[members])
        return x.squeeze(-1)


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class TD3BC:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        mean = data.obs_mean.cpu() if args.normalize else torch.zeros(data.obs_size)
        scale = data.obs_std.cpu() + 1e-3 if args.normalize else torch.ones(data.obs_size)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        self.actor = Actor(data.obs_size, data.action_size, mean, scale, init).to(data.device)
        self.critics = Critics(data.obs_size, data.action_size, mean, scale, init).to(data.device)
        self.target_actor = deepcopy(self.actor).requires_grad_(False)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        adam = dict(lr=args.lr, fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), **adam)
        self.actor_stats = torch.zeros(3, device=data.device)  # of the last actor step: loss, bc_mse, lambda
        self.step = 0

    @property
    def phase(self) -> int:
        """What the next update does: 0 also steps the actor and the targets (see common/graph.py)."""
        return (self.step + 1) % self.args.policy_freq

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        args, noise = self.args, torch.randn(batch.action.shape, generator=self.rng, device=self.data.device)
        noise = (args.policy_noise * noise).clamp(-args.noise_clip, args.noise_clip)
        next_action = (self.target_actor(batch.next_obs) + noise).clamp(-1, 1)  # (1)
        next_q = self.target_critics(batch.next_obs, next_action).min(0).values
        return batch.reward + args.gamma * (1 - batch.done) * next_q  # (2), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return ((q - target) ** 2).mean(1).sum()  # (3)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(5), its imitation term, and (4)."""
        action = self.actor(batch.obs)
        q = self.critics(batch.obs, action, slice(0, 1))[0]
        weight = self.args.alpha / q.abs().mean().detach()  # (4), code: at pi(s), not at the data's a
        bc_mse = ((action - batch.action) ** 2).mean()  # code: over dimensions too
        return -weight * q.mean() + bc_mse, bc_mse, weight  # (5)

    def update(self) -> dict[str, Tensor]:
        self.step += 1
        batch = self.data.sample(self.args.batch_size, self.rng)
        target = self.critic_target(batch)
        q = self.critics(batch.obs, batch.action)
        critic_loss = self.critic_loss(q, target)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        if self.step % self.args.policy_freq == 0:
            stats = self.actor_loss(batch)
            self.actor_optimizer.zero_grad()
            stats[0].backward(inputs=list(self.actor.parameters()))  # and leaves no gradient in the critics
            self.actor_optimizer.step()
            self.actor_stats.copy_(torch.stack(stats).detach())
            polyak(self.target_actor, self.actor, self.args.tau)
            polyak(self.target_critics, self.critics, self.args.tau)
        actor_loss, bc_mse, weight = self.actor_stats
        return {"critic_loss": critic_loss, "q": q[0].mean(), "actor_loss": actor_loss, "bc_mse": bc_mse,
                "lambda": weight}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows)
    agents = [TD3BC(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update()
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, authors=AUTHORS))
