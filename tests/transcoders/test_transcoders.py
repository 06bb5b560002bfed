"""What transcoders compute, how well they are said to do, and that files give back what was saved."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentences import assert_one_sentence
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import transcoders
from mi_utils.transcoders.files import load, save
from mi_utils.transcoders.transcoders import Transcoders, check_fits, evaluate, skip_alone

LAYERS, D, FEATURES = 3, 5, 7
KINDS = ("clt", "plt")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parts(
    kind: str = "clt", *, skip: bool = False, layers: int = LAYERS, d: int = D, features: int = FEATURES
) -> dict:
    return {
        "W_enc": noise(layers, d, features, seed=1),
        "b_enc": noise(layers, features, seed=2),
        "threshold": noise(layers, features, seed=3).abs(),
        "W_dec": tuple(
            noise(layers - i if kind == "clt" else 1, features, d, seed=4 + i) for i in range(layers)
        ),
        "b_dec": noise(layers, d, seed=20),
        "W_skip": noise(layers, d, d, seed=21) if skip else None,
        "kind": kind,
        "model": "tiny-llama",
    }


def made_up(kind: str = "clt", **more) -> Transcoders:
    return Transcoders(**parts(kind, **more))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def refused(call, *said: str, allowed: Path | None = None) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said, allowed=allowed)


def literal(t: Transcoders, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features [layer, token, feature] and outputs [layer, token, d_model], a number at a time."""
    features = torch.zeros(t.n_layers, x.shape[1], t.n_features)
    outputs = t.b_dec[:, None].expand(x.shape).clone()
    for layer in range(t.n_layers):
        for token in range(x.shape[1]):
            for i in range(t.n_features):
                pre = t.b_enc[layer, i] + sum(
                    x[layer, token, d] * t.W_enc[layer, d, i] for d in range(t.d_model)
                )
                if pre > t.threshold[layer, i]:
                    features[layer, token, i] = pre
    for source in range(t.n_layers):
        for place, block in enumerate(t.W_dec[source]):
            outputs[source + place] += features[source] @ block
    for layer in range(t.n_layers):
        if t.W_skip is not None:
            for i in range(t.d_model):
                outputs[layer] += x[layer, :, i, None] * t.W_skip[layer, i]
    return features, outputs


# ----------------------------------------------------------------------------------------- what they compute


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_features_and_outputs_against_a_literal_loop(kind: str, skip: bool):
    t, x = made_up(kind, skip=skip), noise(LAYERS, 6, D, seed=9)
    features, outputs = literal(t, x)
    assert 0.1 < (features > 0).float().mean() < 0.6
    found = [t.encode(x[layer], layer) for layer in range(LAYERS)]
    close(torch.stack(found), features)
    for layer in range(LAYERS):
        close(t.output(found, layer, x[layer]), outputs[layer])
        close(t.output(found[: layer + 1], layer, x[layer]), outputs[layer])
        batch = [a.view(2, 3, -1) for a in found]
        close(t.output(batch, layer, x[layer].view(2, 3, D)), outputs[layer].view(2, 3, D))
        close(t.pre_activations(x[layer], layer) * (features[layer] > 0), features[layer])


def test_at_its_threshold_a_feature_is_off():
    t = replace(made_up(), W_enc=torch.zeros(LAYERS, D, FEATURES), b_enc=made_up().threshold)
    assert (t.encode(noise(4, D), 1) == 0).all()
    above = replace(t, b_enc=t.threshold + 1e-3)
    assert (above.encode(noise(4, D), 1) > 0).all()


