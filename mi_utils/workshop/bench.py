"""Measurements behind what the README says about speed: ``make bench``. Nothing here is asserted in CI.

Each figure is the median of several fresh processes, so that nothing is warm but the disk.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable

from mi_utils.workshop import kernels, readme, results

RUNS = 5

# Each prints seconds. Libraries are imported before the clock starts, save where importing is what is measured.
_LIBRARIES = """
import time
import torch, transformers, gguf
import transformers.models.llama.modeling_llama
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformer_lens.model_bridge import TransformerBridge
from mi_utils import models
source = models.REGISTRY[models.DEFAULT].source
folder = str(source.folder())
transformers.utils.logging.disable_progress_bar()
start = time.perf_counter()
"""
_SECONDS = "\nprint(time.perf_counter() - start)"
CASES = {
    "import mi_utils": "import time; start = time.perf_counter()\nimport mi_utils" + _SECONDS,
    "load_model, cached (TransformerBridge, folded)": _LIBRARIES + "models.load_model()" + _SECONDS,
    "the same by transformers' GGUF route": _LIBRARIES
    + """
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="source.gguf")
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="source.gguf", dtype=torch.float32,
                                             attn_implementation="eager")
bridge = TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")
bridge.enable_compatibility_mode(**models.FOLDING)"""
    + _SECONDS,
}


def report(say: Callable[[str], None]) -> int:
    """Measure, and say the tables in Markdown; returns 0."""
    say(f"Measured on {results.machine()}; median of {RUNS} fresh processes (smallest to largest).\n")
    rows = []
    for name, code in CASES.items():
        seconds = [_seconds(code) for _ in range(RUNS)]
        rows.append((name, f"{statistics.median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g})"))
    say("\n".join(results.table(("what", "time"), rows)))
    measured = readme.measurements()
    say("\n`make run --record` measured:\n")
    costs = [(name, f"{cost['minutes']:g}", f"{cost['peak_gib']:g} GiB") for name, cost in measured.items()]
    costs.append(("all", f"{sum(cost['minutes'] for cost in measured.values()):g}", ""))
    say("\n".join(results.table(("notebook", "minutes", "peak memory"), costs)))
    return 0


def _seconds(code: str) -> float:
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=kernels.environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a measurement failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])
