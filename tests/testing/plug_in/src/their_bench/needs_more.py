"""Imports what its package forgot to require."""

import a_package_that_nobody_has

from genbias_bench import Method


class NeedsMore(Method):
    loss = a_package_that_nobody_has.loss
