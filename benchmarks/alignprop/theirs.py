"""AlignProp's trainer on a folder, in an environment with TRL 0.23; prints processor seconds of each update.

python theirs.py '{"folder": ..., "steps": 4, "rows": 8, "updates": 4}'
"""

import json
import os
import sys
import time

os.environ["ACCELERATE_USE_CPU"] = "true"

from reward import distance
from trl import AlignPropConfig, AlignPropTrainer, DefaultDDPOStableDiffusionPipeline


def main() -> None:
    asked = json.loads(sys.argv[1])
    pipeline = DefaultDDPOStableDiffusionPipeline(asked["folder"], use_lora=False)
    pipeline.set_progress_bar_config(disable=True)
    config = AlignPropConfig(
        num_epochs=asked["updates"], sample_num_steps=asked["steps"], sample_eta=0.0, sample_guidance_scale=2.0,
        train_batch_size=asked["rows"], train_gradient_accumulation_steps=1, mixed_precision="no",
        save_freq=10**6, log_image_freq=10**6,
        truncated_backprop_rand=False, truncated_backprop_timestep=0, train_learning_rate=1e-5,
    )  # fmt: skip

    def reward(images, prompts, told):
        return -distance(2 * images - 1, prompts), {}

    trainer = AlignPropTrainer(
        config, reward, lambda: ("a picture", {}), pipeline, image_samples_hook=lambda *told: None
    )
    times = [time.process_time()]
    for epoch in range(asked["updates"]):
        trainer.step(epoch, epoch)
        times.append(time.process_time())
    print(json.dumps([later - earlier for earlier, later in zip(times, times[1:], strict=False)]))


main()
