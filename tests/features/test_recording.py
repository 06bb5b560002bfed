"""mi_utils.features.recording and store: sparse storage says what dense activations say, and refuses
what can't be."""

from dataclasses import replace

import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import features, harvest
from mi_utils.sae.sae import SAE

CONTEXTS, LENGTH, LATENTS = 9, 12, 7
DEAD, DENSE = 3, 5


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def some_tokens(contexts=CONTEXTS, length=LENGTH):
    tokens = torch.randint(2, 316, (contexts, length), generator=rng(1))
    tokens[:, 0] = 0
    return tokens


@pytest.fixture
def dense():
    """Activations [context, pos, latent]: a third above 0, one latent dead, one that always fires."""
    values = torch.randn(CONTEXTS, LENGTH, LATENTS, generator=rng()) - 0.4
    values[..., DEAD] = -1
    values[..., DENSE] = values[..., DENSE].abs() + 0.1
    values[:, 0] = 100  # what must never be looked at
    return values


@pytest.fixture(params=["all", "some"])
def kept(request):
    """Which tokens after the first of each context are looked at."""
    if request.param == "all":
        return None
    return torch.rand(CONTEXTS * (LENGTH - 1), generator=rng(2)) > 0.2


@pytest.fixture
def acts(dense, kept):
    return recorded(dense, kept)


def recorded(dense, kept=None):
    rows = dense[:, 1:].flatten(0, 1)
    return features.record(
        torch.relu, rows if kept is None else rows[kept], some_tokens(*dense.shape[:2]), kept
    )


@pytest.fixture
def fires(dense, kept):
    """The same, zero wherever no latent fires or nobody looks."""
    values = dense.clamp_min(0)
    values[:, 0] = 0
    if kept is not None:
        values[:, 1:][~kept.view(CONTEXTS, LENGTH - 1)] = 0
    return values


