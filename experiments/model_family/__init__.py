"""A family of small Mixture-of-Experts language models, trained from scratch, and the traces recorded from them."""
