"""Dashboards of latents: a card in a notebook, a browser to play with, a file to give away; none needs a
network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import data_files, features
from mi_utils.features.cards import Source, card, excerpts, page
from mi_utils.features.store import LatentActivations
from mi_utils.plots import html

_FOUND = 20  # latents that a search lists
_EXPORTED = 200  # latents that a file has by default
_NONE = -1  # a dropdown whose only value is None takes no other value after


@dataclass(frozen=True, repr=False)
class Dashboard:
    """A card, shown by Jupyter; its plain text is only its unit, since another may be chosen elsewhere."""

    html: str
    unit: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Dashboard({self.unit})"


def dashboard(
    model: TransformerBridge,
    acts: LatentActivations,
    latent: int,
    directions: Float[Tensor, "latent d_model"] | None = None,
    *,
    unit: str = "latent",
    seed: int = 0,
) -> Dashboard:
    """What one latent does: where it fires, what it promotes, which others are like it.

    Args:
        model: whose tokens and unembedding they are; it is not run.
        acts: where the latents fire, as ``features.record_activations`` gives it.
        latent: which one.
        directions: what each latent writes to the residual stream: ``sae.W_dec``, or ``model.W_out[layer]``
            for the neurons of an MLP; ``None`` leaves out promoted tokens and neighbours.
        unit: what a latent is called.
        seed: of the contexts drawn at random.

    Raises:
        ValueError: a latent that does not exist, or directions of another number or width.
    """
    latent = acts.check_latent(latent)
    source = Source(model, acts, directions, unit, seed)
    return Dashboard(_framed(card(source, latent)), unit)


def _framed(body: Markup) -> str:
    """In the frame, as a plain text: text that is added to :class:`Markup` later would be escaped."""
    return str(html.frame(body, style="max-width:1040px"))


class LatentBrowser(widgets.VBox):
    """Dashboards to leaf through, in the order of density, and to search for what fires on a text.

    A search lists the latents that fire more on the tokens it touches than on others, and puts the places
    where the chosen one does so on top of its card. What can't be found is said in one sentence. The parts
    are ``latent``, ``denser``, ``sparser``, ``search``, ``found`` and ``page``.

    Args:
        model, acts, directions, unit, seed: as ``dashboard`` takes them.
        latent: which one is shown at the start; by default the densest below 1 % of tokens.

    Raises:
        ValueError: as ``dashboard``, or no latent that ever fires.
    """

    def __init__(
        self,
        model: TransformerBridge,
        acts: LatentActivations,
        directions: Float[Tensor, "latent d_model"] | None = None,
        *,
        latent: int | None = None,
        unit: str = "latent",
        seed: int = 0,
    ) -> None:
        self._source = Source(model, acts, directions, unit, seed)
        order = self._source.by_density
        if not order:
            raise ValueError(
                f"acts has {acts.n_latents} latents, none of which ever fires; at least one should"
            )
        if latent is None:
            density = acts.density
            latent = next((one for one in order if density[one] < 0.01), order[-1])
        narrow = {"layout": widgets.Layout(width="auto", margin="2px 8px 2px 2px")}
        fits = {**narrow, "style": {"description_width": "initial"}, "continuous_update": False}
        self.latent = widgets.BoundedIntText(
            acts.check_latent(latent), 0, acts.n_latents - 1, description=unit, **fits
        )
        self.denser = widgets.Button(description="◀ denser", **narrow)
        self.sparser = widgets.Button(description="sparser ▶", **narrow)
        self.search = widgets.Text("", description="fires on", placeholder="token or text", **fits)
        self.found = widgets.Dropdown(options=[("search first", _NONE)], disabled=True, **narrow)
        self.page = widgets.HTML(layout=widgets.Layout(width="auto", overflow="auto"))
        row = [self.latent, self.denser, self.sparser, self.search, self.found]
        super().__init__([widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap")), self.page])
        self._marked: Tensor | None = None
        self.denser.on_click(lambda _: self._step(-1))
        self.sparser.on_click(lambda _: self._step(1))
        self.latent.observe(self._show, names="value")
        self.search.observe(self._find, names="value")
        self.found.observe(self._choose, names="value")
        self._show()

    def __repr__(self) -> str:
        searched = f", fires on {self.search.value!r}" if self.search.value else ""
        return f"LatentBrowser({self._source.unit}{searched})"

    def _step(self, by: int) -> None:
        """To the neighbour by density; from a latent that never fires, to the sparsest."""
        order = self._source.by_density
        here = order.index(self.latent.value) + by if self.latent.value in order else len(order) - 1
        self.latent.value = order[max(0, min(here, len(order) - 1))]

    def _find(self, _change: Any = None) -> None:
        acts, text = self._source.acts, self.search.value
        options, self._marked = [], None
        if text:
            self._marked = features.matching(acts.tokens, self._source.texts, text) & acts.seen
            if 0 < int(self._marked.sum()) < acts.n_tokens:
                more = acts.contrast(self._marked)
                best = more.argsort(descending=True, stable=True)[:_FOUND].tolist()
                options = [
                    (f"{one}: +{more[one]:.3g}  {self._source.label(one)}", one)
                    for one in best
                    if more[one] > 0
                ]
        self.found.disabled = not options
        self.found.options = options or [("none" if text else "search first", _NONE)]
        self._choose()  # the first may be the one that was chosen before
        self._show()

    def _choose(self, _change: Any = None) -> None:
        if self.found.value != _NONE:
            self.latent.value = self.found.value

    def _show(self, _change: Any = None) -> None:
        body = self._hits() + card(self._source, self.latent.value)
        self.page.value = _framed(body)

    def _hits(self) -> Markup:
        """Where the latent fires on what was searched for, or why there is nothing to show."""
        name, latent, acts = self.search.value, self.latent.value, self._source.acts
        if not name:
            return Markup("")
        count = 0 if self._marked is None else int(self._marked.sum())
        if not count:
            return html.sentence(f"{name!r} is nowhere among the {acts.n_tokens:,} tokens looked at.")
        fires = int(self._marked.flatten()[acts.entries(latent)[0]].sum())
        if not fires:
            return html.sentence(
                f"This {self._source.unit} fires on none of the {count:,} tokens that {name!r} touches."
            )
        places = acts.top_contexts(latent, 5, among=self._marked)
        heading = f"On {name!r} it fires on {fires:,} of {count:,} tokens"
        return excerpts(self._source, latent, heading, places)


@dataclass(frozen=True, repr=False)
class Export:
    """A file that was written."""

    file: Path
    latents: tuple[int, ...]
    nbytes: int

    def __repr__(self) -> str:
        return f"Export({self.file.name!r}, {len(self.latents)} latents, {self.nbytes / 1e6:.1f} MB)"


def export(
    path: str | Path,
    model: TransformerBridge,
    acts: LatentActivations,
    directions: Float[Tensor, "latent d_model"] | None = None,
    *,
    latents: Sequence[int] | None = None,
    title: str = "Latents",
    unit: str = "latent",
    seed: int = 0,
) -> Export:
    """Write cards of many latents as one HTML file with a list and a search over the contexts in it.

    The file loads nothing and needs no server; its policy lets no script run but its own. 200 latents of a
    sparse dictionary take about 2 MB.

    Args:
        path: where.
        model, acts, directions, unit, seed: as ``dashboard`` takes them.
        latents: which ones, in this order; by default 200 evenly from the order of density (all if there are
            fewer).
        title: of the page.

    Raises:
        ValueError: as ``dashboard``, or no latents.
    """
    source = Source(model, acts, directions, unit, seed)
    if latents is None:
        alive = source.by_density
        wanted = min(_EXPORTED, len(alive))
        latents = [alive[i * len(alive) // wanted] for i in range(wanted)]
    chosen = tuple(dict.fromkeys(acts.check_latent(one) for one in latents))
    if not chosen:
        raise ValueError("latents is empty; it should name at least one that fires")
    path, content = Path(path), page(source, chosen, title).encode()
    data_files.write(content, path)
    return Export(path, chosen, len(content))
