"""Expansion of a plan into trials: variants of methods, with their controls, x budgets x draws x seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tissuebench.common.own_settings import in_place_of
from tissuebench.common.settings import Settings
from tissuebench.datasets.ingest.dataset import dataset_folder
from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.budget_spec import Spending, fitting_budgets, parse_spec
from tissuebench.datasets.labels.draw_budget import diagnosis_purchase, offer, persisted_budget
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError
from tissuebench.methods.api.registry import find_method
from tissuebench.plans.epochs import tiles_of_epochs
from tissuebench.plans.grid import Variant, refuse_choice_on_test, variants_of
from tissuebench.plans.preconditions import missing_labels
from tissuebench.plans.schema import Plan
from tissuebench.plans.trial import Trial


@dataclass(frozen=True, slots=True)
class PlannedData:
    """The opened dataset of a plan: its store and its split."""

    store: TileStore
    split: Split


def with_controls(names: Sequence[str]) -> list[str]:
    """Return the requested methods and the controls they need, each once: controls first, an added ``full`` last.

    Raises:
        ConfigError: unknown method.
    """
    wanted: list[str] = []
    for name in names:
        for control in find_method(name).controls:
            if control not in wanted and control != "full":
                wanted.append(control)
    wanted += [name for name in names if name not in wanted]
    if "full" not in wanted and any("full" in find_method(name).controls for name in names):
        wanted.append("full")
    return wanted


def configured(plan: Plan, methods: Sequence[str]) -> list[Variant]:
    """Return the variants of these methods and their controls, controls first.

    Raises:
        ConfigError: unknown method or setting, settings of a stage that contradict each other, or a grid whose variants
            would be scored on the test part.
    """
    # Requested methods come first: controls follow them, and a wrong key is reported under the name the user gave.
    found = {name: variants_of(plan, name) for name in (*methods, *with_controls(methods))}
    variants = [variant for of_method in found.values() for variant in of_method]
    refuse_choice_on_test(variants, plan.evaluation.part)
    for variant in variants:
        _check_own_settings(plan, variant)
    return [variant for name in with_controls(methods) for variant in found[name]]


def _check_own_settings(plan: Plan, variant: Variant) -> None:
    """Raise ``ConfigError`` if settings that a stage has of its own contradict the plan's or each other."""
    kind, config = find_method(variant.method), variant.config
    kind.training_of(config, plan.training)
    kind.augmentation_of(config, plan.augmentation)
    for stage in kind.stages(config, plan.training):
        in_place_of(plan.augmentation, stage.augmentation, f"stage {stage.name!r}: augmentation")


def expand(
    plan: Plan, methods: Sequence[str], data: PlannedData, home: Path, store_budgets: bool = True
) -> list[Trial]:
    """Return all trials of a plan in execution order: seed by seed, so that a first table is available early.

    A method is left out at budgets that it cannot use: budgets in masks or tags if it spends nothing on that kind of
    label. At budgets in minutes, it must spend them on something, if only on diagnoses. A control that was not
    requested by name is left out, too, if the dataset lacks its labels. A budget of everything has no draw: it gives
    one trial a seed. Budgets that are drawn are stored in ``home``, unless ``store_budgets`` is False.

    Raises:
        ConfigError: unknown method or setting, a budget that cannot be bought, or a method that was requested by name
            and lacks labels or can use none of the budgets.
    """
    planned = []
    for one in _planned_variants(plan, methods):
        kinds = {kind for spec in one.budgets for kind in _kinds(spec, one.spending)}
        lacks = missing_labels(one.variant.method, kinds, data.store, data.split)
        if lacks and one.variant.method in methods:
            raise ConfigError(lacks)
        if not lacks:
            planned.append(one)
    _check_fit(plan.budgets, [spec for one in planned for spec in one.budgets], data)
    trials: dict[str, Trial] = {}
    for seed in plan.seeds:
        for replicate in (seed,) if plan.replicates == "per_seed" else plan.replicates:
            for one in planned:
                for spec in one.budgets:
                    budget = _budget(home, data, spec, replicate, one.spending, store_budgets)
                    trial = Trial.of_plan(
                        plan,
                        data.store.info.dataset,
                        data.store.content_hash,
                        data.split.sha256,
                        budget,
                        one.variant.method,
                        one.variant.config,
                        seed,
                        _minutes_of_labels(one.variant.method, budget, data),
                        tiles_of_epochs(
                            data.store, data.split, budget, one.variant.method, one.variant.config, plan.training
                        ),
                    )
                    trials[trial.id] = trial
    return list(trials.values())


