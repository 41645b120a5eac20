"""Measurements, side by side with the peer: `make bench`."""
