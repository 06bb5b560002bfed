"""Small models of four architectures, and two recorded runs of each."""

import patching_reference as reference
import pytest

from mi_utils.patching.recording import record

KINDS = ("llama", "gpt2", "neox", "native")


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind, tmp_path_factory):
    return reference.load(kind, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def sites(kind):
    return [site for site in reference.SITES if site not in reference.MISSING.get(kind, ())]


@pytest.fixture(scope="module")
def runs(model, sites):
    """Runs of three prompts, base and source, that differ first at other places; with all sites."""
    return tuple(record(model, tokens, sites) for tokens in reference.pairs(model))
