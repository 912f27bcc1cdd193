"""The contract suite that adapters and tasks must pass, shipped to whoever writes one; and how one begins."""
