"""`python -m interp`: the command `interp`, where its script is not on the path."""

from interp.commands import main

if __name__ == "__main__":
    main()
