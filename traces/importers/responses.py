"""JSON responses of inference servers: the shared half of the `vllm` and `sglang` importers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.answers import Answer, read_answer
from lrcsim.traces.importers.common import RUN, guessed_experts, named_after
from lrcsim.traces.importers.files import named_while
from lrcsim.traces.importers.json_objects import objects
from lrcsim.traces.importers.placing import Routed
from lrcsim.traces.importers.prefixes import Prefixes, row_marks
from lrcsim.traces.importers.served_layers import ServedLayers, zero_rows
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.importers.streams import joined
from lrcsim.traces.layers import LayerTable
from lrcsim.traces.what_ran import Ran, Tally, lay_out, phases, settle

NOT_SENT_PER_BYTE = 64
"""Positions without routing, for each byte of a file and above a million: more is a number that went wrong."""


def open_responses(path: Path, options: Options, progress: Progress, files: Sequence[Path] = ()) -> Source:
    """Read the responses (of a file, or of a folder's ``files``) once for the layers; return what reads them again."""
    if path.is_dir() and not files:
        raise TraceError(f"{path}: is a folder, name a file of responses")
    files = files or [path]
    size = sum(file.stat().st_size for file in files if file.exists())
    reading = _Reading(files, options, size)
    layers = ServedLayers(path)
    for entry in reading.entries(lambda done: progress(done, 2 * size)):
        layers.add(entry.where, entry.routed, entry.ran.start, entry.model)
    notices = reading.notices()
    shape, blocks = layers.settle(options, notices, reading.first_skipped)
    experts = options.num_experts
    if experts is None:
        experts = guessed_experts(layers.largest, notices, options.likely)
    table = LayerTable.build(len(blocks), experts, shape[1], expert_bytes=options.expert_bytes, block=blocks)
    place = [str(path)]

    def requests() -> Iterator[Request]:
        for entry in _Reading(files, options, size).entries(lambda done: progress(size + done, 2 * size)):
            place[0] = entry.where
            yield entry.domain, _runs(entry, blocks, options.phase, layers.with_ids)

    return Source(table, layers.model or named_after(path), requests, notices=notices, place=lambda: place[0])


@dataclass
class _Entry:
    """One request of the file, and where its rows belong."""

    where: str
    routed: Routed
    ran: Ran
    model: str | None
    domain: str | None


class _Reading:
    """One pass over the responses of a file, or of several as if they were one."""

    def __init__(self, files: Sequence[Path], options: Options, size: int) -> None:
        self.files, self.options = files, options
        self.tally = Tally()
        self.skipped, self.first_skipped = 0, ""
        self.most_not_sent = NOT_SENT_PER_BYTE * size + (1 << 20)
        self.repeated = self.repeated_of = self.kept = self.disputed = self.shared_cache = self.unsent_choices = 0
        self.untold = self.overcounted = self.one_for_choices = self.run_before = 0
        self._by_ids, self._by_rows = Prefixes(), Prefixes()

    def entries(self, report: Callable[[int], None]) -> Iterator[_Entry]:
        """Yield the requests that have routing."""
        before = 0
        for file in self.files:
            found = objects(file, partial(lambda others, done: report(others + done), before))
            for number, response in enumerate(joined(named_while(file, found)), start=1):
                yield from self._entries_of(f"{file}: response {number}", response)
            before += file.stat().st_size

    def _entries_of(self, where: str, response: dict[str, Any]) -> list[_Entry]:
        try:
            answer = read_answer(response, self.options)
            self._skip(where, answer)
            entries = []
            for routed in answer.routed:
                if self.options.drop_zero_rows:
                    routed.experts[zero_rows(routed)] = -1
                entries.append(_Entry(where, routed, self._settle(routed), answer.model, answer.domain))
            return entries
        except TraceError as error:
            raise TraceError(f"{where}: {error}") from None
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TraceError(f"{where} is not of the form that servers send ({str(error)[:120]})") from None

    def _skip(self, where: str, answer: Answer) -> None:
        self.shared_cache += answer.shared_cache
        self.one_for_choices += answer.one_for_choices
        self.run_before += answer.run_before
        self.unsent_choices += answer.unsent_choices
        for reason in answer.without:
            if self.options.stop_on_error:
                raise TraceError(f"{reason} (--stop-on-error)")
            self.skipped += 1
            self.first_skipped = self.first_skipped or f"{where}: {reason}"

    def _settle(self, routed: Routed) -> Ran:
        """Say what ran of a request, after the user's word on cached prefixes; count it."""
        sent = routed.sent
        if sent.cached is not None:
            if self.options.cached_prefix == "keep":
                self.kept += sent.cached
                sent = replace(sent, cached=0)
        else:
            repeated = self._repeats(routed)
            if repeated and self.options.cached_prefix == "drop":
                sent = replace(sent, cached=repeated)
        ran = settle(sent)
        self._remember(routed, ran)
        if ran.prompt is None and self.options.phase is None:
            raise TraceError("does not say how many tokens its prompt has; give --phase none to import without phases")
        self.disputed += routed.disputed
        self.overcounted += routed.overcounted > 0
        self.tally.add(ran, told=routed.sent.cached is not None)
        if self.tally.not_sent > self.most_not_sent:
            raise TraceError(
                f"the file says of {self.tally.not_sent:,} tokens that they come before the first row, "
                f"which is too much for its size (allowed {self.most_not_sent:,})"
            )
        return ran

    def _repeats(self, routed: Routed) -> int:
        """Return how many tokens of a prompt repeat earlier requests, and count them."""
        ids, prompt = routed.prompt_ids, 0
        if ids is not None:
            prompt, shared = len(ids), self._by_ids.shared(ids)
        else:
            ran = settle(routed.sent)
            if ran.start > 0 or not len(routed.experts) or routed.experts[0].max() < 0:
                self.untold += 1
                return 0
            prompt = ran.tokens if ran.prompt is None else ran.prompt
            shared = self._by_rows.shared(row_marks(routed.experts[:prompt]))
        if not Prefixes.tells(shared, prompt, by_rows=ids is None):
            return 0
        self.repeated += shared
        self.repeated_of += prompt
        return shared

    def _remember(self, routed: Routed, ran: Ran) -> None:
        """Keep what a request ran, for `_repeats` of later ones."""
        ids = routed.prompt_ids
        if ids is not None:
            self._by_ids.add([*ids, *(routed.made_ids or [])][: max(ran.tokens, len(ids))])
        elif ran.start == 0:
            self._by_rows.add(row_marks(routed.experts))

    def notices(self) -> list[str]:
        """Say what was left out, and what cannot be told."""
        said: list[str] = []
        if self.skipped:
            said.append(
                f"{self.skipped:,} request{'s' * (self.skipped != 1)} without routing skipped, the first "
                f"at {self.first_skipped}; --stop-on-error refuses such a file"
            )
        if self.unsent_choices:
            said.append(
                f"{self.unsent_choices:,} further choice{'s' * (self.unsent_choices != 1)} (n > 1) without routing: "
                "the server sends the first choice's only"
            )
        said += self.tally.notices()
        if self.kept:
            said.append(
                f"{self.kept:,} prompt tokens came out of the prefix cache and count as run (--cached-prefix keep)"
            )
        if self.shared_cache:
            said.append(
                f"{self.shared_cache:,} response{'s give' if self.shared_cache != 1 else ' gives'} cached_tokens of "
                "several prompts in one sum: it cannot be told whose they are, all count as run"
            )
        if self.one_for_choices and self.options.cached_prefix is None:
            said.append(
                f"{self.one_for_choices:,} response{'s give' if self.one_for_choices != 1 else ' gives'} one "
                "cached_tokens for several choices (n > 1), and it was taken for each: of one of them more may have run"
            )
        if self.run_before:
            said.append(
                f"{self.run_before:,} response{'s have' if self.run_before != 1 else ' has'} several choices (n > 1) "
                "of a prompt that SGLang ran once before them and then counted as cached: it was taken as run"
            )
        if self.overcounted:
            said.append(
                f"{self.overcounted:,} of {self.tally.requests:,} requests have more cached_tokens than their prompt "
                "has tokens (sums over choices, or over restarts of a request): it was left aside"
            )
        if self.repeated and self.options.cached_prefix is None:
            said.append(
                f"{self.repeated:,} of {self.repeated_of:,} prompt tokens repeat earlier requests, and their responses "
                "have no cached_tokens of their own: whether they ran or came out of a prefix cache cannot be told, "
                "they count as run. --cached-prefix drop leaves them out (-1), --cached-prefix keep counts them "
                "without this note"
            )
        if self.untold and self.options.cached_prefix == "drop":
            said.append(
                f"{self.untold:,} of {self.tally.requests:,} requests have neither cached_tokens nor token ids nor the "
                "routing of their first tokens: what came out of a prefix cache cannot be told, --cached-prefix drop "
                "left nothing out of them"
            )
        if self.disputed:
            said.append(
                f"{self.disputed:,} of {self.tally.requests:,} requests have routing whose own start contradicts the "
                "number of generated tokens; the start was taken"
            )
        return said


def _runs(entry: _Entry, blocks: npt.NDArray[np.intp], given: str | None, with_ids: bool) -> Iterator[Columns]:
    routed, ran = entry.routed, entry.ran
    experts = routed.experts[:, blocks]
    columns: Columns = {}
    phase = phases(ran)
    if phase is not None and given != "none":
        columns["phase"] = phase
    if with_ids:
        ids = np.full(ran.tokens, -1, np.int32)
        known = [*(routed.prompt_ids or []), *(routed.made_ids or [])][: ran.tokens]
        ids[: len(known)] = known
        columns["token_ids"] = ids
    for low in range(0, ran.tokens, RUN):
        run = {name: values[low : low + RUN] for name, values in columns.items()}
        yield {"experts": lay_out(experts, ran, low, low + RUN), **run}
