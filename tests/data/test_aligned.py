import colorsys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.data.aligned import AlignedDepth, AlignedImage, AlignedLabels, Geometry, hsv, jittered, normalised_depth
from mmlab.draws import Draws

RAW = (11, 17)
PLAIN = ((0.0,), (1.0,))


def draws(count: int, epoch: int = 0) -> Draws:
    return Draws(3, epoch, torch.arange(count))


def raw_scene(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, *RAW), generator=generator, dtype=torch.uint8)
    depth = torch.randint(0, 60_000, (count, 1, *RAW), generator=generator).to(torch.uint16)
    labels = torch.randint(0, 40, (count, *RAW), generator=generator, dtype=torch.uint8)
    return image, depth, labels


def one_by_one(raw: Tensor, size: tuple[int, int], scale: tuple[float, float], mode: str, of: Draws) -> Tensor:
    """The recipe step by step, sample by sample: rescale, cut or stretch, mirror."""
    factors = scale[0] + (scale[1] - scale[0]) * of.uniform("scene/scale")[:, 0]
    places, flips = of.uniform("scene/place", 2), of.uniform("scene/flip")[:, 0] < 0.5
    found = []
    for sample, factor, place, flip in zip(raw.float(), factors.tolist(), places.tolist(), flips.tolist(), strict=True):
        height, width = (round(factor * side) for side in RAW)
        if height > size[0] and width > size[1]:
            scaled = F.interpolate(sample[None], (height, width), mode=mode)[0]
            top, left = int(place[0] * (height - size[0] + 1)), int(place[1] * (width - size[1] + 1))
            cut = scaled[:, top : top + size[0], left : left + size[1]]
        else:
            cut = F.interpolate(sample[None], size, mode=mode)[0]
        found.append(cut.flip(-1) if flip else cut)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("size", "scale"), [(RAW, (1.0, 1.4)), (RAW, (0.5, 2.0)), ((6, 9), (0.5, 2.0)), ((16, 12), (1.0, 1.4))]
)
def test_the_batch_is_cut_as_each_sample_would_be(size: tuple[int, int], scale: tuple[float, float]) -> None:
    image, depth, labels = raw_scene(24)
    geometry, of = Geometry(size, scale), draws(24)
    seen = AlignedImage(geometry, *PLAIN)(image, of)
    torch.testing.assert_close(seen, one_by_one(image, size, scale, "bilinear", of), atol=1e-2, rtol=0)
    nearest = one_by_one(depth, size, scale, "nearest-exact", of)
    assert torch.equal(AlignedDepth(geometry, 0.0, 1.0, False)(depth, of), nearest)
    nearest = one_by_one(labels[:, None], size, scale, "nearest-exact", of)[:, 0]
    assert torch.equal(AlignedLabels(geometry)(labels, of), nearest.long())


def test_every_kind_of_draw_occurs() -> None:
    """Else the reference above would prove less than it seems to."""
    of = draws(24)
    assert 0.2 < (of.uniform("scene/flip") < 0.5).float().mean() < 0.8
    factors = 0.5 + 1.5 * of.uniform("scene/scale")
    assert (factors < 0.9).any()
    assert (factors > 1.1).any()


def test_a_scale_of_one_only_mirrors() -> None:
    image, _, labels = raw_scene(16)
    geometry = Geometry(RAW)
    seen = AlignedImage(geometry, *PLAIN)(image, draws(16))
    mirrored = torch.tensor([torch.equal(after, before.flip(-1)) for after, before in zip(seen, image, strict=True)])
    same = torch.tensor([torch.equal(after, before.float()) for after, before in zip(seen, image, strict=True)])
    assert torch.equal(mirrored, ~same)
    assert mirrored.any()
    assert same.any()
    expected = torch.where(mirrored[:, None, None], labels.flip(-1), labels)
    assert torch.equal(AlignedLabels(geometry)(labels, draws(16)), expected.long())


def test_a_shift_repeats_the_edge() -> None:
    image = torch.arange(RAW[1], dtype=torch.uint8).expand(64, 1, *RAW)
    seen = AlignedImage(Geometry(RAW, shift=2), *PLAIN)(image, draws(64))
    ends = {(min(row[0], row[-1]), max(row[0], row[-1])) for row in seen[:, 0, 0].int().tolist()}
    assert ends == {(0, 14), (0, 15), (0, 16), (1, 16), (2, 16)}
    assert AlignedImage(Geometry(RAW, shift=2), *PLAIN)(image, None).equal(image.float())


