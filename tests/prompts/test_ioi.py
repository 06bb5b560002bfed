"""IOI prompts: what they contain, where the names stand, and what each corruption changes."""

import pytest
import torch

from mi_utils import prompts
from mi_utils.prompts.ioi import NAMES, ROLES, TEMPLATES, generate

KINDS = ("abc", "swap", "s2_other", "s2_io")


@pytest.fixture(scope="module")
def data(real_model):
    return generate(real_model, 60, seed=3)


def at(data, role, tokens=None):
    tokens = data.tokens if tokens is None else tokens
    return tokens[torch.arange(len(data)), data.positions[role]]


def test_all_templates_in_both_orders_equally_often(data):
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 15
    assert data.template.bincount().tolist() == [4] * 15
    assert all(data.io_first[data.template == i].sum() == 2 for i in range(15))


def test_names_stand_where_the_roles_say(data):
    assert set(data.positions) == set(ROLES)
    assert torch.equal(at(data, "IO"), data.io)
    assert torch.equal(at(data, "S1"), data.s) and torch.equal(at(data, "S2"), data.s)
    assert (data.io != data.s).all()
    assert (data.positions["END"] == data.tokens.shape[1] - 1).all()
    assert torch.equal(data.positions["S1+1"], data.positions["S1"] + 1)
    assert (data.positions["S1"] < data.positions["S2"]).all() and (
        data.positions["IO"] < data.positions["S2"]
    ).all()
    assert torch.equal(data.positions["IO"] < data.positions["S1"], data.io_first.bool())


def test_positions_differ_between_templates(data):
    assert len(data.positions["IO"].unique()) > 2 and len(data.positions["S2"].unique()) > 2


def test_prompts_begin_with_the_start_token_and_read_as_text(real_model, data):
    assert (data.tokens[:, 0] == real_model.tokenizer.bos_token_id).all()
    text = real_model.tokenizer.decode(data.tokens[0, 1:])
    assert text.startswith("When ") and text.endswith(" to") and "{" not in text
    io, s = (real_model.tokenizer.decode(one[0]) for one in (data.io, data.s))
    assert text.count(io) == 1 and text.count(s) == 2


def test_the_seed_decides(real_model):
    first, again, other = (generate(real_model, 6, seed=seed).tokens for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_global_random_state_is_left_alone(real_model, data):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    generate(real_model, 2)
    data.corrupted("abc")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_change_names_only(data, kind):
    before = data.tokens.clone()
    tokens = data.corrupted(kind, seed=1)
    assert torch.equal(data.tokens, before)
    names = torch.zeros_like(tokens, dtype=torch.bool)
    for role in ("IO", "S1", "S2"):
        names[torch.arange(len(data)), data.positions[role]] = True
    assert torch.equal((tokens != data.tokens) & ~names, torch.zeros_like(names))
    changed = ((tokens != data.tokens) & names).sum(dim=1)
    assert (changed == (3 if kind in ("abc", "swap") else 1)).all()


def test_abc_has_three_unrelated_names(data):
    tokens = data.corrupted("abc", seed=1)
    new = torch.stack([at(data, role, tokens) for role in ("IO", "S1", "S2")], dim=1)
    assert all(len(set(row)) == 3 for row in new.tolist())
    assert not (new[:, :, None] == torch.stack([data.io, data.s], dim=1)[:, None]).any()
    assert torch.isin(new, data.pool).all()
    assert len({tuple(row) for row in new.tolist()}) > 50  # drawn for each row
    assert not torch.equal(tokens, data.corrupted("abc", seed=2))


def test_a_third_name_is_drawn_by_the_seed(data):
    one, again, other = (data.corrupted("s2_other", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_swap_s2_io_and_s2_other(data):
    swapped = data.corrupted("swap")
    assert torch.equal(at(data, "IO", swapped), data.s)
    assert torch.equal(at(data, "S1", swapped), data.io) and torch.equal(at(data, "S2", swapped), data.io)
    assert torch.equal(at(data, "S2", data.corrupted("s2_io")), data.io)
    third = at(data, "S2", data.corrupted("s2_other"))
    assert (third != data.io).all() and (third != data.s).all()


def test_select_keeps_rows_together(data):
    some = data.select(torch.tensor([5, 2]))
    assert len(some) == 2 and torch.equal(some.tokens, data.tokens[[5, 2]])
    assert torch.equal(at(some, "IO"), some.io) and torch.equal(some.template, data.template[[5, 2]])


def test_a_batch_of_one(real_model):
    one = generate(real_model, 1, names=NAMES[:5])
    assert len(one) == 1 and one.io_first.tolist() == [1]
    assert one.corrupted("abc").shape == one.tokens.shape


def test_templates_of_another_length_are_left_out(real_model):
    short = "{A} and{B} met.{S} gave a{OBJECT} to"
    data = generate(real_model, 12, templates=(*TEMPLATES[:2], short))
    assert data.template.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 2, "names": ("Mary", "John", "Tom", "Anna")}, "names has 4"),
        ({"count": 2, "names": ("Mary", "John", "Tom", "Anna", "Bartholomew")}, "Bartholomew"),
        ({"count": 2, "names": ("Mary", "John", "Tom", "Anna", "Mary")}, "'Mary' twice"),
        ({"count": 2, "templates": ()}, "templates is empty"),
        ({"count": 2, "templates": ("Then,{A} and{B} left.",)}, "exactly one"),
        ({"count": 2, "templates": ("Then,{A} and{A} left.{S} gave it to",)}, "exactly one"),
    ],
)
def test_bad_input_is_one_sentence(real_model, unchecked, arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        generate(real_model, **arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_corruption(data, unchecked):
    with pytest.raises(ValueError, match="kind is 'acb'"):
        data.corrupted("acb")


def test_a_pool_that_is_too_small():
    with pytest.raises(ValueError, match="pool has 4 names"):
        prompts.unrelated_names(torch.arange(4), torch.tensor([[0, 1]]), 3, torch.Generator())
