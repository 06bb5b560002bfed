"""A two-layer transformer wired by hand: it answers *capital Dallas is* in two hops, and its true graph is
known.

Each dimension of the stream means one thing, each neuron detects one thing, and each head moves one thing.
Its transcoders are its neurons, exactly, so an attribution graph of it has a right answer (``true_edges``):

* layer 0: neurons at the city look up its state, and say that this is a city; a head carries the relation to
  *is*, where a neuron says what is asked for;
* layer 1: a head carries state and *a city* to *is*; a neuron for each pair of state and relation writes the
  answer, and the neuron *unsure*, which *a city* switches on and a state holds down, writes *unknown* and
  against all answers.

*Atlantis* is a city without a state. Norms are RMSNorms, positions are not used, and the MLPs are ReLUs with
biases.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.graphs.graph import Graph
from mi_utils.transcoders.transcoders import TranscoderKind, Transcoders

NAME = "hand-wired"
CITIES = {
    "Dallas": "Texas",
    "Houston": "Texas",
    "Oakland": "California",
    "Fresno": "California",
    "Atlantis": None,
}
ANSWERS = {
    ("Texas", "capital"): "Austin",
    ("Texas", "bird"): "Mockingbird",
    ("California", "capital"): "Sacramento",
    ("California", "bird"): "Quail",
}
STATES, RELATIONS = ("Texas", "California"), ("capital", "bird")
UNKNOWN = "unknown"
WORDS = ("<bos>", "is", *RELATIONS, *CITIES, *ANSWERS.values(), UNKNOWN)
NEURONS = (
    (*STATES, *(f"asks {relation}" for relation in RELATIONS), "a city"),
    (*(f"{state} + {relation}" for state, relation in ANSWERS), "unsure"),
)
# What a dimension of the residual stream means; words that are only ever answers need none of their own.
_BROUGHT = tuple(f"{name}, brought" for name in (*STATES, "a city"))
_DIMS = (
    *WORDS[: 4 + len(CITIES)],
    "any relation",
    "any city",
    *NEURONS[0],
    *_BROUGHT,
    *(f"say {w}" for w in WORDS[-5:]),
)
_DIM = {name: place for place, name in enumerate(_DIMS)}
_CONTEXT = 8


def hand_wired_model() -> TransformerBridge:
    """The model, with its tokenizer (words split at spaces; ``atlas.encode`` puts ``<bos>`` in front)."""
    config = TransformerBridgeConfig(
        n_layers=2,
        n_heads=2,
        d_model=len(_DIMS),
        d_head=4,
        d_mlp=len(NEURONS[0]),
        d_vocab=len(WORDS),
        n_ctx=_CONTEXT,
        normalization_type="RMSPre",
        act_fn="relu",
        seed=0,
    )
    model = TransformerBridge.boot_native(config, model_name=NAME)
    with torch.no_grad():
        for parameter in model.original_model.parameters():
            parameter.zero_().requires_grad_(False)
        _embed(model)
        _relation_head(model.blocks[0].attn)
        _city_head(model.blocks[1].attn)
        _lookup(model.blocks[0].mlp)
        _answer(model.blocks[1].mlp)
    model.tokenizer = _tokenizer()
    return model.eval()


def _write(matrix: Tensor, rows: Sequence[int], dims: Sequence[str], value: float | int) -> None:
    """Put a value where each row meets the dimension of the stream of the same place."""
    for row, dim in zip(rows, dims, strict=True):
        matrix[row, _DIM[dim]] = value


def _embed(model: TransformerBridge) -> None:
    known = [word for word in WORDS if word in _DIM]
    _write(model.embed.weight, [WORDS.index(word) for word in known], known, 1)
    _write(model.embed.weight, [WORDS.index(word) for word in CITIES], ["any city"] * len(CITIES), 1)
    _write(
        model.embed.weight, [WORDS.index(word) for word in RELATIONS], ["any relation"] * len(RELATIONS), 1
    )
    answers = WORDS[-5:]
    _write(
        model.unembed.weight, [WORDS.index(word) for word in answers], [f"say {word}" for word in answers], 2
    )


def _relation_head(attn: torch.nn.Module) -> None:
    """Head 0 of layer 0: from *is* to the relation; everything else looks at ``<bos>``, where nothing is
    carried."""
    _looks(attn, head=0, at="any relation")
    _carries(attn, head=0, dims=RELATIONS, to=RELATIONS)


def _city_head(attn: torch.nn.Module) -> None:
    """Head 1 of layer 1: from *is* to the city."""
    _looks(attn, head=1, at="any city")
    _carries(attn, head=1, dims=(*STATES, "a city"), to=_BROUGHT)


def _looks(attn: torch.nn.Module, head: int, at: str) -> None:
    first = 4 * head  # its d_head is 4
    _write(attn.q.weight, [first], ["is"], 4)
    _write(attn.k.weight, [first], [at], 8)
    attn.q.bias[first + 1] = 1
    _write(attn.k.weight, [first + 1], ["<bos>"], 8)


def _carries(attn: torch.nn.Module, head: int, dims: Sequence[str], to: Sequence[str]) -> None:
    rows = range(4 * head, 4 * head + len(dims))
    _write(attn.v.weight, rows, dims, 1)
    _write(attn.o.weight.T, rows, to, 0.5)


def _lookup(mlp: torch.nn.Module) -> None:
    reads, bias, writes = (getattr(mlp, "in").weight, getattr(mlp, "in").bias, mlp.out.weight.T)
    for row, state in enumerate(STATES):
        cities = [city for city, of in CITIES.items() if of == state]
        _write(reads, [row] * len(cities), cities, 1)
    _write(reads, [2, 3, 4], [*RELATIONS, "any city"], 1)
    bias[:] = -1
    _write(writes, range(5), NEURONS[0], 0.5)


def _answer(mlp: torch.nn.Module) -> None:
    reads, bias, writes = (getattr(mlp, "in").weight, getattr(mlp, "in").bias, mlp.out.weight.T)
    for row, ((state, relation), word) in enumerate(ANSWERS.items()):
        _write(reads, [row, row], [f"{state}, brought", f"asks {relation}"], 1)
        _write(writes, [row], [f"say {word}"], 2)
    bias[:4] = -3.4  # above either of the two alone, below both
    unsure = 4
    _write(reads, [unsure], ["a city, brought"], 1)
    _write(reads, [unsure] * 2, [f"{state}, brought" for state in STATES], -0.6)
    bias[unsure] = -0.25
    _write(writes, [unsure], [f"say {UNKNOWN}"], 1)
    _write(writes, [unsure] * 4, [f"say {word}" for word in ANSWERS.values()], -0.5)


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=WORDS[0], eos_token=WORDS[0], pad_token=WORDS[0]
    )


@torch.no_grad()
def hand_wired_transcoders(
    model: TransformerBridge, *, kind: TranscoderKind = "plt", without: Sequence[str] = ()
) -> Transcoders:
    """Transcoders whose features are the model's neurons.

    Args:
        model: from ``hand_wired_model``.
        kind: ``plt``, or ``clt`` with decoders to later layers that write nothing.
        without: neurons to leave out, by their names in ``NEURONS``: what they write then becomes error.

    Raises:
        ValueError: a neuron that does not exist.
    """
    if unknown := [name for name in without if name not in NEURONS[0] + NEURONS[1]]:
        raise ValueError(f"without has {unknown[0]!r}; neurons are {', '.join(NEURONS[0] + NEURONS[1])}")
    mlps = [block.mlp for block in model.blocks]
    kept = torch.tensor([[float(name not in without) for name in names] for names in NEURONS])
    encoders = torch.stack([getattr(mlp, "in").weight.T for mlp in mlps]) * kept[:, None]
    decoders = [mlp.out.weight.T.clone()[None] for mlp in mlps]
    if kind == "clt":
        decoders[0] = torch.cat([decoders[0], torch.zeros_like(decoders[0])])
    return Transcoders(
        W_enc=encoders,
        b_enc=torch.stack([getattr(mlp, "in").bias for mlp in mlps]) * kept,
        threshold=torch.zeros_like(kept),
        W_dec=tuple(decoders),
        b_dec=torch.stack([mlp.out.bias for mlp in mlps]),
        kind=kind,
        model=NAME,
    )


def node_names(graph: Graph) -> list[str]:
    """What each node of a graph of this model stands for, such as ``Texas @ Dallas``."""
    words, layers = graph.prompt, range(graph.n_layers)
    features = [
        f"{NEURONS[layer][index]} @ {words[position]}" for layer, position, index in graph.features.tolist()
    ]
    errors = [f"error {layer} @ {word}" for layer in layers for word in words]
    return [*features, *errors, *words, *(f"say {WORDS[token]}" for token in graph.logits.tolist())]


def true_edges(relation: str, city: str) -> dict[tuple[str, str], int]:
    """The edges of the prompt *relation city is*, and whether each raises (1) or lowers (-1) its target.

    Keys are (source, target) as ``node_names`` gives them; edges into logits other than the answer's are left
    out.

    Raises:
        ValueError: no such relation or city.
    """
    if relation not in RELATIONS or city not in CITIES:
        raise ValueError(
            f"relation and city are {relation!r} and {city!r}; they should be one of "
            f"{', '.join(RELATIONS)} and one of {', '.join(CITIES)}"
        )
    state, asks = CITIES[city], f"asks {relation}"
    edges = {
        (relation, f"{asks} @ {relation}"): 1,  # the word itself; it leads nowhere
        (relation, f"{asks} @ is"): 1,
        (city, f"a city @ {city}"): 1,
        (f"a city @ {city}", "unsure @ is"): 1,
    }
    if state is None:
        return edges | {("unsure @ is", f"say {UNKNOWN}"): 1}
    both, answer = f"{state} + {relation} @ is", f"say {ANSWERS[state, relation]}"
    return edges | {
        (city, f"{state} @ {city}"): 1,
        (f"{state} @ {city}", both): 1,
        (f"{asks} @ is", both): 1,
        (f"{state} @ {city}", "unsure @ is"): -1,
        (both, answer): 1,
        ("unsure @ is", answer): -1,
    }
