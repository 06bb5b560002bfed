"""Running notebooks: the kernel, what is measured, what is stored, what is reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import nbformat.v4 as v4
import pytest

from mi_utils import claims, config
from mi_workshop import execute, kernels, readme, results, run, sources

FIRST = """# Find the heads

In an hour, a | pipe.

**You will** see.
**It takes** about 0.5 minutes and 0.3 GiB."""
CLAIMS = """
import json, os
claim = dict(statement="a | b <c>", source="s", published="1", ours="2", verdict="holds", expected="holds")
claim |= dict(part="claims", set_up="")
with open(os.path.join(os.environ["MI_CLAIMS_DIR"], "00.json"), "w") as file:
    claims = [claim, claim | dict(verdict="differs", expected="differs")]
    json.dump(dict(notebook="00", model="m", claims=claims, trials=[]), file)
"""


def write(path, *codes, first=FIRST):
    """A notebook of a first cell and these code cells."""
    cells = [v4.new_markdown_cell(first, id="first")]
    cells += [v4.new_code_cell(code, id=f"cell-{i}") for i, code in enumerate(codes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """An empty repository; write notebooks to its folder ``notebooks``."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(config, "repository", lambda: tmp_path)
    for name in ("MI_MODEL", "MI_BUDGET"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def printed(nb):
    """What the cells printed, joined."""
    return "".join(o.text for cell in nb.cells for o in cell.get("outputs", []) if o.output_type == "stream")


# The environment and the kernel


def test_environment_is_ours_on_top_of_the_users(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MI_GRADING", "lenient")
    monkeypatch.setenv("PYTHONPATH", "mine")
    env = kernels.environment()
    assert (
        env["OMP_NUM_THREADS"] == "7" and env["MI_GRADING"] == "strict" and env["PATH"] == os.environ["PATH"]
    )
    assert env["PLOTLY_RENDERER"] == "plotly_mimetype" and env["TQDM_DISABLE"] == "1"
    assert env["PYTHONPATH"] == "mine" and env.get("MI_NO_NETWORK") == os.environ.get("MI_NO_NETWORK")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("MI_MODEL", raising=False)
    assert kernels.environment()["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("MI_MODEL", "gpt2")
    assert "HF_HUB_OFFLINE" not in kernels.environment()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert kernels.environment()["HF_HUB_OFFLINE"] == "0"
    offline = kernels.environment(offline=True)
    assert offline["HF_HUB_OFFLINE"] == "1" and offline["MI_NO_NETWORK"] == "1"
    first, *rest = offline["PYTHONPATH"].split(os.pathsep)
    assert Path(first) == config.repository() / "tests" / "offline" and rest == ["mine"]


def test_the_kernel_is_this_interpreter_in_the_notebooks_folder(tmp_path, monkeypatch):
    # A user may have registered another interpreter as "python3", and have an IPython profile.
    trap = tmp_path / "jupyter" / "kernels" / "python3"
    trap.mkdir(parents=True)
    (trap / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "x", "language": "python"})
    )
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("from_the_profile = True")
    (tmp_path / "start.py").write_text("from_the_startup_file = True")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    monkeypatch.setenv("MI_PROGRESS", str(tmp_path / "progress.json"))
    code = """import json, os, sys
print(json.dumps([sys.executable, os.getcwd(), os.environ["MI_GRADING"], os.environ["MI_PROGRESS"],
                  [name for name in globals() if name.startswith("from_the")]]))"""
    path = write(tmp_path / "notebooks" / "00_here.ipynb", code)
    nb = sources.read(path)
    nb.metadata["kernelspec"] = {"name": "no_such_kernel", "display_name": "x"}
    nbformat.write(nb, path)
    before = path.read_bytes()
    seen = []
    ran = kernels.run_notebook(path, on_cell=lambda *place: seen.append(place))
    assert ran.error is None
    executable, folder, grading, progress, extra = json.loads(printed(ran.executed))
    assert executable == sys.executable
    assert Path(folder) == path.parent.resolve()
    assert grading == "strict" and extra == []
    assert not progress.startswith(str(tmp_path)), "a run would mark the user's exercises as solved"
    assert seen == [(0, 2), (1, 2)]
    assert path.read_bytes() == before and ran.claims is None and ran.seconds > 0


def test_a_failing_cell_is_reported_in_plain_words(tmp_path):
    source = "\n".join([*(f"x{i} = {i}" for i in range(8)), "raise KeyError('Paris')"])
    ran = kernels.run_notebook(write(tmp_path / "00_here.ipynb", "print('first')", source, "print('last')"))
    assert ran.error.startswith("00_here.ipynb, cell 2, In [2]:\n    x0 = 0\n")
    assert "    x5 = 5\n    ...\n" in ran.error
    assert ran.error.endswith("KeyError: 'Paris'")
    assert "\x1b" not in ran.error
    assert printed(ran.executed) == "first\n"
    assert ran.peak_bytes > 20e6


def test_a_cell_that_takes_too_long_is_reported(tmp_path):
    path = write(tmp_path / "00_here.ipynb", "import time\ntime.sleep(60)")
    ran = kernels.run_notebook(path, timeout=1)
    assert "cell 1, In [1]" in ran.error and "longer than 1 seconds" in ran.error
    assert ran.seconds < 30


def test_a_kernel_that_dies_is_reported_with_what_it_said(tmp_path):
    code = "import os\nos.write(2, b'last words\\n')\nos._exit(1)"
    ran = kernels.run_notebook(write(tmp_path / "00_here.ipynb", code))
    assert "cell 1, In [1]" in ran.error and "kernel died" in ran.error


BRIEF = "x = b'x' * (300 * 2**20)\ndel x"
CHILD = """import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; x = b'x' * (300 << 20); time.sleep(2)"])"""


@pytest.mark.parametrize(
    "code, seconds",
    [
        pytest.param(
            BRIEF,
            3600,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux'"),
            id="brief",
        ),
        pytest.param(CHILD, 0.1, id="child"),
    ],
)
def test_peak_memory_sees_a_brief_peak_and_a_child_process(tmp_path, monkeypatch, code, seconds):
    monkeypatch.setattr(kernels, "_SAMPLE", seconds)  # an hour: only the high-water mark can see it
    least = kernels.run_notebook(write(tmp_path / "00_here.ipynb", "1")).peak_bytes
    peak = kernels.run_notebook(write(tmp_path / "01_here.ipynb", code)).peak_bytes
    assert 290 * 2**20 < peak - least < 400 * 2**20


def test_claims_are_collected(tmp_path):
    (tmp_path / "claims").mkdir()
    path = write(tmp_path / "00_here.ipynb", CLAIMS)
    ran = kernels.run_notebook(path, claims_dir=tmp_path / "claims")
    assert ran.claims == tmp_path / "claims" / "00.json"
    found = results.result(ran)
    assert (
        found.model == "m"
        and found.verdict == "passed, 1 holds, 1 differs"
        and found.title == "Find the heads"
    )


def test_a_damaged_table_of_claims_is_a_failure(tmp_path):
    (tmp_path / "00.json").write_text("{}")
    ran = kernels.Run(tmp_path / "00_here.ipynb", v4.new_notebook(), 1.0, 1, None, tmp_path / "00.json")
    assert "not a table of claims" in results.result(ran).error


# Storing outputs

STREAMS = """import sys, time
for i in range(3):
    print(i, flush=True)
    time.sleep(0.05)
i"""


def test_storing_gives_the_same_bytes_twice_and_nothing_that_changes(repo):
    widget = "import ipywidgets\nipywidgets.IntSlider(value=3, description='layer')"
    path = write(repo / "notebooks" / "00_here.ipynb", STREAMS, "", widget)
    nb = sources.read(path)
    nb.metadata["widgets"] = {"state": {}}
    nb.cells[1].metadata["execution"] = {"iopub.status.busy": "now"}
    nb.cells[1].execution_count = 17
    nbformat.write(nb, path)
    said = []
    assert execute.execute("00", say=said.append) == 0
    first = path.read_bytes()
    assert execute.execute("00", say=said.append) == 0
    assert path.read_bytes() == first
    assert [line for line in said if "..." not in line] == ["00_here: stored", "00_here: unchanged"]
    stored = sources.read(path)
    assert [cell.execution_count for _, cell in sources.code_cells(stored)] == [1, 2]
    assert stored.cells[1].outputs[0].text == "0\n1\n2\n" and len(stored.cells[1].outputs) == 2
    assert list(stored.cells[3].outputs[0].data) == ["text/plain"]
    assert "widgets" not in stored.metadata and "execution" not in stored.cells[1].metadata
    assert stored.metadata["language_info"] == {"name": "python"}, "a version would change with the machine"
    assert [file.name for file in path.parent.iterdir()] == ["00_here.ipynb"]


@pytest.mark.parametrize(
    "code, message",
    [
        ("1/0", "ZeroDivisionError"),
        ("import sys\nprint('careful', file=sys.stderr)", "cell 2: writes on stderr: 'careful'"),
        ("import warnings\nwarnings.warn('old')", "cell 2: writes on stderr"),
        ("object()", "cell 2: an output shows a memory address"),
        ("import os\nos.path.dirname(os.getcwd())", "cell 2: an output shows the path of the repository"),
        ("{'here': [__import__('os').getcwd()]}", "cell 2: an output shows the path of the repository"),
        ("print('x' * 2_100_000)", r"would take 2,\d+,\d+ bytes of at most 2,000,000: cell 2"),
        ("open('00_here.ipynb', 'a').write(' ')", "was edited while it ran"),
    ],
)
def test_what_may_not_be_stored_leaves_the_notebook_alone(repo, code, message):
    path = write(repo / "notebooks" / "00_here.ipynb", "1", code)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        execute.store(path)
    assert "00_here.ipynb" in str(caught.value)
    assert path.read_bytes().rstrip() == before.rstrip()
    assert [file.name for file in path.parent.iterdir()] == ["00_here.ipynb"]


def test_every_problem_is_named_at_once(repo):
    outputs = [
        [v4.new_output("stream", name="stderr", text="a")],
        [v4.new_output("stream", text="0xdeadbeef00")],
    ]
    cells = [v4.new_code_cell("x", outputs=out, execution_count=i) for i, out in enumerate(outputs)]
    with pytest.raises(ValueError) as caught:
        execute.storable(v4.new_notebook(cells=cells), "00_here.ipynb")
    assert len(str(caught.value).splitlines()) == 3 and "should be 1 to 2, and are [0, 1]" in str(
        caught.value
    )


def test_one_notebook_that_fails_does_not_keep_the_others_from_being_stored(repo):
    write(repo / "notebooks" / "00_bad.ipynb", "1/0")
    good = write(repo / "notebooks" / "01_good.ipynb", "1")
    said = []
    assert execute.execute(say=said.append) == 1
    assert sources.read(good).cells[1].execution_count == 1
    assert any(line.startswith("00_bad: NOT stored") for line in said)


@pytest.mark.parametrize("name", ["MI_MODEL", "MI_BUDGET"])
def test_outputs_of_another_model_or_budget_are_not_stored(repo, monkeypatch, name):
    monkeypatch.setenv(name, "gpt2")
    with pytest.raises(ValueError, match=name):
        execute.execute(say=str)
    with pytest.raises(ValueError, match=name):
        run.run(say=str, record=True)


# The series


def test_a_series_goes_on_after_a_failure_and_writes_what_it_found(repo):
    write(repo / "notebooks" / "00_good.ipynb", CLAIMS)
    bad = write(repo / "notebooks" / "01_bad.ipynb", "'<script>alert(1)</script>'", "raise KeyError('|')")
    write(repo / "notebooks" / "02_also.ipynb", "1", first=FIRST + "\n\n[next](01_bad.ipynb)")
    before, said = bad.read_bytes(), []
    assert run.run(say=said.append, record=True) == 1
    build = repo / "build"
    assert sorted(path.name for path in build.iterdir()) == [
        "00_good.html",
        "01_bad.html",
        "02_also.html",
        "RESULTS.md",
        "index.html",
        "measurements.json",
    ]
    assert said[0] == "00_good ..." and said[-1].startswith("3 notebooks") and "failed: 01_bad" in said[-1]
    assert any(line.startswith("00_good: 0.") and "GiB, passed, 1 holds" in line for line in said)
    assert 'href="01_bad.html"' in (build / "02_also.html").read_text()
    assert "KeyError" in (build / "01_bad.html").read_text()
    index = (build / "index.html").read_text()
    assert 'href="00_good.html"' in index and 'class="failed">failed<' in index
    text = (build / "RESULTS.md").read_text()
    assert "| a \\| b &lt;c> | s | 1 | 2 | holds |" in text and "| differs, as expected |" in text
    assert "KeyError" in text and "torch" in text
    found = {
        entry["name"]: entry for entry in json.loads((build / "measurements.json").read_text())["notebooks"]
    }
    assert found["00_good"]["peak_gib"] > 0 and found["00_good"]["error"] is None and found["01_bad"]["error"]
    assert bad.read_bytes() == before
    assert set(readme.measurements()) == {"00_good", "02_also"}, "a failed run is no measurement"


def test_a_run_of_one_notebook_keeps_the_others_as_long_as_there_are_these(repo):
    write(repo / "notebooks" / "00_one.ipynb", "1")
    write(repo / "notebooks" / "01_two.ipynb", "1", first=FIRST + "\n\n[before](00_one.ipynb)")
    assert run.run(say=str) == 0
    assert run.run("1", say=str) == 0
    assert "00_one" in (repo / "build" / "RESULTS.md").read_text()
    assert 'href="00_one.html"' in (repo / "build" / "01_two.html").read_text()
    (repo / "notebooks" / "00_one.ipynb").unlink()
    assert run.run("1", say=str) == 0
    assert "00_one" not in (repo / "build" / "RESULTS.md").read_text()
    assert not (repo / "build" / "00_one.html").exists()
    (repo / "build" / "measurements.json").write_text("damaged")
    assert run.run(say=str, out=repo / "build") == 0
    with pytest.raises(ValueError, match="selection"):
        run.run("7", say=str)
    (repo / "notebooks" / "01_two.ipynb").unlink()
    with pytest.raises(ValueError, match="no notebooks"):
        run.run(say=str)


def test_a_page_that_would_load_something_fails_its_notebook(repo):
    loading = "from IPython.display import HTML\nHTML('<img src=\"https://cdn.example/x.png\">')"
    write(repo / "notebooks" / "00_one.ipynb", loading)
    said = []
    assert run.run(say=said.append) == 1
    assert any("would load img src=https://cdn.example" in line for line in said)
    assert "would load" in (repo / "build" / "00_one.html").read_text()


def test_a_counter_shows_on_a_terminal_only(monkeypatch, capsys):
    assert run._counter() is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = run._counter()
    show(0, 2)
    assert "cell 1 of 2" in capsys.readouterr().err


def test_an_interruption_leaves_no_kernel_and_nothing_half_made(repo):
    slow = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)"
    write(repo / "notebooks" / "00_slow.ipynb", slow)
    # Where this process ignores the signal, as one in the background does, so would the child.
    code = f"""import signal
from pathlib import Path
from mi_utils import config
signal.signal(signal.SIGINT, signal.default_int_handler)
config.repository = lambda: Path({str(repo)!r})
from mi_workshop import run
run.run(say=print)"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    pid = repo / "notebooks" / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    process.send_signal(2)
    assert process.wait(30) != 0
    wait_until(lambda: not alive(int(pid.read_text())))
    assert list((repo / "build").iterdir()) == []


def alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(condition, seconds=60):
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


# Text


def test_cells_of_tables_are_escaped():
    assert results.cell("a | b\n<c> \\") == "a \\| b &lt;c> \\\\"
    assert results.table(("x", "y"), [("a|b", "c")]) == ["| x | y |", "|---|---|", "| a\\|b | c |"]


@pytest.mark.parametrize(
    "verdict, expected, words",
    [
        ("holds", "holds", "holds"),
        ("differs", "differs", "differs, as expected"),
        ("differs", "holds", "differs, expected: holds"),
        ("holds", "differs", "holds, expected: differs"),
        ("not asserted", "holds", "not asserted"),
        ("not asserted", "differs", "not asserted"),
    ],
)
def test_verdicts_in_words(verdict, expected, words):
    claim = {key: "x" for key in ("statement", "source", "published", "ours")}
    claim |= {"part": "claims", "verdict": verdict, "expected": expected}
    found = results.Result("00_a", "A", 1.0, 1.0, None, "m", (claim,), "2026-01-01")
    assert f"| {words} |" in results.to_markdown([found])


def test_the_parts_of_a_notebook_of_the_second_form_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("MI_CLAIMS_DIR", str(tmp_path))
    table = claims.Claims("00", model="m")
    table.paper(
        "it grows",
        source="paper, 1",
        published=6,
        ours=2,
        tolerance=1,
        set_up="small",
        expect="smaller",
        explanation="Few layers.",
    )
    table.check("it adds up", source="identity", ours=0, at_most=1)
    table.trial(
        "a lens",
        measure="share",
        randomised=0.1,
        known=0.9,
        refuted_by="chance",
        randomised_at_most=0.2,
        known_at_least=0.8,
    )
    table.trial_table()
    made = kernels.Run(
        tmp_path / "00_a.ipynb", nbformat.v4.new_notebook(), 6.0, 2**30, None, tmp_path / "00.json"
    )
    found = results.result(made)
    assert results.from_json(results.to_json([found])) == [found]
    assert found.verdict == "passed, 1 holds, 1 smaller"
    text = results.to_markdown([found])
    parts = text.split("### ")[1:]
    assert [part.splitlines()[0] for part in parts] == ["Paper and here", "Checks", "Trial of the methods"]
    assert "| it grows | paper, 1 | 6 | 2 | small | smaller, as expected |" in parts[0]
    assert "| it adds up | identity | 0 | holds |" in parts[1]
    assert "| a lens | share | 0.1 | 0.9 | randomised ≤ 0.2, known ≥ 0.8 | chance | passes |" in parts[2]


def test_results_survive_json_and_other_files_are_refused():
    found = results.Result("00_a", "A", 1.0, 1.0, "bad", "m", ({"verdict": "holds"},), "2026-01-01")
    assert results.from_json(results.to_json([found])) == [found]
    for text in ("", "[]", '{"notebooks": [{}]}'):
        with pytest.raises(ValueError, match="measurements of a run"):
            results.from_json(text)


def test_the_table_in_the_readme_follows_the_notebooks(repo):
    write(repo / "notebooks" / "00_start_here.ipynb", "1")
    write(repo / "notebooks" / "20_extra.ipynb", "1", first="# Extra")
    text = f"# Title\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    (repo / "README.md").write_text(text)
    assert readme.update(check=True) and (repo / "README.md").read_text() == text
    assert readme.update() and not readme.update() and not readme.update(check=True)
    lines = (repo / "README.md").read_text().splitlines()
    assert lines[0] == "# Title" and lines[-1] == "after"
    assert "| 00 | [Find the heads](notebooks/00_start_here.ipynb) | In an hour, a \\| pipe. | | |" in lines
    assert "| 13 | Recipes | *planned* | | |" in lines
    assert sum("planned" in line for line in lines) == 13 and any("20_extra.ipynb" in line for line in lines)
    found = results.Result("00_start_here", "A", 1.234, 2.345, None, "", (), "2026-01-01")
    readme.record([found])
    assert readme.update()
    assert "| 1.2 | 2.3 GiB |" in (repo / "README.md").read_text()
    assert readme.measurements()["00_start_here"]["when"] == "2026-01-01"
    assert str(repo) not in readme.measurements_file().read_text()


def test_the_first_page_escapes_titles_and_errors():
    found = results.Result("00_a", "<b>Heads</b> & co", 1.0, 1.0, "<i>bad</i>", "m", (), "2026-01-01")
    page = results.to_html([found])
    assert "&lt;b&gt;Heads&lt;/b&gt; &amp; co" in page and 'class="failed"' in page
    assert "<b>" not in page and "<i>" not in page


def test_the_table_shows_the_minutes_of_core_and_extensions_where_a_notebook_states_them(repo):
    core = "# Find\nA promise.\n\n**It takes** about 60 minutes for the core"
    write(
        repo / "notebooks" / "00_start_here.ipynb", "1", first=f"{core} and 20 for the extensions. Running it"
    )
    write(repo / "notebooks" / "01_toy_models_of_superposition.ipynb", "1", first=f"{core}.")
    write(repo / "notebooks" / "02_sparse_autoencoders.ipynb", "1")
    readme.record([results.Result("00_start_here", "A", 1.234, 2.345, None, "", (), "2026-01-01")])
    head, rule, *lines = readme.table()
    assert head == "| | notebook | what you do | to work through | to run | memory |"
    assert rule == "|---|---|---|---|---|---|"
    assert lines[0].endswith("| A promise. | 60 min, extensions 20 min | 1.2 min | 2.3 GiB |")
    assert lines[1].endswith("| A promise. | 60 min | | |")
    assert lines[2].endswith("pipe. | | | |")
    assert lines[3].endswith("| *planned* | | | |")


@pytest.mark.parametrize(
    "text",
    [
        "",
        readme.BEGIN,
        readme.END + readme.BEGIN,
        (readme.BEGIN + readme.END) * 2,
        readme.END + readme.BEGIN + readme.END,
    ],
)
def test_a_readme_without_its_markers_is_refused(repo, text):
    (repo / "README.md").write_text(text)
    with pytest.raises(ValueError, match="README.md should hold"):
        readme.update()
    assert (repo / "README.md").read_text() == text


def test_damaged_measurements_are_refused(repo):
    readme.measurements_file().write_text('{"00_a": {"minutes": "many"}}')
    with pytest.raises(ValueError, match="measurements.json is damaged"):
        readme.measurements()


def test_the_stated_cost_and_promise_are_read_from_the_first_cell():
    nb = v4.new_notebook(cells=[v4.new_markdown_cell(FIRST)])
    assert readme.stated_cost(nb) == (0.5, 0.3) and readme.promise(nb) == "In an hour, a | pipe."
    text = "# A\nOne\ntwo.\n**You will** see\n**It takes** about 1 minute and 2 GiB"
    tight = v4.new_notebook(cells=[v4.new_markdown_cell(text)])
    assert readme.stated_cost(tight) == (1.0, 2.0) and readme.promise(tight) == "One two."
    study = "**It takes** about 60 minutes for the core and 20 for the extensions. Running it takes"
    second = v4.new_notebook(cells=[v4.new_markdown_cell(f"{study} about 1.5 minutes and 2 GiB of memory.")])
    assert readme.stated_cost(second) == (1.5, 2.0)
    with pytest.raises(ValueError, match="It takes"):
        readme.stated_cost(v4.new_notebook(cells=[v4.new_markdown_cell("# A\n\n**It takes** an hour")]))


@pytest.mark.parametrize(
    "minutes, gib, agrees",
    [
        (2.0, 1.5, True),
        (2.5, 1.8, True),
        (3.0, 1.5, False),
        (1.5, 1.5, False),
        (2.0, 2.0, False),
        (2.0, 1.0, False),
    ],
)
def test_a_stated_cost_agrees_within_rounding(minutes, gib, agrees):
    assert readme.cost_agrees((minutes, gib), {"minutes": 2.1, "peak_gib": 1.6}) == agrees


def test_the_readme_figure_is_the_picture_stored_in_its_cell(repo):
    notebook, cell_id, name = readme.FIGURE
    path = write(repo / "notebooks" / f"{notebook}.ipynb", "1")
    with pytest.raises(ValueError, match="should hold one picture"):
        readme.update_figure()
    nb = nbformat.read(path, 4)
    picture = v4.new_output("display_data", {"image/png": "aGVsbG8="})  # base64 of "hello"
    nb.cells.append(v4.new_code_cell("figure", id=cell_id, outputs=[picture]))
    nbformat.write(nb, path)
    assert readme.update_figure(check=True) and not (repo / "docs").exists()
    assert readme.update_figure() and (repo / "docs" / name).read_bytes() == b"hello"
    assert not readme.update_figure() and not readme.update_figure(check=True)
    (repo / "docs" / name).write_bytes(b"other")
    assert readme.update_figure(check=True)
