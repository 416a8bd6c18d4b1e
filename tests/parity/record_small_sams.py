"""Record small outputs of the authors' MobileSAM, EdgeSAM and EfficientSAM, for `test_small_sams.py` to compare ours.

    python -m tests.parity.record_small_sams path/to/MobileSAM path/to/EdgeSAM path/to/EfficientSAM

runs the authors' classes with random weights and writes `tests/parity/data/small_sams/*.npz`: the names and shapes of
the weights in their files, embeddings, masks and predicted IoU. Needs the `dev` extra; parts of EdgeSAM that it does
not use (LoRA, detection heads) need not be installed.
"""

import importlib
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

from tests.parity.small_sams import CASES, CELLS, DATA, SIDES, random_pixels, random_state, thinned


def main(mobile_sam, edge_sam, efficient_sam):
    """Record all four models."""
    sys.path[:0] = [mobile_sam, edge_sam, efficient_sam]
    for name in ("loralib", "yacs", "yacs.config", "mmengine", "projects", "projects.EfficientDet", "mmdet"):
        sys.modules.setdefault(name, MagicMock())
    for name in ("mmdet.models", "mmdet.models.dense_heads", "mmdet.models.necks"):
        sys.modules.setdefault(name, MagicMock())
    DATA.mkdir(exist_ok=True)
    for name, side in SIDES.items():
        record(name, built(name, side), side)


def built(name, side):
    """Build the authors' model for a side in pixels."""
    if name == "mobile_sam":
        from mobile_sam import sam_model_registry

        return sam_model_registry["vit_t"]()
    if name == "edge_sam":
        build_sam = importlib.import_module("edge_sam.build_sam")
        build_sam.image_size, build_sam.image_embedding_size = side, side // 16
        return build_sam.build_edge_sam()
    from efficient_sam import efficient_sam

    width = {"efficient_sam_vitt": 192, "efficient_sam_vits": 384}[name]
    model = efficient_sam.build_efficient_sam(width, width // 64)
    encoder, prompts = model.image_encoder, model.prompt_encoder
    encoder.img_size, encoder.image_embedding_size = side, side // 16
    prompts.input_image_size, prompts.image_embedding_size = (side, side), (side // 16, side // 16)
    return model


@torch.no_grad()
def record(name, model, side):
    """Record one model with random weights."""
    state = random_state({weight: tuple(value.shape) for weight, value in model.state_dict().items()})
    model.load_state_dict(state)
    model.eval()
    embedding = model.image_encoder(random_pixels(side))
    arrays = {
        "names": np.array(list(state)),
        "shapes": np.array([" ".join(map(str, value.shape)) for value in state.values()]),
        "embedding": thinned(embedding[0, ::16], CELLS),
    }
    for case, prompts in CASES.items():
        for masks in (1, 3):
            decode = efficient if "efficient" in name else usual
            logits, predicted_iou = decode(model, embedding, prompts, masks, side)
            arrays[f"{case}_{masks}_logits"] = thinned(logits, 2 * CELLS)
            arrays[f"{case}_{masks}_iou"] = predicted_iou.numpy()
    np.savez_compressed(DATA / f"{name}.npz", **arrays)
    print(name, len(state), "weights, embedding", embedding.std().item(), "masks", logits.std().item())


def usual(model, embedding, prompts, masks, side):
    """Decode with MobileSAM or EdgeSAM."""
    sparse, dense = model.prompt_encoder(
        points=(torch.tensor([prompts.points]) * side, torch.tensor([prompts.labels])),
        boxes=None if prompts.box is None else torch.tensor([prompts.box]) * side,
        masks=None,
    )
    edge = type(model).__module__.startswith("edge_sam")
    logits, predicted_iou = model.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        **({"num_multimask_outputs": masks} if edge else {"multimask_output": masks == 3}),
    )
    return logits[0], predicted_iou[0]


def efficient(model, embedding, prompts, masks, side):
    """Decode with EfficientSAM, whose box is two more points with the labels 2 and 3."""
    corners = [] if prompts.box is None else [prompts.box[:2], prompts.box[2:]]
    points = torch.tensor([[[*prompts.points, *corners]]]) * side
    labels = torch.tensor([[[*prompts.labels, *([2, 3] if corners else [])]]])
    logits, predicted_iou = model.predict_masks(embedding, points, labels, masks == 3, side, side)
    return logits[0, 0], predicted_iou[0, 0]


if __name__ == "__main__":
    main(*(str(Path(path).resolve()) for path in sys.argv[1:4]))
