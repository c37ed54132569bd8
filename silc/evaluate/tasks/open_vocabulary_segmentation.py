"""Open-vocabulary segmentation: a light decoder over frozen features, trained on seen classes, tested on all.

One class in eval.unseen_every is unseen: the decoder's training neither asks for it nor counts its pixels. At the test
all classes compete; mean IoU is told for seen and unseen ones apart, beside that of the cosines without the decoder on
the same pictures. Rank 0 trains the decoder, all ranks measure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.shards import Unreadable
from silc.data.splits import IGNORE, MASKS, DataSet
from silc.evaluate import iou, windows
from silc.evaluate.sharding import Job, Metric
from silc.evaluate.tasks.decoder import CostDecoder
from silc.evaluate.tasks.patch_labels import endless, training_windows
from silc.evaluate.tasks.task import TRAIN, TaskKind, class_embeddings
from silc.evaluate.tasks.zeroshot_segmentation import cosines
from silc.evaluate.towers import Towers

BATCH = 8  # windows a step
VOCABULARY = 48  # classes asked for in a step, those in its pictures among them
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Mean IoU over all, seen and unseen classes, and without the decoder."""
    every, count = job.config.eval.unseen_every, len(data.classes)
    unseen = torch.arange(count) % every == every - 1
    if not unseen.any() or unseen.all():
        raise ValueError(
            f"{data.name} has {count} classes, too few to keep one in {every} unseen; lower eval.unseen_every"
        )
    classes = class_embeddings(model, data, job)
    decoder = make_decoder(classes.shape[1], model.device)
    decoder.load_state_dict(job.on_main(lambda: train(decoder, model, data, classes, ~unseen, job)))
    numbers = job.chosen(data.test, job.config.eval.test_images or job.config.eval.limit)

    def predict(picture: Tensor) -> list[Tensor]:
        image = windows.resized(picture, job.geometry.short_side, model.patch).to(model.device)
        both = windows.slide(image, job.geometry, lambda crops: both_scores(decoder, model.values(crops), classes))
        return [windows.best_class(scores, tuple(picture.shape[:2])) for scores in both.chunk(2)]

    decoded, plain = iou.measure(job, data.test, numbers, count, predict)
    job.notes.append(
        f"decoder trained on {int((~unseen).sum())} classes, {int(unseen.sum())} unseen (numbers {every - 1}, "
        f"{2 * every - 1}, ...): {job.config.eval.decoder_steps} steps of {BATCH} windows of {data.train.title}; "
        f"{len(numbers)} pictures of {data.test.title}; {job.geometry.words()}"
    )
    job.notes.append(f"background: {data.background}")
    job.details["iou"] = iou.per_class(decoded)
    yield iou.metrics(decoded)[0]
    yield from _groups(decoded, unseen, "")
    yield from _groups(plain, unseen, "undecoded_")


def _groups(matrix: Tensor, unseen: Tensor, prefix: str) -> Iterator[Metric]:
    each, guess = iou.per_class(matrix), iou.chance(matrix.sum(1))
    for name, group in (("seen", ~unseen), ("unseen", unseen)):
        yield Metric(f"{prefix}{name}_miou", each[group].nanmean().item(), guess[group].mean().item())


def make_decoder(features: int, device: torch.device) -> CostDecoder:
    """A decoder with its first weights, always the same; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return CostDecoder(features, max(8, min(64, features // 8))).to(device)


def train(
    decoder: CostDecoder, model: Towers, data: DataSet, classes: Tensor, seen: Tensor, job: Job
) -> dict[str, Tensor]:
    """Train in place on windows of the training split; the weights, on the CPU.

    seen: bool [C], the classes that may be learnt from.
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
            place[asked] = torch.arange(len(asked))  # IGNORE is the last place, which stays
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
    """Endless random windows of one size with a pixel to learn from: uint8 [3, r, c], classes [2 r / p, 2 c / p].

    Raises ValueError when a round through all training pictures finds none.
    """
    split, size = data.train, None
    numbers = job.chosen(split, job.config.eval.train_images)
    tried = 0
    for number in endless(numbers, generator):
        tried += 1
        if tried > 2 * len(numbers):
            why = job.why_unusable(split, numbers)
            raise ValueError(f"{split.title}: no pixel of {len(numbers)} masks is of a class seen; {why}")
        try:
            images, truth = training_windows(split, number, model.patch, job)
        except Unreadable as error:
            job.skipped.add((split.key(number), str(error)))
            continue
        one = int(torch.randint(len(images), (1,), generator=generator))
        grid = [2 * side // model.patch for side in truth.shape[1:]]  # of the decoder's logits
        label = F.interpolate(truth[one][None, None].double(), grid, mode="nearest-exact")[0, 0].long()
        label = torch.where((label != IGNORE) & seen[label.clamp(min=0)], label, IGNORE)
        size = size or images.shape[-2:]
        if images.shape[-2:] == size and (label != IGNORE).any():  # whole pictures differ in size, windows do not
            tried = 0
            yield images[one], label


def vocabulary(truth: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
    """Classes to ask for: those in the truth and random others of those seen, VOCABULARY at most unless more are there.

    int64, in rising order.
    """
    there = truth[truth != IGNORE].unique()
    others = seen.clone()
    others[there] = False
    others = others.nonzero()[:, 0]
    some = others[torch.randperm(len(others), generator=generator)[: max(0, VOCABULARY - len(there))]]
    return torch.cat([there, some]).sort().values


@torch.no_grad()
def both_scores(decoder: CostDecoder, features: Tensor, classes: Tensor) -> Tensor:
    """The decoder's logits and, below them, the cosines, at the logits' size: [n, 2 C, 2 h, 2 w]."""
    logits = decoder(features, classes)
    plain = F.interpolate(cosines(features, classes), size=logits.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([logits, plain], 1)


TASK = TaskKind("open_vocabulary_segmentation", "segmentation", frozenset({MASKS, TRAIN}), run)
