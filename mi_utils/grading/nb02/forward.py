"""Checks of notebook 02 about what an SAE computes: its forward pass, and TopK."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare, kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 02.sae_forward: the forward pass


def _judge_forward(answer: Callable) -> None:
    generator = seeded()
    x, w_enc, b_enc = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (5, 8), (8,)))
    w_dec, b_dec = (torch.randn(*shape, generator=generator) for shape in ((8, 5), (5,)))
    given = x, w_enc, b_enc, w_dec, b_dec
    got, unchanged = ask(answer, *given)
    latents, reconstruction = _pair(got, (6, 8), (6, 5))
    pre = (x - b_dec) @ w_enc + b_enc
    right = pre.relu()
    if not same(latents, right):
        for name, wrong in _wrong_latents(*given):
            if same(latents, wrong):
                raise Mistake(name)
        raise Mistake("other_latents")
    if not same(reconstruction, right @ w_dec + b_dec):
        for name, wrong in _wrong_reconstructions(x, pre, w_enc, w_dec, b_dec):
            if same(reconstruction, wrong):
                raise Mistake(name)
        raise Mistake("other_reconstruction")
    if not unchanged:
        raise Mistake("in_place")


def _pair(got: Any, latents: tuple[int, ...], reconstruction: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction, if these have the right shapes."""
    if isinstance(got, Tensor):
        one = tuple(got.shape) in (latents, reconstruction)
        raise Mistake("one_returned" if one else "shape", f"It returned {kind(got)}.")
    if not isinstance(got, tuple | list) or len(got) != 2 or not all(isinstance(one, Tensor) for one in got):
        raise Mistake("shape", f"It returned {kind(got)}.")
    shapes = tuple(tuple(one.shape) for one in got)
    if shapes == (reconstruction, latents):
        raise Mistake("order")
    if shapes != (latents, reconstruction):
        asked = f"wanted are {latents} and {reconstruction}"
        raise Mistake("shape", f"Yours have shapes {shapes[0]} and {shapes[1]}; {asked}.")
    return got[0], got[1]


_OTHER_ACTIVATIONS = (F.gelu, F.silu, F.softplus, F.leaky_relu, F.elu, torch.sigmoid, torch.tanh, torch.abs)


def _wrong_latents(
    x: Tensor, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, b_dec: Tensor
) -> list[tuple[str, Tensor]]:
    """The latents that each known mistake gives, by the mistake's name."""
    centred = x - b_dec
    pre = centred @ w_enc + b_enc
    latents = pre.relu()
    return [
        ("no_relu", pre),
        ("input_not_centred", (x @ w_enc + b_enc).relu()),
        ("input_not_centred", x @ w_enc + b_enc),
        ("b_dec_sign", ((x + b_dec) @ w_enc + b_enc).relu()),
        ("b_dec_sign", ((b_dec - x) @ w_enc + b_enc).relu()),
        ("data_mean", ((x - x.mean(0)) @ w_enc + b_enc).relu()),
        ("data_mean", ((x - x.mean(-1, keepdim=True)) @ w_enc + b_enc).relu()),
        ("no_b_enc", (centred @ w_enc).relu()),
        ("no_b_enc", (x @ w_enc).relu()),
        ("b_enc_sign", (centred @ w_enc - b_enc).relu()),
        ("b_enc_after_relu", (centred @ w_enc).relu() + b_enc),
        ("b_enc_after_relu", (x @ w_enc).relu() + b_enc),
        ("tied_encoder", (centred @ w_dec.T + b_enc).relu()),
        ("tied_encoder", (x @ w_dec.T + b_enc).relu()),
        ("scaled", latents * w_dec.norm(dim=-1)),
        ("active_only", (pre > 0).float()),
        ("other_activation", pre.softmax(-1)),
        *(("other_activation", function(pre)) for function in _OTHER_ACTIVATIONS),
    ]


