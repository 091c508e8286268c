"""ARMOR: Adversarial Model for Offline RL. Bhardwaj et al., NeurIPS 2023, arXiv:2302.11048.

Given data and a reference policy, for instance the one in use, ARMOR looks for a policy that is at least as
good in every world that agrees with the data. It plays ATAC's game in a learned model. An adversary owns the
model and two critics. As far as the data allow, it bends them so that the actor looks bad beside the
reference. Where the data are silent it can invent a world in which any other action is bad, and the actor
copies the reference. Where the data speak, the actor improves on it. One model is enough: what makes it
pessimistic is the adversary, not the disagreement of several.

Qk, the paper's f, is critic k of two. A prime on Q marks a target network. For a state s and an action a the
model M gives a reward R, and the mean mu and std sigma of z = (s' - s - m) / c, the standardised change of
the state, which has S numbers. m and c are the mean and std of s' - s in the data, and r is the data's
reward. d = 1 where M's next state s' ends the episode. pi gives the mean and std of a Gaussian variable u,
and the action is tanh(u). a~ and a' are draws from pi at s and s', and a^ is a draw from the reference at s;
a gradient passes through a~ in (6) and (7) alone. H is the entropy of pi, and alpha its weight. beta weighs
what ties the adversary: the Bellman error E, whose halves w weighs, and lambda times the model's fit, in
which omega weighs the reward. mean_b is the mean over a batch of the game: B real pairs (s, a), and B pairs
from the buffer below. i counts the S numbers of z, or the A dimensions of an action.

    y = R + gamma (1 - d) min_k Qk'(s', a')                                                                (1)
    E_k = w mean_b (Qk(s, a) - y)^2 + (1 - w) mean_b (Qk(s, a) - R - gamma (1 - d) Qk(s', a'))^2           (2)
    adversary's loss = sum_k nsum(G_k, E_k + lambda fit, beta),  G_k = mean_b [Qk(s, a~) - Qk(s, a^)]      (3)
    log pi(a|s) = sum_i [log N(u_i; mean_i, std_i) - log(1 - a_i^2 + 1e-6)],  a = tanh(u)                  (4)
    temperature loss = log_alpha (H + A), H a constant here;  H = -mean_b log pi(a~|s)                     (5)
    warm start: actor loss = nsum(-mean_b log pi(a|s), -H, alpha)                                          (6)
    game: actor loss = nsum(-mean_b Q1(s, a~), -H, alpha)                                                  (7)
    W <- W min(1, C / |W|), after each step, for the critics' matrices W; |W| is Frobenius's norm          (8)
    nsum(x, y, c) = (x + c y) / max(1, c)                                                                  (9)
    s' = s + m + c (mu + sigma xi),  xi ~ N(0, I)                                                         (10)
    log sigma^2 = l + softplus(v' - l),  v' = h - softplus(h - v);  v is M's own, l = -10, h = 0.5        (11)
    fit = mean_b [mean_i ((z_i - mu_i)^2 / sigma_i^2 + log sigma_i^2) / 2 + omega (R - r)^2], real pairs  (12)

One backward pass of (3) serves both. The critics learn from G and E. The model learns from the fit, and from
E through R and s'. Nothing but lambda omega ties R to the data: if critic k had no Bellman error with a
reward g_k, the best R is (g_1 + g_2 + 2 lambda omega r) / (2 + 2 lambda omega). Where lambda omega is small,
the model agrees with any critics, and only holdout and reward_error, below, show it.

Two banks hold B simulated states each. pi leads one, the reference the other, and an update takes both one
step on. The pairs (s, a) that are tried there go into the buffer, which keeps the last ones. M gives a pair
its reward and next state anew whenever it is drawn. Every --restart-every updates all states of both banks
begin anew, from real ones. One alone does so where its episode ends or it is 10 std from the data's mean.

Paper / authors' code / here (no code was published; ATAC's is the same group's):
- The paper has (1) to (3), (7), (8), the single model, both banks, pairs without rewards, and the restarts.
- ATAC's code has the networks, (4) to (6), (9), w, C, gamma, tau, the learning rates, and the warm start: (3)
  has neither G nor the fit there, and E has the data's r, s' and d. After it all is renewed as in atac.py.
- Ours, and checked by nobody: M, but for its layers (recalled, unverified), and its training before the first
  update; d by a rule for real pairs too, or as stored (--stored-ends); batch sizes, lambda, omega,
  --restart-every, the buffer's size, where states begin anew; up to 1,000 rows are held out of all updates.
- (12): The paper has omega = 1 / V_max^2, V_max = max|r| / (1 - gamma): --reward-coef None. The group's code
  MAHALO, built alike, has lambda omega = 1e5. The paper's subscript names simulated rows, which have no r.
- (3): The paper does not rescale it by (9), and steps M before the critics. Here the model's gradient is
  divided by max(1, lambda), too, and all step at once.
- No source has beta: sweep 0.25, 1, 4, 16, 64. To begin as a clone of another reference is left out.
- Seen in small runs (benchmark/results/standin; reference 40, one seed): holdout is 0.8 of what it was with
  lambda 1e3 or 1e5, but 2.8 with 10, and no loss tells; with the paper's omega reward_error is 2.6, not 0.03.
  The mean score of the game was 67 with --restart-every 20, 34 with 5, 31 with 1; 58 with beta 0.25, not 1.
- A run with |Qk| above 1e5 has diverged: at the log's next row it ends, exit code 1.

--reference is bc, a frozen copy of the actor after the warm start; or the folder of a run of any file here;
or an .npz file of a policy as in common/policies. It acts with its own noise and its own normalisation, and
without noise where it has none (common/reference.py). eval.csv has its score beside the actor's.

Logged: critic_loss is (3) without the fit, bellman (2), pessimism G, averages over both critics. q is mean_b
Qk(s, a). It comes near its height after some 1 / (tau (1 - gamma)) updates, 20,000, and until then G knows
little of what is far ahead. actor_loss is (6), then (7), near -q. alpha falls from 1 in a phase while the
entropy H is above -A. fit is (12), simulated_done the mean of d, and both are 0 in the warm start. holdout is
the mean of (z - mu)^2 on held-out rows, holdout_before what it was before the first update. Healthy is
holdout below twice that; if it never moves, lambda freezes M. reward_error is the mean |R - r| on the same
rows. model.csv has (12) and both errors after each 1,000 steps of M's first training.

Read before: atac.py (213 lines of code differ).
Run: python algorithms/armor.py --env hopper-medium-replay-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from common import friendly
from common.args import Count, Fraction, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.dynamics import Preset, Ring, split
from common.graph import side_by_side
from common.pretraining import Regression, pretrain
from common.reference import Reference, find_reference
from common.run import Run
from common.terminations import Rule, termination


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-replay-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_100_000  # gradient steps, warm start included; the model's fit comes before them
    warm_start: Annotated[int, within("[0, 1e12]")] = 100_000  # of them, before the game
    reference: str = "bc"  # bc, or the folder of a run, or an .npz file of a policy: see above
    beta: Positive = 4.0  # in (3), to be swept: see above
    fit_coef: Positive = 1e3  # lambda in (3)
    reward_coef: Annotated[float | None, within("[0, inf)")] = 1.0  # omega in (12); None: 1 / V_max^2
    restart_every: Size = 5  # the paper's H: updates after which all simulated states begin anew
    pairs: Annotated[int, within("[1, 1e9]")] = 1_000_000  # kept in the buffer; one update's at least
    batch_size: Size = 256  # B, of real rows, of pairs, and of each bank
    lr: Positive = 5e-4  # of model, critics and log_alpha, and of the actor in the warm start
    actor_lr: Positive = 5e-7  # of the actor in the game
    gamma: Fraction = 0.99  # discount in (1) and (2)
    tau: Fraction = 0.005  # Polyak step of the target critics
    target_weight: Fraction = 0.5  # w in (2)
    max_norm: Positive = 100.0  # C in (8)
    model_epochs: Annotated[int, within("[1, 1e6]")] = 100  # of 1,000 steps, at most, of the model's fit
    termination: Rule = "auto"  # when imagined episodes end: as this robot's; auto: as the data's task
    stored_ends: bool = False  # d of real rows is the data's, not the rule's


PAPER = {f"{robot}-{level}-v2": {} for robot in ("halfcheetah", "hopper", "walker2d")  # beta: above
         for level in ("medium", "medium-replay", "medium-expert")}
PAPER |= {f"{task}-{level}-v1": {} for task in ("pen", "hammer", "door", "relocate")
          for level in ("human", "cloned", "expert")}

MODEL = Preset(hidden=(512,) * 3, decay=(0.0,) * 4, lr=1e-3, max_log_var=0.5, min_log_var=-10.0,
               bound_coef=0.0, holdout=0.1, holdout_rows=1_000, patience=5, networks=1, elites=1)


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


# same as bc.py
class GaussianActor(nn.Module):
    """ATAC's tanh-Gaussian policy on raw obs: S -> 256 x 3, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [(256, obs_size), (256, 256), (256, 256), (action_size, 256), (action_size, 256)]
        self.weights = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(s), generator=rng) for s in sizes)
        self.biases = nn.ParameterList(torch.zeros(outputs) for outputs, _ in sizes)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:  # mean and log std of u, each (B, A)
        *hidden, mean, log_std = zip(self.weights, self.biases)  # layers; the last two are the heads
        x = (obs - self.obs_mean) / self.obs_scale
        for weight, bias in hidden:
            x = nn.functional.linear(x, weight, bias).relu_()
        return nn.functional.linear(x, *mean), nn.functional.linear(x, *log_std).clamp(math.log(1e-5), 2)

    def log_prob(self, mean: Tensor, log_std: Tensor, u: Tensor, action: Tensor) -> Tensor:
        log_normal = -0.5 * ((u - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        return (log_normal - torch.log(1 - action**2 + 1e-6)).sum(-1)  # (4), (B,)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


# same as atac.py
class Critics(nn.Module):
    """Q1 and Q2, S + A -> 256 x 3 -> 1, as one batched matmul: raw obs (B, S), action (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int, rng: torch.Generator):
        super().__init__()
        sizes = [obs_size + action_size, 256, 256, 256, 1]
        self.weights = nn.ParameterList(torch.empty(2, i, o).normal_(0, (2 / (i + o)) ** 0.5, generator=rng)
                                        for i, o in zip(sizes, sizes[1:]))  # Xavier's normal
        self.biases = nn.ParameterList(torch.zeros(2, 1, o) for o in sizes[1:])

    def forward(self, obs: Tensor, action: Tensor, q1_alone: bool = False) -> Tensor:  # Q1 alone: (B,)
        x = torch.cat([obs, action], -1)  # (B, S + A)
        x = x if q1_alone else x.expand(2, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = torch.addmm(bias[0], x, weight[0]) if q1_alone else torch.baddbmm(bias, x, weight)
        return x.squeeze(-1)

    @torch.no_grad()
    def project(self, max_norm: float) -> None:
        norms = [torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True) for weight in self.weights]
        excess = torch._foreach_div(norms, max_norm)  # (2, 1, 1) for each layer
        torch._foreach_clamp_min_(excess, 1.0)  # a small W is divided by 1, and stays as it is
        torch._foreach_div_(list(self.weights), excess)  # (8)


# same as td3_bc.py
@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


# same as atac.py
def nsum(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    return torch.addcmul(x, c, y) / c.clamp(min=1)  # (9)


# same as atac.py
def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step, of the optimiser's own parameters only."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


class Model(nn.Module):
    """M: raw obs (n, S), action (n, A) -> mean and log variance of z, each (n, S), and R (n,)."""

    def __init__(self, data: Dataset, rng: torch.Generator):
        super().__init__()
        self.size = data.obs_size
        sizes = [self.size + data.action_size, *MODEL.hidden, 2 * self.size + 1]
        self.weights = nn.ParameterList(uniform((o, i), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((o,), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        for last in (self.weights[-1], self.biases[-1]):
            last.data.mul_(0.1)  # little change at first
        inputs, change = data.rows[:, :sizes[0]], data.next_obs - data.obs
        for name, x in (("input", inputs), ("change", change), ("obs", data.obs)):
            std, mean = torch.std_mean(x.cpu().double(), 0, correction=0)
            self.register_buffer(f"{name}_mean", mean.to(data.rows.dtype))
            self.register_buffer(f"{name}_std", torch.where(std < 1e-12, 1.0, std).to(data.rows.dtype))
        self.register_buffer("holdout_before", torch.zeros(()))

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (torch.cat([obs, action], -1) - self.input_mean) / self.input_std
        for weight, bias in zip(self.weights[:-1], self.biases):
            x = nn.functional.silu(nn.functional.linear(x, weight, bias))
        x = nn.functional.linear(x, self.weights[-1], self.biases[-1])
        mean, raw, reward = x.split([self.size, self.size, 1], -1)
        below = MODEL.max_log_var - softplus(MODEL.max_log_var - raw)
        log_var = MODEL.min_log_var + softplus(below - MODEL.min_log_var)  # (11)
        return mean, log_var, reward.squeeze(-1)

    def next_obs(self, obs: Tensor, mean: Tensor, log_var: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        z = torch.addcmul(mean, (0.5 * log_var).exp(), noise)
        return obs + torch.addcmul(self.change_mean, self.change_std, z)  # (10)

    def standard(self, batch: Batch) -> Tensor:
        return (batch.next_obs - batch.obs - self.change_mean) / self.change_std  # z of real rows, (n, S)

    def fit(self, batch: Batch, mean: Tensor, log_var: Tensor, reward: Tensor, reward_coef: float) -> Tensor:
        surprise = (self.standard(batch) - mean) ** 2 * (-log_var).exp() + log_var
        return 0.5 * surprise.mean() + reward_coef * nn.functional.mse_loss(reward, batch.reward)  # (12)

    def errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean squared error of z, and mean absolute error of R."""
        mean, _, reward = self(batch.obs, batch.action)
        return nn.functional.mse_loss(mean, self.standard(batch)), nn.functional.l1_loss(reward, batch.reward)


class Fit(Regression):
    """The model's training before the first update, in epochs of 1,000 steps; its best state stays."""
    name, kept, batches = "model", ("model",), 1_000

    def __init__(self, model: Model, data: Dataset, args: Args, reward_coef: float, seed: int):
        self.model, self.best_model, self.best, self.waited = model, deepcopy(model), 1e10, 0
        train, self.holdout = split(data, MODEL, seed)
        # no other settings: a model that is kept serves every run with these
        own = Args(batch_size=args.batch_size, reward_coef=reward_coef, model_epochs=args.model_epochs)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        optimizer = torch.optim.Adam(model.parameters(), MODEL.lr, **adam)
        super().__init__(optimizer, data, train, own, args.model_epochs, seed)

    def draw(self) -> Tensor:
        size = 1, self.batches * self.args.batch_size
        return self.rows[torch.randint(len(self.rows), size, generator=self.rng, device=self.data.device)]

    def losses(self, rows: Tensor) -> Tensor:  # (1, n) -> (1,)
        batch = self.data.split(self.data.rows[rows[0]])
        return self.model.fit(batch, *self.model(batch.obs, batch.action), self.args.reward_coef)[None]

    @property
    def done(self) -> bool:
        return super().done or self.waited == MODEL.patience

    @torch.no_grad()
    def end_epoch(self) -> list[dict]:
        (row,) = super().end_epoch()
        fit, held = self.losses(self.holdout[None]).item(), self.data.split(self.data.rows[self.holdout])
        holdout, reward_error = (error.item() for error in self.model.errors(held))
        better = fit < self.best - MODEL.improvement * abs(self.best)
        self.waited = 0 if better else self.waited + 1
        if better:
            self.best = fit
            self.model.holdout_before.fill_(holdout)
            self.best_model.load_state_dict(self.model.state_dict())
        return [{"epoch": row["epoch"], "train": row["train"], "held_out": fit, "holdout": holdout,
                 "reward_error": reward_error, "improved": int(better)}]

    def finish(self) -> str:
        self.model.load_state_dict(self.best_model.state_dict())
        return f"held-out loss {self.best:.4g}, error {self.model.holdout_before.item():.4g}"


class ARMOR:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data, self.seed = args, data, seed
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        raw = torch.zeros(data.obs_size), torch.ones(data.obs_size)  # observations as they are
        self.actor = GaussianActor(data.obs_size, data.action_size, *raw, init).to(data.device)
        self.critics = Critics(data.obs_size, data.action_size, init).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.reference = Reference(deepcopy(self.actor), data.obs_size)  # main puts another in its place
        self.compared_from = args.warm_start + 1 if args.reference == "bc" else 0  # updates (common/run.py)
        init = torch.Generator().manual_seed(seed)  # its own: one model, whatever the networks above
        self.model = Model(data, init).to(data.device)
        self.train, self.holdout = split(data, MODEL, seed)  # as the model's Fit has it
        capacity = max(args.pairs, 2 * args.batch_size)
        self.ring = Ring(capacity, data.obs_size + data.action_size).to(data.device)
        self.banks = torch.zeros(2, args.batch_size, data.obs_size, device=data.device)  # led by pi, by it
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        self.beta = torch.tensor(args.beta, device=data.device)
        paper_coef = ((1 - args.gamma) / max(data.reward.abs().max().item(), 1e-6)) ** 2  # 1 / V_max^2
        self.reward_coef = paper_coef if args.reward_coef is None else args.reward_coef
        self.terminal = termination(args.termination, args.env, args.eval_env, data.obs_size)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.lr, **adam)
        self.cloning_alpha_optimizer = torch.optim.Adam([self.log_alpha], args.lr, **adam)
        self.cloning_optimizer = torch.optim.Adam(self.actor.parameters(), args.lr, **adam)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.lr, **adam)  # fresh for the game
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)  # as well
        self.model_optimizer = torch.optim.Adam(self.model.parameters(), args.lr, **adam)  # not Fit's
        self.step = 0

    def fit_model(self) -> Fit:
        return Fit(self.model, self.data, self.args, self.reward_coef, self.seed)

    @property
    def phase(self) -> tuple[str, bool]:
        """The next update's stage, and whether it restarts the banks (see common/graph.py)."""
        played = self.step - self.args.warm_start  # updates of the game so far
        stage = "warm start" if played < 0 else "switch" if played == 0 else "game"
        return stage, played >= 0 and played % self.args.restart_every == 0

    def imagine(self, real: Batch, pairs: Tensor) -> tuple[Batch, Tensor]:
        """The game's batch, real pairs first, with the model's rewards, next states and ends; and the fit."""
        size, own = len(real.obs), torch.cat([real.obs, real.action], 1)
        obs, action = torch.cat([own, pairs]).tensor_split([self.data.obs_size], 1)
        mean, log_var, reward = self.model(obs, action)
        next_obs = self.model.next_obs(obs, mean, log_var, self.rng)
        done = self.terminal(obs, action, next_obs.detach()).to(obs)
        if self.args.stored_ends:
            done[:size] = real.done
        fit = self.model.fit(real, mean[:size], log_var[:size], reward[:size], self.reward_coef)
        return Batch(obs, action, reward, next_obs, done), fit

    def backup(self, batch: Batch, next_q: Tensor) -> Tensor:
        return torch.addcmul(batch.reward, 1 - batch.done, next_q, value=self.args.gamma)

    def critic_target(self, batch: Batch, next_action: Tensor) -> Tensor:
        """In the game with a gradient, for the model alone."""
        next_q = self.target_critics(batch.next_obs, next_action).min(0).values
        return self.backup(batch, next_q)  # (1), (n,)

    def bellman(self, batch: Batch, q: Tensor, next_q: Tensor, target: Tensor) -> Tensor:
        """Both mean squares in (2), of each critic: (2, 2). `q`, `next_q`: (2, n)."""
        backups = torch.stack([target.expand_as(q), self.backup(batch, next_q)])  # (2, 2, n)
        return nn.functional.mse_loss(q.expand_as(backups), backups, reduction="none").mean(-1)

    def critic_loss(self, pessimism: Tensor, bellman: Tensor) -> Tensor:
        return nsum(pessimism, bellman, self.beta)  # (3), of each critic: (2,)

    def entropy(self, log_std: Tensor, noise: Tensor, action: Tensor) -> Tensor:
        surprise = torch.addcmul(log_std, noise, noise, value=0.5) + torch.log(1 - action**2 + 1e-6)
        per_dim = surprise.mean() + 0.5 * math.log(2 * math.pi)  # -log N(u) = log_std + noise^2 / 2 + this
        return self.data.action_size * per_dim

    def alpha_loss(self, entropy: Tensor) -> Tensor:
        return self.log_alpha * (entropy.detach() + self.data.action_size)  # (5)

    def log_prob(self, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        action = action.clamp(-1, 1)  # the data's, not a draw of pi
        u = 0.5 * torch.log((1 + action + 1e-6) / (1 - action + 1e-6))  # the inverse of tanh, but finite at 1
        return self.actor.log_prob(mean, log_std, u, action)

    def actor_loss(self, objective: Tensor, entropy: Tensor) -> Tensor:
        return nsum(objective, -entropy, self.log_alpha.detach().exp())  # code: alpha after its step

    def critic_step(self, batch: Batch, action: Tensor, reference: Tensor | None = None,
                    fit: Tensor | None = None) -> tuple[Tensor, ...]:
        """Of both critics, and in the game, which has a `fit`, of the model.

        `action`: of pi at s', then at s; `reference`: of the reference at s.
        """
        game, size = fit is not None, len(batch.obs)
        target = self.critic_target(batch, action[:size])
        states, actions = [batch.obs, batch.next_obs], [batch.action, action[:size]]
        if game:
            states, actions = [*states, batch.obs, batch.obs], [*actions, action[size:], reference]
        q, next_q, *policy_q = self.critics(torch.cat(states), torch.cat(actions)).split(size, 1)  # (2, n)
        td, residual = self.bellman(batch, q, next_q, target)
        bellman = torch.lerp(residual, td, self.args.target_weight)  # (2)
        pessimism = (policy_q[0] - policy_q[1]).mean(1) if game else torch.zeros_like(bellman)  # G of (3)
        if game:
            self.adversary_step(self.critic_loss(pessimism, bellman + self.args.fit_coef * fit).sum())
        else:
            descend(self.critic_optimizer, self.critic_loss(pessimism, bellman).sum())
        self.critics.project(self.args.max_norm)
        return bellman, pessimism, q

    def adversary_step(self, loss: Tensor) -> None:
        """Of critics and model, whose gradients belong to the same weights."""
        optimizers = self.critic_optimizer, self.model_optimizer
        critics, model = (optimizer.param_groups[0]["params"] for optimizer in optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward(inputs=[*critics, *model])
        torch._foreach_div_([parameter.grad for parameter in model], max(1.0, self.args.fit_coef))
        for optimizer in optimizers:
            optimizer.step()

    def sample(self, obs: Tensor) -> tuple[Tensor, ...]:
        """Of pi: mean and log std of u, the noise, and the action, (n, A) each."""
        mean, log_std = self.actor(obs)
        noise = torch.randn(mean.shape, generator=self.rng, device=self.data.device)
        return mean, log_std, noise, torch.tanh(torch.addcmul(mean, log_std.exp(), noise))

    @torch.no_grad()
    def simulate(self, obs: Tensor, restart: bool) -> None:
        """Both banks go on one step; what is tried there goes into the ring. States begin anew at `obs`."""
        if restart:
            self.banks.copy_(obs.expand_as(self.banks))
        states, led = self.banks.flatten(0, 1), len(obs)  # (2 B, S)
        action = torch.cat([self.sample(states[:led])[-1], self.reference.sample(states[led:], self.rng)])
        self.ring.append(torch.cat([states, action], 1), torch.ones_like(states[:, 0], dtype=torch.bool))
        mean, log_var, _ = self.model(states, action)
        next_obs = self.model.next_obs(states, mean, log_var, self.rng)
        far = ((next_obs - self.model.obs_mean).abs() > 10 * self.model.obs_std).any(1)
        over = self.terminal(states, action, next_obs) | far
        self.banks.copy_(torch.where(over[:, None], obs.repeat(2, 1), next_obs).view_as(self.banks))

    def update(self, log: bool = True) -> dict[str, Tensor]:
        (stage, restart), args = self.phase, self.args
        self.step += 1
        warm = stage == "warm start"
        if stage == "switch":
            self.log_alpha.detach().zero_()
            if args.reference == "bc":
                polyak(self.reference, self.actor, 1.0)  # a copy
        size = args.batch_size
        index = torch.randint(len(self.train), (size,), generator=self.rng, device=self.data.device)
        real = batch = self.data.split(self.data.rows[self.train[index]])
        reference = fit = None
        if not warm:  # when the game begins the buffer is empty: real pairs twice
            own = torch.cat([real.obs, real.action], 1)
            pairs = own if stage == "switch" else self.ring.sample(size, self.rng)
            batch, fit = self.imagine(real, pairs)
            reference = self.reference.sample(batch.obs, self.rng)
        policy = self.sample(torch.cat([batch.next_obs.detach(), batch.obs]))  # in one pass: (2 n, A)
        critic_terms = self.critic_step(batch, policy[-1].detach(), reference, fit)
        mean, log_std, noise, action = (x[len(batch.obs):] for x in policy)  # at s
        entropy = self.entropy(log_std, noise, action)
        descend(self.cloning_alpha_optimizer if warm else self.alpha_optimizer, self.alpha_loss(entropy))
        if warm:
            objective = -self.log_prob(mean, log_std, batch.action).mean()  # (6)
        else:
            objective = -self.critics(batch.obs, action, q1_alone=True).mean()  # (7), after Q1's step
        actor_loss = self.actor_loss(objective, entropy)
        descend(self.cloning_optimizer if warm else self.actor_optimizer, actor_loss)
        polyak(self.target_critics, self.critics, args.tau)
        if not warm:
            self.simulate(real.obs, restart)
        return self.logs(batch, *critic_terms, actor_loss, entropy, fit) if log else {}

    @torch.no_grad()
    def logs(self, batch: Batch, bellman: Tensor, pessimism: Tensor, q: Tensor, actor_loss: Tensor,
             entropy: Tensor, fit: Tensor | None) -> dict[str, Tensor]:
        holdout, reward_error = self.model.errors(self.data.split(self.data.rows[self.holdout]))
        q = torch.where(q.abs().max() > 1e5, torch.inf, q.mean())  # diverged: common/run.py ends the run
        fit, simulated_done = (fit, batch.done.mean()) if fit is not None else (torch.zeros_like(q),) * 2
        return {"critic_loss": self.critic_loss(pessimism, bellman).mean(), "bellman": bellman.mean(),
                "pessimism": pessimism.mean(), "q": q, "actor_loss": actor_loss,
                "alpha": self.log_alpha.exp(), "entropy": entropy, "fit": fit,
                "simulated_done": simulated_done, "holdout": holdout,
                "holdout_before": self.model.holdout_before.clone(), "reward_error": reward_error}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [ARMOR(args, data, seed) for seed in args.seeds]
    if args.reference != "bc":
        for agent in agents:
            agent.reference = find_reference(args, data)
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
