"""Running a model: sessions with pinned options, calibration data, half-precision models on a CPU."""
