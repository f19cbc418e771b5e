"""Progress of a training run in images: images/s and the time left, instead of steps."""

import sys

from tqdm.auto import tqdm
from transformers import ProgressCallback


class ImageProgressCallback(ProgressCallback):
    """The stock progress bar, counting images of all processes; silent where stderr is no terminal."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.images_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.current_step = state.global_step  # not 0 when training resumes: what was done then is not speed now
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps * self.images_per_step,
                initial=state.global_step * self.images_per_step,
                unit=" images",
                dynamic_ncols=True,
                disable=None,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.training_bar.update((state.global_step - self.current_step) * self.images_per_step)
            self.current_step = state.global_step

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)


__all__ = ["ImageProgressCallback"]
