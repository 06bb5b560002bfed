"""The transcoders of ``atlas`` and ``atlas-lookup``, and their Pareto table.

``python -m mi_workshop.makers.atlas_transcoders``
The two cross-layer transcoders that ship have seed 0, fixed before any training. The table sets cross-layer
ones (CLT) beside per-layer ones (PLT) of as many features, PLTs of as many parameters, and the MLPs' own
neurons, at three levels of sparsity, three seeds each; held-out prompts throughout. Finished trainings are
kept in the cache, so an interrupted run goes on. Some 40 minutes on one core.
"""

import json
from dataclasses import replace

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import atlas, config, data_files, harvest, models, transcoders
from mi_utils.models.run import attached, hook_name
from mi_utils.transcoders.settings import TranscoderSettings
from mi_utils.transcoders.shipped import FILES
from mi_utils.transcoders.training import train
from mi_utils.transcoders.transcoders import Transcoders
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.atlas_transcoders"
TABLE = "transcoders_pareto.json"
SENTENCES, SAMPLE = 12_000, 20_000  # training sentences; tokens from which a training starts
SHIPPED = TranscoderSettings(features=512, kind="clt", k=6, steps=8_000, seed=0)
POINT = replace(SHIPPED, steps=1_500)  # of the table: what a notebook can train
KINDS = {
    "clt": {"kind": "clt"},
    "plt": {"kind": "plt"},
    # a CLT of 4 layers has 3.5 blocks a feature, a PLT 2
    "plt, equal parameters": {"kind": "plt", "features": 896},
}
KS, SEEDS = (3, 6, 12), (0, 1, 2)


def trained(
    model: TransformerBridge, settings: TranscoderSettings, data: tuple[Tensor, Tensor]
) -> Transcoders:
    """Transcoders with these settings, from the cache where they were trained before."""
    folder = config.cache_dir() / "atlas_transcoders_recipe"
    folder.mkdir(parents=True, exist_ok=True)
    s = settings
    file = folder / f"{model.cfg.model_name}-{s.kind}-{s.features}-{s.k}-{s.steps}-{s.seed}.safetensors"
    if not file.is_file():
        x, y = data
        sample = (x[:, :SAMPLE], y[:, :SAMPLE])
        done = train(settings, sample, transcoders.batches(x, y, seed=s.seed), model=model.cfg.model_name)
        transcoders.save(done.transcoders, file)
    return transcoders.load(file)


def agreement(model: TransformerBridge, run) -> dict[str, float]:
    """By task, the share of held-out prompts on which ``run(tokens)`` has the model's own likeliest answer,
    and KL."""
    found, kl, count = {}, 0.0, 0
    for task, made in transcoders.held_out().items():
        same = []
        for tokens, _ in transcoders.answers(model, made):
            at = transcoders.answer_positions(tokens)
            compared = transcoders.compare(model(tokens), run(tokens), tokens, at)
            same.append(compared.same)
            kl, count = kl + compared.kl * len(tokens), count + len(tokens)
        found[task] = torch.cat(same).float().mean().item()
    return found | {"kl": kl / count}


def measured(model: TransformerBridge, made: Transcoders, test: tuple[Tensor, Tensor]) -> dict:
    """A row of the table."""
    fit = transcoders.evaluate(made, *test)
    by_task = agreement(model, lambda tokens: transcoders.run(model, made, tokens))
    return _row(by_task, fit.l0.sum().item(), fit.fvu) | {
        "parameters": made.n_parameters,
        "dead": round(fit.dead, 3),
    }


def _row(by_task: dict[str, float], l0: float, fvu: Tensor) -> dict:
    """In the file the fraction of variance unexplained is called ``nmse``."""
    kl = by_task.pop("kl")
    return {
        "l0": round(l0, 2),
        "nmse": round(fvu.mean().item(), 4),
        "nmse_by_layer": [round(value, 4) for value in fvu.tolist()],
        "agreement": round(sum(by_task.values()) / len(by_task), 4),
        "kl": round(kl, 4),
        "agreement_by_task": {task: round(value, 4) for task, value in by_task.items()},
    }


