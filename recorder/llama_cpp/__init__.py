"""Routing out of real llama.cpp: its library, what it routes, and a recording of it."""
