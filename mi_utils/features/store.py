"""Where every latent of a dictionary fires on a text, sparsely stored; :mod:`mi_utils.features.recording`
records it."""

import operator
from dataclasses import dataclass
from typing import ClassVar, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ("Excerpt", "LatentActivations", "LatentStatistics")


@dataclass(frozen=True)
class Excerpt:
    """Part of a context and what one latent does there.

    It begins at position ``start`` of context ``context``; ``at`` is the token it was chosen for, counted
    from ``start``. ``quantile`` is the share of the latent's activations that are weaker than the one at
    ``at``.
    """

    context: int
    start: int
    at: int
    tokens: Int[Tensor, "pos"]
    values: Float[Tensor, "pos"]
    quantile: float

    @property
    def value(self) -> float:
        """The activation at ``at``."""
        return float(self.values[self.at])


@dataclass(frozen=True)
class LatentStatistics:
    """How often and how strongly one latent fires: 0 everywhere for a dead one.

    ``fires`` is on how many tokens, ``density`` on what share of those looked at, ``n_contexts`` in how many
    contexts; ``maximum`` is its largest activation, ``mean_active`` the mean of those above 0.
    """

    fires: int
    density: float
    n_contexts: int
    maximum: float
    mean_active: float


@dataclass(frozen=True, repr=False)
class LatentActivations:
    """Where every latent fires, and how strongly: 8 bytes for each activation above 0, nothing for the
    others.

    ``seen`` marks the tokens that were looked at (neither first positions nor massive activations). The
    activations of latent ``l`` are the entries ``offsets[l]`` to ``offsets[l + 1]``, in the order of the
    text: ``places`` has ``context * length + position``, ``values`` the activations. Made by
    ``features.record`` or ``features.record_activations``.
    """

    ENTRY: ClassVar[int] = 8  # bytes

    tokens: Int[Tensor, "context pos"]
    seen: Bool[Tensor, "context pos"]
    offsets: Int[Tensor, "bound"]
    places: Int[Tensor, "entry"]
    values: Float[Tensor, "entry"]

    def __repr__(self) -> str:
        return (
            f"LatentActivations({self.n_latents:,} latents on {self.n_tokens:,} tokens "
            f"of {len(self.tokens):,} contexts, {self.left_out:,} left out as massive; "
            f"{len(self.values):,} activations in {self.nbytes / 2**20:.1f} MiB)"
        )

    @property
    def n_latents(self) -> int:
        """How many latents there are, dead ones included."""
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        """How many tokens were looked at."""
        return int(self.seen.sum())

    @property
    def left_out(self) -> int:
        """How many tokens were not looked at, first positions aside."""
        return self.seen[:, 1:].numel() - self.n_tokens

    @property
    def nbytes(self) -> int:
        """What this takes in memory, in bytes."""
        return sum(one.nbytes for one in (self.tokens, self.seen, self.offsets, self.places, self.values))

    @property
    def density(self) -> Float[Tensor, "latent"]:
        """The share of tokens on which each latent fires; 0 for a dead one."""
        return self.offsets.diff() / self.n_tokens

    @property
    def maximum(self) -> Float[Tensor, "latent"]:
        """The largest activation of each latent; 0 for a dead one."""
        return torch.zeros(self.n_latents).scatter_reduce(0, self.latents, self.values, "amax")

    @property
    def mean_active(self) -> Float[Tensor, "latent"]:
        """The mean activation of each latent where it fires; 0 for a dead one."""
        return self._sums(self.values) / self.offsets.diff().clamp_min(1)

    @property
    def n_contexts(self) -> Int[Tensor, "latent"]:
        """In how many contexts each latent fires."""
        cells = self.latents * len(self.tokens) + self.places // self.tokens.shape[1]
        return torch.bincount(torch.unique_consecutive(cells) // len(self.tokens), minlength=self.n_latents)

    def statistics(self, latent: SupportsIndex) -> LatentStatistics:
        """How often and how strongly one latent fires; for all at once there are ``density``, ``maximum``...

        Raises:
            ValueError: a latent that does not exist.
        """
        places, values = self.entries(latent)
        if not len(values):
            return LatentStatistics(0, 0.0, 0, 0.0, 0.0)
        return LatentStatistics(
            fires=len(values),
            density=len(values) / self.n_tokens,
            n_contexts=len(torch.unique_consecutive(places // self.tokens.shape[1])),
            maximum=float(values.max()),
            mean_active=float(values.double().mean()),
        )

    def entries(self, latent: SupportsIndex) -> tuple[Int[Tensor, "fires"], Float[Tensor, "fires"]]:
        """Places and values of one latent's activations.

        Raises:
            ValueError: a latent that does not exist.
        """
        latent = self.check_latent(latent)
        part = slice(int(self.offsets[latent]), int(self.offsets[latent + 1]))
        return self.places[part].long(), self.values[part]

    def row(self, latent: SupportsIndex, context: int) -> Float[Tensor, "pos"]:
        """The activations of one latent along one context, 0 where it does not fire."""
        places, values = self.entries(latent)
        length = self.tokens.shape[1]
        ends = torch.tensor([context * length, (context + 1) * length])
        low, high = torch.searchsorted(places, ends).tolist()
        row = torch.zeros(length)
        row[places[low:high] - context * length] = values[low:high]
        return row

    def histogram(
        self, latent: SupportsIndex, *, bins: int = 30
    ) -> tuple[Int[Tensor, "bin"], Float[Tensor, "edge"]]:
        """How many activations fall between edges evenly spaced from 0 to the maximum; zeros are not counted.

        Raises:
            ValueError: a latent that does not exist, or no bins.
        """
        at_least_one(bins, "bins")
        _, values = self.entries(latent)
        highest = float(values.max()) if len(values) else 1.0
        return values.histc(bins, 0, highest).long(), torch.linspace(0, highest, bins + 1)

    def top_contexts(
        self,
        latent: SupportsIndex,
        n: int = 10,
        *,
        window: int | None = 12,
        among: Bool[Tensor, "context pos"] | None = None,
    ) -> list[Excerpt]:
        """The contexts with the highest activation, strongest first; each is there once, at its strongest
        token.

        Args:
            latent: which one.
            n: how many; there are fewer where it fires in fewer.
            window: tokens before and after that are shown (more on one side where the other ends); ``None``:
                all.
            among: only these tokens are looked at; by default all.

        Raises:
            ValueError: a latent that does not exist, ``n`` below 1, or a negative window.
        """
        at_least_one(n, "n")
        places, values = self.entries(latent)
        ordered = places[values.argsort(descending=True, stable=True)]
        if among is not None:
            ordered = ordered[among.flatten()[ordered]]
        return [self._excerpt(latent, place, window) for place in self._one_each(ordered)[:n].tolist()]

    def random_contexts(
        self,
        latent: SupportsIndex,
        n: int,
        generator: torch.Generator,
        *,
        window: int | None = 12,
        above: float | int = 0,
    ) -> list[Excerpt]:
        """Contexts from all over the range: a random activation of each, ranked, and one from each n-th of
        the ranks.

        The top contexts alone flatter a latent: most of its activations may be about something else.

        Args:
            latent, n, window: as ``top_contexts`` takes them; strongest first.
            generator: for the draw.
            above: leave out the weakest activations, this share of them.

        Raises:
            ValueError: as ``top_contexts``, or ``above`` not from 0 to 1.
        """
        at_least_one(n, "n")
        if not 0 <= above < 1:
            raise ValueError(f"above is {above}; it should be a share, from 0 to below 1")
        places, values = self.entries(latent)
        used = torch.randperm(len(places), generator=generator)
        if len(places):
            used = used[values[used] >= values.sort().values[int(above * len(values))]]
        value_at = torch.zeros(self.tokens.numel())
        value_at[places] = values
        ranked = self._one_each(places[used])
        ranked = ranked[value_at[ranked].argsort(descending=True, stable=True)]
        n = min(n, len(ranked))
        bounds = torch.arange(n + 1) * len(ranked) // max(n, 1)
        chosen = bounds[:-1] + (torch.rand(n, generator=generator) * bounds.diff()).long()
        return [self._excerpt(latent, place, window) for place in ranked[chosen].tolist()]

    def quiet_contexts(
        self, latent: SupportsIndex, n: int, generator: torch.Generator, *, window: int | None = 12
    ) -> list[Excerpt]:
        """Random excerpts in which a latent never fires, from ``n`` contexts (fewer where there are no more).

        Args:
            latent, n, window: as ``top_contexts`` takes them.
            generator: for the draw.

        Raises:
            ValueError: as ``top_contexts``.
        """
        at_least_one(n, "n")
        places, _ = self.entries(latent)
        rows, length = self.tokens.shape
        fires = torch.zeros(rows, length, dtype=torch.long)
        fires.view(-1)[places] = 1
        # How often it fires before each position; the same at both ends of a window: nowhere in it.
        before = torch.nn.functional.pad(fires.cumsum(dim=1), (1, 0))
        bounds = torch.tensor([_window(position, length, window) for position in range(length)])
        candidates = (before[:, bounds[:, 1]] == before[:, bounds[:, 0]]) & self.seen
        # A random candidate of each context: the one with the largest random number.
        numbers = torch.rand(rows, length, generator=generator).masked_fill(~candidates, -1)
        possible = candidates.any(dim=1).nonzero()[:, 0]
        chosen = possible[torch.randperm(len(possible), generator=generator)[:n]].tolist()
        return [self._excerpt(latent, i * length + int(numbers[i].argmax()), window) for i in chosen]

    def contrast(self, marked: Bool[Tensor, "context pos"]) -> Float[Tensor, "latent"]:
        """Mean activation on the marked tokens, less that on the others: what is theirs in particular.

        Raises:
            ValueError: a mark for other contexts, or no marked or no other token among those looked at.
        """
        if marked.shape != self.seen.shape:
            raise ValueError(f"marked has shape {tuple(marked.shape)}; it should be {tuple(self.seen.shape)}")
        count = int((marked & self.seen).sum())
        if not 0 < count < self.n_tokens:
            raise ValueError(
                f"marked holds {count} of the {self.n_tokens} tokens looked at; it should hold a part"
            )
        here = self._sums(self.values * marked.flatten()[self.places])
        return here / count - (self._sums(self.values) - here) / (self.n_tokens - count)

    def check_latent(self, latent: SupportsIndex) -> int:
        """The latent, if there is one of this number.

        Raises:
            ValueError: anything but a whole number from 0 to ``n_latents - 1`` (negative numbers included).
        """
        try:
            index = operator.index(latent)
        except TypeError:
            index = -1
        if isinstance(latent, bool) or not 0 <= index < self.n_latents:
            raise ValueError(
                f"latent is {latent!r}; it should be a whole number from 0 to {self.n_latents - 1}"
            )
        return index

    @property
    def latents(self) -> Int[Tensor, "entry"]:
        """Whose activation each entry is."""
        return torch.repeat_interleave(self.offsets.diff())

    def _sums(self, values: Float[Tensor, "entry"]) -> Float[Tensor, "latent"]:
        """For each latent; added up in float64, or a large activation would swallow many small ones."""
        sums = torch.zeros(self.n_latents, dtype=torch.float64)
        return sums.index_add(0, self.latents, values.double()).float()

    def _one_each(self, places: Int[Tensor, "place"]) -> Int[Tensor, "first"]:
        """Of the places the first of each context, in their order."""
        first = torch.full((len(self.tokens),), len(places))
        first.scatter_reduce_(0, places // self.tokens.shape[1], torch.arange(len(places)), "amin")
        return places[first[first < len(places)].sort().values]

    def _excerpt(self, latent: SupportsIndex, place: int, window: int | None) -> Excerpt:
        context, position = divmod(place, self.tokens.shape[1])
        start, stop = _window(position, self.tokens.shape[1], window)
        row, (_, values) = self.row(latent, context), self.entries(latent)
        weaker = float((values < row[position]).float().mean()) if len(values) else 0.0
        tokens = self.tokens[context, start:stop]
        return Excerpt(context, start, position - start, tokens, row[start:stop], weaker)


def at_least_one(count: int, name: str) -> None:
    """Refuse a count below 1; ValueError names it."""
    if count < 1:
        raise ValueError(f"{name} is {count}; it should be at least 1")


def _window(position: int, length: int, window: int | None) -> tuple[int, int]:
    """Where to begin and to stop; windows of a context are equally long, and never hold its first
    position."""
    if window is None:
        return 1, length
    if window < 0:
        raise ValueError(f"window is {window}; it should be 0 or more, or None for whole contexts")
    start = max(1, min(position - window, length - (2 * window + 1)))
    return start, min(start + 2 * window + 1, length)
