"""The parts of time_to_quality.py: one file a system, one for the distance, one for the tables."""
