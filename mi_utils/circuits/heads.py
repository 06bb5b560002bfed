"""A circuit as a set of attention heads, and how good it is: faithful, complete, minimal.

What is not in the circuit is ablated: the ``z`` of every other head is replaced by a reference value: for
Wang et al. its mean over prompts of the same template without the behaviour (three unrelated names). MLPs are
never ablated here. After Wang et al. 2023, sections 2.1 and 4.
"""

from collections.abc import Callable, Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models, patching
from mi_utils.models.run import Head

Score = Callable[[frozenset[Head]], float]  # a metric of the model in which only these heads are kept


def label(head: Head) -> str:
    """``"9.6"`` for layer 9, head 6."""
    return f"{head[0]}.{head[1]}"


@torch.no_grad()
def direct_effects(
    model: TransformerBridge, run: patching.Run, ids: Int[Tensor, "batch"]
) -> Float[Tensor, "layer head batch"]:
    """Direct logit attribution: what each head writes, at the last position, to the logit of one token a
    prompt.

    With what embedding, MLPs and biases write the parts add up to the logit. Always look at the right and the
    wrong answer apart: a head that raises the difference may do it by lowering the wrong one.

    Args:
        model: one whose norms are folded (``load_model``).
        run: recorded with ``("z", "resid_post")``.
        ids: the token of each prompt.
    """
    direction = reading_direction(model, run, ids)
    return torch.stack(
        [
            torch.einsum("bhd,hdm,bm->hb", run["z", layer][:, -1], block.attn.W_O, direction)
            for layer, block in enumerate(model.blocks)
        ]
    )


@torch.no_grad()
def reading_direction(
    model: TransformerBridge, run: patching.Run, ids: Int[Tensor, "batch"]
) -> Float[Tensor, "batch d_model"]:
    """What the last residual stream of each prompt is multiplied by to give the logit of its token, but for
    the bias.

    The column of ``W_U``, divided by the scale of the final norm *in this run* (and less its mean, for
    LayerNorm): so what anything writes at the last position has a direct effect that is an inner product with
    it.

    Args:
        model: one whose norms are folded (``load_model``).
        run: recorded with ``("resid_post",)``.
        ids: the token of each prompt.
    """
    scale = models.norm_scale(model, run["resid_post", model.cfg.n_layers - 1][:, -1])
    return models.centred(model, model.W_U[:, ids].T) / scale


def reference_z(
    model: TransformerBridge,
    source: patching.Run,
    groups: Int[Tensor, "prompt"] | None = None,
    wanted: Int[Tensor, "batch"] | None = None,
) -> Float[Tensor, "layer #batch pos head d_head"]:
    """The reference values for mean ablation: the mean of ``z`` over the prompts of each row's group.

    Args:
        model: the model of the run.
        source: prompts without the behaviour, recorded with ``("z",)``.
        groups: group (template) of each prompt of ``source``. ``None`` pools them all.
        wanted: group of each row that will be ablated.

    Raises:
        ValueError: a wanted group that no prompt of ``source`` belongs to, or groups without wanted or the
            reverse.
    """
    if (groups is None) != (wanted is None):
        raise ValueError("groups and wanted should both be given, or neither")
    layers = range(model.cfg.n_layers)
    if groups is None:
        return torch.stack([source["z", layer].mean(dim=0, keepdim=True) for layer in layers])
    missing = set(wanted.tolist()) - set(groups.tolist())
    if missing:
        raise ValueError(f"wanted holds group {min(missing)}, to which no prompt of source belongs")
    names = groups.unique()
    which = torch.searchsorted(names, wanted)
    means = [
        torch.stack([source["z", layer][groups == name].mean(dim=0) for name in names]) for layer in layers
    ]
    return torch.stack([mean[which] for mean in means])


