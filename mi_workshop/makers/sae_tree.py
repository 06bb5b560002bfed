"""Splitting and absorption on a known tree, ``data/sae_tree.json``: ``python -m
mi_workshop.makers.sae_tree``.

The tree is ``mi_utils.sae.toys.tree``; in the control the same children come and go independently of their
parents. Takes about ten minutes on one core.
"""

from mi_utils import sae
from mi_utils.sae.toys import TREE_SIZES, absorbed, tree, tree_settings
from mi_workshop.makers import seeds

COMMAND = "python -m mi_workshop.makers.sae_tree"
FILE = "sae_tree.json"
SEEDS = 20


def one_seed(seed: int) -> dict:
    result: dict = {"seed": seed}
    for name, independent in (("tree", False), ("control", True)):
        directions, amounts = tree(seed, independent=independent)
        for size in TREE_SIZES:
            found = sae.train(amounts @ directions, tree_settings(size, seed)).sae
            result[f"{name} {size}"] = {
                k: round(v, 4) for k, v in absorbed(found, directions, amounts).items()
            }
    return result


def main() -> None:
    seeds.record(FILE, SEEDS, one_seed, source="trained by this project", command=COMMAND)


if __name__ == "__main__":
    main()
