"""Small attention-only transformers, trained in seconds on sequences that repeat: where induction can be
watched.

A sequence is a start token (id 0) and then one random segment over and over, its length drawn anew for each:
the first time round nothing can be predicted, from then on everything can. No MLP, one RMSNorm without a
scale before each layer and before the unembedding, so ``norm(x) = x / rms(x)`` as in the folded models of
``mi_utils.models.load``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import heads

START = 0


@dataclass(frozen=True)
class AttentionOnlySettings:
    """A model and its training. ``periods``: shortest and longest segment; ``test_period``: the one
    scored."""

    n_layers: int = 2
    n_heads: int = 4
    d_model: int = 64
    d_head: int = 16
    d_vocab: int = 64
    n_ctx: int = 48
    periods: tuple[int, int] = (8, 23)
    test_period: int = 20
    steps: int = 400
    batch: int = 64
    lr: float | int = 3e-3
    weight_decay: float | int = 1.0
    checks: int = 21
    test_batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "steps", "batch", "test_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it should be at least 1")
        low, high = self.periods
        if not 2 <= low <= high <= self.n_ctx - 2:
            raise ValueError(
                f"periods is {self.periods}; it should rise from at least 2 to at most {self.n_ctx - 2}"
            )
        if not 3 <= self.test_period <= (self.n_ctx - 1) // 2:
            longest = (self.n_ctx - 1) // 2  # two copies and a start token
            raise ValueError(f"test_period is {self.test_period}; it should be from 3 to {longest}")
        if 2 * self.test_period >= self.d_vocab:
            raise ValueError(
                f"d_vocab is {self.d_vocab}; it should be above {2 * self.test_period}, twice test_period"
            )
        if not 2 <= self.checks <= self.steps + 1:
            raise ValueError(f"checks is {self.checks}; it should be from 2 to {self.steps + 1}")


@dataclass(frozen=True)
class TrainedAttentionOnly:
    """A trained model and what was seen on the way.

    ``steps``: at which it was looked at, the first 0; ``loss``: on repeated test sequences, in nats, by
        position;
    ``scores``: the pattern scores of ``mi_utils.heads.scores`` and ``copying``, of each head.
    """

    model: TransformerBridge
    settings: AttentionOnlySettings
    steps: list[int]
    loss: Float[Tensor, "check pos"]
    scores: Mapping[str, Float[Tensor, "check layer head"]]


def attention_only_model(settings: AttentionOnlySettings) -> TransformerBridge:
    """The model before training; also the random-weights control of a trained one."""
    return TransformerBridge.boot_native(
        TransformerBridgeConfig(
            n_layers=settings.n_layers,
            n_heads=settings.n_heads,
            d_model=settings.d_model,
            d_head=settings.d_head,
            d_vocab=settings.d_vocab,
            n_ctx=settings.n_ctx,
            attn_only=True,
            normalization_type="RMSPre",
            act_fn="gelu",
            seed=settings.seed,
        ),
        model_name=f"attention-only-{settings.n_layers}l",
    )


def sequences(
    settings: AttentionOnlySettings, count: int, generator: torch.Generator
) -> Int[Tensor, "count pos"]:
    """Training sequences: a start token and then a random segment, repeated until the context is full.

    Tokens of a segment are drawn with replacement, so some occur twice in it.
    """
    low, high = settings.periods
    period = torch.randint(low, high + 1, (count, 1), generator=generator)
    segment = torch.randint(START + 1, settings.d_vocab, (count, high), generator=generator)
    places = torch.arange(settings.n_ctx - 1)[None] % period
    return torch.cat([torch.full((count, 1), START), segment.gather(1, places)], dim=1)


def test_tokens(
    settings: AttentionOnlySettings, *, seed: int | None = None, repeat: bool = True
) -> Int[Tensor, "batch pos"]:
    """Sequences of two copies of ``test_period`` different tokens, or as many that do not repeat."""
    generator = torch.Generator().manual_seed(settings.seed + 10_000 if seed is None else seed)
    candidates = torch.arange(START + 1, settings.d_vocab)
    return heads.repeated_tokens(
        candidates,
        settings.test_period,
        batch=settings.test_batch,
        start=START,
        generator=generator,
        repeat=repeat,
    )


test_tokens.__test__ = False  # pytest


def train(settings: AttentionOnlySettings) -> TrainedAttentionOnly:
    """Train a model from its seed by AdamW on the next token, and look at it ``checks`` times on the way."""
    model, generator = attention_only_model(settings), torch.Generator().manual_seed(settings.seed)
    network, tokens = model.original_model, test_tokens(settings)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    looks = [round(i * settings.steps / (settings.checks - 1)) for i in range(settings.checks)]
    seen: list[dict[str, Tensor]] = []
    with torch.enable_grad():
        for step in range(settings.steps + 1):
            if step in looks:
                seen.append(look(model, tokens, settings.test_period))
            if step < settings.steps:
                rows = sequences(settings, settings.batch, generator)
                _descend(network, rows, optimiser)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    together = {name: torch.stack([one[name] for one in seen]) for name in seen[0]}
    return TrainedAttentionOnly(model, settings, looks, together.pop("loss"), together)


def _descend(network: torch.nn.Module, rows: Tensor, optimiser: torch.optim.Optimizer) -> None:
    logits = network(rows[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@torch.no_grad()
def look(model: TransformerBridge, tokens: Int[Tensor, "batch pos"], period: int) -> dict[str, Tensor]:
    """Loss by position [pos], and each head's scores [layer head], at one moment."""
    scores = heads.score_heads(model, tokens, period)
    ids = torch.arange(START + 1, model.cfg.d_vocab)
    return {name: scores.mean(name) for name in scores.values} | {
        "copying": heads.copying_scores(model, ids, model.W_E[ids]),
        "loss": heads.loss_by_position(model, tokens).mean(dim=0),
    }
