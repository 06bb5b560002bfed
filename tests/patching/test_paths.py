"""Path patching against the three forward passes that define it, on three architectures."""

import pytest
import tiny_models
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from mi_utils import models, patching
from mi_utils.patching.paths import PATH_SITES, path_patch

SIZE = dict(vocab_size=320, bos_token_id=0, eos_token_id=0)
KINDS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            initializer_range=0.2,
            **SIZE,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_positions=32, n_embd=32, n_layer=3, n_head=4, initializer_range=0.2, **SIZE)
    ),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            initializer_range=0.2,
            use_parallel_residual=True,
            **SIZE,
        )
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = KINDS[request.param]()
        with torch.no_grad():
            for name, value in made.named_parameters():
                if name.endswith("bias"):
                    value.normal_(0, 0.3)
                elif value.ndim == 1:
                    value.uniform_(0.3, 1.7)
    return models.load_model(str(tiny_models.save(made, tmp_path_factory.mktemp("paths") / request.param)))


@pytest.fixture(scope="module")
def runs(model):
    generator = torch.Generator().manual_seed(1)
    tokens, other = (torch.randint(2, 300, (3, 9), generator=generator) for _ in range(2))
    other[:, :2] = tokens[:, :2]
    return patching.record(model, tokens, PATH_SITES), patching.record(model, other, ("z",))


def metric(logits):
    return logits[..., 7] - logits[..., 11]


def frozen(model, base, source, sender, positions, mlps):
    """Hooks of the first pass: all heads as in base but the sender at its position; MLPs too where asked."""
    rows, found = torch.arange(len(positions)), []
    for layer in range(model.cfg.n_layers):
        value = base["z", layer].clone()
        if layer == sender[0]:
            value[rows, positions, sender[1]] = source["z", layer][rows, positions, sender[1]]
        found.append((models.hook_name(model, "z", layer), lambda z, hook, value=value: value))
        if mlps == "frozen":
            found.append(
                (models.hook_name(model, "mlp_out", layer), lambda x, hook, v=base["mlp_out", layer]: v)
            )
    return found


@torch.no_grad()
def long_way(model, base, source, sender, receivers, target, positions, mlps):
    rows, seen = torch.arange(len(positions)), {}
    names = {layer: models.hook_name(model, target, layer) for layer, _ in receivers}
    shared = model.cfg.n_heads // models.n_heads(model, target)

    def keep(layer):
        return names[layer], lambda value, hook: seen.__setitem__(layer, value.clone())

    def put(layer):
        def edit(value, hook):
            value = value.clone()
            for head in {head // shared for at, head in receivers if at == layer}:
                whole = base[target, layer][:, :, head].clone()
                whole[rows, positions] = seen[layer][rows, positions, head]
                value[:, :, head] = whole
            return value

        return names[layer], edit

    hooks_of_first = frozen(model, base, source, sender, positions, mlps)
    model.run_with_hooks(base.tokens, fwd_hooks=[*hooks_of_first, *map(keep, names)])
    return metric(model.run_with_hooks(base.tokens, fwd_hooks=list(map(put, names)))[:, -1])


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize(
    ("target", "receivers", "positions"),
    [
        ("q", [(2, 1), (2, 3)], [8, 8, 8]),
        ("q", [(1, 0), (2, 2)], [8, 8, 8]),
        ("k", [(2, 1)], [4, 4, 4]),
        ("v", [(1, 3), (2, 0)], [5, 3, 4]),
    ],
)
def test_the_short_way_is_the_long_way(model, runs, target, receivers, positions, mlps):
    at = torch.tensor(positions)
    found = path_patch(model, *runs, metric, target=target, receivers=receivers, positions=at, mlps=mlps)
    assert found.shape == (3, 4, 3)
    for sender in [(0, 0), (0, 3), (1, 2)]:
        patched = long_way(model, *runs, sender, receivers, target, at, mlps)
        assert torch.allclose(found[sender], patched - metric(runs[0].logits), atol=1e-4)
    assert found[0].abs().max() > 1e-3, "something happens at all"


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_the_direct_path_to_the_logits(model, runs, mlps):
    base, source = runs
    found = path_patch(model, base, source, metric, target="logits", mlps=mlps)
    end = torch.full((3,), 8)
    for sender in [(0, 1), (1, 0), (2, 3)]:
        first = frozen(model, base, source, sender, end, mlps)
        with torch.no_grad():
            patched = metric(model.run_with_hooks(base.tokens, fwd_hooks=first)[:, -1])
        assert torch.allclose(found[sender], patched - metric(base.logits), atol=1e-4)


def test_the_conventions_differ(model, runs):
    one, other = (
        path_patch(model, *runs, metric, target="logits", mlps=mlps) for mlps in ("recomputed", "frozen")
    )
    assert (one - other).abs().max() > 1e-2


def test_heads_at_or_above_the_receivers_change_nothing(model, runs):
    found = path_patch(model, *runs, metric, target="q", receivers=[(1, 2)])
    assert found[1:].abs().max() < 1e-5 < found[0].abs().max()


def test_a_run_patched_into_itself_changes_nothing(model, runs):
    base = runs[0]
    found = path_patch(
        model, base, base, metric, target="k", receivers=[(2, 0)], positions=torch.tensor([2, 3, 4])
    )
    assert found.abs().max() < 1e-4


def test_a_batch_of_one(model):
    tokens = torch.arange(2, 10)[None]
    base = patching.record(model, tokens, PATH_SITES)
    source = patching.record(model, tokens.flip(1), ("z",))
    assert path_patch(model, base, source, metric, target="q", receivers=[(2, 0)]).shape == (3, 4, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "query"}, "target is 'query'"),
        ({"mlps": "cooked"}, "mlps is 'cooked'"),
        ({"receivers": []}, "receivers is"),
        ({"receivers": [(3, 0)]}, "layer is 3"),
        ({"receivers": [(2, 4)]}, "head is 4"),
        ({"receivers": [2]}, "receivers holds 2"),
        ({"target": "logits"}, "receivers is"),
        ({"positions": torch.tensor([8, 8, 9])}, "positions is"),
        ({"positions": torch.tensor([8, 8])}, "positions is"),
        (
            {"target": "logits", "receivers": (), "positions": torch.tensor([8, 7, 8])},
            "positions should be the last",
        ),
    ],
)
def test_bad_input_is_one_sentence(model, runs, unchecked, changes, words):
    arguments = dict(target="q", receivers=[(2, 0)]) | changes
    with pytest.raises(ValueError, match=words) as caught:
        path_patch(model, *runs, metric, **arguments)
    assert "\n" not in str(caught.value)


def test_runs_of_other_shapes(model, runs, unchecked):
    short = patching.record(model, runs[0].tokens[:, :5], ("z",))
    with pytest.raises(ValueError, match="source has tokens"):
        path_patch(model, runs[0], short, metric, target="q", receivers=[(2, 0)])
