"""The rules of the house: who may import whom, what a name means, what stands where, how a source is written.

Each rule yields a sentence for each fault that it finds.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator

from house import House, circles, comments, imported, part

Rule = Callable[[House], Iterator[str]]

# A topic may import those that stand before it, and what all topics stand on: the single modules and GROUND.
TOPICS = (
    "superposition",
    "sae",
    "features",
    "heads",
    "lens",
    "patching",
    "circuits",
    "transcoders",
    "graphs",
)
GROUND = ("claims", "models", "plots", "prompts")
# What notebooks import is drawn and asserted with these, whatever the topic.
FOR_ALL = {"plots": {"config", "data_files"}, "claims": {"config", "data_files", "plots"}}
# Whether a check is strict is a setting, and solved exercises are remembered in a file.
GRADING_MAY = {
    "mi_utils.grading.core": {"config"},
    "mi_utils.grading.own": {"config"},
    "mi_utils.grading.store": {"config", "data_files"},
}

# Words that several topics have as a function, each with its one meaning.
AGREED = {
    "build": "make a model or a graph from its parts",
    "check_fits": "refuse what was made for another model",
    "encode": "from text to token ids",
    "evaluate": "how good a thing is on text it was not made from",
    "export": "write a page or a file for people",
    "figure": "draw it",
    "fit": "find the numbers that describe data best, in one step",
    "load": "read it from a file that is checked",
    "record": "keep what happened",
    "run": "run a model with something else in place of a part",
    "save": "write it to a file that can be loaded",
    "show": "display it under a cell",
    "train": "find weights by gradient descent",
    "write": "put it into a file that others read",
}

HOOKING = {"add_hook", "remove_hooks", "run_with_hooks", "run_with_cache", "add_perma_hook"}
HOOKING |= {"register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"}
# Names in a file format, which are those of SAELens; a site that one function needs.
NAMES_HOOK_POINTS = {
    "mi_utils.transcoders.files",
    "mi_utils.transcoders.saelens",
    "mi_utils.graphs.local",
    "mi_utils.heads.composition",
}

LONGEST_FILE, LONGEST_LINE, UNFORMATTED = 350, 110, 10
# They move a whole folder into place, and name each file's digest in it.
MOVES_FOLDERS = {"mi_utils.models.wheel", "mi_utils.models.atlas_world"}
# Digests of what is no file: a page's script, which its policy names; a tokenizer's vocabulary.
HASHES_TEXT = {"mi_utils.plots.html", "mi_utils.corpus"}
DRAWS = re.compile(r"mi_utils\.plots\.|mi_workshop\.|.*\.(view|figure|drawing|alt_text)$")
TAG = re.compile(
    r"</?(a|article|body|code|details|div|h\d|head|html|img|label|li|line|nav|p|pre|rect|script|section|span|"
    r"style|summary|svg|table|tbody|td|th|thead|tr|ul)\b"
)


# -- who imports whom -----------------------------------------------------------------------------------


def the_package_does_not_need_the_workshop(ours: House) -> Iterator[str]:
    for module, tree in ours.trees.items():
        if module.startswith("mi_utils") and module != "mi_utils.__main__":
            yield from (
                f"{module} imports {name}" for name in imported(tree) if name.startswith("mi_workshop")
            )


def every_package_has_its_place(ours: House) -> Iterator[str]:
    for package in ours.packages:
        if part(package) and part(package) not in (*TOPICS, *GROUND, "grading"):
            yield f"{package} is neither a topic nor what topics stand on"


def topics_import_what_stands_before_them(ours: House) -> Iterator[str]:
    for name, needed in ours.parts.items():
        before = TOPICS[: TOPICS.index(name)] if name in TOPICS else ()
        if name != "grading":
            yield from (f"{name} imports {other}" for other in needed & set(TOPICS) - set(before))


def plots_and_claims_know_no_model(ours: House) -> Iterator[str]:
    needed = ours.parts
    for name, allowed in FOR_ALL.items():
        yield from (f"{name} imports {other}" for other in needed.get(name, set()) - allowed)


def checks_of_exercises_stand_alone(ours: House) -> Iterator[str]:
    for module, loaded in ours.loaded.items():
        if part(module) == "grading":
            needed = {part(other) for other in loaded} - {"grading", ""}
            yield from (f"{module} imports {other}" for other in needed - GRADING_MAY.get(module, set()))


def nothing_is_imported_in_a_circle(ours: House) -> Iterator[str]:
    for loaded in (ours.loaded_at_import, ours.loaded):
        yield from (f"circle of {', '.join(circle)}" for circle in circles(loaded))


def no_two_parts_need_each_other(ours: House) -> Iterator[str]:
    yield from (f"circle of {', '.join(circle)}" for circle in circles(ours.parts))


# -- what a name means ----------------------------------------------------------------------------------


def a_class_has_a_name_of_its_own(ours: House) -> Iterator[str]:
    places: dict[str, set[str]] = defaultdict(set)
    for module, tree in ours.trees.items():
        if part(module):
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].add(module)
    yield from (f"class {name} in {', '.join(sorted(at))}" for name, at in places.items() if len(at) > 1)


def a_package_offers_each_name_once(ours: House) -> Iterator[str]:
    for package, offered in ours.offers.items():
        if part(package) not in ("", "grading"):  # grading lists what it offers itself
            for name, modules in offered.items():
                if len(modules) > 1 or f"{package}.{name}" in ours.trees:
                    yield f"{package}.{name} in {', '.join(sorted(modules))}"


def packages_share_no_words_but_the_agreed(ours: House) -> Iterator[str]:
    places: dict[str, set[str]] = defaultdict(set)
    for module, tree in ours.trees.items():
        if part(module) not in ("", "grading"):  # what checks are made of is not what notebooks call
            for node in tree.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    places[node.name].add(part(module))
    for name, parts in places.items():
        if len(parts) > 1 and name not in AGREED:
            yield f"function {name} in {', '.join(sorted(parts))}"


# -- what stands where ----------------------------------------------------------------------------------


def hooks_are_attached_in_models_run(ours: House) -> Iterator[str]:
    for module, node in _nodes(ours, ast.Attribute):
        attaches = node.attr in HOOKING or ast.unparse(node) == "model.hooks"
        if part(module) not in ("", "grading") and module != "mi_utils.models.run" and attaches:
            yield f"{module} attaches hooks: {node.attr}"


def hook_points_are_named_in_models_run(ours: House) -> Iterator[str]:
    for module, node in _nodes(ours, ast.JoinedStr):
        begins = node.values and isinstance(node.values[0], ast.Constant) and node.values[0].value
        elsewhere = part(module) and module not in NAMES_HOOK_POINTS | {"mi_utils.models.run"}
        if begins == "blocks." and elsewhere:
            yield f"{module} puts together the name of a hook point"


def files_are_written_in_data_files(ours: House) -> Iterator[str]:
    for module, node in _nodes(ours, ast.Attribute):
        if module != "mi_utils.data_files":
            if ast.unparse(node) == "os.replace" and module not in MOVES_FOLDERS:
                yield f"{module} moves a file into place"
            if ast.unparse(node.value) == "hashlib" and module not in HASHES_TEXT:
                yield f"{module} computes a digest"


def html_is_made_from_templates(ours: House) -> Iterator[str]:
    for module, node in _nodes(ours, ast.JoinedStr | ast.BinOp | ast.Call):
        if any(TAG.search(text) for text in _filled_in(node)):
            yield f"{module} puts HTML together by hand"


def _filled_in(node: ast.AST) -> Iterator[str]:
    """The strings into which a node puts something."""
    if isinstance(node, ast.Call):
        inside = (
            [node.func.value] if isinstance(node.func, ast.Attribute) and node.func.attr == "format" else []
        )
    elif isinstance(node, ast.BinOp):
        inside = [node.left, node.right]
    else:
        inside = node.values
    yield from (one.value for one in inside if isinstance(one, ast.Constant) and isinstance(one.value, str))


def drawing_stands_in_modules_of_its_own(ours: House) -> Iterator[str]:
    for module, tree in ours.trees.items():
        if not DRAWS.match(module) and any(name.startswith("plotly") for name in imported(tree)):
            yield f"{module} draws"


# -- how a source is written ----------------------------------------------------------------------------


def sources_hold_nothing_unwelcome(ours: House) -> Iterator[str]:
    for module, tree in ours.trees.items():
        for name in imported(tree):
            if (
                name.endswith(".*")
                or name.startswith(".")
                or name.split(".")[0] in ("pickle", "dill", "joblib")
            ):
                yield f"{module} imports {name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                yield f"{module} says {node.arg}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "torch.load" or (called == "print" and module.startswith("mi_utils")):
                    yield f"{module} calls {called}"


def files_are_short(ours: House) -> Iterator[str]:
    for module in ours.trees:
        if len(ours.sources[module].splitlines()) >= LONGEST_FILE:
            yield f"{module} is long"


def lines_are_short(ours: House) -> Iterator[str]:
    for module, source in ours.sources.items():
        prose = module.startswith("mi_utils.grading.nb")  # what a learner is told, a sentence a line
        if not prose and any(len(line) > LONGEST_LINE for line in source.splitlines()):
            yield f"{module} has a long line"


def sources_are_formatted(ours: House) -> Iterator[str]:
    skips = [
        module
        for module, source in ours.sources.items()
        for comment in comments(source, "fmt:")
        if re.match(r"# fmt: ?(skip|off)", comment)
    ]
    if len(skips) > UNFORMATTED:
        yield f"{len(skips)} exceptions from the formatter, in {', '.join(sorted(set(skips)))}"


def _nodes(ours: House, kind: type | ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for module, tree in ours.trees.items():
        yield from ((module, node) for node in ast.walk(tree) if isinstance(node, kind))


RULES: tuple[Rule, ...] = (
    the_package_does_not_need_the_workshop,
    every_package_has_its_place,
    topics_import_what_stands_before_them,
    plots_and_claims_know_no_model,
    checks_of_exercises_stand_alone,
    nothing_is_imported_in_a_circle,
    no_two_parts_need_each_other,
    a_class_has_a_name_of_its_own,
    a_package_offers_each_name_once,
    packages_share_no_words_but_the_agreed,
    hooks_are_attached_in_models_run,
    hook_points_are_named_in_models_run,
    files_are_written_in_data_files,
    html_is_made_from_templates,
    drawing_stands_in_modules_of_its_own,
    sources_hold_nothing_unwelcome,
    files_are_short,
    lines_are_short,
    sources_are_formatted,
)


# -- notebooks ----

MOST_NAMES = 9


def faults_of_notebook(name: str, code: str) -> Iterator[str]:
    """A learner finds everything by Tab behind a few names, and nothing of the author's side."""
    names = sorted({one for one in imported(ast.parse(code)) if one.startswith("mi_")})
    if [one for one in names if not one.startswith("mi_utils.")] or "mi_workshop" in code:
        yield f"{name} imports mi_workshop"
    if len(names) > MOST_NAMES:
        yield f"{name} imports {len(names)} names"
