"""A latent's card as HTML, and many cards on one page: nothing is loaded, all text is escaped.

A :class:`Source` has what cards are made of; :mod:`mi_utils.features.view` puts them into notebooks and
files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import prompts
from mi_utils.features.recording import nearest, promoted, texts
from mi_utils.features.store import Excerpt, LatentActivations, LatentStatistics
from mi_utils.plots import html
from mi_utils.plots.style import INK, MONO, SANS, SEQUENTIAL, colour_at, ink_on, shorten, token_labels

__all__ = ()  # the parts of what ``features.view`` offers

LEVELS = 16  # colours of tokens
BARS = 2 * LEVELS  # of a histogram
LINE = (
    f"display:block;font:12px/1.6 {MONO};white-space:pre-wrap;overflow-wrap:anywhere;"
    "padding-left:8ch;text-indent:-8ch"
)
FAINT = "#595959"


def colours(level: int) -> str:
    """Ground and ink of a level from 0 to ``LEVELS - 1``, as declarations of CSS."""
    ground = colour_at(level / (LEVELS - 1), SEQUENTIAL)
    return f"background:#{bytes(ground).hex()};color:{ink_on(ground)}"


@dataclass(frozen=True)
class Look:
    """How the many small elements of a card get their look: each by an attribute.

    ``levels`` has the attribute for each level of colour, ``line`` that of a context.
    """

    levels: tuple[Markup, ...]
    line: Markup


ALONE = Look(
    tuple(html.render(' style="{{ style }}"', style=colours(level)) for level in range(LEVELS)),
    html.render(' style="{{ style }}"', style=LINE),
)
ON_A_PAGE = Look(  # which has classes for them
    tuple(html.render(" class=c{{ level }}", level=level) for level in range(LEVELS)),
    Markup(""),
)


class Source:
    """What cards of latents are made of.

    ``texts`` has the text of every token of the contexts; ``by_density`` the latents that fire at all, the
    densest first.

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

    def __init__(
        self,
        model: TransformerBridge,
        acts: LatentActivations,
        directions: Float[Tensor, "latent d_model"] | None = None,
        unit: str = "latent",
        seed: int = 0,
    ) -> None:
        wanted = (acts.n_latents, model.cfg.d_model)
        if directions is not None and tuple(directions.shape) != wanted:
            raise ValueError(f"directions has shape {tuple(directions.shape)}; it should be {wanted}")
        largest = int(acts.tokens.max())
        if largest >= model.cfg.d_vocab:
            raise ValueError(f"acts has token {largest}, which the model's vocabulary has not")
        self.model, self.acts, self.directions = model, acts, directions
        self.unit, self.seed = unit, seed
        self.texts = texts(model, acts.tokens)
        density = acts.density
        order = density.argsort(descending=True, stable=True)
        self.by_density: list[int] = order[density[order] > 0].tolist()
        self.unembedding = None if directions is None else model.W_U.detach().float()

    def label(self, latent: int) -> str:
        """The tokens on which a latent fires most strongly: the first three that differ."""
        top = [self.texts[int(one.tokens[one.at])] for one in self.acts.top_contexts(latent, 8, window=0)]
        differing = list(dict.fromkeys(shorten(visible(text).strip(), 16) for text in top))[:3]
        return " ".join(differing) or "never fires"


def visible(text: str) -> str:
    """A token in running text: white space is marked, but for the one space before a word."""
    word = text[1:]
    if text.startswith(" ") and word and word == word.strip():
        return " " + token_labels([word], longest=200)[0]
    return token_labels([text], longest=200)[0]


# -- a card --------------------------------------------------------------------------------------------

_HEADING = '<div style="margin-bottom:8px"><b style="font-size:15px">{{ name }}</b>&ensp;{{ facts }}</div>'
_COLUMNS = """\
<div style="display:flex;flex-wrap:wrap;gap:8px 20px">
<div style="flex:0 1 270px;min-width:0">{{ side }}</div>
<div style="flex:1 1 480px;min-width:0">{{ main }}</div>
</div>
"""


