"""The project keeps the rules of the house, and each rule notices a fault that is planted for it."""

import house_rules as rules
import pytest
from house import ROOT, House, notebook_code, part, read_house
from house_rules import GROUND, RULES, TOPICS, Rule, faults_of_notebook

STILL = (
    "02_sparse_autoencoders imports",
    "07_cross_layer_transcoders imports",
    "08_attribution_graphs imports",
)


@pytest.fixture(scope="module")
def project() -> House:
    return read_house()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: Rule, project: House):
    assert [fault for fault in rule(project) if not fault.startswith(STILL)] == []


# A rule, sources that break it, and the sentence that says so; in those under GOOD it finds nothing.
PLANTED: list[tuple[Rule, dict[str, str], str]] = [
    (
        rules.the_package_does_not_need_the_workshop,
        {"mi_utils.config": "def folder():\n    from mi_workshop import run"},
        "mi_utils.config imports mi_workshop.run",
    ),
    (
        rules.every_package_has_its_place,
        {"mi_utils": "", "mi_utils.misc": "", "mi_utils.misc.more": ""},
        "mi_utils.misc is neither a topic nor what topics stand on",
    ),
    (
        rules.topics_import_what_stands_before_them,
        {
            "mi_utils.sae.sae": "from mi_utils.graphs import local",
            "mi_utils.graphs": "",
            "mi_utils.graphs.local": "",
        },
        "sae imports graphs",
    ),
    (
        rules.topics_import_what_stands_before_them,
        {"mi_utils.models.run": "def f():\n    import mi_utils.lens", "mi_utils.lens": ""},
        "models imports lens",
    ),
    (
        rules.plots_and_claims_know_no_model,
        {"mi_utils.claims": "from mi_utils import models", "mi_utils": "", "mi_utils.models": ""},
        "claims imports models",
    ),
    (
        rules.checks_of_exercises_stand_alone,
        {"mi_utils.grading.nb00.heads": "from mi_utils import config", "mi_utils": "", "mi_utils.config": ""},
        "mi_utils.grading.nb00.heads imports config",
    ),
    (
        rules.nothing_is_imported_in_a_circle,
        {
            "mi_utils.a": "",
            "mi_utils.a.one": "from mi_utils import a\n\ndef f():\n    a.Two()",
            "mi_utils.a.two": "from mi_utils.a import one\nclass Two: ...",
        },
        "circle of mi_utils.a.one, mi_utils.a.two",
    ),
    (
        rules.no_two_parts_need_each_other,
        {
            "mi_utils.a": "",
            "mi_utils.a.one": "import mi_utils.b.two",
            "mi_utils.a.two": "",
            "mi_utils.b": "",
            "mi_utils.b.one": "from mi_utils.a.two import some",
            "mi_utils.b.two": "",
        },
        "circle of a, b",
    ),
    (
        rules.a_class_has_a_name_of_its_own,
        {"mi_utils.sae.sae": "class Fit: ...", "mi_utils.lens.lens": "class Fit: ..."},
        "class Fit in mi_utils.lens.lens, mi_utils.sae.sae",
    ),
    (
        rules.a_package_offers_each_name_once,
        {"mi_utils.lens": "", "mi_utils.lens.a": "def f(): ...", "mi_utils.lens.b": "class f: ..."},
        "mi_utils.lens.f in a, b",
    ),
    (
        rules.a_package_offers_each_name_once,
        {"mi_utils.lens": "", "mi_utils.lens.a": "def b(): ...", "mi_utils.lens.b": ""},
        "mi_utils.lens.b in a",
    ),
    (
        rules.packages_share_no_words_but_the_agreed,
        {"mi_utils.lens.lens": "def mean(): ...", "mi_utils.harvest": "def mean(): ...\ndef load(): ..."},
        "function mean in harvest, lens",
    ),
    (
        rules.hooks_are_attached_in_models_run,
        {"mi_utils.lens.lens": "for point in points: point.add_hook(act)"},
        "mi_utils.lens.lens attaches hooks: add_hook",
    ),
    (
        rules.hooks_are_attached_in_models_run,
        {"mi_utils.lens.lens": "with model.hooks(fwd_hooks=[]): ..."},
        "mi_utils.lens.lens attaches hooks: hooks",
    ),
    (
        rules.hook_points_are_named_in_models_run,
        {"mi_utils.lens.lens": "name = f'blocks.{layer}.attn.hook_z'"},
        "mi_utils.lens.lens puts together the name of a hook point",
    ),
    (
        rules.files_are_written_in_data_files,
        {"mi_utils.lens.lens": "import os\nos.replace(new, file)"},
        "mi_utils.lens.lens moves a file into place",
    ),
    (
        rules.files_are_written_in_data_files,
        {"mi_workshop.run": "import hashlib\nhashlib.file_digest(file, 'sha256')"},
        "mi_workshop.run computes a digest",
    ),
    (
        rules.html_is_made_from_templates,
        {"mi_utils.claims": "row = f'<td style={x}>{text}'"},
        "mi_utils.claims puts HTML together by hand",
    ),
    (
        rules.html_is_made_from_templates,
        {"mi_utils.claims": "row = '<div>' + text"},
        "mi_utils.claims puts HTML together by hand",
    ),
    (
        rules.html_is_made_from_templates,
        {"mi_utils.claims": "row = '<p class=said>{}'.format(text)"},
        "mi_utils.claims puts HTML together by hand",
    ),
    (
        rules.drawing_stands_in_modules_of_its_own,
        {"mi_utils.circuits.heads": "def f():\n    import plotly.graph_objects as go"},
        "mi_utils.circuits.heads draws",
    ),
    *(
        (rules.sources_hold_nothing_unwelcome, {"mi_utils.lens.lens": source}, f"mi_utils.lens.lens {said}")
        for source, said in (
            ("from torch import *", "imports torch.*"),
            ("from . import view", "imports .None.view"),
            ("import pickle", "imports pickle"),
            ("def f(x):\n    print(x)", "calls print"),
            ("torch.load(file)", "calls torch.load"),
            ("boot(name, trust_remote_code=True)", "says trust_remote_code"),
            ("np.load(file, allow_pickle=True)", "says allow_pickle"),
        )
    ),
    (rules.files_are_short, {"mi_utils.lens.lens": "x = 0\n" * 350}, "mi_utils.lens.lens is long"),
    (
        rules.lines_are_short,
        {"tests.lens.test_lens": "x = " + "1" * 107},
        "tests.lens.test_lens has a long line",
    ),
    (
        rules.sources_are_formatted,
        {"mi_utils.lens.lens": "x = [1,2]  # fmt: skip\n" * 11},
        "11 exceptions from the formatter, in mi_utils.lens.lens",
    ),
]

