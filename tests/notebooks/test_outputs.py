"""How stored and fresh outputs are compared: what may drift, what may not, and how a difference is told."""

import pytest

from mi_workshop import outputs
from mi_workshop.outputs import text_differences

ARRAY = "tensor([[ 9.9000,  0.1000],\n        [-0.3000, 10.0000]])"

AGREE: dict[str, tuple[str, str]] = {
    "the same": ("loss 0.5", "loss 0.5"),
    "within 5 %": ("loss 2.00", "loss 2.09"),
    "one unit of the last digit": ("share 0.03", "share 0.04"),
    "near 0, with another sign": ("effect 0.001", "effect -0.000"),
    "an exponent": ("error 1.20e-05", "error 1.24e-05"),
    "an exponent less": ("error 1.0e-04", "error 9.9e-05"),
    "digits lost in writing": ("loss 1", "loss 0.998"),
    "digits gained in writing": ("loss 0.998", "loss 1"),
    "numpy's point": ("[1.   0.98]", "[0.99 1.  ]"),
    "a percentage": ("13 % of tokens", "12 % of tokens"),
    "a percentage without space": ("80%", "77%"),
    "a percentage in words": ("80 percent", "77 percent"),
    "wider columns": (
        "head   value\nL5H3     9.9\nL10H11   0.1",
        "head    value\nL5H3     10.1\nL10H11    0.1",
    ),
    "a wider rule": ("a  b\n-----\n1  9.9", "a   b\n------\n1  10.1"),
    "separators": ("1,234.5 of 12,000", "1250.0 of 12000"),
    "another minus": ("−0.50 and −3", "-0.51 and -3"),
    "a sign in an array": ("[0.01 0.50]", "[-0.00  0.50]"),
    "a unit": ("2.50GiB in 1.20 s", "2.55GiB in 1.21 s"),
    "in brackets": ("(0.50,0.60)", "(0.51,0.61)"),
    "broken at another place": (ARRAY, ARRAY.replace(",\n       ", ",")),
    "a range": ("0.10-0.20", "0.11-0.19"),
    "plus or minus": ("0.52 ± 0.03", "0.53 ± 0.04"),
    "at the end of a sentence": ("It is 0.50. There are 12.", "It is 0.51. There are 12."),
    "infinite": ("inf, -inf, nan", "inf, -inf, nan"),
    "the end of a line": ("holds \n", "holds"),
}


@pytest.mark.parametrize(("stored", "fresh"), AGREE.values(), ids=AGREE)
def test_what_agrees(stored: str, fresh: str) -> None:
    assert text_differences(stored, fresh) == []


DIFFER: dict[str, tuple[str, str]] = {
    "beyond 5 %": ("loss 2.00", "loss 2.12"),
    "two units near 0": ("share 0.01", "share -0.01"),
    "another sign": ("effect 0.50", "effect -0.50"),
    "another power": ("error 1.2e-05", "error 1.2e-04"),
    "a word": ("it holds 0.5", "it differs 0.5"),
    "a letter's case": ("Paris 0.5", "paris 0.5"),
    "a whole number": ("1000 heads", "1001 heads"),
    "a sign of a whole number": ("shift 3", "shift -3"),
    "a whole number with separators": ("1,000 heads", "1,001 heads"),
    "a whole number at the end": ("There are 12.", "There are 13."),
    "whole numbers in a list": ("[1, 2, 3]", "[1, 2, 4]"),
    "a whole number for a decimal far off": ("loss 1", "loss 1.2"),
    "a percentage too far off": ("10 %", "12 %"),
    "a head": ("L5H3 0.5", "L5H4 0.5"),
    "a head by its numbers": ("head 5.3.1", "head 5.3.2"),
    "a version": ("torch 2.6.0", "torch 2.6.1"),
    "a version before its release": ("torch 2.7rc1", "torch 2.7rc2"),
    "an exercise": ("06.abc passed", "07.abc passed"),
    "a date": ("2024-01-15", "2024-01-16"),
    "a number in a word": ("5ms", "6ms"),
    "a token's space": ("[' the', 'a']", "['the', 'a']"),
    "joined words": ("a b 0.5", "ab 0.5"),
    "a number for nan": ("loss nan", "loss 0.5"),
    "nan for a number": ("loss 0.5", "loss nan"),
    "infinite, with another sign": ("inf", "-inf"),
    "a number more": ("0.5 0.6", "0.5 0.6 0.7"),
    "a unit": ("2.5 GiB", "2.5 MiB"),
    "a unit written close": ("2.5GiB", "2.5MiB"),
    "the end": ("holds", ""),
    "a new line": ("a b", "a\nb"),
    "the order of lines": ("a 0.5\nb 0.5", "b 0.5\na 0.5"),
}


@pytest.mark.parametrize(("stored", "fresh"), DIFFER.values(), ids=DIFFER)
def test_what_differs(stored: str, fresh: str) -> None:
    assert text_differences(stored, fresh) != []


TABLE = "head    effect  prompts\nL5H3      0.50       40\nL10H11    0.10       40"


