"""A file of ``data/`` is handed out only when it is the one that the manifest describes."""

import json
from pathlib import Path

import pytest
from sentences import assert_one_sentence

from mi_utils import config, data_files

COMMAND = "python tests/tools/make_it.py"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``data/`` of its own with one file in it."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    (tmp_path / "data" / "one.txt").write_text("one")
    data_files.record("one.txt", licence="MIT", source="this test", command=COMMAND)
    return tmp_path / "data"


def refused(name: str, *names: str) -> None:
    with pytest.raises(ValueError) as caught:
        data_files.path(name)
    assert_one_sentence(caught.value, name, *names)


def test_intact_file(data: Path):
    assert data_files.path("one.txt") == data / "one.txt"
    entry = data_files.manifest()["one.txt"]
    assert entry["bytes"] == 3 and len(entry["sha256"]) == 64
    assert (entry["licence"], entry["source"], entry["command"]) == ("MIT", "this test", COMMAND)


def test_record_adds_and_replaces(data: Path):
    (data / "a.txt").write_text("two")
    data_files.record("a.txt", licence="MIT", source="x", command="y")
    (data / "one.txt").write_text("one, again")
    data_files.record("one.txt", licence="MIT", source="x", command="y")
    assert list(data_files.manifest()) == ["a.txt", "one.txt"]
    assert data_files.path("one.txt") and data_files.path("a.txt")
    assert sorted(file.name for file in data.iterdir()) == ["MANIFEST.json", "a.txt", "one.txt"]


def test_changed_file(data: Path):
    (data / "one.txt").write_text("two")
    refused("one.txt", "manifest", COMMAND)


def test_missing_file(data: Path):
    (data / "one.txt").unlink()
    refused("one.txt", "is missing", COMMAND)


def test_unknown_name(data: Path):
    refused("two.txt", "name", "one.txt")
    (data / "two.txt").write_text("in the folder but in no list")
    refused("two.txt", "one.txt")


@pytest.mark.parametrize("text", ["{", "", None])
def test_damaged_manifest(text: str | None, data: Path):
    if text is None:
        (data / "MANIFEST.json").unlink()
    else:
        (data / "MANIFEST.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        data_files.path("one.txt")
    assert_one_sentence(caught.value, "data/MANIFEST.json", "repository")


def test_repository_lists_every_file_and_each_is_intact():
    listed = data_files.manifest()
    files = (file for file in data_files.folder().rglob("*") if file.is_file())
    present = {file.relative_to(data_files.folder()).as_posix() for file in files} - {"MANIFEST.json"}
    assert present == set(listed)
    for name, entry in listed.items():
        assert data_files.path(name).stat().st_size == entry["bytes"]
        assert all(entry[key] for key in ("licence", "source", "command")), name


def test_manifest_is_json_that_people_can_read():
    text = (data_files.folder() / "MANIFEST.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1) + "\n"
