"""Arguments of [`MiraGeTrainer`]: the stock ones with the paper's recipe as defaults, and the method's own."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from .losses import REDUCTIONS, TEXT_ANCHORS, check_contrastive_options


@dataclass
class MiraGeTrainingArguments(TrainingArguments):
    r"""
    `transformers.TrainingArguments` with the recipe of the paper (Section 6.1, G.2) as defaults: SGD at 0.002 with
    momentum 0.9 and weight decay 5e-4, cosine annealing behind one warm-up epoch at 1e-5, 10 epochs of batches of 128,
    no gradient clipping. Momentum, weight decay and warm-up are not stated in the paper; they are those of the prompt
    learning code it builds on (CoOp, MaPLe).

    Args:
        discriminative_weight (`float`, *optional*, defaults to 0.5):
            λ of Eq. 8. With 0 the contrastive term and the memory bank are off (MaPLe's objective).
        temperature (`float`, *optional*, defaults to 0.07):
            τ of Eq. 5.
        memory_size (`int`, *optional*, defaults to 1024):
            |M|, embeddings kept by the memory bank; 0 turns it off.
        text_anchors (`str`, *optional*, defaults to `"per_sample"`):
            `"per_sample"` or `"per_class"`, see [`supervised_contrastive_loss`].
        memory_as_anchors (`bool`, *optional*, defaults to `False`):
            Whether bank entries act as anchors too.
        discriminative_reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` or `"sum"` over the anchors.
        contrast_over_accumulation (`bool`, *optional*, defaults to `True`):
            With gradient accumulation, whether the contrastive set is the whole batch of an optimizer step, at the
            cost of about one more forward pass, and not the micro-batch.
        lean_vision (`bool`, *optional*, defaults to `True`):
            Whether the vision encoder leaves out what nobody reads; the same but for rounding. On an x86 CPU, in
            float32, its frozen weights are packed, too, which takes twice their memory. See
            [`MiraGeForImageDetection`].
        warmup_epochs (`float`, *optional*, defaults to 1.0):
            Epochs at the constant `warmup_learning_rate` before the cosine starts; read by the cosine schedule only.
        warmup_learning_rate (`float`, *optional*, defaults to 1e-5):
            Learning rate of the warm-up epochs.

    Raises:
        `ValueError`: If a value is out of range; the message names the argument.
    """

    discriminative_weight: float = field(default=0.5, metadata={"help": "Weight of the contrastive term (lambda)."})
    temperature: float = field(default=0.07, metadata={"help": "Temperature of the contrastive term (tau)."})
    memory_size: int = field(default=1024, metadata={"help": "Embeddings kept by the memory bank; 0 turns it off."})
    text_anchors: str = field(
        default="per_sample",
        metadata={"help": "How text anchors enter the contrastive set.", "choices": list(TEXT_ANCHORS)},
    )
    memory_as_anchors: bool = field(default=False, metadata={"help": "Let bank entries act as anchors too."})
    discriminative_reduction: str = field(
        default="mean", metadata={"help": "Reduction over the anchors.", "choices": list(REDUCTIONS)}
    )
    contrast_over_accumulation: bool = field(
        default=True, metadata={"help": "Contrast over the whole batch of an optimizer step, not the micro-batch."}
    )
    lean_vision: bool = field(default=True, metadata={"help": "Leave out of the vision encoder what nobody reads."})
    warmup_epochs: float = field(default=1.0, metadata={"help": "Epochs at the constant warm-up learning rate."})
    warmup_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the warm-up epochs."})

    # Stock arguments with the recipe's values.
    learning_rate: float = field(default=2e-3, metadata={"help": "Initial learning rate."})
    optim: str = field(default="sgd", metadata={"help": "Optimizer."})
    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Optional arguments of the optimizer."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 turns it off."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Number of epochs, warm-up included."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Batch size of each device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Batch size of each device in evaluation."})
    save_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to save checkpoints."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps."})
    # Pushed while training, a checkpoint would take pickles along, the arguments with the Hub token among them.
    hub_strategy: str = field(default="end", metadata={"help": "When to push to the Hub.", "choices": ["end"]})
    # A PEFT wrapper's signature does not tell the Trainer.
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Keys of the inputs that are labels."}
    )
    # The data set's transform reads columns that `forward` does not name.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns that the model does not read."})
    # Every prompt and mapping takes part in every step.
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Whether DDP looks for unused parameters."}
    )

    def __post_init__(self):
        if self.optim != "sgd" and self.optim_args == "momentum=0.9":
            self.optim_args = None  # the default belongs to the default optimizer
        super().__post_init__()
        check_contrastive_options(self.temperature, self.text_anchors, self.discriminative_reduction)
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if self.hub_strategy != "end":
            raise ValueError('`hub_strategy` must be "end": what is pushed while training holds pickled arguments.')
        for name in ("discriminative_weight", "memory_size", "warmup_epochs", "warmup_learning_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if self.lr_scheduler_type == "cosine" and self.warmup_epochs >= self.num_train_epochs:
            raise ValueError(
                f"`warmup_epochs`={self.warmup_epochs} leaves nothing of `num_train_epochs`={self.num_train_epochs}; "
                "train for longer or lower `warmup_epochs`."
            )


__all__ = ["MiraGeTrainingArguments"]
