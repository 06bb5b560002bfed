"""A file of ``data/`` is handed out only when it is the one that the manifest describes."""

import hashlib
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


def test_strangers_are_named_wherever_they_lie(data: Path):
    (data / "sub" / "deeper").mkdir(parents=True)
    (data / "sub" / "listed.txt").write_text("listed")
    data_files.record("sub/listed.txt", licence="MIT", source="this test", command=COMMAND)
    assert data_files.trouble() == []
    (data / "sub" / "stray.txt").write_text("who?")
    (data / "sub" / "deeper" / "stray.txt").write_text("who?")
    found = " ".join(data_files.trouble())
    assert "data/sub/stray.txt is not in the manifest" in found
    assert "data/sub/deeper/stray.txt is not in the manifest" in found and "listed.txt" not in found


def test_digest_is_sha256(data: Path):
    assert data_files.sha256(data / "one.txt") == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("content", ["two\r\nlines ü\n", b"\x00\xff"])
def test_written_files_hold_what_was_given(content: str | bytes, tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("before")
    assert data_files.write(content, str(target)) == target
    assert target.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("before")
    with data_files.staged(target) as new:
        assert new.parent == tmp_path and new != target
        new.write_text("after")
        assert target.read_text() == "before"
    assert target.read_text() == "after"
    with pytest.raises(KeyboardInterrupt), data_files.staged(target) as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "after"
    with pytest.raises(FileNotFoundError), data_files.staged(target):
        pass  # nothing was written
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_nothing_is_left_where_a_file_cannot_be_moved_into_place(tmp_path: Path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        data_files.write("text", tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
