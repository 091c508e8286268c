"""RAMBO: Robust Adversarial Model-Based Offline RL. Rigter, Lacerda, Hawes, NeurIPS 2022, arXiv:2204.12581.

As in MOPO, an actor practises in a model that is learned from the data, and finds the places where the model
is wrong in the actor's favour. MOPO measures how unsure the model is, and charges for it. RAMBO makes the
model an opponent: after every 1,000 updates of the agent it takes 1,000 steps that make what it imagines a
little worse for the actor, and that keep it true to the data. Where there are data, they win. Elsewhere the
model is free to turn pessimistic.

The model (common/dynamics.py) has seven networks. Each gives, for a state s and an action a, the mean mu_e
and the standard deviation sigma_e of D numbers y: the change of the standardised state, and the reward r. Of
the five best networks, the elites, one is drawn for each step; it draws y, and so the next state s'. T is
the law of such a y. d = 1 where the episode ends. mean_b is the mean over a batch. A prime on Q marks a
target network, k counts the two critics, i the D numbers of y or the A dimensions of an action. pi gives the
mean and std of a Gaussian variable z, and the action is tanh(z). alpha, the temperature, is the weight of the
entropy. In (3) a ~ pi(s) and y ~ T, and w is the advantage with mean 0 and std 1 over the batch.

    log T(y|s, a) = log mean_e exp sum_i log N(y_i; mu_ei, sigma_ei),  e: the elites                       (1)
    advantage = r + gamma (1 - d) V(s') - min_k Qk(s, a),  V(s') = min_k Qk(s', tanh(mean(s')))            (2)
    adversary's loss = mean_b [w log T(y|s, a)],  w = (advantage - its mean) / its std, no gradient        (3)
    model's loss = L + lambda (3),  L on real rows: (2) of common/dynamics.py                              (4)
    target = r + gamma (1 - d) [min_k Qk'(s', a') - alpha log pi(a'|s')],  a' ~ pi(s'), no gradient        (5)
    critic loss = sum_k mean_b (Qk(s, a) - target)^2                                                       (6)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ ~ pi(s)                                (7)
    temperature loss = -mean_b log_alpha [log pi(a~|s) - A]                                                (8)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - 2 (log 2 - z_i - softplus(-2 z_i))],  a = tanh(z)     (9)
    cloning loss = -mean_b log pi(a|s)                                                                    (10)

The gradient of (3) is the paper's model gradient (equation 5 there, proved in its appendix A). A step makes
less likely what came out better than expected, and so the policy's value falls.

An iteration imagines h steps (the paper's k) from each of 50,000 states of the data. Then the agent makes
1,000 updates, by (5) to (8), on batches half real and half imagined in the last five iterations. Then the
model makes 1,000 steps of (4), along chains: h steps from each of 256 states of the data, an Adam step at
each. An update is a step of either kind, and --updates counts both. If lambda is 0, there are none of the
second kind, and the model stays as it was fitted. The published version has the actor learn the data's
actions first, by (10), but not in AntMaze. The preprint (--config v1) does not, and has other h and lambda:
of its four settings each dataset's best.

Paper / authors' code / here:
- (1): The paper writes one Gaussian. The code has the mixture, followed here.
- (2): The paper has pi's value. The code takes online critics at the mean action, without entropy.
- (3): The paper's states are pi's discounted visits. The code's are the chains', which go on past an end.
- (3): The authors divide by the std, here by the std + 1e-6. They draw the elites of the 256 rows once and
  for all, here at each step. In rollouts they draw one for each row; here each elite has a fifth of the rows,
  in random order.
- (4): The code's loss is 256 times this, a sum over the rows of (3). Adam does not notice. As in the code
  each network has its own real rows, none of them held out, and Adam begins anew after the fit.
- (6): The authors write half of it, and take the gradients of (6) to (8) at one set of weights, not in turn.
- (10): It goes over one bootstrap sample in one order, with the actor's Adam. The authors skip a batch that
  has an action at +-1, where (10) is infinite. Here actions are clipped to 1 - 1e-6.
- At a true end the authors teach the model the next episode's first state. Here it is the real next state.
- The authors evaluate every tenth iteration and each of the last ten. Here it is every tenth throughout.
- A run whose mean Q passes 1e10 has diverged, as in the code. At the log's next row it ends: exit code 1.

Logged: critic_loss is (6) / 2. q is the mean of Qk(s, a) and target that of (5). actor_loss is (7). alpha
falls from 1, entropy is -mean_b log pi(a~|s) and goes to A's negative. Of a batch's imagined rows,
imagined_reward is the mean reward, imagined_done the share that end. model_loss is L and adversary_loss (3).
log_likelihood is the mean of (1), advantage that of (2). A row's numbers are those of its update. Of whoever
did not move in it, the row repeats older ones: the agent's first of this iteration, or the model's at the
start of the last chain, which are 0 until there was one. holdout is the elites' error now, (3) of
common/dynamics.py on standardised states: it should stay where it began. model.csv is as in mopo.py.
cloning.csv has (10) for each epoch, in training and held out, and the share of batches that would be
skipped.

Read before: mopo.py (206 lines of code differ).
Run: python algorithms/rambo.py --env hopper-medium-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from common import InputError, friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.dynamics import Ensemble, Fit, Preset, Ring, adam, shuffle, split, supervised_loss
from common.graph import side_by_side
from common.pretraining import Regression, pretrain
from common.run import Run
from common.terminations import Rule, termination


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 4_000_000  # gradient steps of the agent and of the adversary, together
    adversary_weight: NonNegative = 3e-4  # lambda in (4); 0: the model stays as it was fitted
    adversary_lr: Positive = 3e-4  # of the model in (4)
    rollout_length: Size = 5  # h, steps imagined from each state
    rollout_batch: Annotated[int, within("[5, 1e6]")] = 50_000  # states from which steps are imagined
    rollout_every: Size = 1_000  # updates of the agent in an iteration, and then as many of the adversary
    retain: Size = 5  # iterations of which imagined rows are kept
    real_ratio: Fraction = 0.5  # f, the share of a batch that is real
    batch_size: Size = 256  # B, also of chains, of real rows in (4) and in (10)
    actor_lr: Positive = 1e-4  # of the actor, in (10) too
    critic_lr: Positive = 3e-4  # of the critics
    alpha_lr: Positive = 1e-4  # of log_alpha
    gamma: Fraction = 0.99  # discount in (2) and (5)
    tau: Fraction = 0.005  # Polyak step of the target critics
    uniform_actions: bool = False  # rollouts with random actions, not the actor's (AntMaze)
    bc_epochs: Annotated[int, within("[0, 1e6]")] = 50  # of (10), before the first update; 0: no cloning
    model_epochs: Annotated[int | None, within("[1, 1e6]")] = None  # most of the model; default: all it needs
    termination: Rule = "auto"  # when imagined episodes end: as this robot's; auto: as the data's task

    def __post_init__(self):
        if self.rollout_batch % MODEL.elites:
            raise InputError(f"--rollout-batch {self.rollout_batch}: give a multiple of the elites' number, "
                             f"{MODEL.elites}")


def _entry(steps, weight, **others):
    halves = 2 if weight else 1  # of an iteration
    return dict(rollout_length=steps, adversary_weight=weight, updates=2_000_000 * halves,
                eval_every=10_000 * halves) | others


def _table(bc_epochs, **rows):
    return {f"{robot}-{level.replace('_', '-')}-v2": _entry(*pair, bc_epochs=bc_epochs)
            for level, row in rows.items() for robot, pair in zip(("halfcheetah", "hopper", "walker2d"), row)}


# the authors' configuration files of September 2022
PAPER = _table(50, random=((5, 0), (2, 3e-4), (5, 0)), medium=((5, 3e-4), (5, 3e-4), (5, 0)),
               medium_replay=((5, 3e-4), (2, 3e-4), (5, 0)), medium_expert=((5, 3e-4), (5, 3e-4), (2, 3e-4)))
PAPER |= {f"antmaze-{maze}-v0": _entry(5, weight, bc_epochs=0, reward="r-1", uniform_actions=random)
          for maze, weight, random in (
              ("umaze", 3e-4, False), ("umaze-diverse", 0, True), ("medium-play", 0, True),
              ("medium-diverse", 0, True), ("large-play", 3e-4, True), ("large-diverse", 0, True))}
# the best of each row of the preprint's Table 3, which its Table 1 has
V1 = _table(0, random=((5, 0), (1, 3e-4), (5, 3e-4)), medium=((5, 3e-4), (5, 3e-4), (5, 0)),
            medium_replay=((5, 3e-4), (5, 3e-4), (5, 0)), medium_expert=((2, 3e-4), (5, 0), (2, 3e-4)))

MODEL = Preset(hidden=(200,) * 4, decay=(2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), lr=3e-4, max_log_var=1.0,
               min_log_var=-6.0, bound_coef=0.001, holdout=0.1, holdout_rows=1_000, patience=10)


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Actor(nn.Module):
    """Tanh-Gaussian policy on raw obs: S -> 256 x 2, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size, 256, 256, 2 * action_size]
        self.weights = nn.ParameterList(uniform((o, i), (6 / (i + o)) ** 0.5, rng)  # Glorot's
                                        for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(o)) for o in sizes[1:])

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of z before tanh, each (B, A)."""
        x = (obs - self.obs_mean) / self.obs_scale
        for weight, bias in zip(self.weights[:-1], self.biases):
            x = nn.functional.linear(x, weight, bias).relu_()
        mean, log_std = nn.functional.linear(x, self.weights[-1], self.biases[-1]).chunk(2, -1)
        return mean, nn.functional.hardtanh(log_std, -20, 2)  # a clamp of fewer kernels

    def log_prob(self, log_std: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """Of the action tanh(z), z = mean + std * noise: (B,)."""
        surprise = torch.addcmul(log_std, noise, noise, value=0.5) - 2 * (z + nn.functional.softplus(-2 * z))
        constant = z.shape[-1] * (2 * math.log(2) + 0.5 * math.log(2 * math.pi))
        return -constant - surprise.sum(-1)  # (9)

    def sample(self, obs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparameterised action (B, A) and its log probability (B,)."""
        mean, log_std = self(obs)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        z = torch.addcmul(mean, log_std.exp(), noise)
        return torch.tanh(z), self.log_prob(log_std, z, noise)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


