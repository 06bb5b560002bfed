"""The models ``atlas`` and ``atlas-lookup`` and their card: ``python -m mi_workshop.makers.atlas``.

Both are trained with three seeds. Seed 0 ships, which was decided before any of them was trained; the other
two are there for the spread on the card. Every training is kept in the cache, so an interrupted run goes on
(delete the folder there after a change of the world or of this recipe); one takes three to four minutes on
one core.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from mi_utils import atlas, config, data_files
from mi_utils.models.atlas_world import ARCHITECTURE, World, world
from mi_workshop.cli import say

COMMAND = "python -m mi_workshop.makers.atlas"
CARD = "atlas_card.json"
SEEDS = (0, 1, 2)  # the first one ships
_START = 1


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    ``frozen`` is the standard deviation of the frozen embeddings of cities and states (0: they are learnt).
    The batch has so many sentences of each kind; ``mix`` is the share of the one-hop facts about cities, of
    those about states, and of two-hop facts. Small initial weights (``embedding``, and ``matrix`` /
    sqrt(inputs)) and strong weight decay are what makes two-hop facts generalise.
    """

    steps: int = 1_500
    frozen: float = 0.0
    facts: int = 112
    sums: int = 48
    ioi: int = 24
    induction: int = 8
    mix: tuple[float, float, float] = (0.2, 0.2, 0.6)
    lr: float = 3e-3
    decay: float = 1.0
    embedding: float = 0.02
    matrix: float = 0.5
    other: float = 0.1  # weight of the tokens that are no answer
    warm_up: int = 100
    flat: float = 0.3  # share of the steps before lr begins to fall


RECIPES = {"atlas": Recipe(), "atlas-lookup": Recipe(frozen=0.1)}


@dataclass(frozen=True)
class Rows:
    """Sentences as token ids, filled up with the padding token, and the weight of each token in the loss."""

    ids: Int[Tensor, "row pos"]
    weights: Float[Tensor, "row pos"]

    def draw(self, count: int, generator: torch.Generator) -> "Rows":
        """Some rows, with replacement."""
        chosen = torch.randint(len(self.ids), (count,), generator=generator)
        return Rows(self.ids[chosen], self.weights[chosen])


@cache
def ids_of_words() -> dict[str, int]:
    """Token id of each word of the world."""
    return {word: number for number, word in enumerate(world().vocabulary)}


def sentence(prompt: atlas.Prompt) -> list[int]:
    """Token ids of a prompt, without its answer."""
    return [_START, *(ids_of_words()[word] for word in prompt.text.split())]


def rows(made: Sequence[atlas.Prompt], other: float) -> Rows:
    """Prompts with their answers. What follows for certain weighs 1, other words ``other``, padding
    nothing."""
    sentences = [[*sentence(prompt), ids_of_words()[prompt.answer]] for prompt in made]
    width = max(map(len, sentences))
    ids = torch.tensor([one + [0] * (width - len(one)) for one in sentences])
    weights = torch.where(ids > 0, other, 0.0)
    for row, (prompt, one) in enumerate(zip(made, sentences, strict=True)):
        weights[row, _first_certain(prompt, len(one)) : len(one)] = 1.0
    return Rows(ids, weights)


def _first_certain(prompt: atlas.Prompt, length: int) -> int:
    """Position of the first token that follows from those before it."""
    if prompt.task == "induction":
        return 2 + int(prompt.facts["period"])  # the first repeated word can't be known to be one
    return length - (3 if prompt.task == "addition" else 1)


