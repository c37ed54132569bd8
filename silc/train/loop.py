"""The trainer: one class, its phases in order of execution: data, model, engine, teacher, resume, loop, end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silc import config_io
from silc.config import Config
from silc.data import build_loader
from silc.data.batch import Batch
from silc.distributed import World, all_reduce_mean_
from silc.errors import RunInterrupted, RunStopped
from silc.model.scale import LogitScale
from silc.model.silc import build
from silc.objective import plan_views, teacher_statistics
from silc.teacher import build_teacher
from silc.train import checkpoint
from silc.train.banner import banner
from silc.train.engine import Engine, precision
from silc.train.estimate import step_flops
from silc.train.metrics import MetricLog, peak_flops
from silc.train.progress import Progress
from silc.train.same_run import check_same_run
from silc.train.schedule import learning_rate
from silc.train.step import SilcStep, StepReport
from silc.train.stop import StopRequest


@dataclass
class Counters:
    """What a run has done so far; moves only as described."""

    step: int = 0  # steps applied
    skipped_steps: int = 0  # steps discarded because something was not finite
    skipped_samples: int = 0  # samples that could not be read, this rank
    position: int = 0  # next sample of the stream, over all ranks
    seconds: float = 0.0  # training time, evaluation and saving left out


class Trainer:
    """A run. `shards` are the training shards; `folder` the run folder, made when all else is in order; both are the
    same on every rank.

    Raises ValueError for what cannot be read, resumed or written.
    """

    def __init__(self, config: Config, world: World, shards: list[str], folder: Path) -> None:
        self.config, self.world, self.folder = config, world, folder
        self.dtype = precision(config, world.device)
        self.plan = plan_views(config)
        # First what a mistake in the data or a checkpoint shows, then what takes time, last what leaves traces.
        resumed, saved = self._saved()
        self.loader = build_loader(
            config,
            rank=world.rank,
            world=world.size,
            start_position=self.counters.position,
            local_from_position=config.distill_start_step * config.train.global_batch,
            shards=shards,
        )
        self._build()
        if resumed is not None:
            self._restore(resumed, saved)
        self.log = self._open() if world.main else None

    def _open(self) -> MetricLog:
        """The run folder with its first files, and the banner (main rank)."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(config_io.to_yaml(self.config), encoding="utf-8")
            (self.folder / "deepspeed.json").write_text(json.dumps(self.engine.json, indent=1), encoding="utf-8")
            log = MetricLog(self.config, self.folder, self.counters.step)
        except OSError as error:
            raise ValueError(
                f"the run folder {self.folder} cannot be written: {error.strerror}; take another train.out"
            ) from None
        print(banner(self), flush=True)
        return log

    def _build(self) -> None:
        config, device = self.config, self.world.device
        self.engine = Engine(config, build(config), self.world)
        objective = config.objective
        self.scale = LogitScale(
            objective.contrastive,
            init_scale=objective.init_scale,
            init_bias=objective.init_bias,
            max_scale=objective.max_scale,
        ).to(device)
        # Outside the engine: a low-precision copy cannot be clamped, and 0-dim or lone parameters trip ZeRO (see docs
        # in README).
        self.scale_optimizer = torch.optim.AdamW(
            self.scale.parameters(),
            lr=0.0,
            betas=(config.optim.beta1, config.optim.beta2),
            eps=config.optim.eps,
            weight_decay=0.0,
        )
        self.teacher = build_teacher(config, self.engine.fragments(), dtype=self.dtype, device=device)
        self.center = torch.zeros(config.model.head.prototypes, device=device)
        self.step = SilcStep(
            config,
            self.plan,
            self.engine,
            self.scale,
            self.scale_optimizer,
            self.teacher,
            self.center,
            dtype=self.dtype,
        )

    def _saved(self) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to go on from, and the trainer's part of it; sets the counters."""
        wanted, self.counters = self.config.train.resume, Counters()
        if wanted is None:
            return None, {}
        path = checkpoint.newest(self.folder) if wanted == "auto" else checkpoint.find(wanted)
        if path is None:
            return None, {}
        saved = checkpoint.load_trainer(path, self.world.size, self.world.device)
        warning = check_same_run(saved["config"], config_io.to_dict(self.config), path)
        if warning is not None and self.world.main:
            print(warning, flush=True)
        skipped = saved["skipped_samples"]
        self.counters = Counters(**saved["counters"], skipped_samples=skipped if self.world.main else 0)
        return path, saved

    def _restore(self, path: Path, saved: dict[str, Any]) -> None:
        self.engine.load(path)
        if self.teacher is not None:
            self.teacher.load_average(checkpoint.load_weights(path, "teacher"))
        self.center.copy_(saved["center"])
        self.scale.load_state_dict(saved["scale"])
        self.scale_optimizer.load_state_dict(saved["scale_optimizer"])
        if self.world.main:
            print(f"resumed from {path} at step {self.counters.step}", flush=True)

    def run(self, evaluate: Callable[[], None] | None = None) -> Counters:
        """Train to `train.steps`; save every `train.save_every` steps and call `evaluate` every `eval.every`.

        Raises RunStopped after too many bad steps in a row, and RunInterrupted when a signal asks for the end.
        """
        config, counters = self.config, self.counters
        meter = _Meter(config, self.world)
        progress = Progress(config.train.steps, counters.step, enabled=self.world.main)
        bad_in_a_row = 0
        batches = iter(self.loader)
        with StopRequest() as request:
            while counters.step < config.train.steps:
                meter.waiting()
                batch = next(batches)
                meter.working()
                report = self._one(batch)
                counters.position = batch.position
                self._count_samples(batch)
                if report.applied:
                    bad_in_a_row = 0
                    counters.step += 1
                    meter.add(report)
                else:
                    bad_in_a_row += 1
                    self._bad_step(report, bad_in_a_row)
                    continue
                if counters.step % config.train.log_every == 0 or counters.step == config.train.steps:
                    self._log(report, meter, progress)
                progress.advance()
                self._periodic(meter, evaluate)
                self._heed(request, meter)
        counters.seconds += meter.pause()
        progress.close()
        return counters

    def _one(self, batch: Batch) -> StepReport:
        config, step = self.config, self.counters.step
        distill = self.teacher is not None and step >= config.distill_start_step
        if distill and step == config.distill_start_step and step > 0:
            self.teacher.update(0.0)  # distillation starts from the student as its own teacher
        lr = learning_rate(step, config.train.steps, config.optim)
        return self.step(batch.to(self.world.device, non_blocking=True), lr=lr, distill=distill)

    def _count_samples(self, batch: Batch) -> None:
        self.counters.skipped_samples += len(batch.skipped)

    def _bad_step(self, report: StepReport, in_a_row: int) -> None:
        """Count and name a discarded step; end the run when there are too many in a row."""
        self.counters.skipped_steps += 1
        shown = ", ".join(report.bad_keys[:8]) + (
            f" and {len(report.bad_keys) - 8} more" if len(report.bad_keys) > 8 else ""
        )
        what = (
            f"step {self.counters.step} was discarded ({in_a_row} in a row): its loss or gradient was not finite; "
            f"weights, teacher, centre and schedule did not move; samples: {shown}"
        )
        if self.world.main:
            print(what, flush=True)
            with (self.folder / "skipped_steps.jsonl").open("a", encoding="utf-8") as file:
                record = {"step": self.counters.step, "position": self.counters.position, "keys": report.bad_keys}
                file.write(json.dumps(record) + "\n")
        if in_a_row >= self.config.train.max_bad_steps:
            raise RunStopped(
                f"{in_a_row} steps in a row were not finite (train.max_bad_steps={self.config.train.max_bad_steps}). "
                "The weights are those "
                f"of step {self.counters.step}; the samples are in skipped_steps.jsonl. Lower optim.lr, look at the "
                "data, or resume "
                f"from an earlier checkpoint."
            )

    def _log(self, report: StepReport, meter: _Meter, progress: Progress) -> None:
        """All numbers in one place; the only device synchronisation of the loop that is ours."""
        counters, config = self.counters, self.config
        values: dict[str, Any] = meter.read()
        counters.seconds += values.pop("interval_seconds")
        if report.bottleneck is not None:
            statistics = self._teacher_statistics(report.bottleneck)
            values |= {name: float(value) for name, value in statistics.items()}
        scale, bias = (None if value is None else value.detach() for value in self.scale.effective())
        values |= {
            "grad_norm": self.engine.grad_norm(),
            "lr": learning_rate(counters.step - 1, config.train.steps, config.optim),
            "logit_scale": float(scale),
            "skipped_steps": counters.skipped_steps,
            "skipped_samples": self._all_skipped_samples(),
            "samples_seen": counters.step * config.train.global_batch,
        }
        if bias is not None:
            values["logit_bias"] = float(bias)
        if self.log is not None:
            self.log.write(counters.step, values)
        progress.show(values)

    def _teacher_statistics(self, bottleneck: Tensor) -> dict[str, Tensor]:
        weight = self.teacher.head.weight()
        statistics = teacher_statistics(bottleneck, weight, self.center, self.config.objective.teacher_temp)
        return statistics | {"center_norm": self.center.norm()}

    def _all_skipped_samples(self) -> int:
        mine = torch.tensor(float(self.counters.skipped_samples), device=self.world.device)
        return round(float(all_reduce_mean_(mine)) * self.world.size)

    def _periodic(self, meter: _Meter, evaluate: Callable[[], None] | None) -> None:
        """What happens between steps, its time not counted as training; at the last step the caller does it all."""
        step = self.counters.step
        if step >= self.config.train.steps:
            return
        jobs = [(self.config.train.save_every, self.save), (self.config.eval.every, evaluate)]
        for every, job in jobs:
            if every and job is not None and step % every == 0:
                self.counters.seconds += meter.pause()
                job()
                meter.pause()

    def _heed(self, request: StopRequest, meter: _Meter) -> None:
        """End the run after a checkpoint if any rank was asked to; after the last step it ends anyway."""
        step, every = self.counters.step, self.config.train.log_every
        # Reading the answer waits for the device: on a GPU only where the log has just done so.
        waits = self.world.device.type == "cuda" and step % every != 0
        if waits or step >= self.config.train.steps:
            return
        asked = request.agreed(self.world.device)
        if asked is not None:
            self.counters.seconds += meter.pause()
            path = self.save()
            raise RunInterrupted(
                f"{asked.name} at step {self.counters.step} of {self.config.train.steps}; checkpoint {path}. The same "
                "command with train.resume=auto goes on from there"
            )

    def save(self) -> Path:
        """Write a checkpoint (collective)."""
        counters = asdict(self.counters)
        counters.pop("skipped_samples")
        trainer = {
            "counters": counters,
            "skipped_samples": self._all_skipped_samples(),
            "center": self.center,
            "scale": self.scale.state_dict(),
            "scale_optimizer": self.scale_optimizer.state_dict(),
            "config": config_io.to_dict(self.config),
        }
        return checkpoint.save(
            self.folder,
            self.counters.step,
            world=self.world,
            engine=self.engine,
            teacher=self.teacher,
            trainer=trainer,
            config_yaml=config_io.to_yaml(self.config),
            keep=self.config.train.keep_checkpoints,
        )

    def close(self) -> None:
        """Close the logs."""
        if self.log is not None:
            self.log.close()


