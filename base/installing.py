"""How what a feature needs besides is installed: lrcsim is on no package index, so its extras come from a checkout."""

from __future__ import annotations


def from_checkout(extra: str) -> str:
    """Return the command that installs an extra, a key of ``[project.optional-dependencies]`` in pyproject.toml.

    >>> from_checkout("report")
    "pip install '.[report]' in a checkout of lrcsim"
    """
    return f"pip install '.[{extra}]' in a checkout of lrcsim"
