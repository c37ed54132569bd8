"""What a trained model can do, measured on all ranks."""
