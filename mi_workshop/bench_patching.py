"""What ``make bench`` measures of patching: the sweeps of TransformerLens and ours, side by side."""

from mi_workshop.bench_cases import SECONDS, Case

# Patching sweeps over every layer and position, and over every head. ``theirs`` runs the model once a cell.
_PATCH = """
import os, resource, time, torch
os.environ["TQDM_DISABLE"] = "1"
import transformer_lens.patching as their_patching
from mi_utils import models, patching, prompts
torch.set_grad_enabled(False)
model = models.load_model(models.load.DEFAULT, device="cpu", dtype=torch.{dtype})
clean, corrupted = patching.encode_pairs(model, "{clean}", "{corrupted}")
names = torch.tensor([prompts.single_token(model, " Mary"), prompts.single_token(model, " John")])
metric = patching.logit_difference(names[:1], names[1:])
runs = [patching.record(model, tokens, ("z",)) for tokens in (clean, corrupted)]
def ours(site):
    by = "head" if site == "z" else "position"
    return patching.sweep(model, runs[1], runs[0], site, metric, by=by)[..., 0].float()
def theirs(site):
    name = dict(resid_pre="resid_pre", z="attn_head_out_all_pos")[site]
    sweep = getattr(their_patching, "get_act_patch_" + name)
    return sweep(model, corrupted, model.run_with_cache(clean)[1], lambda logits: metric(logits[:, -1])[0])
ours("z")
start = time.perf_counter()
"""
_CLEAN = "When Mary and John went to the store, John gave a drink to"
_OTHER_NAMES = "When Tom and Lisa went to the store, Bob gave a drink to"  # differs from the second word on
_ONE_NAME = "When Mary and John went to the store, Mary gave a drink to"  # differs at S2 only
_SHARE = """
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    ours({site!r})
square = torch.randn(1536, 1536)
square @ square
start = time.perf_counter()
for _ in range(10):
    square @ square
speed = 10 * 2 * 1536**3 / (time.perf_counter() - start)
start = time.perf_counter()
ours({site!r})
print(100 * counter.get_total_flops() / speed / (time.perf_counter() - start))"""
_HALF_GAP = """
low = ours({site!r})
del model
model = models.load_model(models.load.DEFAULT, device="cpu")
runs = [patching.record(model, tokens, ("z",)) for tokens in (clean, corrupted)]
print((low - ours({site!r})).abs().max().item())"""
_MEMORY = """
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
places = [(layer, head) for layer in range(30) for head in range(9)]
patches = [[patching.Patch("z", layer, runs[0]["z", layer], None, head)] for layer, head in places]
patching.run_patched(model, runs[1], patches[:60], metric)
before = peak()
patching.run_patched(model, runs[1], patches, metric)
print(peak() - before)"""


# Finding circuits, on IOI prompts and their ABC partners; ``work`` is timed once, in float32.
_CIRCUIT = """
import time, torch
from mi_utils import circuits, models, patching, prompts
torch.set_grad_enabled(False)
model = models.load_model(models.load.DEFAULT, device="cpu")
data = prompts.generate(model, {prompts})
other, metric = data.corrupted("abc"), patching.logit_difference(data.io, data.s)
{before}
start = time.perf_counter()
"""
_PATHS = """
base = patching.record(model, data.tokens, patching.paths.PATH_SITES)
source = patching.record(model, other, ("z",))"""
_BEST = """
graph = circuits.edge_graph(model)
best = graph.top(circuits.eap(model, data.tokens, other, metric), 50)"""
_WORK = {
    "path patching, 270 senders to the queries of a head of layer 23, 32 prompts": (
        32,
        _PATHS,
        'patching.path_patch(model, base, source, metric, target="q", receivers=[(23, 0)])',
    ),
    "EAP, all edges, 8 pairs": (8, "", "circuits.eap(model, data.tokens, other, metric)"),
    "EAP-IG, all edges, 5 steps, 8 pairs": (
        8,
        "",
        "circuits.eap_ig(model, data.tokens, other, metric, steps=5)",
    ),
    "ACDC on the 50 best edges, 4 pairs": (
        4,
        _BEST,
        'circuits.acdc(model, data.tokens, other, 0.01, candidates=best, rest="kept")',
    ),
}


def _cases() -> tuple[Case, ...]:
    cases = []
    full, one = (
        _PATCH.format(dtype="float32", clean=_CLEAN, corrupted=text) for text in (_OTHER_NAMES, _ONE_NAME)
    )
    half = _PATCH.format(dtype="bfloat16", clean=_CLEAN, corrupted=_OTHER_NAMES)
    for site, what in (("resid_pre", "30 x 15 streams"), ("z", "30 x 9 heads")):
        run = f"ours({site!r})" + SECONDS
        gap = f"\nprint((ours({site!r}) - theirs({site!r})).abs().max().item())"
        cases += [
            Case(f"{what}: largest difference from TransformerLens'", full + gap, "logits", 1),
            Case(
                f"{what} by transformer_lens.patching, float32", full + f"theirs({site!r})" + SECONDS, runs=1
            ),
            Case(f"{what} by patching.sweep, float32, all names differ", full + run, runs=3),
            Case(f"{what} by patching.sweep, float32, only S2 differs", one + run, runs=3),
            Case(f"{what} by patching.sweep, bfloat16, all names differ", half + run, runs=3),
            Case(f"{what}: largest error in bfloat16", half + _HALF_GAP.format(site=site), "logits", 1),
            Case(f"{what}: share that arithmetic takes", full + _SHARE.format(site=site), "%", 3),
        ]
    cases.append(Case("memory that 270 sites take beyond 60", full + _MEMORY, "MiB", 1))
    for what, (count, before, work) in _WORK.items():
        cases.append(Case(what, _CIRCUIT.format(prompts=count, before=before) + work + SECONDS, runs=3))
    return tuple(cases)


CASES = _cases()
