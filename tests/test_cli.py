"""``python -m mi_utils``: every command is wired, and bad input is one sentence."""

import os
import subprocess
import sys

import pytest

from mi_utils import cli, data_files
from mi_utils.workshop import doctor


@pytest.mark.parametrize("command", ["fetch", "doctor", "lab", "run", "test", "execute", "exercises", "readme", "data",
                                     "bench"])  # fmt: skip
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


def test_no_command_says_which_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_help_loads_no_library():
    code = "import sys; from mi_utils import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_bad_input_is_one_sentence(capsys):
    assert cli.main(["run", "99"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mi_utils run: ") and error.count("\n") == 1 and "Traceback" not in error


def test_fetch_without_network_and_cache_says_what_to_do(tmp_path):
    env = os.environ | {"MI_CACHE": str(tmp_path / "empty"), "MI_NO_NETWORK": "1"}
    done = subprocess.run([sys.executable, "-m", "mi_utils", "fetch"], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "python -m mi_utils fetch" in done.stderr and "Traceback" not in done.stderr


def test_doctor_is_content_here(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "smollm2-135m: in the cache" in out and out.rstrip().endswith("nothing is wrong")


def test_doctor_notices_an_empty_cache_and_a_wrong_version(tmp_path, monkeypatch):
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "empty"))
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: {"plotly": "1.0", "nbval": None}.get(name, real(name)))
    found = "\n".join(doctor.problems())
    assert "smollm2-135m is not in the cache; run `python -m mi_utils fetch`" in found
    assert "plotly is 1.0" in found and "nbval is not installed" in found
    lines = []
    assert doctor.report(lines.append) == 1
    assert lines[-1] == "3 to mend"


def test_data_is_intact_and_complete():
    assert data_files.trouble() == []


def test_data_folder_is_small():
    assert sum(file.stat().st_size for file in data_files.folder().rglob("*") if file.is_file()) < 80_000_000


def test_manifest_entries_are_whole():
    for entry in data_files.manifest().values():
        assert set(entry) == {"sha256", "bytes", "licence", "source", "command"} and all(entry.values())


def test_a_changed_missing_or_unlisted_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "folder", lambda: tmp_path)
    for name in ("kept", "changed", "missing"):
        (tmp_path / name).write_text(name)
        data_files.record(name, licence="MIT", source="this test", command=f"make {name}")
    assert data_files.trouble() == []
    (tmp_path / "changed").write_text("other")
    (tmp_path / "missing").unlink()
    (tmp_path / "stranger").write_text("who?")
    found = "\n".join(data_files.trouble())
    assert "data/changed is not the file" in found and "`make changed`" in found
    assert "data/missing is missing" in found and "data/stranger is not in the manifest" in found
    with pytest.raises(ValueError, match="kept"):
        data_files.path("nothing of the kind")
    assert data_files.path("kept").read_text() == "kept"


def test_data_makes_a_file_again(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "folder", lambda: tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("made")
    data_files.record("a.txt", licence="MIT", source="this test", command="printf made > data/a.txt")
    (tmp_path / "data" / "a.txt").unlink()
    assert cli.main(["data"]) == 1
    assert cli.main(["data", "a.txt"]) == 0
    assert cli.main(["data"]) == 0
    assert cli.main(["data", "b.txt"]) == 2


def test_a_damaged_manifest_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "folder", lambda: tmp_path)
    (tmp_path / "MANIFEST.json").write_text("{")
    with pytest.raises(ValueError, match="MANIFEST.json can't be read"):
        data_files.manifest()
