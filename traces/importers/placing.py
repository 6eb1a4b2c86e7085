"""Which positions the rows of a server's answer are, where it gives several counts of its tokens."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.wire import Wire
from lrcsim.traces.what_ran import Sent, settle


@dataclass
class Routed:
    """Routing of one request, as a server returned it.

    Attributes:
        experts: int32 [rows, layers, k], -1 where not recorded.
        sent: what the server says of the rows.
        prompt_ids: token ids of the prompt, or None.
        made_ids: token ids generated, or None.
        disputed: whether the array's own start contradicts the number of generated tokens, which is then left aside.
        overcounted: cached tokens said, where they are more than the prompt has and so are left aside; else 0.
    """

    experts: npt.NDArray[np.int32]
    sent: Sent
    prompt_ids: list[int] | None = None
    made_ids: list[int] | None = None
    disputed: bool = False
    overcounted: int = 0


@dataclass
class Said:
    """Everything that an answer says of the rows of one request; None where it does not.

    Attributes:
        wire: the rows.
        prompt_ids: token ids of the prompt.
        made_ids: token ids generated.
        prompt: tokens of the prompt, as a count.
        made: generated tokens, as a count.
        start: position of the first row.
        cached: prompt tokens out of the prefix cache.
        aborted: whether the request ended before it was complete.
        prompt_rows: rows that are the prompt's, where they came apart.
    """

    wire: Wire
    prompt_ids: list[int] | None
    made_ids: list[int] | None
    prompt: int | None
    made: int | None
    start: int | None
    cached: int | None
    aborted: bool
    prompt_rows: int | None = None

    def placed(self) -> Routed:
        """Choose among the counts those that go with the rows.

        Lists of ids come before sums; where the two differ (a stop string cut tokens off, an image stands for many),
        the first pair with which the rows are complete is taken, else the first that is possible. More cached tokens
        than the prompt has are no count of this prompt: SGLang once added those of all choices, and those of each time
        that it took up a request again for which it had run out of memory.

        Raises:
            TraceError: the counts are impossible.
        """
        rows = len(self.wire.experts)
        start = self.start if self.wire.start is None else self.wire.start
        prompts, mades = _counts(self.prompt_ids, self.prompt), _counts(self.made_ids, self.made)
        cached, overcounted = self.cached, 0
        if cached is not None and prompts != [None] and cached > max(count or 0 for count in prompts):
            overcounted, cached = cached, None
        possible: Sent | None = None
        refused: TraceError | None = None
        disputed = False
        for prompt, made in itertools.product(prompts, mades):
            sent = Sent(rows, prompt, made, start, cached, self.aborted)
            try:
                ran = settle(sent)
            except TraceError as error:
                refused = refused or error
                continue
            if ran.start == (start or 0) and not ran.surplus and not ran.aborted:
                possible = sent
                break
            possible = possible or sent
        if possible is None and self.wire.start is not None and mades != [None]:
            sent = Sent(rows, prompts[0], None, start, cached, self.aborted)
            with suppress(TraceError):
                settle(sent)  # the array says itself where its rows are, the counts are of something else
                possible, disputed = sent, True
        if possible is None:
            raise TraceError(f"{refused}{'; check --num-layers and --top-k' if self.wire.flattened else ''}")
        return Routed(self.wire.experts, possible, self.prompt_ids, self.made_ids, disputed, overcounted)


def _counts(ids: list[int] | None, count: int | None) -> list[int | None]:
    """Return the counts that there are, each once: the length of a list of ids, and a number; ``[None]`` for none."""
    known: list[int | None] = [number for number in (None if ids is None else len(ids), count) if number is not None]
    return list(dict.fromkeys(known)) or [None]
