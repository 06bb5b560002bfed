"""What the SAE that ships can and can't do, ``data/sae_card.json``: ``python -m
mi_workshop.makers.sae_card``.

Held-out text of every part of the corpus and IOI sentences (which the corpus has none of); the second seed's
latents matched with the first's; and the control: notebook 02's one-minute SAE, trained in exactly the same
way on the model and on the model with random weights, judged by the same rules. Needs what
``mi_workshop.makers.sae`` left in the cache; about ten minutes on two cores.
"""

import gc
import json

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import corpus, data_files, features, harvest, models, prompts, sae
from mi_utils.sae.training import train
from mi_workshop.cli import say
from mi_workshop.makers import sae as recipe
from mi_workshop.makers import sae_seeds

COMMAND = "python -m mi_workshop.makers.sae_card"
FILE = "sae_card.json"
CAUSAL_CONTEXTS, FIT_CONTEXTS = 12, 96  # of each part
FEATURE_CONTEXTS, LATENTS, EXCERPTS = 500, 150, 20
ONE_MINUTE, RANDOM_MODEL = 800, 0  # contexts, as in notebook 02; seed of the random weights
NAMES = ("John", "Mary", "Tom", "Anna", "David", "Sarah", "Peter", "Laura")
PLACES = ("store", "park", "school", "office", "station")
THINGS = ("drink", "book", "ring", "letter")
SEED = 0


def ioi_sentences() -> list[str]:
    """Sentences of the form that Wang et al. (2023) study, with every pair of neighbouring names both ways
    round."""
    pairs = [(a, b) for i, a in enumerate(NAMES) for b in (NAMES[i - 1], NAMES[(i + 1) % len(NAMES)])]
    frame = "When {0} and {1} went to the {2}, {1} gave a {3} to {0}"
    return [frame.format(*pair, PLACES[i % 5], THINGS[i % 4]) for i, pair in enumerate(pairs)]


def reconstruction(model: TransformerBridge, found: sae.SAE) -> dict[str, dict]:
    """FVU and L0 on held-out text, part by part and together, and on IOI sentences."""
    rows, together = {}, []
    for part in corpus.PARTS:
        tokens = corpus.contexts(model, parts=part, split="test", count=FIT_CONTEXTS, seed=SEED)
        together.append(harvest.collect(model, tokens, found.hook).values.float())
        rows[part] = together[-1]
    rows["all parts"] = torch.cat(together)
    limit = recipe.FACTOR * rows["all parts"].norm(dim=-1).median()
    ioi = [harvest.activations(model, prompts.encode(model, one), [found.hook])[0] for one in ioi_sentences()]
    values = torch.cat(ioi).float()
    rows["IOI sentences"] = values[values.norm(dim=-1) <= limit]
    fits = {name: sae.evaluate(found, x) for name, x in rows.items()}
    return {name: {**_figures(fit), "tokens": len(rows[name])} for name, fit in fits.items()}


def _figures(fit: sae.SAEFit) -> dict[str, float]:
    names = ("fvu", "l0", "dead", "dense")
    return {name: round(getattr(fit, name), 4) for name in names}


def in_the_model(model: TransformerBridge, found: sae.SAE) -> dict[str, dict]:
    """Loss and KL divergence with the SAE spliced in, against both ablations, part by part."""
    result = {}
    for part in corpus.PARTS:
        tokens = corpus.contexts(model, parts=part, split="test", count=CAUSAL_CONTEXTS, seed=SEED)
        splice = sae.evaluate_splice(model, found, tokens)
        result[part] = {key: round(value, 4) for key, value in splice.__dict__.items()}
        for against in ("zero", "mean"):
            result[part][f"CE recovered ({against})"] = round(splice.recovered(against), 4)
            result[part][f"KL recovered ({against})"] = round(splice.kl_recovered(against), 4)
        say(f"in the model: {part} done")
    return result


def densities(model: TransformerBridge, found: sae.SAE) -> dict:
    """Histogram of log10 of the latents' densities on held-out text."""
    acts = features.record_activations(model, found, _held_out(model))
    logs = acts.density[acts.density > 0].log10()
    counts, edges = torch.histogram(logs, bins=torch.linspace(-6.0, 0.0, 25))
    return {
        "tokens": acts.n_tokens,
        "never active": int((acts.density == 0).sum()),
        "counts": counts.int().tolist(),
        "log10 edges": [round(edge, 2) for edge in edges.tolist()],
    }


def matching(one: sae.SAE, other: sae.SAE) -> dict:
    """How the decoder rows of two SAEs pair up, one to one."""
    _, cosine = sae.match(one.W_dec, other.W_dec)
    return {
        "median cosine": round(cosine.median().item(), 4),
        **{f"share above {bar}": round((cosine > bar).float().mean().item(), 4) for bar in (0.5, 0.7, 0.9)},
    }


def how_interpretable(
    model: TransformerBridge, acts: features.LatentActivations, train: features.LatentActivations
) -> dict:
    """Purity of the strongest tokens and accuracy of rules, on latents drawn at random among those that can
    be judged.

    Args:
        model: for the text of tokens.
        acts: where latents fire, on held-out contexts.
        train: the same on the contexts that rules are found on.
    """
    generator = torch.Generator().manual_seed(SEED)
    n_contexts, fires_in_training = acts.n_contexts, train.n_contexts > 0
    enough = (n_contexts >= EXCERPTS) & (n_contexts <= len(acts.tokens) - EXCERPTS) & fires_in_training
    enough = [latent for latent in enough.nonzero()[:, 0].tolist() if _has_quiet(acts, latent)]
    order = torch.randperm(len(enough), generator=generator)[:LATENTS]
    latents = [enough[i] for i in order.tolist()]
    names = features.texts(model, torch.cat([acts.tokens, train.tokens]))
    purity = features.token_class_purity(acts, latents, names, n=EXCERPTS, generator=generator)
    rules = features.explain(train, latents, names)
    found = features.detection(acts, rules, names, n=EXCERPTS, generator=generator)
    shares = torch.tensor([one.share for one in purity])
    return {
        "judged": len(latents),
        "could be judged": len(enough),
        "of": acts.n_latents,
        "purity": _summary(shares),
        "purity by chance": round(purity[0].chance, 4),
        "detection": _summary(found.own),
        "detection, rules shuffled": _summary(found.shuffled),
    }


