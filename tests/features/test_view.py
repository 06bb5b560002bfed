"""mi_utils.features.view: cards, browser and file show what was recorded, escaped, whatever is asked of
them."""

import hashlib
import re
from base64 import b64encode
from html.parser import HTMLParser

import pytest
import torch
from ipywidgets import Output
from markupsafe import escape
from sentences import assert_one_sentence

from mi_utils import features, prompts
from mi_utils.features.cards import LEVELS, Source, colours, visible
from mi_utils.plots.style import SEQUENTIAL, colour_at, luminance, token_labels

HOSTILE = "</script></title><img src=x onerror=alert(1)>\"'&"
LATENTS, DEAD, DENSE = 12, 4, 7
FRANCE = 309  # a token of the tiny models


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tokens():
    tokens = torch.randint(2, 316, (30, 20), generator=rng())
    tokens[:, 0] = 0
    return tokens


@pytest.fixture(scope="module")
def acts(tokens):
    """Latents of several densities; latent 0 fires on " France" and nowhere else, latent 1 there too."""
    tokens[::10, 9] = FRANCE
    values = torch.randn(30, 20, LATENTS, generator=rng(1)) - torch.linspace(0.5, 2, LATENTS)
    values[..., DEAD], values[..., DENSE] = -1, values[..., DENSE].abs() + 0.1
    values[..., 0] = (tokens == FRANCE) * (1 + torch.arange(30)[:, None] / 30)
    values[..., 1][tokens == FRANCE] = 0.7
    return features.record(torch.relu, values[:, 1:].flatten(0, 1), tokens)


@pytest.fixture(scope="module")
def directions(llama_model):
    return torch.randn(LATENTS, llama_model.cfg.d_model, generator=rng(2))


@pytest.fixture
def browser(llama_model, acts, directions):
    return features.LatentBrowser(llama_model, acts, directions)


@pytest.fixture
def hostile(monkeypatch):
    """Every token reads as an attack."""
    monkeypatch.setattr(prompts.tokens, "token_strings", lambda _, tokens: [HOSTILE] * len(tokens))


