"""A Triton backend that compiles nothing.

vLLM returns routed experts only where Triton has a backend it can use, and Triton's wheel has none for a CPU. With
``TRITON_INTERPRET=1`` Triton runs kernels as plain Python and asks a backend for nothing: it only has to be there.
"""
