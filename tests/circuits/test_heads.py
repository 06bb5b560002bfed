"""Circuits as sets of heads: attribution, knock-outs, the three criteria, controls and the figure."""

import pytest
import torch

from mi_utils import circuits, models, patching
from mi_utils.circuits.heads import KeepOnly

TOKENS = torch.randint(2, 300, (4, 8), generator=torch.Generator().manual_seed(2))
OTHER = torch.randint(2, 300, (6, 8), generator=torch.Generator().manual_seed(3))
GROUPS = torch.tensor([5, 2, 5, 2, 2, 5])
WANTED = torch.tensor([2, 5, 5, 2])


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def base(model):
    return patching.record(model, TOKENS, ("z", "mlp_out", "resid_post"))


@pytest.fixture
def reference(model):
    return circuits.reference_z(model, patching.record(model, OTHER, ("z",)), GROUPS, WANTED)


def metric(logits):
    return logits[..., 7] - logits[..., 11]


# --- direct effects --------------------------------------------------------------------------------------


def test_direct_effects_and_all_else_add_up_to_the_logit(model, base):
    ids = torch.tensor([7, 11, 3, 250])
    heads = circuits.direct_effects(model, base, ids)
    assert heads.shape == (2, 4, 4)
    direction = circuits.reading_direction(model, base, ids)
    biases = [block.attn.b_O for block in model.blocks if block.attn.b_O is not None]
    others = sum(
        [base["resid_pre", 0][:, -1], *(base["mlp_out", layer][:, -1] for layer in range(2)), *biases]
    )
    total = heads.sum(dim=(0, 1)) + (others * direction).sum(dim=-1) + model.unembed.b_U[ids]
    assert torch.allclose(total, base.logits[torch.arange(4), ids], atol=1e-3)


def test_a_direct_effect_is_what_the_logit_loses_at_a_fixed_scale(model, base):
    ids = torch.full((4,), 7)
    written = base["z", 1][:, -1, 2] @ model.blocks[1].attn.W_O[2]
    stream = base["resid_post", 1][:, -1]
    centred = (
        stream if "RMS" in model.cfg.normalization_type.upper() else stream - stream.mean(-1, keepdim=True)
    )
    scale = centred.square().mean(-1, keepdim=True).add(1e-5).sqrt()
    less = (
        written if "RMS" in model.cfg.normalization_type.upper() else written - written.mean(-1, keepdim=True)
    )
    wanted = (less / scale @ model.W_U)[:, 7]
    assert torch.allclose(circuits.direct_effects(model, base, ids)[1, 2], wanted, atol=1e-3)


# --- knock-outs ------------------------------------------------------------------------------------------


def by_hooks(model, kept, reference):
    """The metric with every head that is not kept replaced, by plain hooks."""

    def replace(layer):
        def edit(z, hook):
            z = z.clone()
            for head in range(model.cfg.n_heads):
                if (layer, head) not in kept:
                    z[:, :, head] = reference[layer][:, :, head]
            return z

        return models.hook_name(model, "z", layer), edit

    return metric(model.run_with_hooks(TOKENS, fwd_hooks=[replace(layer) for layer in range(2)])[:, -1])


@pytest.mark.parametrize("kept", [(), ((0, 1),), ((0, 0), (1, 3)), ((0, 0), (0, 1), (0, 2), (0, 3))])
def test_keep_only_is_what_hooks_do(model, base, reference, kept):
    with torch.no_grad():
        wanted = by_hooks(model, kept, reference)
    assert torch.allclose(KeepOnly(model, base, reference, metric)(kept), wanted, atol=1e-4)
    assert not torch.allclose(wanted, metric(base.logits), atol=1e-3)


def test_keeping_everything_is_the_model(model, base, reference):
    keep = KeepOnly(model, base, reference, metric)
    assert torch.equal(keep(models.all_heads(model)), metric(base.logits))
    assert keep.mean(models.all_heads(model)) == pytest.approx(metric(base.logits).mean().item())


def test_heads_replaced_by_themselves_change_nothing(model, base):
    itself = torch.stack([base["z", layer] for layer in range(2)])
    assert torch.allclose(KeepOnly(model, base, itself, metric)([(0, 1)]), metric(base.logits), atol=1e-4)


def test_a_set_is_computed_once_whatever_its_order(model, base, reference, monkeypatch):
    keep = KeepOnly(model, base, reference, metric)
    first = keep([(0, 1), (1, 1)])
    monkeypatch.setattr(patching.sweeps, "run_patched", None)
    assert keep(((1, 1), (0, 1))) is first


def test_means_are_taken_within_the_group_of_each_row(model):
    run = patching.record(model, OTHER, ("z",))
    means = circuits.reference_z(model, run, GROUPS, WANTED)
    assert means.shape == (2, 4, 8, 4, 8)
    for row, group in enumerate(WANTED.tolist()):
        assert torch.allclose(means[1, row], run["z", 1][group == GROUPS].mean(dim=0), atol=1e-6)
    pooled = circuits.reference_z(model, run)
    assert pooled.shape == (2, 1, 8, 4, 8) and torch.allclose(
        pooled[0, 0], run["z", 0].mean(dim=0), atol=1e-6
    )


def test_a_pooled_reference_serves_every_row(model, base):
    pooled = circuits.reference_z(model, patching.record(model, OTHER, ("z",)))
    whole = KeepOnly(model, base, pooled.expand(-1, 4, -1, -1, -1), metric)
    assert torch.allclose(KeepOnly(model, base, pooled, metric)([]), whole([]), atol=1e-5)


