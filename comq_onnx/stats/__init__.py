"""Sums over calibration rows: the mean and the Gram matrix of what each layer's weight meets."""