class _Meter:
    """Time and losses of an interval. Losses stay on the device until :meth:`read`."""

    def __init__(self, config: Config, world: World) -> None:
        self._config, self._world = config, world
        name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
        self._peak = peak_flops(config, name)
        self._flops = step_flops(config)
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._waited = 0.0
        self._start = self._mark = time.perf_counter()

    def waiting(self) -> None:
        """From here to :meth:`working` the loop waits for data."""
        self._mark = time.perf_counter()

    def working(self) -> None:
        """The batch is here."""
        self._waited += time.perf_counter() - self._mark

    def add(self, report: StepReport) -> None:
        """Losses of an applied step."""
        losses = report.losses
        for name, value in (
            ("loss", losses.total),
            ("loss_contrastive", losses.contrastive),
            ("loss_distill", losses.distill),
        ):
            if value is not None:
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._steps += 1

    def read(self) -> dict[str, Any]:
        """Means over the interval, rates and memory; starts the next interval."""
        means = {name: float(all_reduce_mean_(total / self._steps)) for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._start
        rate = self._steps * self._config.train.global_batch / seconds
        values = means | {
            "samples_per_second": rate,
            "step_seconds": seconds / self._steps,
            "waiting_for_data": self._waited / seconds,
            "interval_seconds": seconds,
        }
        if self._peak is not None:
            values["mfu"] = rate * self._flops / (self._peak * self._world.size)
        if self._world.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(self._world.device) / 1e9
        else:
            values["memory_gb"] = _resident_bytes() / 1e9
        self._reset()
        return values

    def pause(self) -> float:
        """Seconds since the interval began, not to be counted twice; starts a new interval."""
        seconds = time.perf_counter() - self._start
        self._reset()
        return seconds


def _resident_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss
