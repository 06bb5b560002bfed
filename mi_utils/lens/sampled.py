"""KL(final || lens) on a sample of the vocabulary: unembedding is nearly all of the work of training a lens.

The tokens that are likeliest overall count in full; some of the others are drawn, and each of them stands for
several.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models

_TOKENS = 128  # unembedded at a time


@dataclass(frozen=True)
class Vocabulary:
    """Tokens to compare two predictions on.

    ``log_weights`` has the logarithm of how many tokens each of ``ids`` stands for.
    """

    ids: Int[Tensor, "sampled"]
    log_weights: Float[Tensor, "sampled"]


@torch.no_grad()
def likeliest_tokens(
    model: TransformerBridge, final: Float[Tensor, "token d_model"]
) -> Int[Tensor, "d_vocab"]:
    """All tokens of the vocabulary, the one with the highest mean probability first.

    Args:
        model: whose vocabulary it is.
        final: the stream after the last block, for many tokens.
    """
    sums = [models.unembed(model, piece).softmax(dim=-1).sum(dim=0) for piece in final.split(_TOKENS)]
    return torch.stack(sums).sum(dim=0).argsort(descending=True)


def sample_vocabulary(
    likeliest: Int[Tensor, "d_vocab"], *, kept: int, drawn: int, generator: torch.Generator
) -> Vocabulary:
    """The ``kept`` likeliest tokens, and ``drawn`` of the others to stand for all of them.

    Where that is the whole vocabulary or more, nothing is drawn and each token stands for itself.

    Args:
        likeliest: all tokens, the likeliest first.
        kept: how many count in full.
        drawn: how many of the others.
        generator: for the draw.
    """
    others = len(likeliest) - kept
    if others <= drawn:
        return Vocabulary(likeliest, torch.zeros(len(likeliest), device=likeliest.device))
    chosen = kept + torch.randperm(others, generator=generator)[:drawn].to(likeliest.device)
    log_weights = torch.zeros(kept + drawn, device=likeliest.device)
    log_weights[kept:] = torch.log(torch.tensor(others / drawn))
    return Vocabulary(torch.cat([likeliest[:kept], likeliest[chosen]]), log_weights)


def sampled_kl(
    model: TransformerBridge,
    final: Float[Tensor, "token d_model"],
    translated: Iterable[Float[Tensor, "token d_model"]],
    vocabulary: Vocabulary,
) -> Float[Tensor, "layer"]:
    """Mean over tokens of KL(final || lens) in nats on a part of the vocabulary, for each layer.

    On the whole vocabulary it is the KL divergence itself; on a sample its mean is near that, not equal to
    it, for the logarithm of a mean is not the mean of logarithms.

    Args:
        model: whose final norm and unembedding are used.
        final: the stream after the last block.
        translated: the streams that the lens made of those at each layer.
        vocabulary: as ``sample_vocabulary`` gives it.
    """
    columns, offset = model.W_U[:, vocabulary.ids].detach(), vocabulary.log_weights
    if model.unembed.b_U is not None:
        offset = offset + model.unembed.b_U[vocabulary.ids].detach()

    # A token that stands for w others counts as w tokens with its logit: log w more.
    def log_probs(stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "1 token sampled"]:
        return (model.ln_final(stream[None]) @ columns + offset).log_softmax(dim=-1)

    own = log_probs(final).detach()
    # Layer by layer: the same arithmetic in small pieces, which memory is reused for; all at once it grows
    # and grows.
    return torch.cat([models.kl(own, log_probs(stream)).mean(dim=1) for stream in translated])
