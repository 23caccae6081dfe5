"""Numbers and byte strings one after the other; a reader checks each length before it takes memory."""

from __future__ import annotations

from amgt_fed.errors import WireError


class Writer:
    """Append fields; each method returns the writer."""

    def __init__(self) -> None:
        self._out = bytearray()

    def number(self, value: int) -> Writer:
        """A whole number >= 0, seven bits a byte."""
        while value > 0x7F:
            self._out.append(value & 0x7F | 0x80)
            value >>= 7
        self._out.append(value)
        return self

    def blob(self, data: bytes) -> Writer:
        """Bytes of any length."""
        self.number(len(data))
        self._out += data
        return self

    def fixed(self, data: bytes) -> Writer:
        """Bytes whose length the reader knows."""
        self._out += data
        return self

    def text(self, text: str) -> Writer:
        """A string."""
        return self.blob(text.encode())

    def bytes(self) -> bytes:
        """Everything so far."""
        return bytes(self._out)


class Reader:
    """Take the fields in the order they were written.

    Raises:
        WireError: from any method: the data end early, or say what is impossible.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, limit: int = 1 << 62) -> int:
        """A whole number of at most `limit`."""
        value = shift = 0
        while True:
            if self._at >= len(self._data) or shift > 63:
                raise WireError(f"message ends or overflows inside the number at byte {self._at}")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if value > limit:
            raise WireError(f"number {value} before byte {self._at} exceeds {limit}")
        return value

    def fixed(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        if self._at + size > len(self._data):
            raise WireError(f"message ends at byte {len(self._data)}; {size} bytes were to follow byte {self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def blob(self) -> bytes:
        """Bytes of a stated length."""
        return self.fixed(self.number())

    def text(self) -> str:
        """A string."""
        try:
            return self.blob().decode()
        except UnicodeDecodeError as error:
            raise WireError(f"text before byte {self._at} is not UTF-8: {error}") from error

    def rest(self) -> bytes:
        """What is left."""
        return self.fixed(len(self._data) - self._at)

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise WireError(f"{len(self._data) - self._at} bytes follow where the message should end")