def planned_cells(plan: Plan, methods: Sequence[str]) -> dict[tuple[str, str], int]:
    """Return the number of trials by method variant and budget, as far as the plan tells without data.

    The data may reduce it: a control may lack its labels, and a budget that turns out to buy everything has no draw.

    Raises:
        ConfigError: unknown method or setting, or a method that was requested by name and can use no budget.
    """
    n_draws = 1 if plan.replicates == "per_seed" else len(plan.replicates)
    return {
        (one.variant.name, spec): len(plan.seeds) * (1 if parse_spec(spec).share == 1 else n_draws)
        for one in _planned_variants(plan, methods)
        for spec in one.budgets
    }


@dataclass(frozen=True, slots=True)
class _PlannedVariant:
    """A variant of a method or control, how it spends minutes, and the budgets that it can use."""

    variant: Variant
    spending: Spending
    budgets: Sequence[str]


def _planned_variants(plan: Plan, methods: Sequence[str]) -> list[_PlannedVariant]:
    planned = []
    for variant in configured(plan, methods):
        spending = spending_of(variant.method, variant.config)
        usable = _usable_budgets(variant.method, spending, plan.budgets, variant.method in methods)
        planned.append(_PlannedVariant(variant, spending, usable))
    return planned


def _check_fit(specs: Sequence[str], used: Collection[str], data: PlannedData) -> None:
    """Raise ``ConfigError`` if a budget asks for more patients than there are, naming budgets that fit instead.

    Args:
        specs: budgets of the plan.
        used: those that some method uses.
        data: the labels.
    """
    sold = {
        kind: len(offer(data.store, data.split, kind).n_tiles)
        for kind in {parsed.kind for parsed in map(parse_spec, used) if parsed.kind is not None}
    }
    try:
        for spec in used:
            parsed = parse_spec(spec)
            if parsed.kind is not None:
                parsed.patients_of(sold[parsed.kind])
    except ConfigError as error:
        fitting = ",".join(fitting_budgets(specs, sold))
        raise ConfigError(
            f"dataset {data.store.info.dataset!r}: {error}; budgets that fit: --budget {fitting} (with make: "
            f"BUDGETS={fitting})"
        ) from None


def _budget(home: Path, data: PlannedData, spec: str, replicate: int, spending: Spending, store: bool) -> LabelBudget:
    dataset = data.store.info.dataset
    folder = dataset_folder(home, dataset) / "budgets"
    try:
        return persisted_budget(folder, data.store, data.split, spec, replicate, spending, store)
    except ConfigError as error:
        raise ConfigError(f"dataset {dataset!r}: {error}") from None


def spending_of(method: str, config: Settings) -> Spending:
    """Return how a method spends its minutes under these settings.

    Raises:
        ConfigError: unknown method, or shares that do not add up or are spent on labels that it does not consume.
    """
    kind = find_method(method)
    shares = kind.spending(config)
    strange = sorted(set(shares) - (kind.consumes & {Supervision.MASKS, Supervision.TAGS}))
    if strange:
        raise ConfigError(f"method {method!r} spends minutes on {strange[0]}, which it does not consume or cannot buy")
    try:
        return Spending(
            masks=shares.get(Supervision.MASKS, 0.0),
            tags=shares.get(Supervision.TAGS, 0.0),
            diagnoses=Supervision.DIAGNOSIS in kind.consumes,
        )
    except ConfigError as error:
        raise ConfigError(f"method {method!r}: {error}") from None


def _usable_budgets(method: str, spending: Spending, specs: Sequence[str], asked_for: bool) -> list[str]:
    """Return the budgets a method can use: those in a kind of label it spends on, and minutes if it spends any."""
    kind = find_method(method)
    if kind.fixed_budget is not None:
        return [kind.fixed_budget]
    spends = set(spending.shares)
    bought_with_minutes = spends | ({Supervision.DIAGNOSIS} if spending.diagnoses else set())
    kinds = {spec: parse_spec(spec).kind for spec in specs}
    usable = [spec for spec in specs if (kinds[spec] in spends if kinds[spec] else bought_with_minutes)]
    if asked_for and not usable:
        consumed = ", ".join(sorted(kind.consumes - {Supervision.NONE})) or "no label"
        spent = ", ".join(sorted(spends))
        but = f" and spends on {spent}" if spends != kind.consumes & {Supervision.MASKS, Supervision.TAGS} else ""
        named = ", ".join(map(repr, specs))
        raise ConfigError(f"method {method!r} cannot use budget {named}: it consumes {consumed}{but}")
    return usable


def _kinds(spec: str, spending: Spending) -> Collection[Supervision]:
    """Return the kinds of labels that a budget buys, apart from diagnoses."""
    kind = parse_spec(spec).kind
    return spending.shares if kind is None else (kind,)


def _minutes_of_labels(method: str, budget: LabelBudget, data: PlannedData) -> float:
    """Return the cost of all labels a trial sees, including diagnoses not paid for by a budget in patients."""
    minutes = budget.mask_minutes + budget.tags.minutes
    if Supervision.DIAGNOSIS in find_method(method).consumes:
        minutes += diagnosis_purchase(data.store, data.split).minutes
    return minutes
