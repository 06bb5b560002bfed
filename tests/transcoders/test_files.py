"""Transcoders in other libraries' formats: SAELens' loader and a literal reading of circuit-tracer's layout
agree."""

import json
import math
from pathlib import Path

import pytest
import sae_lens
import torch
import yaml
from safetensors.torch import load_file, save_file
from sentences import assert_one_sentence
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import sae, transcoders
from mi_utils.models.run import attached
from mi_utils.sae.files import CONFIG, WEIGHTS
from mi_utils.transcoders.circuit_tracer import load_circuit_tracer, save_circuit_tracer
from mi_utils.transcoders.saelens import load_saelens, save_saelens
from mi_utils.transcoders.transcoders import Transcoders

LAYERS, D, FEATURES = 2, 32, 48
NAMES = ("W_enc", "b_enc", "threshold", "b_dec", "W_skip")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_up(
    kind: str = "plt", *, skip: bool = False, layers: int = LAYERS, model: str = "tiny-llama"
) -> Transcoders:
    """Thresholds from 0 to above 2, so that some features lie between 0 and theirs."""
    return Transcoders(
        noise(layers, D, FEATURES, seed=1) / D**0.5,
        noise(layers, FEATURES, seed=2),
        noise(layers, FEATURES, seed=3).abs(),
        tuple(noise(layers - i if kind == "clt" else 1, FEATURES, D, seed=4 + i) for i in range(layers)),
        noise(layers, D, seed=20),
        noise(layers, D, D, seed=21) if skip else None,
        kind,
        model,
    )


