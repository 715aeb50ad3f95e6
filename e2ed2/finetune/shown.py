"""Start and result side by side: on the data's captions, and on prompts outside them, which should stay as they were.

Both are protocols like any other, `RUN/evaluation/new.yaml` and `old.yaml`. Samples of the first are compared with
the images trained on; those of the second with the start's own of the same prompts from other noise, so that a model
that has lost nothing is as near to them as the start is.
"""




NUM_PROMPTS, NUM_SHOWN, MOST_IMAGES = 96, 12, 400
