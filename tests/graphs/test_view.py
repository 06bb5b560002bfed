"""Where nodes stand, the figure, and what the browser and its page hold; how they look is tested in a
browser."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import graph_examples
import pytest
from graph_examples import HOSTILE

from mi_utils import graphs
from mi_utils.graphs.file import GraphFile
from mi_utils.graphs.layout import place


@pytest.fixture
def small():
    return graph_examples.by_hand()


def test_tokens_stand_below_logits_on_top_and_layers_between():
    file = graph_examples.large(120, n_layers=12)
    found = place(file)
    assert found.row_names == ("emb", *map(str, range(12)), "logit")
    for node, x, y in zip(file.nodes, found.x, found.y, strict=True):
        row = {"E": 0, "13": 13}.get(node.layer, int(node.layer) + 1 if node.layer.isdecimal() else None)
        assert found.rows[row] < y < found.rows[row + 1]
        assert found.columns[node.ctx_idx] < x < found.columns[node.ctx_idx + 1]


def test_no_two_nodes_stand_closer_than_their_room():
    found = place(graph_examples.large(500, n_layers=4))
    places = list(zip(found.x, found.y, strict=True))
    least = min(math.dist(a, b) for i, a in enumerate(places) for b in places[:i])
    assert least == pytest.approx(1)


def test_in_a_cell_the_most_influential_come_first_and_errors_last():
    more = [{"influence": 0.5}, {"influence": 0.1}, {"influence": None}, {"influence": 0.05}]
    nodes = [graphs.feature_node(0, 0, i, "", one) for i, one in enumerate(more)]
    nodes[3] = graphs.Node("0_-1_0", -1, "0", 0, "mlp reconstruction error", "x", "", {"influence": 0.05})
    found = place(
        GraphFile({"slug": "a", "scan": "", "prompt_tokens": ["a"], "prompt": "a"}, {}, tuple(nodes), ())
    )
    order = sorted(range(4), key=lambda i: (-found.y[i], found.x[i]))
    assert order == [1, 0, 2, 3]


def test_layers_of_other_programs_have_rows_too():
    def rows(*layers):
        nodes = tuple(
            graphs.Node(f"n{i}", None, one, 0, "lorsa", "x", "", {}) for i, one in enumerate(layers)
        )
        metadata = {"slug": "a", "scan": "", "prompt_tokens": [" a"], "prompt": "a"}
        return place(GraphFile(metadata, {}, nodes, ()))

    assert rows(2, "0").row_names == ("emb", "0", "1", "2", "logit")
    assert rows("10", "9", "mid").row_names == ("emb", "mid", *map(str, range(11)), "logit")
    assert rows(10**9, 3).row_names == ("emb", "3", "1000000000", "logit"), (
        "empty layers are left out of so many"
    )
    assert rows(0).tokens == ("·a",)


def lines(fig, name):
    """Links of a sign in a figure, as ((x, y), (x, y)), with their dashes."""
    found = []
    for trace in fig.data:
        if trace.name == name:
            points = list(zip(trace.x, trace.y, strict=True))
            found += [(trace.line.dash, *points[i : i + 2]) for i in range(0, len(points), 3)]
    return found


def test_the_figure_has_every_node_and_tells_signs_apart(small):
    fig, found = graphs.figure(small, title="Dallas"), place(small)
    at = {node.node_id: (found.x[i], found.y[i]) for i, node in enumerate(small.nodes)}
    for sign, dash in (("positive", "solid"), ("negative", "5px,3px")):
        wanted = {
            (dash, at[a.source], at[a.target]) for a in small.links if (a.weight < 0) == (sign == "negative")
        }
        assert set(lines(fig, sign)) == wanted and len(wanted) == len(lines(fig, sign))
        assert [trace.showlegend for trace in fig.data if trace.name == sign].count(True) == 1
    counts = {
        trace.name: (len(trace.x), trace.marker.symbol) for trace in fig.data if trace.mode == "markers"
    }
    assert counts == {
        "token": (3, "square"),
        "feature": (3, "circle"),
        "error": (1, "diamond"),
        "logit": (2, "square"),
    }
    assert fig.layout.xaxis.title.text == "position" and fig.layout.title.text == "Dallas"
    assert [one.text for one in fig.layout.annotations] == ["·Austin 0.750", "·Dallas 0.200"]


def test_the_figure_draws_the_largest_links_and_says_so(small):
    fig = graphs.figure(small, links=2)
    assert len(lines(fig, "positive")) == 2 and lines(fig, "negative") == []
    widths = {trace.line.width for trace in fig.data if trace.name == "positive"}
    assert widths == {2.4}, "1.5 and 2: both are above 4/9 of the largest"
    assert fig.layout.xaxis.title.text == "position, the 2 largest of 7 links"
    assert len(graphs.figure(small, links=0).data) == 4
    with pytest.raises(ValueError, match=r"^links is -1; it should be 0 or more$"):
        graphs.figure(small, links=-1)


def test_the_figure_names_what_the_saved_state_has(small):
    state = small.with_state(pinned=["1_40_2"], supernodes=[["Texas", "0_7_1", "1_3_2"]])
    names = [one.text for one in graphs.figure(state).layout.annotations]
    assert names == ["Texas", "Texas", "say a capital", "·Austin 0.750", "·Dallas 0.200"]


def test_text_in_the_figure_is_no_markup():
    file = graph_examples.by_hand(HOSTILE, HOSTILE, pinnedIds=["0_7_1"], supernodes=[[HOSTILE, "1_3_2"]])
    said = graphs.figure(file, title=HOSTILE).to_json()
    assert "<script" not in said and "<img" not in said and "&lt;img" in said


def test_the_browser_starts_from_the_state_of_the_file():
    state = {
        "pinnedIds": ["0_7_1", "gone", "0_7_1"],
        "supernodes": [["a", "1_3_2", "gone"], ["b", "gone"], ["c"]],
    }
    browser = graphs.GraphBrowser(graph_examples.by_hand(**state, clickedId="1_3_2"))
    assert (
        browser.pinned == ["0_7_1"] and browser.supernodes == [["a", "1_3_2"]] and browser.clicked == "1_3_2"
    )
    assert browser.threshold == 1.0
    assert graphs.GraphBrowser(graph_examples.by_hand(clickedId="gone")).clicked == ""
    twice = graphs.GraphBrowser(graph_examples.by_hand(supernodes=[["a", "1_3_2"], ["b", "1_3_2", "0_7_1"]]))
    assert twice.supernodes == [["a", "1_3_2"], ["b", "0_7_1"]]


def test_what_is_set_is_saved(small, tmp_path):
    browser = graphs.GraphBrowser(small)
    browser.pinned, browser.supernodes, browser.clicked = ["1_40_2"], [["Texas", "0_7_1", "1_3_2"]], "0_7_1"
    saved = graphs.load(graphs.save(browser.saved(), tmp_path / "a.json"))
    wanted = {"pinnedIds": ["1_40_2"], "supernodes": [["Texas", "0_7_1", "1_3_2"]], "clickedId": "0_7_1"}
    assert saved.q_params == wanted and saved.nodes == small.nodes
    again = graphs.GraphBrowser(saved)
    assert (again.pinned, again.supernodes, again.clicked) == (
        browser.pinned,
        browser.supernodes,
        browser.clicked,
    )


BAD = {
    "pinned": (["9"], "pinned has '9'; it should name nodes of the graph"),
    "clicked": ("9", "clicked has '9'; it should name nodes of the graph"),
    "supernodes": ([["a", "9"]], "supernodes has '9'; it should name nodes of the graph"),
    "threshold": (1.5, "threshold is 1.5; it should be between 0 and 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_state_that_the_graph_does_not_have_is_refused(name, small):
    value, sentence = BAD[name]
    browser = graphs.GraphBrowser(small)
    before = getattr(browser, name)
    with pytest.raises(ValueError) as refused:
        setattr(browser, name, value)
    assert str(refused.value) == sentence and getattr(browser, name) == before


def test_supernodes_are_named_lists_that_share_no_node(small):
    browser = graphs.GraphBrowser(small)
    with pytest.raises(
        ValueError, match=r"^supernodes has \['a'\]; each should be a name, then at least one node id$"
    ):
        browser.supernodes = [["a"]]
    with pytest.raises(ValueError, match=r"^supernodes has '0_7_1' twice; a node should be in one of them$"):
        browser.supernodes = [["a", "0_7_1"], ["b", "1_3_2", "0_7_1"]]
    with pytest.raises(ValueError, match=r"^threshold is nan; it should be between 0 and 1$"):
        browser.threshold = float("nan")
    browser.supernodes = [["0_7_1", "1_3_2"], ["0_7_1", "0_7_1"]]  # a name is no node


def test_details_are_of_nodes(small, tmp_path):
    texts = {"0_7_1": "fires on Dallas", "1_3_2": {"top tokens": " is", "contexts": "x"}}
    assert graphs.GraphBrowser(small, details=texts).details == texts
    for call in (graphs.GraphBrowser, lambda *a, **k: graphs.export(*a, tmp_path / "a.html", **k)):
        with pytest.raises(ValueError, match=r"^details has 'nobody'; it should name nodes of the graph$"):
            call(small, details={"nobody": "x"})


def test_a_browsers_text_is_the_same_in_every_run(small):
    browser = graphs.GraphBrowser(small)
    assert repr(browser) == "GraphBrowser('dallas', 9 nodes, 0 pinned, 0 supernodes)"
    browser.pinned = ["0_7_1"]
    assert repr(browser) == "GraphBrowser('dallas', 9 nodes, 1 pinned, 0 supernodes)"
    shown = browser._repr_mimebundle_()
    assert (shown[0] if isinstance(shown, tuple) else shown)["text/plain"] == repr(browser)


class Tags(HTMLParser):
    """Elements of a page and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1] += data


