from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import tissuebench
from tissuebench.datasets.labels.budget import selection_patients
from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.open_tiles import grid_index
from tissuebench.datasets.labels.purchase import Purchase
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.sampling import stream_tree
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import SlideInfo, StoreInfo
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import ClassMap, LabelCosts, Stream, Supervision, Tile
from tissuebench.datasets.weak_labels import excluded_classes, keep_at_most, tags_of_counts, tags_of_mask
from tissuebench.errors import WithheldLabelError

CLASSES = ClassMap(
    ("glass", "stroma", "tumour_a", "tumour_b", "tumour_c"),
    ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)),
    {"A": ("tumour_a",), "B": ("tumour_b",), "BC": ("tumour_b", "tumour_c")},
)
ALL_KINDS = frozenset({Supervision.MASKS, Supervision.TAGS, Supervision.DIAGNOSIS})


def names(flags):
    return {name for name, flag in zip(CLASSES.names, flags, strict=True) if flag}


@pytest.mark.parametrize(
    ("diagnoses", "excluded"),
    [
        (("A",), {"tumour_b", "tumour_c"}),
        (("B",), {"tumour_a", "tumour_c"}),
        (("BC",), {"tumour_a"}),
        (("A", "B"), {"tumour_c"}),
        (("A", "BC"), set()),  # a mixed diagnosis that covers all of T
        (("BC", "A"), set()),
        ((), set()),
    ],
)
def test_a_diagnosis_excludes_the_classes_of_the_others(diagnoses, excluded):
    flags = excluded_classes(diagnoses, CLASSES)
    assert (flags.dtype, flags.shape) == (np.bool_, (5,))
    assert names(flags) == excluded


@given(st.lists(st.sampled_from(sorted(CLASSES.diagnoses)), max_size=3))
def test_a_diagnosis_never_excludes_what_it_allows_nor_what_all_cases_share(diagnoses):
    """The inverted label (tumour A excludes tumour A) is the bug that this guards against."""
    excluded = names(excluded_classes(diagnoses, CLASSES))
    assert not excluded & {name for diagnosis in diagnoses for name in CLASSES.diagnoses[diagnosis]}
    assert not excluded & {"glass", "stroma"}


def test_no_case_shows_a_class_that_its_diagnosis_excludes(tiny_data):
    for slide_id in tiny_data.store.slides:
        excluded = excluded_classes(tiny_data.store.withheld.diagnosis(slide_id), tiny_data.store.class_map)
        pixels = np.array(tiny_data.store.withheld.class_pixels(slide_id))
        assert excluded.sum() == 1
        assert pixels[excluded].sum() == 0
        assert (pixels[~excluded] > 0).all()


def test_tags_by_hand():
    mask = np.full((10, 20), 255, dtype=np.uint8)
    assert not tags_of_mask(mask, 4).any()
    mask[0, :10] = 1
    mask[1, :] = 3
    assert tags_of_mask(mask, 4).tolist() == [False, True, False, True]
    mask[:] = 0
    mask[0, 0] = 2  # half a per cent of the tile
    assert tags_of_mask(mask, 4).tolist() == [True, False, False, False]
    assert tags_of_mask(mask, 4, min_share=0.005).tolist() == [True, False, True, False]


@given(arrays(np.uint8, (6, 6), elements=st.sampled_from([0, 1, 2, 255])), st.floats(0, 1))
def test_tags_are_shares_of_the_annotated_pixels(mask, min_share):
    annotated = (mask != 255).sum()
    expected = [bool((mask == k).any() and (mask == k).sum() >= min_share * annotated) for k in range(3)]
    assert tags_of_mask(mask, 3, min_share).tolist() == expected


@pytest.fixture
def budget(tiny_data):
    return draw_budget(tiny_data.store, tiny_data.split, "masks:3p", 0)


@pytest.fixture
def training(tiny_data, budget):
    return lambda kinds: LabelView.for_training(tiny_data.store, tiny_data.split, budget, frozenset(kinds))


def slides_of(tiny_data, patients):
    return [slide.slide_id for slide in tiny_data.store.slides.values() if slide.patient_id in set(patients)]


