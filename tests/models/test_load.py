"""``load_model``: the same function as Hugging Face's model, in a form in which contributions add up."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sentences import assert_one_sentence
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from mi_utils import models, prompts
from mi_utils.models.load import REGISTRY, ModelNotAvailable, load_model

LOADED = ["llama_model", "gpt2_model", "real_model"]


@pytest.fixture
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1, which is read once, at import."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def hugging_face(name: str, request: pytest.FixtureRequest) -> torch.nn.Module:
    if name == "real_model":
        folder = REGISTRY["smollm2-135m"].source.folder()
    else:
        folder = request.getfixturevalue(f"tiny_{name.removesuffix('_model')}")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


# ------------------------------------------------------------------------------------------------- what it
# computes


@pytest.mark.parametrize("name", LOADED)
@torch.no_grad()
def test_logits_are_hugging_faces(name: str, request: pytest.FixtureRequest):
    ours, theirs = request.getfixturevalue(name), hugging_face(name, request)
    for text in tiny_models.PROMPTS:
        tokens = prompts.encode(ours, text)
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", LOADED, indirect=True)
@torch.no_grad()
def test_contributions_add_up_to_the_logit(model: TransformerBridge):
    """Exact only when the scale (and shift) of the final norm is in the unembedding."""
    tokens = prompts.encode(model, "When Mary and John went to the store, John")
    logits, cache = model.run_with_cache(tokens)
    parts = cache.decompose_resid(mode="full")
    centred = parts - parts.mean(-1, keepdim=True) if model.cfg.normalization_type.startswith("LN") else parts
    sums = (centred / cache["ln_final.hook_scale"] @ model.W_U).sum(0)
    if (bias := getattr(model, "b_U", None)) is not None:
        sums = sums + bias
    torch.testing.assert_close(sums, logits, atol=1e-3, rtol=0)


@pytest.mark.parametrize("model", LOADED, indirect=True)
def test_scale_of_every_norm_is_folded(model: TransformerBridge):
    norms = [model.ln_final, *(norm for block in model.blocks for norm in (block.ln1, block.ln2))]
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        bias = getattr(norm, "bias", None)
        assert bias is None or not bias.any()


def test_tiny_norms_are_not_trivial(tiny_llama: Path, tiny_gpt2: Path):
    """With scales of one, the tests of folding would pass without folding."""
    for folder in (tiny_llama, tiny_gpt2):
        state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        scales = [value for name, value in state.items() if "norm" in name or "ln_" in name]
        assert len(scales) >= 5 and all(value.std() > 0.1 for value in scales)


@pytest.mark.parametrize("name", ["llama_model", "gpt2_model"])
def test_nothing_else_is_processed(name: str, request: pytest.FixtureRequest):
    """Writing weights are not centred and value biases stay: as the docstring of the module says."""
    ours, state = request.getfixturevalue(name), hugging_face(name, request).state_dict()
    if name == "llama_model":
        down = state["model.layers.1.mlp.down_proj.weight"].T
    else:
        down = state["transformer.h.1.mlp.c_proj.weight"]
        assert ours.blocks[1].attn.b_V.any()
    torch.testing.assert_close(ours.W_out[1], down)
    # tied in the file, but W_U has taken in the final norm's scale
    assert not torch.allclose(ours.W_U, ours.W_E.T, atol=1e-3)


@torch.no_grad()
def test_default_model_knows_something(real_model: TransformerBridge):
    """Weights in a wrong order still give finite logits; they do not give Paris."""
    logits = real_model(prompts.encode(real_model, "The capital of France is"))
    assert real_model.tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    cfg = real_model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.n_key_value_heads, cfg.d_model, cfg.d_vocab) == (
        30,
        9,
        3,
        576,
        49152,
    )
    assert cfg.model_name == "smollm2-135m"
    assert not real_model.training


# ------------------------------------------------------------------------------------------------- the random
# control


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
@torch.no_grad()
def test_seed_draws_the_weights(folder: str, request: pytest.FixtureRequest):
    name = str(request.getfixturevalue(folder))
    trained, one, again, two = (load_model(name, seed=seed) for seed in (None, 1, 1, 2))
    for weight in ("W_E", "W_Q", "W_out", "W_U"):
        drawn = getattr(one, weight)
        assert torch.equal(drawn, getattr(again, weight)), weight
        assert not torch.allclose(drawn, getattr(two, weight), atol=1e-3), weight
        assert not torch.allclose(drawn, getattr(trained, weight), atol=1e-3), weight
    tokens = prompts.encode(one, "The capital")
    assert torch.equal(one(tokens), again(tokens))


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_random_state_of_the_caller_is_left_alone(seed: int | None, tiny_gpt2: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_model(str(tiny_gpt2), seed=seed)
    assert torch.equal(torch.get_rng_state(), before)


# -------------------------------------------------------------------------------------------------- dtype and
# device


@pytest.mark.parametrize("seed", [None, 1])
@torch.no_grad()
def test_bfloat16(seed: int | None, tiny_llama: Path):
    model = load_model(str(tiny_llama), dtype=torch.bfloat16, seed=seed)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    exact = load_model(str(tiny_llama), seed=seed)
    tokens = prompts.encode(model, tiny_models.PROMPTS[0])
    logits = model(tokens)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact(tokens), atol=0.2, rtol=0.1)


def test_device(tiny_llama: Path):
    for device in ("cpu", torch.device("cpu")):
        model = load_model(str(tiny_llama), device=device)
        assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
        assert str(model.cfg.device) == "cpu"


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch):
    for there, chosen in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert models.load._device("auto") == chosen


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x", "cuda:nine"])
def test_device_that_is_none(device: str, tiny_llama: Path):
    with pytest.raises(ValueError) as caught:
        load_model(str(tiny_llama), device=device)
    assert_one_sentence(caught.value, "device", repr(device), "auto")


def test_gpu_that_is_not_there(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError) as caught:
        load_model(str(tiny_llama), device="cuda")
    assert_one_sentence(caught.value, "device", "'cuda'", "auto")


# ------------------------------------------------------------------------------------------------- names that
# are wrong


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("smolm2", ("'smolm2'", "did you mean 'smollm2-135m'")),
        ("GPT2", ("did you mean 'gpt2'",)),
        ("pythia70m", ("did you mean 'pythia-70m'",)),
        ("xyzzy", ("'xyzzy'", *REGISTRY)),
        ("a/b/c", ("'a/b/c'", *REGISTRY)),
    ],
)
def test_unknown_name(name: str, names: tuple[str, ...]):
    with pytest.raises(ValueError) as caught:
        load_model(name)
    assert_one_sentence(caught.value, "name", *names)


def test_weights_that_lack_a_tensor_are_not_filled_with_random_numbers(tiny_llama: Path, tmp_path: Path):
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_llama, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError) as caught:
        load_model(str(folder))
    assert_one_sentence(
        caught.value, "can't be loaded", "model.layers.1.mlp.up_proj.weight", allowed=tmp_path
    )


def test_missing_folder(tmp_path: Path):
    for name in (str(tmp_path / "nothing"), "./nothing", "~/nothing-of-the-kind"):
        with pytest.raises(ValueError) as caught:
            load_model(name)
        assert_one_sentence(caught.value, repr(name), "no such folder", allowed=tmp_path)


@pytest.fixture
def broken(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "broken"))


def refused(folder: Path, *names: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_model(str(folder))
    assert_one_sentence(caught.value, "name", str(folder), *names, allowed=folder)


def test_folder_without_config(broken: Path):
    (broken / "config.json").unlink()
    refused(broken, "config.json")


def test_folder_without_weights(broken: Path):
    (broken / "model.safetensors").unlink()
    refused(broken, "without weights", "safetensors")


@pytest.mark.parametrize("beside", [(), ("adapter_model.safetensors",)])
def test_pickled_weights_are_refused(beside: tuple[str, ...], broken: Path):
    weights = AutoModelForCausalLM.from_pretrained(broken).state_dict()
    for name in beside:
        shutil.copy(broken / "model.safetensors", broken / name)
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / "pytorch_model.bin")
    refused(broken, "without weights", "safetensors")


def test_damaged_weights(broken: Path):
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(broken, "can't be loaded")


def test_damaged_config(broken: Path):
    (broken / "config.json").write_text("{")
    refused(broken, "can't be loaded", "JSON")


def test_folder_without_tokenizer(broken: Path):
    for file in broken.glob("tokenizer*"):
        file.unlink()
    refused(broken, "can't be loaded")


def test_code_of_a_model_is_not_run(broken: Path, tmp_path: Path):
    config = json.loads((broken / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "own.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    with pytest.raises(ValueError):
        load_model(str(broken))
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("name", ["nobody-at-all/no-such-model-of-mi-utils", "not a/name"])
def test_hub_that_cannot_be_reached(name: str, offline: None):
    with pytest.raises(ModelNotAvailable) as caught:
        load_model(name)
    assert_one_sentence(caught.value, name, "hub", "smollm2-135m")


def test_default_model_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MI_CACHE", str(tmp_path))
    monkeypatch.setenv("MI_NO_NETWORK", "1")
    with pytest.raises(models.FetchError) as caught:
        load_model()
    assert_one_sentence(caught.value, "smollm2-135m", "python -m mi_utils fetch", allowed=tmp_path)


def test_registry_is_complete():
    for name, spec in REGISTRY.items():
        assert spec.name == name and spec.about and spec.licence in ("MIT", "Apache-2.0")
        if isinstance(spec.source, models.WheelSpec):
            assert spec.source.name == name
            assert len(spec.source.wheel_sha256) == len(spec.source.gguf_sha256) == 64
    assert models.load.DEFAULT in REGISTRY


@pytest.mark.parametrize(("multiplies", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_quick_format_is_one_that_the_machine_multiplies(
    multiplies: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: multiplies)
    assert models.quick_dtype() == expected