def _has_quiet(acts: features.LatentActivations, latent: int) -> bool:
    return (
        len(acts.quiet_contexts(latent, EXCERPTS, torch.Generator().manual_seed(SEED), window=5)) == EXCERPTS
    )


def _summary(values: Tensor) -> dict[str, float]:
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75])).tolist()
    return {"mean": round(values.mean().item(), 4), "quartiles": [round(value, 4) for value in quartiles]}


def _held_out(model: TransformerBridge) -> Tensor:
    return corpus.contexts(model, split="test", count=FEATURE_CONTEXTS, seed=SEED)


def _train(model: TransformerBridge) -> Tensor:
    return corpus.contexts(model, split="train", count=FEATURE_CONTEXTS, seed=SEED)


def _of_latents(model: TransformerBridge, found: sae.SAE) -> list[features.LatentActivations]:
    """Where an SAE's latents fire, on held-out and on training contexts."""
    return [features.record_activations(model, found, tokens) for tokens in (_held_out(model), _train(model))]


def _of_neurons(model: TransformerBridge) -> list[features.LatentActivations]:
    """The same for the neurons of the MLP above, as sparse as the SAE: the strongest ones of each token."""
    name = f"blocks.{model.cfg.n_layers // 2}.mlp.hook_post"
    return [
        features.record(
            lambda x: sae.keep_top(x, recipe.SETTINGS.k), harvest.pieces(model, tokens, name), tokens
        )
        for tokens in (_held_out(model), _train(model))
    ]


def one_minute(model: TransformerBridge) -> tuple[sae.SAE, sae.SAEFit]:
    """Notebook 02's SAE on any weights, and how well it does on held-out text."""
    gathered = harvest.collect(model, corpus.contexts(model, count=ONE_MINUTE, seed=SEED), recipe.HOOK)
    found = train(gathered.values, sae_seeds.settings(SEED), model=model.cfg.model_name, hook=recipe.HOOK).sae
    held_out = harvest.collect(
        model, corpus.contexts(model, split="test", count=FIT_CONTEXTS, seed=SEED), recipe.HOOK
    )
    return found, sae.evaluate(found, held_out.values)


def explained_by_token(model: TransformerBridge, fewest: int = 5) -> float:
    """Share of the stream's variance that is there between tokens, not within: what the current token alone
    says.

    Only tokens that occur at least ``fewest`` times are counted, or a rare one would explain itself.
    """
    tokens = corpus.contexts(model, split="test", count=FIT_CONTEXTS, seed=SEED)
    gathered = harvest.collect(model, tokens, recipe.HOOK)
    ids = tokens[:, 1:].flatten()[gathered.kept]
    often = ids.bincount()[ids] >= fewest
    x, ids = gathered.values[often].float(), ids[often].unique(return_inverse=True)[1]
    means = torch.zeros(int(ids.max()) + 1, x.shape[1]).index_add_(0, ids, x) / ids.bincount()[:, None]
    within = (x - means[ids]).square().sum() / (x - x.mean(dim=0)).square().sum()
    return round(1 - within.item(), 4)


def main() -> None:
    ships, second = recipe.trained(), recipe.trained(recipe.SECOND_SEED)
    card: dict = {"settings": recipe.SETTINGS.__dict__, "hook": recipe.HOOK}
    card["second seed"] = matching(ships, second)
    card["random directions"] = matching(ships, _random_like(ships))
    model = models.load_model()
    card["reconstruction"] = reconstruction(model, ships)
    card["second seed reconstruction"] = reconstruction(model, second)["all parts"]
    card["in the model"] = in_the_model(model, ships)
    del model
    gc.collect()
    quick = models.load_model(dtype=torch.bfloat16)
    card["densities"] = densities(quick, ships)
    card["one minute"], rows = {}, {}
    rows["shipped SAE"] = how_interpretable(quick, *_of_latents(quick, ships))
    rows["MLP neurons"] = how_interpretable(quick, *_of_neurons(quick))
    say("the shipped SAE and neurons judged")
    random = models.load_model(dtype=torch.bfloat16, seed=RANDOM_MODEL)
    for name, weights in (("one-minute SAE", quick), ("one-minute SAE, random weights", random)):
        found, fit = one_minute(weights)
        card["one minute"][name] = {**_figures(fit), "explained by the token": explained_by_token(weights)}
        rows[name] = how_interpretable(weights, *_of_latents(weights, found))
        say(f"{name} judged")
    card["interpretability"] = rows
    data_files.write(json.dumps(card, indent=1) + "\n", data_files.folder() / FILE)
    data_files.record(FILE, licence="MIT", source="measured by this project", command=COMMAND)


def _random_like(one: sae.SAE) -> sae.SAE:
    rows = torch.randn(one.W_dec.shape, generator=torch.Generator().manual_seed(SEED))
    rows = torch.nn.functional.normalize(rows, dim=-1)
    return sae.SAE(rows.T.contiguous(), one.b_enc, rows, one.b_dec)


if __name__ == "__main__":
    main()
