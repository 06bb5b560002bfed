"""Every source notebook, and its learner edition, is what hygiene.py asks of it."""

from pathlib import Path

import hygiene
import hygiene_second_form
import pytest

from mi_utils import grading
from mi_workshop import exercises, sources

SOURCES = [pytest.param(path, id=path.stem) for path in sources.available()]


def test_the_series_begins() -> None:
    assert "00_start_here" in [path.stem for path in sources.available()]


CHECKED = [
    pytest.param(check, path, id=f"{check.__name__}-{path.stem}")
    for path in sources.available()
    for check in hygiene_second_form.checks_of(sources.read(path))
]


@pytest.mark.parametrize(("check", "path"), CHECKED)
def test_source(check: hygiene.Check, path: Path) -> None:
    assert check(sources.read(path)) == []


@pytest.mark.parametrize("path", SOURCES)
def test_exercises_agree_with_grading(path: Path) -> None:
    number = f"{path.stem[:2]}."
    registry = {name: grading.EXERCISES[name] for name in grading.EXERCISES if name.startswith(number)}
    assert hygiene.exercises_are_right(sources.read(path), path.stem, registry) == []


@pytest.mark.parametrize("path", SOURCES)
def test_stored_well(path: Path) -> None:
    assert hygiene.stored_well(path) == []


@pytest.mark.parametrize("path", SOURCES)
def test_links(path: Path) -> None:
    assert hygiene.links_lead_somewhere(sources.read(path), sources.folder()) == []
    assert hygiene.links_lead_somewhere(exercises.build(path), exercises.folder()) == []


def test_registered_exercises_have_a_notebook() -> None:
    numbers = {path.stem[:2] for path in sources.available()}
    assert {name for name in grading.EXERCISES if name[:2] not in numbers} == set()


def test_the_learner_edition_is_up_to_date() -> None:
    stale = [path.name for path in exercises.write_all(check=True)]
    assert stale == [], "run `make exercises`"
