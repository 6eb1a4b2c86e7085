"""What is run: steps, several requests at once, drafts, arrivals."""

from lrcsim.simulator.serving.batching import batched

__all__ = ["batched"]
