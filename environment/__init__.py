"""Folders that compiled code and fonts are kept in, where neither the installation nor a home can be written."""
