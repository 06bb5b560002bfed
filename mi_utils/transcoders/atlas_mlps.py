"""What the MLPs of ``atlas`` read and write on its world's sentences: what transcoders are trained on.

The first words of a sentence (*the capital of the state containing*) are the same in thousands of sentences.
Most tokens before the first content word are left out, or transcoders would spend themselves on a dozen
vectors.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import atlas, harvest
from mi_utils.transcoders.transcoders import mlp_names

# Sentences of each kind in a hundred, from the tasks' training splits: what is held out there is held out
# here.
MIX = (
    ("city", "english", 8),
    ("city", "french", 4),
    ("state", "english", 5),
    ("state", "french", 3),
    ("two-hop", "english", 26),
    ("two-hop", "french", 10),
    ("addition", "english", 20),
    ("ioi", "english", 8),
    ("induction", "english", 16),
)
THIN = 0.15  # of the tokens before the first content word, this share is kept


def sentences(count: int, *, seed: int = 0) -> list[list[str]]:
    """Training sentences in the proportions of ``MIX``, each with its answer, as words.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it should be at least 1")
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for task, language, share in MIX:
        wanted = max(1, round(count * share / 100))
        many = {"count": wanted, "seed": seed} if task in ("ioi", "induction") else {}
        made = atlas.prompts(task, "train", language=language, **many)
        if task == "addition":  # the last digit's prompt holds the others
            made = [prompt for prompt in made if prompt.facts["digit"] == "ones"]
        chosen = torch.randint(len(made), (wanted,), generator=generator)
        drawn += [[*made[i].text.split(), made[i].answer] for i in chosen.tolist()]
    return drawn


def content_words() -> frozenset[str]:
    """Words that tell sentences of one kind apart: cities, states, digits, names, places and objects."""
    w = atlas.world()
    return frozenset([*w.cities, *w.states, *w.names, *w.places, *w.objects, *"0123456789"])


@torch.no_grad()
def mlp_activations(
    model: TransformerBridge, texts: Sequence[Sequence[str]], *, thin: float | int = 1, seed: int = 0
) -> tuple[Float[Tensor, "layer token d_model"], Float[Tensor, "layer token d_model"]]:
    """What each MLP reads and writes on sentences, without their start tokens.

    Args:
        model: ``atlas`` or ``atlas-lookup``.
        texts: sentences as words.
        thin: share of the tokens before the first content word to keep; 1 keeps all.
        seed: of the choice.
    """
    generator, content = torch.Generator().manual_seed(seed), content_words()
    parts = []
    for length in sorted({len(text) for text in texts}):
        same = [text for text in texts if len(text) == length]
        tokens = atlas.encode(model, [" ".join(text) for text in same])
        both = harvest.activations(model, tokens, mlp_names(model), batch_size=256)
        reached = torch.tensor([[word in content for word in text] for text in same]).cumsum(dim=1) > 0
        kept = reached | (torch.rand(reached.shape, generator=generator) < thin)
        parts.append(both[:, kept.flatten()])
    both = torch.cat(parts, dim=1)
    return both[: model.cfg.n_layers], both[model.cfg.n_layers :]


def batches(
    x: Float[Tensor, "layer token d_model"],
    y: Float[Tensor, "layer token d_model"],
    *,
    size: int = 450,
    seed: int = 0,
) -> Iterator[tuple[Float[Tensor, "layer batch d_model"], Float[Tensor, "layer batch d_model"]]]:
    """Batches of tokens without end, drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(x.shape[1], (size,), generator=generator)
        yield x[:, chosen], y[:, chosen]


def answers(
    model: TransformerBridge, made: Sequence[atlas.Prompt]
) -> Iterator[tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch"]]]:
    """Prompts as token ids, those of one length together, and the ids of their answers."""
    for length in sorted({len(prompt.text.split()) for prompt in made}):
        same = [prompt for prompt in made if len(prompt.text.split()) == length]
        ids = model.tokenizer.convert_tokens_to_ids([prompt.answer for prompt in same])
        yield atlas.encode(model, [prompt.text for prompt in same]), torch.tensor(ids)


HELD_OUT = (
    ("two-hop", "held-out city", "english"),
    ("two-hop", "held-out city", "french"),
    ("addition", "test", "english"),
    ("ioi", "test", "english"),
    ("induction", "test", "english"),
)


def held_out(count: int = 200, *, seed: int = 0) -> dict[str, list[atlas.Prompt]]:
    """Prompts of each task that neither the model nor a transcoder was trained on.

    Args:
        count: of each task and language; 0 for all there are.
        seed: of the draw.
    """
    found = {}
    generator = torch.Generator().manual_seed(seed)
    for task, split, language in HELD_OUT:
        made = atlas.prompts(task, split, language=language)
        order = torch.randperm(len(made), generator=generator).tolist()
        name = task if language == "english" else f"{task}, {language}"
        found[name] = [made[i] for i in (order[:count] if count else order)]
    return found
