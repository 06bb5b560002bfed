"""What notebook 02 promises besides its claims: its code agrees with the package, and what it loads is
sound."""

import json
from dataclasses import asdict
from functools import partial

import pytest
import torch
import worked

from mi_utils import data_files, features, models, sae
from mi_workshop import sources
from mi_workshop.makers import sae as recipe
from mi_workshop.makers import sae_card, sae_seeds, sae_toy, sae_tree

NOTEBOOK = sources.read(sources.find("02")[0])
solution = partial(worked.solution, NOTEBOOK, "02")
FOLDER = data_files.folder() / recipe.FILE


def cell(cell_id: str) -> str:
    (found,) = [one.source for one in NOTEBOOK.cells if one.id == cell_id]
    return found


@pytest.fixture
def autoencoder():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(24, 8, generator=generator), dim=-1)
    return sae.SAE(rows.T.contiguous(), torch.randn(24, generator=generator) / 4, rows, torch.ones(8))


@pytest.fixture
def x():
    return 3 * torch.randn(50, 8, generator=torch.Generator().manual_seed(1))


def test_the_forward_pass_by_hand_is_the_package_s(autoencoder, x):
    weights = (autoencoder.W_enc, autoencoder.b_enc, autoencoder.W_dec, autoencoder.b_dec)
    latents, back = solution("sae_forward")["sae_forward"](x, *weights)
    torch.testing.assert_close(latents, autoencoder.encode(x))
    torch.testing.assert_close(back, autoencoder.reconstruct(x))


def test_grades_by_hand_are_the_package_s(autoencoder, x):
    truth = torch.randn(10, 8, generator=torch.Generator().manual_seed(2))
    assert float(solution("mmcs")["mmcs"](autoencoder.W_dec, truth)) == pytest.approx(
        sae.mmcs(autoencoder.W_dec, truth), abs=1e-5
    )
    back = autoencoder.reconstruct(x)
    assert float(solution("fvu")["fvu"](x, back)) == pytest.approx(sae.evaluate(autoencoder, x).fvu, rel=1e-4)


def test_the_loss_recovered_by_hand_is_the_package_s():
    splice = sae.Splice(3.0, 3.5, 11.0, 8.0, 0.4, 9.0, 6.0)
    by_hand = solution("loss_recovered")["loss_recovered"]
    assert by_hand(splice.clean, splice.spliced, splice.mean) == pytest.approx(splice.recovered("mean"))
    assert by_hand(splice.clean, splice.spliced, splice.zero) == pytest.approx(splice.recovered("zero"))


def test_topk_and_the_edit_by_hand_are_the_package_s(autoencoder, x):
    pre = autoencoder.pre_activations(x)
    torch.testing.assert_close(solution("topk")["topk_latents"](pre, 3), sae.keep_top(pre, 3))
    by_hand = solution("keep_the_error")["ablate_latent"](x[None], autoencoder, 5)
    torch.testing.assert_close(by_hand, sae.set_latent(autoencoder, 5)(x[None]))


def test_promoted_tokens_by_hand_are_the_package_s():
    W_U = torch.randn(8, 100, generator=torch.Generator().manual_seed(3))
    by_hand = solution("promoted")["promoted_tokens"](W_U[:, 7], W_U, 5)
    assert by_hand.tolist() == features.promoted(W_U[:, 7], W_U, 5).promoted.tolist()


def test_the_loop_by_hand_finds_what_the_package_finds():
    scope = {"torch": torch, "sae": sae.sae, "SEED": 0}
    exec(cell("by-hand"), scope)
    features_, hidden, _ = sae.toy(0)
    scale = (hidden - hidden.mean(dim=0)).square().mean().sqrt().item()
    with torch.no_grad():  # as in the notebook, which switches gradients off
        by_hand = scope["train_by_hand"](hidden, sae.toys.FEATURES, l1=scale)
    package = sae.train(hidden, sae.toy_settings("standard", 1.0, 0, sae.toys.FEATURES)).sae
    one, other = (sae.evaluate(found, hidden) for found in (by_hand, package))
    assert one.fvu == pytest.approx(other.fvu, rel=0.2)
    assert min(sae.mmcs(found.W_dec, features_) for found in (by_hand, package)) > 0.8


def test_the_notebook_trains_with_the_recorded_settings():
    scope: dict = {}
    parameters = cell("parameters")
    exec("\n".join(line for line in parameters.splitlines() if line.startswith("D_SAE")), scope)
    recorded = asdict(sae_seeds.settings(0))
    assert (scope["D_SAE"], scope["K"]) == (recorded["d_sae"], recorded["k"])
    assert f"quick={recorded['steps']}" in parameters
    assert 'Settings(D_SAE, "topk", k=K, steps=N_STEPS, seed=SEED)' in cell("train")
    for kind, strength in sae_toy.LIVE.items():
        assert f'("{kind}", {strength})' in cell("live-points")


def test_the_sae_that_ships_is_sound():
    shipped = sae.load(FOLDER)
    assert (shipped.model, shipped.hook) == (models.load.DEFAULT, recipe.HOOK)
    assert (shipped.d_sae, shipped.k) == (recipe.SETTINGS.d_sae, recipe.SETTINGS.k)
    torch.testing.assert_close(shipped.W_dec.norm(dim=-1), torch.ones(shipped.d_sae), atol=2e-3, rtol=0)
    assert (FOLDER / sae.files.WEIGHTS).stat().st_size < 12e6


def test_the_card_is_complete():
    card = json.loads(data_files.path(sae_card.FILE).read_text())
    assert card["settings"] == json.loads(json.dumps(asdict(recipe.SETTINGS)))
    assert set(card["in the model"]) == {"samples", "speeches", "novel", "code"}
    assert set(card["reconstruction"]) == {*card["in the model"], "all parts", "IOI sentences"}
    small = {"one-minute SAE", "one-minute SAE, random weights"}
    assert set(card["one minute"]) == small
    assert set(card["interpretability"]) == {"shipped SAE", "MLP neurons", *small}
    assert sum(card["densities"]["counts"]) + card["densities"]["never active"] == recipe.SETTINGS.d_sae


@pytest.mark.parametrize(
    ("file", "count"),
    [
        (sae_seeds.FILE, sae_seeds.SEEDS),
        (sae_toy.FILE, sae_toy.SEEDS),
        (sae_tree.FILE, sae_tree.SEEDS),
    ],
)
def test_every_seed_is_recorded_once(file, count):
    seeds = [one["seed"] for one in json.loads(data_files.path(file).read_text())]
    assert seeds == list(range(count)) and count >= 20


def test_the_control_of_the_tree_differs_only_in_dependence():
    directions, amounts = sae.tree(3)
    same, unrelated = sae.tree(3, independent=True)
    assert torch.equal(directions, same)
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)), atol=1e-5, rtol=0)
    there, elsewhere = amounts != 0, unrelated != 0
    children = there[:, 3:].view(-1, 3, 3)
    assert not (children.any(dim=2) & ~there[:, :3]).any()  # never without the parent
    assert (children.sum(dim=2) <= 1).all()
    assert (elsewhere[:, 3:].view(-1, 3, 3).any(dim=2) & ~elsewhere[:, :3]).any()
    torch.testing.assert_close(there.float().mean(0), elsewhere.float().mean(0), atol=0.01, rtol=0)
