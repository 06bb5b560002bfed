"""The graph browser in Chromium: what a person does with it, as a page of its own and as a widget."""

import base64
import json

import graph_examples
import pytest
from graph_examples import HOSTILE

from mi_utils import graphs
from mi_utils.plots.style import luminance

pytestmark = pytest.mark.browser

FEATURE, OTHER, CAPITAL, ERROR = "0_7_1", "1_3_2", "1_40_2", "0_-1_2"


@pytest.fixture
def open_page(chromium, tmp_path):
    """Writes and opens the page of a graph file."""
    pages = []

    def opened(file, **options):
        path = graphs.export(file, tmp_path / f"{len(pages)}.html", **options)
        page = chromium.new_page(viewport={"width": 1300, "height": 900})
        page.requested, page.said = [], []
        page.on("request", lambda asked: page.requested.append(asked.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        page.file = file
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()


@pytest.fixture
def opened(open_page):
    return open_page(
        graph_examples.by_hand(), details={FEATURE: {"top tokens": "Texas", "contexts": "in\nDallas"}}
    )


def node(page, node_id):
    number = [one.node_id for one in page.file.nodes].index(node_id)
    return page.locator(f".mi-chart [data-i='{number}']")


def point(page, node_id):
    node(page, node_id).locator(".mi-shape").hover()


def focus(page, node_id):
    node(page, node_id).focus()


def rows(page, name):
    """Weights and titles in the table of inputs or outputs."""
    table = page.locator(f".mi-panel table:has(caption:text-matches('^{name}'))")
    return table.evaluate_all(
        "all => all.flatMap(one => [...one.rows].map(row => [row.cells[0].textContent, "
        "row.querySelector('.mi-link span').textContent]))"
    )


def visible(page):
    """Ids of the nodes that are drawn."""
    shown = page.evaluate(
        "[...document.querySelectorAll('.mi-chart [data-i]')].filter(one => getComputedStyle(one).display "
        "!== 'none')"
        ".map(one => Number(one.dataset.i))"
    )
    return {page.file.nodes[i].node_id for i in shown}


def pins(page):
    return {
        page.file.nodes[int(i)].node_id
        for i in page.locator(".mi-chart .mi-pinned").evaluate_all("all => all.map(one => one.dataset.i)")
    }


def names(page):
    return page.locator(".mi-supernode input.mi-name").evaluate_all("all => all.map(one => one.value)")


def group(page, ids, name):
    for one in ids:
        focus(page, one)
        page.keyboard.press("p")
    page.fill("[data-key=new]", name)
    page.keyboard.press("Enter")


def saved(page, tmp_path):
    with page.expect_download() as waiting:
        page.click(".mi-save")
    path = tmp_path / "saved.json"
    waiting.value.save_as(path)
    assert waiting.value.suggested_filename == "dallas.json"
    return path


def test_every_node_is_drawn_at_its_layer_and_position(opened):
    assert visible(opened) == {one.node_id for one in opened.file.nodes}
    boxes = {
        one.node_id: node(opened, one.node_id).locator(".mi-shape").bounding_box()
        for one in opened.file.nodes
    }
    assert boxes["E_1_1"]["y"] > boxes[FEATURE]["y"] > boxes[OTHER]["y"] > boxes["3_88_2"]["y"]
    assert (
        boxes["E_0_0"]["x"] < boxes[FEATURE]["x"] < boxes[OTHER]["x"]
        and boxes[OTHER]["y"] == boxes[CAPITAL]["y"]
    )
    shapes = opened.locator(".mi-chart [data-i]").evaluate_all("all => all.map(one => one.classList[1])")
    kinds = ["mi-feature"] * 3 + ["mi-error"] + ["mi-token"] * 3 + ["mi-logit"] * 2
    assert shapes == kinds
    assert opened.locator(".mi-tokens text").all_text_contents() == [
        "<s>position 0: <s>",
        "·Dallasposition 1: ·Dallas",
        "·isposition 2: ·is",
    ]
    assert opened.inner_text(".mi-status").strip() == "9 of 9 nodes, 7 links."


def test_a_click_shows_inputs_and_outputs_by_size_with_their_signs(opened):
    node(opened, FEATURE).locator(".mi-shape").click()
    opened.mouse.move(5, 5)
    assert opened.inner_text(".mi-panel h3") == "the state of Dallas"
    assert rows(opened, "Inputs") == [["+1.50", "token ·Dallas"]]
    assert rows(opened, "Outputs") == [["+0.500", "say a capital"], ["−0.250", "layer 1, feature 3"]]
    facts = opened.inner_text(".mi-panel dl >> nth=0")
    assert "layer 0, position 1 ·Dallas" in facts and "2.00" in facts and "0.250" in facts
    assert opened.locator("dl.mi-details dd").all_text_contents() == ["Texas", "in\nDallas"]
    opened.click(".mi-panel .mi-link >> text=layer 1, feature 3")
    assert opened.inner_text(".mi-panel h3") == "layer 1, feature 3"
    opened.mouse.move(5, 5)
    assert rows(opened, "Inputs") == [["−0.250", "the state of Dallas"], ["+0.125", "token <s>"]]
    assert "sum −0.125" in opened.inner_text(".mi-panel table >> nth=0")
    node(opened, OTHER).locator(".mi-shape").click()
    opened.mouse.move(5, 5)
    assert "Point at a node" in opened.inner_text(".mi-panel"), "a second click lets go"


def test_pointing_shows_a_node_for_as_long_as_it_lasts(opened):
    node(opened, FEATURE).locator(".mi-shape").click()
    point(opened, CAPITAL)
    assert opened.inner_text(".mi-panel h3") == "say a capital"
    strong = opened.locator(".mi-chart .mi-strong path")
    assert strong.evaluate_all("all => all.map(one => one.classList[0])") == ["mi-plus"] * 2
    opened.mouse.move(5, 5)
    assert opened.inner_text(".mi-panel h3") == "the state of Dallas"
    assert sorted(strong.evaluate_all("all => all.map(one => one.classList[0])")) == [
        "mi-minus",
        "mi-plus",
        "mi-plus",
    ]
    near = opened.locator(".mi-chart .mi-near").evaluate_all("all => all.map(one => Number(one.dataset.i))")
    assert {opened.file.nodes[i].node_id for i in near} == {FEATURE, OTHER, CAPITAL, "E_1_1"}


def test_negative_links_are_dashed_and_larger_ones_thicker(opened):
    dashes = "all => all.map(one => getComputedStyle(one).strokeDasharray)"
    assert set(opened.locator(".mi-links .mi-plus").evaluate_all(dashes)) == {"none"}
    assert set(opened.locator(".mi-links .mi-minus").evaluate_all(dashes)) == {"5px, 3px"}
    focus(opened, OTHER)
    opened.keyboard.press("Enter")
    widths = opened.locator(".mi-chart .mi-strong path").evaluate_all(
        "all => all.map(one => Number(one.getAttribute('stroke-width')))"
    )
    assert widths == sorted(widths) == pytest.approx([0.8 + 3.2 * size / 2 for size in (0.125, 0.25, 2)])


def test_keys_move_click_pin_and_clear(opened):
    stops = "document.querySelectorAll('.mi-chart [tabindex=\"0\"]').length"
    assert opened.evaluate(stops) == 1
    here = "Number(document.activeElement.dataset.i)"
    opened.focus(".mi-load")
    opened.keyboard.press("Tab")
    assert opened.evaluate(here) == 0 and opened.evaluate(stops) == 1
    ring = "getComputedStyle(document.activeElement.querySelector('.mi-halo')).stroke"
    assert opened.evaluate(ring) != "none", "the focus is seen"
    walk = [("ArrowUp", CAPITAL), ("ArrowRight", OTHER), ("ArrowRight", OTHER), ("ArrowUp", "3_41_2")]
    walk += [("ArrowLeft", "3_88_2"), ("ArrowDown", CAPITAL), ("ArrowDown", ERROR), ("ArrowLeft", FEATURE)]
    for key, wanted in [*walk, ("ArrowDown", "E_1_1"), ("ArrowUp", FEATURE)]:
        opened.keyboard.press(key)
        assert opened.file.nodes[opened.evaluate(here)].node_id == wanted, key
    assert opened.evaluate(stops) == 1
    label = "document.activeElement.getAttribute('aria-label')"
    assert opened.evaluate(label) == "the state of Dallas, feature, layer 0, position 1 ·Dallas"
    opened.keyboard.press("p")
    assert pins(opened) == {FEATURE} and opened.evaluate(label).endswith(", pinned")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert opened.inner_text(".mi-panel h3") == "the state of Dallas"
    opened.keyboard.press("Escape")
    assert "Point at a node" in opened.inner_text(".mi-panel") and pins(opened) == {FEATURE}
    opened.keyboard.press("p")
    assert pins(opened) == set()


def test_nodes_are_grouped_named_merged_and_let_go(opened):
    group(opened, [FEATURE, OTHER], "Texas")
    assert names(opened) == ["Texas"] and opened.locator(".mi-chart .mi-grouped").count() == 2
    assert node(opened, OTHER).locator(".mi-number").text_content() == "1"
    group(opened, [CAPITAL], "say it")
    assert names(opened) == ["Texas", "say it"] and pins(opened) == {FEATURE, OTHER, CAPITAL}
    opened.fill("[data-key=n1]", "capital")
    opened.keyboard.press("Tab")
    assert names(opened) == ["Texas", "capital"]
    assert opened.evaluate("document.activeElement.dataset.key") == "d1", "the focus stays where it went"
    assert opened.locator(".mi-sum").all_text_contents() == ["+0.500"]
    assert opened.locator("[data-key=merge]").is_disabled()
    opened.check("[data-key=t0]")
    opened.check("[data-key=t1]")
    opened.click("[data-key=merge]")
    assert names(opened) == ["Texas + capital"] and opened.locator(".mi-chart .mi-grouped").count() == 3
    focus(opened, OTHER)
    opened.keyboard.press("p")
    assert opened.locator(".mi-chart .mi-grouped").count() == 2, "who is no longer pinned is in no supernode"
    opened.click("[data-key=d0]")
    assert names(opened) == [] and pins(opened) == {FEATURE, CAPITAL}


def test_links_between_supernodes_are_summed(opened):
    group(opened, ["E_0_0", FEATURE], "from")
    group(opened, [OTHER, CAPITAL], "to")
    for one in ("3_88_2", ERROR):
        focus(opened, one)
        opened.keyboard.press("p")
    sums = opened.locator(".mi-small svg").get_attribute("aria-label").split("; ")
    assert sorted(sums) == sorted(
        [
            "from to to +0.375",
            'to to Output " Austin" (p=0.750) +2.00',
            'error of layer 0 to Output " Austin" (p=0.750) −0.750',
        ]
    )
    assert opened.locator(".mi-unit").count() == 4


def test_a_saved_state_is_a_graph_file_and_comes_back(opened, open_page, tmp_path):
    group(opened, [FEATURE, OTHER], "Texas")
    focus(opened, CAPITAL)
    opened.keyboard.press("p")
    opened.keyboard.press("Enter")
    file = graphs.load(saved(opened, tmp_path))
    state = {
        "pinnedIds": [FEATURE, OTHER, CAPITAL],
        "supernodes": [["Texas", FEATURE, OTHER]],
        "clickedId": CAPITAL,
    }
    assert file.q_params == state and file.nodes == opened.file.nodes and file.links == opened.file.links
    for page in (open_page(file), open_page(graph_examples.by_hand())):
        page.set_input_files("input[type=file]", tmp_path / "saved.json")
        page.locator(".mi-status", has_text="Loaded").wait_for()
        assert names(page) == ["Texas"] and pins(page) == {FEATURE, OTHER, CAPITAL}
        assert page.inner_text(".mi-panel h3") == "say a capital"
        assert "Loaded: 3 pinned, 1 supernodes." in page.inner_text(".mi-status")
    reopened = open_page(file)
    assert names(reopened) == ["Texas"] and reopened.inner_text(".mi-panel h3") == "say a capital"


@pytest.mark.parametrize("content", ["", "[1]", "null", '{"qParams": 3}', '{"qParams": {"pinnedIds": "x"'])
def test_a_file_that_is_no_saved_graph_is_said_to_be_none(content, opened, tmp_path):
    group(opened, [FEATURE], "Texas")
    (tmp_path / "bad.json").write_text(content)
    opened.set_input_files("input[type=file]", tmp_path / "bad.json")
    opened.locator(".mi-status", has_text="no saved graph").wait_for()
    assert names(opened) == ["Texas"] and opened.said == []


def test_of_a_foreign_state_only_what_is_there_is_taken(opened, tmp_path):
    params = {
        "pinnedIds": ["x", FEATURE, 3, FEATURE],
        "supernodes": [["a", "x"], ["b", OTHER, "y"], [5], "c"],
    }
    (tmp_path / "other.json").write_text(json.dumps({"qParams": {**params, "clickedId": "x"}}))
    opened.set_input_files("input[type=file]", tmp_path / "other.json")
    opened.locator(".mi-status", has_text="Loaded").wait_for()
    assert "3 nodes of the file are not in this graph" in opened.inner_text(".mi-status")
    assert names(opened) == ["b"] and pins(opened) == {FEATURE} and opened.said == []


def test_the_slider_leaves_the_most_influential_and_what_is_pinned(opened):
    tokens_and_logits = {"E_0_0", "E_1_1", "E_2_2", "3_88_2", "3_41_2"}
    opened.fill(".mi-slider", "0.5")
    assert visible(opened) == {FEATURE, CAPITAL} | tokens_and_logits
    assert opened.inner_text(".mi-status").strip() == "7 of 9 nodes, 3 links."
    assert opened.locator(".mi-bar-top output").inner_text() == "0.50"
    opened.fill(".mi-slider", "0.7")
    focus(opened, ERROR)
    opened.keyboard.press("p")
    opened.fill(".mi-slider", "0.1")
    assert visible(opened) == {ERROR} | tokens_and_logits
    group(opened, [], "the error")
    assert visible(opened) == {ERROR} | tokens_and_logits, "nor does the slider hide what is in a supernode"
    focus(opened, ERROR)
    opened.keyboard.press("p")
    assert visible(opened) == tokens_and_logits
    assert (
        opened.evaluate("document.querySelectorAll('.mi-chart [tabindex=\"0\"]:not(.mi-hidden)').length") == 1
    )
    opened.fill(".mi-slider", "1")
    assert len(visible(opened)) == 9


def test_a_search_marks_labels_tokens_and_ids(opened):
    def found():
        numbers = opened.locator(".mi-chart .mi-found").evaluate_all(
            "all => all.map(one => Number(one.dataset.i))"
        )
        return {opened.file.nodes[i].node_id for i in numbers}

    opened.fill(".mi-search", "CAPITAL")
    assert found() == {CAPITAL} and opened.inner_text(".mi-status").startswith("1 found. ")
    opened.keyboard.press("Enter")
    assert opened.evaluate("Number(document.activeElement.dataset.i)") == 2
    opened.fill(".mi-search", " dallas")
    assert found() == {FEATURE, "E_1_1", "3_41_2"}
    opened.fill(".mi-search", "1_3_")
    assert found() == {OTHER}
    opened.fill(".mi-search", "nowhere")
    assert found() == set() and opened.inner_text(".mi-status").startswith("0 found. ")
    opened.keyboard.press("Escape")
    assert opened.input_value(".mi-search") == "" and "found" not in opened.inner_text(".mi-status")


def test_text_of_a_graph_is_text_and_nothing_is_asked_of_the_network(open_page, tmp_path):
    file = graph_examples.by_hand(
        HOSTILE, HOSTILE, supernodes=[[HOSTILE, FEATURE, OTHER]], pinnedIds=[FEATURE, OTHER]
    )
    page = open_page(file, details={FEATURE: {HOSTILE: HOSTILE}, OTHER: HOSTILE}, title=HOSTILE)
    for one in (FEATURE, OTHER, "E_1_1", "3_41_2"):
        point(page, one)
        focus(page, one)
        page.keyboard.press("Enter")
    focus(page, CAPITAL)
    page.keyboard.press("p")
    page.fill(".mi-search", HOSTILE)
    group(page, [ERROR], HOSTILE)
    saved(page, tmp_path)
    focus(page, FEATURE)
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert page.evaluate("window.taken") is None and page.said == []
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    assert page.title() == HOSTILE and page.locator("h1").text_content() == HOSTILE
    assert page.locator(".mi-panel h3").text_content() == HOSTILE
    assert page.locator("dl.mi-details dd").text_content() == HOSTILE
    assert names(page)[0] == HOSTILE
    asked = {address.partition("#")[0] for address in page.requested if not address.startswith("blob:")}
    assert asked == {page.url}


def test_the_policy_refuses_a_script_that_got_in_all_the_same(opened):
    opened.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.taken = 1'}))"
    )
    opened.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.taken = 1\">')"
    )
    opened.wait_for_timeout(200)
    assert opened.evaluate("window.taken") is None and "Content Security Policy" in " ".join(opened.said)


