"""Every rule of nbval_sanitize.cfg is loaded by nbval's own parser and does what its example says."""

import re
from pathlib import Path

import pytest
from nbval.plugin import get_sanitize_patterns

TEXT = (Path(__file__).resolve().parents[1] / "nbval_sanitize.cfg").read_text()
_DOCUMENTED = re.compile(r"^; example: (.+)\n; spares: (.+)\nregex: (.+)\nreplace: (.*)$", re.MULTILINE)
RULES = _DOCUMENTED.findall(TEXT)


def marked(text: str) -> int:
    """How many rules ``text`` means to hold, however badly they are written."""
    return len(re.findall(r"^[^\w;]*regex\b", text, re.MULTILINE))


def test_every_rule_is_loaded_and_documented() -> None:
    loaded = get_sanitize_patterns(TEXT)
    assert len(loaded) == marked(TEXT) == len(re.findall(r"^[^\w;]*replace\b", TEXT, re.MULTILINE))
    assert [rule[2:] for rule in RULES] == loaded


@pytest.mark.parametrize("rule", RULES, ids=[rule[2] for rule in RULES])
def test_a_rule_changes_its_example_and_spares_the_other(rule: tuple[str, str, str, str]) -> None:
    example, spared, pattern, replacement = rule
    assert replacement in re.sub(pattern, replacement, example) != example
    assert re.sub(pattern, replacement, spared) == spared


def test_a_rule_that_nbval_drops_is_noticed() -> None:
    for broken in ("regex: a\nreplace:\n", "regex:a\nreplace: b\n", "regex: a\n\nreplace: b\n"):
        assert marked(broken) == 1
        assert get_sanitize_patterns(broken) == []
