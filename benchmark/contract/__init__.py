"""What a method is, what it is given and what it must not use (torch-free)."""
