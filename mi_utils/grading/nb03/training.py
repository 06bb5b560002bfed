"""Checks of notebook 03, the logit lens and the tuned lens."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake, Stopped


def _like_logits(got: Any, wanted: Tensor | None) -> bool:
    """Up to a thousandth of the largest: however a learner writes the norm, float32 and eps move logits less."""
    if wanted is None:
        return False
    return same(got, wanted, rtol=0.0, atol=1e-3 * float(wanted.abs().nan_to_num().max()))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _random_stream(model: Any, *shape: int) -> Tensor:
    """Like a residual stream whose mean is not 0, so that centring shows; each row has another scale."""
    generator = _generator()
    scales = torch.linspace(0.5, 3.0, math.prod(shape)).reshape(*shape, 1)
    stream = scales * (torch.randn(*shape, model.cfg.d_model, generator=generator) + 0.6)
    return stream.to(model.W_U.device, model.W_U.dtype)


@contextmanager
def _other_bias(model: Any) -> Iterator[None]:
    """While this lasts, the model's unembedding has a bias: in a model with RMSNorm there is none to forget."""
    bias = model.unembed.b_U.data
    before = bias.clone()
    bias.copy_(torch.randn(bias.shape, generator=_generator()) * 2)
    try:
        yield
    finally:
        bias.copy_(before)


def _centres(model: Any) -> bool:
    """Whether the model's norms subtract the mean (LayerNorm) or not (RMSNorm)."""
    return "RMS" not in model.cfg.normalization_type.upper()


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _rms(x: Tensor, eps: float = 0.0) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + eps).sqrt()


# ------------------------------------------------------------------ 1: the logit lens by hand


@torch.no_grad()
def _judge_lens(answer: Callable, *, model: Any, stream: Tensor) -> None:
    _compare_logits(answer, model, stream)
    _compare_logits(answer, model, _random_stream(model, *stream.shape[:2]))
    with _other_bias(model):
        _compare_logits(answer, model, _random_stream(model, 2, 3))


def _compare_logits(answer: Callable, model: Any, stream: Tensor) -> None:
    got = answer(model, stream.clone())
    wanted = model.unembed(model.ln_final(stream))
    if _like_logits(got, wanted):
        return
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        raise _lens_shape_mistake(got, wanted)
    if not got.isfinite().all():
        raise Mistake("not_a_number")
    for name, wrong in _wrong_lenses(model, stream, wanted):
        if _like_logits(got, wrong) or (wrong is not None and _like_logits(got, wrong + model.unembed.b_U)):
            raise Mistake(name)
    raise _lens_behaviour(answer, got, model, stream)


def _lens_shape_mistake(got: Any, wanted: Tensor) -> Mistake:
    batch, pos, vocab = wanted.shape
    shapes = {
        "last_position": [(batch, vocab), (batch, 1, vocab)],
        "top_token": [(batch, pos)],
        "no_batch": [(pos, vocab), (1, pos, vocab)],
    }
    detail = f"It returned {kind(got)}; wanted is {tuple(wanted.shape)}."
    for name, its_shapes in shapes.items():
        if isinstance(got, Tensor) and got.shape in its_shapes:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_lenses(model: Any, stream: Tensor, logits: Tensor) -> list[tuple[str, Tensor | None]]:
    """What each known mistake gives, the unembedding's bias left out or not, by the mistake's name."""
    out, back, bias = model.W_U, model.W_E.T, model.unembed.b_U
    tied = same(back, out)  # then the embedding is no mistake
    normed, raw = model.ln_final(stream), stream @ out
    own = _centred(stream) if _centres(model) else stream  # what the model's own norm divides
    other = stream / _rms(stream) if _centres(model) else _centred(stream) / _rms(_centred(stream))
    return [
        ("probabilities", logits.softmax(-1)),
        ("log_probs", logits.log_softmax(-1)),
        ("no_norm", raw),
        ("embedding", None if tied else normed @ back),
        ("embedding", None if tied else stream @ back),
        ("norm_after", raw / _rms(raw)),
        ("norm_after", _centred(raw) / _rms(_centred(raw))),
        ("norm_after", (raw + bias) / _rms(raw + bias)),
        ("norm_after", _centred(raw + bias) / _rms(_centred(raw + bias))),
        ("other_norm", other @ out),
        ("other_norm", stream / stream.std(-1, keepdim=True) @ out),
        ("euclidean", normed @ out / stream.shape[-1] ** 0.5),
        ("mean_square", own / own.square().mean(-1, keepdim=True) @ out),
        ("norm_axis", own / own.square().mean().sqrt() @ out),
        ("norm_axis", own / own.square().mean(1, keepdim=True).sqrt() @ out),
        ("norm_axis", own / own.square().mean(0, keepdim=True).sqrt() @ out),
        ("no_bias", logits - bias),
    ]


def _lens_behaviour(answer: Callable, got: Tensor, model: Any, stream: Tensor) -> Mistake:
    """A mistake that shows in how the answer changes with the stream."""
    got = got.detach().to(stream.device, stream.dtype)
    moved = stream.clone()
    moved[:, 0] = _random_stream(model, *stream.shape[:2])[:, 0]
    after = answer(model, moved.clone())
    if _like_logits(after, got):
        return Mistake("ignores_stream")
    raw = stream @ model.W_U
    for offset in (0.0, model.unembed.b_U):  # right up to a factor for each position?
        ratio = ((got - offset) * raw).sum(-1, keepdim=True) / raw.square().sum(-1, keepdim=True)
        if ratio.min() > 0 and _like_logits(got, ratio * raw + offset):
            return Mistake("other_scale")
    if stream.shape[1] > 1 and isinstance(after, Tensor) and not _like_logits(after[:, 1:], got[:, 1:]):
        return Mistake("rest_of_model")
    return Mistake("something_else")


