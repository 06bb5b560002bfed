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


# -- the second form: Paper and here, Checks, the trial ---------------------------------------------------

PAPER = dict(source="paper, 1", published=1.0, set_up="another model")


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (dict(ours=1.2, tolerance=0.25), "agrees"),
        (dict(ours=1.3, tolerance=0.25), "larger"),
        (dict(ours=0.7, tolerance=0.25), "smaller"),
        (dict(ours=0.5, at_least=0.5), "agrees"),
        (dict(ours=0.4, at_least=0.5), "smaller"),
        (dict(ours=2.1, at_least=0.5, at_most=2), "larger"),
        (dict(ours="A > B", published="A > B", holds=True), "agrees"),
        (dict(ours="B > A", published="A > B", holds=False), "differs"),
        (dict(ours=3, published="a few", at_least=2, at_most=5), "agrees"),
        (dict(ours=5.0, at_least=4, expect="not comparable", explanation="In nats."), "not comparable"),
        (dict(ours=3.0, at_least=4, expect="not comparable", explanation="In nats."), "differs"),
        (dict(ours=1.0, tolerance=0.1, models=("gpt2",)), "not asserted"),
        (dict(ours=9.0, tolerance=0.1, models=("gpt2",)), "not asserted"),
    ],
)
def test_a_published_figure_and_ours_get_a_verdict_word(claims, given, verdict):
    line = claims.paper("it is so", **PAPER | given)
    assert line.verdict == verdict
    assert line.as_expected == (verdict in ("agrees", "not comparable", "not asserted"))


@pytest.mark.parametrize("expect", ["agrees", "larger", "smaller", "differs"])
@pytest.mark.parametrize(
    ("given", "found"),
    [
        (dict(ours=1.0, tolerance=0.1), "agrees"),
        (dict(ours=2.0, tolerance=0.1), "larger"),
        (dict(ours=0.0, tolerance=0.1), "smaller"),
        (dict(ours="no", holds=False), "differs"),
    ],
)
def test_only_the_expected_word_passes(claims, expect, given, found):
    claims.paper("it is so", **PAPER | given, expect=expect, explanation="Another model.")
    if expect == found:
        claims.paper_table()
    else:
        with pytest.raises(ClaimError, match=f"'it is so': expected '{expect}', found '{found}'"):
            claims.paper_table()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(published=None, at_least=0), "published is None; a line of 'Paper and here' should have"),
        (dict(published="", at_least=0), "published is ''; a line"),
        (dict(published=math.nan, at_least=0), "published is nan; it should be a finite number"),
        (dict(ours=math.inf, at_least=0), "ours is inf; it should be a finite number"),
        (dict(), "exactly one criterion"),
        (dict(tolerance=1, at_least=0), "exactly one criterion"),
        (dict(at_least=2), "published is 1; it should be ≥ 2, as agreement is"),
        (dict(at_most=0.5), "published is 1; it should be ≤ 0.5"),
        (dict(tolerance=1, expect="not comparable", explanation="In nats."), "tolerance is given"),
        (dict(at_least=0, expect="not comparable"), "explanation is empty"),
        (dict(at_least=0, expect="larger", explanation=" "), "explanation is empty"),
        (dict(at_least=0, expect="holds"), "expect is 'holds'; it should be one of 'agrees'"),
        (dict(at_least=0, set_up=" "), "set_up is empty"),
        (dict(at_least=0, source=" "), "source is empty"),
        (dict(at_least=0, statement=" "), "statement is empty"),
        (dict(at_least=0, models="tiny"), "models is 'tiny'; it should be a tuple"),
    ],
)
def test_a_bad_line_of_paper_and_here_is_refused(claims, given, said):
    with pytest.raises(ValueError, match=said):
        claims.paper(**dict(statement="it is so", ours=1.0) | PAPER | given)
    assert claims.lines == []