class Critics(nn.Module):
    """Q1 and Q2, S + A -> 256 x 2 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size + action_size, 256, 256, 1]
        self.weights = nn.ParameterList(uniform((2, i, o), (6 / (i + o)) ** 0.5, rng)
                                        for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(2, 1, o)) for o in sizes[1:])

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([(obs - self.obs_mean) / self.obs_scale, action], -1).expand(2, -1, -1)  # (2, B, S + A)
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


def log_mixture(y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log T of y (B, D), the elites with equal weights: mean, log_var (K, B, D) -> (B,)."""
    surprise = (y - mean) ** 2 * (-log_var).exp() + log_var + math.log(2 * math.pi)
    return torch.logsumexp(-0.5 * surprise.sum(-1), 0) - math.log(len(mean))  # (1)


class Cloning(Regression):
    """The actor learns the data's actions before the first update."""
    name, kept = "cloning", ("actor", "optimizer")

    def __init__(self, actor: Actor, optimizer: torch.optim.Optimizer, data: Dataset, args: Args, seed: int):
        self.actor, size = actor, args.batch_size
        order = torch.randperm(len(data.rows), generator=torch.Generator().manual_seed(seed)).to(data.device)
        self.holdout, train = order.tensor_split([min(len(order) // 10, 2_000)])
        n = size * max(1, len(train) // size)
        rng = torch.Generator(data.device).manual_seed(seed)
        rows = train[torch.randint(len(train), (n,), generator=rng, device=data.device)]  # of every epoch
        # no other settings: a clone that is kept serves every run with these
        own = Args(bc_epochs=args.bc_epochs, batch_size=size, actor_lr=args.actor_lr)
        super().__init__(optimizer, data, rows, own, args.bc_epochs, seed)
        bound = (data.action[rows].abs() >= 1).any(1)
        self.skipped = bound.view(-1, size).any(1).sum()  # batches, by the authors

    def losses(self, rows: Tensor) -> Tensor:  # (1, B) -> (1,)
        batch = self.data.split(self.data.rows[rows])
        mean, log_std = self.actor(batch.obs)
        z = torch.atanh(batch.action.clamp(-1 + 1e-6, 1 - 1e-6))
        return -self.actor.log_prob(log_std, z, (z - mean) / log_std.exp()).mean(1)  # (10)

    @torch.no_grad()
    def end_epoch(self) -> list[dict]:
        (row,) = super().end_epoch()
        del row["network"]
        own = {"holdout": self.losses(self.holdout[None]).item(), "skipped": self.skipped.item() / self.steps}
        return [row | own]

    def finish(self) -> str:
        return f"the authors would skip {self.skipped.item():,} of {self.steps:,} batches"


class RAMBO:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data, self.seed = args, data, seed
        self.rng = torch.Generator(data.device).manual_seed(seed)
        rows = torch.linspace(0, len(data.rows) - 1, 10_000, dtype=torch.float64).long()  # code: not all
        std, mean = torch.std_mean(data.obs[rows.to(data.device)].double().cpu(), 0, correction=0)
        mean, scale = mean.to(data.rows.dtype), (std + 1e-6).to(data.rows.dtype)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        self.actor = Actor(data.obs_size, data.action_size, mean, scale, init).to(data.device)
        self.critics = Critics(data.obs_size, data.action_size, mean, scale, init).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        init = torch.Generator().manual_seed(seed)  # its own: one model, whatever the networks above
        self.model = Ensemble(data.obs_size, data.action_size, MODEL, init).to(data.device)
        self.train, self.holdout = split(data, MODEL, seed)  # as the model's Fit has it
        capacity = args.retain * args.rollout_length * args.rollout_batch
        self.ring = Ring(capacity, data.rows.shape[1]).to(data.device)
        self.real = int(args.batch_size * args.real_ratio)  # rows of a batch
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        options = dict(fused=True, capturable=data.device.type == "cuda")
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **options)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.critic_lr, **options)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.alpha_lr, **options)
        self.model_optimizer = adam(self.model, MODEL.decay, args.adversary_lr)
        self.chain = torch.zeros(args.batch_size, data.obs_size, device=data.device)  # the adversary's states
        self.agent_log = torch.zeros(8, device=data.device)  # numbers of the iteration's first update
        self.model_log = torch.zeros(4, device=data.device)  # likewise of the chain's first step
        self.terminal = termination(args.termination, args.env, args.eval_env, data.obs_size)
        self.step = 0

    def fit_actor(self) -> Cloning:
        return Cloning(self.actor, self.actor_optimizer, self.data, self.args, self.seed)

    def fit_model(self) -> Fit:
        obs, action, reward, next_obs, done = self.data.split(self.data.rows)
        rows = [self.standard(obs), action, reward[:, None], self.standard(next_obs), done[:, None]]
        return Fit(self.model, replace(self.data, rows=torch.cat(rows, 1)),
                   replace(MODEL, max_epochs=self.args.model_epochs), self.seed)

    @property
    def phase(self) -> str:
        """What the next update does: the first of an iteration also makes a rollout (see common/graph.py)."""
        n = self.args.rollout_every
        place = self.step % (2 * n if self.args.adversary_weight > 0 else n)
        if place < n:
            return "agent" if place else "rollout"
        return "chain" if (place - n) % self.args.rollout_length else "start"

    def standard(self, obs: Tensor) -> Tensor:
        """States as the model has them, from raw ones."""
        return (obs - self.actor.obs_mean) / self.actor.obs_scale

    @torch.no_grad()
    def imagine(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a step from obs (n, S), in random order: action (n, A), next state (n, S), reward (n,)."""
        if self.args.uniform_actions:
            shape = len(obs), self.data.action_size
            action = 2 * torch.rand(shape, generator=self.rng, device=obs.device) - 1
        else:
            action, _ = self.actor.sample(obs, self.rng)
        next_obs, reward = self.model.sample(self.standard(obs), action, self.rng)
        return action, torch.addcmul(self.actor.obs_mean, self.actor.obs_scale, next_obs), reward

    @torch.no_grad()
    def rollout(self) -> None:
        """h steps from `rollout_batch` states of the data go into the ring; rows past an end do not."""
        n = self.args.rollout_batch
        index = torch.randint(len(self.data.rows), (n,), generator=self.rng, device=self.data.device)
        obs, alive = self.data.obs[index], torch.ones(n, dtype=torch.bool, device=self.data.device)
        for _ in range(self.args.rollout_length):
            obs, alive = shuffle(self.rng, obs, alive)  # each row's elite is a random one
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
        return self.log_alpha.detach().exp()

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        next_action, log_prob = self.actor.sample(batch.next_obs, self.rng)
        next_value = self.target_critics(batch.next_obs, next_action).min(0).values - self.alpha() * log_prob
        return torch.addcmul(batch.reward, 1 - batch.done, next_value, value=self.args.gamma)  # (5), (B,)

    def critic_loss(self, q: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(q, target.expand_as(q), reduction="sum") / q.shape[1]  # (6)

    def actor_loss(self, q: Tensor, log_prob: Tensor) -> Tensor:
        return (self.alpha() * log_prob - q.min(0).values).mean()  # (7)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return -self.log_alpha * (log_prob.detach().mean() - self.data.action_size)  # (8)

    def agent_step(self, first: bool, log: bool) -> Tensor | None:
        """An update of critics, actor and alpha, the `first` after a rollout; its numbers (8,) if logged."""
        if first:
            self.rollout()
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
            return None
        q, imagined = q.mean(), max(1, len(target) - self.real)  # rows
        q = torch.where(q.abs() > 1e10, torch.inf, q)  # diverged: common/run.py ends the run
        reward, done = (column[self.real:].sum() / imagined for column in (batch.reward, batch.done))
        numbers = critic_loss / 2, q, target.mean(), reward, done, actor_loss, self.alpha(), -log_prob.mean()
        return torch.stack(numbers).detach()

    @torch.no_grad()
    def advantage(self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor) -> Tensor:
        """What one imagined step is worth, compared with what the critics expected of it: (B,)."""
        done = self.terminal(obs, action, next_obs).to(reward)
        value = self.critics(next_obs, self.actor.act(next_obs)).min(0).values
        q = self.critics(obs, action).min(0).values
        return torch.addcmul(reward, 1 - done, value, value=self.args.gamma) - q  # (2)

    def adversary_loss(self, advantage: Tensor, log_prob: Tensor) -> Tensor:
        """Its gradient is the model gradient, equation 5 of the paper, with a baseline and normalised."""
        std, mean = torch.std_mean(advantage, correction=0)
        return ((advantage - mean) / (std + 1e-6) * log_prob).mean()  # (3), all (B,)

    def play(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a step from obs (B, S): the next state, its advantage (B,), log T (B,) with a gradient."""
        with torch.no_grad():
            action, _ = self.actor.sample(obs, self.rng)
        mean, log_var = (x.index_select(0, self.model.elites) for x in self.model(self.standard(obs), action))
        with torch.no_grad():
            elite = torch.randint(len(mean), (len(obs),), generator=self.rng, device=obs.device)
            chosen = elite, torch.arange(len(obs), device=obs.device)
            noise = torch.randn(mean.shape[1:], generator=self.rng, device=obs.device)
            y = torch.addcmul(mean[chosen], (0.5 * log_var[chosen]).exp(), noise)  # (B, D)
            next_obs = torch.addcmul(obs, self.actor.obs_scale, y[:, :-1])
            advantage = self.advantage(obs, action, y[:, -1], next_obs)
        return next_obs, advantage, log_mixture(y, mean, log_var)

    def targets(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised states (..., S), action (..., A) and y (..., D) of the data's rows; index: (...)."""
        batch = self.data.split(self.data.rows[index])
        obs, next_obs = self.standard(batch.obs), self.standard(batch.next_obs)
        return obs, batch.action, torch.cat([next_obs - obs, batch.reward[..., None]], -1)

    def adversary_step(self, start: bool, log: bool) -> Tensor | None:
        """The model's step (4) at one step of the chains, or at the `start` of new ones; its numbers (4,)."""
        size, obs = self.args.batch_size, self.chain
        if start:
            index = torch.randint(len(self.data.rows), (size,), generator=self.rng, device=self.data.device)
            obs = self.data.obs[index]
        next_obs, advantage, log_prob = self.play(obs)
        adversary_loss = self.adversary_loss(advantage, log_prob)
        own = MODEL.networks, size  # rows of each network
        index = torch.randint(len(self.train), own, generator=self.rng, device=self.data.device)
        model_loss, _ = supervised_loss(self.model, *self.targets(self.train[index]), MODEL)
        self.model_optimizer.zero_grad()
        (model_loss + self.args.adversary_weight * adversary_loss).backward()  # (4)
        self.model_optimizer.step()
        self.chain.copy_(next_obs)
        if not log:
            return None
        return torch.stack([model_loss, adversary_loss, log_prob.mean(), advantage.mean()]).detach()

    @torch.no_grad()
    def holdout_error(self) -> Tensor:
        obs, action, y = self.targets(self.holdout)
        return ((self.model(obs, action)[0].index_select(0, self.model.elites) - y) ** 2).mean()

    def update(self, log: bool = True) -> dict[str, Tensor]:
        first, adversary = self.phase in ("rollout", "start"), self.phase in ("start", "chain")
        self.step += 1
        numbers = (self.adversary_step if adversary else self.agent_step)(first, log or first)
        logs = [self.agent_log, self.model_log]
        if first:
            logs[adversary].copy_(numbers)
        if not log:
            return {}
        logs[adversary] = numbers
        critic_loss, q, target, reward, done, actor_loss, alpha, entropy, *model = torch.cat(logs).unbind()
        model_loss, adversary_loss, log_likelihood, advantage = model
        return {"critic_loss": critic_loss, "q": q, "target": target, "imagined_reward": reward,
                "imagined_done": done, "actor_loss": actor_loss, "alpha": alpha, "entropy": entropy,
                "model_loss": model_loss, "adversary_loss": adversary_loss, "log_likelihood": log_likelihood,
                "advantage": advantage, "holdout": self.holdout_error()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [RAMBO(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    if args.bc_epochs:
        pretrain(run, [agent.fit_actor for agent in agents])
    pretrain(run, [agent.fit_model for agent in agents])
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, v1=V1))
