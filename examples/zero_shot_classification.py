"""Classify images by the names of the classes alone.

python examples/zero_shot_classification.py --classes dog,cat,lion,house
python examples/zero_shot_classification.py --run exported --images photos/ --classes "a beach,a forest,a street"
"""

from __future__ import annotations

import argparse

from common import load_run, some_images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/sample", help="run folder, checkpoint or export (default: runs/sample)")
parser.add_argument("--images", help="folder of images (default: the sample set)")
parser.add_argument("--count", type=int, default=8, help="images to classify at most (default: 8)")
parser.add_argument("--classes", default="dog,cat,lion,cow,pig,mouse", help="names of the classes")
args = parser.parse_args()

model = load_run(args.run)
names, images = some_images(model, args.images, args.count)
classes = args.classes.split(",")
probabilities = model.classify(images, classes, templates=["a {}", "a drawing of a {}"])  # [N, C]

for name, row in zip(names, probabilities, strict=True):
    best = row.argmax().item()
    print(f"{classes[best]:>12}  {row[best]:.2f}  {name}")
