"""A prompt and some decoded tokens, timed by the processor's clock of the thread; cells repeated in rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lrcsim.recorder.llama_cpp.library import Context

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Clock(NamedTuple):
    """Seconds: of this thread and of all threads of this process on a processor, and on the wall."""

    thread: float
    process: float
    wall: float

    @staticmethod
    def now() -> Clock:
        """Read the clocks."""
        return Clock(time.thread_time(), time.process_time(), time.perf_counter())

    def since(self, then: Clock) -> Clock:
        """Return what has passed."""
        return Clock(*(now - before for now, before in zip(self, then, strict=True)))


@dataclass(frozen=True)
class Work:
    """What one repetition computes.

    Attributes:
        prompt: tokens of the prompt, one step.
        decode: tokens decoded after it, a step each.
    """

    prompt: int = 128
    decode: int = 64


@dataclass(frozen=True)
class Reading:
    """One repetition.

    Attributes:
        prompt: seconds of the prompt.
        decode: seconds of each decoded token.
    """

    prompt: Clock
    decode: tuple[Clock, ...]

    def seconds(self, clock: str = "thread") -> tuple[float, float]:
        """Return seconds of the prompt, and mean seconds of a decoded token, by one of the clocks."""
        return getattr(self.prompt, clock), float(np.mean([getattr(token, clock) for token in self.decode]))

    def helped(self) -> float:
        """Return the processor time of other threads, as a share of all: llama.cpp is to compute on this one alone."""
        parts = (self.prompt, *self.decode)
        return 1 - sum(part.thread for part in parts) / sum(part.process for part in parts)


def read(context: Context, work: Work, seed: int) -> Reading:
    """Run a prompt and decode after it, tokens drawn at random, and time both.

    Args:
        context: with room for both; it is emptied first.
        work: how many tokens.
        seed: of the tokens.
    """
    tokens: list[int] = (
        np.random.default_rng(seed).integers(context.model.vocab, size=work.prompt + work.decode).tolist()
    )
    context.clear()
    prompt = _timed(context, tokens[: work.prompt])
    return Reading(prompt, tuple(_timed(context, [token]) for token in tokens[work.prompt :]))


def rounds(cells: Mapping[Key, Callable[[int], Value]], repetitions: int, seed: int = 0) -> dict[Key, list[Value]]:
    """Measure each cell once per round, in random order, so that what changes on the machine meets all alike.

    Args:
        cells: what to call, with the number of the round; before, each is called once and not kept, so that its pages
            are there.
        repetitions: rounds.
        seed: of the order.
    """
    order, names = np.random.default_rng(seed), list(cells)
    found: dict[Key, list[Value]] = {name: [] for name in names}
    for measure in cells.values():
        measure(repetitions)
    for number in range(repetitions):
        for place in order.permutation(len(names)).tolist():
            found[names[place]].append(cells[names[place]](number))
    return found


def core_reads(size: int = 256 << 20, times: int = 9) -> float:
    """Return the bytes/s at which this core reads memory: the median of dot products of a vector with itself.

    The fastest of numpy's own loops over memory here; a lower bound of what the core can.

    Args:
        size: bytes of the vector, several times the last cache.
        times: products.
    """
    vector = np.ones(size // 4, np.float32)
    seconds = []
    for _ in range(times):
        begun = time.thread_time()
        np.dot(vector, vector)
        seconds.append(time.thread_time() - begun)
    return size / float(np.median(seconds))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, p10, p90 and the least."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"median": float(middle), "p10": float(low), "p90": float(high), "least": float(min(values))}


def summary(readings: Sequence[Reading]) -> dict[str, Any]:
    """Return, as JSON values, the spread of seconds of prompt and token by the thread's clock and on the wall."""
    result: dict[str, Any] = {"repetitions": len(readings), "helped": max(one.helped() for one in readings)}
    for place, name in enumerate(("prompt_s", "token_s")):
        result[name] = spread([one.seconds()[place] for one in readings])
        result[f"{name[:-2]}_wall_s"] = spread([one.seconds("wall")[place] for one in readings])
    return result


def _timed(context: Context, tokens: Sequence[int]) -> Clock:
    begun = Clock.now()
    context.run(tokens)
    return Clock.now().since(begun)
