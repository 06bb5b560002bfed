"""mi_utils.patching.sweeps: pairs, metrics and sweeps, against whole runs with hooks and TransformerLens' own
patching."""

from functools import partial

import patching_reference as reference
import pytest
import torch
from sentences import assert_one_sentence
from transformer_lens import patching as theirs

from mi_utils import models, patching, prompts
from mi_utils.patching.recording import HEAD_SITES, STREAM_SITES, Run, record
from mi_utils.patching.sweeps import can_change, recovery, sweep

CLOSE = dict(atol=1e-5, rtol=1e-5)
CLEAN, CORRUPTED = "When Mary and John went to", "When John and Mary went to"


@pytest.fixture(scope="module")
def metric():
    return patching.logit_difference(torch.tensor([3, 4, 5]), torch.tensor([9, 8, 7]))


# -- pairs of prompts ------------------------------------------------------------------------------


def test_pairs_are_encoded_side_by_side(llama_model):
    for clean, corrupted in ((CLEAN, CORRUPTED), ([CLEAN, CORRUPTED], [CORRUPTED, CLEAN])):
        found = patching.encode_pairs(llama_model, clean, corrupted)
        for tokens, text in zip(found, (clean, corrupted), strict=True):
            assert torch.equal(tokens, prompts.encode(llama_model, text))


@pytest.mark.parametrize(
    ("clean", "corrupted", "names"),
    [
        (CLEAN, CORRUPTED + " the", ("different token lengths", repr(CLEAN), repr(CORRUPTED + " the"))),
        ([CLEAN, "a b"], [CORRUPTED, "a c"], ("different token lengths", repr(CLEAN), "'a b'")),
        ([CLEAN, CLEAN], [CORRUPTED], ("clean has 2", "corrupted 1")),
        ([CLEAN, "a b"], [CORRUPTED, "a b"], ("'a b'", "change")),
        (CLEAN, CLEAN, (repr(CLEAN), "change")),
        ("", CORRUPTED, ("empty",)),
        ([], [], ("empty",)),
    ],
)
def test_pairs_that_do_not_match_are_refused(llama_model, clean, corrupted, names):
    with pytest.raises(ValueError) as error:
        patching.encode_pairs(llama_model, clean, corrupted)
    assert_one_sentence(error.value, *names)


def test_an_answer_of_two_tokens_is_refused(llama_model):
    with pytest.raises(ValueError) as error:
        prompts.single_token(llama_model, " Mary John")
    assert_one_sentence(error.value, "' Mary John'", "2 tokens", "' Mary'", "' John'")


def test_the_first_difference_is_that_of_any_prompt():
    tokens = torch.zeros(3, 6, dtype=torch.long)
    other = tokens.clone()
    assert patching.first_difference(tokens, other) == 5, "none differs"
    other[1, 4] = 1
    assert patching.first_difference(tokens, other) == 4
    other[2, 2] = 1
    assert patching.first_difference(tokens, other) == 2


# -- metrics ---------------------------------------------------------------------------------------

LOGITS = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 0.0]])
ANSWER, WRONG = torch.tensor([2, 0]), torch.tensor([0, 1])


@pytest.mark.parametrize("rows", [(), (1,), (5,), (2, 3)])
def test_metrics_by_hand(rows):
    logits = LOGITS.expand(*rows, 2, 3)
    p = torch.stack([LOGITS[i].exp() / LOGITS[i].exp().sum() for i in (0, 1)])
    for metric, wanted in (
        (patching.logit(ANSWER), [4, 0.5]),
        (patching.logit_difference(ANSWER, WRONG), [3, 1.5]),
        (patching.probability(ANSWER), [p[0, 2], p[1, 0]]),
        (patching.log_probability(ANSWER), [p[0, 2].log(), p[1, 0].log()]),
    ):
        torch.testing.assert_close(metric(logits), torch.tensor(wanted).expand(*rows, 2))


def test_a_logit_difference_does_not_move_with_all_logits_and_a_logit_does():
    difference, logit = patching.logit_difference(ANSWER, WRONG), patching.logit(ANSWER)
    assert torch.equal(difference(LOGITS + 2), difference(LOGITS))
    assert torch.equal(logit(LOGITS + 2), logit(LOGITS) + 2)


