"""What every message to a user has in common."""

import re
from pathlib import Path

_PATH = re.compile(r"(?<![\w.<:/])/[\w.~-]+(?:/[\w.~-]+)+")
_BREAK = re.compile(r"[.!?] +[A-Z]")


def assert_one_sentence(error: BaseException, *names: str, allowed: Path | None = None) -> str:
    """One line, one sentence, no traceback, no path but those below ``allowed``; it holds each of
    ``names``."""
    text = str(error)
    assert text and "\n" not in text, text
    assert "Traceback" not in text and 'File "' not in text, text
    assert not _BREAK.search(text), f"more than one sentence: {text}"
    assert len(text) < 600, text
    for path in _PATH.findall(text):
        assert allowed is not None and path.startswith(str(allowed)), f"shows the path {path}: {text}"
    for name in names:
        assert name in text, f"{name!r} is not in: {text}"
    return text
