"""Train the sample preset in this process, then use the model.

python examples/train_in_python.py --steps 200 --out runs/in_python

On several GPUs train with `silc train`, which takes the same keys as section.key=value.
"""

from __future__ import annotations

import argparse

import silc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--scenes", type=int, default=16_000, help="scenes of the sample set to train on")
parser.add_argument("--out", default="runs/in_python", help="run folder to make")


def main() -> None:
    args = parser.parse_args()
    run = silc.train(
        "sample",
        train={"steps": args.steps, "out": args.out},
        optim={"warmup_steps": args.steps // 10},
        data={"sample_scenes": args.scenes},
        eval={"after": ["zeroshot_classification"]},
    )
    model = silc.load(run)
    print(model)
    print(f"cosine of two texts: {(model.encode_text('a dog') @ model.encode_text('a puppy').T).item():.3f}")


if __name__ == "__main__":  # the processes that read data import this file
    main()
