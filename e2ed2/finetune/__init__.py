"""`e2ed2 finetune`: a few-step model moved to the user's images, its steps kept.

Floor 10. Imports what trains, samples and evaluates; knows nothing of the demo.
"""
