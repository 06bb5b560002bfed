"""Other behaviours whose circuits were published: greater-than, docstrings, copy suppression.

* Greater-than (Hanna et al. 2023): "The war lasted from the year 1739 to the year 17" must go on with a later
  year.
* Docstrings (Heimersheim & Janiak 2023): the documentation of a function names its arguments in their order.
* Copy suppression (McDougall et al. 2023): a head that lowers the logit of the token it attends to.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import patching, prompts

EVENTS = ("war", "siege", "voyage", "project", "trial", "famine")
_WORDS = (
    "load size files last port shape old test view edge mode text group input user state plan path copy date"
)
ARGUMENTS = tuple(_WORDS.split())


def digit_ids(model: TransformerBridge) -> Int[Tensor, "10"]:
    """Ids of the tokens 0 to 9, without a space."""
    ids = [prompts.single_token(model, str(digit)) for digit in range(10)]
    return torch.tensor(ids, device=model.cfg.device)


def years(
    model: TransformerBridge, tens: Sequence[int], events: Sequence[str] = EVENTS
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch"]]:
    """Prompts of greater-than, for each event and each tens digit one, and the tens digit of each.

    The first year ends in 9, so that a later year has a greater tens digit: where digits are tokens of their
    own, the next token decides. Prompts of another token length than most are left out.

    Raises:
        ValueError: no tens or events, or a digit that is not from 0 to 9.
    """
    if not tens or not events:
        raise ValueError("tens and events should each hold at least one entry")
    if not all(0 <= digit <= 9 for digit in tens):
        raise ValueError(f"tens is {list(tens)}; it should hold digits from 0 to 9")
    cases = [
        (f"The {event} lasted from the year 17{digit}9 to the year 17", digit)
        for event in events
        for digit in tens
    ]
    rows = [prompts.encode(model, text) for text, _ in cases]
    usual = Counter(row.shape[1] for row in rows).most_common(1)[0][0]
    kept = [i for i, row in enumerate(rows) if row.shape[1] == usual]
    digits = torch.tensor([cases[i][1] for i in kept], device=model.cfg.device)
    return torch.cat([rows[i] for i in kept]), digits


def greater_than(digit: Int[Tensor, "batch"], ids: Int[Tensor, "10"]) -> patching.engine.Metric:
    """P(digits greater than the given one) - P(all other digits), from logits at the last position.

    Args:
        digit: the tens digit of each prompt's first year.
        ids: tokens of 0 to 9, see ``digit_ids``.
    """

    def metric(logits: Float[Tensor, "*rows batch vocab"]) -> Float[Tensor, "*rows batch"]:
        of_digits = logits.float().softmax(dim=-1)[..., ids]
        greater = torch.arange(10, device=logits.device) > digit[:, None]
        return torch.where(greater, of_digits, -of_digits).sum(dim=-1)

    return metric


def docstrings(
    model: TransformerBridge, count: int, *, seed: int = 0
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch 3"]]:
    """Functions with three random arguments, whose documentation has reached the third; and the arguments'
    ids.

    Raises:
        ValueError: no prompts asked for, or fewer than three arguments that are one token each.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it should be at least 1")
    words = [word for word in ARGUMENTS if prompts.is_single(model, f" {word}")]
    if len(words) < 3:
        raise ValueError(
            f"{model.cfg.model_name} has {len(words)} arguments that are one token; 3 are needed"
        )
    generator, texts, arguments = torch.Generator().manual_seed(seed), [], []
    for _ in range(count):
        a, b, c = (words[i] for i in torch.randperm(len(words), generator=generator)[:3])
        texts.append(
            f'def run(self, {a}, {b}, {c}):\n    """First line.\n\n    :param {a}: a number\n'
            f"    :param {b}: a number\n    :param"
        )
        arguments.append([prompts.single_token(model, f" {word}") for word in (a, b, c)])
    return prompts.encode(model, texts), torch.tensor(arguments, device=model.cfg.device)


def suppression_score(ov: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Share of tokens that a head lowers most of all when it attends to them; ``1 / n`` by chance.

    Args:
        ov: row = token attended to, column = what that adds to the logit of each, as
            ``heads.ov_circuit`` gives.
    """
    own = torch.arange(len(ov), device=ov.device)
    return (ov.argmin(dim=-1) == own).float().mean()
