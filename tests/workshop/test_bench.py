"""`make bench`: every case measures what it says, in processes of its own; how fast things are is not
asserted."""

import re
import time
from itertools import count

import pytest
import torch

from mi_utils import corpus, lens, models
from mi_workshop import bench, bench_cases, bench_patching, readme

SPEEDS = [case for case in bench_cases.CASES if case.unit == "tokens/s" and "_sae" not in case.code]
TOKENS = {"training": 150 * 128}  # of the others 32 x 128


@pytest.fixture
def said(monkeypatch):
    """What a report says of some cases, with no notebook measured."""

    def report(*cases):
        lines = []
        monkeypatch.setattr(bench, "CASES", cases)
        monkeypatch.setattr(readme, "measurements", dict)
        assert bench.report(lines.append) == 0
        return "\n".join(lines)

    return report


def test_a_report_gives_median_and_range_in_the_unit_of_each_case(said, tmp_path):
    numbers = f"""
from pathlib import Path
runs = Path({str(tmp_path)!r})
(runs / str(len(list(runs.iterdir())))).touch()
print("a warning")
print([0.5, 12345, 0.25, 1, 7][len(list(runs.iterdir())) - 1])"""
    text = said(bench.Case("first", numbers, runs=3), bench.Case("second", "print(12345.6)", "tokens/s", 1))
    assert re.search(r"\| first +\| 0\.5 s \(0\.25 to 12,300\) +\| 3 +\|", text), text
    assert re.search(r"\| second +\| 12,300 tokens/s \(12,300 to 12,300\) +\| 1 +\|", text), text
    assert len(list(tmp_path.iterdir())) == 3, "a process for each run"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.01234, "0.0123"),
        (4.567, "4.57"),
        (12.34, "12.3"),
        (99.96, "100"),
        (123.4, "123"),
        (1234.5, "1,230"),
        (2e6, "2,000,000"),
    ],
)
def test_numbers_have_three_digits_that_count(number, text):
    assert bench._shown(number) == text


def test_a_case_that_fails_says_why(said):
    with pytest.raises(RuntimeError, match="a measurement failed: ValueError: nothing to measure"):
        said(bench.Case("broken", "print(1)\nraise ValueError('nothing to measure')"))


def test_cases_are_told_apart_by_name_and_the_heavy_ones_run_less_often():
    assert len({case.what for case in bench.CASES}) == len(bench.CASES)
    assert {(case.unit, case.runs) for case in bench_cases.CASES} == {
        ("s", 5),
        ("tokens/s", 3),
        ("model steps/s", 3),
    }
    slow = [case.what for case in bench_patching.CASES if case.runs == 1 and case.unit == "s"]
    assert len(slow) == 2 and all("transformer_lens" in what for what in slow)
    for case in bench.CASES:
        compile(case.code, case.what, "exec")


class Folder(str):
    """A folder where ``models.load.REGISTRY`` has a source."""

    def folder(self):
        return str(self)


@pytest.fixture
def on_a_tiny_model(tiny_llama, monkeypatch):
    """The default model is a tiny one, the corpus is noise, and each look at the clock takes two seconds."""
    name = str(tiny_llama)
    monkeypatch.setattr(models.load, "DEFAULT", name)
    spec = models.ModelSpec(name, Folder(name), "tiny", "none")
    monkeypatch.setitem(models.load.REGISTRY, name, spec)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(1, 300, (32, 128), generator=generator)
    monkeypatch.setattr(corpus, "contexts", lambda model, *, length, count: noise[:count, :length])
    monkeypatch.setattr(time, "perf_counter", count(step=2).__next__)


@pytest.mark.parametrize("case", SPEEDS, ids=[case.what for case in SPEEDS])
def test_a_speed_is_that_of_all_its_tokens(case, on_a_tiny_model, capsys, monkeypatch):
    scope = {}
    exec(case.code, scope)
    tokens = TOKENS.get(case.what.split()[0], 32 * 128)
    assert float(capsys.readouterr().out) == tokens / 2, "two looks at the clock: before and after the work"
    rows = tokens // 128
    if case.what.startswith("training"):
        monkeypatch.setattr(lens.training, "train", lambda model, streams, start, settings: settings)
        settings = scope["work"](rows)
        assert settings.steps * settings.batch == tokens and settings == lens.LensSettings(), "as by default"
        assert scope["model"].cfg.dtype == torch.float32
    elif case.what.startswith("sampling"):
        assert scope["work"](rows).shape == (128, rows + 1) and scope["model"].dtype == torch.bfloat16


def test_both_ways_to_residual_streams_give_the_same(on_a_tiny_model, capsys):
    found = []
    for case in SPEEDS[:4]:
        exec(case.code, scope := {})
        found.append(scope["work"](32))
    for plain, harvested, dtype in zip(found[::2], found[1::2], (torch.float32, torch.bfloat16), strict=True):
        assert plain.dtype == harvested.dtype == dtype and plain.shape == (3, 32 * 128, 32)
        torch.testing.assert_close(plain, harvested)
