"""RORL: Robust Offline Reinforcement Learning via Conservative Smoothing. Yang et al., NeurIPS 2022,
arXiv:2206.02829.

RORL is SAC-N with 10 critics and three more losses, at states s^ = s + delta close to the data's s. Two of
them smooth: neither the policy nor the values may change much between s and the worst s^. The third, the OOD
loss, pulls every critic down at s^ and the policy's own actions there, in proportion to the critics'
disagreement. Smoothing alone would spread optimism to unseen states; the OOD loss makes it conservative.

A prime on Q marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout. k
counts the N critics, and j the n perturbations: s^ is s + delta_j. Each loss draws its own, (8) with eps_q,
(9) with eps_ood, (12) with eps_pi. const x is x without its gradient. sac_n.py has the other symbols.

    y = r + gamma (1 - d) [min_k Qk'(s', a') - alpha log pi(a'|s')],  a' ~ pi(s'), no gradient             (1)
    L_TD = sum_k mean_b (Qk(s, a) - y)^2                                                                   (2)
    L_SAC = mean_b [alpha log pi(a~|s) - min_k Qk(s, a~)],  a~ = tanh(mean + std xi),  xi ~ N(0, I)        (3)
    temperature loss = -mean_b log_alpha [log pi(a~|s) + target entropy],  target entropy = -A             (4)
    log pi(a|s) = sum_i [log N(z_i; mean_i, std_i) - log(1 - tanh(z_i)^2 + 1e-6)],  a = tanh(z)            (5)
    delta_j ~ U(-eps sigma, eps sigma), the same for the whole batch;  sigma: std of the data's s          (6)
    c(b, j) = mean_k [(1 - tau_q) max(D, 0)^2 + tau_q min(D, 0)^2],  D = Qk(s + delta_j, a) - Qk(s, a)     (7)
    L_Q = mean_b max_j c(b, j)                                                                             (8)
    L_ood = mean_k,b,j (Qk - const [Qk - lambda std_k Qk])^2 at (s^, a^),  a^ ~ pi(s^)                     (9)
    lambda = max(lambda_max - (t - 1) lambda_dec, lambda_min),  update t = 1, 2, ...                      (10)
    critic loss = L_TD + beta_q L_Q + beta_ood L_ood                                                      (11)
    J(b, j) = KL(pi(s) | pi(s^)) + KL(pi(s^) | pi(s)) of the Gaussians before tanh                        (12)
    actor loss = L_SAC + beta_pi mean_b max_j J(b, j)                                                     (13)

Paper / authors' code / here: the code made the table, so this file follows it in all but the first point.
- (7): Until 2022-11-26, and so in Table 1, the code compared Q(s^, a) with Q of ANOTHER row (authors' issue
  1). --q-smooth-misaligned does that, the default does not. Run both before you claim a reproduction.
- (2) is a sum over critics, (8) and (9) are means: N times weaker than the paper's per-critic equations.
- (8), (13): The paper has the worst s^ in a ball, per critic; the code has that of n, for the critics' mean.
- (9): The paper's std divides by N, the code's by N - 1. Where lambda is 0, there is no OOD loss at all.
- (12): The paper has a factor of 1/2, the code has none. While the policy is wide, J is below 1e-7, and its
  textbook form, a sum less 1, is mostly rounding error; 2 sinh^2 is the same without the cancellation.
- PAPER and ATTACK are the authors' configuration of 2023-02. In 2022-09 walker2d-medium had lambda = 0.1,
  walker2d-expert lambda_min = 0.7, and the attacked hopper-medium eps_pi = eps_q = 0.01, eps_ood = 0.03.
- The worst s^ is found without a graph, then run with one: the same gradients, 1.5 to 2 times as fast.

Logged: critic_loss is (11) / N. q_smooth is (8), near 0 while the loss is aligned. q_ood_std is the mean
std_k in (9), in a healthy run of the order of q_std. lambda is (10). pi_smooth is mean_b max_j J: 1e-7 or
less while the policy is wide, larger as it sharpens. The rest is as in sac_n.py.

Read before: sac_n.py (109 lines of code differ).
Run: python algorithms/rorl.py --env hopper-medium-v2 (--config attack: the models that the paper attacks)
"""

