"""The logit lens and the tuned lens: what the residual stream at some depth would predict if it were the
last.

Layer indices: layer ``l`` is the residual stream *before* block ``l`` (``resid_pre``), so 0 is the embedding,
and ``n_layers`` is the stream after the last block, where every lens is the model itself. Depths in between
are the "outputs of block l - 1" of papers that count from the other side.

The logit lens (nostalgebraist 2020) is ``unembed(norm(h))``. The tuned lens (Belrose et al. 2023, arXiv
2303.08112) puts an affine *translator* in front, one for each layer: ``unembed(norm(h @ T + b))``; ``T = I, b
= 0`` is the logit lens again. How translators are trained is in ``mi_utils.lens.training``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import data_files, harvest, int8, models, prompts

LARGEST = 1_000_000_000  # predictions that a reading may hold: 4 GB


@dataclass(frozen=True)
class Lens:
    """A translator for each layer: ``h -> h @ matrices[layer] + biases[layer]``.

    ``model`` is the name of the model whose residual stream it reads.
    """

    matrices: Float[Tensor, "layer d_model d_model"]
    biases: Float[Tensor, "layer d_model"]
    model: str

    def translate(
        self, stream: Float[Tensor, "*batch d_model"], layer: int
    ) -> Float[Tensor, "*batch d_model"]:
        """The stream before block ``layer`` in the terms of the final one; the final one itself is left
        alone."""
        if layer == len(self.matrices):
            return stream
        return stream @ self.matrices[layer] + self.biases[layer]

    def translate_all(
        self, streams: Float[Tensor, "layer token d_model"]
    ) -> Float[Tensor, "layer token d_model"]:
        """The streams before all blocks at once, each in the terms of the final one."""
        return torch.bmm(streams, self.matrices) + self.biases[:, None]


def logit_lens(model: TransformerBridge) -> Lens:
    """The lens that translates nothing."""
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    identity = torch.eye(d_model, device=model.cfg.device)
    return Lens(identity.repeat(n_layers, 1, 1), identity.new_zeros(n_layers, d_model), model.cfg.model_name)


def log_probs(
    model: TransformerBridge, lens: Lens, stream: Float[Tensor, "*batch d_model"], layer: int
) -> Float[Tensor, "*batch d_vocab"]:
    """What a lens predicts from the stream before block ``layer``: log-probabilities, in nats.

    Raises:
        ValueError: a lens of another model, a layer out of range, or a stream that is not finite.
    """
    check_fits(model, lens)
    (layer,) = _check_layers(model, [layer])
    if not torch.isfinite(stream).all():
        raise ValueError("stream holds values that are not finite (NaN or infinity)")
    return models.unembed(model, lens.translate(stream, layer)).log_softmax(dim=-1)


@dataclass(frozen=True)
class Reading:
    """A prompt seen through a lens: one row of predictions for each layer, the model's own as the last row.

    ``layers`` says which layer each row is; ``tokens`` which token was read at each position shown.
    """

    tokens: Int[Tensor, "pos"]
    layers: tuple[int, ...]
    log_probs: Float[Tensor, "row pos d_vocab"]

    def top(self) -> Int[Tensor, "row pos"]:
        """The likeliest next token."""
        return self.log_probs.argmax(dim=-1)

    def entropy(self) -> Float[Tensor, "row pos"]:
        """How undecided the prediction is, in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(dim=-1)

    def kl_to_final(self) -> Float[Tensor, "row pos"]:
        """KL from the model's own prediction, in nats; 0 in the last row."""
        return models.kl(self.log_probs[-1], self.log_probs)

    def probability(self, token: int) -> Float[Tensor, "row pos"]:
        """How likely one token is held to come next."""
        return self._of(token).exp()

    def rank(self, token: int) -> Int[Tensor, "row pos"]:
        """How many tokens are held to be likelier than this one; 0 is the first choice."""
        return (self.log_probs > self._of(token)[..., None]).sum(dim=-1)

    def _of(self, token: int) -> Float[Tensor, "row pos"]:
        if not 0 <= token < self.log_probs.shape[-1]:
            raise ValueError(f"token is {token}; it should be from 0 to {self.log_probs.shape[-1] - 1}")
        return self.log_probs[..., token]