def test_evaluation_stretches_what_the_network_sees_and_no_labels() -> None:
    image, depth, labels = raw_scene(2)
    geometry = Geometry((22, 34), (1.0, 1.4))
    seen = AlignedImage(geometry, *PLAIN, jitter=True)(image, None)
    torch.testing.assert_close(seen, F.interpolate(image.float(), (22, 34), mode="bilinear"), atol=1e-3, rtol=0)
    wide = depth.float().repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(AlignedDepth(geometry, 0.0, 1.0, False)(depth, None), wide)
    kept = AlignedLabels(geometry)(labels, None)
    assert torch.equal(kept, labels.long())
    assert kept.dtype == torch.int64
    whole = AlignedImage(Geometry((6, 9), evaluation=RAW), *PLAIN)
    assert torch.equal(whole(image, None), image.float())
    assert whole(image, draws(2)).shape == (2, 3, 6, 9)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    image, _, _ = raw_scene(6)
    transform = AlignedImage(Geometry((6, 9), (0.5, 2.0)), *PLAIN, jitter=True)
    together = transform(image, draws(6))
    alone = transform(image[4:5], Draws(3, 0, torch.tensor([4])))
    assert torch.equal(alone[0], together[4])
    assert not torch.equal(transform(image, draws(6, epoch=1)), together)


@pytest.mark.parametrize("kind", [torch.uint16, torch.int16, torch.float16])
def test_depth_keeps_its_unit_and_its_holes(kind: torch.dtype) -> None:
    depth = torch.full((8, 1, *RAW), 3000).to(kind)
    holes = torch.zeros(8, 1, *RAW, dtype=torch.bool)
    holes[:, :, 2:6, 3:9] = True
    depth = depth.float().masked_fill(holes, 0).to(kind)
    geometry = Geometry(RAW, (1.0, 1.4))
    kept = AlignedDepth(geometry, 2000.0, 500.0, True)(depth, draws(8))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert kept.dtype == torch.float32
    assert set(AlignedDepth(geometry, 2000.0, 500.0, False)(depth, draws(8)).unique().tolist()) == {-4.0, 2.0}


def test_published_depths() -> None:
    depth = torch.tensor([0, 500, 2842, 10000], dtype=torch.float64)
    refined = normalised_depth(depth, 2841.94941272766, 1417.2594281672277, False)
    expected = torch.tensor([-2.0052429048948457, -1.6524493442645312, 3.5693727862935626e-05, 5.050628307711449])
    torch.testing.assert_close(refined, expected.double(), atol=1e-6, rtol=0)
    raw = normalised_depth(depth, 2841.94941272766, 1417.2594281672277, True)
    assert raw[0] == 0
    assert torch.equal(raw[1:], refined[1:])


def test_colours_are_jittered_as_one_by_one() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (4, 3, 3, 5), generator=generator).float()
    image[0, :, 0, 0], image[0, :, 0, 1] = 0, 255
    image[0, :, 0, 2] = torch.tensor([200.0, 200.0, 10.0])
    uniform = torch.rand(4, 3, generator=generator)
    uniform[0] = torch.tensor([0.999, 0.999, 0.999])
    seen = jittered(image, uniform)
    for sample, pixels, by in zip(seen, image, (2 * uniform - 1).tolist(), strict=True):
        for after, before in zip(sample.flatten(1).T, pixels.flatten(1).T.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in before))
            hue, saturation = min(hue * (1 + 0.1 * by[0]), 1), min(saturation * (1 + 0.1 * by[1]), 1)
            value = min(max(255 * value + 25 * by[2], 0), 255)
            expected = torch.tensor(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=torch.float32)
            torch.testing.assert_close(after, expected, atol=2e-3, rtol=0)


def test_no_jitter_changes_nothing() -> None:
    image, _, _ = raw_scene(2)
    torch.testing.assert_close(jittered(image.float(), torch.full((2, 3), 0.5)), image.float(), atol=1e-3, rtol=0)
    hue, saturation, value = hsv(torch.zeros(1, 3, 2, 2))
    assert (hue == 0).all()
    assert (saturation == 0).all()
    assert (value == 0).all()
