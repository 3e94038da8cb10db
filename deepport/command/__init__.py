"""What the command line is made of: options, errors to exit codes, timed generation, plans, tables."""
