"""A hardware profile from the times of a recorded run."""
