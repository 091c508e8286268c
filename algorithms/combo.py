"""COMBO: Conservative Offline Model-Based Policy Optimization. Yu, Kumar, Rafailov, Rajeswaran, Levine and
Finn, NeurIPS 2021, arXiv:2102.08363.

MOPO has to know where its model is wrong, and what a model says about that is not reliable. COMBO never asks.
It trains its critics on real and imagined transitions, and adds CQL's term: Q is pushed down at actions that
the policy takes, also where it has imagined to be, and pushed up at the data's states and actions. Where
imagination stays within the data, the two pushes cancel. Where it leaves them, only the push down is left. So
Q ends up low there, although nobody has measured how wrong the model is.

The model (common/dynamics.py) has seven networks. Each gives, for a state s and an action a, the mean mu_e
and the standard deviation sigma_e of the change of the state and of the reward. Of the five best networks,
the elites, one is drawn for each step. s' is the next state, and d = 1 where the episode ends. mean_b is the
mean over a batch, of which a share f are real rows; the others are imagined. A prime on Q marks a target
network, k counts the two critics, i the A dimensions of an action, j the J actions of a kind. pi gives
the mean and std of a Gaussian variable z, and the action is tanh(z). alpha, the temperature, is the weight
of the entropy, and beta that of the pushes.

    [s' - s, r] = mu_e + sigma_e xi,  xi ~ N(0, I),  of an imagined step; its reward has no penalty        (1)
    y = r + gamma (1 - d) min_k Qk'(s', a'),  a' ~ pi(s'), no gradient                                     (2)
    c_j ~ pi(s),  n_j ~ pi(s'),  u_j ~ U(-1, 1),  j = 1 ... J, no gradient                                 (3)
    v_k(x) = Qk(s, x) - log density of x,  x: these 3 J actions                                            (4)
    down_k = mean over states and groups of log sum exp v_k(x),  the sum: over the x of a group            (5)
    up_k = mean over the real rows of Qk(s, a)                                                             (6)
    critic loss = sum_k [mean_b (Qk(s, a) - y)^2 + beta (down_k - up_k)]                                   (7)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ ~ pi(s)                                (8)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy],  target entropy = -A             (9)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - 2 (log 2 - z_i - softplus(-2 z_i))],  a = tanh(z)    (10)
    actor's learning rate in block t = lr (1 + cos(math.pi t / blocks)) / 2, a block: 1,000 updates       (11)

Before the first update of a block the model imagines h steps from each of 50,000 states of the data. What it
imagined in the last five blocks is kept, first in, first out. The actor makes its step first, then alpha,
then the critics, for which (2) and (3) take the new actor.

Paper / authors' code / here: no code of the authors is known. This file is as OfflineRL-Kit, a library with
results on v2 datasets, and not as the paper where these two differ:
- (2): The Kit leaves the entropy out. --entropy-backup has min_k Qk'(s', a') - alpha log pi(a'|s').
- (3): n_j is valued at s, but its density is the one at s', as in CQL.
- (5): The paper pushes down the mean of Q at the policy's actions, in imagined states. The Kit pushes CQL's
  soft maximum, in all states of a batch. --push-states model takes the imagined ones alone.
- (5): CQL's group is all 3 J actions of a state: --lse-groups 1. The Kit's are c_j, n_j, u_j, for each j one,
  because a reshape's result is lost, and its betas belong to that. One group has as much push in all, but
  most of it at the best of thirty actions, not of three.
- (7): The paper halves the squares, so that half of this beta has the same effect there.
- (8): The paper's equation has imagined states, its algorithm all of a batch, as here.
- The paper is said to choose who acts in the model, pi or chance. Here it is pi. The Kit can also learn beta
  (off in its results); this file cannot.
- In rollouts the Kit draws an elite for each row. Here each elite has a fifth of the rows, in random order.
- (10): The Kit's has 1e-6 in a logarithm, and differs by a thousandth at |z| = 4.
- The model is trained as MOPO's authors do; common/dynamics.py tells what the Kit does otherwise.

Logged: critic_loss is (7) / 2, td_loss the mean of its squares, push_down and push_up the means of (5) and
(6) over k, conservative their difference. It begins near log 3 + A log 2 (one group: log 3 J + A log 2), as a
flat Q has it. The lower it is, the more the critics prefer the data's actions. q is the mean of Qk(s, a),
target that of (2). Of a batch's imagined rows, imagined_reward is the mean reward, and imagined_done the
share that end; 0 without such rows. actor_loss is (8). alpha falls from 1, entropy is -mean_b log pi(a~|s)
and goes to -A. model.csv has (1) to (3) of common/dynamics.py for each epoch and network.

Read before: mopo.py (94 lines of code differ).
Run: python algorithms/combo.py --env hopper-medium-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from common import InputError, friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.dynamics import Ensemble, Fit, Preset, Ring, shuffle, split
from common.graph import side_by_side
from common.pretraining import pretrain
from common.run import Run
from common.terminations import Rule, termination


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_000_000  # gradient steps after the model's training; the length of (11)
    cql_weight: NonNegative = 0.5  # beta in (7)
    num_actions: Size = 10  # J in (3)
    push_states: Literal["mix", "model"] = "mix"  # states in (5): all of a batch, or the imagined ones
    lse_groups: Size = 10  # groups in (5), J / groups actions of each kind in each: 1 to J
    entropy_backup: bool = False  # the entropy counts in (2)
    rollout_length: Size = 5  # h, steps imagined from each state
    rollout_batch: Annotated[int, within("[5, 1e6]")] = 50_000  # states from which steps are imagined
    rollout_every: Size = 1_000  # updates of a block
    retain: Size = 5  # blocks of which imagined rows are kept
    real_ratio: Annotated[float, within("(0, 1]")] = 0.5  # f, the share of a batch that is real
    batch_size: Size = 256  # B
    actor_lr: Positive = 1e-4  # of the actor, at first, and of log_alpha
    critic_lr: Positive = 3e-4  # of the critics
    gamma: Fraction = 0.99  # discount in (2)
    tau: Fraction = 0.005  # Polyak step of the target critics
    model_epochs: Annotated[int | None, within("[1, 1e6]")] = None  # most of the model; default: all it needs
    termination: Rule = "auto"  # when imagined episodes end: as this robot's; auto: as the data's task

    @property
    def real(self) -> int:
        """Rows of a batch that are real."""
        return max(1, int(self.batch_size * self.real_ratio))

    def __post_init__(self):
        if self.num_actions % self.lse_groups:
            raise InputError(f"--lse-groups {self.lse_groups}: must divide --num-actions {self.num_actions}")
        if self.rollout_batch % MODEL.elites:
            raise InputError(f"--rollout-batch {self.rollout_batch}: must be a multiple of the number of the "
                             f"model's elites, {MODEL.elites}")
        if self.push_states == "model" and self.real == self.batch_size:
            raise InputError(f"--push-states model: --real-ratio {self.real_ratio} leaves none of the "
                             f"{self.batch_size} rows of a batch to be imagined")


def _table(version, **rows):
    return {f"{robot}-{level.replace('_', '-')}-{version}": dict(rollout_length=steps, cql_weight=weight)
            for level, row in rows.items()
            for robot, (steps, weight) in zip(("halfcheetah", "hopper", "walker2d"), row)}


_KIT = dict(medium=((5, 0.5), (5, 5.0), (1, 5.0)), medium_replay=((5, 0.5), (5, 0.5), (1, 0.5)),
            medium_expert=((5, 5.0), (5, 5.0), (1, 5.0)))
PAPER = _table("v2", **_KIT)  # OfflineRL-Kit's suggestions
# unverified: random sets get what medium-replay has, v0 what v2 has; nobody has published their own values
PAPER |= _table("v2", random=_KIT["medium_replay"]) | _table("v0", random=_KIT["medium_replay"], **_KIT)

MODEL = Preset(hidden=(200,) * 4, decay=(2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), lr=1e-3, max_log_var=0.5,
               min_log_var=-10.0, bound_coef=0.01, holdout=0.2, holdout_rows=1_000, patience=5)  # MOPO's


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Actor(nn.Module):
    """Tanh-Gaussian policy on raw obs: S -> 256 x 3, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size, 256, 256, 256, 2 * action_size]
        self.weights = nn.ParameterList(uniform((o, i), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((o,), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of z before tanh, each (B, A)."""
        x = obs
        for weight, bias in zip(self.weights[:-1], self.biases):
            x = nn.functional.linear(x, weight, bias).relu_()
        mean, log_std = nn.functional.linear(x, self.weights[-1], self.biases[-1]).chunk(2, -1)
        return mean, nn.functional.hardtanh(log_std, -5, 2)  # a clamp of fewer kernels

    def sample(self, policy: tuple[Tensor, Tensor], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparameterised action (..., A) and its log probability (...); policy: `forward`'s result."""
        mean, log_std = policy
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        z = torch.addcmul(mean, log_std.exp(), noise)
        surprise = torch.addcmul(log_std, noise, noise, value=0.5) - 2 * (z + nn.functional.softplus(-2 * z))
        constant = mean.shape[-1] * (2 * math.log(2) + 0.5 * math.log(2 * math.pi))
        return torch.tanh(z), -constant - surprise.sum(-1)  # (10)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


class Critics(nn.Module):
    """Q1 and Q2, S + A -> 256 x 3 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size + action_size, 256, 256, 256, 1]
        self.weights = nn.ParameterList(uniform((2, i, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((2, 1, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([obs, action], -1).expand(2, -1, -1)  # (2, B, S + A)
        for weight, bias in zip(self.weights[:-1], self.biases):
            x = torch.baddbmm(bias, x, weight).relu_()  # (2, B, 256)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1]).squeeze(-1)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


# same as atac.py
def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step, of the optimiser's own parameters only."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


class COMBO:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data, self.seed = args, data, seed
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        self.actor = Actor(data.obs_size, data.action_size, init).to(data.device)
        self.critics = Critics(data.obs_size, data.action_size, init).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        init = torch.Generator().manual_seed(seed)  # its own: one model, whatever the networks above
        self.model = Ensemble(data.obs_size, data.action_size, MODEL, init).to(data.device)
        split(data, MODEL, seed)  # too few rows end here, before there is a folder
        capacity = args.retain * args.rollout_length * args.rollout_batch
        self.ring = Ring(capacity, data.rows.shape[1]).to(data.device)
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.critic_lr, **adam)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.actor_lr, **adam)
        self.block = torch.zeros((), device=data.device)  # number of blocks begun
        self.actor_lr = torch.tensor(args.actor_lr, device=data.device)  # now
        self.terminal = termination(args.termination, args.env, args.eval_env, data.obs_size)
        self.step = 0

    def fit_model(self) -> Fit:
        return Fit(self.model, self.data, replace(MODEL, max_epochs=self.args.model_epochs), self.seed)

    @property
    def phase(self) -> bool:
        """Does the next update begin a block? (see common/graph.py)"""
        return self.step % self.args.rollout_every == 0

    @torch.no_grad()
    def imagine(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a step from obs (n, S) in random order: action (n, A), next state (n, S), reward (n,)."""
        action, _ = self.actor.sample(self.actor(obs), self.rng)
        return action, *self.model.sample(obs, action, self.rng)  # (1)

    @torch.no_grad()
    def rollout(self) -> None:
        """h steps from `rollout_batch` states of the data go into the ring; rows past an end do not."""
        n = self.args.rollout_batch
        index = torch.randint(len(self.data.rows), (n,), generator=self.rng, device=self.data.device)
        obs, alive = self.data.obs[index], torch.ones(n, dtype=torch.bool, device=self.data.device)
        for _ in range(self.args.rollout_length):
            obs, alive = shuffle(self.rng, obs, alive)  # so that each row's elite is a random one
            action, next_obs, reward = self.imagine(obs)
            done = self.terminal(obs, action, next_obs)
            rows = torch.cat([obs, action, reward[:, None], next_obs, done[:, None].to(obs)], 1)
            self.ring.append(rows, alive)
            obs, alive = next_obs, alive & ~done

    def sample(self) -> Batch:
        """A batch, its real rows first."""
        real = self.args.real
        index = torch.randint(len(self.data.rows), (real,), generator=self.rng, device=self.data.device)
        imagined = self.ring.sample(self.args.batch_size - real, self.rng)
        return self.data.split(torch.cat([self.data.rows[index], imagined]))

    def alpha(self) -> Tensor:
        return self.log_alpha.detach().exp()

    @torch.no_grad()
    def critic_target(self, batch: Batch, next_policy: tuple[Tensor, Tensor]) -> Tensor:
        next_action, log_prob = self.actor.sample(next_policy, self.rng)
        next_value = self.target_critics(batch.next_obs, next_action).min(0).values
        if self.args.entropy_backup:
            next_value = next_value - self.alpha() * log_prob
        return torch.addcmul(batch.reward, 1 - batch.done, next_value, value=self.args.gamma)  # (2), (B,)

    @torch.no_grad()
    def candidates(self, policy: tuple[Tensor, Tensor], next_policy: tuple[Tensor, Tensor]) -> list[Tensor]:
        """J actions of each kind at M states, (M, J, 3, A), and the logs of their densities, (M, J, 3)."""
        shape = len(policy[0]), self.args.num_actions, self.data.action_size
        repeated = ([x[:, None].expand(shape) for x in each] for each in (policy, next_policy))
        samples = [self.actor.sample(each, self.rng) for each in repeated]
        uniform = 2 * torch.rand(shape, generator=self.rng, device=self.data.device) - 1
        density = torch.full(shape[:2], -shape[-1] * math.log(2), device=self.data.device)  # of 0.5^A
        return [torch.stack(parts, 2) for parts in zip(*samples, (uniform, density))]  # (3)

    def push_down(self, candidate_q: Tensor, log_density: Tensor) -> Tensor:
        """down of each critic, (2,), from Qk at the candidates, (2, M, J, 3)."""
        v = candidate_q - log_density  # (4)
        return v.reshape(2, len(log_density), self.args.lse_groups, -1).logsumexp(-1).mean((1, 2))  # (5)

    def critic_loss(self, q: Tensor, target: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(7), and of each critic the mean of its squares and up, each (2,), from Qk(s, a), (2, B)."""
        td_loss = nn.functional.mse_loss(q, target.expand_as(q), reduction="none").mean(1)
        up = q[:, :self.args.real].mean(1)  # (6)
        return (td_loss + self.args.cql_weight * (down - up)).sum(), td_loss, up  # (7)

    def actor_loss(self, q: Tensor, log_prob: Tensor) -> Tensor:
        return (self.alpha() * log_prob - q.min(0).values).mean()  # (8)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return -self.log_alpha * (log_prob.detach().mean() - self.data.action_size)  # (9)

    def begin_block(self) -> None:
        self.rollout()
        blocks = math.ceil(self.args.updates / self.args.rollout_every)
        cosine = torch.cos(self.block * math.pi / blocks)
        self.actor_lr.copy_(self.args.actor_lr * (1 + cosine) / 2)  # (11)
        self.block += 1

    def update(self, log: bool = True) -> dict[str, Tensor]:
        if self.phase:
            self.begin_block()
        self.step += 1
        self.actor_optimizer.param_groups[0]["lr"] = self.actor_lr
        batch, first = self.sample(), self.args.real if self.args.push_states == "model" else 0
        action, log_prob = self.actor.sample(self.actor(batch.obs), self.rng)
        actor_loss = self.actor_loss(self.critics(batch.obs, action), log_prob)
        descend(self.actor_optimizer, actor_loss)
        descend(self.alpha_optimizer, self.alpha_loss(log_prob))
        with torch.no_grad():  # once for each state; then many actions are drawn
            policy, next_policy = self.actor(batch.obs[first:]), self.actor(batch.next_obs)
        target = self.critic_target(batch, next_policy)
        actions, log_density = self.candidates(policy, [x[first:] for x in next_policy])
        obs = batch.obs[first:].repeat_interleave(3 * self.args.num_actions, 0)  # (3 J M, S)
        obs, actions = torch.cat([batch.obs, obs]), torch.cat([batch.action, actions.flatten(0, 2)])
        q, candidate_q = self.critics(obs, actions).split([len(target), len(obs) - len(target)], 1)
        down = self.push_down(candidate_q.unflatten(1, log_density.shape), log_density)
        critic_loss, td_loss, up = self.critic_loss(q, target, down)
        descend(self.critic_optimizer, critic_loss)
        polyak(self.target_critics, self.critics, self.args.tau)
        if not log:
            return {}
        down, up, imagined = down.mean(), up.mean(), max(1, len(target) - self.args.real)  # rows
        return {"critic_loss": critic_loss / 2, "td_loss": td_loss.mean(), "conservative": down - up,
                "push_down": down, "push_up": up, "q": q.mean(), "target": target.mean(),
                "imagined_reward": batch.reward[self.args.real:].sum() / imagined,
                "imagined_done": batch.done[self.args.real:].sum() / imagined, "actor_loss": actor_loss,
                "alpha": self.alpha(), "entropy": -log_prob.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [COMBO(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    pretrain(run, [agent.fit_model for agent in agents])
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER))
