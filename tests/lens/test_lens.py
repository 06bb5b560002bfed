"""A lens against TransformerLens' own route and against sums written out."""

import dataclasses
import math
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentences import assert_one_sentence
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import data_files, harvest, lens, models, prompts
from mi_utils.models.load import load_model

TEXT = "The capital of France is Paris, and 36 + 59 = 95."


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return request.getfixturevalue(request.param)


def streams_of(model: TransformerBridge, rows: int = 4, pos: int = 16) -> torch.Tensor:
    tokens = torch.randint(2, model.cfg.d_vocab, (rows, pos), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 0
    return harvest.residual_streams(model, tokens)


def some_lens(model: TransformerBridge, seed: int = 0) -> lens.Lens:
    """Not the identity."""
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_layers, d_model, d_model, generator=generator)
    biases = torch.randn(n_layers, d_model, generator=generator)
    return lens.Lens(torch.eye(d_model) + 0.1 * noise, biases, model.cfg.model_name)


@torch.no_grad()
def written_out(model: TransformerBridge, stream: torch.Tensor) -> torch.Tensor:
    """Final norm, unembedding and softmax in float64, from their formulas."""
    h = stream.double()
    if model.cfg.normalization_type.startswith("LN"):
        h = h - h.mean(dim=-1, keepdim=True)
    h = h / (h.square().mean(dim=-1, keepdim=True) + model.cfg.eps).sqrt()
    logits = h @ model.W_U.double() + (0 if model.unembed.b_U is None else model.unembed.b_U.double())
    return logits - logits.exp().sum(dim=-1, keepdim=True).log()


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ----------------------------------------------------------------------------------------------------
# predictions


@torch.no_grad()
def test_logit_lens_is_that_of_transformer_lens(model: TransformerBridge):
    tokens = prompts.encode(model, TEXT)
    cache = model.run_with_cache(tokens)[1]
    # For the stack up to the last layer, apply_ln takes each stream's own length, as a logit lens must.
    theirs = cache.accumulated_resid(apply_ln=True)[:, 0] @ model.W_U
    if model.unembed.b_U is not None:
        theirs = theirs + model.b_U
    ours = lens.read(model, TEXT)
    assert ours.layers == tuple(range(model.cfg.n_layers + 1))
    torch.testing.assert_close(ours.log_probs, theirs.log_softmax(dim=-1))
    assert ours.tokens.tolist() == tokens[0].tolist()


@torch.no_grad()
def test_formula_of_a_lens_with_translators(model: TransformerBridge):
    translators, tokens = some_lens(model), prompts.encode(model, TEXT)
    reading = lens.read(model, tokens[0], translators)
    streams = harvest.residual_streams(model, tokens, skip_first=False).double()
    for layer in range(model.cfg.n_layers):
        translated = (
            streams[layer] @ translators.matrices[layer].double() + translators.biases[layer].double()
        )
        expected = written_out(model, translated)
        torch.testing.assert_close(reading.log_probs[layer].double(), expected, atol=2e-4, rtol=1e-4)
        single = lens.log_probs(model, translators, streams[layer].float(), layer)
        torch.testing.assert_close(single, reading.log_probs[layer])


@torch.no_grad()
def test_last_row_is_the_model(model: TransformerBridge):
    expected = model(prompts.encode(model, TEXT))[0].log_softmax(dim=-1)
    for given in (None, some_lens(model)):
        torch.testing.assert_close(lens.read(model, TEXT, given).log_probs[-1], expected)
        torch.testing.assert_close(lens.read(model, TEXT, given, layers=[0]).log_probs[-1], expected)


