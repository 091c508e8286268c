"""FQE, fitted Q evaluation: Batch Policy Learning under Constraints. Le, Voloshin and Yue, ICML 2019,
arXiv:1903.08738. Code: the deep OPE benchmark's (Fu et al., ICLR 2021, arXiv:2103.16596).

FQE trains no policy. It asks what a given policy is worth, without a simulator. The value Q(s, a) of a policy
pi is the discounted return of taking a in s and following pi from then on. The data say which r and s' came
after (s, a), so Q is fitted to r plus the discounted value of pi(s') in s', again and again. The value of pi
is the mean of Q(s, pi(s)) over the states in which episodes start. Each of N networks is fitted to episodes
drawn anew from the data, a bootstrap: their spread says how much depends on which episodes were recorded.

Q_k is network k. A prime marks its target network, which follows it slowly. s' is the next state, d = 1 at a
true end, never at a timeout. s_e is the first state of episode e of E, which network k has m_ke times. mean_b
is the mean over a batch; row b is of episode e(b). r_std is the rewards' standard deviation, c their mean
where no episode truly ends, else 0. f_k is the network's output. low and high bound the returns.

    m_k = how often each episode comes in E draws with replacement; all 1 with --no-bootstrap              (1)
    Q_k(s, a) = (c + r_std f_k(s, a)) / (1 - gamma)                                                        (2)
    y_k = clip(r + gamma (1 - d) Q_k'(s', pi(s')), low, high), no gradient                                 (3)
    critic loss = sum_k mean_b m_ke(b) ((Q_k(s, a) - y_k) / r_std)^2                                       (4)
    value_k = sum_e m_ke Q_k'(s_e, pi(s_e)) / sum_e m_ke                                                   (5)

How far to trust it: The bootstrap sees chance, not bias. Where pi leaves the data, Q is a guess that (3)
hands on to other states; in tests/test_fqe.py a true value is far outside the interval. Only true returns
tell which hyperparameters are right: "FQE is not hyperparameter-free itself and that undermines the utility
in real-life applications" (arXiv:2201.02300). On NeoRL's data "the offline policy evaluation hardly helps"
(arXiv:2102.00714). Measured for 10 policies on a replay buffer of hopper (benchmark/results/standin): rank
correlation 0.54, 95% interval -0.22 to 0.95, and 3 of 10 returns were inside FQE's interval. A value is
discounted, a normalised score is not: compare orders, or a value with the mean of sum_t gamma^t r_t
(benchmark/fqe_ranking.py).

Paper / authors' code / here:
- The paper solves every regression to its end, with costs in place of rewards. The code makes one Adam step a
  batch, after a target network, as here. An offset shrinks to 1/e in 1 / (tau (1 - gamma)) updates: 20,000.
- (3): The code clips at the least and the largest reward for ever, which lifts an end's worth where all
  rewards are positive. Here one reward is a bound too.
- (1): The code has one network a run, the interval is ours. Its D4RL example turns (1) off, and rows with
  shifted rewards, which are not here. Its gamma is 0.99, the benchmark's figures have 0.995.
- (4): The code divides by the batch's sum of m, not by B. For constant rewards r_std is 1, there 1e-5.

Logged: critic_loss is (4) / N. td_error is the mean of |Q_k(s, a) - y_k|, in units of reward. q is the mean
of Q_k(s, a), and target that of (3). clipped is the share of targets at a bound: above 0, Q runs away. value
is the mean of (5), value_low and value_high its least and largest: healthy ones level off and stay close.
distance is the root of mean_b,i (pi(s)_i - a_i)^2, 0 for the data's own. eval.csv has the true score.

Read before: sac_n.py (106 lines of code differ)
Run: python algorithms/fqe.py --env hopper-medium-v2 --policy runs/td3_bc-hopper-medium-v2-20261121-091549-151
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from common import InputError, friendly, load
from common.args import Count, Fraction, Positive, RunArgs, Seeds, Size, parse, within
from common.data import Batch, Dataset, load_dataset
from common.graph import side_by_side
from common.physics import action_bounds
from common.run import Run


@dataclass
class Args(RunArgs):
    env: str = "hopper-medium-v2"  # D4RL name, Minari id, or path of an .hdf5 or .npz file
    seeds: Seeds = (0,)  # of the estimates, made side by side in one process
    updates: Count = 1_000_000  # gradient steps
    policy: str = ""  # run folder of the policy to evaluate; or still, which always takes the middle action
    policy_seed: Annotated[int | None, within("[0, 1e18]")] = None  # of that run; default: its first
    script: str = ""  # the file of your own that trained it, if one did
    num_critics: Size = 5  # N
    bootstrap: bool = True  # episodes drawn anew for each network (1)
    batch_size: Size = 256  # B
    lr: Positive = 3e-4  # of Adam
    weight_decay: Fraction = 1e-5  # share of all weights and biases that is lost with an update
    gamma: Annotated[float, within("[0, 1)")] = 0.99  # discount in (2) and (3)
    tau: Fraction = 0.005  # Polyak step of the target critics
    eval_every: Count = 10**12  # updates between evaluations; default: one at the end, as no policy changes


PAPER = {f"{robot}-{level}-{v}": {} for v in ("v2", "v0")  # Fu et al.: one setting for every task of D4RL
         for robot in ("halfcheetah", "hopper", "walker2d", "ant")
         for level in ("random", "medium", "medium-replay", "medium-expert", "expert")}


# same as td3_bc.py
def uniform(shape: tuple[int, ...], bound: float, rng: torch.Generator) -> nn.Parameter:
    """Weights or biases drawn from U(-bound, bound)."""
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound, generator=rng))


class Frozen(nn.Module):
    """pi: the policy of a run, or always the middle action; raw obs (B, S) -> actions (B, A) in [-1, 1]."""

    def __init__(self, args: Args, data: Dataset):
        super().__init__()
        whose, device = (args.policy, args.policy_seed, args.script or None), str(data.device)
        self.policy = None if args.policy in ("", "still") else load(*whose, device)
        self.middle = nn.Parameter(torch.zeros(data.action_size, device=device), requires_grad=False)

    def act(self, obs: Tensor) -> Tensor:
        if self.policy is None:
            return self.middle.expand(*obs.shape[:-1], -1)
        return self.policy.actor.act(obs).clamp(-1, 1)


class Critics(nn.Module):
    """N networks S + A -> 256 x 2 -> 1 as one batched matmul: raw obs (B, S), action (B, A) -> (N, B)."""

    def __init__(self, args: Args, data: Dataset, rng: torch.Generator):
        super().__init__()
        num, reward = args.num_critics, data.reward.cpu().double()
        unit = reward.std(correction=0) if reward.std() > 0 else torch.ones(())  # r_std
        mean = torch.zeros(()) if data.done.any() else reward.mean()  # c
        fixed = {"unit": unit, "scale": unit / (1 - args.gamma), "shift": mean / (1 - args.gamma),
                 "obs_mean": data.obs_mean.cpu(), "obs_scale": data.obs_std.cpu().clamp(min=1e-5)}
        for name, value in fixed.items():
            self.register_buffer(name, value.float().clone())
        shapes, last = [(num, data.obs_size + data.action_size, 256), (num, 256, 256)], (num, 256, 1)
        self.weights = nn.ParameterList(uniform(shape, shape[1] ** -0.5, rng) for shape in shapes)
        self.weights.append(uniform(last, (0.03 / 256) ** 0.5, rng))  # code: the last starts near 0
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(num, 1, o)) for o in (256, 256, 1))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = (obs - self.obs_mean) / self.obs_scale
        x = torch.cat([x, action], -1).expand(len(self.weights[0]), -1, -1)  # (N, B, S + A)
        *hidden, (last_weight, last_bias) = zip(self.weights, self.biases)
        for weight, bias in hidden:
            x = torch.baddbmm(bias, x, weight).relu_()  # (N, B, 256); in place, which saves memory
        x = torch.baddbmm(last_bias, x, last_weight).squeeze(-1)
        return torch.addcmul(self.shift, self.scale, x)  # (2), (N, B)


class FQE:
    def __init__(self, args: Args, data: Dataset, seed: int):
        self.args, self.data = args, data
        self.rng = torch.Generator(data.device).manual_seed(seed)
        init = torch.Generator().manual_seed(seed)  # on the CPU: the same initial weights on every device
        self.actor = Frozen(args, data)
        self.critics = Critics(args, data, init).to(data.device)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        adam = dict(lr=args.lr, fused=True, capturable=data.device.type == "cuda")
        self.optimizer = torch.optim.Adam(self.critics.parameters(), **adam)
        low, high = data.reward.min().item(), data.reward.max().item()
        self.low, self.high = min(low, low / (1 - args.gamma)), max(high, high / (1 - args.gamma))
        starts, ends = data.episodes.to(data.device).unbind(1)
        counts = torch.ones(args.num_critics, len(ends))  # (N, E)
        if args.bootstrap:
            drawn = torch.randint(len(ends), counts.shape, generator=init)
            counts = torch.zeros_like(counts).scatter_add_(1, drawn, counts)  # (1)
        self.counts, self.ends = counts.to(data.device), ends.contiguous()
        every = -(-len(ends) // 10_000)  # where there are more, 10,000 first states tell the mean
        self.first_obs, self.first_counts = data.obs[starts[::every]], self.counts[:, ::every].contiguous()
        self.step = 0

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        next_q = self.target_critics(batch.next_obs, self.actor.act(batch.next_obs))  # (N, B)
        target = torch.addcmul(batch.reward, 1 - batch.done, next_q, value=self.args.gamma)
        return nn.functional.hardtanh(target, self.low, self.high)  # (3), a clip of fewer kernels

    def critic_loss(self, q: Tensor, target: Tensor, count: Tensor) -> Tensor:
        error = (q - target) / self.critics.unit
        return (count * error.square()).sum() / q.shape[1]  # (4)

    @torch.no_grad()
    def value(self) -> Tensor:
        first_q = self.target_critics(self.first_obs, self.actor.act(self.first_obs))  # (N, E)
        return (self.first_counts * first_q).sum(1) / self.first_counts.sum(1)  # (5), (N,)

    def update(self, log: bool = True) -> dict[str, Tensor]:
        self.step += 1
        size, rows = (self.args.batch_size,), self.data.rows
        index = torch.randint(len(rows), size, generator=self.rng, device=self.data.device)
        batch = self.data.split(rows[index])  # as data.sample, which does not tell the index
        count = self.counts[:, torch.searchsorted(self.ends, index, right=True)]  # of the episodes, (N, B)
        target = self.critic_target(batch)
        q = self.critics(batch.obs, batch.action)
        critic_loss = self.critic_loss(q, target, count)
        self.optimizer.zero_grad()
        critic_loss.backward()
        weights, targets = (list(net.parameters()) for net in (self.critics, self.target_critics))
        with torch.no_grad():
            torch._foreach_mul_(weights, 1 - self.args.weight_decay)  # code: before Adam's step, without lr
            self.optimizer.step()
            torch._foreach_lerp_(targets, weights, self.args.tau)  # (1 - tau) target + tau online
        if not log:
            return {}
        value = self.value()
        distance = nn.functional.mse_loss(self.actor.act(batch.obs), batch.action).sqrt()
        clipped = ((target <= self.low) | (target >= self.high)).float().mean()
        return {"critic_loss": critic_loss / len(q), "td_error": (q - target).abs().mean(), "q": q.mean(),
                "target": target.mean(), "clipped": clipped, "value": value.mean(), "value_low": value.amin(),
                "value_high": value.amax(), "distance": distance}


def main(args: Args):
    if not args.policy:
        raise InputError("--policy: name the run folder of a policy, or still, for always the middle action")
    args.policy == "still" or load(args.policy, args.policy_seed, args.script or None)  # before data are made
    data = load_dataset(args.env, args.device, args.view, args.reward, args.standin, args.standin_rows,
                        args.action_low, args.action_high, args.holdout)
    if len(data.episodes) < 2:
        raise InputError(f"{args.env}: is one episode; `terminals` or `timeouts` must tell where more start")
    agents = [FQE(args, data, seed) for seed in args.seeds]
    if policy := agents[0].actor.policy:
        bounds = action_bounds(data.source) or (-1.0, 1.0)
        here = data.obs_size, *(torch.tensor(b).expand(data.action_size).tolist() for b in bounds)
        if here != (its := (len(policy.config["obs_std"]), policy.low.tolist(), policy.high.tolist())):
            raise InputError(f"--policy {args.policy}: size of observations, least and largest actions are "
                             f"{its}, in {args.env} {here}")
        args.policy, args.script = (str(path or "") for path in policy.origin)  # whole, for --resume
        args.policy_seed = policy.seed
    update = side_by_side(agents)
    run = Run(args, agents)
    for step in run.steps(args.updates):
        logs = update(log=run.due(step))
        run.log(step, logs)
        run.evaluate(step)
    run.report()
    for seed, agent in zip(args.seeds, agents):
        value = agent.value()
        print(f"seed {seed}: discounted value {value.mean():.1f}, {value.amin():.1f} to {value.amax():.1f} "
              f"over {len(value)} networks")


if __name__ == "__main__":
    with friendly():
        main(parse(Args, PAPER))
