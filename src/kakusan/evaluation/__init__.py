"""evaluation: is what a model draws healthy, good, and its own? Import the modules inside: health, memorisation."""
