"""What notebook 03 promises besides its claims: its code agrees with the package, and what it loads is
sound."""

import json
from functools import partial

import pytest
import torch
import worked

from mi_utils import corpus, data_files, harvest, lens, models
from mi_workshop import sources
from mi_workshop.makers import lens_seeds, tuned_lens

NOTEBOOK = sources.read(sources.find("03")[0])
solution = partial(worked.solution, NOTEBOOK, "03")
TEXT = "When Mary and John went to the store, John gave a drink to Mary."


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def streams(model):
    return harvest.residual_streams(model, corpus.cut_documents(model, [TEXT * 4], length=16))


def test_the_lens_by_hand_is_the_package_s(model, streams):
    by_hand = solution("lens_by_hand")["through_lens"](model, streams[:1])
    assert torch.allclose(by_hand[0], models.unembed(model, streams[0]), atol=1e-5)


def test_rank_and_kl_by_hand_are_the_package_s(model):
    reading = lens.read(model, TEXT)
    assert torch.equal(solution("rank")["answer_rank"](reading.log_probs, 7), reading.rank(7))
    by_hand = solution("kl")["kl_from_model"](reading.log_probs[-1], reading.log_probs)
    assert torch.allclose(by_hand, reading.kl_to_final(), atol=1e-5)


def test_the_bias_by_hand_is_the_package_s(model, streams):
    found = lens.evaluate(model, lens.logit_lens(model), streams)
    final, seen = (models.unembed(model, streams[i]).log_softmax(-1) for i in (-1, 1))
    by_hand = solution("marginal_bias")["marginal_bias"](final, seen)
    assert by_hand.item() == pytest.approx(found.marginal_kl[1].item(), rel=1e-3)


def test_ridge_by_hand_predicts_what_the_package_s_does_where_the_penalty_is_small(model, streams):
    fitted = lens.fit_ridge(model, streams, strength=1e-7)
    matrix, bias = solution("ridge")["ridge_translator"](streams[1].double(), streams[-1].double(), 1e-9)
    wanted = streams[1] @ matrix.float() + bias.float()
    assert torch.allclose(fitted.translate(streams[1], 1), wanted, atol=1e-2 * streams[-1].std().item())


def test_the_best_by_hand_is_what_training_keeps(model, streams):
    settings = lens.LensSettings(steps=6, batch=8, held_back=16, checks=3, lr=0.5, warm_up=1)
    start = lens.logit_lens(model)
    found = lens.train(model, streams, start, settings)
    kept = solution("never_worse")["keep_best"](found.validation, found.validation[..., None])
    assert torch.equal(kept[:, 0], found.validation.gather(0, found.best[None])[0])


def test_the_shipped_lens_is_small_and_reads_the_model(real_model):
    file = data_files.path(tuned_lens.FILE)
    assert file.stat().st_size <= 10_000_000
    shipped = lens.load(file)
    contexts = corpus.contexts(real_model, split="test", count=4, length=48, seed=5)
    found = harvest.residual_streams(real_model, contexts)
    found = found[:, harvest.ordinary(found)]
    ours = lens.evaluate(real_model, shipped, found).kl.mean(dim=1)
    plain = lens.evaluate(real_model, lens.logit_lens(real_model), found).kl.mean(dim=1)
    assert (ours < plain).all() and (plain / ours)[1:].median() > 5
    assert ours[0] < 3.5 and ours[-1] < 0.3  # 0 is the layer whose rank was cut


def test_twenty_seeds_were_tried_as_the_notebook_trains():
    seeds = json.loads(data_files.path(lens_seeds.FILE).read_text())
    assert len({one["seed"] for one in seeds}) == len(seeds) >= 20
    parameters = next(cell.source for cell in NOTEBOOK.cells if "parameters" in cell.metadata.get("tags", []))
    assert f"quick=({lens_seeds.CONTEXTS}, " in parameters and f"quick={lens_seeds.STEPS}," in parameters