import math
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
    updates: Count = 3_000_000  # gradient steps
    num_critics: Annotated[int, within("[2, 1e6]")] = 10  # N
    batch_size: Size = 256  # B
    lr: Positive = 3e-4  # of critics, actor and log_alpha
    gamma: Fraction = 0.99  # discount in (1)
    tau: Fraction = 0.005  # Polyak step of the target critics
    num_perturbations: Size = 20  # n, how many delta_j (6) draws
    eps_q: NonNegative = 0.005  # radius of (8), in units of the observations' std
    beta_q: NonNegative = 1e-4  # weight of (8)
    tau_q: Annotated[float, within("[0, 1)")] = 0.2  # in (7): rises of Q weigh 1 - tau_q, falls tau_q
    eps_pi: NonNegative = 0.005  # radius of (12)
    beta_pi: NonNegative = 0.1  # its weight in (13)
    eps_ood: NonNegative = 0.01  # radius of (9); 0 still draws n policy actions at s itself
    beta_ood: NonNegative = 0.5  # weight of (9)
    lambda_max: NonNegative = 1.0  # lambda in (9) at the start
    lambda_min: NonNegative = 0.5  # where it stays
    lambda_dec: NonNegative = 1e-6  # its step down per update
    q_smooth_misaligned: bool = False  # (7) as released before 2022-11-26: against another row's Q


def _rows(flags: str, table: dict[str, tuple]) -> dict[str, dict]:
    return {dataset: dict(zip(flags.split(), row)) for dataset, row in table.items()}


# the benchmark: authors' code, configuration of 2023-02-16
PAPER = _rows("num_perturbations eps_pi beta_pi eps_q eps_ood beta_ood lambda_max lambda_min lambda_dec", {
    "halfcheetah-random-v2": (20, 0.001, 0.1, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0),
    "halfcheetah-medium-v2": (10, 0.001, 0.1, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0),
    "halfcheetah-medium-expert-v2": (10, 0.001, 0.1, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0),
    "halfcheetah-medium-replay-v2": (10, 0.001, 0.1, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0),
    "halfcheetah-expert-v2": (10, 0.005, 0.1, 0.005, 0.0, 0.0, 0.0, 0.0, 0.0),
    "hopper-random-v2": (20, 0.005, 0.1, 0.005, 0.01, 0.5, 1.0, 0.5, 1e-6),
    "hopper-medium-v2": (20, 0.005, 0.1, 0.005, 0.01, 0.5, 2.0, 0.1, 1e-6),
    "hopper-medium-expert-v2": (20, 0.005, 0.1, 0.005, 0.01, 0.5, 3.0, 1.0, 1e-6),
    "hopper-medium-replay-v2": (20, 0.005, 0.1, 0.005, 0.01, 0.5, 0.1, 0.0, 1e-6),
    "hopper-expert-v2": (20, 0.005, 0.1, 0.005, 0.01, 0.5, 4.0, 1.0, 1e-6),
    "walker2d-random-v2": (20, 0.005, 1.0, 0.005, 0.01, 0.5, 5.0, 0.5, 1e-5),
    "walker2d-medium-v2": (20, 0.01, 1.0, 0.01, 0.01, 0.1, 1.0, 0.1, 5e-7),
    "walker2d-medium-expert-v2": (20, 0.01, 1.0, 0.01, 0.01, 0.1, 0.1, 0.1, 0.0),
    "walker2d-medium-replay-v2": (20, 0.01, 1.0, 0.01, 0.01, 0.1, 0.1, 0.1, 0.0),
    "walker2d-expert-v2": (20, 0.005, 1.0, 0.005, 0.01, 0.5, 1.0, 0.5, 1e-6),
})
# the attack figures' models, trained separately
ATTACK = _rows("eps_pi beta_pi eps_q eps_ood beta_ood lambda_max lambda_min lambda_dec", {
    "halfcheetah-medium-v2": (0.05, 1.0, 0.03, 0.0, 0.0, 0.0, 0.0, 0.0),
    "walker2d-medium-v2": (0.07, 0.5, 0.03, 0.03, 0.5, 1.0, 0.1, 1e-6),
    "hopper-medium-v2": (0.005, 0.1, 0.005, 0.02, 0.5, 2.0, 0.1, 1e-6),
})


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