def close(found: Tensor, wanted: Tensor) -> None:
    """To 1e-5 of the size of what is compared."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def assert_same(found: Transcoders, wanted: Transcoders) -> None:
    """Bit for bit."""
    for name in NAMES:
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        assert one is None or torch.equal(one, other), name
    assert len(found.W_dec) == len(wanted.W_dec)
    assert all(torch.equal(*pair) for pair in zip(found.W_dec, wanted.W_dec, strict=True))
    assert (found.kind, found.model) == (wanted.kind, wanted.model)


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


def change_json(file: Path, **changed) -> None:
    """Changes at the top and in the metadata; a value of None takes a metadatum away."""
    config = json.loads(file.read_text())
    config |= {name: value for name, value in changed.items() if name in config}
    metadata = config["metadata"] | {name: value for name, value in changed.items() if name not in config}
    config["metadata"] = {name: value for name, value in metadata.items() if value is not None}
    file.write_text(json.dumps(config))


def change_tensors(file: Path, **changed: Tensor | None) -> None:
    """None takes a tensor away."""
    stored = {**load_file(file), **{name.replace("__", "."): value for name, value in changed.items()}}
    save_file({name: value.contiguous() for name, value in stored.items() if value is not None}, file)


# -------------------------------------------------------------------------------------------------------
# SAELens


@pytest.mark.parametrize("skip", [False, True])
def test_saelens_computes_the_same_with_what_is_written_here(skip: bool, tmp_path: Path):
    ours, x = made_up(skip=skip), 2 * noise(3, 40, D)
    folder = save_saelens(ours, str(tmp_path / "new" / "transcoders"))
    assert sorted(file.name for file in folder.iterdir()) == ["layer_0", "layer_1"]
    for layer in range(LAYERS):
        loaded = sae_lens.SAE.load_from_disk(folder / f"layer_{layer}")
        made = transcoders.to_saelens(ours, layer)
        features = ours.encode(x, layer)
        assert 0.1 < (features > 0).float().mean() < 0.6
        for theirs in (loaded, made):
            assert type(theirs) is (sae_lens.JumpReLUSkipTranscoder if skip else sae_lens.JumpReLUTranscoder)
            close(theirs.encode(x), features)
            close(theirs(x), ours.output([features] * LAYERS, layer, x))
            metadata = theirs.cfg.metadata
            assert (metadata.model_name, theirs.cfg.d_sae) == ("tiny-llama", FEATURES)
            assert metadata.hook_name == f"blocks.{layer}.ln2.hook_normalized"
            assert metadata.hook_name_out == f"blocks.{layer}.hook_mlp_out"


@pytest.mark.parametrize("skip", [False, True])
def test_saelens_round_trip_is_exact(skip: bool, tmp_path: Path):
    ours = made_up(skip=skip)
    assert_same(load_saelens(save_saelens(ours, tmp_path / "all")), ours)
    apart = [tmp_path / "all" / f"layer_{layer}" for layer in (1, 0)]
    assert_same(load_saelens(apart), ours)
    half = load_saelens(save_saelens(ours, tmp_path / "half", dtype=torch.float16))
    assert half.W_enc.dtype == torch.float32 and torch.equal(half.W_enc, ours.W_enc.half().float())


@pytest.mark.parametrize(
    "kind", ["Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"]
)
def test_what_saelens_saves_computes_the_same_here(kind: str, tmp_path: Path):
    theirs = []
    for layer in range(LAYERS):
        metadata = sae_lens.saes.sae.SAEMetadata(
            model_name="gpt2",
            hook_name=f"blocks.{layer}.mlp.hook_in",
            hook_name_out=f"blocks.{layer}.hook_mlp_out",
        )
        config = getattr(sae_lens, f"{kind}Config")
        one = getattr(sae_lens, kind)(
            config(d_in=D, d_out=D, d_sae=FEATURES, apply_b_dec_to_input=False, metadata=metadata)
        )
        with torch.no_grad():
            for i, value in enumerate(one.parameters()):
                value.copy_(noise(*value.shape, seed=10 * layer + i))  # some thresholds are negative
        one.save_model(tmp_path / f"of layer {layer}")
        theirs.append(one)
    found, x = load_saelens(tmp_path), 0.5 * noise(60, D)
    assert (found.kind, found.model, found.W_skip is not None) == ("plt", "gpt2", "Skip" in kind)
    assert not any(value.requires_grad for value in (found.W_enc, *found.W_dec))
    for layer, one in enumerate(theirs):
        features = found.encode(x, layer)
        with torch.no_grad():
            close(features, one.encode(x))
            close(found.output([features] * LAYERS, layer, x), one(x))


@pytest.mark.parametrize("name", ["llama_model", "gpt2_model"])
@pytest.mark.parametrize("skip", [False, True])
def test_spliced_into_a_model_by_saelens(name: str, skip: bool, request: pytest.FixtureRequest):
    """At the hook points that are written; SAELens 6.54 leaves the skip out there, as the docstring says."""
    model: TransformerBridge = request.getfixturevalue(name)
    ours, tokens = (
        made_up(skip=skip),
        torch.randint(2, 316, (2, 6), generator=torch.Generator().manual_seed(0)),
    )
    without, x = made_up(), {}

    def keep(value, hook):
        x[hook.name.split(".")[1]] = value

    def replace(value, hook):
        layer = int(hook.name.split(".")[1])
        features = without.encode(x[str(layer)], layer)
        return without.output([features] * (layer + 1), layer)

    hooks = [(f"blocks.{i}.mlp.hook_in", keep) for i in range(LAYERS)]
    hooks += [(f"blocks.{i}.hook_mlp_out", replace) for i in range(LAYERS)]
    with torch.no_grad():
        before = model(tokens)
        with attached(model, hooks):
            wanted = model(tokens)
        with sae.attachable(model) as able:
            spliced = able.run_with_saes(
                tokens, saes=[transcoders.to_saelens(ours, i) for i in range(LAYERS)]
            )
        after = model(tokens)
    torch.testing.assert_close(spliced, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - before).abs().max() > 0.1 and torch.equal(after, before)


def test_building_one_for_saelens_draws_nothing():
    state = torch.get_rng_state()
    transcoders.to_saelens(made_up(), 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_saelens_has_no_place_for_later_layers(tmp_path: Path):
    refused(lambda: transcoders.to_saelens(made_up("clt"), 0), "cross-layer", "should be per-layer")
    refused(lambda: save_saelens(made_up("clt"), tmp_path / "clt"), "cross-layer", "should be per-layer")
    assert not (tmp_path / "clt").exists()
    refused(lambda: transcoders.to_saelens(made_up(), 2), "layer is 2", "0 to 1")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"architecture": "jumprelu"},
            ("architecture of 'layer_1' is 'jumprelu'", "jumprelu_skip_transcoder"),
        ),
        (
            {"normalize_activations": "layer_norm"},
            ("normalize_activations of 'layer_1' is 'layer_norm'", "'none'"),
        ),
        ({"hook_name": "blocks.1.hook_resid_mid"}, ("hook_name of 'layer_1' is 'blocks.1.hook_resid_mid'",)),
        ({"hook_name": None}, ("hook_name of 'layer_1' is None", "blocks.L.ln2.hook_normalized")),
        (
            {"hook_name": "blocks.0.mlp.hook_in"},
            ("hook_name_out of 'layer_1' is 'blocks.1.hook_mlp_out'", "blocks.0"),
        ),
        (
            {"hook_name_out": "blocks.1.hook_resid_post"},
            ("hook_name_out of 'layer_1'", "blocks.1.hook_mlp_out"),
        ),
        (
            {"hook_name": "blocks.1.mlp.hook_in", "model_from_pretrained_kwargs": {"fold_ln": False}},
            ("fold_ln=False", "blocks.1.ln2.hook_normalized"),
        ),
        (
            {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"},
            ("layer 0 twice",),
        ),
        (
            {"hook_name": "blocks.2.mlp.hook_in", "hook_name_out": "blocks.2.hook_mlp_out"},
            ("layers [0, 2] are there", "from 0 to 2"),
        ),
        ({"model_name": "gpt2"}, ("models gpt2, tiny-llama", "one model")),
    ],
)
def test_saelens_files_that_mean_something_else(changed: dict, said: tuple[str, ...], tmp_path: Path):
    folder = save_saelens(made_up(skip=True), tmp_path / "all")
    change_json(folder / "layer_1" / CONFIG, **changed)
    refused(lambda: load_saelens(folder), *said)


def test_an_unfolded_model_is_no_obstacle_where_the_hook_point_comes_before_its_scale(tmp_path: Path):
    folder = save_saelens(made_up(), tmp_path)
    for layer in range(LAYERS):
        change_json(folder / f"layer_{layer}" / CONFIG, model_from_pretrained_kwargs={"fold_ln": False})
    assert_same(load_saelens(folder), made_up())


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"])
def test_saelens_weights_that_are_missing_or_not_finite(name: str, tmp_path: Path):
    folder = save_saelens(made_up(skip=True), tmp_path / "all")
    file = folder / "layer_1" / WEIGHTS
    broken = load_file(file)[name]
    broken.view(-1)[-1] = math.nan
    change_tensors(file, **{name: broken})
    refused(lambda: load_saelens(folder), name, "not finite")
    change_tensors(file, **{name: broken[None, None]})
    refused(lambda: load_saelens(folder), f"{name} of sae_weights.safetensors has shape (1, 1,", "dimensions")
    change_tensors(file, **{name: None})
    refused(lambda: load_saelens(folder), f"{WEIGHTS} of 'layer_1' lacks {name}")


def test_saelens_files_that_are_missing_or_damaged(tmp_path: Path):
    refused(lambda: load_saelens(tmp_path / "nowhere"), "folders is 'nowhere'", "cfg.json")
    folder = save_saelens(made_up(), tmp_path / "all")
    (folder / "layer_0" / WEIGHTS).write_bytes(b"nothing")
    refused(lambda: load_saelens(folder), "sae_weights.safetensors of 'layer_0' is damaged")
    (folder / "layer_0" / WEIGHTS).unlink()
    refused(lambda: load_saelens(folder), "sae_weights.safetensors of 'layer_0' is missing")
    for text in ("{", "[]", '{"metadata": 3}', "{}"):
        (folder / "layer_0" / CONFIG).write_text(text)
        refused(lambda: load_saelens(folder), "'layer_0'", "should")
    (folder / "layer_0" / CONFIG).unlink()
    refused(lambda: load_saelens(folder), "layers [1] are there", "each from 0 to 1")
    refused(lambda: load_saelens([folder / "layer_0"]), "'layer_0'", "cfg.json")


# -------------------------------------------------------------------------------------------------
# circuit-tracer


def literal_plt(folder: Path, x: Tensor) -> Tensor:
    """[layer, token, d_model] by what circuit-tracer does with ``layer_L.safetensors``, a token at a time."""
    outputs = torch.zeros_like(x)
    for layer in range(len(x)):
        part = load_file(folder / f"layer_{layer}.safetensors")
        for token in range(x.shape[1]):
            pre = part["W_enc"] @ x[layer, token] + part["b_enc"]
            value = torch.where(pre > part["activation_function.threshold"], pre, 0)
            outputs[layer, token] = part["W_dec"].T @ value + part["b_dec"]
            if "W_skip" in part:
                outputs[layer, token] += part["W_skip"] @ x[layer, token]
    return outputs


def literal_clt(folder: Path, x: Tensor) -> Tensor:
    """The same with ``W_enc_L.safetensors`` and ``W_dec_L.safetensors``."""
    outputs = torch.zeros_like(x)
    for layer in range(len(x)):
        encoder = load_file(folder / f"W_enc_{layer}.safetensors")
        decoder = load_file(folder / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"]
        for token in range(x.shape[1]):
            pre = encoder[f"W_enc_{layer}"] @ x[layer, token] + encoder[f"b_enc_{layer}"]
            value = torch.where(pre > encoder[f"threshold_{layer}"], pre, 0)
            for target in range(layer, len(x)):
                outputs[target, token] += decoder[:, target - layer].T @ value
            outputs[layer, token] += encoder[f"b_dec_{layer}"]
    return outputs


@pytest.mark.parametrize(("kind", "skip"), [("plt", False), ("plt", True), ("clt", False)])
def test_literal_reading_of_circuit_tracers_layout(kind: str, skip: bool, tmp_path: Path):
    ours, x = made_up(kind, skip=skip, layers=3), noise(3, 7, D, seed=9)
    folder = save_circuit_tracer(ours, tmp_path / "new" / "ct")
    features = [ours.encode(x[layer], layer) for layer in range(3)]
    wanted = torch.stack([ours.output(features[: i + 1], i, x[i]) for i in range(3)])
    close((literal_plt if kind == "plt" else literal_clt)(folder, x), wanted)
    names = ["layer_{}.safetensors"] if kind == "plt" else ["W_dec_{}.safetensors", "W_enc_{}.safetensors"]
    files = sorted(name.format(layer) for name in names for layer in range(3))
    assert sorted(file.name for file in folder.iterdir()) == sorted([*files, "config.yaml"])
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {
        "model_name": "tiny-llama",
        "model_kind": "transcoder_set" if kind == "plt" else "cross_layer_transcoder",
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
    }


def test_shapes_of_a_clt_in_circuit_tracers_layout(tmp_path: Path):
    folder = save_circuit_tracer(made_up("clt", layers=3), tmp_path)
    for layer in range(3):
        shapes = {
            name: tuple(value.shape)
            for name, value in load_file(folder / f"W_enc_{layer}.safetensors").items()
        }
        assert shapes == {
            f"W_enc_{layer}": (FEATURES, D),
            f"b_enc_{layer}": (FEATURES,),
            f"b_dec_{layer}": (D,),
            f"threshold_{layer}": (FEATURES,),
        }
        decoder = load_file(folder / f"W_dec_{layer}.safetensors")
        assert {name: tuple(value.shape) for name, value in decoder.items()} == {
            f"W_dec_{layer}": (FEATURES, 3 - layer, D)
        }


@pytest.mark.parametrize(("kind", "skip"), [("plt", False), ("plt", True), ("clt", False)])
def test_circuit_tracer_round_trip_is_exact(kind: str, skip: bool, tmp_path: Path):
    ours = made_up(kind, skip=skip, layers=11)  # the tenth layer comes before the second by name
    assert_same(load_circuit_tracer(str(save_circuit_tracer(ours, tmp_path / "full"))), ours)
    half = load_circuit_tracer(save_circuit_tracer(ours, tmp_path / "half", dtype=torch.bfloat16))
    assert half.W_enc.dtype == torch.float32 and torch.equal(half.W_dec[0], ours.W_dec[0].bfloat16().float())


@pytest.mark.parametrize("kind", ["plt", "clt"])
def test_without_thresholds_it_is_a_relu(kind: str, tmp_path: Path):
    ours = made_up(kind)
    folder = save_circuit_tracer(ours, tmp_path)
    for layer in range(LAYERS):
        name = "layer_" if kind == "plt" else "W_enc_"
        key = "activation_function__threshold" if kind == "plt" else f"threshold_{layer}"
        change_tensors(folder / f"{name}{layer}.safetensors", **{key: None})
    found, x = load_circuit_tracer(folder), noise(5, D)
    for layer in range(LAYERS):
        close(found.encode(x, layer), ours.pre_activations(x, layer).relu())
        assert not torch.equal(found.encode(x, layer), ours.encode(x, layer))


def test_a_name_that_yaml_would_take_for_something_else(tmp_path: Path):
    for i, name in enumerate(("1e3", "yes", "", "a: b # <c>\nd")):
        assert load_circuit_tracer(save_circuit_tracer(made_up(model=name), tmp_path / str(i))).model == name


def test_a_clt_with_a_skip_has_no_place_in_circuit_tracers_layout(tmp_path: Path):
    refused(
        lambda: save_circuit_tracer(made_up("clt", skip=True), tmp_path / "no"), "cross-layer with a skip"
    )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_kind": "sae"}, ("model_kind of 'ct' is 'sae'", "transcoder_set, cross_layer_transcoder")),
        ({"feature_input_hook": "hook_resid_mid"}, ("'hook_resid_mid'", "should be 'ln2.hook_normalized'")),
        ({"feature_input_hook": "mlp.hook_in"}, ("'mlp.hook_in'", "before its norm's scale")),
        ({"feature_output_hook": "hook_resid_post"}, ("'hook_resid_post'", "'hook_mlp_out'")),
        ({"activation": "topk", "k": 8}, ("activation of 'ct' is 'topk'", "JumpReLU or ReLU")),
        ({"model_kind": "cross_layer_transcoder"}, ("folder is 'ct'", "W_enc_0.safetensors")),
    ],
)
def test_circuit_tracer_files_that_mean_something_else(changed: dict, said: tuple[str, ...], tmp_path: Path):
    folder = save_circuit_tracer(made_up(), tmp_path / "ct")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changed))
    refused(lambda: load_circuit_tracer(folder), *said)


def test_topk_in_a_file_of_circuit_tracers(tmp_path: Path):
    folder = save_circuit_tracer(made_up(), tmp_path)
    change_tensors(folder / "layer_1.safetensors", k=torch.tensor(8))
    refused(lambda: load_circuit_tracer(folder), "layer_1.safetensors", "k, of a TopK activation")


def test_circuit_tracer_files_that_are_missing_or_damaged(tmp_path: Path):
    refused(lambda: load_circuit_tracer(tmp_path / "nowhere"), "folder is 'nowhere'", "config.yaml")
    plt, clt = (save_circuit_tracer(made_up(kind, layers=3), tmp_path / kind) for kind in ("plt", "clt"))
    (clt / "W_dec_1.safetensors").write_bytes(b"\x00" * 20)
    refused(lambda: load_circuit_tracer(clt), "W_dec_1.safetensors of 'clt' is damaged")
    (clt / "W_dec_1.safetensors").unlink()
    refused(lambda: load_circuit_tracer(clt), "W_dec_1.safetensors of 'clt' is missing")
    (plt / "layer_1.safetensors").unlink()
    refused(lambda: load_circuit_tracer(plt), "layers [0, 2] are there", "from 0 to 2")
    for text in ("model_name: x", "[", "just words", ""):
        (plt / "config.yaml").write_text(text)
        refused(lambda: load_circuit_tracer(plt), "folder is 'plt'", "config.yaml with a model_kind")


@pytest.mark.parametrize(
    ("kind", "file", "names"),
    [
        ("plt", "layer_1", ["W_enc", "b_enc", "W_dec", "b_dec", "W_skip", "activation_function__threshold"]),
        ("clt", "W_enc_1", ["W_enc_1", "b_enc_1", "b_dec_1", "threshold_1"]),
        ("clt", "W_dec_1", ["W_dec_1"]),
    ],
)
def test_circuit_tracer_weights_that_are_missing_or_not_finite(
    kind: str, file: str, names: list[str], tmp_path: Path
):
    folder = save_circuit_tracer(made_up(kind, skip=kind == "plt"), tmp_path / "ct")
    place = folder / f"{file}.safetensors"
    for name in names:
        whole = load_file(place)[name.replace("__", ".")]
        short = name.removeprefix("activation_function__").removesuffix("_1")
        broken = whole.clone()
        broken.view(-1)[0] = math.inf
        change_tensors(place, **{name: broken})
        refused(lambda short=short: load_circuit_tracer(folder), short, "not finite")
        change_tensors(place, **{name: None})
        optional = short in ("threshold", "W_skip")  # all layers may do without, but not one
        refused(
            lambda: load_circuit_tracer(folder), short, "should be as in layer 0" if optional else "lacks"
        )
        change_tensors(place, **{name: whole})
    load_circuit_tracer(folder)


def test_layers_that_do_not_agree(tmp_path: Path):
    folder = save_circuit_tracer(made_up(), tmp_path / "ct")
    change_tensors(folder / "layer_1.safetensors", W_enc=noise(FEATURES + 1, D))
    refused(lambda: load_circuit_tracer(folder), "layer 1 holds parts of shapes", "as in layer 0")


def test_a_decoder_of_another_number_of_layers(unchecked: None, tmp_path: Path):
    folder = save_circuit_tracer(made_up("clt"), tmp_path / "ct")
    change_tensors(folder / "W_dec_0.safetensors", W_dec_0=noise(FEATURES, 3, D))
    refused(lambda: load_circuit_tracer(folder), "W_dec[0] has shape (3, 48, 32)", "(2, 48, 32)")


# -----------------------------------------------------------------------------------------------------------
# both


@pytest.mark.parametrize("read", [load_saelens, load_circuit_tracer])
def test_transcoders_of_another_model(read, llama_model: TransformerBridge, tmp_path: Path):
    write = save_saelens if read is load_saelens else save_circuit_tracer
    fits = write(made_up(), tmp_path / "fits")
    assert_same(read(fits, model=llama_model), made_up())
    refused(
        lambda: read(write(made_up(model="gpt2"), tmp_path / "name"), model=llama_model), "trained on gpt2"
    )
    deep = write(made_up(layers=3), tmp_path / "deep")
    refused(lambda: read(deep, model=llama_model), "3 layers", "tiny-llama has 2")
    wide = Transcoders(
        noise(2, 8, 4), noise(2, 4), noise(2, 4).abs(), (noise(1, 4, 8),) * 2, noise(2, 8), None, "plt", ""
    )
    refused(lambda: read(write(wide, tmp_path / "wide"), model=llama_model), "width 8", "tiny-llama has 32")


@pytest.mark.parametrize(
    ("write", "kind"), [(save_saelens, "plt"), (save_circuit_tracer, "plt"), (save_circuit_tracer, "clt")]
)
def test_layers_of_other_transcoders_are_not_left_to_be_read(write, kind: str, tmp_path: Path):
    """A reader takes every layer that it finds, so it would read a mixture."""
    folder = write(made_up(kind, layers=3), tmp_path / "some")
    refused(lambda: write(made_up(kind), folder), "folder is 'some'", "_2", "should be empty")
    read = load_saelens if write is save_saelens else load_circuit_tracer
    assert_same(read(folder), made_up(kind, layers=3))
    write(made_up(kind, layers=3, model="again"), folder)
    assert read(folder).model == "again"
