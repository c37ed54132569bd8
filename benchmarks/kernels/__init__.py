"""The ops of silc_kernels against eager torch, torch.compile and the peers."""
