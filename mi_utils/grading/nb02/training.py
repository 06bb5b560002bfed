"""Checks of notebook 02, sparse autoencoders: their parts.

The checks of measures are in ``measures``, of what is done with an SAE in a model in ``edits``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils.grading.answers import ask, compare, kind, number, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.nb02.edits import KEEP_THE_ERROR, PROMOTED
from mi_utils.grading.nb02.measures import DETECTION, FVU, LOSS_RECOVERED, MMCS


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ------------------------------------------------------------------ 1: the forward pass


def _judge_forward(answer: Callable) -> None:
    generator = _generator()
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


def _wrong_latents(x: Tensor, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, b_dec: Tensor) -> list[tuple[str, Tensor]]:
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

# ------------------------------------------------------------------ 2: the loss


_FIRST_L1 = 0.3


def _judge_loss(answer: Callable) -> None:
    generator = _generator()
    # A square decoder first: with it, the norms of columns don't stop with an error and can be named.
    for batch, d_in, d_sae, l1 in ((4, 6, 6, _FIRST_L1), (7, 5, 8, 1.7)):
        x, reconstruction = (torch.randn(batch, d_in, generator=generator) for _ in range(2))
        latents = torch.randn(batch, d_sae, generator=generator).relu()
        w_dec = torch.randn(d_sae, d_in, generator=generator)
        given = x, latents, reconstruction, w_dec
        got, unchanged = ask(answer, *given, l1)
        _compare_loss(got, *given, l1)
        if not unchanged:
            raise Mistake("in_place")


def _compare_loss(got: Any, x: Tensor, latents: Tensor, reconstruction: Tensor, w_dec: Tensor, l1: float) -> None:
    error = (x - reconstruction).square().sum(-1).mean()
    penalty = (latents * w_dec.norm(dim=-1)).sum(-1).mean()
    if isinstance(got, tuple | list) and len(got) in (2, 3) and all(map(_is_number, got)):
        raise Mistake("terms_apart")
    got, right = number(got), error + l1 * penalty
    if same(got, right):
        return
    for name, wrong in _wrong_sums(error, penalty, l1):
        if same(got, wrong):
            raise Mistake(name)
    errors = _wrong_errors(x, reconstruction)
    penalties = _wrong_penalties(latents, w_dec)
    for name, wrong in errors:  # a mistake in one term only
        if same(got, wrong + l1 * penalty):
            raise Mistake(name)
    for name, wrong in penalties:
        if same(got, error + l1 * wrong):
            raise Mistake(name)
    for name, wrong in errors:  # in both terms: the error first, the penalty when that is mended
        if any(same(got, wrong + l1 * other) for _, other in penalties):
            raise Mistake(name)
    compare(got, right, [], {"per_example": [(len(x),), (len(x), 1)]})


def _is_number(got: Any) -> bool:
    return getattr(number(got), "shape", None) == ()


def _wrong_sums(error: Tensor, penalty: Tensor, l1: float) -> list[tuple[str, Tensor]]:
    """What each known mistake makes of two right terms, by the mistake's name."""
    return [
        ("no_l1", error + penalty),
        ("ignores_l1", error + _FIRST_L1 * penalty),
        ("l1_elsewhere", l1 * (error + penalty)),
        ("l1_elsewhere", l1 * error + penalty),
        ("l1_elsewhere", (1 - l1) * error + l1 * penalty),
        ("negative_penalty", error - l1 * penalty),
        ("one_term", error),
        ("one_term", l1 * penalty),
        ("one_term", penalty),
    ]


def _wrong_errors(x: Tensor, reconstruction: Tensor) -> list[tuple[str, Tensor]]:
    """What the error is with each known mistake, by the mistake's name."""
    apart = x - reconstruction
    squared = apart.square().sum(-1)
    return [
        ("mean_error", apart.square().mean()),
        ("sum_over_batch", squared.sum()),
        ("not_squared", squared.sqrt().mean()),
        ("not_squared", squared.sum().sqrt()),
        ("not_squared", squared.mean().sqrt()),
        ("not_squared", apart.abs().sum(-1).mean()),
        ("not_squared", apart.abs().mean()),
        ("half_error", squared.mean() / 2),
        ("half_error", apart.square().mean() / 2),
        ("relative_error", squared.sum() / x.square().sum()),
        ("relative_error", (squared / x.square().sum(-1)).mean()),
        ("relative_error", squared.sum() / (x - x.mean(0)).square().sum()),
    ]