def _wrong_reconstructions(
    x: Tensor, pre: Tensor, w_enc: Tensor, w_dec: Tensor, b_dec: Tensor
) -> list[tuple[str, Tensor]]:
    """The reconstruction that each known mistake gives where the latents are right, by the mistake's name."""
    latents = pre.relu()
    out = latents @ w_dec
    right = out + b_dec
    return [
        ("no_b_dec", out),
        ("b_dec_subtracted", out - b_dec),
        ("b_dec_twice", right + b_dec),
        ("tied_decoder", latents @ w_enc.T + b_dec),
        ("tied_decoder", latents @ w_enc.T),
        ("relu_on_reconstruction", right.relu()),
        ("relu_on_reconstruction", out.relu() + b_dec),
        ("relu_on_reconstruction", out.relu()),
        ("decodes_pre_activations", pre @ w_dec + b_dec),
        ("decodes_pre_activations", pre @ w_dec),
        ("unit_rows", latents @ F.normalize(w_dec, dim=-1) + b_dec),
        ("not_the_reconstruction", x),
        ("not_the_reconstruction", x - right),
        ("not_the_reconstruction", right - x),
        ("not_the_reconstruction", x - b_dec),
    ]


SAE_FORWARD = Exercise(
    id="02.sae_forward",
    title="An autoencoder, forward",
    minutes=10,
    difficulty=2,
    hints=(
        "Two lines: one from x to the latents, one back. The bias b_dec is where the decoder starts from; what is then left for the latents to explain?",
        "The latents explain x - b_dec: through W_enc, plus b_enc, through a ReLU. The way back is linear: through W_dec, plus b_dec.",
        "`latents = ((x - b_dec) @ W_enc + b_enc).relu()`, then `return latents, latents @ W_dec + b_dec`.",
    ),
    mistakes={
        "shape": "Return two tensors: the latents [batch, d_sae] and the reconstruction [batch, d_in].",
        "one_returned": "That is one of the two. Return both: the latents and the reconstruction.",
        "order": "Return the latents first, the reconstruction second.",
        "no_relu": "The ReLU is missing: latents are never negative, and those it cuts off are what makes them sparse.",
        "input_not_centred": "b_dec is not subtracted before the encoder. The decoder adds it in any case, so the latents are to explain only what goes beyond it: x - b_dec.",
        "b_dec_sign": "b_dec goes into the encoder with the wrong sign: it reads x - b_dec.",
        "data_mean": "That subtracts a mean of this batch. What the encoder subtracts is the parameter b_dec: a latent must not depend on what else is in the batch.",
        "no_b_enc": "The encoder's bias b_enc is missing. It sets the threshold that each latent has to get over.",
        "b_enc_sign": "b_enc has the wrong sign: it is added. Training makes it negative where a latent should be rare.",
        "b_enc_after_relu": "b_enc is added after the ReLU. Before it, it sets the threshold of a latent; after it, it only shifts the value, and a latent can be negative.",
        "tied_encoder": "That encodes with W_dec transposed. The two matrices often begin as each other's transpose, but they are trained apart: the way in is W_enc.",
        "scaled": "Those latents are multiplied by the lengths of the decoder's rows. They are right before that.",
        "active_only": "That says which latents are active. Return how strongly.",
        "other_activation": "That is another activation function. A standard SAE has a ReLU: what is negative becomes 0, the rest stays as it is.",
        "other_latents": "Those are not ReLU((x - b_dec) @ W_enc + b_enc).",
        "no_b_dec": "The latents are right; in the reconstruction b_dec is missing. What was subtracted on the way in is added on the way out.",
        "b_dec_subtracted": "The latents are right; in the reconstruction b_dec has the wrong sign. It is subtracted on the way in and added on the way out.",
        "b_dec_twice": "The latents are right; in the reconstruction b_dec is added twice.",
        "tied_decoder": "The latents are right; the reconstruction goes out through W_enc transposed. The decoder's directions are the rows of W_dec.",
        "relu_on_reconstruction": "The latents are right; there is a ReLU on the way out too. Activations of a model have both signs, so the decoder is linear.",
        "decodes_pre_activations": "The latents are right, but the reconstruction is made from the values before the ReLU. Then nothing was sparse at all: decode the latents.",
        "unit_rows": "The latents are right; the reconstruction normalises the rows of W_dec. Use the matrix as it is.",
        "not_the_reconstruction": "The latents are right; the second is x itself, or what is left of it. Return the reconstruction.",
        "other_reconstruction": "The latents are right; the reconstruction isn't latents @ W_dec + b_dec.",
        "in_place": "Right, but your function changed one of its arguments (`x -= b_dec` does so). The error is later measured against that x: subtract into a new tensor.",
    },
    judge=_judge_forward,
)

