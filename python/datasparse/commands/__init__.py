"""Commands of the shell, one a file: `add_parser()` says what it takes, `run()` does it."""
