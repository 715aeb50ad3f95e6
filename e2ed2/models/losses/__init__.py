"""Networks that losses look with, which never measure."""