LENS_BY_HAND = Exercise(
    id="03.lens_by_hand",
    title="Look through the logit lens",
    minutes=10,
    difficulty=2,
    hints=(
        "What does the model do to its *last* residual stream to get logits? Two steps; do the same to yours.",
        "The steps are the final norm and the unembedding: `model.ln_final` and `model.unembed`, in this order.",
        "`model.unembed(model.ln_final(stream))`",
    ),
    mistakes={
        "shape": "The lens gives one logit for each token of the vocabulary at every position: [batch, pos, vocab].",
        "no_batch": "The batch is gone, or only its first prompt came back. Keep the shape [batch, pos, vocab].",
        "last_position": "Only the last position came back. The lens reads every position, and a picture of a whole prompt needs them all.",
        "top_token": "That is one number for each position. Return the logits of all tokens; the likeliest can be picked out later.",
        "probabilities": "Those are probabilities: the softmax is one step too many here. Return the logits.",
        "log_probs": "Those are log-probabilities: the log_softmax is one step too many here. Return the logits.",
        "no_norm": "The final norm is missing. The model never unembeds a stream as it is: it brings it to a common length first, and the unembedding was trained on that.",
        "embedding": "That goes out through the embedding. The way out is the unembedding, W_U; the scale of the final norm is folded into it, so it isn't the embedding transposed even where the two are tied.",
        "norm_after": "The norm comes after the unembedding there. It acts on the stream: first the norm, then the unembedding.",
        "other_norm": "That is another norm than the model's. RMSNorm divides by the root mean square; LayerNorm subtracts the mean first. `model.ln_final` is the right one in any model.",
        "euclidean": "Almost: that divides by the length of the stream. The norm divides by the root *mean* square, which is smaller by a factor of sqrt(d_model).",
        "mean_square": "A square root is missing: the norm divides by the *root* of the mean square.",
        "norm_axis": "The norm was taken over positions or prompts too. Each position is normalised by itself, over d_model.",
        "other_scale": "Right up to a factor at each position: you divide by a scale that isn't this stream's, such as the final stream's from a cache. The lens treats your stream as the last one, so its own scale counts.",
        "no_bias": "The unembedding's bias is missing. It is 0 in some models, but where a LayerNorm was folded in (GPT-2, say) it isn't; `model.unembed` adds it.",
        "not_a_number": "There is NaN or infinity in it: from the root of something negative or a division by 0. The norm takes the mean of *squares*, which can't be negative.",
        "rest_of_model": "What you return at a position depends on other positions, so attention has been at work: the remaining blocks ran. The lens skips them.",
        "ignores_stream": "The same comes back for another stream. Compute it from the argument `stream`, not from the model's own logits or a cache made earlier.",
        "something_else": "Those are not the logits that the model would give if this were its last stream.",
    },
    judge=_judge_lens,
)

# ------------------------------------------------------------------ 2: the rank of an answer


def _judge_rank(answer: Callable) -> None:
    token, other = 7, 3
    logits = 2 * torch.randn(5, 4, 160, generator=_generator())
    logits[2, 1, token] = 20.0  # somewhere it is the first choice
    log_probs, ties = logits.log_softmax(-1), logits.round().log_softmax(-1)
    got = answer(log_probs.clone(), token)
    if not same(got, _rank(log_probs, token)):
        raise _rank_mistake(answer, got, log_probs, ties, token)
    if not same(answer(log_probs.clone(), other), _rank(log_probs, other)):
        raise Mistake("ignores_token", f"Right for token {token}, but not for token {other}.")
    if not same(answer(ties.clone(), token), _rank(ties, token)):
        raise Mistake("ties")


def _rank(log_probs: Tensor, token: int) -> Tensor:
    return (log_probs > log_probs[..., token, None]).sum(-1).double()


def _rank_mistake(answer: Callable, got: Any, log_probs: Tensor, ties: Tensor, token: int) -> Mistake:
    rank, (layers, positions, vocab) = _rank(log_probs, token), log_probs.shape
    if not isinstance(got, Tensor) or got.shape != rank.shape:
        return _rank_shape_mistake(got, layers, positions, vocab)
    if same(got, rank + 1):
        first_is_one = same(answer(ties.clone(), token), _rank(ties, token) + 1)
        return Mistake("one_based" if first_is_one else "counts_itself")
    for name, wrong in _wrong_ranks(log_probs, token):
        if same(got, wrong):
            return Mistake(name)
    if 0 < got.max() < rank.max() and same(got, rank.clamp(max=float(got.max()))):
        return Mistake("capped", f"Yours is never more than {float(got.max()):g}.")
    if same(answer(log_probs.clone(), token + 1), got.detach().double()):
        return Mistake("ignores_token")
    return Mistake("something_else")


def _rank_shape_mistake(got: Any, layers: int, positions: int, vocab: int) -> Mistake:
    shapes = {
        "last_position": [(layers,)],
        "last_layer": [(positions,)],
        "wrong_axis": [(positions, vocab), (layers, vocab)],
    }
    detail = f"It returned {kind(got)}; wanted is {(layers, positions)}."
    for name, its_shapes in shapes.items():
        if isinstance(got, Tensor) and got.shape in its_shapes:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_ranks(log_probs: Tensor, token: int) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    rank, vocab = _rank(log_probs, token), log_probs.shape[-1]
    return [
        ("reversed", vocab - 1 - rank),
        ("reversed", vocab - rank),
        ("token_at_rank", log_probs.argsort(-1, descending=True)[..., token].double()),
        ("token_at_rank", log_probs.argsort(-1)[..., token].double()),
        ("wrong_axis", _rank_along(-log_probs, 0)[..., token]),
        ("wrong_axis", _rank_along(log_probs, 0)[..., token]),
        ("wrong_axis", _rank_along(-log_probs, 1)[..., token]),
        ("wrong_axis", _rank_along(log_probs, 1)[..., token]),
        ("fraction", rank / vocab),
        ("fraction", rank / (vocab - 1)),
        ("yes_or_no", (rank == 0).double()),
        ("yes_or_no", (rank != 0).double()),
        ("likelihood", log_probs[..., token]),
        ("likelihood", log_probs[..., token].exp()),
    ]


def _rank_along(values: Tensor, dim: int) -> Tensor:
    return values.argsort(dim).argsort(dim).double()


RANK = Exercise(
    id="03.rank",
    title="Rank of an answer by layer",
    minutes=5,
    difficulty=2,
    hints=(
        "There is no need to sort: the rank is a number of tokens, so count them.",
        "Compare `log_probs` with the token's own value, `log_probs[..., token, None]`; the `None` keeps the axes in line.",
        "`(log_probs > log_probs[..., token, None]).sum(dim=-1)`",
    ),
    mistakes={
        "shape": "Return one whole number for each layer and position: shape [layer, pos].",
        "last_position": "That is one number for each layer. Give the rank at every position: shape [layer, pos].",
        "last_layer": "That is one number for each position. Give the rank at every layer: shape [layer, pos].",
        "wrong_axis": "You compare or count along layers or positions. A rank is among the tokens of the vocabulary: the last axis.",
        "one_based": "Your ranks begin at 1. Here 0 is the first choice: the number of tokens that are *likelier*.",
        "counts_itself": "The token counts itself: `>=` is true of it too. Count the tokens that are strictly likelier.",
        "reversed": "You count the tokens that are *less* likely, so that the first choice gets the largest number.",
        "token_at_rank": "argsort gives the tokens in order of likelihood; at index `token` of that order stands another token's id. The rank is the other way round: where in the order the token stands.",
        "fraction": "That is a share of the vocabulary. Return the number of likelier tokens.",
        "yes_or_no": "That says whether the token is the first choice. The rank also tells how far away from it a token is.",
        "likelihood": "That is how likely the token is, not how many tokens are likelier.",
        "capped": "Beyond some rank yours stops counting. In early layers a token often stands in the thousands, and its way up is what we want to see.",
        "ignores_token": "Use the argument `token`: the rank of another token is another one.",
        "ties": "Right unless tokens are exactly as likely: sorting puts some of those in front. Only strictly likelier ones count, so compare instead of sorting.",
        "something_else": "Those are not the numbers of likelier tokens.",
    },
    judge=_judge_rank,
)

# ------------------------------------------------------------------ 3: KL from the model


def _kl(final: Tensor, lens: Tensor) -> Tensor:
    """Of log-probabilities."""
    return (final.exp() * (final - lens)).sum(-1)


