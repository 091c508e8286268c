"""A probabilistic ensemble that learns from the data how a robot moves, its training, and the ring of imagined rows.

Chua et al. 2018, arXiv:1805.12114 (PETS), as MBPO (Janner et al. 2019, arXiv:1906.08253), MOPO and RAMBO train it. Each
of E networks tells of a state s and an action a by how much the state will change, which reward comes, and how unsure
it is. Each sees a bootstrap sample of its own, so they agree where there are data, and nowhere else. The networks that
predict held-out rows best are the elites. What a paper chose stands in its algorithm's file, as a `Preset`.

s' is the next state and r the reward. x = [s, a] is standardised. y = [s' - s, r] is not; it has D = S + 1 numbers,
counted by d, the reward last. b counts the rows of a batch. Network e gives a mean mu_e(x) and a raw log variance
v_e(x), D numbers each. The bounds u and l, D numbers each, are learned and shared by all networks.

    log var = l + softplus(v' - l),  v' = u - softplus(u - v)                                                        (1)
    loss = sum_e mean_bd [(mu - y)^2 exp(-log var) + log var] + sum_layers decay / 2 |W|^2 + c sum_d (u_d - l_d)     (2)
    hold-out error H_e = mean_id (mu_e(x_i) - y_i)^2,  i over the held-out rows, in raw units                        (3)

(2) sums over networks and averages over the batch and over outputs: 2 / D times the negative log likelihood of each
network, without a constant. W are a layer's weights. Their decay is Adam's own, which has the same gradient. c is the
weight of the bounds, which are not restored with the best weights; H does not depend on them.

All this is as the authors of MOPO and RAMBO have it. OfflineRL-Kit, another library, ends the training an epoch
earlier, and its first weights are a seventh wider, because nothing truncates them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from common import InputError
from common.data import Dataset
from common.pretraining import Stage

PIECE = 2**11  # rows of a piece, in `predict`


@dataclass(frozen=True)
class Preset:
    """What a paper chose for its model and for how it is trained."""
    hidden: tuple[int, ...]  # units of the hidden layers
    decay: tuple[float, ...]  # of the weights of each layer, the output's included
    lr: float
    max_log_var: float  # u at first
    min_log_var: float  # l at first
    bound_coef: float  # c in (2)
    holdout: float  # share of the rows that is held out ...
    holdout_rows: int  # ... and at most so many
    patience: int  # epochs in which no network improves, before the one that ends the training
    max_epochs: int | None = None  # for small machines; None: as many as it takes
    networks: int = 7  # E
    elites: int = 5
    batch_size: int = 256  # B
    improvement: float = 0.01  # relative, what H must fall by to count


class Ensemble(nn.Module):
    """E networks S + A -> hidden units, swish -> D means and D log variances, on raw observations and actions.

    Weights (E, in, out), biases (E, 1, out), input_mean and input_std (S + A,), elites (K,) numbers of networks.
    """

    def __init__(self, obs_size: int, action_size: int, preset: Preset, rng: torch.Generator):
        super().__init__()
        outputs = obs_size + 1
        sizes = [obs_size + action_size, *preset.hidden, 2 * outputs]
        self.weights = nn.ParameterList(torch.empty(preset.networks, i, o) for i, o in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(torch.zeros(preset.networks, 1, o) for o in sizes[1:])
        for weight in self.weights:
            std = 0.5 / math.sqrt(weight.shape[1])
            nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std, generator=rng)  # little change at first
        self.max_log_var = nn.Parameter(torch.full((outputs,), preset.max_log_var))  # u
        self.min_log_var = nn.Parameter(torch.full((outputs,), preset.min_log_var))  # l
        self.register_buffer("input_mean", torch.zeros(sizes[0]))
        self.register_buffer("input_std", torch.ones(sizes[0]))
        self.register_buffer("elites", torch.arange(preset.elites))

    def forward(self, obs: Tensor, action: Tensor, networks: Tensor | slice | None = None) -> tuple[Tensor, Tensor]:
        """Mean of y and log variance, each (E, B, D), of all networks or of some; obs (B, S) or (E, B, S)."""
        x = (torch.cat([obs, action], -1) - self.input_mean) / self.input_std
        weights, biases = list(self.weights), list(self.biases)
        if networks is not None:
            weights, biases = ([p[networks] for p in ps] for ps in (weights, biases))
        x = x.expand(len(weights[0]), -1, -1)
        for weight, bias in zip(weights[:-1], biases):
            x = nn.functional.silu(torch.baddbmm(bias, x, weight))  # (E, B, hidden)
        mean, raw = torch.baddbmm(biases[-1], x, weights[-1]).chunk(2, -1)
        return mean, self.bounded(raw)

    def bounded(self, raw: Tensor) -> Tensor:
        below = self.max_log_var - softplus(self.max_log_var - raw)
        return self.min_log_var + softplus(below - self.min_log_var)  # (1)

    @torch.no_grad()
    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, without a gradient, for many rows: on a CPU in pieces, whose hidden units stay in its cache."""
        if obs.device.type != "cpu":
            return self(obs, action)
        mean, log_var = (obs.new_empty(len(self.weights[0]), len(obs), len(self.max_log_var)) for _ in range(2))
        for start in range(0, len(obs), PIECE):
            rows = slice(start, start + PIECE)
            for e in range(len(mean)):
                mean[e, rows], log_var[e, rows] = self(obs[rows], action[rows], slice(e, e + 1))
        return mean, log_var

    @torch.no_grad()
    def sample(self, obs: Tensor, action: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Next states (B, S) and rewards (B,) drawn from one elite each: B / K rows for the first elite, and so on.

        It costs a K-th of asking them all. Whoever shuffles the rows before (`shuffle`) gives each its elite at random.
        """
        k = len(self.elites)
        mean, log_var = self(obs.unflatten(0, (k, -1)), action.unflatten(0, (k, -1)), self.elites)  # (K, B / K, D)
        noise = torch.randn((len(obs), mean.shape[-1]), generator=rng, device=obs.device)
        return draw(obs, mean.flatten(0, 1), log_var.flatten(0, 1), noise)


def draw(obs: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Next state (B, S) and reward (B,): obs and a sample of y, from its mean, log variance and noise, each (B, D)."""
    y = torch.addcmul(mean, (0.5 * log_var).exp(), noise)
    return obs + y[:, :-1], y[:, -1]


def shuffle(rng: torch.Generator, *tensors: Tensor) -> list[Tensor]:
    """Tensors of equal length with their rows in one new order."""
    order = torch.rand(len(tensors[0]), generator=rng, device=tensors[0].device).argsort()
    return [tensor[order] for tensor in tensors]


class Ring(nn.Module):
    """The last `capacity` imagined rows, first in, first out, on a device; nothing here waits for the host."""

    def __init__(self, capacity: int, width: int):
        super().__init__()
        self.capacity = capacity
        self.register_buffer("rows", torch.zeros(capacity + 1, width))  # the last one takes what is not kept
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of rows that ever came

    @property
    def size(self) -> Tensor:
        """Number of rows in it, a scalar on the device."""
        return self.count.clamp(max=self.capacity)

    def append(self, rows: Tensor, keep: Tensor) -> None:
        """Those of the rows (n, width) that `keep` (n,) bool marks, in their order; n is at most the capacity."""
        place = (self.count + keep.cumsum(0) - 1) % self.capacity
        place = torch.where(keep, place, self.capacity)
        self.rows.index_copy_(0, place, torch.where(keep[:, None], rows, 0.0))
        self.count.add_(keep.sum())

    def sample(self, batch_size: int, rng: torch.Generator) -> Tensor:
        """Rows (batch_size, width), uniform with replacement."""
        size = self.size
        place = torch.rand(batch_size, generator=rng, device=self.rows.device) * size
        return self.rows[torch.minimum(place.long(), size - 1)]


def split(data: Dataset, preset: Preset, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the data for training and rows held out, two int64 tensors; always the same for one seed.

    A true end whose next state is unknown has its own state there (common/data.py): no model learns from that row.
    InputError: too few rows to hold any out.
    """
    unknown = (data.done > 0) & (data.next_obs == data.obs).all(1)
    known = (~unknown).nonzero()[:, 0]
    held = min(int(len(known) * preset.holdout), preset.holdout_rows)
    if held < 1:
        raise InputError(f"{data.name}: {len(known)} rows are too few for a model, which needs a share of "
                         f"{preset.holdout} of them, at least one, to be held out")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed)).to(data.device)
    return known[order[held:]], known[order[:held]]


class Fit(Stage):
    """Training of an ensemble, an Adam step at each `update`; common/pretraining.py runs it."""
    name, kept = "model", ("model",)

    def __init__(self, model: Ensemble, data: Dataset, preset: Preset, seed: int):
        self.model, self.data, self.args = model, data, preset
        self.rng = torch.Generator(data.device).manual_seed(seed)
        train, self.holdout = split(data, preset, seed)
        inputs = data.rows[train, :len(model.input_mean)]
        std, mean = torch.std_mean(inputs.double() if data.device.type == "cpu" else inputs, 0, correction=0)
        model.input_mean.copy_(mean)
        model.input_std.copy_(torch.where(std < 1e-12, 1.0, std))
        index = torch.randint(len(train), (preset.networks, len(train)), generator=self.rng, device=data.device)
        self.index = train.int()[index]  # (E, N): the bootstrap, rows of the data
        self.optimizer = adam(model, preset.decay, preset.lr)
        self.best = torch.full((preset.networks,), 1e10, device=data.device)  # the least H of each
        self.snapshots = nn.ParameterList(p.detach().clone() for p in [*model.weights, *model.biases])
        self.column = torch.zeros((), dtype=torch.int64, device=data.device)  # of the next batch's first row
        self.total = torch.zeros(preset.networks, device=data.device)  # of the batches' data terms in this epoch
        self.step, self.epoch, self.waited = 0, 0, 0  # updates; epochs; of these, since one improved
        self.steps = math.ceil(len(train) / preset.batch_size)

    @property
    def done(self) -> bool:
        limit = self.args.max_epochs
        return self.waited > self.args.patience or limit is not None and self.epoch >= limit

    @property
    def phase(self) -> bool:
        """Is the next batch the last of its epoch? It is smaller (common/graph.py)."""
        return (self.step + 1) % self.steps == 0

    def targets(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """obs (..., S), action (..., A) and y (..., D) of some rows of the data; index: (...)."""
        batch = self.data.split(self.data.rows.index_select(0, index.flatten()).unflatten(0, index.shape))
        return batch.obs, batch.action, torch.cat([batch.next_obs - batch.obs, batch.reward[..., None]], -1)

    def update(self, log: bool = True) -> dict[str, Tensor]:
        size, last = self.args.batch_size, self.index.shape[1] - self.args.batch_size * (self.steps - 1)
        columns = self.column + torch.arange(last if self.phase else size, device=self.data.device)
        self.step += 1
        loss, data_terms = supervised_loss(self.model, *self.targets(self.index.index_select(1, columns)), self.args)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.total.add_(data_terms.detach())
        self.column.add_(size)
        return {}

    @torch.no_grad()
    def errors(self) -> Tensor:
        obs, action, y = self.targets(self.holdout)
        return ((self.model(obs, action)[0] - y) ** 2).mean((1, 2))  # (3), (E,)

    @torch.no_grad()
    def end_epoch(self) -> list[dict]:
        """Shuffle the bootstrap, remember the networks that have improved; a row of the log for each network."""
        shuffled = torch.rand(self.index.shape, generator=self.rng, device=self.data.device).argsort(1)
        self.index.copy_(self.index.gather(1, shuffled))
        errors = self.errors()
        better = (self.best - errors) / self.best > self.args.improvement  # False for NaN
        self.best.copy_(torch.where(better, errors, self.best))
        for snapshot, parameter in zip(self.snapshots, [*self.model.weights, *self.model.biases]):
            snapshot.copy_(torch.where(better[:, None, None], parameter, snapshot))
        self.waited = 0 if better.any() else self.waited + 1
        obs, action, y = self.targets(self.holdout)
        std = (0.5 * self.model(obs, action)[1]).exp().mean((1, 2))
        constant = ((y - y.mean(0)) ** 2).mean().item()  # the error of who predicts the held-out rows' mean
        bounds = {name: getattr(self.model, name).mean().item() for name in ("max_log_var", "min_log_var")}
        columns = zip(errors.tolist(), (self.total / self.steps).tolist(), std.tolist(), better.tolist())
        rows = [{"epoch": self.epoch, "network": e, "holdout": error, "constant": constant, "train": train, "std": s}
                | bounds | {"improved": int(improved)} for e, (error, train, s, improved) in enumerate(columns)]
        self.epoch += 1
        self.column.zero_()
        self.total.zero_()
        return rows

    def status(self) -> str:
        return f"held-out error {self.best.mean().item():.3g}, patience {self.waited} of {self.args.patience + 1}"

    @torch.no_grad()
    def finish(self) -> str:
        """Every network as it was at its best; the elites; a line that says so."""
        for snapshot, parameter in zip(self.snapshots, [*self.model.weights, *self.model.biases]):
            parameter.copy_(snapshot)
        self.model.elites.copy_(self.best.argsort()[:len(self.model.elites)])
        told = f"held-out error {self.best[self.model.elites].mean().item():.4g}, elites {self.model.elites.tolist()}"
        capped = self.waited <= self.args.patience
        return told + f"; stopped after the {self.epoch} epochs of --model-epochs" * capped


def adam(model: Ensemble, decay: tuple[float, ...], lr: float) -> torch.optim.Adam:
    """An optimiser of all networks and both bounds, with each layer's decay; biases and bounds have none."""
    groups = [{"params": [weight], "weight_decay": w} for weight, w in zip(model.weights, decay, strict=True)]
    groups.append({"params": [*model.biases, model.max_log_var, model.min_log_var]})
    return torch.optim.Adam(groups, lr, fused=True, capturable=model.max_log_var.device.type == "cuda")


def supervised_loss(model: Ensemble, obs: Tensor, action: Tensor, y: Tensor, preset: Preset) -> tuple[Tensor, Tensor]:
    """(2) without the decay, which is the optimiser's, and its data term of each network (E,)."""
    mean, log_var = model(obs, action)
    data_terms = ((mean - y) ** 2 * (-log_var).exp() + log_var).mean((1, 2))
    return data_terms.sum() + preset.bound_coef * (model.max_log_var - model.min_log_var).sum(), data_terms  # (2)
