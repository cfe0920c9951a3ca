"""A trial: one method on one budget with one seed. Its id is the hash of what determines its number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tissuebench.config import EvaluationSettings, Plan
from tissuebench.datasets.augment import AugmentSettings
from tissuebench.datasets.label_budget import LabelBudget
from tissuebench.hashing import Json, content_hash
from tissuebench.methods.settings import NetworkSettings, Settings, TrainingSettings

PROTOCOL_VERSION = 1
"""Raised when the same inputs would give another number: results of different versions never meet in a table."""

_ID_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Trial:
    """Everything that determines one number; no path, device, executor or service.

    ``minutes`` is what the labels it sees are assumed to have cost, masks, tags and diagnoses together; it is told
    beside the number and not part of the identity.
    """

    dataset: str
    store_sha256: str
    split_sha256: str
    budget: LabelBudget
    method: str
    config: Settings
    network: NetworkSettings
    training: TrainingSettings
    augmentation: AugmentSettings
    evaluation: EvaluationSettings
    seed: int
    minutes: float
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", content_hash(self.identity())[:_ID_LENGTH])

    def identity(self) -> dict[str, Json]:
        """The hashed inputs."""

        def dump(settings: Any) -> Json:  # noqa: ANN401 - any pydantic model
            dumped: Json = settings.model_dump(mode="json")
            return dumped

        training = self.training.model_dump(mode="json")
        training.pop("compile")  # how fast, not what
        return {
            "protocol": PROTOCOL_VERSION,
            "dataset": self.dataset,
            "store": self.store_sha256,
            "split": self.split_sha256,
            "budget": self.budget.sha256,
            "method": self.method,
            "config": dump(self.config),
            "network": dump(self.network),
            "training": training,
            "augmentation": dump(self.augmentation),
            "evaluation": dump(self.evaluation),
            "seed": self.seed,
        }

    @classmethod
    def of_plan(
        cls,
        plan: Plan,
        dataset: str,
        store_sha256: str,
        split_sha256: str,
        budget: LabelBudget,
        method: str,
        config: Settings,
        seed: int,
        minutes: float,
    ) -> Trial:
        """A trial with the plan's shared settings."""
        return cls(
            dataset=dataset,
            store_sha256=store_sha256,
            split_sha256=split_sha256,
            budget=budget,
            method=method,
            config=config,
            network=plan.network,
            training=plan.training,
            augmentation=plan.augmentation,
            evaluation=plan.evaluation,
            seed=seed,
            minutes=minutes,
        )

    @property
    def arm(self) -> str:
        """The method's name in a table, with the settings that differ from its defaults: variants stay apart."""
        defaults = type(self.config)().model_dump(mode="json")
        settings = self.config.model_dump(mode="json")
        changed = [f"{key}={settings[key]}" for key in sorted(settings) if settings[key] != defaults[key]]
        return f"{self.method}[{','.join(changed)}]" if changed else self.method

    @property
    def label(self) -> str:
        """What people read: method, budget, draw, seed."""
        return f"{self.arm} {self.budget.spec} draw {self.budget.replicate} seed {self.seed}"
