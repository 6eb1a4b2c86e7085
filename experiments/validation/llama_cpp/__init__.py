"""llama.cpp on one thread of this machine's CPU, and what lrcsim says of it; see README.md.

One thread computes. Numpy's libraries read their number of threads when numpy is first imported, so it is set here.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
