"""Training transcoders: one loop for cross-layer and per-layer ones, with or without a skip.

Two ways to make features sparse. *BatchTopK* (Bussmann et al. 2024) keeps the largest values of a batch and
fixes the threshold that this amounts to at the end. *JumpReLU with a tanh penalty* is the loss of Ameisen et
al. 2025,

    sum over l of |ŷ^l - y^l|²  +  λ · sum over features of tanh(c · |W_dec| · a),

with the norm over all of a feature's decoders together, thresholds learned through a straight-through
estimate, and a small penalty that pulls features which never fire back up. Inputs and outputs of each layer
are centred and scaled to a mean square of 1 for training; the transcoders that come back read and write them
as they are.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mi_utils import sae
from mi_utils.transcoders.transcoders import Kind, Transcoders

_ROWS_FOR_RANK = 128  # tokens on which the threshold of a batch is found: a rank over all of them is slow


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        features: in each layer.
        kind: ``clt`` or ``plt``.
        sparsity: ``batchtopk`` or ``jumprelu``.
        k: mean number of active features of a token in a layer (``batchtopk``). A CLT shares ``k`` times the
            number of layers among its layers as it likes; a PLT has a budget for each layer.
        penalty: λ above, reached over the first half (``jumprelu``); ``c`` is its sharpness.
        skip: add a linear map, fitted by ridge regression before the features see anything.
        steps: of Adam; ``lr`` its rate after ``warm_up`` steps, falling to zero over the last two fifths.
        rank_by: what BatchTopK ranks: how much a feature writes (its value times the length of its decoders),
            or its ``value`` alone, which favours features with short decoders.
        anneal: BatchTopK begins with this many times ``k`` and comes down over the first quarter.
        init: encoders that begin as inputs from the data, or as random directions.
        resample: give features that no longer fire the inputs with the largest errors, in the first half.
        normalise: centre and scale inputs and outputs by layer.
        bandwidth: of the rectangle that stands for the derivative of a step (``jumprelu``).
        precision: of the matrix products; bfloat16 is several times faster where the CPU knows it.
        seed: of all that is drawn.

    Raises:
        ValueError: a number out of range.
    """

    features: int
    kind: Kind = "clt"
    sparsity: Literal["batchtopk", "jumprelu"] = "batchtopk"
    k: float | int = 8
    penalty: float = 3e-3
    c: float | int = 4
    skip: bool = False
    steps: int = 1_500
    lr: float = 3e-3
    warm_up: int = 50
    rank_by: Literal["writes", "value"] = "writes"
    anneal: float | int = 4
    init: Literal["data", "random"] = "data"
    resample: bool = True
    normalise: bool = True
    bandwidth: float = 0.5
    precision: torch.dtype = torch.float32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("kind", ("clt", "plt")),
            ("sparsity", ("batchtopk", "jumprelu")),
            ("init", ("data", "random")),
            ("rank_by", ("writes", "value")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it should be {' or '.join(known)}")
        for name in ("features", "k", "c", "steps", "lr", "bandwidth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it should be above 0")
        if self.k > self.features:
            raise ValueError(
                f"k is {self.k}; with {self.features} features in a layer it should be at most that"
            )
        if not (self.anneal >= 1 and self.penalty >= 0):
            raise ValueError(
                f"anneal is {self.anneal}, penalty {self.penalty}; they should be at least 1 and 0"
            )


@dataclass(frozen=True)
class Step:
    """What a step of training saw: ``error`` is the mean over layers of the normalised squared error."""

    step: int
    error: float
    l0: float  # active features of a token, over all layers
    dead: float  # share of features that have not fired for some 150 steps


@dataclass
class _Scaling:
    """What is subtracted and divided by, each ``[layer, 1, d_model]`` or ``[layer, 1, 1]``."""

    mean_x: Tensor
    mean_y: Tensor
    size_x: Tensor
    size_y: Tensor


class Trainer:
    """Transcoders in training.

    Args:
        settings: how.
        x: what the MLPs read, for a first sample of tokens: it sets scales, starting points and the skip.
        y: what the MLPs write for the same tokens.
        model: name of the model, for the result.

    Raises:
        ValueError: shapes that differ, values that are not finite, or too few tokens to start from.
    """

    def __init__(
        self,
        settings: Settings,
        x: Float[Tensor, "layer token d_model"],
        y: Float[Tensor, "layer token d_model"],
        *,
        model: str = "",
    ) -> None:
        if x.shape != y.shape or x.shape[1] < 2:
            raise ValueError(
                f"x and y have shapes {tuple(x.shape)} and {tuple(y.shape)}; they should agree, with 2 "
                "tokens or more"
            )
        if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
            raise ValueError("x or y holds values that are not finite (NaN or infinity)")
        self.settings, self.model = settings, model
        self.n_layers, _, self.d_model = x.shape
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._scaling = _scaling(x.float(), y.float(), settings.normalise)
        self._done = 0
        self._begin(*self._scaled(x, y))

    # -- the parameters, in normalised units ------------------------------------------------------------

    def _begin(self, x: Tensor, y: Tensor) -> None:
        s, n, d = self.settings, self.n_layers, self.d_model
        self.W_skip = [_ridge(x[i], y[i]) for i in range(n)] if s.skip else None
        rest = [y[i] - x[i] @ self.W_skip[i] for i in range(n)] if s.skip else list(y)
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = [], [], [], []
        for layer in range(n):
            sources = layer + 1 if s.kind == "clt" else 1
            decoder = torch.zeros(sources * s.features, d)
            noise = F.normalize(torch.randn(s.features, d, generator=self._generator), dim=-1)
            if s.init == "data":
                chosen = torch.randint(x.shape[1], (s.features,), generator=self._generator)
                direction = F.normalize(F.normalize(x[layer][chosen], dim=-1) + 0.2 * noise, dim=-1)
                decoder[-s.features :] = 0.1 * F.normalize(rest[layer][chosen], dim=-1)
            else:
                direction = noise
                decoder.uniform_(-1, 1, generator=self._generator).mul_(1 / math.sqrt(n * d))
            self.W_enc.append(direction.T.contiguous())
            self.b_enc.append(torch.zeros(s.features))
            self.W_dec.append(decoder)
            self.b_dec.append(torch.zeros(d))
        self.log_threshold = [torch.full((s.features,), math.log(0.1)) for _ in range(n)]
        self.thresholds: Tensor | None = None  # of BatchTopK, a running mean
        self._fired = torch.ones(n, s.features)
        learned = self.W_enc + self.b_enc + self.W_dec + self.b_dec
        groups = [{"params": learned, "scale": 1.0}]
        if s.sparsity == "jumprelu":
            groups.append({"params": self.log_threshold, "scale": 1.0})
        if self.W_skip is not None:
            groups.append({"params": self.W_skip, "scale": 0.2})
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        self._optimiser = torch.optim.Adam(groups, lr=s.lr, betas=(0.9, 0.99), fused=True)

    def _scaled(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scaling = self._scaling
        return (x.float() - scaling.mean_x) / scaling.size_x, (y.float() - scaling.mean_y) / scaling.size_y

    # -- a step -----------------------------------------------------------------------------------------

    @torch.enable_grad()
    def step(self, x: Float[Tensor, "layer token d_model"], y: Float[Tensor, "layer token d_model"]) -> Step:
        """One step of Adam on a batch of tokens.

        Raises:
            FloatingPointError: the loss is not finite; the rate may be too high.
        """
        s, progress = self.settings, self._done / self.settings.steps
        rate = s.lr * min(1, (self._done + 1) / max(1, s.warm_up)) * min(1, max(0.02, (1 - progress) / 0.4))
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        x, y = self._scaled(x, y)
        features, thin = self._features(x, progress)
        outputs = [self._output(features, x, layer) for layer in range(self.n_layers)]
        errors = [y[layer] - outputs[layer] for layer in range(self.n_layers)]
        squared = torch.stack([error.square().sum(dim=-1).mean() for error in errors]) / self.d_model
        loss = squared.sum() + (thin if thin is not None else 0)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is not finite at step {self._done}; try a smaller lr than {s.lr}"
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self._done += 1
        active = [a.detach() > 0 for a in features]
        dead = self._follow(active)
        if s.resample and self._done % 100 == 0 and progress < 0.5:
            self._resample(dead, x, [error.detach() for error in errors])
        l0 = sum(a.sum().item() for a in active) / x.shape[1]
        return Step(self._done, squared.mean().item(), l0, dead.float().mean().item())

    def _features(self, x: Tensor, progress: float) -> tuple[list[Tensor], Tensor | None]:
        """Features of every layer, and the penalty on them where sparsity is paid for."""
        pre = [
            _product(x[i], self.W_enc[i], self.settings.precision) + self.b_enc[i]
            for i in range(self.n_layers)
        ]
        if self.settings.sparsity == "jumprelu":
            return self._jump(pre, progress)
        lengths = [self._ranking(layer) for layer in range(self.n_layers)]
        cuts = self._cuts([p.detach() * length for p, length in zip(pre, lengths, strict=True)], progress)
        return [p * (p * length > cut) for p, length, cut in zip(pre, lengths, cuts, strict=True)], None

    @torch.no_grad()
    def _ranking(self, layer: int) -> Tensor:
        """What a pre-activation is multiplied by before BatchTopK ranks it."""
        if self.settings.rank_by == "value":
            return torch.ones(self.settings.features)
        return self._decoder_lengths(layer).clamp(min=1e-3)

    def _cuts(self, pre: list[Tensor], progress: float) -> Tensor:
        """The threshold of each layer: of this batch, and in the last fifth the running mean of it."""
        s = self.settings
        k = min(s.k * (1 + (s.anneal - 1) * max(0.0, 1 - 4 * progress)), s.features)
        some = [p[:: max(1, len(p) // _ROWS_FOR_RANK)] for p in pre]
        pools = [torch.cat([p.flatten() for p in some])] if s.kind == "clt" else [p.flatten() for p in some]
        kept = int(k * len(some[0]) * len(pre) / len(pools))
        found = torch.stack([_nth_largest(pool, kept) for pool in pools]).clamp(min=0).expand(len(pre))
        settled = self.thresholds is not None and progress > 0.25
        self.thresholds = 0.97 * self.thresholds + 0.03 * found if settled else found.clone()
        return self.thresholds if progress > 0.8 else found

    def _jump(self, pre: list[Tensor], progress: float) -> tuple[list[Tensor], Tensor]:
        s = self.settings
        features, total = [], torch.zeros(())
        for layer, p in enumerate(pre):
            threshold = self.log_threshold[layer].exp()
            features.append(sae.Jump.apply(p, threshold, s.bandwidth))
            length = self._decoder_lengths(layer) / math.sqrt(self.d_model)
            sparse = torch.tanh(s.c * features[-1] * length).sum(dim=-1).mean()
            revive = (F.relu(threshold - p) * length).sum(dim=-1).mean()  # Ameisen et al.: weight 3e-6
            total = total + s.penalty * min(1.0, 2 * progress) * sparse + 3e-6 * revive
        return features, total

    def _decoder_lengths(self, source: int) -> Tensor:
        f = self.settings.features
        if self.settings.kind == "plt":
            return self.W_dec[source].norm(dim=-1)
        parts = [self.W_dec[target][source * f : (source + 1) * f] for target in range(source, self.n_layers)]
        return torch.cat(parts, dim=1).norm(dim=-1)

    def _output(self, features: list[Tensor], x: Tensor, layer: int) -> Tensor:
        read = torch.cat(features[: layer + 1], dim=1) if self.settings.kind == "clt" else features[layer]
        total = _product(read, self.W_dec[layer], self.settings.precision) + self.b_dec[layer]
        if self.W_skip is None:
            return total
        return total + _product(x[layer], self.W_skip[layer], self.settings.precision)

    def _follow(self, active: list[Tensor]) -> Bool[Tensor, "layer feature"]:
        self._fired *= 0.99
        self._fired[torch.stack([a.any(dim=0) for a in active])] = 1.0
        return self._fired < 0.22  # 0.99 ** 150

    @torch.no_grad()
    def _resample(self, dead: Tensor, x: Tensor, errors: list[Tensor]) -> None:
        f = self.settings.features
        for layer in range(self.n_layers):
            which = dead[layer].nonzero().flatten()
            if not len(which):
                continue
            weights = errors[layer].square().sum(dim=-1)
            chosen = torch.multinomial(weights, len(which), replacement=True, generator=self._generator)
            length = self.W_enc[layer].norm(dim=0).median()
            self.W_enc[layer][:, which] = length * F.normalize(x[layer][chosen], dim=-1).T
            self.b_enc[layer][which] = 0
            own = layer * f if self.settings.kind == "clt" else 0
            self.W_dec[layer][own + which] = 0.1 * F.normalize(errors[layer][chosen], dim=-1)
            if self.settings.kind == "clt":
                for target in range(layer + 1, self.n_layers):
                    self.W_dec[target][own + which] = 0
            self._fired[layer, which] = 1

    # -- to go on later ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that a new ``Trainer`` of the same settings needs to go on from here."""
        kept = {"done": torch.tensor(self._done), "fired": self._fired, "draws": self._generator.get_state()}
        if self.thresholds is not None:
            kept["thresholds"] = self.thresholds
        for name, value in vars(self._scaling).items():
            kept[f"scaling.{name}"] = value
        for i, parameter in enumerate(self._parameters()):
            kept[f"parameter.{i}"] = parameter.detach()
            for name, value in self._optimiser.state.get(parameter, {}).items():
                kept[f"{name}.{i}"] = value
        return {name: value.clone().contiguous() for name, value in kept.items()}

    @torch.no_grad()
    def restore(self, kept: dict[str, Tensor]) -> None:
        """Go on where ``state`` was taken; the trainer must have the same settings and shapes."""
        self._done, self._fired = int(kept["done"]), kept["fired"].clone()
        self._generator.set_state(kept["draws"])
        self.thresholds = kept["thresholds"].clone() if "thresholds" in kept else None
        self._scaling = _Scaling(*(kept[f"scaling.{name}"] for name in vars(self._scaling)))
        for i, parameter in enumerate(self._parameters()):
            parameter.copy_(kept[f"parameter.{i}"])
            if f"step.{i}" not in kept:  # taken before the first step
                self._optimiser.state.pop(parameter, None)
                continue
            moments = {name: kept[f"{name}.{i}"].clone() for name in ("step", "exp_avg", "exp_avg_sq")}
            self._optimiser.state[parameter] = moments

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self._optimiser.param_groups for parameter in group["params"]]

    # -- the result -------------------------------------------------------------------------------------

    @torch.no_grad()
    def result(self) -> Transcoders:
        """The transcoders as they are now, in the units of the model.

        Raises:
            ValueError: no step was made yet.
        """
        if not self._done:
            raise ValueError("no step was made yet; there is nothing to return")
        f, n, s = self.settings.features, self.n_layers, self._scaling
        if self.settings.sparsity == "jumprelu":
            threshold = torch.stack(self.log_threshold).exp()
        else:
            threshold = torch.stack([self.thresholds[i] / self._ranking(i) for i in range(n)])
        W_enc = torch.stack(self.W_enc) / s.size_x
        b_enc = torch.stack(self.b_enc) - (s.mean_x @ W_enc)[:, 0]
        b_dec = torch.stack(self.b_dec) * s.size_y[:, 0] + s.mean_y[:, 0]
        W_skip = None
        if self.W_skip is not None:
            W_skip = torch.stack(self.W_skip) * s.size_y / s.size_x
            b_dec = b_dec - (s.mean_x @ W_skip)[:, 0]
        clt = self.settings.kind == "clt"
        blocks = [(self.W_dec[i] * s.size_y[i, 0]).view(-1, f, self.d_model) for i in range(n)]  # by target
        W_dec = tuple(
            torch.stack([blocks[target][source] for target in range(source, n)]) if clt else blocks[source]
            for source in range(n)
        )
        return Transcoders(
            W_enc,
            b_enc,
            threshold.clone(),
            tuple(w.clone() for w in W_dec),
            b_dec,
            W_skip,
            self.settings.kind,
            self.model,
        )


@dataclass(frozen=True)
class Trained:
    """Transcoders and the steps that led to them."""

    transcoders: Transcoders
    history: list[Step] = field(repr=False)


def train(
    settings: Settings,
    sample: tuple[Float[Tensor, "layer token d_model"], Float[Tensor, "layer token d_model"]],
    batches: Iterable[tuple[Float[Tensor, "layer _ d_model"], Float[Tensor, "layer _ d_model"]]],
    *,
    model: str = "",
) -> Trained:
    """Train transcoders on batches of what MLPs read and write.

    Args:
        settings: how; ``settings.steps`` batches are used.
        sample: inputs and outputs for a first sample of tokens, from which scales and starting points come.
        batches: inputs and outputs, a batch a step.
        model: name of the model.

    Raises:
        ValueError: as ``Trainer``; fewer batches than steps.
        FloatingPointError: as ``Trainer.step``.
    """
    trainer = Trainer(settings, *sample, model=model)
    history = [trainer.step(x, y) for _, (x, y) in zip(range(settings.steps), batches, strict=False)]
    if len(history) < settings.steps:
        raise ValueError(f"batches ended after {len(history)} steps; settings asks for {settings.steps}")
    return Trained(trainer.result(), history)


def _scaling(x: Tensor, y: Tensor, normalise: bool) -> _Scaling:
    if not normalise:
        nothing, one = torch.zeros(len(x), 1, x.shape[-1]), torch.ones(len(x), 1, 1)
        return _Scaling(nothing, nothing, one, one)
    mean_x, mean_y = x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
    sizes = [(v - m).square().mean(dim=(1, 2), keepdim=True).sqrt() for v, m in ((x, mean_x), (y, mean_y))]
    return _Scaling(mean_x, mean_y, *(size.clamp(min=1e-6) for size in sizes))


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    gram = (x.T @ x).double() + 1e-3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(gram, (x.T @ y).double())  # by columns; Adam's moments are kept by rows
    return found.float().contiguous()


def _product(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    return a @ b if precision == torch.float32 else (a.to(precision) @ b.to(precision)).float()


def _nth_largest(values: Tensor, n: int) -> Tensor:
    return values.kthvalue(max(1, values.numel() - n)).values
