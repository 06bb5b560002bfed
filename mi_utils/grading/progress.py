"""What has been solved so far, notebook by notebook."""

from dataclasses import dataclass

import jinja2

from mi_utils.grading import store
from mi_utils.grading.core import EXERCISES

_LINES = jinja2.Template("<pre>{{ text }}</pre>", autoescape=True)


@dataclass(frozen=True)
class Progress:
    """Solved and open exercises; shows itself as a table. Never put it in a cell whose output is compared."""

    rows: tuple[tuple[str, str, int, bool], ...]  # id, title, minutes, solved

    def __repr__(self) -> str:
        done = sum(row[3] for row in self.rows)
        lines = [
            f"{'✓' if solved else '·'} {name}  {title} ({minutes} min)"
            for name, title, minutes, solved in self.rows
        ]
        return "\n".join([f"{done} of {len(self.rows)} exercises solved", *lines])

    def _repr_html_(self) -> str:
        return _LINES.render(text=repr(self))


def progress(notebook: str | None = None) -> Progress:
    """Progress over all notebooks, or over one (``"00"``).

    Raises:
        ValueError: no exercises in that notebook; the message says which notebooks have some.
    """
    numbers = sorted({name.partition(".")[0] for name in EXERCISES})
    if notebook is not None and notebook not in numbers:
        raise ValueError(f"notebook is {notebook!r}; notebooks with exercises are: {', '.join(numbers)}")
    done = store.solved()
    asked = [EXERCISES[name] for name in EXERCISES if notebook is None or name.startswith(f"{notebook}.")]
    return Progress(tuple((one.id, one.title, one.minutes, one.id in done) for one in asked))
