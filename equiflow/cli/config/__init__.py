"""Config files: every key with its default and meaning (`schema`), read (`file`) and written (`render`)."""