def test_translate(model: TransformerBridge):
    translators, stream = some_lens(model), torch.randn(2, 3, model.cfg.d_model)
    for layer in range(model.cfg.n_layers):
        by_hand = torch.einsum("bpi,io->bpo", stream, translators.matrices[layer]) + translators.biases[layer]
        torch.testing.assert_close(translators.translate(stream, layer), by_hand)
    assert translators.translate(stream, model.cfg.n_layers) is stream
    for layer in range(model.cfg.n_layers):
        assert torch.equal(lens.logit_lens(model).translate(stream, layer), stream)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_unembed_any_shape(shape: tuple[int, ...], model: TransformerBridge):
    stream = torch.randn(*shape, model.cfg.d_model)
    found = models.unembed(model, stream).log_softmax(dim=-1)
    assert found.shape == (*shape, model.cfg.d_vocab)
    torch.testing.assert_close(found.double(), written_out(model, stream), atol=2e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------
# layers


@pytest.mark.parametrize(
    ("layers", "shown"),
    [
        (None, (0, 1, 2)),
        ([0], (0, 2)),
        ([1], (1, 2)),
        ([0, 1], (0, 1, 2)),
        ([2], (2,)),
        ([1, 2], (1, 2)),
        (range(2), (0, 1, 2)),
        ((0, 2), (0, 2)),
    ],
)
def test_layers_and_the_row_of_the_model(layers, shown: tuple[int, ...], model: TransformerBridge):
    everything, some = (
        lens.read(model, TEXT, some_lens(model)),
        lens.read(model, TEXT, some_lens(model), layers=layers),
    )
    assert some.layers == shown
    torch.testing.assert_close(some.log_probs, everything.log_probs[list(shown)])


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([-1], "layers holds -1"),
        ([3], "layers holds 3"),
        ([0, 9], "layers holds 9"),
        ([], "layers is empty"),
        ([1, 0], "[1, 0]; it should be in ascending order"),
        ([0, 1, 1], "each layer once"),
    ],
)
def test_layers_that_are_none(layers: list[int], said: str, model: TransformerBridge):
    refused(lambda: lens.read(model, TEXT, layers=layers), said)
    if layers in ([-1], [3]):
        stream = torch.ones(1, model.cfg.d_model)
        refused(lambda: lens.log_probs(model, lens.logit_lens(model), stream, layers[0]), said, "0 to 2")


# ---------------------------------------------------------------------------------------------------------
# prompt


def test_prompt_of_one_token_and_of_none(model: TransformerBridge):
    for prompt in (torch.tensor([0]), torch.tensor([5])):
        assert lens.read(model, prompt).log_probs.shape == (3, 1, model.cfg.d_vocab)
    assert lens.read(model, "a").log_probs.shape == (3, 2, model.cfg.d_vocab)
    refused(lambda: lens.read(model, ""), "empty prompt")
    refused(
        lambda: lens.read(model, torch.tensor([], dtype=torch.int64)), "prompt has no tokens", "start token"
    )


@pytest.mark.parametrize("positions", [slice(-1, None), slice(3, 7), slice(0, 1), slice(None)])
def test_positions(positions: slice, model: TransformerBridge):
    everything, some = (
        lens.read(model, TEXT, some_lens(model), positions=p) for p in (slice(None), positions)
    )
    torch.testing.assert_close(some.log_probs, everything.log_probs[:, positions])
    assert some.tokens.tolist() == everything.tokens[positions].tolist() and some.layers == everything.layers


def test_no_positions(model: TransformerBridge):
    refused(lambda: lens.read(model, TEXT, positions=slice(500, None)), "positions", "none of the prompt")


def test_reading_needs_no_gradient(model: TransformerBridge):
    assert not lens.read(model, TEXT).log_probs.requires_grad


# --------------------------------------------------------------------------------------------------------
# reading


def test_measures_of_a_reading_by_hand():
    chances = torch.tensor([[0.5, 0.25, 0.25, 0.0001], [0.1, 0.2, 0.3, 0.4]])
    chances = chances / chances.sum(dim=-1, keepdim=True)
    reading = lens.Reading(torch.tensor([0]), (0, 1), chances.log()[:, None])
    assert reading.top()[:, 0].tolist() == [0, 3]
    assert [reading.rank(token)[:, 0].tolist() for token in range(4)] == [[0, 3], [1, 2], [1, 1], [3, 0]]
    p, q = chances.double().tolist()
    entropies = [-sum(x * math.log(x) for x in row) for row in (p, q)]
    assert reading.entropy()[:, 0].tolist() == pytest.approx(entropies, rel=1e-5)
    loss = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))  # of the last row from the first
    assert reading.kl_to_final()[:, 0].tolist() == pytest.approx([loss, 0.0], rel=1e-5, abs=1e-7)
    assert reading.probability(2)[:, 0].tolist() == pytest.approx([p[2], q[2]])


