"""A small source notebook with nothing to complain about, for tests to spoil."""

import base64
import struct

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

SOLUTION = '''\
def double(x):
    """Return twice x."""
    # solution
    twice = x + x
    return twice
    # end'''


def markdown(cell_id: str, source: str, *tags: str) -> NotebookNode:
    return new_markdown_cell(source, id=cell_id, metadata={"tags": list(tags)} if tags else {})


def code(cell_id: str, source: str, *tags: str, outputs: tuple[NotebookNode, ...] = ()) -> NotebookNode:
    metadata = {"tags": list(tags)} if tags else {}
    return new_code_cell(source, id=cell_id, metadata=metadata, outputs=list(outputs))


def exercise(n: int, solution: str = SOLUTION) -> list[NotebookNode]:
    return [
        markdown(
            f"task-{n}", f"### Exercise {n}\n*{10 * n} minutes, difficulty {n}.* Double it.", "exercise"
        ),
        code(f"solve-{n}", solution, "solution"),
        code(f"check-{n}", f'grading.check("00.double_{n}", double)', "check"),
    ]


def figure() -> NotebookNode:
    data = {"application/vnd.plotly.v1+json": {"data": [], "layout": {}}, "image/png": "iVBORw0KGgo="}
    return new_output("display_data", data)


def png(colour_type: int = 2) -> str:
    """The beginning of a PNG, in base64; its colour type is 2 for true colour, 3 for a palette."""
    header = struct.pack(">II5B", 1, 1, 8, colour_type, 0, 0, 0)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header).decode()


def told_figure(alt: str = "Bars. Across: head.", picture: str | None = None) -> NotebookNode:
    """A figure as the second form wants it: in true colour, with its alternative text."""
    output = figure()
    output.data["image/png"] = picture or png()
    output.metadata["image/png"] = {"alt": alt}
    return output


def notebook(*more: NotebookNode) -> NotebookNode:
    """Header, imports, parameters, ``more``, five exercises, closing sections; executed 1..n."""
    header = "# Open the box\nA promise.\n\n**You will** see\n\n**You need** this\n\n**It takes** 2 minutes"
    cells = [
        markdown("title", header),
        code("imports", "from mi_utils import grading"),
        code("parameters", "SEED = 0", "parameters"),
        markdown("look", "Look: [the data](../data/file.json), [next](01_next.ipynb)."),
        code("figure", "figure", outputs=(figure(),)),
        code("print", "print('holds')", outputs=(new_output("stream", name="stdout", text="holds\n"),)),
        *more,
        *(cell for n in range(1, 6) for cell in exercise(n)),
        markdown("paper", "## Paper and here"),
        code("claims", "claims.table()", "nbval-ignore-output"),
        markdown("end", "## What this does not show\n\n## Takeaways\n\n## References\n\n## Next"),
    ]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "version": "3.11.9"},
    }
    return counted(nbformat.v4.new_notebook(cells=cells, metadata=metadata))


STUDY = "about 60 minutes for the core and 20 for the extensions"
SECOND_HEADER = f"""\
# Open the box
A promise.

**You will** see

**You need** this

**It takes** {STUDY}. Running it takes about 1 minute and 2 GiB."""
PAPER_ROW = """\
table.paper(
    "it is so",
    source="paper, 1",
)"""
KINDS = {1: "; predict before you run", 4: "; find the silent bug"}


def second_form(*more: NotebookNode) -> NotebookNode:
    """The same in the second form: it shows numbers, and has an extension, checks and the trial."""
    three_lines = "x = 1\ny = 2\nx + y"
    tasks = [cell for n in range(1, 6) for cell in exercise(n)]
    for n, kind in KINDS.items():
        task = next(cell for cell in tasks if cell.id == f"task-{n}")
        task.source = task.source.replace(f"difficulty {n}.", f"difficulty {n}{kind}.")
    cells = [
        markdown("title", SECOND_HEADER),
        code("imports", "import torch\n\nfrom mi_utils import grading, models"),
        code("parameters", "SEED = 0\nMODEL = config.model()\nSTEPS = 3", "parameters"),
        markdown("look", "## Look\n\nLook: [the data](../data/file.json)."),
        code("figure", three_lines, outputs=(told_figure(),)),
        code("print", three_lines, outputs=(new_output("stream", name="stdout", text="loss 0.52\n"),)),
        *more,
        *tasks,
        markdown("further", "## Extension: more boxes\n\nOpen them.", "extension"),
        code("boxes", three_lines, "extension"),
        markdown("paper", "## Paper and here"),
        code("rows-1", "\n".join([PAPER_ROW] * 3)),
        code("rows-2", "\n".join([PAPER_ROW] * 2)),
        code("claims", "table.paper_table()"),
        markdown("checks", "### Checks"),
        code("folded", "table.check(\n    'it adds up',\n    source='identity',\n)\ntable.checks_table()"),
        markdown("trial", "## The method's own trial"),
        code("tried", "table.trial(\n    'a lens',\n)\ntable.trial_table()"),
        markdown("end", "## What this does not show\n\n## Takeaways\n\n## References\n\n## Next"),
    ]
    return counted(nbformat.v4.new_notebook(cells=cells, metadata=notebook().metadata | {"form": 2}))


def counted(nb: NotebookNode) -> NotebookNode:
    """``nb`` as if executed from top to bottom; results get the count of their cell."""
    for n, cell in enumerate((c for c in nb.cells if c.cell_type == "code"), start=1):
        cell.execution_count = n
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = n
    return nb
