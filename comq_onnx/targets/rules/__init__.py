"""What each runtime asks of a file, as rules: a module for each runtime, and the breaches they look for."""
