"""How notebooks are compared with their stored outputs: settings that nbval 0.11 has no options for.

nbval keeps them as attributes of the items and files it collects (``nbval/plugin.py``), so they are set
there as each cell is collected. Figures are replaced by their skeletons on both sides just before nbval's
own comparison, which then compares, and reports, two texts: ``compare_outputs`` is the one method that sees
the whole outputs with their MIME types (``sanitize`` is handed a value without its type).
"""

from typing import Any

import pytest
from nbval.plugin import IPyNbCell

# How long nbval waits for each message of a cell that has answered already; its five seconds are too few
# for a large figure on a busy machine.
OUTPUT_TIMEOUT = 120  # seconds


def pytest_itemcollected(item: pytest.Item) -> None:
    if not isinstance(item, IPyNbCell):
        return
    item.output_timeout = OUTPUT_TIMEOUT
    # What a library warns about depends on its version and the machine. No stderr is stored, see hygiene. And
    # what is shown as HTML (claims, dashboards) is for people and full of drifting digits; its plain text is
    # what is compared.
    item.parent.skip_compare += tuple({"stderr", "text/html"}.difference(item.parent.skip_compare))
    compare = item.compare_outputs
    item.compare_outputs = lambda test, ref, *args: compare(_skeletons(test), _skeletons(ref), *args)


def _skeletons(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from mi_workshop.skeleton import PLOTLY_MIME, skeleton

    def reduced(output: dict[str, Any]) -> dict[str, Any]:
        if PLOTLY_MIME not in output.get("data", {}):
            return output
        data = output["data"] | {PLOTLY_MIME: skeleton(output["data"][PLOTLY_MIME])}
        return type(output)(output | {"data": data})

    return [reduced(output) for output in outputs]
