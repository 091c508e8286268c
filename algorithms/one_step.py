"""One-step: Offline RL Without Off-Policy Evaluation. Brandfonbrener et al., NeurIPS 2021, arXiv:2106.08909.

Value the data's own policy, improve on it once, stop. Stage A clones the data into a policy beta. B learns
its Q by SARSA, which needs no action that is not in the data. C copies beta as pi and makes the data's better
actions likelier. Nothing bootstraps from pi, so Q's errors at unseen actions cannot feed on themselves. A
prime on Q marks a target network, s' is the next state, and d = 1 at a true end, never at a timeout. mean_b
is the mean over a batch, mean_k that over ten draws u_k.

    A: cloning loss = -mean_b log beta(a|s)                                                                (1)
    B: y = r + gamma (1 - d) Q'(s', a'),  a' the data's next action                                        (2)
       critic loss = mean_b (Q(s, a) - y)^2                                                                (3)
    C: advantage = Q(s, a) - mean_k Q(s, u_k),  u_k ~ beta(s)                                              (4)
       exp_weight: actor loss = -mean_b w log pi(a|s),  w = min(exp(T advantage), 100)                     (5)
       rev_kl: mean_b [-Q(s, a~) + alpha mean_k (log pi(u_k|s) - log beta(u_k|s))],  a~, u_k ~ pi(s)       (6)
    pi(s), beta(s): N(mean, std) in each dimension,  mean in (-1, 1),  log std in (-5, 0)                  (7)

Paper / authors' code / here:
- (2): The code drops the row of a timeout but takes its action as a' of the row before. So does this file.
  `--view next_obs` keeps that row for A and C; its a' is unknown, so B leaves it out.
- As in the code, u_k in (4) may leave [-1, 1], and a is clamped to +-(1 - 1e-4) in (5), but not in (1).
- T (of 0.1 0.3 1 3 10 30) and alpha (of 0.03 0.1 0.3 1 3 10) were chosen per dataset by the final score; the
  choices are unpublished. The code's defaults are `reverse_kl`, which is (6), alpha 1, and T 0.01 in (5),
  nearly cloning. Here: (5), T = 3, alpha = 1; sweep with --inverse-temperature. easy_bcq is left out.
- (7): The code's configuration says truncated. But pi copies beta's object, a plain normal. Here: plain.
- "One-step" in other papers is Exp. Weight of Table 1 (3 seeds, 100 episodes); rev_kl is mostly better.
- The code trains the stages apart; here `stages` divides one run. Until C it plays beta: compare `last`.

Logged: a stage keeps the others' last values. critic_loss is (3). q is mean_b Q(s, a) and nears the mean
discounted return. actor_loss is (1), may be negative, then (5) or (6). advantage averages (4), near 0; with
rev_kl that of Q(s, a~) - Q(s, a), which rises. capped is the share of w = 100, healthy < 0.1. kl is (6)'s.

Read before: td3_bc.py (104 lines of code differ).
Run: python algorithms/one_step.py --env hopper-medium-v2
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
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # trained side by side in one process
    updates: Count = 2_600_000  # gradient steps, all stages together
    stages: Annotated[tuple[int, int, int], within("[0, 1e6]")] = (5, 20, 1)  # of updates: A, B and C
    batch_size: Size = 512  # B
    hidden_size: Size = 1024  # width of the two hidden layers
    lr: Positive = 1e-4  # of all networks
    gamma: Fraction = 0.99  # discount in (2)
    tau: Fraction = 0.005  # Polyak step of Q', every second step of B
    operator: Literal["exp_weight", "rev_kl"] = "exp_weight"  # (5) or (6)
    inverse_temperature: NonNegative = 3.0  # T in (5)
    rev_kl_weight: NonNegative = 1.0  # alpha in (6)
    num_samples: Size = 10  # u_k in (4) and (6)

    def __post_init__(self):
        if not any(self.stages):
            raise InputError("--stages 0 0 0: one share must be more than 0")


PAPER = {f"{robot}-{level}-v2": {} for robot in ("halfcheetah", "hopper", "walker2d")
         for level in ("random", "medium", "medium-replay", "medium-expert")}  # Table 1; T: see above
PAPER |= {f"{task}-cloned-v1": {} for task in ("pen", "hammer", "relocate", "door")}  # version unverified


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class MLP(nn.Module):
    """in -> H -> H -> out, ReLU: (..., in) -> (..., out)."""

    def __init__(self, sizes: list[int], rng: torch.Generator):  # i**-0.5: PyTorch's default bound
        super().__init__()
        self.weights = nn.ParameterList(uniform((o, i), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(uniform((o,), i**-0.5, rng) for i, o in zip(sizes, sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if i > 0:  # hidden units are rectified in place, which saves memory; the input is not
                x = x.relu_()
            x = nn.functional.linear(x, weight, bias)
        return x


class Actor(MLP):
    """Raw obs (B, S) -> a normal over actions (B, A), not squashed; S -> H -> H -> 2 A."""

    def policy(self, obs: Tensor) -> tuple[Tensor, Tensor]:  # mean and log std, each (B, A)
        mean, log_std = torch.tanh(self(obs)).chunk(2, -1)
        return mean, 2.5 * log_std - 2.5  # (7)

    def log_prob(self, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:  # (..., B)
        squares = nn.functional.mse_loss(mean.expand_as(action), action, reduction="none")
        terms = torch.addcmul(log_std, squares, torch.exp(-2 * log_std), value=0.5)
        return -0.5 * math.log(2 * math.pi) * action.shape[-1] - terms.sum(-1)

    def act(self, obs: Tensor) -> Tensor:
        return self.policy(obs)[0]


class Critics(MLP):
    """Q, one network S + A -> H -> H -> 1: raw obs (B, S), action (..., B, A) -> (..., B)."""

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(torch.cat([obs.expand(*action.shape[:-1], -1), action], -1)).squeeze(-1)


class OneStep:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data, self.step = args, data, 0
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        hidden = [args.hidden_size] * 2
        self.actor = Actor([data.obs_size, *hidden, 2 * data.action_size], init).to(data.device)  # pi in C
        self.critics = Critics([data.obs_size + data.action_size, *hidden, 1], init).to(data.device)
        self.behaviour = deepcopy(self.actor).requires_grad_(False)  # beta, once A is over
        self.target_critics = deepcopy(self.critics).requires_grad_(False)  # Q'
        adam = dict(lr=args.lr, fused=True, capturable=data.device.type == "cuda")
        self.cloning_optimizer = torch.optim.Adam(self.actor.parameters(), **adam)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), **adam)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), **adam)  # of C, which starts afresh
        self.stats = torch.zeros(6, device=data.device)  # what `update` returns
        first, second = (args.updates * sum(args.stages[:k]) // sum(args.stages) for k in (1, 2))
        self.end_a = max(1, min(first, args.updates - 2))  # updates until A is over; every stage has some
        self.end_b = max(self.end_a + 1, min(second, args.updates - 1))

    @property
    def phase(self) -> tuple[str, bool]:
        """The next update's stage, and whether it also moves beta (last of A) or Q' (every second of B)."""
        stage = "A" if self.step < self.end_a else "B" if self.step < self.end_b else "C"
        return stage, self.step == self.end_a - 1 or stage == "B" and (self.step - self.end_a) % 2 == 1

    def sample(self, mean: Tensor, log_std: Tensor, num: int) -> Tensor:
        noise = torch.randn((num, *mean.shape), generator=self.rng, device=self.data.device)
        return torch.addcmul(mean, log_std.exp(), noise)  # mean + std noise, (num, B, A)

    def cloning(self, batch: Batch) -> tuple[Tensor, ...]:
        return (-self.actor.log_prob(*self.actor.policy(batch.obs), batch.action).mean(),)  # (1)

    def sarsa(self, batch: Batch, next_action: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            next_q = self.target_critics(batch.next_obs, next_action)
            target = torch.addcmul(batch.reward, 1 - batch.done, next_q, value=self.args.gamma)  # (2), (B,)
        q = self.critics(batch.obs, batch.action)
        return nn.functional.mse_loss(q, target), q.mean()  # (3)

    def exp_weight(self, batch: Batch) -> tuple[Tensor, ...]:
        with torch.no_grad():
            draws = self.sample(*self.behaviour.policy(batch.obs), self.args.num_samples)
            advantage = self.critics(batch.obs, batch.action) - self.critics(batch.obs, draws).mean(0)  # (4)
        exponent, cap = self.args.inverse_temperature * advantage, math.log(100)
        log_prob = self.actor.log_prob(*self.actor.policy(batch.obs), batch.action.clamp(-1 + 1e-4, 1 - 1e-4))
        loss = -(exponent.clamp(max=cap).exp() * log_prob).mean()  # (5)
        return loss, advantage.mean(), (exponent >= cap).mean(dtype=loss.dtype), torch.zeros_like(loss)

    def rev_kl(self, batch: Batch) -> tuple[Tensor, ...]:
        pi, beta = self.actor.policy(batch.obs), self.behaviour.policy(batch.obs)
        action, samples = self.sample(*pi, 1)[0], self.sample(*pi, self.args.num_samples)
        kl = (self.actor.log_prob(*pi, samples) - self.behaviour.log_prob(*beta, samples)).mean()
        q = self.critics(batch.obs, action).mean()
        loss = self.args.rev_kl_weight * kl - q  # (6)
        return loss, q - self.critics(batch.obs, batch.action).mean(), torch.zeros_like(kl), kl

    def update(self, log: bool = True) -> dict[str, Tensor]:
        (stage, moves), args = self.phase, self.args
        self.step += 1
        batch = (self.data.sample_sarsa if stage == "B" else self.data.sample)(args.batch_size, self.rng)
        if stage == "A":
            terms, optimizer, kept = self.cloning(batch), self.cloning_optimizer, self.stats[2:3]
        elif stage == "B":
            terms, optimizer, kept = self.sarsa(*batch), self.critic_optimizer, self.stats[:2]
        else:
            terms, optimizer, kept = getattr(self, args.operator)(batch), self.actor_optimizer, self.stats[2:]
        optimizer.zero_grad()
        terms[0].backward(inputs=optimizer.param_groups[0]["params"])  # and leaves no gradient elsewhere
        optimizer.step()
        torch.stack([term.detach() for term in terms], out=kept)
        if moves:
            nets = (self.behaviour, self.actor) if stage == "A" else (self.target_critics, self.critics)
            target, online = (list(net.state_dict().values()) for net in nets)  # without gradients
            torch._foreach_lerp_(target, online, 1.0 if stage == "A" else args.tau)  # 1: a copy
        critic_loss, q, actor_loss, advantage, capped, kl = self.stats
        if not log:
            return {}
        return {"critic_loss": critic_loss, "q": q, "actor_loss": actor_loss, "advantage": advantage,
                "capped": capped, "kl": kl}


def main(args: Args):
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    if not len(data.followed):  # which (2) draws
        raise InputError(f"{data.name}: no row has a next action; one-step RL needs them")
    agents = [OneStep(args, data, seed) for seed in args.seeds]
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER))
