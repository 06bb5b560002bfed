"""Checks of notebook 02 about what is done with an SAE in a model: ablation, and the tokens a direction promotes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare, kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 02.keep_the_error: ablate a latent, keep the error


@dataclass
class _TopkSAE:
    """A stand-in for an SAE as the notebook's: TopK, so that whoever encodes by hand with a ReLU is noticed."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    k: int = 4
    architecture: str = "topk"
    threshold: None = None

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    def pre_activations(self, x: Tensor) -> Tensor:
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        pre = self.pre_activations(x)
        values, where = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, where, values.relu())

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.W_dec + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def weights(self) -> tuple[Tensor, ...]:
        return self.W_enc, self.b_enc, self.W_dec, self.b_dec


def _stand_in(generator: torch.Generator, d_in: int = 6, d_sae: int = 10) -> _TopkSAE:
    w_dec = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1)
    w_enc = w_dec.T + 0.3 * torch.randn(d_in, d_sae, generator=generator)
    return _TopkSAE(
        w_enc,
        0.2 * torch.randn(d_sae, generator=generator),
        w_dec,
        0.8 * torch.randn(d_in, generator=generator),
    )


def _judge_ablation(answer: Callable) -> None:
    generator = seeded()
    sae = _stand_in(generator)
    x = 2 * torch.randn(4, 5, sae.d_in, generator=generator)
    # Small indices: a latent taken for a position or a prompt must find one. Each fires at some positions only.
    for latent in (1, 3):
        before = tuple(one.clone() for one in sae.weights())
        got, unchanged = ask(answer, x, sae, latent)
        if not all(map(torch.equal, sae.weights(), before)):
            raise Mistake("changes_sae")
        _compare_ablation(got, x, sae, latent)
        if not unchanged:
            raise Mistake("in_place")


def _compare_ablation(got: Any, x: Tensor, sae: _TopkSAE, latent: int) -> None:
    wrong = _wrong_ablations(x, sae, latent)
    if isinstance(got, Tensor) and got.shape == x.shape:
        got = got.detach().to(x.device, x.dtype)
        along = ((got - x) @ sae.W_dec[latent])[..., None] * sae.W_dec[latent]
        wrong += [("other_strength", x + along)]
    compare(got, _ablated(x, sae, latent), wrong, {"latents": [(*x.shape[:2], sae.d_sae)]})


def _ablated(x: Tensor, sae: _TopkSAE, latent: int) -> Tensor:
    return x - sae.encode(x)[..., latent, None] * sae.W_dec[latent]


def _wrong_ablations(x: Tensor, sae: _TopkSAE, latent: int) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    latents, direction, bias = sae.encode(x), sae.W_dec[latent], sae.b_dec
    active, pre = latents[..., latent, None], sae.pre_activations(x)[..., latent, None]
    right, reconstruction = x - active * direction, sae.decode(latents)
    error = x - reconstruction
    dropped = reconstruction - active * direction  # decoded without the latent
    others = latents @ sae.W_dec - active * direction
    cut = [latents.clone(), latents.clone()]
    cut[0][:, latent] = 0  # a position
    cut[1][latent] = 0  # a prompt
    return [
        ("error_dropped", dropped),
        ("error_dropped_there", torch.where(active > 0, dropped, x)),
        ("nothing_happens", x),
        ("reconstruction", reconstruction),
        ("error_only", error),
        ("error_sign", dropped - error),
        ("added", x + active * direction),
        ("added", reconstruction + active * direction),
        ("projection", x - (x @ direction)[..., None] * direction),
        ("projection", x - ((x - bias) @ direction)[..., None] * direction),
        ("not_active", x - pre * direction),
        ("not_active", x - pre.relu() * direction),
        ("all_latents", x - latents @ sae.W_dec),
        ("all_latents", torch.zeros_like(x) + bias),
        ("the_others", x - others),
        ("the_others", sae.decode(latents) - others),
        ("bias_twice", right + bias),
        ("bias_lost", right - bias),
        ("bias_lost", dropped - bias),
        ("direction_alone", x - direction),
        ("encoder_direction", x - active * sae.W_enc[:, latent]),
        ("change_only", active * direction),
        ("change_only", -active * direction),
        *(("wrong_axis", sae.decode(one)) for one in cut),
        *(("wrong_axis", sae.decode(one) + error) for one in cut),
        *(("other_latent", _ablated(x, sae, one)) for one in range(sae.d_sae) if one != latent),
    ]


