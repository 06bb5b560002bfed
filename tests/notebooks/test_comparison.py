"""nbval with the root conftest, on a small notebook: which differences from the stored outputs it reports."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from nbformat import NotebookNode

REPOSITORY = Path(__file__).resolve().parents[2]
FIGURE = "go.Figure(go.Heatmap(z=np.eye(3), name='identity'), {'title': {'text': 'Effects'}})"


def stored(*, shift: float = 0.0, title: str = "Effects", size: int = 3, kind: type = go.Heatmap) -> dict:
    """The output that a run of FIGURE would have stored, but for what is asked."""
    data = np.eye(size) + shift
    trace = kind(z=data, name="identity") if kind is not go.Bar else kind(y=data[0], name="identity")
    bundle = pio.renderers["plotly_mimetype"].to_mimebundle(go.Figure(trace, {"title": title}).to_dict())
    return json.loads(json.dumps(bundle)) | {"image/png": "iVBORw0KGgo="}


def cell(source: str, *outputs: NotebookNode, ignored: bool = False, **metadata: object) -> NotebookNode:
    new = nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=1)
    new.metadata["tags"] = ["nbval-ignore-output"] if ignored else []
    new.metadata.update(metadata)
    return new


def shown(data: dict) -> NotebookNode:
    return nbformat.v4.new_output("display_data", data)


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=text)


# A table that is HTML for people and a conclusion in plain text.
SHOWN = """
class Table:
    __repr__ = lambda self: "holds"
    _repr_html_ = lambda self: "<b>{}</b>"
Table()"""


def told(figure: str, text: str) -> NotebookNode:
    data = {"text/plain": text, "text/html": f"<b>{figure}</b>"}
    return nbformat.v4.new_output("execute_result", data, execution_count=1)


# A table of pandas: what is fresh, and what a run on another machine would have stored.
FRAME = """
import pandas as pd
pd.DataFrame({"head": ["L5H3", "L10H11"], "effect": [10.1, -0.0004], "prompts": [40, 1200]}).round(3)"""
STORED_FRAME = """\
     head  effect  prompts
