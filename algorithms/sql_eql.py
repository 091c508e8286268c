"""SQL and EQL: Offline RL with No OOD Actions, In-Sample Learning via Implicit Value Regularization. Xu et
al., ICLR 2023, arXiv:2303.15810.

SQL and EQL are IQL with a V that is derived. Each step costs alpha f(x) for leaving mu, the policy that made
the data; x is pi(a|s) / mu(a|s). The choice of f decides V's loss and the policy. With f = x - 1 (SQL) the
best policy never takes an action whose value is 2 alpha or more below V. With f = log x (EQL) it takes every
action of the data, with exponential weights.

A prime on Q marks a target network, and on f and h a derivative. s' is the next state, and d = 1 at a true
end, never at a timeout. mean_b and max_b are over a batch, and (s, a) is from the data. i counts the two
critics, j the A dimensions of an action.

The derivation, at one state and for any f: h(x) = x f(x), and g is the inverse of h'. U is the multiplier of
"pi sums to 1", beta that of pi >= 0. E_pi and E_mu are means over actions from pi and from mu.
    maximise E_pi[Q - alpha f(x)]:  Q - alpha h'(x) - U + beta = 0,  beta >= 0, beta pi = 0
    pi* = mu max(g((Q - U) / alpha), 0),  and E_mu[max(g((Q - U) / alpha), 0)] = 1 fixes U
    V = E_pi*[Q - alpha f(x)] = U + alpha E_mu[x^2 f'(x)],  Q = r + gamma E[V(s')]
- SQL: h' = 2 x - 1, g(k) = (k + 1) / 2 and f' = 1, so V = U + alpha E_pi*[x]. The paper takes this mean for
  1, which gives U = V - alpha. In truth it is 1 + chi^2, where chi^2 measures how far pi* is from mu, so this
  V is too small by alpha chi^2. U minimises E_mu[max(1/2 + (Q - U) / (2 alpha), 0)^2] + U / alpha, which in
  terms of V is (1).
- EQL: h' = 1 + log x, g(k) = exp(k - 1) and x^2 f' = x, so U = V - alpha, exactly. V is the logarithm of
  E_mu[exp(Q / alpha)], times alpha, and it minimises E_mu[exp((Q - V) / alpha)] + V / alpha, which (2)
  multiplies by exp(-m).

    SQL value loss = mean_b max(1 + (q - V(s)) / (2 alpha), 0)^2 + V(s) / alpha,  q = min_i Qi'(s, a)      (1)
    EQL value loss = mean_b exp(z - m) + exp(-m) V(s) / alpha,
        z = min((q - V(s)) / alpha, 5),  m = max(max_b z, -1),  no gradient in q and m                     (2)
    weight: SQL min(max(q - V(s), 0), 100), EQL min(exp(10 (q - V(s)) / alpha), 100),  V just updated      (3)
    actor loss = -mean_b weight log pi(a|s)                                                                (4)
    y = r + gamma (1 - d) V(s'),  the V just updated, no gradient                                          (5)
    critic loss = sum_i mean_b (Qi(s, a) - y)^2                                                            (6)
    log pi(a|s) = sum_j log N(a_j; mean_j, std_j),  mean = tanh(network), std one free vector              (7)
    actor's learning rate at update t = 0, 1, ... = lr (1 + cos(math.pi t / updates)) / 2                  (8)

Paper / authors' code / here: the authors say that their release reproduces the paper; this file follows it.
- The authors' history has six configurations, and which made the tables is not recorded. The last, their
  release, is this file's; benchmark/results/sql_eql_history.md lists them all.
- (3): The paper's weight is pi* / mu: max(1 + (q - V) / (2 alpha), 0) and exp((q - V) / alpha).
- (2): The paper has neither the limit of 5 nor m. The code limits the exponential only. Where z is at the
  limit, only the linear term V(s) / alpha has a gradient. It moves V down, away from q, and V can run away.
  With one sample, alpha = 1 and V = 0 at first, q = 4.9 ends at V = 4.9, but q = 5.1 makes V fall without
  bound. --clamp-both limits the linear term too, so that the gradient there is 0.
- V has LayerNorm (eps 1e-6) before each ReLU. The code's AntMaze configuration also asks for dropout in V,
  but never switches it on. The rest is as in iql.py.
- The paper has one alpha per dataset (unverified), the code one per domain. --config early has older values
  of the authors. SQL's are divided by 4 here, because (1) was then written in terms of 4 alpha.

Logged: as in iql.py, but for these. value_loss is (1) or (2). weight is the mean of (3): SQL 0.1 to 1, EQL 2
to 50. capped: SQL 0, EQL up to 0.5. active is the share of the batch with q above V - 2 alpha, 0.5 to 1; the
authors call it non-sparsity and tune SQL's alpha by it. clamped is the share with q above V + 5 alpha, near
0: when EQL's grows together with advantage, V is running away. Both are taken with the V just updated.

Read before: iql.py (34 lines of code differ).
Run: python algorithms/sql_eql.py --env hopper-medium-v2 --algorithm eql
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from common import friendly
from common.args import Count, Fraction, Positive, RunArgs, Seeds, Size, parse, within
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
    algorithm: Literal["sql", "eql"] = "sql"  # f = x - 1 or f = log x
    sql_alpha: Positive = 1.0  # of SQL, in (1); the smaller, the nearer to the best action of the data
    eql_alpha: Positive = 2.0  # of EQL, in (2) and (3)
    clamp_both: bool = False  # limit the linear term of (2) as well, so that V cannot run away
    dropout: Annotated[float, within("[0, 1)")] = 0.0  # of the actor's hidden units


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
        self.step = 0
        self.count = torch.zeros((), dtype=torch.int64, device=data.device)  # `step` on the device, for (8)

    def value_loss(self, q: Tensor, v: Tensor) -> Tensor:
        if self.args.algorithm == "sql":
            slack = 1 + (q - v) / (2 * self.alpha_reg)
            return (slack.relu() ** 2 + v / self.alpha_reg).mean()  # (1)
        z = nn.functional.hardtanh((q - v) / self.alpha_reg, -math.inf, 5)  # a clamp
        m = z.max().clamp(min=-1).detach()
        linear = q / self.alpha_reg - z if self.args.clamp_both else v / self.alpha_reg  # code: not clamped
        return (torch.exp(z - m) + torch.exp(-m) * linear).mean()  # (2)

    def imitation_weight(self, advantage: Tensor) -> Tensor:
        if self.args.algorithm == "sql":
            return advantage.clamp(0, 100)  # (3), code: no 1 +, no alpha
        return torch.exp(10 * advantage / self.alpha_reg).clamp(max=100)  # (3), code: the 10

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
                "log_std": self.actor.log_std.mean(),
                "active": (q > v - 2 * self.alpha_reg).float().mean(),
                "clamped": (q > v + 5 * self.alpha_reg).float().mean()}

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [IVR(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, early=EARLY))
