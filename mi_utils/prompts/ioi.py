"""Prompts for indirect object identification (IOI), after Wang et al. (2023), section 2 and appendix E.

"When Mary and John got back from the store, John gave a drink to" ... " Mary". Two names are given, the
**subject** (S, John) is repeated, and the answer is the other one, the **indirect object** (IO, Mary).
Fifteen templates of our own wording, each in two orders: ABBA (IO first) and BABA (S first). Everything is
made for the model at hand: only names, places and objects that are one token there are drawn, and all prompts
of a batch have the same length.

Positions by role: ``IO`` and ``S1`` (the names), ``S1+1`` (the token after S1), ``S2`` (the second S),
``END`` (the last token, where the model answers).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_utils import prompts

Corruption = Literal["abc", "swap", "s2_other", "s2_io"]
ROLES = ("IO", "S1", "S1+1", "S2", "END")

# {A} and {B} are the first and the second name, {S} the repeated one.
TEMPLATES = (
    "When{A} and{B} got back from the{PLACE},{S} gave a{OBJECT} to",
    "Then,{A} and{B} went to the{PLACE}.{S} gave a{OBJECT} to",
    "After{A} and{B} met in town,{S} got a{OBJECT} to give to",
    "While{A} and{B} were working at the{PLACE},{S} handed a{OBJECT} to",
    "When{A} and{B} left the{PLACE},{S} gave a very small{OBJECT} to",
    "Then,{A} and{B} met in the{PLACE}.{S} offered a{OBJECT} to",
    "Last week{A} and{B} visited the{PLACE}, and{S} sold a{OBJECT} to",
    "Then,{A} and{B} had lunch, and later{S} sent a{OBJECT} to",
    "Friends{A} and{B} found a{OBJECT} at the{PLACE}.{S} gave it to",
    "Today{A} and{B} shared a taxi home, and{S} lent a{OBJECT} to",
    "The friends{A} and{B} waited at the{PLACE} until{S} brought a{OBJECT} to",
    "Because{A} and{B} liked the{PLACE} so much,{S} gave a{OBJECT} to",
    "Later,{A} and{B} walked to the{PLACE}.{S} showed a{OBJECT} to",
    "In the{PLACE},{A} and{B} sat down.{S} gave a{OBJECT} to",
    "Each year{A} and{B} meet at the{PLACE}.{S} gives a{OBJECT} to",
)
# Words that are one token in most tokenizers, with the space before them.
_NAMES = """
    Mary John Tom James Sarah Kate Anna Emma David Mark Paul Peter Alice Jack Emily Robert William
    Charles George Henry Thomas Michael Daniel Lisa Maria Laura Rachel Jane Susan Linda Adam Simon Brian
    Kevin Eric Martin Alex Helen Julia Elizabeth Margaret Harry Frank Arthur Edward Albert Joseph Samuel
    Andrew Matthew Jacob Anne Roger Carl Victoria Richard Scott Jason Ryan Patrick Philip Stephen
    Jennifer Jessica Michelle Amanda Nicole
"""
_PLACES = """
    store park school market station library office hospital restaurant garden museum church farm
"""
_OBJECTS = """
    drink book ring ball letter key flower gift bottle map ticket hat coin basket lamp cake
