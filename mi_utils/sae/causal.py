"""What an SAE does inside the model: the loss it costs to splice it in, and what single latents do.

Where the first position and other massive activations are protected, they pass as they are, in the spliced
run and in the ablations alike: an SAE that never saw them would break the model there and nowhere else
(notebook 02 shows it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import harvest, models
from mi_utils.sae.sae import SAE, check_fits

Edit = Callable[[Tensor], Tensor]  # [..., d_in] -> [..., d_in]
_ROWS = 64  # contexts' positions unembedded at a time


@dataclass(frozen=True)
class Splice:
    """Mean cross-entropy (nats a token) and KL divergence from the clean run, with the SAE and with
    ablations.

    Always say against which ablation: against zero almost everything looks good, because the model is lost
    there.
    """

    clean: float
    spliced: float
    zero: float
    mean: float
    kl_spliced: float
    kl_zero: float
    kl_mean: float

    def recovered(self, against: Literal["zero", "mean"]) -> float:
        """CE loss recovered: (ablated - spliced) / (ablated - clean); 1 is perfect, 0 no better than
        ablation."""
        ablated = getattr(self, against)
        return (ablated - self.spliced) / (ablated - self.clean)

    def kl_recovered(self, against: Literal["zero", "mean"]) -> float:
        """The same with KL divergences, whose clean value is 0 (SAEBench's ``kl_score``)."""
        ablated = getattr(self, f"kl_{against}")
        return (ablated - self.kl_spliced) / ablated


@torch.no_grad()
def evaluate_splice(
    model: TransformerBridge,
    sae: SAE,
    tokens: Int[Tensor, "batch pos"],
    *,
    protect: bool = True,
    batch_size: int = 8,
) -> Splice:
    """Run contexts clean, through the SAE, and with what it reads replaced by zero and by its mean.

    Args:
        model: the model; float32 for exact figures.
        sae: one trained on a hook point of this model.
        tokens: held-out contexts, each with its start token.
        protect: leave the first position and massive activations as they are.
        batch_size: contexts in a forward pass.

    Raises:
        ValueError: an SAE for another model or hook point, no contexts, contexts of one token.
    """
    check_fits(model, sae)
    if tokens.numel() == 0 or tokens.shape[1] < 2:
        raise ValueError(
            f"tokens has shape {tuple(tokens.shape)}; it should hold contexts of at least 2 tokens"
        )
    stream = harvest.activations(model, tokens, [sae.hook], skip_first=False)[0].view(*tokens.shape, -1)
    open_to_edits = _ordinary(stream) if protect else torch.ones(tokens.shape, dtype=torch.bool)
    mean = stream[open_to_edits].mean(dim=0)
    edits = {"spliced": sae.reconstruct, "zero": torch.zeros_like, "mean": lambda x: mean.expand_as(x)}
    ce, kl = dict.fromkeys(("clean", *edits), 0.0), dict.fromkeys(edits, 0.0)
    for part, allowed in zip(tokens.split(batch_size), open_to_edits.split(batch_size), strict=True):
        clean = model(part, return_type="logits")
        ce["clean"] += _cross_entropy(clean, part)
        for name, edit in edits.items():
            logits = run_edited(model, part, sae.hook, edit, allowed)
            ce[name] += _cross_entropy(logits, part)
            kl[name] += _divergence(clean, logits)
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    return Splice(
        **{name: value / count for name, value in ce.items()},
        **{f"kl_{name}": value / count for name, value in kl.items()},
    )


@torch.no_grad()
def run_edited(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    edit: Edit,
    where: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos vocab"]:
    """Logits with what passes a hook point replaced by ``edit`` of it, where ``where`` is true (or
    everywhere)."""

    def replace(value, hook):
        if where is None:
            return edit(value)
        edited = value.clone()
        edited[where] = edit(value[where]).to(value.dtype)
        return edited

    with models.attached(model, [(hook, replace)]):
        return model(tokens, return_type="logits")


def set_latent(sae: SAE, latent: int, value: float | int = 0.0) -> Edit:
    """The edit that sets one latent and keeps all else, the reconstruction error included.

    ``x + (value - f(x)) d`` with the latent's activation ``f(x)`` and direction ``d``: 0 ablates, more
    steers. Where the latent already has that value nothing changes at all, which ``decode`` of edited latents
    could not promise.

    Raises:
        ValueError: there is no such latent.
    """
    sae.check_latent(latent)

    def edit(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        active = sae.encode(x)[..., latent, None]
        return x + (value - active) * sae.W_dec[latent]

    return edit


@torch.no_grad()
def ablate_each(
    model: TransformerBridge,
    sae: SAE,
    tokens: Int[Tensor, "pos"],
    places: Int[Tensor, "place 2"],
    *,
    batch_size: int = 64,
) -> Float[Tensor, "place vocab"]:
    """Log-probabilities of the next token after each of several ablations, one latent at one position each.

    The reconstruction error is kept, as in ``set_latent``.

    Args:
        model, sae: an SAE on this model.
        tokens: one prompt, with its start token.
        places: position and latent of each ablation, as ``(latents > 0).nonzero()`` gives them.
        batch_size: ablations in a forward pass.

    Raises:
        ValueError: an SAE for another model, no places, a position or a latent that does not exist.
    """
    check_fits(model, sae)
    if not len(places):
        raise ValueError("places is empty; it should hold at least one position and latent")
    if not ((places >= 0) & (places < torch.tensor([len(tokens), sae.d_sae]))).all():
        raise ValueError(
            f"places goes up to {places.amax(dim=0).tolist()}; positions should be below {len(tokens)} "
            f"and latents below {sae.d_sae}, none negative"
        )
    rows = []
    for part in places.split(batch_size):
        which, (positions, latents) = torch.arange(len(part)), part.T

        def ablate(value, hook, which=which, positions=positions, latents=latents):
            active = sae.encode(value[0])[positions, latents]  # all rows are still the same here
            edited = value.clone()
            edited[which, positions] -= (active[:, None] * sae.W_dec[latents]).to(value.dtype)
            return edited

        with models.attached(model, [(sae.hook, ablate)]):
            logits = model(tokens.expand(len(part), -1), return_type="logits")
        rows.append(logits[:, -1].float().log_softmax(dim=-1))
    return torch.cat(rows)


def _ordinary(stream: Float[Tensor, "batch pos width"]) -> Bool[Tensor, "batch pos"]:
    """True but for the first position and massive activations."""
    allowed = torch.zeros(stream.shape[:2], dtype=torch.bool)
    allowed[:, 1:] = harvest.ordinary(stream[:, 1:].flatten(0, 1)[None]).view(len(stream), -1)
    return allowed


def _cross_entropy(logits: Tensor, tokens: Tensor) -> float:
    """Summed over all predicted tokens."""
    flat = logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(flat.float(), tokens[:, 1:].flatten(), reduction="sum").item()


def _divergence(clean: Tensor, other: Tensor) -> float:
    """KL(clean || other) summed over all predicting positions, a few at a time to spare memory."""
    total = 0.0
    for p, q in zip(
        clean[:, :-1].flatten(0, 1).split(_ROWS), other[:, :-1].flatten(0, 1).split(_ROWS), strict=True
    ):
        total += models.kl(p.float().log_softmax(-1), q.float().log_softmax(-1)).sum().item()
    return total
