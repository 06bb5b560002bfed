"""Greater-than, docstrings, copy suppression: prompts and metrics."""

import pytest
import torch

from mi_utils import circuits


def test_years_are_of_one_length_and_say_their_tens(real_model):
    tokens, tens = circuits.years(real_model, [3, 8], ["war", "trial"])
    assert tens.tolist() == [3, 8, 3, 8] and len(tokens) == 4
    text = real_model.tokenizer.decode(tokens[1, 1:])
    assert text == "The war lasted from the year 1789 to the year 17"


def test_digits(real_model):
    assert real_model.tokenizer.decode(circuits.digit_ids(real_model)) == "0123456789"


def test_greater_than_by_hand():
    ids = torch.arange(10) + 2
    probs = torch.zeros(2, 15)
    probs[0, ids[5]], probs[0, ids[3]], probs[0, 0] = 0.5, 0.3, 0.2
    probs[1, ids[3]], probs[1, ids[0]], probs[1, ids[4]] = 0.5, 0.4, 0.1
    metric = circuits.greater_than(torch.tensor([3, 3]), ids)
    assert torch.allclose(metric(probs.log()), torch.tensor([0.2, -0.8]))
    assert torch.allclose(metric(probs.log().expand(4, 2, 15)), torch.tensor([0.2, -0.8]).expand(4, 2))


def test_docstrings_name_their_arguments_in_order(real_model):
    tokens, arguments = circuits.docstrings(real_model, 5, seed=1)
    assert tokens.shape[0] == 5 and arguments.shape == (5, 3)
    text = real_model.tokenizer.decode(tokens[2, 1:])
    first, second, third = (real_model.tokenizer.decode(one) for one in arguments[2])
    assert f"self,{first},{second},{third})" in text
    assert text.index(f":param{first}") < text.index(f":param{second}") and text.endswith(":param")
    assert text.count(third) == 1
    assert len({tuple(row) for row in arguments.tolist()}) == 5
    assert not torch.equal(tokens, circuits.docstrings(real_model, 5, seed=2)[0])


def test_suppression_is_about_the_own_logit_among_all():
    ov = torch.tensor([[-1.0, 0.0, -2.0], [0.0, -1.0, 0.0], [-5.0, 1.0, -6.0]])
    assert circuits.suppression_score(ov).item() == pytest.approx(2 / 3)
    assert circuits.suppression_score(-ov).item() == 0


@pytest.mark.parametrize("tens", [[], [10], [-1]])
def test_bad_tens(real_model, unchecked, tens):
    with pytest.raises(ValueError, match="tens"):
        circuits.years(real_model, tens)


def test_no_docstrings(real_model, unchecked):
    with pytest.raises(ValueError, match="count is 0"):
        circuits.docstrings(real_model, 0)


def test_too_few_arguments(llama_model, unchecked):
    with pytest.raises(ValueError, match="3 are needed"):
        circuits.docstrings(llama_model, 1)
