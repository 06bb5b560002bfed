"""Heads that read what other heads wrote: composition scores, and the OV and QK circuits as matrices.

Rows are tokens: ``scores = x_query @ W_Q @ W_K.T @ x_key.T`` and a head writes ``pattern @ x @ W_V @ W_O``,
so ``W_QK = W_Q @ W_K.T`` and ``W_OV = W_V @ W_O``, both [d_model d_model] of rank ``d_head``. They are never
formed here: what is asked of them is asked of their factors. Source: Elhage et al. 2021, A Mathematical
Framework for Transformer Circuits.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.models.run import Head, Hook

KINDS = ("Q", "K", "V")


@torch.no_grad()
def composition_scores(
    model: TransformerBridge, kind: Literal["Q", "K", "V"], later: Sequence[Head]
) -> Float[Tensor, "later layer head"]:
    """How much of what earlier heads write can reach a later head's queries, keys or values, by weights
    alone.

    The Frobenius norm of the product of the two circuits over the product of their norms: ``W_OV @ W_QK`` for
    Q, ``W_QK @ W_OV.T`` for K and ``W_OV @ W_OV`` (earlier, then later) for V. Heads that are not in an
    earlier layer have NaN. Weights say what *can* be read, not what is; compare with random weights of the
    same shape.

    Args:
        model: any; heads of grouped queries share their keys and values.
        kind: what is composed with.
        later: the heads that read.

    Raises:
        ValueError: an unknown kind, no heads, or a layer or head out of range.
    """
    _check_kind(kind)
    if not later:
        raise ValueError("later is empty; it should hold at least one (layer, head)")
    models.check_heads(model, later, "later")
    scores = torch.full((len(later), model.cfg.n_layers, model.cfg.n_heads), torch.nan)
    written = [_writes(model, layer) for layer in range(max(layer for layer, _ in later))]
    for i, (layer, head) in enumerate(later):
        reads, keep, norm = _reads(model, kind, layer, head)
        for earlier in range(layer):
            triangle, W_O, size = written[earlier]  # head d_head d_head, head d_head d_model, head
            product = triangle @ W_O @ reads @ keep.mT
            scores[i, earlier] = (product.norm(dim=(-2, -1)) / (size * norm)).cpu()
    return scores


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it should be one of {', '.join(KINDS)}")


def _writes(model: TransformerBridge, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each head of a layer: a small matrix with the norms of W_V, W_O, and the norm of W_OV."""
    W_V, W_O = models.value_weights(model, layer), model.blocks[layer].attn.W_O
    triangle = _triangle(W_V)
    return triangle, W_O, (triangle @ W_O).norm(dim=(-2, -1))


def _reads(model: TransformerBridge, kind: str, layer: int, head: int) -> tuple[Tensor, Tensor, Tensor]:
    """The factor of a head that reads [d_model d_head], a small matrix with the norms of the other, and their
    norm."""
    W_Q, W_K = model.blocks[layer].attn.W_Q[head], models.key_weights(model, layer)[head]
    W_V, W_O = models.value_weights(model, layer)[head], model.blocks[layer].attn.W_O[head]
    reads, other = {"Q": (W_Q, W_K), "K": (W_K, W_Q), "V": (W_V, W_O.mT)}[kind]
    keep = _triangle(other)
    return reads, keep, (reads @ keep.mT).norm()


def _triangle(factor: Tensor) -> Tensor:
    """R of a QR decomposition: ``factor @ x`` and ``R @ x`` have the same norm, and R has few rows."""
    return torch.linalg.qr(factor, mode="r").R


@torch.no_grad()
def ov_circuit(
    model: TransformerBridge,
    layer: int,
    head: int,
    states: Float[Tensor, "source d_model"],
    ids: Int[Tensor, "n"],
) -> Float[Tensor, "source n"]:
    """The full OV circuit on given inputs: row = state attended to, column = what that adds to the logit of
    ``ids``.

    Up to the scale of the two norms, which is positive and the same along a row. Biases are left out.
    """
    models.check_heads(model, [(layer, head)])
    return _moved(model, layer, head, models.centred(model, states)) @ model.W_U[:, ids]