def refused(names, call, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    assert_one_sentence(caught.value, *names)


# -- what is stored --------------------------------------------------------------------------------


def test_every_activation_is_stored_and_no_other(acts, fires, kept):
    assert acts.n_latents == LATENTS and acts.n_tokens == (
        CONTEXTS * (LENGTH - 1) if kept is None else kept.sum()
    )
    assert acts.left_out == (0 if kept is None else (~kept).sum())
    for latent in range(LATENTS):
        for context in range(CONTEXTS):
            torch.testing.assert_close(acts.row(latent, context), fires[context, :, latent])
        places, values = acts.entries(latent)
        assert (
            (places.diff() > 0).all() and (values > 0).all() and len(places) == (fires[..., latent] > 0).sum()
        )
    torch.testing.assert_close(acts.latents, torch.arange(LATENTS).repeat_interleave((fires > 0).sum((0, 1))))


def test_statistics_are_those_of_the_dense_activations(acts, fires):
    count = (fires > 0).sum((0, 1))
    torch.testing.assert_close(acts.density, count / acts.n_tokens)
    torch.testing.assert_close(acts.maximum, fires.amax((0, 1)))
    torch.testing.assert_close(acts.mean_active, fires.sum((0, 1)) / count.clamp_min(1))
    torch.testing.assert_close(acts.n_contexts, (fires > 0).any(1).sum(0))
    assert acts.density[DEAD] == acts.maximum[DEAD] == acts.mean_active[DEAD] == acts.n_contexts[DEAD] == 0
    assert acts.density[DENSE] == 1


@pytest.mark.parametrize("latent", [0, DENSE])
def test_a_histogram_counts_activations_from_zero_to_the_maximum(acts, fires, latent):
    values = fires[..., latent][fires[..., latent] > 0]
    counts, edges = acts.histogram(latent, bins=4)
    torch.testing.assert_close(edges, torch.linspace(0, float(values.max()), 5))
    wanted = [((values > low) & (values <= high)).sum() for low, high in zip(edges, edges[1:], strict=False)]
    assert counts.tolist() == wanted and counts.sum() == len(values)
    counts, edges = acts.histogram(DEAD)
    assert counts.sum() == 0 and len(edges) == 31 and edges[-1] > edges[0]


def test_what_it_takes_is_eight_bytes_an_activation(acts, fires):
    overhead = acts.tokens.nbytes + acts.seen.nbytes + acts.offsets.nbytes
    assert acts.nbytes == 8 * (fires > 0).sum() + overhead
    big = recorded(torch.rand(64, 65, 256, generator=rng()) - 0.1)
    assert big.nbytes < 8.5 * len(big.values)


def test_the_repr_says_how_much_there_is(dense):
    left_out = torch.ones(CONTEXTS * (LENGTH - 1), dtype=torch.bool)
    left_out[:5] = False
    shown = repr(recorded(dense, left_out))
    assert (
        "7 latents" in shown
        and "94 tokens of 9 contexts" in shown
        and "5 left out" in shown
        and "MiB" in shown
    )


def test_pieces_and_chunks_make_no_difference(acts, dense, kept, monkeypatch):
    rows = dense[:, 1:].flatten(0, 1)
    rows = rows if kept is None else rows[kept]
    monkeypatch.setattr(features.recording, "CHUNK", 10)
    again = features.record(torch.relu, iter(rows.split(13)), acts.tokens, kept)
    for name in ("tokens", "seen", "offsets", "places", "values"):
        torch.testing.assert_close(getattr(again, name), getattr(acts, name))


def test_bfloat16_reaches_the_encoder_as_float32(dense):
    given = []

    def encode(x):
        given.append(x.dtype)
        return x.relu()

    acts = features.record(encode, dense[:, 1:].flatten(0, 1).bfloat16(), some_tokens())
    assert set(given) == {torch.float32} and acts.values.dtype == torch.float32


# -- contexts --------------------------------------------------------------------------------------


def assert_is_part_of(excerpt, acts, latent, window):
    row, stop = acts.row(latent, excerpt.context), excerpt.start + len(excerpt.tokens)
    torch.testing.assert_close(excerpt.tokens, acts.tokens[excerpt.context, excerpt.start : stop])
    torch.testing.assert_close(excerpt.values, row[excerpt.start : stop])
    assert excerpt.start >= 1, "the start token is shown"
    assert len(excerpt.tokens) == (LENGTH - 1 if window is None else min(2 * window + 1, LENGTH - 1))
    assert excerpt.value == row[excerpt.start + excerpt.at]
    if window is not None and window < excerpt.start + excerpt.at < LENGTH - window:
        assert excerpt.at == window, "not in the middle though there is room"


@pytest.mark.parametrize("window", [0, 2, 3, 8, None])
def test_top_contexts_are_the_strongest_each_once(acts, fires, window):
    best, where = fires[..., 0].max(1)
    wanted = best.sort(descending=True).indices[: int((best > 0).sum())].tolist()
    found = acts.top_contexts(0, 100, window=window)
    assert [one.context for one in found] == wanted
    assert [one.start + one.at for one in found] == where[wanted].tolist()
    assert [one.value for one in found] == best[wanted].tolist()
    for one in found:
        assert_is_part_of(one, acts, 0, window)
    values = acts.entries(0)[1]
    for one in found:
        assert one.quantile == pytest.approx(float((values < one.value).float().mean()))
    assert [one.context for one in acts.top_contexts(0, 3)] == wanted[:3] and acts.top_contexts(DEAD, 3) == []


def test_top_contexts_among_some_tokens(acts, fires):
    among = torch.rand(CONTEXTS, LENGTH, generator=rng(4)) > 0.6
    best, where = (fires[..., 0] * among).max(1)
    wanted = best.sort(descending=True).indices[: int((best > 0).sum())].tolist()
    found = acts.top_contexts(0, 100, among=among)
    assert [(one.context, one.start + one.at) for one in found] == [(i, int(where[i])) for i in wanted]
    assert acts.top_contexts(0, 5, among=torch.zeros_like(among)) == []


@pytest.mark.parametrize("window", [0, 2, None])
def test_random_contexts_are_from_each_part_of_the_range(dense, window):
    acts, drawn = recorded(dense), set()
    for seed in range(30):
        found = acts.random_contexts(DENSE, 4, rng(seed), window=window)
        assert len(found) == 4 == len({one.context for one in found})
        assert [one.value for one in found] == sorted((one.value for one in found), reverse=True)
        for one in found:
            assert_is_part_of(one, acts, DENSE, window)
            drawn.add((one.context, one.start + one.at))
    assert len(drawn) > 60, "always the same"
    again = [acts.random_contexts(DENSE, 4, rng(7)) for _ in range(2)]
    assert [one.value for one in again[0]] == [one.value for one in again[1]]


def test_as_many_random_contexts_as_there_are_are_all_of_them(acts, fires):
    found = acts.random_contexts(0, 100, rng())
    assert sorted(one.context for one in found) == (fires[..., 0] > 0).any(1).nonzero()[:, 0].tolist()
    for n in range(1, len(found) + 1):
        few = acts.random_contexts(0, n, rng(n))
        assert len({one.context for one in few}) == n
    assert acts.random_contexts(DEAD, 3, rng()) == []


def test_one_random_context_of_each_nth_part(dense):
    """One activation a context, so that the parts are known."""
    only = torch.full((40, 4, 1), -1.0)
    only[torch.arange(40), 2, 0] = torch.randperm(40, generator=rng()).float() + 1
    acts = recorded(only)
    for seed in range(10):
        values = [one.value for one in acts.random_contexts(0, 4, rng(seed))]
        assert [(value - 1) // 10 for value in values] == [3, 2, 1, 0]
    strong = [one.value for seed in range(20) for one in acts.random_contexts(0, 2, rng(seed), above=0.9)]
    assert set(strong) == {37, 38, 39, 40}


@pytest.mark.parametrize("window", [0, 1, 2, None])
def test_in_quiet_contexts_nothing_fires(acts, fires, window):
    drawn = set()
    for seed in range(60):
        found = acts.quiet_contexts(0, 8, rng(seed), window=window)
        assert len({one.context for one in found}) == len(found) <= 8
        for one in found:
            assert_is_part_of(one, acts, 0, window)
            assert acts.seen[one.context, one.start + one.at]
            assert not fires[one.context, one.start : one.start + len(one.tokens), 0].any()
            drawn.add((one.context, one.start + one.at))
    if window == 0:
        assert drawn == set(map(tuple, ((fires[..., 0] == 0) & acts.seen).nonzero().tolist()))
    assert acts.quiet_contexts(DENSE, 3, rng()) == [] or not acts.seen[:, 1:].all()
    assert len(acts.quiet_contexts(DEAD, 100, rng(), window=None)) == CONTEXTS


def test_draws_depend_on_the_generator_alone(acts):
    torch.manual_seed(0)
    state, found = torch.get_rng_state(), []
    for _ in range(2):
        drawn = acts.random_contexts(DENSE, 4, rng(7)) + acts.quiet_contexts(0, 8, rng(7), window=1)
        found.append([(one.context, one.start, one.at) for one in drawn])
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), state), "and change nothing else"


