"""Where the checks are: a package for each notebook, files by topic, and nothing in them but grading."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

import mi_utils.grading
from mi_utils import grading

HERE = Path(mi_utils.grading.__file__).parent
PACKAGES = sorted(HERE.glob("nb[0-9][0-9]"))
CHECKS = sorted(HERE.glob("nb[0-9][0-9]/*.py"))
ALLOWED = {"mi_utils", "numpy", "torch"} | sys.stdlib_module_names  # of mi_utils, grading only: see below


def test_each_notebook_with_exercises_has_its_package_and_nothing_lies_beside_it():
    assert [package.name[2:] for package in PACKAGES] == sorted({name[:2] for name in grading.EXERCISES})
    assert list(HERE.glob("nb*.py")) == []


def table(docstring: str) -> list[tuple[str, str, str]]:
    """The rows of a package's docstring: id, file, title."""
    return re.findall(r"^(\d\d\.\w+) +(\w+\.py) +(.*)$", docstring, re.M)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_packages_docstring_says_where_the_check_of_each_exercise_is(package):
    docstring = importlib.import_module(f"mi_utils.grading.{package.name}").__doc__
    found = [
        (exercise.id, Path(sys.modules[exercise.judge.__module__].__file__).name, exercise.title)
        for exercise in grading.EXERCISES.notebook(package.name[2:]).values()
    ]
    assert table(docstring) == found


@pytest.mark.parametrize("exercise", grading.EXERCISES)
def test_where_leads_to_the_function_that_judges(exercise):
    file, _, line = grading.where(exercise).rpartition(":")
    judge = grading.exercise(exercise).judge.__name__
    beginning = Path(file).read_text().splitlines()[int(line) - 1 :]
    assert next(one for one in beginning if not one.startswith("@")).startswith(f"def {judge}(")
    assert re.search(
        rf'^    id="{exercise}",$', Path(file).read_text(), re.M
    )  # and its description is there too


def test_where_of_an_unknown_exercise_names_those_there_are():
    with pytest.raises(ValueError, match=r"exercise_id is '06\.abd'; there are: 06\.abc, "):
        grading.where("06.abd")


@pytest.mark.parametrize("file", CHECKS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_file_of_checks_can_be_read_at_one_sitting(file):
    assert len(file.read_text().splitlines()) < 350


def strangers(code: str) -> set[str]:
    """What a file of checks should not import: of ``mi_utils`` what is outside ``grading``, and libraries."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "."] if node.level == 0 else ["." * node.level + (node.module or "")]
            names = [f"mi_utils.{one.name}" for one in node.names] if names == ["mi_utils"] else names
        for name in names:
            own = name == "mi_utils.grading" or name.startswith("mi_utils.grading.")
            if name.partition(".")[0] not in ALLOWED or (name.startswith("mi_utils") and not own):
                found.add(name)
    return found


SHARED = [HERE / "answers.py", HERE / "tensors.py"]


@pytest.mark.parametrize("file", CHECKS + SHARED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_checks_import_nothing_of_the_package_outside_grading(file):
    assert strangers(file.read_text()) == set()


def test_what_checks_should_not_import_is_noticed():
    code = """
import torch, mi_utils.circuits
from mi_utils import sae, grading
from mi_utils.lens import training
from mi_utils.grading.answers import same
from mi_utils.grading_of_something import else_
from transformer_lens import HookedTransformer
from . import tensors

def judge(answer):
    from mi_utils.patching import patch
"""
    wanted = {
        "mi_utils.circuits",
        "mi_utils.sae",
        "mi_utils.lens",
        "mi_utils.grading_of_something",
        "mi_utils.patching",
    }
    assert strangers(code) == wanted | {"transformer_lens", "."}
