"""Routing traces: which experts every token used, at every MoE layer, in every request."""

from lrcsim.traces.check import Problem, check_file
from lrcsim.traces.hdf5 import TraceWriter
from lrcsim.traces.layers import LayerTable
from lrcsim.traces.trace import DECODE, PREFILL, RoutingTrace

__all__ = ["DECODE", "PREFILL", "LayerTable", "Problem", "RoutingTrace", "TraceWriter", "check_file"]
