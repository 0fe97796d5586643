"""Real trained models out of registry packages: files, calibration data, disjoint test data, scores."""
