"""The work of the functions: the domain applied through the adapters."""
