"""``python -m mi_utils``: every command is wired, and bad input is one sentence."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_notebook

from mi_utils import config, data_files, models
from mi_workshop import cli, doctor, exercises, sources

ROOT = config.repository()
COMMANDS = ["fetch", "doctor", "lab", "run", "test", "execute", "exercises", "readme", "data", "bench"]


@pytest.mark.parametrize("command", COMMANDS)
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
    code = "import sys; from mi_workshop import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_bad_input_is_one_sentence(capsys):
    assert cli.main(["run", "99"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mi_utils run: ") and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.parametrize("command", COMMANDS)
def test_python_without_the_packages_is_one_sentence(command):
    """As with the system's Python: -S leaves out what is installed."""
    call = [sys.executable, "-S", "-m", "mi_utils", command]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    said = rf"mi_utils {command}: \w+ is not installed in this Python \({re.escape(sys.executable)}\); "
    cure = r"run `make setup` and use `\.venv/bin/python -m mi_utils \.\.\.`, or activate \.venv\n"
    assert re.fullmatch(said + cure, done.stderr)


@pytest.mark.parametrize("name", ["mi_utils.gone", None])
def test_a_module_of_ours_that_is_missing_is_a_bug(name, monkeypatch):
    def bench(_):
        raise ModuleNotFoundError("No module of that name", name=name)

    monkeypatch.setattr(cli, "bench", bench)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["bench"])


@pytest.mark.parametrize("command", [one for one in COMMANDS if one != "lab"])
def test_further_arguments_are_refused(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--no-browser"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --no-browser" in capsys.readouterr().err


@pytest.fixture
def edition(tmp_path, monkeypatch) -> Path:
    """Notebook 00 of the learner edition, alone in a repository."""
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    path = tmp_path / "notebooks" / "exercises" / "00_start_here.ipynb"
    path.parent.mkdir(parents=True)
    sources.write(new_notebook(metadata={"mi_utils": {"learner_edition_of": path.name}}), path)
    return path


@pytest.fixture
def called(monkeypatch) -> list[tuple[list[str], Path]]:
    """Commands and folders of the processes that would have been started; each returns 7."""
    calls = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command, cwd: calls.append((command, cwd)) or 7)
    return calls


def test_lab_opens_the_learners_copy_below_the_repository(edition, called, tmp_path):
    assert cli.main(["lab", "--no-browser", "--port", "8899", "other.ipynb"]) == 7
    ((command, cwd),) = called
    assert command[:3] == [sys.executable, "-m", "jupyterlab"] and cwd == tmp_path
    assert command[3:] == [
        f"--ServerApp.root_dir={tmp_path}",
        "--LabApp.default_url=/lab/tree/notebooks/exercises/my_00_start_here.ipynb",
        *("--no-browser", "--port", "8899", "other.ipynb"),
    ]
    assert sorted(edition.parent.iterdir()) == [edition, edition.with_name("my_00_start_here.ipynb")]
    assert edition.with_name("my_00_start_here.ipynb").read_bytes() == edition.read_bytes()


def test_lab_leaves_the_learners_work_alone(edition, called):
    own = edition.with_name("my_00_start_here.ipynb")
    own.write_text("an hour's work")
    assert cli.main(["lab"]) == 7 and own.read_text() == "an hour's work"
    edition.unlink()
    assert cli.main(["lab"]) == 7 and own.read_text() == "an hour's work"


def test_lab_without_a_learner_edition_is_one_sentence(edition, called, capsys):
    edition.unlink()
    assert cli.main(["lab"]) == 2 and called == []
    said = "mi_utils lab: notebooks/exercises/00_start_here.ipynb is missing; run `make exercises`\n"
    assert capsys.readouterr().err == said


def test_the_learners_copy_is_no_orphan_and_no_source(edition):
    own = exercises.learners_copy("00_start_here")
    assert sources.available() == []
    assert (
        exercises.write_all(check=True) == exercises.write_all() == [edition]
    )  # there is no source of it here
    assert own.exists() and not edition.exists()


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_git_ignores_the_learners_copy_only(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    names = [f"notebooks/exercises/{start}00_start_here.ipynb" for start in ("", "my_")]
    done = subprocess.run(["git", "check-ignore", *names], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == names[1:]


def dry_make(*arguments: str) -> list[str]:
    """The lines of recipes that make would run, were nothing made yet."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    call = ["make", "--dry-run", "--always-make", "--no-print-directory", *arguments]
    return subprocess.run(
        call, cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_says_what_takes_minutes_and_passes_arguments_on():
    lines = dry_make("setup")
    slow = [i for i, line in enumerate(lines) if "pip install" in line]
    assert len(slow) == 2 and all(lines[i - 1].startswith("echo") for i in slow)
    assert "a few minutes, about 2 GB" in lines[0]
    assert "bin/activate" in lines[-1]
    assert dry_make("lab", "ARGS=--no-browser --port=1")[-1].endswith("-m mi_utils lab --no-browser --port=1")


def test_fetch_without_network_and_cache_says_what_to_do(tmp_path):
    env = os.environ | {"MI_CACHE": str(tmp_path / "empty"), "MI_NO_NETWORK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mi_utils", "fetch"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "python -m mi_utils fetch" in done.stderr and "Traceback" not in done.stderr


def test_doctor_is_content_here(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "smollm2-135m: in the cache" in out and out.rstrip().endswith("nothing is wrong")


def test_doctor_notices_an_empty_cache_and_a_wrong_version(tmp_path, monkeypatch):
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "empty"))
    real = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: {"plotly": "1.0", "nbval": None}.get(name, real(name))
    )
    found = "\n".join(doctor.problems())
    assert "smollm2-135m is not in the cache; run `python -m mi_utils fetch`" in found
    assert "plotly is 1.0" in found and "nbval is not installed" in found
    lines = []
    assert doctor.report(lines.append) == 1
    assert lines[-1] == "3 to mend"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "MI_MODEL",
            "smolm2",
            "MI_MODEL: name is 'smolm2', which is no known model; did you mean 'smollm2-135m'?",
        ),
        ("MI_MODEL", "./nowhere", "MI_MODEL: name is './nowhere'; there is no such folder"),
        ("MI_BUDGET", "huge", "MI_BUDGET is 'huge'; it should be 'quick' or 'full'"),
        ("MI_GRADING", "loud", "MI_GRADING is 'loud'; it should be 'strict' or not set"),
    ],
)
def test_doctor_notices_settings_that_a_notebook_refuses(variable, value, said, tmp_path, monkeypatch):
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv(variable, value)
    assert said in list(doctor.problems())


def test_doctor_accepts_settings_that_a_notebook_accepts(tmp_path, monkeypatch):
    monkeypatch.setenv("MI_CACHE", str(tmp_path / "empty"))
    for settings in (("", "", ""), (models.load.DEFAULT, "quick", "strict"), ("owner/name", "full", "")):
        for variable, value in zip(("MI_MODEL", "MI_BUDGET", "MI_GRADING"), settings, strict=True):
            monkeypatch.setenv(variable, value)
        assert not [line for line in doctor.problems() if line.startswith("MI_")]
    assert not (tmp_path / "empty").exists()  # no model was fetched for it


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
