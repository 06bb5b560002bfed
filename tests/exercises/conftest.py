import pytest
import tiny_models
import torch
from transformer_lens.model_bridge import TransformerBridge


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TransformerBridge:
    """The tiny Llama with a third layer: with two, layer 1 has the embedding just before it."""
    from mi_utils.models.load import load_model

    config = tiny_models.llama().config
    config.num_hidden_layers = 3
    config.pad_token_id = None  # its embedding would be zero, and 0 / rms is no number
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = type(tiny_models.llama())(config)
    return load_model(str(tiny_models.save(model, tmp_path_factory.mktemp("tiny") / "three-layers")))


@pytest.fixture(autouse=True)
def lenient_and_forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A learner's settings, whatever those of this run are; and nobody's progress file is touched."""
    monkeypatch.delenv("MI_GRADING", raising=False)
    monkeypatch.setenv("MI_PROGRESS", str(tmp_path / "progress.json"))