def test_the_masks_that_were_bought_and_no_other(tiny_data, budget, training):
    view = training({Supervision.MASKS})
    assert {slide.patient_id for slide in view.mask_slides} == set(budget.patients)
    assert [slide.patient_id for slide in view.slides] == list(tiny_data.split.patients("train"))
    for slide_id in tiny_data.store.slides:
        tile = Tile(slide_id, 32, 64)
        if tiny_data.store.slides[slide_id].patient_id in budget.patients:
            truth = np.asarray(Image.open(tiny_data.root / f"{slide_id}_mask.png"))
            assert np.array_equal(view.mask(tile, 32, 32), truth[32:64, 64:96])
            assert np.array_equal(view.tags(tile, 32), tags_of_mask(truth[32:64, 64:96], 4))
        else:
            for ask in (lambda tile=tile: view.mask(tile, 32, 32), lambda tile=tile: view.tags(tile, 32)):
                with pytest.raises(WithheldLabelError, match=slide_id):
                    ask()


@pytest.mark.parametrize("part", ["val", "test"])
def test_no_label_of_another_part_is_open(tiny_data, training, part):
    view = training(ALL_KINDS)
    for slide_id in slides_of(tiny_data, tiny_data.split.patients(part)):
        tile = Tile(slide_id, 0, 0)
        for ask in (
            lambda tile=tile: view.mask(tile, 32, 32),
            lambda tile=tile: view.tags(tile, 32),
            lambda slide_id=slide_id: view.diagnosis(slide_id),
            lambda slide_id=slide_id: view.excluded(slide_id),
        ):
            with pytest.raises(WithheldLabelError, match=slide_id):
                ask()


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_budget_that_names_patients_of_another_part_opens_nothing(tiny_data, budget, part):
    greedy = replace(budget, patients=tiny_data.split.patients(part))
    view = LabelView.for_training(tiny_data.store, tiny_data.split, greedy, ALL_KINDS)
    assert view.mask_slides == ()
    with pytest.raises(WithheldLabelError):
        view.mask(Tile(slides_of(tiny_data, greedy.patients)[0], 0, 0), 8, 8)


def test_diagnoses_are_open_for_all_training_cases_to_a_method_that_consumes_them(tiny_data, training):
    view = training({Supervision.DIAGNOSIS})
    for slide in view.slides:
        (diagnosis,) = view.diagnosis(slide.slide_id)
        assert view.excluded(slide.slide_id).tolist() == [False, False, diagnosis == "B", diagnosis == "A"]


@pytest.mark.parametrize(
    ("kinds", "refused"),
    [
        ({Supervision.MASKS}, {"diagnosis", "excluded"}),
        ({Supervision.DIAGNOSIS}, {"mask", "tags"}),
        ({Supervision.TAGS}, {"mask", "diagnosis", "excluded"}),
        (set(), {"mask", "tags", "diagnosis", "excluded"}),
        (ALL_KINDS, set()),
    ],
)
def test_kinds_that_a_method_does_not_consume_are_refused(training, kinds, refused):
    view = training(kinds)
    slide_id = training(ALL_KINDS).mask_slides[0].slide_id
    asked = {
        "mask": lambda: view.mask(Tile(slide_id, 0, 0), 32, 32),
        "tags": lambda: view.tags(Tile(slide_id, 0, 0), 32),
        "diagnosis": lambda: view.diagnosis(slide_id),
        "excluded": lambda: view.excluded(slide_id),
    }
    for name, ask in asked.items():
        if name in refused:
            with pytest.raises(WithheldLabelError, match="not among the labels this method consumes"):
                ask()
        else:
            ask()


@pytest.mark.parametrize(("part", "others"), [("test", ("train", "val")), ("val", ("train", "test"))])
def test_evaluation_sees_its_part_and_no_other(tiny_data, part, others):
    view = LabelView.for_evaluation(tiny_data.store, tiny_data.split, part)
    assert [slide.patient_id for slide in view.slides] == list(tiny_data.split.patients(part))
    for slide in view.slides:
        truth = np.asarray(Image.open(tiny_data.root / f"{slide.slide_id}_mask.png"))
        assert np.array_equal(view.mask(Tile(slide.slide_id, 0, 0), slide.height, slide.width), truth)
        assert len(view.diagnosis(slide.slide_id)) == 1
    for other in others:
        for slide_id in slides_of(tiny_data, tiny_data.split.patients(other)):
            with pytest.raises(WithheldLabelError, match="not in this part"):
                view.mask(Tile(slide_id, 0, 0), 8, 8)
            with pytest.raises(WithheldLabelError, match="not in this part"):
                view.diagnosis(slide_id)


