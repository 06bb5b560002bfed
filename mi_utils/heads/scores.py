"""What attention heads look at: scores from their patterns on repeated random tokens, classes, and ablation
of sets.

The input is a start token and then the same ``period`` random tokens twice: position 0 is the start token,
``1 .. period`` the first copy, ``period + 1 .. 2 period`` the second. Scores are mean attention weights, from
0 to 1, over the queries of the second copy; for the previous token over all queries that have one. The
entropy, in nats, is no attention weight: it is kept apart. Sources: Olsson et al. 2022 (prefix matching, the
in-context score), Wang et al. 2023 (duplicate tokens).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models, prompts
from mi_utils.models.run import Head

# Scores that are attention weights, and so may be compared. "neighbour" is the token two back: a control.
WEIGHTS = ("previous", "duplicate", "induction", "first", "neighbour")
CLASSES = ("previous", "duplicate", "induction", "first")


def offsets(period: int) -> dict[str, int]:
    """How many positions back a query of the second copy finds what each kind of head looks for."""
    return {"previous": 1, "neighbour": 2, "duplicate": period, "induction": period - 1}


def ordinary_tokens(model: TransformerBridge, *, least_letters: int = 2) -> Int[Tensor, "_"]:
    """Ids of tokens that are a space and then letters: words, to draw random sequences from.

    Special tokens, pieces of bytes and digits behave unlike words, and some were hardly ever seen in
    training. Where the vocabulary has fewer than a hundred such tokens, or the model has no tokenizer, all
    but the start token are returned.
    """
    if model.tokenizer is None:
        return torch.arange(1, model.cfg.d_vocab)
    known = sorted((i, token) for token, i in model.tokenizer.get_vocab().items() if i < model.cfg.d_vocab)
    found = [
        i for i, token in known if token[:1] in "Ġ▁" and token[1:].isalpha() and len(token) > least_letters
    ]
    start = prompts.start_token(model)
    return torch.tensor(found if len(found) >= 100 else [i for i in range(model.cfg.d_vocab) if i != start])


def repeated_tokens(
    candidates: Int[Tensor, "n"],
    period: int,
    *,
    batch: int,
    start: int,
    generator: torch.Generator,
    repeat: bool = True,
) -> Int[Tensor, "batch pos"]:
    """Rows of a start token and ``period`` random tokens twice; the tokens of a row differ from one another.

    Args:
        candidates: ids to draw from.
        period: tokens in a copy.
        start: id at position 0.
        generator: all randomness comes from it.
        repeat: ``False`` makes the control: as long, but all ``2 * period`` tokens of a row are different.

    Raises:
        ValueError: a period below 3, no rows, or too few candidates.
    """
    if period < 3:  # below, "two back" and "the follower" fall together
        raise ValueError(f"period is {period}; it should be at least 3")
    if batch < 1:
        raise ValueError(f"batch is {batch}; it should be at least 1")
    needed = period if repeat else 2 * period
    pool = candidates[candidates != start].unique()
    if len(pool) < needed:
        raise ValueError(
            f"candidates has {len(pool)} different ids beside the start token; {needed} are needed"
        )
    rows = torch.stack([pool[torch.randperm(len(pool), generator=generator)[:needed]] for _ in range(batch)])
    body = torch.cat([rows, rows], dim=1) if repeat else rows
    return torch.cat([torch.full((batch, 1), start), body], dim=1)


def attention_back(
    pattern: Float[Tensor, "*heads query key"], offset: int, *, first_query: int
) -> Float[Tensor, "*heads"]:
    """Mean attention to the token ``offset`` positions back, over the queries from ``first_query`` on.

    Raises:
        ValueError: an offset that leads a query out of the sequence, or no query at all.
    """
    length = pattern.shape[-1]
    if not 0 <= first_query < length:
        raise ValueError(f"first_query is {first_query}; it should be from 0 to {length - 1}")
    if not 0 <= offset <= first_query:
        raise ValueError(
            f"offset is {offset}; for queries from {first_query} on it should be from 0 to {first_query}"
        )
    return pattern.diagonal(-offset, -2, -1)[..., first_query - offset :].mean(dim=-1)


def pattern_scores(
    pattern: Float[Tensor, "*heads query key"], period: int
) -> dict[str, Float[Tensor, "*heads"]]:
    """The scores of ``WEIGHTS``, and the entropy in nats.

    Over the queries of the second copy, but for "previous" and "neighbour": over all queries from position 3
    on, for which neither is the start token.

    Raises:
        ValueError: a pattern that is not ``2 * period + 1`` long, or a period below 3.
    """
    if period < 3:
        raise ValueError(f"period is {period}; it should be at least 3")
    if tuple(pattern.shape[-2:]) != (2 * period + 1, 2 * period + 1):
        wanted = f"a start token and two copies, so {2 * period + 1} queries and keys"
        raise ValueError(
            f"pattern has {pattern.shape[-2]} queries and {pattern.shape[-1]} keys; it should have {wanted}"
        )
    scores = {
        name: attention_back(pattern, back, first_query=3 if back <= 2 else period + 1)
        for name, back in offsets(period).items()
    }
    second = pattern[..., period + 1 :, :]
    return scores | {
        "first": second[..., 0].mean(dim=-1),
        "entropy": torch.special.entr(second).sum(dim=-1).mean(dim=-1),
    }


@dataclass(frozen=True)
class HeadScores:
    """Scores of all heads on each of several sequences: name -> [sequence layer head]."""

    values: Mapping[str, Float[Tensor, "sequence layer head"]]
    period: int

    def mean(self, name: str) -> Float[Tensor, "layer head"]:
        """Mean over the sequences."""
        return self._of(name).mean(dim=0)

    def error(self, name: str) -> Float[Tensor, "layer head"]:
        """Standard error of that mean, from the spread over sequences; NaN where there is only one."""
        values = self._of(name)
        return (
            values.std(dim=0) / len(values) ** 0.5
            if len(values) > 1
            else torch.full_like(values[0], torch.nan)
        )

    def _of(self, name: str) -> Float[Tensor, "sequence layer head"]:
        if name not in self.values:
            raise ValueError(f"name is {name!r}; it should be one of {', '.join(self.values)}")
        return self.values[name]


@torch.no_grad()
def score_heads(model: TransformerBridge, tokens: Int[Tensor, "batch pos"], period: int) -> HeadScores:
    """Scores of every head on sequences as ``repeated_tokens`` makes them; patterns are not kept.

    Raises:
        ValueError: no sequences, ones that are not ``2 * period + 1`` long or longer than the model's
            context.
    """
    if tokens.shape[0] == 0 or tokens.shape[1] != 2 * period + 1:
        wanted = f"at least one row of {2 * period + 1} tokens (a start token and {period} tokens twice)"
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}; it should be {wanted}")
    models.check_length(model, tokens)
    found: list[dict[str, Tensor]] = []
    layers = model.cfg.n_layers
    look = models.look_only(lambda pattern: found.append(pattern_scores(pattern, period)))
    reading = [(models.hook_name(model, "pattern", layer), look) for layer in range(layers)]
    batches = tokens.split(models.rows_at_once(model))
    for rows in batches:
        models.run_for_hooks(model, rows, reading)
    by_batch = [found[i * layers : (i + 1) * layers] for i in range(len(batches))]
    return HeadScores(
        {
            name: torch.cat(
                [torch.stack([scores[name] for scores in batch], dim=1) for batch in by_batch]
            ).cpu()
            for name in found[0]
        },
        period,
    )


def null_of(control: HeadScores) -> HeadScores:
    """What a head scores without what defines the class, from its scores on sequences that do not repeat.

    For duplicates and induction: its attention to the same distance, where now nothing is to be found. For
    the previous token: its attention two back (a head that prefers whatever is near attends to both). For the
    first
    position: what even attention would give.
    """
    queries = torch.arange(control.period + 1, 2 * control.period + 1)
    even = (1 / (queries + 1)).mean().item()
    return HeadScores(
        {
            "previous": control.values["neighbour"],
            "duplicate": control.values["duplicate"],
            "induction": control.values["induction"],
            "first": torch.full_like(control.values["first"], even),
        },
        control.period,
    )


def largest_null(null: HeadScores) -> float:
    """The largest null score of any head in any class that is measured: as a threshold, it lets no null score
    pass.

    The null of "first" is no measurement, and counts for nothing here.
    """
    return max(null.mean(name).max().item() for name in CLASSES if name != "first")


def classify(scores: HeadScores, null: HeadScores, *, threshold: float | int) -> dict[str, list[Head]]:
    """The heads of each class: those whose score exceeds their null by more than ``threshold``, the largest
    first.

    A head may be in several classes, or in none. Scores of different kinds are never compared with one
    another.

    Raises:
        ValueError: a threshold that is not between 0 and 1.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}; it should be a share of attention, from 0 to below 1")
    return {
        name: top_heads(
            (scores.mean(name) - null.mean(name)).where(
                scores.mean(name) - null.mean(name) > threshold, -torch.inf
            )
        )
        for name in CLASSES
    }


def top_heads(values: Float[Tensor, "layer head"], count: int | None = None) -> list[Head]:
    """The heads with the largest values, in order; those of minus infinity are left out.

    Raises:
        ValueError: a count below 1 or above the number of heads.
    """
    if count is not None and not 1 <= count <= values.numel():
        raise ValueError(f"count is {count}; it should be from 1 to {values.numel()}")
    order = values.flatten().argsort(descending=True, stable=True)[:count]
    return [divmod(i, values.shape[1]) for i in order.tolist() if values.flatten()[i] > -torch.inf]


def matched_random(heads: Sequence[Head], top: Sequence[Head], generator: torch.Generator) -> list[Head]:
    """As many heads as ``top`` has, drawn from ``heads`` without those and without replacement.

    Raises:
        ValueError: ``top`` is empty, or too few heads are left.
    """
    left = [head for head in heads if head not in set(top)]
    if not top:
        raise ValueError("top is empty; it should hold at least one head")
    if len(left) < len(top):
        raise ValueError(f"heads has {len(left)} that are not in top; {len(top)} are needed")
    return [left[i] for i in torch.randperm(len(left), generator=generator)[: len(top)].tolist()]
