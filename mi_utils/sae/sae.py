"""Sparse autoencoders: what one is, and how well it does.

An SAE writes an activation as a bias and a sparse, non-negative sum of unit directions. Its units are called
*latents* here; *features* are what the world (or a toy model) has, and whether latents are features is the
question.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

Architecture = Literal["standard", "topk", "jumprelu"]
_ROWS = 512  # of a reconstruction at a time, so that dense latents stay small


@dataclass(frozen=True)
class SAE:
    """A sparse autoencoder: ``latents = activation((x - b_dec) @ W_enc + b_enc)``, ``x ≈ latents @ W_dec +
    b_dec``.

    ``architecture`` is one of SAELens' names: ``standard`` (ReLU; Bricken et al. 2023), ``topk`` (the ``k``
    largest after ReLU; Gao et al. 2024) or ``jumprelu`` (those above ``threshold``; Rajamanoharan et al.
    2024). A BatchTopK SAE (Bussmann et al. 2024) is trained with a threshold for the batch and used as
    ``jumprelu``. Rows of ``W_dec`` have length 1 in what is trained here. ``model`` and ``hook`` say what it
    reads; they are empty where that is no language model.

    Raises:
        ValueError: shapes that don't fit together, weights that are not finite, a ``k`` that is missing,
            below 1 or above the number of latents, a missing threshold.
    """

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, "d_in"]
    architecture: Architecture = "standard"
    k: int | None = None
    threshold: Float[Tensor, "d_sae"] | None = None
    model: str = ""
    hook: str = ""

    def __post_init__(self) -> None:
        d_in, d_sae = self.W_enc.shape
        wanted = {"b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,), "threshold": (d_sae,)}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; beside W_enc it should be {shape}")
        for name in ("W_enc", *wanted):
            value = getattr(self, name)
            if value is not None and not torch.isfinite(value).all():
                raise ValueError(f"{name} holds values that are not finite (NaN or infinity)")
        if self.architecture not in ("standard", "topk", "jumprelu"):
            raise ValueError(
                f"architecture is {self.architecture!r}; it should be standard, topk or jumprelu"
            )
        if self.architecture == "topk":
            check_k(self.k, d_sae)
        if self.architecture == "jumprelu" and self.threshold is None:
            raise ValueError("threshold is missing; a jumprelu SAE has one for each latent")

    def __repr__(self) -> str:
        rule = {"standard": "ReLU", "topk": f"TopK {self.k}", "jumprelu": "JumpReLU"}[self.architecture]
        place = f" at {self.hook} of {self.model}" if self.model else ""
        return f"SAE({rule}, {self.d_in} -> {self.d_sae:,} latents{place})"

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The encoder before its activation function."""
        return (x.to(self.W_enc.dtype) - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Latents of activations, not negative.

        Raises:
            ValueError: activations of another width, or not finite.
        """
        check_activations(x, self.d_in)
        pre = self.pre_activations(x)
        if self.architecture == "topk":
            return keep_top(pre, self.k)
        latents = pre.relu()
        return latents if self.architecture == "standard" else latents * (pre > self.threshold)

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """The activations that latents stand for."""
        return latents @ self.W_dec + self.b_dec

    def reconstruct(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """``decode(encode(x))``, a few rows at a time."""
        if x.numel() == 0:
            return self.decode(self.encode(x))
        return torch.cat([self.decode(self.encode(part)) for part in x.flatten(0, -2).split(_ROWS)]).view(
            x.shape
        )

    def check_latent(self, latent: int) -> int:
        """The index of a latent as it is.

        Raises:
            ValueError: there is no such latent.
        """
        if isinstance(latent, bool) or not 0 <= latent < self.d_sae:
            raise ValueError(f"latent is {latent}; this SAE has latents 0 to {self.d_sae - 1}")
        return int(latent)


def check_k(k: int | None, d_sae: int) -> None:
    """Raises ``ValueError`` unless a TopK SAE of that size can keep ``k`` latents."""
    if k is None or not 1 <= k <= d_sae:
        raise ValueError(f"k is {k}; with {d_sae} latents it should be from 1 to {d_sae}")


def check_activations(x: Tensor, d_in: int) -> None:
    """Raises ``ValueError`` unless activations have that width and are finite."""
    if x.shape[-1] != d_in:
        raise ValueError(f"x has width {x.shape[-1]}; this SAE reads activations of width {d_in}")
    if not torch.isfinite(x).all():
        raise ValueError("x holds values that are not finite (NaN or infinity)")


def check_fits(model: TransformerBridge, sae: SAE) -> None:
    """Raises ``ValueError`` unless the SAE was trained on this model and reads one of its hook points."""
    if sae.model and sae.model != model.cfg.model_name:
        raise ValueError(f"sae was trained on {sae.model}; the model is {model.cfg.model_name}")
    if sae.hook not in model.hook_dict:
        raise ValueError(f"sae reads {sae.hook!r}, which {model.cfg.model_name} does not have")
    if sae.d_in != model.cfg.d_model:
        raise ValueError(
            f"sae reads activations of width {sae.d_in}; {model.cfg.model_name} has {model.cfg.d_model}"
        )


def keep_top(pre: Float[Tensor, "*batch d_sae"], k: int) -> Float[Tensor, "*batch d_sae"]:
    """ReLU, then zero but for the ``k`` largest of each row."""
    values, indices = pre.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(pre).scatter_(-1, indices, values.relu())


# ------------------------------------------------------------------ how well it does


@dataclass(frozen=True)
class SAEFit:
    """How an SAE does on activations.

    ``fvu`` is the fraction of variance unexplained, |x - x̂|² over |x - mean|², each summed over tokens;
    ``l0`` the mean number of active latents; ``density`` [d_sae] the share of tokens on which each is active.
    """

    fvu: float
    l0: float
    density: Float[Tensor, "d_sae"]

    @property
    def dead(self) -> float:
        """Share of latents that were active on none of the tokens."""
        return (self.density == 0).float().mean().item()

    @property
    def dense(self) -> float:
        """Share of latents that were active on more than a tenth of the tokens."""
        return (self.density > 0.1).float().mean().item()


@torch.no_grad()
def evaluate(sae: SAE, x: Float[Tensor, "token d_in"]) -> SAEFit:
    """Reconstruction and sparsity on activations, in float32.

    Raises:
        ValueError: as ``SAE.encode``; fewer than two tokens, or tokens that are all the same.
    """
    if len(x) < 2:
        raise ValueError(f"x has {len(x)} tokens; it should have at least 2")
    check_activations(x, sae.d_in)
    mean = x.double().mean(dim=0).float()
    error = total = 0.0
    active = torch.zeros(sae.d_sae)
    for part in x.split(_ROWS):
        part = part.float()
        latents = sae.encode(part)
        error += (part - sae.decode(latents)).square().sum().item()
        total += (part - mean).square().sum().item()
        active += (latents > 0).sum(dim=0).float()
    if total == 0:
        raise ValueError("x is the same for all tokens; there is no variance to explain")
    return SAEFit(error / total, active.sum().item() / len(x), active / len(x))


def cosines(a: Float[Tensor, "a width"], b: Float[Tensor, "b width"]) -> Float[Tensor, "a b"]:
    """Cosine of every row of ``a`` with every row of ``b``; 0 for rows of length 0."""
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T


def mmcs(dictionary: Float[Tensor, "d_sae width"], features: Float[Tensor, "feature width"]) -> float:
    """Mean over features of the largest cosine with a row of the dictionary (Sharkey et al. 2022)."""
    return cosines(features, dictionary).amax(dim=1).mean().item()


def match(dictionary: Float[Tensor, "a width"], other: Float[Tensor, "b width"]) -> tuple[Tensor, Tensor]:
    """Rows paired one to one so that the sum of their cosines is largest (Hungarian algorithm).

    Returns:
        For each row of the smaller side: its partners as ``[pair, 2]`` indices (into ``dictionary`` and
        ``other``), and their cosines [pair].
    """
    similar = cosines(dictionary, other)
    rows, columns = linear_sum_assignment(similar.numpy(), maximize=True)
    pairs = torch.tensor(list(zip(rows.tolist(), columns.tolist(), strict=True)), dtype=torch.int64).view(
        -1, 2
    )
    return pairs, similar[pairs[:, 0], pairs[:, 1]]