def test_measures_of_a_reading_against_loops(model: TransformerBridge):
    reading = lens.read(model, TEXT, some_lens(model))
    rows, pos, _ = reading.log_probs.shape
    top, entropy, loss, token = reading.top(), reading.entropy(), reading.kl_to_final(), 77
    for row in range(rows):
        for i in range(pos):
            here = reading.log_probs[row, i].double()
            values = here.tolist()
            assert values[top[row, i]] == max(values)
            assert reading.rank(token)[row, i] == sum(value > values[token] for value in values)
            assert entropy[row, i].item() == pytest.approx(-(here.exp() * here).sum().item(), abs=1e-4)
    for row in range(rows):
        theirs = functional.kl_div(
            reading.log_probs[row].double(), reading.log_probs[-1].double(), log_target=True, reduction="none"
        )
        torch.testing.assert_close(loss[row].double(), theirs.sum(dim=-1), atol=1e-4, rtol=1e-4)
    assert loss[-1].abs().max() == 0 and (loss > -1e-5).all()


# -------------------------------------------------------------------------------------------------------
# evaluate


@torch.no_grad()
@pytest.mark.parametrize("identity", [True, False])
def test_evaluate_against_a_loop_over_tokens(identity: bool, model: TransformerBridge):
    streams = streams_of(model)
    measured = lens.logit_lens(model) if identity else some_lens(model)
    found = lens.evaluate(model, measured, streams, chunk=13)
    n_tokens, d_vocab = streams.shape[1], model.cfg.d_vocab
    assert found.kl.shape == (2, n_tokens) and found.marginal_kl.shape == found.agreement.shape == (2,)
    own = written_out(model, streams[-1])
    for layer in range(2):
        same, mean_own = 0, torch.zeros(d_vocab, dtype=torch.float64)
        mean_read = mean_own.clone()
        for token in range(n_tokens):
            h = streams[layer, token].double()
            if not identity:
                h = h @ measured.matrices[layer].double() + measured.biases[layer].double()
            read = written_out(model, h)
            loss = sum(own[token].exp() * (own[token] - read))
            assert found.kl[layer, token].item() == pytest.approx(loss.item(), abs=2e-4)
            same += int(own[token].argmax() == read.argmax())
            mean_own += own[token].exp() / n_tokens
            mean_read += read.exp() / n_tokens
        assert found.agreement[layer].item() == pytest.approx(same / n_tokens)
        bias = (mean_own * (mean_own / mean_read).log()).sum()
        assert found.marginal_kl[layer].item() == pytest.approx(bias.item(), abs=2e-4)


@pytest.mark.parametrize("chunk", [1, 7, 59, 60, 1000])
def test_chunk_does_not_matter(chunk: int, model: TransformerBridge):
    streams, measured = streams_of(model), some_lens(model)
    assert streams.shape[1] == 60
    one, other = lens.evaluate(model, measured, streams), lens.evaluate(model, measured, streams, chunk=chunk)
    for field in dataclasses.fields(one):
        torch.testing.assert_close(getattr(other, field.name), getattr(one, field.name), atol=2e-5, rtol=1e-4)


def test_lens_that_reads_the_final_stream_has_no_loss(model: TransformerBridge):
    streams = streams_of(model)
    same = streams[-1:].expand(3, -1, -1)
    found = lens.evaluate(model, lens.logit_lens(model), same)
    assert found.kl.abs().max() < 1e-5 and found.marginal_kl.abs().max() < 1e-5
    assert (found.agreement == 1).all()


def test_evaluate_takes_bfloat16_streams(model: TransformerBridge):
    """Harvested in bfloat16, measured in float32."""
    streams = streams_of(model).bfloat16()
    found = lens.evaluate(model, some_lens(model), streams)
    torch.testing.assert_close(found.kl, lens.evaluate(model, some_lens(model), streams.float()).kl)


# ------------------------------------------------------------------------------------------------------ bad
# input


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_streams_that_are_not_finite(bad: float, model: TransformerBridge):
    measured = lens.logit_lens(model)
    for layer in range(3):
        streams = streams_of(model)
        streams[layer, 5, 6] = bad
        evaluate = partial(lens.evaluate, model, measured, streams)
        refused(evaluate, "streams", "not finite", f"layer {layer}")
        log_probs = partial(lens.log_probs, model, measured, streams[layer], layer)
        refused(log_probs, "stream", "not finite")