def test_withheld_labels_are_named_behind_the_door_only():
    """Whoever else reaches past the door is found here before a reviewer has to."""
    benchmark = Path(tissuebench.__file__).resolve().parent
    root = benchmark.parent
    allowed = {f"datasets/{name}.py" for name in ("store", "views", "budgets", "splits", "ingest", "verify")}
    allowed |= {
        "benchmark/inspection/facts.py",
        "benchmark/perf/tiles.py",
    }  # a page for people, a benchmark: no training
    pattern = re.compile(r"\.withheld\b|\bwithheld\s*\(|labels/annotation|WithheldLabels\b|['\"]withheld['\"]")
    files = [
        path for folder in ("benchmark", "methods", "datasets", "results") for path in (root / folder).rglob("*.py")
    ]
    assert len(files) > 40
    naming = {path.relative_to(root).as_posix() for path in files if pattern.search(path.read_text())}
    assert naming <= allowed
    assert {"datasets/store/tile_store.py", "datasets/labels/view.py"} <= naming


def test_supervision_and_class_maps_are_checked():
    assert [kind.value for kind in Supervision] == ["none", "diagnosis", "tags", "masks"]
    assert CLASSES.dependent == (False, False, True, True, True)
    for wrong in ({"names": ("a", "a")}, {"names": ("a",)}, {"colors": ((0, 0, 0),)}, {"diagnoses": {"A": ("z",)}}):
        with pytest.raises(ValueError, match=r"class|colour"):
            ClassMap(**{"names": ("a", "b"), "colors": ((0, 0, 0), (1, 1, 1)), **wrong})


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_fewer_excluded_classes_are_the_same_ones_whenever_asked(count):
    excluded = np.array([False, True, True, False, True, True, True])
    kept = keep_at_most(excluded, count, seed=4)
    assert kept.sum() == min(count, 5)
    assert not (kept & ~excluded).any()
    np.testing.assert_array_equal(kept, keep_at_most(excluded, count, seed=4))
    assert excluded.sum() == 5  # the argument is left alone
    if count < 5:
        assert len({keep_at_most(excluded, count, seed).tobytes() for seed in range(30)}) > 1


def test_all_excluded_classes_are_kept_unless_said(tiny_data):
    view = LabelView.for_evaluation(tiny_data.store, tiny_data.split, "test")
    for slide in view.slides:
        np.testing.assert_array_equal(view.excluded(slide.slide_id), view.excluded(slide.slide_id, 1, 3))
        assert view.excluded(slide.slide_id).sum() == 1


@given(arrays(np.int64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(0, 300)))
def test_tags_of_counts_are_those_of_each_tile(counts):
    flags = tags_of_counts(counts)
    assert (flags.shape, flags.dtype) == (counts.shape, np.bool_)
    for row, shown in zip(counts, flags, strict=True):
        mask = np.repeat(np.arange(4), row).astype(np.uint8)
        assert tags_of_mask(mask, 4).tolist() == shown.tolist() == [c >= max(1, sum(row) / 100) for c in row]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 70))
