"""What a linear classifier finds in features: everything that is there, nothing that is not, and of other patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, LabelCosts, Tile
from tissuebench.diagnostics.linear_probe import probe_miou, spaced

PX, K, PATIENT, CLASS = 16, 3, 20, 60
CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (230, 150, 190), (110, 60, 160)))
TRAIN = ("p0", "p1", "p2", "p3")
SPLIT = Split("made", {"train": TRAIN, "test": ("p4",)})


def store_of(path, labels):
    """A slide a patient, whose pixels tell patient (red) and class (green); what is unlabelled looks like class 1."""
    writer = StoreWriter(path, StoreInfo("made", 1.0, PX, LabelCosts()), CLASSES)
    for patient, of_patient in labels.items():
        image = np.zeros((*of_patient.shape, 3), dtype=np.uint8)
        image[..., 0] = int(patient[1:]) * PATIENT
        image[..., 1] = np.where(of_patient == IGNORE_LABEL, 1, of_patient) * CLASS
        tissue = np.ones([-(-edge // 16) for edge in of_patient.shape], dtype=np.uint8)
        writer.add(f"s-{patient}", patient, (), image, of_patient, tissue)
    return writer.seal()


def blocks(seed, tiles=4, shares=(1 / 3, 1 / 3, 1 / 3)):
    """(16, 16 tiles) class ids in squares of 4 px."""
    drawn = np.random.default_rng(seed).choice(K, (PX // 4, tiles * PX // 4), p=shares)
    return drawn.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "s.zarr", {f"p{number}": blocks(number) for number in range(5)})


def of_images(images):
    """Class ids and numbers of patients at half the resolution, (B, h, w)."""
    halved = images[:, :, ::2, ::2].long()
    return halved[:, 1] // CLASS, halved[:, 0] // PATIENT


def telling(noise=0.0, seed=0, told=lambda classes, patients: classes):
    """Features: the classes that are told, one-hot, in channels of very different ranges."""
    generator = torch.Generator().manual_seed(seed)

    def maps(images):
        classes = functional.one_hot(told(*of_images(images)), K).float()
        drawn = classes + noise * torch.randn(classes.shape, generator=generator)
        return (drawn * torch.tensor([1.0, 1e3, 1e-3]) + torch.tensor([0.0, -7e3, 5.0])).permute(0, 3, 1, 2)

    return maps


def test_classes_that_are_in_the_features_are_found(store):
    assert probe_miou(store, SPLIT, telling()) == pytest.approx(1)
    clear, faint = (probe_miou(store, SPLIT, telling(noise)) for noise in (0.2, 1.0))
    assert clear > 0.95
    assert 0.3 < faint < clear - 0.1


def test_noise_tells_nothing(store):
    generator = torch.Generator().manual_seed(0)
    found = probe_miou(store, SPLIT, lambda images: torch.randn(len(images), 8, PX // 2, PX // 2, generator=generator))
    assert 0.12 < found < 0.28  # each of three classes is right as often as not: 1 / 5
    constant = probe_miou(store, SPLIT, lambda images: torch.ones(len(images), 2, 4, 4))
    assert constant < 0.28


@pytest.mark.parametrize("resolution", [1, 4, 16])
def test_maps_may_be_of_any_resolution(store, resolution):
    def maps(images):
        return functional.interpolate(telling()(images), size=(resolution, resolution), mode="nearest-exact")

    found = probe_miou(store, SPLIT, maps)
    assert found == pytest.approx(1) if resolution > 1 else 0 < found <= 1


def test_who_fits_does_not_score_and_who_scores_does_not_fit(store):
    def wrong_for(numbers):
        """Classes are swapped round in features of these patients."""

        def told(classes, patients):
            swapped = torch.stack([patients == number for number in numbers]).any(dim=0)
            return torch.where(swapped, (classes + 1) % K, classes)

        return probe_miou(store, SPLIT, telling(told=told))

    assert wrong_for([1, 3]) == wrong_for([0, 2]) == 0
    assert wrong_for([0, 1, 2, 3]) == pytest.approx(1)  # consistently
    assert wrong_for([4]) == pytest.approx(1)  # of the test part
    assert 0.1 < wrong_for([3]) < 0.9


def test_each_half_has_48_tiles_at_most_of_all_its_patients(tmp_path):
    store = store_of(tmp_path / "s.zarr", {f"p{number}": blocks(number, tiles=30) for number in range(5)})
    seen = []

    def maps(images):
        assert images.dtype == torch.uint8
        assert len(images) <= 16
        seen.extend(of_images(images)[1][:, 0, 0].tolist())
        return telling()(images)

    assert probe_miou(store, SPLIT, maps) == pytest.approx(1)
    assert seen == [0] * 24 + [2] * 24 + [1] * 24 + [3] * 24


def test_what_is_not_annotated_neither_fits_nor_scores(tmp_path):
    """It looks like a class that it may not be."""
    labels = {f"p{number}": blocks(number) for number in range(5)}
    for of_patient in labels.values():
        of_patient[:, :24] = np.where(of_patient[:, :24] == 2, IGNORE_LABEL, of_patient[:, :24])
    store = store_of(tmp_path / "s.zarr", labels)
    assert probe_miou(store, SPLIT, telling()) == pytest.approx(1)


def test_a_rare_class_weighs_as_much_as_a_common_one(tmp_path, monkeypatch):
    counts = []
    monkeypatch.setattr("tissuebench.diagnostics.linear_probe.miou", lambda found: counts.append(found) or 0.0)
    rare = {f"p{number}": blocks(number, 12, (0.94, 0.06, 0.0)) for number in range(5)}
    store, generator = store_of(tmp_path / "s.zarr", rare), torch.Generator().manual_seed(0)

    def maps(images):
        classes = of_images(images)[0].float()
        return (2 * classes + torch.randn(classes.shape, generator=generator))[:, None]

    probe_miou(store, SPLIT, maps)
    (found,) = counts
    assert found[2].sum() == found[:, 2].sum() == 0
    recalls = found[:2, :2].diagonal() / found[:2].sum(axis=1)
    assert recalls == pytest.approx([0.84, 0.84], abs=0.08)  # Phi(1): the border is half way


@pytest.mark.parametrize("annotated", [(), ("p2",)])
def test_without_masks_of_two_patients_there_is_no_figure(tmp_path, annotated):
    blank = np.full((PX, 2 * PX), IGNORE_LABEL, dtype=np.uint8)
    labels = {f"p{number}": blank for number in range(4)} | {"p4": blocks(4)}
    store = store_of(tmp_path / "s.zarr", labels | {patient: blocks(0) for patient in annotated})
    assert probe_miou(store, SPLIT, telling()) is None


def test_patients_without_masks_are_in_neither_half(tmp_path):
    blank = np.full((PX, 2 * PX), IGNORE_LABEL, dtype=np.uint8)
    labels = {"p0": blank, "p1": blocks(1), "p2": blank, "p3": blocks(3), "p4": blocks(4)}
    assert probe_miou(store_of(tmp_path / "s.zarr", labels), SPLIT, telling()) == pytest.approx(1)


def test_annotations_between_the_places_of_a_map_are_no_figure(tmp_path):
    few = np.full((PX, 2 * PX), IGNORE_LABEL, dtype=np.uint8)
    few[0, ::PX] = 1
    store = store_of(tmp_path / "s.zarr", {f"p{number}": few for number in range(5)})
    assert probe_miou(store, SPLIT, lambda images: telling()(images)[:, :, ::4, ::4]) is None


def test_one_patient_alone_is_not_enough(store):
    assert probe_miou(store, Split("small", {"train": ("p1",), "test": ("p0", "p2")}), telling()) is None


def test_spaced():
    tiles = [Tile("s", 0, x) for x in range(10)]
    assert [tile.x for tile in spaced(tiles, 4)] == [0, 3, 6, 9]
    assert spaced(tiles, 10) == spaced(tiles, 99) == tiles
    assert spaced([], 4) == []