def test_a_number_too_far_off_is_told_with_its_line_and_what_was_allowed() -> None:
    told = text_differences(TABLE, TABLE.replace("0.50", "0.60"), tolerance=0.02)
    assert told == [
        "line 2: 0.50 expected, 0.60 found, off by 0.2 of it; 0.02 of it and 0.01 are allowed",
        "    expected: L5H3      0.50       40",
        "    found:    L5H3      0.60       40",
    ]


def test_every_difference_of_a_line_is_told() -> None:
    (told, *_) = text_differences("L5H3 0.50 40", "L5H4 0.60 41")
    assert "'L5H3' expected, 'L5H4' found; 0.50 expected" in told
    assert told.endswith("the whole number 40 expected, 41 found")


def test_from_0_no_share_can_be_told() -> None:
    assert "off by inf of it" in text_differences("0.00", "0.50")[0]


def test_a_gained_and_a_lost_row_are_told_as_such() -> None:
    first, second, third = TABLE.splitlines()
    drifted = third.replace("0.10", "0.11")
    assert text_differences(TABLE, "\n".join([first, second, "L7H1      0.30       40", drifted])) == [
        "3 lines expected, 4 found",
        "line 3 gained: L7H1      0.30       40",
    ]
    assert text_differences(TABLE, "\n".join([first, drifted])) == [
        "3 lines expected, 2 found",
        "line 2 lost: L5H3      0.50       40",
    ]


def test_the_tolerance_is_a_share_of_the_stored_number() -> None:
    assert text_differences("100.0", "109.9", tolerance=0.1) == []
    assert text_differences("100.0", "110.2", tolerance=0.1) != []
    assert text_differences("0.0", "0.2", tolerance=1.0) != []


@pytest.mark.parametrize("stated", [0, -0.1, 1.01, True, "0.1", None, float("nan")])
def test_a_tolerance_that_is_none_is_refused(stated: object) -> None:
    with pytest.raises(ValueError, match="tolerance is .*; it should be a number above 0 and at most 1"):
        outputs.tolerance_of({"tolerance": stated})


def test_the_tolerance_of_a_cell() -> None:
    assert outputs.tolerance_of({}) == outputs.TOLERANCE == 0.05
    assert outputs.tolerance_of({"tolerance": 1}) == 1.0


# --- outputs -------------------------------------------------------------------------------------------


def shown(**data: object) -> dict:
    """An output; keys are MIME types, "_" for "/"."""
    return {"output_type": "display_data", "data": {k.replace("_", "/", 1): v for k, v in data.items()}}


def printed(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


SAME: dict[str, tuple[list[dict], list[dict]]] = {
    "nothing": ([], []),
    "HTML": ([shown(text_html="<b>1</b>")], [shown(text_html="<b>2</b>")]),
    "HTML on one side": ([shown(text_html="<b>1</b>")], []),
    "pictures": ([shown(image_png="a")], [shown()]),
    "stderr": ([], [printed("warning", "stderr")]),
    "the order of kinds": ([printed("a"), shown(text_plain="b")], [shown(text_plain="b"), printed("a")]),
    "Markdown that drifts": ([shown(text_markdown="**0.50**")], [shown(text_markdown="**0.51**")]),
}


@pytest.mark.parametrize(("stored", "fresh"), SAME.values(), ids=SAME)
def test_outputs_that_agree(stored: list[dict], fresh: list[dict]) -> None:
    assert outputs.differences(stored, fresh) == []


OTHER: dict[str, tuple[list[dict], list[dict], str]] = {
    "one more": ([printed("a")], [printed("a"), printed("b")], "stdout: 1 outputs expected, 2 found"),
    "another kind": ([printed("a")], [shown(text_plain="a")], "text/plain: 0 outputs expected, 1 found"),
    "the order within a kind": (
        [shown(text_plain="a"), shown(text_plain="b")],
        [shown(text_plain="b"), shown(text_plain="a")],
        "text/plain, line 1: 'a' expected, 'b' found",
    ),
    "JSON": ([shown(application_json={"a": 1})], [shown(application_json={"a": 2})], "application/json"),
    "LaTeX": ([shown(text_latex="$0.50$")], [shown(text_latex="$0.51$")], "text/latex, -$0.50$"),
    "an error": ([], [{"output_type": "error", "ename": "E", "evalue": "bad"}], "error: 0 outputs"),
}


@pytest.mark.parametrize(("stored", "fresh", "said"), OTHER.values(), ids=OTHER)
def test_outputs_that_differ(stored: list[dict], fresh: list[dict], said: str) -> None:
    told = outputs.differences(stored, fresh)
    assert any(said in line for line in told), told


def test_texts_are_rewritten_first() -> None:
    before, after = [printed("took 17 s")], [printed("took 3 s")]
    assert outputs.differences(before, after) != []
    assert outputs.differences(before, after, rewrite=lambda text: text[:4]) == []


def test_a_long_report_is_cut() -> None:
    told = outputs.differences([printed("a\n" * 50)], [printed("b\n" * 50)])
    assert len(told) == 21 and told[-1] == "... and 130 lines more"
