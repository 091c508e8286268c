"""MOReL: Model-Based Offline Reinforcement Learning. Kidambi et al., NeurIPS 2020, arXiv:2005.05951.

Learn from the data how the robot moves, then practise in imagination. A model is wrong where the data are
silent, and a policy that may go there finds the errors in its favour. MOReL forbids it. Four models are
learned; where they disagree too much, the imagined episode ends, in a state called HALT. What is left is a
pessimistic world, where a policy earns about as much as in truth, or less. Natural policy gradient improves
it there, on episodes of full length. MOPO, of the same month, lowers the reward instead, and never halts.

f_i is model i of four, deterministic, and n_i its network, whose inputs are standardised. s is an
observation, a an action, s' the next observation, and r the reward, which is known. m and d are mean and mean
absolute deviation of s' - s over the data; inputs have their own. mean_b is the mean over a batch and over
the numbers of a vector. b, the baseline, predicts the return from s and the time. An iteration imagines
episodes of T steps and keeps the first L of each; mean_t is the mean over all steps that are kept, N of them.
pi(s) is a Gaussian of mean mu(s), not squashed; its std does not depend on s. theta are pi's parameters, and
F is the Hessian of mean_t KL(old pi, pi) in them. c, gamma, lambda, eta and delta are numbers that one sets.

    model loss = sum_i mean_b [n_i(s, a) - (s' - s - m) / d]^2,  f_i(s, a) = s + d n_i(s, a) + m         (1)
    disc(s, a) = max_ij |f_i(s, a) - f_j(s, a)|                                                          (2)
    (s, a) is unknown where disc(s, a) > max_data disc / c                                               (3)
    cloning loss = mean_b (mu(s) - a)^2, before the first iteration                                      (4)
    A_t = sum_l (gamma lambda)^l e_(t+l),  e_t = r_t + gamma b(s_(t+1)) - b(s_t)                         (5)
    g = gradient of mean_t A_t log pi(a_t|s_t),  A whitened: with mean 0 and std 1 over all t            (6)
    x = (F + eta I)^-1 g, by conjugate gradient;  theta = theta + (delta / (g x))^(1/2) x                (7)
    baseline loss = mean_t (b(s_t) - R_t)^2,  R_t = sum_l gamma^l r_(t+l)                                (8)

Paper / authors' code / here. The code made Table 2; this file follows it where nothing else is said.
- HALT: In the paper it lasts for ever, at a reward of -kappa. In the code the episode ends, and what it costs
  are the rewards to come. Where those may be negative, as halfcheetah's, `--truncate-reward` is paid, once.
- The code tests the length of an episode after cutting it, so that none counts as ended: HALT and falls have
  the value of their last state. Here they end the value; `--no-halt-terminal` is the code's way.
- (1): The paper's models are Gaussian, and may differ by their data. The code's are deterministic, and differ
  by initial weights and the order of rows only. An episode has one of them, from its first step to its last.
- (3): An episode keeps its first unknown step, and 4 steps at least. One that falls within 4 is dropped.
- The reward is known, and clips a to [-1, 1]; models see a as it is. Hopper's reward and end are the code's,
  which multiplies its velocities by 0.02 everywhere. For walker2d and halfcheetah none were released. Here
  they are Gym's, with the velocity in s in place of displacement over time.
- The code leaves out each episode's last row. Here true ends are no part of (1) and (3), and timeouts are not
  in the data.
- (7): The code tests for convergence after each step of x, so it makes one at least. Here: before each.
- (8): b is fitted after pi's step, for one epoch. The code leaves out its last full batch.

Logged: actor_loss is what mean_t A log pi lost in the step: below 0. imagined_return has no discount; with
enough pessimism it stays below the true return, and both rise. length is the mean L, samples N. halted is the
share of episodes that HALT ended; near 1, pi leaves the data or c is too large. disc is mean_t of (2).
baseline_error is (8) over mean_t R_t^2 before the fit, and falls far below 1. kl is the step's, about half of
delta. factor is the root in (7), log_std its mean over actions. model.csv has (1) for each network and epoch,
and cloning.csv (4).

Read before: mopo.py (270 lines of code differ).
Run: python algorithms/morel.py --env hopper-medium-v2
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from common import InputError, friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Dataset, load_dataset
from common.graph import side_by_side
from common.pretraining import Regression, pretrain
from common.run import Run
from common.terminations import robot_of

Number = Annotated[float, within("(-inf, inf)")]


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 500  # iterations
    c: Annotated[float | None, within("[0, inf)")] = 3.0  # pessimism in (3); None or 0: nothing is unknown
    truncate_reward: Number = 0.0  # added to the last reward before HALT
    halt_terminal: bool = True  # HALT and falls end the value; off: as released
    starts: Size = 50  # imagined episodes of each model
    horizon: Annotated[int, within("[5, 1e4]")] = 700  # T
    gamma: Fraction = 0.999  # discount in (5) and (8)
    gae: Fraction = 0.97  # lambda in (5)
    delta: Positive = 0.02  # in (7): twice the KL of an iteration
    cg_steps: Size = 20  # most steps of the conjugate gradient in (7)
    damping: NonNegative = 1e-3  # eta in (7)
    min_log_std: Number = -1.0  # least log std of the policy
    model_epochs: Size = 25  # of (1)
    cloning_epochs: Size = 5  # of (4)
    batch_size: Size = 256  # of (1), (4) and (8)
    lr: Positive = 1e-3  # likewise
    l2: NonNegative = 1e-3  # weight decay in (8)
    eval_every: Count = 10  # updates between evaluations
    log_every: Count = 1  # updates between rows of log.csv


# the authors' configuration file, the only one for D4RL
PAPER = {"hopper-medium-v0": dict(c=3.0, truncate_reward=0.0, starts=50, horizon=700, min_log_std=-1.0)}
# the other datasets of Table 2, for which nobody has published values: where to begin
PAPER |= {f"{robot}-{level}-v0": dict(c=3.0, truncate_reward=-30.0 if robot == "halfcheetah" else 0.0)
          for robot in ("halfcheetah", "hopper", "walker2d")
          for level in ("random", "medium", "medium-replay", "medium-expert")
          if (robot, level) != ("hopper", "medium")}  # unverified


class MLP(nn.Module):
    """`num` networks side by side, PyTorch's initial weights: x (B, in) or (num, B, in) -> (num, B, out)."""

    def __init__(self, num: int, sizes: list[int], activation, rng: torch.Generator):
        super().__init__()

        def uniform(bound, *shape):
            return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))

        pairs = list(zip(sizes, sizes[1:]))
        self.weights = nn.ParameterList(uniform(i**-0.5, num, i, o) for i, o in pairs)
        self.biases = nn.ParameterList(uniform(i**-0.5, num, 1, o) for i, o in pairs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(len(self.weights[0]), -1, -1)
        for weight, bias in zip(self.weights[:-1], self.biases):
            x = self.activation(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


class Model(MLP):
    """f: masked obs (B, S), action (B, A) -> next obs (4, B, S); four nets S + A -> 512 x 2 -> S, ReLU."""

    def __init__(self, mask: Tensor, action_size: int, rng: torch.Generator):
        super().__init__(4, [len(mask) + action_size, 512, 512, len(mask)], torch.relu_, rng)
        self.register_buffer("mask", mask)
        for name, size in (("input", len(mask) + action_size), ("change", len(mask))):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))  # mean absolute deviation + 1e-8
        self.register_buffer("spread", torch.zeros(()))  # max_data disc

    def outputs(self, obs: Tensor, action: Tensor) -> Tensor:  # n
        return super().forward((torch.cat([obs, action], -1) - self.input_mean) / self.input_scale)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.addcmul(obs + self.change_mean, self.outputs(obs, action), self.change_scale)


