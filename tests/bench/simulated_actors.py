"""Trials of Ray Tune that run in no process: what the driver does with hundreds of them at once, on one core.

They stand in the place of Tune's manager of its trials' processes, report in turn, each as soon as Tune asks, and save
empty checkpoints. What is left out is Ray's own part: messages, placement groups, starting processes.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint
from ray.tune.result import RESULT_DUPLICATE, SHOULD_CHECKPOINT

# One report of a trial by its parameters and epoch; None after the last.
Train = Callable[[dict[str, Any], int], dict[str, Any] | None]


class SimulatedActors:
    """As much of `RayActorManager` as Tune asks for, of so many machines with room for one trial each."""

    train: Train
    at_once: int

    def __init__(self, resource_manager: Any):
        self._events: deque[Callable[[], None]] = deque()
        self._pending: deque[TrackedActor] = deque()
        # By its actor the configuration of a trial, its storage, and the last epoch reported.
        self._trials: dict[TrackedActor, Any] = {}
        self._live_actors_to_ray_actors_resources: dict[TrackedActor, tuple[Any, None]] = {}
        self._made = 0

    def add_actor(
        self, cls: Any, resource_request: Any, kwargs: Any, on_start: Any, on_stop: Any, on_error: Any
    ) -> Any:
        """Start a process, or have it wait for a machine."""
        self._made += 1
        actor = TrackedActor(self._made, on_start, on_stop, on_error)
        self._trials[actor] = SimpleNamespace(**kwargs, epoch=0, report=None)
        self._pending.append(actor)
        return actor

    def next(self, timeout: float | None = None) -> bool:
        """Have one thing happen; whether anything did."""
        if self._pending and len(self._live_actors_to_ray_actors_resources) < self.at_once:
            actor = self._pending.popleft()
            answers = SimpleNamespace(remote=lambda **_: {})
            self._live_actors_to_ray_actors_resources[actor] = SimpleNamespace(get_auto_filled_metrics=answers), None
            actor._on_start(actor)  # type: ignore[misc]
            return True
        if self._events:
            self._events.popleft()()
            return True
        return False

    def schedule_actor_task(
        self,
        tracked_actor: TrackedActor,
        method_name: str,
        args: Any = (),
        kwargs: Any = None,
        on_result: Any = None,
        on_error: Any = None,
        _return_future: bool = False,
    ) -> None:
        """Ask something of a trial's process."""
        answer = getattr(self, f"_{method_name}")

        def happen() -> None:
            told = answer(tracked_actor, *args, **(kwargs or {}))
            if on_result:
                on_result(tracked_actor, told)

        if method_name != "stop":
            self._events.append(happen)

    def _train(self, actor: TrackedActor) -> dict[str, Any]:
        trial = self._trials[actor]
        report = type(self).train(trial.config, trial.epoch + 1)
        if report is None:
            return {RESULT_DUPLICATE: True, SHOULD_CHECKPOINT: False}
        trial.epoch += 1
        clock = {"timestamp": int(time.time()), "time_total_s": 0.01 * trial.epoch, "time_this_iter_s": 0.01}
        where = {"pid": os.getpid(), "hostname": "simulated", "node_ip": "10.0.0.1", "date": "2026-01-01_00-00-00"}
        counts = {"training_iteration": trial.epoch, "iterations_since_restore": trial.epoch, "done": False}
        own = {name: value for name, value in trial.config.items() if not name.startswith("__")}
        trial.report = {**report, **clock, **where, **counts, "config": own, SHOULD_CHECKPOINT: True}
        return dict(trial.report)

    def _save(self, actor: TrackedActor) -> _TrainingResult:
        trial = self._trials[actor]
        folder = Path(trial.storage.trial_fs_path, f"checkpoint_{trial.epoch - 1:06d}")
        trial.storage.storage_filesystem.create_dir(folder.as_posix())
        checkpoint = Checkpoint(folder.as_posix(), trial.storage.storage_filesystem)
        return _TrainingResult(checkpoint, dict(trial.report))

    def _reset(self, actor: TrackedActor, config: dict[str, Any], storage: Any) -> bool:
        self._trials[actor] = SimpleNamespace(config=config, storage=storage, epoch=0, report=None)
        return True

    def _stop(self, actor: TrackedActor) -> None:
        """Nothing is left to do."""

    def remove_actor(self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Any = None) -> bool:
        """End a process; whether it ran."""
        if tracked_actor in self._pending:
            self._pending.remove(tracked_actor)
            return False
        del self._live_actors_to_ray_actors_resources[tracked_actor]
        self._events.append(lambda: tracked_actor._on_stop and tracked_actor._on_stop(tracked_actor))
        return True

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        """Whether it runs."""
        return tracked_actor in self._live_actors_to_ray_actors_resources

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        """None fails."""
        return False

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        """Tune asks for one thing of a trial at a time, and gives up none."""

    def get_live_actors_resources(self) -> dict[str, float]:
        """Tune shows this."""
        return {}

    def cleanup(self) -> None:
        """No process is left."""

    @property
    def num_live_actors(self) -> int:
        """How many run."""
        return len(self._live_actors_to_ray_actors_resources)

    @property
    def num_pending_actors(self) -> int:
        """How many wait for a machine."""
        return len(self._pending)

    @property
    def num_total_actors(self) -> int:
        """How many there are."""
        return self.num_live_actors + self.num_pending_actors

    @property
    def num_actor_tasks(self) -> int:
        """How much is asked for."""
        return len(self._events)
