"""`python -m lrcsim.experiments.measured_run FOLDER`: the table and the figure of this folder's README."""

from lrcsim.experiments.measured_run.compare import main

if __name__ == "__main__":
    main()
