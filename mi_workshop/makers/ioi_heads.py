"""The table of published IOI heads, ``data/ioi_gpt2_heads.json``: ``python -m mi_workshop.makers.ioi_heads``.

Facts from a paper, entered by hand here and nowhere else; nothing is measured or downloaded.
"""

import json

from mi_utils import data_files
from mi_utils.circuits.scores import IOI_HEADS

COMMAND = "python -m mi_workshop.makers.ioi_heads"
SOURCE = "Wang et al. 2023, Interpretability in the Wild, arXiv 2211.00593"
HEADS = {
    "name mover": "9.9 10.0 9.6",
    "backup name mover": "9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9",
    "negative name mover": "10.7 11.10",
    "S-inhibition": "7.3 7.9 8.6 8.10",
    "induction": "5.5 5.8 5.9 6.9",
    "duplicate token": "0.1 0.10 3.0",
    "previous token": "2.2 4.11",
}  # layer.head


def main() -> None:
    classes = {
        name: [[int(part) for part in head.split(".")] for head in heads.split()]
        for name, heads in HEADS.items()
    }
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(heads)}" for name, heads in classes.items())
    about = {"model": "gpt2", "source": SOURCE, "heads": "[layer, head], both counted from 0"}
    head = "\n".join(f" {json.dumps(key)}: {json.dumps(value)}," for key, value in about.items())
    data_files.write(f'{{\n{head}\n "classes": {{\n{rows}\n }}\n}}\n', data_files.folder() / IOI_HEADS)
    data_files.record(
        IOI_HEADS, licence="MIT (published facts, entered by hand)", source=SOURCE, command=COMMAND
    )


if __name__ == "__main__":
    main()
