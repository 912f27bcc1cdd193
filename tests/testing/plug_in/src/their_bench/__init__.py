"""A method, a task and a generator of a package that genbias-bench does not know."""
