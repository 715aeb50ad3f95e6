"""Pictures, charts, and figures as people read them."""
