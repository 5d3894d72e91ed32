"""What the command line is made of: the verbs by group, their options, and what they say."""
