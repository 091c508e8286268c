"""XQL: Extreme Q-Learning, MaxEnt RL without Entropy. Garg, Hejna, Geist and Ermon, ICLR 2023,
arXiv:2301.02328.

XQL is IQL with another V(s): beta times the logarithm of the mean of exp(Q(s, a) / beta) over the dataset's
actions at s. That is the optimal value when each step costs beta KL(pi | mu), where mu is the policy that
made the data. beta near 0 gives the best of the data's actions, a large beta their mean. V is fitted by
Gumbel regression, a convex loss that follows from taking the errors of a maximum as Gumbel distributed. EQL
(sql_eql.py) has the same gradient where neither clips. The exponential is fragile: the clip, the rescaling by
the batch's maximum and LayerNorm on V are what makes it run.

A prime on Q marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout. mean_b
and max_b are over a batch, and (s, a) is from the data. i counts the two critics, j the A dimensions of an
action.

    z = min((q - V(s)) / beta, clip),  m = max(max_b z, -1),  q = min_i Qi'(s, a), no gradient in q and m  (1)
    value loss = mean_b [exp(z - m) - z exp(-m) - exp(-m)] = exp(-m) mean_b [exp(z) - z - 1]               (2)
    weight = min(exp(inverse_temperature (q - V(s))), 100),  the V just updated, no gradient               (3)
    actor loss = -mean_b weight log pi(a|s)                                                                (4)
    y = r + gamma (1 - d) V(s'),  the V just updated, no gradient                                          (5)
    critic loss = sum_i mean_b h(Qi(s, a) - y),  Huber: h(x) = x^2 / 2, or 20 |x| - 200 where |x| > 20     (6)
    log pi(a|s) = sum_j log N(a_j; mean_j, std_j),  mean = tanh(network), std one free vector              (7)
    actor's learning rate at update t = 0, 1, ... = lr (1 + cos(math.pi t / updates)) / 2                  (8)

Paper / authors' code / here: where the two differ, this file follows the code.
- (3): The paper's weight is exp((Q - V) / beta). The code has IQL's inverse temperatures and cap.
- (1): The paper's appendix clips z on both sides, the code only above. A clipped sample has no gradient, so V
  can be stuck far below Q (EQL's runs away). The tables call the clip "Grad Clip".
- (6): The paper squares the error. LayerNorm on V is in the code only. On AntMaze the code leaves (8) out.
- In (2) only, --num-random adds uniform actions and --noise moves the data's: both ask Q about actions that
  the data lack. --value-steps repeats (2) on a batch. Four datasets of --config tuned use one of the three,
  and Adroit the first.
- The default is one setting per domain, from the authors' "consistent" scripts, which start one dataset of
  each domain. --config tuned has six values per dataset, from their other scripts, chosen by score. One is
  the batch size, on which m depends.
- The authors' README contradicts these scripts: antmaze-large-play has beta 0.8 there (scripts: 0.6), and
  halfcheetah-medium-expert one random action (scripts: none). It names the scripts for reproduction, and this
  file follows them. Adroit alone is the README's, as its script starts kitchen-mixed instead. The README has
  pen-human only; the other tasks have the same values here, unverified.
- The scripts run six seeds, the older draft has 5 on MuJoCo; our table has 5. Whether the paper's scores are
  last or best is unverified. The draft has other values of beta and the clip. The paper's AntMaze is v0.

Logged: as in iql.py, but for these. value_loss is (2), never negative. weight is the mean of (3), 1 to 25.
max is m of (1), 0 to the clip. clipped is the share of the batch with z at the clip, with the V just updated;
it is near 0, or V is stuck below q.

Read before: iql.py (55 lines of code differ).
Run: python algorithms/xql.py --env hopper-medium-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from common import InputError, friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_000_000  # gradient steps, and the length of the schedule (8)
    batch_size: Size = 256  # B
    lr: Positive = 3e-4  # of V, the critics, and the actor at first
    gamma: Fraction = 0.99  # discount in (5)
    tau: Fraction = 0.005  # Polyak step of the target critics
    beta: Positive = 2.0  # temperature in (1)
    clip: Positive = 7.0  # of z, in (1)
    inverse_temperature: NonNegative = 3.0  # in (3)
    num_random: Annotated[int, within("[0, 1e6]")] = 0  # uniform actions beside each of the data's, in (2)
    noise: NonNegative = 0.0  # std of the noise on the data's actions in (2)
    value_steps: Size = 1  # steps on (2) in each update
    cosine: bool = True  # (8); without it the actor's rate is constant
    dropout: Annotated[float, within("[0, 1)")] = 0.0  # of the actor's hidden units

    def __post_init__(self):
        if self.num_random and self.noise:
            raise InputError("--num-random and --noise exclude each other")  # code: an error of shapes


# authors' "consistent" scripts, one setting for each domain; also for levels that the paper does not have
PAPER = {f"{robot}-{level}-v2": dict(reward="return_range") for robot in ("halfcheetah", "hopper", "walker2d")
         for level in ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")}
_ANTMAZE = dict(beta=0.6, inverse_temperature=10.0, cosine=False, reward="r-1", eval_every=30_000,
                eval_episodes=100)
PAPER |= {f"antmaze-{maze}-{v}": _ANTMAZE for v in ("v0", "v2") for maze in (
    "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")}
_KITCHEN = dict(beta=5.0, inverse_temperature=0.5, dropout=0.1)
_ADROIT = dict(beta=8.0, clip=5.0, num_random=1, batch_size=1024)  # batch: their default
PAPER |= {f"kitchen-{level}-v0": _KITCHEN for level in ("complete", "partial", "mixed")}
PAPER |= {f"{task}-{level}-{v}": _KITCHEN | _ADROIT for v in ("v0", "v1")
          for task in ("pen", "hammer", "door", "relocate") for level in ("human", "cloned")}
_VALUES = {  # authors' launch scripts: beta, clip, batch, and what else
    "halfcheetah-medium-v2": (1, 7, 1024, dict(noise=0.1)), "hopper-medium-v2": (5, 7, 1024),
    "walker2d-medium-v2": (10, 7, 1024), "halfcheetah-medium-replay-v2": (1, 5, 256),
    "hopper-medium-replay-v2": (2, 7, 256), "walker2d-medium-replay-v2": (5, 5, 1024),
    "halfcheetah-medium-expert-v2": (1, 5, 1024), "hopper-medium-expert-v2": (2, 7, 1024, dict(num_random=1)),
    "walker2d-medium-expert-v2": (2, 5, 256), "antmaze-umaze-v0": (2, 7, 256),
    "antmaze-umaze-diverse-v0": (5, 7, 256, dict(num_random=1)), "antmaze-medium-play-v0": (0.8, 5, 256),
    "antmaze-medium-diverse-v0": (0.6, 7, 256, dict(value_steps=4)), "antmaze-large-play-v0": (0.6, 5, 1024),
    "antmaze-large-diverse-v0": (0.55, 5, 1024), "kitchen-complete-v0": (2, 7, 1024),
    "kitchen-partial-v0": (5, 7, 1024), "kitchen-mixed-v0": (8, 7, 1024)}
TUNED = {name: PAPER[name] | dict(beta=float(beta), clip=float(clip), batch_size=size, **(extra or [{}])[0])
         for name, (beta, clip, size, *extra) in _VALUES.items()}


# same as iql.py
class MLP(nn.Module):
    """`num` networks side by side, in -> 256 -> 256 -> out, ReLU: x (B, in) -> (num, B, out)."""

    def __init__(self, num: int, fan_in: int, fan_out: int, rng: torch.Generator):
        super().__init__()
        pairs = (fan_in, 256), (256, 256), (256, fan_out)
        self.weights = nn.ParameterList(torch.empty(num, i, o) for i, o in pairs)
        self.biases = nn.ParameterList(torch.zeros(num, 1, o) for _, o in pairs)
        for matrix in (matrix for weight in self.weights for matrix in weight):
            nn.init.orthogonal_(matrix, 2**0.5, generator=rng)  # code: in every layer, outputs included

    def forward(self, x: Tensor, dropout: float = 0.0, rng: torch.Generator | None = None) -> Tensor:
        x = x.expand(len(self.weights[0]), -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = torch.baddbmm(bias, x, weight)
            if dropout and i < 2:  # of hidden units; before ReLU is the same as after it
                x = x * (torch.rand(x.shape, generator=rng, device=x.device) >= dropout) / (1 - dropout)
        return x


# same as iql.py
class Actor(MLP):
    """Gaussian policy on raw obs (B, S): the tanh of a network is its mean; a free log std per dimension."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__(1, obs_size, action_size, rng)
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def log_prob(self, obs: Tensor, action: Tensor, dropout: float, rng: torch.Generator) -> Tensor:
        log_std = nn.functional.hardtanh(self.log_std, -5, 2)  # a clamp whose gradient is one kernel
        mean = torch.tanh(self(obs, dropout, rng).squeeze(0))
        squares = nn.functional.mse_loss(mean, action, reduction="none")  # (B, A)
        at_mean = -0.5 * math.log(2 * math.pi) * len(log_std) - log_std.sum()  # log pi(mean|s)
        return torch.addmv(at_mean, squares, torch.exp(-2 * log_std), alpha=-0.5)  # (7), (B,)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


