"""What the segmentation tasks share: sliding windows, labels of patches, a decoder, intersection over union."""
