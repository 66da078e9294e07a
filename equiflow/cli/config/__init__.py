"""Config files: every key with its default and meaning (`schema`), read (`file`) and written (`render`)."""

#: more threads than any machine has use of; with very many, OpenMP ends the process
MOST_THREADS = 1024
