"""Profiles from measurements: of the machine at hand (`of_machine`), and from a run that was timed (`from_run`)."""

import lrcsim.base.ready  # noqa: F401  # before numba
