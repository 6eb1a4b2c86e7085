"""In which order the tensors of a layer's experts are computed: gate, up and down, where each is waited for by itself.

A stage is one tensor of every expert of the layer. Its residents are computed when it opens, the others as they arrive.
The next stage opens when all of one have arrived. With one stage, an expert is computed when it is there.
"""

from __future__ import annotations

from collections.abc import Callable


class Stages:
    """Tells when which expert is to be computed.

    Args:
        number: of stages.
        compute: called with an expert's key, once for each stage.
    """

    def __init__(self, number: int, compute: Callable[[int], None]) -> None:
        self.number = number
        self._compute = compute
        self.begin()

    def begin(self) -> None:
        """Prepare for a layer-step."""
        self._open = 0
        self._residents: list[int] = []
        self._arrived: list[list[int]] = [[] for _ in range(self.number)]
        self._missing = [0] * self.number

    def expect(self) -> None:
        """Count an expert that is still to come, before anything arrives."""
        for stage in range(self.number):
            self._missing[stage] += 1

    def resident(self, key: int) -> None:
        """Take an expert that is there."""
        self._residents.append(key)
        self._compute(key)

    def arrived(self, key: int, stage: int | None) -> None:
        """Take one tensor of an expert that was expected; ``stage`` None: all of them."""
        for one in range(self.number) if stage is None else (stage,):
            self._missing[one] -= 1
            if one == self._open:
                self._compute(key)
            else:
                self._arrived[one].append(key)
        self.advance()

    def advance(self) -> None:
        """Open the next stages, as long as all of one have arrived."""
        while self._open + 1 < self.number and not self._missing[self._open]:
            self._open += 1
            for key in (*self._residents, *self._arrived[self._open]):
                self._compute(key)
