"""Figures of results, for commands, reports and experiments alike."""
