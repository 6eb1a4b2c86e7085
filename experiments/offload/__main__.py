"""`python -m lrcsim.experiments.offload`: the comparison that this folder's README describes."""

import signal

from lrcsim.experiments.offload.compare import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was measured is written, and the weights go
    main()
