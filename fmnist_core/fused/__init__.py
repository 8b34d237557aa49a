"""Fused seeds: the R seeds of a cell as one module."""
