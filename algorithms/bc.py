"""BC and 10%BC, behaviour cloning. 10%BC: Decision Transformer. Chen et al., NeurIPS 2021, arXiv:2106.01345.

BC fits the dataset's actions by regression. Rewards do not count. 10%BC first keeps the tenth of the
trajectories with the largest returns. They are the floor of every table: a method that does not beat 10%BC on
a mixed dataset has learnt nothing from its critic. --gaussian fits a distribution, as ATAC's warm start does.

pi is the policy, and r_t is the reward in row t of a trajectory. mean_b is the mean over a batch, and
mean_b,i that over the A dimensions of its actions as well. From (4) on, pi gives the mean and std of a
Gaussian variable u, the action is tanh(u), H is its entropy, and alpha is the weight of H.

    actor loss = mean_b,i (pi(s)_i - a_i)^2                                                                (1)
    G = sum_t gamma^t r_t of a trajectory, from t = 0 in its first row                                     (2)
    kept: all rows of the max(1, int(fraction K)) trajectories with the largest G, of K                    (3)
    log pi(a|s) = sum_i [log N(u_i; mean_i, std_i) - log(1 - a_i^2 + 1e-6)],  a = tanh(u)                  (4)
    temperature loss = log_alpha (H + A), H a constant here;  H = -mean_b log pi(a~|s),  a~ ~ pi(s)        (5)
    --gaussian: actor loss = [-mean_b log pi(a|s) - alpha H] / max(1, alpha)                               (6)

Paper / authors' code / here (BC has no paper; the code of CORL, a library, made the numbers):
- (2): CORL writes gamma 0.99 for BC, where it does nothing, and 1 for 10%BC. Here it is 1 in both.
- (3): CORL's sort is unstable: of equal returns it may keep any. Here the later trajectory is kept.
- (3): CORL cuts at true ends and every 1,000 rows, and loses the rest after the last cut. But an episode that
  a timeout ends has 999 rows, because D4RL's loader drops its last. So the cuts drift into the next episode.
  Here trajectories are episodes (--corl-split: CORL's). In (2) the reward of a dropped row is missing anyway.
- (4) to (6) and the network are ATAC's. It has --lr 5e-4 --no-normalize. (4) is finite at a = 1.

Logged: actor_loss is (1). It falls fast, then slowly, to 0.01 to 0.2 on a policy's data; on random actions it
stays near their variance, 0.33. With --gaussian it is (6). nll is -mean_b log pi(a|s): it falls, below 0
where actions are certain. entropy is H in (5) and falls towards -A. alpha falls while H is above -A. log_std
is its mean, and falls.

Read before: td3_bc.py (83 lines of code differ).
Run: python algorithms/bc.py --env hopper-medium-v2 (--config top-10: 10%BC)
"""

import math
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
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_000_000  # gradient steps
    batch_size: Size = 256  # B
    lr: Positive = 3e-4  # of the actor and of log_alpha
    fraction: Annotated[float, within("(0, 1]")] = 1.0  # share of trajectories in (3); 0.1: 10%BC
    gamma: Fraction = 1.0  # discount in (2)
    corl_split: bool = False  # trajectories in (3) end at true ends and every 1,000 rows, the rest is lost
    normalize: bool = True  # standardise observations with the kept rows' mean and std
    gaussian: bool = False  # tanh-Gaussian actor fitted by likelihood (6), not regression (1)
    entropy_floor: bool = True  # keep its entropy above -A; off: alpha = 0 in (6)


