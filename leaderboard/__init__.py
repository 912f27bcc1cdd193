"""The board: records in, ranked tables with uncertainty out. Torch-free; nothing of a submission is executed."""
