"""Which latents fire where, which tokens they promote, which other latents are like them.

A *latent* is anything that has one activation a token and fires where it is above 0: a latent of a sparse
autoencoder or transcoder, or a neuron (``torch.relu`` is then the encoder; ``lambda x: (-x).relu()`` sees its
other side). How they are shown is in ``mi_utils.features.view``; rules that foretell them are in
``mi_utils.features.rules``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import harvest, prompts
from mi_utils.features.store import LatentActivations
from mi_utils.sae.sae import SAE, check_fits

CHUNK = 2048  # tokens encoded at a time


@torch.no_grad()
def record(
    encode: Callable[[Tensor], Tensor],
    activations: Float[Tensor, "token width"] | Iterable[Float[Tensor, "piece width"]],
    tokens: Int[Tensor, "context pos"],
    kept: Bool[Tensor, "read"] | None = None,
    *,
    memory_gib: float | int = 1.0,
) -> LatentActivations:
    """Encode activations and keep where each latent fires.

    Args:
        encode: activations [token, width], in float32, to latents [token, latent]: ``sae.encode``,
            ``torch.relu``.
        activations: as ``harvest.activations`` or ``harvest.collect`` give them (``[0]`` of the one,
            ``.values`` of the other), or pieces of them as ``harvest.pieces`` yields them.
        tokens: the contexts that were read, each with its start token.
        kept: which of the tokens after the start tokens ``activations`` holds (``Harvest.kept``); by default
            all.
        memory_gib: what the result may take, in GiB; making it takes about five times as much.

    Raises:
        ValueError: no contexts, another number of activations than tokens, latents that are not finite or no
            vector a token, or more than ``memory_gib``.
    """
    seen = _after_start(tokens, kept)
    wanted = seen.flatten().nonzero()[:, 0].to(torch.int32)
    pieces = [activations] if isinstance(activations, Tensor) else activations
    # Grown as they fill: thousands of small tensors would leave gaps of several times their own size in
    # memory.
    places = torch.empty(2**16, dtype=torch.int32)
    latents = torch.empty_like(places)
    values = torch.empty(2**16, dtype=torch.float32)
    read = count = width = 0
    for chunk in (chunk for piece in pieces for chunk in piece.split(CHUNK)):
        found = _encoded(encode, chunk)
        width = found.shape[1]
        rows, columns = (found > 0).nonzero(as_tuple=True)
        first, read = read, read + len(chunk)
        if read > len(wanted):
            continue  # refused below, when it is known how many there are
        new = slice(count, count + len(rows))
        size = LatentActivations.ENTRY * new.stop / 2**30
        if size > memory_gib:
            raise ValueError(
                f"tokens has {tokens.numel():,} of them; after {read:,} the latents' activations take "
                f"{size:.2g} GiB, and memory_gib allows {memory_gib:g}; take fewer contexts"
            )
        places, latents, values = (_with_room(one, count, new.stop) for one in (places, latents, values))
        places[new] = wanted[first + rows.cpu()]
        latents[new] = columns.to("cpu", torch.int32)
        values[new] = found[rows, columns].float().cpu()
        count = new.stop
    if read != len(wanted):
        raise ValueError(
            f"activations holds {read} tokens; tokens and kept say that there should be {len(wanted)}"
        )
    return _sorted_by_latent(tokens, seen, places[:count], latents[:count], values[:count], width)


@torch.no_grad()
def record_activations(
    model: TransformerBridge,
    sae: SAE,
    tokens: Int[Tensor, "context pos"],
    *,
    factor: float | int = 5,
    batch_size: int = 32,
    memory_gib: float | int = 1.0,
) -> LatentActivations:
    """Run a model over contexts and keep where each latent of ``sae`` fires, massive activations left out.

    The model's activations are not kept, so that memory depends on how sparse the latents are.

    Args:
        model: the model that reads.
        sae: the dictionary; for one that is no SAE there is ``record``.
        tokens: the contexts, each with its start token.
        factor: how many times the median length a vector may have, as in ``harvest.ordinary``.
        batch_size: contexts in a forward pass.
        memory_gib: what the result may take, in GiB.

    Raises:
        ValueError: as ``record``, ``sae.check_fits`` and ``harvest.activations``.
    """
    check_fits(model, sae)
    _after_start(tokens, None)
    lengths = []

    def pieces() -> Iterator[Float[Tensor, "piece width"]]:
        for piece in harvest.pieces(model, tokens, sae.hook, batch_size=batch_size):
            lengths.append(piece.float().norm(dim=-1).cpu())
            yield piece

    every = record(sae.encode, pieces(), tokens, memory_gib=memory_gib)
    # The median that says what is massive is known only at the end.
    kept = harvest.ordinary(torch.cat(lengths)[None, :, None], factor=factor)
    seen = _after_start(tokens, kept)
    counted = seen.flatten()[every.places]
    latents = every.latents[counted]
    return _sorted_by_latent(
        tokens, seen, every.places[counted], latents, every.values[counted], every.n_latents
    )


def texts(model: TransformerBridge, tokens: Int[Tensor, "context pos"]) -> dict[int, str]:
    """The text of every token that occurs, by its id."""
    ids = tokens.unique().tolist()
    return dict(zip(ids, prompts.token_strings(model, ids), strict=True))


def matching(
    tokens: Int[Tensor, "context pos"], texts: Mapping[int, str], text: str
) -> Bool[Tensor, "context pos"]:
    """The tokens that ``text`` touches wherever it occurs, upper and lower case alike; it may span several
    tokens.

    Raises:
        ValueError: an empty text.
    """
    if not text:
        raise ValueError("text is empty; it should hold at least one character")
    folded, wanted = {i: one.casefold() for i, one in texts.items()}, text.casefold()
    marked = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, ids in enumerate(tokens.tolist()):
        pieces = [folded[i] for i in ids]
        whole = "".join(pieces)
        if (at := whole.find(wanted)) < 0:
            continue
        owner = [position for position, piece in enumerate(pieces) for _ in piece]
        while at >= 0:
            marked[row, owner[at] : owner[at + len(wanted) - 1] + 1] = True
            at = whole.find(wanted, at + 1)
    return marked


@dataclass(frozen=True)
class Promoted:
    """Tokens whose logits a direction raises and lowers most: ids and values, the most extreme first."""

    promoted: Int[Tensor, "n"]
    raised: Float[Tensor, "n"]
    suppressed: Int[Tensor, "n"]
    lowered: Float[Tensor, "n"]


def promoted(
    direction: Float[Tensor, "d_model"], W_U: Float[Tensor, "d_model d_vocab"], n: int = 10
) -> Promoted:
    """What a direction in the residual stream does to the logits directly, relative to the average token.

    The values are ``direction @ W_U`` less their mean over the vocabulary: softmax does not see what all
    logits have in common. What later layers make of the direction is not in them, nor is the scale of the
    final norm.

    Raises:
        ValueError: widths that differ, a direction that is not finite, or ``n`` below 1 or beyond half the
            vocabulary.
    """
    if len(direction) != len(W_U):
        raise ValueError(f"direction has {len(direction)} entries; for this W_U it should have {len(W_U)}")
    if not torch.isfinite(direction).all():
        raise ValueError("direction holds values that are not finite (NaN or infinity)")
    if not 1 <= n <= W_U.shape[1] // 2:
        raise ValueError(f"n is {n}; it should be from 1 to {W_U.shape[1] // 2}, half the vocabulary")
    logits = direction.detach().float() @ W_U.detach().float()
    logits = logits - logits.mean()
    high, low = logits.topk(n), logits.topk(n, largest=False)
    return Promoted(high.indices, high.values, low.indices, low.values)


def nearest(
    W_dec: Float[Tensor, "latent d_in"], latent: int, n: int = 5
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """The latents whose decoder directions are nearest to that of ``latent``, and their cosines with it.

    Raises:
        ValueError: a latent that does not exist, or ``n`` below 1 or more than there are others.
    """
    if not 0 <= latent < len(W_dec):
        raise ValueError(f"latent is {latent}; it should be from 0 to {len(W_dec) - 1}")
    if not 1 <= n < len(W_dec):
        raise ValueError(f"n is {n}; it should be from 1 to {len(W_dec) - 1}, the number of other latents")
    unit = torch.nn.functional.normalize(W_dec.detach().float(), dim=-1)
    cosines = unit @ unit[latent]
    cosines[latent] = -2
    best = cosines.topk(n)
    return best.indices, best.values


def _encoded(
    encode: Callable[[Tensor], Tensor], chunk: Float[Tensor, "token width"]
) -> Float[Tensor, "token latent"]:
    if not torch.isfinite(chunk).all():
        raise ValueError("activations holds values that are not finite (NaN or infinity)")
    found = encode(chunk.float())
    if found.ndim != 2 or len(found) != len(chunk):
        raise ValueError(
            f"encode made {tuple(found.shape)} of {tuple(chunk.shape)}; it should be [token, latent]"
        )
    if not torch.isfinite(found).all():
        raise ValueError("encode gave latents that are not finite (NaN or infinity)")
    return found


def _with_room(buffer: Tensor, used: int, wanted: int) -> Tensor:
    """The buffer, or a copy of what is used of it that has the room wanted."""
    if wanted <= len(buffer):
        return buffer
    larger = buffer.new_empty(max(wanted, 3 * len(buffer) // 2))
    larger[:used] = buffer[:used]
    return larger


def _after_start(
    tokens: Int[Tensor, "context pos"], kept: Bool[Tensor, "read"] | None
) -> Bool[Tensor, "context pos"]:
    """The tokens that were looked at: all but first positions, and of those the ones ``kept``."""
    if tokens.numel() == 0 or tokens.shape[1] < 2:
        raise ValueError(
            f"tokens has shape {tuple(tokens.shape)}; it should be contexts with at least two tokens"
        )
    rest = tokens[:, 1:].numel()
    if kept is not None and len(kept) != rest:
        raise ValueError(
            f"kept has {len(kept)} entries; it should have {rest}, one for each token after a start token"
        )
    if kept is not None and not kept.any():
        raise ValueError("kept leaves no token to look at; it should be True somewhere")
    seen = torch.ones(tokens.shape, dtype=torch.bool)
    seen[:, 0] = False
    if kept is not None:
        seen[:, 1:] = kept.cpu().view(len(tokens), -1)
    return seen


def _sorted_by_latent(
    tokens: Int[Tensor, "context pos"],
    seen: Bool[Tensor, "context pos"],
    places: Int[Tensor, "entry"],
    latents: Int[Tensor, "entry"],
    values: Float[Tensor, "entry"],
    n_latents: int,
) -> LatentActivations:
    order = latents.argsort(stable=True)  # stable: within a latent the text's order stays
    offsets = torch.zeros(n_latents + 1, dtype=torch.int64)
    offsets[1:] = torch.bincount(latents, minlength=n_latents).cumsum(0)
    return LatentActivations(tokens.cpu(), seen, offsets, places[order], values[order])
