"""What a run of the series found: claims, minutes and peak memory of each notebook, as text and as data."""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mi_utils import data_files
from mi_utils.plots import html
from mi_workshop.kernels import Run
from mi_workshop.pages import document, title

GIB = 2**30
# The first page of a run: its notebooks, with links to their pages.
_INDEX = """\
<h1>Mechanistic interpretability, hands on</h1>
<p>The notebooks as they ran on {{ machine }}; every claim and its verdict:
<a href="RESULTS.md">RESULTS.md</a>.</p>
<table>
<thead><tr><th scope="col">notebook</th><th scope="col" class="number">minutes</th>
<th scope="col" class="number">memory</th><th scope="col">result and claims</th></tr></thead>
<tbody>
{% for found in results %}
<tr><td>{{ found.name[:2] }} <a href="{{ found.name }}.html">{{ found.title }}</a></td>
<td class="number">{{ "%.1f" % found.minutes }}</td>
<td class="number">{{ "%.1f" % found.peak_gib }} GiB</td>
<td class="{{ "failed" if found.error else "passed" }}">{{ found.verdict }}</td></tr>
{% endfor %}
</tbody>
</table>"""
_VERDICTS = ("holds", "agrees", "larger", "smaller", "differs", "not comparable", "not asserted")
_HEADINGS = {"claims": "", "paper": "Paper and here", "checks": "Checks"}
_OF_A_CLAIM = ("part", "statement", "source", "published", "ours", "verdict", "expected", "set_up")
_OF_A_TRIAL = ("method", "measure", "randomised", "known", "criterion", "refuted_by", "verdict", "expected")
_PACKAGES = ("torch", "transformer-lens", "sae-lens", "transformers", "numpy", "plotly", "ipykernel")


@dataclass(frozen=True)
class Result:
    """What one run of one notebook found.

    Attributes:
        name: of the notebook, such as ``00_start_here``.
        title: its heading.
        minutes: wall-clock time.
        peak_gib: peak resident memory in GiB (2**30 bytes), as ``kernels.Run`` counts it.
        error: what failed, or None.
        model: the model its claims are about, or nothing.
        claims: the lines of its table of claims, as ``mi_utils.claims`` writes them.
        when: the day of the run, ``YYYY-MM-DD``.
        trials: the lines of the trial of its methods, as ``mi_utils.claims`` writes them.
    """

    name: str
    title: str
    minutes: float
    peak_gib: float
    error: str | None
    model: str
    claims: tuple[Mapping[str, str], ...]
    when: str
    trials: tuple[Mapping[str, str], ...] = ()

    @property
    def verdict(self) -> str:
        """In words: passed or failed, and how many claims hold, agree, differ or are not asserted."""
        verdicts = [claim["verdict"] for claim in self.claims]
        plural = {"holds": "hold", "agrees": "agree", "differs": "differ"}
        shown = []
        for word in _VERDICTS:
            count = verdicts.count(word)
            if count:
                shown.append(f"{count} {word if count == 1 else plural.get(word, word)}")
        return ", ".join(["failed" if self.error else "passed", *shown])


def result(run: Run) -> Result:
    """The result of a run; reads the file of claims the notebook wrote, and takes a bad one for a failure."""
    model, claims, trials, error = "", (), (), run.error
    if run.claims:
        try:
            model, claims, trials = _claims(run.claims)
        except ValueError as bad:
            error = "\n".join(filter(None, [error, str(bad)]))
    return Result(
        name=run.notebook.stem,
        title=title(run.executed) or run.notebook.stem,
        minutes=round(run.seconds / 60, 2),
        peak_gib=round(run.peak_bytes / GIB, 2),
        error=error,
        model=model,
        claims=claims,
        when=datetime.date.today().isoformat(),
        trials=trials,
    )


def _claims(path: Path) -> tuple[str, tuple[Mapping[str, str], ...], tuple[Mapping[str, str], ...]]:
    """The model that a file of claims is about, its claims and its trials."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        claims = tuple({key: str(claim[key]) for key in _OF_A_CLAIM} for claim in content["claims"])
        trials = tuple({key: str(trial[key]) for key in _OF_A_TRIAL} for trial in content["trials"])
        return str(content["model"]), claims, trials
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not a table of claims: {type(error).__name__} {error}") from error


def machine() -> str:
    """This machine in words: cores this process may use, memory, architecture."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {psutil.virtual_memory().total / GIB:.0f} GiB, {platform.machine()}"


