"""Notebooks and timed pieces of code use only names that ``mi_utils`` has."""

from pathlib import Path

import names_used
import pytest

from mi_workshop import bench_cases, bench_patching, bench_transcoders, sources


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sources.available()])
def test_notebooks(path: Path) -> None:
    code = [cell.source for cell in sources.read(path).cells if cell.cell_type == "code"]
    assert names_used.missing(code) == []
    assert names_used.hidden(code) == []


@pytest.mark.parametrize("module", [bench_cases, bench_patching, bench_transcoders])
def test_what_is_timed(module) -> None:
    assert module.CASES
    for case in module.CASES:
        assert names_used.missing([case.code]) == [], case.what


def test_what_is_missing_is_found() -> None:
    code = "from mi_utils import harvest, models\nmodels.no_such()\nmodels.run.SITES\nmodels.load.nowhere"
    assert names_used.missing([code]) == ["models.load.nowhere", "models.no_such"]
    assert names_used.missing(["from mi_utils import nothing_like_it"]) == ["mi_utils.nothing_like_it"]
    assert names_used.missing(["from mi_utils import sae\ndef f(sae):\n    return sae.encode"]) == []


def test_a_name_that_is_given_away_is_found() -> None:
    given = ["from mi_utils import heads, sae", "for role, heads in found.items():\n    print(heads)"]
    assert names_used.hidden(given) == ["heads"]
    own = [
        "from mi_utils import heads, sae",
        "[heads for heads in x]\ndef f(a):\n    sae = a\n    return sae",
    ]
    assert names_used.hidden(own) == []
