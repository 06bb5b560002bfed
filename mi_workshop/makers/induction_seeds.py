"""Twenty trainings of notebook 05's small models: ``python -m mi_workshop.makers.induction_seeds``.

They go to ``data/induction_seeds.json``. Each seed has another start and other sequences, for the model of
two layers and for its control of one. The notebook trains one pair and asserts what holds for all. Every seed
is kept in the cache; all of it takes about ten minutes on two cores.
"""

from dataclasses import replace

import torch

from mi_utils import heads
from mi_utils.heads.attention_only import AttentionOnlySettings, TrainedAttentionOnly
from mi_workshop.makers import seeds

COMMAND = "python -m mi_workshop.makers.induction_seeds"
FILE = "induction_seeds.json"
SEEDS = 20


def one_seed(seed: int) -> dict:
    """Train both models and measure what the notebook claims."""
    two = heads.train(AttentionOnlySettings(seed=seed))
    one = heads.train(replace(two.settings, n_layers=1))
    return {"seed": seed} | {
        name: value if isinstance(value, bool) else round(value, 4)
        for name, value in (of_training(two, one) | of_composition(two)).items()
    }


def of_training(two: TrainedAttentionOnly, one: TrainedAttentionOnly) -> dict[str, float]:
    """What forms, in the model of two layers and in the control."""
    found = {}
    period = two.settings.test_period
    for name, trained in (("two layers", two), ("one layer", one)):
        scores = second_minus_first(trained)
        found |= {
            f"loss on the second copy, {name}": trained.loss[-1, period + 1 :].mean().item(),
            f"in-context score, {name}": scores[-1].item(),
            f"loss on the first copy, {name}": trained.loss[-1, :period].mean().item(),
            f"steepest fall between two looks in nats, {name}": -scores.diff().min().item(),
            f"best prefix matching, {name}": trained.scores["induction"][-1].max().item(),
            f"best prefix matching at any time, {name}": trained.scores["induction"].max().item(),
            f"most copied before training, {name}": trained.scores["copying"][0].max().item(),
            f"best previous-token score, {name}": trained.scores["previous"][-1].max().item(),
            f"copying, mean of the last layer, {name}": trained.scores["copying"][-1, -1].mean().item(),
        }
    tokens = heads.test_tokens(two.settings, repeat=False)
    control = heads.score_heads(two.model, tokens, period).mean("induction")
    return found | {
        "prefix matching, least of layer 1": two.scores["induction"][-1, 1].min().item(),
        "prefix matching where nothing repeats, largest": control.max().item(),
        "copying, least of layer 1": two.scores["copying"][-1, 1].min().item(),
    }


def second_minus_first(trained: TrainedAttentionOnly) -> torch.Tensor:
    """The in-context score at each look [check]: mean loss where the second copy can be known, minus the
    first copy."""
    period = trained.settings.test_period
    return torch.stack(
        [
            heads.in_context_score(loss[None], slice(0, period), slice(period + 1, None))
            for loss in trained.loss
        ]
    )


def of_composition(two: TrainedAttentionOnly) -> dict[str, float | bool]:
    """Which head the keys of layer 1 read, by weights and by taking it out."""
    model, n_heads = two.model, two.settings.n_heads
    before, later = [(0, h) for h in range(n_heads)], [(1, h) for h in range(n_heads)]
    source = heads.top_heads(two.scores["previous"][-1, :1])[0]
    untrained = heads.attention_only_model(two.settings)
    by_kind = {kind: heads.composition_scores(model, kind, later)[:, 0] for kind in heads.composition.KINDS}
    chance = heads.composition_scores(untrained, "K", later)[:, 0]
    tokens, period = heads.test_tokens(two.settings), two.settings.test_period
    losses = torch.stack(
        [
            heads.loss_by_position(model, tokens, heads.without_in_keys(model, [head], later)).mean(dim=0)
            for head in before
        ]
    )[:, period + 1 :].mean(dim=1)
    none = heads.loss_by_position(model, tokens, heads.without_in_keys(model, before, later))
    others = [head for head in before if head != source]
    embedded = model.W_E[1:]
    own = torch.arange(len(embedded))

    def matched(through) -> float:
        circuits = [heads.qk_circuit(model, head, embedded, through=through) for head in later]
        return sum((one.argmax(dim=1) == own).float().mean().item() for one in circuits) / len(circuits)

    return {
        "best previous-token head is in layer 0": heads.top_heads(two.scores["previous"][-1])[0][0] == 0,
        "previous-token head, its score": two.scores["previous"][-1][source].item(),
        "next in layer 0, its score": max(two.scores["previous"][-1][head].item() for head in others),
        "K score of that head": by_kind["K"][:, source[1]].mean().item(),
        "K score of that head to any of layer 1, least": by_kind["K"][:, source[1]].min().item(),
        "K score of the next": max(by_kind["K"][:, head].mean().item() for _, head in others),
        "K score, untrained, largest": chance.max().item(),
        "K score, untrained, mean": chance.mean().item(),
        "Q score, largest": by_kind["Q"].max().item(),
        "V score, largest": by_kind["V"].max().item(),
        "K score, largest": by_kind["K"].max().item(),
        "best K source of every head of layer 1": bool((by_kind["K"].argmax(dim=1) == source[1]).all()),
        "loss without it in the keys": losses[source[1]].item(),
        "loss without another in the keys, largest": max(losses[head].item() for _, head in others),
        "loss without all of layer 0 in the keys": none[:, period + 1 :].mean().item(),
        "matched through it": matched(source),
        "matched through another, largest": max(matched(head) for head in others),
        "matched without composition": matched(None),
        "eigenvalues of layer 1, least": min(heads.copying_eigenvalues(model, 1, h).item() for _, h in later),
        "eigenvalues of layer 0, largest": max(
            heads.copying_eigenvalues(model, 0, h).item() for _, h in before
        ),
        "eigenvalues untrained, largest": max(
            heads.copying_eigenvalues(untrained, layer, h).item() for layer, h in before + later
        ),
    }


def main() -> None:
    torch.set_grad_enabled(False)
    seeds.record(FILE, SEEDS, one_seed, command=COMMAND, source="trained by mi_utils.heads.attention_only")


if __name__ == "__main__":
    main()
