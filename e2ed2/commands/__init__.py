"""One file a verb of the `e2ed2` command: it parses, calls the package and prints.

Floor 12. Everything heavy is imported inside the verbs, so that `e2ed2 --help` answers at once. What a program reads
goes to stdout, everything else to stderr.
"""
