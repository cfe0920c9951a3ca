"""Holes that a file lists as separate polygons (ASAP groups, ImageScope's negative regions)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from shapely import STRtree, union_all
from shapely.geometry import MultiPolygon

from tissuebench.datasets.annotations.region import Region
from tissuebench.datasets.annotations.repair import polygons_of


def cut_holes(
    solids: Sequence[tuple[str, Region]], holes: Sequence[tuple[str, Region]]
) -> tuple[list[Region], list[str]]:
    """Cut every hole out of the regions with the same key.

    A region inside a hole is an island and is kept, wherever the file lists it.

    Args:
        solids: (key, region) in file order; the key is the class or the layer that a hole refers to.
        holes: (key, hole); the class of a hole does not matter.

    Returns:
        The remaining regions, in their order, and a note on every island, hole without effect and region cut away.
    """
    notes: list[str] = []
    cuts: dict[int, list[MultiPolygon]] = defaultdict(list)
    members: dict[str, list[int]] = defaultdict(list)
    for index, (key, _) in enumerate(solids):
        members[key].append(index)
    trees = {key: STRtree([solids[index][1].geometry for index in indices]) for key, indices in members.items()}
    for key, hole in holes:
        near = trees[key].query(hole.geometry, predicate="intersects").tolist() if key in trees else []
        hits = 0
        for index in sorted(members[key][position] for position in near):
            solid = solids[index][1]
            if solid.geometry.touches(hole.geometry):
                continue
            hits += 1
            if solid.geometry.within(hole.geometry) and not solid.geometry.equals(hole.geometry):
                notes.append(f"{solid.label} lies inside of the hole {hole.label}: kept as an island")
            else:
                cuts[index].append(hole.geometry)
        if not hits:
            notes.append(f"hole {hole.label}: left out (it lies in no region that it could cut)")
    left: list[Region] = []
    for index, (_, solid) in enumerate(solids):
        if index not in cuts:
            left.append(solid)
            continue
        rest = polygons_of(solid.geometry.difference(union_all(cuts[index])))
        if rest.is_empty:
            notes.append(f"{solid.label}: left out (its holes leave nothing of it)")
        else:
            left.append(Region(solid.class_id, rest, solid.label))
    return left, notes
