"""Blocks of a raster of polygons: alike however the raster is cut, and what lies within the polygons."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box

from tissuebench.datasets.annotations import Frame, Region
from tissuebench.datasets.annotations.polygons import PolygonLabels
from tissuebench.datasets.annotations.repair import area_of
from tissuebench.datasets.annotations.rings import GRID, trimmed

HEIGHT, WIDTH = 60, 80


def area(polygon):
    return area_of(polygon)[0]


@st.composite
def polygons(draw, limit=90):
    """Any outline: crossing itself, beyond the raster, with corners on pixel centres, repaired to an area."""
    whole = st.integers(-10, limit)
    number = st.one_of(whole, whole.map(lambda value: value + 0.5), st.floats(-10, limit, allow_nan=False))
    corners = draw(st.lists(st.tuples(number, number), min_size=3, max_size=12))
    return area(Polygon(corners))


regions = st.lists(st.tuples(polygons(), st.integers(0, 5)), min_size=1, max_size=5).map(
    lambda drawn: [Region(value, geometry, "r") for geometry, value in drawn if not geometry.is_empty]
)
cuts = st.tuples(
    st.lists(st.integers(1, HEIGHT - 1), max_size=5).map(lambda at: sorted({0, *at, HEIGHT})),
    st.lists(st.integers(1, WIDTH - 1), max_size=5).map(lambda at: sorted({0, *at, WIDTH})),
)


CORNERS_ON_CENTRES = shapely.from_wkt(
    "MULTIPOLYGON (((0 0, 0.25 0, 1 3, 1.6 3, 0.4 0, 1 0, 1.75 3, 3 3, 2 1, 0 -2, 0 -1, 0 0)), "
    "((1.6 3, 2 4, 1.75 3, 1.6 3)))"
)


@given(regions, cuts, st.sampled_from([1.0, 2.0, 1 / 3, 2.0008]))
@example([Region(0, CORNERS_ON_CENTRES, "r")], ([0, 1, HEIGHT], [0, WIDTH]), 2.0)
def test_blocks_are_parts_of_the_whole_in_any_layout(drawn, cut, scale):
    source = PolygonLabels(drawn, Frame((999, 999), (HEIGHT, WIDTH), scale))
    whole = source.raster(0, 0, HEIGHT, WIDTH)
    rows, columns = cut
    pieced = np.vstack(
        [
            np.hstack([source.raster(y, x, below - y, right - x) for x, right in pairwise(columns)])
            for y, below in pairwise(rows)
        ]
    )
    assert np.array_equal(pieced, whole)


@given(regions, st.integers(-30, 70), st.integers(-30, 90), st.integers(1, 50), st.integers(1, 50))
def test_a_block_over_the_edge_is_filled_up_with_nothing(drawn, y, x, height, width):
    source = PolygonLabels(drawn, Frame((HEIGHT, WIDTH), (HEIGHT, WIDTH), 1.0), background=3)
    padded = np.full((HEIGHT + 200, WIDTH + 200), 255, dtype=np.uint8)
    padded[100:-100, 100:-100] = source.raster(0, 0, HEIGHT, WIDTH)
    block = source.raster(y, x, height, width)
    assert block.shape == (height, width)
    assert np.array_equal(block, padded[100 + y :][:height, 100 + x :][:, :width])


@given(regions)
def test_a_pixel_has_the_class_of_the_last_polygon_that_holds_its_centre(drawn):
    """Against shapely's own test of points; centres on an edge, within the rounding of corners, may go either way."""
    raster = PolygonLabels(drawn, Frame((HEIGHT, WIDTH), (HEIGHT, WIDTH), 1.0)).raster(0, 0, HEIGHT, WIDTH)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    truth = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    clear = np.ones((HEIGHT, WIDTH), dtype=bool)
    centres = shapely.points(x, y)
    for region in drawn:
        truth[shapely.contains_xy(region.geometry, x, y)] = region.class_id
        clear &= shapely.distance(region.geometry.boundary, centres) > 1.5 / GRID
    assert np.array_equal(raster[clear], truth[clear])