class Page(HTMLParser):
    """Elements of a page, its text, and of its contexts: the number, all text, tokens that fire, the one in
    focus."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.lines = [], "", []
        self._in = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "action")], attrs
        assert attrs.get("href", "#").startswith("#")
        self.elements.append((tag, attrs))
        if tag == "code":
            self.lines.append(dict(text="", number=None, fires=[], at=""))
        if tag == "span" and "code" in [name for name, _ in self._in]:
            if self.lines[-1]["number"] is None:
                self.lines[-1]["number"] = ""
            else:
                self.lines[-1]["fires"].append(
                    [float(attrs["title"]), attrs.get("style") or attrs["class"], ""]
                )
        if tag not in ("meta", "input", "rect", "line"):
            self._in.append((tag, attrs))

    def handle_endtag(self, tag):
        if tag not in ("rect", "line"):
            assert self._in.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        inside = [name for name, _ in self._in]
        if "code" not in inside:
            return
        line = self.lines[-1]
        if inside[-1] == "span" and not line["text"] and not line["fires"]:
            line["number"] += data
            return
        line["text"] += data
        if "u" in inside:
            line["at"] += data
        if inside[-1] == "span":
            line["fires"][-1][2] += data


def shown(model, ids):
    return "".join(map(visible, prompts.token_strings(model, ids)))


def assert_shows(line, model, acts, latent, excerpt):
    assert float(line["number"]) == pytest.approx(excerpt.value, rel=6e-3)
    assert line["text"] == shown(model, excerpt.tokens)
    assert line["at"] == shown(model, excerpt.tokens[excerpt.at][None])
    active = excerpt.values > 0
    wanted = [visible(text) for text in prompts.token_strings(model, excerpt.tokens[active])]
    assert [text for _, _, text in line["fires"]] == wanted
    assert [tip for tip, _, _ in line["fires"]] == pytest.approx(excerpt.values[active].tolist(), rel=6e-3)
    for (tip, style, _), value in zip(line["fires"], excerpt.values[active].tolist(), strict=True):
        level = round(value / float(acts.maximum[latent]) * (LEVELS - 1))
        assert style in (colours(level), f"c{level}"), tip


# -- a card ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [0, 2, DENSE, 11])
def test_a_card_shows_what_was_recorded(llama_model, acts, directions, latent):
    card = features.dashboard(llama_model, acts, latent, directions)
    page = Page(card.html)
    top = acts.top_contexts(latent, 8)
    for line, excerpt in zip(page.lines, top, strict=False):
        assert_shows(line, llama_model, acts, latent, excerpt)
    rest = page.lines[len(top) :]
    assert len(rest) == min(6, int(acts.n_contexts[latent]))
    numbers = [float(line["number"]) for line in rest]
    assert numbers == sorted(numbers, reverse=True)
    fires = len(acts.entries(latent)[0])
    assert (
        f"fires on {acts.density[latent]:.3%} of tokens ({fires:,} of 570, in {acts.n_contexts[latent]}"
        in page.text
    )
    assert (
        f"strongest {acts.maximum[latent]:.3g}, mean where it fires {acts.mean_active[latent]:.3g}"
        in page.text
    )
    assert "Strongest contexts" in page.text and "flatter" in page.text


def test_a_card_shows_what_a_direction_promotes_and_its_neighbours(llama_model, acts, directions):
    text = Page(features.dashboard(llama_model, acts, 2, directions).html).text
    logits = directions[2] @ llama_model.W_U
    order, logits = logits.argsort(descending=True), logits - logits.mean()
    for heading, ids in (("promotes", order[:8]), ("suppresses", order.flip(0)[:8])):
        labels = token_labels(prompts.token_strings(llama_model, ids))
        lines = [f"{logits[i]:+.2f}".replace("-", "−") for i in ids]
        wanted = "\n".join(f"{line:>6}  {label}" for line, label in zip(lines, labels, strict=True))
        assert f"Tokens it {heading} directly{wanted}" in text
    cosines = torch.nn.functional.cosine_similarity(directions[2], directions, dim=-1)
    nearest = [i for i in cosines.argsort(descending=True).tolist() if i != 2][:5]
    source = Source(llama_model, acts, directions)
    wanted = "\n".join(f"{cosines[i]:>6.2f}  {i} {source.label(i)}" for i in nearest)
    assert f"Nearest directions (cosine){wanted}" in text
    assert source.label(DEAD) == "never fires"
    plain = Page(features.dashboard(llama_model, acts, 2).html).text
    assert "Nearest" not in plain and "promotes" not in plain and "Strongest" in plain


def test_the_histogram_has_the_counts_and_the_colours(llama_model, acts):
    page = Page(features.dashboard(llama_model, acts, DENSE).html)
    bars = [attrs for tag, attrs in page.elements if tag == "rect"]
    counts, edges = acts.histogram(DENSE, bins=len(bars))
    tallest = max(counts.tolist())
    for i, (bar, count) in enumerate(zip(bars, counts.tolist(), strict=True)):
        assert float(bar["height"]) == pytest.approx(60 * count / tallest, abs=0.06)
        assert float(bar["y"]) + float(bar["height"]) == pytest.approx(60, abs=0.11)
        assert bar["fill"] == f"#{bytes(colour_at(i / (len(bars) - 1), SEQUENTIAL)).hex()}"
    (svg,) = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert (
        f"{counts.sum():,} activations from 0 to {edges[-1]:.3g}" in svg["aria-label"]
        and svg["role"] == "img"
    )


def test_a_latent_that_never_fires_has_a_card_that_says_so(llama_model, acts, directions):
    page = Page(features.dashboard(llama_model, acts, DEAD, directions).html)
    assert "Latent 4" in page.text and "none of the 570 tokens" in page.text and page.lines == []


def test_a_card_is_the_same_twice_and_another_with_another_seed(llama_model, acts):
    cards = [features.dashboard(llama_model, acts, DENSE, seed=seed).html for seed in (0, 0, 1)]
    assert cards[0] == cards[1] != cards[2]
    other = features.dashboard(llama_model, acts, DENSE, unit="neuron")
    assert repr(other) == "Dashboard(neuron)"
    assert "Neuron 7" in other.html and other._repr_html_() == other.html


def test_latents_that_fire_alike_are_drawn_apart(llama_model, acts):
    """Two latents with the same activations: other examples of each, and the same strongest ones."""
    row = torch.stack([acts.row(DENSE, i) for i in range(30)])[:, 1:].reshape(-1, 1)
    twins = features.record(torch.relu, row.repeat(1, 2), acts.tokens)
    one, other = (Page(features.dashboard(llama_model, twins, latent).html) for latent in (0, 1))
    assert one.lines[:8] == other.lines[:8] and one.lines[8:] != other.lines[8:]


def test_a_label_is_the_first_three_tokens_that_differ(llama_model):
    tokens = torch.tensor([[0, 5], [0, 6], [0, 5], [0, 7], [0, 8]])
    acts = features.record(torch.relu, torch.tensor([[9.0], [8], [7], [6], [5]]), tokens)
    names = [visible(text).strip() for text in prompts.token_strings(llama_model, [5, 6, 7])]
    assert Source(llama_model, acts).label(0) == " ".join(names)


def test_ink_is_legible_on_every_ground():
    for level in range(LEVELS):
        ground, ink = re.fullmatch("background:#([0-9a-f]{6});color:#([0-9a-f]{6})", colours(level)).groups()
        a, b = sorted(luminance(tuple(bytes.fromhex(colour))) for colour in (ground, ink))
        assert (b + 0.05) / (a + 0.05) > 4.5
    assert colours(0) != colours(1) and len({colours(level) for level in range(LEVELS)}) == LEVELS


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" cat", " cat"),
        ("cat", "cat"),
        ("\n\n", "↵↵"),
        (" ", "·"),
        ("   ", "···"),
        ("  x", "··x"),
        ("a ", "a·"),
        (" a ", "·a·"),
        ("\t", "⇥"),
        ("", "∅"),
        ("\u202e", "\\u202e"),
        ("<|endoftext|>", "<|eot|>"),
    ],
)
def test_white_space_is_visible(text, wanted):
    assert visible(text) == wanted


def test_a_card_needs_no_script_and_nothing_from_elsewhere(llama_model, acts, directions, hostile):
    page = Page(features.dashboard(llama_model, acts, 2, directions, unit=HOSTILE).html)
    tags = {tag for tag, _ in page.elements}
    assert tags <= {"div", "b", "section", "svg", "title", "rect", "line", "g", "text", "code", "span", "u"}
    assert HOSTILE in page.lines[0]["text"] and "://" not in features.dashboard(llama_model, acts, 2).html


# -- the browser -----------------------------------------------------------------------------------


def test_the_browser_shows_the_card_of_a_latent(browser, llama_model, acts, directions):
    for latent in (2, DEAD, 11):
        browser.latent.value = latent
        assert browser.page.value == features.dashboard(llama_model, acts, latent, directions).html
        assert repr(browser) == "LatentBrowser(latent)"
    assert browser._repr_mimebundle_()["text/plain"] == repr(browser)


def test_the_browser_begins_where_it_is_told(llama_model, acts):
    assert features.LatentBrowser(llama_model, acts, latent=5).latent.value == 5
    below = [i for i in range(LATENTS) if 0 < acts.density[i] < 0.01]
    first = features.LatentBrowser(llama_model, acts).latent.value
    assert first == max(below, key=lambda i: acts.density[i])


def test_buttons_go_through_the_latents_by_density(browser, acts):
    order = sorted((i for i in range(LATENTS) if i != DEAD), key=lambda i: -acts.density[i])
    browser.latent.value = order[0]
    visited = [order[0]]
    for _ in range(len(order)):
        browser.sparser.click()
        visited.append(browser.latent.value)
    assert visited == [*order, order[-1]], "stops at the end"
    for _ in range(2):
        browser.denser.click()
    assert browser.latent.value == order[-3]
    browser.latent.value = order[0]
    browser.denser.click()
    assert browser.latent.value == order[0]
    browser.latent.value = DEAD
    browser.sparser.click()
    assert browser.latent.value == order[-1]


def test_a_number_out_of_range_becomes_the_last(browser):
    browser.latent.value = 10**6
    assert browser.latent.value == LATENTS - 1


def test_a_search_finds_what_fires_on_a_token(browser, llama_model, acts, tokens):
    text = " France"
    texts = features.texts(llama_model, tokens)
    marked = features.matching(tokens, texts, text)
    more = acts.contrast(marked & acts.seen)
    browser.search.value = text
    order = more.argsort(descending=True).tolist()
    assert [value for _, value in browser.found.options] == [i for i in order if more[i] > 0]
    assert browser.latent.value == order[0] == 0 and not browser.found.disabled
    assert browser.found.options[0][0].startswith(f"0: +{more[0]:.3g}  ")
    page, count = Page(browser.page.value), int((marked & acts.seen).sum())
    assert f"On {text!r} it fires on {count} of {count} tokens" in page.text
    for line, excerpt in zip(page.lines, acts.top_contexts(0, 5, among=marked), strict=False):
        assert_shows(line, llama_model, acts, 0, excerpt)
    other = next(value for _, value in browser.found.options if value != 0)
    browser.found.value = other
    places = acts.top_contexts(other, 5, among=marked)
    page = Page(browser.page.value)
    assert (
        browser.latent.value == other
        and f"On {text!r} it fires on {len(places)} of {count} tokens" in page.text
    )
    for line, excerpt in zip(page.lines, [*places, *acts.top_contexts(other, 8)], strict=False):
        assert_shows(line, llama_model, acts, other, excerpt)
    assert repr(browser) == f"LatentBrowser(latent, fires on {text!r})"
    browser.latent.value = DEAD
    assert f"This latent fires on none of the {count} tokens" in Page(browser.page.value).text


def test_a_search_goes_to_the_best_even_if_it_was_the_best_before(browser):
    for text in (" France", " FRANCE", "<nowhere", "france"):
        browser.latent.value = 2
        browser.search.value = text
        assert browser.latent.value == (2 if text == "<nowhere" else 0)


def test_what_is_not_there_is_said_in_one_sentence(browser, llama_model, acts, directions):
    browser.latent.value = 2
    browser.search.value = "<b>nowhere"
    page = Page(browser.page.value)
    assert "'<b>nowhere' is nowhere among the 570 tokens looked at." in page.text
    assert browser.found.disabled and browser.latent.value == 2 and "Latent 2" in page.text
    browser.search.value = "endoftext"
    assert "nowhere" in browser.page.value, "start tokens are not looked at"
    browser.search.value = ""
    assert browser.page.value == features.dashboard(llama_model, acts, 2, directions).html
    assert repr(browser) == "LatentBrowser(latent)"


def test_the_browser_escapes_what_it_shows(llama_model, acts, directions, hostile):
    browser = features.LatentBrowser(llama_model, acts, directions)
    browser.search.value = "<img"
    page = Page(browser.page.value)
    assert "img" not in {tag for tag, _ in page.elements} and HOSTILE in page.text


def test_nothing_is_printed_or_captured(browser, capsys):
    browser.search.value = "a"
    browser.sparser.click()
    assert capsys.readouterr() == ("", "")
    widgets = [browser]
    for widget in widgets:
        assert not isinstance(widget, Output)
        widgets += getattr(widget, "children", ())
    parts = {browser.latent, browser.denser, browser.sparser, browser.search, browser.found, browser.page}
    assert parts <= set(widgets)
    assert browser.search.continuous_update is False and browser.latent.continuous_update is False


# -- the file --------------------------------------------------------------------------------------


def test_a_file_has_the_cards_asked_for_and_a_link_to_each(llama_model, acts, directions, tmp_path):
    file = tmp_path / "latents.html"
    done = features.export(file, llama_model, acts, directions, latents=[7, 2, 7, DEAD], title="Some <b>")
    content = file.read_text(encoding="utf-8")
    page = Page(content)
    assert (done.file, done.latents, done.nbytes) == (file, (7, 2, DEAD), file.stat().st_size)
    assert repr(done) == f"Export('latents.html', 3 latents, {done.nbytes / 1e6:.1f} MB)"
    assert [attrs["id"] for tag, attrs in page.elements if tag == "article"] == ["l7", "l2", "l4"]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == ["#l7", "#l2", "#l4"]
    for line, excerpt in zip(page.lines, acts.top_contexts(7, 8), strict=False):
        assert_shows(line, llama_model, acts, 7, excerpt)
    assert "<title>Some &lt;b&gt;</title>" in content
    assert "3 of 12, on 570 tokens" in page.text
    for level in range(LEVELS):
        assert f".c{level}{{{colours(level)}}}" in content
    assert [one.name for one in tmp_path.iterdir()] == ["latents.html"]


def test_browser_and_file_draw_by_their_seed_and_name_their_unit(llama_model, acts, tmp_path):
    cards = []
    for seed in (0, 1):
        browser = features.LatentBrowser(llama_model, acts, latent=DENSE, unit="neuron", seed=seed)
        card = features.dashboard(llama_model, acts, DENSE, unit="neuron", seed=seed)
        assert browser.page.value == card.html and browser.latent.description == "neuron"
        file = tmp_path / f"{seed}.html"
        features.export(file, llama_model, acts, latents=[DENSE], unit="neuron", seed=seed)
        page = Page(file.read_text(encoding="utf-8"))
        assert [line["text"] for line in page.lines] == [line["text"] for line in Page(card.html).lines]
        assert f"Neuron {DENSE}" in page.text
        cards.append(card.html)
    assert cards[0] != cards[1]


def test_by_default_a_file_has_latents_of_all_densities(llama_model, acts, tmp_path, monkeypatch):
    done = features.export(tmp_path / "all.html", llama_model, acts)
    order = sorted((i for i in range(LATENTS) if i != DEAD), key=lambda i: -acts.density[i])
    assert list(done.latents) == order
    few = torch.rand(10 * 19, 450, generator=rng()) - torch.linspace(0.6, 0.95, 450)
    many = features.record(torch.relu, few, acts.tokens[:10])
    monkeypatch.setattr(features.view, "page", lambda source, latents, title: "")
    done = features.export(tmp_path / "many.html", llama_model, many)
    assert len(set(done.latents)) == 200 and done.latents[0] == many.density.argmax()
    assert many.density[list(done.latents)].min() < 0.1


def test_the_policy_of_a_file_allows_its_own_script_only(llama_model, acts, tmp_path):
    features.export(tmp_path / "one.html", llama_model, acts, latents=[2])
    content = (tmp_path / "one.html").read_text(encoding="utf-8")
    (script,) = re.findall("<script>(.*?)</script>", content, re.DOTALL)
    own = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', content)
    assert (
        "default-src 'none'" in policy
        and f"script-src 'sha256-{own}'" in policy
        and policy.count("script-src") == 1
    )
    assert "://" not in content


def test_a_file_escapes_what_it_shows(llama_model, acts, directions, hostile, tmp_path):
    file = tmp_path / "hostile.html"
    features.export(file, llama_model, acts, directions, title=HOSTILE, unit=HOSTILE)
    content = file.read_text(encoding="utf-8")
    assert content.count("<script") == 1 == content.count("</script") and "<img" not in content
    assert str(escape(HOSTILE)) in content
    Page(content)


@pytest.mark.parametrize("token", ["<b>", '"</script>', "&amp;", "{{ 7 * 7 }}", "<!--"])
def test_tokens_are_text_wherever_they_are_shown(llama_model, acts, directions, tmp_path, monkeypatch, token):
    """On a card, in a search and in a file; in a template's own notation too."""
    monkeypatch.setattr(prompts.tokens, "token_strings", lambda _, tokens: [token] * len(tokens))
    file = tmp_path / "tokens.html"
    features.export(file, llama_model, acts, directions, latents=[0, 2], title=token, unit=token)
    browser = features.LatentBrowser(llama_model, acts, directions)
    browser.search.value = token
    dashboard = features.dashboard(llama_model, acts, 2, directions)
    for content in (dashboard.html, browser.page.value, file.read_text(encoding="utf-8")):
        page = Page(content)
        count = {tag: sum(found == tag for found, _ in page.elements) for tag in ("b", "script")}
        assert count["b"] == content.count('<b style="font-size:15px">')
        assert count["script"] == content.count("</script") <= 1
        assert page.lines and all(set(line["text"]) <= set(token) for line in page.lines)
        assert all(line["text"].startswith(token) for line in page.lines)