def neurons(model: TransformerBridge, k: int, data: tuple[Tensor, Tensor], texts: list[list[str]]) -> dict:
    """The ``k`` neurons of each MLP that write most are kept for each token, the others held at their
    mean."""
    n = model.cfg.n_layers
    names = [hook_name(model, "mlp_post", layer) for layer in range(n)]
    lengths = torch.stack([block.mlp.W_out.detach().norm(dim=-1) for block in model.blocks])
    posts = _posts(model, texts, names)
    means = posts.mean(dim=1)
    fvu = []
    for layer, block in enumerate(model.blocks):
        left = posts[layer] - _strongest(posts[layer], means[layer], lengths[layer], k)
        missed = left @ block.mlp.W_out.detach()
        wanted = data[1][layer]
        fvu.append(missed.square().sum() / (wanted - wanted.mean(dim=0)).square().sum())

    def run(tokens: Tensor) -> Tensor:
        def hook(layer: int):
            def edit(value, hook):
                value = value.clone()
                value[:, 1:] = _strongest(value[:, 1:], means[layer], lengths[layer], k)
                return value

            return edit

        with attached(model, [(names[layer], hook(layer)) for layer in range(n)]):
            return model(tokens)

    row = _row(agreement(model, run), float(n * k), torch.stack(fvu))
    return row | {
        "kind": "neurons",
        "features": lengths.shape[1],
        "k": k,
        "seed": 0,
        "parameters": 0,
        "dead": 0.0,
    }


def _posts(model: TransformerBridge, texts: list[list[str]], names: list[str]) -> Tensor:
    parts = []
    for length in sorted({len(text) for text in texts}):  # the order of ``transcoders.mlp_activations``
        tokens = atlas.encode(model, [" ".join(text) for text in texts if len(text) == length])
        parts.append(harvest.activations(model, tokens, names, batch_size=256))
    return torch.cat(parts, dim=1)


def _strongest(posts: Tensor, means: Tensor, lengths: Tensor, k: int) -> Tensor:
    moved = posts - means
    chosen = (moved.abs() * lengths).topk(k, dim=-1).indices
    return means + torch.zeros_like(moved).scatter(-1, chosen, moved.gather(-1, chosen))


@torch.no_grad()
def test_data(model: TransformerBridge) -> tuple[tuple[Tensor, Tensor], list[list[str]]]:
    """What the MLPs read and write on held-out sentences, and the sentences."""
    texts = [[*p.text.split(), p.answer] for made in transcoders.held_out().values() for p in made]
    return transcoders.mlp_activations(model, texts), texts


def main() -> None:
    """Train what ships, then the table."""
    for name in ("atlas", "atlas-lookup"):
        model = models.load_model(name)
        data = transcoders.mlp_activations(
            model, transcoders.sentences(SENTENCES), thin=transcoders.atlas_mlps.THIN
        )
        transcoders.save(trained(model, SHIPPED, data), data_files.folder() / FILES[name])
        data_files.record(
            FILES[name],
            licence="MIT",
            source=f"trained on what the MLPs of {name} read and write",
            command=COMMAND,
        )
    model = models.load_model("atlas")
    data = transcoders.mlp_activations(
        model, transcoders.sentences(SENTENCES), thin=transcoders.atlas_mlps.THIN
    )
    test, texts = test_data(model)
    points = []
    for seed in SEEDS:  # the one that ships has the first; the others show the spread
        settings = replace(SHIPPED, seed=seed)
        row = measured(model, trained(model, settings, data), test)
        kind = "shipped" if seed == SHIPPED.seed else "shipped, another seed"
        points.append({"kind": kind, "features": settings.features, "k": settings.k, "seed": seed} | row)
        say(json.dumps(points[-1]))
    for k in KS:
        points.append(neurons(model, k, test, texts))
        for seed in SEEDS:
            for kind, changed in KINDS.items():
                settings = replace(POINT, k=k, seed=seed, **changed)
                row = measured(model, trained(model, settings, data), test)
                points.append({"kind": kind, "features": settings.features, "k": k, "seed": seed} | row)
                say(json.dumps(points[-1]))
    text = json.dumps({"steps": POINT.steps, "points": points}, indent=1)
    data_files.write(text + "\n", data_files.folder() / TABLE)
    data_files.record(TABLE, licence="MIT", source="trained and measured on atlas", command=COMMAND)


if __name__ == "__main__":
    main()
