"""`python -m beit.cli`, for torchrun."""

from beit.cli import program

program()
