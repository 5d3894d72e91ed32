"""A model that is loaded, and what is drawn with it: requests, batches, samples as files."""