# same as sac_n.py
class Actor(nn.Module):
    """Tanh-Gaussian policy on raw obs: S -> 256 x 3, ReLU, then heads for mean and log std, A each."""

    def __init__(self, obs_size: int, action_size: int, mean: Tensor, scale: Tensor, rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size, 256, 256, 256]
        # code: 1 / sqrt(outputs), in the first layer too
        self.weights = nn.ParameterList(uniform((o, i), 256**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.full((o,), 0.1)) for o in sizes[1:])
        self.head_weight = uniform((2 * action_size, 256), 1e-3, rng)  # rows: mean, then log std
        self.head_bias = uniform((2 * action_size,), 1e-3, rng)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of z before tanh, each (B, A)."""
        x = (obs - self.obs_mean) / self.obs_scale
        for weight, bias in zip(self.weights, self.biases):
            x = nn.functional.linear(x, weight, bias).relu_()
        mean, log_std = nn.functional.linear(x, self.head_weight, self.head_bias).chunk(2, -1)
        return mean, nn.functional.hardtanh(log_std, -5, 2)  # a clamp of fewer kernels

    def draw(self, mean: Tensor, log_std: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reparameterised action and the noise xi in it, each (B, A)."""
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return torch.tanh(torch.addcmul(mean, log_std.exp(), noise)), noise

    def sample(self, mean: Tensor, log_std: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Action (B, A) and its log probability (B,); -log N(z) = log_std + noise^2 / 2 + log(2 pi) / 2."""
        action, noise = self.draw(mean, log_std, rng)
        surprise = torch.addcmul(log_std, noise, noise, value=0.5) + torch.log(1 - action**2 + 1e-6)
        return action, -0.5 * mean.shape[-1] * math.log(2 * math.pi) - surprise.sum(-1)  # (5)

    def act(self, obs: Tensor) -> Tensor:
        return torch.tanh(self(obs)[0])


# same as sac_n.py
class Critics(nn.Module):
    """N networks S + A -> 256 x 3 -> 1 as one batched matmul: raw obs (B, S), action (B, A) -> (N, B)."""

    def __init__(self, num: int, obs_size: int, action_size: int, mean: Tensor, scale: Tensor,
                 rng: torch.Generator):
        super().__init__()
        self.register_buffer("obs_mean", mean.clone())
        self.register_buffer("obs_scale", scale.clone())
        sizes = [obs_size + action_size, 256, 256, 256]
        self.weights = nn.ParameterList(uniform((num, i, o), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.full((num, 1, o), 0.1)) for o in sizes[1:])
        self.weights.append(uniform((num, 256, 1), 3e-3, rng))
        self.biases.append(uniform((num, 1, 1), 3e-3, rng))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = (obs - self.obs_mean) / self.obs_scale
        x = torch.cat([x, action], -1).expand(len(self.weights[0]), -1, -1)  # (N, B, S + A)
        *hidden, (last_weight, last_bias) = zip(self.weights, self.biases)
        for weight, bias in hidden:
            x = torch.baddbmm(bias, x, weight).relu_()  # (N, B, 256); in place, which saves memory
        return torch.baddbmm(last_bias, x, last_weight).squeeze(-1)


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


class RORL:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        network_args = data.obs_size, data.action_size, data.obs_mean.cpu(), data.obs_std.cpu() + 1e-6, init
        self.actor = Actor(*network_args).to(data.device)
        self.critics = Critics(args.num_critics, *network_args).to(data.device)
        # code: targets start from random weights of their own, not as a copy
        self.target_critics = Critics(args.num_critics, *network_args).to(data.device)
        self.target_critics.requires_grad_(False)
        self.log_alpha = torch.zeros((), device=data.device, requires_grad=True)
        adam = dict(lr=args.lr, fused=True, capturable=data.device.type == "cuda")
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], **adam)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), **adam)
        self.step = 0
        self.count = torch.zeros((), dtype=torch.int64, device=data.device)  # `step` on the device, for (10)

    @property
    def phase(self) -> bool:  # has the next update an OOD loss? (see common/graph.py)
        lam = max(self.args.lambda_max - self.step * self.args.lambda_dec, self.args.lambda_min)
        return self.args.beta_ood > 0 and lam > 1e-12

    def perturbations(self, eps: float) -> Tensor:
        shape = self.args.num_perturbations, self.data.obs_size
        noise = torch.rand(shape, generator=self.rng, device=self.data.device)
        return (noise - 0.5) * (2 * eps * self.data.obs_std)  # (6), (n, S)

    @torch.no_grad()
    def critic_target(self, batch: Batch, alpha: Tensor) -> Tensor:
        next_action, log_prob = self.actor.sample(*self.actor(batch.next_obs), self.rng)
        next_value = self.target_critics(batch.next_obs, next_action).min(0).values - alpha * log_prob
        return torch.addcmul(batch.reward, 1 - batch.done, next_value, value=self.args.gamma)  # (1), (B,)

    def td_loss(self, q: Tensor, target: Tensor) -> Tensor:  # code: a sum over critics
        return nn.functional.mse_loss(q, target.expand_as(q), reduction="sum") / q.shape[1]  # (2)

    def asymmetric(self, difference: Tensor) -> Tensor:
        """`difference`: D of every critic, (N, ...) -> (...)."""
        rise, fall = 1 - self.args.tau_q, self.args.tau_q
        return rise * (difference * nn.functional.leaky_relu(difference, fall / rise)).mean(0)  # (7)

    @torch.no_grad()
    def worst_near(self, batch: Batch) -> tuple[Tensor, Tensor | slice]:
        """Of each row the s^ with the largest (7), (B, S), and the rows whose Q(s, a) is subtracted there."""
        n, delta = self.args.num_perturbations, self.perturbations(self.args.eps_q)
        obs = torch.cat([batch.obs[:, None], batch.obs[:, None] + delta], 1)  # (B, 1 + n, S)
        q = self.critics(obs.flatten(0, 1), batch.action.repeat_interleave(1 + n, 0))
        clean, near = q.unflatten(1, obs.shape[:2]).split([1, n], -1)  # (N, B, 1) and (N, B, n)
        if self.args.q_smooth_misaligned:
            rows = torch.arange(len(obs) * n, device=obs.device).view(-1, n) % len(obs)  # at (b, j)
            clean = clean[:, rows, 0]
        worst = self.asymmetric(near - clean).argmax(1)  # code: by the ensemble's mean
        rows = rows.gather(1, worst[:, None])[:, 0] if self.args.q_smooth_misaligned else slice(None)
        return batch.obs + delta[worst], rows

    @torch.no_grad()
    def ood_rows(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """s^ (B n, S) and a^ (B n, A) of (9)."""
        obs = (obs[:, None] + self.perturbations(self.args.eps_ood)).flatten(0, 1)
        return obs, self.actor.draw(*self.actor(obs), self.rng)[0]

    def ood_loss(self, q: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """(9) with lambda `lam`, and the std in it, (B n,)."""
        std = q.detach().std(0)  # code: divided by N - 1
        return nn.functional.mse_loss(q, q.detach() - lam * std), std  # (9)

    def policy_smoothing(self, obs: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """`mean`, `log_std`: (B, A) of pi(s), with their graph."""
        delta = self.perturbations(self.args.eps_pi)
        with torch.no_grad():
            near_mean, near_log_std = self.actor(obs[:, None] + delta)  # (B, n, A)
            worst = jeffreys(mean[:, None], log_std[:, None], near_mean, near_log_std).argmax(1)  # (B,)
        return jeffreys(mean, log_std, *self.actor(obs + delta[worst])).mean()

    def actor_loss(self, q: Tensor, log_prob: Tensor, alpha: Tensor, smoothing: Tensor) -> Tensor:
        sac_loss = (alpha * log_prob - q.min(0).values).mean()  # (3)
        return sac_loss.add(smoothing, alpha=self.args.beta_pi)  # (13)

    def alpha_loss(self, log_prob: Tensor) -> Tensor:
        return self.log_alpha * (self.data.action_size - log_prob.detach().mean())  # (4), A: -target entropy

    def update(self, log: bool = True) -> dict[str, Tensor]:
        args, has_ood = self.args, self.phase
        zero = torch.zeros((), device=self.data.device)  # stands in for a loss that is off
        batch = self.data.sample(args.batch_size, self.rng)
        alpha = self.log_alpha.detach().exp()
        lam = (args.lambda_max - self.count * args.lambda_dec).clamp(min=args.lambda_min)  # (10)
        mean, log_std = self.actor(batch.obs)
        action, log_prob = self.actor.sample(mean, log_std, self.rng)
        alpha_loss = self.alpha_loss(log_prob)
        has_pi, has_q = args.eps_pi * args.beta_pi > 0, args.eps_q * args.beta_q > 0
        pi_smooth = self.policy_smoothing(batch.obs, mean, log_std) if has_pi else zero
        actor_loss = self.actor_loss(self.critics(batch.obs, action), log_prob, alpha, pi_smooth)
        target = self.critic_target(batch, alpha)
        near_obs, rows = self.worst_near(batch) if has_q else (batch.obs[:0], None)
        ood = self.ood_rows(batch.obs) if has_ood else (batch.obs[:0], batch.action[:0])
        obs = torch.cat([batch.obs, near_obs, ood[0]])  # all states of (11) in one forward pass
        actions = torch.cat([batch.action, batch.action[:len(near_obs)], ood[1]])
        q, near_q, ood_q = self.critics(obs, actions).split([len(batch.obs), len(near_obs), len(ood[0])], 1)
        q_smooth = self.asymmetric(near_q - q[:, rows]).mean() if has_q else zero  # (8)
        ood_loss, ood_std = self.ood_loss(ood_q, lam) if has_ood else (zero, zero)
        critic_loss = self.td_loss(q, target) + args.beta_q * q_smooth + args.beta_ood * ood_loss  # (11)
        self.step += 1
        self.count += 1
        optimizers = self.alpha_optimizer, self.actor_optimizer, self.critic_optimizer
        for loss, optimizer in zip((alpha_loss, actor_loss, critic_loss), optimizers):
            optimizer.zero_grad()
            loss.backward(inputs=optimizer.param_groups[0]["params"])  # a loss moves its own parameters only
            optimizer.step()
        polyak(self.target_critics, self.critics, args.tau)
        if not log:
            return {}
        return {"critic_loss": critic_loss / len(q), "q": q.mean(), "q_max": q.max(),
                "q_std": q.std(0, correction=0).mean(), "q_smooth": q_smooth, "q_ood_std": ood_std.mean(),
                "lambda": lam, "target": target.mean(), "actor_loss": actor_loss, "pi_smooth": pi_smooth,
                "alpha": alpha, "entropy": -log_prob.mean()}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    agents = [RORL(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER, attack=ATTACK))