PAPER = {f"{robot}-{level}-v2": {} for robot in ("halfcheetah", "hopper", "walker2d")  # CORL's configs of bc
         for level in ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")}
PAPER |= {f"{task}-{level}-v1": {} for task in ("pen", "door", "hammer", "relocate")
          for level in ("human", "cloned", "expert")}
PAPER |= {f"maze2d-{maze}-v1": dict(eval_episodes=100) for maze in (
    "umaze", "umaze-dense", "medium", "medium-dense", "large", "large-dense")}
PAPER |= {f"antmaze-{maze}-v2": dict(eval_episodes=100) for maze in (
    "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")}
TOP_10 = {env: values | dict(fraction=0.1) for env, values in PAPER.items()}  # CORL, bc_10


def best(data: Dataset, fraction: float, gamma: float, corl_split: bool) -> Dataset:
    """The best trajectories as a dataset. InputError: there is none."""
    reward, bounds, cuts = data.reward.cpu().double(), data.episodes.tolist(), [0]
    if corl_split:
        for end, done in enumerate(data.done.tolist(), 1):
            if done or end - cuts[-1] == 1000:
                cuts.append(end)
        bounds = list(zip(cuts, cuts[1:]))
    if not bounds:
        raise InputError("--corl-split: finds no whole trajectory; leave it out")
    returns = torch.stack([gamma ** torch.arange(j - i).double() @ reward[i:j] for i, j in bounds])  # (2)
    kept = returns.argsort(stable=True)[-max(1, int(fraction * len(bounds))):]  # (3), of equal ones the later
    index = torch.cat([torch.arange(*bounds[i]) for i in kept.sort().values])
    print(f"kept {len(kept):,} of {len(bounds):,} trajectories, {len(index):,} of {len(data.rows):,} rows")
    return data.subset(index)


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


# same as td3_bc.py
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


class BC:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        mean = data.obs_mean.cpu() if args.normalize else torch.zeros(data.obs_size)
        scale = data.obs_std.cpu() + 1e-3 if args.normalize else torch.ones(data.obs_size)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        sizes = data.obs_size, data.action_size, mean, scale, init
        self.actor = (GaussianActor if args.gaussian else Actor)(*sizes).to(data.device)
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        adam = dict(lr=args.lr, fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), **adam)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], **adam)
        self.step = 0

    def actor_loss(self, batch: Batch) -> Tensor:
        return nn.functional.mse_loss(self.actor(batch.obs), batch.action)  # (1)

    def likelihood(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """-mean_b log pi(a|s), the entropy H of (5), and log std."""
        (mean, log_std), action = self.actor(batch.obs), batch.action.clamp(-1, 1)
        u = 0.5 * torch.log((1 + action + 1e-6) / (1 - action + 1e-6))  # the inverse of tanh, but finite at 1
        nll = -self.actor.log_prob(mean, log_std, u, action).mean()
        u = mean + log_std.exp() * torch.randn(mean.shape, generator=self.rng, device=self.data.device)
        return nll, -self.actor.log_prob(mean, log_std, u, torch.tanh(u)).mean(), log_std

    def alpha_loss(self, entropy: Tensor) -> Tensor:
        return self.log_alpha * (entropy.detach() + self.data.action_size)  # (5)

    def gaussian_loss(self, nll: Tensor, entropy: Tensor, alpha: Tensor) -> Tensor:
        return (nll - alpha * entropy) / alpha.clamp(min=1)  # (6)

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        batch, stats = self.data.sample(self.args.batch_size, self.rng), {}
        if self.args.gaussian:
            nll, entropy, log_std = self.likelihood(batch)
            alpha = torch.zeros_like(nll)
            if self.args.entropy_floor:
                self.alpha_optimizer.zero_grad()
                self.alpha_loss(entropy).backward()
                self.alpha_optimizer.step()
                alpha = self.log_alpha.detach().exp()  # code: after its step
            loss = self.gaussian_loss(nll, entropy, alpha)
            stats = {"nll": nll, "entropy": entropy, "alpha": alpha, "log_std": log_std.mean()}
        else:
            loss = self.actor_loss(batch)
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        if not log:
            return {}
        return {"actor_loss": loss, **stats}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    data = best(data, args.fraction, args.gamma, args.corl_split)
    agents = [BC(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, **{"top-10": TOP_10}))
