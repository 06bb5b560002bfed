"""The slow way to attribute: the local replacement model in the model's own code, with a hook for all that is
frozen.

Edges come from autograd through it, so nothing of ``mi_utils.graphs.local`` or ``attribution`` is used here.
"""

from collections.abc import Callable
from pathlib import Path

import patching_reference
import tiny_models
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import models
from mi_utils.transcoders.transcoders import Transcoders

KINDS = ("llama", "gpt2", "neox")
SORTS = (("clt", False), ("clt", True), ("plt", False), ("plt", True))  # kind, and whether there is a skip
LAYERS, FEATURES = 3, 9


def load(kind: str, folder: Path) -> TransformerBridge:
    """Three layers: Llama (grouped queries, rotary), GPT-2 (LayerNorm, biases) or NeoX (parallel, partial
    rotary)."""
    small = {"llama": tiny_models.llama, "gpt2": tiny_models.gpt2, "neox": patching_reference.neox}[kind]()
    small.config.num_hidden_layers = LAYERS
    small.config.attention_bias = True  # queries, keys and values of Llama have biases too, as in Qwen2
    made = tiny_models._random(type(small), small.config, 0)
    return models.load_model(str(tiny_models.save(made, folder / f"tiny-{kind}")))


def prompt(model: TransformerBridge, length: int = 6, seed: int = 0) -> Int[Tensor, "pos"]:
    """Random tokens after the start token."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, model.cfg.d_vocab, (length,), generator=generator)
    tokens[0] = 0
    return tokens


def transcoders(
    model: TransformerBridge, kind: str = "clt", skip: bool = False, seed: int = 0
) -> Transcoders:
    """Random ones, of which some four in ten features are active on any text."""
    generator = torch.Generator().manual_seed(seed)
    n, d, f = model.cfg.n_layers, model.cfg.d_model, FEATURES

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Transcoders(
        W_enc=noise(n, d, f) / d**0.5,
        b_enc=0.3 * noise(n, f),
        threshold=0.3 * noise(n, f).abs(),
        W_dec=tuple(noise(n - i if kind == "clt" else 1, f, d) for i in range(n)),
        b_dec=noise(n, d),
        W_skip=noise(n, d, d) / d**0.5 if skip else None,
        kind=kind,
        model=model.cfg.model_name,
    )


class Frozen:
    """What one run of a model recorded, and the local replacement model as a forward pass with hooks."""

    def __init__(self, model: TransformerBridge, made: Transcoders, tokens: Int[Tensor, "pos"]) -> None:
        self.model, self.made, self.tokens = model, made, tokens
        with torch.no_grad():
            logits, self.kept = model.run_with_cache(tokens[None])
        self.logits = logits[0, -1]
        self.embedded = self.kept["blocks.0.hook_resid_pre"][0]
        n = range(model.cfg.n_layers)
        self.mlp_in = torch.stack([self.kept[f"blocks.{layer}.mlp.hook_in"][0] for layer in n])
        self.mlp_out = torch.stack([self.kept[f"blocks.{layer}.hook_mlp_out"][0] for layer in n])
        pre = torch.stack([self._pre(layer, self.mlp_in[layer]) for layer in n])
        self.features = torch.where(pre > made.threshold[:, None], pre, 0.0)
        self.features[:, 0] = 0
        written = torch.stack([self._written(layer, self.features, self.mlp_in[layer]) for layer in n])
        self.errors = self.mlp_out - written

    def _pre(self, layer: int, read: Tensor) -> Tensor:
        return read @ self.made.W_enc[layer] + self.made.b_enc[layer]

    def _written(
        self, layer: int, features: list[Tensor] | Tensor, read: Tensor, *, skip: bool = True
    ) -> Tensor:
        """What stands in for an MLP; nothing at the first position."""
        total = self.made.b_dec[layer] + torch.zeros_like(read)
        for source in range(layer + 1):
            if self.made.kind == "clt" or source == layer:
                total = total + features[source] @ self.made.W_dec[source][layer - source]
        if self.made.W_skip is not None:
            total = total + (read if skip else read.detach()) @ self.made.W_skip[layer]
        return torch.cat([torch.zeros_like(total[:1]), total[1:]])

    def run(
        self,
        choose: Callable[[int, Tensor], Tensor],
        *,
        embedded: Tensor | None = None,
        errors: Tensor | None = None,
        skip: bool = True,
        attention: str = "frozen",
    ) -> tuple[Float[Tensor, "layer pos feature"], Float[Tensor, "vocab"]]:
        """Pre-activations and logits, where ``choose(layer, pre-activations)`` gives the features."""
        embedded = self.embedded if embedded is None else embedded
        errors = self.errors if errors is None else errors
        pre, features, seen, edits = [], [], {}, []

        def note(name: str) -> tuple[str, Callable]:
            return name, lambda value, hook: seen.update({name: value})

        def divide(norm: str) -> tuple[str, Callable]:
            def hook(value: Tensor, hook: object) -> Tensor:
                x = seen[f"{norm}.hook_in"]
                x = x if self.model.cfg.normalization_type == "RMS" else x - x.mean(dim=-1, keepdim=True)
                return x / self.kept[f"{norm}.hook_scale"]

            return f"{norm}.hook_out", hook

        def mlp(layer: int) -> tuple[str, Callable]:
            def hook(value: Tensor, hook: object) -> Tensor:
                read = seen[f"blocks.{layer}.mlp.hook_in"][0]
                pre.append(self._pre(layer, read))
                values = choose(layer, pre[layer])
                features.append(torch.cat([torch.zeros_like(values[:1]), values[1:]]))
                return (self._written(layer, features, read, skip=skip) + errors[layer])[None]

            return f"blocks.{layer}.hook_mlp_out", hook

        blocks = [f"blocks.{layer}" for layer in range(self.model.cfg.n_layers)]
        for norm in [*(f"{block}.{norm}" for block in blocks for norm in ("ln1", "ln2")), "ln_final"]:
            edits += [note(f"{norm}.hook_in"), divide(norm)]
        if attention == "frozen":
            patterns = [f"{block}.attn.hook_pattern" for block in blocks]
            edits += [(name, lambda value, hook, name=name: self.kept[name]) for name in patterns]
        edits.append(("blocks.0.hook_resid_pre", lambda value, hook: embedded[None]))
        for layer, block in enumerate(blocks):
            edits += [note(f"{block}.mlp.hook_in"), mlp(layer)]
        logits = self.model.run_with_hooks(self.tokens[None], fwd_hooks=edits)[0, -1]
        return torch.stack(pre), logits

    def rows(self, logits: Int[Tensor, "logit"], *, skip: bool = True) -> tuple[Tensor, Tensor]:
        """Edges into every active feature and into logits (less the mean logit) by autograd, and the targets'
        values.

        Columns: active features, errors (layer, then position), tokens. The features of one target are
            constants to
        all others, so what autograd finds is direct.
        """
        leaves = [value.clone().requires_grad_() for value in (self.features, self.errors, self.embedded)]
        with torch.enable_grad():
            pre, out = self.run(
                lambda layer, _: leaves[0][layer], errors=leaves[1], embedded=leaves[2], skip=skip
            )
            active = self.features > 0
            targets = torch.cat([pre[active], out[logits] - out.mean()])
            rows = []
            for target in targets:
                slopes = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
                parts = [
                    torch.zeros_like(v) if g is None else g * v for g, v in zip(slopes, leaves, strict=True)
                ]
                rows.append(torch.cat([parts[0][active], parts[1].sum(-1).flatten(), parts[2].sum(-1)]))
        return torch.stack(rows).detach(), targets.detach()
