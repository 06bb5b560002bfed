"""The tables of claims as a notebook shows them: figures for people, in plain text only the conclusions."""

from dataclasses import dataclass

from mi_utils.claims.criteria import show
from mi_utils.claims.lines import Claim, Trial
from mi_utils.plots import html
from mi_utils.plots.tables import table

_LEFT = "text-align:left"
_FIRST_FORM = """\
<table><thead><tr>
{%- for name in ("claim", "source", "published", "here", "required", "verdict") -%}
<th style="{{ left }}">{{ name }}</th>
{%- endfor -%}
</tr></thead><tbody>
{%- for line, mark in lines -%}
<tr><td style="{{ left }}">{{ line.statement }}
{%- if line.explanation %}<br><small>{{ line.explanation }}</small>{% endif -%}
</td>
{%- for cell in (line.source, show(line.published), show(line.ours), line.criterion, mark) -%}
<td style="{{ left }}">{{ cell }}</td>
{%- endfor -%}
</tr>
{%- endfor -%}
</tbody></table>"""
_FOLDED = """\
<details>
<summary style="cursor:pointer">{{ summary }}</summary>
{{ table }}
</details>"""
_MARKS = {
    "holds": "✓ holds",
    "agrees": "✓ agrees",
    "passes": "✓ passes",
    "larger": "↑ larger",
    "smaller": "↓ smaller",
    "differs": "≠ differs",
    "not comparable": "· not comparable",
    "not asserted": "· not asserted",
}


@dataclass(frozen=True)
class ClaimsTable:
    """The one table of a notebook of the first form."""

    lines: tuple[Claim, ...]

    def __repr__(self) -> str:
        said = {"holds": "holds", "differs": "differs, as expected", "not asserted": "not asserted here"}
        return "\n".join(f"{said[line.verdict]}: {line.statement}" for line in self.lines)

    def _repr_html_(self) -> str:
        expected = {"differs": "≠ differs, as expected"}
        marked = [(line, (_MARKS | expected)[line.verdict]) for line in self.lines]
        return html.render(_FIRST_FORM, lines=marked, left=_LEFT, show=show)


@dataclass(frozen=True, repr=False)
class _Conclusions:
    """Lines whose plain text is a verdict and a statement each."""

    lines: tuple[Claim, ...]

    def __repr__(self) -> str:
        return "\n".join(f"{line.verdict}: {line.statement}" for line in self.lines)


class PaperTable(_Conclusions):
    """*Paper and here*: published figures beside ours, each with its verdict word."""

    def _repr_html_(self) -> str:
        shown = table(
            {
                "claim": [line.statement for line in self.lines],
                "source": [line.source for line in self.lines],
                "published": [show(line.published) for line in self.lines],
                "here": [show(line.ours) for line in self.lines],
                "what differs in the set-up": [line.set_up for line in self.lines],
                "required": [line.criterion for line in self.lines],
                "verdict": [_verdict(line) for line in self.lines],
            }
        )
        return shown._repr_html_()


class ChecksTable(_Conclusions):
    """Identities, controls and bounds of our own, folded: one opens it to read them."""

    def _repr_html_(self) -> str:
        shown = table(
            {
                "check": [line.statement for line in self.lines],
                "kind": [line.source for line in self.lines],
                "here": [show(line.ours) for line in self.lines],
                "required": [line.criterion for line in self.lines],
                "verdict": [_verdict(line) for line in self.lines],
            }
        )
        held = sum(line.verdict == "holds" for line in self.lines)
        counts = f"{held} hold{'s' * (held == 1)}"
        if held < len(self.lines):
            counts += f", {len(self.lines) - held} not asserted here"
        folded = html.render(_FOLDED, summary=f"Checks: {counts}", table=shown.html())
        return str(html.frame(folded))


@dataclass(frozen=True)
class TrialTable:
    """The trial of a notebook's methods: its floor, a known answer, and what would refute it."""

    lines: tuple[Trial, ...]

    def __repr__(self) -> str:
        return "\n".join(f"{line.verdict}: {line.method}, {line.measure}" for line in self.lines)

    def _repr_html_(self) -> str:
        shown = table(
            {
                "method": [line.method for line in self.lines],
                "what is measured": [line.measure for line in self.lines],
                "randomised model": [show(line.randomised) for line in self.lines],
                "known answer": [show(line.known) for line in self.lines],
                "required": [line.criterion for line in self.lines],
                "refuted by": [line.refuted_by for line in self.lines],
                "verdict": [_verdict(line) for line in self.lines],
            },
            index="method",
        )
        return shown._repr_html_()


def _verdict(line: Claim | Trial) -> str:
    mark = _MARKS.get(line.verdict, f"≠ {line.verdict}")
    return f"{mark}\n{line.explanation}" if line.explanation else mark
