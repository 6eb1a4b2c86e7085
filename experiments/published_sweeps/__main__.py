"""`python -m lrcsim.experiments.published_sweeps`: the tables of this folder's README."""

from lrcsim.experiments.published_sweeps.explain import main

if __name__ == "__main__":
    main()
