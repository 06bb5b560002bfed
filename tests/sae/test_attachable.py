"""``sae.attachable``: SAELens splices into a model loaded here as we do, and leaves nothing behind."""

from collections import Counter
from pathlib import Path

import pytest
import sae_lens
import torch
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import sae
from mi_utils.models.load import load_model
from mi_utils.sae.sae import SAE

HOOK = "blocks.1.hook_resid_pre"
PLACES = (
    HOOK,
    "blocks.0.hook_resid_post",
    "blocks.0.hook_resid_mid",
    "blocks.1.hook_mlp_out",
    "blocks.0.hook_attn_out",
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_up(hook: str = HOOK) -> SAE:
    directions = F.normalize(noise(64, 32, seed=3), dim=-1)
    return SAE(noise(32, 64, seed=1), noise(64, seed=2), directions, noise(32, seed=4), "topk", 5, hook=hook)


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    """Of its own for each test: some break it where the code is wrong."""
    return load_model(str(request.getfixturevalue(request.param)))


def tokens() -> Tensor:
    return torch.randint(2, 316, (2, 6), generator=torch.Generator().manual_seed(0))


def theirs_at(hook: str, folder: Path) -> sae_lens.SAE:
    return sae_lens.SAE.load_from_disk(sae.save(made_up(hook), folder / "sae"))


class Firing:
    """How often each hook point fires in a forward pass, and what it is, to compare before with after."""

    def __init__(self, model: TransformerBridge):
        off = ("hook_result", "hook_mlp_in", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")
        counts = Counter()
        names = [name for name in model.hook_dict if not name.endswith(off)]

        def count(name):
            return lambda value, hook: counts.update([name])

        with model.hooks(fwd_hooks=[(name, count(name)) for name in names]):
            self.logits = model(tokens()).detach()
        self.counts = {name: counts[name] for name in names}
        self.points = {name: (id(point), point.name) for name, point in model.hook_dict.items()}
        self.kind = type(model)


def assert_untouched(model: TransformerBridge, before: Firing) -> None:
    after = Firing(model)
    assert after.counts == before.counts
    assert after.points == before.points
    assert after.kind is before.kind is TransformerBridge
    torch.testing.assert_close(after.logits, before.logits)


@pytest.mark.parametrize("hook", PLACES)
def test_attached_saes_are_spliced_in_as_here_and_leave_nothing_behind(hook: str, model, tmp_path: Path):
    """In SAELens 6.54 later hooks at that place fire twice or not at all, and are lost to the model's
    registry."""
    before, theirs = Firing(model), theirs_at(hook, tmp_path)
    assert before.counts[hook] == 1 and set(before.counts.values()) <= {0, 1}
    with sae.attachable(model) as able, torch.no_grad():
        assert type(model) is TransformerBridge
        spliced = able.run_with_saes(tokens(), saes=[theirs])
        kept = able.run_with_saes(tokens(), saes=[theirs], use_error_term=True)
        _, cache = able.run_with_cache_with_saes(tokens(), saes=[theirs])
    wanted = sae.run_edited(model, tokens(), hook, made_up().reconstruct)
    torch.testing.assert_close(spliced, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept, before.logits, rtol=1e-4, atol=1e-4)
    assert (spliced - before.logits).abs().max() > 0.1
    (name,) = [name for name in cache if name.endswith("hook_sae_acts_post")]
    torch.testing.assert_close(
        cache[name], made_up().encode(model.run_with_cache(tokens())[1][hook]), rtol=1e-5, atol=1e-4
    )
    assert_untouched(model, before)


def test_an_sae_left_attached_is_taken_off(model, tmp_path: Path):
    before, theirs = Firing(model), theirs_at(HOOK, tmp_path)
    with sae.attachable(model) as able, torch.no_grad():
        able.add_sae(theirs)
        assert (able(tokens()) - before.logits).abs().max() > 0.1
    assert_untouched(model, before)
    assert not hasattr(model, "_acts_to_saes")


def test_an_error_inside_leaves_the_model_as_it_was(model, tmp_path: Path):
    before, theirs = Firing(model), theirs_at("blocks.0.hook_resid_post", tmp_path)
    with pytest.raises(KeyError, match="of the user"), sae.attachable(model) as able:
        able.add_sae(theirs)
        raise KeyError("of the user")
    assert_untouched(model, before)


def test_attachable_twice_and_with_two_saes(model, tmp_path: Path):
    before, saes = Firing(model), [theirs_at(hook, tmp_path / hook) for hook in PLACES[:2] + PLACES[3:4]]
    for _ in range(2):
        with sae.attachable(model) as able, torch.no_grad():
            able.run_with_saes(tokens(), saes=saes[:2])
            able.run_with_saes(tokens(), saes=saes[1:])
        assert_untouched(model, before)


def test_edits_and_ablations_work_after_saes_were_attached(model, tmp_path: Path):
    """The ways this package reads and edits a hook point, at the very place."""
    edited = sae.run_edited(model, tokens(), HOOK, torch.zeros_like)
    with torch.no_grad():
        read = model.run_with_cache(tokens())[1][HOOK]
        with sae.attachable(model) as able:
            able.run_with_saes(tokens(), saes=[theirs_at(HOOK, tmp_path)])
        torch.testing.assert_close(model.run_with_cache(tokens())[1][HOOK], read)
    torch.testing.assert_close(sae.run_edited(model, tokens(), HOOK, torch.zeros_like), edited)
    calls = []
    model.run_with_hooks(tokens(), fwd_hooks=[(HOOK, lambda value, hook: calls.append(hook.name))])
    assert len(calls) == 1


# Faults of SAELens that mi_utils/sae/attach.py mends. Where one of these fails, SAELens has mended the fault
# itself, and what mends it here can go.


def test_saelens_still_does_not_put_a_hook_point_back(model, tmp_path: Path):
    before, theirs = Firing(model), theirs_at(HOOK, tmp_path)
    model.__class__ = sae_lens.SAETransformerBridge
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    with torch.no_grad():
        model.run_with_saes(tokens(), saes=[theirs])
    assert Firing(model).counts != before.counts


def test_saelens_still_has_no_way_to_take_a_model_at_hand():
    """Only a name is taken: the one public maker of its own boots a model."""
    makers = {
        name
        for name, value in vars(sae_lens.SAETransformerBridge).items()
        if isinstance(value, classmethod | staticmethod)
    }
    assert makers == {"boot_transformers"}
