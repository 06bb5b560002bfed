"""What notebook 01 promises besides its claims: its code agrees with the package, and what it loads is
sound."""

import inspect
import json
import re

import pytest
import torch
import worked

from mi_utils import data_files, superposition
from mi_workshop import sources
from mi_workshop.makers import superposition as recipe

NOTEBOOK = sources.read(sources.find("01")[0])
CODE = {cell.id: cell for _, cell in sources.code_cells(NOTEBOOK)}


def solution(name: str):
    """The function that the worked solution of an exercise defines."""
    scope = worked.solution(NOTEBOOK, "01", name)
    (function,) = [value for key, value in scope.items() if key not in ("torch", "__builtins__")]
    return function


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def W() -> torch.Tensor:
    W = torch.randn(3, 2, 5, generator=generator())
    W[1, :, 2] = 0
    return W


def test_the_batch_by_hand_is_the_package_s():
    S = torch.tensor([0.0, 0.4, 0.9])
    by_hand = solution("sparse_batch")(64, S, 5, generator(3))
    assert torch.equal(by_hand, superposition.sparse_batch(64, S, 5, generator(3)))


def test_the_model_and_its_loss_by_hand_are_the_package_s(W):
    x, b = torch.rand(7, 3, 5, generator=generator(1)), torch.randn(3, 5, generator=generator(2))
    out = superposition.reconstruct(W, b, x)
    assert torch.allclose(solution("reconstruct")(W, b, x), out, atol=1e-6)
    importance = 0.5 ** torch.arange(5)
    by_hand = solution("loss")(x, out, importance)
    assert torch.allclose(by_hand, superposition.importance_loss(x, out, importance))


@pytest.mark.parametrize("m", [0, 1, 3, 5])
def test_the_best_linear_loss_by_hand_is_the_package_s(m):
    S, importance = torch.tensor([0.0, 0.3, 0.99]), torch.tensor([0.2, 1.0, 3.0, 0.7, 0.1])
    by_hand = solution("pca")(S, importance, m)
    assert torch.allclose(by_hand, superposition.best_linear_loss(S, importance, m))


@pytest.mark.parametrize(("p", "importance"), [(1.0, 1.0), (0.2, 3.0), (0.6, 0.1)])
def test_the_candidates_by_hand_are_the_package_s(p, importance):
    by_hand = solution("candidates")(p, importance)
    assert torch.allclose(by_hand, superposition.candidate_losses(p, importance))


def test_geometry_by_hand_is_the_package_s(W):
    assert torch.allclose(solution("dimensionality")(W), superposition.dimensionality(W), atol=1e-6)
    assert torch.allclose(solution("find_the_bug")(W), superposition.interference(W), atol=1e-5)
    control = solution("matched_control")(W, generator(2))
    assert torch.allclose(control, superposition.matched_control(W, generator(2)))


def test_the_function_with_the_bug_is_wrong_where_the_notebook_says(W):
    (cell,) = [cell for cell in NOTEBOOK.cells if cell.id == "ex-bug"]
    scope: dict = {"torch": torch}
    exec(re.search(r"```python\n(.*?)```", cell.source, re.DOTALL)[1], scope)
    given = scope["interference"]
    assert torch.allclose(given(torch.eye(4)[None]), torch.ones(1, 4))
    assert torch.allclose(given(W) - superposition.interference(W), W.pow(2).sum(dim=1), atol=1e-5)


@pytest.mark.parametrize(("N", "m"), [(1, 1), (3, 3), (3, 2), (128, 16)])
def test_the_bound_by_hand_is_the_package_s(N, m):
    assert solution("welch")(N, m) == pytest.approx(superposition.welch_bound(N, m))


def test_twenty_seeds_were_run_with_the_claims_that_stand_there():
    seeds = json.loads(data_files.path(recipe.SEEDS_FILE).read_text())
    assert len({one["seed"] for one in seeds}) == len(seeds) >= 20
    statements = set(seeds[0]["claims"])
    assert all(set(one["claims"]) == statements for one in seeds)
    adding = " ".join(cell.source for name, cell in CODE.items() if name.startswith("claims"))
    assert len(statements) == adding.count("table.add(")
    assert all(f'"{statement}"' in adding for statement in statements)


def test_every_claim_came_out_as_expected_with_every_seed():
    seeds = json.loads(data_files.path(recipe.SEEDS_FILE).read_text())
    unexpected = [
        (one["seed"], text)
        for one in seeds
        for text, line in one["claims"].items()
        if not line["as expected"]
    ]
    assert unexpected == []


def test_what_compared_cells_conclude_was_concluded_with_every_seed():
    seeds = json.loads(data_files.path(recipe.SEEDS_FILE).read_text())
    for name, found in seeds[0]["facts"].items():
        assert name in CODE and "nbval-ignore-output" not in sources.tags(CODE[name])
        assert all(f'"{statement}"' in CODE[name].source for statement in found)
        assert [one["seed"] for one in seeds if one["facts"][name] != found] == []


def test_the_sweep_is_at_the_paper_s_size():
    sweep = json.loads(data_files.path(recipe.SWEEP_FILE).read_text())
    assert {len(values) for values in sweep.values()} == {16}
    assert sweep["D*"][0] == pytest.approx(1, abs=0.05) and sum(abs(d - 0.5) < 0.05 for d in sweep["D*"]) >= 3
    sizes = inspect.signature(recipe.sweep).parameters
    assert (sizes["n"].default, sizes["m"].default) == (400, 30)
