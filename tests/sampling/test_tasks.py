"""Tasks: what each gives, in pixels it read itself, on codecs with and without a temporal stride."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dit.codec.compression import PIXELS
from dit.encoders import to_bytes
from dit.sampling.canvas import Canvas
from dit.sampling.fit import Cut, Fit, Pad, Stretch
from dit.sampling.job import Job
from dit.sampling.plan import Plan
from dit.sampling.request import Request
from dit.sampling.tasks import (
    Extend,
    FirstLast,
    ImageToVideo,
    Inpaint,
    Interpolate,
    LongTextToVideo,
    Loop,
    TextToVideo,
    VideoToVideo,
)
from tests.data.videos import frame_number, write_numbered
from tests.sampling.fakes import FakeCodec, as_pixels, random_frames, write_lossless


def canvas(stride: tuple[int, int, int] = (1, 1, 1), causal: bool = False, num_frames: int = 6) -> Canvas:
    codec = FakeCodec(list(stride), causal)
    return Canvas(
        num_frames=num_frames,
        height=8,
        width=10,
        fps=8,
        latent_shape=codec.latent_shape(num_frames, 8, 10),
        compression=codec.compression,
        encode=codec.encode,
        check_frames=lambda frames: codec.latent_shape(frames, 8, 10),
    )


def still(seed: int) -> Tensor:
    return as_pixels(random_frames(seed, 1))[:, 0]


def frames_given(plan: Plan) -> list[int]:
    assert plan.given is not None
    return plan.given.frames[0].nonzero().flatten().tolist()


def save(tmp_path: Path, image: Tensor, name: str = "frame.png") -> str:
    array = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / name)
    return str(tmp_path / name)


def test_text_to_video_gives_nothing() -> None:
    assert TextToVideo()(canvas()) == Plan()


def test_image_to_video_reads_the_file_bit_for_bit(tmp_path: Path) -> None:
    image = still(0)
    for source in (image, save(tmp_path, image)):
        plan = ImageToVideo(source)(canvas())
        assert frames_given(plan) == [0]
        torch.testing.assert_close(plan.given.latents[0, :, 0], image, rtol=0, atol=1e-6)
    assert not torch.equal(ImageToVideo(still(1))(canvas()).given.latents[0, :, 0], image)


def test_images_are_scaled_to_cover_and_cut_to_the_centre(tmp_path: Path) -> None:
    """Twice as high and wide as needed, and with bars on the long side that the cut must remove."""
    array = np.zeros((16, 40, 3), np.uint8)
    array[:, 10:30, 1] = 200
    Image.fromarray(array).save(tmp_path / "wide.png")
    read = ImageToVideo(tmp_path / "wide.png")(canvas()).given.latents[0, :, 0]
    torch.testing.assert_close(read[1, :, 1:-1], torch.full((8, 8), 200 / 127.5 - 1), rtol=0, atol=0.04)
    assert bool((read[0] == -1).all())


@pytest.mark.parametrize("stride, causal, frames", [((1, 1, 1), False, 6), ((4, 2, 2), True, 9), ((3, 2, 2), False, 6)])
def test_first_last_and_loop(stride: tuple[int, int, int], causal: bool, frames: int) -> None:
    """On a codec that packs frames, an image is held over its latent frame."""
    board, first, last = canvas(stride, causal, frames), still(0), still(1)
    plan = FirstLast(first, last)(board)
    end = board.latent_shape[0] - 1
    assert frames_given(plan) == [0, end]
    pooled = [torch.nn.functional.avg_pool2d(image, stride[1:]) for image in (first, last)]
    torch.testing.assert_close(plan.given.latents[0, :, 0], pooled[0])
    torch.testing.assert_close(plan.given.latents[0, :, end], pooled[1])
    loop = Loop(first)(board)
    assert frames_given(loop) == [0, end]
    torch.testing.assert_close(loop.given.latents[0, :, end], pooled[0])


def test_one_image_for_each_sample() -> None:
    images = torch.stack([still(0), still(1), still(2)])
    plan = FirstLast(images, still(3))(canvas())
    assert plan.given.latents.shape[0] == 3 and torch.equal(plan.given.latents[:, :, 0], images)
    assert torch.equal(plan.given.latents[1, :, -1], still(3))
    plan.check(3)
    with pytest.raises(ValueError, match="gives frames for 3 samples, but 2 are made; give 1 or 2"):
        plan.check(2)
    assert torch.equal(plan.rows(slice(1, 3)).given.latents, plan.given.latents[1:])


def test_the_picture_that_a_clip_begins_with_is_handed_on_as_it_was(tmp_path: Path) -> None:
    """Image encoders see it in its own size; a later batch sees its own ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    wanted = torch.from_numpy(pixels).permute(2, 0, 1)
    for source in (tmp_path / "wide.png", Image.fromarray(pixels), pixels):
        for plan in (ImageToVideo(source)(canvas()), FirstLast(source, still(1))(canvas()), Loop(source)(canvas())):
            assert plan.first is not None and len(plan.first) == 1 and torch.equal(plan.first[0], wanted)
    assert TextToVideo()(canvas()).first is None
    images = torch.stack([still(0), still(1), still(2)])
    first = ImageToVideo(images)(canvas()).first
    assert first is not None and all(torch.equal(to_bytes(one), two) for one, two in zip(images, first, strict=True))
    video = as_pixels(random_frames(0, 11))
    for plan, frame in ((Extend(video, 3, 1)(canvas()), -3), (Interpolate(video, None)(canvas()), 0)):
        assert plan.first is not None and torch.equal(plan.first[0], to_bytes(video[:, frame]))
    listed = [Image.fromarray(pixels), Image.fromarray(pixels[:, ::-1].copy())]
    batches = [[Request("", "", seed)] for seed in range(2)]
    plan = ImageToVideo(listed)(canvas())
    job = Job(batches, TextToVideo(), plan, 1, [], replace(canvas(), first=plan.first))
    for which, count in (([0, 1], 2), ([1], 1)):
        asked, board = job.asked(which)
        assert len(asked) == count and board.first is not None and len(board.first) == count
    assert torch.equal(board.first[0], wanted.flip(2))


