"""One file per table. Each has a TITLE, and run(options), which yields rows."""
