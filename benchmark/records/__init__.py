"""What a run leaves behind: identities, the record's schema, provenance, predictions and the store (torch-free)."""
