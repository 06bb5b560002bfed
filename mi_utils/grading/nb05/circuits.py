"""Checks of notebook 05 about what heads read and write: copying, K-composition and the composed input."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare, expect, number, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 05.copying: does a head copy?

_TOKENS = 101  # a prime, and so many that different mistakes give different fractions


def _full_ov() -> Tensor:
    """[source, destination]; some tokens are copied, and rows have a mean of their own, which changes no prediction."""
    generator = seeded(3)
    ov = torch.randn(_TOKENS, _TOKENS, generator=generator) * torch.linspace(0.5, 2.0, _TOKENS)
    own = torch.randn(_TOKENS, generator=generator) * 2.5 + 1.5
    return ov + own.diag() + 3 * torch.randn(_TOKENS, 1, generator=generator) - 1.0


def _judge_copying(answer: Callable) -> None:
    ov = _full_ov()
    got, _ = ask(answer, ov)
    shapes = {"per_token": [(_TOKENS,)], "matrix": [(_TOKENS, _TOKENS)]}
    compare(got, _copied(ov).mean(), _wrong_copying(ov), shapes)
    # Token 0 is copied; 1 and 2 tie with a token before them, which argmax takes.
    tied = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [3.0, 2.0, 3.0]])
    if not same(number(ask(answer, tied)[0]), _copied(tied).mean()):
        raise Mistake("ties")


def _copied(ov: Tensor) -> Tensor:
    return (ov.argmax(1) == torch.arange(len(ov))).float()


def _wrong_copying(ov: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    own, copied = ov.diagonal(), _copied(ov)
    eigenvalues = torch.linalg.eigvals(ov)
    rank = (ov > own[:, None]).sum(1)
    return [
        ("wrong_axis", _copied(ov.T).mean()),
        ("positive", (own > 0).float().mean()),
        ("absolute", _copied(ov.abs()).mean()),
        ("smallest", _copied(-ov).mean()),
        ("positive_too", (copied * (own > 0)).mean()),
        ("above_average", (own > ov.mean(1)).float().mean()),
        ("above_average", (own > ov.median(1).values).float().mean()),
        ("diagonal", own.mean()),
        ("diagonal", own.sum()),
        ("diagonal", (own - ov.mean(1)).mean()),
        ("diagonal", own.mean() - ov.mean()),
        ("diagonal", own.sum() / ov.sum()),
        ("diagonal", own.abs().sum() / ov.abs().sum()),
        ("probability", ov.softmax(1).diagonal().mean()),
        ("count", copied.sum()),
        ("percent", 100 * copied.mean()),
        ("not_copied", 1 - copied.mean()),
        ("eigenvalues", (eigenvalues.sum() / eigenvalues.abs().sum()).real),
        ("eigenvalues", (eigenvalues.real > 0).float().mean()),
        *(("top_few", (rank < k).float().mean()) for k in range(2, 21)),
    ]


COPYING = Exercise(
    id="05.copying",
    title="Does a head copy?",
    minutes=10,
    difficulty=3,
    hints=(
        "Look at one row: what the head does to all logits when it attends to that token. Which column is the token's own?",
        "The token is copied if the largest entry of its row stands on the diagonal: compare `ov.argmax(dim=1)` with the row's number.",
        "`(ov.argmax(dim=1) == torch.arange(len(ov))).float().mean()`",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_token": "That is one value for each token. Return the fraction of tokens: their mean.",
        "matrix": "That is one value for each pair of tokens. Return one number, the fraction of tokens that are copied.",
        "wrong_axis": "That asks of each *destination* which source raises it most. Rows are sources: for each row, find the column with the largest logit (`dim=1`).",
        "positive": "That asks whether the own logit goes up at all. It may, while others go up more; and logits count only against one another. Compare within the row.",
        "absolute": "Without the absolute value: an own logit that is *lowered* most is the opposite of copying.",
        "smallest": "That is the fraction of tokens whose own logit is raised *least*.",
        "positive_too": "Almost: you also ask that the own logit be above 0. A constant added to all logits of a row changes no prediction, so only the comparison within the row counts.",
        "above_average": "That asks whether the own logit is above the average of its row. It has to be above all others.",
        "diagonal": "That measures how large the diagonal is, in logits. A few tokens can decide that; asked for is the fraction of tokens for which the own logit is the largest.",
        "probability": "That is a mean probability. Asked for is the fraction of tokens for which the own logit is the largest.",
        "count": "That is the number of tokens. Divide by how many there are.",
        "percent": "That is in per cent. Return a fraction between 0 and 1.",
        "not_copied": "That is the fraction of tokens that are *not* copied.",
        "eigenvalues": "That is from the eigenvalues, another measure of copying. Here we count tokens whose own logit is raised most.",
        "top_few": "That asks whether the own logit is among the few largest. It has to be the largest.",
        "ties": "Right unless two logits are exactly as large: `>=` against the maximum counts a tie. A head that writes nothing at all would copy every token that way. Only strictly more than all others counts.",
        "something_else": "That is not the fraction of tokens whose own logit is raised most.",
    },
    judge=_judge_copying,
)

# ------------------------------------------------------------------ 05.k_composition: K-composition


def _judge_composition(answer: Callable) -> None:
    for width in (9, 6):
        generator = seeded(width)
        # Each side of each matrix prefers other directions, or all four products would be about as large.
        spread = torch.logspace(-1, 0.5, width)
        mixes = torch.randn(4, width, width, generator=generator)
        W_OV, W_QK = (spread[:, None] * mixes[0]) @ mixes[1], (mixes[2] * spread) @ mixes[3]
        got, _ = ask(answer, W_OV, W_QK)
        product = W_QK @ W_OV.T
        norms = W_QK.norm() * W_OV.norm()
        compare(got, product.norm() / norms, _wrong_composition(W_OV, W_QK), {"matrix": [(width, width)]})


def _wrong_composition(W_OV: Tensor, W_QK: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    right = W_QK @ W_OV.T
    others = [
        ("no_transpose", W_QK @ W_OV),
        ("q_composition", W_OV @ W_QK),
        ("q_composition", W_QK.T @ W_OV),
        ("elementwise", W_QK * W_OV.T),
        ("elementwise", W_QK * W_OV),
        ("added", W_QK + W_OV),
        ("added", W_QK + W_OV.T),
    ]
    norms = W_QK.norm() * W_OV.norm()
    yield from ((name, product.norm() / norms) for name, product in others)
    yield from ((name, product.norm()) for name, product in others)
    yield "not_normalised", right.norm()
    yield "one_norm", right.norm() / W_QK.norm()
    yield "one_norm", right.norm() / W_OV.norm()
    yield "sum_of_norms", right.norm() / (W_QK.norm() + W_OV.norm())
    yield "own_norm", torch.ones(())
    yield "own_norm", W_QK.norm() * W_OV.norm() / right.norm()
    yield "squared", right.norm().square() / norms.square()
    yield "squared", right.square().sum() / norms
    yield "squared", right.norm() / norms.square()
    yield "squared", (right.norm() / norms).sqrt()
    yield "root_mean", right.norm() / norms * len(right)
    yield "root_mean", right.norm() / norms / len(right)
    for order in ("nuc", 2, 1, torch.inf, -2):
        yield (
            "other_norm",
            _ratio(lambda x, order=order: torch.linalg.matrix_norm(x, order), right, W_QK, W_OV),
        )
    yield "other_norm", _ratio(lambda x: x.abs().sum(), right, W_QK, W_OV)
    yield "other_norm", _ratio(lambda x: x.abs().mean(), right, W_QK, W_OV)
    yield "other_norm", _ratio(lambda x: x.abs().amax(), right, W_QK, W_OV)
    yield "cosine", (W_QK * W_OV.T).sum() / norms
    yield "cosine", (W_QK * W_OV).sum() / norms


def _ratio(norm: Callable[[Tensor], Tensor], product: Tensor, *factors: Tensor) -> Tensor:
    return norm(product) / (norm(factors[0]) * norm(factors[1]))


K_COMPOSITION = Exercise(
    id="05.k_composition",
    title="K-composition",
    minutes=10,
    difficulty=4,
    hints=(
        "Put `x @ W_OV` for `x_key` into `x_query @ W_QK @ x_key.T`. What becomes of a product when it is transposed?",
        "`(x @ W_OV).T` is `W_OV.T @ x.T`, so the scores become `x_query @ W_QK @ W_OV.T @ x.T`.",
        "`(W_QK @ W_OV.T).norm() / (W_QK.norm() * W_OV.norm())`; `.norm()` of a matrix is its Frobenius norm.",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "matrix": "That is the product itself. Return one number: its Frobenius norm, divided by those of the two matrices.",
        "no_transpose": "The transpose is missing. `W_QK @ W_OV` is right where vectors are columns, and W_OV is applied from the left. With rows, the key `x @ W_OV` stands transposed in the scores, which gives `W_QK @ W_OV.T`.",
        "q_composition": "That meets the query's side of W_QK: its rows belong to the query, its columns to the key. That is Q-composition (or a formula for column vectors). For K-composition what the earlier head writes has to come in as the key.",
        "elementwise": "`*` multiplies entry by entry. The composition is a matrix product: `@`.",
        "added": "The two matrices are added there. One head reads what the other wrote, which is a product.",
        "not_normalised": "The division is missing, so that heads with large weights always win. Divide by the Frobenius norms of both matrices.",
        "one_norm": "Divide by the norms of *both* matrices, or a head with large weights wins whatever it reads.",
        "sum_of_norms": "That divides by the sum of the norms. Divide by their product: then the scale of either matrix makes no difference.",
        "own_norm": "That compares the product's norm with itself, or is upside down. Divide the norm of the product by the norms of the two factors.",
        "squared": "A square or a root is off: it is the norm (the root of the sum of squares) of the product over the product of norms.",
        "root_mean": "A factor of d_model is off: the Frobenius norm is the root of the *sum* of squares, not of their mean, in numerator and denominator alike.",
        "other_norm": "That is another norm. `torch.linalg.matrix_norm(x)` and `x.norm()` are Frobenius norms by default: the root of the sum of all squares.",
        "cosine": "That is how similar the two matrices are, entry by entry. The question is what happens when one is applied after the other: take the norm of their product.",
        "something_else": "That is not the Frobenius norm of the product over the product of the two norms.",
    },
    judge=_judge_composition,
)

# ------------------------------------------------------------------ 05.composed_input: one head taken out of the keys


def _judge_composed(answer: Callable) -> None:
    for batch, pos, heads in ((2, 5, 3), (1, 4, 2)):
        generator = seeded(pos)
        out, rest = torch.randn(2, batch, pos, 7, generator=generator)
        scale = torch.linspace(1.5, 3.0, batch * pos).reshape(batch, pos, 1)  # larger than the scale of `out`
        W_K = torch.randn(heads, 7, 4, generator=generator)
        keys = _keys((out + rest) / scale, W_K)
        expect(
            answer,
            (keys, out, W_K, scale),
            keys - _keys(out / scale, W_K),
            _wrong_keys(keys, out, W_K, scale),
        )


def _keys(x: Tensor, W_K: Tensor) -> Tensor:
    return torch.einsum("bpd,hde->bphe", x, W_K)


def _wrong_keys(keys: Tensor, out: Tensor, W_K: Tensor, scale: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each known mistake gives, by its name."""
    part, raw, wide = _keys(out / scale, W_K), _keys(out, W_K), scale[..., None]
    own = out.square().mean(-1, keepdim=True)
    yield "unchanged", keys
    yield "zeroed", torch.zeros_like(keys)
    yield "added", keys + part
    yield "no_scale", keys - raw
    yield "no_scale", keys + raw
    yield "times_scale", keys - raw * wide
    yield "scale_twice", keys - part / wide
    yield "scales_all", (keys - raw) / wide
    yield "scales_all", keys / wide - part
    yield "scales_all", keys * wide - raw
    yield "scales_all", (keys - part) / wide
    for length in (own.sqrt(), out.norm(dim=-1, keepdim=True), (own + 1e-5).sqrt()):
        yield "own_norm", keys - _keys(out / length, W_K)
    yield "norm_recomputed", (keys * wide - raw) / (scale.square() - own).sqrt()[..., None]
    yield "one_scale", keys - raw / scale.mean()
    yield "one_scale", keys - raw / scale[:, -1:, None]
    yield "one_scale", keys - raw / scale[:, :1, None]
    yield "only_the_part", part
    yield "only_the_part", -part
    yield from (("one_head", keys - _at(part, 2, head)) for head in (0, -1))
    yield from (("one_position", keys - _at(part, 1, position)) for position in (0, -1))
    yield from (("one_W_K", keys - part[:, :, head, None]) for head in (0, -1))
    yield "heads_mixed", keys - part.sum(2, keepdim=True)
    yield "heads_mixed", keys - part.mean(2, keepdim=True)
    for by in (1, -1):
        yield "shifted", keys - part.roll(by, 1)
        kept = torch.arange(keys.shape[1])[:, None, None] != (0 if by == 1 else keys.shape[1] - 1)
        yield "shifted", keys - part.roll(by, 1) * kept
    along = (keys * part).sum(-1, keepdim=True) / part.square().sum(-1, keepdim=True)
    yield "projected", keys - along * part
    yield from (("mean_kept", keys - part + part.mean(dims, keepdim=True)) for dims in (0, 1, (0, 1)))