def card(
    source: Source, latent: int, *, top: int = 8, spread: int = 6, window: int = 12, look: Look = ALONE
) -> Markup:
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
    name, found = f"{source.unit} {latent}".capitalize(), acts.statistics(latent)
    heading = html.render(_HEADING, name=name, facts=_facts(acts, found))
    if not found.fires:
        return heading + html.sentence(f"It fires on none of the {acts.n_tokens:,} tokens looked at.")
    generator = torch.Generator().manual_seed(1_000_003 * source.seed + latent)
    strongest = acts.top_contexts(latent, top, window=window)
    others = acts.random_contexts(latent, spread, generator, window=window)
    why = f"one from each of {len(others)} equal parts by strength, for the strongest alone flatter it"
    main = excerpts(source, latent, "Strongest contexts", strongest, look=look)
    main += excerpts(source, latent, "From all over its range", others, why, look)
    side = _histogram(source, latent)
    if source.directions is not None:
        side += _direction(source, latent)
    return heading + html.render(_COLUMNS, side=side, main=main)


def _facts(acts: LatentActivations, found: LatentStatistics) -> str:
    return (
        f"fires on {found.density:.3%} of tokens ({found.fires:,} of {acts.n_tokens:,}, "
        f"in {found.n_contexts:,} of {len(acts.tokens):,} contexts); "
        f"strongest {found.maximum:.3g}, mean where it fires {found.mean_active:.3g}"
    )


_TITLE = (
    '<div style="font-weight:600;margin:2px 0 3px">{{ text }}'
    '{% if more %}<span style="font-weight:normal;color:{{ faint }}">: {{ more }}</span>{% endif %}</div>'
)
# A context is shown as it stands, white space too, hence in one line.
_EXCERPTS = (
    '<section style="margin-bottom:10px">{{ title }}'
    "{% for row in rows %}"
    '<code{{ line }}><span style="color:{{ faint }}" title="{{ row.tip }}">{{ row.number }}  </span>'
    "{% for token in row.tokens %}"
    "{% if token.at %}<u>{% endif %}"
    '{% if token.look %}<span title="{{ token.value }}"{{ token.look }}>{{ token.text }}</span>'
    "{% else %}{{ token.text }}{% endif %}"
    "{% if token.at %}</u>{% endif %}"
    "{% endfor %}</code>"
    "{% endfor %}</section>"
)


def excerpts(
    source: Source, latent: int, heading: str, shown: Sequence[Excerpt], why: str = "", look: Look = ALONE
) -> Markup:
    """Contexts under a heading; colours go from 0 to the latent's maximum over all contexts.

    Each is a line: the activation, then the text; only tokens on which the latent fires are elements of their
    own.
    """
    highest = source.acts.statistics(latent).maximum or 1.0
    rows = [
        {
            "tip": f"context {one.context}, stronger than {one.quantile:.1%} of its activations",
            "number": f"{one.value:>6.3g}",
            "tokens": _tokens(source, one, highest, look),
        }
        for one in shown
    ]
    return html.render(_EXCERPTS, title=_title(heading, why), rows=rows, line=look.line, faint=FAINT)


def _title(text: str, more: str = "") -> Markup:
    return html.render(_TITLE, text=text, more=more, faint=FAINT)


def _tokens(source: Source, one: Excerpt, highest: float, look: Look) -> Iterator[dict]:
    """What the template needs of each token; ``look`` only where the latent fires."""
    for i, (token, value) in enumerate(zip(one.tokens.tolist(), one.values.tolist(), strict=True)):
        level = min(round(value / highest * (LEVELS - 1)), LEVELS - 1)
        yield {
            "text": visible(source.texts[token]),
            "at": i == one.at,
            "value": f"{value:.3g}",
            "look": look.levels[level] if value > 0 else None,
        }


_HISTOGRAM = """\
<section style="margin-bottom:10px">{{ title }}
<svg role="img" aria-label="{{ about }}" width="258" height="76" viewBox="-1 -1 258 76">
<title>{{ about }}</title>
{% for bar in bars %}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="7" height="{{ bar.height }}"
 fill="{{ bar.fill }}" stroke="{{ faint }}" stroke-width=".4"/>
{% endfor %}
<line x1="0" x2="256" y1="60.5" y2="60.5" stroke="{{ faint }}"/>
<g font-size="11" fill="{{ ink }}"><text x="0" y="73">0</text>
<text x="256" y="73" text-anchor="end">{{ highest }}</text></g>
</svg></section>
"""


