"""How much of published speeds follows from their hit rates; see README.md."""
