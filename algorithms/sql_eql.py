"""SQL and EQL: Offline RL with No OOD Actions, In-Sample Learning via Implicit Value Regularization. Xu et
al., ICLR 2023, arXiv:2303.15810.

IQL with a V that is derived: each step costs alpha f(pi / mu) for leaving the data's policy mu. The choice of
f decides V's loss and the policy's weight, which stand side by side below. f = x - 1 (SQL) gives no weight at
all to actions whose value is 2 alpha or more below V, f = log x (EQL) an exponential one.

With x = pi / mu, h(x) = x f(x), g the inverse of h', and U(s) the multiplier of "pi sums to 1", for any f:
    maximise E_pi[Q - alpha f(x)]:  Q - alpha h'(x) - U + beta = 0,  beta >= 0, beta pi = 0
    pi* = mu max(g((Q - U) / alpha), 0),  and E_mu[max(g((Q - U) / alpha), 0)] = 1 fixes U
    V = E_pi*[Q - alpha f(x)] = U + alpha E_mu[x^2 f'(x)],  Q = r + gamma E[V(s')]
SQL, f = x - 1:  h' = 2 x - 1, g(y) = (y + 1) / 2, f' = 1, so V = U + alpha E_pi*[x]; the paper takes this
    mean for 1 (it is 1 + chi^2, V is too small by alpha chi^2): U = V - alpha. U minimises
    E_mu[max(1/2 + (Q - U) / (2 alpha), 0)^2] + U / alpha, which in terms of V is (1)
EQL, f = log x:  h' = 1 + log x, g(y) = exp(y - 1), x^2 f' = x, so U = V - alpha, exactly, and
    V = alpha log E_mu[exp(Q / alpha)] minimises E_mu[exp((Q - V) / alpha)] + V / alpha, which (2) rescales

    SQL value loss = mean_b max(1 + (q - V(s)) / (2 alpha), 0)^2 + V(s) / alpha,  q = min_i Qi'(s, a)      (1)
    EQL value loss = mean_b exp(z - m) + exp(-m) V(s) / alpha,
        z = min((q - V(s)) / alpha, 5),  m = max(max_b z, -1), no gradient                                 (2)
    weight: SQL min(max(q - V(s), 0), 100), EQL min(exp(10 (q - V(s)) / alpha), 100),  V just updated      (3)
    actor loss = -mean_b weight log pi(a|s)                                                                (4)
    y = r + gamma (1 - d) V(s'),  the V just updated, no gradient                                          (5)
    critic loss = sum_i mean_b (Qi(s, a) - y)^2                                                            (6)
    log pi(a|s) = sum_j log N(a_j; mean_j, std_j),  mean = tanh(network), std one free vector              (7)
    actor's learning rate at update t = 0, 1, ... = lr (1 + cos(pi t / updates)) / 2                       (8)

Paper / authors' code / here:
- (3): the paper's weight is pi* / mu: max(1 + (q - V) / (2 alpha), 0) and exp((q - V) / alpha). Here: the
  code.
- (2): neither clamp nor m in the paper. The code's clamp leaves the linear term alone, and V can run away:
  where z is above 5 the gradient is exp(-m) / alpha, which moves V down, away from q. One sample, alpha 1, V
  = 0: q = 4.9 ends at V = 4.9, q = 5.1 falls without bound. Here: the code; --clamp-both stops it (gradient 0
  there).
- V has LayerNorm (eps 1e-6) before each ReLU; the rest is as in iql.py. The AntMaze configuration's dropout
  of V is never active in the code.
- alpha: per dataset in the paper (unverified), per domain in the code. Here: the code; --config early has
  older ones in today's units.
- Six configurations are in the authors' history; the tables are presumably the last one's, which is this
  file's. Nov 2022: PyTorch, normalised observations, squashed Gaussian. 9 March 2023: a quarter of (1),
  written with t = 4 alpha, both terms of (2) clamped, EQL weighted as SQL, Huber critics, lr 2e-4. 12 March:
  as before, but squared critics with LayerNorm, lr 3e-4 (from here on, AntMaze keeps 2e-4). 14 March, the
  tree of the experiments with noisy and few data: no clamp, EQL weight exp((q - V) / alpha), dropout 0.1 on
  MuJoCo, critics without LayerNorm. 22 March: as on 9 March, but squared critics, lr 3e-4. 26 March, the
  release: (1) to (8).

Logged: as in iql.py, with value_loss (1) or (2), weight (SQL 0.1 to 1, EQL 2 to 50) and capped (SQL 0, EQL up
to 0.5) of (3); active, share of the batch with q above V - 2 alpha, V after its step (SQL's non-sparsity, the
authors' tuning signal), 0.5 to 1; clamped, share with q above V + 5 alpha, near 0: when EQL's grows with
advantage, V is running away.

Read before: iql.py (33 lines of code differ).
Run: python algorithms/sql_eql.py --env hopper-medium-v2 --algorithm eql
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

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
    updates: int = 1_000_000  # gradient steps, and the length of the schedule (8)
    batch_size: int = 256  # B
    lr: float = 3e-4  # of V, the critics, and the actor at first
    gamma: float = 0.99  # discount in (5)
    tau: float = 0.005  # Polyak step of the target critics
    algorithm: Literal["sql", "eql"] = "sql"  # f = x - 1 or f = log x
    sql_alpha: float = 1.0  # of SQL, in (1); the smaller, the nearer to the best action of the data
    eql_alpha: float = 2.0  # of EQL, in (2) and (3)
    clamp_both: bool = False  # z in place of the linear term of (2) too, against the runaway
    dropout: float = 0.0  # of the actor's hidden units


# the release's configurations, one for each domain; also for levels that the paper does not have
PAPER = {f"{robot}-{level}-v2": dict(reward="return_range") for robot in ("halfcheetah", "hopper", "walker2d")
         for level in ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")}
_ANTMAZE = dict(sql_alpha=0.1, eql_alpha=0.5, lr=2e-4, reward="r-1", eval_every=100_000, eval_episodes=100)
PAPER |= {f"antmaze-{maze}-v2": _ANTMAZE for maze in (
    "umaze", "medium-play", "medium-diverse", "large-play", "large-diverse")}
PAPER["antmaze-umaze-diverse-v2"] = _ANTMAZE | dict(sql_alpha=3.0, eql_alpha=5.0)
PAPER |= {f"kitchen-{level}-v0": dict(sql_alpha=0.5, eql_alpha=2.0, dropout=0.1, eval_every=10_000)
          for level in ("complete", "partial", "mixed")}
# authors' earlier scripts and answer to reviewers, SQL's divided by 4 (scripts on umaze-diverse: 1.25)
EARLY = {name: values | (dict(sql_alpha=1.25, eql_alpha=5.0) if "medium-expert" in name else
                         dict(sql_alpha=0.5, eql_alpha=5.0) if "umaze-diverse" in name else
                         dict(sql_alpha=0.125) if "antmaze" in name else dict(sql_alpha=0.5, eql_alpha=2.0))
         for name, values in PAPER.items()}


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
            x = torch.baddbmm(bias, x if i == 0 else x.relu_(), weight)
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
        log_std, mean = self.log_std.clamp(-5, 2), torch.tanh(self(obs, dropout, rng)[0])
        z = (action - mean) * torch.exp(-log_std)
        return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)  # (7), (B,)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


class Value(MLP):
    """V: raw obs (B, S) -> (B,), with LayerNorm before each ReLU."""

    def __init__(self, obs_size: int, rng: torch.Generator):
        super().__init__(1, obs_size, 1, rng)
        self.norms = nn.ModuleList([nn.LayerNorm(256, eps=1e-6), nn.LayerNorm(256, eps=1e-6)])

    def forward(self, obs: Tensor) -> Tensor:
        x = obs
        for weight, bias, norm in zip(self.weights, self.biases, self.norms):
            x = norm(torch.addmm(bias[0], x, weight[0])).relu_()
        return torch.addmm(self.biases[2][0], x, self.weights[2][0])[:, 0]


# same as iql.py
class Critics(MLP):
    """Q1 and Q2 as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__(2, obs_size + action_size, 1, rng)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(torch.cat([obs, action], -1))[..., 0]


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class IVR:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.alpha_reg = args.sql_alpha if args.algorithm == "sql" else args.eql_alpha
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
        self.time = torch.zeros((), device=data.device)  # updates done, where a CUDA graph can read them
        self.step = 0

    def value_loss(self, q: Tensor, v: Tensor) -> Tensor:
        if self.args.algorithm == "sql":
            s = 1 + (q - v) / (2 * self.alpha_reg)
            return (s.clamp(min=0) ** 2 + v / self.alpha_reg).mean()  # (1)
        z = ((q - v) / self.alpha_reg).clamp(max=5)
        m = z.max().clamp(min=-1).detach()
        linear = q / self.alpha_reg - z if self.args.clamp_both else v / self.alpha_reg  # code: not clamped
        return (torch.exp(z - m) + torch.exp(-m) * linear).mean()  # (2)

    def weight(self, advantage: Tensor) -> Tensor:
        if self.args.algorithm == "sql":
            return advantage.clamp(0, 100)  # (3), code: no 1 +, no alpha
        return torch.exp(10 * advantage / self.alpha_reg).clamp(max=100)  # (3), code: the 10

    def actor_loss(self, batch: Batch, weight: Tensor) -> Tensor:
        log_prob = self.actor.log_prob(batch.obs, batch.action, self.args.dropout, self.rng)
        return -(weight * log_prob).mean()  # (4)

    def critic_target(self, batch: Batch, next_v: Tensor) -> Tensor:
        return batch.reward + self.args.gamma * (1 - batch.done) * next_v  # (5), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return ((q - target) ** 2).mean(1).sum()  # (6)

    def actor_lr(self) -> Tensor:
        done = (self.time / self.args.updates).clamp(max=1)  # past its end it stays at 0
        return self.args.lr * (1 + torch.cos(math.pi * done)) / 2  # (8)

    def update(self) -> dict[str, Tensor]:
        self.step += 1
        batch = self.data.sample(self.args.batch_size, self.rng)
        batch = batch._replace(action=batch.action.clamp(-1 + 1e-5, 1 - 1e-5))
        with torch.no_grad():
            q = self.target_critics(batch.obs, batch.action).min(0).values
        value_loss = self.value_loss(q, self.value(batch.obs))
        self.descend(self.value_optimizer, value_loss)
        with torch.no_grad():
            v, next_v = self.value(torch.cat([batch.obs, batch.next_obs])).chunk(2)  # code: the new V
            weight, target = self.weight(q - v), self.critic_target(batch, next_v)
        actor_loss = self.actor_loss(batch, weight)
        self.actor_optimizer.param_groups[0]["lr"] = actor_lr = self.actor_lr()
        self.descend(self.actor_optimizer, actor_loss)
        critic_loss = self.critic_loss(self.critics(batch.obs, batch.action), target)
        self.descend(self.critic_optimizer, critic_loss)
        polyak(self.target_critics, self.critics, self.args.tau)
        self.time += 1
        return {"critic_loss": critic_loss, "value_loss": value_loss, "actor_loss": actor_loss, "q": q.mean(),
                "v": v.mean(), "advantage": (q - v).mean(), "weight": weight.mean(), "actor_lr": actor_lr,
                "capped": (weight >= 100).float().mean(), "log_std": self.actor.log_std.mean(),
                "active": (q > v - 2 * self.alpha_reg).float().mean(),
                "clamped": (q > v + 5 * self.alpha_reg).float().mean()}

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows)
    agents = [IVR(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update()
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, early=EARLY))
