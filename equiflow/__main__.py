"""`python -m equiflow` is the command `equiflow`."""

from equiflow.cli import main

if __name__ == "__main__":
    main()
