"""The rules of the house, read off the sources: who may import whom, what a name means, where hooks are attached."""

import ast
import graphlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mi_utils import _contents

ROOT = Path(__file__).parent.parent
TOPICS = (
    "circuits",
    "features",
    "graphs",
    "heads",
    "lens",
    "patching",
    "sae",
    "superposition",
    "transcoders",
)
# What topics stand on.
GROUND = ("atlas", "claims", "config", "corpus", "data_files", "harvest", "models", "plots", "prompts")
# Only ``models.run`` attaches hooks; checks of exercises look at what learners write, and import nothing.
HOOKING = {"add_hook", "run_with_hooks", "hooks", "register_forward_hook", "register_forward_pre_hook"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(file): ast.parse(file.read_text(encoding="utf-8"))
    for package in ("mi_utils", "mi_workshop")
    for file in sorted((ROOT / package).rglob("*.py"))
}
PACKAGES = tuple(module_name(file) for file in sorted((ROOT / "mi_utils").rglob("__init__.py")))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that is imported somewhere in a source: modules, or names in modules."""
    for node in ast.walk(tree):
        yield from _names(node)


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert not node.level, f"line {node.lineno}: a relative import"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a source that are evaluated when it is imported: not the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.Lambda) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [one for one in ast.walk(node.args) if isinstance(one, ast.arg) and one.annotation]
            evaluated = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
            evaluated += [one.annotation for one in arguments] + [node.returns] * bool(node.returns)
            for part in evaluated:
                yield part
                yield from run_at_import(part)
        else:
            yield from run_at_import(node)


def loaded(tree: ast.AST) -> set[str]:
    """The modules of ours that are loaded while a source is imported.

    ``from mi_utils import models`` alone loads the table of contents; ``models.Shipped`` in an annotation loads
    ``mi_utils.models.wheel``.
    """
    nodes = list(run_at_import(tree))
    names = [name for node in nodes for name in _names(node)]
    packages = {name.rpartition(".")[2]: name for name in names if name in PACKAGES}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages:
            names.append(f"{packages[node.value.id]}.{node.attr}")
    return {module for name in names if (module := module_of(name))}


def module_of(name: str) -> str:
    """The module of ours in which a full name stands; empty for what is not ours."""
    if name in MODULES:
        return name
    package, _, last = name.rpartition(".")
    if package in PACKAGES:
        places = _contents.table(package).get(last, ())
        return f"{package}.{places[0]}" if len(places) == 1 else package
    return package if package in MODULES else ""


def part(module: str) -> str:
    """``models`` for ``mi_utils.models.run``: the package, or the single module, below ``mi_utils``."""
    return module.split(".")[1] if "." in module else ""


def imports_of(*parts: str) -> Iterator[tuple[str, str]]:
    """Each module of some parts of ``mi_utils``, with each name that it imports, in functions too."""
    for module, tree in MODULES.items():
        if module.startswith("mi_utils.") and part(module) in parts:
            yield from ((module, name) for name in imported(tree))


def test_all_sources_are_read():
    found = {part(module) for module in MODULES if module.startswith("mi_utils.")}
    assert found - {"_contents", "__main__", "grading"} == {*TOPICS, *GROUND}
    assert len(MODULES) > 100 and len(PACKAGES) > 10


def test_the_package_does_not_need_the_workshop():
    wrong = [
        f"{module} imports {name}"
        for module, tree in MODULES.items()
        for name in imported(tree)
        if module.startswith("mi_utils") and name.startswith("mi_workshop")
    ]
    assert wrong == ["mi_utils.__main__ imports mi_workshop.cli.main"]


@pytest.mark.parametrize("folder", ["notebooks", "notebooks/exercises"])
def test_notebooks_do_not_need_the_workshop(folder: str):
    files = sorted((ROOT / folder).glob("[0-9]*.ipynb"))
    assert len(files) >= 9
    for file in files:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        assert any("from mi_utils import" in source for source in code), file.name
        assert not [source for source in code if "mi_workshop" in source], file.name


def test_what_topics_stand_on_imports_no_topic():
    wrong = [
        f"{module} imports {name}"
        for module, name in imports_of(*GROUND)
        if name.startswith("mi_utils.") and part(name) in TOPICS
    ]
    assert wrong == []


def test_plots_and_claims_know_no_model():
    known = {part(name) for _, name in imports_of("plots", "claims") if name.startswith("mi_utils.")}
    assert known <= {"_contents", "plots", "claims", "config", "data_files"}


def test_checks_of_exercises_stand_alone():
    known = {part(name) for _, name in imports_of("grading") if name.startswith("mi_utils.")}
    assert known == {"grading", "config"}


def test_no_circle_of_imports():
    graph = {module: loaded(tree) - {module} for module, tree in MODULES.items()}
    assert sum(map(len, graph.values())) > 200
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def test_no_circle_of_packages():
    """Nor between topics as a whole: what is imported in functions counts here too."""
    graph: dict[str, set[str]] = {}
    for module, tree in MODULES.items():
        if module.startswith("mi_utils.") and part(module) != "__main__":
            below = {part(name) for name in imported(tree) if name.startswith("mi_utils.")}
            graph.setdefault(part(module), set()).update(below - {part(module)})
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_has_the_name_of_a_module(package: str):
    """``package.name`` would be the module, and the function could not be reached flat."""
    assert not set(_contents.table(package)) & set(_contents.modules(package))


def test_hooks_are_attached_in_one_place():
    wrong = [
        f"{module}, line {node.lineno}: {node.func.attr}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in HOOKING
        if module.startswith("mi_utils.") and part(module) != "grading" and module != "mi_utils.models.run"
    ]
    assert wrong == []


# -- the reading itself ---------------------------------------------------------------------------------


SOURCE = """
from typing import TYPE_CHECKING
from mi_utils import lens, models, patching, plots
if TYPE_CHECKING:
    from mi_utils import sae

@plots.cached
def draw(run: patching.Run, head: int = models.DEFAULT) -> plots.Figure:
    from mi_utils.circuits.heads import KeepOnly
    return lens.read(run)

class Drawn:
    model: models.ModelSpec
    size = property(lambda self: lens.Lens)
"""


def test_what_is_loaded_while_a_source_is_imported():
    wanted = {f"mi_utils.{one}" for one in ("lens", "models", "patching", "plots")}
    wanted |= {"mi_utils.patching.engine", "mi_utils.models.load"}  # the annotations'
    assert loaded(ast.parse(SOURCE)) == wanted
    assert "mi_utils.circuits.heads.KeepOnly" in set(imported(ast.parse(SOURCE)))
    assert module_of("mi_utils.patching.engine.Run") == "mi_utils.patching.engine"
    assert module_of("torch.nn") == "" and part("mi_utils.harvest.pieces") == "harvest"