@torch.no_grad()
def read(
    model: TransformerBridge,
    prompt: str | Int[Tensor, "pos"],
    lens: Lens | None = None,
    *,
    layers: Sequence[int] | None = None,
    positions: slice = slice(None),
) -> Reading:
    """Look at a prompt through a lens.

    Args:
        model: the model that reads the prompt.
        prompt: text, or token ids that begin with the start token.
        lens: by default the logit lens.
        layers: which layers, in ascending order; the model's own prediction always follows as the last row.
        positions: which positions to look at; ``slice(-1, None)``, the last one only, is far quicker.

    Raises:
        ValueError: an empty prompt, ids that are not in the vocabulary, no positions or too many, a lens of
            another model, or layers that are out of range or not ascending.
    """
    lens = lens or logit_lens(model)
    check_fits(model, lens)
    n_layers = model.cfg.n_layers
    layers = _check_layers(model, range(n_layers + 1) if layers is None else layers)
    if not isinstance(prompt, str) and prompt.ndim != 1:
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}; it should be text or one row of token ids")
    tokens = prompts.encode(model, prompt) if isinstance(prompt, str) else prompt[None]
    if tokens.numel() == 0:
        raise ValueError("prompt has no tokens; it should hold at least the start token")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < model.cfg.d_vocab:
        raise ValueError(
            f"prompt holds ids outside the vocabulary; they should be from 0 to {model.cfg.d_vocab - 1}"
        )
    streams = harvest.residual_streams(model, tokens, skip_first=False)
    tokens, streams = tokens[:, positions], streams[:, positions]
    if not tokens.numel():
        raise ValueError(f"positions is {positions}, which leaves none of the prompt")
    shown = tuple(layer for layer in layers if layer < n_layers) + (n_layers,)
    if len(shown) * tokens.numel() * model.cfg.d_vocab > LARGEST:
        raise ValueError(
            f"prompt has {tokens.numel()} positions to show, too many for {len(shown)} rows of "
            f"{model.cfg.d_vocab} tokens each; choose fewer positions or layers"
        )
    rows = [log_probs(model, lens, streams[layer], layer) for layer in shown]
    return Reading(tokens[0], shown, torch.stack(rows))


@dataclass(frozen=True)
class Evaluation:
    """A lens against the model's own predictions; layers are 0 to ``n_layers - 1``.

    ``kl`` is KL(final || lens) of each token, in nats. ``marginal_kl`` is the *bias*: the same of the
    predictions averaged over all tokens, so it sees only what is wrong everywhere. ``agreement`` is the share
    of tokens for which both have the same first choice.
    """

    kl: Float[Tensor, "layer token"]
    marginal_kl: Float[Tensor, "layer"]
    agreement: Float[Tensor, "layer"]


@torch.no_grad()
def evaluate(
    model: TransformerBridge, lens: Lens, streams: Float[Tensor, "stream token d_model"], *, chunk: int = 256
) -> Evaluation:
    """Measure a lens on residual streams that it was not trained on, at every layer.

    Args:
        model: in float32: bfloat16 moves single logits by more than a good lens is off.
        lens: what to measure.
        streams: as ``harvest.residual_streams`` gives them.
        chunk: tokens unembedded at a time.

    Raises:
        ValueError: a lens of another model, streams of another depth, or streams that are not finite.
    """
    check_fits(model, lens)
    check_streams(model, streams)
    n_layers = model.cfg.n_layers
    losses, same = [], torch.zeros(n_layers, device=streams.device)
    marginals = torch.zeros(n_layers + 1, model.cfg.d_vocab, device=streams.device)
    for piece in streams.split(chunk, dim=1):
        piece = piece.float()
        final = models.unembed(model, piece[-1]).log_softmax(dim=-1)
        marginals[-1] += final.exp().sum(dim=0)
        of_piece = []
        for layer in range(n_layers):
            predicted = models.unembed(model, lens.translate(piece[layer], layer)).log_softmax(dim=-1)
            of_piece.append(models.kl(final, predicted))
            same[layer] += (predicted.argmax(-1) == final.argmax(-1)).sum()
            marginals[layer] += predicted.exp_().sum(dim=0)
        losses.append(torch.stack(of_piece))
    marginals = (marginals / streams.shape[1]).clamp_min(1e-30).log()
    bias = models.kl(marginals[-1], marginals[:-1])
    return Evaluation(torch.cat(losses, dim=1), bias, same / streams.shape[1])


def check_fits(model: TransformerBridge, lens: Lens) -> None:
    """Refuse a lens that was made for another model.

    Raises:
        ValueError: another name, another number of layers, another width, or a model in half precision.
    """
    wanted = (model.cfg.n_layers, model.cfg.d_model)
    found = (len(lens.matrices), lens.matrices.shape[-1])
    if lens.model != model.cfg.model_name:
        raise ValueError(f"lens is for {lens.model!r}; the model is {model.cfg.model_name!r}")
    if found != wanted:
        raise ValueError(
            f"lens has {found[0]} layers of width {found[1]}; the model has {wanted[0]} of {wanted[1]}"
        )
    if lens.matrices.dtype != model.W_U.dtype:
        raise ValueError(
            f"lens is in {lens.matrices.dtype}; the model should be too, not in {model.W_U.dtype}"
        )


