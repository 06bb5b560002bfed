"""Areas and curves against values worked out by hand, and the published table."""

import json
import random

import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import data_files
from mi_utils.circuits.scores import FRACTIONS, auc, cmd, cpr, precision_recall, published_ioi_heads
from mi_workshop.makers import ioi_heads


def test_areas_by_hand():
    values, places = torch.tensor([0.0, 0.5, 1.5]), (0.2, 0.4, 1.0)
    assert cpr(values, places) == pytest.approx(0.2 * 0.25 + 0.6 * 1.0)
    assert cmd(values, places) == pytest.approx(0.2 * 0.75 + 0.6 * 0.5)


def test_areas_at_mibs_fractions():
    assert FRACTIONS == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
    perfect = torch.ones(10)
    assert cpr(perfect) == pytest.approx(0.999) and cmd(perfect) == 0
    assert cpr(torch.tensor(FRACTIONS)) == pytest.approx((1 - 1e-6) / 2)  # exact for a straight line
    assert cpr(2 * perfect) == pytest.approx(1.998) and cmd(2 * perfect) == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("values", "places", "names"),
    [
        (torch.ones(9), FRACTIONS, ("9 values", "10 fractions")),
        (torch.full((10,), torch.nan), FRACTIONS, ("0 finite",)),
        (torch.ones(1), (1.0,), ("at least 2",)),
        (torch.ones(2), (0.5, 0.5), ("fractions", "increase")),
        (torch.ones(2), (0.0, 0.5), ("fractions", "above 0")),
        (torch.ones(2), (0.5, 2.0), ("fractions", "at most 1")),
    ],
)
def test_areas_refused(values: torch.Tensor, places: tuple, names: tuple):
    for area in (cpr, cmd):
        with pytest.raises(ValueError) as caught:
            area(values, places)
        assert_one_sentence(caught.value, *names)


def test_curve_by_hand():
    scores = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.3])
    curve = precision_recall(scores, torch.tensor([True, False, True, False, True]))
    assert curve.threshold.tolist() == pytest.approx([0.9, 0.5, 0.3, 0.1])
    assert curve.precision.tolist() == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])
    assert curve.recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_auc_counts_pairs():
    draw = random.Random(0)
    scores = [float(draw.randrange(8)) for _ in range(30)]
    truth = [draw.random() < 0.4 for _ in scores]
    inside = [score for score, one in zip(scores, truth, strict=True) if one]
    outside = [score for score, one in zip(scores, truth, strict=True) if not one]
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    assert auc(torch.tensor(scores), torch.tensor(truth)) == pytest.approx(wins / len(inside) / len(outside))


def test_auc_at_its_ends():
    truth = torch.tensor([[True, False], [False, True]])
    assert (
        auc(truth.float(), truth) == 1
        and auc(-truth.float(), truth) == 0
        and auc(torch.zeros(2, 2), truth) == 0.5
    )


@pytest.mark.parametrize(
    ("scores", "truth", "names"),
    [
        (torch.zeros(3), torch.tensor([True, False]), ("scores", "(3,)", "(2,)")),
        (torch.tensor([torch.nan, 1]), torch.tensor([True, False]), ("scores", "NaN")),
        (torch.zeros(2), torch.tensor([True, True]), ("truth", "2 of 2")),
        (torch.zeros(2), torch.tensor([False, False]), ("truth", "0 of 2")),
    ],
)
def test_rankings_refused(scores: torch.Tensor, truth: torch.Tensor, names: tuple, unchecked: None):
    for measure in (auc, precision_recall):
        with pytest.raises(ValueError) as caught:
            measure(scores, truth)
        assert_one_sentence(caught.value, *names)


def test_published_heads():
    """26 heads in 7 classes, no head twice, all of them heads of GPT-2 small."""
    classes = published_ioi_heads()
    heads = [head for those in classes.values() for head in those]
    assert {name: len(those) for name, those in classes.items()} == {
        "name mover": 3,
        "backup name mover": 8,
        "negative name mover": 2,
        "S-inhibition": 4,
        "induction": 4,
        "duplicate token": 3,
        "previous token": 2,
    }
    assert len(heads) == len(set(heads)) == 26
    assert all(0 <= layer < 12 and 0 <= head < 12 for layer, head in heads)
    assert (9, 9) in classes["name mover"] and (11, 10) in classes["negative name mover"]
    assert (10, 10) in classes["backup name mover"] and (5, 5) in classes["induction"]


def test_table_is_what_its_command_writes(tmp_path, monkeypatch: pytest.MonkeyPatch):
    stored = data_files.path("ioi_gpt2_heads.json").read_bytes()
    assert "Wang et al. 2023" in json.loads(stored)["source"]
    entry = data_files.manifest()["ioi_gpt2_heads.json"]
    monkeypatch.setattr(data_files, "folder", lambda: tmp_path)
    ioi_heads.main()
    assert (tmp_path / "ioi_gpt2_heads.json").read_bytes() == stored
    assert data_files.manifest()["ioi_gpt2_heads.json"] == entry
