"""Start and result side by side: on the data's captions, and on prompts outside them, which should stay as they were.

Both are protocols like any other, `RUN/evaluation/new.yaml` and `old.yaml`. Samples of the first are compared with
the images trained on; those of the second with the start's own of the same prompts from other noise, so that a model
that has lost nothing is as near to them as the start is.
"""

import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from e2ed2.data.batch import spread
from e2ed2.data.captions import read_captions
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.models.autoencoder import decode_all, encode_all
from e2ed2.recipe.config import Config
from e2ed2.reports.comparisons import changes_of, table_of
from e2ed2.reports.page import data_uri
from e2ed2.sampling.folder import read_images, save_images
from e2ed2.system.drawing.pictures import png_bytes, to_picture
from e2ed2.system.files import atomic_folder, write_file
from e2ed2.system.processes import ALONE
from e2ed2.system.watch import Watch
from e2ed2.training.loop import Say
from e2ed2.training.stages.end_to_end import GENERAL_PROMPTS
from e2ed2.training.stages.start import export_start, load_start

NUM_PROMPTS, NUM_SHOWN, MOST_IMAGES = 96, 12, 400
