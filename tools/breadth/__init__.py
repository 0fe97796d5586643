"""What becomes of many models: the same road for each, and one word for how it ended."""
