"""The hot loops, one module per device. `protocol` says what a backend offers; all else is written once."""