def test_sums_of_very_many_activations_lose_nothing():
    """Small ones after a large one: in float32 each would vanish beside the sum so far."""
    values = torch.ones(50, 101, 1)
    values[0, 1] = 1e8
    acts = recorded(values)
    wanted = (1e8 + 4999) / 5000
    assert acts.mean_active.item() == pytest.approx(wanted, rel=1e-7)
    assert acts.statistics(0).mean_active == pytest.approx(wanted, rel=1e-9)


def test_statistics_of_a_latent_are_those_of_all(acts):
    for latent in range(LATENTS):
        one = acts.statistics(latent)
        assert one.fires == len(acts.entries(latent)[0]) and one.n_contexts == acts.n_contexts[latent]
        for name in ("density", "maximum", "mean_active"):
            assert getattr(one, name) == pytest.approx(getattr(acts, name)[latent].item(), rel=1e-6)


def test_contrast_is_the_mean_here_less_the_mean_elsewhere(acts, fires):
    marked = torch.rand(CONTEXTS, LENGTH, generator=rng(3)) > 0.7
    here, there = marked & acts.seen, ~marked & acts.seen
    torch.testing.assert_close(acts.contrast(marked), fires[here].mean(0) - fires[there].mean(0))


def test_tokens_that_a_text_touches():
    texts = {0: "<|s|>", 1: " the", 2: " Un", 3: "ited", 4: " States", 5: "ß", 6: "aa", 7: "a"}
    tokens = torch.tensor([[0, 1, 2, 3, 4], [0, 4, 1, 5, 1], [0, 6, 7, 1, 1]])

    def marked(text):
        return features.matching(tokens, texts, text).nonzero().tolist()

    assert marked("united states") == [[0, 2], [0, 3], [0, 4]] and marked("nit") == [[0, 2], [0, 3]]
    assert marked(" THE") == [[0, 1], [1, 2], [1, 4], [2, 3], [2, 4]] and marked("e u") == [[0, 1], [0, 2]]
    assert marked("SS") == [[1, 3]] and marked("aa") == [[2, 1], [2, 2]] and marked("zz") == []
    refused(["text"], features.matching, tokens, texts, "")


