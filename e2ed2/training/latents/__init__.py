"""What is trained on: images and captions, as latents and embeddings, in memory, online or from a cache."""
