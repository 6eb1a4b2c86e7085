"""Hardware profiles from measurements: of this machine, or of a recorded run."""
