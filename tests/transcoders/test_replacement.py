"""mi_utils.transcoders.replacement: a replaced run is a literal run with hooks, and comparisons are what one
counts by hand."""

import math
from dataclasses import replace

import attribution_reference as reference
import pytest
import torch
from sentences import assert_one_sentence

from mi_utils import graphs, transcoders
from mi_utils.transcoders.transcoders import Transcoders, skip_alone

CLOSE = dict(atol=1e-5, rtol=1e-5)
SORTS = pytest.mark.parametrize(("sort", "skip"), reference.SORTS)


@pytest.fixture(scope="module", params=reference.KINDS)
def model(request, tmp_path_factory):
    return reference.load(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return reference.load("gpt2", tmp_path_factory.mktemp("tiny"))


def prompts_for(model, count=3):
    return torch.stack([reference.prompt(model, seed=seed) for seed in range(count)])


def with_hooks(model, tokens, layers, write):
    """A run in which ``write(layer, what the MLP reads, what it writes)`` stands in for MLPs, but at the
    start."""
    seen, edits = {}, []
    for layer in range(model.cfg.n_layers):

        def note(value, hook, layer=layer):
            seen[layer] = value

        def put(value, hook, layer=layer):
            new = write(layer, seen, value)
            return torch.cat([value[:, :1], new[:, 1:]], dim=1)

        edits.append((f"blocks.{layer}.mlp.hook_in", note))
        edits += [(f"blocks.{layer}.hook_mlp_out", put)] if layer in layers else []
    return model.run_with_hooks(tokens, fwd_hooks=edits)


# -- replaced runs -----------------------------------------------------------------------------------


@SORTS
@pytest.mark.parametrize("layers", [None, [0], [2, 1], []])
@torch.no_grad()
def test_a_replaced_run_against_literal_hooks(model, sort, skip, layers):
    made, tokens = reference.transcoders(model, sort, skip), prompts_for(model)

    def write(layer, seen, value):
        total = made.b_dec[layer].clone()
        for source in range(
            0 if sort == "clt" else layer, layer + 1
        ):  # all layers read, also those not replaced
            pre = seen[source] @ made.W_enc[source] + made.b_enc[source]
            total = (
                total + torch.where(pre > made.threshold[source], pre, 0) @ made.W_dec[source][layer - source]
            )
        return total + seen[layer] @ made.W_skip[layer] if skip else total

    found = transcoders.run(model, made, tokens, layers=layers)
    wanted = with_hooks(model, tokens, range(3) if layers is None else layers, write)
    torch.testing.assert_close(found, wanted, **CLOSE)
    changed = (found - model(tokens)).abs()
    assert changed[:, 0].max() < 1e-6, "the first position keeps the model's own MLPs"
    assert changed[:, 1:].max() > 0.1 if layers != [] else changed.max() < 1e-6


@torch.no_grad()
def test_a_vector_for_each_layer_is_mean_ablation(model):
    tokens, generator = prompts_for(model), torch.Generator().manual_seed(1)
    means = torch.randn(3, 32, generator=generator)
    for layers in (None, [1]):
        found = transcoders.run(model, means, tokens, layers=layers)
        wanted = with_hooks(
            model,
            tokens,
            range(3) if layers is None else layers,
            lambda layer, seen, value: means[layer] + 0 * value,
        )
        torch.testing.assert_close(found, wanted, **CLOSE)
        assert (found - model(tokens))[:, 1:].abs().max() > 0.1


@pytest.mark.parametrize("kind", ["plt", "clt"])
@pytest.mark.parametrize("relation", graphs.hand_wired.RELATIONS)
@torch.no_grad()
def test_features_that_are_the_neurons_leave_the_logits(kind, relation, unchecked):
    model = graphs.hand_wired_model()
    tokens = torch.tensor(
        [
            [graphs.hand_wired.WORDS.index(w) for w in ("<bos>", relation, city, "is")]
            for city in graphs.hand_wired.CITIES
        ]
    )
    made = graphs.hand_wired_transcoders(model, kind=kind)
    found, own = transcoders.run(model, made, tokens), model(tokens)
    torch.testing.assert_close(found, own, **CLOSE)
    part = transcoders.run(model, graphs.hand_wired_transcoders(model, kind=kind, without=["Texas"]), tokens)
    assert (part - own).abs().max() > 0.5


@torch.no_grad()
def test_a_linear_mlp_is_its_skip(gpt2):
    """Where features never fire, a skip and a bias stand in: with an MLP made linear, exactly."""
    tokens, (n, d) = prompts_for(gpt2), (3, 32)
    generator = torch.Generator().manual_seed(2)
    maps, bias = torch.randn(n, d, d, generator=generator) / d**0.5, torch.randn(n, d, generator=generator)
    own = with_hooks(
        gpt2, tokens, range(3), lambda layer, seen, value: seen[layer] @ maps[layer] + bias[layer]
    )
    made = skip_alone(replace(reference.transcoders(gpt2, "plt", True), W_skip=maps, b_dec=bias))
    torch.testing.assert_close(transcoders.run(gpt2, made, tokens), own, **CLOSE)


@torch.no_grad()
def test_massive_outputs_keep_the_models_own(model):
    """One token's MLP output is made massive: only with protection does the replaced run keep it."""
    made, tokens = reference.transcoders(model, "plt", False), prompts_for(model)

    def run(layer, protect):
        return transcoders.run(model, made, tokens, layers=[layer], protect_massive=protect)

    def massive(value, hook):
        value = value.clone()
        value[1, 3] *= 1_000
        return value

    with model.hooks(fwd_hooks=[("blocks.2.mlp.hook_out", massive)]):
        own, plain, kept = model(tokens), run(2, False), run(2, True)
    torch.testing.assert_close(kept[1, 3], own[1, 3], **CLOSE)
    assert (plain[1, 3] - own[1, 3]).abs().max() > 0.1
    others = torch.ones_like(tokens, dtype=torch.bool)
    others[1, 3] = False
    torch.testing.assert_close(kept[others], plain[others], **CLOSE)
    assert torch.equal(run(0, True), run(0, False)), "nothing is massive here"


def test_what_counts_as_massive():
    output = torch.ones(2, 4, 9) / 3  # of length 1; the median is 1
    output[0, 2] *= 5.01
    output[1, 1] *= 4.99
    kept = transcoders.replacement._kept(output, True)
    assert kept.tolist() == [[True, False, True, False], [True, False, False, False]]
    assert transcoders.replacement._kept(output, False).tolist() == [[True, False, False, False]] * 2


# -- comparisons ---------------------------------------------------------------------------------------


def by_hand(logits, other, tokens, where):
    same, kl, own_loss, other_loss = [], [], [], []
    for row, position in where:
        p = [math.exp(v) for v in logits[row, position].log_softmax(-1).tolist()]
        q = [math.exp(v) for v in other[row, position].log_softmax(-1).tolist()]
        same.append(p.index(max(p)) == q.index(max(q)))
        kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        if position + 1 < tokens.shape[1]:
            following = int(tokens[row, position + 1])
            own_loss.append(-math.log(p[following]))
            other_loss.append(-math.log(q[following]))
    mean = lambda values: sum(values) / len(values) if values else math.nan  # noqa: E731
    return mean(same), mean(kl), mean(own_loss), mean(other_loss), same


WHERE = {
    "default": None,
    "some": [(0, 0), (1, 2), (1, 4), (0, 3)],
    "last": [(0, 4), (1, 4)],
}


@pytest.mark.parametrize("which", WHERE)
def test_comparison_by_hand(which):
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(2, 5, 4, generator=generator), torch.randint(4, (2, 5), generator=generator)
    other = logits + torch.randn(2, 5, 4, generator=generator)
    places, where = WHERE[which], None
    if places is not None:
        where = torch.zeros(2, 5, dtype=torch.bool)
        for place in places:
            where[place] = True
    found = transcoders.compare(logits, other, tokens, where)
    rest = sorted(places) if places else [(row, position) for row in range(2) for position in range(1, 4)]
    *numbers, same = by_hand(logits, other, tokens, rest)
    got = [found.agreement, found.kl, found.loss, found.loss_replaced]
    assert got == pytest.approx(numbers, rel=1e-4, nan_ok=True)
    assert found.same.tolist() == same and math.isnan(found.loss) == (which == "last")


def test_a_model_beside_itself():
    logits, tokens = (
        torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3)),
        torch.zeros(2, 5).long(),
    )
    found = transcoders.compare(logits, logits, tokens)
    assert found.agreement == 1 and abs(found.kl) < 1e-6 and found.loss == found.loss_replaced


