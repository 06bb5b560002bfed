"""What a package offers is read off its modules, and loaded on first use."""

import sys
from pathlib import Path

import pytest

import mi_utils
from mi_utils import _contents, models, patching


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of two modules and a package inside it; importing one of them is an error."""
    made = tmp_path / "some" / "topic"
    (made / "inner").mkdir(parents=True)
    sources = {
        "one": "def first(): return 1\n\ndef both(): ...\n\ndef _hidden(): ...\n\nCONSTANT = 3\n",
        "two": "__all__ = ['Second', 'both']\nclass Second: ...\ndef both(): ...\ndef left_out(): ...",
        "broken": "raise AssertionError('imported')\n\ndef third(): ...\n",
        "_private": "def fourth(): ...\n",
        "inner/__init__": "",
    }
    for name, source in sources.items():
        (made / f"{name}.py").write_text(source)
    (made.parent / "__init__.py").write_text("def top(): ...\n")
    (made / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(_contents, "_folder", lambda name: tmp_path.joinpath(*name.split(".")))
    yield "some.topic"
    for name in [name for name in sys.modules if name.split(".")[0] == "some"]:
        del sys.modules[name]


def test_a_package_lists_its_modules_and_what_stands_in_them(package: str):
    _, listing = _contents.lazy(package)
    assert listing() == ["Second", "broken", "first", "inner", "one", "third", "two"]


def test_a_name_is_loaded_from_the_module_that_holds_it_and_from_no_other(package: str):
    get, _ = _contents.lazy(package)
    assert get("first")() == 1 and get("Second").__module__ == "some.topic.two"
    assert get("one").CONSTANT == 3
    assert "some.topic.broken" not in sys.modules
    with pytest.raises(AssertionError, match="imported"):
        get("third")


@pytest.mark.parametrize("name", ["nothing", "left_out", "_hidden", "fourth", "CONSTANT", "__wrapped__"])
def test_names_that_a_package_does_not_offer(package: str, name: str):
    get, _ = _contents.lazy(package)
    with pytest.raises(AttributeError, match=f"module 'some.topic' has no attribute '{name}'"):
        get(name)


def test_a_name_of_two_modules_is_an_error_that_names_both(package: str):
    get, _ = _contents.lazy(package)
    with pytest.raises(AttributeError, match=r"write topic\.one\.both or topic\.two\.both"):
        get("both")


def test_the_package_of_packages_offers_no_functions():
    assert {"patching", "models", "config"} <= set(dir(mi_utils))
    assert not {"Claims", "contexts", "collect"} & set(dir(mi_utils))
    with pytest.raises(AttributeError, match="no attribute 'Claims'"):
        _ = mi_utils.Claims


def test_topics_offer_their_functions():
    assert patching.path_patch is patching.paths.path_patch
    assert {"path_patch", "record", "engine", "view"} <= set(dir(patching))
    assert models.hook_name is models.run.hook_name
