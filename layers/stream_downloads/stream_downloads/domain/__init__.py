"""Pure rules: no input or output, and the time is an argument."""
