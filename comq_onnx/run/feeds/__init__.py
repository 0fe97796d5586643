"""Calibration data as people have them: pictures, text, sounds, torch's data sets, functions of their own."""
