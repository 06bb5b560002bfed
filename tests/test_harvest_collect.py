"""One hook point over many contexts: what is dropped, what it takes, and the same piece by piece."""

import math
from pathlib import Path

import pytest
import torch
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import harvest
from mi_utils.models.load import load_model

HOOK = "blocks.1.hook_resid_pre"
ROWS, POS = 5, 7


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


def some_tokens(pos: int = POS) -> torch.Tensor:
    tokens = torch.randint(2, 316, (ROWS, pos), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return tokens


@pytest.fixture
def with_massive(tiny_llama: Path) -> TransformerBridge:
    """A model in which token 5 has an embedding a hundred times longer than the others."""
    model = load_model(str(tiny_llama))
    with torch.no_grad():
        for name, value in model.original_model.named_parameters():
            if "embed_tokens" in name:
                value[5] *= 100
    return model


def tokens_with_massive(*places: tuple[int, int]) -> torch.Tensor:
    tokens = some_tokens()
    tokens[tokens == 5] = 6
    for place in places:
        tokens[place] = 5
    return tokens


def test_collecting_leaves_out_first_positions_and_massive_activations(with_massive: TransformerBridge):
    model, tokens = with_massive, tokens_with_massive((0, 3), (4, 6), (2, 1))
    everything = harvest.activations(model, tokens, [HOOK], batch_size=2)[0]
    found = harvest.collect(model, tokens, HOOK, batch_size=2)
    assert (~found.kept).nonzero()[:, 0].tolist() == [2, 2 * 6 + 0, 4 * 6 + 5]
    torch.testing.assert_close(found.values, everything[found.kept])
    assert found.dropped == 3 and len(found.kept) == 30
    lengths = everything.norm(dim=-1)
    assert found.limit == pytest.approx(5 * lengths.median().item())
    assert lengths[found.kept].max() <= found.limit < lengths[~found.kept].min()
    assert repr(found) == "Harvest(27 tokens of width 32; 3 massive ones dropped, 10.0%)"


def test_factor_of_collecting(with_massive: TransformerBridge):
    tokens = tokens_with_massive((0, 3))
    everything = harvest.activations(with_massive, tokens, [HOOK])[0]
    kept = harvest.collect(with_massive, tokens, HOOK, factor=math.inf)
    assert kept.dropped == 0 and kept.limit == math.inf
    torch.testing.assert_close(kept.values, everything)
    lengths = everything.norm(dim=-1)
    strict = harvest.collect(with_massive, tokens, HOOK, factor=1.05)
    assert strict.kept.tolist() == (lengths <= 1.05 * lengths.median()).tolist() and strict.dropped > 1
    for factor in (1, 0.5, 0, -1, math.nan):
        with pytest.raises(ValueError) as caught:
            harvest.collect(with_massive, tokens, HOOK, factor=factor)
        assert_one_sentence(caught.value, f"factor is {factor}", "above 1")


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_memory_of_collecting(dtype: torch.dtype, size: int, tiny_llama: Path):
    model, tokens = load_model(str(tiny_llama), dtype=dtype), some_tokens()
    needed = ROWS * POS * 32 * size / 2**30
    found = harvest.collect(model, tokens, HOOK, memory_gib=1.01 * needed)
    assert found.values.dtype == dtype and found.values.shape == (ROWS * (POS - 1), 32)
    with pytest.raises(ValueError) as caught:
        harvest.collect(model, tokens, HOOK, memory_gib=0.99 * needed)
    assert_one_sentence(caught.value, "tokens has 35", "memory_gib allows", "harvest.pieces")


@pytest.mark.parametrize("contexts", [1, 2, 5, 9])
def test_pieces_make_up_the_whole(contexts: int, model: TransformerBridge):
    tokens = some_tokens()
    pieces = list(harvest.pieces(model, tokens, HOOK, contexts=contexts, batch_size=2))
    assert [len(piece) for piece in pieces] == [(POS - 1) * len(part) for part in tokens.split(contexts)]
    torch.testing.assert_close(torch.cat(pieces), harvest.activations(model, tokens, [HOOK])[0])


def test_pieces_come_one_at_a_time_with_massive_activations(with_massive: TransformerBridge):
    pieces = harvest.pieces(with_massive, tokens_with_massive((0, 3)), HOOK, contexts=1)
    seen = []
    with with_massive.hooks(
        fwd_hooks=[("blocks.0.hook_resid_pre", lambda value, hook: seen.append(value.shape[:2]))]
    ):
        next(pieces)
    assert seen == [(1, POS)]  # the other contexts are not run yet
    everything = torch.cat(list(harvest.pieces(with_massive, tokens_with_massive((0, 3)), HOOK, contexts=2)))
    assert (~harvest.ordinary(everything[None])).nonzero()[:, 0].tolist() == [2]


@pytest.mark.parametrize("contexts", [0, -3])
def test_pieces_of_no_contexts(contexts: int, model: TransformerBridge):
    with pytest.raises(ValueError) as caught:
        next(harvest.pieces(model, some_tokens(), HOOK, contexts=contexts))
    assert_one_sentence(caught.value, f"contexts is {contexts}", "at least 1")


def test_collecting_from_nothing_and_from_nowhere(model: TransformerBridge):
    for tokens, name, said in (
        (some_tokens()[:0], HOOK, "tokens has shape (0, 7)"),
        (some_tokens(pos=1), HOOK, "tokens has shape (5, 1)"),
        (some_tokens(), "blocks.7.hook_resid_pre", "never fires"),
    ):
        with pytest.raises(ValueError) as caught:
            harvest.collect(model, tokens, name)
        assert_one_sentence(caught.value, said)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("way", ["collect", "pieces", "residual_streams"])
def test_batch_size_is_that_of_each_run(way: str, batch_size: int, model: TransformerBridge):
    place = () if way == "residual_streams" else (HOOK,)
    runs = []
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda value, hook: runs.append(len(value)))]):
        found = getattr(harvest, way)(model, some_tokens(), *place, batch_size=batch_size)
        if way == "pieces":
            list(found)
    assert runs == [len(part) for part in some_tokens().split(batch_size)]


def test_lengths_of_half_precision_are_taken_in_float32():
    """A vector of length 5.01 is massive beside a median of 1; in bfloat16 its length would be 5."""
    streams = torch.zeros(1, 9, 2)
    streams[0, :8, 0] = 1.0
    streams[0, 8] = torch.tensor([5.0, 0.3125])
    assert harvest.ordinary(streams.bfloat16()).tolist() == [True] * 8 + [False]