# ------------------------------------------------------------------ 02.topk: TopK

_PRE = torch.tensor(
    [
        [2.0, 0.5, -3.0, 1.2, -0.4, 0.9, 0.1, -1.1],
        [-0.2, 1.5, -0.7, -2.5, -0.1, -0.9, -1.8, -0.3],  # one is positive
        [-1.0, -0.6, -2.2, -0.5, -1.4, -0.8, -3.1, -0.35],  # none is
        [0.3, 0.7, 4.0, -5.0, 3.2, 2.6, 1.9, 0.8],  # strong: over the batch, this row would take most
        [0.6, 0.2, 0.25, -4.5, 0.45, -0.05, 0.35, -0.55],  # of column 1, four are positive
    ]
)
_TIED = torch.tensor(
    [[2.0, 1.0, 0.5, 1.0, 1.0, -1.0], [0.3, 0.3, 0.3, 0.3, 0.3, 0.3], [-1.0, 4.0, 3.0, 2.0, 2.0, 2.0]]
)


def _judge_topk(answer: Callable) -> None:
    for k in (3, 1):
        got, unchanged = ask(answer, _PRE, k)
        if isinstance(got, tuple | list) and len(got) == 2:
            raise Mistake("values_and_indices")
        if isinstance(got, Tensor) and tuple(got.shape) == (len(_PRE), k):
            raise Mistake("values_only" if got.is_floating_point() else "indices")
        fixed = [("ignores_k", _top(_PRE, 3))] if k != 3 else []  # 3 was right in the first case
        moved = [("misplaced", got.to(_PRE.dtype))] if _has_values_of(got, _top(_PRE, k)) else []
        compare(got, _top(_PRE, k), fixed + _wrong_tops(_PRE, k) + moved)
        if not unchanged:
            raise Mistake("in_place")
    _compare_tied(ask(answer, _TIED, 3)[0], 3)


def _top(pre: Tensor, k: int, dim: int = -1) -> Tensor:
    """The k largest along an axis, others zero; no ReLU."""
    values, where = pre.topk(max(0, min(k, pre.shape[dim])), dim=dim)
    return torch.zeros_like(pre).scatter(dim, where, values).relu()


def _has_values_of(got: Any, right: Tensor) -> bool:
    """Whether each row holds the right values, in whatever places."""
    if not isinstance(got, Tensor) or got.shape != right.shape:
        return False
    return same(got.sort(-1).values, right.sort(-1).values)


def _wrong_tops(pre: Tensor, k: int) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    right, latents = _top(pre, k), pre.relu()
    values, where = pre.topk(k, dim=-1)
    signed = torch.zeros_like(pre).scatter(-1, where, values)
    chosen = torch.zeros_like(pre).scatter(-1, where, 1.0)
    largest = torch.zeros_like(pre).scatter(-1, pre.abs().topk(k, dim=-1).indices, 1.0)
    smallest = torch.zeros_like(pre).scatter(-1, pre.topk(k, dim=-1, largest=False).indices, 1.0)
    return [
        ("no_relu", signed),
        ("absolute", pre * largest),
        ("absolute", latents * largest),
        ("absolute", pre.abs() * largest),
        ("absolute", pre.abs() * chosen),
        ("relu_only", latents),
        ("over_batch", _top(pre.flatten(), k * len(pre)).view_as(pre)),
        ("over_batch", _top(pre.flatten(), k).view_as(pre)),
        ("wrong_axis", _top(pre, k, dim=0)),
        ("wrong_axis", _signed_top(pre, k)),
        ("smallest", pre * smallest),
        ("smallest", latents * smallest),
        ("dropped", latents * (1 - chosen)),
        ("dropped", pre * (1 - chosen)),
        ("yes_or_no", chosen),
        ("yes_or_no", (right > 0).float()),
        ("not_zero", torch.where(chosen.bool(), pre, -torch.inf)),
        ("not_zero", torch.where(chosen.bool(), latents, -torch.inf)),
        ("one_too_few", _top(pre, k - 1)),
        ("one_too_many", _top(pre, k + 1)),
    ]


