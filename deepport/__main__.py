"""`python -m deepport`: what the `deepport` command does."""

from deepport.cli import main

main()
