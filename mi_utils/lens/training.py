"""Training a tuned lens: in closed form, and by gradient descent on the KL divergence.

Belrose et al. 2023 (arXiv 2303.08112, section 2) start from the identity and descend on KL(final || lens)
over 65M tokens. Within a minute on two cores that gets nowhere near; three things do:

* **start from ridge regression** of the final stream on the stream at the layer, which has a closed form;
* **sample the vocabulary**: unembedding is nearly all of the work, so each step compares the two
  distributions on a part of the vocabulary, which keeps the likeliest tokens and draws some of the rest to
  stand for all of them;
* **standardise the inputs**, whose components differ in scale by orders of magnitude, and **keep what was
  best** on tokens set aside: the same rate that helps the early layers makes late ones, nearly perfect
  already, diverge.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils.lens.lens import Lens, check_fits, check_streams
from mi_utils.lens.sampled import Vocabulary, likeliest_tokens, sample_vocabulary, sampled_kl
from mi_utils.lens.standardised import Standardised


class Moments:
    """Sums over tokens from which ridge regression follows, added up piece by piece: no need to hold all
    tokens.

    They are taken about the means of the first piece: float32 would lose the variance of a component that is
    small beside its mean.
    """

    def __init__(self, n_layers: int, d_model: int, device: str | torch.device | None = None):
        self.count = 0
        self.origin = torch.zeros(n_layers + 1, d_model, device=device)
        # Sums over tokens of h, of h h^T and of h final^T, the origin taken away from h and from the final
        # stream.
        self.sums = self.origin.double()
        self.squares = torch.zeros(n_layers, d_model, d_model, dtype=torch.float64, device=device)
        self.products = torch.zeros_like(self.squares)

    def add(self, streams: Float[Tensor, "stream token d_model"]) -> "Moments":
        """Add tokens; returns itself."""
        if not self.count:
            self.origin = torch.stack([stream.float().mean(dim=0) for stream in streams])
        final = streams[-1].float() - self.origin[-1]
        self.count += len(final)
        for layer, stream in enumerate(streams[:-1]):
            h = stream.float() - self.origin[layer]
            self.sums[layer] += h.sum(dim=0)
            self.squares[layer] += h.T @ h
            self.products[layer] += h.T @ final
        self.sums[-1] += final.sum(dim=0)
        return self

    def means(self) -> Float[Tensor, "stream d_model"]:
        """Of the stream at each layer, and of the final one."""
        return self.origin + self.sums / self.count

    def covariance(self, layer: int) -> Float[Tensor, "d_model d_model"]:
        """Of the stream at a layer."""
        mean = self.sums[layer] / self.count
        return self.squares[layer] / self.count - torch.outer(mean, mean)

    def ridge(self, name: str, *, strength: float = 1e-3) -> Lens:
        """The lens that predicts the final stream with the least squared error, components standardised."""
        matrices, biases, means, shifted = [], [], self.means(), self.sums / self.count
        for layer in range(len(self.squares)):
            covariance = self.covariance(layer)
            shared = self.products[layer] / self.count - torch.outer(shifted[layer], shifted[-1])
            variances = covariance.diagonal()
            # Components that never vary have nothing to say; the floor keeps them from blowing up.
            penalty = strength * variances.clamp_min(1e-6 * variances.mean())
            matrix = torch.linalg.solve(covariance + torch.diag(penalty), shared)
            matrices.append(matrix)
            biases.append(means[-1] - means[layer] @ matrix)
        return Lens(torch.stack(matrices).float(), torch.stack(biases).float(), name)


def fit_ridge(
    model: TransformerBridge, streams: Float[Tensor, "stream token d_model"], *, strength: float = 1e-3
) -> Lens:
    """The translators of least squared error to the final stream, in closed form.

    Args:
        model: whose streams these are.
        streams: as ``harvest.residual_streams`` gives them, without massive activations.
        strength: ridge penalty, relative to each component's variance.

    Raises:
        ValueError: streams that are not this model's or not finite, fewer than two tokens, or a strength
            below 0.
    """
    check_streams(model, streams)
    if not strength >= 0:
        raise ValueError(f"strength is {strength}; it should be 0 or more")
    if streams.shape[1] < 2:
        raise ValueError(f"streams has {streams.shape[1]} token; a regression needs many")
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    moments = Moments(n_layers, d_model, streams.device).add(streams)
    return moments.ridge(model.cfg.model_name, strength=strength)


@dataclass(frozen=True)
class LensSettings:
    """How ``train`` descends. The rates were chosen once, on other tokens than any that a notebook evaluates
    on.

    ``steps`` of ``batch`` tokens for all layers at once; ``lr`` of Adam, relative to the scale of the final
    stream, linearly down to 0 after a warm-up; ``bias_lr_factor`` multiplies it for the biases, which must
    move far: they set how long the translated vector is, and so how confident the prediction. Of the
    vocabulary, the ``kept`` likeliest tokens count in full, and ``drawn`` of the others stand for all of
    them, drawn anew at each step.
    """

    steps: int = 150
    batch: int = 128
    lr: float = 5e-4
    bias_lr_factor: float = 20.0
    warm_up: int = 20
    kept: int = 1024
    drawn: int = 1024
    held_back: int = 512  # tokens set aside to tell what is best
    checks: int = 4  # how often that is looked at
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "warm_up", "drawn", "held_back", "checks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it should be at least 1")
        if self.kept < 0:
            raise ValueError(f"kept is {self.kept}; it should be at least 0")


@dataclass(frozen=True)
class TrainedLens:
    """The result of ``train``.

    ``lens`` holds for each layer the best translator seen; ``losses`` is KL on the sampled vocabulary at each
    step; ``validation`` the KL of the tokens set aside at each check, the start as the first row, on a fixed
    sample of the vocabulary; ``best`` the row that was kept; ``aside`` which tokens of the streams were set
    aside. All KL in nats.
    """

    lens: Lens
    losses: Float[Tensor, "step layer"] = field(repr=False)
    validation: Float[Tensor, "check layer"] = field(repr=False)
    best: Int[Tensor, "layer"] = field(repr=False)
    aside: Int[Tensor, "held_back"] = field(repr=False)


def train(
    model: TransformerBridge,
    streams: Float[Tensor, "stream token d_model"],
    start: Lens,
    settings: LensSettings = LensSettings(),
) -> TrainedLens:
    """Train a tuned lens: gradient descent on KL(final || lens), which makes no layer worse.

    Args:
        model: in float32; its final norm and unembedding are used and not changed.
        streams: as ``harvest.residual_streams`` gives them, without massive activations.
        start: where to begin: ``lens.logit_lens(model)``, as in the paper, or ``lens.fit_ridge``.
        settings: see ``LensSettings``.

    Raises:
        ValueError: a lens of another model, streams that are not this model's or not finite, or too few
            tokens.
    """
    check_fits(model, start)
    check_streams(model, streams)
    if streams.shape[1] < settings.held_back + settings.batch:
        raise ValueError(
            f"streams has {streams.shape[1]} tokens; {settings.held_back} are set aside and {settings.batch} "
            "make a batch, so more are needed"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(streams.shape[1], generator=generator).to(streams.device)
    aside, pool = order[: settings.held_back], order[settings.held_back :]
    held_back = streams[:, aside].float()
    likeliest = likeliest_tokens(model, held_back[-1])
    making = Standardised(start, streams[:-1, order[: 2 * settings.held_back]].float())
    fixed = _vocabulary(likeliest, settings, generator)
    best = _Best(start, _validation(model, start, held_back, fixed, settings.batch))
    optimiser = torch.optim.Adam(
        [
            {"params": [making.matrices], "factor": 1.0},
            {"params": [making.biases], "factor": settings.bias_lr_factor},
        ],
        betas=(0.9, 0.98),
    )
    check_at = {round(settings.steps * (i + 1) / settings.checks) for i in range(settings.checks)}
    losses = []
    for step in range(1, settings.steps + 1):
        share = min(1.0, step / settings.warm_up) * (1 - (step - 1) / settings.steps)
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * share * group["factor"]
        chosen = pool[torch.randint(len(pool), (settings.batch,), generator=generator).to(pool.device)]
        vocabulary = _vocabulary(likeliest, settings, generator)
        batch = streams[:, chosen].float()
        with torch.enable_grad():
            loss = sampled_kl(model, batch[-1], making.translate_all(batch[:-1]), vocabulary)
            optimiser.zero_grad()
            loss.sum().backward(inputs=[making.matrices, making.biases])  # and nothing of the model
        optimiser.step()
        losses.append(loss.detach())
        if step in check_at:
            now = making.lens()
            best.see(now, _validation(model, now, held_back, fixed, settings.batch))
    return TrainedLens(best.lens(), torch.stack(losses), torch.stack(best.seen), best.which, aside)


class _Best:
    """For each layer, the translator with the least loss so far."""

    def __init__(self, start: Lens, loss: Float[Tensor, "layer"]) -> None:
        self.matrices, self.biases, self.name = start.matrices.clone(), start.biases.clone(), start.model
        self.seen, self.least, self.which = [loss], loss.clone(), torch.zeros(len(loss), dtype=torch.int64)

    def see(self, lens: Lens, loss: Float[Tensor, "layer"]) -> None:
        better = loss < self.least  # never where the loss is not a number
        self.matrices[better], self.biases[better] = lens.matrices[better], lens.biases[better]
        self.least = torch.where(better, loss, self.least)
        self.which[better.cpu()] = len(self.seen)
        self.seen.append(loss)

    def lens(self) -> Lens:
        return Lens(self.matrices, self.biases, self.name)


@torch.no_grad()
def _validation(
    model: TransformerBridge,
    lens: Lens,
    held_back: Float[Tensor, "stream token d_model"],
    vocabulary: Vocabulary,
    chunk: int,
) -> Float[Tensor, "layer"]:
    """Mean loss of many tokens, a few at a time for the sake of memory."""
    sums = [
        sampled_kl(model, piece[-1], lens.translate_all(piece[:-1]), vocabulary) * piece.shape[1]
        for piece in held_back.split(chunk, dim=1)
    ]
    return torch.stack(sums).sum(dim=0) / held_back.shape[1]


def _vocabulary(
    likeliest: Int[Tensor, "d_vocab"], settings: LensSettings, generator: torch.Generator
) -> Vocabulary:
    return sample_vocabulary(likeliest, kept=settings.kept, drawn=settings.drawn, generator=generator)
