"""Cards and the exported file in a browser: legible, searchable, silent on the network, deaf to code in
tokens."""

import pytest
import torch

from mi_utils import features, prompts

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=\"window.taken=1;alert('taken')\">"
CAT, HARMFUL, NEWLINE = 10, 11, 12
# Latent 0 fires on " cat" and 1 on the hostile token; 2 on " wordN" before each " cat"; 3 on an eighth of the
# rest.
LATENTS = 4


@pytest.fixture(scope="module")
def recorded():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, 300, (40, 24), generator=generator)
    tokens[:, 0], tokens[::4, 12], tokens[1::4, 7], tokens[2::4, 5] = 0, CAT, HARMFUL, NEWLINE
    fires = torch.zeros(40, 24, LATENTS)
    fires[..., 0], fires[..., 1] = tokens == CAT, tokens == HARMFUL
    fires[:, :-1, 2] = (tokens[:, 1:] == CAT).float()
    fires[..., 3] = (tokens % 8 == 0) & (tokens > 12)
    strength = torch.rand(fires.shape, generator=generator) + 0.5
    return features.record(torch.relu, (fires * strength)[:, 1:].flatten(0, 1), tokens)


@pytest.fixture
def text_of_tokens(monkeypatch):
    special = {0: "<|endoftext|>", CAT: " cat", HARMFUL: HOSTILE, NEWLINE: "\n\n"}
    monkeypatch.setattr(
        prompts.tokens, "token_strings", lambda _, ids: [special.get(int(i), f" word{int(i)}") for i in ids]
    )


@pytest.fixture
def opened(chromium, llama_model, recorded, text_of_tokens, tmp_path):
    directions = torch.randn(LATENTS, llama_model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    file = tmp_path / "latents.html"
    features.export(file, llama_model, recorded, directions, latents=[3, 0, 1, 2], title=HOSTILE)
    page = chromium.new_page(viewport={"width": 1200, "height": 800})
    page.requested, page.said = [], []
    page.on("request", lambda asked: page.requested.append(asked.url))
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
    page.goto(file.as_uri())
    yield page
    page.close()


def cards(page):
    return page.evaluate(
        "[...document.querySelectorAll('article')].filter(one => one.offsetHeight).map(one => one.id)"
    )


def listed(page):
    shown = "[...document.querySelectorAll('nav a')].filter(one => one.offsetHeight)"
    return page.evaluate(f"{shown}.map(one => [one.hash, one.querySelector('small').textContent])")


def test_the_file_shows_one_card_and_the_list(opened, recorded):
    assert cards(opened) == ["l3"]
    wanted = [[f"#l{i}", f"{float(recorded.density[i]):.2%}"] for i in (3, 0, 1, 2)]
    assert listed(opened) == wanted
    opened.click("nav a[href='#l1']")
    assert cards(opened) == ["l1"] and opened.locator("nav a.now").get_attribute("href") == "#l1"
    opened.goto(opened.url.partition("#")[0] + "#l2")
    assert cards(opened) == ["l2"]


def test_a_search_puts_first_what_fires_on_the_text(opened):
    opened.fill("#search", "CAT")
    found = dict(listed(opened))
    assert listed(opened)[0][0] == "#l0" and found["#l0"].split(",")[0] == f"{8 + 6} on"
    assert found["#l2"] == "0 on, 14 near", "its token is the one before"
    assert "#l1" not in found and cards(opened) == ["l0"]
    assert opened.inner_text("#said").startswith("1 fire on it, ")
    assert (
        opened.locator("article#l0 code.hit").count() == 14 == opened.locator("article#l2 code.near").count()
    )
    opened.click("nav a[href='#l2']")
    assert cards(opened) == ["l2"]
    opened.fill("#search", "")
    assert len(listed(opened)) == 4 and cards(opened) == ["l2"] and opened.inner_text("#said") == ""
    assert [name for name, _ in listed(opened)] == ["#l3", "#l0", "#l1", "#l2"]
    assert opened.locator("code.hit, code.near").count() == 0


def test_a_search_may_span_tokens_and_white_space(opened):
    before = opened.evaluate("document.querySelector('article#l2 code u').textContent")
    opened.fill("#search", before.strip() + " cat")
    found = dict(listed(opened))
    assert int(found["#l2"].split()[0]) >= 1 and int(found["#l0"].split()[0]) >= 1, (
        "each fires on one of the two"
    )
    opened.fill("#search", "  word")
    lines = (
        "[...document.querySelectorAll('code')].filter(line => line.textContent.includes('↵↵ word')).length"
    )
    assert opened.locator("code.near, code.hit").count() == opened.evaluate(lines) > 0, (
        "a line break counts as a space"
    )


def test_what_is_not_there_is_said(opened):
    opened.fill("#search", "<img src=y onerror=alert(2)>")
    assert opened.inner_text("#said") == "None of the contexts shown here has it."
    assert listed(opened) == [] and cards(opened) == []
    opened.fill("#search", "cat")
    assert cards(opened) == ["l0"]


def test_tokens_are_text_and_nothing_is_asked_of_the_network(opened):
    opened.fill("#search", HOSTILE)
    assert cards(opened) == ["l1"] and listed(opened)[0][1].startswith("14 on")
    for link in ("#l0", "#l1", "#l2", "#l3"):
        if opened.locator(f"nav a[href='{link}']").is_visible():
            opened.click(f"nav a[href='{link}']")
    opened.wait_for_timeout(200)
    assert opened.locator("img").count() == 0 and opened.locator("script").count() == 1
    assert opened.evaluate("window.taken") is None and opened.said == []
    assert {address.partition("#")[0] for address in opened.requested} == {opened.url.partition("#")[0]}
    assert opened.title() == HOSTILE and HOSTILE in opened.inner_text("h1")
    assert HOSTILE in opened.locator("article#l1 code").first.text_content()


def test_the_policy_refuses_a_script_that_got_in_all_the_same(opened):
    opened.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.taken = 1'}))"
    )
    opened.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.taken = 1\">')"
    )
    opened.wait_for_timeout(200)
    assert opened.evaluate("window.taken") is None and "Content Security Policy" in " ".join(opened.said)


def test_the_page_is_no_wider_than_the_window(opened):
    for width in (1200, 700, 380):
        opened.set_viewport_size({"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture
def card(chromium, llama_model, recorded, text_of_tokens):
    shown = features.LatentBrowser(llama_model, recorded)
    shown.search.value = "onerror"
    page = chromium.new_page(viewport={"width": 900, "height": 600})
    page.set_content("<body></body>")
    # As the widget's view does it.
    page.evaluate("text => { document.body.innerHTML = text; }", shown.page.value)
    page.wait_for_timeout(100)
    yield page
    page.close()


def test_the_browsers_page_runs_nothing_of_what_it_shows(card):
    assert card.locator("img, script").count() == 0 and card.evaluate("window.taken") is None
    assert HOSTILE in card.locator("code u").first.text_content()
    assert card.locator("svg rect").count() == 32


def test_contexts_are_not_cut_off(card):
    wide = "line => line.scrollWidth > line.clientWidth + 1"
    over = f"[...document.querySelectorAll('code')].filter({wide}).length"
    assert card.evaluate(over) == 0 and card.locator("code").count() > 10
    sizes = card.evaluate(
        "[...document.querySelectorAll('code')].map(line => line.getBoundingClientRect().height)"
    )
    assert all(size >= 15 for size in sizes)
