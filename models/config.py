"""The keys of a Hugging Face ``config.json``, read with an error that says what is wrong with which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.models.release import KEYS

PREDICTING = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")

TEXT_PARTS = ("thinker_config", "llm_config", "language_config", "language_model_config", "text_config")
"""Parts of a config that hold the text model's keys; what they say counts before what stands outside."""

MOST = 10**8
"""The largest number that a config may have; below are those of single things."""

MOST_LAYERS = 2_048
MOST_EXPERTS = 65_536


class Config:
    """A config's keys, those of nested parts included, with an error that says which key is missing.

    ``notices`` are lines for who asked, of what was taken for something else.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.notices: list[str] = []
        self.values: dict[str, Any] = dict(values)
        tied = self.values.get("tie_word_embeddings")  # of the whole, which transformers goes by
        for part in TEXT_PARTS:
            self._take(part, whole=True)
        for part in ("attn_config", "ffn_config"):
            self._take(part, whole=False)
        if tied is not None:
            self.values["tie_word_embeddings"] = tied

    def _take(self, part: str, *, whole: bool) -> None:
        """Take the keys of a part: all, or those that are not there yet and not ``hidden_size``."""
        inner = self.values.get(part)
        if not isinstance(inner, Mapping):
            return
        taken = {key: value for key, value in inner.items() if value is not None and (value or key not in KEYS)}
        if not whole:
            taken = {key: value for key, value in taken.items() if key not in self.values and key != "hidden_size"}
        self.values |= taken

    def number(self, *keys: str, default: int | None = None, least: int = 0, most: int = MOST) -> int:
        """Return the first of the keys that is there, as a whole number of ``least`` to ``most``."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, list) and value and len(set(map(str, value))) == 1:
                value = value[0]  # one number per layer, all the same
            if value is None:
                continue
            return self.checked(key, value, least, most)
        if default is None:
            raise ConfigError(f"{self.where} lacks the key {keys[0]!r}{self._others(keys)}")
        return default

    def checked(self, key: str, value: object, least: int = 0, most: int = MOST) -> int:
        """Return a value as a whole number.

        Raises:
            ConfigError: it is none, or out of bounds.
        """
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{self.where}: {key} is {_short(value)}: it must be a whole number of at least {least}")
        if value > most:
            raise ConfigError(f"{self.where}: {key} is {_short(value)}: it must be at most {most:,}")
        return value

    def listed(self, key: str) -> list[Any]:
        """Return the list under a key, empty when there is none."""
        value = self.values.get(key)
        return value if isinstance(value, list) else []

    def per_layer(self, key: str, layers: int) -> list[Any]:
        """Return a list with an entry for each layer, empty when there is none.

        Entries for the layers that predict further tokens (``num_nextn_predict_layers``) may follow.

        Raises:
            ConfigError: its length is another.
        """
        value = self.listed(key)
        if value and len(value) not in (layers, layers + self.number(*PREDICTING, default=0)):
            raise ConfigError(f"{self.where}: {key} has {len(value)} entries for {layers} layers: give one for each")
        return value[:layers]

    def indices(self, key: str, layers: int, first: int = 0) -> tuple[int, ...]:
        """Return a list of layers, counted from ``first``, ascending, once each, without those beyond the last.

        Raises:
            ConfigError: an entry is no whole number.
        """
        found = {self.checked(f"an entry of {key}", value, first) - first for value in self.listed(key)}
        return tuple(sorted(layer for layer in found if layer < layers))

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.values.get(key)
        return default if value is None else bool(value)

    def _others(self, keys: tuple[str, ...]) -> str:
        return f" (or {', '.join(map(repr, keys[1:]))})" if keys[1:] else ""


def _short(value: object) -> str:
    """Return a value as it is written, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}..."
