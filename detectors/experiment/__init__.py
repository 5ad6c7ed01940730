"""Experiments: is a variant better than its control, was it shared out as planned, what if there is none."""
