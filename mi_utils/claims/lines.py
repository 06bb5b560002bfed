"""The lines of the tables of claims."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from mi_utils.claims.criteria import Outcome, show

__all__ = ["Claim", "ClaimError", "Trial"]

Part = Literal["claims", "paper", "checks"]
# Of a claim or a check; then of a published figure beside ours.
Verdict = Literal["holds", "differs", "agrees", "larger", "smaller", "not comparable", "not asserted"]
TrialVerdict = Literal["passes", "high floor", "misses", "high floor, misses", "not asserted"]


class ClaimError(AssertionError):
    """A claim came out otherwise than its author expects."""


class _Asserted:
    """What has a verdict and an expected one."""

    verdict: str
    expected: str

    @property
    def as_expected(self) -> bool:
        return self.verdict in ("not asserted", self.expected)


@dataclass(frozen=True)
class Claim(_Asserted):
    """One line of a table of claims.

    Attributes:
        part: the table it stands in.
        statement: what is claimed, as a sentence.
        source: paper and section; ``"identity"`` for what must be true of any model.
        published: the figure in the source, or None.
        ours: the figure measured here.
        criterion: what was required, in words.
        verdict: ``"not asserted"`` where the claim is not about the model in use.
        expected: the verdict that its author expects.
        set_up: what differs between the published experiment and ours.
        explanation: why another verdict than agreement is expected.
        models: names of the models it is about; none: any model.
    """

    part: Part
    statement: str
    source: str
    published: int | float | str | None
    ours: int | float | str
    criterion: str
    verdict: Verdict
    expected: Verdict
    set_up: str = ""
    explanation: str = ""
    models: tuple[str, ...] = ()

    @property
    def complaint(self) -> str:
        """What to tell its author where it is not as expected."""
        return (
            f"{self.statement!r}: expected {self.expected!r}, found {self.verdict!r} "
            f"(published {show(self.published)}, ours {show(self.ours)}, required {self.criterion})"
        )


@dataclass(frozen=True)
class Trial(_Asserted):
    """One line of the trial of a notebook's methods.

    Attributes:
        method: that is tried.
        measure: what the two figures are, with their unit.
        randomised: the figure it gives on a model that learnt nothing: its floor.
        known: the figure it gives on a model whose answer is known.
        criterion: what was required of both, in words.
        refuted_by: the result that would refute what the notebook concludes from the method.
        verdict: ``"high floor"`` where the figure of the randomised model is not what was required,
            ``"misses"`` where that of the known one isn't.
        expected: the verdict that its author expects.
        explanation: why another verdict than ``"passes"`` is expected.
        models: names of the models it is about; none: any model.
    """

    method: str
    measure: str
    randomised: int | float
    known: int | float
    criterion: str
    refuted_by: str
    verdict: TrialVerdict
    expected: TrialVerdict
    explanation: str = ""
    models: tuple[str, ...] = ()

    @property
    def complaint(self) -> str:
        """What to tell its author where it is not as expected."""
        return (
            f"{self.method!r}, {self.measure}: expected {self.expected!r}, found {self.verdict!r} "
            f"(randomised {show(self.randomised)}, known {show(self.known)}, required {self.criterion})"
        )


def own_line(
    part: Part,
    statement: str,
    source: str,
    published: int | float | str | None,
    ours: int | float | str,
    outcome: Outcome,
    expected: Verdict,
    explanation: str,
    models: tuple[str, ...],
) -> Claim:
    """A line that holds or differs."""
    return Claim(
        part=part,
        statement=statement,
        source=source,
        published=published,
        ours=ours,
        criterion=outcome.words,
        verdict="holds" if outcome.side == "met" else "differs",
        expected=expected,
        explanation=explanation,
        models=model_names(models),
    )


def raise_unexpected(lines: Sequence[Claim | Trial]) -> None:
    """Raises :class:`ClaimError` with the complaints of all lines that are not as expected."""
    complaints = [line.complaint for line in lines if not line.as_expected]
    if complaints:
        raise ClaimError("\n".join(complaints))


def as_texts(line: Claim | Trial) -> dict[str, str]:
    """A line as texts."""
    shown = {name: show(value) for name, value in asdict(line).items() if name != "models"}
    return shown | {"models": ", ".join(line.models)}


def stated(name: str, text: str) -> str:
    if not text.strip():
        raise ValueError(f"{name} is empty; it should say something")
    return text


def model_names(models: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(models, str):  # "gpt2" would hold "gpt": a name is looked for in a tuple, not in a word
        raise ValueError(f"models is {models!r}; it should be a tuple of names")
    return tuple(models)


def expected_verdict(expect: str, verdicts: tuple[str, ...], explanation: str) -> str:
    if expect not in verdicts:
        raise ValueError(f"expect is {expect!r}; it should be one of {', '.join(map(repr, verdicts))}")
    if expect != verdicts[0] and not explanation.strip():
        raise ValueError(f"explanation is empty; a line that is expected as {expect!r} should say why")
    return expect
