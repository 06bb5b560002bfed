"""What ``make bench`` measures of transcoders and attribution graphs, on ``atlas`` and on the default
model."""

from mi_workshop.bench_cases import Case

# Training of the cross-layer transcoder that ships for atlas: 4 layers x 512 features, 450 tokens a step.
_TRAIN = """
import resource, time, torch
from mi_utils import models, transcoders
from mi_workshop.makers.atlas_transcoders import SHIPPED
model = models.load_model("atlas", device="cpu")
x, y = transcoders.mlp_activations(model, transcoders.sentences(3_000), thin=transcoders.atlas_mlps.THIN)
trainer, batches = transcoders.Trainer(SHIPPED, x, y, model="atlas"), transcoders.batches(x, y)
for _ in range(20):
    trainer.step(*next(batches))
steps = [next(batches) for _ in range(100)]
start = time.perf_counter()
for step in steps:
    trainer.step(*step)
taken = time.perf_counter() - start
"""
# A graph; what is timed is run once before, or not where a run takes long, and then ``times`` times.
_GRAPH = """
import resource, statistics, time, torch
from mi_utils import atlas, graphs, models, prompts, transcoders
model = models.load_model({model!r}, device="cpu")
made = transcoders.load_shipped(model)
tokens = {tokens}
def timed(work, times):
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        found = work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:] or taken), found
def build():
    return graphs.attribution_graph(graphs.local_model(model, made, tokens))
"""
_PEAK = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
_DALLAS = 'atlas.encode(model, atlas.two_hop("Dallas", "capital").text)[0]'
# An induction sentence and its beginning again: atlas reads 24 tokens at most, so that is the longest.
_SENTENCE = 'atlas.prompts("induction", "test", count=1)[0].text.split()'
_WORDS = 'atlas.encode(model, " ".join((2 * ' + _SENTENCE + ")[:{words}]))[0]"
_TEXT = (
    "Fact: the capital of the state containing Dallas is Austin, and the capital of the state that contains "
    "Oakland is "
    "Sacramento. The state that contains Chicago is Illinois, and its capital is the city of Springfield"
)
# The first 500 nodes of a real graph as one page in Chromium, from the start of loading to the frame after
# drawing.
_PAINT = """
import pathlib, shutil, tempfile
from playwright.sync_api import sync_playwright
graph = build()
cuts = (graphs.prune(graph, percent / 100) for percent in range(40, 101, 2))
kept = next(cut for cut in cuts if cut.nodes.sum() >= 500)
with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
    file = pathlib.Path(folder) / "graph.html"
    graphs.export(graphs.from_graph(kept, slug="bench"), file)
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    page = play.chromium.launch(executable_path=found, args=["--no-sandbox"]).new_page()
    page.goto(file.as_uri())
    mark = "performance.getEntriesByName('mi-graph-painted')"
    while not page.evaluate(mark + ".length"):
        page.wait_for_timeout(20)
    print(page.evaluate(mark + "[0].startTime"))
"""
_REAL = "smollm2-135m"
_TOKENS = f"prompts.encode(model, {_TEXT!r})[0][:{{length}}]"


def _graph(what: str, model: str, tokens: str, times: int) -> tuple[Case, ...]:
    """Time, size and memory of one graph with the default node cap; ``times`` builds in each process."""
    build = _GRAPH.format(model=model, tokens=tokens) + f"taken, graph = timed(build, {times})\n"
    pruned = build + "taken, pruned = timed(lambda: graphs.prune(graph), 6)\n"
    return (
        Case(f"{what}: local model and graph", build + "print(taken)", runs=3 if times > 1 else 1),
        Case(f"{what}: pruning", pruned + "print(taken)", runs=3 if times > 1 else 1),
        Case(f"{what}: active", build + "print(graph.n_active)", "features", 1),
        Case(f"{what}: size", build + "print(graph.n_nodes)", "nodes", 1),
        Case(f"{what}: edges", build + "print(int((graph.adjacency != 0).sum()))", "edges", 1),
        Case(f"{what}: after pruning", pruned + "print(int(pruned.nodes.sum()))", "nodes", 1),
        Case(f"{what}: peak memory, model included", build + _PEAK, "MiB", 1),
    )


def _cases() -> tuple[Case, ...]:
    cases = [
        Case(
            "training atlas's CLT, a step of 450 tokens",
            _TRAIN + "print(1_000 * taken / len(steps))",
            "ms",
            3,
        ),
        Case("training atlas's CLT", _TRAIN + "print(450 * len(steps) / taken)", "tokens/s", 3),
        Case("training atlas's CLT: peak memory", _TRAIN + _PEAK, "MiB", 1),
        *_graph("graph on atlas, Dallas prompt (9 tokens)", "atlas", _DALLAS, 21),
    ]
    for length in (10, 20, 24):
        cases += _graph(f"graph on atlas, {length} tokens", "atlas", _WORDS.format(words=length - 1), 21)
    for length in (10, 20, 40):
        cases += _graph(f"graph on {_REAL}, {length} tokens", _REAL, _TOKENS.format(length=length), 1)
    graph = _GRAPH.format(model=_REAL, tokens=_TOKENS.format(length=10))
    cases.append(
        Case("graph browser: first paint of at least 500 nodes, in Chromium", graph + _PAINT, "ms", 3)
    )
    return tuple(cases)


CASES = _cases()
