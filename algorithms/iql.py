"""IQL: Offline Reinforcement Learning with Implicit Q-Learning. Kostrikov, Nair and Levine, ICLR 2022,
arXiv:2110.06169.

IQL never asks for the value of an action that the data lack. V(s) is an upper expectile of Q(s, a) over the
dataset's actions at s, that is, the number that makes (2) smallest. expectile = 0.5 gives the mean of their
values; as it goes to 1, V(s) goes to the largest. Q is plain regression on r + gamma V(s'). So IQL is
optimistic about which action is taken, and never about where a random transition leads. The policy imitates
the data's actions, each with a weight that grows exponentially with its advantage. sql_eql.py and xql.py
change little more than (2) and (3).

A prime on Q marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout. mean_b
is the mean over a batch, and (s, a) is from the data. i counts the two critics, j the A dimensions of an
action. 1(u < 0) is 1 where u < 0, and 0 elsewhere.

    u = min_i Qi'(s, a) - V(s),  no gradient in Qi'                                                        (1)
    value loss = mean_b |expectile - 1(u < 0)| u^2                                                         (2)
    weight = min(exp(inverse_temperature u), 100),  u with the V just updated, no gradient                 (3)
    actor loss = -mean_b weight log pi(a|s)                                                                (4)
    y = r + gamma (1 - d) V(s'),  the V just updated, no gradient                                          (5)
    critic loss = sum_i mean_b (Qi(s, a) - y)^2                                                            (6)
    log pi(a|s) = sum_j log N(a_j; mean_j, std_j),  mean = tanh(network), std one free vector              (7)
    actor's learning rate at update t = 0, 1, ... = lr (1 + cos(math.pi t / updates)) / 2                  (8)

Paper / authors' code / here: the code made the tables, so this file follows it in every point.
- (3): The paper has no cap.
- In the paper, the policy may be trained once V and Q are finished. The code trains all three in every
  update: it steps V, then the policy and the critics with the new V, then the targets.
- (7): This is a Gaussian of the action itself. The tanh only bounds its mean and needs no correction. The
  code moves dataset actions to within +-(1 - 1e-5).
- Every weight matrix starts orthogonal with gain sqrt(2), also in output layers, and every bias at 0.
- On MuJoCo the code scales rewards until the best and the worst trajectory's returns are 1000 apart. On
  another scale the same inverse temperature would mean something else. On AntMaze it takes 1 from every
  reward.
- Observations stay raw. Dropout (0.1 on Kitchen and Adroit) acts in the actor's loss only.
- The paper's AntMaze is v0; PAPER has the same values for v2. The number of seeds is unverified; the XQL
  paper says 5. The paper's online fine-tuning is not here.

Logged: critic_loss is (6), value_loss (2), actor_loss (4). q is the mean of min_i Qi'(s, a), and v that of
V(s): both level off near the discounted return of the scaled rewards. advantage is the mean of (1) with the
new V, small beside v. weight is the mean of (3), near 1 on one policy's data, up to 30 on a replay buffer.
capped is the share of the batch at the cap of (3): 0, on a replay buffer up to 0.3. log_std is its mean over
dimensions and settles above -5, where it is clamped. actor_lr is (8).

Read before: td3_bc.py (96 lines of code differ).
Run: python algorithms/iql.py --env hopper-medium-v2
"""

import math
from copy import deepcopy
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
    updates: Count = 1_000_000  # gradient steps, and the length of the schedule (8)
    batch_size: Size = 256  # B
    lr: Positive = 3e-4  # of V, the critics, and the actor at first
    gamma: Fraction = 0.99  # discount in (5)
    tau: Fraction = 0.005  # Polyak step of the target critics
    expectile: Annotated[float, within("(0, 1)")] = 0.7  # in (2); 0.5 is the mean, 1 the maximum
    inverse_temperature: NonNegative = 3.0  # in (3), the paper's beta; 0 is behaviour cloning
    dropout: Annotated[float, within("[0, 1)")] = 0.0  # of the actor's hidden units


# the authors' configurations, one for each domain; also for levels that the paper does not have
PAPER = {f"{robot}-{level}": dict(reward="return_range") for robot in ("halfcheetah", "hopper", "walker2d")
         for level in ("full-replay-v2", *(f"{level}-{v}" for v in ("v0", "v2") for level in (
             "random", "medium", "medium-replay", "medium-expert", "expert")))}
_ANTMAZE = dict(expectile=0.9, inverse_temperature=10.0, reward="r-1", eval_every=100_000, eval_episodes=100)
PAPER |= {f"antmaze-{maze}-{v}": _ANTMAZE for v in ("v0", "v2") for maze in (
    "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")}
PAPER |= {name: dict(inverse_temperature=0.5, dropout=0.1) for name in (
    *(f"kitchen-{level}-v0" for level in ("complete", "partial", "mixed")),
    *(f"{task}-{level}-{v}" for v in ("v0", "v1") for task in ("pen", "hammer", "door", "relocate")
      for level in ("human", "cloned")))}


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


class Value(MLP):
    """V: raw obs (B, S) -> (B,)."""

    def __init__(self, obs_size: int, rng: torch.Generator):
        super().__init__(1, obs_size, 1, rng)

    def forward(self, obs: Tensor) -> Tensor:
        return super().forward(obs).flatten()


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


class IQL:
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

    def value_loss(self, q: Tensor, v: Tensor) -> Tensor:
        asymmetry = torch.where(q < v, 1 - self.args.expectile, self.args.expectile)  # (1), u < 0 where q < v
        return (asymmetry * nn.functional.mse_loss(v, q, reduction="none")).mean()  # (2)

    def imitation_weight(self, advantage: Tensor) -> Tensor:
        return torch.exp(self.args.inverse_temperature * advantage).clamp(max=100)  # (3), code: the cap

    def actor_loss(self, batch: Batch, imitation_weight: Tensor) -> Tensor:
        log_prob = self.actor.log_prob(batch.obs, batch.action, self.args.dropout, self.rng)
        return imitation_weight @ log_prob / -len(log_prob)  # (4)

    def critic_target(self, batch: Batch, next_v: Tensor) -> Tensor:
        return torch.addcmul(batch.reward, 1 - batch.done, next_v, value=self.args.gamma)  # (5), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return len(q) * nn.functional.mse_loss(q, target.expand_as(q))  # (6), 2 times the mean over both

    def actor_lr(self) -> Tensor:
        angle = self.count * (math.pi / self.args.updates)
        return self.args.lr / 2 * (1 + torch.cos(angle.clamp(max=math.pi)))  # (8), pi past the end

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        batch = self.data.sample(self.args.batch_size, self.rng)
        batch = batch._replace(action=batch.action.clamp(-1 + 1e-5, 1 - 1e-5))
        with torch.no_grad():
            q = self.target_critics(batch.obs, batch.action).min(0).values
        value_loss = self.value_loss(q, self.value(batch.obs))
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
                "log_std": self.actor.log_std.mean()}

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [IQL(args, data, seed) for seed in args.seeds]
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