@given(regions, st.sampled_from([1.0, 2.0, 1 / 3]))
@example([Region(0, CORNERS_ON_CENTRES, "r")], 2.0)
def test_a_centre_is_covered_by_the_rule_of_even_and_odd_crossings_alone(drawn, scale):
    """Also where corners and edges run through centres: no pixel of its edges belongs to two areas or to none."""
    raster = PolygonLabels(drawn, Frame((999, 999), (HEIGHT, WIDTH), scale)).raster(0, 0, HEIGHT, WIDTH)
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    expected = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    for region in drawn:
        inside = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for ring in shapely.get_rings(shapely.get_parts(region.geometry)):
            inside ^= odd(np.round(shapely.get_coordinates(ring)[:-1] * (GRID / scale)) / GRID, row, column)
        expected[inside] = region.class_id
    assert np.array_equal(raster, expected)


@pytest.mark.parametrize("turned", [False, True])
def test_areas_that_share_an_edge_through_centres_share_no_pixel(turned):
    def drawn(left, top, right, bottom):
        around = [(left, top), (right, top), (right, bottom), (left, bottom)]
        polygon = MultiPolygon([Polygon(around[::-1] if turned else around)])
        return PolygonLabels([Region(1, polygon, "r")], Frame((99, 99), (12, 12), 1.0)).raster(0, 0, 12, 12) == 1

    parts = [drawn(1.5, 1.5, 5.5, 6.5), drawn(5.5, 1.5, 9.5, 6.5), drawn(1.5, 6.5, 5.5, 9.5), drawn(5.5, 6.5, 9.5, 9.5)]
    assert [part.sum() for part in parts] == [20, 20, 12, 12]
    assert np.array_equal(sum(part.astype(int) for part in parts), drawn(1.5, 1.5, 9.5, 9.5).astype(int))


@given(polygons(), st.integers(0, 50), st.integers(0, 70), st.integers(1, 20), st.integers(1, 20))
def test_trimming_an_outline_changes_no_pixel_of_the_block(geometry, y, x, height, width):
    row, column = np.mgrid[y : y + height, x : x + width] + 0.5
    for part in geometry.geoms:
        ring = shapely.get_coordinates(part.exterior)[:-1]
        left = trimmed(ring, y, x, y + height, x + width)
        assert len(left) <= len(ring)
        # By even and odd crossings, as a trimmed ring may run over itself beside the block.
        assert np.array_equal(odd(ring, row, column), odd(left, row, column))


def odd(ring, row, column):
    inside = np.zeros(row.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            low, high = ((x0, y0), (x1, y1)) if y0 < y1 else ((x1, y1), (x0, y0))
            with np.errstate(over="ignore"):  # an edge may be all but level
                crossing = low[0] + (row - low[1]) * (high[0] - low[0]) / (high[1] - low[1])
            inside ^= (low[1] <= row) & (row < high[1]) & (crossing < column)
    return inside


def test_a_long_outline_costs_a_block_only_what_passes_through_it():
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    ring = np.stack([50_000 + 49_000 * np.cos(angle), 50_000 + 49_000 * np.sin(angle)], axis=1)
    assert len(trimmed(ring, 50_000, 50_000, 50_512, 50_512)) < 10
    at_edge = trimmed(ring, 49_800, 98_800, 50_312, 99_312)
    assert 100 < len(at_edge) < 1000
    assert len(trimmed(ring, 0, 0, 512, 512)) < 100


def test_a_raster_of_a_large_slide_is_drawn_only_where_it_is_asked_for():
    """A slide of 100,000 x 100,000 px: far from the origin blocks still agree, and its middle is filled."""
    side = 100_000
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    outer = np.stack([50_000 + 49_999.3 * np.cos(angle), 50_000 + 49_999.3 * np.sin(angle)], axis=1)
    hole = box(60_000, 60_000, 60_100, 60_100).exterior.coords
    source = PolygonLabels(
        [Region(1, MultiPolygon([Polygon(outer, [hole])]), "r")], Frame((side, side), (side, side), 1.0)
    )
    assert (source.raster(50_000, 50_000, 64, 64) == 1).all()
    middle = source.raster(59_990, 59_990, 120, 120)
    assert (middle == 1).sum() == 120 * 120 - 100 * 100
    edge = source.raster(85_000, 85_000, 600, 600)
    assert set(np.unique(edge)) == {1, 255}
    pieces = [[source.raster(y, x, 100, 150) for x in range(85_000, 85_600, 150)] for y in range(85_000, 85_600, 100)]
    assert np.array_equal(np.block(pieces), edge)