def packages() -> dict[str, str]:
    """Versions of Python and of the main packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def to_json(results: Iterable[Result]) -> str:
    """The results and what they ran on, as JSON."""
    notebooks = [asdict(found) for found in results]
    content = {"machine": machine(), "packages": packages(), "notebooks": notebooks}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Result]:
    """The results that ``to_json`` wrote.

    Raises:
        ValueError: ``text`` is something else.
    """
    try:
        notebooks = json.loads(text)["notebooks"]
        lists = [{name: tuple(item[name]) for name in ("claims", "trials")} for item in notebooks]
        return [Result(**item | found) for item, found in zip(notebooks, lists, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"text is not the measurements of a run: {type(error).__name__} {error}") from error


def to_markdown(results: Iterable[Result]) -> str:
    """``RESULTS.md``: a table of the notebooks, then the claims of each."""
    results = list(results)
    versions = ", ".join(f"{name} {version}" for name, version in packages().items())
    total = sum(found.minutes for found in results)
    today = datetime.date.today().isoformat()
    head = ["# Results", "", f"Written {today} on {machine()}.", "", f"{versions}.", ""]
    cost = [(f"{found.minutes:.1f}", f"{found.peak_gib:.1f} GiB", found.when) for found in results]
    rows = [(r.name, r.title, r.verdict, *c) for r, c in zip(results, cost, strict=True)]
    lines = head + table(("notebook", "title", "result", "minutes", "peak memory", "day"), rows)
    lines += ["", f"{total:.1f} minutes in all."]
    for found in results:
        lines += ["", *_section(found)]
    return "\n".join(lines) + "\n"


def to_html(results: Iterable[Result]) -> str:
    """``index.html``: a table of the notebooks with links to their pages, and the claims behind a link."""
    body = html.render(_INDEX, machine=machine(), results=list(results))
    return document("Mechanistic interpretability, hands on", body)


def _section(found: Result) -> list[str]:
    lines = [f"## {found.name}: {cell(found.title)}", ""]
    if found.error:
        fence = "`" * 8  # longer than any run of backquotes in an error
        lines += ["It failed:", "", f"{fence}text", found.error, fence, ""]
    if not found.claims:
        return lines + ["No table of claims."]
    lines += [f"Model: {cell(found.model)}", ""]
    for part, heading in _HEADINGS.items():
        claims = [claim for claim in found.claims if claim["part"] == part]
        if claims:
            lines += [f"### {heading}", ""] * bool(heading) + [*_part(part, claims), ""]
    if found.trials:
        rows = [
            (
                t["method"],
                t["measure"],
                t["randomised"],
                t["known"],
                t["criterion"],
                t["refuted_by"],
                _verdict(t),
            )
            for t in found.trials
        ]
        head = ("method", "measure", "randomised model", "known answer", "required", "refuted by", "verdict")
        lines += ["### Trial of the methods", "", *table(head, rows), ""]
    return lines[:-1]


def _part(part: str, claims: Iterable[Mapping[str, str]]) -> list[str]:
    """One table of claims."""
    if part == "paper":
        head = ("claim", "source", "published", "ours", "what differs in the set-up", "verdict")
        rows = [
            (c["statement"], c["source"], c["published"], c["ours"], c["set_up"], _verdict(c)) for c in claims
        ]
    elif part == "checks":
        head = ("check", "kind", "ours", "verdict")
        rows = [(c["statement"], c["source"], c["ours"], _verdict(c)) for c in claims]
    else:
        head = ("claim", "source", "published", "ours", "verdict")
        rows = [(c["statement"], c["source"], c["published"], c["ours"], _verdict(c)) for c in claims]
    return table(head, rows)


def _verdict(claim: Mapping[str, str]) -> str:
    verdict, expected = claim["verdict"], claim["expected"]
    usual = ("holds", "agrees", "passes")
    if verdict == "not asserted" or verdict == expected and verdict in usual:
        return verdict
    return f"{verdict}, as expected" if verdict == expected else f"{verdict}, expected: {expected}"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    data_files.write(text, path)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table of plain text."""
    head = list(head)
    body = [f"| {' | '.join(cell(text) for text in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]


def cell(text: str) -> str:
    """Plain text as it stands in a cell of a Markdown table: on one line, its pipes and tags escaped."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())
