"""What a document says of itself: which command's it is, and the version of its layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = 1
"""Of the layout of all that is written; one that an older reader would misread has another."""


def named(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document that says what it is in its first keys.

    Args:
        kind: the command's word, as ``"curve"``, ``"trace-info"``.
        content: its other keys.
    """
    return {"kind": kind, "version": VERSION, **content}


def kind_of(document: object) -> str | None:
    """Return what a document says that it is, or the first in a list of them; None: it does not say."""
    first = document[0] if isinstance(document, list) and document else document
    kind = first.get("kind") if isinstance(first, Mapping) else None
    return kind if isinstance(kind, str) else None
