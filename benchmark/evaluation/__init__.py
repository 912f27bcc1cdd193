"""One cell: task + method → predictions → record; isolation, scoring and pictures."""
