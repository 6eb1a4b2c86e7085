"""Hit rate against capacity, and what follows from it."""
