"""CQL: Conservative Q-Learning for Offline Reinforcement Learning. Kumar, Zhou, Tucker and Levine, NeurIPS
2020, arXiv:2006.04779.

CQL is SAC with one more term in the critics' loss. The term pushes Q down where a maximising policy would
look, at a soft maximum over sampled actions, and pushes it up at the data's action. So, if it weighs enough,
Q averaged over the policy's actions is below their true value, and no action without data can fool the actor.

A prime on Q marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout. mean_b
is the mean over a batch. k counts the two critics. The actor pi gives the mean and std of a Gaussian variable
z, and the action is tanh(z), of A dimensions. alpha weighs the entropy, w the conservative term Delta, whose
soft maximum has the temperature t. N actions of each kind are sampled. --clip has bounds, by default none.

    y = r + gamma (1 - d) max_j min_k Qk'(s', a'_j),  a'_j ~ pi(s'),  j = 1, or to N: --max-q-backup       (1)
    u_j ~ U(-1, 1),  c_j ~ pi(s),  n_j ~ pi(s'),  j = 1 ... N, no gradient                                 (2)
    v_k = {Qk(s, x) - log density of x},  x: these 3 N actions                                             (3)
    Delta_k = mean_b clip(t log sum exp(v_k / t) - Qk(s, a))                                               (4)
    critic loss = sum_k [mean_b (Qk(s, a) - y)^2 + P_k],  P_k = w Delta_k                                  (5)
    --gap: P_k = m w (Delta_k - gap),  m = min(exp(log_m), 1e6),  multiplier loss = -1/2 sum_k P_k         (6)
    actor loss = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ ~ pi(s)                                (7)
    in the first --bc-updates: actor loss = mean_b [alpha log pi(a~|s) - log pi(a|s)]                      (8)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy],  target entropy = -A             (9)

CQL-smooth is OUR reconstruction of an example in lectures on RORL, which show no formula: plain CQL is
fragile where observations are attacked. It is off at --eps 0. s^_i = s + delta_i is one of M states near s.
delta_i ~ U(-eps sigma, eps sigma) is the same for the whole batch, and sigma is the std of the data's s.

    critic loss += beta_q mean_b max_i sum_k (Qk(s^_i, a) - Qk(s, a))^2 / 2                               (10)
    actor loss += beta_pi mean_b max_i J_i / 2                                                            (11)
    J_i = KL(pi(s) | pi(s^_i)) + KL(pi(s^_i) | pi(s)) of the Gaussians before tanh                        (12)

Paper / authors' code / here: the default is CORL's configuration, the one with published scores on v2 data.
`--code authors` is what the authors' release (d67dbe9) does otherwise, and `--config authors` has its values.
- (6): The authors have m w Delta - m gap. Their log_m starts at 0, CORL's at 1. They step alpha before (7).
- (3): CQL(rho) (--no-importance) leaves the densities out and counts Qk(s, a) as well, in every code.
- (3): n_j is valued at s, but its density is the one at s'. (1): The authors: the min of two maxima of ten.
- (4): There is no division by 3 N, so Delta has a constant log(3 N). A gap below it is hard to reach.
- The authors step the critics first. Under torch <= 1.4 the actor's gradient then had the NEW weights but the
  OLD ReLU masks. Here both are old (7e-4 apart after three updates of the tests).
- (8): CORL's log pi(a|s) forgets a and takes a fresh sample. Here it is a's, with |a| <= 0.999. The authors
  have |a| <= 1 - 1e-6 and a mean clamped to +-9, and add 1e-6 to 1 - tanh(z)^2 in log pi, which is left out.
- In AntMaze, CORL's second critic has 3 hidden layers although its file says 5: --critic-layers 5 3.

Logged: critic_loss is (5), with (10). td_loss is the mean of the squares in (5), delta that of Delta_k. q is
the mean of Qk(s, a), q_policy that of Qk at c_j, q_uniform at u_j. actor_loss is (7) or (8), with (11).
entropy is -mean_b log pi(a~|s), and settles near -A. multiplier is m, and 0 without --gap: if it grows for
ever, the gap cannot be reached. q_smooth and pi_smooth are (10), (11) without weights. In six runs (N = 4,
30,000 updates), delta went to between -5 and 3 in 10,000 updates and stayed; q was within 2 of q_policy and 6
to 61 above q_uniform, and all still rose; alpha ended between 0.1 and 1.1.

Read before: sac_n.py (209 lines of code differ).
Run: python algorithms/cql.py --env halfcheetah-medium-v2
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from common import InputError, friendly
from common.args import Count, Fraction, NonNegative, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "halfcheetah-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 1_000_000  # gradient steps
    batch_size: Size = 256  # B
    actor_lr: Positive = 3e-5  # of the actor and of log_alpha
    critic_lr: Positive = 3e-4  # of the critics and of log_m
    gamma: Fraction = 0.99  # discount in (1)
    tau: Fraction = 0.005  # Polyak step of the target critics
    normalize: bool = True  # standardise observations with the dataset's mean and std
    num_actions: Size = 10  # N in (2)
    cql_weight: NonNegative = 10.0  # w in (5)
    cql_temperature: Positive = 1.0  # t in (4)
    importance: bool = True  # CQL(H) with importance weights; off: CQL(rho)
    gap: Annotated[float | None, within("(-inf, inf)")] = None  # of (6), whose multiplier it turns on
    clip: Annotated[tuple[float, float] | None, within("(-inf, inf)")] = None  # bounds in (4); default: none
    max_q_backup: bool = False  # y from the best of N next actions (1)
    bc_updates: Annotated[int, within("[0, 1e12]")] = 0  # how many of the first updates clone (8)
    critic_layers: Annotated[tuple[int, int], within("[1, 100]")] = (3, 3)  # hidden layers of each critic
    code: Literal["corl", "young-geng", "authors"] = "corl"  # whose networks, initial values, order and (6)
    eps: NonNegative = 0.0  # CQL-smooth: radius of (10) and (11), in units of the observations' std; 0: off
    beta_q: NonNegative = 1e-2  # CQL-smooth: weight of (10)
    beta_pi: NonNegative = 0.1  # CQL-smooth: weight of (11)
    num_perturbations: Size = 20  # CQL-smooth: M

    def __post_init__(self):
        if self.clip and self.clip[0] > self.clip[1]:
            raise InputError(f"--clip {self.clip[0]} {self.clip[1]}: the first must be the smaller")


_GYM = [f"{robot}-{level}" for robot in ("halfcheetah", "hopper", "walker2d")
        for level in ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")]
_MAZES = "umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"
_MAZE = dict(cql_weight=5.0, actor_lr=1e-4, normalize=False, eval_every=50_000, eval_episodes=100)
_CORL_MAZE = _MAZE | dict(clip=(-200.0, 1e9), max_q_backup=True, reward="10r-5")
PAPER = {f"{name}-v2": {} for name in _GYM}  # CORL, configs/offline/cql
PAPER["hopper-medium-v2"] = dict(reward="return_range")
PAPER |= {f"maze2d-{size}-v1": dict(gap=5.0, eval_episodes=100) for size in ("umaze", "medium", "large")}
PAPER |= {f"{task}-{level}-v1": dict(cql_weight=1.0, actor_lr=1e-4) for level in ("human", "cloned", "expert")
          for task in ("pen", "door", "hammer", "relocate")}
PAPER |= {f"antmaze-{maze}-v2": _CORL_MAZE | dict(gap=0.8, critic_layers=(5, 5)) for maze in _MAZES}
PAPER |= {f"kitchen-{level}-v0": dict(cql_weight=5.0, actor_lr=1e-4)  # our own choice: no source confirms one
          for level in ("complete", "partial", "mixed")}
AUTHORS = {f"{name}-{v}": dict(code="authors", actor_lr=1e-4, normalize=False, bc_updates=40_000)
           for v in ("v0", "v2") for name in _GYM if v == "v2" or "full" not in name}  # README: w is 5 or 10
AUTHORS |= {f"antmaze-{maze}-{v}": _MAZE | dict(code="authors", gap=5.0, bc_updates=40_000, reward="4r-2")
            for v in ("v0", "v2") for maze in _MAZES}
YOUNG_GENG = {f"antmaze-{maze}-v2": _CORL_MAZE | dict(code="young-geng", gap=0.2, bc_updates=40_000,
                                                      updates=1_200_000) for maze in _MAZES}  # its issue 2


class Network(nn.Module):
    """Linear layers with ReLU between; `start`: initial weights, `head`: gain or bound of the last ones."""

    def __init__(self, sizes: list[int], start: str, head: float, mean: Tensor, scale: Tensor,
                 rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        self.weights = nn.ParameterList(torch.empty(o, i) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(torch.zeros(o) for o in sizes[1:])
        for weight, bias in zip(self.weights, self.biases):
            last, (outputs, inputs) = weight is self.weights[-1], weight.shape
            if start == "orthogonal":
                nn.init.orthogonal_(weight, head if last else 2**0.5, rng)
            elif start == "default" and last:
                nn.init.xavier_uniform_(weight, head, rng)
            else:  # code: the authors have 1 / sqrt(outputs), where PyTorch has 1 / sqrt(inputs)
                bound = inputs**-0.5 if start == "default" else head if last else outputs**-0.5
                nn.init.uniform_(weight, -bound, bound, rng)
                nn.init.uniform_(bias, -bound, bound, rng)
            if start == "authors" and not last:
                nn.init.constant_(bias, 0.1)

    def layers(self, x: Tensor) -> Tensor:
        *hidden, last = zip(self.weights, self.biases)
        shape, x = x.shape[:-1], x.reshape(-1, x.shape[-1])  # a matrix: in place, views are copied thrice
        for weight, bias in hidden:
            x = nn.functional.linear(x, weight, bias).relu_()
        return nn.functional.linear(x, *last).view(*shape, -1)


class Actor(Network):
    """Tanh-Gaussian policy on raw obs: S -> 256 x 3 (young-geng: 2), ReLU, then mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, code: str,
                 rng: torch.Generator):
        start, head, depth = {"corl": ("default", 0.01, 3), "young-geng": ("orthogonal", 0.01, 2),
                              "authors": ("authors", 1e-3, 3)}[code]
        super().__init__([obs_size, *[256] * depth, 2 * action_size], start, head, mean, scale, rng)
        self.learned = code != "authors"  # code: CORL learns a scale and a shift of log std
        if self.learned:
            self.log_std_scale = nn.Parameter(torch.tensor(1.0 if code == "corl" else 0.0))
            self.log_std_shift = nn.Parameter(torch.tensor(-1.0))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of z before tanh, each (B, A)."""
        mean, log_std = self.layers((obs - self.obs_mean) / self.obs_scale).chunk(2, -1)
        if self.learned:
            log_std = torch.addcmul(self.log_std_shift, self.log_std_scale, log_std)
        return mean, nn.functional.hardtanh(log_std, -20 if self.learned else -5, 2)  # a clamp, less kernels

    def log_prob(self, log_std: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """log pi of tanh(z), (..., A) -> (...); `noise`: by how many std z is off the mean."""
        surprise = torch.addcmul(log_std, noise, noise, value=0.5)  # log N is -surprise - log(2 pi) / 2
        # log(1 - tanh(z)^2) = 2 log 2 + 2 z - 4 softplus(2 z) / 2, without cancellation
        surprise = surprise.add(z, alpha=2).sub(nn.functional.softplus(z, beta=2), alpha=4)
        return -z.shape[-1] * (0.5 * math.log(2 * math.pi) + 2 * math.log(2)) - surprise.sum(-1)

    def draw(self, mean: Tensor, log_std: Tensor, rng: torch.Generator, num: int) -> tuple[Tensor, Tensor]:
        """`num` reparameterised z of each state, and the noise in them: (B, A) -> (B, num, A) each."""
        noise = torch.randn((len(mean), num, mean.shape[1]), generator=rng, device=mean.device)
        return torch.addcmul(mean[:, None], log_std.exp()[:, None], noise), noise

    def sample(self, mean: Tensor, log_std: Tensor, rng: torch.Generator, num: int) -> tuple[Tensor, Tensor]:
        """Actions (B, num, A) and their log probabilities (B, num)."""
        z, noise = self.draw(mean, log_std, rng, num)
        return torch.tanh(z), self.log_prob(log_std[:, None], z, noise)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


class Critics(nn.ModuleList):
    """Q1 and Q2, S + A -> 256 x depth -> 1, ReLU: raw obs (..., S), action (..., A) -> (2, ...)."""

    def __init__(self, depths: tuple[int, int], obs_size: int, action_size: int, mean: Tensor, scale: Tensor,
                 code: str, rng: torch.Generator):
        start = ("authors", 3e-3) if code == "authors" else ("orthogonal", 0.01)
        sizes = ([obs_size + action_size, *[256] * depth, 1] for depth in depths)
        super().__init__(Network(size, *start, mean, scale, rng) for size in sizes)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        obs = (obs - self[0].obs_mean) / self[0].obs_scale
        shape = torch.broadcast_shapes(obs.shape[:-1], action.shape[:-1])
        x = torch.cat([obs.expand(*shape, -1), action.expand(*shape, -1)], -1)  # (..., S + A)
        return torch.stack([critic.layers(x).squeeze(-1) for critic in self])  # on a CPU faster than at once


# same as rorl.py
def jeffreys(mean: Tensor, log_std: Tensor, near_mean: Tensor, near_log_std: Tensor) -> Tensor:
    """KL in both directions between diagonal Gaussians, summed over the last dimension: (..., A) -> (...)."""
    precisions = (-2 * log_std).exp() + (-2 * near_log_std).exp()
    # for t = log std - near log std, (std / near std)^2 / 2 + (near std / std)^2 / 2 - 1 = 2 sinh(t)^2
    spread = 2 * torch.sinh(log_std - near_log_std) ** 2  # free of cancellation
    return (spread + (mean - near_mean) ** 2 * precisions / 2).sum(-1)  # (12)


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


class CQL:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data, self.authors = args, data, args.code == "authors"
        self.rng = torch.Generator(data.device).manual_seed(seed)
        mean = data.obs_mean.cpu() if args.normalize else torch.zeros(data.obs_size)
        scale = data.obs_std.cpu() + 1e-3 if args.normalize else torch.ones(data.obs_size)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        network_args = data.obs_size, data.action_size, mean, scale, args.code, init
        self.actor = Actor(*network_args).to(data.device)
        self.critics = Critics(args.critic_layers, *network_args).to(data.device)
        # code: the authors' targets start from random weights of their own, not as a copy
        targets = Critics(args.critic_layers, *network_args) if self.authors else deepcopy(self.critics)
        self.target_critics = targets.to(data.device).requires_grad_(False)
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        start = 0.0 if self.authors else 1.0
        self.log_multiplier = torch.full((), start, device=data.device, requires_grad=True)
        adam = dict(fused=True, capturable=data.device.type == "cuda")
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], args.actor_lr, **adam)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), args.critic_lr, **adam)
        self.multiplier_optimizer = torch.optim.Adam([self.log_multiplier], args.critic_lr, **adam)
        self.step = 0

    @property
    def phase(self) -> bool:  # does the next update clone? (see common/graph.py)
        return self.step < self.args.bc_updates

    @torch.no_grad()
    def critic_target(self, batch: Batch, next_policy: tuple[Tensor, Tensor]) -> Tensor:
        number = (10 if self.authors else self.args.num_actions) if self.args.max_q_backup else 1
        z, _ = self.actor.draw(*next_policy, self.rng, number)
        q = self.target_critics(batch.next_obs[:, None], torch.tanh(z))  # (2, B, number)
        next_q = q.amax(-1).amin(0) if self.authors else q.amin(0).amax(-1)  # code: their min of two maxima
        return torch.addcmul(batch.reward, 1 - batch.done, next_q, value=self.args.gamma)  # (1), (B,)

    @torch.no_grad()
    def proposals(self, policy: tuple[Tensor, Tensor], next_policy: tuple[Tensor, Tensor]) -> list[Tensor]:
        """3 N actions at each state, (B, 3 N, A), and the logs of their densities, (B, 3 N)."""
        shape = len(policy[0]), self.args.num_actions, self.data.action_size
        uniform = 2 * torch.rand(shape, generator=self.rng, device=self.data.device) - 1
        density = torch.full(shape[:2], -shape[-1] * math.log(2), device=self.data.device)  # of 0.5^A
        samples = (self.actor.sample(*of, self.rng, shape[1]) for of in (policy, next_policy))
        return [torch.cat(parts, 1) for parts in zip((uniform, density), *samples)]  # (2)

    def conservative(self, q: Tensor, sampled_q: Tensor, log_density: Tensor) -> Tensor:
        """Delta of each critic, (2,), from Qk(s, a) (2, B) and Qk at the proposals (2, B, 3 N)."""
        t, v = self.args.cql_temperature, sampled_q
        # code: CQL(rho) counts Q(s, a) too
        v = v - log_density if self.args.importance else torch.cat([v, q[..., None]], -1)  # (3)
        difference = t * torch.logsumexp(v / t, -1) - q  # (2, B)
        return (difference.clamp(*self.args.clip) if self.args.clip else difference).mean(-1)  # (4)

    def multiplier(self) -> Tensor:
        return self.log_multiplier.exp().clamp(max=1e6)

    def penalty(self, delta: Tensor) -> Tensor:
        """P of each critic, (2,)."""
        weight, gap = self.args.cql_weight, self.args.gap
        if gap is None:
            return weight * delta  # (5)
        excess = weight * delta - gap if self.authors else weight * (delta - gap)
        return self.multiplier() * excess  # (6)

    def smoothing(self, obs: Tensor, change) -> Tensor:
        """Half the mean of the largest `change`, a function of near states: (B, n, S) -> (B, n)."""
        shape = self.args.num_perturbations, self.data.obs_size
        noise = 2 * torch.rand(shape, generator=self.rng, device=self.data.device) - 1
        delta = noise * self.args.eps * self.data.obs_std  # (n, S)
        with torch.no_grad():
            worst = change(obs[:, None] + delta).argmax(1)  # (B,)
        return change((obs + delta[worst])[:, None]).mean() / 2

    def q_smoothing(self, batch: Batch, q: Tensor) -> Tensor:
        action, q = batch.action[:, None], q[..., None]
        return self.smoothing(batch.obs, lambda near: ((self.critics(near, action) - q) ** 2).sum(0))  # (10)

    def policy_smoothing(self, obs: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        mean, log_std = mean[:, None], log_std[:, None]
        return self.smoothing(obs, lambda near: jeffreys(mean, log_std, *self.actor(near)))  # (11)

    def actor_loss(self, batch: Batch, policy, action: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
        if self.phase:
            mean, log_std = policy
            mean, bound = (mean.clamp(-9, 9), 1 - 1e-6) if self.authors else (mean, 0.999)
            z = torch.atanh(batch.action.clamp(-bound, bound))
            gain = self.actor.log_prob(log_std, z, (z - mean) / log_std.exp())  # (8)
        else:
            gain = self.critics(batch.obs, action).min(0).values  # (7)
        return (alpha * log_prob - gain).mean()

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return self.log_alpha * (self.data.action_size - log_prob.detach().mean())  # (9), A: -target entropy

    def update(self, log: bool = True) -> dict[str, Tensor]:
        args, alpha = self.args, self.log_alpha.detach().exp()
        multiplier = torch.zeros_like(alpha) if args.gap is None else self.multiplier().detach()
        batch = self.data.sample(args.batch_size, self.rng)
        policy = self.actor(batch.obs)
        action, log_prob = (x.squeeze(1) for x in self.actor.sample(*policy, self.rng, 1))  # (B, A), (B,)
        descend(self.alpha_optimizer, self.alpha_loss(log_prob))
        if self.authors:
            alpha = self.log_alpha.detach().exp()  # code: after its step
        actor_loss = self.actor_loss(batch, policy, action, log_prob, alpha)
        with torch.no_grad():
            next_policy = self.actor(batch.next_obs)
        target = self.critic_target(batch, next_policy)
        proposals, log_density = self.proposals(policy, next_policy)
        actions = torch.cat([batch.action[:, None], proposals], 1)  # (B, 1 + 3 N, A)
        q, sampled_q = self.critics(batch.obs[:, None], actions).split([1, actions.shape[1] - 1], -1)
        q = q.squeeze(-1)  # (2, B)
        td_loss = nn.functional.mse_loss(q, target.expand_as(q), reduction="none").mean(-1)  # (2,)
        delta = self.conservative(q, sampled_q, log_density)
        critic_loss = (td_loss + self.penalty(delta)).sum()
        q_smooth = pi_smooth = torch.zeros((), device=self.data.device)
        if args.eps > 0:
            q_smooth, pi_smooth = self.q_smoothing(batch, q), self.policy_smoothing(batch.obs, *policy)
            critic_loss = critic_loss + args.beta_q * q_smooth
            actor_loss = actor_loss + args.beta_pi * pi_smooth
        self.step += 1
        if args.gap is not None:
            descend(self.multiplier_optimizer, -0.5 * self.penalty(delta.detach()).sum())
        descend(self.actor_optimizer, actor_loss)
        descend(self.critic_optimizer, critic_loss)
        polyak(self.target_critics, self.critics, args.tau)
        if not log:
            return {}
        uniform_q, policy_q, _ = sampled_q.detach().mean((0, 1)).split(args.num_actions)
        return {"critic_loss": critic_loss, "td_loss": td_loss.mean(), "delta": delta.mean(), "q": q.mean(),
                "q_policy": policy_q.mean(), "q_uniform": uniform_q.mean(), "actor_loss": actor_loss,
                "alpha": alpha, "entropy": -log_prob.mean(), "multiplier": multiplier, "q_smooth": q_smooth,
                "pi_smooth": pi_smooth}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [CQL(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, **{"authors": AUTHORS, "antmaze-young-geng": YOUNG_GENG}))
