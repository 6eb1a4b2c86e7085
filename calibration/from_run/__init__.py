"""A machine fitted to the first tokens of a measured run, and how well it foretells the others."""
