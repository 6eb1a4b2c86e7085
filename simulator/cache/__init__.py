"""One cache: its capacity, its policy, when an access is a hit."""
