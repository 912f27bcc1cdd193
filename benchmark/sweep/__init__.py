"""Grids of runs: selection, planning, engines that run cells somewhere, and the sweep that drives them."""
