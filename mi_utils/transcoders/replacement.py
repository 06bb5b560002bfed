"""The replacement model: transcoders in place of MLPs, in some layers or all, and what that costs.

Nothing is frozen and no error is added back, unlike in ``mi_utils.graphs.local``: attention and the other
MLPs answer to what the transcoders write. The first position always keeps the model's own MLPs: what it holds
is the same for every text, and transcoders here are not trained on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.transcoders.transcoders import Transcoders, check_fits

MASSIVE = 5  # times the median length of what an MLP writes


@torch.no_grad()
def run(
    model: TransformerBridge,
    transcoders: Transcoders | Float[Tensor, "layer d_model"],
    tokens: Int[Tensor, "batch pos"],
    *,
    layers: Sequence[int] | None = None,
    protect_massive: bool = False,
) -> Float[Tensor, "batch pos vocab"]:
    """Logits with the MLPs of some layers replaced.

    Args:
        model: the model.
        transcoders: for it; or a vector for each layer, which then stands in for the MLP at every position:
            the mean of its outputs gives *mean ablation*.
        tokens: prompts of one length, start token first.
        layers: whose MLPs are replaced; all by default.
        protect_massive: keep the model's own output also where it is longer than ``MASSIVE`` times the median
            length (it needs to know the true output, so it flatters; say so where it is used).

    Raises:
        ValueError: transcoders of another model, or layers that do not exist.
    """
    if isinstance(transcoders, Transcoders):
        check_fits(model, transcoders)
    elif tuple(transcoders.shape) != (model.cfg.n_layers, model.cfg.d_model):
        raise ValueError(
            f"transcoders is a tensor of shape {tuple(transcoders.shape)}; for mean ablation it should be "
            f"({model.cfg.n_layers}, {model.cfg.d_model})"
        )
    every = range(model.cfg.n_layers)
    chosen = every if layers is None else [models.check_layer(model, layer) for layer in layers]
    features: list[Tensor] = []
    inputs: dict[int, Tensor] = {}

    def read(layer: int) -> Callable[[Tensor, Any], None]:
        def hook(value: Tensor, hook: Any) -> None:
            if not isinstance(transcoders, Transcoders):
                return
            inputs[layer] = value.to(transcoders.W_enc.dtype)
            features.append(transcoders.encode(inputs[layer], layer))
            if transcoders.kind == "plt" and layer > 0:  # no later layer reads it: free its memory
                features[layer - 1] = value.new_zeros(()).expand_as(features[-1])

        return hook

    def write(layer: int) -> Callable[[Tensor, Any], Tensor]:
        def hook(value: Tensor, hook: Any) -> Tensor:
            if isinstance(transcoders, Transcoders):
                new = transcoders.output(features, layer, inputs[layer])
            else:
                new = transcoders[layer].expand_as(value)
            kept = _kept(value, protect_massive)
            return torch.where(kept[..., None], value, new.to(value.dtype))

        return hook

    reads = [(models.hook_name(model, "mlp_in", layer), read(layer)) for layer in every]
    writes = [(models.hook_name(model, "mlp_out", layer), write(layer)) for layer in chosen]
    with models.attached(model, reads + writes):
        return model(tokens)


def _kept(output: Float[Tensor, "batch pos d_model"], protect_massive: bool) -> Bool[Tensor, "batch pos"]:
    """Positions that keep the MLP's own output."""
    kept = torch.zeros(output.shape[:2], dtype=torch.bool, device=output.device)
    if protect_massive:
        lengths = output.float().norm(dim=-1)
        kept = lengths > MASSIVE * lengths.median()
    kept[:, 0] = True
    return kept


@dataclass(frozen=True)
class Comparison:
    """A replacement model beside the model, over chosen positions.

    ``agreement`` is the share with the same likeliest token; ``kl`` the mean of KL(model || replaced) in
    nats; ``loss`` and ``loss_replaced`` the mean cross-entropy on the true next token, ``nan`` where there is
    none.
    """

    agreement: float
    kl: float
    loss: float
    loss_replaced: float
    same: Bool[Tensor, "_"] = field(repr=False)


@torch.no_grad()
def compare(
    logits: Float[Tensor, "batch pos vocab"],
    replaced: Float[Tensor, "batch pos vocab"],
    tokens: Int[Tensor, "batch pos"],
    where: Bool[Tensor, "batch pos"] | None = None,
) -> Comparison:
    """Compare two sets of logits.

    Args:
        logits: of the model.
        replaced: of the replacement model.
        tokens: what both have read.
        where: the positions that count; by default all but the first and the last.

    Raises:
        ValueError: logits of different shapes, or no position.
    """
    if logits.shape != replaced.shape or logits.shape[:2] != tokens.shape:
        raise ValueError(
            f"logits and replaced have shapes {tuple(logits.shape)} and {tuple(replaced.shape)} beside "
            f"tokens of {tuple(tokens.shape)}; they should agree"
        )
    if where is None:
        where = torch.zeros_like(tokens, dtype=torch.bool)
        where[:, 1:-1] = True
    if not where.any():
        raise ValueError("where names no position; it should name at least one")
    own = logits[where].float().log_softmax(dim=-1)
    other = replaced[where].float().log_softmax(dim=-1)
    same = own.argmax(dim=-1) == other.argmax(dim=-1)
    kl = models.kl(own, other).mean()
    known = where[:, :-1] & torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    following = tokens[:, 1:][known]
    losses = [float("nan"), float("nan")]
    if len(following):
        before = [each[:, :-1][known].float() for each in (logits, replaced)]
        losses = [F.cross_entropy(each, following).item() for each in before]
    return Comparison(same.float().mean().item(), kl.item(), *losses, same)


def answer_positions(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """The last position of each prompt."""
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[:, -1] = True
    return where
