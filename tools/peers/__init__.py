"""Other quantizers, each in an environment of its own, on the models and the data of the zoo."""
