"""`python -m lrcsim.experiments.offload`: the comparison that this folder's README describes."""

from lrcsim.experiments.offload.compare import main

if __name__ == "__main__":
    main()