class Actor(MLP):
    """pi: masked obs (B, S) -> mean (B, A); S -> 64 x 2 -> A, tanh; a free log std (A,)."""

    def __init__(self, mask: Tensor, action_size: int, rng: torch.Generator):
        super().__init__(1, [len(mask), 64, 64, action_size], torch.tanh, rng)
        for parameter in (self.weights[-1], self.biases[-1]):
            parameter.data.mul_(0.01)
        self.log_std = nn.Parameter(torch.full((action_size,), -0.25))
        self.register_buffer("mask", mask)

    def forward(self, obs: Tensor) -> Tensor:
        return super().forward(obs)[0]

    def log_prob(self, mean: Tensor, action: Tensor) -> Tensor:  # (B,), without the constant
        return -0.5 * (((action - mean) * torch.exp(-self.log_std)) ** 2).sum(-1) - self.log_std.sum()

    def kl(self, mean: Tensor, old_mean: Tensor, old_log_std: Tensor) -> Tensor:  # KL(old pi, pi), (B,)
        variance, old_variance = (2 * self.log_std).exp(), (2 * old_log_std).exp()
        ratio = ((mean - old_mean) ** 2 + old_variance - variance) / (2 * variance + 1e-8)
        return (ratio + self.log_std - old_log_std).sum(-1)

    def act(self, obs: Tensor) -> Tensor:
        return self(self.mask * obs).clamp(-1, 1)


