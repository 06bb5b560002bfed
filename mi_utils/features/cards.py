"""The parts of a latent's card as HTML: no script, nothing loaded, all text escaped.

A :class:`Source` has what cards are made of; :mod:`mi_utils.features.view` puts them into notebooks and
files.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import features, prompts
from mi_utils.features.store import Excerpt, FeatureActivations
from mi_utils.plots.style import INK, MONO, SANS, SEQUENTIAL, colour_at, ink_on, shorten, token_labels

LEVELS = 16  # colours of tokens
LINE = f"display:block;font:12px/1.6 {MONO};white-space:pre-wrap;overflow-wrap:anywhere;padding-left:8ch;text-indent:-8ch"
_FAINT = "#595959"


@dataclass(frozen=True)
class Look:
    """How the many small elements of a card get their look: by attributes of their own, or by the classes of
    a page.

    ``paint`` makes the attribute with the colours of a level, ``line`` is that of a context.
    """

    paint: Callable[[int], str]
    line: str


def colours(level: int) -> str:
    """Ground and ink of a level from 0 to ``LEVELS - 1``."""
    ground = colour_at(level / (LEVELS - 1), SEQUENTIAL)
    return f"background:#{bytes(ground).hex()};color:{ink_on(ground)}"


ALONE = Look(lambda level: f' style="{colours(level)}"', f' style="{LINE}"')


@dataclass(frozen=True)
class Source:
    """What cards of latents are made of.

    Args:
        model: whose tokens and unembedding they are.
        acts: where the latents fire.
        directions: what each latent writes to the residual stream: ``sae.W_dec``, or ``model.W_out[layer]``
            for the neurons of an MLP; ``None`` leaves out promoted tokens and neighbours.
        unit: what a latent is called.
        seed: of the contexts drawn at random.

    Raises:
        ValueError: directions of another number or width, or tokens that the model does not have.
    """

    model: TransformerBridge
    acts: FeatureActivations
    directions: Float[Tensor, "latent d_model"] | None = None
    unit: str = "latent"
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = (self.acts.n_latents, self.model.cfg.d_model)
        if self.directions is not None and tuple(self.directions.shape) != wanted:
            raise ValueError(f"directions has shape {tuple(self.directions.shape)}; it should be {wanted}")
        if int(self.acts.tokens.max()) >= self.model.cfg.d_vocab:
            raise ValueError(
                f"acts has token {int(self.acts.tokens.max())}, which the model's vocabulary has not"
            )

    @cached_property
    def texts(self) -> dict[int, str]:
        """The text of every token of the contexts."""
        return features.texts(self.model, self.acts.tokens)

    @cached_property
    def by_density(self) -> list[int]:
        """The latents that fire at all, the densest first."""
        order = self.acts.density.argsort(descending=True, stable=True)
        return order[self.acts.density[order] > 0].tolist()

    @cached_property
    def unembedding(self) -> Float[Tensor, "d_model d_vocab"]:
        """``W_U`` in float32."""
        return self.model.W_U.detach().float()

    def label(self, latent: int) -> str:
        """The tokens on which a latent fires most strongly: the first three that differ."""
        top = [self.texts[int(one.tokens[one.at])] for one in self.acts.top_contexts(latent, 8, window=0)]
        differing = list(dict.fromkeys(shorten(visible(text).strip(), 16) for text in top))[:3]
        return " ".join(differing) or "never fires"


def card(
    source: Source, latent: int, *, top: int = 8, spread: int = 6, window: int = 12, look: Look = ALONE
) -> str:
    """One latent: header, histogram, what it promotes, whom it resembles, its strongest and some other
    contexts.

    Args:
        source: what the card is made of.
        latent: which one.
        top, spread: how many of the strongest contexts, and of those from all over the range.
        window: tokens before and after the one of interest.
        look: how its elements get their look.

    Raises:
        ValueError: a latent that does not exist.
    """
    latent, acts = source.acts.check_latent(latent), source.acts
    generator = torch.Generator().manual_seed(1_000_003 * source.seed + latent)
    fires = int(acts.offsets[latent + 1] - acts.offsets[latent])
    if not fires:
        return _heading(source, latent) + sentence(
            f"It fires on none of the {acts.n_tokens:,} tokens looked at."
        )
    strongest = acts.top_contexts(latent, top, window=window)
    others = acts.random_contexts(latent, spread, generator, window=window)
    side = [_histogram(source, latent)] + ([] if source.directions is None else _direction(source, latent))
    why = f"one from each of {len(others)} equal parts by strength, for the strongest alone flatter it"
    main = excerpts(source, latent, "Strongest contexts", strongest, look=look)
    main += excerpts(source, latent, "From all over its range", others, why, look)
    columns = f'<div style="flex:0 1 270px;min-width:0">{"".join(side)}</div>'
    columns += f'<div style="flex:1 1 480px;min-width:0">{main}</div>'
    return f'{_heading(source, latent)}<div style="display:flex;flex-wrap:wrap;gap:8px 20px">{columns}</div>'


def excerpts(
    source: Source, latent: int, heading: str, shown: Sequence[Excerpt], why: str = "", look: Look = ALONE
) -> str:
    """Contexts under a heading; colours go from 0 to the latent's maximum over all contexts."""
    highest = float(source.acts.maximum[latent]) or 1.0
    rows = [_excerpt(source, one, highest, look) for one in shown]
    return f'<section style="margin-bottom:10px">{_title(heading, why)}{"".join(rows)}</section>'


