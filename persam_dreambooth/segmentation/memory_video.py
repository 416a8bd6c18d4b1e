"""Track subjects through a video with the memory of SAM 2 or EdgeTAM; a one-shot method finds the subjects to track.

The memory is transformers' own, with one session per subject; this module keeps it from growing.
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

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.multi_mask import share_out
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.pretrained import load_pretrained
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, rgb_array
from persam_dreambooth.segmentation.video import VideoFrame
from persam_dreambooth.torch_utils import choose_device

VideoModel: TypeAlias = Sam2VideoModel | EdgeTamVideoModel

FAMILIES: dict[str, type[Any]] = {"sam2_video": Sam2VideoModel, "edgetam_video": EdgeTamVideoModel}
"""config.json's model_type -> the model's class."""


def load_video_model(
    name: str, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> VideoModel:
    """Load a SAM 2 or EdgeTAM video model.

    Args:
        name: hub name or folder.
        device: None uses an accelerator if there is one.
        dtype: of the whole model; no part of the memory has to stay in float32.

    Raises:
        UserError: nothing found, another kind of model, damaged files, or a missing package (EdgeTAM: timm).
    """
    chosen = choose_device(device)
    model, _ = load_pretrained(name, FAMILIES, "SAM 2 or EdgeTAM for videos", "facebook/sam2.1-hiera-tiny")
    placed: VideoModel = model.eval().requires_grad_(False).to(device=chosen, dtype=dtype)
    return placed


class MemorySegmenter:
    """Track subjects with a video model's memory; memory use does not grow with the number of frames.

    Each subject enters the memory with one mask: from the first frame's labels if given, otherwise from the first
    frame in which the method finds it. From then on the method is no longer used for it: the model itself predicts
    whether the subject is visible, and resumes it under the same label when it comes back. A subject may join in any
    frame without changing the memory of the others. Until it has joined, the method searches for it in every frame.

    Args:
        model: the video model, from `load_video_model`.
        segmenter: finds the subjects; may use another SAM than `model`. Not needed if the first frame's labels are
            given.
        subjects: the subjects to search for, in the order of their labels.
        lost_below: minimum predicted IoU of the method's mask; below it the subject is searched for again in the next
            frame. None accepts every mask that is not empty. It does not apply to the model's own masks.

    Raises:
        UserError: subjects without a method, a subject of another backbone or method, or more than 255 subjects.
    """

    def __init__(
        self,
        model: VideoModel,
        segmenter: OneShotSegmenter | None = None,
        subjects: Sequence[Subject] = (),
        lost_below: float | None = 0.7,
    ) -> None:
        if len(subjects) > 255:
            raise UserError(f"a video is segmented for 1 to 255 subjects, not {len(subjects)}")
        for subject in subjects:
            if segmenter is None:
                raise UserError(
                    "subjects were given without a one-shot method to find them; give one, or only first labels"
                )
            segmenter.check(subject)
        self._segmenter, self._subjects, self._lost_below = segmenter, list(subjects), lost_below
        self._tracker = _Tracker(model)
        self._memories: list[Any] = [None] * len(subjects)  # one session per subject; None until it joins

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        segmenter: OneShotSegmenter | None = None,
        subjects: Sequence[Subject] = (),
        lost_below: float | None = 0.7,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load the video model by name or path; arguments and errors as in the class and `load_video_model`."""
        return cls(load_video_model(name, device, dtype), segmenter, subjects, lost_below)

    def follow(self, frames: Iterable[Picture], first_labels: NDArray[np.uint8] | None = None) -> Iterator[VideoFrame]:
        """Segment a stream of frames, yielding one `VideoFrame` each; a later call continues where the last ended.

        A score is the decoder's predicted IoU of the mask it selected or, in the frame in which a subject joins, of
        the method's mask. It is None if the model's object score says that the subject is absent, if its mask is
        empty, and until the subject has joined.

        Args:
            frames: any number of frames, all of the same size.
            first_labels: (H, W) uint8, the known labels of the first frame; returned as the first result, with a
                score of 1 for each subject that they contain. In a later call they reset the memory. Subjects that
                they do not contain are searched for from the next frame on.

        Raises:
            UserError: no subject to track; labels of another size than the frame, or with more subjects than given.
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
        """Process a frame with known labels: reset the memory to them."""
        height, width = picture.shape[:2]
        if labels.shape != (height, width):
            raise UserError(
                f"the first labels have the shape {labels.shape}, the frame {(height, width)}; "
                "give the labels the frame's shape"
            )
        count, highest = len(self._subjects), int(labels.max())
        if count and highest > count:
            raise UserError(
                f"the first labels go up to {highest}, but only {count} subjects were given; number them 1 to {count}"
            )
        if not count and not highest:
            raise UserError("the first labels are empty; mark each subject's pixels with its number")
        self._memories = [None] * (count or highest)
        visible = [bool((labels == number).any()) for number in range(1, len(self._memories) + 1)]
        return self._join(labels, [1.0 if is_visible else None for is_visible in visible])

    @torch.inference_mode()
    def _look(self, picture: NDArray[np.uint8]) -> VideoFrame:
        """Segment all subjects in one frame; each pixel goes to the subject with the highest logit above zero."""
        if not self._memories:
            raise UserError(
                "there is no subject to track; give the first frame's labels, or a one-shot method and subjects"
            )
        scores: list[float | None] = []

        def logits_by_subject() -> Iterator[Tensor | None]:
            photo = None
            for index, memory in enumerate(self._memories):
                logits, score = None, None
                if memory is not None:
                    logits, score = self._tracker.find(memory)
                elif self._segmenter is not None and index < len(self._subjects):
                    photo = photo or self._segmenter.encode([picture])[0]
                    logits, score = self._search(self._segmenter, photo, self._subjects[index])
                scores.append(score)
                yield None if score is None else logits

        labels = share_out(logits_by_subject(), (picture.shape[0], picture.shape[1]))
        return self._join(labels, scores)

    def _search(
        self, segmenter: OneShotSegmenter, photo: EncodedPhoto, subject: Subject
    ) -> tuple[Tensor, float | None]:
        """Return the method's (H, W) logits of one subject and their predicted IoU, None if the mask is rejected."""
        found = segmenter.segment(photo, subject)
        # INSID3 without a SAM predicts no IoU: it is accepted where its mask is not empty.
        enough = self._lost_below is None or segmenter.backbone is None or found.score >= self._lost_below
        accepted = found.mask.any() and enough
        return photo.frame.to_original(torch.from_numpy(found.logits)[None])[0], found.score if accepted else None

    def _join(self, labels: NDArray[np.uint8], scores: list[float | None]) -> VideoFrame:
        """Add subjects found for the first time to the memory, with the pixels assigned to them."""
        for index, memory in enumerate(self._memories):
            if memory is None and scores[index] is not None:
                mask = labels == index + 1
                if mask.any():
                    self._memories[index] = self._tracker.remember(mask)
                else:
                    scores[index] = None
        return VideoFrame(labels, tuple(scores))


