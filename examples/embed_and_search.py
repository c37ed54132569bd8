"""Embed images, then find those that fit a text.

python examples/embed_and_search.py --query "a drawing of a dog"
python examples/embed_and_search.py --run exported --images photos/ --query "a beach at sunset"
"""

from __future__ import annotations

import argparse

from common import load_run, some_images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/sample", help="run folder, checkpoint or export (default: runs/sample)")
parser.add_argument("--images", help="folder of images (default: the sample set)")
parser.add_argument("--count", type=int, default=256, help="images to embed at most (default: 256)")
parser.add_argument("--query", default="a drawing of a dog", help="text to search for")
args = parser.parse_args()

model = load_run(args.run)
names, images = some_images(model, args.images, args.count)
image_embeddings = model.encode_image(images)  # [N, D], of length 1
text_embedding = model.encode_text(args.query)  # [1, D]

cosines = (image_embeddings @ text_embedding.T).squeeze(1)
print(f"{len(images)} images; closest to {args.query!r}:")
for score, index in zip(*cosines.topk(min(5, len(images))), strict=True):
    print(f"  {score:.3f}  {names[index]}")
