"""What checks ask of an answer that draws at random from the generator that it is given."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mi_utils.grading.core import Mistake


def judge_randomness(
    draw: Callable[[torch.Generator], Tensor], parts: Callable[[Tensor], Iterable[Tensor]] = lambda got: [got]
) -> None:
    """Whether all chance comes from the generator that is handed over, which is used as it is and moves on.

    Torch's global generator is put back in the end to where it was.

    Args:
        draw: what the answer draws with a generator.
        parts: what no two draws have in common.

    Raises:
        Mistake: ``"global_generator"``, ``"same_again"`` or ``"not_reproducible"``.
    """
    one, same_seed = (torch.Generator().manual_seed(1) for _ in range(2))
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        first, second = draw(one), draw(one)
        if not torch.equal(torch.get_rng_state(), before):
            raise Mistake("global_generator")
        if any(map(torch.equal, parts(first), parts(second))):
            raise Mistake("same_again")
        if not torch.equal(draw(same_seed), first):
            raise Mistake("not_reproducible")