def _wrong_penalties(latents: Tensor, w_dec: Tensor) -> list[tuple[str, Tensor]]:
    """What the penalty is, without its factor, with each known mistake, by the mistake's name."""
    lengths = w_dec.norm(dim=-1)
    weighted, active = latents * lengths, (latents > 0).float()
    wrong = [
        ("no_norm", latents.sum(-1).mean()),
        ("mean_over_latents", weighted.mean()),
        ("mean_over_latents", latents.mean()),
        ("sum_over_batch", weighted.sum()),
        ("sum_over_batch", latents.sum()),
        ("l0", active.sum(-1).mean()),
        ("l0", (active * lengths).sum(-1).mean()),
        ("l0", active.mean()),
        ("l2", weighted.square().sum(-1).mean()),
        ("l2", (latents.square() * lengths).sum(-1).mean()),
        ("l2", latents.square().sum(-1).mean()),
        ("l2", latents.square().mean()),
        ("l2", weighted.norm(dim=-1).mean()),
        ("l2", latents.norm(dim=-1).mean()),
        ("l2", latents.norm()),
        ("other_norm", (latents * w_dec.abs().sum(-1)).sum(-1).mean()),
        ("other_norm", (latents * lengths.square()).sum(-1).mean()),
        ("one_norm_for_all", latents.sum(-1).mean() * w_dec.norm()),
        ("one_norm_for_all", latents.sum(-1).mean() * lengths.mean()),
        ("one_norm_for_all", latents.sum(-1).mean() * lengths.sum()),
        ("divides_by_norm", (latents / lengths).sum(-1).mean()),
        ("norm_added", latents.sum(-1).mean() + lengths.sum()),
        ("norm_of_sum", (latents @ w_dec).norm(dim=-1).mean()),
        ("norm_of_sum", (latents @ w_dec).abs().sum(-1).mean()),
    ]
    if w_dec.shape[0] == w_dec.shape[1]:
        wrong += [("column_norm", (latents * w_dec.norm(dim=0)).sum(-1).mean())]
    return wrong


SAE_LOSS = Exercise(
    id="02.sae_loss",
    title="What the autoencoder minimises",
    minutes=10,
    difficulty=2,
    hints=(
        "Two terms, each one number for each example and then averaged over the batch. Suppose latents shrink to a half and the decoder's rows double: which of the two should notice?",
        "Neither should: the reconstruction stays, and the penalty takes each latent times the length of its own row of W_dec, `W_dec.norm(dim=-1)`.",
        "With `error = (x - reconstruction).square().sum(-1)` and `penalty = (latents * W_dec.norm(dim=-1)).sum(-1)`: `(error + l1 * penalty).mean()`.",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_example": "That is one loss for each example of the batch. Return their mean.",
        "terms_apart": "Return one number, the sum of the two terms.",
        "mean_error": "The squared error is averaged over d_in too (as F.mse_loss does). It is *summed* over d_in and averaged over the batch only; else l1 weighs d_in times as much, and means something else at every width.",
        "sum_over_batch": "That sums over the batch. Take the mean over it, or the gradient grows with the batch size.",
        "not_squared": "The error is not squared there: it is the sum of the squared differences, without a root.",
        "half_error": "That is half the squared error. There is no 1/2 here; with it, l1 weighs twice as much.",
        "relative_error": "That divides the error by the size of x. A good measure (FVU is one), but the loss has the squared error itself.",
        "no_norm": "The penalty leaves out the length of each latent's decoder row. Then there is a way to cheat: smaller latents, longer rows, the same reconstruction and next to no penalty.",
        "column_norm": "Those are the lengths of W_dec's columns. Each latent has a *row*, its direction in the model: `W_dec.norm(dim=-1)`.",
        "other_norm": "The latents are weighted, but not by the length of the row: |W_dec_i| is the Euclidean norm, neither squared nor a sum of absolute values.",
        "one_norm_for_all": "That weighs all latents by one and the same number. Each is weighed by the length of its own row.",
        "divides_by_norm": "That divides by the length of the row, which rewards long ones. Multiply: what counts is how much a latent writes.",
        "norm_added": "That adds a penalty on the decoder besides. The length of a row multiplies its latent.",
        "norm_of_sum": "That is the length of what all latents write together. The penalty takes each latent's own share by itself, or two that cancel cost nothing.",
        "mean_over_latents": "The penalty is averaged over the latents. It is summed over them and averaged over the batch only; else a larger dictionary is penalised less.",
        "l0": "That counts the active latents (L0). It is what we want to be small, but it is flat: no gradient leads to it. The penalty is on their values, L1.",
        "l2": "That penalises squares or their root (L2). It makes many latents small, instead of making most of them 0. The penalty is the sum of the values.",
        "no_l1": "Both terms are right, but the factor l1 in front of the penalty is missing.",
        "ignores_l1": "Right for one l1, but not for another: use the argument `l1`.",
        "l1_elsewhere": "Both terms are right, but l1 is in the wrong place. It multiplies the penalty, nothing else.",
        "negative_penalty": "The penalty is subtracted, so that the loss rewards latents for being large. Add it.",
        "one_term": "One of the two terms is missing: the loss is the squared error plus l1 times the penalty.",
        "something_else": "That is not the squared error plus l1 times the penalty, averaged over the batch.",
        "in_place": "Right, but your function changed one of its arguments. Compute into new tensors.",
    },
    judge=_judge_loss,
)

