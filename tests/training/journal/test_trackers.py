"""Trackers other than TensorBoard, which tests/training/test_loop.py has: what they are given, and where they write."""

from types import SimpleNamespace

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image

from e2ed2.training.journal.trackers import begin_trackers, log_pictures


def stand_in(name: str, made: dict):
    """A tracker of accelerate's that keeps what it is told."""

    class Tracker(GeneralTracker):
        requires_logging_directory = False

        def __init__(self, project, **options):
            super().__init__()
            made[name] = SimpleNamespace(project=project, options=options, calls=[])

        def __getattribute__(self, asked):
            if asked == "name":
                return name
            if asked in ("log_images", "log_artifact"):
                return lambda *args, **options: made[name].calls.append((asked, args, options))
            return super().__getattribute__(asked)

        tracker = None

        def start(self):
            pass

        store_init_configuration = log = lambda self, *args, **options: None

    Tracker.name = name
    return Tracker


def test_every_tracker_gets_pictures_and_writes_inside_the_run_folder(tiny, tmp_path, monkeypatch):
    made: dict = {}
    for name in ("wandb", "mlflow", "clearml"):
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, stand_in(name, made))
    config = tiny()
    accelerator = Accelerator()
    accelerator.log_with = ["wandb", "mlflow", "clearml"]
    begin_trackers(accelerator, config.model_copy(update={"train": config.train.model_copy(update={"trackers": [1]})}))
    folder = config.run.dir / "trackers"
    assert {name: each.options for name, each in made.items()} == {
        "wandb": {"dir": str(folder)}, "mlflow": {"logging_dir": (folder / "mlflow").as_uri()}, "clearml": {},
    }  # fmt: skip
    path = tmp_path / "step-000006.png"
    Image.new("RGB", (5, 3), "red").save(path)
    log_pictures(accelerator.trackers, path, 6)
    [(_, (pictures,), options)] = made["wandb"].calls
    assert pictures["previews"].shape == (1, 3, 5, 3) and options == {"step": 6}
    assert made["mlflow"].calls == [("log_artifact", (str(path),), {"artifact_path": "previews"})]
    assert made["clearml"].calls == [], "numbers alone"