# -- recording from a model ------------------------------------------------------------------------


@pytest.fixture
def sae(llama_model):
    width = llama_model.cfg.d_model
    rows = torch.nn.functional.normalize(torch.randn(50, width, generator=rng()), dim=-1)
    place = dict(model=llama_model.cfg.model_name, hook="blocks.1.hook_resid_pre")
    return SAE(rows.T.clone(), torch.zeros(50), rows, torch.zeros(width), "topk", k=4, **place)


@pytest.mark.parametrize("factor", [1.1, 5, float("inf")])
def test_a_model_is_recorded_as_its_harvest_is(llama_model, sae, factor, monkeypatch):
    tokens, harvested = some_tokens(7, 11), harvest.pieces
    collected = harvest.collect(llama_model, tokens, sae.hook, factor=factor)
    wanted = features.record(sae.encode, collected.values, tokens, collected.kept)
    monkeypatch.setattr(harvest, "pieces", lambda *args, **more: harvested(*args, **more, contexts=2))
    acts = features.record_activations(llama_model, sae, tokens, factor=factor, batch_size=3)
    assert acts.left_out == collected.dropped and (factor > 2 or acts.left_out > 0)
    for name in ("tokens", "seen", "offsets", "places"):
        torch.testing.assert_close(getattr(acts, name), getattr(wanted, name))
    torch.testing.assert_close(acts.values, wanted.values, rtol=1e-4, atol=1e-4)
    assert acts.n_latents == 50 and len(acts.values) <= 4 * acts.n_tokens


def test_an_sae_for_something_else_is_refused(llama_model, sae):
    tokens = some_tokens()
    call = features.record_activations
    refused(["another"], call, llama_model, replace(sae, model="another"), tokens)
    refused(["blocks.7"], call, llama_model, replace(sae, hook="blocks.7.hook_resid_pre"), tokens)
    refused(["tokens", "(0, 5)"], call, llama_model, sae, some_tokens(1, 5)[:0])
    refused(["tokens"], call, llama_model, sae, tokens[:, :1])
    refused(["memory_gib"], call, llama_model, sae, tokens, memory_gib=1e-9)


def test_texts_are_those_of_the_tokens(llama_model):
    tokens = some_tokens()
    texts = features.texts(llama_model, tokens)
    assert set(texts) == set(tokens.flatten().tolist())
    assert all(texts[i] == llama_model.tokenizer.decode([i]) for i in texts)


# -- directions ------------------------------------------------------------------------------------


def test_promoted_tokens_are_relative_to_the_average_one():
    W_U, direction = torch.randn(5, 40, generator=rng()) + 3, torch.randn(5, generator=rng(1))
    logits = direction @ W_U
    found = features.promoted(direction, W_U, 3)
    order = logits.argsort(descending=True)
    assert found.promoted.tolist() == order[:3].tolist()
    assert found.suppressed.tolist() == order.flip(0)[:3].tolist()
    torch.testing.assert_close(found.raised, logits[order[:3]] - logits.mean())
    torch.testing.assert_close(found.lowered, logits[order.flip(0)[:3]] - logits.mean())


def test_nearest_directions_are_those_of_the_largest_cosine():
    rows = torch.randn(20, 6, generator=rng()) * torch.rand(20, 1, generator=rng(1))
    cosines = torch.nn.functional.cosine_similarity(rows[4], rows, dim=-1)
    wanted = [i for i in cosines.argsort(descending=True).tolist() if i != 4][:5]
    others, values = features.nearest(rows, 4, 5)
    assert others.tolist() == wanted
    torch.testing.assert_close(values, cosines[wanted])
    negative = torch.tensor([[1.0, 0], [-1, 0]])
    assert features.nearest(negative, 0, 1)[0].tolist() == [1]


