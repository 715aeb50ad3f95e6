"""Checkpoints in one file, as their authors and ComfyUI have them, by diffusers' own converters; never unpickled."""
