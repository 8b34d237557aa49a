"""Triton kernels of this project, and the check that they give what PyTorch gives."""
