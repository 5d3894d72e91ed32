"""What data, models and machines are worth: checks, evaluations, comparisons."""
