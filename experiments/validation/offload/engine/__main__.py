"""`python -m lrcsim.experiments.validation.offload.engine`, which `offload --gpu` is another name for."""

from __future__ import annotations

import signal
import sys

from lrcsim.base.errors import LrcsimError
from lrcsim.experiments.validation.offload.engine.command import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured stays
    try:
        main()
    except LrcsimError as error:
        sys.exit(f"Error: {error}")
