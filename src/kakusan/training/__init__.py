"""Training: from a folder of data and a time budget to a finished model."""