# same as sql_eql.py
class Value(MLP):
    """V: raw obs (B, S) -> (B,), with LayerNorm before each ReLU."""

    def __init__(self, obs_size: int, rng: torch.Generator):
        super().__init__(1, obs_size, 1, rng)
        self.norms = nn.ModuleList([nn.LayerNorm(256, eps=1e-6), nn.LayerNorm(256, eps=1e-6)])

    def forward(self, obs: Tensor) -> Tensor:
        x = obs
        for weight, bias, norm in zip(self.weights, self.biases, self.norms):
            x = norm(torch.addmm(bias.squeeze(0), x, weight.squeeze(0))).relu_()
        return torch.addmm(self.biases[2].squeeze(0), x, self.weights[2].squeeze(0)).squeeze(-1)


# same as iql.py
class Critics(MLP):
    """Q1 and Q2 as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__(2, obs_size + action_size, 1, rng)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(torch.cat([obs, action], -1)).squeeze(-1)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class XQL:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        self.actor = Actor(data.obs_size, data.action_size, init).to(data.device)
        self.value = Value(data.obs_size, init).to(data.device)
        self.critics = Critics(data.obs_size, data.action_size, init).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        adam = dict(lr=args.lr, fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), **adam)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), **adam)
        self.step = 0
        self.count = torch.zeros((), dtype=torch.int64, device=data.device)  # `step` on the device, for (8)

    def value_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States and actions of (2): the data's, and what --num-random or --noise make of them."""
        obs, action, args = batch.obs, batch.action, self.args
        if args.num_random:
            obs = obs.repeat(1 + args.num_random, 1)
            shape = args.num_random * len(action), action.shape[1]
            uniform = torch.rand(shape, generator=self.rng, device=action.device) * 2 - 1
            action = torch.cat([action, uniform])
        elif args.noise:
            noise = args.noise * torch.randn(action.shape, generator=self.rng, device=action.device)
            action = (action + noise.clamp(-0.5, 0.5)).clamp(-1, 1)
        return obs, action

    def value_loss(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(2), and m."""
        z = nn.functional.hardtanh((q - v) / self.args.beta, -math.inf, self.args.clip)  # code: no lower clip
        m = z.max().clamp(min=-1).detach()  # (1)
        return (torch.exp(z - m) - (z + 1) * torch.exp(-m)).mean(), m  # (2)

    def imitation_weight(self, advantage: Tensor) -> Tensor:
        return torch.exp(self.args.inverse_temperature * advantage).clamp(max=100)  # (3), code: not 1 / beta

    def actor_loss(self, batch: Batch, imitation_weight: Tensor) -> Tensor:
        log_prob = self.actor.log_prob(batch.obs, batch.action, self.args.dropout, self.rng)
        return imitation_weight @ log_prob / -len(log_prob)  # (4)

    def critic_target(self, batch: Batch, next_v: Tensor) -> Tensor:
        return torch.addcmul(batch.reward, 1 - batch.done, next_v, value=self.args.gamma)  # (5), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        huber = nn.functional.huber_loss(q, target.expand_as(q), delta=20.0)  # a mean over both critics
        return len(q) * huber  # (6), code: not squared

    def actor_lr(self) -> Tensor:
        angle = self.count * (math.pi * self.args.cosine / self.args.updates)
        return self.args.lr / 2 * (1 + torch.cos(angle.clamp(max=math.pi)))  # (8), pi past the end

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        batch = self.data.sample(self.args.batch_size, self.rng)
        batch = batch._replace(action=batch.action.clamp(-1 + 1e-5, 1 - 1e-5))
        obs, action = self.value_batch(batch)
        with torch.no_grad():
            q = value_q = self.target_critics(obs, action).min(0).values
            if action is not batch.action:
                q = self.target_critics(batch.obs, batch.action).min(0).values
        for _ in range(self.args.value_steps):
            value_loss, m = self.value_loss(value_q, self.value(obs))
            self.descend(self.value_optimizer, value_loss)
        with torch.no_grad():
            v, next_v = self.value(torch.cat([batch.obs, batch.next_obs])).chunk(2)  # code: the new V
            imitation_weight, target = self.imitation_weight(q - v), self.critic_target(batch, next_v)
        actor_loss = self.actor_loss(batch, imitation_weight)
        self.actor_optimizer.param_groups[0]["lr"] = actor_lr = self.actor_lr()
        self.descend(self.actor_optimizer, actor_loss)
        critic_loss = self.critic_loss(self.critics(batch.obs, batch.action), target)
        self.descend(self.critic_optimizer, critic_loss)
        polyak(self.target_critics, self.critics, self.args.tau)
        self.count += 1
        if not log:
            return {}
        return {"critic_loss": critic_loss, "value_loss": value_loss, "actor_loss": actor_loss, "q": q.mean(),
                "v": v.mean(), "advantage": (q - v).mean(), "weight": imitation_weight.mean(),
                "actor_lr": actor_lr, "capped": (imitation_weight >= 100).float().mean(),
                "log_std": self.actor.log_std.mean(),
                "max": m, "clipped": (q > v + self.args.clip * self.args.beta).float().mean()}

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [XQL(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, tuned=TUNED))
