"""What ships for the default model is what its makers wrote."""

import torch

from mi_utils import data_files, lens
from mi_workshop.makers import lens_seeds, tuned_lens


def test_the_shipped_lens_is_the_file_of_its_maker():
    one, file = lens.shipped_lens(), lens.load(data_files.path(tuned_lens.FILE))
    assert one.model == file.model == "smollm2-135m"
    assert torch.equal(one.matrices, file.matrices) and torch.equal(one.biases, file.biases)
    assert data_files.manifest()[tuned_lens.FILE]["command"] == tuned_lens.COMMAND


def test_recorded_seeds_are_all_there_in_their_order():
    seeds = lens.recorded_seeds()
    assert [one["seed"] for one in seeds] == list(range(lens_seeds.SEEDS))
    assert {len(one["tuned KL"]) for one in seeds} == {30}
    assert data_files.manifest()[lens_seeds.FILE]["command"] == lens_seeds.COMMAND
