"""The icon data set: packages, drawings, captions and the split, one idea a file; ``prepare.py`` puts them together."""
