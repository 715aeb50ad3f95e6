"""Networks: families of pipelines, autoencoders, text encoders, the few-step network, LoRA, model folders.

Floor 4. Imports the hall, `system` and `data`; knows no training and no evaluation.
"""
