"""e2ed2: few-step generators by end-to-end training of the whole sampler (paper: E2ED2, Eq. 7)."""

__version__ = "0.1.0"
