"""Start and result side by side: on the data's captions, and on prompts outside them, which should stay as they were.

Both are protocols like any other, in `RUN/evaluation/new.yaml` and `old.yaml`. The images of the first are compared
with those trained on, the second's with the start's own of the same prompts from other noise: a model that has lost
nothing is as near to them as the start itself.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from e2ed2.data.batch import spread
from e2ed2.data.captions import read_captions
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.finetune.starts import Start
from e2ed2.recipe.config import Config
from e2ed2.reports.comparisons import changes_of, table_of
from e2ed2.reports.page import data_uri
from e2ed2.sampling.folder import read_images
from e2ed2.system.drawing.pictures import png_bytes, to_picture
from e2ed2.system.files import write_file
from e2ed2.system.processes import ALONE
from e2ed2.system.watch import Watch
from e2ed2.training.loop import Say