def test_directions_in_half_precision_are_compared_in_full():
    W_U, rows = torch.randn(64, 40, generator=rng()), torch.randn(20, 64, generator=rng(1))
    half = rows.bfloat16()
    found, wanted = (features.promoted(one, W_U.bfloat16(), 3) for one in (half[4], half[4].float()))
    torch.testing.assert_close(found.raised, wanted.raised)
    exact = half[4].double() @ W_U.bfloat16().double()
    torch.testing.assert_close(
        found.raised.double(), (exact - exact.mean())[found.promoted], rtol=1e-5, atol=1e-5
    )
    cosines = torch.cosine_similarity(half[4].double(), half.double(), dim=-1)
    others, values = features.nearest(half, 4, 5)
    torch.testing.assert_close(values.double(), cosines[others], rtol=1e-5, atol=1e-5)


# -- what can't be ---------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [-1, LATENTS, 10**9, True, 1.5])
def test_a_latent_that_does_not_exist_is_refused(dense, latent, unchecked):
    acts = recorded(dense)
    calls = (acts.entries, acts.histogram, acts.top_contexts, lambda i: acts.row(i, 0))
    draws = (lambda i: acts.random_contexts(i, 1, rng()), lambda i: acts.quiet_contexts(i, 1, rng()))
    for call in (*calls, *draws):
        refused(["latent", str(latent), "0 to 6"], call, latent)


def test_bad_numbers_are_refused(dense):
    acts = recorded(dense)
    for n in (0, -2):
        refused(["n is", str(n)], acts.top_contexts, 0, n)
        refused(["n is", str(n)], acts.random_contexts, 0, n, rng())
        refused(["n is", str(n)], acts.quiet_contexts, 0, n, rng())
        refused(["bins", str(n)], acts.histogram, 0, bins=n)
    refused(["window", "-1"], acts.top_contexts, 0, 1, window=-1)
    refused(["window", "-1"], acts.quiet_contexts, 0, 1, rng(), window=-1)
    for above in (-0.1, 1, float("nan")):
        refused(["above"], acts.random_contexts, 0, 1, rng(), above=above)
    refused(["marked"], acts.contrast, torch.ones(2, 2, dtype=torch.bool))
    refused(["marked", "0 of"], acts.contrast, torch.zeros_like(acts.seen))
    refused(["marked", "99 of"], acts.contrast, torch.ones_like(acts.seen))


def test_activations_that_do_not_fit_are_refused(dense):
    rows, tokens = dense[:, 1:].flatten(0, 1), some_tokens()
    refused(["tokens", "(0, 12)"], features.record, torch.relu, rows, tokens[:0])
    refused(["tokens", "(9, 1)"], features.record, torch.relu, rows, tokens[:, :1])
    refused(["activations", "98", "99"], features.record, torch.relu, rows[1:], tokens)
    refused(["activations", "100", "99"], features.record, torch.relu, torch.cat([rows, rows[:1]]), tokens)
    refused(["activations", "0", "99"], features.record, torch.relu, iter([]), tokens)
    some = torch.ones(99, dtype=torch.bool)
    refused(["kept", "98", "99"], features.record, torch.relu, rows, tokens, some[1:])
    refused(["kept"], features.record, torch.relu, rows[:0], tokens, ~some)
    refused(["memory_gib", "1e-06"], features.record, torch.relu, rows, tokens, memory_gib=1e-6)


def test_what_is_not_finite_is_refused(dense):
    rows, tokens = dense[:, 1:].flatten(0, 1), some_tokens()
    for bad in (float("nan"), float("inf")):
        refused(["encode", "not finite"], features.record, lambda x, bad=bad: x * bad, rows, tokens)
        broken = rows.clone()
        broken[17, 2] = bad
        refused(["activations", "not finite"], features.record, lambda x: x[:, :1], broken, tokens)
        refused(["direction"], features.promoted, torch.tensor([1.0, bad]), torch.ones(2, 10), 2)
    refused(["encode", "token, latent"], features.record, lambda x: x[:-1], rows, tokens)
    refused(["encode", "token, latent"], features.record, lambda x: x[:, 0], rows, tokens)


def test_directions_that_do_not_fit_are_refused(unchecked):
    W_U = torch.randn(5, 40, generator=rng())
    refused(["direction", "4", "5"], features.promoted, torch.ones(4), W_U, 2)
    for n in (0, 21):
        refused(["n is", str(n), "20"], features.promoted, torch.ones(5), W_U, n)
    for latent in (-1, 5):
        refused(["latent", str(latent), "4"], features.nearest, W_U, latent)
    for n in (0, 5):
        refused(["n is", str(n), "4"], features.nearest, W_U, 0, n)
