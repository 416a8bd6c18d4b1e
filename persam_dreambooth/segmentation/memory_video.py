"""Subjects followed through a video with a learned memory: SAM 2's or EdgeTAM's, which PerSAM tells whom to follow.

The memory is transformers' own, a session for each subject; here it is kept from growing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    EdgeTamVideoModel,
    Sam2ImageProcessor,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
)

from persam_dreambooth.devices import choose_device
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.multi_mask import share_out
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.pretrained import load_pretrained
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, rgb_array
from persam_dreambooth.segmentation.video import VideoFrame

VideoModel: TypeAlias = Sam2VideoModel | EdgeTamVideoModel

FAMILIES: dict[str, type[Any]] = {"sam2_video": Sam2VideoModel, "edgetam_video": EdgeTamVideoModel}
"""config.json's model_type -> the model's class."""


def load_video_model(
    name: str, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> VideoModel:
    """A SAM 2 or EdgeTAM with its memory.

    Args:
        name: hub name or folder.
        device: None takes an accelerator where there is one.
        dtype: of the whole model; the memory has no part that must stay in float32.

    Raises:
        UserError: nothing there, another model's folder, a damaged one, or a package is missing (EdgeTAM: timm).
    """
    chosen = choose_device(device)
    model, _ = load_pretrained(name, FAMILIES, "SAM 2 or EdgeTAM for videos", "facebook/sam2.1-hiera-tiny")
    placed: VideoModel = model.eval().requires_grad_(False).to(device=chosen, dtype=dtype)
    return placed


class MemorySegmenter:
    """Follow subjects from frame to frame by what the model remembers; memory does not grow with their number.

    Each subject enters the memory with one mask: of the first frame, where that is given, else of the first
    frame in which PerSAM finds it. From then on PerSAM is not asked about it any more: the model itself says
    whether the subject is there, and takes it up again under its number when it comes back. A subject may join
    in any frame, and what is remembered of the others does not change by it. As long as one has not joined,
    PerSAM looks for it in every frame.

    Args:
        model: the one that remembers; `load_video_model` gives one.
        persam: looks for the subjects; may stand on another SAM than `model`. Not needed where the first frame's
            labels are given.
        subjects: whom PerSAM looks for, in the order of their labels.
        lost_below: predicted IoU below which PerSAM's mask is not believed, and its subject looked for again in the
            next frame; None believes every mask that is not empty. The model's own masks are not measured by it.

    Raises:
        UserError: subjects without a PerSAM, one of another backbone or method, or more than a label can number.
    """

    def __init__(
        self,
        model: VideoModel,
        persam: PerSAM | None = None,
        subjects: Sequence[Subject] = (),
        lost_below: float | None = 0.7,
    ) -> None:
        if len(subjects) > 255:
            raise UserError(f"a video is segmented for 1 to 255 subjects, not {len(subjects)}")
        for subject in subjects:
            if persam is None:
                raise UserError("subjects are looked for by PerSAM; give one, or only the first frame's labels")
            persam.check(subject)
        self._persam, self._subjects, self._lost_below = persam, list(subjects), lost_below
        self._tracker = _Tracker(model)
        self._memories: list[Any] = [None] * len(subjects)  # a session for each; None for one that has not joined

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        persam: PerSAM | None = None,
        subjects: Sequence[Subject] = (),
        lost_below: float | None = 0.7,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """One with a named or stored model; arguments and errors as the class's and `load_video_model`'s."""
        return cls(load_video_model(name, device, dtype), persam, subjects, lost_below)

    def follow(self, frames: Iterable[Picture], first_labels: NDArray[np.uint8] | None = None) -> Iterator[VideoFrame]:
        """Segment frames as they come; one `VideoFrame` for each. A further call goes on where the last one ended.

        A score is the decoder's predicted IoU, of the mask that it chose or, in the frame in which a subject joins,
        of PerSAM's; it is None where the model's object score says that the subject is not there, where its mask is
        empty, and as long as it has not joined.

        Args:
            frames: of any number, all of one size.
            first_labels: (H, W) uint8, where the subjects are in the first frame, when that is
                known; it is handed back as the first result, with scores of 1. In a further call the memory
                starts afresh from it. A subject that is not in it is looked for from the next frame on.

        Raises:
            UserError: nobody to follow; labels of another size than the frame's, or of more subjects than there are.
        """
        for frame in frames:
            picture = rgb_array(frame)
            self._tracker.show(picture)
            if first_labels is not None:
                result = self._start(picture, first_labels)
                first_labels = None
            else:
                result = self._look(picture)
            yield result

    def _start(self, picture: NDArray[np.uint8], labels: NDArray[np.uint8]) -> VideoFrame:
        """The first frame, whose labels are known: forget everybody, remember these."""
        height, width = picture.shape[:2]
        if labels.shape != (height, width):
            raise UserError(f"the first labels have the shape {labels.shape}, the frame {(height, width)}")
        count, highest = len(self._subjects), int(labels.max())
        if count and highest > count:
            raise UserError(f"the first labels number {highest} subjects, but {count} are looked for")
        if not count and not highest:
            raise UserError("the first labels are empty: no pixel is a subject's; give its number to at least one")
        self._memories = [None] * (count or highest)
        there = [bool((labels == number).any()) for number in range(1, len(self._memories) + 1)]
        return self._join(labels, [1.0 if one else None for one in there])

    @torch.inference_mode()
    def _look(self, picture: NDArray[np.uint8]) -> VideoFrame:
        """All subjects in one frame, each pixel given to the one with the highest logit above zero."""
        if not self._memories:
            raise UserError("there is nobody to follow; give the first frame's labels, or a PerSAM and its subjects")
        scores: list[float | None] = []

        def claims() -> Iterator[Tensor | None]:
            photo = None
            for place, memory in enumerate(self._memories):
                logits, score = None, None
                if memory is not None:
                    logits, score = self._tracker.find(memory)
                elif self._persam is not None and place < len(self._subjects):
                    photo = photo or self._persam.encode([picture])[0]
                    logits, score = self._search(self._persam, photo, self._subjects[place])
                scores.append(score)
                yield None if score is None else logits

        labels = share_out(claims(), (picture.shape[0], picture.shape[1]))
        return self._join(labels, scores)

    def _search(self, persam: PerSAM, photo: EncodedPhoto, subject: Subject) -> tuple[Tensor, float | None]:
        """PerSAM's (H, W) logits of one subject, and their predicted IoU; None where they are not believed."""
        found = persam.segment(photo, subject)
        believed = found.mask.any() and (self._lost_below is None or found.score >= self._lost_below)
        return photo.frame.to_original(torch.from_numpy(found.logits)[None])[0], found.score if believed else None

    def _join(self, labels: NDArray[np.uint8], scores: list[float | None]) -> VideoFrame:
        """Those whom this frame shows for the first time enter the memory, with the pixels that are theirs alone."""
        for place, memory in enumerate(self._memories):
            if memory is None and scores[place] is not None:
                mask = labels == place + 1
                if mask.any():
                    self._memories[place] = self._tracker.remember(mask)
                else:
                    scores[place] = None
        return VideoFrame(labels, tuple(scores))


