"""MOBILE: Model-Bellman Inconsistency for Model-based Offline RL. Sun et al., ICML 2023, PMLR 202.

An actor practises in a learned model, and what it imagines must be distrusted where the model is unsure.
MOPO charges once for how wide the next state is spread, in whatever units a state has. But a critic asks
only one thing: does it matter? MOBILE lets each of the model's best networks imagine next states, and the
target critics value them. Futures of equal value cost nothing, however far apart the states are. Where the
value differs from network to network, the Bellman target is lowered by how much it does. This is asked anew
at every update, of the newest critics and actor.

The model (common/dynamics.py) has seven networks; the K = 5 best are the elites. For a state s and an action
a, elite e gives the mean mu_e and the standard deviation sigma_e of the change of the state, and i counts M
next states drawn from it. d = 1 where the episode ends. mean_b is the mean over a batch, of which a share f
are real rows; the others are imagined. A prime on Q marks a target network, k counts the N critics, j the A
dimensions of an action. pi gives the mean and std of a Gaussian variable z, and the action is tanh(z).
alpha, the temperature, is the weight of the entropy. No gradient passes through (1), (2) and (3).

    v_e = mean_i min_k Qk'(s'_ei, a'_ei),  s'_ei = s + mu_e + sigma_e xi_ei,  a'_ei ~ pi(s'_ei)            (1)
    U(s, a) = [sum_e (v_e - mean_e v_e)^2 / (K - 1)]^(1/2) of an imagined row, 0 of a real one             (2)
    y = max(0, r - lambda U(s, a) + gamma (1 - d) min_k Qk'(s', a')),  a' ~ pi(s')                         (3)
    critic loss = mean_k mean_b (Qk(s, a) - y)^2                                                           (4)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ ~ pi(s)                                (5)
    temperature loss = -mean_b log_alpha [log pi(a~|s) - A]                                                (6)
    log pi(a|s) = sum_j [log N(z_j; mean_j, std_j) - 2 (log 2 - z_j - softplus(-2 z_j))],  a = tanh(z)     (7)
    actor's learning rate in block n = lr (1 + cos(math.pi n / blocks)) / 2, a block: 1,000 updates        (8)

Rollouts are as in mopo.py, but the ring has the rewards as they were sampled, without a penalty.

Paper / authors' code / here: only the code was at hand, so every value and detail is the code's, except:
- (2): The code computes U of real rows too, and multiplies it by 0.
- (7): The code has 1e-6 in a logarithm, and differs by a thousandth at |z| = 4.
- In rollouts the code draws an elite for each row. Here each elite has a fifth of the rows, in random order.
- Adroit's rewards are standardised. The code divides by std + 1e-3, this file by std.
- The model's training is that of MOPO's authors. The code stops it an epoch earlier.

What the code chooses, and this file with it: y is at least 0, also with Adroit's standardised rewards
(`--target-min None` drops that). y has no entropy with D4RL's data, but it does with NeoRL's
(`--backup-entropy`). alpha is at most 1, and fixed at 0.2 on hopper-medium and hopper-medium-replay. On
pen-cloned y has each critic's best of 10 next actions. OfflineRL-Kit, by the first author, has the same
updates, but lambda = 2 and f = 0.05 on halfcheetah-medium-expert, and at most 30 epochs of the model.

Logged: critic_loss is (4). q is the mean of Qk(s, a), target that of (3). penalty is the mean of lambda U
over the batch's imagined rows, clamped the share of the batch that the clamp of (3) holds. imagined_reward
has no penalty in it. The rest is as in mopo.py.

Read before: mopo.py (81 lines of code differ).
Run: python algorithms/mobile.py --env hopper-medium-v2
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
from common.dynamics import PIECE, Ensemble, Fit, Preset, Ring, shuffle, split
from common.graph import side_by_side
from common.pretraining import pretrain
from common.run import Run
from common.terminations import Rule, termination


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 3_000_000  # gradient steps after the model's training; the length of (8)
    penalty_coef: NonNegative = 1.0  # lambda in (3)
    num_samples: Size = 10  # M in (1)
    target_min: Annotated[float | None, within("(-inf, inf)")] = 0.0  # least y in (3); None: no limit
    backup_entropy: bool = False  # (3) with the entropy at the next state
    max_q_backup: bool = False  # (3) with each critic's best of 10 next actions
    num_critics: Size = 2  # N
    networks: Literal["mujoco", "adroit", "pen-human"] = "mujoco"  # the others: larger, see _MODELS
    rollout_length: Size = 5  # h, steps imagined from each state
    rollout_batch: Annotated[int, within("[5, 1e6]")] = 50_000  # states from which steps are imagined
    rollout_every: Size = 1_000  # updates of a block
    retain: Size = 5  # blocks of which imagined rows are kept
    real_ratio: Annotated[float, within("[0, 1)")] = 0.05  # f, the share of a batch that is real
    batch_size: Size = 256  # B
    actor_lr: Positive = 1e-4  # of the actor, at first, and of log_alpha
    cosine: bool = True  # (8); off: constant
    critic_lr: Positive = 3e-4  # of the critics
    alpha: Annotated[float | None, within("(0, 1]")] = None  # in (5), fixed; default: trained
    gamma: Fraction = 0.99  # discount in (3)
    tau: Fraction = 0.005  # Polyak step of the target critics
    model_epochs: Annotated[int | None, within("[1, 1e6]")] = None  # most of the model; default: all it needs
    termination: Rule = "auto"  # when imagined episodes end: as this robot's; auto: as the data's task

    def __post_init__(self):
        if self.rollout_batch % MODEL.elites:
            raise InputError(f"--rollout-batch {self.rollout_batch}: give a multiple of {MODEL.elites}")


def _table(**rows):
    return {f"{robot}-{level.replace('_', '-')}-v2": dict(rollout_length=steps, penalty_coef=penalty)
            for level, row in rows.items()
            for robot, (steps, penalty) in zip(("halfcheetah", "hopper", "walker2d"), row)}


# the authors' configuration files
PAPER = _table(random=((5, 0.5), (5, 5.0), (5, 2.0)), medium=((5, 0.5), (5, 1.5), (5, 0.5)),
               medium_replay=((5, 0.1), (5, 0.1), (1, 0.5)), medium_expert=((5, 1.0), (5, 1.5), (1, 1.5)))
PAPER["hopper-medium-v2"]["alpha"] = PAPER["hopper-medium-replay-v2"]["alpha"] = 0.2
PAPER["walker2d-medium-v2"]["model_epochs"] = 30
PAPER["halfcheetah-medium-expert-v2"]["real_ratio"] = 0.5
_PEN = dict(updates=200_000, networks="adroit", num_critics=10, rollout_length=1, actor_lr=3e-5, cosine=False,
            reward="standardize")
PAPER["pen-cloned-v1"] = _PEN | dict(penalty_coef=0.5, real_ratio=0.5, max_q_backup=True)
PAPER["pen-human-v1"] = _PEN | dict(penalty_coef=1.0, real_ratio=0.8, networks="pen-human")

MODEL = Preset(hidden=(200,) * 4, decay=(2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), lr=1e-3, max_log_var=0.5,
               min_log_var=-10.0, bound_coef=0.01, holdout=0.2, holdout_rows=1_000, patience=5)  # as MOPO's
_MODELS = {"mujoco": MODEL, "adroit": replace(MODEL, hidden=(400,) * 4, lr=3e-4, patience=10),
           "pen-human": replace(MODEL, hidden=(400,) * 4, lr=3e-4, patience=20)}


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Actor(nn.Module):
    """Tanh-Gaussian policy on raw obs: S -> 256 x layers, ReLU, then heads for mean and log std, A each."""

    def __init__(self, layers: int, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size, *[256] * layers, 2 * action_size]
        self.weights = nn.ParameterList(uniform((o, i), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((o,), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of z before tanh, each (B, A)."""
        x = obs
        for weight, bias in zip(self.weights[:-1], self.biases):
            x = nn.functional.linear(x, weight, bias).relu_()
        mean, log_std = nn.functional.linear(x, self.weights[-1], self.biases[-1]).chunk(2, -1)
        return mean, nn.functional.hardtanh(log_std, -5, 2)  # a clamp of fewer kernels

    def sample(self, obs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparameterised action (B, A) and its log probability (B,)."""
        mean, log_std = self(obs)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        z = torch.addcmul(mean, log_std.exp(), noise)
        surprise = torch.addcmul(log_std, noise, noise, value=0.5) - 2 * (z + nn.functional.softplus(-2 * z))
        constant = mean.shape[-1] * (2 * math.log(2) + 0.5 * math.log(2 * math.pi))
        return torch.tanh(z), -constant - surprise.sum(-1)  # (7)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


class Critics(nn.Module):
    """Q1, Q2, ..., S + A -> 256 x layers -> 1, as one batched matmul: obs (B, S), action (B, A) -> (N, B)."""

    def __init__(self, num: int, layers: int, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size + action_size, *[256] * layers, 1]
        self.weights = nn.ParameterList(uniform((num, i, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((num, 1, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([obs, action], -1).expand(len(self.weights[0]), -1, -1)  # (N, B, S + A)
        for weight, bias in zip(self.weights[:-1], self.biases):
            x = torch.baddbmm(bias, x, weight).relu_()  # (N, B, 256)
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


class MOBILE:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data, self.seed = args, data, seed
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        sizes = 2 if args.networks == "mujoco" else 3, data.obs_size, data.action_size
        self.actor = Actor(*sizes, init).to(data.device)
        self.critics = Critics(args.num_critics, *sizes, init).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        init = torch.Generator().manual_seed(seed)  # its own: one model, whatever the networks above
        self.model = Ensemble(data.obs_size, data.action_size, _MODELS[args.networks], init).to(data.device)
        split(data, _MODELS[args.networks], seed)  # too few rows end here, before there is a folder
        capacity = args.retain * args.rollout_length * args.rollout_batch
        self.ring = Ring(capacity, data.rows.shape[1]).to(data.device)
        self.real = int(args.batch_size * args.real_ratio)  # rows of a batch
        self.log_alpha = torch.full((), math.log(args.alpha or 1.0), device=data.device, requires_grad=True)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.critic_lr, **adam)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.actor_lr, **adam)
        self.block = torch.zeros((), device=data.device)  # number of blocks begun
        self.actor_lr = torch.tensor(args.actor_lr, device=data.device)  # now
        self.terminal = termination(args.termination, args.env, args.eval_env, data.obs_size)
        self.target_min = -math.inf if args.target_min is None else args.target_min
        self.step = 0

    def fit_model(self) -> Fit:
        preset = replace(_MODELS[self.args.networks], max_epochs=self.args.model_epochs)
        return Fit(self.model, self.data, preset, self.seed)

    @property
    def phase(self) -> bool:
        """Does the next update begin a block? (see common/graph.py)"""
        return self.step % self.args.rollout_every == 0

    @torch.no_grad()
    def penalty(self, obs: Tensor, action: Tensor) -> Tensor:
        """lambda U of each row: obs (n, S), action (n, A) -> (n,)."""
        mean, log_var = self.model(obs, action, self.model.elites)  # (K, n, D)
        mean, std = obs + mean[..., :-1], (0.5 * log_var[..., :-1]).exp()  # (K, n, S): the reward is the last
        noise = torch.randn((self.args.num_samples, *mean.shape), generator=self.rng, device=obs.device)
        next_obs = torch.addcmul(mean, std, noise).flatten(0, 2)  # (M K n, S)
        pieces = next_obs.split(PIECE) if obs.device.type == "cpu" else [next_obs]  # that fit a CPU's cache
        values = [self.target_critics(x, self.actor.sample(x, self.rng)[0]).amin(0) for x in pieces]
        value = torch.cat(values).view(noise.shape[:-1]).mean(0)  # (1), (K, n)
        return self.args.penalty_coef * value.std(0, correction=1)  # (2)

    @torch.no_grad()
    def rollout(self) -> None:
        """h steps from `rollout_batch` states of the data go into the ring; rows past an end do not."""
        n = self.args.rollout_batch
        index = torch.randint(len(self.data.rows), (n,), generator=self.rng, device=self.data.device)
        obs, alive = self.data.obs[index], torch.ones(n, dtype=torch.bool, device=self.data.device)
        for _ in range(self.args.rollout_length):
            obs, alive = shuffle(self.rng, obs, alive)  # each row comes to an elite at random
            action, _ = self.actor.sample(obs, self.rng)
            next_obs, reward = self.model.sample(obs, action, self.rng)
            done = self.terminal(obs, action, next_obs)
            rows = torch.cat([obs, action, reward[:, None], next_obs, done[:, None].to(obs)], 1)
            self.ring.append(rows, alive)
            obs, alive = next_obs, alive & ~done

    def sample(self) -> Batch:
        """A batch, its real rows first."""
        index = torch.randint(len(self.data.rows), (self.real,), generator=self.rng, device=self.data.device)
        imagined = self.ring.sample(self.args.batch_size - self.real, self.rng)
        return self.data.split(torch.cat([self.data.rows[index], imagined]))

    def alpha(self) -> Tensor:
        return self.log_alpha.detach().exp().clamp(max=1.0)

    def next_value(self, next_obs: Tensor) -> Tensor:
        """What Q is worth at the next states (B, S), for (3): (B,)."""
        if self.args.max_q_backup:
            next_obs = next_obs.repeat_interleave(10, 0)
            q = self.target_critics(next_obs, self.actor.sample(next_obs, self.rng)[0])
            return q.unflatten(1, (-1, 10)).amax(-1).amin(0)  # of each critic the best, of these the least
        next_action, log_prob = self.actor.sample(next_obs, self.rng)
        value = self.target_critics(next_obs, next_action).amin(0)
        return value - self.alpha() * log_prob if self.args.backup_entropy else value

    @torch.no_grad()
    def critic_target(self, batch: Batch, penalty: Tensor) -> Tensor:
        """y (B,); the penalty (n,) is that of the batch's last n rows."""
        reward = batch.reward - nn.functional.pad(penalty, (len(batch.reward) - len(penalty), 0))
        next_value = self.next_value(batch.next_obs)
        target = torch.addcmul(reward, 1 - batch.done, next_value, value=self.args.gamma)
        return target.clamp_(min=self.target_min)  # (3)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(q, target.expand_as(q))  # (4)

    def actor_loss(self, q: Tensor, log_prob: Tensor) -> Tensor:
        return (self.alpha() * log_prob - q.min(0).values).mean()  # (5)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return -self.log_alpha * (log_prob.detach().mean() - self.data.action_size)  # (6)

    def begin_block(self) -> None:
        self.rollout()
        if self.args.cosine:
            blocks = math.ceil(self.args.updates / self.args.rollout_every)
            cosine = torch.cos(self.block * math.pi / blocks)
            self.actor_lr.copy_(self.args.actor_lr * (1 + cosine) / 2)  # (8)
        self.block += 1

    def update(self, log: bool = True) -> dict[str, Tensor]:
        if self.phase:
            self.begin_block()
        self.step += 1
        self.actor_optimizer.param_groups[0]["lr"] = self.actor_lr
        batch = self.sample()
        penalty = self.penalty(batch.obs[self.real:], batch.action[self.real:])
        target, q = self.critic_target(batch, penalty), self.critics(batch.obs, batch.action)
        critic_loss = self.critic_loss(q, target)
        descend(self.critic_optimizer, critic_loss)
        action, log_prob = self.actor.sample(batch.obs, self.rng)
        actor_loss = self.actor_loss(self.critics(batch.obs, action), log_prob)
        descend(self.actor_optimizer, actor_loss)
        if self.args.alpha is None:
            descend(self.alpha_optimizer, self.alpha_loss(log_prob))
        polyak(self.target_critics, self.critics, self.args.tau)
        if not log:
            return {}
        clamped = (target <= self.target_min).to(target).mean()
        return {"critic_loss": critic_loss, "q": q.mean(), "target": target.mean(), "penalty": penalty.mean(),
                "clamped": clamped, "imagined_reward": batch.reward[self.real:].mean(),
                "imagined_done": batch.done[self.real:].mean(), "actor_loss": actor_loss,
                "alpha": self.alpha(), "entropy": -log_prob.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [MOBILE(args, data, seed) for seed in args.seeds]
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