def _at(x: Tensor, dim: int, index: int) -> Tensor:
    """``x`` at that index along ``dim``, and 0 elsewhere."""
    mask = torch.zeros(x.shape[dim], dtype=x.dtype)
    mask[index] = 1
    return x * mask.reshape([-1 if i == dim else 1 for i in range(x.ndim)])


COMPOSED_INPUT = Exercise(
    id="05.composed_input",
    title="Take one head out of the keys",
    minutes=10,
    difficulty=3,
    hints=(
        "The stream is `out + everything else`. With the scale held, which part of `(stream / scale) @ W_K[head]` is due to `out`?",
        "It is `(out / scale) @ W_K[head]`, for each head; subtract it. `torch.einsum` keeps the axes in order.",
        '`keys - torch.einsum("bpd,hde->bphe", out / scale, W_K)`',
    ),
    mistakes={
        "shape": "Return keys of the shape of `keys`: [batch, pos, head, d_head].",
        "in_place": "The values are right, but you changed one of the tensors that were given (`-=` does that). The recorded run is used again later: compute a new tensor.",
        "unchanged": "Those are the keys as they were: the source's part is still in them.",
        "zeroed": "All of the keys is gone. Take away only what the source wrote, and leave what others wrote.",
        "added": "That adds the source's part once more. Subtract it.",
        "no_scale": "The scale is missing: the layer reads the stream divided by `scale`, so what the source wrote arrives divided too.",
        "times_scale": "That multiplies by the scale. The norm divides by it.",
        "scale_twice": "That divides by the scale twice.",
        "scales_all": "That rescales the keys themselves, or leaves them unscaled. They are divided by the scale already; only `out` isn't.",
        "own_norm": "That normalises `out` by its own length. The norm acted on the whole stream: divide by the `scale` you are given.",
        "norm_recomputed": "That changes the norm as well. The scale is held as it was, so that nothing but the source's part changes.",
        "one_scale": "That uses one scale for all positions. Each position has its own: `scale` is [batch, pos, 1].",
        "only_the_part": "That is the source's part alone. Return the keys *without* it.",
        "one_head": "Only one head's keys have changed. The source may be read by every head of the layer: do it for all of them.",
        "one_position": "Only one position has changed. The source writes at every position, and every key may be looked at.",
        "one_W_K": "That uses one head's W_K for all heads. Each head has its own, `W_K[head]`.",
        "heads_mixed": "The part is summed or averaged over heads before it is subtracted. Keep the head axis: each head loses what it read itself.",
        "shifted": "That takes away what the source wrote at a neighbouring position. A previous-token head has done the looking back already: what it wrote *at* a position is in the key of the same position.",
        "projected": "That removes all along the direction of the source's part, what others wrote there too. Subtract the part itself.",
        "mean_kept": "That leaves the part's mean in (mean ablation). Here all that the source wrote is to go.",
        "something_else": "Those are not the keys without what the source wrote.",
    },
    judge=_judge_composed,
)
