"""The figure that drawing gives: a matplotlib figure that a notebook shows, and that keeps real fonts when saved."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lrcsim.plots.settings import DPI, FONTS


class Picture(Figure):
    """A figure of no window: it is not one of pyplot's, whose backend, and open figures, stay as they are."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write it, as matplotlib's own: words stay words in PDF and SVG."""
        with matplotlib.rc_context(FONTS):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        out = BytesIO()
        self.savefig(out, format="png", dpi=DPI)
        return out.getvalue()

    def as_html(self) -> str:
        """Return an ``<img>`` that holds the picture, as wide as it is in print."""
        data = b64encode(self._repr_png_()).decode()
        return f'<img alt="" style="width:{self.get_size_inches()[0]:.2f}in" src="data:image/png;base64,{data}">'
