"""What any program needs, and nothing of the subject: errors, files written whole, readers of text, JSON and YAML.

Floor 1. Imports nothing of ours; the hall's paper (schedule, samplers, trajectory, objectives) stands beside it.
"""