def test_answers_stand_at_the_end():
    where = transcoders.answer_positions(torch.zeros(2, 3).long())
    assert where.tolist() == [[False, False, True]] * 2


# -- bad input -----------------------------------------------------------------------------------------


def test_what_does_not_fit(gpt2, unchecked):
    made, tokens = reference.transcoders(gpt2), prompts_for(gpt2)
    logits = torch.zeros(2, 3, 4)
    t = made
    deeper = Transcoders(
        *(torch.cat([v, v[:1]]) for v in (t.W_enc, t.b_enc, t.threshold)),
        tuple(torch.zeros(4 - i, 9, 32) for i in range(4)),
        torch.zeros(4, 32),
    )
    for call, words in (
        (
            lambda: transcoders.run(gpt2, replace(made, model="gpt2"), tokens),
            ("trained on gpt2", "tiny-gpt2"),
        ),
        (lambda: transcoders.run(gpt2, deeper, tokens), ("transcoders have 4 layers", "has 3")),
        (lambda: transcoders.run(gpt2, torch.zeros(2, 32), tokens), ("shape (2, 32)", "(3, 32)")),
        (lambda: transcoders.run(gpt2, made, tokens, layers=[3]), ("layer", "3")),
        (
            lambda: transcoders.compare(logits, logits[:, :2], torch.zeros(2, 3).long()),
            ("(2, 3, 4)", "(2, 2, 4)"),
        ),
        (lambda: transcoders.compare(logits, logits, torch.zeros(2, 2).long()), ("(2, 2)", "should agree")),
        (
            lambda: transcoders.compare(
                logits, logits, torch.zeros(2, 3).long(), torch.zeros(2, 3, dtype=torch.bool)
            ),
            ("where names no position",),
        ),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert_one_sentence(error.value, *words)