def test_decoders_and_the_layers_that_they_write_to():
    clt, plt = made_up("clt"), made_up("plt")
    assert [list(clt.targets(layer)) for layer in range(3)] == [[0, 1, 2], [1, 2], [2]]
    assert [list(plt.targets(layer)) for layer in range(3)] == [[0], [1], [2]]
    for source in range(3):
        for place, target in enumerate(clt.targets(source)):
            assert torch.equal(clt.decoder(source, target), clt.W_dec[source][place])
        assert torch.equal(plt.decoder(source, source), plt.W_dec[source][0])
    for t, source, target in ((clt, 1, 0), (clt, 0, 3), (plt, 0, 1), (plt, 1, 0), (clt, 0, -1)):
        refused(
            lambda t=t, s=source, u=target: t.decoder(s, u), f"target is {target}", f"layer {source} write to"
        )
    refused(lambda: clt.decoder(3, 3), "layer is 3", "0 to 2")
    for source in range(3):
        for i in range(FEATURES):
            squares = sum(clt.decoder(source, target)[i].square().sum() for target in clt.targets(source))
            assert clt.decoder_norms()[source, i].item() == pytest.approx(squares.sqrt().item(), rel=1e-5)
    assert plt.decoder_norms().shape == (3, FEATURES)


def test_sizes_and_how_they_show():
    clt, plt = made_up("clt", skip=True), made_up("plt")
    assert (clt.n_layers, clt.d_model, clt.n_features) == (LAYERS, D, FEATURES)
    shared = 3 * (D * FEATURES + 2 * FEATURES + D)
    assert clt.n_parameters == shared + 6 * FEATURES * D + 3 * D * D
    assert plt.n_parameters == shared + 3 * FEATURES * D
    assert repr(clt) == "Transcoders(cross-layer + skip, 3 layers x 7 features, tiny-llama)"
    assert repr(replace(plt, model="")) == "Transcoders(per-layer, 3 layers x 7 features, no model)"


@pytest.mark.parametrize("kind", KINDS)
def test_skip_alone_has_no_feature_left(kind: str):
    t, x = made_up(kind, skip=True), 1e6 * noise(4, D)
    alone = skip_alone(t)
    features = [alone.encode(x, layer) for layer in range(LAYERS)]
    assert all((a == 0).all() for a in features) and (t.encode(x, 0) > 0).any()
    for layer in range(LAYERS):
        torch.testing.assert_close(alone.output(features, layer, x), t.b_dec[layer] + x @ t.W_skip[layer])
    assert (alone.kind, alone.model) == (kind, "tiny-llama")
    without = skip_alone(made_up(kind))
    close(without.output([torch.zeros(4, FEATURES)] * 3, 2), without.b_dec[2].expand(4, D))


# ------------------------------------------------------------------------------------------ how well they do


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_evaluate_by_hand(kind: str, skip: bool):
    t, x, y = made_up(kind, skip=skip), noise(LAYERS, 9, D, seed=9), 3 * noise(LAYERS, 9, D, seed=10) + 5
    features, outputs = literal(t, x)
    fit = evaluate(t, x, y)
    for layer in range(LAYERS):
        error = sum((y[layer, i] - outputs[layer, i]).square().sum() for i in range(9))
        total = sum((y[layer, i] - y[layer].mean(dim=0)).square().sum() for i in range(9))
        assert fit.fvu[layer].item() == pytest.approx((error / total).item(), rel=1e-4)
        assert fit.l0[layer].item() == pytest.approx((features[layer] > 0).sum().item() / 9, rel=1e-5)
    close(fit.density, (features > 0).float().mean(dim=1))
    assert fit.dead == pytest.approx((~(features > 0).any(dim=1)).float().mean().item())


def test_perfect_is_zero_and_the_mean_alone_is_one():
    t, x = made_up(skip=True), noise(LAYERS, 9, D, seed=9)
    features, outputs = literal(t, x)
    assert evaluate(t, x, outputs).fvu.max() < 1e-9
    mean = replace(skip_alone(t), W_skip=None, b_dec=outputs.mean(dim=1))
    fit = evaluate(mean, x, outputs)
    close(fit.fvu, torch.ones(3))
    assert fit.l0.tolist() == [0, 0, 0] and fit.dead == 1


def test_half_precision_is_measured_in_float32():
    t, x, y = (
        made_up(skip=True),
        noise(LAYERS, 9, D, seed=9).bfloat16(),
        noise(LAYERS, 9, D, seed=10).bfloat16(),
    )
    assert torch.equal(evaluate(t, x, y).fvu, evaluate(t, x.float(), y.float()).fvu)


