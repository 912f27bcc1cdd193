"""Audits: what only measures generated data, with auditors, probes and distances that no method may ask."""
