"""Edges ablated exactly, by interchange, and the greedy search for a circuit that is built on it (ACDC).

``run_edges`` is a forward pass node by node: each receiver reads its own sum, in which the senders of kept
edges stand with what they write *in this run* and those of cut edges with what they wrote in the source run.
With every edge kept it is the base run, with every edge cut the source run. Attention and MLPs are
computed by the model's own modules, so rotary positions, grouped queries and biases are the model's.

Source of the method: Conmy et al. 2023 (ACDC).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.circuits.edge_attribution import WRITTEN, check_pairs, node_outputs, watch
from mi_utils.circuits.edges import edge_graph
from mi_utils.models.run import Hook


@dataclass(frozen=True)
class EdgeCircuit:
    """What ACDC found. KL divergences in nats, of the circuit's next-token distribution from the full
    model's."""

    kept: Bool[Tensor, "sender receiver"] = field(repr=False)
    divergence: float  # of the circuit that was found
    at_start: float  # of the edges that the search began with
    runs: int  # forward passes it took


@torch.no_grad()
def run_edges(
    model: TransformerBridge,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    kept: Bool[Tensor, "*circuit sender receiver"],
) -> Float[Tensor, "*circuit batch vocab"]:
    """Logits at the last position of the base prompts with every edge ablated that is not kept.

    Args:
        model: any with blocks of heads and MLPs that add to the stream; float32.
        base, source: prompts in pairs, all of one length.
        kept: a mask over ``edge_graph(model)``'s senders and receivers, or several of them, run one after
            another.

    Raises:
        ValueError: prompts that are not pairs of equal length or do not differ, a mask that holds pairs which
            are no edges, or a model that this forward pass would not compute exactly.
    """
    if not kept.numel():
        raise ValueError(
            f"kept has shape {tuple(kept.shape)}, so it holds no mask; it should hold at least one"
        )
    replay = _Replay(model, base, source)
    circuits = [replay.graph.check(one, "kept") for one in kept.reshape(-1, *kept.shape[-2:])]
    logits = torch.stack([replay.run(one) for one in circuits])
    return logits.view(*kept.shape[:-2], *logits.shape[1:])


@torch.no_grad()
def acdc(
    model: TransformerBridge,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    tau: float | int,
    *,
    candidates: Bool[Tensor, "sender receiver"] | None = None,
    rest: Literal["cut", "kept"] = "cut",
    progress: Callable[[int, int], None] | None = None,
) -> EdgeCircuit:
    """Cut edge after edge, from the logits back to the embeddings, and leave cut what raises the KL by less
    than tau.

    The divergence is that of the next-token distribution at the last position from the full model's on the
    base prompts, averaged over the pairs; each cut is compared with the divergence just before it, so many
    small rises can add up to more than tau. An edge into a node that nothing reads any more is cut without a
    run. An edge takes one forward pass from its receiver's layer on: a search through every edge is for tiny
    models, and for others ``candidates`` holds the few hundred best by ``circuits.eap``.

    Args:
        model, base, source: as for ``run_edges``.
        tau: in nats.
        candidates: the edges to try, such as ``edge_graph(model).top(scores, 200)``; ``None``: all.
        rest: what the other edges do meanwhile: ``"cut"`` (the circuit is a part of the candidates) or
            ``"kept"``.
        progress: told after each edge how many are done, and of how many.

    Raises:
        ValueError: as ``run_edges``; a negative tau, no candidates, or another word for ``rest``.
    """
    if not tau >= 0:
        raise ValueError(f"tau is {tau}; it should be at least 0")
    if rest not in ("cut", "kept"):
        raise ValueError(f"rest is {rest!r}; it should be 'cut' or 'kept'")
    edges = edge_graph(model).edges
    candidates = edges if candidates is None else edge_graph(model).check(candidates, "candidates")
    if not candidates.any():
        raise ValueError("candidates is empty; it should hold at least one edge")
    replay = _Replay(model, base, source)
    kept = candidates.clone() if rest == "cut" else edges.clone()
    present = at_start = _divergence(replay.clean_logits, replay.run(kept))
    # From the last receiver back, and for each from the last sender: so what lies below the receiver's layer
    # is always what the present circuit computes there.
    order = candidates.T.nonzero().flip(0).tolist()
    runs = 0
    for done, (receiver, sender) in enumerate(order, start=1):
        kept[sender, receiver] = False
        if receiver == len(edges.T) - 1 or kept[replay.graph.readers(receiver)].any():
            raised = _divergence(replay.clean_logits, replay.run(kept, replay.graph.layer(receiver)))
            runs += 1
            if raised - present < tau:
                present = raised
            else:
                kept[sender, receiver] = True
        if progress:
            progress(done, len(order))
    return EdgeCircuit(kept, present, at_start, runs)


def _divergence(full: Float[Tensor, "batch vocab"], part: Float[Tensor, "batch vocab"]) -> float:
    """KL(full || part) in nats, averaged over the batch."""
    return models.kl(full.float().log_softmax(dim=-1), part.float().log_softmax(dim=-1)).mean().item()


class _Replay:
    """A pair of batches, ready to be run with any edges cut.

    ``change`` is what each node writes in the present run minus what it wrote in the source run: what a
    kept edge adds to the source stream. A run from layer ``start`` on uses the changes of the layers below
    as they are.
    """

    def __init__(self, model: TransformerBridge, base: Tensor, source: Tensor) -> None:
        check_pairs(base, source)
        self.model, self.graph = model, edge_graph(model)
        here = watch(model, base, ("resid_pre",))
        self.clean_logits = here["logits", model.cfg.n_layers]
        calls: list[tuple[tuple, dict[str, Any]]] = []
        attentions = [block.attn for block in model.blocks]
        with models.before_each(attentions, lambda _, args, named: calls.append((args, named))):
            self.streams = watch(model, source, ("resid_mid", *WRITTEN))
        self.calls = [_empty(*call) for call in calls]
        self.weights = {"q": model.W_Q, "k": model.W_K, "v": model.W_V, "o": model.W_O}
        self.source = node_outputs(model, self.streams)
        self.change = torch.zeros_like(self.source)
        self.change[0] = here["resid_pre", 0] - self.streams["resid_pre", 0]
        self.projected: dict[
            str, Tensor
        ] = {}  # queries, keys, values and z of the layer that is being computed
        self.moved = [self.change[0]] * (model.cfg.n_layers + 1)  # sum of the changes below each layer
        self._check()

    def _check(self) -> None:
        """With every edge kept this must be the base run; where it is not, the model has parts that it
        leaves out."""
        off = (self.run(self.graph.edges) - self.clean_logits).abs().max()
        if not off <= 1e-2 * self.clean_logits.std():
            raise ValueError(
                f"model is {self.model.cfg.model_name}, whose forward pass is not the sum over heads and "
                f"MLPs that is computed here (logits differ by {off:.2g}); it should be one whose blocks "
                "add their outputs unchanged, in float32"
            )

    def run(self, kept: Bool[Tensor, "sender receiver"], start: int = 0) -> Float[Tensor, "batch vocab"]:
        """Logits at the last position; layers below ``start`` are taken as the last run left them."""
        graph, row, column = self.graph, self.graph.first_sender(start), self.graph.first_receiver(start)
        heads, inputs = graph.n_heads, graph.n_heads + 2 * graph.n_key_value_heads
        with models.attached(self.model, self._hooks(start)):
            for layer in range(start, graph.n_layers):
                block, below = self.model.blocks[layer], self.moved[layer]
                read = self._read(kept, slice(column, column + inputs), "resid_pre", layer, below)
                rows = slice(row, row + heads)
                self.change[rows] = self._attend(layer, block.ln1(read)) - self.source[rows]
                moved = below + self.change[rows].sum(dim=0)
                row, column = row + heads, column + inputs
                if graph.has_mlps:
                    stream = ("resid_pre", layer, below) if graph.parallel else ("resid_mid", layer, moved)
                    read = self._read(kept, slice(column, column + 1), *stream)
                    self.change[row] = block.mlp(models.norm_before_mlp(block)(read[0])) - self.source[row]
                    moved = moved + self.change[row]
                    row, column = row + 1, column + 1
                self.moved[layer + 1] = moved
        last = self._read(kept, slice(column, column + 1), "resid_post", graph.n_layers - 1, self.moved[-1])
        return self.model.unembed(self.model.ln_final(last[0, :, -1:]))[:, 0]

    def _read(
        self, kept: Tensor, receivers: slice, site: str, layer: int, moved: Tensor
    ) -> Float[Tensor, "receiver batch pos d_model"]:
        """What receivers of one layer read: the source stream and the changes that come by kept edges."""
        kept = kept[:, receivers][self.graph.edges[:, receivers].any(dim=1)]
        cut, source = ~kept, self.streams[site, layer]
        if cut.any(dim=1).sum() < kept.any(dim=1).sum():  # then the whole change less what comes by cut edges
            return source + moved - self._sum(cut)
        return source + self._sum(kept)

    def _sum(self, mask: Bool[Tensor, "below receiver"]) -> Float[Tensor, "receiver batch pos d_model"]:
        rows = mask.any(dim=1).nonzero()[:, 0].to(self.change.device)
        return torch.einsum("sr,sbpd->rbpd", mask.to(self.change)[rows], self.change[rows])

    def _attend(
        self, layer: int, read: Float[Tensor, "receiver batch pos d_model"]
    ) -> Float[Tensor, "head batch pos d_model"]:
        """What each head writes, when each query, key and value reads its own normed stream."""
        graph = self.graph
        parts = read.split([graph.n_heads, graph.n_key_value_heads, graph.n_key_value_heads])
        for site, part in zip("qkv", parts, strict=True):
            self.projected[site] = torch.einsum("hbpd,hde->bphe", part, self.weights[site][layer])
        args, named = self.calls[layer]
        self.model.blocks[layer].attn(*args, **named)
        return torch.einsum("bphe,hed->hbpd", self.projected["z"], self.weights["o"][layer])

    def _hooks(self, start: int) -> list[Hook]:
        """Put the projections in. The module itself reads zeros, so what it computes is the bias alone."""

        def put(site: str) -> Callable[[Tensor, Any], Tensor]:
            return lambda value, hook: value + self.projected[site]

        def take(value: Tensor, hook: Any) -> None:
            self.projected["z"] = value

        sites = {"q": put("q"), "k": put("k"), "v": put("v"), "z": take}
        return [
            (models.hook_name(self.model, site, layer), does)
            for layer in range(start, self.graph.n_layers)
            for site, does in sites.items()
        ]


def _empty(args: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A recorded call of an attention module, with zeros to read."""
    args = tuple(torch.zeros_like(one) if place == 0 else one for place, one in enumerate(args))
    if "hidden_states" in named:
        named = named | {"hidden_states": torch.zeros_like(named["hidden_states"])}
    return args, named
