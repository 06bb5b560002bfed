"""Environment variables, and what importing the package costs."""

import subprocess
import sys
from pathlib import Path

import pytest
from sentences import assert_one_sentence

import mi_utils
from mi_utils import config


def test_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "cache"))
    assert config.cache_dir() == tmp_path / "cache"
    assert not config.cache_dir().exists()
    monkeypatch.setenv("MI_CACHE", "~/somewhere")
    assert config.cache_dir() == Path.home() / "somewhere"


def test_cache_is_the_users_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MI_CACHE", raising=False)
    default = config.cache_dir()
    assert default.is_absolute() and "mi_utils" in str(default)
    monkeypatch.setenv("MI_CACHE", "")
    assert config.cache_dir() == default


def test_repository_holds_the_data():
    assert (config.repository() / "pyproject.toml").is_file()
    assert (config.repository() / "data").is_dir()


def test_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MI_BUDGET", raising=False)
    assert config.budget(quick=1, full=2) == 1
    for value, expected in (("quick", 1), ("full", 2)):
        monkeypatch.setenv("MI_BUDGET", value)
        assert config.budget(quick=1, full=2) == expected
    monkeypatch.setenv("MI_BUDGET", "fast")
    with pytest.raises(ValueError) as caught:
        config.budget(quick=1, full=2)
    assert_one_sentence(caught.value, "MI_BUDGET", "'fast'", "'quick' or 'full'")


def test_model_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MI_MODEL", raising=False)
    assert config.model_name() == "smollm2-135m"
    assert config.model_name("gpt2") == "gpt2"
    monkeypatch.setenv("MI_MODEL", "")
    assert config.model_name("gpt2") == "gpt2"
    monkeypatch.setenv("MI_MODEL", "pythia-70m")
    assert config.model_name("gpt2") == "pythia-70m"


def test_switches(monkeypatch: pytest.MonkeyPatch):
    for value, expected in (("", False), ("0", False), ("1", True), ("yes", True)):
        monkeypatch.setenv("MI_NO_NETWORK", value)
        assert config.no_network() is expected
    for value, expected in (("", False), ("strict", True)):
        monkeypatch.setenv("MI_GRADING", value)
        assert config.strict_grading() is expected
    monkeypatch.setenv("MI_GRADING", "Strict")
    with pytest.raises(ValueError) as caught:
        config.strict_grading()
    assert_one_sentence(caught.value, "MI_GRADING", "'Strict'", "'strict'")


def test_importing_the_package_imports_no_library():
    """The seconds are a generous bound; what was imported is the assertion."""
    code = (
        "import sys, time; start = time.perf_counter(); import mi_utils; took = time.perf_counter() - start\n"
        "heavy = [n for n in ('torch', 'transformers', 'transformer_lens', 'plotly', 'numpy') if n in "
        "sys.modules]\n"
        "assert not heavy, heavy\n"
        "assert took < 1, took\n"
        "assert 'models' in dir(mi_utils)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_topics_are_found_by_name():
    assert mi_utils.config is config
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mi_utils.nothing
