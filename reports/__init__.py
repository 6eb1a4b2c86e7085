"""Reports: what the commands write as JSON or Parquet, on one page that needs nothing else."""

from lrcsim.reports.make import make_page
from lrcsim.reports.page import Page, page_html
from lrcsim.reports.read import Inputs, read_inputs

__all__ = ["Inputs", "Page", "make_page", "page_html", "read_inputs"]
