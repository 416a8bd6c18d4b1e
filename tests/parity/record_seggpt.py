"""Record what the authors' SegGPT and Painter paint, for `test_official_seggpt.py` to compare ours.

    python -m tests.parity.record_seggpt path/to/Painter

runs `inference_image` and `inference_video` of the authors' `seggpt_engine.py`, and Painter's class, unmodified, on
CPU with random weights, and writes `tests/parity/data/seggpt/recorded.npz`. Needs the `dev` extra; what the two models
import and do not use (detectron2, fairscale, fvcore, OpenCV except for reading frames) need not be installed.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from PIL import Image

from tests.parity.seggpt_cases import COUNTS, DATA, MEMORY, PHOTO, REFERENCES, SIZE, state_of, thinned, video
from tests.scene import scene


class Frames:
    """OpenCV's reader of a video, on drawn frames in its order of colours."""

    def __init__(self, path):
        self._frames = iter(video()[0])

    def get(self, what):
        """Return a property of the video, which only the writer uses."""
        return 1

    def read(self):
        """Return whether there is a frame, and the frame."""
        frame = next(self._frames, None)
        return frame is not None, None if frame is None else frame[..., ::-1]


def main(checkout):
    """Record both models."""
    for name in ("fvcore", "fvcore.nn", "fvcore.nn.weight_init", "fairscale", "fairscale.nn"):
        sys.modules[name] = MagicMock()
    sys.modules["fairscale.nn.checkpoint"] = MagicMock()
    sys.modules["detectron2"], layers = MagicMock(), MagicMock(CNNBlockBase=torch.nn.Module)
    sys.modules["detectron2.layers"] = layers
    sys.modules["cv2"] = MagicMock(VideoCapture=Frames)
    sys.path.insert(0, str(checkout / "SegGPT" / "SegGPT_inference"))
    engine, seggpt = (importlib.import_module(name) for name in ("seggpt_engine", "models_seggpt"))
    arrays, model = built("seggpt", seggpt.SegGPT)
    model.seg_type = "instance"
    painted, run_one_image = [], engine.run_one_image

    def run(*args):
        painted.append(run_one_image(*args))
        return painted[-1]

    engine.run_one_image = run
    with tempfile.TemporaryDirectory() as folder:
        photos, masks = save(Path(folder))
        for count in COUNTS:
            out = Path(folder, "out.png")
            engine.inference_image(model, "cpu", photos[-1], photos[:count], masks[:count], out)
            arrays[f"image_{count}"] = thinned(painted.pop())
        first = Path(folder, "first.png")
        Image.fromarray(video()[1].astype(np.uint8) * 255).save(first)
        engine.inference_video(model, "cpu", "video", MEMORY, None, [first], "out")
    arrays["video"] = np.stack([thinned(picture) for picture in painted])
    sys.path.insert(0, str(checkout / "Painter"))
    more, painter = built("painter", importlib.import_module("models_painter").Painter)
    arrays |= more | {"painter": thinned(paint(painter, engine))}
    DATA.mkdir(exist_ok=True)
    np.savez_compressed(DATA / "recorded.npz", **arrays)
    for name, values in arrays.items():
        print(name, values.shape, values.std() if values.dtype.kind == "f" else "")


def built(name, make):
    """Build a small model with random weights, and return it after the names and shapes of its weights."""
    model = make(depth=24, **SIZE)
    shapes = {weight: tuple(value.shape) for weight, value in model.state_dict().items()}
    arrays = {
        f"{name}_names": np.array(list(shapes)),
        f"{name}_shapes": np.array([" ".join(map(str, shape)) for shape in shapes.values()]),
    }
    model.load_state_dict(state_of(arrays, name))
    return arrays, model.eval()


def save(folder):
    """Write the references and the photo, and the references' masks, as files; return their paths."""
    photos, masks = [], []
    for number, size in enumerate((*REFERENCES, PHOTO)):
        pixels, mask = scene(*size)
        photos.append(folder / f"{number}.png")
        masks.append(folder / f"{number}-mask.png")
        Image.fromarray(pixels).save(photos[-1])
        Image.fromarray(mask.astype(np.uint8) * 255).save(masks[-1])
    return photos, masks


@torch.no_grad()
def paint(model, engine):
    """Paint the photo's mask with Painter, prepared as its authors' demo does."""
    side = SIZE["img_size"][1]
    (example, mask), (photo, _) = scene(*REFERENCES[0]), scene(*PHOTO)
    small = [np.array(Image.fromarray(pixels).resize((side, side))) / 255.0 for pixels in (example, photo)]
    drawn = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB").resize((side, side), Image.NEAREST)
    both = [np.concatenate(small), np.concatenate([np.array(drawn) / 255.0] * 2)]
    image, target = (
        torch.tensor((pair - engine.imagenet_mean) / engine.imagenet_std).permute(2, 0, 1)[None].float()
        for pair in both
    )
    hidden = torch.zeros(1, model.patch_embed.num_patches)
    hidden[:, model.patch_embed.num_patches // 2 :] = 1
    _, patches, _ = model(image, target, hidden, torch.ones_like(target))
    picture = model.unpatchify(patches)[0].permute(1, 2, 0)[side:]
    return torch.clip((picture * engine.imagenet_std + engine.imagenet_mean) * 255, 0, 255)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
