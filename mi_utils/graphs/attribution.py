"""Attribution graphs: how the features of one prompt make each other and the answer (Ameisen et al. 2025).

A graph's nodes are active features, errors (what the transcoders miss, by layer and position), the tokens'
embeddings and a few logits. An edge is a direct effect in the local replacement model
(``mi_utils.graphs.local``): what the source adds to the target's pre-activation through residual stream,
frozen attention and skips, and through no other feature. All edges into a target, with what the biases add,
sum to its pre-activation; for a logit, to its distance from the mean logit.

Edges are found backwards, a batch of targets at a time: the target's encoder is carried down the layers, and
at each MLP output its product with every source's decoder is an edge.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from mi_utils import models
from mi_utils.graphs.graph import Graph, influence, normalised
from mi_utils.graphs.local import LocalModel

TARGETS = 256  # carried down the layers at once
MOST_FEATURES = 2_000


@torch.no_grad()
def attribution_graph(
    local: LocalModel,
    *,
    max_features: int = MOST_FEATURES,
    logit_mass: float = 0.95,
    max_logits: int = 10,
    through_skip: bool = True,
) -> Graph:
    """The attribution graph of a prompt's local replacement model.

    Where more features are active than ``max_features``, those with the largest influence on the logits are
    kept, found a batch at a time as circuit-tracer does; what the others add to a target is summed in
    ``left_out``. It bounds memory: the graph itself takes (nodes)² numbers, and finding it ``max_features``
    times all active.

    Args:
        local: from ``graphs.local_model``.
        max_features: feature nodes at most.
        logit_mass, max_logits: logit nodes are the likeliest tokens that hold this much probability, at most
            so many.
        through_skip: let effects pass through skips; without them an edge has only residual stream and
            attention.

    Raises:
        ValueError: a number out of range.
    """
    if max_features < 1 or max_logits < 1 or not 0 < logit_mass <= 1:
        raise ValueError(
            f"max_features, max_logits and logit_mass are {max_features}, {max_logits} and {logit_mass}; "
            "they should "
            "be at least 1, at least 1, and above 0 up to 1"
        )
    walk = _Walk(local, through_skip)
    probabilities = local.logits.softmax(dim=-1)
    values, tokens = probabilities.topk(min(max_logits, len(probabilities)))
    count = min(int((values.cumsum(0) < logit_mass).sum()) + 1, len(values))
    values, tokens = values[:count], tokens[:count]
    logit_rows, logit_bias = walk.from_logits(tokens)
    active = len(local.active)
    if active <= max_features:
        chosen = torch.arange(active)
        rows, bias = walk.from_features(chosen)
    else:
        chosen, rows, bias = _most_influential(walk, logit_rows, values, max_features)
    return _assemble(
        local, walk, chosen, torch.cat([rows, logit_rows]), torch.cat([bias, logit_bias]), tokens, values
    )


def _most_influential(
    walk: "_Walk", logit_rows: Tensor, weights: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features in the order in which they prove influential, until there are ``most``; their rows and
    biases."""
    active = len(walk.local.active)
    seen = torch.zeros(active, dtype=torch.bool)
    chosen = torch.empty(0, dtype=torch.int64)
    rows, bias = logit_rows.new_empty(0, logit_rows.shape[1]), logit_rows.new_empty(0)
    direct = weights @ normalised(logit_rows)  # what reaches the logits without another feature
    while len(chosen) < most:
        through = normalised(rows)
        among = influence(through[:, chosen], direct[chosen]) + direct[chosen]
        reach = (direct + among @ through)[:active]
        reach[seen] = -1
        found = reach.topk(min(TARGETS, most - len(chosen))).indices
        new_rows, new_bias = walk.from_features(found.sort().values)
        chosen = torch.cat([chosen, found.sort().values])
        rows, bias, seen[found] = torch.cat([rows, new_rows]), torch.cat([bias, new_bias]), True
    order = chosen.argsort()
    return chosen[order], rows[order], bias[order]


