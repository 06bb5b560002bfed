"""The head-and-MLP graph of a model: which part of it can write what which other part reads.

A node writes into the residual stream; a receiver reads from it. What a receiver reads is the sum of what all
earlier nodes wrote, so each pair of a node and a later receiver is an edge: one term of that sum.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.models.run import n_heads

Edge = tuple[str, str]  # names of a sender and of a receiver


@dataclass(frozen=True)
class EdgeGraph:
    """Nodes and edges of a model, in the order of computation.

    Senders are called ``embed`` (the residual stream that enters the first layer: token embeddings and, where
    they are added there, positions), ``3.5`` (layer 3, head 5) and ``mlp3``. Receivers are ``3.5.q``,
    ``3.5.k``, ``3.5.v``, ``mlp3`` and ``logits``. Keys and values shared by several heads (grouped queries)
    are computed once, so they are one receiver for the group: ``3.1.k`` is then *key-value head* 1. Biases
    belong to no node: they are the same in every run.
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    has_mlps: bool
    parallel: bool  # attention and MLP of a layer read the same stream (GPT-NeoX), so no edge joins them
    senders: tuple[str, ...] = field(init=False, repr=False)
    receivers: tuple[str, ...] = field(init=False, repr=False)
    edges: Bool[Tensor, "sender receiver"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        heads, shared = range(self.n_heads), range(self.n_key_value_heads)
        senders, receivers, reach = ["embed"], [], []  # reach: how many senders each receiver can read from
        for layer in range(self.n_layers):
            inputs = [
                f"{layer}.{head}.{kind}"
                for kind, those in zip("qkv", (heads, shared, shared), strict=True)
                for head in those
            ]
            receivers += inputs
            reach += [len(senders)] * len(inputs)
            below = len(senders)
            senders += [f"{layer}.{head}" for head in heads]
            if self.has_mlps:
                receivers.append(f"mlp{layer}")
                reach.append(below if self.parallel else len(senders))
                senders.append(f"mlp{layer}")
        receivers.append("logits")
        reach.append(len(senders))
        object.__setattr__(self, "senders", tuple(senders))
        object.__setattr__(self, "receivers", tuple(receivers))
        object.__setattr__(self, "edges", torch.arange(len(senders))[:, None] < torch.tensor(reach))

    def __len__(self) -> int:
        """How many edges there are."""
        return int(self.edges.sum())

    def first_sender(self, layer: int) -> int:
        """Index of a layer's first head among the senders."""
        return 1 + layer * (self.n_heads + self.has_mlps)

    def first_receiver(self, layer: int) -> int:
        """Index of a layer's first query among the receivers."""
        return layer * self._inputs_per_layer

    def layer(self, receiver: int) -> int:
        """Layer of a receiver, by its index; ``n_layers`` for the logits."""
        return receiver // self._inputs_per_layer

    def readers(self, receiver: int) -> slice:
        """The senders that a receiver is an input of: a head or an MLP; of shared keys and values, a group of
        heads."""
        layer, place = divmod(receiver, self._inputs_per_layer)
        first = self.first_sender(layer)
        if place < self.n_heads:
            return slice(first + place, first + place + 1)
        group, size = (place - self.n_heads) % self.n_key_value_heads, self.n_heads // self.n_key_value_heads
        if self.has_mlps and place == self._inputs_per_layer - 1:
            group, size = self.n_heads, 1
        return slice(first + group * size, first + (group + 1) * size)

    @property
    def _inputs_per_layer(self) -> int:
        return self.n_heads + 2 * self.n_key_value_heads + self.has_mlps

    def mask(self, edges: Iterable[Edge]) -> Bool[Tensor, "sender receiver"]:
        """The edges of a list, as a mask.

        Raises:
            ValueError: a name that is no node, or a pair that no edge joins.
        """
        mask = torch.zeros_like(self.edges)
        for sender, receiver in edges:
            row, column = _find(self.senders, sender, "sender"), _find(self.receivers, receiver, "receiver")
            if not self.edges[row, column]:
                raise ValueError(
                    f"edges holds {(sender, receiver)}; {sender} should be computed before {receiver}"
                )
            mask[row, column] = True
        return mask

    def names(self, mask: Bool[Tensor, "sender receiver"]) -> list[Edge]:
        """The edges of a mask, as pairs of names, in the order of senders."""
        return [
            (self.senders[row], self.receivers[column]) for row, column in self.check(mask).nonzero().tolist()
        ]

    def top(self, scores: Float[Tensor, "sender receiver"], count: int) -> Bool[Tensor, "sender receiver"]:
        """The edges with the largest absolute scores.

        Raises:
            ValueError: scores of another graph or with NaN, or a count that is not from 1 to the number of
                edges.
        """
        if scores.shape != self.edges.shape or scores.isnan().any():
            raise ValueError(
                f"scores has shape {tuple(scores.shape)}{' and NaN' * bool(scores.isnan().any())}; it "
                f"should be numbers of shape {tuple(self.edges.shape)}, as eap gives them"
            )
        if not 1 <= count <= len(self):
            raise ValueError(f"count is {count}; it should be from 1 to {len(self)}, the number of edges")
        size = scores.detach().abs().cpu().masked_fill(~self.edges, -1)
        mask = torch.zeros(size.numel(), dtype=torch.bool)
        mask[size.flatten().topk(count).indices] = True
        return mask.view_as(size)

    def per_head(self, scores: Float[Tensor, "sender receiver"]) -> Float[Tensor, "layer head"]:
        """For each head the largest absolute score of the edges that leave it (to compare edges with a list
        of heads).

        Of a mask as numbers (``mask.float()``) it is 1 where a head has an edge left that it writes to.
        """
        best = scores.abs().masked_fill(~self.edges.to(scores.device), 0).amax(dim=1)
        width = self.n_heads + self.has_mlps
        return best[1:].view(self.n_layers, width)[:, : self.n_heads]

    def check(
        self, mask: Bool[Tensor, "sender receiver"], name: str = "mask"
    ) -> Bool[Tensor, "sender receiver"]:
        """The mask, if it is one of this graph's edges.

        Raises:
            ValueError: another shape, or a pair that no edge joins.
        """
        if mask.shape != self.edges.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"{name} is {mask.dtype} of shape {tuple(mask.shape)}; it should be a mask of shape "
                f"{tuple(self.edges.shape)}, senders x receivers"
            )
        mask = mask.cpu()
        if (mask & ~self.edges).any():
            row, column = (mask & ~self.edges).nonzero()[0].tolist()
            raise ValueError(
                f"{name} holds the pair {self.senders[row]}, {self.receivers[column]}; it should hold "
                "only edges, from a node to one computed later"
            )
        return mask


def edge_graph(model: TransformerBridge) -> EdgeGraph:
    """The model's head-and-MLP graph; smollm2-135m has 70,651 edges in it, GPT-2 small 32,491."""
    cfg = model.cfg
    return EdgeGraph(
        cfg.n_layers,
        n_heads(model),
        n_heads(model, "k"),
        not getattr(cfg, "attn_only", False),
        bool(getattr(cfg, "parallel_attn_mlp", False)),
    )


def _find(names: tuple[str, ...], name: str, what: str) -> int:
    if name not in names:
        raise ValueError(f"{what} is {name!r}; it should be one of {', '.join(names[:3])} ... {names[-1]}")
    return names.index(name)
