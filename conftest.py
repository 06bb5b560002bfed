"""How notebooks are compared with their stored outputs: settings that nbval 0.11 has no options for.

nbval keeps them as attributes of the items it collects (``nbval/plugin.py``), so they are set there as each
cell is collected. nbval compares outputs exactly; :mod:`mi_workshop.outputs` compares them number by
number and takes the place of its ``compare_outputs``, which sees the whole outputs with their MIME types.
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
    item.compare_outputs = lambda fresh, stored: _agree(item, stored, fresh)


def _agree(item: IPyNbCell, stored: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> bool:
    """Whether a cell's outputs agree; what differs is left where nbval looks for its report."""
    from mi_workshop import outputs  # on use only: after jaxtyping's plugin is in place

    tolerance = outputs.tolerance_of(item.cell.metadata)
    found = outputs.differences(stored, fresh, tolerance=tolerance, rewrite=item.sanitize)
    item.comparison_traceback = found
    return not found