class _Tracker:
    """Runs the video model frame by frame, with one session per subject.

    A single session could hold all subjects until one joins late: then transformers' EdgeTAM fails, and its SAM 2
    also stores the other subjects' masks of that frame as if they had been given as prompts. In neither model do
    subjects interact, and the image features are shared, so separate sessions cost next to nothing.

    Args:
        model: used as it is, on its device and in its dtype.
    """

    def __init__(self, model: VideoModel) -> None:
        self._model: Any = model  # the two classes have no common type
        config: Any = model.config
        size = {"height": config.image_size, "width": config.image_size}
        self._processor: Any = Sam2VideoProcessor(Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size))
        self._features = self._open().cache  # of the current frame
        # In frame n the model reads the masks from frame n - num_maskmem + 1 on, and the pointers likewise.
        self._masks, self._pointers = config.num_maskmem - 1, config.max_object_pointers_in_encoder - 1
        self._number, self._pixels, self._size = -1, torch.empty(0), (0, 0)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Advance to the next frame, (H, W, 3) uint8 RGB; it is encoded lazily, when the first subject needs it."""
        self._number, self._size = self._number + 1, (picture.shape[0], picture.shape[1])
        inputs = self._processor(images=picture, input_data_format="channels_last", return_tensors="pt")
        self._pixels = inputs["pixel_values"][0]

    def remember(self, mask: NDArray[np.bool_]) -> Any:
        """Start a session with one subject's (H, W) bool mask in the current frame."""
        session = self._open()
        session.cache = self._features
        self._processor.add_inputs_to_inference_session(session, self._number, 1, input_masks=mask)
        self._run(session)
        return session

    def find(self, session: Any) -> tuple[Tensor, float | None]:
        """Segment one subject in the current frame.

        Returns:
            (H, W) float32 logits, and their predicted IoU, None if the subject is absent.
        """
        scores: list[Tensor] = []  # (1, 1, K) predicted IoU; the model selects the best but does not return it
        with self._model.mask_decoder.register_forward_hook(lambda module, args, output: scores.append(output[1])):
            output = self._run(session)
        logits = self._processor.post_process_masks([output.pred_masks.float()], [self._size], binarize=False)[0][0, 0]
        visible = bool((logits > 0).any())  # without an object the model's logits are -1024 everywhere
        return logits, float(scores[-1].max()) if visible else None

    def _open(self) -> Any:
        return self._processor.init_video_session(inference_device=self._model.device, dtype=self._model.dtype)

    def _run(self, session: Any) -> Any:
        """Run the model on the current frame, then drop what later frames do not read; transformers keeps it all."""
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
            age = self._number - number  # in frames; one more when the next frame reads it
            if age >= self._masks:
                later[number].pop("maskmem_features", None)
                later[number].pop("maskmem_pos_enc", None)
            if age >= max(self._masks, self._pointers):
                del later[number]
        return output
