"""How good the transcoders of the default model are: ``python -m mi_workshop.makers.transcoders_card``.

On held-out text, beside three stand-ins that explain nothing: the mean output of each MLP, the best linear
map (ridge regression on training text), and the skip that was trained with the features, alone. Some 15
minutes on two cores.
"""

import json

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import corpus, data_files, harvest, models, transcoders
from mi_utils.transcoders.transcoders import Transcoders
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.transcoders_card"
FILE = "transcoders_card.json"
PIECE = 128  # contexts in memory at once
FIT, TEST = 1_024, 256  # contexts for the ridge maps (about 130,000 tokens), and for the unexplained variance
WHOLE, EACH = 24, 6  # contexts for replaced runs: of many layers at once, and of each layer by itself
LAST = 10


def pieces(model: TransformerBridge, contexts: Tensor):
    """What the MLPs read and write, piece by piece, without massive tokens."""
    n = model.cfg.n_layers
    for part in contexts.split(PIECE):
        both = harvest.drop_massive(harvest.activations(model, part, transcoders.mlp_names(model)))
        yield both[:n], both[n:]


def ridge(model: TransformerBridge, contexts: Tensor) -> Transcoders:
    """The best linear map for each MLP, as transcoders with a skip and one feature that never fires."""
    n, d = model.cfg.n_layers, model.cfg.d_model
    gram = torch.zeros(n, d + 1, d + 1, dtype=torch.float64)
    cross = torch.zeros(n, d + 1, d, dtype=torch.float64)
    count = 0
    for x, y in pieces(model, contexts):
        for layer in range(n):
            inputs = torch.cat([x[layer].float(), torch.ones(x.shape[1], 1)], dim=1)
            gram[layer] += (inputs.T @ inputs).double()
            cross[layer] += (inputs.T @ y[layer].float()).double()
        count += x.shape[1]
    size = gram.diagonal(dim1=1, dim2=2)[:, :d].mean(dim=1)  # of the inputs, summed over tokens
    penalty = 1e-3 * size[:, None, None] * torch.eye(d + 1, dtype=torch.float64)
    penalty[:, -1, -1] = 0
    solved = torch.linalg.solve(gram + penalty, cross).float()
    nothing = torch.zeros(n, d, 1)
    off = torch.full((n, 1), torch.finfo(torch.float32).max)
    decoders = tuple(torch.zeros(1, 1, d) for _ in range(n))
    say(f"ridge maps from {count:,} tokens")
    return Transcoders(
        W_enc=nothing,
        b_enc=torch.zeros(n, 1),
        threshold=off,
        W_dec=decoders,
        b_dec=solved[:, -1],
        W_skip=solved[:, :-1],
        kind="plt",
        model=model.cfg.model_name,
    )


def unexplained(model: TransformerBridge, kinds: dict[str, Transcoders], contexts: Tensor) -> dict:
    """Unexplained variance by layer of several transcoders on the same tokens, and how full the features
    are."""
    n = model.cfg.n_layers
    error = {name: torch.zeros(n, dtype=torch.float64) for name in kinds}
    first = torch.zeros(n, model.cfg.d_model, dtype=torch.float64)  # sum of the outputs
    second = torch.zeros(n, dtype=torch.float64)  # sum of their squares
    tokens = 0
    fired = torch.zeros(n, next(iter(kinds.values())).n_features)
    for x, y in pieces(model, contexts):
        tokens += x.shape[1]
        for layer in range(n):
            inputs, wanted = x[layer].float(), y[layer].float()
            first[layer] += wanted.double().sum(dim=0)
            second[layer] += wanted.double().square().sum()
            for number, (name, made) in enumerate(kinds.items()):
                features = made.encode(inputs, layer)
                got = made.output([features] * (layer + 1), layer, inputs)
                error[name][layer] += (wanted - got).double().square().sum()
                if number == 0:
                    fired[layer] += (features > 0).sum(dim=0)
    variance = second - first.square().sum(dim=1) / tokens
    found = {name: (e / variance).tolist() for name, e in error.items()}
    return found | {
        "tokens": tokens,
        "l0": (fired.sum(dim=1) / tokens).tolist(),
        "dead": (fired == 0).float().mean(dim=1).tolist(),
        "means": first / tokens,
    }


def replaced(
    model: TransformerBridge, kinds: dict[str, Transcoders | Float[Tensor, "layer d_model"]], contexts
) -> list:
    """Top-1 accuracy against the model's own, loss and KL of replaced runs, over all positions but first and
    last."""
    n, rows = model.cfg.n_layers, []
    own = {size: model(contexts[:size]) for size in (WHOLE, EACH)}
    where = {
        "all": [list(range(n))],
        f"last {LAST}": [list(range(n - LAST, n))],
        "one": [[layer] for layer in range(n)],
    }
    for what, made in kinds.items():
        for name, sets in where.items():
            size = EACH if name == "one" else WHOLE
            for protect in ("first",) if name == "one" else ("first", "massive"):
                found = []
                for layers in sets:
                    logits = transcoders.run(
                        model, made, contexts[:size], layers=layers, protect_massive=protect == "massive"
                    )
                    found.append(transcoders.compare(own[size], logits, contexts[:size]))
                row = {"what": what, "layers": name, "protect": protect}
                for key, value in (
                    ("top1", "agreement"),
                    ("ce", "loss_replaced"),
                    ("ce_model", "loss"),
                    ("kl", "kl"),
                ):
                    row[key] = round(torch.tensor([getattr(one, value) for one in found]).median().item(), 4)
                rows.append(row)
                say(json.dumps(row))
    return rows


def main() -> None:
    """Measure and write ``data/transcoders_card.json``."""
    model = models.load_model(dtype=torch.bfloat16)
    made = transcoders.load_shipped(model)
    linear = ridge(model, corpus.contexts(model, length=128, count=FIT, seed=1))
    kinds = {"full": made, "skip_in_place": transcoders.skip_alone(made), "ridge": linear}
    test = corpus.contexts(model, length=128, split="test", seed=0)
    card = unexplained(model, kinds, test[:TEST])
    means = card.pop("means").float()
    card["lift"] = [1 - full / skip for full, skip in zip(card["full"], card["ridge"], strict=True)]
    del model
    stand_ins = {"mean ablation": means, "ridge skip alone": linear, "skip + latents": made}
    rows = replaced(models.load_model(), stand_ins, test[:WHOLE])
    rounded = {key: [round(v, 4) for v in value] for key, value in card.items() if isinstance(value, list)}
    text = json.dumps({"tokens": card["tokens"], "layers": rounded, "replaced": rows}, indent=1)
    data_files.write(text + "\n", data_files.folder() / FILE)
    data_files.record(
        FILE, licence="MIT", source="measured on corpus.safetensors, test split", command=COMMAND
    )
    lift = torch.tensor(card["lift"])
    say(f"median lift over the skip alone: {lift.median():.3f} ({lift.min():.3f} to {lift.max():.3f})")


if __name__ == "__main__":
    with torch.no_grad():
        main()
