"""Open-vocabulary segmentation: a light decoder over frozen features, trained on seen classes, tested on all.

Every eval.unseen_every-th class is unseen: the decoder is trained without its name and without its pixels. In the test
all classes compete; mean IoU is given for seen and for unseen classes, and the same for the cosines without the decoder
on the same images. Rank 0 trains the decoder, all ranks measure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.shards import Unreadable
from silc.data.splits import IGNORE, MASKS, DataSet
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.metric import Metric
from silc.evaluate.segmentation import iou
from silc.evaluate.segmentation.decoder import CostDecoder
from silc.evaluate.segmentation.measure import measure
from silc.evaluate.segmentation.patch_labels import endless, training_windows
from silc.evaluate.sharding import Job
from silc.evaluate.tasks.task import TRAIN, Task, class_embeddings
from silc.evaluate.tasks.zeroshot_segmentation import cosines
from silc.evaluate.towers import Towers
from silc.text import plural

BATCH = 8  # windows in a step
DECODED = 4  # windows in a forward pass of the decoder: a layer of it has numbers for each class, patch and channel
VOCABULARY = 48  # classes that compete in a step, those in its windows among them
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Mean IoU over all, seen and unseen classes; over seen and unseen ones also without the decoder."""
    evaluation, count = job.config.eval, len(data.classes)
    every = evaluation.unseen_every
    unseen = torch.arange(count) % every == every - 1
    if not unseen.any() or unseen.all():
        raise ValueError(
            f"{data.name} has {plural(count, 'class', 'classes')}, too few to keep one in {every} unseen; lower "
            "eval.unseen_every"
        )
    classes = class_embeddings(model, data, job)
    decoder = make_decoder(classes.shape[1], model.device)
    decoder.load_state_dict(job.on_main(lambda: train(decoder, model, data, classes, ~unseen, job)))
    indices = job.chosen(data.test, evaluation.test_images or None)

    def scores(crops: Tensor) -> Tensor:
        parts = model.values(crops).split(DECODED)
        return torch.cat([both_scores(decoder, features, classes) for features in parts])

    measured = measure(job, data.test, indices, count, model.patch, scores, maps=2)
    decoded, plain = measured.rows
    job.notes.append(
        f"decoder trained on {plural(int((~unseen).sum()), 'class', 'classes')}, {int(unseen.sum())} unseen (indices "
        f"{every - 1}, {2 * every - 1}, ...): {plural(evaluation.decoder_steps, 'step')} of {BATCH} windows of "
        f"{data.training.title}; {plural(len(indices), 'image')} of {data.test.title}; {job.geometry.words()}"
    )
    job.notes.append(f"background: {data.background}")
    job.details["iou"] = iou.per_class(iou.total(decoded, count))
    yield iou.metrics(decoded, count, measured.resamples)[0]
    yield from _groups(decoded, unseen, measured.resamples, "")
    yield from _groups(plain, unseen, measured.resamples, "undecoded_")


def _groups(rows: Sequence[iou.Row], unseen: Tensor, resamples: Resamples, prefix: str) -> Iterator[Metric]:
    counts = iou.total(rows, len(unseen))
    each, guess = iou.per_class(counts), iou.chance(counts[1])
    sampled = iou.per_class(iou.resampled(rows, len(unseen), resamples))
    for name, group in (("seen", ~unseen), ("unseen", unseen)):
        (error,) = resamples.errors(sampled[:, group].nanmean(1, keepdim=True))
        yield Metric(f"{prefix}{name}_miou", each[group].nanmean().item(), guess[group].mean().item(), error)


def make_decoder(features: int, device: torch.device) -> CostDecoder:
    """A decoder with its initial weights, always the same; the global random state is not changed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return CostDecoder(features, max(8, min(64, features // 8))).to(device)


def train(
    decoder: CostDecoder, model: Towers, data: DataSet, classes: Tensor, seen: Tensor, job: Job
) -> dict[str, Tensor]:
    """Train in place on windows of the training split. Returns the weights on the CPU.

    seen: bool [C], the classes to train on.
    """
    evaluation, generator = job.config.eval, torch.Generator().manual_seed(0)
    examples = _examples(model, data, seen, generator, job)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with torch.enable_grad():
        for step in range(evaluation.decoder_steps):
            job.check()
            images, labels = zip(*itertools.islice(examples, BATCH), strict=True)
            truth = torch.stack(labels)
            asked = vocabulary(truth, seen, generator)
            place = torch.full((len(seen) + 1,), IGNORE)
            place[asked] = torch.arange(len(asked))  # IGNORE, -1, indexes the last entry, which remains IGNORE
            logits = decoder(model.values(torch.stack(images).to(model.device)), classes[asked.to(classes.device)])
            loss = F.cross_entropy(logits, place[truth].to(logits.device), ignore_index=IGNORE)
            warm = min(1.0, (step + 1) / 20)
            optimizer.param_groups[0]["lr"] = (
                LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / evaluation.decoder_steps))
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: value.detach().cpu() for name, value in decoder.state_dict().items()}


def _examples(
    model: Towers, data: DataSet, seen: Tensor, generator: torch.Generator, job: Job
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random windows without end, of one size, each with a pixel to learn from: uint8 [3, r, c] and the classes
    [2 r / p, 2 c / p].

    Raises ValueError when two rounds through all training images find none.
    """
    split, size = data.training, None
    indices = job.chosen(split, job.config.eval.train_images)
    tried = 0
    for index in endless(indices, generator):
        tried += 1
        if tried > 2 * len(indices):
            why = job.why_unusable(split, indices)
            raise ValueError(f"{split.title}: no pixel of {plural(len(indices), 'mask')} has a seen class; {why}")
        try:
            images, truth = training_windows(split, index, model.patch, job)
        except Unreadable as error:
            job.skipped.add((split.key(index), str(error)))
            continue
        one = int(torch.randint(len(images), (1,), generator=generator))
        grid = [2 * side // model.patch for side in truth.shape[1:]]  # of the decoder's logits
        label = F.interpolate(truth[one][None, None].double(), grid, mode="nearest-exact")[0, 0].long()
        label = torch.where((label != IGNORE) & seen[label.clamp(min=0)], label, IGNORE)
        size = size or images.shape[-2:]
        if images.shape[-2:] == size and (label != IGNORE).any():  # windows have one size, whole images may not
            tried = 0
            yield images[one], label


def vocabulary(truth: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
    """Classes that compete in a step, int64, ascending: those in the truth, and random other seen ones up to VOCABULARY
    in all, where there are that many.
    """
    present = truth[truth != IGNORE].unique()
    absent = seen.clone()
    absent[present] = False
    others = absent.nonzero()[:, 0]
    some = others[torch.randperm(len(others), generator=generator)[: max(0, VOCABULARY - len(present))]]
    return torch.cat([present, some]).sort().values


@torch.no_grad()
def both_scores(decoder: CostDecoder, features: Tensor, classes: Tensor) -> Tensor:
    """The decoder's logits, then the cosines at the logits' size: [n, 2 C, 2 h, 2 w]."""
    logits = decoder(features, classes)
    plain = F.interpolate(cosines(features, classes), size=logits.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([logits, plain], 1)


TASK = Task("open_vocabulary_segmentation", "segmentation", frozenset({MASKS, TRAIN}), run)
