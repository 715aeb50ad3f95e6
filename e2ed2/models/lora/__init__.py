"""Low-rank adapters (arXiv:2106.09685): trained on a frozen network, exported on their own, fused into a start."""