def test_metrics_let_gradients_through():
    logits = LOGITS.clone().requires_grad_()
    patching.logit_difference(ANSWER, WRONG)(logits).sum().backward()
    assert logits.grad.tolist() == [[-1, 0, 1], [1, -1, 0]]


def test_answers_that_are_no_pair_are_refused(unchecked):
    with pytest.raises(ValueError) as error:
        patching.logit_difference(torch.tensor([2, 5]), torch.tensor([1, 5]))
    assert_one_sentence(error.value, "answer and wrong are both token 5", "prompt 1")
    with pytest.raises(ValueError) as error:
        patching.logit_difference(torch.tensor([2, 5]), torch.tensor([1]))
    assert_one_sentence(error.value, "answer has 2", "wrong 1")


def test_recovery_by_hand():
    patched = torch.tensor([[3.0, 1.0, -1.0], [5.0, 2.0, 0.0]])
    clean, corrupted = torch.tensor([3.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 4.0])
    torch.testing.assert_close(recovery(patched, clean, corrupted), torch.tensor([[1, 0, 1.25], [2, 1, 1]]))
    torch.testing.assert_close(recovery(patched, clean.mean(), corrupted.mean()), (patched - 2) / (5 / 3 - 2))


def test_recovery_of_nothing_is_refused():
    for gap in (0.0, 5e-7, -5e-7):
        with pytest.raises(ValueError) as error:
            recovery(torch.zeros(4, 2), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0 + gap]))
        assert_one_sentence(error.value, "clean and corrupted", "same", "undefined")
    assert torch.isfinite(
        recovery(torch.zeros(4, 2), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0 + 1e-4]))
    ).all()


# -- sweeps ----------------------------------------------------------------------------------------


def kinds_of(site):
    return ("position", "head") if site in HEAD_SITES else ("position",)


def test_sweeps_are_whole_runs_with_hooks(model, sites, runs, metric):
    """Both ways, at every site, along both axes, for a batch whose prompts begin to differ at other
    positions."""
    clean, corrupted = runs
    for base, source in ((corrupted, clean), (clean, corrupted)):
        for site in sites:
            for by in kinds_of(site):
                found = sweep(model, base, source, site, metric, by=by)
                wanted = reference.swept(model, base.tokens, source, site, metric, by) - metric(base.logits)
                torch.testing.assert_close(
                    found, wanted, **CLOSE, msg=lambda text, at=(site, by): f"{at}: {text}"
                )
                assert not found.requires_grad


def test_other_metrics_are_swept_as_well(model, runs):
    clean, corrupted = runs
    for make in (patching.probability, patching.log_probability, patching.logit):
        metric = make(torch.tensor([3, 4, 5]))
        found = sweep(model, corrupted, clean, "z", metric, by="head")
        patched = reference.swept(model, corrupted.tokens, clean, "z", metric, "head")
        torch.testing.assert_close(found, patched - metric(corrupted.logits), **CLOSE)


def test_cells_that_copy_nothing_new_change_nothing_to_the_last_bit(model, sites, runs, metric):
    clean, corrupted = runs
    for site in sites:
        changes = can_change(corrupted, clean, site)
        found = sweep(model, corrupted, clean, site, metric)
        assert changes.shape == found.shape[:2] and not changes[:, :3].any(), "before the first difference"
        assert not found[~changes].any()
    at_start = can_change(corrupted, clean, "resid_pre")[0]
    assert at_start.tolist() == [i in (3, 4, 5, 7) for i in range(9)], "in layer 0 where any token differs"
    assert can_change(corrupted, clean, "resid_pre")[1, 3:].all()
    assert can_change(corrupted, clean, "z", by="head").all()


def test_identical_runs_change_nothing_to_the_last_bit(model, sites, runs, metric):
    base, again = runs[0], record(model, runs[0].tokens, sites)
    for site in sites:
        for by in kinds_of(site):
            assert not can_change(base, again, site, by=by).any()
            found = sweep(model, base, again, site, metric, by=by)
            assert not found.any()
    with pytest.raises(ValueError):
        recovery(found, metric(again.logits), metric(base.logits))


