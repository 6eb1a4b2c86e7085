"""Reports: what the commands write as JSON or Parquet, on one page that needs nothing else."""

from lrcsim.reports.blocks import Page
from lrcsim.reports.build_page import make_page
from lrcsim.reports.inputs import Inputs, read_inputs
from lrcsim.reports.page import page_html

__all__ = ["Inputs", "Page", "make_page", "page_html", "read_inputs"]
