"""How results look in a console: their numbers, and of what is long only how long it is."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

FEW = 6
"""Items that are written out."""

LONGEST = 60
"""Characters of a text that are written out."""


def short_repr(self: Any) -> str:
    """Return ``Name(field=value, ...)``, every value by `short`: the ``__repr__`` of dataclasses with long ones."""
    shown = [f"{field.name}={short(getattr(self, field.name))}" for field in fields(self) if field.repr]
    return f"{type(self).__name__}({', '.join(shown)})"


def short(value: object) -> str:
    """Return a value in at most about `LONGEST` characters."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}" if value.size > FEW else repr(value.tolist())
    if isinstance(value, float | int | bool | None):
        return f"{value:.6g}" if isinstance(value, float) else repr(value)
    if isinstance(value, Mapping) and value and len(value) <= FEW:
        return f"{{{', '.join(f'{short(key)}: {_named(item)}' for key, item in value.items())}}}"
    if not isinstance(value, str) and isinstance(value, Sized) and not is_dataclass(value):
        return f"<{len(value)} {type(value).__name__}>" if len(value) > FEW else _cut(repr(value))
    return _named(value)


def _named(value: object) -> str:
    if is_dataclass(value):
        return f"<{type(value).__name__}>"
    return short(value) if isinstance(value, np.ndarray | float) else _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