def test_streams_of_another_shape(model: TransformerBridge):
    measured, streams = lens.logit_lens(model), streams_of(model)
    for wrong in (streams[:-1], streams[:, :0], streams[..., :-1], torch.cat([streams, streams])):
        shape = str(tuple(wrong.shape))
        refused(lambda: lens.evaluate(model, measured, wrong), shape, "[3, tokens, 32]")  # noqa: B023


def test_lens_of_another_model(model: TransformerBridge):
    own, streams, stream = some_lens(model), streams_of(model), torch.ones(1, model.cfg.d_model)
    others = {
        "'other'": dataclasses.replace(own, model="other"),
        "has 1 layers of width 32": lens.Lens(own.matrices[:1], own.biases[:1], own.model),
        "has 2 layers of width 16": lens.Lens(own.matrices[:, :16, :16], own.biases[:, :16], own.model),
        "has 3 layers": lens.Lens(own.matrices[[0, 1, 1]], own.biases[[0, 1, 1]], own.model),
    }
    for said, other in others.items():
        refused(lambda: lens.read(model, TEXT, other), said, "the model")  # noqa: B023
        refused(lambda: lens.evaluate(model, other, streams), said)  # noqa: B023
        refused(lambda: lens.log_probs(model, other, stream, 0), said)  # noqa: B023
    lens.check_fits(model, own)


@pytest.mark.parametrize("token", [-1, 316])
def test_token_that_is_none(token: int, model: TransformerBridge):
    reading = lens.read(model, TEXT)
    for measure in (reading.rank, reading.probability):
        refused(lambda: measure(token), f"token is {token}", "0 to 315")  # noqa: B023


def test_several_rows_of_ids(unchecked: None, model: TransformerBridge):
    refused(lambda: lens.read(model, prompts.encode(model, TEXT)), "prompt has shape", "one row of token ids")


def test_model_in_bfloat16(tiny_llama: Path):
    model = load_model(str(tiny_llama), dtype=torch.bfloat16)
    streams = streams_of(model)
    refused(lambda: lens.read(model, TEXT), "torch.float32", "torch.bfloat16")
    refused(lambda: lens.evaluate(model, lens.logit_lens(model), streams), "torch.float32", "torch.bfloat16")


# ----------------------------------------------------------------------------------------------------------
# files


def uneven_lens(seed: int = 0) -> lens.Lens:
    """Outputs of very different scales; one that is always zero."""
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(2, 32, 32, generator=generator) * torch.logspace(-3, 3, 32)
    matrices[0, :, 4] = 0
    return lens.Lens(matrices, torch.randn(2, 32, generator=generator) * 10, "tiny")


def test_round_trip_rounds_to_8_bits_of_each_output(tmp_path: Path):
    one = uneven_lens()
    file = lens.save(one, tmp_path / "lens.safetensors")
    assert file == tmp_path / "lens.safetensors"
    for again in (lens.load(file), lens.load(str(file))):
        assert again.model == "tiny" and again.matrices.dtype == again.biases.dtype == torch.float32
        step = one.matrices.abs().amax(dim=1, keepdim=True) / 127
        assert (
            (again.matrices - one.matrices).abs() <= 0.57 * step + 1e-12
        ).all()  # half, and the scale in fp16
        assert ((again.biases - one.biases).abs() <= one.biases.abs() * 2**-11 + 1e-7).all()
    assert file.stat().st_size < 2 * 32 * 32 + 2 * 2 * 64 + 1500