def test_200_latents_of_a_sparse_dictionary_take_less_than_3_mb(llama_model, tmp_path):
    """A tenth of them, twice as dense as the latents of an SAE with 32 of 2,304 active."""
    tokens = torch.randint(2, 316, (100, 128), generator=rng())
    acts = features.record(torch.relu, torch.rand(100 * 127, 20, generator=rng(1)) - 0.972, tokens)
    directions = torch.randn(20, llama_model.cfg.d_model, generator=rng(2))
    file = tmp_path / "big.html"
    sizes = [features.export(file, llama_model, acts, directions, latents=range(n)).nbytes for n in (1, 20)]
    assert sizes[0] + 199 / 19 * (sizes[1] - sizes[0]) < 3e6


# -- what can't be ---------------------------------------------------------------------------------


def test_bad_input_is_refused(llama_model, acts, directions, tmp_path, unchecked):
    def refused(names, call, *args, **kwargs):
        with pytest.raises(ValueError) as caught:
            call(*args, **kwargs)
        assert_one_sentence(caught.value, *names)

    makers = (features.LatentBrowser, lambda *args: features.export(tmp_path / "no.html", *args))
    for latent in (-1, LATENTS, True):
        refused(["latent", str(latent), "0 to 11"], features.dashboard, llama_model, acts, latent)
        refused(["latent", str(latent)], features.LatentBrowser, llama_model, acts, latent=latent)
        refused(["latent"], features.export, tmp_path / "no.html", llama_model, acts, latents=[0, latent])
    for wrong in (directions[1:], directions[:, 1:]):
        refused(
            ["directions", str(tuple(wrong.shape)), "(12, 32)"],
            features.dashboard,
            llama_model,
            acts,
            0,
            wrong,
        )
        for call in makers:
            refused(["directions"], call, llama_model, acts, wrong)
    refused(["latents"], features.export, tmp_path / "no.html", llama_model, acts, latents=[])
    nothing = features.record(lambda x: -x.abs(), torch.ones(30 * 19, 3), acts.tokens)
    refused(["acts", "none of which"], features.LatentBrowser, llama_model, nothing)
    refused(["latents"], features.export, tmp_path / "no.html", llama_model, nothing)
    strange = features.record(torch.relu, torch.ones(30 * 19, 3), acts.tokens + 10**5)
    for call in (*makers, lambda *args: features.dashboard(*args, 0)):
        refused(["acts", "vocabulary"], call, llama_model, strange)
    broken = directions.clone()
    broken[2, 3] = float("nan")
    refused(["direction", "not finite"], features.dashboard, llama_model, acts, 2, broken)
    assert not list(tmp_path.iterdir())
