"""Roles, whatever the architecture: denoiser, autoencoder, text encoder."""
