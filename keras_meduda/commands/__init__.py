"""The commands that are no training: one a file, with its flags and what it does."""
