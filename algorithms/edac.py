"""EDAC: Uncertainty-Based Offline RL with Diversified Q-Ensemble. An, Moon, Kim and Song, NeurIPS 2021,
arXiv:2110.01548.

On hopper SAC-N needs up to 500 critics, because at the data's actions the critics' gradients dQk/da line up:
in some direction away from the data all critics rise together, and their minimum penalises nothing. EDAC adds
one loss that makes these gradients point apart, so that in every direction some critic falls. PAPER has 50
critics for hopper (SAC-N: 200 to 500), 10 for walker2d (SAC-N: 20 or 100), 10 for halfcheetah (SAC-N: 10).

(1) to (5) and their symbols are sac_n.py's: a prime on Q marks a target network, s' is the next state, and
d = 1 at a true end, never at a timeout. j and k count critics, i the A dimensions of an action.

    y = r + gamma (1 - d) [min_k Qk'(s', a') - alpha log pi(a'|s')],  a' ~ pi(s'), no gradient             (1)
    L_Q = sum_k mean_b (Qk(s, a) - y)^2                                                                    (2)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ = tanh(mean + std xi),  xi ~ N(0, I)   (3)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy],  target entropy = -A             (4)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - log(1 - tanh(z_i)^2 + 1e-6)],  a = tanh(z)            (5)
    L_ES = mean_b sum_{j != k} u_j . u_k / (N - 1),  u_k = g_k / |g_k|,  g_k = dQk/da at the data's a      (6)
    critic loss = L_Q + eta L_ES                                                                           (7)

Why (6): a short step from a, of length h in the unit direction w, changes Qk by about h w . g_k. The critics
drift apart by a variance of h^2 Var_k(w . g_k), and the penalty is weakest in the w where this is least. The
authors raise the sum over all directions, V = 1 - |mean_k u_k|^2 for unit u_k. (6) is N - V N^2 / (N - 1).

Paper / authors' code / here:
- (6): Both orders of a pair count: N if all gradients agree, 0 if they are orthogonal. The code multiplies
  all N x N pairs. Here their sum is |sum_k u_k|^2 - sum_k |u_k|^2, because the first square, multiplied out,
  holds every pair, and the others are those with j = k. As in the code, |g_k| has 1e-10 added.
- The code differentiates dQk/da a second time. For ReLU networks g_k is a product of weights and 0/1 masks.
  So here it is one more forward pass. The gradients are the same, and CPU updates are 1.3 times as fast.
- (7): eta is relative to the SUM over critics in (2). All else is as sac_n.py says.
- `--config edac-10` is the baseline of RORL's Table 1, not this paper's EDAC: 10 critics on standardised
  observations, and (6) over a random n = min(N, A) of them, divided by n - 1: on average n / N of (6).
- Where sources differ, `--config alternative` has the other value.

Logged: similarity is (6), about 0 at the random start. It rises as the critics learn the same values;
healthy is well below the number of critics in it. critic_loss is (7) / N. The rest is as in sac_n.py.

Read before: sac_n.py (38 lines of code differ).
Run: python algorithms/edac.py --env hopper-medium-v2
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
    env: str = "halfcheetah-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 3_000_000  # gradient steps
    num_critics: Annotated[int, within("[2, 1e6]")] = 10  # N
    batch_size: Size = 256  # B
    actor_lr: Positive = 3e-4  # of the actor and of log_alpha
    critic_lr: Positive = 3e-4  # of the critics
    gamma: Fraction = 0.99  # discount in (1)
    tau: Fraction = 0.005  # Polyak step of the target critics
    normalize: bool = False  # standardise observations inside every network (RORL's EDAC-10)
    eta: NonNegative = 1.0  # weight of (6) in (7)
    es_subsample: bool = False  # (6) over a random min(N, A) of the critics (RORL's EDAC-10)
    max_q_backup: bool = False  # y from the best of 10 next actions, online critics, no entropy (pen-cloned)


def _table(**levels):
    return {f"{robot}-{level.replace('_', '-')}-v2": dict(num_critics=n, eta=eta)
            for level, row in levels.items() for robot, n, eta in zip(ROBOTS, (10, 50, 10), row)}


ROBOTS = "halfcheetah", "hopper", "walker2d"
# eta. First row: CORL, OfflineRL-Kit and OfflineRL-Lib agree. Second: OfflineRL-Lib's default, or one source
# (walker2d-expert: that source has N = 50 with it)
PAPER = _table(medium=(1.0, 1.0, 1.0), medium_replay=(1.0, 1.0, 1.0), medium_expert=(5.0, 1.0, 5.0),
               full_replay=(1.0, 1.0, 1.0), random=(0.0, 1.0, 1.0), expert=(1.0, 1.0, 5.0))
_PEN = dict(num_critics=20, updates=200_000, actor_lr=3e-5, reward="standardize", eta=10.0)  # authors' README
PAPER |= {"pen-human-v1": _PEN | dict(eta=1000.0), "pen-cloned-v1": _PEN | dict(max_q_backup=True),
          "pen-expert-v1": _PEN}  # expert: CORL
PAPER |= {f"{task}-{level}-v1": _PEN | dict(num_critics=50, eta=200.0)  # N, eta: CORL; the rest: unverified
          for task in ("door", "hammer", "relocate") for level in ("human", "cloned", "expert")}
PAPER |= {f"antmaze-{maze}-v2": dict(num_critics=10, eta=1.0) for maze in (  # CORL's own choice, as maze2d
    "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")}
PAPER |= {f"maze2d-{size}-v1": dict(num_critics=10, eta=0.1) for size in ("umaze", "medium", "large")}
ALTERNATIVE = {env: PAPER[env] | values for env, values in {
    "halfcheetah-random-v2": dict(eta=1.0), "halfcheetah-expert-v2": dict(num_critics=50, eta=5.0),
    "hopper-random-v2": dict(eta=0.0), "walker2d-expert-v2": dict(eta=1.0),
    "pen-expert-v1": dict(eta=1000.0)}.items()}
EDAC_10 = {f"{robot}-{level}-v2": dict(num_critics=10, eta=1.0, normalize=True, es_subsample=True)
           for robot in ROBOTS for level in ("random", "medium", "medium-expert", "medium-replay", "expert")}


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


# as sac_n.py, but with the gradient in the action
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

    def forward(self, obs: Tensor, action: Tensor, units: list | None = None) -> Tensor:
        x = (obs - self.obs_mean) / self.obs_scale
        x = torch.cat([x, action], -1).expand(len(self.weights[0]), -1, -1)  # (N, B, S + A)
        *hidden, (last_weight, last_bias) = zip(self.weights, self.biases)
        for weight, bias in hidden:
            x = torch.baddbmm(bias, x, weight).relu_()  # (N, B, 256); in place, which saves memory
            if units is not None:
                units.append(x)
        return torch.baddbmm(last_bias, x, last_weight).squeeze(-1)

    def with_action_gradient(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Qk (N, B) and dQk/da (N, B, A): a pass back through the layers with the masks of the first pass."""
        q = self(obs, action, units := [])
        masks = [x > 0 for x in units]
        gradient = self.weights[3].mT * masks[2]  # (N, B, 256)
        gradient = (gradient @ self.weights[2].mT) * masks[1]
        gradient = (gradient @ self.weights[1].mT) * masks[0]
        return q, gradient @ self.weights[0][:, obs.shape[-1]:].mT  # (N, B, A)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class EDAC:
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

    def similarity(self, gradient: Tensor) -> Tensor:
        """`gradient`: dQk/da, (N, B, A)."""
        if self.args.es_subsample:
            chosen = torch.rand(len(gradient), generator=self.rng, device=gradient.device).argsort()
            gradient = gradient[chosen[:max(2, self.data.action_size)]]  # code: min(N, A), 0 / 0 where A = 1
        unit = gradient / (gradient.norm(dim=-1, keepdim=True) + 1e-10)
        pairs = unit.sum(0).square().sum() - unit.square().sum()  # over b and j != k
        return pairs / (unit.shape[1] * max(len(unit) - 1, 1))  # (6)

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
        q, gradient = self.critics.with_action_gradient(batch.obs, batch.action)
        similarity = self.similarity(gradient)
        critic_loss = self.critic_loss(q, target).add(similarity, alpha=self.args.eta)  # (7)
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
                "alpha": alpha, "entropy": -log_prob.mean(), "similarity": similarity}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [EDAC(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, alternative=ALTERNATIVE, **{"edac-10": EDAC_10}))
