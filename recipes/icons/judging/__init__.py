"""The judge of prompts: hue-shifted icons, two towers, their training, their findings; ``judge.py`` is its command."""