def _assemble(local, walk, chosen, rows, bias, tokens, probabilities) -> Graph:
    n_active, n_other, n = len(local.active), rows.shape[1] - len(local.active), len(chosen)
    size = n + n_other + len(tokens)
    targets = torch.cat([torch.arange(n), torch.arange(size - len(tokens), size)])
    adjacency, biases, left_out = torch.zeros(size, size), torch.zeros(size), torch.zeros(size)
    adjacency[targets[:, None], torch.arange(n)] = rows[:, chosen]
    adjacency[targets[:, None], torch.arange(n, n + n_other)] = rows[:, n_active:]
    biases[targets] = bias
    unseen = torch.ones(n_active, dtype=torch.bool)
    unseen[chosen] = False
    left_out[targets] = rows[:, :n_active][:, unseen].sum(dim=1)
    features = local.active[chosen]
    return Graph(
        model=local.model.cfg.model_name,
        transcoders=repr(local.transcoders),
        prompt=tuple(local.model.tokenizer.decode([int(token)]) for token in local.tokens),
        token_ids=local.tokens,
        n_layers=local.n_layers,
        features=features,
        activations=local.features[tuple(features.T)],
        logits=tokens,
        probabilities=probabilities,
        adjacency=adjacency,
        bias=biases,
        left_out=left_out,
        n_active=n_active,
    )


