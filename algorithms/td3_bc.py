"""TD3+BC: A Minimalist Approach to Offline Reinforcement Learning. Fujimoto and Gu, NeurIPS 2021,
arXiv:2106.06860.

Offline RL is hard because a learned Q is wrong about actions without data, and an actor that maximises Q is
drawn to just those that it overrates: nobody ever tries them, so the mistake is never corrected. TD3+BC takes
TD3 as it is and adds one term to the actor's loss: stay close to the dataset's action. The Q term is divided
by its own mean magnitude, so that one coefficient works on every task, whatever its rewards. Observations are
standardised. That is the whole algorithm.

TD3 has a deterministic actor pi, critics Q1 and Q2, and target networks, which follow the three slowly. A
prime on Q and pi marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout.
mean_b is the mean over a batch, and mean_b,i that over the A dimensions of its actions as well.

    a' = clip(pi'(s') + clip(policy_noise z, -noise_clip, noise_clip), -1, 1),  z ~ N(0, I)                (1)
    y = r + gamma (1 - d) min(Q1'(s', a'), Q2'(s', a'))                                                    (2)
    critic loss = mean_b (Q1(s, a) - y)^2 + mean_b (Q2(s, a) - y)^2                                        (3)
    lambda = alpha / mean_b |Q1(s, pi(s))|, a constant of the batch                                        (4)
    actor loss = -lambda mean_b Q1(s, pi(s)) + mean_b,i (pi(s)_i - a_i)^2                                  (5)

Paper / authors' code / here:
- (5): The paper writes a squared distance. The code takes its mean over action dimensions, which divides it
  by A. The code made the tables, so this file follows it, here and in (4).
- (4): The paper averages |Q| over the data's (s, a), as far as we could verify; the code, over (s, pi(s)).
- In the authors' `--normalize False`, argparse keeps 'False' as a string, and a non-empty string counts as
  true. So observations were always standardised. Here --no-normalize turns that off.
- The code has no settings for AntMaze, Adroit, maze2d and full-replay. PAPER has those of the library CORL.
  For AntMaze an author turned standardisation off (their issue 2): that is `--config authors`.
- Table 2 is about the v0 datasets, the default here is v2: hopper-medium has 99.5 on v0 and 59.3 on v2. The
  table has mean and std over 5 seeds of the last 10 evaluations. Each evaluation starts from the same states.

Logged: critic_loss is (3). q is mean_b Q1(s, a): it grows to about the discounted return and stays there.
actor_loss is (5), within alpha of bc_mse and on the low side once Q1 is positive. bc_mse is its second term,
0.01 to 0.2 on a policy's data. lambda is (4), large at first, then about alpha / q.

Read before: nothing, this is the place to start.
Run: python algorithms/td3_bc.py --env hopper-medium-v2
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common import friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_000_000  # gradient steps on the critics
    batch_size: Size = 256  # B
    lr: Positive = 3e-4  # of actor and critics
    gamma: Fraction = 0.99  # discount in (2)
    tau: Fraction = 0.005  # Polyak step of the targets
    policy_noise: NonNegative = 0.2  # std of the target policy's noise in (1)
    noise_clip: NonNegative = 0.5  # bound of that noise in (1)
    policy_freq: Size = 2  # critic steps per actor and target step
    alpha: NonNegative = 2.5  # weight of Q against imitation in (4)
    normalize: bool = True  # standardise observations with the dataset's mean and std


PAPER = {  # authors' code: one setting for every task
    f"{robot}-{level}-{v}": {} for v in ("v2", "v0") for robot in ("halfcheetah", "hopper", "walker2d")
    for level in ("random", "medium", "medium-replay", "medium-expert", "expert")
} | {f"{task}-{level}": values for tasks, levels, values in (  # CORL, configs/offline/td3_bc
    ("halfcheetah hopper walker2d", "full-replay-v2", {}),
    ("pen door hammer relocate", "human-v1 cloned-v1 expert-v1", {}),
    ("maze2d-umaze maze2d-medium maze2d-large", "v1 dense-v1", dict(eval_episodes=100)),
    ("antmaze-umaze", "v2 diverse-v2", dict(reward="r-1", eval_episodes=100)),
    ("antmaze-medium antmaze-large", "play-v2 diverse-v2", dict(reward="r-1", eval_episodes=100)),
) for task in tasks.split() for level in levels.split()}
AUTHORS = {task: dict(normalize=False, eval_episodes=100) for task in PAPER if "antmaze" in task}


def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Actor(nn.Module):
    """pi: raw observations (B, S) -> actions (B, A) in [-1, 1]; S -> 256 -> 256 -> A, ReLU, tanh."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size, 256, 256, action_size]  # i**-0.5 is PyTorch's default bound for linear layers
        self.weights = nn.ParameterList(uniform((o, i), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((o,), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor) -> Tensor:
        x = (obs - self.obs_mean) / self.obs_scale
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = nn.functional.linear(x, weight, bias)
        return torch.tanh(x)

    act = forward


class Critics(nn.Module):
    """Q1 and Q2, S + A -> 256 -> 256 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size + action_size, 256, 256, 1]
        self.weights = nn.ParameterList(uniform((2, i, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((2, 1, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor, action: Tensor, q1_alone: bool = False) -> Tensor:  # Q1 alone: (B,)
        x = torch.cat([(obs - self.obs_mean) / self.obs_scale, action], -1)  # (B, S + A)
        x = x if q1_alone else x.expand(2, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = torch.addmm(bias[0], x, weight[0]) if q1_alone else torch.baddbmm(bias, x, weight)
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
        noise = torch.randn(batch.action.shape, generator=self.rng, device=self.data.device)
        noise = (self.args.policy_noise * noise).clamp(-self.args.noise_clip, self.args.noise_clip)
        next_action = (self.target_actor(batch.next_obs) + noise).clamp(-1, 1)  # (1)
        next_q = self.target_critics(batch.next_obs, next_action).min(0).values
        return torch.addcmul(batch.reward, 1 - batch.done, next_q, value=self.args.gamma)  # (2), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return len(q) * nn.functional.mse_loss(q, target.expand_as(q))  # (3), 2 times the mean over both

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss (5), its imitation term, and lambda (4)."""
        action = self.actor(batch.obs)
        q = self.critics(batch.obs, action, q1_alone=True)  # (B,)
        lam = self.args.alpha / q.abs().mean().detach()  # (4), code: at pi(s), not at the data's a
        bc_mse = nn.functional.mse_loss(action, batch.action)  # code: a mean over dimensions too
        return bc_mse - lam * q.mean(), bc_mse, lam  # (5)

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        batch = self.data.sample(self.args.batch_size, self.rng)
        target = self.critic_target(batch)
        q = self.critics(batch.obs, batch.action)
        critic_loss = self.critic_loss(q, target)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        if self.step % self.args.policy_freq == 0:
            actor_loss, bc_mse, lam = self.actor_loss(batch)
            self.actor_optimizer.zero_grad()
            actor_loss.backward(inputs=list(self.actor.parameters()))  # leaves no gradient in the critics
            self.actor_optimizer.step()
            torch.stack([actor_loss.detach(), bc_mse.detach(), lam], out=self.actor_stats)
            polyak(self.target_actor, self.actor, self.args.tau)
            polyak(self.target_critics, self.critics, self.args.tau)
        actor_loss, bc_mse, lam = self.actor_stats
        if not log:
            return {}
        return {"critic_loss": critic_loss, "q": q[0].mean(), "actor_loss": actor_loss, "bc_mse": bc_mse,
                "lambda": lam}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [TD3BC(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, authors=AUTHORS))
