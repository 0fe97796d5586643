"""Inputs for `tools/fuzz.py`: hostile and broken models, calibration data, recipes and command lines."""
