"""What heads do to the loss: ablation of sets of heads, the loss by position, and the in-context score."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.models.run import Head, Hook


@torch.no_grad()
def mean_z(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "layer head d_head"]:
    """Each head's mean output (before ``W_O``) over sequences and positions, the first position left out.

    Raises:
        ValueError: no sequences, or only one position.
    """
    if tokens.shape[0] == 0 or tokens.shape[1] < 2:
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; it should be rows of at least two tokens")
    found: list[Tensor] = []
    names = [models.hook_name(model, "z", layer) for layer in range(model.cfg.n_layers)]
    keep = models.look_only(lambda z: found.append(z[:, 1:].mean(dim=(0, 1))))
    models.run_for_hooks(model, tokens, [(name, keep) for name in names])
    return torch.stack(found)


def ablate(
    model: TransformerBridge, chosen: Sequence[Head], means: Float[Tensor, "layer head d_head"] | None = None
) -> list[Hook]:
    """Hooks that put each head's output at its mean, or at zero where no means are given, at all positions
    but the first (there it is the same for every text).

    Raises:
        ValueError: no heads, one named twice, or a layer or head out of range.
    """
    if not chosen:
        raise ValueError("chosen is empty; it should hold at least one (layer, head)")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"chosen is {list(chosen)}; it should not name a head twice")
    models.check_heads(model, chosen, "chosen")
    return [
        (models.hook_name(model, "z", layer), _replace([h for at, h in chosen if at == layer], layer, means))
        for layer in sorted({layer for layer, _ in chosen})
    ]


def _replace(which: list[int], layer: int, means: Tensor | None) -> Callable:
    def edit(z: Tensor, hook) -> Tensor:
        z = z.clone()
        z[:, 1:, which] = 0 if means is None else means[layer, which].to(z)
        return z

    return edit


@torch.no_grad()
def loss_by_position(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], fwd_hooks: Sequence[Hook] = ()
) -> Float[Tensor, "batch pos-1"]:
    """Cross-entropy in nats of each token after the first: entry ``i`` is for the token at position ``i +
    1``."""
    models.check_length(model, tokens)
    losses = []
    with models.attached(model, fwd_hooks):
        for rows in tokens.split(models.rows_at_once(model)):
            log_probs = model(rows)[:, :-1].log_softmax(dim=-1)
            losses.append(-log_probs.gather(-1, rows[:, 1:, None])[..., 0])
    return torch.cat(losses)


def in_context_score(
    loss: Float[Tensor, "batch pos"], early: int | slice, late: int | slice
) -> Float[Tensor, ""]:
    """Loss late in the context minus loss early in it, in nats: below zero where context helps (Olsson et al.
    2022).

    Args:
        loss: as ``loss_by_position`` gives it.
        early, late: a position of ``loss``, or a slice of positions to average over.

    Raises:
        ValueError: a position out of range, or a slice with nothing in it.
    """
    return _loss_at(loss, late, "late") - _loss_at(loss, early, "early")


def _loss_at(loss: Tensor, where: int | slice, name: str) -> Tensor:
    if isinstance(where, int) and not 0 <= where < loss.shape[1]:
        raise ValueError(f"{name} is {where}; it should be from 0 to {loss.shape[1] - 1}")
    values = loss[:, where]
    if not values.numel():
        raise ValueError(f"{name} is {where}, which holds none of {loss.shape[1]} positions")
    return values.mean()
