"""Check of notebook 06 about the roles of heads, told from a table of what each looks at and writes."""

from collections.abc import Mapping
from typing import Any

from mi_utils.grading.answers import kind
from mi_utils.grading.core import Exercise, Mistake

_MOVER, _NEGATIVE, _SUPPRESSOR, _NONE = ROLES_OF_HEADS = (
    "name mover",
    "negative name mover",
    "S suppressor",
    "none",
)
_NAMES = ("IO", "S1", "S2")


def _judge_roles(
    answer: Any, *, table: Mapping[str, Mapping[str, Any]], attends: float = 0.2, copies: float = 0.5
) -> None:
    if not isinstance(answer, Mapping):
        raise Mistake("not_a_dict", f"You gave {kind(answer)}.")
    if set(answer) != set(table):
        raise Mistake("labels", f"The table has {', '.join(table)}; yours are {', '.join(map(str, answer))}.")
    given = {label: _as_role(label, role) for label, role in answer.items()}
    for label, row in table.items():
        head = {name: float(value) for name, value in row.items()}
        role = _role(head, attends, copies)
        if given[label] != role:
            for name, made in _confusions(head, role, given[label], attends):
                if made:
                    raise Mistake(name, _seen(label, head))


def _as_role(label: str, given: Any) -> str:
    """The role as it is written here, however the learner spells it."""
    roles = {role.casefold(): role for role in ROLES_OF_HEADS}
    plain = (
        " ".join(given.casefold().replace("_", " ").replace("-", " ").split())
        if isinstance(given, str)
        else None
    )
    if plain not in roles:
        raise Mistake("not_a_role", f"For {label} you gave {given!r}.")
    return roles[plain]


def _looks_at(head: Mapping[str, float], attends: float) -> str | None:
    """The name that gets most attention, if it gets enough."""
    most = max(_NAMES, key=lambda name: head[name])
    return most if head[most] >= attends else None


def _role(head: Mapping[str, float], attends: float, copies: float) -> str:
    seen = _looks_at(head, attends)
    if seen == "IO" and head["IO logit"] > 0 and head["copies"] >= copies:
        return _MOVER
    if seen == "IO" and head["IO logit"] < 0:
        return _NEGATIVE
    return _SUPPRESSOR if seen in ("S1", "S2") and head["S logit"] < 0 else _NONE


def _confusions(head: Mapping[str, float], role: str, given: str, attends: float) -> list[tuple[str, bool]]:
    """Each mistake, the first that was made first: the role that it is and the one that was given."""
    both, seen = (role, given), _looks_at(head, attends)
    copies_not = seen == "IO" and given == _MOVER and head["IO logit"] > 0
    return [
        ("mover_as_negative", both == (_MOVER, _NEGATIVE)),
        ("mover_as_suppressor", both == (_MOVER, _SUPPRESSOR)),
        ("mover_overlooked", both == (_MOVER, _NONE)),
        ("negative_as_mover", both == (_NEGATIVE, _MOVER)),
        ("negative_as_suppressor", both == (_NEGATIVE, _SUPPRESSOR)),
        ("negative_overlooked", both == (_NEGATIVE, _NONE)),
        ("suppressor_as_mover", both == (_SUPPRESSOR, _MOVER)),
        ("suppressor_as_negative", both == (_SUPPRESSOR, _NEGATIVE)),
        ("suppressor_overlooked", both == (_SUPPRESSOR, _NONE)),
        ("looks_at_no_name", seen is None),
        ("does_not_copy", copies_not),
        ("condition_not_met", True),
    ]


def _seen(label: str, head: Mapping[str, float]) -> str:
    attention = ", ".join(f"{name} {head[name]:.2f}" for name in _NAMES)
    return (
        f"Look again at {label}: attention to {attention}; IO logit {head['IO logit']:+.2f}, "
        f"S logit {head['S logit']:+.2f}, copies {head['copies']:.2f}."
    )


ROLES = Exercise(
    id="06.roles",
    title="Which head does what?",
    minutes=10,
    difficulty=3,
    hints=(
        "Begin with the attention: of the three names, which gets most? And is it enough to speak of?",
        "Then look at the logit of the name it looks at, not at the other one: IO for heads that look at IO, S for heads that look at S.",
        "A head that lowers S raises the logit difference as well as one that raises IO. What it looks at tells the two apart.",
    ),
    mistakes={
        "not_a_dict": "Give a dictionary: the label of each head, and its role.",
        "labels": "Give a role for every head of the table, under its label.",
        "not_a_role": 'The roles are "name mover", "negative name mover", "S suppressor" and "none".',
        "mover_as_negative": "A name mover was taken for its negative: it raises the logit of IO. What it does to S is another matter.",
        "mover_as_suppressor": "A name mover was taken for an S suppressor: of the three names it looks most at IO. That it may lower S besides doesn't make it one.",
        "mover_overlooked": "A name mover was overlooked: it looks at IO enough, raises it, and copies what it sees.",
        "negative_as_mover": "A negative name mover was taken for a name mover. It looks at IO all the same, but *lowers* its logit: look at the sign.",
        "negative_as_suppressor": "A negative name mover was taken for an S suppressor: the name that it looks at and lowers is IO, so that it works against the answer.",
        "negative_overlooked": "A negative name mover was overlooked: it looks at IO enough, and lowers it. It need not copy for that.",
        "suppressor_as_mover": "An S suppressor was taken for a name mover. Both raise the logit difference, and the difference alone can't tell them apart: this one looks at S and lowers it, and brings no name to the end.",
        "suppressor_as_negative": "An S suppressor was taken for a negative name mover. It lowers the name that it looks at, but that is S: it works for the answer, not against it.",
        "suppressor_overlooked": "An S suppressor was overlooked: it looks at S enough, and lowers it. That it does little to IO, and copies nothing, is what one expects of it.",
        "looks_at_no_name": "That head hardly looks at any of the names. Whatever it does to the logits, it doesn't do by reading a name there: none.",
        "does_not_copy": "That head looks at IO and raises it, but given other names its OV circuit doesn't bring them out. So it isn't copying that raises IO: none.",
        "condition_not_met": "That head looks at a name, but doesn't do with it what the role says: none.",
    },
    judge=_judge_roles,
    asks_for="value",
)