def test_what_cannot_be_evaluated(unchecked: None):
    t, x = made_up(), noise(LAYERS, 9, D)
    for bad_x, bad_y in ((x, x[:, :8]), (x[:2], x[:2]), (x[:, :1], x[:, :1]), (x, x[..., :4])):
        refused(
            lambda a=bad_x, b=bad_y: evaluate(t, a, b), "x and y have shapes", "[3, at least 2 tokens, 5]"
        )
    refused(lambda: evaluate(t, x[..., :4], x[..., :4]), "x has width 4", "read width 5")
    same = x.clone()
    same[1] = 2.0
    refused(lambda: evaluate(t, x, same), "y is the same for all tokens in layer 1")


# -----------------------------------------------------------------------------------------------------------
# files


def assert_close_files(found: Transcoders, wanted: Transcoders, *, bits: int) -> None:
    """fp16 is good to one part in 2048; 8 bits to half of a 127th of the largest weight of the feature."""
    for name in ("b_enc", "threshold", "b_dec"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=2**-11, atol=1e-7)
    pairs = [
        (found.W_enc, wanted.W_enc, -2),
        *((a, b, -1) for a, b in zip(found.W_dec, wanted.W_dec, strict=True)),
    ]
    if wanted.W_skip is not None:
        pairs.append((found.W_skip, wanted.W_skip, -2))
    for one, other, summed in pairs:
        assert one.dtype == torch.float32 and one.shape == other.shape
        bound = (
            other.abs() * 2**-11 if bits == 16 else other.abs().amax(dim=summed, keepdim=True) * 0.51 / 127
        )
        assert ((one - other).abs() <= bound + 1e-7).all()
    assert (found.W_skip is None, found.kind, found.model) == (
        wanted.W_skip is None,
        wanted.kind,
        wanted.model,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_saved_is_loaded(kind: str, skip: bool, bits: int, tmp_path: Path):
    """Features of very different sizes keep their own precision."""
    t = made_up(kind, skip=skip)
    sizes = 10.0 ** torch.linspace(-2, 3, FEATURES)
    t = replace(t, W_enc=t.W_enc * sizes, W_dec=tuple(w / sizes[:, None] for w in t.W_dec))
    file = save(t, str(tmp_path / "one.safetensors"), bits=bits)
    assert_close_files(load(str(file)), t, bits=bits)
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]
    again = save(load(file), tmp_path / "two.safetensors", bits=bits)
    assert_close_files(load(again), load(file), bits=16)


def test_features_that_write_nothing_are_saved(tmp_path: Path):
    t = made_up()
    silent = replace(t, W_enc=t.W_enc * 0, W_dec=tuple(w * 0 for w in t.W_dec))
    found = load(save(silent, tmp_path / "t.safetensors", bits=8))
    assert (found.W_enc == 0).all() and all((w == 0).all() for w in found.W_dec)


def test_eight_bits_take_half_of_the_room(tmp_path: Path):
    t = made_up(layers=2, d=64, features=256)
    sizes = {bits: save(t, tmp_path / str(bits), bits=bits).stat().st_size for bits in (8, 16)}
    assert 0.4 < sizes[8] / sizes[16] < 0.6


@pytest.mark.parametrize("bits", [8, 16])
def test_what_fp16_cannot_hold(bits: int, tmp_path: Path):
    file = tmp_path / "t.safetensors"
    refused(lambda: save(skip_alone(made_up()), file, bits=bits), "threshold holds values above 65,504")
    assert not file.exists()


@pytest.mark.parametrize("bits", [4, 32, 0])
def test_another_number_of_bits(bits: int, unchecked: None, tmp_path: Path):
    refused(lambda: save(made_up(), tmp_path / "t.safetensors", bits=bits), f"bits is {bits}", "8 or 16")