def test_extend_gives_the_last_frames(tmp_path: Path) -> None:
    frames = random_frames(0, 11)
    video = write_lossless(tmp_path / "clip.mkv", frames, 8)
    for source in (str(video), as_pixels(frames)):
        plan = Extend(source, 3, 2)(canvas())
        assert frames_given(plan) == [0, 1, 2] and (plan.chunks, plan.num_context) == (2, 3)
        torch.testing.assert_close(plan.given.latents[0, :, :3], as_pixels(frames)[:, -3:], rtol=0, atol=1e-6)


def test_extend_respects_the_codec(tmp_path: Path) -> None:
    board, pixels = canvas((4, 2, 2), True, 9), as_pixels(random_frames(0, 7))
    plan = Extend(pixels, 5, 1)(board)
    assert frames_given(plan) == [0, 1]
    assert torch.equal(plan.given.latents[0, :, :2], FakeCodec([4, 2, 2], True).encode(pixels[None, :, -5:])[0])
    for count, nearest in ((4, "1, 5"), (6, "5, 9")):
        with pytest.raises(ValueError, match=f"num_context={count} is not 4k\\+1 for FakeCodec; nearest: {nearest}"):
            Extend(pixels, count, 1)(board)


@pytest.mark.parametrize(
    ("stride", "causal", "num_frames", "shared"),
    [
        (1, False, 8, 4),
        (1, False, 3, 2),
        (2, True, 9, 5),
        (4, True, 9, 5),
        (6, True, 13, 7),
        (4, True, 5, 1),
        (8, False, 16, 8),
    ],
)
def test_chained_clips_share_as_many_frames_as_the_codec_takes(
    stride: int, causal: bool, num_frames: int, shared: int
) -> None:
    board, pixels = canvas((stride, 2, 2), causal, num_frames), as_pixels(random_frames(0, 20))
    assert Extend(pixels, None, 2)(board).num_context == shared
    assert LongTextToVideo(None, 3)(board).num_context == shared


