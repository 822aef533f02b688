"""What the network sees: architectures, weights, predictions, and the lesions in them."""
