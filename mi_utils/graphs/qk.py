"""QK attribution: why a head looks where it looks, in terms of features (Kamath et al. 2025 do it for
attention heads).

An attribution graph takes attention patterns as given. But an attention score is a product of two streams,
and each of them is a sum over sources (features, errors, tokens, biases) carried there by the frozen model:

    score(query, key) = sum over s, t of  q(s) · k(t) / sqrt(d_head)

where q(s) is what source s contributes to the query vector and k(t) what t contributes to the key vector. The
sum over all pairs is the model's score exactly.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils import models
from mi_utils.graphs.local import LocalModel, attend

MOST_NUMBERS = 400_000_000  # of all sources' vectors together: 1.6 GB


@dataclass(frozen=True)
class QK:
    """One attention score, taken apart.

    ``scores[s, t]`` is the part that source ``s`` at the query and ``t`` at the key make together. Sources
    are in the order of the local model's active features (the first ``n_features``), errors (layer, then
    position), tokens (position), and last all biases together.
    """

    layer: int
    head: int
    query: int
    key: int
    scores: Float[Tensor, "source source"] = field(repr=False)
    features: Int[Tensor, "feature 3"] = field(repr=False)

    @property
    def n_features(self) -> int:
        """Feature sources."""
        return len(self.features)

    @property
    def total(self) -> float:
        """The whole score, before the softmax."""
        return float(self.scores.double().sum())

    def top(self, count: int = 10) -> list[tuple[int, int, float]]:
        """The pairs with the largest parts by size: (source at the query, source at the key, part)."""
        width = self.scores.shape[1]
        chosen = self.scores.abs().flatten().topk(min(count, self.scores.numel())).indices.tolist()
        return [(i // width, i % width, float(self.scores[i // width, i % width])) for i in chosen]


@torch.no_grad()
def decompose(local: LocalModel, layer: int, head: int, query: int, key: int) -> QK:
    """Take one attention score apart over pairs of sources.

    Args:
        local: the frozen prompt.
        layer, head: whose score.
        query, key: positions; the key is not after the query.

    Raises:
        ValueError: a layer, head or position that does not exist, a key after the query, or so many active
            features that their vectors would not fit into memory.
    """
    layer, head = models.check_layer(local.model, layer), models.check_head(local.model, head)
    if not 0 <= key <= query < local.n_pos:
        raise ValueError(
            f"query and key are {query} and {key}; they should be from 0 to {local.n_pos - 1}, and the "
            f"key not after the query"
        )
    carried, features = carry(local, layer)
    read = models.centred(local.model, carried) / local.attn_scale[layer]
    queries, keys = _project(local, read[:, [query, key]], layer, [query, key], biases=False)
    at_query, at_key = queries[:, 0, head], keys[:, 1, head]
    bias_q, bias_k = _project(
        local, torch.zeros_like(read[:1, [query, key]]), layer, [query, key], biases=True
    )
    at_query[-1] += bias_q[0, 0, head]
    at_key[-1] += bias_k[0, 1, head]
    return QK(layer, head, query, key, at_query @ at_key.T / local.model.cfg.d_head**0.5, features)


@torch.no_grad()
def carry(
    local: LocalModel, layer: int
) -> tuple[Float[Tensor, "source pos d_model"], Int[Tensor, "feature 3"]]:
    """What each source contributes to the stream that a block reads, carried by frozen attention, norms and
    skips.

    Features reach later layers only by what they write themselves, not through other features.

    Returns:
        The contributions, which sum to the stream (sources as in ``QK``; features of layers from ``layer`` on
        are zero), and the active features.

    Raises:
        ValueError: too many sources for memory.
    """
    n_features, n_pos, t = len(local.active), local.n_pos, local.transcoders
    sources = n_features + (local.n_layers + 1) * n_pos + 1
    if sources * n_pos * t.d_model > MOST_NUMBERS:
        raise ValueError(
            f"local has {n_features:,} active features, whose vectors take more memory than is allowed "
            f"({MOST_NUMBERS:,} numbers); take a shorter prompt"
        )
    layers, positions, indices = local.active.T
    values = local.features[layers, positions, indices]
    stream = torch.zeros(sources, n_pos, t.d_model)
    where = torch.arange(n_pos)
    stream[sources - 1 - n_pos + where, where] = local.stream[0]
    for below in range(layer):
        seen = models.centred(local.model, stream) / local.attn_scale[below]
        moved = stream + attend(local, seen, local.patterns[below], below)
        moved[-1] += local.attn_bias[below]
        after = moved.clone()
        if t.W_skip is not None:
            read = models.centred(local.model, stream if local.parallel else moved) / local.mlp_scale[below]
            after += (read @ t.W_skip[below]) * local.replaced[:, None]
        for source in range(0 if t.kind == "clt" else below, below + 1):
            here = (layers == source).nonzero().flatten()
            after[here, positions[here]] += values[here, None] * t.decoder(source, below)[indices[here]]
        after[n_features + below * n_pos + where, where] += local.errors[below]
        after[-1] += t.b_dec[below] * local.replaced[:, None]
        stream = after
    return stream, local.active


def scores_of(
    local: LocalModel, read: Float[Tensor, "pos d_model"], layer: int
) -> Float[Tensor, "head pos pos"]:
    """Attention scores of a block from what it reads (already normed), before mask and softmax."""
    queries, keys = _project(local, read[None], layer, list(range(local.n_pos)), biases=True)
    scores = torch.einsum("qhe,khe->hqk", queries[0], keys[0]) / local.model.cfg.d_head**0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), 0.0)


def _project(
    local: LocalModel,
    read: Float[Tensor, "source pos d_model"],
    layer: int,
    positions: list[int],
    *,
    biases: bool,
) -> tuple[Float[Tensor, "source pos head d_head"], Float[Tensor, "source pos head d_head"]]:
    """Queries and keys of every head, turned by rotary positions where the model has them."""
    attn = local.model.blocks[layer].attn
    found = []
    for weights, bias in (
        (attn.W_Q.detach(), getattr(attn, "b_Q", None)),
        (models.key_weights(local.model, layer).detach(), getattr(attn, "b_K", None)),
    ):
        projected = torch.einsum("spd,hde->sphe", read, weights)
        if biases and bias is not None:
            bias = bias.detach().reshape(-1, projected.shape[-1])
            projected = projected + bias.repeat_interleave(projected.shape[2] // len(bias), dim=0)
        found.append(_rotated(local, projected, positions))
    return found[0], found[1]


def _rotated(local: LocalModel, vectors: Tensor, positions: list[int]) -> Tensor:
    """Rotary positions in the rotate-half layout of Llama and GPT-NeoX; other models are left as they are."""
    rotary = getattr(getattr(local.model.original_model, "base_model", None), "rotary_emb", None)
    if rotary is None:
        return vectors
    cos, sin = rotary(vectors[:1], torch.tensor([positions]))
    cos, sin = cos[0][None, :, None], sin[0][None, :, None]
    turned, rest = vectors[..., : cos.shape[-1]], vectors[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)