def test_bad_groups(model, unchecked):
    run = patching.record(model, OTHER, ("z",))
    with pytest.raises(ValueError, match="wanted holds group 3"):
        circuits.reference_z(model, run, GROUPS, torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="both be given"):
        circuits.reference_z(model, run, GROUPS)


@pytest.mark.parametrize(
    ("kept", "words"), [([(2, 0)], "layer is 2"), ([(0, 4)], "head is 4"), ([3], "kept holds 3")]
)
def test_heads_that_do_not_exist(model, base, reference, unchecked, kept, words):
    with pytest.raises(ValueError, match=words):
        KeepOnly(model, base, reference, metric)(kept)


# --- criteria --------------------------------------------------------------------------------------------


def toy(heads):
    """Two redundant heads, one that helps, one that hurts, two that do nothing."""
    return 3.0 * bool({(0, 0), (0, 1)} & heads) + 1.0 * ((1, 0) in heads) - 0.5 * ((1, 1) in heads)


FULL = frozenset((layer, head) for layer in range(3) for head in range(2))


def test_faithfulness():
    assert circuits.faithfulness(3, 5, 1) == 0.5
    assert circuits.faithfulness(7, 5, 1) == 1.5 and circuits.faithfulness(0, 5, 1) == -0.25
    with pytest.raises(ValueError, match="should differ"):
        circuits.faithfulness(1.0, 2.0, 2.0)


def test_incompleteness_shows_what_the_circuit_lacks():
    lacking = frozenset({(0, 0), (1, 0)})  # (0, 1) can stand in for (0, 0), and is not in it
    assert circuits.incompleteness(toy, lacking, FULL, []) == 0.5
    assert circuits.incompleteness(toy, lacking, FULL, [(0, 0)]) == 2.5
    assert circuits.incompleteness(toy, FULL, FULL, [(0, 0)]) == 0


def test_minimality_needs_the_group():
    circuit = frozenset({(0, 0), (0, 1), (1, 0), (2, 0)})
    assert circuits.minimality(toy, circuit, (0, 0), []) == 0
    assert circuits.minimality(toy, circuit, (0, 0), [(0, 1)]) == 3
    assert (
        circuits.minimality(toy, circuit, (0, 0), [(0, 0), (0, 1)]) == 3
    )  # the head is not counted in its group
    assert circuits.minimality(toy, circuit, (2, 0), [(0, 0)]) == 0
    assert circuits.minimality(toy, circuit | {(1, 1)}, (1, 1), []) == 0.5
    with pytest.raises(ValueError, match="head is"):
        circuits.minimality(toy, circuit, (1, 1), [])


def test_heads_that_stand_out():
    changes = torch.zeros(2, 3, 8)
    changes[0, 1], changes[1, 2] = 1.0, -2.0
    changes[1, 0, :4], changes[1, 0, 4:] = 5.0, -4.0  # large in the mean, and within its error
    changes[0, 0] = 0.1
    noise = 0.01 * torch.randn(changes.shape, generator=torch.Generator().manual_seed(0))
    assert circuits.standing_out(changes + noise, at_least=0.4) == [(1, 2), (0, 1)]
    assert circuits.standing_out(changes + noise, at_least=0.05) == [(1, 2), (0, 1), (0, 0)]
    assert (1, 0) in circuits.standing_out(changes + noise, at_least=0.05, errors=0)
    with pytest.raises(ValueError, match="changes has 1 prompts"):
        circuits.standing_out(changes[..., :1], at_least=1)


def test_random_circuits_have_as_many_heads_in_each_layer(model):
    like = [(0, 1), (1, 0), (1, 2), (1, 3)]
    drawn = circuits.random_circuits(model, like, 12, seed=1)
    assert all(sorted(layer for layer, _ in one) == [0, 1, 1, 1] for one in drawn)
    assert len(set(drawn)) > 4
    assert drawn == circuits.random_circuits(model, like, 12, seed=1)
    assert drawn != circuits.random_circuits(model, like, 12, seed=2)
    assert circuits.random_circuits(model, [], 1) == [frozenset()]
    with pytest.raises(ValueError, match="count is 0"):
        circuits.random_circuits(model, like, 0)


# --- figure ----------------------------------------------------------------------------------------------


def test_the_figure_has_a_column_for_each_role():
    roles = {"<b>": [(3, 1), (3, 2)], "empty": [], "last": [(5, 0)]}
    fig = circuits.figure(roles, 6, [("<b>", "last", "q"), ("empty", "last", "v")])
    assert list(fig.data[0].text) == ["3.1", "3.2"] and list(fig.data[2].y) == [5]
    assert len(set(fig.data[0].x)) == 2  # side by side
    assert "&lt;b&gt;" in fig.layout.xaxis.ticktext[0]
    notes = fig.layout.annotations
    assert [note.text for note in notes if note.text] == ["q", "3.1", "3.2", "5.0"]
    (arrow,) = [note for note in notes if note.showarrow is not False]
    assert (arrow.ax, arrow.ay, arrow.x, arrow.y) == (fig.data[0].x[0], 3, 2, 5)  # between the first heads
    with pytest.raises(ValueError, match="'first', which is no role"):
        circuits.figure(roles, 6, [("first", "last", "q")])
    with pytest.raises(ValueError, match="roles is empty"):
        circuits.figure({}, 6)


def test_labels():
    assert circuits.label((9, 6)) == "9.6"


def test_the_last_stream_reads_out_as_the_logits(model, base):
    """What ``reading_direction`` rests on."""
    assert torch.allclose(models.unembed(model, base["resid_post", 1][:, -1]), base.logits, atol=1e-4)