def test_a_lens_is_loaded_to_the_device_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Any but the CPU needs hardware, so what safetensors is asked for is looked at."""
    file, asked = lens.save(uneven_lens(), tmp_path / "lens.safetensors"), []

    def opened(path, framework, device):
        asked.append(device)
        return safe_open(path, framework, device="cpu")

    monkeypatch.setattr(lens.lens, "safe_open", opened)
    for device in ("cuda:1", torch.device("mps")):
        lens.load(file, device=device)
    lens.load(file)
    assert asked == ["cuda:1", "mps", "cpu"]


def test_rounding_hardly_changes_predictions(tmp_path: Path, model: TransformerBridge):
    one = some_lens(model)
    again, streams = lens.load(lens.save(one, tmp_path / "l.safetensors")), streams_of(model)
    before, after = (lens.evaluate(model, measured, streams).kl.mean(dim=1) for measured in (one, again))
    torch.testing.assert_close(after, before, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_low_rank_layers_are_exact(rank: int, tmp_path: Path):
    full, generator = uneven_lens(), torch.Generator().manual_seed(1)
    factors = (torch.randn(32, rank, generator=generator), torch.randn(rank, 32, generator=generator))
    full.matrices[1] = factors[0] @ factors[1]
    file = tmp_path / "lens.safetensors"
    again = lens.load(lens.save(full, file, low_rank={1: rank}))
    error = (again.matrices[1] - full.matrices[1]).norm() / full.matrices[1].norm()
    assert error < 1e-3  # fp16; 8 bits would be off by several times as much
    assert torch.linalg.matrix_rank(again.matrices[1], rtol=1e-2) == rank
    torch.testing.assert_close(again.matrices[0], lens.load(lens.save(full, file)).matrices[0])


def test_low_rank_keeps_the_largest_directions(tmp_path: Path):
    full = uneven_lens()
    again = lens.load(lens.save(full, tmp_path / "lens.safetensors", low_rank={0: 4}))
    u, s, v = torch.linalg.svd(full.matrices[0])
    best = u[:, :4] * s[:4] @ v[:4]
    assert (again.matrices[0] - best).norm() / best.norm() < 2e-3


@pytest.mark.parametrize(("layer", "rank"), [(2, 3), (-1, 3), (0, 0), (0, 33)])
def test_low_rank_of_no_layer_and_no_rank(layer: int, rank: int, tmp_path: Path):
    refused(
        lambda: lens.save(uneven_lens(), tmp_path / "l.safetensors", low_rank={layer: rank}),
        f"{layer}: {rank}",
    )
    assert not os.listdir(tmp_path)


def test_saving_replaces_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "lens.safetensors"
    lens.save(uneven_lens(0), file)
    lens.save(uneven_lens(1), file)
    assert torch.equal(lens.load(file).biases, uneven_lens(1).biases.half().float())
    assert os.listdir(tmp_path) == ["lens.safetensors"]

    def interrupted(tensors, file, metadata) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(lens.lens, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lens.save(uneven_lens(2), file)
    assert torch.equal(lens.load(file).biases, uneven_lens(1).biases.half().float())


def test_file_that_is_missing(tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        lens.load(tmp_path / "none.safetensors")
    assert_one_sentence(caught.value, "no such file", "none.safetensors", allowed=tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        "flipped header",
        "empty",
        "text",
        "folder",
        "a layer less",
        "no name",
        "a scalar",
        "no layers",
        "two widths",
        "widths apart",
    ],
)
def test_file_that_is_damaged(damage: str, tmp_path: Path):
    file = lens.save(uneven_lens(), tmp_path / "lens.safetensors")
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped header":
        file.write_bytes(b"\xff" * 20 + content[20:])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_text("a lens")
    elif damage == "folder":
        file = tmp_path
    elif damage == "a layer less":
        layer = {"0/weights": torch.zeros(4, 4, dtype=torch.int8), "0/scale": torch.ones(4)}
        save_file({"biases": torch.zeros(2, 4), **layer}, file, {"model": "tiny"})
    elif damage == "a scalar":
        save_file({"biases": torch.tensor(1.0)}, file, {"model": "tiny"})
    elif damage == "no layers":
        save_file({"biases": torch.zeros(0, 4)}, file, {"model": "tiny"})
    elif damage in ("two widths", "widths apart"):
        widths = (4, 3) if damage == "two widths" else (3, 3)
        layers = {f"{i}/weights": torch.zeros(width, width) for i, width in enumerate(widths)}
        scales = {f"{i}/scale": torch.ones(width) for i, width in enumerate(widths)}
        save_file({"biases": torch.zeros(2, 4), **layers, **scales}, file, {"model": "tiny"})
    else:
        layer = {"0/weights": torch.zeros(4, 4, dtype=torch.int8), "0/scale": torch.ones(4)}
        save_file({"biases": torch.zeros(1, 4), **layer}, file)
    with pytest.raises(ValueError) as caught:
        lens.load(file)
    assert_one_sentence(caught.value, "does not hold a lens", allowed=tmp_path)


def test_file_that_holds_something_else():
    with pytest.raises(ValueError) as caught:
        lens.load(data_files.folder() / "corpus.safetensors")
    assert_one_sentence(
        caught.value, "corpus.safetensors", "does not hold a lens", allowed=data_files.folder()
    )
