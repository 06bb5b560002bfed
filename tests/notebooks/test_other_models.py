"""``MI_MODEL`` may name any model: notebooks run, identities and toys stay asserted, claims about ours are
not.

Here with rotary positions and attention beside the MLP; ``test_learner_edition`` runs the same on a GPT-2.
"""

import other_models
import pytest

from mi_workshop import kernels, sources

NEEDY = [path for path in sources.available() if other_models.is_needed(sources.read(path))]


@pytest.mark.slow
@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in NEEDY])
def test_runs_on_another_architecture(path, tmp_path):
    folder = other_models.save(other_models.pythia(), tmp_path)
    run = kernels.run_notebook(
        path, env=kernels.environment() | {"MI_MODEL": str(folder)}, claims_dir=tmp_path
    )
    assert run.error is None, run.error
    other_models.assert_claims(run.claims)