def _judge_kl(answer: Callable) -> None:
    generator = _generator()
    final = 2 * torch.randn(2, 3, 7, generator=generator) + 1
    lens = 2 * torch.randn(2, 3, 7, generator=generator) + 3 * torch.randn(2, 3, 1, generator=generator)
    _compare_kl(answer, final, lens)
    for fewer in (final[0], final[0, 0]):
        _compare_kl(answer, fewer, fewer.flip(0) * 1.5)
    final[..., 2] = lens[..., 2] = -200.0
    got = answer(final.clone(), lens.clone())
    if isinstance(got, Tensor) and not got.isfinite().all():
        raise Mistake("underflow")
    _compare_kl(answer, final, lens)


def _compare_kl(answer: Callable, final: Tensor, lens: Tensor) -> None:
    got = answer(final.clone(), lens.clone())
    wanted = _kl(final.log_softmax(-1), lens.log_softmax(-1))
    got = torch.tensor(got) if isinstance(got, Real) else got
    if same(got, wanted):
        return
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        raise _kl_shape_mistake(got, final)
    for name, wrong in _wrong_kls(final, lens):
        if same(got, wrong):
            raise Mistake(name)
    if got.isnan().any():
        raise Mistake("not_a_number")
    raise Mistake("something_else")


def _kl_shape_mistake(got: Any, final: Tensor) -> Mistake:
    wanted = final.shape[:-1]
    detail = f"It returned {kind(got)}; wanted is {tuple(wanted)}."
    if not isinstance(got, Tensor):
        return Mistake("shape", detail)
    if got.shape == final.shape:
        return Mistake("not_summed", detail)
    if got.shape in [final.shape[:i] + final.shape[i + 1 :] for i in range(final.ndim - 1)]:
        return Mistake("wrong_axis", detail)
    return Mistake("over_positions" if got.ndim < len(wanted) else "shape", detail)