# ------------------------------------------------------------------ 3: the gradient's projection


def _judge_projection(answer: Callable) -> None:
    generator = _generator()
    drawn, grad = (torch.randn(7, 4, generator=generator) for _ in range(2))
    unit = F.normalize(drawn, dim=-1)
    longer = unit * torch.linspace(0.4, 2.5, 7)[:, None]
    shapes = {"coefficient": [(len(grad),), (len(grad), 1)]}
    got, _ = _gradient(answer, unit, grad)
    compare(got, _projected(unit, grad), _wrong_projections(unit, grad), shapes)
    along, lengths = (grad * longer).sum(-1, keepdim=True), longer.norm(dim=-1, keepdim=True)
    once = [
        ("not_normalised", grad - along * longer),
        ("norm_once", grad - along / lengths * longer),
        ("norm_once", grad - along / lengths.pow(3) * longer),
    ]
    got, decoder_unchanged = _gradient(answer, longer, grad)
    compare(got, _projected(longer, grad), once, shapes)
    if not decoder_unchanged:
        raise Mistake("changes_decoder")


def _gradient(answer: Callable, w_dec: Tensor, grad: Tensor) -> tuple[Any, bool]:
    """What the function returns, and whether W_dec stayed as it was; the gradient may be changed, as optimisers do."""
    handed = w_dec.clone(), grad.clone()
    got = answer(*handed)
    if got is None and not torch.equal(handed[1], grad):
        raise Mistake("nothing_returned")
    return got, torch.equal(handed[0], w_dec)


def _projected(w_dec: Tensor, grad: Tensor) -> Tensor:
    unit = F.normalize(w_dec, dim=-1)
    return grad - (grad * unit).sum(-1, keepdim=True) * unit


