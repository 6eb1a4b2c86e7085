"""The same caches compiled with numba: at one capacity, or at every capacity in one pass."""

from lrcsim.base.compiling import watch

watch()
