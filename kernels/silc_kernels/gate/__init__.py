"""What the compiler made of the kernels, without a GPU: `python -m silc_kernels.gate`."""
