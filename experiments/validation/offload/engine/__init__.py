"""An engine that really offloads the experts of a real model's size to host memory, on one GPU; see ../README.md."""