def _wrong_kls(final: Tensor, lens: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for logits [..., vocab], by the mistake's name."""
    f, q = final.log_softmax(-1), lens.log_softmax(-1)
    p, right, back = f.exp(), _kl(f, q), _kl(q, f)
    middle = ((p + q.exp()) / 2).log()
    top = f.argmax(-1, keepdim=True)
    before = max(-2, -final.ndim)  # the axis before the vocabulary
    return [
        ("reversed", back),
        ("negative", -right),
        ("negative", -back),
        ("unnormalised", (p * (final - lens)).sum(-1)),
        ("unnormalised", (p * (f - lens)).sum(-1)),
        ("unnormalised", (p * (final - q)).sum(-1)),
        ("unnormalised", (final.exp() * (final - lens)).sum(-1)),
        ("mean_over_vocabulary", right / f.shape[-1]),
        ("bits", right / math.log(2)),
        ("cross_entropy", -(p * q).sum(-1)),
        ("cross_entropy", -(q.exp() * f).sum(-1)),
        ("kl_div_arguments", (p * (f - q.exp())).sum(-1)),
        ("kl_div_arguments", (p.exp() * (p - q)).sum(-1)),
        ("kl_div_arguments", (p.exp() * (p - q.exp())).sum(-1)),
        ("symmetric", right + back),
        ("symmetric", (right + back) / 2),
        ("symmetric", (_kl(f, middle) + _kl(q, middle)) / 2),
        ("unweighted", (f - q).sum(-1)),
        ("unweighted", (f - q).mean(-1)),
        ("unweighted", (f - q).abs().sum(-1)),
        ("unweighted", (f - q).abs().mean(-1)),
        ("absolute", (p * (f - q).abs()).sum(-1)),
        ("one_token", (f - q).gather(-1, top).squeeze(-1)),
        ("one_token", (p * (f - q)).gather(-1, top).squeeze(-1)),
        ("wrong_axis", _kl(final.log_softmax(0), lens.log_softmax(0))),
        ("wrong_axis", _kl(final.log_softmax(before), lens.log_softmax(before))),
    ]


KL = Exercise(
    id="03.kl",
    title="How far is the lens from the model?",
    minutes=8,
    difficulty=3,
    hints=(
        "KL(p || q) is the sum over tokens of p * (log p - log q). Which of the two is p, the one we believe?",
        "`log_softmax(dim=-1)` gives log-probabilities from logits; p itself is their `.exp()`.",
        "With `p` and `q` log-probabilities: `(p.exp() * (p - q)).sum(dim=-1)`.",
    ),
    mistakes={
        "shape": "Return one number for each position: the shape of the logits without the vocabulary.",
        "over_positions": "That sums or averages over positions too. Each position has a divergence of its own; take the mean later, over what you choose. F.kl_div does that unless reduction='none'.",
        "not_summed": "The sum over the vocabulary is missing: those are the terms of it.",
        "reversed": "That is KL(lens || final), the other direction. The model is what we believe, so its probabilities weigh: KL(final || lens). In F.kl_div the lens comes first.",
        "negative": "That has the wrong sign: a divergence is never below 0. The difference is log p - log q, weighted by p.",
        "unnormalised": "Logits went in where log-probabilities belong. Logits are the same prediction after adding any number to all of them, so normalise both sides with log_softmax.",
        "mean_over_vocabulary": "That divides by the size of the vocabulary. The divergence is a sum over tokens, weighted by p; p already makes it an average.",
        "bits": "That is in bits. Here we measure in nats: the natural logarithm.",
        "cross_entropy": "That is the cross-entropy. It is large too where the model itself is undecided; subtract the model's entropy to get what the lens loses.",
        "kl_div_arguments": "F.kl_div got something else than it expects: the first argument is log-probabilities, the second probabilities, or log-probabilities with log_target=True.",
        "not_a_number": "There is a logarithm of something negative: of logits, or of log-probabilities. F.kl_div takes the logarithm of its second argument, unless log_target=True.",
        "symmetric": "That mixes both directions. Asked for is KL(final || lens) only, which the model's own probabilities weigh.",
        "unweighted": "The weights are missing: each token counts by the model's probability for it, or the thousands that nobody expects decide everything.",
        "absolute": "Without the absolute value: terms of both signs belong in the sum, and it is never negative as a whole.",
        "one_token": "That looks at the likeliest token only. The divergence compares all of the distribution: a sum over the vocabulary.",
        "wrong_axis": "That normalises or sums over another axis than the vocabulary, which is the last: dim=-1.",
        "underflow": "Right for ordinary logits, but a very unlikely token makes it NaN or infinite: its probability is 0 in float32, and so the logarithm is infinite. log_softmax never takes that way.",
        "something_else": "That is not KL(final || lens) in nats.",
    },
    judge=_judge_kl,
)

# ------------------------------------------------------------------ 4: what is wrong everywhere


def _judge_marginal(answer: Callable) -> None:
    generator = _generator()
    for shape in ((6, 9), (4, 30)):
        final, lens = (2 * torch.randn(*shape, generator=generator) for _ in range(2))
        lens[:, 1] += 4.0  # what is wrong everywhere
        _compare_marginal(answer, final.log_softmax(-1), lens.log_softmax(-1))


def _compare_marginal(answer: Callable, final: Tensor, lens: Tensor) -> None:
    got = answer(final.clone(), lens.clone())
    got = torch.tensor(got) if isinstance(got, Real) else got
    if same(got, _kl(final.exp().mean(0).log(), lens.exp().mean(0).log())):
        return
    if not isinstance(got, Tensor) or got.ndim > 0:
        for name, shape in {"per_token": final.shape[:1], "not_summed": final.shape[1:]}.items():
            if isinstance(got, Tensor) and got.shape == shape:
                raise Mistake(name)
        raise Mistake("shape", f"It returned {kind(got)}.")
    for name, wrong in _wrong_marginals(final, lens):
        if same(got, wrong):
            raise Mistake(name)
    if got.isnan():
        raise Mistake("not_a_number")
    raise Mistake("something_else")


def _wrong_marginals(f: Tensor, q: Tensor) -> list[tuple[str, Tensor]]:
    """What each known mistake gives for log-probabilities [token, vocab], by the mistake's name."""
    both = f.exp(), q.exp()
    p_mean, q_mean = (x.mean(0) for x in both)
    p_log, q_log = p_mean.log(), q_mean.log()
    right, back = _kl(p_log, q_log), _kl(q_log, p_log)
    p_sum, q_sum = (x.sum(0) for x in both)
    return [
        ("mean_of_kl", _kl(f, q).mean()),
        ("mean_of_kl", _kl(q, f).mean()),
        ("mean_of_kl", _kl(f, q).sum()),
        ("mean_of_logs", _kl(f.mean(0), q.mean(0))),
        ("mean_of_logs", _kl(f.mean(0).log_softmax(-1), q.mean(0).log_softmax(-1))),
        ("mean_of_logs", (p_mean * (f.mean(0) - q.mean(0))).sum()),
        ("one_side_averaged", (both[0] * (f - q_log)).sum(-1).mean()),
        ("one_side_averaged", (p_mean * (p_log - q)).sum(-1).mean()),
        ("reversed", back),
        ("negative", -right),
        ("negative", -back),
        ("not_averaged", (p_sum * (p_sum.log() - q_sum.log())).sum()),
        ("always_zero", torch.zeros_like(right)),
        ("wrong_axis", _kl(f.mean(-1), q.mean(-1))),
        ("wrong_axis", _kl(f.mean(-1).log_softmax(-1), q.mean(-1).log_softmax(-1))),
        ("mean_over_vocabulary", right / f.shape[-1]),
        ("bits", right / math.log(2)),
        ("cross_entropy", -(p_mean * q_log).sum()),
        ("softmax_twice", _kl(p_mean.log_softmax(-1), q_mean.log_softmax(-1))),
        ("symmetric", right + back),
        ("symmetric", (right + back) / 2),
        ("unweighted", (p_log - q_log).sum()),
        ("unweighted", (p_log - q_log).abs().sum()),
        ("unweighted", (p_log - q_log).abs().mean()),
        ("unweighted", (p_mean - q_mean).abs().sum()),
    ]


MARGINAL_BIAS = Exercise(
    id="03.marginal_bias",
    title="What is wrong everywhere",
    minutes=8,
    difficulty=4,
    hints=(
        "First one distribution for all tokens together, on each side; then one KL between the two.",
        "The mean is of *probabilities*, so `.exp()` comes before `.mean(dim=0)`. Only then the logarithm.",
        "`p, q = final_log_probs.exp().mean(0), lens_log_probs.exp().mean(0)`, and then KL as before: "
        "`(p * (p.log() - q.log())).sum()`.",
    ),
    mistakes={
        "shape": "Return one number: a scalar.",
        "per_token": "That is one divergence for each token. Average the *predictions* over the tokens first; then there is one KL.",
        "not_summed": "The sum over the vocabulary is missing: those are the terms of it.",
        "mean_of_kl": "That takes the KL of each token and then sums or averages. Errors that go one way here and another there count in full that way; to see only what is wrong everywhere, average the predictions first.",
        "mean_of_logs": "That averages log-probabilities, which is a geometric mean: one confident no outweighs many a yes. Average the probabilities: exp first, then the mean.",
        "one_side_averaged": "Only one of the two was averaged. Both sides need their mean over tokens before they are compared.",
        "reversed": "That is the other direction. The model is what we believe: KL(mean of final || mean of lens).",
        "negative": "That has the wrong sign: a divergence is never below 0. The difference is log p - log q, weighted by p.",
        "not_averaged": "You summed over the tokens; the sum of probability distributions is none (it adds up to the number of tokens). Take the mean.",
        "wrong_axis": "That averages over the vocabulary. The mean is over tokens of the text, the first axis; the vocabulary stays.",
        "always_zero": "That is 0 whatever the lens predicts: probabilities have the same sum, and so the same mean over the *vocabulary*, on both sides. Average over the tokens of the text, the first axis.",
        "mean_over_vocabulary": "That divides by the size of the vocabulary. KL is a sum over it.",
        "bits": "That is in bits. Here we measure in nats: the natural logarithm.",
        "cross_entropy": "That is the cross-entropy of the two means. Subtract the entropy of the first, so that a perfect lens gets 0.",
        "softmax_twice": "A softmax of probabilities flattens them: they are a distribution already, so take their logarithm instead.",
        "symmetric": "That mixes both directions. Asked for is KL(mean of final || mean of lens) only.",
        "unweighted": "That compares the two means in another way than KL: each token's log-ratio is weighted by the model's mean probability for it.",
        "not_a_number": "There is a logarithm of something negative: a log-probability is no probability before exp.",
        "something_else": "That is not KL(mean of final || mean of lens) in nats.",
    },
    judge=_judge_marginal,
)

# ------------------------------------------------------------------ 5: ridge regression


def _ridge(h: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
    """The matrix of least squared error with a penalty; ``strength`` is one number or one for each component."""
    penalty = strength * torch.eye(h.shape[1], dtype=h.dtype)
    return torch.linalg.solve(h.T @ h / len(h) + penalty, h.T @ y / len(h))


def _judge_ridge(answer: Callable) -> None:
    generator = _generator()
    spread = torch.tensor([0.6, 1.0, 1.4, 1.8, 2.2])
    stream = torch.randn(40, 5, generator=generator) * spread + torch.linspace(-1, 2, 5)
    mixed = stream @ torch.randn(5, 5, generator=generator)
    final = mixed + torch.randn(40, 5, generator=generator) + torch.linspace(3, -2, 5)
    strength = 0.3
    given = stream.clone(), final.clone()
    matrix, bias = _matrix_and_bias(answer(*given, strength), stream.shape[1])
    h, y = stream.double(), final.double()
    wanted = _ridge(_off_mean(h), _off_mean(y), strength)
    if not same(matrix, wanted):
        raise _matrix_mistake(matrix, h, y, strength)
    if not same(bias, y.mean(0) - h.mean(0) @ wanted):
        raise _bias_mistake(bias, h, y, wanted)
    if not (torch.equal(given[0], stream) and torch.equal(given[1], final)):
        raise Mistake("in_place")


def _off_mean(x: Tensor) -> Tensor:
    return x - x.mean(0)


def _matrix_and_bias(got: Any, width: int) -> tuple[Tensor, Tensor]:
    if isinstance(got, Tensor) and got.shape == (width, width):
        raise Mistake("only_matrix")
    if not isinstance(got, tuple | list) or len(got) != 2 or not all(isinstance(one, Tensor) for one in got):
        raise Mistake("shape", f"It returned {kind(got)}.")
    shapes = [tuple(one.shape) for one in got]
    if shapes == [(width,), (width, width)]:
        raise Mistake("order")
    if shapes != [(width, width), (width,)]:
        raise Mistake("shape", f"Yours have shapes {shapes[0]} and {shapes[1]}.")
    return got[0], got[1]


def _matrix_mistake(matrix: Tensor, h: Tensor, y: Tensor, strength: float) -> Mistake:
    for name, wrong in _wrong_matrices(h, y, strength):
        if same(matrix, wrong):
            return Mistake(name)
    count, width = h.shape
    others = [strength * factor for factor in (count, width, 1 / width, count * width, 1 / (count * width), 2, 0.5, -1)]
    others += [power / by for power in (strength**2, strength**0.5, 1 / strength) for by in (1, count)]
    fixed = [size / by for size in (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6) for by in (1, count)]
    for name, strengths in {"other_penalty": others, "ignores_strength": fixed}.items():
        if any(same(matrix, _ridge(_off_mean(h), _off_mean(y), one)) for one in strengths):
            return Mistake(name)
    return Mistake("other_matrix")


def _wrong_matrices(h: Tensor, y: Tensor, strength: float) -> list[tuple[str, Tensor]]:
    """The matrix that each known mistake gives, by the mistake's name."""
    hc, yc, count = _off_mean(h), _off_mean(y), len(h)
    summed = strength / count  # the strength where the error is a sum over tokens
    with_one = torch.cat([h, torch.ones(count, 1, dtype=h.dtype)], dim=1)
    identity = torch.eye(h.shape[1], dtype=h.dtype)
    return [
        ("transposed", _ridge(hc, yc, strength).T),
        ("no_penalty", _ridge(hc, yc, 0.0)),
        ("not_centred", _ridge(h, y, strength)),
        ("not_centred", _ridge(h, y, summed)),
        ("not_centred", _ridge(h, y, 0.0)),
        ("not_centred", _ridge(h, yc, strength)),
        ("penalises_bias", _ridge(with_one, y, strength)[:-1]),
        ("penalises_bias", _ridge(with_one, y, summed)[:-1]),
        ("penalty_not_scaled", _ridge(hc, yc, summed)),
        ("swapped", _ridge(yc, hc, strength)),
        ("swapped", _ridge(yc, hc, summed)),
        ("difference", _ridge(hc, yc - hc, strength)),
        ("difference", _ridge(hc, yc - hc, summed)),
        ("towards_identity", _ridge(hc, yc - hc, strength) + identity),
        ("towards_identity", _ridge(hc, yc - hc, summed) + identity),
        ("relative_penalty", _ridge(hc, yc, strength * hc.square().mean(0))),
        ("n_minus_one", _ridge(hc, yc, strength * (count - 1) / count)),
    ]


def _bias_mistake(bias: Tensor, h: Tensor, y: Tensor, matrix: Tensor) -> Mistake:
    for name, wrong in _wrong_biases(h.mean(0), y.mean(0), matrix):
        if same(bias, wrong):
            return Mistake(name)
    return Mistake("other_bias")


def _wrong_biases(h: Tensor, y: Tensor, matrix: Tensor) -> list[tuple[str, Tensor]]:
    """The bias that each known mistake gives for the two means and the right matrix, by the mistake's name."""
    return [
        ("no_bias", torch.zeros_like(y)),
        ("bias_sign", h @ matrix - y),
        ("bias_sign", h @ matrix + y),
        ("bias_without_matrix", y),
        ("bias_without_matrix", y - h),
        ("bias_of_transposed", y - matrix @ h),
    ]


RIDGE = Exercise(
    id="03.ridge",
    title="A translator in closed form",
    minutes=12,
    difficulty=3,
    hints=(
        "The bias isn't penalised, so for any matrix the best bias makes the mean error 0. Subtract the means from both sides and it is gone.",
        "With H and Y centred and n tokens, set the derivative to 0: (H^T H / n + strength I) matrix = H^T Y / n. `torch.linalg.solve` solves that.",
        "The bias afterwards: the mean of `final` less the mean of `stream` times the matrix.",
    ),
    mistakes={
        "shape": "Return two tensors: a matrix of shape [d, d] and a bias of shape [d].",
        "only_matrix": "The bias is missing: return the matrix and the bias.",
        "order": "Return the matrix first, the bias second.",
        "transposed": "The matrix is transposed. A stream's rows are multiplied from the left here, `stream @ matrix`: rows of the matrix are inputs, columns outputs.",
        "not_centred": "The means were not taken off both sides before solving. The matrix then has to explain the mean as well, which is the bias's work.",
        "penalises_bias": "A column of ones makes a bias, but the penalty must not touch it: leave its entry on the diagonal at 0.",
        "no_penalty": "That is the fit without the penalty: add `strength` to the diagonal.",
        "penalty_not_scaled": "The error is a mean over tokens, the penalty isn't. Divide H^T H and H^T Y by n (or multiply the penalty by n); with a plain sum the penalty all but vanishes.",
        "other_penalty": "The form is right, the strength isn't: the penalty on the diagonal of H^T H / n is `strength` itself.",
        "ignores_strength": "Use the argument `strength`: yours is the fit for a fixed one.",
        "relative_penalty": "That penalises each component in proportion to its variance, which is a good idea and what `lens.training` does. Here every entry of the matrix is penalised alike.",
        "n_minus_one": "Almost: that divides by n - 1, as `torch.cov` does. The error is a mean over n tokens; use `correction=0`.",
        "swapped": "That predicts the stream from the final one. The translator goes the other way.",
        "difference": "That predicts what is still to be added, final - stream. The matrix is then off by the identity; and adding it would penalise something else.",
        "towards_identity": "That penalises the distance to the identity, so that a strong penalty gives the logit lens. A sensible choice, but asked for is the penalty on the matrix itself.",
        "other_matrix": "The matrix doesn't minimise that error.",
        "no_bias": "The matrix is right and the bias is 0. What it should be is what is left of the means: mean(final) - mean(stream) @ matrix.",
        "bias_sign": "The matrix is right; the bias has a wrong sign in it. It is mean(final) *minus* mean(stream) @ matrix.",
        "bias_without_matrix": "The matrix is right; in the bias the mean of the stream has to go through the matrix: mean(final) - mean(stream) @ matrix.",
        "bias_of_transposed": "The matrix is right; in the bias the mean of the stream was multiplied from the wrong side.",
        "other_bias": "The matrix is right, the bias isn't: it should be mean(final) - mean(stream) @ matrix.",
        "in_place": "Right, but your function changed what it was given: `-=` centres the caller's stream too. Subtract into a new tensor.",
    },
    judge=_judge_ridge,
)

# ------------------------------------------------------------------ 6: keep the best

_NAN = float("nan")
# Rows are layers here, columns checks: falling; rising; a dip; a dip after a hump; diverged (three times); an early dip.
_LOSSES = torch.tensor(
    [
        [3.0, 2.6, 2.2, 1.9, 1.7, 1.6],
        [0.5, 0.6, 0.8, 1.1, 1.5, 2.0],
        [2.0, 1.6, 1.1, 1.4, 1.9, 2.1],
        [3.0, 2.0, 2.5, 2.2, 1.5, 1.8],
        [1.9, 1.5, 1.2, _NAN, _NAN, _NAN],
        [0.7, 0.9, _NAN, _NAN, _NAN, _NAN],
        [2.4, 2.1, _NAN, 1.9, 1.3, 1.4],
        [2.0, 1.0, 1.8, 1.6, 1.5, 1.4],
    ]
).T


def _judge_best(answer: Callable) -> None:
    generator = _generator()
    translators = torch.randn(*_LOSSES.shape, 3, generator=generator)
    _compare_best(answer, _LOSSES, translators)
    sound = torch.rand(4, 9, generator=generator)
    _compare_best(answer, sound, torch.randn(4, 9, 2, generator=generator))


def _compare_best(answer: Callable, losses: Tensor, translators: Tensor) -> None:
    got = answer(losses.clone(), translators.clone())
    checks, layers, width = translators.shape
    best = losses.nan_to_num(nan=math.inf).argmin(0)
    each = torch.arange(layers)
    if same(got, translators[best, each]):
        return
    if not isinstance(got, Tensor) or got.shape != (layers, width):
        raise _best_shape_mistake(got, checks, layers, width)
    for name, which in _wrong_choices(losses):
        if same(got, translators[which, each]):
            raise Mistake(name)
    if any(same(got, one) for one in translators):
        raise Mistake("one_check_for_all")
    if any(same(got, translators[best, layer]) for layer in (0, -1)):
        raise Mistake("other_layer")
    raise Mistake("something_else")


def _best_shape_mistake(got: Any, checks: int, layers: int, width: int) -> Mistake:
    shapes = {"per_check": (checks, width), "which_only": (layers,), "all_pairs": (layers, layers, width)}
    detail = f"It returned {kind(got)}; wanted is {(layers, width)}."
    for name, shape in shapes.items():
        if isinstance(got, Tensor) and got.shape == shape:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_choices(losses: Tensor) -> list[tuple[str, Tensor]]:
    """For each known mistake, the check that it picks for each layer."""
    checks, layers = losses.shape
    filled, broken = losses.nan_to_num(nan=math.inf), losses.isnan()
    best, worst = filled.argmin(0), losses.nan_to_num(nan=-math.inf).argmax(0)
    in_all = filled[~broken.any(1)]  # the checks at which all layers are sound, the start among them
    later = filled[1:].argmin(0)
    falls = losses[1:] < losses[:-1]
    return [
        ("last_check", torch.full((layers,), checks - 1)),
        ("always_start", torch.zeros(layers, dtype=torch.int64)),
        ("nan_wins", losses.argmin(0)),
        ("nan_wins", _not_worse(losses)),
        ("largest", worst),
        ("largest", losses.argmax(0)),
        ("drops_the_start", later + 1),
        ("off_by_one", later),
        ("off_by_one", (best + 1).clamp(max=checks - 1)),
        ("start_where_nan", torch.where(broken.any(0), 0, best)),
        ("drops_whole_check", (~broken.any(1)).nonzero()[:, 0][in_all.argmin(0)]),
        ("first_dip", falls.long().cumprod(0).sum(0)),
        ("better_than_previous", (torch.arange(1, checks)[:, None] * falls).amax(0)),
        ("better_than_start", (torch.arange(checks)[:, None] * (losses < losses[0])).amax(0)),
    ]


def _not_worse(losses: Tensor) -> Tensor:
    """The check kept by a loop that replaces what is best unless the loss is larger: NaN isn't larger."""
    which, least = torch.zeros(losses.shape[1], dtype=torch.int64), losses[0].clone()
    for check, loss in enumerate(losses):
        kept = ~(loss > least)
        which[kept], least[kept] = check, loss[kept]
    return which


KEEP_BEST = Exercise(
    id="03.never_worse",
    title="A descent that never makes a layer worse",
    minutes=8,
    difficulty=3,
    hints=(
        "For each layer by itself: at which check was its loss least? That is an argmin over the checks, dim 0.",
        "torch's argmin takes NaN for the smallest of all. Replace it by infinity first: `losses.nan_to_num(nan=float('inf'))`.",
        "Index both axes together, so that each layer meets its own check: `translators[best, torch.arange(len(best))]`.",
    ),
    mistakes={
        "shape": "Return one translator for each layer: shape [layer, d].",
        "all_pairs": "`translators[best]` gives *all* layers for each entry of `best`. Index both axes together: `translators[best, torch.arange(n_layers)]`.",
        "per_check": "That picks a layer for each check: the argmin went over layers. Choose over checks, dim 0.",
        "which_only": "That is one number for each layer, which check is best or how good it is. Return the translators themselves.",
        "other_layer": "The checks are right, but every layer got the translator of one and the same layer. Index both axes together.",
        "one_check_for_all": "That takes one check for all layers. Each layer has its own best moment: late layers are at their best early, early ones late.",
        "last_check": "That is the last check. By then some layers have become worse, or diverged.",
        "always_start": "That is where the descent began; nothing was kept of it.",
        "nan_wins": "A diverged layer won: argmin takes NaN for the smallest, and every comparison with NaN is false, so that `not loss > best` lets it in. Replace NaN by infinity first, or ask `loss < best`.",
        "largest": "That keeps the check with the *largest* loss.",
        "drops_the_start": "The start never gets chosen. Row 0 belongs in the comparison; it is what promises that no layer gets worse.",
        "off_by_one": "That is a neighbour of the best check: an index was counted from another row than the first.",
        "start_where_nan": "A layer that diverges goes back to the start. What it had reached before, it may keep.",
        "drops_whole_check": "A check is dropped for all layers as soon as one of them is NaN. The others are sound.",
        "first_dip": "That stops at the first rise of the loss. It may fall further afterwards; all checks are here, so look at them all.",
        "better_than_previous": "That keeps a check if it is better than the one *before*. Compare with the best so far.",
        "better_than_start": "That keeps the last check that is better than the start. Compare with the best so far.",
        "something_else": "Those are not the translators with the least loss.",
    },
    judge=_judge_best,
)

# ------------------------------------------------------------------ 7: the layer of decision

_ANSWER, _A, _B = 284, 1042, 311  # ids beyond 256, as in a vocabulary
_BY_HAND = (
    (_A, _B, _ANSWER, _ANSWER),
    (_ANSWER, _A, _ANSWER, _ANSWER, _ANSWER),  # on top, lost, on top again
    (_A, _ANSWER, _ANSWER, _ANSWER, _ANSWER, _B, _ANSWER, _ANSWER),  # the longest run isn't the last
    (_ANSWER, _ANSWER, _ANSWER),  # from the first row on
    (_ANSWER,),
    (_A, _B, _A, _B, _ANSWER),  # only in the last row
    (_ANSWER, _ANSWER, _A),  # lost in the end
    (_A, _ANSWER, _B, _B),
    (_A, _B),  # never
    (_B,),
)


def _sequences() -> list[tuple[int, ...]]:
    generator, ids = _generator(), (_ANSWER, _ANSWER, _A, _B)
    lengths = torch.randint(1, 9, (80,), generator=generator).tolist()
    drawn = (torch.randint(len(ids), (length,), generator=generator).tolist() for length in lengths)
    return [*_BY_HAND, *(tuple(ids[i] for i in row) for row in drawn)]


def _judge_decision(answer: Callable) -> None:
    tops = _sequences()
    for cases in ([top for top in tops if top[-1] == _ANSWER], [top for top in tops if top[-1] != _ANSWER]):
        wanted = [_decided(top) for top in cases]
        seen = _rows(answer, torch.tensor, cases)
        if seen == wanted:
            continue
        if _rows(answer, list, cases) == wanted:
            raise Mistake("lists_only", _differs(seen, cases))
        if isinstance(seen, Stopped):
            raise seen
        raise _decision_mistake(seen, cases)


def _decided(top: Sequence[int]) -> int | None:
    row = len(top)
    while row and top[row - 1] == _ANSWER:
        row -= 1
    return row if row < len(top) else None


def _rows(answer: Callable, form: Callable, cases: list[tuple[int, ...]]) -> list[int | None] | Stopped:
    """What the function gives for each sequence, handed over as a list or a tensor; or how it stopped."""
    try:
        return [_as_row(answer(form(top), _ANSWER)) for top in cases]
    except Stopped as stopped:
        return stopped


def _as_row(got: Any) -> int | None:
    if isinstance(got, Tensor) and got.numel() == 1 and not got.dtype.is_floating_point and got.dtype != torch.bool:
        return int(got)
    if got is None or (isinstance(got, Integral) and not isinstance(got, bool)):
        return got if got is None else int(got)
    raise Mistake("not_a_row", f"It returned {kind(got)}.")


def _differs(seen: list[int | None] | Stopped, cases: list[tuple[int, ...]]) -> str:
    """The first sequence for which the function is wrong, in words."""
    if isinstance(seen, Stopped):
        return f"It stopped with {type(seen.__cause__).__name__}: {seen.__cause__}"
    top, got = next((top, got) for top, got in zip(cases, seen, strict=True) if got != _decided(top))
    return f"For top = {list(top)} and answer = {_ANSWER} it returned {got}; it should be {_decided(top)}."


def _decision_mistake(seen: list[int | None], cases: list[tuple[int, ...]]) -> Mistake:
    detail = _differs(seen, cases)
    if cases[0][-1] != _ANSWER:
        return Mistake("not_none", detail)
    for name, choose in _wrong_decisions():
        if seen == [choose(top, _decided(top)) for top in cases]:
            return Mistake(name, detail)
    return Mistake("something_else", detail)


def _wrong_decisions() -> list[tuple[str, Callable[[Sequence[int], int], int | None]]]:
    """What each known mistake makes of a sequence that ends with the answer, and of the right row."""
    return [
        ("first_time", lambda top, row: top.index(_ANSWER)),
        ("last_time", lambda top, row: len(top) - 1),
        ("count", lambda top, row: top.count(_ANSWER)),
        ("from_the_end", lambda top, row: len(top) - row),
        ("from_the_end", lambda top, row: len(top) - row - 1),
        ("from_the_end", lambda top, row: row - len(top)),
        ("off_by_one", lambda top, row: row + 1),
        ("off_by_one", lambda top, row: row - 1),
        ("off_by_one", lambda top, row: max(row - 1, 0)),
        ("off_by_one", lambda top, row: row - 1 if row else None),
        ("zero_is_none", lambda top, row: row or None),
        ("longest_run", lambda top, row: _start_of_longest_run(top)),
    ]


def _start_of_longest_run(top: Sequence[int]) -> int:
    runs = [0] * (len(top) + 1)  # how long the run from each row is
    for row in reversed(range(len(top))):
        runs[row] = runs[row + 1] + 1 if top[row] == _ANSWER else 0
    return runs.index(max(runs))


DECISION_LAYER = Exercise(
    id="03.decision_layer",
    title="When does the model make up its mind?",
    minutes=8,
    difficulty=3,
    hints=(
        "Begin at the end: is the last row the answer? From there, how far back does it stay so?",
        "Walk back from the last row as long as the answer is on top; stop at the first row where it isn't. The row after that one is it.",
        "Mind the edges: on top in every row gives 0, which is not None; and a tensor can't be reversed with `[::-1]`.",
    ),
    mistakes={
        "not_a_row": "Return a row, a whole number, or None.",
        "first_time": "That is the first row in which the answer is on top. It may be lost again later; wanted is the row from which on it *stays*.",
        "last_time": "That is the last row, where the answer is on top in any case. Go back from there for as long as it stays on top.",
        "count": "That counts the rows in which the answer is on top. Wanted is the index of the row from which on it stays.",
        "from_the_end": "That counts from the end, or says how long the last stretch is. Count rows from the first, which is 0.",
        "off_by_one": "That is a neighbour of the right row: the last one *before* the answer stays, or one too late.",
        "zero_is_none": "Where the answer is on top from the first row on, yours gives None instead of 0. Note that 0 counts as false in `or` and `if`, and that a walk back to the first row meets no other token at which to stop.",
        "longest_run": "That is where the longest stretch begins. A shorter one may be the last, and only the last reaches the end.",
        "not_none": "If the last row isn't the answer, the model never settled on it: return None.",
        "lists_only": "Right for a list, but `top` is a tensor: `top.tolist()` makes a list of it.",
        "something_else": "That is not the row from which on the answer stays on top.",
    },
    judge=_judge_decision,
)

# ------------------------------------------------------------------ 8: find the bug


@torch.no_grad()
def _judge_shares(answer: Callable, *, model: Any, parts: Tensor, token: int) -> None:
    _compare_shares(answer, model, parts, token)
    random, other = _random_stream(model, len(parts)), (token + 5) % model.W_U.shape[1]
    got = answer(model, random.clone(), other)
    if _like_logits(got, _shares(model, random, token)):
        raise Mistake("ignores_token")
    if _like_logits(got, _shares(model, parts, token)):
        raise Mistake("ignores_parts")
    with _other_bias(model):
        _compare_shares(answer, model, random, other)


def _scale(model: Any, x: Tensor) -> Tensor:
    """What the model's norm divides by."""
    return _rms(_centred(x) if _centres(model) else x, model.cfg.eps)[..., 0]


def _shares(model: Any, parts: Tensor, token: int) -> Tensor:
    return (_centred(parts) if _centres(model) else parts) @ model.W_U[:, token] / _scale(model, parts.sum(0))


def _compare_shares(answer: Callable, model: Any, parts: Tensor, token: int) -> None:
    got = answer(model, parts.clone(), token)
    wanted = _shares(model, parts, token)
    if _like_logits(got, wanted):
        return
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        raise _shares_shape_mistake(got, len(parts), model.W_U.shape[1])
    for name, wrong in _wrong_shares(model, parts, token):
        if _like_logits(got, wrong) or (wrong is not None and _like_logits(got, wrong + model.unembed.b_U[token])):
            raise Mistake(name)
    bias, total = model.unembed.b_U[token], got.sum().to(wanted.device, wanted.dtype)
    near = 1e-3 * float(wanted.abs().max())
    if min(abs(total - wanted.sum()), abs(total - wanted.sum() - bias)) <= near:
        raise Mistake("forced")
    raise Mistake(
        "does_not_add_up", f"With the bias, yours come to {total + bias:.3f}; the logit is {wanted.sum() + bias:.3f}."
    )


def _shares_shape_mistake(got: Any, parts: int, vocab: int) -> Mistake:
    detail = f"It returned {kind(got)}; wanted is {(parts,)}."
    for name, shapes in {"all_tokens": [(parts, vocab)], "total": [(), (1,)]}.items():
        if isinstance(got, Tensor) and got.shape in shapes:
            return Mistake(name, detail)
    return Mistake("shape", detail)


def _wrong_shares(model: Any, parts: Tensor, token: int) -> list[tuple[str, Tensor | None]]:
    """What each known mistake gives for parts [part, d_model], the bias left out or not, by the mistake's name."""
    centred = _centred if _centres(model) else lambda x: x  # as the model's norm does
    direction, back, bias = model.W_U[:, token], model.W_E[token], model.unembed.b_U[token]
    tied = same(back, direction)  # then the embedding is no mistake
    right, total, running = _shares(model, parts, token), parts.sum(0), parts.cumsum(0)
    raw, scale = centred(parts) @ direction, _scale(model, total)
    through = centred(running) @ direction / _scale(model, running)  # the logit lens after each part
    moved = through.diff(prepend=through.new_zeros(1))
    from_bias = moved + bias * (torch.arange(len(parts), device=bias.device) == 0)
    without = centred(total - parts) @ direction / _scale(model, total - parts)
    of_all = centred(parts) @ model.W_U
    alone = of_all / _scale(model, parts)[:, None]
    return (
        [
            ("each_alone", alone[:, token]),
            ("no_norm", parts @ direction),
            ("bias_in_each", right + bias),
            ("bias_spread", right + bias / len(parts)),
            ("running_scale", raw / _scale(model, running)),
            ("logits_so_far", through),
            ("running_difference", moved),
            ("running_difference", from_bias),
            ("left_out", right.sum() - without),
            ("left_out", without),
            ("euclidean", right / parts.shape[-1] ** 0.5),
            ("mean_square", right / scale),
            ("scale_of_mean", raw / _scale(model, parts.mean(0))),
            ("sum_of_scales", raw / _scale(model, parts).sum()),
            ("other_norm", raw / (_rms(total) if _centres(model) else _rms(_centred(total)))),
            ("other_norm", _centred(parts) @ direction / _rms(_centred(total))),
            ("other_norm", raw / total.std()),
            ("embedding", None if tied else parts @ back / scale),
            ("embedding", None if tied else centred(parts) @ back / scale),
            ("centred", right - (of_all / scale).mean(-1)),
            ("fractions", right / right.sum()),
            ("fractions", right.softmax(-1)),
        ]
        + _as_probabilities(model, of_all / scale, token)
        + _as_probabilities(model, alone, token)
    )


def _as_probabilities(model: Any, logits: Tensor, token: int) -> list[tuple[str, Tensor]]:
    """For logits [part, vocab], without the bias."""
    with_bias = logits + model.unembed.b_U
    return [
        ("log_probs", logits.log_softmax(-1)[:, token]),
        ("log_probs", logits.softmax(-1)[:, token]),
        ("log_probs", with_bias.log_softmax(-1)[:, token]),
        ("log_probs", with_bias.softmax(-1)[:, token]),
    ]


FIND_THE_BUG = Exercise(
    id="03.find_the_bug",
    title="Find the bug in a popular recipe",
    minutes=10,
    difficulty=3,
    hints=(
        "Add up what the recipe returns and compare with the model's logit. Should they agree?",
        "The model applies its final norm once, to the *sum* of all parts. What does it divide by there?",
        "Divide each part's `parts @ model.W_U[:, token]` by that one number: for RMSNorm, the root mean square of `parts.sum(0)`.",
    ),
    mistakes={
        "shape": "Return one number for each part: shape [part].",
        "all_tokens": "That is the share in the logits of all tokens. Pick out the one asked for: shape [part].",
        "total": "That is one number, the logit. Return how much of it each part is: shape [part].",
        "each_alone": "The bug is still there: each part is normalised by itself, so that small parts are blown up and the sum is not the logit.",
        "no_norm": "Now there is no norm at all. Those numbers keep the right proportions, but they don't add up to the model's logit.",
        "bias_in_each": "The unembedding's bias is in every share. It belongs to no part: it comes once, besides.",
        "bias_spread": "The unembedding's bias is spread over the shares. It belongs to no part: leave it out, it comes besides.",
        "running_scale": "That divides by the norm of the stream as it was after each part. The model has one final norm, of the whole sum.",
        "logits_so_far": "That is the logit lens after each part: it contains all parts before. A share is of one part only.",
        "running_difference": "That is by how much each part moves the logit lens. It adds up, but a part is also charged for rescaling all those before it, so that the order decides.",
        "left_out": "That takes each part out and looks at what is missing, with a new norm each time. A good experiment, but another one: those don't add up to the logit.",
        "euclidean": "Almost: that divides by the length of the sum. The norm divides by the root *mean* square, which is smaller by a factor of sqrt(d_model).",
        "mean_square": "A square root is missing: the norm divides by the *root* of the mean square.",
        "scale_of_mean": "That is the scale of the mean of the parts; the norm sees their sum.",
        "sum_of_scales": "The scale of a sum is not the sum of the scales: parts point in different directions and cancel.",
        "other_norm": "That is another norm than the model's. RMSNorm divides by the root mean square; LayerNorm subtracts the mean first. `model.cfg.normalization_type` tells.",
        "embedding": "That goes out through the embedding. The direction of a token's logit is its column of W_U.",
        "log_probs": "A softmax takes all tokens of *one* prediction together; a part is no prediction. Stay with logits, in which parts add up.",
        "centred": "That subtracts the mean over the vocabulary. It is often useful, but then the shares add up to the logit less the mean of all logits.",
        "fractions": "Those are fractions of the whole. Return shares in the unit of logits, so that they add up to the logit.",
        "forced": "The sum is right and the shares are wrong: rescaling or shifting until it fits, or taking the rest all to one part, doesn't tell what each part contributes.",
        "ignores_token": "Right for one token, but not for another: use the argument `token`.",
        "ignores_parts": "The same comes back for other parts: use the argument `parts`, not what was computed earlier.",
        "does_not_add_up": "The shares do not add up to the logit less the bias.",
    },
    judge=_judge_shares,
)

EXERCISES = (LENS_BY_HAND, RANK, KL, RIDGE, KEEP_BEST, MARGINAL_BIAS, DECISION_LAYER, FIND_THE_BUG)
