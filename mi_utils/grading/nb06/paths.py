"""Check of the exercise of notebook 06 on path patching."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mi_utils.grading.answers import ask, compare
from mi_utils.grading.core import Exercise, Mistake
from mi_utils.grading.tensors import rms, seeded

_Block = tuple[Tensor, Callable[[Tensor], Tensor]]


# ------------------------------------------------------------------ 06.path_patch: path patching


def _judge_path(answer: Callable) -> None:
    generator = seeded()
    for n_blocks in (3, 1):
        x, base, source = (torch.randn(4, 5, generator=generator) for _ in range(3))
        blocks = [(torch.randn(4, 5, generator=generator), _mlp(5, generator)) for _ in range(n_blocks)]
        blocks[0] = (blocks[0][0] + base, blocks[0][1])  # the sender is one of the heads of its layer
        reader = _mlp(3, generator)
        handed = [(attention.clone(), mlp) for attention, mlp in blocks]
        got, unchanged = ask(answer, x, base, source, handed, reader)
        wanted = _carry(x - base + source, blocks, reader)
        compare(got, wanted, _wrong_paths(x, base, source, blocks, reader), {"not_read": [(4, 5)]})
        same_blocks = len(handed) == n_blocks and all(
            torch.equal(one[0], other[0]) for one, other in zip(handed, blocks, strict=True)
        )
        if not (unchanged and same_blocks):
            raise Mistake("in_place")


def _mlp(d_out: int, generator: torch.Generator, d_model: int = 5) -> Callable[[Tensor], Tensor]:
    """A function of the stream that is not linear, with a norm, so that it sees how large the stream is."""
    into = torch.randn(d_model, 8, generator=generator)
    out = torch.randn(8, d_out, generator=generator) / 2

    def mlp(x: Tensor) -> Tensor:
        normed = x / rms(x, 0.1, keepdim=True)
        return torch.tanh(normed @ into.to(x.dtype)) @ out.to(x.dtype)

    return mlp


def _carry(x: Tensor, blocks: Sequence[_Block], reader: Callable | None = None) -> Tensor:
    for attention, mlp in blocks:
        x = x + attention
        x = x + mlp(x)
    return x if reader is None else reader(x)


def _wrong_paths(
    x: Tensor, base: Tensor, source: Tensor, blocks: Sequence[_Block], reader: Callable
) -> list[tuple[str, Tensor]]:
    """What each known mistake gives, by the mistake's name."""
    change, attentions = source - base, [attention for attention, _ in blocks]
    new, end = x + change, _carry(x, blocks)
    right, unpatched = _carry(new, blocks, reader), reader(end)
    again = mlp_first = parallel = replaced = of_change = only_change = without_sum = new
    for i, (attention, mlp) in enumerate(blocks):
        again = again + change if i else again
        again = _carry(again, [(attention, mlp)])
        mlp_first = mlp_first + mlp(mlp_first) + attention
        replaced = mlp(replaced + attention)
        without_sum = without_sum + mlp(without_sum + attention)  # the attention output is seen, not kept
        of_change = of_change + attention + mlp(change)
        parallel = parallel + attention + mlp(attention)
        only_change = only_change + attention + mlp(change + attention)
    after_first = _carry(_carry(x, blocks[:1]) + change, blocks[1:], reader)
    return [
        ("base_kept", _carry(x + source, blocks, reader)),
        ("removed_only", _carry(x - base, blocks, reader)),
        ("reversed", _carry(x - change, blocks, reader)),
        ("unpatched", unpatched),
        ("sender_only", _carry(source, blocks, reader)),
        ("sender_only", _carry(change, blocks, reader)),
        ("mlps_frozen", reader(end + change)),
        ("too_late", after_first),
        ("no_mlps", reader(new + sum(attentions))),
        ("no_attention", _carry(new, [(torch.zeros_like(x), mlp) for _, mlp in blocks], reader)),
        ("mlp_first", reader(mlp_first)),
        ("not_added", reader(replaced)),
        ("not_added", reader(without_sum)),
        ("mlp_of_part", reader(of_change)),
        ("mlp_of_part", reader(parallel)),
        ("mlp_of_part", reader(only_change)),
        ("every_block", reader(again)),
        ("block_missing", _carry(new, blocks[1:], reader)),
        ("block_missing", _carry(new, blocks[:-1], reader)),
        ("block_missing", _carry(new + attentions[0], blocks[1:], reader)),
        ("block_order", _carry(new, blocks[::-1], reader)),
        ("difference", right - unpatched),
        ("difference", unpatched - right),
        ("parts_read", reader(x) + reader(change)),
        ("parts_read", unpatched + reader(change)),
    ]


PATH_PATCH = Exercise(
    id="06.path_patch",
    title="One path, and nothing else",
    minutes=15,
    difficulty=4,
    hints=(
        "The stream is a sum. How do you exchange one term of it, what the sender wrote, and leave all others as they are?",
        "Then walk through the blocks as the model does: add the attention output, which is frozen, and then what the MLP says to the stream *as it is now*.",
        "`x = x - sender_base + sender_source`, then in each block `x = x + attention` and `x = x + mlp(x)`, and in the end `reader(x)`.",
    ),
    mistakes={
        "shape": "Return what `reader` returns for the new stream.",
        "not_read": "That is the stream. Return what the receiver reads from it: `reader(x)`.",
        "base_kept": "The sender speaks twice: its source output was added, and its base output, which is part of the first attention output, was not taken out.",
        "removed_only": "The sender's base output was taken out and nothing put in its place: a knock-out, not a patch.",
        "reversed": "The other way round: take out the base output, and put in that of the source run.",
        "unpatched": "That is the base run: the sender's output was not replaced.",
        "sender_only": "That carries the sender's output (or its change) alone. The rest of the stream must be there too: the MLPs and the receiver see the whole.",
        "mlps_frozen": "Here the MLPs stay as in the base run, because the patch comes after them or their answers are kept. That is another convention: it gives the path through the residual stream alone. Here MLPs are part of the path: they answer to the new stream.",
        "too_late": "The patch comes after the sender's own layer's MLP. The MLP of a layer comes after its attention, so it hears the sender first.",
        "no_mlps": "The MLPs are missing altogether: add their answers to the stream.",
        "no_attention": "The attention outputs are missing. They are frozen, not gone: add the base run's in each block.",
        "mlp_first": "The MLP answers before its layer's attention has been added. In a block attention comes first, and the MLP sees its output.",
        "not_added": "A part of the stream gets lost: what attention and MLP return is *added* to the stream, it doesn't replace it.",
        "mlp_of_part": "The MLP is given only a part of the stream, such as the sender's change or the attention output. It isn't linear, so its answer to a part tells nothing: give it the whole stream.",
        "every_block": "The patch is made again in every block. The stream carries it on: once is enough.",
        "block_missing": "A block, or the first one's MLP, is left out. `blocks` begins with the sender's own layer, and all of them count.",
        "block_order": "The blocks come in the wrong order: go through them as they are listed.",
        "difference": "That is the change against the base run. Return what the receiver reads in the patched run; the difference can be taken later.",
        "parts_read": "The receiver read two things apart. Its norm sees the whole stream: read once, from the whole.",
        "in_place": "Right, but an argument was changed, and the next path would start from there. Write `x = x + ...`, not `x += ...`, on what was handed to you.",
        "something_else": "That is not what the receiver reads after the patch.",
    },
    judge=_judge_path,
)
