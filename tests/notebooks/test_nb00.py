"""What notebook 00 promises besides its claims: the glossary, and that its code agrees with the package."""

import re

import torch

from mi_utils import models, prompts
from mi_workshop import readme, sources

NOTEBOOK = sources.read(sources.find("00")[0])
MARKDOWN = "\n\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")


def table_below(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading."""
    lines = MARKDOWN.split(f"## {heading}\n", 1)[1].splitlines()
    rows = [
        line
        for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("## "))]
        if "|" in line
    ]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_glossary_has_english_and_korean():
    rows = table_below("Words")
    assert len(rows) >= 30
    terms = [row[0] for row in rows]
    assert terms == sorted(terms, key=lambda term: term.split(",")[0].casefold()) and len(set(terms)) == len(
        terms
    )
    for term, korean, meaning in rows:
        assert re.search(r"[\uac00-\ud7a3]", korean), term
        assert len(meaning.split()) >= 4, term
    for wanted in (
        "feature",
        "superposition",
        "polysemantic",
        "circuit",
        "residual stream",
        "activation patching",
    ):
        assert any(wanted in term for term in terms), wanted


def test_every_planned_notebook_is_introduced():
    shown = " ".join(row[0] for row in table_below("What each notebook does"))
    numbers = set(re.findall(r"\d\d", shown.replace("09 to 12", "09 10 11 12")))
    assert numbers == {name[:2] for name in readme.PLANNED} - {"00"}


def test_zeroing_a_head_by_hand_is_what_the_package_does(tiny_llama):
    (exercise,) = [one for one in sources.exercises(NOTEBOOK, "00") if one.id == "00.zero_head"]
    scope: dict = {}
    exec(NOTEBOOK.cells[exercise.solution].source, scope)
    model = models.load_model(str(tiny_llama))
    tokens = prompts.encode(model, "the cat")
    name, zero = models.zero_head(model, 1, 2)
    by_hand = model.run_with_hooks(tokens, fwd_hooks=[(name, scope["without_head_2"])])
    packaged = model.run_with_hooks(tokens, fwd_hooks=[(name, zero)])
    assert torch.equal(by_hand, packaged)
    assert not torch.equal(by_hand, model(tokens))