"""
NAMES, PLACES, OBJECTS = (tuple(words.split()) for words in (_NAMES, _PLACES, _OBJECTS))
_FEWEST_NAMES = 5  # the prompt's two, and three unrelated ones


@dataclass(frozen=True)
class IOIPrompts:
    """A batch of equally long prompts.

    ``tokens`` begin with the start token. ``io`` and ``s`` are the ids of the two names: the right answer and
    the wrong one. ``positions`` maps each role of ``ROLES`` to its place in each row. ``template`` is the
    index of the row's template in the ones used, ``io_first`` whether its order is ABBA. ``pool`` holds the
    ids of all names.
    """

    tokens: Int[Tensor, "batch pos"]
    io: Int[Tensor, "batch"]
    s: Int[Tensor, "batch"]
    positions: Mapping[str, Int[Tensor, "batch"]]
    template: Int[Tensor, "batch"]
    io_first: Int[Tensor, "batch"]
    pool: Int[Tensor, "name"]

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, rows: slice | Int[Tensor, "row"]) -> "IOIPrompts":
        """Some of the prompts."""
        places = {role: at[rows] for role, at in self.positions.items()}
        return IOIPrompts(
            self.tokens[rows],
            self.io[rows],
            self.s[rows],
            places,
            self.template[rows],
            self.io_first[rows],
            self.pool,
        )

    def corrupted(self, kind: Corruption, *, seed: int = 0) -> Int[Tensor, "batch pos"]:
        """The same prompts with other names; every other token stays.

        * ``"abc"``: IO, S1 and S2 become three unrelated names, none of them the prompt's own: nothing is
          repeated;
        * ``"swap"``: IO and S change places everywhere, so that the answer is the other name;
        * ``"s2_other"``: only S2 changes, to a third name: nothing is repeated, both names can still be
          copied;
        * ``"s2_io"``: only S2 changes, to IO: now IO is repeated, and the answer is S.

        Args:
            kind: one of these.
            seed: of the names drawn (``"abc"`` and ``"s2_other"``).

        Raises:
            ValueError: another kind.
        """
        if kind not in get_args(Corruption):
            raise ValueError(f"kind is {kind!r}; it should be one of {', '.join(get_args(Corruption))}")
        io, s1, s2 = (self.positions[role] for role in ("IO", "S1", "S2"))
        if kind == "swap":
            return replace_names(self.tokens, {"IO": (io, self.s), "S1": (s1, self.io), "S2": (s2, self.io)})
        if kind == "s2_io":
            return replace_names(self.tokens, {"S2": (s2, self.io)})
        generator = torch.Generator().manual_seed(seed)
        new = unrelated_names(self.pool, torch.stack([self.io, self.s], dim=1), 3, generator)
        if kind == "s2_other":
            return replace_names(self.tokens, {"S2": (s2, new[:, 0])})
        return replace_names(
            self.tokens, {"IO": (io, new[:, 0]), "S1": (s1, new[:, 1]), "S2": (s2, new[:, 2])}
        )


def replace_names(
    tokens: Int[Tensor, "batch pos"], names: Mapping[str, tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]]
) -> Int[Tensor, "batch pos"]:
    """A copy of ``tokens`` with other tokens at some positions: what -> (position in each row, new id in each
    row)."""
    changed, rows = tokens.clone(), torch.arange(len(tokens), device=tokens.device)
    for at, new in names.values():
        changed[rows, at] = new
    return changed


def unrelated_names(
    pool: Int[Tensor, "name"], taken: Int[Tensor, "batch used"], count: int, generator: torch.Generator
) -> Int[Tensor, "batch count"]:
    """For each row ``count`` different names of the pool, none of them taken.

    Raises:
        ValueError: the pool has too few names.
    """
    fewest = count + taken.shape[1]
    if len(pool) < fewest:
        raise ValueError(
            f"pool has {len(pool)} names; {count} besides the {taken.shape[1]} taken need {fewest}"
        )
    free = (pool[None, :, None] != taken[:, None, :]).all(dim=-1).float()
    drawn = torch.multinomial(free.cpu(), count, generator=generator)
    return pool[drawn.to(pool.device)]


def generate(
    model: TransformerBridge,
    count: int,
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> IOIPrompts:
    """Draw prompts: all templates in both orders in turn, names, places and objects at random.

    Args:
        model: its tokenizer decides which words are single tokens (with the space before them).
        count: how many prompts; a multiple of ``2 * len(templates)`` has all templates and orders equally
            often.
        seed: of the draw.
        names: without the leading space. By default those of ``NAMES`` that are one token each; names that
            are given must all be.
        templates: like ``TEMPLATES``. Where this tokenizer makes them of different lengths, those of the
            commonest length are used: padding would shift positions.

    Raises:
        ValueError: no prompts asked for, fewer than five different names, a given name that is not one token,
            or a template in which a name is missing.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it should be at least 1")
    pool = _names(model, names)
    places, objects = _single(model, PLACES, "places"), _single(model, OBJECTS, "objects")
    usable = _equally_long(model, templates, pool[:3], places[0], objects[0])
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        io, s = (pool[k] for k in torch.randperm(len(pool), generator=generator)[:2])
        place = places[int(torch.randint(len(places), (1,), generator=generator))]
        thing = objects[int(torch.randint(len(objects), (1,), generator=generator))]
        which, io_first = (i // 2) % len(usable), i % 2 == 0
        first, second = (io, s) if io_first else (s, io)
        words = {"A": first, "B": second, "S": s, "PLACE": place, "OBJECT": thing}
        rows.append((which, io_first, io, s, usable[which].format(**words)))
    return _batch(model, rows, pool)


def _batch(
    model: TransformerBridge, rows: list[tuple[int, bool, str, str, str]], pool: list[str]
) -> IOIPrompts:
    which, io_first, io_names, s_names, texts = zip(*rows, strict=True)
    tokens = prompts.encode(model, texts)  # refuses prompts of different lengths

    def ids(words: Sequence[str]) -> Int[Tensor, "_"]:
        return torch.tensor([prompts.single_token(model, word) for word in words], device=tokens.device)

    io, s = ids(io_names), ids(s_names)
    is_s = tokens == s[:, None]
    if not ((tokens == io[:, None]).sum(dim=1) == 1).all() or not (is_s.sum(dim=1) == 2).all():
        raise ValueError(
            "templates has one without exactly one {A}, one {B} and one {S}, each a token of its own"
        )
    s1, end = is_s.int().argmax(dim=1), torch.full_like(io, tokens.shape[1] - 1)
    s2 = tokens.shape[1] - 1 - is_s.flip(1).int().argmax(dim=1)
    places = {
        "IO": (tokens == io[:, None]).int().argmax(dim=1),
        "S1": s1,
        "S1+1": s1 + 1,
        "S2": s2,
        "END": end,
    }
    device = tokens.device
    return IOIPrompts(
        tokens,
        io,
        s,
        places,
        torch.tensor(which, device=device),
        torch.tensor(io_first, device=device).long(),
        ids(pool),
    )


def _names(model: TransformerBridge, names: Sequence[str] | None) -> list[str]:
    """Names with the space before them, each a single token."""
    if names is None:
        pool = [f" {name}" for name in NAMES if prompts.is_single(model, f" {name}")]
    else:
        pool = [f" {name}" for name in names]
        for name in pool:
            prompts.single_token(model, name)  # refuses others, and names their pieces
    if len(set(pool)) < len(pool):
        twice = next(name for name, times in Counter(pool).items() if times > 1)
        raise ValueError(f"names has {twice.strip()!r} twice; IO and S should differ")
    if len(pool) < _FEWEST_NAMES:
        raise ValueError(
            f"names has {len(pool)} that are one token in {model.cfg.model_name}; "
            f"it should have at least {_FEWEST_NAMES} (IO, S and three unrelated ones)"
        )
    return pool


def _single(model: TransformerBridge, words: Sequence[str], what: str) -> list[str]:
    found = [f" {word}" for word in words if prompts.is_single(model, f" {word}")]
    if not found:
        raise ValueError(f"{what}: none of {', '.join(words)} is one token in {model.cfg.model_name}")
    return found


def _equally_long(
    model: TransformerBridge, templates: Sequence[str], names: list[str], place: str, thing: str
) -> list[str]:
    if not templates:
        raise ValueError("templates is empty; it should hold at least one")
    words = {"A": names[0], "B": names[1], "S": names[0], "PLACE": place, "OBJECT": thing}
    lengths = [prompts.encode(model, template.format(**words)).shape[1] for template in templates]
    commonest = Counter(lengths).most_common(1)[0][0]
    return [template for template, length in zip(templates, lengths, strict=True) if length == commonest]
