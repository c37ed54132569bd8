"""Typed configuration: every key a run knows, its type, range and meaning.

The dataclasses are pydantic's, so that a wrong type, an unknown key or a value out of range is refused when the
configuration is built; :mod:`silc.config_io` turns presets and command-line overrides into a :class:`Config` and words
the errors. Rules across keys stand in :mod:`silc.config_rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, arbitrary_types_allowed=False)

# Upper limits are far beyond any run. They are there for a configuration that others wrote, whose sizes would otherwise
# overflow, or take days to lay out, before the weights show that they are wrong.
Positive = Annotated[int, Field(gt=0, le=10**13)]  # steps, samples, elements
NonNegative = Annotated[int, Field(ge=0, le=10**13)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(gt=0, le=65_536)]  # pixels a side, tokens, width
Pixels = Annotated[int, Field(gt=0, le=178_956_970)]  # of an image; Pillow decodes no more
Depth = Annotated[int, Field(gt=0, le=1024)]  # blocks, heads, layers
Rows = Annotated[int, Field(gt=0, le=10**8)]  # of a table
Batch = Annotated[int, Field(gt=0, le=10**9)]
Crops = Annotated[int, Field(ge=0, le=1024)]
Ratio = Annotated[float, Field(gt=0, le=64)]
Scale = Annotated[float, Field(gt=0, le=1e6)]
Minutes = Annotated[float, Field(gt=0, le=1e7)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Area = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
Rgb = tuple[float, float, float]
Backend = Annotated[str, Field(pattern=r"^[a-z_]+$")]
Task = Literal[
    "zeroshot_classification",
    "fewshot",
    "retrieval",
    "zeroshot_segmentation",
    "linear_segmentation",
    "open_vocabulary_segmentation",
]
TASKS: tuple[str, ...] = get_args(Task)


def key(default: Any, doc: str) -> Any:
    """A field with its one-line description; mutable defaults are copied for each instance."""
    if isinstance(default, list | dict):
        return Field(default_factory=lambda: type(default)(default), description=doc)
    return Field(default=default, description=doc)


@dataclass(config=_STRICT, kw_only=True)
class VisionConfig:
    """The image tower: a ViT with attention pooling (SigLIP's layout, exact GELU)."""

    image_size: Size = key(256, "pixels per side of the grid the position table is stored for")
    patch_size: Size = key(16, "pixels per side of a patch")
    width: Size = key(768, "token width; also the width of the shared embedding")
    depth: Depth = key(12, "number of transformer blocks")
    heads: Depth = key(12, "attention heads; divides width")
    mlp_ratio: Ratio = key(4.0, "hidden width of the MLP over width")


@dataclass(config=_STRICT, kw_only=True)
class TextConfig:
    """The text tower: a bidirectional transformer pooled at its last token (SigLIP's layout)."""

    context_length: Annotated[int, Field(ge=3, le=65_536)] = key(64, "tokens a caption is padded or cut to")
    vocab_size: Rows = key(49408, "rows of the token table; at least the tokenizer's")
    width: Size = key(768, "token width")
    depth: Depth = key(12, "number of transformer blocks")
    heads: Depth = key(12, "attention heads; divides width")
    mlp_ratio: Ratio = key(4.0, "hidden width of the MLP over width")


@dataclass(config=_STRICT, kw_only=True)
class HeadConfig:
    """The projection head of self-distillation (DINO's)."""

    prototypes: Rows = key(65536, "K, the number of prototypes: outputs of the last layer")
    hidden: Size = key(2048, "hidden width of the MLP")
    bottleneck: Size = key(256, "width of the L2-normalised features before the last layer")
    layers: Depth = key(3, "linear layers in the MLP")


@dataclass(config=_STRICT, kw_only=True)
class ModelConfig:
    """The student; the teacher is an EMA of its vision tower and head."""

    vision: VisionConfig = Field(default_factory=VisionConfig, description="image tower")
    text: TextConfig = Field(default_factory=TextConfig, description="text tower")
    head: HeadConfig = Field(default_factory=HeadConfig, description="distillation head")
    attention: Literal["auto", "sdpa", "xformers"] = key(
        "auto", "attention over the packed crops; auto says what it chose and why"
    )
    checkpoint_activations: bool = key(False, "recompute each block's activations in the backward pass")
    compile: bool = key(False, "torch.compile each transformer block")


@dataclass(config=_STRICT, kw_only=True)
class ViewsConfig:
    """The crops of one image (SILC: 2 global views, 8 local ones)."""

    n_global: Annotated[int, Field(ge=0, le=8)] = key(2, "global crops per image; the teacher sees them all")
    n_local: Crops = key(8, "local crops per image, seen by the student alone")
    global_size: Size = key(256, "pixels per side of a global crop")
    local_size: Size = key(96, "pixels per side of a local crop")
    global_area: Area = key((0.4, 1.0), "range of a global crop's area, as a fraction of the image")
    local_area: Area = key((0.05, 0.4), "range of a local crop's area")
    flip: Fraction = key(0.5, "probability of a horizontal flip")
    photometric: bool = key(False, "DINO's list: color jitter, grey, blur, solarize")
    device: Literal["auto", "host", "device"] = key(
        "auto", "where the photometric list is computed; auto: on the device where that is a GPU, else on the host"
    )
    crops_on: Literal["host", "device"] = key(
        "host",
        "where crops are cut; device: decoded images are sent there, and host memory holds whole batches of them",
    )


@dataclass(config=_STRICT, kw_only=True)
class ObjectiveConfig:
    """L = L_contrastive + distill_weight * L_distillation."""

    contrastive: Literal["softmax", "sigmoid"] = key("softmax", "InfoNCE as CLIP, or pairwise sigmoid as SigLIP")
    contrastive_views: Literal["each_global", "original", "original_and_globals"] = key(
        "each_global", "which views are aligned with the text, each in a B x B problem of its own"
    )
    contrastive_plan: Literal["auto", "reduce_scatter", "recompute"] = key(
        "auto", "communication plan of the contrastive op"
    )
    contrastive_chunk: Positive = key(4096, "columns of the similarity matrix held at once")
    init_scale: Scale | None = key(
        None, "initial multiplier of the similarities; null: 1/0.07 for softmax, 10 for sigmoid"
    )
    init_bias: Annotated[float, Field(ge=-1e6, le=1e6)] = key(-10.0, "initial bias of the sigmoid loss")
    max_scale: Scale = key(100.0, "upper limit of the effective multiplier")
    distill: bool = key(True, "local-to-global self-distillation from the EMA teacher")
    distill_weight: NonNegativeFloat = key(1.0, "weight of the distillation loss")
    distill_start: Annotated[float, Field(ge=0, lt=1)] = key(
        0.0, "fraction of training before distillation starts, from the student as teacher"
    )
    global_to_global: bool = key(False, "also pair each student global crop with the other teacher global crops (DINO)")
    head_only_ema: bool = key(False, "EMA of the head alone; teacher and student share the encoder (TIPSv2)")
    student_temp: PositiveFloat = key(0.1, "temperature of the student's softmax")
    teacher_temp: PositiveFloat = key(0.04, "temperature of the teacher's softmax (sharpening)")
    center_momentum: Annotated[float, Field(ge=0, lt=1)] = key(
        0.9, "EMA momentum of the center of the teacher's outputs"
    )
    ema_momentum: Annotated[float, Field(ge=0, le=1)] | None = key(
        None, "teacher's EMA momentum, fixed over training; null: 0.966 ** (global_batch / 16384)"
    )


@dataclass(config=_STRICT, kw_only=True)
class SourceRule:
    """One source of a mixture of training pairs."""

    shards: list[str] = Field(description="as data.shards")
    weight: PositiveFloat = key(1.0, "share of the samples, relative to the other sources")


@dataclass(config=_STRICT, kw_only=True)
class DataConfig:
    """Image-text pairs from WebDataset tar shards."""

    shards: list[str] = key(
        [],
        "shards, brace patterns (data/{000..099}.tar), folders or .manifest files, local or http(s)://, s3://, gs://, "
        "az://; empty: `sources`, or else the embedded sample set",
    )
    sources: list[SourceRule] = Field(
        default_factory=list,
        description="a mixture in place of `shards`, as [{shards: [/a], weight: 3}, {shards: [s3://b/c], weight: 1}]",
    )
    sample_concepts: Literal["default", "all"] = key("default", "concepts of the embedded sample set")
    sample_scenes: Positive = key(24000, "training scenes rendered from the embedded sample set")
    image_keys: list[str] = key(
        ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"],
        "tar member extensions that hold the image; the first one that a sample has",
    )
    caption_key: Annotated[str, Field(pattern=r"^[^:]+(:.+)?$")] = key(
        "txt", "tar member extension that holds the caption, or json:FIELD for a field of a JSON member (a.b: b in a)"
    )
    caption_lines: bool = key(
        True, "each line of a text member is a caption of its own, and one is drawn each time; false: the text is one"
    )
    tokenizer: str = key("open_clip_bpe", "open_clip's own BPE, or the name or folder of a Hugging Face tokenizer")
    workers: Annotated[int, Field(ge=0, le=4096)] = key(4, "decoding processes per rank")
    worker_start: Literal["auto", "fork", "forkserver", "spawn"] = key(
        "auto", "how these are started; auto: fork where that is safe, else forkserver"
    )
    prefetch: Positive = key(2, "batches each worker keeps ready")
    shuffle_block: Positive = key(8192, "samples shuffled together, rounded up to whole global batches")
    unique_captions: bool = key(False, "keep equal captions out of one global batch where the shuffle block allows")
    mean: Rgb = key((0.5, 0.5, 0.5), "pixel mean on [0, 1], folded into the patch embedding")
    std: Rgb = key((0.5, 0.5, 0.5), "pixel standard deviation on [0, 1]")
    max_image_pixels: Pixels = key(89_478_485, "larger images and masks are skipped before they are decoded")
    upright: bool = key(True, "turn images as their EXIF orientation says, as viewers show them")
    max_skipped: Fraction = key(0.1, "share of recent samples that may be skipped as unreadable before the run stops")
    store_minutes: Minutes = key(10.0, "how long a file or remote store may fail before the run stops")
    cache: str | None = key(
        None, "folder in which the ranks of a machine keep what they read of remote shards; null: none"
    )
    cache_gb: Annotated[float, Field(gt=0, le=1e7)] = key(
        100.0, "upper limit of that folder in GB; the oldest goes first"
    )
    allow_changed: bool = key(
        False,
        "resume although shards, weights or the version of the order changed; samples may repeat or be left out",
    )


@dataclass(config=_STRICT, kw_only=True)
class ParameterRule:
    """Multipliers for the parameters whose name matches."""

    pattern: str = Field(
        description="regular expression searched in the parameter's name; the first rule that matches holds"
    )
    lr: NonNegativeFloat = key(1.0, "multiplier of the learning rate")
    weight_decay: NonNegativeFloat = key(1.0, "multiplier of the weight decay")


@dataclass(config=_STRICT, kw_only=True)
class OptimConfig:
    """Optimiser and schedule."""

    optimizer: Literal["auto", "deepspeed_adamw", "torch_adamw", "apex_adamw"] = key(
        "auto", "AdamW: DeepSpeed's fused one, torch's fused one, or NVIDIA apex's FusedAdam"
    )
    lr: PositiveFloat = key(1e-3, "peak learning rate")
    beta1: Annotated[float, Field(ge=0, lt=1)] = key(0.9, "first moment's decay")
    beta2: Annotated[float, Field(ge=0, lt=1)] = key(0.95, "second moment's decay")
    eps: PositiveFloat = key(1e-8, "added to the denominator")
    weight_decay: NonNegativeFloat = key(1e-4, "decoupled weight decay")
    clip: NonNegativeFloat = key(1.0, "upper limit of the global gradient norm; 0: none")
    scale_lr: NonNegativeFloat = key(1.0, "multiplier of the learning rate for the logit scale and bias")
    rules: list[ParameterRule] = Field(
        default_factory=list,
        description="multipliers by parameter name, as [{pattern: ^visual, lr: 0}], which freezes the image tower; "
        "without a rule biases, norms and tables are not decayed",
    )
    schedule: Literal["rsqrt", "cosine", "constant"] = key("rsqrt", "shape between warm-up and cool-down")
    warmup_steps: NonNegative = key(50_000, "linear warm-up from 0")
    cooldown_steps: NonNegative = key(50_000, "linear cool-down to 0 (rsqrt and constant)")
    timescale: Positive | None = key(
        None, "rsqrt: steps after which the rate has fallen by sqrt(2); null: max(warmup_steps, 10000)"
    )
    final_lr: NonNegativeFloat = key(0.0, "cosine: last rate as a fraction of the peak")


@dataclass(config=_STRICT, kw_only=True)
class EngineConfig:
    """DeepSpeed. The JSON it gets is generated from here, with every key written, and saved in the run folder."""

    zero_stage: Annotated[int, Field(ge=1, le=3)] = key(1, "ZeRO stage")
    precision: Literal["auto", "bf16", "fp32"] = key("auto", "auto: bf16 on a GPU, fp32 on a CPU")
    overlap_comm: bool = key(True, "reduce gradients while the backward pass runs (CUDA)")
    reduce_bucket_size: Positive = key(50_000_000, "elements reduced at a time")
    allgather_bucket_size: Positive = key(50_000_000, "elements gathered at a time (stages 1 and 2)")
    prefetch_bucket_size: Positive = key(50_000_000, "elements prefetched (stage 3)")
    persistence_threshold: NonNegative = key(100_000, "parameters up to this size stay whole (stage 3)")
    max_live_parameters: Positive = key(1_000_000_000, "elements kept gathered (stage 3)")
    timeout_minutes: Minutes = key(30.0, "time limit of a collective before the job fails")
    silent_minutes: Minutes = key(
        5.0, "a rank not heard of for so long, from a thread of its own, ends the job by name"
    )


@dataclass(config=_STRICT, kw_only=True)
class KernelsConfig:
    """Backend of each op of silc_kernels: auto, torch, or the name of another registered one."""

    contrastive: Backend = key("auto", "contrastive_loss")
    distill: Backend = key("auto", "distill_head_loss")
    patch_embed: Backend = key("auto", "patch_embed")


@dataclass(config=_STRICT, kw_only=True)
class TrainConfig:
    """How long, how large, where to."""

    steps: Positive = key(100_000, "optimiser steps")
    global_batch: Batch = key(16384, "pairs per step, over all ranks and accumulation steps")
    micro_batch: Batch | None = key(
        None, "pairs a rank holds at once; smaller than its share: exact gradient accumulation. null: its share"
    )
    seed: Seed = key(0, "seed of weights, data order and augmentation")
    max_bad_steps: Positive = key(10, "non-finite steps in a row that end the run")
    log_every: Positive = key(50, "steps between metrics (one device synchronisation each)")
    save_every: NonNegative = key(5000, "steps between checkpoints; 0: only at the end")
    save_minutes: Minutes | None = key(
        None, "minutes between checkpoints, beside save_every; looked at every log_every steps"
    )
    save_in_background: bool = key(
        False, "write periodic checkpoints beside the steps that follow; takes memory for a copy of the state"
    )
    keep_checkpoints: Positive = key(2, "newest checkpoints kept")
    keep_every: NonNegative = key(0, "checkpoints of every such step are kept for good; 0: none")
    keep_best: str | None = key(
        None,
        "keep the checkpoint where this metric of the evaluations on the way is highest, as "
        "eval/zeroshot_classification/student/top1",
    )
    resume: str | None = key(
        None, "run folder or checkpoint to resume from, at any number of ranks; auto: the newest in `out`, if any"
    )
    out: str | None = key(None, "run folder; null: runs/PRESET, or runs/PRESET-2, -3, ... when taken")
    tensorboard: bool = key(True, "write TensorBoard events")
    wandb_project: str | None = key(None, "log to this Weights & Biases project, if wandb is installed")
    peak_tflops: PositiveFloat | None = key(
        None, "dense bf16 peak of one device, for the MFU; null: looked up by the device's name"
    )

    def share(self, ranks: int) -> int:
        """Pairs of a step that each rank takes."""
        return self.global_batch // ranks

    def micro(self, ranks: int) -> int:
        """Pairs that a rank holds at once: `micro_batch`, or its share."""
        return self.micro_batch or self.share(ranks)


@dataclass(config=_STRICT, kw_only=True)
class WatchConfig:
    """Warnings of a run that goes wrong, at each log interval, and the way back to an earlier checkpoint."""

    enabled: bool = key(True, "warn of spikes of losses and gradient norm, of a teacher that collapses, of slowness")
    window: Annotated[int, Field(ge=20, le=10_000)] = key(50, "log intervals that the present one is compared with")
    deviations: PositiveFloat = key(8.0, "a loss or gradient norm so many deviations above the median is a spike")
    grad_factor: PositiveFloat = key(10.0, "a gradient norm must also be so many times the median")
    entropy: Annotated[float, Field(ge=0, lt=0.5)] = key(
        0.02, "teacher entropy this near to 0 or log K, as a fraction of log K, is collapse"
    )
    grace_steps: NonNegative | None = key(
        None, "steps of distillation before its entropy is judged; null: a quarter of the warm-up, at least 100"
    )
    slow: Fraction = key(0.5, "samples a second below this fraction of the median are slow")
    lasting: Annotated[int, Field(ge=1, le=1000)] = key(
        3, "intervals in a row that make a spike, a collapse or slowness one that lasts"
    )
    rewinds: Annotated[int, Field(ge=0, le=1000)] = key(
        0,
        "times that a run may go back to its last checkpoint before a loss spike that lasts, or before "
        "train.max_bad_steps bad steps, and leave out the data from there to here; 0: never",
    )


@dataclass(config=_STRICT, kw_only=True)
class EvalConfig:
    """What is measured, at the end of a run, every `every` steps, and by `silc evaluate`."""

    every: NonNegative = key(0, "steps between evaluations; 0: only at the end")
    during: list[Task] = key(
        ["zeroshot_classification", "retrieval", "zeroshot_segmentation"], "tasks of the evaluations on the way"
    )
    after: list[Task] = key(list(TASKS), "tasks at the end of the run; what the data cannot serve is left out")
    models: list[Literal["student", "teacher"]] = key(["student", "teacher"], "which image tower is evaluated")
    timeout_minutes: Minutes = key(30.0, "time limit of one task on one model; it is given up, training goes on")
    classification: str | None = key(
        None, "data set to classify, LAYOUT:FOLDER; null: eval.shards, or the sample set if that is trained on"
    )
    retrieval: str | None = key(None, "data set for retrieval, LAYOUT:FOLDER; null: as for classification")
    segmentation: str | None = key(None, "data set to segment, LAYOUT:FOLDER; null: as for classification")
    shards: list[str] = key(
        [],
        "WebDataset shards with a `class` in their json; empty: the sample set's unseen artist, or none with own data",
    )
    classes: str | None = key(None, "text file with one class name per line, in the order of the class numbers")
    templates: list[str] = key(
        [], "prompts, averaged; {} is the class name. Empty: those of the data set, or else ['a {}']"
    )
    upright: bool = key(
        False,
        "turn images as their EXIF orientation says; false: pixels as stored, as open_clip and torchvision read them",
    )
    batch: Batch = key(256, "images per forward pass")
    limit: NonNegative = key(0, "test images per task, a random choice that is always the same; 0: all")
    shots: list[Positive] = key([1, 5, 10], "few-shot: training images per class")
    draws: Positive = key(3, "few-shot: random choices of them, for mean and deviation")
    ridge: PositiveFloat = key(1024.0, "few-shot: weight of the ridge penalty")
    neighbours: Positive = key(20, "few-shot: neighbours that vote")
    short_side: Size | None = key(
        None, "segmentation: pixels of an image's shorter side; null: 7/4 of views.global_size (448 for 256)"
    )
    window: NonNegative | None = key(
        None, "segmentation: pixels per side of the sliding window; 0: the whole image at once; null: short_side"
    )
    stride: Size | None = key(None, "segmentation: pixels from window to window; null: 3/4 of the window")
    test_images: NonNegative = key(0, "segmentation: test images; 0: eval.limit")
    train_images: Positive = key(2048, "segmentation heads: training images")
    probe_steps: Positive = key(1000, "linear segmentation: optimiser steps")
    decoder_steps: Positive = key(500, "open-vocabulary segmentation: optimiser steps of the decoder")
    unseen_every: Annotated[int, Field(ge=2)] = key(
        4, "open-vocabulary segmentation: every N-th class is held out from the decoder's training"
    )
    contact_sheet: bool = key(True, "write a PNG of a few held-out images with their top captions")
    report: bool = key(True, "write report.html at the end of the run and by `silc evaluate`")


@dataclass(config=_STRICT, kw_only=True)
class Config:
    """A run."""

    preset: str = key("custom", "name of the preset this came from (set by the loader)")
    unverified: list[str] = key([], "keys whose value in this preset no public source confirms")
    notes: list[str] = key([], "what the loader changed to make values fit each other (set by the loader)")
    model: ModelConfig = Field(default_factory=ModelConfig, description="the student")
    views: ViewsConfig = Field(default_factory=ViewsConfig, description="crops")
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig, description="losses and teacher")
    data: DataConfig = Field(default_factory=DataConfig, description="training pairs")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="optimiser and schedule")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="DeepSpeed")
    kernels: KernelsConfig = Field(default_factory=KernelsConfig, description="op backends")
    train: TrainConfig = Field(default_factory=TrainConfig, description="the run")
    watch: WatchConfig = Field(default_factory=WatchConfig, description="warnings")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="evaluation")

    @property
    def n_original(self) -> int:
        """Unaugmented views a sample carries (0 or 1)."""
        return int(self.objective.contrastive_views != "each_global")

    @property
    def ema_momentum(self) -> float:
        """The teacher's momentum; null: 0.966 at batch 16k, scaled so that a sample weighs the same at any batch."""
        given = self.objective.ema_momentum
        return 0.966 ** (self.train.global_batch / 16384) if given is None else given

    @property
    def distill_start_step(self) -> int:
        """First step (from 0) with a distillation loss; `steps` when there is none."""
        return round(self.objective.distill_start * self.train.steps) if self.objective.distill else self.train.steps

    @property
    def watch_grace(self) -> int:
        """Steps of distillation before the teacher's entropy is judged."""
        given = self.watch.grace_steps
        return max(100, self.optim.warmup_steps // 4) if given is None else given
