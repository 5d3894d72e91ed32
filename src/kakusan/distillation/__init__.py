"""Fewer steps: learned times and solver weights, and students that need one to four evaluations."""
