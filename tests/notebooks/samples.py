"""A small source notebook with nothing to complain about, for tests to spoil."""

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


def counted(nb: NotebookNode) -> NotebookNode:
    """``nb`` as if executed from top to bottom; results get the count of their cell."""
    for n, cell in enumerate((c for c in nb.cells if c.cell_type == "code"), start=1):
        cell.execution_count = n
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = n
    return nb
