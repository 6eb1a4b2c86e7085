"""What results have in common in a notebook: a table, a figure, and both small where they are shown.

Figures stand above what they draw (`lrcsim.plots`), so a class says by name what draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib import import_module
from typing import Any, ClassVar

from lrcsim.base.errors import ConfigError
from lrcsim.base.text import printable


class Shown:
    """Base of results that are tables and have a figure.

    Attributes:
        drawn_by: ``"module:function"`` below `lrcsim`; the function takes a path, or None, and the object, and returns
            the figure.
        drawn_small_by: the same for what a notebook shows unasked; empty: as ``drawn_by``.
    """

    drawn_by: ClassVar[str] = ""
    drawn_small_by: ClassVar[str] = ""

    def to_arrow(self) -> Any:
        """Return the numbers as a `pyarrow.Table`; the class says what its rows are."""
        import pyarrow as pa

        rows = self._rows()
        return pa.table(dict(rows)) if isinstance(rows, Mapping) else pa.Table.from_pylist(list(rows))

    def to_pandas(self) -> Any:
        """Return `to_arrow` as a pandas DataFrame.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401  # pyarrow's own message is longer
        except ImportError:
            raise ConfigError(
                "to_pandas() needs pandas, which is not installed: pip install pandas, or use to_arrow()"
            ) from None
        return self.to_arrow().to_pandas()

    def plot(self, path: str | None = None, *, size: str = "page", title: str | None = None) -> Any:
        """Draw the figure that the command draws with ``--plot``.

        Args:
            path: where to write it besides, .png, .svg or .pdf.
            size: ``"column"``, ``"page"``, or ``"5x3"`` inches.
            title: in place of the figure's own.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            ConfigError: another size or ending; or there is nothing to draw, and the message says why.
            TraceError: the file cannot be written.
        """
        with import_module("lrcsim.plots.settings").figures(size=size, title=title):
            return self._draw(self.drawn_by, path)

    def _draw(self, by: str, path: str | None) -> Any:
        module, _, function = by.partition(":")
        return getattr(import_module(f"lrcsim.{module}"), function)(path, self)

    def _rows(self) -> Mapping[str, Any] | Iterable[Mapping[str, Any]]:
        """Return the columns of `to_arrow`, or its rows."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the ``repr``, and a small figure below where there is one to draw."""
        text = f"<pre>{escape(printable(repr(self), keep=chr(10)))}</pre>"
        try:
            with import_module("lrcsim.plots.settings").figures(size="column"):
                picture = self._draw(self.drawn_small_by or self.drawn_by, None)
        except ConfigError:  # nothing to draw; plot() says why
            return text
        return text + str(picture.as_html())
