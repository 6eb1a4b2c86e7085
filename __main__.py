"""`python -m lrcsim`, and `lrcsim`: the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; somebody who interrupts it before it is even there is answered as later: exit 130."""
    try:
        from lrcsim.cli.main import main as run
    except KeyboardInterrupt:
        print("Aborted.", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
