"""MOPO: Model-based Offline Policy Optimization. Yu et al., NeurIPS 2020, arXiv:2005.13239.

A model of the robot is learned from the data, and an actor practises in it with Soft Actor-Critic (SAC).
Where the data are silent the model is wrong, and an actor finds the places where it is wrong in the actor's
favour. MOPO charges for every imagined step: the reward is lowered by lambda times how unsure the model is
there. If that measure bounds the model's error, the return in the model is at most the true one. So it is
safe to maximise. COMBO, RAMBO and MOBILE start from here.

The model (common/dynamics.py) has seven networks. Each gives, for a state s and an action a, the mean mu_e
and the standard deviation sigma_e of D numbers: the change of the state, and the reward. Of the five best
networks, the elites, one is drawn for each step. s' is the next state, and d = 1 where the episode ends.
mean_b is the mean over a batch, of which a share f are real rows; the others are imagined. A prime on Q
marks a target network, k counts the two critics, i the A dimensions of an action. pi gives the mean and std
of a Gaussian variable z, and the action is tanh(z). alpha, the temperature, is the weight of the entropy.

    u(s, a) = max_e |sigma_e(s, a)|, all seven networks, Euclidean norm over all D numbers                 (1)
    imagined reward = r - lambda u(s, a),  [s' - s, r] = mu_e + sigma_e xi,  xi ~ N(0, I)                  (2)
    y = r + gamma (1 - d) [min_k Qk'(s', a') - alpha log pi(a'|s')],  a' ~ pi(s'), no gradient             (3)
    critic loss = sum_k mean_b (Qk(s, a) - y)^2                                                            (4)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ ~ pi(s)                                (5)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy]                                   (6)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - 2 (log 2 - z_i - softplus(-2 z_i))],  a = tanh(z)     (7)
    actor's learning rate in block j = lr (1 + cos(math.pi j / blocks)) / 2, a block: 1,000 updates        (8)

Before the first update of a block the model imagines h steps from each of 50,000 states of the data. What it
imagined in the last five blocks is kept, first in, first out.

Paper / authors' code / here (v2 datasets have the values of OfflineRL-Kit, a library; v0 the authors'):
- (1): The paper writes the norm of the covariance. The codes take standard deviations, followed here.
- (2): The reward is one of the D numbers: it is sampled, and it counts in u. Real rows keep their reward.
- (3), (5): With v2 datasets alpha is at most 1, as in the Kit; the authors have no such limit.
- (4): The authors write half of it. With Adam only the tiny eps notices.
- (6): The target entropy is -A with v2 datasets, as in the Kit, and -3 for every robot with the authors' v0.
- (7): The authors' form. The Kit's has 1e-6 in a logarithm, and differs by a thousandth at |z| = 4.
- (8): This is the Kit's; the authors' learning rate is constant.
- Critics, actor and alpha make their steps one after another, as in the Kit, not from one set of weights.
- Initial weights are PyTorch's and a log std is at least -5, as in the Kit; the authors' Glorot's and -20.
- The model is trained as the authors' is; common/dynamics.py tells what the Kit does otherwise.
- The authors' buffer keeps a dataset's last million rows, half of medium-expert. Here all are used.
- At a true end the authors teach the model the next episode's first state. Here it is the real next state.

Logged: critic_loss is (4) / 2. q is the mean of Qk(s, a) and target that of (3): below the return where the
penalty is large. Of a batch's imagined rows, penalty is the mean of lambda u, imagined_reward that of (2),
and imagined_done the share that end. actor_loss is (5). alpha falls from 1, entropy is -mean_b log pi(a~|s)
and goes to the target entropy. model.csv has (1) to (3) of common/dynamics.py for each epoch and network.

Read before: sac_n.py (149 lines of code differ).
Run: python algorithms/mopo.py --env hopper-medium-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from common import friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.dynamics import Ensemble, Fit, Preset, Ring, draw, split
from common.graph import side_by_side
from common.pretraining import pretrain
from common.run import Run
from common.terminations import Rule, termination


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 3_000_000  # gradient steps after the model's training; the length of (8)
    penalty_coef: NonNegative = 1.0  # lambda in (2); 0: no pessimism, which is MBPO
    rollout_length: Size = 5  # h, steps imagined from each state
    rollout_batch: Size = 50_000  # states of the data from which steps are imagined
    rollout_every: Size = 1_000  # updates of a block
    retain: Size = 5  # blocks of which imagined rows are kept
    real_ratio: Fraction = 0.05  # f, the share of a batch that is real
    batch_size: Size = 256  # B
    actor_lr: Positive = 1e-4  # of the actor, at first
    cosine: bool = True  # (8); off: constant
    critic_lr: Positive = 3e-4  # of the critics
    alpha_lr: Positive = 1e-4  # of log_alpha
    alpha_max: Annotated[float | None, within("(0, inf)")] = 1.0  # most that alpha is; None: no limit
    target_entropy: Annotated[float | None, within("(-inf, inf)")] = None  # in (6); default: -A
    gamma: Fraction = 0.99  # discount in (3)
    tau: Fraction = 0.005  # Polyak step of the target critics
    model_epochs: Annotated[int | None, within("[1, 1e6]")] = None  # most of the model; default: all it needs
    termination: Rule = "auto"  # when imagined episodes end: as this robot's; auto: as the data's task


def _table(version, **rows):
    return {f"{robot}-{level.replace('_', '-')}-{version}": dict(rollout_length=steps, penalty_coef=penalty)
            for level, row in rows.items()
            for robot, (steps, penalty) in zip(("halfcheetah", "hopper", "walker2d"), row)}


# OfflineRL-Kit's suggestions
PAPER = _table("v2", medium=((5, 0.5), (5, 5.0), (5, 0.5)), medium_replay=((5, 0.5), (5, 2.5), (1, 2.5)),
               medium_expert=((5, 2.5), (5, 5.0), (1, 2.5)))
# the authors' configuration files; those of the random sets stand for v2 too, where nobody has published any
_V0 = dict(random=((5, 0.5), (5, 1.0), (1, 1.0)), medium=((1, 1.0), (5, 5.0), (5, 5.0)),
           medium_replay=((5, 1.0), (5, 1.0), (1, 1.0)), medium_expert=((5, 5.0), (5, 1.0), (1, 2.0)))
PAPER |= _table("v2", random=_V0["random"])  # unverified
_AUTHORS = dict(updates=1_000_000, actor_lr=3e-4, cosine=False, alpha_lr=3e-4, alpha_max=None,
                target_entropy=-3.0)
PAPER |= {name: _AUTHORS | values for name, values in _table("v0", **_V0).items()}

MODEL = Preset(hidden=(200,) * 4, decay=(2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), lr=1e-3, max_log_var=0.5,
               min_log_var=-10.0, bound_coef=0.01, holdout=0.2, holdout_rows=1_000, patience=5)  # both codes'


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Actor(nn.Module):
    """Tanh-Gaussian policy on raw obs: S -> 256 x 2, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size, 256, 256, 2 * action_size]
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
    """Q1 and Q2, S + A -> 256 x 2 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size + action_size, 256, 256, 1]
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


class MOPO:
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
        self.real = int(args.batch_size * args.real_ratio)  # rows of a batch
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.critic_lr, **adam)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.alpha_lr, **adam)
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

    def penalty(self, log_var: Tensor) -> Tensor:
        """lambda u of each row: log_var (7, n, D) -> (n,)."""
        return self.args.penalty_coef * torch.linalg.vector_norm((0.5 * log_var).exp(), dim=-1).amax(0)  # (1)

    @torch.no_grad()
    def imagine(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a step from obs (n, S): action (n, A), next state (n, S), penalised reward (n,)."""
        action, _ = self.actor.sample(obs, self.rng)
        mean, log_var = self.model.predict(obs, action)  # (7, n, D)
        elite = torch.randint(len(self.model.elites), (len(obs),), generator=self.rng, device=obs.device)
        chosen = self.model.elites[elite], torch.arange(len(obs), device=obs.device)
        noise = torch.randn(mean.shape[1:], generator=self.rng, device=obs.device)
        next_obs, reward = draw(obs, mean[chosen], log_var[chosen], noise)
        return action, next_obs, reward - self.penalty(log_var)  # (2)

    @torch.no_grad()
    def rollout(self) -> None:
        """h steps from `rollout_batch` states of the data go into the ring; rows past an end do not."""
        n = self.args.rollout_batch
        index = torch.randint(len(self.data.rows), (n,), generator=self.rng, device=self.data.device)
        obs, alive = self.data.obs[index], torch.ones(n, dtype=torch.bool, device=self.data.device)
        for _ in range(self.args.rollout_length):
            action, next_obs, reward = self.imagine(obs)
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
        alpha = self.log_alpha.detach().exp()
        return alpha if self.args.alpha_max is None else alpha.clamp(max=self.args.alpha_max)

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        next_action, log_prob = self.actor.sample(batch.next_obs, self.rng)
        next_value = self.target_critics(batch.next_obs, next_action).min(0).values - self.alpha() * log_prob
        return torch.addcmul(batch.reward, 1 - batch.done, next_value, value=self.args.gamma)  # (3), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(q, target.expand_as(q), reduction="sum") / q.shape[1]  # (4)

    def actor_loss(self, q: Tensor, log_prob: Tensor) -> Tensor:
        return (self.alpha() * log_prob - q.min(0).values).mean()  # (5)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        given, default = self.args.target_entropy, -self.data.action_size
        return -self.log_alpha * (log_prob.detach().mean() + (default if given is None else given))  # (6)

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
        target, q = self.critic_target(batch), self.critics(batch.obs, batch.action)
        critic_loss = self.critic_loss(q, target)
        descend(self.critic_optimizer, critic_loss)
        action, log_prob = self.actor.sample(batch.obs, self.rng)
        actor_loss = self.actor_loss(self.critics(batch.obs, action), log_prob)
        descend(self.actor_optimizer, actor_loss)
        descend(self.alpha_optimizer, self.alpha_loss(log_prob))
        polyak(self.target_critics, self.critics, self.args.tau)
        if not log:
            return {}
        penalty = self.penalty(self.model.predict(batch.obs[self.real:], batch.action[self.real:])[1])
        imagined = max(1, len(penalty))  # rows
        return {"critic_loss": critic_loss / 2, "q": q.mean(), "target": target.mean(),
                "penalty": penalty.sum() / imagined,
                "imagined_reward": batch.reward[self.real:].sum() / imagined,
                "imagined_done": batch.done[self.real:].sum() / imagined, "actor_loss": actor_loss,
                "alpha": self.alpha(), "entropy": -log_prob.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [MOPO(args, data, seed) for seed in args.seeds]
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
