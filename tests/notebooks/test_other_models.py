"""``MI_MODEL`` may name any model: notebooks run, identities and toys stay asserted, claims about ours are not."""

import json

import other_models
import pytest

from mi_utils.workshop import kernels, sources


def runs() -> list:
    """Every notebook on both architectures; one that loads no model needs to be run once only."""
    return [
        pytest.param(path, make, id=f"{path.stem}-{make.__name__}")
        for path in sources.available()
        for make in (other_models.gpt2, other_models.pythia)
        if make is other_models.gpt2 or any("load_model(" in cell.source for cell in sources.read(path).cells)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "make"), runs())
def test_runs_on_other_architectures(path, make, tmp_path):
    folder = other_models.save(make(), tmp_path)
    run = kernels.run_notebook(path, env=kernels.environment() | {"MI_MODEL": str(folder)}, claims_dir=tmp_path)
    assert run.error is None, run.error
    claims = json.loads(run.claims.read_text())["claims"]
    identities = [claim["verdict"] for claim in claims if claim["source"].startswith("identity")]
    assert identities.count("holds") >= 3 and set(identities) <= {"holds", "not asserted"}
    for claim in claims:  # what is about our model is not asserted of others; toys stay what they are
        assert (claim["verdict"] == "not asserted") == bool(claim["models"]), claim["statement"]
