"""mi_utils.plots.html: what is escaped, what a page may load and run, and what it refuses."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import jinja2
import pytest
from markupsafe import Markup
from sentences import assert_one_sentence

from mi_utils.plots import html

HOSTILE = "</script><script>alert('&')</script><img src=x onerror=\"y\">"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text in each."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), ""))

    def handle_data(self, data):
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict, str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def test_text_is_escaped_once_in_elements_and_in_attributes_and_markup_is_kept():
    cell = html.render('<td title="{{ text }}">{{ text }}</td>', text=HOSTILE)
    row = html.render("<tr>{{ cell }}{{ nothing }}</tr>", cell=cell, nothing=None)
    (attributes, text) = Elements(html.frame(row)).all("td")[0]
    assert attributes == {"title": HOSTILE} and text == HOSTILE
    assert [tag for tag, *_ in Elements(html.frame(row)).found] == ["div", "tr", "td"]
    assert [tag for tag, *_ in Elements(html.frame(HOSTILE)).found] == ["div"], "plain text is no body"
    assert Elements(html.sentence(HOSTILE)).all("div")[0][1] == HOSTILE


def test_a_name_that_is_not_given_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="tokens"):
        html.render("{{ tokens }}")


def test_a_card_is_opaque_and_scrolls():
    style = Elements(html.frame("a", style="max-width:900px")).all("div")[0][0]["style"]
    assert {"background:#ffffff", "color:#1a1a1a", "overflow-x:auto", "max-width:900px"} <= set(
        style.split(";")
    )


def test_a_page_shows_its_text_as_text_and_keeps_its_data():
    body = html.render("<h1>{{ title }}</h1>", title=HOSTILE)
    page = Elements(html.document(HOSTILE, body, script="go();", data={"graph-data": {"a": [HOSTILE, 1.5]}}))
    assert page.all("title")[0][1].strip() == page.all("h1")[0][1].strip() == HOSTILE
    assert page.all("img") == []
    (kind, data), (_, script) = page.all("script")
    assert kind == {"type": "application/json", "id": "graph-data"} and "<" not in data
    assert json.loads(data) == {"a": [HOSTILE, 1.5]}
    assert script.strip() == "go();"


@pytest.mark.parametrize("script", ["", "go(a < b && c > 'd');\n// é\n"])
def test_the_policy_of_a_page_lets_it_load_nothing_and_run_its_own_script_only(script):
    content = html.document("t", Markup("<p>a</p>"), script=script, style="p > b { color: red }")
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', content)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "script-src": f"'sha256-{own}'",
    }
    assert re.findall("<script>(.*?)</script>", content, re.DOTALL) == [script] * bool(script)
    assert "<style>p > b { color: red }</style>" in content and "://" not in content


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(script="'</SCRIPT>'"), "script has '</script' in it"),
        (dict(script="a<!--b"), "script has '<!--' in it"),
        (dict(style="</style>"), "style has '</style' in it"),
    ],
)
def test_what_would_end_its_own_element_is_refused(given, said):
    with pytest.raises(ValueError) as caught:
        html.document("t", "b", **given)
    assert_one_sentence(caught.value, said)


def test_data_that_json_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        html.document("t", "b", data={"d": float("nan")})
