"""What notebook 00 promises besides its claims: the glossary, and that its code agrees with the package."""

import json
import re

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from mi_utils import hooks, models, prompts
from mi_utils.workshop import kernels, readme, sources

NOTEBOOK = sources.read(sources.find("00")[0])
MARKDOWN = "\n\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")


def table_below(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading."""
    lines = MARKDOWN.split(f"## {heading}\n", 1)[1].splitlines()
    rows = [line for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("## "))] if "|" in line]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_glossary_has_english_and_korean():
    rows = table_below("Words")
    assert len(rows) >= 30
    terms = [row[0] for row in rows]
    assert terms == sorted(terms, key=lambda term: term.split(",")[0].casefold()) and len(set(terms)) == len(terms)
    for term, korean, meaning in rows:
        assert re.search(r"[\uac00-\ud7a3]", korean), term
        assert len(meaning.split()) >= 4, term
    for wanted in ("feature", "superposition", "polysemantic", "circuit", "residual stream", "activation patching"):
        assert any(wanted in term for term in terms), wanted


def test_every_planned_notebook_is_introduced():
    shown = " ".join(row[0] for row in table_below("What each notebook does"))
    numbers = set(re.findall(r"\d\d", shown.replace("09 to 12", "09 10 11 12")))
    assert numbers == {name[:2] for name in readme.PLANNED} - {"00"}


def test_zeroing_a_head_by_hand_is_what_the_package_does(tiny_llama):
    (exercise,) = [one for one in sources.exercises(NOTEBOOK, "00") if one.id == "00.zero_head"]
    scope: dict = {}
    exec(NOTEBOOK.cells[exercise.solution].source, scope)
    model = models.load_model(str(tiny_llama))
    tokens = prompts.encode(model, "the cat")
    name, zero = hooks.zero_head(model, 1, 2)
    by_hand = model.run_with_hooks(tokens, fwd_hooks=[(name, scope["without_head_2"])])
    packaged = model.run_with_hooks(tokens, fwd_hooks=[(name, zero)])
    assert torch.equal(by_hand, packaged)
    assert not torch.equal(by_hand, model(tokens))


def _draw(model: torch.nn.Module) -> torch.nn.Module:
    """Larger weights, and norms that are not the identity: else half of the architecture would go untested."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.3 * noise if "ln" in name or "norm" in name or "bias" in name else 0.06 * noise
    return model


def _gpt2() -> torch.nn.Module:
    size = dict(n_layer=4, n_head=4, n_embd=64, n_positions=128)
    return GPT2LMHeadModel(GPT2Config(vocab_size=49152, bos_token_id=0, eos_token_id=0, **size))


def _pythia() -> torch.nn.Module:
    size = dict(num_hidden_layers=4, num_attention_heads=4, hidden_size=64, intermediate_size=256)
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=49152, bos_token_id=0, eos_token_id=0, **size))


@pytest.mark.parametrize("make", [_gpt2, _pythia])
def test_runs_on_other_architectures(make, tmp_path):
    """``MI_MODEL`` may name any model: LayerNorm, learned positions, attention beside the MLP, few layers."""
    folder = models.REGISTRY[models.DEFAULT].source.folder()
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    _draw(make()).save_pretrained(tmp_path)
    env = kernels.environment() | {"MI_MODEL": str(tmp_path)}
    run = kernels.run_notebook(sources.find("00")[0], env=env, claims_dir=tmp_path)
    assert run.error is None, run.error
    claims = json.loads(run.claims.read_text())["claims"]
    verdicts = [claim["verdict"] for claim in claims if claim["source"].startswith("identity")]
    assert verdicts.count("holds") == 4 and set(verdicts) == {"holds", "not asserted"}
    assert all(claim["verdict"] == "not asserted" for claim in claims if claim["source"].startswith("measured"))
