"""Routing traces: which experts every token used, at every MoE layer, in every request."""

from lrcsim.traces.check import Problem
from lrcsim.traces.examine import check_file
from lrcsim.traces.layers import LayerTable
from lrcsim.traces.trace import DECODE, PREFILL, RoutingTrace
from lrcsim.traces.writer import TraceWriter

__all__ = ["DECODE", "PREFILL", "LayerTable", "Problem", "RoutingTrace", "TraceWriter", "check_file"]