KEEP_THE_ERROR = Exercise(
    id="02.keep_the_error",
    title="Ablate a latent and nothing else",
    minutes=10,
    difficulty=3,
    hints=(
        "Run the function with a latent that is active nowhere. What should come back, and what does?",
        "x is the reconstruction plus an error that no latent explains. The function throws the error away, at all positions. Compute it *before* you touch a latent, and put it back in the end.",
        "With `latents = sae.encode(x)` it comes down to `x - latents[..., latent, None] * sae.W_dec[latent]`.",
    ),
    mistakes={
        "shape": "Return activations of the same shape as x: [batch, pos, d_in].",
        "latents": "Those are latents. Return activations: what the model goes on with instead of x.",
        "error_dropped": "The bug is still there: the reconstruction error is gone, at all positions, even where the latent isn't active. What you'd measure is mostly the SAE's error, not the latent.",
        "error_dropped_there": "The error is now kept where the latent isn't active, and still gone where it is: there you'd measure the SAE's error together with the latent.",
        "nothing_happens": "That is x: nothing was ablated. The error has to be that of the *full* reconstruction, taken before the latent is set to 0; else it holds just what you removed.",
        "reconstruction": "That is the plain reconstruction: the latent is still in it, and the error is gone.",
        "error_only": "That is the reconstruction error alone. Add it to what is decoded without the latent.",
        "error_sign": "The error is put back with the wrong sign. It is x less the reconstruction.",
        "added": "The latent is in it twice: its share was added. Subtract it.",
        "projection": "That removes all of x that lies along the latent's direction, whether the latent put it there or not: other latents and the error lie along it too. Subtract the latent's own share, its activation times its row.",
        "not_active": "That uses the value before the SAE's activation function, so that x changes also where the latent isn't active. `sae.encode` gives what the decoder gets.",
        "all_latents": "That removes what all latents write. Only one is to go.",
        "the_others": "That removes all latents *but* the one asked for.",
        "bias_twice": "b_dec comes twice. If the error is taken from `latents @ W_dec` without the bias, then the bias is in the error, and decode adds it again.",
        "bias_lost": "b_dec got lost. `sae.decode` adds it each time: what a single latent writes is its activation times its row of W_dec, without a bias.",
        "direction_alone": "That subtracts the latent's direction at full length 1, everywhere. Subtract it times the latent's activation at each position.",
        "other_strength": "You move along the right direction, but by another amount than the latent's activation at that position.",
        "encoder_direction": "That subtracts the encoder's column. What a latent writes is its row of W_dec; the encoder's column is what it reads.",
        "change_only": "That is what the latent writes. Return x without it.",
        "wrong_axis": "An index went to the wrong axis: a whole position or prompt lost its latents. The latents are the last axis: `latents[..., latent]`.",
        "other_latent": "That ablates another latent. The index is the argument `latent`, counted from 0.",
        "changes_sae": "Your function changed the SAE's own weights. Every later result would be off: work on copies.",
        "in_place": "Right, but your function changed x itself. The clean activations are needed for the comparison: compute into a new tensor.",
        "something_else": "That is not x without what this latent writes.",
    },
    judge=_judge_ablation,
)

# ------------------------------------------------------------------ 02.promoted: promoted tokens


def _judge_promoted(answer: Callable) -> None:
    generator = seeded()
    # A square matrix first: with it, rows taken for tokens don't stop with an error and can be named.
    for d_model, vocab, n in ((24, 24, 4), (10, 60, 7)):
        lengths = torch.linspace(0.3, 3.0, vocab)[torch.randperm(vocab, generator=generator)]
        unembedding = torch.randn(d_model, vocab, generator=generator) * lengths + torch.randn(
            d_model, 1, generator=generator
        )
        direction = torch.randn(d_model, generator=generator) + 0.7
        _compare_promoted(ask(answer, direction, unembedding, n)[0], direction, unembedding, n)


