"""A trial: one method on one budget with one seed. Its id is the hash of everything that determines its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tissuebench.common.hashing import Json, content_hash, is_sha256
from tissuebench.common.own_settings import Own
from tissuebench.common.protocol import PROTOCOL_VERSION
from tissuebench.common.settings import Later, Settings
from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.encoder_weights import weights_sha256
from tissuebench.methods.networks.settings import EncoderMode, FeatureCache, FeatureDtype, NetworkSettings, Weights
from tissuebench.methods.networks.weights_file import WeightsFile
from tissuebench.plans.schema import EvaluationSettings, Plan, validated

_ID_LENGTH = 16
_SHOWN_OF_HASH = 8
_UNSET = object()


_SINCE = frozenset(TrainingSettings.model_fields) - {
    *("steps", "batch_size", "learning_rate", "weight_decay", "rate_schedule", "gradient_clip"),
    *("selection_share", "selection_every"),
}
"""Training settings that are part of an identity only where they differ from their defaults, as they came later."""


def identity_of_settings(settings: Settings) -> dict[str, Json]:
    """Return the settings that determine the result: ``stored()``, but files of weights by their hash, at any depth.

    A setting that came later (``Later``) is left out at the value that says what was done before.
    """
    identity = settings.stored()
    for name, declared in type(settings).model_fields.items():
        key, value = declared.serialization_alias or name, getattr(settings, name)
        own = next((mark for mark in declared.metadata if isinstance(mark, Own)), None)
        if any(isinstance(mark, Later) and mark.before == value for mark in declared.metadata):
            del identity[key]
        elif own is not None:
            identity |= own.identity(key, identity.pop(key))  # type: ignore[arg-type]  # a mapping
        else:
            identity[key] = _identified(value, identity[key])
    return identity


def _identified(value: object, stored: Json) -> Json:
    """Return the part of an identity that a value stands for, which is stored as ``stored``."""
    if isinstance(value, WeightsFile):
        return value.sha256
    if isinstance(value, Settings):
        return identity_of_settings(value)
    if isinstance(value, Mapping) and isinstance(stored, Mapping):
        return {key: _identified(one, stored[key]) for one, key in zip(value.values(), stored, strict=True)}
    if isinstance(value, list | tuple) and isinstance(stored, Sequence):
        return [_identified(one, kept) for one, kept in zip(value, stored, strict=True)]
    return stored


def identity_of_training(training: TrainingSettings) -> dict[str, Json]:
    """Return the training settings that determine the result.

    ``epochs`` stand in place of the steps that follow from them and from data and budget, so that budgets can be
    compared. ``deterministic`` is not among them: like the device and its precision, which are recorded with the
    result, it decides the last bits, and results with and without it estimate the same number.
    """
    settings, defaults = training.stored(), TrainingSettings().stored()
    without_effect = {"compile", "deterministic", "steps" if training.epochs else "epochs"}
    without_effect |= {name for name in _SINCE if settings[name] == defaults[name]}
    return {name: value for name, value in settings.items() if name not in without_effect}


def identity_of_network(network: NetworkSettings, weights_sha256: str | None) -> dict[str, Json]:
    """Return the network settings that determine the result.

    In place of where the encoder's weights come from, it holds their hash. Whether features are cached matters, as
    their images are augmented once, and so does their number format; where they are cached does not.

    Args:
        network: network settings.
        weights_sha256: hash of the pretrained weights; None for random ones.
    """
    settings = network.stored()
    cache, dtype, rank = (settings.pop(name) for name in ("feature_cache", "feature_dtype", "lora_rank"))
    if network.caches_features and network.feature_dtype is not FeatureDtype.FLOAT16:
        settings["feature_dtype"] = dtype
    if network.encoder_mode is EncoderMode.FROZEN and network.feature_cache is FeatureCache.OFF:
        settings["feature_cache"] = cache
    if network.encoder_mode is EncoderMode.LORA:
        settings["lora_rank"] = rank
    settings["weights"] = weights_sha256 or Weights.NONE.value
    return settings


def identity_of_evaluation(evaluation: EvaluationSettings) -> dict[str, Json]:
    """Return the evaluation settings that determine the result: all but those of curves for people.

    Without objects they are what they were before these could be scored.
    """
    settings = evaluation.stored()
    del settings["objects"]
    if evaluation.objects:
        settings["objects"] = [*sorted(set(evaluation.objects))]
    for for_people in ("watch", "watch_every"):
        settings.pop(for_people)
    return settings


def short_hash(identity: Json) -> str:
    """Return the key of a trial or stage: 64 bits of the content hash."""
    return content_hash(identity)[:_ID_LENGTH]


def variant_name(method: str, config: Settings) -> str:
    """Return the name of a method variant: the method and those of its settings that differ from the defaults.

    Examples:
        >>> variant_name("complementary", find_method("complementary").Config(gamma=0))
        'complementary[gamma=0.0]'
    """
    defaults, settings = _flat(identity_of_settings(type(config)())), _flat(identity_of_settings(config))
    changed = [key for key in sorted(settings) if settings[key] != defaults.get(key, _UNSET)]
    displaced = {  # as ``steps`` displaces ``epochs``, which goes without saying
        key[: -len(name)] + other
        for key in changed
        for name in [key.rpartition(".")[2]]
        for other in TrainingSettings.displaces.get(name, ())
    }
    shown = [f"{key}={_shown(settings[key])}" for key in changed]
    shown += [f"{key}=" for key in sorted(defaults.keys() - settings.keys() - displaced)]
    return f"{method}[{','.join(shown)}]" if shown else method


def _flat(settings: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Return settings with those of nested ones under dotted names."""
    found: dict[str, Json] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _shown(value: Json) -> Json:
    """Return a value as in a name: a hash by its first digits."""
    return str(value)[:_SHOWN_OF_HASH] if is_sha256(value) else value


