"""Routing rules on the checkpoint of the model family, in a closed loop: quality against speed."""