class _Walk:
    """Rows of the adjacency matrix: targets are carried down the layers, ``TARGETS`` at a time.

    Columns of a row are all active features (as in ``LocalModel.active``), the errors and the tokens.
    """

    def __init__(self, local: LocalModel, through_skip: bool) -> None:
        self.local, self.through_skip = local, through_skip and local.transcoders.W_skip is not None
        layers, positions, indices = local.active.T
        values = local.features[layers, positions, indices]
        # what each active feature writes to each MLP output, by position: [(columns, what they write)]
        self.writes: list[list[tuple[Tensor, Tensor]]] = []
        for target in range(local.n_layers):
            by_position = []
            for position in range(local.n_pos):
                here = ((layers <= target) & (positions == position)).nonzero().flatten()
                if local.transcoders.kind == "plt":
                    here = here[layers[here] == target]
                if len(here):
                    decoders = self._decoders(layers[here], indices[here], target)
                    by_position.append((position, here, decoders * values[here, None]))
            self.writes.append(by_position)

    def _decoders(self, layers: Tensor, indices: Tensor, target: int) -> Tensor:
        found = torch.empty(len(layers), self.local.transcoders.d_model)
        for layer in layers.unique().tolist():
            which = layers == layer
            found[which] = self.local.transcoders.decoder(layer, target)[indices[which]]
        return found

    def from_features(self, numbers: Int[Tensor, "target"]) -> tuple[Tensor, Tensor]:
        """Rows and biases of active features, by their number in ``LocalModel.active``."""
        if not len(numbers):
            return torch.empty(0, self._columns), torch.empty(0)
        parts = [self._feature_rows(part) for part in numbers.split(TARGETS)]
        return torch.cat([rows for rows, _ in parts]), torch.cat([bias for _, bias in parts])

    def _feature_rows(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        local, t = self.local, self.local.transcoders
        layers, positions, indices = local.active[numbers].T
        starts = {}
        for layer in layers.unique().tolist():
            which = (layers == layer).nonzero().flatten()
            encoders = models.centred(local.model, t.W_enc[layer][:, indices[which]].T)
            starts[layer] = (which, positions[which], encoders / local.mlp_scale[layer][positions[which]])
        rows, bias = self._down(starts, len(numbers))
        return rows, bias + t.b_enc[layers, indices]

    def from_logits(self, tokens: Int[Tensor, "target"]) -> tuple[Tensor, Tensor]:
        """Rows and biases of logits at the last position, each less the mean of all logits."""
        local = self.local
        W_U, b_U = local.model.W_U.detach(), local.model.b_U
        wanted = (W_U[:, tokens] - W_U.mean(dim=1, keepdim=True)).T
        last = torch.full_like(tokens, local.n_pos - 1)
        start = models.centred(local.model, wanted) / local.final_scale[-1]
        rows, bias = self._down({local.n_layers: (torch.arange(len(tokens)), last, start)}, len(tokens))
        return rows, bias if b_U is None else bias + (b_U[tokens] - b_U.mean()).detach()

    @property
    def _columns(self) -> int:
        return len(self.local.active) + (self.local.n_layers + 1) * self.local.n_pos

    def _down(self, starts: dict[int, tuple[Tensor, Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
        """Carry targets from what they read down to the embeddings.

        ``starts[layer]`` has the numbers of the targets that begin at that layer's MLP (``n_layers``: at the
        end), the position at which each reads, and the direction it reads there.
        """
        local = self.local
        rows, bias = torch.zeros(count, self._columns), torch.zeros(count)
        all_g = torch.zeros(count, local.n_pos, local.transcoders.d_model)
        first = count  # targets come sorted by layer, so those that have begun are the last ones
        for layer in range(max(starts), -1, -1):
            if layer in starts:
                which, positions, directions = starts[layer]
                all_g[which, positions] += directions
                first = min(first, int(which.min()))
            g, into, biases = all_g[first:], rows[first:], bias[first:]
            if (
                layer < local.n_layers and not local.parallel
            ):  # from what the MLP reads to what the block reads
                g += self._through_attention(g, layer, biases)
            if layer == 0:
                break
            self._at_mlp_output(g, layer - 1, into, biases)
            below = self._through_skip(g, layer - 1) if self.through_skip else 0
            if local.parallel:
                below = below + self._through_attention(g, layer - 1, biases)
            g += below
        rows[:, -local.n_pos :] = (all_g * local.stream[0]).sum(dim=-1)
        return rows, bias

    def _through_attention(self, g: Tensor, layer: int, bias: Tensor) -> Tensor:
        """The transpose of frozen attention: from what a block's attention writes to what it reads."""
        local = self.local
        W_V, W_O = (w[layer] for w in local.value_weights)
        bias += g.sum(dim=1) @ local.attn_bias[layer]
        heads = torch.einsum("nqd,hed->nhqe", g, W_O)
        back = torch.einsum("hqp,nhqe->nhpe", local.patterns[layer], heads)
        read = torch.einsum("nhpe,hde->npd", back, W_V)
        return models.centred(local.model, read) / local.attn_scale[layer]

    def _through_skip(self, g: Tensor, layer: int) -> Tensor:
        local = self.local
        read = (g * local.replaced[:, None]) @ local.transcoders.W_skip[layer].T
        return models.centred(local.model, read) / local.mlp_scale[layer]

    def _at_mlp_output(self, g: Tensor, layer: int, rows: Tensor, bias: Tensor) -> None:
        local, first = self.local, len(self.local.active) + layer * self.local.n_pos
        for position, columns, writes in self.writes[layer]:
            rows[:, columns] += g[:, position] @ writes.T
        rows[:, first : first + local.n_pos] = (g * local.errors[layer]).sum(dim=-1)
        bias += (g * local.replaced[:, None]).sum(dim=1) @ local.transcoders.b_dec[layer]


def check_sums(local: LocalModel, graph: Graph) -> tuple[float, float]:
    """How far incoming edges, biases and what was left out are from what they should sum to.

    Returns:
        The largest difference over features (from their pre-activation) and over logits (from the mean
        logit).
    """
    total = graph.adjacency.sum(dim=1) + graph.bias + graph.left_out
    wanted = local.logits[graph.logits] - local.logits.mean()
    off_features = (total[: graph.n_features] - graph.activations).abs()
    return float(off_features.max()) if len(off_features) else 0.0, float(
        (total[graph.logit_nodes] - wanted).abs().max()
    )
