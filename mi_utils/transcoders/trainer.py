"""Transcoders in training: one trainer for cross-layer and per-layer ones, with or without a skip.

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
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mi_utils import sae
from mi_utils.transcoders.scaling import Activations, Scaling, fit_scaling, no_scaling
from mi_utils.transcoders.settings import TranscoderSettings
from mi_utils.transcoders.transcoders import Transcoders

_ROWS_FOR_RANK = 128  # tokens on which the threshold of a batch is found: a rank over all of them is slow


@dataclass(frozen=True)
class TranscoderStep:
    """What a step of training saw on its batch.

    ``fvu`` is the mean over layers of the squared error as a fraction of the outputs' variance in the sample
    (1: no better than the mean output); without ``normalise`` it is the mean squared error of a dimension,
    in squared units of the model. ``l0`` counts the active features of a token over all layers; ``dead`` is
    the share of features that have not fired for some 150 steps.
    """

    step: int
    fvu: float
    l0: float
    dead: float


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
        settings: TranscoderSettings,
        x: Activations,
        y: Activations,
        *,
        model: str = "",
    ) -> None:
        if x.shape != y.shape or x.shape[1] < 2:
            shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
            raise ValueError(f"x and y have shapes {shapes}; they should agree, with 2 tokens or more")
        if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
            raise ValueError("x or y holds values that are not finite (NaN or infinity)")
        self.settings = settings
        self.model = model
        self.n_layers, _, self.d_model = x.shape
        self.scaling = fit_scaling(x.float(), y.float()) if settings.normalise else no_scaling(x.float())
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._done = 0
        self._begin(*self.scaling.apply(x, y))

    # -- the parameters, in normalised units ------------------------------------------------------------

    def _begin(self, x: Activations, y: Activations) -> None:
        """Starting points of all parameters, and the optimiser."""
        s, n = self.settings, self.n_layers
        self.W_skip: list[Tensor] | None = None
        rest = list(y)  # what is left for the features to explain
        if s.skip:
            self.W_skip = [_ridge(x[layer], y[layer]) for layer in range(n)]
            rest = [y[layer] - x[layer] @ self.W_skip[layer] for layer in range(n)]
        self.W_enc, self.W_dec = [], []
        for layer in range(n):
            encoder, decoder = self._start(layer, x[layer], rest[layer])
            self.W_enc.append(encoder)
            self.W_dec.append(decoder)
        self.b_enc = [torch.zeros(s.features) for _ in range(n)]
        self.b_dec = [torch.zeros(self.d_model) for _ in range(n)]
        self.log_threshold = [torch.full((s.features,), math.log(0.1)) for _ in range(n)]
        self.thresholds: Tensor | None = None  # of BatchTopK, a running mean
        self._fired = torch.ones(n, s.features)
        groups = [{"params": self.W_enc + self.b_enc + self.W_dec + self.b_dec, "scale": 1.0}]
        if s.sparsity == "jumprelu":
            groups.append({"params": self.log_threshold, "scale": 1.0})
        if self.W_skip is not None:
            groups.append({"params": self.W_skip, "scale": 0.2})
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        self._optimiser = torch.optim.Adam(groups, lr=s.lr, betas=(0.9, 0.99), fused=True)

    def _start(self, layer: int, x: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder [d_model, feature] of a layer, and what writes to it [source * feature, d_model]."""
        s = self.settings
        sources = layer + 1 if s.kind == "clt" else 1
        decoder = torch.zeros(sources * s.features, self.d_model)
        noise = F.normalize(torch.randn(s.features, self.d_model, generator=self._generator), dim=-1)
        if s.init == "random":
            bound = 1 / math.sqrt(self.n_layers * self.d_model)
            decoder.uniform_(-1, 1, generator=self._generator).mul_(bound)
            return noise.T.contiguous(), decoder
        chosen = torch.randint(len(x), (s.features,), generator=self._generator)
        direction = F.normalize(F.normalize(x[chosen], dim=-1) + 0.2 * noise, dim=-1)
        decoder[-s.features :] = 0.1 * F.normalize(rest[chosen], dim=-1)
        return direction.T.contiguous(), decoder

    # -- a step -----------------------------------------------------------------------------------------

    @torch.enable_grad()
    def step(self, x: Activations, y: Activations) -> TranscoderStep:
        """One step of Adam on a batch of tokens.

        Raises:
            FloatingPointError: the loss is not finite; lr may be too high.
        """
        s = self.settings
        progress = self._done / s.steps
        self._set_rate(progress)
        x, y = self.scaling.apply(x, y)
        features, penalty = self._features(x, progress)
        errors = [y[layer] - self._output(features, x, layer) for layer in range(self.n_layers)]
        squared = torch.stack([error.square().sum(dim=-1).mean() for error in errors]) / self.d_model
        loss = squared.sum() if penalty is None else squared.sum() + penalty
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
        return TranscoderStep(self._done, squared.mean().item(), l0, dead.float().mean().item())

    def _set_rate(self, progress: float) -> None:
        """The learning rate of this step: it rises over the warm-up and falls over the last two fifths."""
        s = self.settings
        rising = min(1, (self._done + 1) / max(1, s.warm_up))
        falling = min(1, max(0.02, (1 - progress) / 0.4))
        for group in self._optimiser.param_groups:
            group["lr"] = s.lr * rising * falling * group["scale"]

    def _features(self, x: Tensor, progress: float) -> tuple[list[Tensor], Tensor | None]:
        """Features of every layer, and the penalty on them where sparsity is paid for."""
        layers, precision = range(self.n_layers), self.settings.precision
        pre = [_product(x[layer], self.W_enc[layer], precision) + self.b_enc[layer] for layer in layers]
        if self.settings.sparsity == "jumprelu":
            return self._jump(pre, progress)
        lengths = [self._ranking(layer) for layer in layers]
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
        for name, value in vars(self.scaling).items():
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
        self.scaling = Scaling(*(kept[f"scaling.{name}"] for name in vars(self.scaling)))
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
        layers, scaling = range(self.n_layers), self.scaling
        if self.settings.sparsity == "jumprelu":
            threshold = torch.stack(self.log_threshold).exp()
        else:
            threshold = torch.stack([self.thresholds[layer] / self._ranking(layer) for layer in layers])
        W_enc, b_enc = scaling.encoders(torch.stack(self.W_enc), torch.stack(self.b_enc))
        W_skip = None if self.W_skip is None else scaling.skip(torch.stack(self.W_skip))
        return Transcoders(
            W_enc=W_enc,
            b_enc=b_enc,
            threshold=threshold.clone(),
            W_dec=self._decoders_by_source(),
            b_dec=scaling.output_bias(torch.stack(self.b_dec), W_skip),
            W_skip=W_skip,
            kind=self.settings.kind,
            model=self.model,
        )

    def _decoders_by_source(self) -> tuple[Tensor, ...]:
        """Decoders in the model's units: for each source [target, feature, d_model]."""
        f, layers = self.settings.features, range(self.n_layers)
        written = [(self.W_dec[i] * self.scaling.size_y[i, 0]).view(-1, f, self.d_model) for i in layers]
        if self.settings.kind == "plt":
            return tuple(blocks.clone() for blocks in written)
        return tuple(
            torch.stack([written[target][source] for target in range(source, self.n_layers)])
            for source in layers
        )


def _ridge(x: Float[Tensor, "token d_model"], y: Float[Tensor, "token d_model"]) -> Tensor:
    """The linear map [d_model, d_model] from inputs to outputs, by ridge regression in double precision."""
    gram = (x.T @ x).double() + 1e-3 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(gram, (x.T @ y).double())  # by columns; Adam's moments are kept by rows
    return found.float().contiguous()


def _product(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    return a @ b if precision == torch.float32 else (a.to(precision) @ b.to(precision)).float()


def _nth_largest(values: Tensor, n: int) -> Tensor:
    return values.kthvalue(max(1, values.numel() - n)).values
