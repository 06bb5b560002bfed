"""Training sparse autoencoders: ReLU + L1, TopK, BatchTopK and JumpReLU in one loop.

Activations are centred and scaled to a mean square of 1 a dimension for training; the SAE that comes back
reads them as they are. TopK is the fast one: only the encoder's product is dense, since everything after it
touches ``k`` latents a token. ``make bench`` sets it beside SAELens' trainer.
"""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mi_utils import sae
from mi_utils.sae.sae import SAE, check_activations, check_k

Kind = Literal["standard", "topk", "batchtopk", "jumprelu"]


@dataclass(frozen=True)
class SAESettings:
    """How to train.

    Attributes:
        d_sae: number of latents.
        kind: ``standard`` (ReLU + L1), ``topk``, ``batchtopk`` or ``jumprelu``.
        k: active latents of each token (``topk``) or on average over the batch (``batchtopk``).
        sparsity: weight of the L1 norm (``standard``) or of L0 (``jumprelu``) beside the squared error, which
            is summed over dimensions: activations have a mean square of ``d_in`` then.
        steps, batch: steps of Adam, and tokens in each.
        lr: its learning rate after ``warm_up`` steps; it falls to zero over the last fifth.
        aux: weight of the auxiliary loss, in which dead latents rebuild the error (Gao et al. 2024: 1/32).
        dead_after: tokens without activation after which a latent counts as dead.
        bandwidth: of the rectangle that stands for the derivative of a step (``jumprelu``).
        seed: of initialisation and order.

    Raises:
        ValueError: a number out of range, or one missing that the kind needs.
    """

    d_sae: int
    kind: Kind = "topk"
    k: int | None = None
    sparsity: float = 0.0
    steps: int = 1_000
    batch: int = 2_048
    lr: float = 1e-3
    warm_up: int = 50
    aux: float = 1 / 32
    dead_after: int = 100_000
    bandwidth: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("standard", "topk", "batchtopk", "jumprelu"):
            raise ValueError(f"kind is {self.kind!r}; it should be standard, topk, batchtopk or jumprelu")
        for name in ("d_sae", "steps", "batch", "dead_after", "bandwidth", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it should be above 0")
        for name in ("sparsity", "aux", "warm_up"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it should not be negative")
        if self.kind in ("topk", "batchtopk"):
            check_k(self.k, self.d_sae)
        elif self.sparsity == 0:
            raise ValueError(f"sparsity is 0; a {self.kind} SAE is not sparse without it")


@dataclass(frozen=True)
class TrainedSAE:
    """An SAE and how it came about: the fraction of variance unexplained and L0 of each batch, before its
    step."""

    sae: SAE
    fvu: Float[Tensor, "step"]
    l0: Float[Tensor, "step"]
    tokens: int
    seconds: float


def train(
    x: Float[Tensor, "token d_in"], settings: SAESettings, *, model: str = "", hook: str = ""
) -> TrainedSAE:
    """Train an SAE on activations.

    Args:
        x: activations without massive ones (``harvest.collect``), in any floating dtype; gone through in
            random order, again and again.
        settings: how.
        model, hook: where ``x`` comes from, for the SAE to remember.

    Raises:
        ValueError: fewer than two tokens, tokens that are all the same, values that are not finite.
    """
    if len(x) < 2:
        raise ValueError(f"x has {len(x)} tokens; it should have at least 2")
    generator = torch.Generator().manual_seed(settings.seed)
    mean, scale = _moments(x, generator)
    weights = _Weights(x.shape[1], settings, generator)
    optimiser = torch.optim.Adam(
        weights.parameters(), lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, fused=True
    )
    rows = _order(len(x), settings.batch, generator)
    fvu, l0, start = torch.zeros(settings.steps), torch.zeros(settings.steps), time.perf_counter()
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * _schedule(step, settings)
        batch = (x[next(rows)].float() - mean) / scale
        with torch.enable_grad():  # a notebook may have switched gradients off
            error, active, loss = weights.loss(batch)
            optimiser.zero_grad()
            loss.backward()
        weights.project_gradient()
        optimiser.step()
        weights.normalise()
        error = error.detach()
        fvu[step] = (error.square().sum() / (batch - batch.mean(dim=0)).square().sum()).item()
        l0[step] = active
    if not torch.isfinite(fvu).all():
        raise ValueError(f"lr is {settings.lr}; training diverged, so it should be smaller")
    sae = weights.as_sae(mean, scale, model, hook)
    return TrainedSAE(sae, fvu, l0, settings.steps * min(settings.batch, len(x)), time.perf_counter() - start)


def _moments(x: Tensor, generator: torch.Generator, sample: int = 65_536) -> tuple[Tensor, float]:
    """Mean, and the scale that brings the mean square of a dimension to 1; from a sample."""
    rows = torch.randint(len(x), (sample,), generator=generator) if len(x) > sample else slice(None)
    some = x[rows].float()
    check_activations(some, x.shape[1])
    mean = some.double().mean(dim=0).float()
    scale = (some - mean).square().mean().sqrt().item()
    if scale == 0:
        raise ValueError("x is the same for all tokens; there is nothing to learn")
    return mean, scale


def _order(count: int, batch: int, generator: torch.Generator):
    """Indices of one batch after the other, every token once before any comes again."""
    batch = min(batch, count)
    while True:
        permutation = torch.randperm(count, generator=generator)
        for start in range(0, count - batch + 1, batch):
            yield permutation[start : start + batch]


def _schedule(step: int, settings: SAESettings) -> float:
    up = min(1.0, (step + 1) / settings.warm_up) if settings.warm_up else 1.0
    return up * min(1.0, 5 * (settings.steps - step) / settings.steps)


class _Weights:
    """The parameters while they are trained; the encoder is kept transposed, a row for each latent."""

    def __init__(self, d_in: int, settings: SAESettings, generator: torch.Generator):
        self.settings = settings
        rows = F.normalize(torch.randn(settings.d_sae, d_in, generator=generator), dim=-1)
        self.decoder = rows.clone().requires_grad_()
        self.encoder = rows.requires_grad_()  # it starts as the decoder's transpose
        self.b_enc = torch.zeros(settings.d_sae, requires_grad=True)
        self.b_dec = torch.zeros(d_in, requires_grad=True)
        self.log_threshold = torch.full((settings.d_sae,), -2.0, requires_grad=True)
        self.pre: Tensor | None = None
        self.cut = 0.0  # BatchTopK's threshold, followed through training
        self.silent = torch.zeros(settings.d_sae)  # tokens since each latent was active

    def parameters(self) -> list[Tensor]:
        shared = [self.encoder, self.decoder, self.b_enc, self.b_dec]
        return [*shared, self.log_threshold] if self.settings.kind == "jumprelu" else shared

    def loss(self, batch: Float[Tensor, "batch d_in"]) -> tuple[Tensor, float, Tensor]:
        """Error [batch d_in], mean number of active latents, loss."""
        of_kind = {
            "topk": self._topk,
            "batchtopk": self._batchtopk,
            "standard": self._relu,
            "jumprelu": self._jumprelu,
        }
        return of_kind[self.settings.kind](batch)

    def _topk(self, batch: Tensor) -> tuple[Tensor, float, Tensor]:
        shift = (
            self.b_enc - self.encoder @ self.b_dec
        )  # as if the decoder's bias were subtracted from the batch
        with torch.no_grad():
            if self.pre is None or len(self.pre) != len(batch):
                self.pre = torch.empty(
                    len(batch), len(shift)
                )  # kept: new memory of that size costs a tenth of a step
            pre = torch.addmm(shift, batch, self.encoder.T, out=self.pre)
        chosen = pre.topk(self.settings.k, dim=-1, sorted=False).indices
        latents = _Selected.apply(batch, self.encoder, shift, pre, chosen).relu()
        error = batch - self.b_dec - _sum_of_rows(chosen, latents, self.decoder)
        active = torch.zeros_like(self.silent).index_add_(
            0, chosen.flatten(), (latents > 0).float().flatten()
        )
        self._watch(active, len(batch))
        loss = error.square().sum(dim=-1).mean() + self._auxiliary(batch, pre, shift, error.detach())
        return error, active.sum().item() / len(batch), loss

    def _auxiliary(self, batch: Tensor, pre: Tensor, shift: Tensor, error: Tensor) -> Tensor | float:
        """Dead latents rebuild the error, on the tokens where they come nearest to being active."""
        dead = (self.silent >= self.settings.dead_after).nonzero()[:, 0]
        if self.settings.aux == 0 or len(dead) == 0:
            return 0.0
        count = min(len(dead), batch.shape[1] // 2, 2 * (self.settings.k or 32))
        chosen = dead[pre[:, dead].topk(count, dim=-1, sorted=False).indices]
        latents = _Selected.apply(batch, self.encoder, shift, pre, chosen).relu()
        rebuilt = _sum_of_rows(chosen, latents, self.decoder)
        return self.settings.aux * (error - rebuilt).square().sum(dim=-1).mean()

    def _batchtopk(self, batch: Tensor) -> tuple[Tensor, float, Tensor]:
        pre = self._dense(batch)
        positive = pre.relu()
        count = self.settings.k * len(batch)
        least = positive.detach().flatten().topk(count, sorted=False).values.min()
        latents = positive * (positive >= least)
        self.cut = least.item() if self.cut == 0 else 0.99 * self.cut + 0.01 * least.item()
        return self._finish(batch, pre, latents, 0.0)

    def _relu(self, batch: Tensor) -> tuple[Tensor, float, Tensor]:
        pre = self._dense(batch)
        latents = pre.relu()
        l1 = (latents * self.decoder.norm(dim=-1)).sum(dim=-1).mean()
        return self._finish(batch, pre, latents, self.settings.sparsity * l1)

    def _jumprelu(self, batch: Tensor) -> tuple[Tensor, float, Tensor]:
        pre, threshold = self._dense(batch), self.log_threshold.exp()
        latents = sae.Jump.apply(pre, threshold, self.settings.bandwidth)
        l0 = sae.Step.apply(pre, threshold, self.settings.bandwidth).sum(dim=-1).mean()
        return self._finish(batch, pre, latents, self.settings.sparsity * l0)

    def _dense(self, batch: Tensor) -> Float[Tensor, "batch d_sae"]:
        return (batch - self.b_dec) @ self.encoder.T + self.b_enc

    def _finish(self, batch: Tensor, pre: Tensor, latents: Tensor, penalty: Tensor | float):
        error = batch - self.b_dec - latents @ self.decoder
        active = (latents > 0).sum(dim=0).float()
        self._watch(active, len(batch))
        loss = error.square().sum(dim=-1).mean() + penalty
        if self.settings.kind == "batchtopk":
            shift = self.b_enc - self.encoder @ self.b_dec
            loss = loss + self._auxiliary(batch, pre.detach(), shift, error.detach())
        return error, active.sum().item() / len(batch), loss

    def _watch(self, active: Tensor, tokens: int) -> None:
        self.silent = torch.where(active > 0, 0.0, self.silent + tokens)

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Leave out of the decoder's gradient what would only change the lengths of its rows."""
        self.decoder.grad -= (self.decoder.grad * self.decoder).sum(dim=-1, keepdim=True) * self.decoder

    @torch.no_grad()
    def normalise(self) -> None:
        self.decoder /= self.decoder.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def as_sae(self, mean: Tensor, scale: float, model: str, hook: str) -> SAE:
        """The SAE that reads activations as they are, not centred and scaled."""
        kind, threshold = self.settings.kind, None
        if kind == "jumprelu":
            threshold = scale * self.log_threshold.detach().exp()
        elif kind == "batchtopk":
            threshold = torch.full_like(self.b_enc, scale * self.cut)
        return SAE(
            W_enc=self.encoder.detach().T.contiguous(),
            b_enc=scale * self.b_enc.detach(),
            W_dec=self.decoder.detach().clone(),
            b_dec=mean + scale * self.b_dec.detach(),
            architecture="jumprelu" if kind == "batchtopk" else kind,
            k=self.settings.k if kind == "topk" else None,
            threshold=threshold,
            model=model,
            hook=hook,
        )


def _sum_of_rows(
    chosen: Int[Tensor, "batch k"], weights: Float[Tensor, "batch k"], rows: Float[Tensor, "row width"]
) -> Float[Tensor, "batch width"]:
    """For each token the sum of its chosen rows, weighted; far quicker than a product with a mostly empty
    matrix."""
    return F.embedding_bag(chosen, rows, per_sample_weights=weights, mode="sum")


class _Selected(torch.autograd.Function):
    """``pre.gather(1, chosen)`` for ``pre = batch @ rows.T + shift``, whose gradient reaches the chosen rows
    only."""

    @staticmethod
    def forward(ctx, batch, rows, shift, pre, chosen):
        ctx.save_for_backward(batch, rows, chosen)
        return pre.gather(1, chosen)

    @staticmethod
    def backward(ctx, gradient):
        batch, rows, chosen = ctx.saved_tensors
        with torch.enable_grad():  # what we need is the derivative of this sum by the rows
            inner = rows.detach().requires_grad_()
            total = (_sum_of_rows(chosen, gradient, inner) * batch).sum()
        of_shift = gradient.new_zeros(len(rows)).index_add_(0, chosen.flatten(), gradient.flatten())
        return None, torch.autograd.grad(total, inner)[0], of_shift, None, None