def _wrong_projections(unit: Tensor, grad: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for a decoder with rows of length 1, by the mistake's name."""
    by_column, unit_grad = F.normalize(unit, dim=0), F.normalize(grad, dim=-1)
    along, right = (grad * unit).sum(-1, keepdim=True), _projected(unit, grad)
    both = (grad * unit).sum()
    return [
        ("unchanged", grad),
        ("added", grad + along * unit),
        ("component", along * unit),
        ("negative", -right),
        ("reflected", grad - 2 * along * unit),
        ("mean_for_sum", grad - along / grad.shape[1] * unit),
        ("one_sided", grad - along.relu() * unit),
        ("one_sided", grad + (-along).relu() * unit),
        ("one_sided", grad - along.abs() * unit),
        ("columns", grad - (grad * by_column).sum(0) * by_column),
        ("columns", grad - (grad * unit).sum(0) * unit),
        ("all_at_once", grad - both / unit.square().sum() * unit),
        ("all_at_once", grad - both * unit),
        ("all_at_once", grad - both / unit.norm() * unit),
        ("every_row", grad - grad @ unit.T @ unit),
        ("swapped", unit - (unit * unit_grad).sum(-1, keepdim=True) * unit_grad),
        ("swapped", unit - (unit * grad).sum(-1, keepdim=True) * grad),
        ("subtracts_rows", grad - unit),
        ("normalises_gradient", F.normalize(right, dim=-1)),
        ("normalises_gradient", _projected(unit, unit_grad)),
        ("decoder_returned", unit),
    ]


PROJECT_GRADIENT = Exercise(
    id="02.project_gradient",
    title="A gradient that keeps rows at length 1",
    minutes=10,
    difficulty=3,
    hints=(
        "Each row of W_dec is a point on a sphere. Which part of its gradient leads away from the sphere, and which along it?",
        "The part to take out is along the row itself: with d the row at length 1, it is (grad . d) d. Row by row: `sum(-1, keepdim=True)`.",
        "`unit = W_dec / W_dec.norm(dim=-1, keepdim=True)`, then `return grad - (grad * unit).sum(-1, keepdim=True) * unit`.",
    ),
    mistakes={
        "shape": "Return a gradient for every row: the shape of W_dec, [d_sae, d_in].",
        "coefficient": "That is how much of each row's gradient lies along the row, one number a row. Multiply by the row's direction and subtract from the gradient.",
        "nothing_returned": "Your function changes `grad` and returns nothing. Return the projected gradient.",
        "unchanged": "That is the gradient as it came in: nothing has been taken out.",
        "added": "The component along the row is added: there is twice as much of it now. Subtract it.",
        "component": "That is the component along each row, the part to take out. Return what is left.",
        "negative": "That has the wrong sign: the component less the gradient. Return the gradient less its component.",
        "reflected": "The component is subtracted twice, so that the gradient points to the other side.",
        "mean_for_sum": "A dot product is a sum: that takes the mean of the products, d_in times less.",
        "one_sided": "The component has its sign changed or left out where it is negative. A row can shrink as well as grow: take the component out whatever its sign.",
        "columns": "That goes down the columns. Each latent has a *row* of W_dec, so the dot product is over the last axis: `sum(-1, keepdim=True)`.",
        "all_at_once": "That takes the whole matrix for one long vector and takes out one component. Each row has a length of its own to keep: one dot product a row.",
        "every_row": "That takes out the components along *all* the decoder's rows (a matrix product of all with all). A row's gradient loses only what lies along that row.",
        "swapped": "The roles are swapped: that takes the gradient's direction out of the decoder.",
        "subtracts_rows": "That subtracts the rows themselves. Subtract each row times the dot product of the gradient with it.",
        "normalises_gradient": "The gradient is brought to length 1, before or after. The direction is right, but how large a step is to be is lost.",
        "decoder_returned": "That is the decoder, its rows brought to length 1. Asked for is the gradient; the lengths are put right after the optimiser's step.",
        "not_normalised": "Right where rows have length 1, and only there: after a step they never have it exactly. Divide by the row's length first (or the component by its square).",
        "norm_once": "Right where rows have length 1, and only there. The row comes twice in (grad . d) d: divide by its length *squared*.",
        "changes_decoder": "Right, but your function changed W_dec itself. Normalise into a new tensor.",
        "something_else": "That is not the gradient less its component along each row.",
    },
    judge=_judge_projection,
)

# ------------------------------------------------------------------ 4: TopK

_PRE = torch.tensor(
    [
        [2.0, 0.5, -3.0, 1.2, -0.4, 0.9, 0.1, -1.1],
        [-0.2, 1.5, -0.7, -2.5, -0.1, -0.9, -1.8, -0.3],  # one is positive
        [-1.0, -0.6, -2.2, -0.5, -1.4, -0.8, -3.1, -0.35],  # none is
        [0.3, 0.7, 4.0, -5.0, 3.2, 2.6, 1.9, 0.8],  # strong: over the batch, this row would take most
        [0.6, 0.2, 0.25, -4.5, 0.45, -0.05, 0.35, -0.55],  # of column 1, four are positive
    ]
)
_TIED = torch.tensor([[2.0, 1.0, 0.5, 1.0, 1.0, -1.0], [0.3, 0.3, 0.3, 0.3, 0.3, 0.3], [-1.0, 4.0, 3.0, 2.0, 2.0, 2.0]])


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
    if not same(got, torch.where(got != 0, _TIED, 0.0)) or not same(got.sort(-1).values, right.sort(-1).values):
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

EXERCISES = (
    SAE_FORWARD,
    SAE_LOSS,
    PROJECT_GRADIENT,
    MMCS,
    FVU,
    TOPK,
    LOSS_RECOVERED,
    PROMOTED,
    DETECTION,
    KEEP_THE_ERROR,
)
