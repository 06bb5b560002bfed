"""What a norm does besides its learned scale, which ``models.load_model`` folds into the weights that read
it.

RMSNorm divides by the root of the mean square; LayerNorm subtracts the mean first. Held fixed in one run,
both are linear in the stream, which is what direct logit attribution and path patching rest on.
"""

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge


def centred(model: TransformerBridge, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """``x`` as the model's norms see it before they divide: less its mean where they are LayerNorms."""
    return x if "RMS" in model.cfg.normalization_type.upper() else x - x.mean(dim=-1, keepdim=True)


def before_mlp(block: nn.Module) -> nn.Module:
    """The norm that a block's MLP reads through: its own, or the one it shares with attention (GPT-J)."""
    return getattr(block, "ln2", block.ln1)


def scale(model: TransformerBridge, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
    """What the model's norms divide ``x`` by."""
    return (centred(model, x).square().mean(dim=-1, keepdim=True) + model.cfg.eps).sqrt()