# What comes close to a fault, and is none.
GOOD = {
    "mi_utils": "",
    "mi_utils.__main__": "from mi_workshop.cli import main",
    "mi_utils.claims": "from mi_utils import plots\nf'{x}<br><b>{y}</b>'\nROW = '<td>{{ text }}</td>'",
    "mi_utils.config": "def load(): ...",
    "mi_utils.grading": "",
    "mi_utils.grading.nb00.heads": f'SAYS = "{"word " * 30}"\nmodel.run_with_hooks(tokens)',
    "mi_utils.grading.store": "from mi_utils import config",
    "mi_utils.lens": "",
    "mi_utils.lens.lens": "from mi_utils import models\ndef load(): ...\nclass _Fit: ...\n# print, fmt: skip",
    "mi_utils.lens.view": "import plotly\nfrom mi_utils.lens.lens import load\ndef _load(): ...",
    "mi_utils.models": "",
    "mi_utils.models.run": "class _Fit: ...\npoint.add_hook(act)\nname = f'blocks.{layer}.mlp.hook_in'",
    "mi_utils.plots": "",
    "mi_utils.plots.html": "import hashlib\nhashlib.sha256(script)",
    "mi_workshop.run": "from mi_utils import lens\nprint(lens.load())",
    "tests.test_lens": "x = [1,2]  # fmt: skip\n" * 10 + "text.replace('a', 'b')",
}


@pytest.mark.parametrize(
    ("rule", "sources", "said"), PLANTED, ids=[f"{rule.__name__}: {said}" for rule, _, said in PLANTED]
)
def test_the_rule_notices_a_planted_fault(rule: Rule, sources: dict[str, str], said: str):
    assert list(dict.fromkeys(rule(House(sources)))) == [said]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_leaves_good_sources_alone(rule: Rule):
    assert list(rule(House(GOOD))) == []


def test_each_rule_was_shown_to_bite():
    assert {rule for rule, _, _ in PLANTED} == set(RULES)


# -- notebooks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["notebooks", "notebooks/exercises"])
def test_notebooks_import_little_and_nothing_of_the_workshop(folder: str):
    files = sorted((ROOT / folder).glob("[0-9]*.ipynb"))
    assert len(files) >= 9
    found = [fault for file in files for fault in faults_of_notebook(file.stem, notebook_code(file))]
    assert [fault for fault in found if not fault.startswith(STILL)] == []


def test_faults_of_notebooks_are_noticed():
    many = "from mi_utils import a, b, c, d, e, f, g, h, i"
    assert not list(faults_of_notebook("00", many))
    assert list(faults_of_notebook("00", f"{many}\nfrom mi_utils.models.run import Hook")) == [
        "00 imports 10 names"
    ]
    assert list(faults_of_notebook("00", "from mi_workshop import run")) == ["00 imports mi_workshop"]


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


def test_what_is_loaded_while_a_source_is_imported(project: House):
    both = House(project.sources | {"mi_utils.drawn": SOURCE})
    wanted = {f"mi_utils.{one}" for one in ("lens", "models", "patching", "plots")}
    wanted |= {"mi_utils.patching.recording", "mi_utils.models.load"}  # the annotations'
    assert both.loaded_at_import["mi_utils.drawn"] == wanted
    later = {"mi_utils.sae", "mi_utils.circuits.heads", "mi_utils.lens.lens"}
    assert both.loaded["mi_utils.drawn"] == wanted | later
    assert both.place("torch.nn") == ""


def test_the_whole_project_is_read(project: House):
    assert len(project.trees) > 150 and len(project.sources) > 270
    assert {part(package) for package in project.packages} >= {*TOPICS, *GROUND, "grading"}
    assert sum(map(len, project.loaded_at_import.values())) > 200
    assert project.offers["mi_utils.patching"]["path_patch"] == ["paths"]
