"""The errors that a user can cause, for ``except``: the public name of `lrcsim.base.errors`."""

from lrcsim.base.errors import ConfigError, LrcsimError, PolicyError, TraceError

__all__ = ["ConfigError", "LrcsimError", "PolicyError", "TraceError"]
