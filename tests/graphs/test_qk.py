"""mi_utils.graphs.qk: a score's parts sum to the model's own, and one pair is what its two vectors
give."""

import attribution_reference as reference
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import graphs
from mi_utils.graphs.qk import carry, decompose

CLOSE = dict(atol=2e-5, rtol=1e-4)
SORTS = pytest.mark.parametrize(("sort", "skip"), [("clt", True), ("plt", False)])


@pytest.fixture(scope="module", params=reference.KINDS)
def model(request, tmp_path_factory):
    return reference.load(request.param, tmp_path_factory.mktemp("tiny"))


def local_for(model, sort="clt", skip=True):
    return graphs.local_model(model, reference.transcoders(model, sort, skip), reference.prompt(model))


def recorded(local, layer):
    """The model's own scores before the softmax [head, query, key]."""
    _, kept = local.model.run_with_cache(local.tokens[None])
    return kept[f"blocks.{layer}.attn.hook_attn_scores"][0]


@SORTS
@pytest.mark.parametrize("layer", [0, 1, 2])
@torch.no_grad()
def test_parts_sum_to_the_models_score(model, sort, skip, layer):
    local = local_for(model, sort, skip)
    scores = recorded(local, layer)
    found, wanted = [], []
    for head, query, key in ((0, 5, 2), (1, 3, 3), (2, 4, 0), (3, 5, 1)):
        qk = decompose(local, layer, head, query, key)
        assert (qk.layer, qk.head, qk.query, qk.key) == (layer, head, query, key)
        size = len(local.active) + 4 * 6 + 1
        assert qk.scores.shape == (size, size) and torch.equal(qk.features, local.active)
        found.append(qk.total)
        wanted.append(scores[head, query, key])
        assert qk.total == pytest.approx(float(qk.scores.sum()), abs=1e-4)
    torch.testing.assert_close(torch.tensor(found), torch.stack(wanted), **CLOSE)
    assert torch.stack(wanted).abs().max() > 0.2


@SORTS
@pytest.mark.parametrize("layer", [0, 1, 2])
@torch.no_grad()
def test_what_sources_carry_sums_to_the_stream(model, sort, skip, layer):
    local = local_for(model, sort, skip)
    stream, features = carry(local, layer)
    torch.testing.assert_close(stream.sum(dim=0), local.stream[layer], **CLOSE)
    later = features[:, 0] >= layer
    assert not stream[: len(features)][later].any() and later.any()
    if layer:
        assert (stream[: len(features)][~later].flatten(1).norm(dim=1) > 0).all()
        positions = features[~later][:, 1]
        for source, position in zip(stream[: len(features)][~later], positions, strict=True):
            assert not source[:position].any(), "nothing flows to earlier positions"


@SORTS
def test_each_source_against_autograd(model, sort, skip):
    """What one feature, error or token alone brings to a later stream, through all that is frozen."""
    local = local_for(model, sort, skip)
    literal = reference.Frozen(model, local.transcoders, local.tokens)
    leaves = [
        value.clone().requires_grad_() for value in (literal.features, literal.errors, literal.embedded)
    ]
    seen = {}
    keep = lambda value, hook: seen.update({"stream": value[0]})  # noqa: E731
    with torch.enable_grad(), model.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", keep)]):
        literal.run(lambda layer, _: leaves[0][layer], errors=leaves[1], embedded=leaves[2])
        direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
        slopes = torch.autograd.grad(seen["stream"][4] @ direction, leaves)
    parts = [slope * leaf for slope, leaf in zip(slopes, leaves, strict=True)]
    wanted = torch.cat([parts[0][literal.features > 0], parts[1].sum(-1).flatten(), parts[2].sum(-1)])
    found = carry(local, 2)[0][:, 4] @ direction
    torch.testing.assert_close(found[:-1], wanted.detach(), **CLOSE)
    assert wanted.abs().max() > 0.5 and found[-1].abs() > 1e-3


@torch.no_grad()
def test_one_pair_by_hand(model):
    """A feature at the query and a token at the key: what the model's own score gains from having both, not
    one."""
    local, layer, head, query, key = local_for(model), 1, 2, 5, 3
    source = next(i for i, site in enumerate(local.active.tolist()) if site[:2] == [0, query])
    token = len(local.active) + 3 * 6 + key
    carried = carry(local, layer)[0]

    def score(with_source, with_token):
        stream = torch.zeros(6, 32)
        stream[query], stream[key] = with_source * carried[source, query], with_token * carried[token, key]
        if model.cfg.normalization_type != "RMS":
            stream = stream - stream.mean(dim=-1, keepdim=True)
        read = stream / local.attn_scale[layer]
        kept, attn = {}, f"blocks.{layer}.attn"
        edits = [
            (f"{attn}.hook_in", lambda value, hook: read[None]),
            (f"{attn}.hook_attn_scores", lambda value, hook: kept.update(scores=value[0])),
        ]
        model.run_with_hooks(local.tokens[None], fwd_hooks=edits)
        return kept["scores"][head, query, key]

    wanted = score(1, 1) - score(1, 0) - score(0, 1) + score(0, 0)
    found = decompose(local, layer, head, query, key).scores[source, token]
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert abs(float(wanted)) > 5e-3


@torch.no_grad()
def test_scores_of_a_whole_block(model):
    local = local_for(model)
    _, kept = model.run_with_cache(local.tokens[None])
    found = graphs.scores_of(local, kept["blocks.1.ln1.hook_out"][0], 1)
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(found[:, seen], recorded(local, 1)[:, seen], **CLOSE)
    assert not found[:, ~seen].any()


def test_the_largest_pairs(model):
    qk = decompose(local_for(model), 2, 1, 5, 2)
    every = sorted(
        ((abs(v), (i, j, v)) for i, row in enumerate(qk.scores.tolist()) for j, v in enumerate(row)),
        reverse=True,
    )
    assert [part for _, part in every[:7]] == qk.top(7)
    assert len(qk.top()) == 10 and len(qk.top(10**9)) == qk.scores.numel()
    assert qk.n_features == len(qk.features)


def test_positions_heads_and_layers_that_do_not_exist(model):
    local = local_for(model)
    for place, words in (
        ((1, 0, 2, 3), ("query and key are 2 and 3", "key not after the query")),
        ((1, 0, 6, 3), ("query and key are 6 and 3", "0 to 5")),
        ((1, 0, 3, -1), ("query and key are 3 and -1",)),
        ((3, 0, 3, 1), ("layer", "3")),
        ((1, 4, 3, 1), ("head", "4")),
    ):
        with pytest.raises(ValueError) as error:
            decompose(local, *place)
        assert_one_sentence(error.value, *words)


def test_more_sources_than_memory_holds(model, monkeypatch):
    local = local_for(model)
    monkeypatch.setattr(graphs.qk, "MOST_NUMBERS", 1_000)
    with pytest.raises(ValueError) as error:
        decompose(local, 1, 0, 3, 1)
    assert_one_sentence(
        error.value, f"{len(local.active)} active features", "1,000 numbers", "shorter prompt"
    )