def test_patching_everything_recovers_everything(model, runs, metric):
    clean, corrupted = runs
    everything = [[patching.Patch("resid_pre", 0, clean["resid_pre", 0])], []]
    found = patching.run_patched(model, corrupted, everything, metric)
    wanted = torch.tensor([[1.0], [0.0]]).expand(2, 3)
    torch.testing.assert_close(
        recovery(found, metric(clean.logits), metric(corrupted.logits)), wanted, atol=1e-4, rtol=0
    )


def test_a_batch_is_its_prompts_one_by_one(model, runs, metric):
    clean, corrupted = runs
    together = sweep(model, corrupted, clean, "attn_out", metric)
    for i in range(3):
        one, other = (record(model, run.tokens[i : i + 1], ["attn_out"]) for run in (clean, corrupted))
        alone = sweep(
            model, other, one, "attn_out", lambda logits, i=i: logits[..., 3 + i] - logits[..., 9 - i]
        )
        torch.testing.assert_close(together[..., i : i + 1], alone, **CLOSE)


def test_how_much_is_run_at_once_changes_nothing(model, runs, metric, monkeypatch):
    clean, corrupted = runs
    wanted = [sweep(model, corrupted, clean, "z", metric, by=by) for by in ("position", "head")]
    monkeypatch.setattr(patching.engine, "MOST_TOKENS", 40)
    monkeypatch.setattr(patching.engine, "MOST_LOGITS", 4)
    for by, one in zip(("position", "head"), wanted, strict=True):
        torch.testing.assert_close(sweep(model, corrupted, clean, "z", metric, by=by), one, **CLOSE)


def test_only_what_differs_is_run(model, runs, metric, monkeypatch):
    asked = []

    def count(model, base, interventions, metric, *, start):
        asked.append((len(interventions), start))
        return torch.zeros(len(interventions), 3)

    monkeypatch.setattr(patching.sweeps, "run_patched", count)
    sweep(model, runs[1], runs[0], "resid_pre", metric)
    assert asked == [(4 + 6 * (model.cfg.n_layers - 1), 3)]
    sweep(model, runs[0], runs[0], "resid_pre", metric)
    assert len(asked) == 1


# -- against TransformerLens -----------------------------------------------------------------------

THEIRS = {
    ("resid_pre", "position"): theirs.get_act_patch_resid_pre,
    ("resid_mid", "position"): theirs.get_act_patch_resid_mid,
    ("attn_out", "position"): theirs.get_act_patch_attn_out,
    ("mlp_out", "position"): theirs.get_act_patch_mlp_out,
    ("z", "head"): theirs.get_act_patch_attn_head_out_all_pos,
    ("q", "head"): theirs.get_act_patch_attn_head_q_all_pos,
    ("k", "head"): theirs.get_act_patch_attn_head_k_all_pos,
    ("v", "head"): theirs.get_act_patch_attn_head_v_all_pos,
    ("pattern", "head"): theirs.get_act_patch_attn_head_pattern_all_pos,
}


@pytest.fixture(params=["llama_model", "gpt2_model"])
def known_model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("site", "by"), list(THEIRS))
def test_maps_equal_those_of_transformer_lens(known_model, metric, monkeypatch, site, by):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    clean, corrupted = (record(known_model, tokens, [site]) for tokens in reference.pairs(known_model))
    ours = sweep(known_model, corrupted, clean, site, metric, by=by).mean(-1)
    before = metric(corrupted.logits).mean()
    with torch.no_grad():
        _, cache = known_model.run_with_cache(clean.tokens)
        wanted = THEIRS[site, by](
            known_model, corrupted.tokens, cache, lambda logits: metric(logits[:, -1]).mean()
        )
    torch.testing.assert_close(before + ours, wanted.to(ours), **CLOSE)
    assert ours.abs().max() > 0.02


