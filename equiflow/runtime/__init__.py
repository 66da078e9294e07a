"""Services without physics that every other folder uses: memory, precision, random numbers, files, processes.

Each file is one service and imports little else; start with the one whose name you look for.
"""
