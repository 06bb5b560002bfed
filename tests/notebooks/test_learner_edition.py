"""With nothing solved each learner edition runs to its end, and every check says *not yet*.

Notebook 00 runs on the default model, as the sources do under nbval. The others run on a small GPT-2, which
also shows that ``MI_MODEL`` may name another model; ``test_other_models`` does the same with a third
architecture.
"""

import os
from pathlib import Path

import other_models
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from mi_workshop import exercises, sources

CELL_TIMEOUT = 600  # seconds


def run_unsolved(nb: NotebookNode, folder: Path, progress: Path, **variables: str) -> None:
    """Execute ``nb`` as a learner does, with lenient grading and a progress file of its own."""
    env = {name: value for name, value in os.environ.items() if name != "MI_GRADING"}
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(nb, timeout=CELL_TIMEOUT, kernel_name="python3", resources=where)
    client.execute(env=env | {"MI_PROGRESS": str(progress)} | variables)


def verdict(cell: NotebookNode) -> str:
    """What a check cell shows as text."""
    data = [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
    return "\n".join(data)


def test_a_learner_is_graded_leniently_in_the_folder_of_the_edition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MI_GRADING", "strict")
    told = "import os; [os.environ.get('MI_GRADING'), os.environ['MI_PROGRESS'], os.getcwd()]"
    nb = new_notebook(cells=[new_code_cell(told)])
    run_unsolved(nb, tmp_path, tmp_path / "p.json")
    assert verdict(nb.cells[0]).split() == ["[None,", f"'{tmp_path / 'p.json'}',", f"'{tmp_path}']"]


@pytest.mark.slow
@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sources.available()])
def test_unsolved_it_runs_to_its_end(path: Path, tmp_path: Path) -> None:
    learner = sources.read(exercises.folder() / path.name)
    variables = {"MI_CLAIMS_DIR": str(tmp_path)}
    other = other_models.is_needed(learner) and not path.stem.startswith("00")
    if other:
        variables["MI_MODEL"] = str(other_models.save(other_models.gpt2(), tmp_path / "gpt2"))
    run_unsolved(learner, exercises.folder(), tmp_path / "progress.json", **variables)
    said = {cell.id: verdict(cell) for cell in learner.cells if "check" in sources.tags(cell)}
    assert len(said) == len(sources.exercises(sources.read(path), path.stem)) > 0
    assert {cell: text for cell, text in said.items() if ": not yet" not in text} == {}
    assert not (tmp_path / "progress.json").exists()
    if other:
        other_models.assert_claims(tmp_path / f"{path.stem[:2]}.json")