class KeepOnly:
    """Call it with a set of heads: the metric of each prompt when these are kept and all others are ablated.

    Kept heads compute as usual, on what the ablated ones leave them. Each set is computed once and
    remembered: tests of completeness and minimality ask for the same sets again and again.

    Args:
        model: the model of the run.
        base: the run that is edited.
        reference: what ``z`` is replaced by, as ``reference_z`` gives it; zeros for zero ablation.
        metric: of the logits at the last position.
        start: the first position at which ``reference`` may differ from the run.
    """

    def __init__(
        self,
        model: TransformerBridge,
        base: patching.Run,
        reference: Float[Tensor, "layer #batch pos head d_head"],
        metric: patching.engine.Metric,
        start: int = 0,
    ) -> None:
        self.model = model
        self.base = base
        self.reference = reference
        self.metric = metric
        self.start = start
        self._known: dict[frozenset[Head], Tensor] = {}

    def __call__(self, kept: Collection[Head]) -> Float[Tensor, "batch"]:
        """Raises: ValueError where a head is out of range."""
        kept = models.check_heads(self.model, kept, "kept")
        if kept not in self._known:
            self._known[kept] = self._run(kept)
        return self._known[kept]

    def mean(self, kept: Collection[Head]) -> float:
        """The mean over prompts."""
        return self(kept).mean().item()

    def _run(self, kept: frozenset[Head]) -> Float[Tensor, "batch"]:
        gone = [head for head in models.all_heads(self.model) if head not in kept]
        if not gone:
            return self.metric(self.base.logits)
        patches = [patching.Patch("z", layer, self.reference[layer], head=head) for layer, head in gone]
        return patching.run_patched(self.model, self.base, [patches], self.metric, start=self.start)[0]


def faithfulness(circuit: float | int, full: float | int, empty: float | int) -> float:
    """(m(C) - m(empty)) / (m(full) - m(empty)): 1 as good as the model, 0 as good as nothing; it may lie
    outside.

    Raises:
        ValueError: the model is no better than the empty circuit.
    """
    if full == empty:
        raise ValueError(
            f"full and empty are both {full}; they should differ, else there is nothing to be faithful to"
        )
    return (circuit - empty) / (full - empty)


def incompleteness(
    score: Score, circuit: Collection[Head], full: Collection[Head], group: Collection[Head]
) -> float:
    """|F(C without K) - F(M without K)|: small for every group K where the circuit holds all that matters.

    Wang et al. 2023, section 4.2.
    """
    group = frozenset(group)
    return abs(score(frozenset(circuit) - group) - score(frozenset(full) - group))


def minimality(score: Score, circuit: Collection[Head], head: Head, group: Collection[Head]) -> float:
    """|F(C without K and v) - F(C without K)|: large for some group K where head v is needed.

    ``head`` is not counted in ``group``. Wang et al. 2023, section 4.3.

    Raises:
        ValueError: the head is not in the circuit.
    """
    circuit, group = frozenset(circuit), frozenset(group) - {head}
    if head not in circuit:
        raise ValueError(f"head is {head}, which is not in the circuit; it should be one of its heads")
    return abs(score(circuit - group - {head}) - score(circuit - group))


def standing_out(
    changes: Float[Tensor, "layer head batch"], *, at_least: float | int, errors: float | int = 3
) -> list[Head]:
    """Heads whose mean change over prompts is large, and clearly not zero; the largest first.

    Args:
        changes: for each prompt, what patching or writing of each head changes.
        at_least: the smallest mean size that counts, in the unit of ``changes``.
        errors: how many standard errors away from zero the mean should be. With hundreds of heads, two would
            let some in by chance.

    Raises:
        ValueError: fewer than two prompts, from which there is no standard error.
    """
    if changes.shape[-1] < 2:
        raise ValueError(
            f"changes has {changes.shape[-1]} prompts; it should have at least 2, for a standard error"
        )
    mean = changes.float().mean(dim=-1)
    error = changes.float().std(dim=-1) / changes.shape[-1] ** 0.5
    taken = (mean.abs() >= at_least) & (mean.abs() > errors * error)
    found = [(layer, head) for layer, head in taken.nonzero().tolist()]
    return sorted(found, key=lambda one: -mean[one].abs().item())


def random_circuits(
    model: TransformerBridge, like: Collection[Head], count: int, *, seed: int = 0
) -> list[frozenset[Head]]:
    """Sets of as many heads in each layer as ``like`` has, drawn at random: the control for a circuit.

    Raises:
        ValueError: a head out of range, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it should be at least 1")
    per_layer: dict[int, int] = {}
    for layer, _ in models.check_heads(model, like, "like"):
        per_layer[layer] = per_layer.get(layer, 0) + 1
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(count):
        heads = set()
        for layer in sorted(per_layer):
            order = torch.randperm(model.cfg.n_heads, generator=generator).tolist()
            heads |= {(layer, head) for head in order[: per_layer[layer]]}
        drawn.append(frozenset(heads))
    return drawn
