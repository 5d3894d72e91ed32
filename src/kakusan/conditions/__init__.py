"""Conditions: encoders from what a user says to the ports of a network."""
