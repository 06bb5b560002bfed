"""What ``make bench`` measures: each case is a piece of Python for a process of its own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A measurement: Python that prints one number of ``unit`` as its last line, in ``runs`` processes."""

    what: str
    code: str
    unit: str = "s"
    runs: int = 5


# Seconds. Libraries are imported before the clock starts, save where importing is what is measured.
_LIBRARIES = """
import time
import torch, transformers, gguf
import transformers.models.llama.modeling_llama
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformer_lens.model_bridge import TransformerBridge
from mi_utils import models
source = models.load.REGISTRY[models.load.DEFAULT].source
folder = str(source.folder())
transformers.utils.logging.disable_progress_bar()
start = time.perf_counter()
"""
SECONDS = "\nprint(time.perf_counter() - start)"

# Tokens per second on the CPU: each defines ``work(rows)`` for rows of 128 tokens, which are contexts,
# training batches, or one token of 128 texts. Loading is not counted, nor is a first row: it is slower than
# those after it.
_CONTEXTS = """
import time, torch
from mi_utils import corpus, harvest, lens, models
model = models.load_model(models.load.DEFAULT, device="cpu", dtype=torch.{dtype})
tokens = corpus.contexts(model, length=128, count=32)
"""
_HARVEST = """
def work(rows):
    return harvest.residual_streams(model, tokens[:rows], batch_size=8, skip_first=False)
"""
_RUN_WITH_CACHE = """
names = harvest.stream_names(model)
@torch.no_grad()
def work(rows):
    caches = [model.run_with_cache(batch, names_filter=names)[1] for batch in tokens[:rows].split(8)]
    return torch.stack([torch.cat([cache[name] for cache in caches]).flatten(0, 1) for name in names])
"""
_TRAIN = """
streams = harvest.drop_massive(harvest.residual_streams(model, tokens))
start_lens = lens.logit_lens(model)
def work(rows):
    return lens.train(model, streams, start_lens, lens.LensSettings(steps=rows, batch=128))
"""
_SAMPLE = """
import time, torch
from transformers import AutoModelForCausalLM
from mi_utils import models
from mi_workshop.makers import samples
folder = str(models.load.REGISTRY[models.load.DEFAULT].source.folder())
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, use_safetensors=True)
def work(rows):
    generator = torch.Generator().manual_seed(0)
    return samples.sample_documents(model, documents=128, length=1 + rows, min_p=0.03, generator=generator)
"""
_SPEED = """
work(1)
start = time.perf_counter()
work({rows})
print({rows} * 128 / (time.perf_counter() - start))"""

_TOYS = """
import time, torch
from mi_utils.superposition.toy import ToySettings, train
sparsity, importance, settings = torch.full((64,), 0.95), torch.ones(5), ToySettings(steps=300, batch=256)
train(5, 2, sparsity[:1], importance, ToySettings(steps=5))
start = time.perf_counter()
for part in sparsity.split({at_once}):
    train(5, 2, part, importance, settings)
print(64 * 300 / (time.perf_counter() - start))
"""
# Tokens per second on the same activations, TopK 32 of 2,304 latents, batches of 2,048, auxiliary loss on in
# both.
_SAE = """
import time, torch
from mi_utils import corpus, harvest, models
model = models.load_model(models.load.DEFAULT, device="cpu", dtype=torch.bfloat16)
tokens = corpus.contexts(model, count=192)
x = harvest.collect(model, tokens, "blocks.15.hook_resid_pre").values
d_in, d_sae, k, batch = x.shape[1], 2304, 32, 2048
"""
_OUR_SAE = """
from mi_utils.sae.training import SAESettings, train
def work(steps):
    train(x, SAESettings(d_sae, "topk", k=k, batch=batch, steps=steps))
"""
_THEIR_SAE = """
import os
os.environ["TQDM_DISABLE"] = "1"
import sae_lens
from sae_lens.config import SAETrainerConfig
def batches():
    while True:
        yield x[torch.randint(len(x), (batch,))].float()
def work(steps):
    config = sae_lens.TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k)
    plan = SAETrainerConfig(steps * batch, batch, lr=1e-3, lr_end=1e-4)
    sae_lens.SAETrainer(plan, sae_lens.TopKTrainingSAE(config), batches()).fit()
"""
_BY_BATCH = """
work(2)
start = time.perf_counter()
work(40)
print(40 * batch / (time.perf_counter() - start))"""


def _speed(what: str, code: str, *, rows: int = 32) -> Case:
    return Case(what, code + _SPEED.format(rows=rows), "tokens/s", 3)


_FLOAT, _BFLOAT = _CONTEXTS.format(dtype="float32"), _CONTEXTS.format(dtype="bfloat16")
CASES = (
    Case("import mi_utils", "import time; start = time.perf_counter()\nimport mi_utils" + SECONDS),
    Case("load_model, cached (TransformerBridge, folded)", _LIBRARIES + "models.load_model()" + SECONDS),
    Case(
        "the same by transformers' GGUF route",
        _LIBRARIES
        + """
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="source.gguf")
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="source.gguf", dtype=torch.float32,
                                             attn_implementation="eager")
bridge = TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")
bridge.enable_compatibility_mode(**models.load.FOLDING)"""
        + SECONDS,
    ),
    _speed("residual streams by run_with_cache, float32", _FLOAT + _RUN_WITH_CACHE),
    _speed("the same by harvest.residual_streams, float32", _FLOAT + _HARVEST),
    _speed("residual streams by run_with_cache, bfloat16", _BFLOAT + _RUN_WITH_CACHE),
    _speed("the same by harvest.residual_streams, bfloat16", _BFLOAT + _HARVEST),
    _speed("training a tuned lens, all layers at once", _FLOAT + _TRAIN, rows=150),
    _speed("sampling 128 texts at once, bfloat16", _SAMPLE),
    Case("toy models of superposition, 64 as one", _TOYS.format(at_once=64), "model steps/s", 3),
    Case("the same, one after another", _TOYS.format(at_once=1), "model steps/s", 3),
    Case("training a TopK SAE", _SAE + _OUR_SAE + _BY_BATCH, "tokens/s", 3),
    Case("the same by SAELens' trainer", _SAE + _THEIR_SAE + _BY_BATCH, "tokens/s", 3),
)
