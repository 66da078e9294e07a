"""Config files: every key with its default and meaning, read and written."""