def test_five_hundred_nodes_are_drawn_apart_and_can_be_reached(open_page):
    page = open_page(graph_examples.large(500, n_tokens=12, n_layers=30, n_links=6000))
    assert len(visible(page)) == 500 and "the 1000 largest of 6000 links" in page.inner_text(".mi-status")
    boxes = page.locator(".mi-chart .mi-shape").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.x + box.width / 2, box.y + "
        "box.height / 2])"
    )
    least = min(max(abs(a[0] - b[0]), abs(a[1] - b[1])) for i, a in enumerate(boxes) for b in boxes[:i])
    assert least > 12, "no node covers another"
    widest = page.evaluate("document.querySelector('.mi-scroll').clientWidth")
    assert widest < 1300 and page.evaluate("document.documentElement.scrollWidth") <= 1300
    last = page.file.nodes[-1].node_id
    focus(page, last)
    page.keyboard.press("Enter")
    scroll, box = page.locator(".mi-scroll").bounding_box(), node(page, last).bounding_box()
    assert scroll["y"] <= box["y"] and box["y"] + box["height"] <= scroll["y"] + scroll["height"]
    links = [one for one in page.file.links if last in (one.source, one.target)]
    assert page.locator(".mi-chart .mi-strong path").count() == len(links) > 0


def test_long_tables_open_in_full(open_page):
    page = open_page(graph_examples.large(60, n_links=600))
    counts = {}
    for link in page.file.links:
        counts[link.target] = counts.get(link.target, 0) + 1
    most = max(counts, key=counts.get)
    focus(page, most)
    page.keyboard.press("Enter")
    assert len(rows(page, "Inputs")) == 12 < counts[most]
    page.locator(".mi-more").first.click()
    shown = [float(weight.replace("−", "-")) for weight, _ in rows(page, "Inputs")]
    assert len(shown) == counts[most] and [abs(one) for one in shown] == sorted(map(abs, shown), reverse=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_colour_schemes(scheme, opened):
    opened.emulate_media(color_scheme=scheme)
    group(opened, [FEATURE], "Texas")
    focus(opened, FEATURE)
    opened.keyboard.press("Enter")
    ground = rgb(opened, ".mi-graph", "backgroundColor")
    assert (max(ground) < 60) == (scheme == "dark")
    for selector, name in (
        (".mi-graph", "color"),
        (".mi-hint, .mi-status", "color"),
        (".mi-layers text", "fill"),
    ):
        assert contrast(rgb(opened, selector, name), ground) > 4.5, selector
    for selector in (".mi-links .mi-plus", ".mi-links .mi-minus", ".mi-shape"):
        assert contrast(rgb(opened, selector, "stroke"), ground) > 3, selector


def rgb(page, selector, name):
    text = page.locator(selector).first.evaluate("(one, name) => getComputedStyle(one)[name]", name)
    return tuple(int(float(part)) for part in text[text.index("(") + 1 : -1].split(",")[:3])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_is_no_wider_than_the_window(opened):
    group(opened, [FEATURE, OTHER], "a long name of a supernode, longer than there is room for it in a box")
    for width in (1300, 800, 380):
        opened.set_viewport_size({"width": width, "height": 800})
        opened.wait_for_timeout(50)
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


# A stand-in for the notebook's side of a widget: what the module saves goes to Python, what Python sets comes
# back.
WIDGET = """
async ([code, values]) => {
  const module = await import("data:text/javascript;base64," + code), heard = new EventTarget(), changed = {};
  window.model = {
    get: key => values[key],
    set: (key, value) => {
      values[key] = changed[key] = value;
      heard.dispatchEvent(new Event("change:" + key));
    },
    save_changes: () => {
      window.kernel({...changed});
      for (const key of Object.keys(changed)) delete changed[key];
    },
    on: (event, listener) => heard.addEventListener(event, listener),
    off: (event, listener) => heard.removeEventListener(event, listener),
  };
  window.stop = module.default.render({model: window.model, el: document.body});
}
"""


def test_the_widget_and_its_traits_agree(chromium):
    browser = graphs.GraphBrowser(graph_examples.by_hand())
    browser.supernodes = [["Texas", FEATURE]]
    page = chromium.new_page(viewport={"width": 1000, "height": 800})
    page.file = graph_examples.by_hand()
    page.expose_function(
        "kernel", lambda changed: [setattr(browser, name, value) for name, value in changed.items()]
    )
    page.set_content("<body></body>")
    names_of = ("graph", "places", "details", "pinned", "supernodes", "threshold", "clicked")
    code = base64.b64encode(str(browser._esm).encode()).decode()
    page.evaluate(WIDGET, [code, {name: getattr(browser, name) for name in names_of}])
    assert names(page) == ["Texas"]
    focus(page, CAPITAL)
    page.keyboard.press("p")
    page.keyboard.press("Enter")
    page.fill("[data-key=n0]", "state")
    page.fill(".mi-slider", "0.6")
    page.wait_for_timeout(100)
    assert browser.pinned == [CAPITAL] and browser.clicked == CAPITAL
    assert browser.supernodes == [["state", FEATURE]] and browser.threshold == 0.6
    page.evaluate(f"model.set('pinned', ['{OTHER}'])")
    page.evaluate("model.set('clicked', '')")
    assert pins(page) == {OTHER} and "Point at a node" in page.inner_text(".mi-panel")
    page.evaluate("stop()")
    page.evaluate("model.set('pinned', [])")
    assert pins(page) == {OTHER}, "a view that was closed listens no more"
    page.close()