0    L5H3     9.9       40
1  L10H11   0.001     1200"""
GAINED_FRAME = "\n".join(STORED_FRAME.splitlines()[:2])
LOST_FRAME = f"{STORED_FRAME}\n2   L0H0     0.1       40"


def frame(text: str) -> NotebookNode:
    """A pandas frame: HTML for people, whose digits are never compared, and a table in plain text."""
    return told(text, text)


WARN = "import sys; print('fresh warning', file=sys.stderr)"
CASES: dict[str, tuple[NotebookNode, bool]] = {
    "imports": (cell("import numpy as np, plotly.graph_objects as go"), True),
    "same figure": (cell(FIGURE, shown(stored())), True),
    "another float": (cell(FIGURE, shown(stored(shift=1e-9))), True),
    "by show": (cell(f"{FIGURE}.show()", shown(stored(shift=1e-9))), True),
    "another title": (cell(FIGURE, shown(stored(title="Causes"))), False),
    "another shape": (cell(FIGURE, shown(stored(size=4))), False),
    "another trace type": (cell(FIGURE, shown(stored(kind=go.Contour))), False),
    "another title, ignored": (cell(FIGURE, shown(stored(title="Causes")), ignored=True), True),
    "one figure more": (cell(f"{FIGURE}.show()\n{FIGURE}.show()", shown(stored())), False),
    "no figure": (cell(f"figure = {FIGURE}", shown(stored())), False),
    # nbval runs without history, where IPython shows what the semicolon should hide; hygiene bans it.
    "a trailing semicolon": (cell(f"{FIGURE};"), False),
    "only a figure is new": (cell(FIGURE), False),
    "fresh stderr": (cell(WARN), True),
    "fresh stderr beside stdout": (cell(f"{WARN}\nprint('holds')", printed("holds\n")), True),
    "other text": (cell("print('differs')", printed("holds\n")), False),
    "other HTML, same text": (cell(SHOWN.format("2.5"), told("3.7", "holds")), True),
    "same HTML, other text": (cell(SHOWN.format("2.5"), told("2.5", "differs")), False),
    "a drift within the tolerance": (
        cell("print('loss 1.04, 12 % of 3')", printed("loss 1.00, 13 % of 3\n")),
        True,
    ),
    "a drift beyond it": (cell("print('loss 1.08')", printed("loss 1.00\n")), False),
    "a wider tolerance": (cell("print('loss 1.08')", printed("loss 1.00\n"), tolerance=0.1), True),
    "beyond a wider one": (cell("print('loss 1.18')", printed("loss 1.00\n"), tolerance=0.1), False),
    "a tighter tolerance": (cell("print('loss 1.02')", printed("loss 1.00\n"), tolerance=0.001), False),
    "a tolerance that is none": (cell("print('loss 1.00')", printed("loss 1.00\n"), tolerance="wide"), False),
    "a whole number": (cell("print('1001 heads')", printed("1000 heads\n")), False),
    "a result that drifts": (cell("[0.5001, -0.3]", told("", "[0.4999, -0.3001]")), True),
    "a table that drifts": (cell(FRAME, frame(STORED_FRAME)), True),
    "a number too far off in a table": (cell(FRAME, frame(STORED_FRAME.replace("9.9", "9.1"))), False),
    "a word of a table": (cell(FRAME, frame(STORED_FRAME.replace("L10H11", "L10H12"))), False),
    "a heading of a table": (cell(FRAME, frame(STORED_FRAME.replace("effect", "change"))), False),
    "a whole number of a table": (cell(FRAME, frame(STORED_FRAME.replace("1200", "1199"))), False),
    "a row more": (cell(FRAME, frame(GAINED_FRAME)), False),
    "a row less": (cell(FRAME, frame(LOST_FRAME)), False),
    "a line more": (cell("print('holds')\nprint('0.5')", printed("holds\n")), False),
    "a result more": (cell("print('holds')\n0.5", printed("holds\n")), False),
    "a rule of the sanitizer": (cell("print('done in 2.5 s')", printed("done in 17 s\n")), True),
    "an error": (cell("1 / 0"), False),
    "after an error": (cell("print('holds')", printed("holds\n")), True),
}

# Written beside the notebook: shows the setting that no run of a second could.
TELL_TIMEOUT = """
def pytest_collection_finish(session):
    print("timeouts", sorted({item.output_timeout for item in session.items}))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("nbval")
    (folder / "conftest.py").write_text(TELL_TIMEOUT)
    nbformat.write(nbformat.v4.new_notebook(cells=[c for c, _ in CASES.values()]), folder / "sample.ipynb")
    # Another folder has no root conftest of ours above it, so it is named as a plugin, under its own name.
    code = f"import sys, pytest; sys.path.insert(0, {str(REPOSITORY)!r}); import conftest; "
    code += "plugin = conftest; del sys.modules['conftest']; sys.exit(pytest.main(sys.argv[1:], [plugin]))"
    rules = f"--nbval-sanitize-with={REPOSITORY / 'tests/nbval_sanitize.cfg'}"
    options = ["--nbval", "--nbval-current-env", rules, "-rA", "-p", "no:cacheprovider", "--color=no", "-s"]
    env = os.environ | {"PLOTLY_RENDERER": "plotly_mimetype"}
    command = [sys.executable, "-c", code, *options, f"--rootdir={folder}", str(folder / "sample.ipynb")]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=180)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_differences(outcome: str, name: str) -> None:
    verdicts = re.findall(r"^(PASSED|FAILED) \S*::Cell (\d+)", outcome, re.MULTILINE)
    found = {int(number): verdict for verdict, number in verdicts}
    assert len(found) == len(CASES), outcome
    assert found[list(CASES).index(name)] == ("PASSED" if CASES[name][1] else "FAILED")


def test_a_difference_is_told_in_words(outcome: str) -> None:
    assert re.search(r'plotly.v1\+json, -\s*"text": "Causes"', outcome)
    assert "bdata" not in outcome
    for line in (
        "stdout, line 1: 1.00 expected, 1.08 found, off by 0.08 of it; 0.05 of it and 0.01 are allowed",
        "stdout, line 1: 1.00 expected, 1.18 found, off by 0.18 of it; 0.1 of it and 0.01 are allowed",
        "stdout, line 1: the whole number 1000 expected, 1001 found",
        "text/plain, line 3: 'L10H12' expected, 'L10H11' found",
        "text/plain, 2 lines expected, 3 found",
        "text/plain, line 4 lost: 2   L0H0     0.1       40",
    ):
        assert line in outcome
    assert re.search(r"text/plain, line 3 gained: 1  L10H11 +", outcome)


def test_only_a_wrong_tolerance_is_an_error_of_its_own(outcome: str) -> None:
    told = re.findall("pytest plugin exception: (.*)", outcome)
    assert told and all(line.startswith("tolerance is 'wide'; ") for line in told)


def test_the_output_timeout_is_raised(outcome: str) -> None:
    assert "timeouts [120]" in outcome
