"""The table of claims: what each criterion decides, what is refused, what is shown and what is written."""

import json
import math
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from mi_utils.claims import ClaimError, Claims, show


@pytest.fixture
def unchecked():
    """No type checks, as in a notebook: what is refused there is refused by the code itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv("MI_CLAIMS_DIR", raising=False)


@pytest.fixture
def claims() -> Claims:
    return Claims("03", model="tiny")


@pytest.mark.parametrize(
    ("criterion", "verdict"),
    [
        (dict(ours=1.0, published=1.5, tolerance=0.5), "holds"),
        (dict(ours=2.0, published=1.5, tolerance=0.5), "holds"),
        (dict(ours=0.9, published=1.5, tolerance=0.5), "differs"),
        (dict(ours=2.1, published=1.5, tolerance=0.5), "differs"),
        (dict(ours=3, published=3, tolerance=0), "holds"),
        (dict(ours=4, published=3, tolerance=0), "differs"),
        (dict(ours=-1.5, published=1.5, tolerance=0.1), "differs"),
        (dict(ours=0.5, at_least=0.5), "holds"),
        (dict(ours=0.49, at_least=0.5), "differs"),
        (dict(ours=1e-4, at_most=1e-4), "holds"),
        (dict(ours=1.1e-4, at_most=1e-4), "differs"),
        (dict(ours=-5.0, at_most=0), "holds"),
        (dict(ours=0.2, at_least=0.2, at_most=0.4), "holds"),
        (dict(ours=0.4, at_least=0.2, at_most=0.4), "holds"),
        (dict(ours=0.1, at_least=0.2, at_most=0.4), "differs"),
        (dict(ours=0.5, at_least=0.2, at_most=0.4), "differs"),
        (dict(ours=0, at_least=0, at_most=0), "holds"),
        (dict(ours="A > B", holds=True), "holds"),
        (dict(ours="A < B", holds=False), "differs"),
        (dict(ours=3.0, published="a few", at_least=1), "holds"),
    ],
)
def test_a_criterion_decides(claims, criterion, verdict):
    assert claims.add("it is so", source="paper, 1", **criterion).verdict == verdict


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (dict(published=0.3333, tolerance=0.05), "within 0.05 of 0.333"),
        (dict(at_least=0.5), "≥ 0.5"),
        (dict(at_most=1e-4), "≤ 0.0001"),
        (dict(at_least=0.25, at_most=1), "≥ 0.25 and ≤ 1"),
        (dict(holds=True), "as stated"),
    ],
)
def test_a_criterion_is_said_in_words(claims, criterion, words):
    assert claims.add("it is so", source="paper, 1", ours=0.3, **criterion).criterion == words


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5]).double()]
)
def test_a_scalar_of_numpy_or_torch_is_a_number(claims, number):
    line = claims.add("it is so", source="paper, 1", ours=number, published=number, tolerance=number)
    assert (line.verdict, line.ours, type(line.ours), type(line.published)) == ("holds", 0.5, float, float)
    assert (
        claims.add("within bounds", source="paper, 1", ours=number, at_least=number, at_most=number).verdict
        == "holds"
    )
    assert claims.add("beyond them", source="paper, 1", ours=1, at_most=number).verdict == "differs"


def test_a_count_of_numpy_or_torch_stays_a_count(claims):
    lines = [
        claims.add(f"{i}", source="count", ours=n, at_least=1)
        for i, n in enumerate((np.int64(7), torch.tensor(7)))
    ]
    assert [(line.ours, type(line.ours)) for line in lines] == [(7, int)] * 2


@pytest.mark.parametrize(
    "true", [np.bool_(True), torch.tensor(True), torch.tensor([1, 2]).eq(torch.tensor([1, 2])).all()]
)
def test_a_truth_of_numpy_or_torch_is_one(claims, true):
    assert claims.add("true", source="set", ours="-", holds=true).verdict == "holds"
    assert claims.add("false", source="set", ours="-", holds=~true).verdict == "differs"


GOOD = dict(statement="it is so", source="paper, 1", ours=1.0)
NOT_NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    None,
    True,
    [1.0],
    np.float32("nan"),
    torch.zeros(2),
    np.zeros(2),
    torch.tensor(True),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(), "exactly one criterion"),
        (dict(at_least=0.0, holds=True), "exactly one criterion"),
        (dict(tolerance=0.1, published=1.0, at_most=2.0), "exactly one criterion"),
        (dict(tolerance=0.1, published=1.0, holds=True), "exactly one criterion"),
        (dict(tolerance=-0.1, published=1.0), "tolerance is -0.1; it should not be negative"),
        (dict(tolerance=0.1), "published is None; it should be a finite number"),
        (dict(tolerance=0.1, published="a third"), "published is 'a third'"),
        (dict(ours="a third", at_least=0), "ours is 'a third'"),
        (dict(at_least=2, at_most=1), "at_least is 2 and at_most is 1"),
        (dict(holds=1), "holds is 1; it should be True or False"),
        (dict(holds="yes"), "holds is 'yes'"),
        (dict(holds=torch.tensor([True, True])), "holds is tensor"),
        (dict(holds=np.array([True, False])), "holds is array"),
        (dict(holds=torch.tensor(1)), "holds is tensor"),
        (dict(at_least=0, expect="fails"), "expect is 'fails'"),
        (dict(at_least=2, expect="differs"), "explanation is empty"),
        (dict(at_least=2, expect="differs", explanation=" \n"), "explanation is empty"),
        (dict(at_least=0, models="tiny-large"), "models is 'tiny-large'; it should be a tuple"),
        (dict(at_least=0, statement=" "), "statement is empty"),
        (dict(at_least=0, source=""), "source is empty"),
        *[(dict(ours=bad, at_least=0), "ours is .*; it should be a finite number") for bad in NOT_NUMBERS],
        *[(dict(ours=bad, holds=True), "ours is .*; it should be a finite number") for bad in NOT_NUMBERS],
        *[
            (dict(published=bad, holds=True), "published is .*; it should be")
            for bad in NOT_NUMBERS
            if bad is not None
        ],
        *[(dict(published=bad, tolerance=1), "published is .*; it should be") for bad in NOT_NUMBERS],
        *[
            (dict(published=1, tolerance=bad), "tolerance is .*; it should be")
            for bad in NOT_NUMBERS
            if bad is not None
        ],
        *[(dict(at_least=bad), "at_least is .*; it should be") for bad in NOT_NUMBERS if bad is not None],
        *[(dict(at_most=bad), "at_most is .*; it should be") for bad in NOT_NUMBERS if bad is not None],
    ],
)
def test_bad_input_is_refused_and_adds_no_line(claims, given, said):
    with pytest.raises(ValueError, match=said):
        claims.add(**GOOD | given)
    assert claims.lines == []


def test_the_same_statement_twice_is_refused(claims):
    claims.add(**GOOD, at_least=0)
    with pytest.raises(ValueError, match="statement is 'it is so', which is already in the table"):
        claims.add(**GOOD, at_least=0)
    assert len(claims.lines) == 1


def test_no_claims_is_refused(claims):
    with pytest.raises(ValueError, match="there are no claims"):
        claims.table()


@pytest.mark.parametrize(
    ("ours", "models", "expect", "verdict", "passes"),
    [
        (1, (), "holds", "holds", True),
        (0, (), "holds", "differs", False),
        (0, (), "differs", "differs", True),
        (1, (), "differs", "holds", False),
        (1, ("tiny",), "holds", "holds", True),
        (0, ("tiny",), "holds", "differs", False),
        (0, ("gpt2",), "holds", "not asserted", True),
        (1, ("gpt2", "other"), "differs", "not asserted", True),
        (0, ("gpt2", "tiny"), "holds", "differs", False),
    ],
)
def test_a_verdict_other_than_the_expected_one_stops_the_notebook(
    claims, ours, models, expect, verdict, passes
):
    line = claims.add(
        "it is so",
        source="paper, 1",
        ours=ours,
        at_least=1,
        models=models,
        expect=expect,
        explanation="Another model.",
    )
    assert line.verdict == verdict
    assert line.as_expected == passes
    if passes:
        claims.table()
    else:
        with pytest.raises(ClaimError, match="it is so"):
            claims.table()


def test_every_wrong_line_is_in_the_message_and_no_right_one(claims):
    claims.add("first", source="a", ours=0.25, published=0.75, tolerance=0.1)
    claims.add("second", source="b", ours=2, at_least=1)
    claims.add(
        "third", source="c", ours="A < B", published="A > B", holds=True, expect="differs", explanation="Why."
    )
    with pytest.raises(ClaimError) as caught:
        claims.table()
    assert str(caught.value).splitlines() == [
        "'first': expected 'holds', found 'differs' (published 0.75, ours 0.25, required within 0.1 of 0.75)",
        "'third': expected 'differs', found 'holds' (published A > B, ours A < B, required as stated)",
    ]


@pytest.fixture
def filled(claims) -> Claims:
    claims.add("the lens converges", source="paper, 2", ours=0.1234567, published=0.13, tolerance=0.02)
    claims.add(
        "the head copies",
        source="paper, 3",
        ours=0.6,
        at_least=0.9,
        expect="differs",
        explanation="<i>4 bits</i>",
    )
    claims.add("GPT-2 does", source="paper, 4", ours=49152, published=50257, at_least=0, models=("gpt2",))
    return claims


def test_in_text_the_table_has_conclusions_and_no_figures(filled):
    assert repr(filled.table()).splitlines() == [
        "holds: the lens converges",
        "differs, as expected: the head copies",
        "not asserted here: GPT-2 does",
    ]


def test_in_a_page_the_table_has_the_figures(filled):
    html = filled.table()._repr_html_()
    rows = html.split("<tr>")[2:]
    for row, parts in zip(
        rows,
        [
            ("the lens converges", "paper, 2", ">0.13<", ">0.123<", "within 0.02 of 0.13", "✓ holds"),
            ("the head copies", "paper, 3", ">–<", ">0.6<", "≥ 0.9", "≠ differs, as expected"),
            ("GPT-2 does", "paper, 4", ">50257<", ">49152<", "≥ 0", "· not asserted"),
        ],
        strict=True,
    ):
        positions = [row.find(part) for part in parts]
        assert -1 not in positions and positions == sorted(positions)
    assert html.count("<th") - html.count("<thead") == rows[0].count("<td") == 6


def test_text_from_outside_is_escaped(claims):
    bad = "<script>alert('&')</script>"
    claims.add(bad, source=bad, ours=bad, published=bad, holds=False, expect="differs", explanation=bad)
    html = claims.table()._repr_html_()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 5


KEYS = {"statement", "source", "published", "ours", "tolerance", "verdict", "expected", "models"}


def test_the_lines_are_written_where_asked(filled, monkeypatch, tmp_path):
    monkeypatch.setenv("MI_CLAIMS_DIR", str(tmp_path / "new" / "folder"))
    filled.table()
    (file,) = (tmp_path / "new" / "folder").iterdir()
    content = json.loads(file.read_text("utf-8"))
    assert file.name == "03.json"
    assert (content["notebook"], content["model"]) == ("03", "tiny")
    assert [bool(line["models"]) for line in content["claims"]] == [False, False, True]
    assert all(
        set(line) >= KEYS and all(isinstance(value, str) for value in line.values())
        for line in content["claims"]
    )
    assert [line["verdict"] for line in content["claims"]] == ["holds", "differs", "not asserted"]
    assert [line["expected"] for line in content["claims"]] == ["holds", "differs", "holds"]
    first = content["claims"][0]
    assert (first["ours"], first["published"], first["tolerance"]) == ("0.123", "0.13", "within 0.02 of 0.13")
    assert content["claims"][1]["published"] == "–"


def test_the_lines_are_written_also_when_a_claim_fails(claims, monkeypatch, tmp_path):
    monkeypatch.setenv("MI_CLAIMS_DIR", str(tmp_path))
    claims.add("it is so", source="paper, 1", ours=0, at_least=1)
    with pytest.raises(ClaimError):
        claims.table()
    (line,) = json.loads((tmp_path / "03.json").read_text("utf-8"))["claims"]
    assert (line["verdict"], line["expected"]) == ("differs", "holds")


def test_nothing_is_written_unless_asked(filled, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MI_CLAIMS_DIR", "")
    filled.table()
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        ("a third", "a third"),
        (0.12345, "0.123"),
        (1e-7, "1e-07"),
        (49152, "49152"),
        (0, "0"),
        (1.0, "1"),
        (7112.4, "7,112"),
        (-1000.0, "-1,000"),
        (999.9, "1e+03"),
        (2e9, "2e+09"),
    ],
)
def test_a_figure_is_shown_to_three_digits_and_a_count_in_full(value, shown):
    assert show(value) == shown
