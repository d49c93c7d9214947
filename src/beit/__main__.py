"""`python -m beit`."""

from beit.cli import program

if __name__ == "__main__":
    program()