def test_files_that_hold_no_transcoders(tmp_path: Path):
    def bad(file: Path, *said: str) -> None:
        refused(lambda: load(file), file.name, *said, allowed=tmp_path)

    bad(tmp_path / "none.safetensors", "there is no such file")
    bad(tmp_path, "does not hold transcoders")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 100)
    bad(broken, "does not hold transcoders")
    other = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"W_enc": torch.zeros(1)}, other, metadata)
        bad(other, "does not hold transcoders of this project's format")
    whole = save(made_up(skip=True), tmp_path / "whole.safetensors", bits=8)
    about = {"format": transcoders.files._FORMAT, "kind": "clt", "model": ""}
    stored = load_file(whole)
    for name in ("W_enc", "b_dec", "W_dec.1", "W_dec.2", "threshold"):
        save_file({key: value for key, value in stored.items() if not key.startswith(name)}, other, about)
        bad(other, "lack a part")
    save_file({**stored, "more": torch.zeros(1)}, other, about)
    bad(other)
    save_file(stored, other, {"format": transcoders.files._FORMAT, "model": ""})
    bad(other, "lack a part")
    stored["b_dec"][0, 0] = math.nan
    save_file(stored, other, about)
    refused(lambda: load(other), "b_dec holds values that are not finite")


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "sae"}, ("kind is 'sae'", "'clt' or 'plt'")),
        ({"W_dec": parts()["W_dec"][:2]}, ("W_dec holds decoders of 2 layers; W_enc has 3",)),
        ({"b_enc": noise(3, 6)}, ("b_enc has shape (3, 6)", "(3, 7)")),
        ({"threshold": noise(2, 7).abs()}, ("threshold has shape (2, 7)", "(3, 7)")),
        ({"b_dec": noise(3, 7)}, ("b_dec has shape (3, 7)", "(3, 5)")),
        ({"W_skip": noise(3, 5, 7)}, ("W_skip has shape (3, 5, 7)", "(3, 5, 5)")),
        ({"W_dec": parts("plt")["W_dec"]}, ("W_dec[0] has shape (1, 7, 5)", "(3, 7, 5)")),
        ({"kind": "plt"}, ("W_dec[0] has shape (3, 7, 5)", "(1, 7, 5)")),
        ({"threshold": -parts()["threshold"]}, ("threshold holds negative values",)),
    ],
)
def test_parts_that_do_not_fit_together(changed: dict, said: tuple[str, ...], unchecked: None):
    refused(lambda: Transcoders(**(parts() | changed)), *said)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "threshold", "b_dec", "W_skip", "W_dec"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(name: str, value: float):
    given = parts(skip=True)
    (given[name][2] if name == "W_dec" else given[name]).view(-1)[-1] = value
    refused(lambda: Transcoders(**given), "W_dec[2]" if name == "W_dec" else name, "not finite")


def test_inputs_features_and_layers_that_do_not_fit(unchecked: None):
    t, x = made_up(skip=True), noise(4, D)
    features = [t.encode(x, layer) for layer in range(3)]
    refused(lambda: t.encode(noise(4, 6), 0), "x has width 6; these transcoders read width 5")
    refused(lambda: t.output(features[:2], 2, x), "features holds 2 layers", "should hold 3")
    refused(lambda: t.output(features, 2), "x is missing", "skip")
    for layer in (3, -1, True):
        refused(lambda layer=layer: t.check_feature(layer, 0), f"layer is {layer}", "0 to 2")
    for index in (7, -1, True):
        refused(lambda index=index: t.check_feature(0, index), f"feature is {index}", "0 to 6")
    t.check_feature(2, 6)


def test_transcoders_of_another_model(llama_model: TransformerBridge):
    def of(**more) -> Transcoders:
        model = more.pop("model", "tiny-llama")
        return replace(made_up("plt", **({"layers": 2, "d": 32} | more)), model=model)

    check_fits(llama_model, of())
    check_fits(llama_model, of(model=""))
    refused(lambda: check_fits(llama_model, of(model="gpt2")), "trained on gpt2; the model is tiny-llama")
    refused(lambda: check_fits(llama_model, of(layers=3)), "3 layers; tiny-llama has 2")
    refused(lambda: check_fits(llama_model, of(d=16)), "width 16; tiny-llama has 32")