@pytest.fixture
def hostile():
    return graph_examples.by_hand(HOSTILE, HOSTILE, supernodes=[[HOSTILE, "1_3_2"]])


def test_a_page_holds_its_data_and_one_script_that_its_policy_knows(hostile, tmp_path):
    path = graphs.export(hostile, tmp_path / "a.html", details={"0_7_1": HOSTILE}, title=HOSTILE)
    assert [one.name for one in tmp_path.iterdir()] == ["a.html"] and path == tmp_path / "a.html"
    page = Tags(path.read_text())
    assert [tag for tag, _ in page.tags if tag in ("script", "img", "link", "iframe")] == ["script", "script"]
    data, script = page.scripts
    assert "<" not in data and json.loads(data)["graph"] == hostile.to_json()
    assert json.loads(data)["details"] == {"0_7_1": HOSTILE}
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{known}'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_a_page_names_no_other_address(small, tmp_path):
    text = graphs.export(small, tmp_path / "a.html").read_text()
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text and "import(" not in text and "fetch(" not in text


def test_a_page_of_the_same_script_as_the_widget(small, tmp_path):
    text = graphs.export(small, tmp_path / "a.html").read_text()
    own = str(graphs.GraphBrowser(small)._esm)
    assert own.removesuffix("export default { render };\n").strip() in text
    with pytest.raises(ValueError, match=r"^path is '.*none.*'; it should be in a folder that exists$"):
        graphs.export(small, tmp_path / "none" / "a.html")
