"""What the records say about the hypotheses and the questions that were written down before they were made."""