@dataclass(frozen=True, slots=True)
class Trial:
    """Everything that determines one result; no path, device, executor or service.

    ``minutes`` is the assumed annotation cost of the labels that the trial sees (masks, tags and diagnoses together);
    it is reported next to the result and is not part of the identity. Nor is the place of the encoder's pretrained
    weights, in ``network``: ``weights_sha256`` identifies them, None for random ones. ``n_tiles`` holds the number of
    tiles with each kind of label, if a stage counts epochs: what its steps follow from. ``training`` and
    ``augmentation`` are those of the last stage; where a published recipe has its own, ``shared_training`` and
    ``shared_augmentation`` are the plan's, and the identity holds these: its own are part of ``config``.

    Examples:
        >>> trial = find_trained(Path("home"), "1c9ffe2a").trial  # from tissuebench.prediction.load_method
        >>> trial.label
        'supervised masks:3p draw 0 seed 0'
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
    weights_sha256: str | None = None
    n_tiles: Mapping[Supervision, int] = field(default_factory=dict)
    shared_training: TrainingSettings | None = None
    shared_augmentation: AugmentSettings | None = None
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", short_hash(self.identity()))

    def identity(self) -> dict[str, Json]:
        """Return the inputs that are hashed into the id."""
        return {
            "protocol": PROTOCOL_VERSION,
            "dataset": self.dataset,
            "store": self.store_sha256,
            "split": self.split_sha256,
            "budget": self.budget.sha256,
            "method": self.method,
            "config": identity_of_settings(self.config),
            "network": identity_of_network(self.network, self.weights_sha256),
            "training": identity_of_training(self.shared_training or self.training),
            "augmentation": (self.shared_augmentation or self.augmentation).identity(),
            "evaluation": identity_of_evaluation(self.evaluation),
            "seed": self.seed,
        }

    def document(self) -> dict[str, Json]:
        """Return the full description of the trial, for a process that has nothing but the home folder."""
        return {
            "dataset": self.dataset,
            "store_sha256": self.store_sha256,
            "split_sha256": self.split_sha256,
            "budget": self.budget.document(),
            "method": self.method,
            "config": self.config.stored(),
            "network": self.network.stored(),
            "training": self.training.stored(),
            "augmentation": self.augmentation.stored(),
            "evaluation": self.evaluation.stored(),
            "seed": self.seed,
            "minutes": self.minutes,
            "weights_sha256": self.weights_sha256,
            "n_tiles": {kind.value: n for kind, n in self.n_tiles.items()},
            "shared_training": None if self.shared_training is None else self.shared_training.stored(),
            "shared_augmentation": None if self.shared_augmentation is None else self.shared_augmentation.stored(),
            "identity": self.identity(),
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Trial:
        """Rebuild the trial that ``document`` describes.

        Raises:
            ConfigError: its method is unknown in this installation, or has different settings.
        """
        method = document["method"]
        training, augmentation = document.get("shared_training"), document.get("shared_augmentation")
        return cls(
            dataset=document["dataset"],
            store_sha256=document["store_sha256"],
            split_sha256=document["split_sha256"],
            budget=LabelBudget.of_document(document["budget"]),
            method=method,
            config=validated(find_method(method).Config, document["config"], f"trial: config of {method}"),
            network=validated(NetworkSettings, document["network"], "trial: network"),
            training=validated(TrainingSettings, document["training"], "trial: training"),
            augmentation=validated(AugmentSettings, document["augmentation"], "trial: augmentation"),
            evaluation=validated(EvaluationSettings, document["evaluation"], "trial: evaluation"),
            seed=document["seed"],
            minutes=document["minutes"],
            weights_sha256=document.get("weights_sha256"),
            n_tiles={Supervision(kind): n for kind, n in document.get("n_tiles", {}).items()},
            shared_training=None if training is None else validated(TrainingSettings, training, "trial: training"),
            shared_augmentation=None
            if augmentation is None
            else validated(AugmentSettings, augmentation, "trial: augmentation"),
        )

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
        n_tiles: Mapping[Supervision, int] | None = None,
    ) -> Trial:
        """Create a trial with the plan's shared settings, or those of a published recipe.

        Raises:
            ConfigError: the encoder's pretrained weights cannot be read, or settings contradict each other.
        """
        kind = find_method(method)
        training, augmentation = (
            kind.training_of(config, plan.training),
            kind.augmentation_of(config, plan.augmentation),
        )
        own = training is not plan.training or augmentation is not plan.augmentation
        if training.epochs and n_tiles:
            training = training.resolved(n_tiles[kind.epoch_tiles(config)])
        return cls(
            dataset=dataset,
            store_sha256=store_sha256,
            split_sha256=split_sha256,
            budget=budget,
            method=method,
            config=config,
            network=plan.network,
            training=training,
            augmentation=augmentation,
            evaluation=plan.evaluation,
            seed=seed,
            minutes=minutes,
            weights_sha256=weights_sha256(plan.network),
            n_tiles=n_tiles or {},
            shared_training=plan.training if own else None,
            shared_augmentation=plan.augmentation if own else None,
        )

    def check_weights(self) -> None:
        """Raise ``ConfigError`` if the encoder's pretrained weights are others here than where the plan was read."""
        network = self.network
        if weights_sha256(network) != self.weights_sha256:
            raise ConfigError(
                f"network.weights {network.weights!r} of {network.encoder} are others here than where the plan was "
                "read: copy the same file to this place, or run the command again"
            )

    @property
    def arm(self) -> str:
        """Name of the method variant in a table, see ``variant_name``."""
        return variant_name(self.method, self.config)

    @property
    def label(self) -> str:
        """Title for users: method, budget, draw (unless everything was bought), seed."""
        draw = "" if self.budget.everything else f" draw {self.budget.replicate}"
        return f"{self.arm} {self.budget.spec}{draw} seed {self.seed}"