class _Tracker:
    """The video model on one frame after another, with a session for each subject.

    One session could hold them all, until a subject joins late: transformers' EdgeTAM then fails, and its SAM 2
    remembers the others' masks of that frame as if they had been given, too. Neither model lets subjects see each
    other, and the image's features are shared, so that sessions of their own cost next to nothing.

    Args:
        model: as it is, on its device and in its dtype.
    """

    def __init__(self, model: VideoModel) -> None:
        self._model: Any = model  # its two classes share no type
        config: Any = model.config
        size = {"height": config.image_size, "width": config.image_size}
        self._processor: Any = Sam2VideoProcessor(Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size))
        self._features = self._open().cache  # of the latest frame
        # In frame n the model reads the masks since frame n - num_maskmem + 1, and the pointers likewise.
        self._masks, self._pointers = config.num_maskmem - 1, config.max_object_pointers_in_encoder - 1
        self._number, self._pixels, self._size = -1, torch.empty(0), (0, 0)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Turn to the next frame, (H, W, 3) uint8 RGB; it is encoded when a subject is first looked for in it."""
        self._number, self._size = self._number + 1, (picture.shape[0], picture.shape[1])
        inputs = self._processor(images=picture, input_data_format="channels_last", return_tensors="pt")
        self._pixels = inputs["pixel_values"][0]

    def remember(self, mask: NDArray[np.bool_]) -> Any:
        """A session that begins with one subject's (H, W) bool mask in this frame."""
        session = self._open()
        session.cache = self._features
        self._processor.add_inputs_to_inference_session(session, self._number, 1, input_masks=mask)
        self._run(session)
        return session

    def find(self, session: Any) -> tuple[Tensor, float | None]:
        """One subject in this frame.

        Returns:
            (H, W) float32 logits, and their predicted IoU; None where the subject is not there.
        """
        scores: list[Tensor] = []  # (1, 1, K) predicted IoU, which the model takes the best of and does not hand on
        with self._model.mask_decoder.register_forward_hook(lambda module, args, output: scores.append(output[1])):
            output = self._run(session)
        logits = self._processor.post_process_masks([output.pred_masks.float()], [self._size], binarize=False)[0][0, 0]
        there = bool((logits > 0).any())  # where the object score says no, the model's logits are -1024 everywhere
        return logits, float(scores[-1].max()) if there else None

    def _open(self) -> Any:
        return self._processor.init_video_session(inference_device=self._model.device, dtype=self._model.dtype)

    def _run(self, session: Any) -> Any:
        """This frame through the model; then drop what no later frame reads, of which transformers keeps all."""
        output = self._model(session, frame=self._pixels, frame_idx=self._number)
        check_finite(output.pred_masks, "the video model")
        session.processed_frames.clear()
        session.mask_inputs_per_obj[0].clear()
        session.frames_tracked_per_obj[0].clear()
        remembered = session.output_dict_per_obj[0]
        first = remembered["cond_frame_outputs"].values()
        later = remembered["non_cond_frame_outputs"]
        for entry in [*first, *later.values()]:
            entry.pop("pred_masks", None)
            entry.pop("high_res_masks", None)
        for number in list(later):
            age = self._number - number  # in this frame; the next one is one older
            if age >= self._masks:
                later[number].pop("maskmem_features", None)
                later[number].pop("maskmem_pos_enc", None)
            if age >= max(self._masks, self._pointers):
                del later[number]
        return output
