"""The command line: data goes to stdout, words to stderr, outcomes to exit codes."""
