"""Rules across the keys of a configuration, which run before anything is allocated."""

from __future__ import annotations

import math
import re

from silc.config import PROMPT_SETS, Config, DataConfig, ModelConfig, ViewsConfig, VisionConfig


def divisors(number: int) -> list[int]:
    """Of a positive number, the largest first; as many trials as its square root."""
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)}, reverse=True)


def validate(config: Config, world_size: int) -> None:
    """Refuse what cannot train, before anything is allocated. Raises ValueError naming the value and the way out."""
    _validate_model(config.model, config.views)
    _validate_views(config)
    train, optim, objective = config.train, config.optim, config.objective
    if train.global_batch % world_size:
        near = max(1, train.global_batch // world_size) * world_size
        raise ValueError(
            f"train.global_batch={train.global_batch} is not divisible by the {world_size} ranks; "
            f"take {near} or change the number of ranks"
        )
    share, micro = train.share(world_size), train.micro(world_size)
    if share % micro:
        fits = next(m for m in divisors(share) if m <= micro)
        raise ValueError(
            f"train.micro_batch={micro} does not divide a rank's share of {share} pairs "
            f"(global_batch {train.global_batch} / {world_size} ranks); take {fits}"
        )
    if optim.warmup_steps + optim.cooldown_steps > train.steps:
        raise ValueError(
            f"optim.warmup_steps={optim.warmup_steps} + optim.cooldown_steps={optim.cooldown_steps} exceed "
            f"train.steps={train.steps}; shorten them"
        )
    _validate_locked(config)
    for rule in optim.rules:
        try:
            re.compile(rule.pattern)
        except re.error as error:
            raise ValueError(f"optim.rules: {rule.pattern!r} is not a regular expression: {error}") from None
    if objective.init_scale is not None and objective.init_scale > objective.max_scale:
        raise ValueError(
            f"objective.init_scale={objective.init_scale} is beyond objective.max_scale={objective.max_scale}; "
            "lower the first or raise the second"
        )
    if min(config.data.std) <= 0:
        raise ValueError(f"data.std={config.data.std} must be positive in every channel")
    _validate_data(config.data, train.global_batch)
    _validate_best(config)
    validate_eval(config)


def _validate_locked(config: Config) -> None:
    optim, views, vision = config.optim, config.views, config.model.vision
    named = f"optim.locked=[{', '.join(optim.locked)}]"
    if {"vision", "text"} <= set(optim.locked):
        raise ValueError(f"{named} leaves nothing to train but the logit scale; lock one of the two towers")
    decays = {"vision": optim.vision_layer_decay, "text": optim.text_layer_decay}
    for tower, decay in decays.items():
        if tower in optim.locked and decay != 1:
            raise ValueError(
                f"optim.{tower}_layer_decay={decay} has no effect, since {named}; leave one of the two out"
            )
    if config.train.resume is None:
        check_locked_weights(config)
    if "vision" not in optim.locked:
        return
    if vision.drop_path:
        raise ValueError(
            f"model.vision.drop_path={vision.drop_path} would only add noise to a tower that is not trained, since "
            f"{named}; set model.vision.drop_path=0"
        )
    if config.objective.distill:
        way = "objective.distill=false" + (" views.n_local=0" if views.n_local else "")
        if config.objective.contrastive_views == "original" and views.n_global:
            way += " views.n_global=0"
        raise ValueError(f"{named}, but self-distillation trains the image tower; add {way}, or lock the text tower")


def check_locked_weights(config: Config) -> None:
    """Raises ValueError where a run that begins anew would keep a tower as random first weights are."""
    if config.optim.locked and config.train.init is None:
        raise ValueError(
            f"optim.locked=[{', '.join(config.optim.locked)}] would keep random first weights; give train.init=PATH, "
            "the model whose weights are kept"
        )


def _validate_best(config: Config) -> None:
    best, evaluation = config.train.keep_best, config.eval
    if best is None:
        return
    if not evaluation.every:
        raise ValueError(
            f"train.keep_best={best} takes the evaluations on the way, and eval.every is 0; give eval.every, or leave "
            "it out"
        )
    parts = best.split("/")
    if len(parts) != 4 or parts[0] != "eval" or parts[1] not in evaluation.during or parts[2] not in evaluation.models:
        raise ValueError(
            f"train.keep_best={best} names no metric of the evaluations on the way; give eval/TASK/MODEL/METRIC, TASK "
            f"one of eval.during={evaluation.during}, MODEL one of eval.models={evaluation.models}, as in "
            "eval/zeroshot_classification/student/top1"
        )


def _validate_data(data: DataConfig, batch: int) -> None:
    if data.shards and data.sources:
        raise ValueError(
            "data.shards and data.sources are both given; name all shards in data.sources, or leave one of the two out"
        )
    if data.unique_captions and data.shuffle_block < 2 * batch:
        raise ValueError(
            "data.unique_captions has no effect within one batch, and data.shuffle_block="
            f"{data.shuffle_block} is less than two batches of {batch}; take {8 * batch}"
        )
    for number, source in enumerate(data.sources):
        if not source.shards:
            raise ValueError(f"data.sources.{number}.shards is empty; name its shards, or leave the source out")


def _validate_model(model: ModelConfig, views: ViewsConfig) -> None:
    for name, tower in (("vision", model.vision), ("text", model.text)):
        if tower.width % tower.heads:
            raise ValueError(
                f"model.{name}.heads={tower.heads} does not divide model.{name}.width={tower.width}; take "
                f"{tower.width // 64 or 1}"
            )
    if model.vision.drop_path and model.vision.depth == 1:
        raise ValueError(
            f"model.vision.drop_path={model.vision.drop_path} has no effect: the first block drops nothing, and "
            "model.vision.depth=1; set model.vision.drop_path=0"
        )
    patch = model.vision.patch_size
    sizes = {"model.vision.image_size": model.vision.image_size, "views.global_size": views.global_size}
    if views.n_local:
        sizes["views.local_size"] = views.local_size
    for name, size in sizes.items():
        if size % patch:
            near = max(1, round(size / patch)) * patch
            raise ValueError(f"{name}={size} is not a multiple of model.vision.patch_size={patch}; take {near}")


def _drops(vision: VisionConfig) -> str | None:
    """The key by which a student leaves parts of its image tower out, with its value."""
    for key in ("patch_dropout", "drop_path"):
        if value := getattr(vision, key):
            return f"model.vision.{key}={value}"
    return None


def is_prompt(template: str) -> bool:
    """Whether {} stands in it once, where the class name goes, and no other brace does."""
    return template.count("{}") == 1 and not {"{", "}"} & set(template.replace("{}", ""))


def own_data(config: Config) -> list[str]:
    """Every address that the configuration names to train on; empty: the embedded sample set is trained on."""
    return [*config.data.shards, *(name for source in config.data.sources for name in source.shards)]


def has_evaluation_data(config: Config) -> bool:
    """Whether there is a data set to evaluate on: one that the configuration names, or the embedded sample set."""
    evaluation = config.eval
    named = (evaluation.classification, evaluation.retrieval, evaluation.segmentation)
    return not own_data(config) or bool(evaluation.shards) or any(spec is not None for spec in named)


def validate_eval(config: Config) -> None:
    """Refuse what cannot be evaluated. Raises ValueError naming the value and the way out."""
    evaluation, patch = config.eval, config.model.vision.patch_size
    sizes = {"eval.short_side": evaluation.short_side, "eval.window": evaluation.window}
    for name, size in sizes.items():
        if size is not None and size % patch:
            near = max(1, round(size / patch)) * patch
            raise ValueError(f"{name}={size} is not a multiple of model.vision.patch_size={patch}; take {near}")
    for template in evaluation.templates:
        if not is_prompt(template) and template not in PROMPT_SETS:
            raise ValueError(
                f"eval.templates: {template!r} must hold {{}} once, where the class name goes, and no other brace; or "
                f"be the name of a list, one of {', '.join(PROMPT_SETS)}"
            )
    for name, some in (("shots", "[1, 5, 10]"), ("models", "[student]")):
        if not getattr(evaluation, name):
            raise ValueError(f"eval.{name} is empty; give at least one, as in {some}")


def _validate_views(config: Config) -> None:
    views, objective = config.views, config.objective
    for name, (low, high) in (("global_area", views.global_area), ("local_area", views.local_area)):
        if low > high:
            raise ValueError(f"views.{name}=({low}, {high}) is empty: put the smaller area first")
    if views.photometric and views.crops_on == "device" and views.device == "host":
        raise ValueError(
            "views.crops_on=device leaves no crops on the host for views.device=host to distort; take "
            "views.device=device, or views.crops_on=host"
        )
    if not views.n_global and (objective.distill or objective.contrastive_views == "each_global"):
        raise ValueError(
            "views.n_global=0 leaves nothing to align or distil; only contrastive_views=original without "
            "distillation can do so"
        )
    if not objective.distill:
        if objective.ema and objective.head_only_ema:
            raise ValueError(
                "objective.ema=true without distillation averages the image tower, which objective.head_only_ema=true "
                "leaves out; set head_only_ema to false"
            )
        if views.n_global and objective.contrastive_views == "original":
            raise ValueError(
                f"objective.contrastive_views=original without distillation leaves {views.n_global} global crops "
                "without a use; set views.n_global=0"
            )
        if views.n_local:
            raise ValueError(
                f"objective.distill=false leaves the {views.n_local} local crops without a use; set views.n_local=0"
            )
        return
    if not views.n_local and not (objective.global_to_global and views.n_global > 1):
        raise ValueError(
            "self-distillation needs student crops: set views.n_local > 0, or objective.global_to_global=true with "
            "views.n_global > 1"
        )
    if objective.global_to_global and views.n_global < 2:
        raise ValueError(f"objective.global_to_global needs views.n_global >= 2, not {views.n_global}")
    if objective.head_only_ema and (drops := _drops(config.model.vision)):
        raise ValueError(
            f"objective.head_only_ema takes the teacher's features from the student's pass, which {drops} leaves parts "
            "out of; set it to 0, or objective.head_only_ema=false"
        )
    if objective.head_only_ema and objective.contrastive_views == "original" and not objective.global_to_global:
        raise ValueError(
            "objective.head_only_ema takes the teacher's features from the student's pass over the global crops, which "
            "objective.contrastive_views=original leaves out; take each_global or original_and_globals"
        )
