"""Graphs that the tests of graph files and of the graph browser share: one by hand, and random ones of any
size."""

import random

import torch

from mi_utils import graphs
from mi_utils.graphs.file import EMBEDDING, ERROR, LOGIT, GraphFile, Link, Node
from mi_utils.graphs.graph import Graph, Pruned

HOSTILE = "</script><script>window.taken=1</script><img src=x onerror=\"window.taken=1;alert('taken')\">"

# Two layers, three tokens, three features, two logits. Nodes: 0-2 features, 3-8 errors, 9-11 tokens, 12-13
# logits.
PROMPT = ("<|endoftext|>", " Dallas", " is")
EDGES = {(0, 10): 1.5, (1, 0): -0.25, (1, 9): 0.125, (2, 0): 0.5, (12, 1): 2.0, (12, 5): -0.75, (13, 2): 1.0}
DROPPED = (3, 4, 6, 7, 8)  # of the errors, only that of layer 0 at position 2 is kept


def pruned(**changes):
    """A small graph, as if ``graphs.prune`` had kept these nodes and edges."""
    adjacency = torch.zeros(14, 14)
    for (target, source), weight in EDGES.items():
        adjacency[target, source] = weight
    edges = adjacency != 0
    adjacency[1, 3] = 9.0  # pruned away
    nodes = torch.ones(14, dtype=torch.bool)
    nodes[list(DROPPED)] = False
    graph = Graph(
        model="tiny",
        transcoders="by hand",
        prompt=PROMPT,
        token_ids=torch.tensor([0, 41, 57]),
        n_layers=2,
        features=torch.tensor([[0, 1, 7], [1, 2, 3], [1, 2, 40]]),
        activations=torch.tensor([2.0, 0.5, 1.25]),
        logits=torch.tensor([88, 41]),
        probabilities=torch.tensor([0.75, 0.2]),
        adjacency=adjacency,
        bias=torch.zeros(14),
        left_out=torch.zeros(14),
    )
    cumulative = torch.linspace(0.25, 0.75, 14)
    whole = {
        "graph": graph,
        "nodes": nodes,
        "edges": edges,
        "influence": cumulative.flip(0),
        "cumulative": cumulative,
    }
    return Pruned(**whole | changes)


LABELS = {(0, 7): "the state of Dallas", (1, 40): "say a capital"}


def small(**labels) -> GraphFile:
    return graphs.from_graph(
        pruned(), slug="dallas", labels=LABELS, logit_tokens=[" Austin", " Dallas"], **labels
    )


def by_hand(label: str = "the state of Dallas", token: str = " Dallas", **state) -> GraphFile:
    """The graph of ``small`` again, without what it takes to make it from a model."""
    rest = {"influence": 0.5, "activation": None}
    nodes = [
        graphs.feature_node(0, 1, 7, label, {"influence": 0.25, "activation": 2.0}),
        graphs.feature_node(1, 2, 3, "", {"influence": 0.75, "activation": 0.5}),
        graphs.feature_node(1, 2, 40, "say a capital", {"influence": 0.5, "activation": 1.25}),
        Node("0_-1_2", -1, "0", 2, ERROR, "0_-1-2", "", {"influence": 0.7}),
        *(
            Node(f"E_{i}_{i}", i, "E", i, EMBEDDING, f"E_{i}", text, rest)
            for i, text in enumerate(("<s>", token, " is"))
        ),
        Node("3_88_2", 88, "3", 2, LOGIT, "L_88", 'Output " Austin" (p=0.750)', {"token_prob": 0.75}),
        Node("3_41_2", 41, "3", 2, LOGIT, "L_41", f'Output "{token}" (p=0.200)', {"token_prob": 0.2}),
    ]
    names = dict(zip([0, 1, 2, 5, 9, 10, 11, 12, 13], [one.node_id for one in nodes], strict=True))
    links = tuple(Link(names[source], names[target], weight) for (target, source), weight in EDGES.items())
    words = ["<s>", token, " is"]
    metadata = {
        "slug": "dallas",
        "scan": "tiny",
        "prompt_tokens": words,
        "prompt": "".join(words),
        "schema_version": 1,
    }
    return GraphFile(metadata, state, tuple(nodes), links)


def large(
    n_nodes: int, *, n_tokens: int = 10, n_layers: int = 8, n_links: int | None = None, label=None
) -> GraphFile:
    """A random graph whose links go from earlier layers and positions to later ones; ``n_nodes`` counts all
    kinds."""
    draw = random.Random(n_nodes)
    rest = {
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "activation": None,
    }
    words = ["<|endoftext|>", *(f" word{i}" for i in range(1, n_tokens))]
    nodes = [
        Node(f"E_{i}_{i}", i, "E", i, EMBEDDING, f"E_{i}-{i}", words[i], rest | {"influence": 0.3})
        for i in range(n_tokens)
    ]
    for i, probability in enumerate((0.6, 0.2, 0.1)):
        more = rest | {"influence": None, "token_prob": probability, "is_target_logit": i == 0}
        name, top = f'Output " answer{i}" (p={probability:.3f})', str(n_layers + 1)
        nodes.append(
            Node(f"{top}_{900 + i}_{n_tokens - 1}", 900 + i, top, n_tokens - 1, LOGIT, f"L_{i}", name, more)
        )
    used = set()
    while len(nodes) < n_nodes:
        layer, pos = draw.randrange(n_layers), n_tokens - 1 - int(draw.triangular(0, n_tokens - 1, 0))
        index, influence = draw.randrange(5000), draw.uniform(0.05, 0.8)
        error = draw.random() < 0.15
        if (layer, pos, -1 if error else index) in used:
            continue
        used.add((layer, pos, -1 if error else index))
        if error:
            where = f"{layer}_-1_{pos}"
            nodes.append(Node(where, -1, str(layer), pos, ERROR, where, "", rest | {"influence": influence}))
        else:
            text = label if label is not None else f"label of {index}" if index % 3 else ""
            more = rest | {"influence": influence, "activation": draw.expovariate(0.5)}
            nodes.append(graphs.feature_node(layer, pos, index, text, more))
    metadata = {
        "slug": f"random-{n_nodes}",
        "scan": "tiny",
        "transcoder_list": [],
        "prompt_tokens": words,
        "prompt": "".join(words),
        "schema_version": 1,
    }
    return GraphFile(metadata, {}, tuple(nodes), tuple(_links(nodes, n_links or 6 * n_nodes, draw)))


def _links(nodes, count, draw):
    height = {node.node_id: -1 if node.layer == "E" else int(node.layer) for node in nodes}
    found = {}
    for _ in range(50 * count):
        source, target = draw.sample(nodes, 2)
        if target.feature_type in (EMBEDDING, ERROR) or source.feature_type == LOGIT:
            continue
        if height[source.node_id] < height[target.node_id] and source.ctx_idx <= target.ctx_idx:
            weight = draw.choice((1, 1, -1)) * draw.expovariate(1)
            found[source.node_id, target.node_id] = Link(source.node_id, target.node_id, weight)
        if len(found) == count:
            break
    return found.values()
