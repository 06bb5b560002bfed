"""What a notebook says it takes is what `make run --record` measured."""

import pytest

from mi_workshop import readme, sources


@pytest.mark.parametrize("path", sources.available(), ids=lambda path: path.stem)
def test_stated_minutes_and_memory_are_the_measured_ones(path):
    measured = readme.measurements().get(path.stem)
    assert measured, f"{path.stem} was never measured: python -m mi_utils run {path.stem[:2]} --record"
    stated = readme.stated_cost(sources.read(path))
    assert readme.cost_agrees(stated, measured), f"{path.stem} states {stated}, measured were {measured}"


def test_measurements_are_of_notebooks_that_exist():
    assert set(readme.measurements()) <= {path.stem for path in sources.available()}
