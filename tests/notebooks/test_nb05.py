"""What notebook 05 promises besides its claims: its code agrees with the package, its seeds with its
settings."""

import json
from functools import partial

import pytest
import torch
import worked

from mi_utils import data_files, heads, models, prompts
from mi_workshop import sources
from mi_workshop.makers import induction_seeds

NOTEBOOK = sources.read(sources.find("05")[0])
solution = partial(worked.solution, NOTEBOOK, "05")
PERIOD = 6


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def tokens(model):
    words, start = heads.ordinary_tokens(model), prompts.start_token(model)
    return heads.repeated_tokens(
        words, PERIOD, batch=2, start=start, generator=torch.Generator().manual_seed(0)
    )


def test_offsets_by_hand_are_the_package_s():
    by_hand = solution("offsets", period=PERIOD)["offsets"]
    assert by_hand.items() <= heads.offsets(PERIOD).items() and len(by_hand) == 3


@torch.no_grad()
def test_prefix_matching_by_hand_is_the_package_s(model, tokens):
    found = heads.score_heads(model, tokens, PERIOD)
    by_hand = solution("prefix_matching")["prefix_matching"]
    for layer in (0, 1):
        pattern = model.run_with_cache(tokens)[1]["pattern", layer]
        for row in (0, 1):
            assert torch.allclose(
                by_hand(pattern[row], PERIOD), found.values["induction"][row, layer], atol=1e-5
            )


def test_the_in_context_score_by_hand_is_the_package_s():
    loss = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))
    by_hand = solution("in_context_score")["in_context_score"](loss, 2, 9)
    assert torch.allclose(by_hand, heads.in_context_score(loss, 2, 9))


@torch.no_grad()
def test_copying_by_hand_is_the_package_s():
    model = heads.attention_only_model(heads.AttentionOnlySettings())
    ids = torch.arange(64)
    found = heads.copying_scores(model, ids, model.W_E)
    by_hand = solution("copying")["copying_score"]
    for layer, head in models.all_heads(model):
        ov = model.W_E @ model.W_V[layer, head] @ model.W_O[layer, head] @ model.W_U
        assert by_hand(ov).item() == pytest.approx(found[layer, head].item())


@torch.no_grad()
def test_k_composition_by_hand_is_the_package_s(gpt2_model):
    by_hand = solution("k_composition")["k_composition"]
    found = heads.composition_scores(gpt2_model, "K", [(1, 2)])[0, 0]
    W_Q, W_K, W_V, W_O = gpt2_model.W_Q, gpt2_model.W_K, gpt2_model.W_V, gpt2_model.W_O
    for head in range(4):
        ours = by_hand(W_V[0, head] @ W_O[0, head], W_Q[1, 2] @ W_K[1, 2].T)
        assert ours.item() == pytest.approx(found[head].item(), rel=1e-4)


def test_random_heads_by_hand_are_the_package_s():
    everything, top = [(layer, head) for layer in range(3) for head in range(4)], [(0, 1), (2, 3)]
    by_hand = solution("random_control")["matched_random"]
    for seed in range(5):
        ours, theirs = (
            one(everything, top, torch.Generator().manual_seed(seed))
            for one in (by_hand, heads.matched_random)
        )
        assert ours == theirs


@torch.no_grad()
def test_the_cut_by_hand_is_the_package_s(llama_model):
    model, source, targets = llama_model, (0, 2), [(1, head) for head in range(4)]
    words = heads.ordinary_tokens(model)
    tokens = heads.repeated_tokens(
        words, PERIOD, batch=2, start=0, generator=torch.Generator().manual_seed(0)
    )
    cache, seen = model.run_with_cache(tokens)[1], {}
    look = ("blocks.1.attn.hook_k", models.look_only(lambda k: seen.update(k=k)))
    model.run_with_hooks(tokens, fwd_hooks=[*heads.without_in_keys(model, [source], targets), look])
    out = cache["z", 0][:, :, 2] @ model.blocks[0].attn.W_O[2]
    by_hand = solution("composed_input")["without_source"](
        cache["k", 1], out, model.blocks[1].attn.W_K, cache["blocks.1.ln1.hook_scale"]
    )
    assert torch.allclose(by_hand[:, 1:], seen["k"][:, 1:], atol=1e-4)


@torch.no_grad()
def test_classes_by_hand_are_the_package_s(model, tokens):
    scores = heads.score_heads(model, tokens, PERIOD)
    null = heads.null_of(scores)  # any will do
    ours = heads.classify(scores, null, threshold=0.02)
    flat = ({name: found.mean(name).flatten() for name in heads.scores.CLASSES} for found in (scores, null))
    by_hand = solution("mend_the_classes")["classify"](*flat, 0.02)
    assert {name: {divmod(i, 4) for i in found} for name, found in by_hand.items()} == {
        name: set(found) for name, found in ours.items()
    }


def test_twenty_seeds_were_tried_as_the_notebook_trains():
    seeds = json.loads(data_files.path(induction_seeds.FILE).read_text())
    assert [one["seed"] for one in seeds] == list(range(20))
    parameters = next(cell.source for cell in NOTEBOOK.cells if "parameters" in cell.metadata.get("tags", []))
    default = heads.AttentionOnlySettings()
    assert f"N_STEPS = config.budget(quick={default.steps}," in parameters
    layout = next(cell.source for cell in NOTEBOOK.cells if cell.id == "layout")
    assert f"period = {default.test_period}\n" in layout
    assert "heads.AttentionOnlySettings(steps=N_STEPS, test_period=period, seed=SEED)" in layout
