"""The claims of one notebook, each of them an assertion: published results beside ours, checks, trials.

A line says what was published, what was measured here, what was required, for which models it is asserted
and which verdict its author expects. Any other verdict is an error, so that a notebook can't quietly show a
result that no longer holds; an expected disagreement is stated, not hidden.
"""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mi_utils.claims.criteria import Number, Scalar, as_figure, as_number, judge
from mi_utils.claims.lines import (
    Claim,
    Part,
    Trial,
    TrialVerdict,
    as_texts,
    expected_verdict,
    model_names,
    own_line,
    raise_unexpected,
    stated,
)
from mi_utils.claims.published import as_published, compare_with_published, set_beside
from mi_utils.claims.tables import ChecksTable, ClaimsTable, PaperTable, TrialTable

_OF_A_CLAIM = ("holds", "differs")
_OF_A_PUBLISHED_FIGURE = ("agrees", "larger", "smaller", "differs", "not comparable")
_OF_A_TRIAL = ("passes", "high floor", "misses", "high floor, misses")


@dataclass
class Claims:
    """The claims of one notebook.

    Args:
        notebook: its number, ``"03"``.
        model: name of the model in use; claims about other models are shown as *not asserted*.

    Example::

        table = claims.Claims("03", model=MODEL)
        table.paper(
            "the norm of the residual stream grows with depth",
            source="Author et al. 2024, fig. 2",
            published=6.0,
            ours=growth,
            at_least=3,
            at_most=12,
            set_up="another model, and our own text",
        )
        table.paper_table()
        table.check("the last layer's lens is the model itself", source="identity", ours=gap, at_most=1e-4)
        table.checks_table()

    Notebooks that do not say ``form = 2`` in their metadata have one table of all lines instead, with
    :meth:`add` and :meth:`table`.
    """

    notebook: str
    model: str
    lines: list[Claim] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def paper(
        self,
        statement: str,
        *,
        source: str,
        published: Number | str,
        ours: Number | str,
        set_up: str,
        tolerance: Number | None = None,
        at_least: Number | None = None,
        at_most: Number | None = None,
        holds: bool | Scalar | None = None,
        expect: Literal["agrees", "larger", "smaller", "differs", "not comparable"] = "agrees",
        explanation: str = "",
        models: tuple[str, ...] = (),
    ) -> Claim:
        """Add a line to *Paper and here*: a published figure beside ours. Exactly one criterion is given.

        The verdict is ``"agrees"`` where the criterion is met, else ``"larger"`` or ``"smaller"`` where ours
        lies beyond a range, else ``"differs"``. Where the two figures do not measure the same thing, say
        ``expect="not comparable"``: the criterion is then about ours alone, and still asserted.

        Args:
            statement: what is claimed, as a sentence.
            source: paper and section, figure or table.
            published: the figure there, a number or a few words.
            ours: what was measured here; a scalar of numpy or torch is as good as a number.
            set_up: what differs between the published experiment and ours: model, data, definition.
            tolerance: agreement is to be within this of ``published`` (both numbers).
            at_least, at_most: agreement is to lie within these bounds (one or both), as ``published`` does.
            holds: a comparison already made (an ordering, a set), as a plain bool.
            expect: another verdict than agreement that is known; then say why in ``explanation``.
            models: names of the models it is about; empty means any model.

        Raises:
            ValueError: nothing published, no criterion or several, a number that is not finite, bounds that
                the published figure itself is not within, a missing explanation.
        """
        self._refuse_two_forms("claims")
        ours, published = as_figure("ours", ours), as_published(published)
        compared = compare_with_published if expect != "not comparable" else set_beside
        verdict, words = compared(
            ours, published, tolerance=tolerance, at_least=at_least, at_most=at_most, holds=holds
        )
        return self._keep(
            Claim(
                part="paper",
                statement=statement,
                source=source,
                published=published,
                ours=ours,
                criterion=words,
                verdict=verdict,
                expected=expected_verdict(expect, _OF_A_PUBLISHED_FIGURE, explanation),
                set_up=stated("set_up", set_up),
                explanation=explanation,
                models=model_names(models),
            )
        )

    def check(
        self,
        statement: str,
        *,
        source: str,
        ours: Number | str,
        at_least: Number | None = None,
        at_most: Number | None = None,
        holds: bool | Scalar | None = None,
        models: tuple[str, ...] = (),
    ) -> Claim:
        """Add a line to *Checks*: an identity, a control or a bound of our own. It must hold.

        Args:
            statement: what is claimed, as a sentence.
            source: ``"identity"`` for what must be true of any model; else the control or where the bound is
                from.
            ours: what was measured here.
            at_least, at_most, holds: the criterion, as in :meth:`paper`.
            models: names of the models it is about; empty means any model.

        Raises:
            ValueError: no criterion or several, a number that is not finite, an empty text.
        """
        self._refuse_two_forms("claims")
        ours = as_figure("ours", ours)
        outcome = judge(ours, at_least=at_least, at_most=at_most, holds=holds)
        return self._keep(own_line("checks", statement, source, None, ours, outcome, "holds", "", models))

    def trial(
        self,
        method: str,
        *,
        measure: str,
        randomised: Number,
        known: Number,
        refuted_by: str,
        randomised_at_least: Number | None = None,
        randomised_at_most: Number | None = None,
        known_at_least: Number | None = None,
        known_at_most: Number | None = None,
        expect: TrialVerdict = "passes",
        explanation: str = "",
        models: tuple[str, ...] = (),
    ) -> Trial:
        """Add a line to the trial of the notebook's methods.

        Args:
            method: that is tried.
            measure: what the two figures are, with their unit.
            randomised: the figure it gives on a model that learnt nothing (its floor).
            known: the figure it gives on a model whose answer is known; it must find that answer.
            refuted_by: the result that would refute what the notebook concludes.
            randomised_at_least, randomised_at_most: what is required of the floor (one or both).
            known_at_least, known_at_most: what is required on the known model (one or both).
            expect: another verdict than ``"passes"`` that is known; then say why in ``explanation``.
            models: names of the models it is about; empty means any model.

        Raises:
            ValueError: a bound missing on either side, a number that is not finite, an empty text.
        """
        figures = {"randomised": as_number("randomised", randomised), "known": as_number("known", known)}
        bounds = {
            "randomised": dict(at_least=randomised_at_least, at_most=randomised_at_most),
            "known": dict(at_least=known_at_least, at_most=known_at_most),
        }
        outcomes = {}
        for name, given in bounds.items():
            if given["at_least"] is None and given["at_most"] is None:
                raise ValueError(f"{name} has no bound; give {name}_at_least, {name}_at_most or both")
            outcomes[name] = judge(figures[name], **given)
        faults = ["high floor"] * (outcomes["randomised"].side != "met")
        faults += ["misses"] * (outcomes["known"].side != "met")
        models = model_names(models)
        line = Trial(
            method=stated("method", method),
            measure=stated("measure", measure),
            randomised=figures["randomised"],
            known=figures["known"],
            criterion=f"randomised {outcomes['randomised'].words}, known {outcomes['known'].words}",
            refuted_by=stated("refuted_by", refuted_by),
            verdict=self._asserted(", ".join(faults) or "passes", models),
            expected=expected_verdict(expect, _OF_A_TRIAL, explanation),
            explanation=explanation,
            models=models,
        )
        if any(line.method == other.method and line.measure == other.measure for other in self.trials):
            raise ValueError(f"method is {method!r}, whose {measure!r} is already in the trial")
        self.trials.append(line)
        return line

    def add(
        self,
        statement: str,
        *,
        source: str,
        ours: Number | str,
        published: Number | str | None = None,
        tolerance: Number | None = None,
        at_least: Number | None = None,
        at_most: Number | None = None,
        holds: bool | Scalar | None = None,
        models: tuple[str, ...] = (),
        expect: Literal["holds", "differs"] = "holds",
        explanation: str = "",
    ) -> Claim:
        """Add a line to the one table of a notebook of the first form. Exactly one criterion is given.

        Args:
            statement: what is claimed, as a sentence.
            source: paper and section, or ``"identity"`` for what must be true of any model.
            ours: what was measured here; a scalar of numpy or torch is as good as a number.
            published: the figure in the source; ``None`` where there is none (then say so in ``source``).
            tolerance: it holds when ``ours`` is within this of ``published`` (both numbers).
            at_least, at_most: it holds when ``ours`` lies within these bounds (one or both).
            holds: a comparison already made (an ordering, a set), as a plain bool.
            models: names of the models it is about; empty means any model.
            expect: ``"differs"`` for a published result that is known not to carry over; then say why in
                ``explanation``, which is shown.

        Raises:
            ValueError: no criterion or several, a number that is not finite, a missing explanation.
        """
        self._refuse_two_forms("paper", "checks")
        ours = as_figure("ours", ours)
        published = None if published is None else as_figure("published", published)
        outcome = judge(ours, published, tolerance=tolerance, at_least=at_least, at_most=at_most, holds=holds)
        expected = expected_verdict(expect, _OF_A_CLAIM, explanation)
        return self._keep(
            own_line("claims", statement, source, published, ours, outcome, expected, explanation, models)
        )

    def table(self) -> ClaimsTable:
        """The one table of a notebook of the first form, once every line came out as expected.

        Where ``MI_CLAIMS_DIR`` is set, the lines are also written there, as ``<notebook>.json``; so do the
        other tables.

        Raises:
            ValueError: there are no claims.
            ClaimError: a verdict is not the expected one; the message lists all that are not.
        """
        return ClaimsTable(self._asserted_lines("claims", "there are no claims; add at least one"))

    def paper_table(self) -> PaperTable:
        """*Paper and here*, once every line came out as expected.

        Raises:
            ValueError: nothing published stands beside ours.
            ClaimError: a verdict is not the expected one; the message lists all that are not.
        """
        return PaperTable(self._asserted_lines("paper", "there is no published figure; add one by 'paper'"))

    def checks_table(self) -> ChecksTable:
        """The checks, folded, once all of them hold.

        Raises:
            ValueError: there are no checks.
            ClaimError: a check does not hold; the message lists all that don't.
        """
        return ChecksTable(self._asserted_lines("checks", "there are no checks; add one by 'check'"))

    def trial_table(self) -> TrialTable:
        """The trial of the notebook's methods, once every line came out as expected.

        Raises:
            ValueError: nothing was tried.
            ClaimError: a verdict is not the expected one; the message lists all that are not.
        """
        if not self.trials:
            raise ValueError("nothing was tried; add at least one method by 'trial'")
        self._write()
        raise_unexpected(self.trials)
        return TrialTable(tuple(self.trials))

    def _asserted_lines(self, part: Part, if_none: str) -> tuple[Claim, ...]:
        lines = tuple(line for line in self.lines if line.part == part)
        if not lines:
            raise ValueError(if_none)
        self._write()
        raise_unexpected(lines)
        return lines

    def _keep(self, line: Claim) -> Claim:
        """Add a line, as not asserted where it is about other models."""
        stated("statement", line.statement)
        stated("source", line.source)
        if any(line.statement == other.statement for other in self.lines):
            raise ValueError(f"statement is {line.statement!r}, which is already in the table")
        kept = replace(line, verdict=self._asserted(line.verdict, line.models))
        self.lines.append(kept)
        return kept

    def _asserted(self, verdict: str, models: tuple[str, ...]) -> str:
        return "not asserted" if models and self.model not in models else verdict

    def _refuse_two_forms(self, *others: Part) -> None:
        if any(line.part in others for line in self.lines):
            raise ValueError(
                "lines of both forms in one table; use 'paper' and 'check', or in the first form 'add'"
            )

    def _write(self) -> None:
        """Write all lines where ``MI_CLAIMS_DIR`` says, for the results of a run."""
        folder = os.environ.get("MI_CLAIMS_DIR")
        if not folder:
            return
        content = {
            "notebook": self.notebook,
            "model": self.model,
            "claims": [as_texts(line) | {"tolerance": line.criterion} for line in self.lines],
            "trials": [as_texts(line) for line in self.trials],
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (Path(folder) / f"{self.notebook}.json").write_text(text, "utf-8")
