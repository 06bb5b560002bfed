"""Graph files: what is written for a graph, that nothing is lost, and what is refused."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import graph_examples
import pytest
import torch

from mi_utils import graphs


@pytest.fixture
def small():
    return graph_examples.small()


@pytest.fixture
def raw(small):
    return json.loads(json.dumps(small.to_json()))


def node(file, node_id):
    return next(one for one in file.nodes if one.node_id == node_id)


def test_nodes_are_those_that_were_kept_with_the_ids_of_the_format(small):
    assert [one.node_id for one in small.nodes] == [
        "0_7_1",
        "1_3_2",
        "1_40_2",
        "0_-1_2",
        "E_0_0",
        "E_41_1",
        "E_57_2",
        "3_88_2",
        "3_41_2",
    ]
    kinds = (
        [graphs.file.FEATURE] * 3
        + [graphs.file.ERROR]
        + [graphs.file.EMBEDDING] * 3
        + [graphs.file.LOGIT] * 2
    )
    assert [one.feature_type for one in small.nodes] == kinds
    assert [one.ctx_idx for one in small.nodes] == [1, 2, 2, 2, 0, 1, 2, 2, 2]
    assert [one.layer for one in small.nodes] == ["0", "1", "1", "0", "E", "E", "E", "3", "3"]
    assert [one.js_node_id for one in small.nodes] == [
        "0_7-0",
        "1_3-0",
        "1_40-0",
        "0_-1-2",
        "E_0-0",
        "E_41-1",
        "E_57-2",
        "L_88-2",
        "L_41-2",
    ]


def test_features_are_numbered_by_cantors_pairing(small):
    assert [one.feature for one in small.nodes[:4]] == [35, 13, 901, -1]
    numbers = {graphs.feature_node(layer, 0, i, "", {}).feature for layer in range(30) for i in range(100)}
    assert len(numbers) == 3000


def test_labels_values_and_probabilities_stand_with_their_nodes(small):
    assert [one.clerp for one in small.nodes[:6]] == [
        "the state of Dallas",
        "",
        "say a capital",
        "",
        "<|endoftext|>",
        " Dallas",
    ]
    assert [one.activation for one in small.nodes] == [2.0, 0.5, 1.25, *[None] * 6]
    cumulative = graph_examples.pruned().cumulative.tolist()
    assert [one.influence for one in small.nodes] == [
        *(cumulative[i] for i in (0, 1, 2, 5, 9, 10, 11)),
        None,
        None,
    ]
    top, other = small.nodes[-2:]
    assert (
        top.token_prob == 0.75
        and top.clerp == 'Output " Austin" (p=0.750)'
        and top.more["is_target_logit"] is True
    )
    assert other.token_prob == pytest.approx(0.2) and other.more["is_target_logit"] is False
    assert node(small, "0_7_1").token_prob == 0.0


def test_links_go_from_source_to_target_with_signed_raw_weights(small):
    names = dict(zip([0, 1, 2, 5, 9, 10, 11, 12, 13], [one.node_id for one in small.nodes], strict=True))
    wanted = {
        (names[source], names[target]): weight for (target, source), weight in graph_examples.EDGES.items()
    }
    assert {(one.source, one.target): one.weight for one in small.links} == wanted
    assert len(small.links) == len(wanted)


def test_an_edge_whose_node_was_dropped_is_no_link():
    edges = graph_examples.pruned().edges.clone()
    edges[1, 3] = True
    assert len(graphs.from_graph(graph_examples.pruned(edges=edges), slug="x").links) == len(
        graph_examples.EDGES
    )


def test_metadata_say_what_the_graph_is_of(small):
    assert small.tokens == graph_examples.PROMPT and small.metadata["prompt"] == "<|endoftext|> Dallas is"
    spaced = graphs.from_graph(graph_examples.pruned(), slug="x", prompt="Dallas is")
    assert spaced.metadata["prompt"] == "Dallas is" and spaced.tokens == small.tokens
    assert small.metadata["slug"] == "dallas" and small.metadata["scan"] == "tiny"
    assert small.metadata["transcoder_list"] == ["by hand"] and small.metadata["schema_version"] == 1
    assert small.metadata["node_threshold"] == 0.8
    assert small.metadata["pruning_settings"] == {"node_threshold": 0.8, "edge_threshold": 0.98}
    assert repr(small) == "GraphFile('dallas', 9 nodes, 7 links)"


def test_logits_without_text_go_by_number():
    file = graphs.from_graph(graph_examples.pruned(), slug="x")
    assert file.nodes[-1].clerp == 'Output "token 41" (p=0.200)'
    with pytest.raises(
        ValueError, match=r"^logit_tokens has 1 entries; it should have 2, one for each logit$"
    ):
        graphs.from_graph(graph_examples.pruned(), slug="x", logit_tokens=[" a"])


def test_a_file_has_the_published_form(small, raw):
    path = os.environ.get("MI_GRAPH_SCHEMA")
    if not path:
        pytest.skip("MI_GRAPH_SCHEMA does not name the published schema")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(path).read_text())
    jsonschema.validate(raw, schema)
    state = small.with_state(pinned=["0_7_1"], supernodes=[["Texas", "0_7_1", "1_3_2"]], clicked="1_3_2")
    jsonschema.validate(json.loads(json.dumps(state.to_json())), schema)
    jsonschema.validate(json.loads(json.dumps(graph_examples.large(60).to_json())), schema)
    del raw["links"][0]["weight"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, schema)


# As other programs write them: no optional fields, layers as numbers, fields and parts that we don't know.
FOREIGN = {
    "metadata": {
        "slug": "theirs",
        "scan": "gemma",
        "prompt_tokens": ["a", "\ud800"],
        "prompt": "a?",
        "info": {"x": 1},
    },
    "qParams": {"pinnedIds": ["0_1_0"], "supernodes": [["name", "0_1_0"]], "sg_pos": "1,2", "other": [1.5]},
    "nodes": [
        {
            "node_id": "0_1_0",
            "feature": None,
            "layer": 0,
            "ctx_idx": 0,
            "feature_type": "lorsa",
            "jsNodeId": "0_1-0",
            "clerp": "",
            "activation": None,
            "qk_tracing_results": {"pair_wise_contributors": [["a", "b", 0.5]]},
        },
        {
            "node_id": "28_5_1",
            "feature": 5,
            "layer": "28",
            "ctx_idx": 1,
            "feature_type": "logit",
            "jsNodeId": "L_5-1",
            "clerp": "é \u2028",
            "influence": 0.1 + 0.2,
            "token_prob": 1e-30,
        },
    ],
    "links": [{"source": "0_1_0", "target": "28_5_1", "weight": 1, "note": "kept"}],
    "qk_only_nodes": {"z": {"node_id": "z"}},
}


@pytest.mark.parametrize("content", [FOREIGN, "small", "large"])
def test_a_round_trip_loses_nothing(content, small, tmp_path):
    made = {"small": small, "large": graph_examples.large(80)}
    content = made[content].to_json() if isinstance(content, str) else content
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps(content))
    read = graphs.load(first)
    assert graphs.save(read, second) == second
    assert json.loads(second.read_text()) == content and graphs.load(second) == read
    assert sorted(one.name for one in tmp_path.iterdir()) == ["first.json", "second.json"]


def test_a_failed_write_leaves_the_old_file(small, tmp_path):
    path = graphs.save(small, tmp_path / "a.json")
    before = path.read_bytes()
    bad = graphs.GraphFile({**small.metadata, "made": float("nan")}, small.q_params, small.nodes, small.links)
    with pytest.raises(
        ValueError, match=r"^the graph can't be written as JSON .*; its numbers should be finite$"
    ):
        graphs.save(bad, path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match=r"^path is '.*a.json'; it should be in a folder that exists$"):
        graphs.save(small, tmp_path / "none" / "a.json")


def test_the_state_of_the_view_is_saved_and_keeps_the_rest():
    file = graphs.parse(json.dumps(FOREIGN))
    changed = file.with_state(pinned=["28_5_1"], supernodes=[["two", "0_1_0", "28_5_1"]], clicked="0_1_0")
    assert changed.q_params == {
        "pinnedIds": ["28_5_1"],
        "supernodes": [["two", "0_1_0", "28_5_1"]],
        "clickedId": "0_1_0",
        "sg_pos": "1,2",
        "other": [1.5],
    }
    assert changed.nodes == file.nodes and file.q_params == FOREIGN["qParams"]
    for state in ({"pinned": ["9"]}, {"supernodes": [["name", "9"]]}, {"clicked": "9"}):
        with pytest.raises(
            ValueError, match=r"^the state names '9'; it should name nodes of the graph only$"
        ):
            file.with_state(**{"pinned": [], "supernodes": [], **state})
    assert file.with_state(pinned=[], supernodes=[["9"]]).q_params["supernodes"] == [["9"]], "a name is no id"


def test_the_index_lists_the_metadata_of_each_graph(small, tmp_path):
    other = graph_examples.large(40)
    path = graphs.write_index([small, other], tmp_path)
    assert path.name == "graph-metadata.json"
    assert json.loads(path.read_text()) == {"graphs": [small.metadata, other.metadata]}
    with pytest.raises(ValueError, match=r"^graph_files has the slug 'dallas' twice; slugs should differ$"):
        graphs.write_index([small, other, small], tmp_path)


@pytest.mark.parametrize("slug", ["", "a b", "../a", "a/b", '"'])
def test_a_slug_that_is_no_name_of_a_file_is_refused(slug):
    with pytest.raises(
        ValueError, match=r"^slug is .*; it should be made of letters, digits, '-', '_' and '\.'$"
    ):
        graphs.from_graph(graph_examples.pruned(), slug=slug)


def changed(raw, path, value=None):
    """``raw`` with another value at ``path``, or without it if there is none."""
    raw = copy.deepcopy(raw)
    here = raw
    for step in path[:-1]:
        here = here[step]
    if value is None:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return raw


BAD = {
    "no links": (["links"], None, "the graph has no links; it should have a list there"),
    "no metadata": (["metadata"], None, "the graph has no metadata; it should have an object there"),
    "nodes no list": (["nodes"], {}, "nodes of the graph is {}; it should be a list"),
    "no slug": (["metadata", "slug"], None, "metadata has no slug; it should have a string there"),
    "version": (["metadata", "schema_version"], 2, "schema_version is 2; it should be 1"),
    "version as text": (["metadata", "schema_version"], "1", "schema_version is '1'; it should be 1"),
    "token": (
        ["metadata", "prompt_tokens"],
        ["a", 1, "b"],
        "prompt_tokens of metadata holds something else than strings; it should hold strings only",
    ),
    "no id": (["nodes", 2, "node_id"], None, "nodes[2] has no node_id; it should have a string there"),
    "no jsNodeId": (
        ["nodes", 0, "jsNodeId"],
        None,
        "nodes[0] has no jsNodeId; it should have a string there",
    ),
    "node no object": (["nodes", 1], "x", "nodes[1] is 'x'; it should be an object"),
    "label a number": (["nodes", 0, "clerp"], 3, "clerp of nodes[0] is 3; it should be a string"),
    "position true": (
        ["nodes", 0, "ctx_idx"],
        True,
        "ctx_idx of nodes[0] is True; it should be a whole number",
    ),
    "twice": (["nodes", 1, "node_id"], "0_7_1", "node '0_7_1' is there twice; ids of nodes should differ"),
    "after the prompt": (
        ["nodes", 0, "ctx_idx"],
        3,
        "ctx_idx of node '0_7_1' is 3; it should be a position of the 3 tokens",
    ),
    "before the prompt": (
        ["nodes", 0, "ctx_idx"],
        -1,
        "ctx_idx of node '0_7_1' is -1; it should be a position of the 3 tokens",
    ),
    "influence": (
        ["nodes", 0, "influence"],
        float("nan"),
        "influence of node '0_7_1' is nan; it should be a finite number",
    ),
    "dangling source": (
        ["links", 3, "source"],
        "nobody",
        "source of links[3] is 'nobody'; it should be the id of a node in the graph",
    ),
    "dangling target": (
        ["links", 0, "target"],
        "nobody",
        "target of links[0] is 'nobody'; it should be the id of a node in the graph",
    ),
    "nan": (["links", 4, "weight"], float("nan"), "weight of links[4] is nan; it should be a finite number"),
    "infinite": (
        ["links", 4, "weight"],
        float("-inf"),
        "weight of links[4] is -inf; it should be a finite number",
    ),
    "huge": (
        ["links", 4, "weight"],
        10**400,
        f"weight of links[4] is {'1' + '0' * 58}…; it should be a finite number",
    ),
    "weight as text": (
        ["links", 0, "weight"],
        "1",
        "weight of links[0] is '1'; it should be a finite number",
    ),
    "no weight": (
        ["links", 0, "weight"],
        None,
        "links[0] has no weight; it should have a finite number there",
    ),
    "pins": (
        ["qParams", "pinnedIds"],
        "a,b",
        "pinnedIds of qParams is 'a,b'; it should be a list of node ids",
    ),
    "groups": (
        ["qParams", "supernodes"],
        [["a"], []],
        "supernodes of qParams is [['a'], []]; it should be a list of lists: a name, then node ids",
    ),
    "group of numbers": (
        ["qParams", "supernodes"],
        [["a", 1]],
        "supernodes of qParams is [['a', 1]]; it should be a list of lists: a name, then node ids",
    ),
    "clicked": (["qParams", "clickedId"], 5, "clickedId of qParams is 5; it should be a node id"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence_that_names_it(name, raw, tmp_path):
    path, value, sentence = BAD[name]
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(changed(raw, path, value)))
    with pytest.raises(ValueError) as refused:
        graphs.load(file)
    assert str(refused.value) == f"bad.json: {sentence}"


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"[" * 100_000, b'{"nodes": [1,]}'])
def test_what_is_not_json_is_refused(content, tmp_path):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^bad.json: this is not JSON \(.*\); it should be a graph in JSON$"
    ):
        graphs.load(tmp_path / "bad.json")


def test_what_is_no_graph_file_at_all_is_refused(tmp_path):
    file = tmp_path / "bad.json"
    with pytest.raises(
        ValueError, match=r"^there is no file 'bad.json' to read; path should be a graph file$"
    ):
        graphs.load(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"^bad.json: this is not UTF-8; it should be a graph in JSON$"):
        graphs.load(file)
    file.write_text("[1]")
    with pytest.raises(
        ValueError, match=r"^bad.json: this is \[1\]; it should be an object with metadata, qParams, "
    ):
        graphs.load(file)


def test_a_graph_made_by_hand_is_checked_as_well(small):
    with pytest.raises(ValueError, match=r"^weight of links\[0\] is nan; it should be a finite number$"):
        graphs.GraphFile(small.metadata, {}, small.nodes, (graphs.Link("0_7_1", "1_3_2", float("nan")),))
    graph = graph_examples.pruned().graph
    broken = replace(graph, adjacency=graph.adjacency.masked_fill(graph.adjacency == 1.5, torch.nan))
    with pytest.raises(ValueError, match=r"^weight of links\[0\] is nan"):
        graphs.from_graph(graph_examples.pruned(graph=broken), slug="x")
