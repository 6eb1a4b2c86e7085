"""Documents that somebody else wrote (JSON, TOML, text), read with limits and clear errors."""

from lrcsim.documents.read import check_regular, parse_json, parse_toml, read_text, unreadable

__all__ = ["check_regular", "parse_json", "parse_toml", "read_text", "unreadable"]
