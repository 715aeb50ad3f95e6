"""Text, JSON and YAML from outside, within bounds, and plain values as typed objects."""
