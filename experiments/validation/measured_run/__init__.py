"""A measured run on a phone, and what a calibration to its first tokens says of the others; see README.md."""
