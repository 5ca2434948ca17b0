import time
from pathlib import Path

import numpy as np
import pytest

from mmlab.data import meshes
from mmlab.data.meshes import DISTANCE, MARGIN, Mesh, read_off, render
from mmlab.data.packing import BadSample

CORNERS = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n0.5 0.5 1\n"
SQUARE = [[0, 1, 2], [0, 2, 3]]
SIDES = [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]


def read(tmp_path: Path, text: str) -> Mesh:
    (tmp_path / "mesh.off").write_text(text)
    return read_off(tmp_path / "mesh.off")


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Mesh:
    corners = np.array([(a, b, c) for a in x for b in y for c in z], dtype=float)
    faces = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    return Mesh(corners, np.array([(a, *pair) for a, b, c, d in faces for pair in ((b, c), (c, d))]))


def joined(*parts: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    triangles = [part.triangles + start for part, start in zip(parts, starts, strict=False)]
    return Mesh(np.concatenate([part.vertices for part in parts]), np.concatenate(triangles))


@pytest.mark.parametrize("header", ["OFF\n5 5 0\n", "OFF5 5 0\n", "OFF 5 5 0\r\n", "# made by hand\n\nOFF # so\n5 5\n"])
def test_the_headers_that_there_are(tmp_path: Path, header: str) -> None:
    mesh = read(tmp_path, header + CORNERS + "4 0 1 2 3\n" + "".join(f"3 {a} {b} {c}\n" for a, b, c in SIDES))
    assert mesh.vertices[4].tolist() == [0.5, 0.5, 1]
    assert mesh.triangles.tolist() == SQUARE + SIDES


def test_triangles_polygons_colours_and_comments_give_the_same_triangles(tmp_path: Path) -> None:
    triangles = read(tmp_path, f"OFF\n5 6 0\n{CORNERS}" + "".join(f"3 {a} {b} {c}\n" for a, b, c in SQUARE + SIDES))
    lines = "4 0 1 2 3 255 0 0 # red\n\n" + "".join(f"  3 {a} {b} {c} 0.5 0.5 0.5\n" for a, b, c in SIDES)
    mixed = read(tmp_path, f"OFF5 6 9\n{CORNERS}# faces\n{lines}2 0 1\n")
    assert np.array_equal(mixed.vertices, triangles.vertices)
    assert np.array_equal(mixed.triangles, triangles.triangles)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ply\n", "doesn't begin with OFF"),
        ("", "doesn't begin with OFF"),
        ("COFF\n5 1 0\n", "doesn't begin with OFF"),
        ("OFF\n5 1 0\n0 0 0\n1 0", "ends after 1 of 5 vertices"),
        (f"OFF\n5 2 0\n{CORNERS}3 0 1 2\n", "ends after 1 of 2 faces"),
        (f"OFF\n5 2 0\n{CORNERS}3 0 1 2\n3 1", "face 1 has 1 of its 3 corners"),
        (f"OFF\n5 1 0\n{CORNERS}3 0 1 5\n", "names vertex 5, but there are 5, counted from 0"),
        (f"OFF\n5 1 0\n{CORNERS}3 0 1 -1\n", "names vertex -1"),
        (f"OFF\n5 0 0\n{CORNERS}", "has no face"),
        (f"OFF\n5 1 0\n{CORNERS}2 0 1\n", "has no face"),
        ("OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "lie in one point"),
        ("OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "not finite"),
        ("OFF\n3 1 0\n0 0 x\n1 0 0\n0 1 0\n3 0 1 2\n", "something else than numbers"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3.5 0 1 2\n", "no list of whole numbers"),
        (f"OFF\n5 1 0\n{CORNERS}3 0 1.7 2\n", "face 0 is no list of whole numbers"),
        (f"OFF\n5 1 0\n{CORNERS}3 0 1 1e200\n", "names vertex 1e.200"),
        (f"OFF\n5 1 0\n{CORNERS}4 0 1 2 {10**30}\n", "names vertex 1e.30"),
        ("OFF\n3 1 0\n0 0 1e200\n1 0 0\n0 1 0\n3 0 1 2\n", "lie too far apart"),
        ("OFF\n3 1 0\n0 0 1e308\n1 0 -1e308\n0 1 0\n3 0 1 2\n", "lie too far apart"),
        ("OFF\n3 2 0\n0.1 0.7 0\n0.2 1.4 0\n0.3 2.1 0\n3 0 1 2\n3 2 1 0\n", "no face has an area"),
        (f"OFF\n5 1 0\n{CORNERS}3 0 1 1\n", "no face has an area"),
    ],
)
def test_broken_files_are_bad_samples(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        read(tmp_path, text)


def test_what_is_no_text_is_a_bad_sample(tmp_path: Path) -> None:
    (tmp_path / "mesh.off").write_bytes(b"OFF\n\xff\xfe")
    with pytest.raises(BadSample, match="no text"):
        read_off(tmp_path / "mesh.off")
    with pytest.raises(BadSample, match="can't be read"):
        read_off(tmp_path / "none.off")


def test_the_silhouette_of_a_cube_has_the_area_that_perspective_gives_it() -> None:
    picture = render(box((-1, 1), (-1, 1), (-1, 1)), azimuth=0, side=200, elevation=0)
    # Its front face stands half an edge before the centre; nothing else of it shows.
    half = 1 / np.sqrt(3)
    edge = MARGIN * 200 * half / (DISTANCE - half) * np.sqrt(DISTANCE**2 - 1)
    assert abs(picture.sum() / picture[100, 100] - edge**2) < edge  # each side to half a pixel
    assert (picture == picture[100, 100]).sum() > 0.97 * edge**2
    assert np.array_equal(picture > 0, (picture > 0)[::-1, ::-1])


def test_size_and_place_of_a_mesh_do_not_matter() -> None:
    mesh = joined(box((0, 2), (0, 1), (0, 1)), box((0, 1), (0, 1), (1, 2)))
    moved = Mesh(mesh.vertices * 40 + np.array([7, -300, 12]), mesh.triangles)
    lost = Mesh(np.append(moved.vertices, [[1e6, 0, 0]], axis=0), moved.triangles)  # a vertex of no face
    picture = render(mesh, 30, 64).astype(int)
    for other in (moved, lost):
        assert np.abs(render(other, 30, 64).astype(int) - picture).max() <= 1


def test_front_and_rear_show_their_own_side_mirrored() -> None:
    # A pole to the right (+x) and a knob on the front (-y) of a block.
    mesh = joined(box((-1, 1), (-1, 1), (0, 1)), box((0.5, 1), (-1, 1), (1, 2)))
    front, rear = (render(mesh, azimuth, 96, elevation=0) > 0 for azimuth in (0, 180))
    upper = slice(0, 40)
    assert front[upper].any(axis=0).nonzero()[0].min() > 48
    assert rear[upper].any(axis=0).nonzero()[0].max() < 48
    assert np.array_equal(front, rear[:, ::-1])
    knob = joined(box((-1, 1), (-1, 1), (0, 2)), box((-0.3, 0.3), (-1.3, -1), (0.7, 1.3)))
    plain = box((-1, 1), (-1, 1), (0, 2))
    same = Mesh(np.concatenate((plain.vertices, [[0, -1.3, 1]])), np.append(plain.triangles, [[8, 8, 8]], axis=0))
    assert not np.array_equal(render(knob, 0, 96, 10), render(same, 0, 96, 10))
    # The line at the tip of the knob gives both meshes the same box, hence the same scale.
    assert np.array_equal(render(knob, 180, 96, 10), render(same, 180, 96, 10))


def test_the_camera_goes_round_to_the_right_and_looks_down() -> None:
    pole = joined(box((-1, 1), (-1, 1), (0, 0.2)), box((0.8, 1), (-0.1, 0.1), (0.2, 2)))
    views = [render(pole, azimuth, 96, elevation=0)[:32] > 0 for azimuth in (0, 90, 180, 270)]
    right, middle, left, far = (np.median(view.any(axis=0).nonzero()[0]) for view in views)
    assert right > 60
    assert left < 35
    assert abs(middle - 47.5) < 2
    assert abs(far - 47.5) < 2
    # At 90 degrees the camera stands at +x, where the pole is nearer, hence taller, than from the other side.
    assert views[1].sum() > views[3].sum()
    flat = box((-1, 1), (-1, 1), (0, 0.01))
    assert (render(flat, 0, 96) > 0).sum() > 10 * (render(flat, 0, 96, elevation=0) > 0).sum()


@pytest.mark.parametrize("turned", [False, True])
def test_the_nearer_face_is_seen_whatever_the_order_and_orientation(turned: bool) -> None:
    # A small slanted square before a large upright one: their greys differ.
    corners = [(-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1), (-0.4, -0.6, -0.4), (0.4, -0.6, -0.4), (0.4, -0.2, 0.4)]
    vertices = np.array([*corners, (-0.4, -0.2, 0.4)], dtype=float)
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    mesh, reverse = Mesh(vertices, triangles), Mesh(vertices, triangles[::-1, ::-1])
    azimuth = 180 if turned else 0
    picture = render(mesh, azimuth, 64, elevation=0)
    assert np.array_equal(picture, render(reverse, azimuth, 64, elevation=0))
    greys = {int(value) for value in np.unique(picture[24:40, 24:40])}
    around = int(picture[12, 32])
    # From behind, the large square hides the small one.
    assert greys == {around} if turned else around not in greys


def test_no_gap_between_triangles_and_the_same_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 40
    steps = np.linspace(-1, 1, count)
    x, z = np.meshgrid(steps, steps, indexing="ij")
    vertices = np.stack((x + 0.3 * z, 0 * x, z - 0.2 * x), axis=-1).reshape(-1, 3)
    first = (np.arange(count - 1)[:, None] * count + np.arange(count - 1)).ravel()
    halves = ((0, count, 1), (count, count + 1, 1))
    sheet = Mesh(vertices, np.concatenate([first[:, None] + np.array(half) for half in halves]))
    picture = render(sheet, 0, 64, elevation=0)
    whole = Mesh(vertices, np.array([[0, count * (count - 1), count * count - 1], [0, count * count - 1, count - 1]]))
    assert np.array_equal(picture, render(whole, 0, 64, elevation=0))
    monkeypatch.setattr(meshes, "_BATCH", 50)
    assert np.array_equal(picture, render(sheet, 0, 64, elevation=0))


def test_a_large_mesh_takes_seconds_at_most() -> None:
    turns, tubes = np.meshgrid(np.arange(320) / 160 * np.pi, np.arange(320) / 160 * np.pi, indexing="ij")
    ring = 1 + 0.4 * np.cos(tubes)
    vertices = np.stack((ring * np.cos(turns), ring * np.sin(turns), 0.4 * np.sin(tubes)), axis=-1).reshape(-1, 3)
    i, j = (part.ravel() for part in np.meshgrid(np.arange(320), np.arange(320), indexing="ij"))
    here, right, down, both = (a % 320 * 320 + b % 320 for a, b in ((i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)))
    torus = Mesh(vertices, np.concatenate((np.stack((here, down, right), 1), np.stack((down, both, right), 1))))
    start = time.process_time()
    picture = render(torus, 0, 224)
    assert time.process_time() - start < 10  # one on an idle machine
    assert picture[112, 112] == 0  # through the hole
    assert picture[112, 20] > 0
