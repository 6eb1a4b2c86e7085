"""An eager engine on an H200: one run fitted, the others predicted."""
