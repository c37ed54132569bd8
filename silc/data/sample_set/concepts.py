"""Artists, default concepts and their short names, and splits of the sample set.

Default concepts are concrete things that six sets all draw (EmojiOne, both Noto, both Fluent, Twemoji) and that a
person can distinguish at 64 pixels; a concept with two emoji (the face of a dog and a whole dog) is included once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from silc.config.data import Artist

ARTISTS: tuple[str, ...] = get_args(Artist)
# Never trained on, so that what is chosen with another artist unseen can be reported on this one.
RESERVED = "emojione"
# Drawings of one brand resemble each other and belong to the same side of the split.
BRANDS = (("fluent-emoji", "fluent-emoji-flat"), ("noto", "noto-v1"))

SPLITS = ("train", "unseen_artist", "unseen_concept", "both", "new_scenes")

# Emoji label, and the name used in captions where the two differ: "label=name".
_TRAIN = """
    dog face=dog, cat face=cat, lion, unicorn, cow face=cow, pig face=pig, monkey face=monkey, mouse face=mouse,
    rabbit face=rabbit, elephant, goat, koala, panda, bear, rooster, hatching chick, penguin, owl, duck, frog,
    crocodile, turtle, snake, spouting whale=whale, dolphin, tropical fish, blowfish, octopus, crab, shrimp, snail,
    butterfly, ant, honeybee=bee, lady beetle=ladybug, spider, scorpion,
    rose, sunflower, tulip, bouquet, cactus, palm tree, evergreen tree=pine tree, four leaf clover=clover,
    maple leaf, mushroom,
    grapes, watermelon, lemon, banana, pineapple, red apple, pear, cherries, strawberry, avocado,
    carrot, ear of corn=corn, eggplant, croissant, bread, pancakes, hamburger, french fries, pizza, hot dog, egg,
    popcorn, sushi, doughnut, cookie, birthday cake, lollipop, honey pot, wine glass, beer mug, cocktail glass,
    house, castle, volcano, tent, ferris wheel, fountain,
    bus, ambulance, fire engine, tractor, bicycle, motorcycle, racing car, sailboat, airplane, helicopter, rocket,
    anchor, umbrella, snowman, rainbow, fire, cloud, crescent moon,
    balloon, Christmas tree, jack-o-lantern=pumpkin, trophy, soccer ball, basketball, bowling, artist palette=palette,
    sunglasses, jeans, dress, crown, top hat, bell, guitar, trumpet, violin, saxophone,
    camera, television, light bulb, books, key, hammer, scissors, bomb
"""
_HELD_OUT = """
    tiger face=tiger, horse face=horse, fox, chicken, shark, bat, hibiscus,
    peach, tomato, taco, ice cream, candy, school, train, taxi, ship, comet, american football=football,
    necktie, high-heeled shoe, drum, telephone, telescope, door
"""

_PLURAL = {
    "books", "bread", "candy", "cherries", "corn", "fire", "french fries", "grapes", "jeans", "pancakes",
    "popcorn", "scissors", "sunglasses", "sushi", "bowling",
}  # fmt: skip


def parse_names(table: str) -> dict[str, str]:
    """Emoji label -> name in captions, in the order of the table."""
    entries = (entry.strip().partition("=") for entry in table.replace("\n", " ").split(","))
    return {label.strip(): (name or label).strip() for label, _, name in entries}


DEFAULT_TRAIN = parse_names(_TRAIN)
DEFAULT_HELD_OUT = parse_names(_HELD_OUT)


def split_artists(unseen: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, unseen): the artists of training scenes and those of test scenes. RESERVED is never trained on.

    Raises ValueError for a name that is not an artist's, for no name, for a brand cut in two, and where nobody is left
    to train on.
    """
    for name in unseen:
        if name not in ARTISTS:
            raise ValueError(f"sample artist {name!r}: choose among {', '.join(ARTISTS)}")
    if not unseen:
        raise ValueError("no unseen artist is given: the sample set is tested on drawings that training never saw")
    for brand in BRANDS:
        if 0 < len(set(brand) & set(unseen)) < len(brand):
            raise ValueError(
                f"unseen artists {', '.join(unseen)}: {' and '.join(brand)} resemble each other; name both, or neither"
            )
    train = tuple(name for name in ARTISTS if name not in unseen and name != RESERVED)
    if not train:
        raise ValueError(f"unseen artists {', '.join(unseen)}: nobody is left to train on; name fewer")
    return train, tuple(name for name in ARTISTS if name in unseen)


def not_trained_on(unseen: Sequence[str]) -> list[str]:
    """The artists that a training left out which was told to leave out `unseen`."""
    return [name for name in ARTISTS if name in unseen or name == RESERVED]


def with_article(name: str) -> str:
    """'an owl', 'a dog', 'grapes': the noun phrase of a concept's name."""
    if name in _PLURAL:
        return name
    return f"{'an' if name[0].lower() in 'aeiou' and not name.startswith('uni') else 'a'} {name}"


def concept_names(concepts: str, labels: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(train, held-out): emoji label -> name in captions.

    Args:
        concepts: "default", or "all": every label that is not held out. A label that contains the name of a held-out
            concept as a word ("tiger", beside the "tiger face" held out) belongs to neither side.
        labels: all labels of the set, in the order that numbers them.

    Raises:
        ValueError: another value of `concepts`.
    """
    if concepts == "default":
        return DEFAULT_TRAIN, DEFAULT_HELD_OUT
    if concepts != "all":
        raise ValueError(f'sample concepts "{concepts}": choose "default" or "all"')
    held = [f" {name.lower()} " for name in (*DEFAULT_HELD_OUT.values(), *DEFAULT_HELD_OUT)]
    short = {label: DEFAULT_TRAIN[label] for label in DEFAULT_TRAIN}
    taken = set(short.values())
    rest = [label for label in labels if label not in short and label not in taken]
    kept = {label: label for label in rest if not any(word in f" {label.lower()} " for word in held)}
    return short | kept, DEFAULT_HELD_OUT
