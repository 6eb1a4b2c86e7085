"""Puts this folder on the path: tests of every folder below import its ``helpers`` and ``machines``."""
