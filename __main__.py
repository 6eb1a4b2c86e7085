"""`python -m lrcsim`: the command line."""

from lrcsim.cli.main import main

if __name__ == "__main__":
    main()