def check_streams(model: TransformerBridge, streams: Float[Tensor, "stream token d_model"]) -> None:
    """Refuse residual streams that are not those of this model, or not finite.

    Raises:
        ValueError: another depth or width, no tokens, NaN or infinity (the layer is named).
    """
    wanted = (model.cfg.n_layers + 1, model.cfg.d_model)
    if (len(streams), streams.shape[-1]) != wanted or streams.shape[1] == 0:
        raise ValueError(
            f"streams has shape {tuple(streams.shape)}; for {model.cfg.model_name} it should be "
            f"[{wanted[0]}, tokens, {wanted[1]}]"
        )
    for layer, stream in enumerate(streams):
        if not torch.isfinite(stream).all():
            raise ValueError(f"streams holds values that are not finite (NaN or infinity) at layer {layer}")


def save(lens: Lens, path: str | Path, *, low_rank: dict[int, int] | None = None) -> Path:
    """Write a lens as safetensors: matrices in 8 bits with a scale for each output, biases in fp16.

    Rounding to 8 bits costs a translator next to nothing, cutting its rank a good deal (notebook 03); layers
    whose matrix is of low rank anyway can be written as two factors in fp16.

    Args:
        lens: what to write.
        path: where.
        low_rank: layer -> rank, for layers to be written as two factors.

    Raises:
        ValueError: a layer that the lens does not have, or a rank below 1 or above its width.
    """
    low_rank = low_rank or {}
    for layer, rank in low_rank.items():
        if not 0 <= layer < len(lens.matrices) or not 0 < rank <= lens.matrices.shape[-1]:
            raise ValueError(
                f"low_rank holds {layer}: {rank}; it should give layers of the lens and ranks above 0"
            )
    tensors = {"biases": lens.biases.to(torch.float16)}
    for layer, matrix in enumerate(lens.matrices):
        if layer in low_rank:
            u, s, v = torch.linalg.svd(matrix, full_matrices=False)
            rank, root = low_rank[layer], s.sqrt()
            tensors[f"{layer}/down"] = (u * root)[:, :rank].to(torch.float16).contiguous()
            tensors[f"{layer}/up"] = (root[:, None] * v)[:rank].to(torch.float16).contiguous()
        else:
            weights, scale = int8.pack(matrix, 0)
            tensors[f"{layer}/weights"], tensors[f"{layer}/scale"] = weights, scale[0]
    with data_files.staged(path) as new:
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, new, {"model": lens.model})
    return Path(path)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Lens:
    """Read a lens that ``save`` wrote.

    Raises:
        ValueError: no such file, or one that does not hold a lens.
    """
    try:
        with safe_open(path, "pt", device=str(device)) as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            name = (stored.metadata() or {})["model"]
        biases = tensors.pop("biases").float()
        matrices = [_matrix(tensors, layer) for layer in range(len(biases))]
        if not matrices or any(matrix.shape != 2 * biases.shape[1:] for matrix in matrices):
            raise KeyError
        return Lens(torch.stack(matrices), biases, name)
    except FileNotFoundError:
        raise ValueError(f"path is {str(path)!r}; there is no such file") from None
    except (KeyError, TypeError, RuntimeError, SafetensorError, OSError):
        raise ValueError(f"path is {str(path)!r}, which does not hold a lens") from None


def _matrix(tensors: dict[str, Tensor], layer: int) -> Float[Tensor, "d_model d_model"]:
    if f"{layer}/down" in tensors:
        return tensors[f"{layer}/down"].float() @ tensors[f"{layer}/up"].float()
    return int8.unpack(tensors[f"{layer}/weights"], tensors[f"{layer}/scale"])


def _check_layers(model: TransformerBridge, layers: Sequence[int]) -> tuple[int, ...]:
    n_layers, layers = model.cfg.n_layers, tuple(layers)
    if not layers:
        raise ValueError(f"layers is empty; it should name some of 0 to {n_layers}")
    for layer in layers:
        if not 0 <= layer <= n_layers:
            raise ValueError(
                f"layers holds {layer}; for {model.cfg.model_name} they should be from 0 to {n_layers}"
            )
    if any(a >= b for a, b in zip(layers, layers[1:], strict=False)):
        raise ValueError(f"layers is {list(layers)}; it should be in ascending order, each layer once")
    return layers
