"""Which positions the rows of a server's answer are, where it gives several counts of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.errors import TraceError
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


def placed(
    wire: Wire,
    *,
    prompts: list[int | None],
    mades: list[int | None],
    start: int | None,
    cached: int | None,
    aborted: bool,
    prompt_ids: list[int] | None,
    made_ids: list[int] | None,
) -> Routed:
    """Choose among the counts that an answer gives those that go with the rows.

    Lists of ids come before sums; where the two differ (a stop string cut tokens off, an image stands for many), the
    first pair with which the rows are complete is taken, else the first that is possible. More cached tokens than the
    prompt has are no count of this prompt: SGLang once added those of all choices, and those of each time that it took
    up a request again for which it had run out of memory.
    """
    if wire.start is not None:
        start = wire.start
    prompts = [count for count in dict.fromkeys(prompts) if count is not None] or [None]
    mades = [count for count in dict.fromkeys(mades) if count is not None] or [None]
    overcounted = 0
    if cached is not None and prompts != [None] and cached > max(count or 0 for count in prompts):
        overcounted, cached = cached, None
    possible: list[Sent] = []
    refused: TraceError | None = None
    for prompt in prompts:
        for made in mades:
            sent = Sent(len(wire.experts), prompt, made, start, cached, aborted)
            try:
                ran = settle(sent)
            except TraceError as error:
                refused = refused or error
                continue
            if ran.start == (start or 0) and not ran.surplus and not ran.aborted:
                return Routed(wire.experts, sent, prompt_ids, made_ids, overcounted=overcounted)
            possible.append(sent)
    if possible:
        return Routed(wire.experts, possible[0], prompt_ids, made_ids, overcounted=overcounted)
    if wire.start is not None and mades != [None]:
        sent = Sent(len(wire.experts), prompts[0], None, start, cached, aborted)
        try:
            settle(sent)
        except TraceError:
            pass
        else:  # the array says itself where its rows are, the counts are of something else
            return Routed(wire.experts, sent, prompt_ids, made_ids, disputed=True, overcounted=overcounted)
    hint = "; check --num-layers and --top-k" if wire.flattened else ""
    raise TraceError(f"{refused}{hint}")
