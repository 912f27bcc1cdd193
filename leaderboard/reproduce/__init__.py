"""Reproduction: a sample of the accepted rows, made again and held against what is committed (protocol section 9)."""
