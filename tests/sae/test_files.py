"""SAEs on disk: what is written here is SAELens' to read, and the reverse."""

import json
import math
from pathlib import Path

import pytest
import sae_lens
import torch
from safetensors.torch import load_file, save_file
from sentences import assert_one_sentence
from torch import Tensor
from torch.nn import functional as F

from mi_utils import sae
from mi_utils.sae.files import CONFIG, WEIGHTS
from mi_utils.sae.sae import SAE

D_IN, D_SAE, K = 32, 64, 5
ARCHITECTURES = ("standard", "topk", "jumprelu")
HOOK = "blocks.1.hook_resid_pre"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_up(architecture: str = "standard", *, model: str = "tiny-llama", hook: str = HOOK) -> SAE:
    return SAE(
        noise(D_IN, D_SAE, seed=1),
        noise(D_SAE, seed=2),
        F.normalize(noise(D_SAE, D_IN, seed=3), dim=-1),
        noise(D_IN, seed=4),
        architecture,
        K if architecture == "topk" else None,
        noise(D_SAE, seed=5).abs() if architecture == "jumprelu" else None,
        model,
        hook,
    )


def close(found: Tensor, wanted: Tensor) -> None:
    """To 1e-5 of the size of what is compared."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


@torch.no_grad()
def assert_same_function(ours: SAE, theirs: sae_lens.SAE, x: Tensor) -> None:
    latents = theirs.encode(x)
    close(ours.encode(x), latents)
    close(ours.decode(latents), theirs.decode(latents))
    close(ours.reconstruct(x), theirs(x))
    assert 0 < (latents > 0).float().mean() < 0.9


def refused(call, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert_one_sentence(caught.value, *said)


# ------------------------------------------------------------------------------------------- from here to
# SAELens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_computes_the_same_with_what_is_written_here(architecture: str, tmp_path: Path):
    ours = made_up(architecture)
    theirs = sae_lens.SAE.load_from_disk(sae.save(ours, tmp_path / "new" / "sae"))
    assert theirs.cfg.architecture() == architecture
    assert (theirs.cfg.metadata.model_name, theirs.cfg.metadata.hook_name) == ("tiny-llama", HOOK)
    assert_same_function(ours, theirs, 2 * noise(3, 40, D_IN))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_here_is_read_here(architecture: str, tmp_path: Path):
    ours = made_up(architecture)
    found = sae.load(str(sae.save(ours, tmp_path)))
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(found, name), getattr(ours, name)), name
    for name in ("architecture", "k", "model", "hook"):
        assert getattr(found, name) == getattr(ours, name), name
    assert (found.threshold is None) == (architecture != "jumprelu")
    assert found.threshold is None or torch.equal(found.threshold, ours.threshold)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_on_disk_is_float32_in_memory(architecture: str, tmp_path: Path):
    ours = made_up(architecture)
    folder = sae.save(ours, tmp_path / "half", dtype=torch.float16)
    full = sae.save(ours, tmp_path / "full")
    assert (folder / WEIGHTS).stat().st_size < 0.55 * (full / WEIGHTS).stat().st_size
    found = sae.load(folder)
    assert {value.dtype for value in vars(found).values() if isinstance(value, Tensor)} == {torch.float32}
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(found, name), getattr(ours, name).half().float()), name
    theirs = sae_lens.SAE.load_from_disk(folder)
    assert theirs.W_dec.dtype == torch.float32
    assert_same_function(found, theirs, noise(50, D_IN))


def test_it_is_put_on_the_device_that_is_named(tmp_path: Path):
    folder = sae.save(made_up("jumprelu"), tmp_path)
    assert sae.load(folder, device=torch.device("cpu")).W_enc.device.type == "cpu"
    with pytest.raises(RuntimeError, match="nowhere"):  # torch's own words: the argument reaches it
        sae.load(folder, device="nowhere")


def test_metadata_are_kept_beside_model_and_hook(tmp_path: Path):
    sae.save(made_up(), tmp_path, tokens=1_000, text="<b>")
    metadata = json.loads((tmp_path / CONFIG).read_text())["metadata"]
    assert (metadata["tokens"], metadata["text"], metadata["hook_name"]) == (1_000, "<b>", HOOK)


def test_an_sae_that_is_not_about_a_model(tmp_path: Path):
    found = sae.load(sae.save(made_up(model="", hook=""), tmp_path))
    assert (found.model, found.hook) == ("", "")


# ------------------------------------------------------------------------------------------- from SAELens to
# here


def filled(theirs: sae_lens.SAE | sae_lens.TrainingSAE) -> sae_lens.SAE | sae_lens.TrainingSAE:
    """The same with weights of our own, the rows of its decoder of different lengths."""
    with torch.no_grad():
        for i, (name, value) in enumerate(theirs.named_parameters()):
            value.copy_(
                noise(*value.shape, seed=10 + i).abs()
                if name == "threshold"
                else noise(*value.shape, seed=10 + i)
            )
    return theirs


def their_config(kind: str, **more):
    names = {
        "topk training": "TopKTrainingSAEConfig",
        "batchtopk": "BatchTopKTrainingSAEConfig",
        "standard": "StandardSAEConfig",
        "topk": "TopKSAEConfig",
        "jumprelu": "JumpReLUSAEConfig",
        "gated": "GatedSAEConfig",
    }
    metadata = sae_lens.saes.sae.SAEMetadata(model_name="gpt2", hook_name="blocks.8.hook_resid_pre")
    return getattr(sae_lens, names[kind])(d_in=D_IN, d_sae=D_SAE, metadata=metadata, **more)


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_saelens_saves_computes_the_same_here(architecture: str, apply_b_dec: bool, tmp_path: Path):
    kind = {"standard": sae_lens.StandardSAE, "topk": sae_lens.TopKSAE, "jumprelu": sae_lens.JumpReLUSAE}[
        architecture
    ]
    more = {"k": K} if architecture == "topk" else {}
    theirs = filled(kind(their_config(architecture, apply_b_dec_to_input=apply_b_dec, **more)))
    theirs.save_model(tmp_path)
    for ours in (sae.load(tmp_path), sae.from_parts(theirs.cfg.to_dict(), theirs.state_dict())):
        assert (ours.model, ours.hook, ours.architecture) == ("gpt2", "blocks.8.hook_resid_pre", architecture)
        assert_same_function(ours, theirs, noise(3, 20, D_IN))
        assert not any(v.requires_grad for v in vars(ours).values() if isinstance(v, Tensor))


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_topk_from_saelens_training(rescale: bool, apply_b_dec: bool, tmp_path: Path):
    """Its weights as they are in training, and the inference SAE that it saves."""
    config = their_config(
        "topk training", k=K, rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=apply_b_dec
    )
    theirs = filled(sae_lens.TopKTrainingSAE(config))
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = sae.from_parts(theirs.cfg.to_dict(), before)
    assert_same_function(ours, theirs, noise(60, D_IN))
    if rescale:
        torch.testing.assert_close(ours.W_dec.norm(dim=1), torch.ones(D_SAE))
    theirs.save_inference_model(tmp_path)
    saved = sae.load(tmp_path)
    assert (saved.architecture, saved.k) == ("topk", K)
    assert_same_function(saved, sae_lens.SAE.load_from_disk(tmp_path), noise(60, D_IN))
    close(saved.reconstruct(noise(60, D_IN)), ours.reconstruct(noise(60, D_IN)))


def test_batchtopk_from_saelens_training_is_a_jumprelu_here(tmp_path: Path):
    theirs = filled(sae_lens.BatchTopKTrainingSAE(their_config("batchtopk", k=float(K))))
    theirs.topk_threshold.fill_(6.5)
    theirs.save_inference_model(tmp_path)
    ours = sae.load(tmp_path)
    assert (ours.architecture, ours.k) == ("jumprelu", None)
    torch.testing.assert_close(ours.threshold, torch.full((D_SAE,), 6.5))
    assert_same_function(ours, sae_lens.SAE.load_from_disk(tmp_path), noise(60, D_IN))


# ------------------------------------------------------------------------------------------------------ bad
# input


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "FileNotFoundError"),
        (lambda folder: (folder / CONFIG).write_text("<html>not found</html>"), "JSONDecodeError"),
        (lambda folder: (folder / CONFIG).write_text(""), "JSONDecodeError"),
        (lambda folder: (folder / CONFIG).write_text("{}"), "'architecture'"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "SafetensorError"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"version https://git-lfs" * 9), "SafetensorError"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
            "SafetensorError",
        ),
        (lambda folder: save_file({"W_enc": torch.zeros(4, 8)}, folder / WEIGHTS), "'b_enc'"),
    ],
)
def test_files_that_are_missing_or_damaged(damage, said: str, tmp_path: Path):
    folder = sae.save(made_up(), tmp_path / "broken")
    damage(folder)
    refused(lambda: sae.load(folder), "folder is 'broken'", CONFIG, WEIGHTS, said)


def test_a_folder_that_is_none(tmp_path: Path):
    refused(lambda: sae.load(tmp_path / "nowhere"), "folder is 'nowhere'", CONFIG)
    file = sae.save(made_up(), tmp_path / "sae") / CONFIG
    refused(lambda: sae.load(file), f"folder is '{CONFIG}'", "Not a directory")


def changed_config(folder: Path, **changes) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "batchtopk"}, ("architecture is 'batchtopk'", "standard, topk, jumprelu")),
        ({"normalize_activations": "layer_norm"}, ("normalize_activations is 'layer_norm'", "'none'")),
        ({"normalize_activations": "expected_average_only_in"}, ("normalize_activations is", "'none'")),
        ({"reshape_activations": "hook_z"}, ("reshape_activations is 'hook_z'", "'none'")),
        ({"architecture": "topk"}, ("k is None",)),
        ({"architecture": "topk", "k": 65}, ("k is 65",)),
        ({"architecture": "jumprelu"}, ("threshold is missing",)),
    ],
)
def test_saes_of_a_kind_that_is_not_read(changes: dict, said: tuple[str, ...], tmp_path: Path):
    folder = changed_config(sae.save(made_up(), tmp_path), **changes)
    refused(lambda: sae.load(folder), *said)


def test_a_gated_sae_from_saelens(tmp_path: Path):
    sae_lens.GatedSAE(their_config("gated")).save_model(tmp_path)
    refused(lambda: sae.load(tmp_path), "architecture is 'gated'", "standard, topk, jumprelu")


def test_old_configs_that_say_nothing_of_normalisation(tmp_path: Path):
    folder = sae.save(made_up(), tmp_path)
    changed_config(folder, normalize_activations=None, metadata=None)
    found = sae.load(folder)
    assert (found.model, found.hook) == ("", "")
    torch.testing.assert_close(found.encode(noise(9, D_IN)), made_up().encode(noise(9, D_IN)))


def test_weights_that_do_not_fit_or_are_not_finite(tmp_path: Path, unchecked: None):
    folder = sae.save(made_up(), tmp_path)
    for name, value, said in (
        ("b_enc", torch.zeros(9), "shape (9,)"),
        ("W_dec", noise(D_SAE, D_IN) * math.nan, "not finite"),
    ):
        save_file(load_file(sae.save(made_up(), folder) / WEIGHTS) | {name: value}, folder / WEIGHTS)
        refused(lambda: sae.load(folder), name, said)
