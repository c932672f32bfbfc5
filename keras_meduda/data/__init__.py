"""Data: case tables, files, intensity and geometry, training batches, phantoms."""