def _signed_top(pre: Tensor, k: int) -> Tensor:
    """Along the batch, without the ReLU."""
    values, where = pre.topk(min(k, len(pre)), dim=0)
    return torch.zeros_like(pre).scatter(0, where, values)


def _compare_tied(got: Any, k: int) -> None:
    """Of those that tie for the last place any may be kept, but no more than k in all."""
    right = _top(_TIED, k)
    if not isinstance(got, Tensor) or got.shape != right.shape:
        raise Mistake("shape", f"It returned {kind(got)}.")
    got = got.detach().to(right.device, right.dtype)
    if ((got != 0).sum(-1) > k).any():
        raise Mistake("ties")
    if not same(got, torch.where(got != 0, _TIED, 0.0)) or not same(
        got.sort(-1).values, right.sort(-1).values
    ):
        raise Mistake("ties_lost")


TOPK = Exercise(
    id="02.topk",
    title="Keep the k largest",
    minutes=5,
    difficulty=2,
    hints=(
        "Sparsity by decree: each row keeps k of its values. How do you get from a row's k largest values back to a row of full width?",
        "`pre.topk(k, dim=-1)` gives values and indices; `scatter` writes values to indices of a tensor of zeros.",
        "`values, indices = pre.topk(k, dim=-1)`, then `torch.zeros_like(pre).scatter(-1, indices, values.relu())`.",
    ),
    mistakes={
        "shape": "Return latents of the same shape as `pre`: [batch, d_sae], with zeros where nothing is kept.",
        "values_and_indices": "Those are the values and where they stand. Write them back to their places in a row of zeros.",
        "values_only": "Those are the k values of each row. Write them back to their places: the result is as wide as `pre`, with zeros elsewhere.",
        "indices": "Those are places, not values. Return latents as wide as `pre`, with zeros where nothing is kept.",
        "misplaced": "The values are right, but not in their places: a latent keeps its index.",
        "no_relu": "The ReLU is missing. Where a row has fewer than k positive values, negative ones are among its k largest; they become 0.",
        "absolute": "That goes by absolute value, so that strongly negative values count as large. The k largest are meant with their sign.",
        "relu_only": "That is the ReLU alone: all positive values stay. Keep the k largest of each row.",
        "over_batch": "That chooses over the whole batch (as BatchTopK does). Here each row keeps k of its own, whatever the others have.",
        "wrong_axis": "That chooses down the columns, among examples. Choose among the latents of each example: dim=-1.",
        "smallest": "Those are the k smallest.",
        "dropped": "That drops the k largest and keeps the others.",
        "yes_or_no": "That says which latents are kept. Return their values.",
        "not_zero": "What is not kept should be 0; yours has minus infinity there.",
        "one_too_few": "That keeps one less than k: compared with the k-th largest value by `>`, the k-th itself drops out.",
        "one_too_many": "That keeps one more than k: the threshold is the value after the k-th.",
        "ignores_k": "Right for k = 3, but not for another k: use the argument `k`.",
        "ties": "Right unless values tie: a threshold (`pre >= the k-th largest`) keeps all that are equal to it, more than k. Choose by index.",
        "ties_lost": "Right unless values tie. Of those that tie for the last place, some are kept, so that there are k in all.",
        "in_place": "Right, but your function changed `pre` itself. Write into a new tensor.",
        "something_else": "Those are not the k largest values of each row after the ReLU, and zeros elsewhere.",
    },
    judge=_judge_topk,
)
