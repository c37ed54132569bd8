"""The size of the frame in an AV1 stream, as its decoder will find it, before it is asked.

A decoder allocates frames of the size that the stream states, whatever the file around it says, and keeps up to nine of
them. So a stream is taken only where it is one frame of the size of its sequence header. Names of fields and the order
of bits are those of the AV1 specification, sections 5.3 to 5.9.
"""

from __future__ import annotations

SEQUENCE, DELIMITER, FRAME_HEADER, TILES, METADATA, FRAME, PADDING = 1, 2, 3, 4, 5, 6, 15
FEW = 1024  # OBUs; an image has two or three, or one for each tile
HEADER = 512  # bytes: more than any sequence header has, or a frame header up to its size
_SELECT, _SWITCH, _KEY = 2, 3, 0


class SeveralFrames(ValueError):
    """A stream of more than one frame, such as layers for progressive display."""


def frame_size(stream: bytes) -> tuple[int, int]:
    """Width and height in pixels of the only frame of a stream.

    Raises SeveralFrames, and ValueError: no frame, one that is not shown or has another size than the sequence header
    states, OBUs that no image has, or no AV1 stream.
    """
    sequence: _Sequence | None = None
    frames = 0
    for kind, payload in _obus(stream):
        if kind == SEQUENCE:
            if sequence is not None:
                raise ValueError("several sequence headers")
            sequence = _Sequence(_Bits(payload))
        elif kind in (FRAME, FRAME_HEADER):
            if sequence is None:
                raise ValueError("no sequence header")
            if frames:
                raise SeveralFrames
            _check_frame(_Bits(payload), sequence)
            frames += 1
        elif kind not in (DELIMITER, TILES, METADATA, PADDING):
            raise ValueError(f"OBU of type {kind}")
    if sequence is None or not frames:
        raise ValueError("no frame")
    return sequence.width, sequence.height


def _obus(stream: bytes) -> list[tuple[int, bytes]]:
    """Type and payload of each, in order. Raises ValueError."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(stream):
        header = stream[at]
        at += 2 if header & 4 else 1  # with an extension
        size = len(stream) - at
        if header & 2:
            size, at = _leb128(stream, at)
        if header & 0x80 or not 0 <= size <= len(stream) - at or len(found) == FEW:
            raise ValueError("no AV1 stream")
        found.append((header >> 3 & 15, stream[at : at + size]))
        at += size
    return found


def _leb128(stream: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises ValueError."""
    value = 0
    for place, byte in enumerate(stream[at : at + 8]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, at + place + 1
    raise ValueError("no AV1 stream")


class _Bits:
    """The bits of the beginning of a payload, the highest first. Beyond the end a ValueError is raised."""

    def __init__(self, payload: bytes) -> None:
        beginning = payload[:HEADER]
        self._value, self._left = int.from_bytes(beginning, "big"), 8 * len(beginning)

    def __call__(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("an OBU that is cut short")
        return self._value >> self._left & (1 << count) - 1

    def skip_uvlc(self) -> None:
        zeros = 0
        while not self(1):
            zeros += 1
        if zeros < 32:
            self(zeros)


class _Sequence:
    """A sequence header, up to the fields that the beginning of a frame header depends on."""

    def __init__(self, bits: _Bits) -> None:
        bits(3)  # seq_profile
        bits(1)  # still_picture
        self.reduced = bits(1)
        self.equal_picture_interval = self.time_length = 0
        self.has_decoder_model = False
        if self.reduced:
            bits(5)
        else:
            self._read_timing(bits)
        sizes = bits(4) + 1, bits(4) + 1
        self.width, self.height = bits(sizes[0]) + 1, bits(sizes[1]) + 1
        self.id_length = 0
        if not self.reduced and bits(1):
            delta = bits(4) + 2
            self.id_length = bits(3) + delta + 1
        bits(3)  # use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
        self.screen_content = self.integer_mv = _SELECT
        if not self.reduced:
            self._read_tools(bits)

    def _read_timing(self, bits: _Bits) -> None:
        delay_length = 0
        if bits(1):  # timing_info
            bits(32), bits(32)
            self.equal_picture_interval = bits(1)
            if self.equal_picture_interval:
                bits.skip_uvlc()
            self.has_decoder_model = bool(bits(1))
            if self.has_decoder_model:
                delay_length = bits(5) + 1
                bits(32), bits(5)
                self.time_length = bits(5) + 1
        display_delay = bits(1)
        for _ in range(bits(5) + 1):  # operating points
            bits(12)
            if bits(5) > 7:
                bits(1)
            if self.has_decoder_model and bits(1):
                bits(2 * delay_length + 1)
            if display_delay and bits(1):
                bits(4)

    def _read_tools(self, bits: _Bits) -> None:
        bits(4)  # enable_interintra_compound, enable_masked_compound, enable_warped_motion, enable_dual_filter
        if bits(1):  # enable_order_hint
            bits(2)
        self.screen_content = _SELECT if bits(1) else bits(1)
        if self.screen_content:
            self.integer_mv = _SELECT if bits(1) else bits(1)


def _check_frame(bits: _Bits, sequence: _Sequence) -> None:
    """Raises ValueError where a frame is not shown, or where its header states a size of its own."""
    if sequence.reduced:
        return
    if bits(1):
        raise ValueError("a frame that shows another")
    kind, shown = bits(2), bits(1)
    if not shown:
        raise ValueError("a frame that is not shown")
    if sequence.has_decoder_model and not sequence.equal_picture_interval:
        bits(sequence.time_length)
    if kind not in (_KEY, _SWITCH):
        bits(1)  # error_resilient_mode
    bits(1)  # disable_cdf_update
    screen_content = bits(1) if sequence.screen_content == _SELECT else sequence.screen_content
    if screen_content and sequence.integer_mv == _SELECT:
        bits(1)
    if sequence.id_length:
        bits(sequence.id_length)
    if kind == _SWITCH or bits(1):
        raise ValueError("a frame of a size of its own")