def adam(network: MLP, lr: float, l2: float = 0.0) -> torch.optim.Adam:
    capturable = network.weights[0].device.type == "cuda"
    return torch.optim.Adam(network.parameters(), lr, weight_decay=l2, fused=True, capturable=capturable)


class ModelFit(Regression):
    """Each network has its own order of all rows but true ends."""
    name, kept = "model", ("model",)

    def __init__(self, model: Model, data: Dataset, args: Args, seed: int):
        self.model, rows = model, (data.done == 0).nonzero()[:, 0]
        own = Args(model_epochs=args.model_epochs, batch_size=args.batch_size, lr=args.lr)  # all that matters
        super().__init__(adam(model, args.lr), data, rows, own, args.model_epochs, seed)
        obs, action, change = self.columns(rows)
        for name, x in (("input", torch.cat([obs, action], -1)), ("change", change)):
            getattr(model, f"{name}_mean").copy_(x.mean(0))
            getattr(model, f"{name}_scale").copy_((x - x.mean(0)).abs().mean(0) + 1e-8)

    def columns(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s, a and s' - s, masked."""
        batch, mask = self.data.split(self.data.rows[rows]), self.model.mask
        return mask * batch.obs, batch.action, mask * (batch.next_obs - batch.obs)

    def draw(self) -> Tensor:  # (4, N)
        keys = torch.rand((4, len(self.rows)), generator=self.rng, device=self.data.device)
        return self.rows[keys.argsort(1)]

    def losses(self, rows: Tensor) -> Tensor:  # (4, B) -> (4,)
        obs, action, change = self.columns(rows)
        target = (change - self.model.change_mean) / self.model.change_scale
        return ((self.model.outputs(obs, action) - target) ** 2).mean((1, 2))  # (1)

    @torch.no_grad()
    def finish(self) -> str:
        for rows in self.rows.split(2**11):  # in pieces: many rows' hidden units take much memory
            obs, action, _ = self.columns(rows)
            most = torch.maximum(self.model.spread, disagreement(self.model(obs, action)).amax())
            self.model.spread.copy_(most)
        return f"{self.status()}, largest disagreement {self.model.spread.item():.4g}"


class Cloning(Regression):
    """Of the data's actions by pi's mean, on rows drawn with replacement."""
    name, kept = "cloning", ("actor",)

    def __init__(self, actor: Actor, data: Dataset, args: Args, seed: int):
        self.actor, rows = actor, torch.arange(len(data.rows), device=data.device)
        own = Args(cloning_epochs=args.cloning_epochs, batch_size=args.batch_size, lr=args.lr)
        super().__init__(adam(actor, args.lr), data, rows, own, args.cloning_epochs, seed)

    def draw(self) -> Tensor:  # (1, N)
        n = len(self.rows)
        return torch.randint(n, (1, n), generator=self.rng, device=self.data.device)

    def losses(self, rows: Tensor) -> Tensor:  # (1, B) -> (1,)
        batch = self.data.split(self.data.rows[rows[0]])
        return nn.functional.mse_loss(self.actor(self.actor.mask * batch.obs), batch.action)[None]  # (4)


def disagreement(predicted: Tensor) -> Tensor:
    """disc of predictions (4, ..., S): (...)."""
    pairs = [predicted[i] - predicted[j] for j in range(len(predicted)) for i in range(j)]
    return torch.stack([torch.linalg.vector_norm(pair, dim=-1) for pair in pairs]).amax(0)  # (2)


def hopper(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Reward and end (...) at masked obs (..., S) and action (..., A), as the authors have them."""
    height, angle, velocity = obs[..., 0], obs[..., 1].abs(), obs[..., 5].clamp(-10, 10) / 0.02
    reward = velocity + ((height > 0.7) & (angle <= 0.2)) - 1e-3 * (action.clamp(-1, 1) ** 2).sum(-1)
    return reward, ~((height > 0.7) & (angle < 0.15) & (obs.abs() < 10).all(-1))


def walker2d(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    height, angle, velocity = obs[..., 0], obs[..., 1].abs(), obs[..., 8]
    reward = velocity + 1 - 1e-3 * (action.clamp(-1, 1) ** 2).sum(-1)
    return reward, ~((height > 0.8) & (height < 2) & (angle < 1))


def halfcheetah(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    reward = obs[..., 8] - 0.1 * (action.clamp(-1, 1) ** 2).sum(-1)
    return reward, torch.zeros_like(reward, dtype=torch.bool)


_TASKS = {"hopper": (hopper, [1.0] * 5 + [0.02] * 6), "walker2d": (walker2d, [1.0] * 17),
          "halfcheetah": (halfcheetah, [1.0] * 17)}  # the world, and the mask that multiplies obs


def before(event: Tensor) -> Tensor:
    """Steps before the first event of each episode: (n, T) bool -> (n,); T where there is none."""
    return (event.cumsum(1) == 0).sum(1)


def discounted(x: Tensor, gamma: float) -> Tensor:
    """sum_l gamma^l x_(t+l) of episodes (n, T); each round doubles how far a step looks ahead."""
    reach = 1
    while reach < x.shape[1]:
        x = torch.cat([x[:, :-reach] + gamma**reach * x[:, reach:], x[:, -reach:]], 1)
        reach *= 2
    return x


def conjugate_gradient(product, g: Tensor, steps: int) -> Tensor:
    """x with product(x) = g, from x = g on; when the squared residual is below 1e-10, x stays."""
    x, residual = g, g - product(g)
    direction, square = residual, residual @ residual
    for _ in range(steps):
        going = square >= 1e-10  # code: the first step is made in any case
        image = product(direction)
        size = torch.where(going, square / (direction @ image), 0.0)
        x, residual, old_square = x + size * direction, residual - size * image, square
        square = residual @ residual
        direction = torch.where(going, residual + square / old_square * direction, direction)
    return x


class MOReL:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data, self.seed, self.step = args, data, seed, 0
        robot = robot_of(args.env, args.eval_env)
        self.world, mask = _TASKS.get(robot, (None, []))
        if data.obs_size != len(mask):
            raise InputError(f"{data.name}: imagined rewards are known for D4RL's {', '.join(_TASKS)}, not "
                             f"for {robot} with {data.obs_size} observations; --eval-env names the task")
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        mask = torch.tensor(mask)
        self.model = Model(mask, data.action_size, init).to(data.device)
        self.actor = Actor(mask, data.action_size, init).to(data.device)
        self.baseline = MLP(1, [data.obs_size + 4, 128, 128, 1], torch.relu_, init).to(data.device)  # b
        self.baseline_optimizer = adam(self.baseline, args.lr, args.l2)
        self.first_obs = self.model.mask * data.obs[data.episodes[:, 0].to(data.device)]  # (E, S)

    def fit_model(self) -> ModelFit:
        return ModelFit(self.model, self.data, self.args, self.seed)

    def fit_actor(self) -> Cloning:
        return Cloning(self.actor, self.data, self.args, self.seed)

    @torch.no_grad()
    def rollout(self) -> tuple[Tensor, Tensor, Tensor]:
        """T steps of n = 4 `starts` episodes: obs (n, T, S), action (n, T, A), disc (n, T).

        Each model has a quarter of the episodes to itself, and all begin in the same states.
        """
        args, device = self.args, self.data.device
        index = torch.randint(len(self.first_obs), (args.starts,), generator=self.rng, device=device)
        obs, std, path = self.first_obs[index].repeat(4, 1), self.actor.log_std.exp(), []
        noise = torch.randn((args.horizon, len(obs), len(std)), generator=self.rng, device=device)
        for step in range(args.horizon):
            action = torch.addcmul(self.actor(obs), std, noise[step]).clamp_(-100, 100)
            predicted = self.model(obs, action)  # (4, n, S)
            path.append((obs, action, predicted))
            own = predicted.unflatten(1, (4, -1)).diagonal().movedim(-1, 0)  # (4, starts, S)
            obs = own.flatten(0, 1).clamp_(-100, 100)
        obs, action, predicted = (torch.stack(part, -2) for part in zip(*path))
        return obs, action, disagreement(predicted)

    def cut(self, obs: Tensor, action: Tensor, disc: Tensor) -> tuple[Tensor, ...]:
        """Reward, kept, last (n, T), terminal, halted (n,): what is kept, the last of it, what that is.

        An episode is kept up to its fall, or to its first unknown step, but then at least 4 steps, and not at
        all if it falls within 4.
        """
        args, time = self.args, torch.arange(disc.shape[1], device=disc.device)
        reward, fallen = self.world(obs, action)
        length = (before(fallen) + 1).clamp(max=len(time))  # L
        long, terminal, halted = length >= 5, fallen.any(1), torch.zeros_like(fallen[:, 0])
        if args.c:
            unknown = (disc > self.model.spread / args.c) & (time < length[:, None] - 1)  # (3)
            halted = unknown.any(1)
            length = torch.minimum(length, (before(unknown) + 1).clamp(min=4))
            terminal = (terminal | halted) & args.halt_terminal
        kept, last = (time < length[:, None]) & long[:, None], time == length[:, None] - 1
        reward = (reward + args.truncate_reward * (last & halted[:, None])) * kept
        return reward, kept, last, terminal, halted & long

    def features(self, obs: Tensor) -> Tensor:
        """Inputs of b for episodes (n, T, S): (n T, S + 4)."""
        time = torch.arange(obs.shape[1], device=obs.device, dtype=obs.dtype) / 1000
        powers = torch.stack([time, time**2, time**3, time**4], -1).expand(len(obs), -1, -1)
        return torch.cat([obs.clamp(-10, 10) / 10, powers], -1).flatten(0, 1)

    def advantage(self, reward: Tensor, value: Tensor, kept: Tensor, last: Tensor, ends: Tensor) -> Tensor:
        """A (n, T), not whitened yet. After the last step comes nothing, or its state's value again."""
        following = torch.where(last, value * ~ends[:, None], value.roll(-1, 1))
        error = (reward + self.args.gamma * following - value) * kept
        return discounted(error, self.args.gamma * self.args.gae)  # (5)

    def improve_policy(self, obs: Tensor, action: Tensor, advantage: Tensor, weight: Tensor) -> list[Tensor]:
        """One step of pi: what mean_t A log pi gained by it, its KL, and the factor of x.

        obs (B, S), action (B, A), advantage (B,), whitened; weight (B,): 1 / N, or 0 where nothing is kept.
        """
        actor, parameters = self.actor, list(self.actor.parameters())

        def gradient(of, **options):
            return torch.cat([part.flatten() for part in torch.autograd.grad(of, parameters, **options)])

        mean, weighted = actor(obs), weight * advantage
        log_prob, old = actor.log_prob(mean, action), (mean.detach(), actor.log_std.detach().clone())
        g = gradient(weighted @ log_prob, retain_graph=True)  # (6)
        slope = gradient(weight @ actor.kl(mean, *old), create_graph=True)

        def product(v):  # (F + eta I) v
            return gradient(slope, grad_outputs=v, retain_graph=True) + self.args.damping * v

        x = conjugate_gradient(product, g, self.args.cg_steps)
        factor = (self.args.delta / (g @ x + 1e-10)).abs().sqrt()
        with torch.no_grad():
            step = (factor * x).split([p.numel() for p in parameters])
            torch._foreach_add_(parameters, [part.view_as(p) for part, p in zip(step, parameters)])  # (7)
            actor.log_std.clamp_(self.args.min_log_std, 1.0)
            mean = actor(obs)
            gain = weighted @ (actor.log_prob(mean, action) - log_prob)
            return [gain, weight @ actor.kl(mean, *old), factor]

    def improve_baseline(self, features: Tensor, returns: Tensor, kept: Tensor) -> None:
        """An epoch over the kept rows: features (B, S + 4), returns (B,), kept (B,)."""
        size, optimizer = self.args.batch_size, self.baseline_optimizer
        keys = torch.rand(len(kept), generator=self.rng, device=kept.device)
        order = torch.where(kept, keys, 2.0).argsort()  # kept rows first
        features, returns, kept = features[order], returns[order], kept[order].to(returns)
        steps = (kept.sum() // size - 1).clamp(min=1)
        for step in range(max(len(kept) // size - 1, 1)):
            rows = slice(size * step, size * (step + 1))
            errors = (self.baseline(features[rows])[0, :, 0] - returns[rows]) ** 2
            optimizer.found_inf = (step >= steps).float()  # 1: the epoch is over, and Adam makes no step
            optimizer.zero_grad()
            (kept[rows] @ errors / kept[rows].sum().clamp(min=1)).backward()  # (8)
            optimizer.step()

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        obs, action, disc = self.rollout()
        reward, kept, last, terminal, halted = self.cut(obs, action, disc)
        features, weight = self.features(obs), (kept / kept.sum().clamp(min=1)).flatten()
        with torch.no_grad():
            value = self.baseline(features)[0, :, 0]
        advantage = self.advantage(reward, value.view_as(reward), kept, last, terminal).flatten()
        advantage = advantage - weight @ advantage
        advantage = advantage / ((weight @ advantage**2).sqrt() + 1e-6)  # whitened
        returns = discounted(reward, self.args.gamma).flatten()
        obs, action = obs.flatten(0, 1), action.flatten(0, 1)
        gain, kl, factor = self.improve_policy(obs, action, advantage, weight)
        self.improve_baseline(features, returns, kept.flatten())
        if not log:
            return {}
        episodes, square = kept[:, 0].sum().clamp(min=1), weight @ returns**2
        return {"actor_loss": -gain, "imagined_return": reward.sum() / episodes,
                "length": kept.sum() / episodes, "samples": kept.sum(), "halted": halted.sum() / episodes,
                "disc": weight @ disc.flatten(), "kl": kl, "factor": factor,
                "baseline_error": weight @ (returns - value) ** 2 / (square + 1e-8),
                "log_std": self.actor.log_std.detach().mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    if (known := int((data.done == 0).sum())) < args.batch_size:
        raise InputError(f"{data.name}: {known} rows that go on fill no batch of {args.batch_size}")
    agents = [MOReL(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    pretrain(run, [agent.fit_model for agent in agents])
    pretrain(run, [agent.fit_actor for agent in agents])
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER))
