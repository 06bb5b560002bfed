"""Composition scores, circuits and cut wires against products of whole matrices and against streams summed by
hand."""

import pytest
import torch
from sentences import assert_one_sentence
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import heads, models, prompts

LATER = [(1, 0), (1, 3)]


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def tokens(model):
    words, start = heads.ordinary_tokens(model), prompts.start_token(model)
    return heads.repeated_tokens(words, 6, batch=3, start=start, generator=torch.Generator().manual_seed(0))


def group(model, head: int) -> int:
    """The key-value head that a head shares."""
    return head * model.blocks[0].attn.W_K.shape[0] // model.cfg.n_heads


def whole(model, layer: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W_QK and W_OV as they are written."""
    attn, shared = model.blocks[layer].attn, group(model, head)
    return attn.W_Q[head] @ attn.W_K[shared].T, attn.W_V[shared] @ attn.W_O[head]


@pytest.mark.parametrize("kind", heads.composition.KINDS)
@torch.no_grad()
def test_scores_are_those_of_whole_matrices(kind, model):
    found = heads.composition_scores(model, kind, LATER)
    assert found.shape == (2, 2, 4) and found[:, 1].isnan().all()
    for i, (layer, head) in enumerate(LATER):
        W_QK, W_OV_later = whole(model, layer, head)
        for earlier in range(4):
            _, W_OV = whole(model, 0, earlier)
            product, reader = {
                "Q": (W_OV @ W_QK, W_QK),
                "K": (W_QK @ W_OV.T, W_QK),
                "V": (W_OV @ W_OV_later, W_OV_later),
            }[kind]
            wanted = product.norm() / (reader.norm() * W_OV.norm())
            assert found[i, 0, earlier].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_heads_of_the_first_layer_have_nothing_before_them(model):
    assert heads.composition_scores(model, "K", [(0, 1)]).isnan().all()


@pytest.mark.parametrize(
    ("kind", "later"),
    [("k", LATER), ("QK", LATER), ("K", []), ("K", [(2, 0)]), ("K", [(1, 4)]), ("K", [(-1, 0)])],
)
def test_bad_input_to_scores(kind, later, model, unchecked):
    with pytest.raises(ValueError) as error:
        heads.composition_scores(model, kind, later)
    assert_one_sentence(error.value)


@torch.no_grad()
def test_circuits_are_those_of_whole_matrices(model):
    ids = torch.arange(5, 25)
    states = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    inner = states - states.mean(-1, keepdim=True) if model.cfg.normalization_type == "LN" else states
    assert torch.equal(models.centred(model, states), inner)
    W_QK, W_OV = whole(model, 1, 2)
    written = inner @ W_OV
    logits = models.centred(model, written) @ model.W_U[:, ids]
    assert torch.allclose(heads.ov_circuit(model, 1, 2, states, ids), logits, atol=1e-4)
    assert torch.allclose(heads.qk_circuit(model, (1, 2), states), inner @ W_QK @ inner.T, atol=1e-3)
    moved = models.centred(model, inner @ whole(model, 0, 3)[1])
    assert torch.allclose(
        heads.qk_circuit(model, (1, 2), states, through=(0, 3)), inner @ W_QK @ moved.T, atol=1e-3
    )


@torch.no_grad()
def test_copying_is_the_share_of_tokens_whose_own_logit_is_raised_most(model):
    ids = torch.arange(5, 25)
    states = model.W_E[ids]
    found = heads.copying_scores(model, ids, states)
    for layer, head in models.all_heads(model):
        best = heads.ov_circuit(model, layer, head, states, ids).argmax(dim=1)
        assert found[layer, head].item() == pytest.approx((best == torch.arange(20)).float().mean().item())


def test_bad_input_to_copying(model, unchecked):
    states = torch.zeros(3, 32)
    for ids in (torch.tensor([5]), torch.tensor([5, 5, 6]), torch.tensor([5, 6])):
        with pytest.raises(ValueError) as error:
            heads.copying_scores(model, ids, states)
        assert_one_sentence(error.value)


@torch.no_grad()
def test_token_states_are_the_stream_after_the_start_token(model):
    ids, start = torch.tensor([9, 5, 77]), prompts.start_token(model)
    found = heads.token_states(model, ids, start)
    for i, token in enumerate(ids.tolist()):
        alone = model.run_with_cache(torch.tensor([[start, token]]))[1]["resid_pre", 1][0, 1]
        assert torch.allclose(found[i], alone, atol=1e-5)


@torch.no_grad()
def test_eigenvalues_are_those_of_the_whole_circuit(model):
    found = heads.copying_eigenvalues(model, 1, 2)
    embedded = models.centred(model, model.W_E)
    circuit = models.centred(model, embedded @ whole(model, 1, 2)[1]) @ model.W_U
    values = torch.linalg.eigvals(circuit.double())
    assert found.item() == pytest.approx((values.real.sum() / values.abs().sum()).item(), abs=1e-3)


@torch.no_grad()
def test_a_model_that_copies_has_eigenvalues_and_scores_of_one():
    model = heads.attention_only_model(heads.AttentionOnlySettings(d_head=64, n_heads=1))
    identity = torch.eye(64)
    network = model.original_model
    for name, value in network.named_parameters():
        if (
            "tok_embed" in name
            or name.startswith("head")
            and value.ndim == 2
            or ".v." in name
            or ".o." in name
        ):
            value.copy_(identity if value.ndim == 2 else torch.zeros_like(value))
    ids = torch.arange(1, 64)
    assert heads.copying_eigenvalues(model, 0, 0).item() == pytest.approx(1, abs=1e-5)
    assert heads.copying_scores(model, ids, model.W_E[ids]).eq(1).all()


# -- a wire is cut --------------------------------------------------------------------------------------


@torch.no_grad()
def keys_without(model, tokens, sources, targets):
    seen = {}
    look = ("blocks.1.attn.hook_k", models.look_only(lambda k: seen.update(k=k)))
    logits = model.run_with_hooks(tokens, fwd_hooks=[*heads.without_in_keys(model, sources, targets), look])
    return seen["k"], logits


@torch.no_grad()
def test_what_was_written_is_taken_out_of_the_keys_and_the_scale_is_held(model, tokens):
    cache = model.run_with_cache(tokens)[1]
    sources = [(0, 1), (0, 2)]
    found, _ = keys_without(model, tokens, sources, [(1, 1)])
    W_O = model.blocks[0].attn.W_O
    written = sum(cache["z", 0][:, :, head] @ W_O[head] for _, head in sources)
    stream = cache["resid_pre", 1] - written
    scale = cache["blocks.1.ln1.hook_scale"]
    keys = torch.einsum("bpd,hde->bphe", models.centred(model, stream) / scale, model.blocks[1].attn.W_K)
    bias = model.blocks[1].attn.b_K
    keys = keys + (bias if bias is not None else 0)
    edited = group(model, 1)
    assert torch.allclose(found[:, 1:, edited], keys[:, 1:, edited], atol=1e-4)
    assert torch.allclose(found[:, 0], cache["k", 1][:, 0], atol=1e-5)
    others = [h for h in range(found.shape[2]) if h != edited]
    assert torch.allclose(found[:, :, others], cache["k", 1][:, :, others], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Q", "V"])
def test_as_a_control_another_input_is_edited_and_not_the_keys(model, tokens, kind):
    cache, seen = model.run_with_cache(tokens)[1], {}
    names = [f"blocks.1.attn.hook_{one}" for one in "qkv"]
    looks = [(name, models.look_only(lambda x, name=name: seen.update({name[-1]: x}))) for name in names]
    edits = heads.without_in_keys(model, [(0, 1)], [(1, 2)], kind=kind)
    model.run_with_hooks(tokens, fwd_hooks=[*edits, *looks])
    attention, head = model.blocks[1].attn, 2 if kind == "Q" else group(model, 2)
    stream = cache["resid_pre", 1] - cache["z", 0][:, :, 1] @ model.blocks[0].attn.W_O[1]
    weights, bias = getattr(attention, f"W_{kind}")[head], getattr(attention, f"b_{kind}")
    wanted = models.centred(model, stream) / cache["blocks.1.ln1.hook_scale"] @ weights
    wanted = wanted + (bias[head] if bias is not None else 0)
    assert torch.allclose(seen[kind.lower()][:, 1:, head], wanted[:, 1:], atol=1e-4)
    for other in {"q", "k", "v"} - {kind.lower()}:
        assert torch.allclose(seen[other], cache[other, 1], atol=1e-5), other


@torch.no_grad()
def test_a_norm_that_centres_is_centred_for():
    """In folded models the weights that read are centred already; in this one nothing is."""
    size = dict(
        n_layers=2, n_heads=2, d_model=16, d_head=8, d_vocab=32, n_ctx=12, attn_only=True, act_fn="gelu"
    )
    model = TransformerBridge.boot_native(TransformerBridgeConfig(**size, normalization_type="LNPre", seed=0))
    tokens = torch.randint(1, 32, (2, 12), generator=torch.Generator().manual_seed(0))
    model.W_E[:] += 0.3
    cache, W_K = model.run_with_cache(tokens)[1], model.blocks[1].attn.W_K
    written = cache["z", 0][:, :, 1] @ model.blocks[0].attn.W_O[1]
    inner = models.centred(model, cache["resid_pre", 1] - written) / cache["blocks.1.ln1.hook_scale"]
    keys = torch.einsum("bpd,hde->bphe", inner, W_K) + model.blocks[1].attn.b_K
    found, _ = keys_without(model, tokens, [(0, 1)], [(1, 0), (1, 1)])
    assert torch.allclose(found[:, 1:], keys[:, 1:], atol=1e-5)
    states = model.W_E[1:9]
    W_QK, W_OV = whole(model, 1, 0)[0], whole(model, 0, 1)[1]
    moved = (states - states.mean(-1, keepdim=True)) @ W_OV
    wanted = (states - states.mean(-1, keepdim=True)) @ W_QK @ (moved - moved.mean(-1, keepdim=True)).T
    assert torch.allclose(heads.qk_circuit(model, (1, 0), states, through=(0, 1)), wanted, atol=1e-5)


@torch.no_grad()
def test_only_the_keys_change(model, tokens):
    cache, seen = model.run_with_cache(tokens)[1], {}
    edits = heads.without_in_keys(model, [(0, 1)], [(1, head) for head in range(4)])
    looks = [
        (f"blocks.1.{name}", models.look_only(lambda value, name=name: seen.update({name: value})))
        for name in ("attn.hook_q", "attn.hook_v", "hook_resid_pre", "attn.hook_pattern")
    ]
    model.run_with_hooks(tokens, fwd_hooks=[*edits, *looks])
    for name in ("attn.hook_q", "attn.hook_v", "hook_resid_pre"):
        assert torch.allclose(seen[name], cache[f"blocks.1.{name}"], atol=1e-5), name
    assert not torch.allclose(seen["attn.hook_pattern"], cache["pattern", 1], atol=1e-3)


@pytest.mark.parametrize(
    ("sources", "targets", "word"),
    [
        ([], [(1, 0)], "sources is empty"),
        ([(0, 0)], [], "targets is empty"),
        ([(1, 0)], [(1, 1)], "sources reach"),
        ([(0, 4)], [(1, 0)], "head is 4"),
        ([(0, 0)], [(2, 0)], "layer is 2"),
    ],
)
def test_bad_wires(sources, targets, word, model):
    with pytest.raises(ValueError, match=word) as error:
        heads.without_in_keys(model, sources, targets)
    assert_one_sentence(error.value)


def test_an_input_that_heads_do_not_have(model):
    with pytest.raises(ValueError, match="kind is 'O'; it should be one of") as error:
        heads.without_in_keys(model, [(0, 0)], [(1, 0)], kind="O")
    assert_one_sentence(error.value)


@torch.no_grad()
def test_scores_of_the_default_model_are_quick_and_those_of_whole_matrices(real_model):
    found = heads.composition_scores(real_model, "K", [(17, 4)])[0]
    assert found[:17].isfinite().all() and found[17:].isnan().all()
    W_QK, _ = whole(real_model, 17, 4)
    _, W_OV = whole(real_model, 16, 0)
    wanted = (W_QK @ W_OV.T).norm() / (W_QK.norm() * W_OV.norm())
    assert found[16, 0].item() == pytest.approx(wanted.item(), rel=1e-3)
