"""Metrics, protocols and tables of the paper's evaluation."""