def batches(recipe: Recipe, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """For each step a batch of facts and sums, and one of IOI and induction sentences."""
    generator = torch.Generator().manual_seed(seed)
    facts = {}
    for task in ("city", "state", "two-hop"):
        both = [p for language in world().languages for p in atlas.prompts(task, "train", language=language)]
        facts[task] = rows(both, recipe.other)
    sums = rows([p for p in atlas.prompts("addition", "train") if p.facts["digit"] == "ones"], recipe.other)
    # drawn in advance, as many as the whole training takes
    ioi, induction = (
        rows(atlas.prompts(task, "train", count=count * recipe.steps, seed=seed), recipe.other)
        for task, count in (("ioi", recipe.ioi), ("induction", recipe.induction))
    )
    for _ in range(recipe.steps):
        short = [
            facts[task].draw(int(recipe.facts * share), generator)
            for task, share in zip(facts, recipe.mix, strict=True)
        ]
        short.append(sums.draw(recipe.sums, generator))
        yield (
            joined(short),
            joined([ioi.draw(recipe.ioi, generator), induction.draw(recipe.induction, generator)]),
        )


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows one below the other, filled up to the same width."""
    width = max(part.ids.shape[1] for part in parts)
    return Rows(
        *(
            torch.cat([F.pad(getattr(part, name), (0, width - part.ids.shape[1])) for part in parts])
            for name in ("ids", "weights")
        )
    )


def untrained(recipe: Recipe, seed: int) -> GPT2LMHeadModel:
    """GPT-2's architecture with small random weights; biases start at zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(world().vocabulary), **ARCHITECTURE))
        layers = model.config.n_layer
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            elif "wte" in name or "wpe" in name:
                weight.normal_(0, recipe.embedding)
            elif "lm_head" in name:
                weight.normal_(0, 1 / math.sqrt(model.config.n_embd))
            else:  # [inputs, outputs]
                depth = 2 * layers if "c_proj" in name else 1
                weight.normal_(0, recipe.matrix / math.sqrt(weight.shape[0] * depth))
            # no biases in attention and norms: the models are easier to take apart, and no worse
            weight.requires_grad = not (name.endswith("bias") and ".mlp." not in name)
        if recipe.frozen:
            ids = named_ids(world())
            model.transformer.wte.weight[ids] = torch.randn(len(ids), model.config.n_embd) * recipe.frozen
    return model


def named_ids(w: World) -> Int[Tensor, "name"]:
    """Token ids of all cities and states."""
    return torch.tensor([ids_of_words()[name] for name in (*w.cities, *w.states)])


def train(recipe: Recipe, seed: int) -> GPT2LMHeadModel:
    """Train a model from scratch, on one thread or as many as torch is told to use."""
    model = untrained(recipe, seed).train()
    embedding, kept = model.transformer.wte.weight, named_ids(world())
    frozen = embedding.detach()[kept].clone()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [weight for weight in trained if weight.ndim == 2], "weight_decay": recipe.decay},
            {"params": [weight for weight in trained if weight.ndim == 1], "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, recipe))
    for short, long in batches(recipe, seed):
        loss = loss_of(model, short) + 0.5 * loss_of(model, long)
        optimiser.zero_grad()
        loss.backward()
        if recipe.frozen:
            embedding.grad[kept] = 0  # else they would count in the norm that is clipped
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        if recipe.frozen:
            with torch.no_grad():
                embedding[kept] = frozen  # weight decay moves them too
    return model.eval()


def rate_at(step: int, recipe: Recipe) -> float:
    """Factor of the learning rate: it rises, stays, and falls linearly to a hundredth."""
    done = step / recipe.steps
    falling = 1.0 if done < recipe.flat else (1 - done) / (1 - recipe.flat)
    return max(0.01, min(1.0, (step + 1) / recipe.warm_up) * falling)


def loss_of(model: GPT2LMHeadModel, batch: Rows) -> Float[Tensor, ""]:
    """Weighted cross-entropy in nats, for each token of weight 1."""
    hidden = model.transformer(batch.ids[:, :-1]).last_hidden_state
    counts = batch.weights[:, 1:] > 0
    loss = F.cross_entropy(model.lm_head(hidden[counts]), batch.ids[:, 1:][counts], reduction="none")
    return (loss * batch.weights[:, 1:][counts]).sum() / (batch.weights == 1).sum()


@torch.no_grad()
def correct(model: GPT2LMHeadModel, made: Sequence[atlas.Prompt]) -> list[bool]:
    """Whether the most probable next word is the answer."""
    found = [False] * len(made)
    lengths: dict[int, list[int]] = {}
    for at, prompt in enumerate(made):
        lengths.setdefault(len(prompt.text.split()), []).append(at)
    for same in lengths.values():
        ids = torch.tensor([sentence(made[at]) for at in same])
        best = model.lm_head(model.transformer(ids).last_hidden_state[:, -1]).argmax(dim=-1)
        for at, word in zip(same, best.tolist(), strict=True):
            found[at] = word == ids_of_words()[made[at].answer]
    return found


def accuracies(model: GPT2LMHeadModel) -> dict[str, float]:
    """Share of right answers in each task, language and split."""
    found = {}
    for task in atlas.SPLITS:
        for language in world().languages if task in ("city", "state", "two-hop") else ("english",):
            for split in atlas.splits_of(task, language):
                if task == "addition":  # a sum is right when its three digits are
                    digits = torch.tensor(correct(model, atlas.prompts(task, split))).reshape(-1, 3)
                    right = digits.all(dim=1)
                else:
                    right = torch.tensor(correct(model, atlas.prompts(task, split, language=language)))
                found[f"{task}, {language}, {split}"] = round(right.float().mean().item(), 4)
    return found


def chances() -> dict[str, float]:
    """For each split of the two-hop facts, the share right when trained answers to the same relation are
    drawn."""
    found = {}
    for language in world().languages:
        trained: dict[str, list[str]] = {}
        for prompt in atlas.prompts("two-hop", "train", language=language):
            trained.setdefault(prompt.facts["relation"], []).append(prompt.answer)
        for split in atlas.splits_of("two-hop", language):
            made = atlas.prompts("two-hop", split, language=language)
            drawn = [(prompt.answer, trained[prompt.facts["relation"]]) for prompt in made]
            shares = [answers.count(answer) / len(answers) for answer, answers in drawn]
            found[f"two-hop, {language}, {split}"] = round(sum(shares) / len(shares), 4)
    return found


def one_training(variant: str, seed: int) -> dict:
    """Train, or take from the cache; the accuracies are those of the weights as they are kept, in 16 bits."""
    folder = config.cache_dir() / "atlas_recipe"
    folder.mkdir(parents=True, exist_ok=True)
    weights, card = folder / f"{variant}-{seed}.safetensors", folder / f"{variant}-{seed}.json"
    if not card.is_file():
        model = train(RECIPES[variant], seed).half()
        save(model, weights)
        card.write_text(json.dumps({"seed": seed, "accuracy": accuracies(model.float())}))
        say(f"{variant}, seed {seed}: {card.read_text()}")
    return json.loads(card.read_text())


def save(model: GPT2LMHeadModel, file: Path) -> None:
    """Weights under Hugging Face's names."""
    state = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
    with data_files.staged(file) as new:
        save_file(state, new, metadata={"format": "pt"})


def main() -> None:
    cards: dict = {"chance": chances()}
    for seed in SEEDS:
        for variant in RECIPES:
            cards.setdefault(variant, []).append(one_training(variant, seed))
            if seed == SEEDS[0]:
                name = f"{variant}.safetensors"
                kept = config.cache_dir() / "atlas_recipe" / f"{variant}-{seed}.safetensors"
                save_file(load_file(kept), data_files.folder() / name, metadata={"format": "pt"})
                data_files.record(
                    name, licence="MIT", source="trained on the world in atlas_world.json", command=COMMAND
                )
    data_files.write(json.dumps(cards, indent=1) + "\n", data_files.folder() / CARD)
    data_files.record(
        CARD, licence="MIT", source="measured on atlas and atlas-lookup, three seeds", command=COMMAND
    )


if __name__ == "__main__":
    main()
