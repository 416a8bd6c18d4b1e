"""Small synthetic data sets in the benchmarks' layouts, scored within a second."""

import json
import pickle

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.scene import scene

HEIGHT, WIDTH = 40, 60


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=95)


def write_perseg(root, objects=("cat", "dog"), photos=3):
    """`photos` of each object, the masks with PerSeg's value 128."""
    for number, name in enumerate(objects):
        for photo in range(photos):
            image, disc = scene(HEIGHT, WIDTH, seed=10 * number + photo)
            disc = np.roll(disc, (4 * photo, -6 * photo), (0, 1))
            image = np.where(disc[..., None], (200, 80, 40), image).astype(np.uint8)
            write(root / "Images" / name / f"{photo:02d}.jpg", image)
            write(root / "Annotations" / name / f"{photo:02d}.png", disc.astype(np.uint8) * 128)
    return root


def write_fss(root, classes=("ab_wheel", "abacus"), photos=3):
    """Test classes, and one that is not a test class."""
    for number, name in enumerate((*classes, "zucchini")):
        for photo in range(1, photos + 1):
            image, disc = scene(HEIGHT, WIDTH, seed=10 * number + photo)
            write(root / "data" / name / f"{photo}.jpg", image)
            write(root / "data" / name / f"{photo}.png", np.repeat(disc[..., None], 3, 2).astype(np.uint8) * 255)
    (root / "splits").mkdir()
    (root / "splits" / "test.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


def packed(mask):
    """A mask as COCO's compressed run lengths, with the counts as text, as in JSON."""
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def square(top, left, side):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def polygon(top, left, side):
    """The same square as a polygon along the pixels' edges."""
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def write_lvis(root, classes=23, photos=4):
    """Classes with two squares per photo, a polygon and run lengths; one more class has a single photo."""
    stored = {}
    for photo in range(photos):
        write(root / "coco" / "val2017" / f"{photo}.jpg", scene(HEIGHT, WIDTH, photo)[0])
    for group in range(1, classes + 2):
        shown = range(photos) if group <= classes else range(1)
        stored[group] = {
            f"val2017/{photo}.jpg": {
                "annotations": [
                    {"segmentation": polygon(2, group, 10)},
                    {"segmentation": packed(square(20, 2 * photo, 10))},
                ]
            }
            for photo in shown
        }
    dump(root / "lvis_val.pkl", stored)
    dump(root / "lvis_train.pkl", stored)
    return root


def write_paco(root, classes=8, photos=4):
    """Two objects per photo, 30 x 30 boxes side by side, each with every part: a square inside its box."""
    cid2img = {group: [] for group in range(classes)}
    img2anno = {}
    for photo in range(photos):
        write(root / "coco" / "val2017" / f"{photo}.jpg", scene(HEIGHT, WIDTH, photo)[0])
        img2anno[photo] = [
            {
                "category_id": np.int64(group),
                "obj_ann_id": 100 * photo + side,
                "obj_bbox": [30.0 * side, 5.0, 30.0, 30.0],
                "segmentation": packed(square(8 + group, 30 * side + 3, 10)),
            }
            for group in range(classes)
            for side in (0, 1)
        ]
        for group in range(classes):
            cid2img[group] += [{photo: f"coco/val2017/{photo}.jpg"}] * 2  # named twice, as in the real lists
    cid2img[classes - 1] = cid2img[classes - 1][:2]  # the last class has only one photo
    for name in ("train", "val"):
        dump(root / "paco" / f"paco_part_{name}.pkl", {"cid2img": cid2img, "img2anno": img2anno})
    return root


def write_pascal(root, photos=4):
    """One animal with a head; the first photo also shows one without. The other folds have one part each."""
    folder = root / "VOCdevkit" / "VOC2010"
    annotations = folder / "Annotations_Part_json_merged_part_classes"
    annotations.mkdir(parents=True)
    names = [f"2008_{number:06d}" for number in range(photos)]
    for number, name in enumerate(names):
        write(folder / "JPEGImages" / f"{name}.jpg", scene(HEIGHT, WIDTH, number)[0])
        box = {"xmin": "10", "ymin": "5", "xmax": "40", "ymax": "35"}
        head = {"name": "HEAD", "mask": [packed(square(8, 12, 10)), packed(square(20, 12 + number, 10))]}
        owners = [{"name": "dog", "bndbox": box, "parts": [head]}, {"name": "bird", "bndbox": box, "parts": [head]}]
        if number == 0:
            owners.insert(0, {"name": "dog", "bndbox": box, "parts": []})
        (annotations / f"{name}.json").write_text(json.dumps({"object": owners}))
    lists = {"train": names[:1], "val": names}
    index = {
        "animals": {"object": {"dog": {"part": {"HEAD": lists, "TAIL": {"train": [], "val": names}}}}},
        "indoor": {"object": {"bird": {"part": {"HEAD": lists}}}},
        "person": {"object": {"dog": {"part": {"HEAD": lists}}}},
        "vehicles": {"object": {"aeroplane": {"part": {"TAIL": lists}}, "bird": {"part": {"HEAD": lists}}}},
    }
    (folder / "all_obj_part_to_image.json").write_text(json.dumps(index))
    return root


def write_davis(root, videos=("bear", "bike"), frames=5):
    """Two squares that move by two pixels per frame; one pixel in the corner is void."""
    for video in videos:
        for frame in range(frames):
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            labels[5:15, 5 + 2 * frame : 15 + 2 * frame] = 1
            labels[22:34, 10 + 2 * frame : 22 + 2 * frame] = 2
            labels[-1, -1] = 255
            colours = np.array([(60, 120, 60), (220, 60, 40), (40, 60, 220)], np.uint8)[labels % 255]
            write(root / "JPEGImages" / "480p" / video / f"{frame:05d}.jpg", colours)
            write_labels(root / "Annotations" / "480p" / video / f"{frame:05d}.png", labels)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("".join(f"{video}\n" for video in videos))
    return root


def write_labels(path, labels):
    """A palette image with these numbers."""
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_coco20(root, photos=4):
    """Classes 1 and 5 of fold 0 in each photo, classes 2, 3 and 4 of the other folds; a square each."""
    shown = (1, 2, 3, 4, 5)
    names = [f"val2014/COCO_val2014_{number:012d}.jpg" for number in range(photos)]
    for number, name in enumerate(names):
        write(root / name, scene(HEIGHT, WIDTH, number)[0])
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        for label in shown:
            labels[2 * label + number : 30, 10 * label : 10 * label + 8] = label
        write_labels((root / "annotations" / name).with_suffix(".png"), labels)
    (root / "train2014").mkdir()
    (root / "annotations" / "train2014").mkdir()
    for fold in range(4):
        lists = {group: names if group + 1 in shown and group % 4 == fold else [] for group in range(80)}
        lists[8] = names[:1]  # a class with one photo
        dump(root / "splits" / "val" / f"fold{fold}.pkl", lists)
    return root


def write_pascal5(root, photos=4):
    """Classes 1 and 2 of fold 0 in every photo, one class of each other fold, and void pixels around class 1."""
    names = [f"2007_{number:06d}" for number in range(photos)]
    for number, name in enumerate(names):
        write(root / "VOC2012" / "JPEGImages" / f"{name}.jpg", scene(HEIGHT, WIDTH, number)[0])
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[4:20, 4:20] = 255
        labels[6:18, 6:18] = 1
        labels[20 + number : 32, 30:50] = 2
        for fold in (1, 2, 3):
            labels[33:39, 10 * fold : 10 * fold + 8] = 5 * fold + 1
        write_labels(root / "VOC2012" / "SegmentationClassAug" / f"{name}.png", labels)
    (root / "splits" / "pascal" / "val").mkdir(parents=True)
    for fold, classes in enumerate([(1, 2), (6,), (11,), (16,)]):
        lines = [f"{name}__{group:02d}\n" for name in names for group in classes]
        (root / "splits" / "pascal" / "val" / f"fold{fold}.txt").write_text("".join(lines))
    return root


def write_permis(root, videos=("0", "4", "17")):
    """Each frame's dictionary has the subject's mask first and another object's second."""
    for video in videos:
        masks = []
        for frame in range(3):
            write(root / video / f"{frame}.jpg", scene(HEIGHT, WIDTH, frame)[0])
            masks.append({7: square(5, 5 + 4 * frame, 12), 9: square(20, 30, 9)})
        np.save(root / video / "masks.npz.npy", np.array(masks, dtype=object), allow_pickle=True)
    return root
