"""Trainings: from data and a plan to a run's files, whatever it begins from."""
