"""What users touch: the Python API, the command line and what stands on them."""