def _moved(
    model: TransformerBridge, layer: int, head: int, read: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n d_model"]:
    """What a head writes when it attends to each of the centred states, as the next norm sees it."""
    return models.centred(
        model, read @ models.value_weights(model, layer)[head] @ model.blocks[layer].attn.W_O[head]
    )


@torch.no_grad()
def qk_circuit(
    model: TransformerBridge,
    target: Head,
    states: Float[Tensor, "n d_model"],
    *,
    through: Head | None = None,
) -> Float[Tensor, "query key"]:
    """The QK circuit on given inputs: row = what stands at the query, column = what stands at the key.

    With ``through``, the column is what an earlier head *attended to from the key*: for a previous-token
    head, the token before the key. Up to the scales of the norms; biases and rotary positions are left out.
    """
    models.check_heads(model, [target] if through is None else [target, through])
    layer, head = target
    read = models.centred(model, states)
    keys = read if through is None else _moved(model, *through, read)
    return read @ model.blocks[layer].attn.W_Q[head] @ (keys @ models.key_weights(model, layer)[head]).T


@torch.no_grad()
def copying_scores(
    model: TransformerBridge, ids: Int[Tensor, "n"], states: Float[Tensor, "n d_model"]
) -> Float[Tensor, "layer head"]:
    """Share of tokens whose own logit each head raises most, among those of ``ids``; ``1 / n`` by chance.

    Args:
        ids: different tokens.
        states: what the heads read at each of them: its embedding, or ``token_states``.

    Raises:
        ValueError: fewer than two tokens, tokens that are not different, or not as many states.
    """
    if len(ids) < 2 or len(ids.unique()) < len(ids) or len(states) != len(ids):
        raise ValueError(
            f"ids has {len(ids)} tokens and states {len(states)}; they should be as many, different ones"
        )
    own = torch.arange(len(ids), device=states.device)
    read, unembed = models.centred(model, states), model.W_U[:, ids]
    scores = []
    for layer in range(model.cfg.n_layers):
        z = torch.einsum("nd,hde->hne", read, models.value_weights(model, layer))
        moved = models.centred(model, torch.einsum("hne,hed->hnd", z, model.blocks[layer].attn.W_O))
        scores.append(((moved @ unembed).argmax(dim=-1) == own).float().mean(dim=-1))
    return torch.stack(scores).cpu()


@torch.no_grad()
def token_states(
    model: TransformerBridge, ids: Int[Tensor, "n"], start: int, *, layer: int = 1
) -> Float[Tensor, "n d_model"]:
    """The stream before a layer at each token, alone after the start token.

    In a model with MLPs the first block turns embeddings into what later heads read (Wang et al. 2023).

    Raises:
        ValueError: a layer below 1 or above the number of layers.
    """
    if layer < 1:
        raise ValueError(f"layer is {layer}; it should be at least 1 (before layer 0 stands the embedding)")
    name = models.hook_name(
        model, "resid_post", layer - 1
    )  # the same stream, and the model need run no further
    rows = torch.stack([torch.full_like(ids, start), ids], dim=1)
    found: list[Tensor] = []
    keep = models.look_only(lambda stream: found.append(stream[:, 1]))
    for part in rows.split(models.rows_at_once(model)):
        models.run_for_hooks(model, part, [(name, keep)])
    return torch.cat(found)


@torch.no_grad()
def copying_eigenvalues(model: TransformerBridge, layer: int, head: int) -> Float[Tensor, ""]:
    """Sum of the eigenvalues of ``W_E @ W_V @ W_O @ W_U`` over the sum of their sizes: 1 where all are
    positive.

    At most ``d_head`` eigenvalues differ from 0; they are those of a ``d_head`` by ``d_head`` product.
    """
    models.check_heads(model, [(layer, head)])
    W_O, W_V = model.blocks[layer].attn.W_O[head], models.value_weights(model, layer)[head]
    small = models.centred(model, W_O) @ (model.W_U @ models.centred(model, model.W_E)) @ W_V
    eigenvalues = torch.linalg.eigvals(small.double())
    return (eigenvalues.real.sum() / eigenvalues.abs().sum()).float()


def without_in_keys(
    model: TransformerBridge, sources: Sequence[Head], targets: Sequence[Head], *, kind: str = "K"
) -> list[Hook]:
    """Hooks that take what some heads wrote out of what later heads read for their *keys*, and out of nothing
    else.

    The norm's scale is held as it was, so this is exact: a key is linear in the normalised stream. The start
    token's key stays. With grouped queries, heads that share a target's keys are edited with it. As a
    control, ``kind`` names another input instead: ``"Q"`` or ``"V"``.

    Raises:
        ValueError: no sources or targets, a layer or head out of range, a source that is not before every
            target, or an unknown kind.
    """
    _check_kind(kind)
    for name, heads in (("sources", sources), ("targets", targets)):
        if not heads:
            raise ValueError(f"{name} is empty; it should hold at least one (layer, head)")
        models.check_heads(model, heads, name)
    last, first = max(layer for layer, _ in sources), min(layer for layer, _ in targets)
    if last >= first:
        raise ValueError(
            f"sources reach layer {last} and targets begin at {first}; sources should be in earlier layers"
        )
    written: dict[int, Tensor] = {}
    scales: dict[int, Tensor] = {}
    fwd_hooks = [
        _note_written(model, layer, sources, written) for layer in sorted({layer for layer, _ in sources})
    ]
    for layer in sorted({layer for layer, _ in targets}):
        fwd_hooks += _edit_input(model, kind, layer, targets, written, scales)
    return fwd_hooks


def _note_written(model: TransformerBridge, layer: int, sources: Sequence[Head], written: dict) -> Hook:
    heads = [head for at, head in sources if at == layer]

    def note(z: Tensor, hook) -> None:
        written[layer] = torch.einsum("bphd,hdm->bpm", z[:, :, heads], model.blocks[layer].attn.W_O[heads])

    return models.hook_name(model, "z", layer), note


def _edit_input(
    model: TransformerBridge, kind: str, layer: int, targets: Sequence[Head], written: dict, scales: dict
) -> list[Hook]:
    weights = getattr(model.blocks[layer].attn, f"W_{kind}")
    groups = model.cfg.n_heads // weights.shape[0]
    heads = sorted({head // groups for at, head in targets if at == layer})

    def note(scale: Tensor, hook) -> None:
        scales[layer] = scale

    def edit(read: Tensor, hook) -> Tensor:
        read, out = read.clone(), models.centred(model, sum(written.values())) / scales[layer]
        read[:, 1:, heads] -= torch.einsum("bpm,hmd->bphd", out[:, 1:], weights[heads])
        return read

    return [(f"blocks.{layer}.ln1.hook_scale", note), (models.hook_name(model, kind.lower(), layer), edit)]