@pytest.mark.slow
def test_maps_equal_those_of_transformer_lens_on_the_real_model(real_model):
    """A handful of cells: theirs takes a whole run for each."""
    clean, corrupted = patching.encode_pairs(
        real_model,
        "When Mary and John went to the store, John gave a drink to",
        "When Mary and John went to the store, Mary gave a drink to",
    )
    tokens = [torch.tensor([prompts.single_token(real_model, name)]) for name in (" Mary", " John")]
    metric = patching.logit_difference(*tokens)
    source, base = (record(real_model, tokens, ["z"]) for tokens in (clean, corrupted))
    with torch.no_grad():
        _, cache = real_model.run_with_cache(clean)
    cells = {
        ("resid_pre", "position"): [(0, 10), (7, 10), (7, 14), (20, 14), (29, 14), (15, 4)],
        ("z", "head"): [(0, 0), (10, 3), (18, 8), (22, 5), (25, 1), (29, 2)],
    }
    setters = {"resid_pre": theirs.layer_pos_patch_setter, "z": theirs.layer_head_vector_patch_setter}
    for (site, by), chosen in cells.items():
        ours = sweep(real_model, base, source, site, metric, by=by)[..., 0]
        whole = partial(theirs.generic_activation_patch, real_model, corrupted, cache, activation_name=site)
        table = theirs.pd.DataFrame(chosen, columns=["layer", "pos" if by == "position" else "head"])
        wanted = whole(
            patching_metric=lambda logits: metric(logits[:, -1])[0],
            patch_setter=setters[site],
            index_df=table,
        )
        found = torch.stack([ours[cell] for cell in chosen])
        torch.testing.assert_close(metric(base.logits) + found, wanted.to(found), atol=1e-4, rtol=0)
        assert ours.abs().max() > 0.5, "the pair differs by a good deal"


# -- bad input -------------------------------------------------------------------------------------


def test_sweeps_that_make_no_sense_are_refused(model, runs, metric, unchecked):
    clean, corrupted = runs
    for site, by, names in (
        ("resid_pre", "head", ("site is 'resid_pre'", "no heads", "pattern")),
        ("z", "neuron", ("by is 'neuron'", "'position' or 'head'")),
        ("nope", "position", ("'nope'", "not recorded", "resid_pre")),
        ("result", "head", ("'result'", "not recorded")),
    ):
        for call in (
            lambda site=site, by=by: sweep(model, corrupted, clean, site, metric, by=by),
            lambda site=site, by=by: can_change(corrupted, clean, site, by=by),
        ):
            with pytest.raises(ValueError) as error:
                call()
            assert_one_sentence(error.value, *names)


def test_a_site_that_only_one_run_recorded_is_refused(model, runs, metric):
    bare = record(model, runs[0].tokens)
    for base, source in ((bare, runs[1]), (runs[1], bare)):
        with pytest.raises(ValueError) as error:
            sweep(model, base, source, "z", metric, by="head")
        assert_one_sentence(error.value, "'z'", "not recorded")


def test_runs_of_other_shapes_are_refused(model, runs, metric):
    clean, _ = runs
    shorter = record(model, clean.tokens[:, :-1], ["z"])
    fewer = record(model, clean.tokens[:2], ["z"])
    for other, shape in ((shorter, "(3, 8)"), (fewer, "(2, 9)")):
        with pytest.raises(ValueError) as error:
            sweep(model, clean, other, "z", metric)
        assert_one_sentence(error.value, "(3, 9)", shape)


def test_no_hook_stays_behind(model, runs, metric):
    sweep(model, *runs, "z", metric, by="head")
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_every_site_of_the_series_is_patched_or_known_not_to_be():
    not_patched = {"embed", "attn_in", "mlp_in", "final_scale"}
    assert set(STREAM_SITES) | set(HEAD_SITES) == set(models.run.SITES) - not_patched
    assert set(reference.SITES) == {*STREAM_SITES, *HEAD_SITES} - {"result"}


def test_a_run_shows_no_tensors_of_activations(runs):
    assert (
        isinstance(runs[0], Run) and "activations" not in repr(runs[0]) and "keys_values" not in repr(runs[0])
    )