def test_where_a_tile_stands_in_the_grid(height, width, tile_px):
    slide = SlideInfo("s", "p", height, width, 1.0)
    tiles = grid(slide, tile_px)
    assert [grid_index(slide, tile.y, tile.x, tile_px) for tile in tiles] == list(range(len(tiles)))
    places = {(tile.y, tile.x) for tile in tiles}
    for y in range(-tile_px, height + 1, max(1, height // 9)):
        for x in range(-tile_px, width + 1, max(1, width // 9)):
            assert (grid_index(slide, y, x, tile_px) is None) == ((y, x) not in places)


PARTIAL = ClassMap(("a", "b", "c", "d"), tuple((n, n, n) for n in range(4)), {"B": ("b",), "C": ("c",)})
SHAPES = ((80, 72), (64, 96), (20, 24), (33, 100))
TAGGED = "p5"
MASKS_ONLY, TAGS_ONLY = frozenset({Supervision.MASKS}), frozenset({Supervision.TAGS})


def partly_annotated(path, poison=lambda labels, slide: labels, **info):
    """Six patients, two slides each, blocks of classes and of nothing; nobody annotated p4's, p5's have tags."""
    rng = np.random.default_rng(3)
    costs = LabelCosts(mask_minutes_per_tile=2, tags_minutes_per_tile=0.5)
    writer = StoreWriter(path, StoreInfo("partial", None, 32, costs, **info), PARTIAL)
    cases = {}
    for number in range(12):
        slide_id, patient, (height, width) = f"s{number:02}", f"p{number // 2}", SHAPES[number % 4]
        blocks = rng.choice([0, 1, 2, 3, 255, 255, 255], size=(-(-height // 8), -(-width // 8))).astype(np.uint8)
        labels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        labels[:, : width // 2] = 255
        if patient in ("p4", TAGGED):
            labels[:] = 255
        tissue = rng.integers(0, 2, (-(-height // 16), -(-width // 16))).astype(np.uint8)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        writer.add(slide_id, patient, (), image, poison(labels, slide_id), tissue)
        cases[slide_id] = Case(patient, (), ("b", "d") if patient == TAGGED else None)
    return writer.seal(cases)


PARTIAL_SPLIT = Split("partial", {"train": tuple(f"p{n}" for n in range(6))})


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    return partly_annotated(tmp_path_factory.mktemp("partial") / "s.zarr")


def bought_with(store, spec, replicate=0, kinds=MASKS_ONLY, spending=None, **options):
    budget = draw_budget(store, PARTIAL_SPLIT, spec, replicate, spending or Spending())
    return budget, LabelView.for_training(store, PARTIAL_SPLIT, budget, kinds, **options)


@given(st.integers(2, 60), st.integers(0, 2**20))
def test_a_patient_bought_in_part_shows_the_bought_tiles_and_not_a_pixel_more(partial, minutes, replicate):
    budget, view = bought_with(partial, f"minutes:{minutes}", replicate)
    open_tiles = set(view.mask_tiles())
    assert len(open_tiles) == budget.tiles
    assert set(budget.mask_tiles) <= open_tiles
    assert view.mask_tiles() == sorted(open_tiles, key=lambda tile: (tile.slide_id, tile.y, tile.x))
    for slide in partial.slides.values():
        for tile in grid(slide, 32):
            truth = partial.withheld.mask(slide.slide_id, tile.y, tile.x, 32, 32)
            if slide.patient_id in budget.patients or tile in budget.mask_tiles:
                assert np.array_equal(view.mask(tile, 32, 32), truth)
                assert np.array_equal(view.tags(tile, 32), tags_of_mask(truth, 4))
                assert (tile in open_tiles) == bool((truth != 255).any())
                inside = Tile(tile.slide_id, tile.y + 5, tile.x + 9)
                assert np.array_equal(view.mask(inside, 27, 20), truth[5:32, 9:29])
            else:
                for ask in (lambda tile=tile: view.mask(tile, 32, 32), lambda tile=tile: view.tags(tile, 32)):
                    with pytest.raises(WithheldLabelError, match="not bought by the budget"):
                        ask()
    for tile in budget.mask_tiles:
        for y, x, height, width in ((-1, 0, 32, 32), (0, 1, 32, 32), (0, 0, 33, 32), (0, 0, 1, 33), (31, 31, 2, 1)):
            region = (tile.y + y, tile.x + x, height, width)
            if not any(
                t.slide_id == tile.slide_id
                and t.y <= region[0]
                and t.x <= region[1]
                and region[0] + height <= t.y + 32
                and region[1] + width <= t.x + 32
                for t in budget.mask_tiles
            ):
                with pytest.raises(WithheldLabelError, match="not bought by the budget"):
                    view.mask(Tile(tile.slide_id, region[0], region[1]), height, width)


def test_many_masks_and_tags_are_those_of_each_tile(partial):
    _, view = bought_with(partial, "masks:3p")
    tiles = view.mask_tiles()[::-2]
    assert len(tiles) > 5
    assert np.array_equal(view.masks(tiles, 32), np.stack([view.mask(tile, 32, 32) for tile in tiles]))
    assert np.array_equal(view.tags_of(tiles), np.stack([view.tags(tile, 32) for tile in tiles]))
    assert view.tags_of([]).shape == (0, 4)
    shut = next(slide for slide in view.slides if slide not in view.mask_slides)
    for ask in (lambda t: view.masks(t, 32), view.tags_of):
        with pytest.raises(WithheldLabelError, match=shut.slide_id):
            ask([*tiles, Tile(shut.slide_id, 0, 0)])
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.tags_of([replace(tiles[0], y=1)])  # no tile of the grid
    off_grid = replace(tiles[0], y=1)
    assert np.array_equal(view.tags(off_grid, 24), tags_of_mask(view.mask(off_grid, 24, 24), 4))


def test_a_view_is_the_same_in_a_worker_process(partial):
    _, view = bought_with(partial, "minutes:30", kinds=ALL_KINDS, spending=Spending(0.5, 0.5))
    copy = pickle.loads(pickle.dumps(view))
    tiles = view.tag_tiles()
    assert copy.tag_tiles() == tiles
    assert np.array_equal(copy.tags_of(tiles), view.tags_of(tiles))


def test_tags_open_where_they_were_bought_and_masks_do_not(partial):
    budget, view = bought_with(partial, "tags:all", kinds=ALL_KINDS)
    assert view.mask_tiles() == []
    assert view.mask_slides == ()
    tiles = view.tag_tiles()
    assert len(tiles) == budget.tags.n_tiles
    for slide in view.slides:
        tissue = partial.tile_tissue(slide.slide_id)
        for tile, share in zip(grid(slide, 32), tissue, strict=True):
            truth = partial.withheld.mask(slide.slide_id, tile.y, tile.x, 32, 32)
            with pytest.raises(WithheldLabelError, match="not bought"):
                view.mask(tile, 32, 32)
            if slide.patient_id == TAGGED:
                assert view.tags(tile, 32).tolist() == [False, True, False, True]
            elif share >= 0.25 and (truth != 255).any():
                assert np.array_equal(view.tags(tile, 32), tags_of_mask(truth, 4))
            else:
                assert tile not in tiles
                with pytest.raises(WithheldLabelError, match="not bought"):
                    view.tags(tile, 32)
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.tags(replace(tiles[0], y=tiles[0].y + 1), 24)  # tags were bought of tiles, not of every region


def test_tags_of_the_source_are_served_where_tags_were_bought(partial):
    tagged = [slide.slide_id for slide in partial.slides.values() if slide.patient_id == TAGGED]
    _, view = bought_with(partial, "tags:all", kinds=TAGS_ONLY)
    for slide in view.slides:
        if slide.slide_id in tagged:
            assert view.image_tags(slide.slide_id).tolist() == [False, True, False, True]
        elif slide.patient_id != "p4":
            assert view.image_tags(slide.slide_id) is None
        else:
            with pytest.raises(WithheldLabelError, match="not bought"):
                view.image_tags(slide.slide_id)
    _, masks = bought_with(partial, "masks:all", kinds=ALL_KINDS)
    _, deaf = bought_with(partial, "tags:all", kinds=MASKS_ONLY)
    for closed in (masks, deaf):
        for slide_id in tagged:
            with pytest.raises(WithheldLabelError, match=slide_id):
                closed.image_tags(slide_id)


def test_a_method_that_does_not_consume_tags_gets_none_of_the_bought_ones(partial):
    _, view = bought_with(partial, "tags:all", kinds=MASKS_ONLY)
    assert view.tag_tiles() == []
    _, both = bought_with(partial, "tags:all", kinds=ALL_KINDS)
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.tags(both.tag_tiles()[0], 32)


def test_who_chooses_a_checkpoint_is_not_trained_on(partial):
    spending = Spending(0.8, 0.2)
    budget, view = bought_with(partial, "minutes:150", kinds=ALL_KINDS, spending=spending)
    held_out = frozenset(selection_patients(budget, 0.5))
    assert held_out
    _, kept = bought_with(partial, "minutes:150", kinds=ALL_KINDS, spending=spending, held_out=held_out)

    def rest(tiles):
        return [tile for tile in tiles if partial.slides[tile.slide_id].patient_id not in held_out]

    assert kept.mask_tiles() == rest(view.mask_tiles()) != view.mask_tiles()
    assert kept.tag_tiles() == rest(view.tag_tiles())
    _, none = bought_with(partial, "minutes:20", held_out=PARTIAL_SPLIT.patients("train"))
    assert none.mask_tiles() == []
    shut = next(tile for tile in view.mask_tiles() if tile not in kept.mask_tiles())
    for ask in (lambda: kept.mask(shut, 32, 32), lambda: kept.tags(shut, 32)):
        with pytest.raises(WithheldLabelError, match="not bought"):
            ask()


@pytest.mark.parametrize("kind", ["masks", "tags"])
def test_single_tiles_of_who_chooses_a_checkpoint_are_closed_too(partial, kind):
    spending = Spending() if kind == "masks" else Spending(0, 1)
    budget, view = bought_with(partial, "minutes:6", kinds=ALL_KINDS, spending=spending)
    (patient,) = {partial.slides[tile.slide_id].patient_id for tile in budget.purchases[Supervision(kind)].tiles}
    kept = LabelView.for_training(partial, PARTIAL_SPLIT, budget, ALL_KINDS, held_out={patient})
    assert view.tag_tiles() != kept.tag_tiles()
    assert all(partial.slides[tile.slide_id].patient_id != patient for tile in kept.tag_tiles())


def test_a_budget_that_names_tiles_without_a_label_opens_no_tag(partial):
    budget, _ = bought_with(partial, "masks:1p")
    unknown = Tile("s08", 0, 0)  # nobody annotated it
    greedy = replace(budget, patients=(), tags=Purchase((), (unknown,)), mask_tiles=(unknown, Tile("s00", 1, 1)))
    view = LabelView.for_training(partial, PARTIAL_SPLIT, greedy, TAGS_ONLY)
    assert view.tag_tiles() == []
    no_mask = replace(greedy, mask_tiles=())
    with pytest.raises(WithheldLabelError, match="not bought"):
        LabelView.for_training(partial, PARTIAL_SPLIT, no_mask, TAGS_ONLY).tags(unknown, 32)


def test_a_bought_mask_says_more_than_the_tags_of_the_source(tmp_path):
    writer = StoreWriter(tmp_path / "s.zarr", StoreInfo("both", None, 32, LabelCosts()), PARTIAL)
    labels = np.full((32, 96), 2, dtype=np.uint8)
    writer.add("s", "p", (), np.zeros((32, 96, 3), np.uint8), labels, np.ones((2, 6), np.uint8))
    store = writer.seal({"s": Case("p", (), ("b", "d"))})
    split = Split("both", {"train": ("p",)})
    budget = draw_budget(store, split, "minutes:5", 0, Spending(0.8, 0.2))
    (masked,) = budget.mask_tiles[:1]
    view = LabelView.for_training(store, split, budget, ALL_KINDS)
    for tile in grid(store.slides["s"], 32):
        expected = [2] if tile in budget.mask_tiles else [1, 3]
        assert np.flatnonzero(view.tags(tile, 32)).tolist() == expected
        both = view.tags_of([tile, masked])
        assert [np.flatnonzero(row).tolist() for row in both] == [expected, [2]]


@pytest.mark.parametrize(
    ("spec", "kinds", "spending"),
    [
        ("minutes:20", MASKS_ONLY, Spending()),
        ("minutes:20", TAGS_ONLY, Spending(0, 1)),
        ("minutes:33", ALL_KINDS, Spending(0.7, 0.3)),
        ("tags:2p", TAGS_ONLY, Spending()),
        ("masks:2p", ALL_KINDS, Spending()),
    ],
)
def test_garbage_in_what_was_not_bought_changes_nothing(partial, tmp_path, spec, kinds, spending):
    """Poisoned labels, tile by tile: the same budget opened on a store whose withheld labels are noise."""
    budget, view = bought_with(partial, spec, 1, kinds, spending)
    rng = np.random.default_rng(0)

    def poison(labels, slide_id):
        slide = partial.slides[slide_id]
        kept = np.zeros(labels.shape, dtype=bool)
        if slide.patient_id in budget.patients:
            kept[:] = True
        for tile in (*budget.mask_tiles, *(t for t in view.tag_tiles() if slide.patient_id != TAGGED)):
            if tile.slide_id == slide_id:
                kept[tile.y : tile.y + 32, tile.x : tile.x + 32] = True
        # Of a tile that was not bought, not even whether anything is annotated may matter.
        return np.where(kept, labels, rng.choice([0, 1, 2, 3, 255], labels.shape).astype(np.uint8))

    bad = partly_annotated(tmp_path / "bad.zarr", poison)
    assert bad.content_hash != partial.content_hash
    other = LabelView.for_training(bad, PARTIAL_SPLIT, budget, kinds)
    partly = {tile.slide_id for tile in (*budget.mask_tiles, *budget.tags.tiles)}
    assert [t for t in view.mask_tiles() if t.slide_id in partly] == [
        t for t in other.mask_tiles() if t.slide_id in partly
    ]
    tiles = view.tag_tiles()
    assert tiles
    assert np.array_equal(view.tags_of(tiles), other.tags_of(tiles))
    masked = view.mask_tiles()
    assert np.array_equal(view.masks(masked, 32), other.masks(masked, 32))


def test_sampling_sees_the_bought_tiles_and_no_tile_that_nobody_annotated(partial):
    budget, view = bought_with(partial, "minutes:21", kinds=ALL_KINDS)
    tree = stream_tree("s", Stream(Supervision.MASKS, 4), partial, view, 32, 0)
    shown = {tile: np.flatnonzero(view.tags(tile, 32)).tolist() for tile in view.mask_tiles()}
    assert {tile for group in tree for tile in group} == set(shown)
    assert len(shown) == budget.tiles == 10
    for class_id, group in zip(sorted({c for classes in shown.values() for c in classes}), tree, strict=True):
        assert set(group) == {tile for tile, classes in shown.items() if class_id in classes}
    _, tags = bought_with(partial, "tags:all", kinds=TAGS_ONLY)
    tree = stream_tree("s", Stream(Supervision.TAGS, 4), partial, tags, 32, 0)
    assert {tile for group in tree for tile in group} == set(tags.tag_tiles())


SHARE = 0.6  # of a tile's annotated pixels; blocks of four classes rarely cover so much


@pytest.fixture(scope="module")
def demanding(tmp_path_factory):
    """The same slides, where a tag names what covers most of a tile."""
    return partly_annotated(tmp_path_factory.mktemp("demanding") / "s.zarr", min_tag_share=SHARE)


def test_tags_follow_the_rule_of_the_dataset_and_balancing_does_not(partial, demanding):
    assert (partial.info.min_tag_share, demanding.info.min_tag_share) == (0.01, SHARE)
    (_, view), (_, plain) = (bought_with(store, "masks:all", kinds=ALL_KINDS) for store in (demanding, partial))
    tiles = view.tag_tiles()
    assert tiles == plain.tag_tiles()
    counts = np.stack([np.bincount(view.mask(tile, 32, 32).ravel(), minlength=256)[:4] for tile in tiles])
    covered = counts / counts.sum(axis=1, keepdims=True)
    assert np.array_equal(view.tags_of(tiles), covered >= SHARE)
    assert np.array_equal(np.stack([view.tags(tile, 32) for tile in tiles]), covered >= SHARE)
    inside = Tile(tiles[0].slide_id, tiles[0].y + 1, tiles[0].x + 1)
    assert np.array_equal(view.tags(inside, 30), tags_of_mask(view.mask(inside, 30, 30), 4, SHARE))
    untagged = ~(covered >= SHARE).any(axis=1)
    assert 0 < view.n_untagged == untagged.sum() < len(tiles)
    assert plain.n_untagged == 0

    masks = view.mask_tiles()
    assert np.array_equal(view.shown_by_masks(masks), plain.tags_of(masks))
    trees = [
        stream_tree("s", Stream(Supervision.MASKS, 4), *pair, 32, 0) for pair in ((demanding, view), (partial, plain))
    ]
    assert trees[0] == trees[1]
    tags = Stream(Supervision.TAGS, 4)
    by_class = stream_tree("s", tags, demanding, view, 32, 0)
    assert {tile for group in by_class for tile in group} == {
        t for t, none in zip(tiles, untagged, strict=True) if not none
    }
    assert set(stream_tree("s", replace(tags, balanced=False), demanding, view, 32, 0)) == set(tiles)


def test_what_masks_show_is_closed_where_only_tags_were_bought(demanding):
    _, view = bought_with(demanding, "tags:all", kinds=ALL_KINDS)
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.shown_by_masks(view.tag_tiles())
    _, deaf = bought_with(demanding, "masks:all", kinds=TAGS_ONLY)
    with pytest.raises(WithheldLabelError, match="not among the labels"):
        deaf.shown_by_masks(grid(deaf.slides[0], 32))
