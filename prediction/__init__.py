"""Which experts a layer will use, learned from a trace: linear predictors, their recall, and what they could give."""
