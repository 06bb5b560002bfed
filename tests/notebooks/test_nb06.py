"""What notebook 06 promises besides its claims: its code agrees with the package, and search and test are
apart."""

import re
from functools import partial

import pytest
import torch
import worked

from mi_utils import circuits, patching, prompts
from mi_workshop import sources

NOTEBOOK = sources.read(sources.find("06")[0])
solution = partial(worked.solution, NOTEBOOK, "06")
TOKENS, OTHER = torch.randint(2, 300, (2, 4, 8), generator=torch.Generator().manual_seed(2))


def source(cell_id: str) -> str:
    return next(cell.source for cell in NOTEBOOK.cells if cell["id"] == cell_id)


@pytest.fixture(params=["llama_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


def test_abc_by_hand_changes_the_same_places_as_the_package_s(real_model):
    data = prompts.generate(real_model, 30, seed=4)
    at = [data.positions[role] for role in ("IO", "S1", "S2")]
    by_hand = solution("abc")["abc"](data.tokens, *at, data.pool, torch.Generator().manual_seed(0))
    assert torch.equal(by_hand != data.tokens, data.corrupted("abc") != data.tokens)
    new = torch.stack([by_hand[torch.arange(30), one] for one in at], dim=1)
    assert torch.isin(new, data.pool).all() and all(len(set(row)) == 3 for row in new.tolist())


def test_head_attribution_by_hand_is_the_package_s(llama_model):
    run = patching.record(llama_model, TOKENS, ("z", "resid_post"))
    ids, wrong = torch.tensor([3, 4, 5, 6]), torch.tensor([9, 8, 7, 3])
    stream = run["resid_post", 1][:, -1]
    scale = (stream.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    direction = (llama_model.W_U[:, ids] - llama_model.W_U[:, wrong]).T
    for layer in range(2):
        by_hand = solution("head_attribution")["head_attribution"](
            run["z", layer][:, -1], llama_model.W_O[layer], scale, direction
        )
        package = [circuits.direct_effects(llama_model, run, one)[layer] for one in (ids, wrong)]
        assert torch.allclose(by_hand.T, package[0] - package[1], atol=1e-3)


def test_path_patching_by_hand_is_the_package_s(model):
    base = patching.record(model, TOKENS, patching.paths.PATH_SITES)
    other = patching.record(model, OTHER, ("z",))

    def metric(logits):
        return logits[..., 7] - logits[..., 11]

    def mlp(layer):
        block = model.blocks[layer]
        return lambda x: block.mlp(block.ln2(x[:, None]))[:, 0]

    found = patching.path_patch(model, base, other, metric, target="logits")
    blocks = [(base["attn_out", layer][:, -1], mlp(layer)) for layer in range(2)]
    for head in range(2):
        sender = [run["z", 0][:, -1, head] @ model.blocks[0].attn.W_O[head] for run in (base, other)]
        with torch.no_grad():
            by_hand = solution("path_patch")["path_patch"](
                base["resid_pre", 0][:, -1],
                *sender,
                blocks,
                lambda x: metric(model.unembed(model.ln_final(x[:, None]))[:, 0]),
            )
        assert torch.allclose(by_hand - metric(base.logits), found[0, head], atol=1e-3)


def test_criteria_by_hand_are_the_package_s():
    by_hand = solution("faithfulness")["faithfulness"](3.0, 5.0, 1.0)
    assert by_hand == circuits.faithfulness(3.0, 5.0, 1.0)
    circuit = frozenset({(0, 0), (0, 1), (1, 0)})

    def score(heads):
        return 3.0 * bool({(0, 0), (0, 1)} & heads) + 0.5 * ((1, 0) in heads)

    for head in circuit:
        for group in (frozenset(), frozenset({(0, 1)}), circuit):
            by_hand = solution("minimality")["minimality"](score, circuit, head, group)
            assert by_hand == circuits.minimality(score, circuit, head, group)


def test_greater_than_by_hand_is_the_package_s():
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    digits, ids = torch.tensor([0, 3, 5, 9, 4, 1]), torch.arange(20, 30)
    by_hand = solution("greater_than")["greater_than"](logits.softmax(dim=-1), digits, ids)
    assert torch.allclose(by_hand, circuits.greater_than(digits, ids)(logits), atol=1e-6)


def test_suppression_by_hand_is_the_package_s():
    ov = torch.randn(9, 9, generator=torch.Generator().manual_seed(0)) - 2 * torch.eye(9)
    by_hand = solution("copy_suppression")["suppressed"](ov)
    assert float(by_hand) == pytest.approx(circuits.suppression_score(ov).item())


def test_the_roles_of_the_notebook_are_those_of_the_exercise():
    """``role_of``, which sorts all heads, and the worked solution, which sorts those of a table, follow one
    rule."""
    rows = [
        {"IO": io, "S1": s1, "S2": s2, "IO logit": up, "S logit": down, "copies": copies}
        for io, s1, s2 in ((0.5, 0.1, 0.2), (0.1, 0.1, 0.6), (0.1, 0.3, 0.2), (0.1, 0.1, 0.1))
        for up in (-1.0, 1.0)
        for down in (-1.0, 1.0)
        for copies in (0.1, 0.9)
    ]
    table = {str(i): row for i, row in enumerate(rows)}
    by_hand = solution("roles", table=table)["roles"]
    mine: dict = {"describe": lambda head: table[head]}
    exec(source("roles-all"), mine)
    assert by_hand == {label: mine["role_of"](label) for label in table}


def test_search_reference_and_test_have_prompts_of_their_own():
    seeds = {
        cell: re.search(r"generate\(\w+, \w+, seed=([^)]*)\)", source(cell))[1]
        for cell in ("load", "reference", "faithful")
    }
    assert len(set(seeds.values())) == 3


def test_the_published_table_is_the_published_one():
    heads = circuits.published_ioi_heads()
    assert len(heads) == 7 and sum(map(len, heads.values())) == 26
