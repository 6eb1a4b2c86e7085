"""The figures and tables of arXiv 2505.16056 on any traces, with the published numbers beside them; see README.md."""
