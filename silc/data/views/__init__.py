"""Views of an image: crops and the photometric list, on the host or left to the device."""
