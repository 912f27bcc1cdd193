"""Tuning: a search of a method's declared space by the rules of protocol §3, on validation images alone."""
