"""Checks of notebook 03 about KL divergence: token by token, and of what is wrong everywhere."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mi_utils.grading.answers import kind, same
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import seeded

# ------------------------------------------------------------------ 03.kl: KL from the model


def _kl(final: Tensor, lens: Tensor) -> Tensor:
    """Of log-probabilities."""
    return (final.exp() * (final - lens)).sum(-1)


def _judge_kl(answer: Callable) -> None:
    generator = seeded()
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

# ------------------------------------------------------------------ 03.marginal_bias: what is wrong everywhere


def _judge_marginal(answer: Callable) -> None:
    generator = seeded()
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