def test_a_check_must_hold(claims):
    assert claims.check("inside", source="identity", ours=1e-6, at_most=1e-5).verdict == "holds"
    claims.checks_table()
    claims.check("outside", source="control", ours=0.4, at_least=0.5)
    with pytest.raises(ClaimError, match=r"'outside': .*'differs' .*ours 0.4, required ≥ 0.5"):
        claims.checks_table()


def test_a_check_about_another_model_is_not_asserted(claims):
    line = claims.check("of GPT-2", source="control", ours=0, at_least=1, models=("gpt2",))
    assert line.verdict == "not asserted"
    claims.checks_table()


def test_the_tables_assert_their_own_lines(claims):
    claims.check("outside", source="control", ours=0, at_least=1)
    claims.paper("it is so", **PAPER, ours=1, tolerance=0)
    claims.paper_table()
    with pytest.raises(ClaimError, match="'outside'"):
        claims.checks_table()


@pytest.mark.parametrize("given", [dict(), dict(at_least=0, holds=True), dict(ours=math.nan, at_least=0)])
def test_a_bad_check_is_refused(claims, given):
    with pytest.raises(ValueError, match="criterion|finite"):
        claims.check("it is so", **dict(source="identity", ours=1) | given)
    assert claims.lines == []


def test_a_statement_stands_in_one_part_only(claims):
    claims.paper("it is so", **PAPER, ours=1, tolerance=0)
    with pytest.raises(ValueError, match="already in the table"):
        claims.check("it is so", source="identity", ours=1, at_least=0)


def test_one_table_has_one_form(claims):
    claims.add("first", source="identity", ours=1, at_least=0)
    with pytest.raises(ValueError, match="both forms"):
        claims.paper("second", **PAPER, ours=1, tolerance=0)
    with pytest.raises(ValueError, match="both forms"):
        claims.check("second", source="identity", ours=1, at_least=0)
    other = Claims("03", model="tiny")
    other.check("first", source="identity", ours=1, at_least=0)
    with pytest.raises(ValueError, match="both forms"):
        other.add("second", source="identity", ours=1, at_least=0)


def test_a_part_without_lines_is_no_table(claims):
    with pytest.raises(ValueError, match="no published figure"):
        claims.paper_table()
    with pytest.raises(ValueError, match="no checks"):
        claims.checks_table()
    claims.check("first", source="identity", ours=1, at_least=0)
    with pytest.raises(ValueError, match="no claims"):
        claims.table()


@pytest.fixture
def second_form(claims) -> Claims:
    claims.paper("the norm grows", **PAPER | dict(published=6.0), ours=5.5, at_least=3, at_most=12)
    claims.paper(
        "the head <copies>",
        source="paper, 2",
        published=0.98,
        ours=0.6,
        tolerance=0.1,
        set_up="a small model",
        expect="smaller",
        explanation="<i>4 bits</i>",
    )
    claims.check("an identity", source="identity", ours=1e-7, at_most=1e-5)
    claims.check("of GPT-2", source="control", ours=1, at_least=1, models=("gpt2",))
    return claims


def test_paper_and_here_shows_both_figures_and_what_differs(second_form):
    shown = second_form.paper_table()
    assert repr(shown) == "agrees: the norm grows\nsmaller: the head <copies>"
    page = shown._repr_html_()
    for text in ("paper, 1", ">6<", ">5.5<", "another model", "≥ 3 and ≤ 12", "✓ agrees", "↓ smaller"):
        assert text in page
    assert "<i>" not in page and "&lt;i&gt;4 bits" in page and "the head &lt;copies&gt;" in page
    assert "identity" not in page


def test_checks_are_folded_under_a_line_that_counts_them(second_form):
    shown = second_form.checks_table()
    assert repr(shown) == "holds: an identity\nnot asserted: of GPT-2"
    above, below = shown._repr_html_().split("</summary>")
    assert "<details>" in above and "Checks: 1 holds, 1 not asserted here" in above
    for text in ("identity", ">1e-07<", "≤ 1e-05", "✓ holds", "control"):
        assert text in below and text not in above


