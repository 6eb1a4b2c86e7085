"""What every importer shares: its options, and what it hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.traces.layers import LayerTable

Columns = dict[str, npt.NDArray[Any]]
"""Per-token arrays of equal length, as `TraceWriter.append` takes them."""

Request = tuple[str | None, Iterator[Columns]]
"""One request: its domain, and its tokens in runs."""

Progress = Callable[[int, int], None]
"""Called with the amount of work done and the total, in any one unit."""


class Likely(NamedTuple):
    """What is known of the model that a file is of, for what neither the file nor the user says.

    Attributes:
        model: its name, for notices.
        num_experts: routed experts per layer, E; taken where every id fits.
        top_k: experts per token.
    """

    model: str
    num_experts: int
    top_k: int


@dataclass(frozen=True)
class Options:
    """What the user may say about a file to import; an importer refuses what it has no use for.

    Attributes:
        columns: for `table`, the file's name of each column (``{"request": "turn"}``).
        num_experts: routed experts per layer, E.
        num_layers: layers recorded per token, where the file does not say.
        top_k: experts per token, where the file does not say.
        prompt_tokens: the first N tokens of each request are prefill (``"20"``), or the column that says how many.
        phase: ``"prefill"`` or ``"decode"`` for all tokens of a file without phases, ``"none"`` to leave phases out.
        layer_first: for arrays: the axes are [layers, tokens, k].
        expert_bytes: bytes of one expert.
        model: name of the model.
        cached_prefix: prompt tokens out of a server's prefix cache, ``"drop"`` (did not run) or ``"keep"`` (count as
            run); None: as the file says.
        stop_on_error: refuse a file in which a request has no routing, in place of leaving the request out.
        keep_zero_layers: keep layers of top-1 models whose ids are all 0, in place of taking them for dense ones.
        drop_zero_rows: take tokens with expert 0 at every rank of every layer as not recorded.
        likely: of the model, where it is a known one.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    num_experts: int | None = None
    num_layers: int | None = None
    top_k: int | None = None
    phase: str | None = None
    prompt_tokens: str | None = None
    layer_first: bool | None = None
    expert_bytes: int | None = None
    model: str | None = None
    cached_prefix: str | None = None
    stop_on_error: bool = False
    keep_zero_layers: bool = False
    drop_zero_rows: bool = False
    likely: Likely | None = None

    def __post_init__(self) -> None:
        if self.cached_prefix not in (None, "drop", "keep"):
            raise ConfigError(f"cached-prefix {self.cached_prefix!r} is not known, use 'drop' or 'keep'")
        if self.phase not in (None, "prefill", "decode", "none"):
            raise ConfigError(f"phase {self.phase!r} is not known, use 'prefill', 'decode' or 'none'")
        if self.prompt_tokens is not None and self.prompt_tokens.isdecimal() and len(self.prompt_tokens) > 18:
            raise ConfigError(f"prompt-tokens must be below 10**18, given a number of {len(self.prompt_tokens)} digits")
        for name in ("num_experts", "num_layers", "top_k", "expert_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', '-')} must be at least 1, given {value}")

    def prompt(self) -> tuple[int | None, str | None]:
        """Return what ``prompt_tokens`` says: the number of tokens, or the column that has it; None for the other."""
        said = self.prompt_tokens
        return (int(said), None) if said is not None and said.isdecimal() else (None, said)

    def given(self) -> set[str]:
        """Names of the options that the user set."""
        said = (name for name in self.__dataclass_fields__ if name != "likely")
        return {name for name in said if getattr(self, name) not in (None, {}, False)}


@dataclass
class Source:
    """A trace in a foreign format, ready to be streamed.

    Attributes:
        layers: the MoE layers.
        model: name of the model.
        requests: a function that yields the requests, in order; each is read to its end before the next.
        provenance: what the file says of its origin.
        notices: what the user should know of how the file was read; more may be added while requests are read.
        experts_guessed: whether the number of experts is only the largest id + 1.
        close: gives back what the source holds; called once, at the end.
        place: says where in the source the request is that was yielded last, for the messages of what is wrong with it.
    """

    layers: LayerTable
    model: str
    requests: Callable[[], Iterator[Request]]
    provenance: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    experts_guessed: bool = False
    close: Callable[[], None] = lambda: None
    place: Callable[[], str] | None = None


@dataclass(frozen=True)
class Format:
    """One way routing is written by other tools.

    Attributes:
        name: as `import_trace` and ``--format`` take it.
        summary: one line for help texts.
        open_source: reads what it must to know the layers, and returns a `Source`.
        matches: whether a path, and the first (uncompressed) bytes of it, look like this format.
        options: the names of the `Options` it has a use for.
    """

    name: str
    summary: str
    open_source: Callable[[Path, Options, Progress], Source]
    matches: Callable[[Path, bytes], bool]
    options: frozenset[str]
