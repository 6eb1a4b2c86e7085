"""Quality against speed: a model run with routing rules and a cache in it."""