TRIAL = dict(measure="share found", randomised=0.05, known=0.95, refuted_by="as many found by chance")
BOUNDS = dict(randomised_at_most=0.1, known_at_least=0.9)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (dict(), "passes"),
        (dict(randomised=0.1, known=0.9), "passes"),
        (dict(randomised=0.2), "high floor"),
        (dict(known=0.8), "misses"),
        (dict(randomised=0.2, known=0.8), "high floor, misses"),
        (dict(randomised=0.2, models=("gpt2",)), "not asserted"),
    ],
)
def test_a_method_is_tried(claims, given, verdict):
    line = claims.trial("patching", **TRIAL | BOUNDS | given)
    assert line.verdict == verdict
    assert line.criterion == "randomised ≤ 0.1, known ≥ 0.9"
    if verdict in ("passes", "not asserted"):
        assert repr(claims.trial_table()) == f"{verdict}: patching, share found"
    else:
        with pytest.raises(ClaimError, match=f"expected 'passes', found '{verdict}'"):
            claims.trial_table()


def test_a_measure_that_is_better_low_is_tried_too(claims):
    bounds = dict(randomised_at_least=0.5, known_at_most=0.1)
    tried = claims.trial("a lens", **TRIAL | dict(randomised=0.9, known=0.01) | bounds)
    assert tried.verdict == "passes"
    tried = claims.trial("another", **TRIAL | dict(randomised=0.4, known=0.2) | bounds)
    assert tried.verdict == "high floor, misses"


def test_a_fault_of_a_method_that_is_known_is_shown_with_its_reason(claims):
    claims.trial(
        "SAE", **TRIAL | BOUNDS | dict(randomised=0.9), expect="high floor", explanation="Tokens are enough."
    )
    shown = claims.trial_table()
    assert repr(shown) == "high floor: SAE, share found"
    page = shown._repr_html_()
    for text in ("SAE", "0.9", "0.95", "as many found by chance", "≠ high floor", "Tokens are enough."):
        assert text in page


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(randomised_at_most=None), "randomised has no bound"),
        (dict(known_at_least=None), "known has no bound"),
        (dict(randomised=math.nan), "randomised is nan"),
        (dict(known=math.inf), "known is inf"),
        (dict(refuted_by=" "), "refuted_by is empty"),
        (dict(measure=""), "measure is empty"),
        (dict(expect="misses"), "explanation is empty"),
        (dict(models="tiny"), "models is 'tiny'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_bad_trial_is_refused(claims, given, said):
    with pytest.raises(ValueError, match=said):
        claims.trial("patching", **TRIAL | BOUNDS | given)
    assert claims.trials == []


def test_a_method_is_tried_once_by_each_measure(claims):
    claims.trial("patching", **TRIAL | BOUNDS)
    claims.trial("patching", **TRIAL | BOUNDS | dict(measure="share missed"))
    with pytest.raises(ValueError, match="already in the trial"):
        claims.trial("patching", **TRIAL | BOUNDS)


def test_nothing_tried_is_refused(claims):
    with pytest.raises(ValueError, match="nothing was tried"):
        claims.trial_table()


def test_both_forms_and_trials_are_written_with_their_part(second_form, monkeypatch, tmp_path):
    monkeypatch.setenv("MI_CLAIMS_DIR", str(tmp_path))
    second_form.paper_table()
    second_form.trial("patching", **TRIAL | BOUNDS)
    second_form.trial_table()
    content = json.loads((tmp_path / "03.json").read_text("utf-8"))
    assert [line["part"] for line in content["claims"]] == ["paper", "paper", "checks", "checks"]
    assert content["claims"][1]["set_up"] == "a small model"
    (trial,) = content["trials"]
    assert (trial["method"], trial["randomised"], trial["verdict"]) == ("patching", "0.05", "passes")
