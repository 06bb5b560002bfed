"""Tables of results: what a cell shows, in HTML and as text, and what is refused."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import plots

HOSTILE = '<b onclick="x">&amp;'
ROWS = [
    {"head": "9.6", "effect": -0.5, "prompts": 1200},
    {"head": HOSTILE, "effect": 0.123456, "prompts": 8},
]


class Cells(HTMLParser):
    """The texts of a table by row, and which tags there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.open = False
        self.feed(str(text))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.rows[-1][-1] += data


def test_every_row_and_column_is_shown_in_its_place():
    found = Cells(plots.table(ROWS, units={"effect": "logits"}).html())
    assert found.rows == [
        ["head", "effect (logits)", "prompts"],
        ["9.6", "−0.500", "1,200"],
        [HOSTILE, "0.123", "8"],
    ]


def test_text_is_escaped():
    shown = plots.table(ROWS, caption=HOSTILE)._repr_html_()
    assert "<b" not in shown and "&lt;b onclick=&#34;x&#34;&gt;&amp;amp;" in shown


def test_as_text_a_row_is_a_line_and_columns_are_aligned():
    text = repr(plots.table(ROWS, caption="Two heads"))
    assert text.splitlines() == [
        "Two heads",
        "head                  effect  prompts",
        "9.6                   -0.500    1,200",
        f"{HOSTILE}   0.123        8",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1234, "1,234"),
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (1.0, "1.00"),
        (0.98765, "0.988"),
        (99.96, "100.0"),
        (1234.56, "1,234.6"),
        (0.00001234, "1.23e-05"),
        (float("inf"), "∞"),
        (float("-inf"), "-∞"),
    ],
)
def test_numbers(value: float, shown: str):
    """What was counted has no decimal point, what was measured has one."""
    assert plots.number(value) == shown


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, pd.Series])
def test_columns_of_any_kind(make):
    found = plots.table({"layer": make([0, 1]), "loss": make([1.5, 2.25])})
    assert found.cells == (("0", "1.50"), ("1", "2.25"))


def test_what_is_missing_is_a_dash_and_whole_numbers_stay_whole():
    found = plots.table([{"a": 1, "b": None}, {"b": float("nan")}, {"a": 3, "b": "x"}])
    assert found.cells == (("1", "–"), ("–", "–"), ("3", "x"))


def test_formats_are_those_of_python():
    found = plots.table({"share": [0.5, 0.25]}, formats={"share": ".1%"})
    assert found.cells == (("50.0%",), ("25.0%",))


def test_the_index_names_the_rows():
    frame = pd.DataFrame({"loss": [1.0, 2.0]}, index=pd.Index(["first", "second"], name="run"))
    for found in (
        plots.table(frame),
        plots.table({"loss": [1.0, 2.0], "run": ["first", "second"]}, index="run"),
    ):
        assert found.headings == ("run", "loss") and found.cells[1] == ("second", "2.00")
        assert Cells(found.html()).tags.count("th") == 2 + 2  # headings, and a name for each row
    labelled = plots.table({"loss": [1.0, 2.0]}, index=["first", "second"])
    assert labelled.cells[0] == ("first", "1.00") and labelled.labels == 1


def test_the_values_stay_at_hand():
    assert plots.table(ROWS).frame["effect"].tolist() == [-0.5, 0.123456]


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ([], {}, ("data is empty",)),
        ("text", {}, ("data is a str",)),
        ({"a": [1, 2], "b": [1]}, {}, ("different lengths", "'a': 2, 'b': 1")),
        ({"a": 3}, {}, ("data['a'] is 3", "a column")),
        ({"holds": [True]}, {}, ("True in column 'holds'", "what was measured")),
        ({"a": [[1, 2]]}, {}, ("a list in column 'a'",)),
        ({"a": [1.0]}, {"formats": {"b": ".2f"}}, ("formats has 'b'", "['a']")),
        ({"a": [1.0]}, {"units": {"b": "nats"}}, ("units has 'b'",)),
        ({"a": [1.0]}, {"formats": {"a": ".2q"}}, ("formats['a'] is '.2q'",)),
        ({"a": [1.0]}, {"index": "b"}, ("index is 'b'",)),
        ({"a": [1.0]}, {"index": ["x", "y"]}, ("index has 2 labels", "1, one for each row")),
    ],
)
def test_what_is_no_table(data, options, words, unchecked):
    with pytest.raises(ValueError) as caught:
        plots.table(data, **options)
    assert_one_sentence(caught.value, *words)
