"""Adapters: one file per method, found by its name; a leading underscore is no method."""
