"""Models that several test files share. The session's are loaded once: a test leaves them as it found them.

What brings torch is imported in the fixtures: tests of notebooks and pages start without it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@pytest.fixture(autouse=True)
def gradients_as_they_were() -> Iterator[None]:
    """A notebook's cells, run by a test, may switch gradients off for the whole process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama with grouped queries, embeddings tied."""
    import tiny_models

    return tiny_models.save(tiny_models.llama(), tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer GPT-2."""
    import tiny_models

    return tiny_models.save(tiny_models.gpt2(), tmp_path_factory.mktemp("tiny") / "tiny-gpt2")


@pytest.fixture(scope="session")
def llama_model(tiny_llama: Path) -> TransformerBridge:
    from mi_utils.models.load import load_model

    return load_model(str(tiny_llama))


@pytest.fixture(scope="session")
def gpt2_model(tiny_gpt2: Path) -> TransformerBridge:
    from mi_utils.models.load import load_model

    return load_model(str(tiny_gpt2))


@pytest.fixture(scope="session")
def real_model() -> TransformerBridge:
    """The default model, from the cache: ``make test`` fetches it first, so that a missing one is a
    failure."""
    from mi_utils.models.load import load_model

    return load_model("smollm2-135m")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As for a user: without the type checks of the test run, which would come first."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