def _compare_promoted(got: Any, direction: Tensor, unembedding: Tensor, n: int) -> None:
    logits = direction @ unembedding
    ids, right = _ids(got, n), logits.topk(n).indices.double()
    if same(ids, right):
        return
    if ids.is_floating_point() and not same(ids, ids.round()):
        raise Mistake("values")
    if same(ids.flip(0), right):
        raise Mistake("ascending")
    for name, scores in _wrong_scores(direction, unembedding, logits):
        if same(ids, scores.topk(n).indices.double()):
            raise Mistake(name)
    for name, scores in [("not_sorted", logits), *_wrong_scores(direction, unembedding, logits)]:
        if set(ids.tolist()) == set(scores.topk(n).indices.tolist()):
            raise Mistake(name)
    raise Mistake(
        "something_else", f"In the check's case it gives {ids.tolist()}, not {right.long().tolist()}."
    )


def _ids(got: Any, n: int) -> Tensor:
    """The answer's ids as a tensor [n], of whatever kind they came."""
    if (
        isinstance(got, tuple | list)
        and len(got) == 2
        and all(isinstance(one, Tensor) and one.ndim for one in got)
    ):
        raise Mistake("values_and_ids")
    try:
        ids = torch.as_tensor(got).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise Mistake("not_ids", f"It returned {kind(got)}.") from None
    if ids.ndim != 1:
        raise Mistake("shape", f"It returned {kind(got)}; wanted is shape {(n,)}.")
    if len(ids) != n:
        raise Mistake("count", f"It returned {len(ids)} where n is {n}.")
    return ids


def _wrong_scores(direction: Tensor, unembedding: Tensor, logits: Tensor) -> list[tuple[str, Tensor]]:
    """For each known mistake, that of which it takes the n largest."""
    lengths = unembedding.norm(dim=0)
    centred = unembedding - unembedding.mean(-1, keepdim=True)
    scores = [
        ("lowest", -logits),
        ("absolute", logits.abs()),
        ("absolute", (direction @ centred).abs()),
        ("cosine", logits / lengths),
        ("cosine", direction @ centred / centred.norm(dim=0)),
        ("centred_each_token", direction @ (unembedding - unembedding.mean(0))),
        ("distance", -(unembedding - direction[:, None]).norm(dim=0)),
        ("ignores_direction", lengths),
        ("ignores_direction", unembedding.sum(0)),
    ]
    if unembedding.shape[0] == unembedding.shape[1]:
        scores += [("transposed", unembedding @ direction)]
    return scores


PROMOTED = Exercise(
    id="02.promoted",
    title="What does a direction promote?",
    minutes=5,
    difficulty=1,
    hints=(
        "A direction written into the last residual stream changes every token's logit. By how much?",
        "By its dot product with the token's column of W_U: all of them at once are `direction @ W_U`.",
        "`(direction @ W_U).topk(n).indices`",
    ),
    mistakes={
        "shape": "Return n token ids, one after the other: shape [n].",
        "count": "Return n ids: use the argument `n`.",
        "not_ids": "Return token ids, as whole numbers: a tensor or a list.",
        "values": "Those are values, not the tokens that have them. `topk` returns both: take `.indices`.",
        "values_and_ids": "`topk` returns values and indices. Return only the indices: they are the token ids.",
        "lowest": "Those are the tokens whose logits it lowers most: what the direction *suppresses*.",
        "ascending": "The right tokens in the reverse order: put the most promoted first.",
        "not_sorted": "The right tokens, not in order: put the most promoted first.",
        "absolute": "That goes by absolute value, so that tokens which the direction suppresses are in it too. Promoted are those whose logit goes up.",
        "cosine": "That is the cosine: the length of a token's column is divided out. The logit doesn't do that; a token with a long column is moved more.",
        "centred_each_token": "That subtracts each token's own mean over d_model. The mean over the *vocabulary* (dim=-1) is the one that changes no prediction; and it doesn't change the order either.",
        "distance": "That looks for the columns nearest to the direction. The logit is a dot product.",
        "transposed": "W_U is [d_model, vocab]: a token is a column. You multiplied with its rows: `direction @ W_U`.",
        "ignores_direction": "That doesn't depend on the direction. Multiply it with W_U.",
        "something_else": "Those are not the tokens with the largest direction @ W_U.",
    },
    judge=_judge_promoted,
)