def sentence(text: str) -> str:
    """A line of prose."""
    return f'<div style="margin:4px 0">{html.escape(text)}</div>'


def frame(body: str) -> str:
    """Opaque and white, so that it reads in light and dark themes alike."""
    style = f"background:#ffffff;color:{INK};border:1px solid #cccccc;border-radius:4px;padding:10px 12px"
    return f'<div style="{style};font:13px/1.45 {SANS};max-width:1040px;overflow-x:auto">{body}</div>'


def visible(text: str) -> str:
    """A token in running text: white space is marked, but for the one space before a word."""
    word = text[1:]
    if text.startswith(" ") and word and word == word.strip():
        return " " + token_labels([word], longest=200)[0]
    return token_labels([text], longest=200)[0]


def _heading(source: Source, latent: int) -> str:
    acts = source.acts
    fires = int(acts.offsets[latent + 1] - acts.offsets[latent])
    facts = (
        f"fires on {acts.density[latent]:.3%} of tokens ({fires:,} of {acts.n_tokens:,}, in "
        f"{int(acts.n_contexts[latent]):,} of {len(acts.tokens):,} contexts); strongest "
        f"{acts.maximum[latent]:.3g}, "
        f"mean where it fires {acts.mean_active[latent]:.3g}"
    )
    name = html.escape(f"{source.unit} {latent}".capitalize())
    return f'<div style="margin-bottom:8px"><b style="font-size:15px">{name}</b>&ensp;{facts}</div>'


def _title(text: str, more: str = "") -> str:
    more = f'<span style="font-weight:normal;color:{_FAINT}">: {html.escape(more)}</span>' if more else ""
    return f'<div style="font-weight:600;margin:2px 0 3px">{html.escape(text)}{more}</div>'


def _excerpt(source: Source, one: Excerpt, highest: float, look: Look) -> str:
    """A line: the activation, then the text; only tokens on which the latent fires are elements of their
    own."""
    cells = []
    for i, (token, value) in enumerate(zip(one.tokens.tolist(), one.values.tolist(), strict=True)):
        text = html.escape(visible(source.texts[token]))
        if value > 0:
            level = min(round(value / highest * (LEVELS - 1)), LEVELS - 1)
            text = f'<span title="{value:.3g}"{look.paint(level)}>{text}</span>'
        cells.append(f"<u>{text}</u>" if i == one.at else text)
    tip = f"context {one.context}, stronger than {one.quantile:.1%} of its activations"
    number = f'<span style="color:{_FAINT}" title="{tip}">{one.value:>6.3g}  </span>'
    return f"<code{look.line}>{number}{''.join(cells)}</code>"


def _histogram(source: Source, latent: int) -> str:
    """Counts of activations by strength, in the colours that tokens have: it is the legend as well."""
    counts, edges = source.acts.histogram(latent, bins=LEVELS * 2)
    counts, highest = counts.tolist(), float(edges[-1])
    bars = []
    for i, count in enumerate(counts):
        height = 60 * count / max(counts)
        ground = bytes(colour_at(i / (len(counts) - 1), SEQUENTIAL)).hex()
        place = f'x="{8 * i}" y="{60 - height:.1f}" width="7" height="{height:.1f}"'
        bars.append(f'<rect {place} fill="#{ground}" stroke="{_FAINT}" stroke-width=".4"/>')
    text = f"Histogram of {sum(counts):,} activations from 0 to {highest:.3g}; the fullest bar has {max(counts):,}"
    return (
        f'<section style="margin-bottom:10px">{_title("Its activations above 0")}'
        f'<svg role="img" aria-label="{text}" width="258" height="76" viewBox="-1 -1 258 '
        f'76"><title>{text}</title>'
        f'{"".join(bars)}<line x1="0" x2="256" y1="60.5" y2="60.5" stroke="{_FAINT}"/>'
        f'<g font-size="11" fill="{INK}"><text x="0" y="73">0</text>'
        f'<text x="256" y="73" text-anchor="end">{highest:.3g}</text></g></svg></section>'
    )


def _direction(source: Source, latent: int) -> list[str]:
    direction, model = source.directions[latent], source.model
    found = features.promoted(direction.to(source.unembedding.device), source.unembedding, 8)
    parts = []
    for heading, ids, values in (
        ("Tokens it promotes directly", found.promoted, found.raised),
        ("Tokens it suppresses directly", found.suppressed, found.lowered),
    ):
        labels = token_labels(prompts.token_strings(model, ids))
        parts.append(
            _pairs(heading, labels, [f"{value:+.2f}".replace("-", "−") for value in values.tolist()])
        )
    if source.acts.n_latents > 1:
        others, cosines = features.nearest(source.directions, latent, min(5, source.acts.n_latents - 1))
        names = [f"{other} {source.label(other)}" for other in others.tolist()]
        parts.append(_pairs("Nearest directions (cosine)", names, [f"{one:.2f}" for one in cosines.tolist()]))
    return parts


def _pairs(heading: str, names: Sequence[str], numbers: Sequence[str]) -> str:
    style = f"font:12px/1.4 {MONO};white-space:pre;overflow:hidden;text-overflow:ellipsis"
    rows = [f"{number:>6}  {html.escape(name)}" for name, number in zip(names, numbers, strict=True)]
    lines = "\n".join(rows)
    return (
        f'<section style="margin-bottom:10px">{_title(heading)}<div style="{style}">{lines}</div></section>'
    )