def test_videos_are_read_at_the_frame_rate_of_the_canvas(tmp_path: Path) -> None:
    frames = random_frames(1, 30)
    fast = write_lossless(tmp_path / "fast.mkv", frames, 24)
    slow = write_lossless(tmp_path / "slow.mkv", frames[:6], 4)
    plan = VideoToVideo(fast, 0.5)(canvas())
    torch.testing.assert_close(plan.start[0], as_pixels(frames[0:18:3]), rtol=0, atol=1e-6)
    plan = VideoToVideo(slow, 0.5)(canvas())
    nearest = plan.start[0]
    for frame in (0, 2, 4):
        torch.testing.assert_close(nearest[:, frame], as_pixels(frames)[:, frame // 2], rtol=0, atol=1e-6)


def test_interpolate_gives_every_kth_frame(tmp_path: Path) -> None:
    frames = random_frames(2, 9)
    video = write_lossless(tmp_path / "clip.mkv", frames, 8)
    for every, at in ((2, [0, 2, 4]), (3, [0, 3]), (None, [0, 5])):
        for source in (str(video), as_pixels(frames)):
            plan = Interpolate(source, every)(canvas())
            assert frames_given(plan) == at
            torch.testing.assert_close(plan.given.latents[0][:, at], as_pixels(frames)[:, at], rtol=0, atol=1e-6)


def test_video_to_video_starts_from_the_video() -> None:
    pixels = as_pixels(random_frames(3, 9))
    plan = VideoToVideo(pixels, 0.6)(canvas())
    assert plan.given is None and plan.strength == 0.6 and torch.equal(plan.start[0], pixels[:, :6])


def test_inpaint_gives_latents_that_the_mask_leaves_whole(tmp_path: Path) -> None:
    array = np.zeros((8, 10), np.uint8)
    array[2:5, 3:5] = 255
    Image.fromarray(array).save(tmp_path / "mask.png")
    pixels = as_pixels(random_frames(4, 9))
    for source in (str(tmp_path / "mask.png"), torch.from_numpy(array > 0)):
        plan = Inpaint(pixels, source)(canvas((4, 2, 2), True, 9))
        unknown = ~plan.given.mask
        assert unknown.shape == (1, 1, 3, 4, 5)
        # rows 2..4 touch latent rows 1 and 2, columns 3..4 latent columns 1 and 2
        assert unknown[0, 0, 0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


SHAPES = {Cut(): (0, 0), Pad(): (0, 3), Stretch(): (0, 0)}  # rows and columns of black on each side, see below


@pytest.mark.parametrize("fit", SHAPES)
def test_a_picture_of_another_shape_is_cut_padded_or_stretched_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fit: Fit
) -> None:
    """16 high and 8 wide in a canvas of 8x10: red above, green in the middle, blue below."""
    array = np.zeros((16, 8, 3), np.uint8)
    array[:4, :, 0] = array[4:12, :, 1] = array[12:, :, 2] = 200
    Image.fromarray(array).save(tmp_path / "high.png")
    Image.fromarray(np.full((16, 8), 255, np.uint8)).save(tmp_path / "mask.png")
    write_lossless(tmp_path / "high.mkv", array[None].repeat(6, 0), 8)
    image = ImageToVideo(tmp_path / "high.png", fit)(canvas()).given.latents[0, :, 0]
    video = VideoToVideo(tmp_path / "high.mkv", 0.5, fit)(canvas()).start[0, :, 3]
    torch.testing.assert_close(image, video, rtol=0, atol=1e-6)
    colours = image.argmax(0)[:, 5]
    if isinstance(fit, Cut):  # 6.4 of 16 rows are left: all green
        assert (colours == 1).all()
    else:
        assert (colours[0], colours[3], colours[7]) == (0, 1, 2)
    columns = SHAPES[fit][1]
    black = (image == -1).all(0).all(0)
    assert black.tolist() == [True] * columns + [False] * (10 - 2 * columns) + [True] * columns
    unknown = ~Inpaint(as_pixels(random_frames(0, 6)), tmp_path / "mask.png", fit)(canvas()).given.mask[0, 0, 0]
    assert unknown.any(0).tolist() == (~black).tolist(), "what is padded is not remade"
    says = {Cut: "60% of it is cut off, above and below; fit=pad", Pad: "60% of the frame is black"}
    expected = says.get(type(fit), "it is 60% lower than it should be")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and all(f"is 8x16, the samples are 10x8: {expected}" in each for each in said)


@pytest.mark.parametrize("fit", SHAPES)
def test_a_picture_of_the_same_shape_passes_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fit: Fit
) -> None:
    image = still(0)
    read = ImageToVideo(save(tmp_path, image), fit)(canvas()).given.latents[0, :, 0]
    torch.testing.assert_close(read, image, rtol=0, atol=1e-6)
    assert not caplog.records


def test_a_gap_in_the_times_of_a_video_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A frame for each eighth of a second of the gap would be 80 million."""
    times = [0.0, 0.125, 0.25, *(1e7 + frame / 8 for frame in range(4))]
    path = write_numbered(tmp_path / "gap.mkv", count=7, fps=8, times=times)
    board = Canvas(6, 64, 96, 8, (6, 64, 96), PIXELS, lambda x: x, lambda n: None)

    def numbers(pixels: Tensor) -> list[int]:
        return frame_number(((pixels + 1) * 127.5).permute(1, 2, 3, 0).numpy())

    assert numbers(Extend(str(path), 4, 1)(board).given.latents[0, :, :4]) == [3, 4, 5, 6]
    assert not caplog.records
    assert numbers(VideoToVideo(str(path), 0.5)(board).start[0]) == [0, 1, 2, 2, 2, 2]
    assert "3 of 6 frames are shown again: it has fewer than 8 a second" in caplog.text
    late = write_numbered(tmp_path / "late.mkv", count=4, fps=8, times=[0.0, 0.125, 0.25, 1e7])
    assert numbers(Extend(str(late), 4, 1)(board).given.latents[0, :, :4])[-1] == 3


def test_long_text_to_video_chains() -> None:
    plan = LongTextToVideo(2, 3)(canvas())
    assert plan.given is None and (plan.chunks, plan.num_context) == (3, 2)


def mistakes(tmp_path: Path) -> list[tuple[object, type[Exception], str]]:
    (tmp_path / "notes.txt").write_text("no picture")
    clip = str(write_lossless(tmp_path / "clip.mkv", random_frames(0, 4), 8))
    video, image = as_pixels(random_frames(0, 6)), still(0)
    return [
        (ImageToVideo(None), ValueError, "needs image=FILE"),
        (ImageToVideo(str(tmp_path / "claps.mkv")), FileNotFoundError, "image .*claps.mkv is not there; in .*clip.mkv"),
        (ImageToVideo(str(tmp_path / "notes.txt")), ValueError, "notes.txt: cannot be read as an image"),
        (ImageToVideo(image[:, :4]), ValueError, r"image has \(3, 1, 4, 10\)"),
        (FirstLast(image, None), ValueError, "needs last_image=FILE"),
        (Extend(None, 2, 1), ValueError, "needs video=FILE"),
        (Extend(str(tmp_path / "no" / "such.mp4"), 2, 1), FileNotFoundError, "such.mp4 is not there"),
        (Extend(str(tmp_path / "notes.txt"), 2, 1), ValueError, "notes.txt cannot be decoded"),
        (Extend(clip, 5, 1), ValueError, "clip.mkv has 4 frames at 8 frames a second; 5 are needed"),
        (Extend(video, 6, 1), ValueError, "num_context=6 .*below num_frames=6; nearest: 5"),
        (Extend(video, 0, 1), ValueError, "num_context=0 .*nearest: 1"),
        (Extend(video, 2, 0), ValueError, "times=0 must be at least 1"),
        (Interpolate(video, 1), ValueError, "every=1 leaves nothing"),
        (Interpolate(video, 6), ValueError, "use 2 to 5"),
        (Interpolate(clip, 2), ValueError, "clip.mkv has 2 frames at 4 frames a second; 3 are needed"),
        (VideoToVideo(video, 0.0), ValueError, r"strength=0.0 is outside \(0, 1\]; nearest: 0.1"),
        (VideoToVideo(video, 1.5), ValueError, "nearest: 1.0"),
        (VideoToVideo(video[:, :3], 0.5), ValueError, r"video has \(3, 3, 8, 10\)"),
        (Inpaint(video, None), ValueError, "needs mask=FILE"),
        (Inpaint(video, torch.zeros(3, 3)), ValueError, r"mask is torch.float32 \(3, 3\)"),
    ]


def test_mistakes_are_one_line_errors(tmp_path: Path) -> None:
    for task, kind, message in mistakes(tmp_path):
        with pytest.raises(kind, match=message) as caught:
            task(canvas())  # type: ignore[operator]
        assert "\n" not in str(caught.value)
    for task in (FirstLast(still(0), still(1)), Interpolate(still(0)[:, None], None)):
        with pytest.raises(ValueError, match="num_frames=1 is too few"):
            task(canvas(num_frames=1))


MEDIA = Path(__file__).resolve().parents[2].parent / "shared" / "media"


@pytest.mark.skipif(not MEDIA.is_dir(), reason="the real clips of ../shared/media are not here")
def test_real_files() -> None:
    hiker = VideoToVideo(MEDIA / "hiker_tiny.mp4", 0.5)(canvas()).start
    assert hiker.shape == (1, 3, 6, 8, 10) and hiker.std() > 0.1
    decord = pytest.importorskip("decord")
    first = decord.VideoReader(str(MEDIA / "rotated_90.mov"))[0].asnumpy()  # decord applies the rotation
    height, width, _ = first.shape
    board = Canvas(1, height, width, 30, (1, height, width), PIXELS, lambda x: x, lambda n: None)
    ours = VideoToVideo(MEDIA / "rotated_90.mov", 0.5)(board).start
    torch.testing.assert_close(ours[0, :, 0], as_pixels(first[None])[:, 0], rtol=0, atol=0.02)
    for broken in ("corrupted.mp4", "truncated.mp4"):
        with pytest.raises(ValueError, match=f"{broken} cannot be decoded"):
            Extend(MEDIA / broken, 3, 1)(canvas())
