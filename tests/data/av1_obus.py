"""Headers of AV1 streams, written bit by bit as sections 5.3 to 5.9 of the specification say."""

from __future__ import annotations

from hypothesis import strategies as st


class Bits:
    """Writes the bits of an OBU's payload."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, value: int, count: int) -> int:
        assert 0 <= value < 1 << count
        self.text += f"{value:0{count}b}" if count else ""
        return value

    def bytes(self) -> bytes:
        """With the one and the zeros that end a payload."""
        padded = self.text + "1" + "0" * (-(len(self.text) + 1) % 8)
        return int(padded, 2).to_bytes(len(padded) // 8, "big")


def obu(kind: int, payload: bytes, *, extension: bool = False) -> bytes:
    """With its header and size."""
    size, left = b"", len(payload)
    while True:
        size += bytes([left & 0x7F | (0x80 if left > 0x7F else 0)])
        left >>= 7
        if not left:
            return bytes([kind << 3 | (4 if extension else 0) | 2]) + (b"\x08" if extension else b"") + size + payload


class _Any:
    """Writes bits of any value that hypothesis draws."""

    def __init__(self, bits: Bits, draw) -> None:
        self.bits, self.draw = bits, draw

    def __call__(self, count: int, least: int = 0) -> int:
        return self.bits(self.draw(st.integers(least, (1 << count) - 1)), count)


def _timing(any_of: _Any) -> tuple[int, int]:
    """The part on timing and operating points. Returns the length of a frame's presentation time (0: none), and
    whether pictures come at equal intervals."""
    equal = model = length = delay = 0
    if any_of(1):
        any_of(32)
        any_of(32)
        if equal := any_of(1):
            zeros = any_of.draw(st.integers(0, 31))
            any_of.bits(0, zeros)
            any_of.bits(1, 1)
            any_of(zeros)
        if model := any_of(1):
            delay = any_of(5) + 1
            any_of(32)
            any_of(5)
            length = any_of(5) + 1
    display = any_of(1)
    for _ in range(any_of(5) + 1):
        any_of(12)
        if any_of(5) > 7:
            any_of(1)
        if model and any_of(1):
            any_of(2 * delay)
            any_of(1)
        if display and any_of(1):
            any_of(4)
    return length, equal


def _size(any_of: _Any) -> tuple[int, int]:
    sides = any_of.draw(st.tuples(st.integers(1, 65_536), st.integers(1, 65_536)))
    lengths = [any_of.draw(st.integers(max(1, (side - 1).bit_length()), 16)) for side in sides]
    for length in lengths:
        any_of.bits(length - 1, 4)
    for side, length in zip(sides, lengths, strict=True):
        any_of.bits(side - 1, length)
    return sides


def _tools(any_of: _Any) -> tuple[int, int]:
    """What is allowed of screen content and whole motion vectors; 2: a frame says it."""
    any_of(4)
    if any_of(1):
        any_of(2)
    screen = 2 if any_of(1) else any_of(1)
    integer = (2 if any_of(1) else any_of(1)) if screen else 2
    return screen, integer


@st.composite
def sequences(draw) -> tuple[bytes, str, tuple[int, int]]:
    """A sequence header with any of its fields; the bits of a frame header that belongs to it, up to the one that says
    whether the frame has a size of its own ("": there is none); width and height."""
    any_of = _Any(Bits(), draw)
    any_of(3)
    any_of(1)
    reduced = any_of(1)
    length = equal = ids = 0
    if reduced:
        any_of(5)
    else:
        length, equal = _timing(any_of)
    size = _size(any_of)
    if not reduced and any_of(1):
        delta = any_of(4) + 2
        ids = any_of(3) + 1 + delta
    any_of(3)
    if reduced:
        return any_of.bits.bytes(), "", size
    screen, integer = _tools(any_of)
    frame = _Any(Bits(), draw)
    frame.bits(0, 1)
    kind = frame.bits(draw(st.sampled_from([0, 2])), 2)  # key, or intra only
    frame.bits(1, 1)
    if length and not equal:
        frame(length)
    if kind:
        frame(1)
    frame(1)
    if (frame(1) if screen == 2 else screen) and integer == 2:
        frame(1)
    frame(ids)
    return any_of.bits.bytes(), frame.bits.text, size
