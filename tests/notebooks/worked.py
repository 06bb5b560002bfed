"""The worked solutions of a notebook's exercises, run as they stand there."""

from typing import Any

import torch
from nbformat import NotebookNode

from mi_workshop import sources


def solution(notebook: NotebookNode, number: str, name: str, **given: Any) -> dict[str, Any]:
    """What the worked solution of an exercise defines, beside what it is given."""
    (exercise,) = [one for one in sources.exercises(notebook, number) if one.id == f"{number}.{name}"]
    scope = {"torch": torch} | given
    exec(notebook.cells[exercise.solution].source, scope)
    return scope
