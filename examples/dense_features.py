"""Segment an image by text: patch embeddings against the embeddings of class names, drawn over the image.

python examples/dense_features.py --classes dog,house,tree
python examples/dense_features.py --run exported --image street.jpg --classes road,car,sky --short-side 448
"""

from __future__ import annotations

import argparse
import colorsys

import numpy as np
import torch.nn.functional as F
from common import load_run, some_images
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/sample", help="run folder, checkpoint or export (default: runs/sample)")
parser.add_argument("--image", help="file (default: an image of the sample set)")
parser.add_argument("--classes", default="dog,cat,lion,cow,pig,mouse", help="names of the classes")
parser.add_argument("--short-side", type=int, default=96, help="pixels of the shorter side in the model (default: 96)")
parser.add_argument("--out", default="segmentation.png", help="file to write (default: segmentation.png)")
args = parser.parse_args()

model = load_run(args.run)
image = some_images(model, None, 1)[1][0] if args.image is None else Image.open(args.image)

# The image in its own proportions, with sides that the patch divides.
scale = args.short_side / min(image.size) / model.patch_size
height, width = (max(1, round(side * scale)) * model.patch_size for side in (image.height, image.width))
patches = model.dense(model.preprocess(image, (height, width)))  # [1, h, w, D]

classes = args.classes.split(",")
texts = model.encode_text([f"a {name}" for name in classes])  # [C, D]
cosines = (patches @ texts.T).permute(0, 3, 1, 2)  # [1, C, h, w]
labels = F.interpolate(cosines, (image.height, image.width), mode="bilinear").argmax(1)[0].cpu().numpy()

colors = [colorsys.hsv_to_rgb(index / len(classes), 0.8, 1.0) for index in range(len(classes))]
overlay = Image.fromarray((np.array(colors)[labels] * 255).astype(np.uint8))
Image.blend(image.convert("RGB"), overlay, 0.5).save(args.out)
for name, color, share in zip(classes, colors, np.bincount(labels.flat, minlength=len(classes)), strict=True):
    print(f"{name:>12}  {share / labels.size:4.0%}  #{''.join(f'{round(255 * part):02x}' for part in color)}")
print(f"written: {args.out}")
