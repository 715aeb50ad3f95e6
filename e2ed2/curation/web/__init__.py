"""Asking strangers' servers for images: only public ones, within limits of size and time, and as their owners wish."""