def _histogram(source: Source, latent: int) -> Markup:
    """Counts of activations by strength, in the colours that tokens have: it is the legend as well."""
    counts, edges = source.acts.histogram(latent, bins=BARS)
    counts, highest = counts.tolist(), f"{float(edges[-1]):.3g}"
    fullest = max(counts)
    bars = []
    for i, count in enumerate(counts):
        height = 60 * count / fullest
        fill = f"#{bytes(colour_at(i / (BARS - 1), SEQUENTIAL)).hex()}"
        bars.append({"x": 8 * i, "y": f"{60 - height:.1f}", "height": f"{height:.1f}", "fill": fill})
    about = f"Histogram of {sum(counts):,} activations from 0 to {highest}; the fullest bar has {fullest:,}"
    return html.render(
        _HISTOGRAM,
        title=_title("Its activations above 0"),
        about=about,
        bars=bars,
        highest=highest,
        faint=FAINT,
        ink=INK,
    )


def _direction(source: Source, latent: int) -> Markup:
    """What a latent's direction promotes and suppresses, and whose directions are like it."""
    direction = source.directions[latent].to(source.unembedding.device)
    found = promoted(direction, source.unembedding, 8)
    parts = Markup("")
    for heading, ids, values in (
        ("Tokens it promotes directly", found.promoted, found.raised),
        ("Tokens it suppresses directly", found.suppressed, found.lowered),
    ):
        labels = token_labels(prompts.token_strings(source.model, ids))
        numbers = [f"{value:+.2f}".replace("-", "−") for value in values.tolist()]
        parts += _pairs(heading, labels, numbers)
    n_others = source.acts.n_latents - 1
    if n_others:
        others, cosines = nearest(source.directions, latent, min(5, n_others))
        names = [f"{other} {source.label(other)}" for other in others.tolist()]
        numbers = [f"{one:.2f}" for one in cosines.tolist()]
        parts += _pairs("Nearest directions (cosine)", names, numbers)
    return parts


_PAIRS = (
    '<section style="margin-bottom:10px">{{ title }}'
    '<div style="font:12px/1.4 {{ mono }};white-space:pre;overflow:hidden;text-overflow:ellipsis">{{ lines }}'
    "</div></section>"
)


def _pairs(heading: str, names: Sequence[str], numbers: Sequence[str]) -> Markup:
    lines = "\n".join(f"{number:>6}  {name}" for name, number in zip(names, numbers, strict=True))
    return html.render(_PAIRS, title=_title(heading), lines=lines, mono=MONO)


# -- a page --------------------------------------------------------------------------------------------

_PAGE = """\
<header>
<h1>{{ title }}</h1>
<p>{{ about }}.</p>
<label>Search the contexts shown <input id="search" type="search"></label>
<span id="said" role="status"></span>
</header>
<main>
<nav aria-label="list">
{% for one in latents %}
<a href="#l{{ one.number }}"><span>{{ one.label }}</span><small>{{ one.density }}</small></a>
{% endfor %}
</nav>
<div>
{% for one in latents %}
<article id="l{{ one.number }}">{{ one.card }}</article>
{% endfor %}
</div>
</main>
"""


def page(source: Source, latents: Sequence[int], title: str) -> str:
    """The file that ``features.export`` writes: many cards, a list of them, and a search over their contexts.

    No script runs in it but ``page.js``.
    """
    about = f"{len(latents):,} of {source.acts.n_latents:,}, on {source.acts.n_tokens:,} tokens of text"
    shown = [
        {
            "number": latent,
            "label": f"{latent} {source.label(latent)}",
            "density": f"{source.acts.statistics(latent).density:.2%}",
            "card": card(source, latent, look=ON_A_PAGE),
        }
        for latent in latents
    ]
    body = html.render(_PAGE, title=title, about=about, latents=shown)
    fonts = f":root{{--ink:{INK};--faint:{FAINT};--sans:{SANS};--mono:{MONO}}}"
    levels = "".join(f".c{level}{{{colours(level)}}}" for level in range(LEVELS))
    style = f"{fonts}{_file('page.css')}code{{{LINE}}}{levels}"
    return html.document(title, body, script=_file("page.js"), style=style)


def _file(name: str) -> str:
    return (resources.files("mi_utils.features") / name).read_text(encoding="utf-8")
