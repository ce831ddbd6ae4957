"""Cases of RFC 6455 and RFC 7692: what a client sends, and what a server has to answer."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from services.gateway.testing.wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, frame
from services.gateway.tests.conformance.servers import MAX_BYTES, OTHER, OURS, TAKEN

TAIL = b"\x00\x00\xff\xff"


@dataclass(frozen=True)
class Case:
    """What a client sends, and every frame that it gets for it.

    Attributes:
        section: of RFC 6455.
        what: in words.
        sent: bytes on the wire.
        got: frames before the close, opcode and payload.
        code: of the server's close frame; None: the client closes with 1000 at the end, and that
            is echoed.
        body: the whole payload of the server's close frame, where more than the code matters.
        kinds: servers that it applies to.
    """

    section: str
    what: str
    sent: bytes
    got: tuple[tuple[int, bytes], ...] = ()
    code: int | None = None
    body: bytes | None = None
    kinds: tuple[str, ...] = (*OURS, OTHER)

    def __str__(self) -> str:
        return f"{self.section} {self.what}"


def lengths() -> list[Case]:
    """5.2: the three forms of a length, at their edges."""
    return [
        Case(
            "5.2",
            f"a {name} message of {size} bytes",
            frame(opcode, b"*" * size),
            ((opcode, b"*" * size),),
        )
        for size in (0, 1, 125, 126, 127, 128, 65_535, 65_536, MAX_BYTES)
        for opcode, name in ((TEXT, "text"), (BINARY, "binary"))
    ]


def fragments() -> list[Case]:
    """5.4: messages in pieces, with control frames in between."""
    letters = b"fragmentation"
    pieces = [letters[at : at + 1] for at in range(len(letters))]
    one_by_one = frame(TEXT, pieces[0], fin=False)
    one_by_one += b"".join(frame(CONT, piece, fin=False) for piece in pieces[1:])
    with_pings = frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(CONT, b"b", fin=False)
    with_pings += frame(PING, b"2") + frame(CONT, b"c")
    return [
        Case(
            "5.4",
            "a text in two pieces",
            frame(TEXT, b"ab", fin=False) + frame(CONT, b"cd"),
            ((TEXT, b"abcd"),),
        ),
        Case(
            "5.4",
            "a binary in two pieces",
            frame(BINARY, b"\xff\0", fin=False) + frame(CONT, b"\xfe"),
            ((BINARY, b"\xff\0\xfe"),),
        ),
        Case("5.4", "a piece a letter", one_by_one + frame(CONT), ((TEXT, letters),)),
        Case(
            "5.4",
            "empty pieces only",
            frame(TEXT, fin=False) + frame(CONT, fin=False) + frame(CONT),
            ((TEXT, b""),),
        ),
        Case(
            "5.4",
            "pings between the pieces are answered before the message",
            with_pings,
            ((PONG, b"1"), (PONG, b"2"), (TEXT, b"abc")),
        ),
        Case(
            "5.4",
            "two messages in pieces, one after the other",
            (frame(TEXT, b"a", fin=False) + frame(CONT, b"b")) * 2,
            ((TEXT, b"ab"), (TEXT, b"ab")),
        ),
        Case("5.4", "a continuation of nothing", frame(CONT, b"a"), code=1002),
        Case("5.4", "an open continuation of nothing", frame(CONT, b"a", fin=False), code=1002),
        Case(
            "5.4",
            "a continuation after a whole message",
            frame(TEXT, b"a") + frame(CONT, b"b"),
            ((TEXT, b"a"),),
            code=1002,
            # By ASGI an answer comes a turn of the loop later, when the connection is over.
            kinds=(TAKEN,),
        ),
        Case(
            "5.4",
            "a new message inside another one",
            frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
            code=1002,
        ),
        Case(
            "5.4",
            "a new binary inside a text",
            frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"),
            code=1002,
        ),
    ]


def control() -> list[Case]:
    """5.5: pings, pongs, and what they may not be."""
    full = b"\xfe" * 125
    many = tuple((PONG, b"%d" % n) for n in range(20))
    return [
        Case("5.5.2", "a ping without payload", frame(PING), ((PONG, b""),)),
        Case("5.5.2", "a ping with any bytes", frame(PING, b"\0\xff"), ((PONG, b"\0\xff"),)),
        Case("5.5.2", "a ping of 125 bytes", frame(PING, full), ((PONG, full),)),
        Case(
            "5.5.2",
            "twenty pings in one write, answered in order",
            b"".join(frame(PING, payload) for _, payload in many),
            many,
        ),
        Case("5.5.3", "a pong nobody asked for", frame(PONG, b"x") + frame(PING), ((PONG, b""),)),
        Case("5.5", "a ping of 126 bytes", frame(PING, b"x" * 126), code=1002),
        Case("5.5", "a pong of 126 bytes", frame(PONG, b"x" * 126), code=1002),
        Case("5.5", "a ping in pieces", frame(PING, b"x", fin=False), code=1002),
        Case("5.5", "a pong in pieces", frame(PONG, b"x", fin=False), code=1002),
        Case(
            "5.5",
            "a close in pieces",
            frame(CLOSE, struct.pack("!H", 1000), fin=False),
            code=1002,
        ),
    ]


def closing() -> list[Case]:
    """5.5.1 and 7.4: who closes says why, and hears it back."""
    valid = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)
    registered = (3000, 3999, 4000, 4999)
    invalid = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    longest = struct.pack("!H", 1000) + b"r" * 123
    snowman = struct.pack("!H", 1000) + "☃".encode()
    return [
        *(
            Case("7.4", f"close {code} is echoed", close_frame(code), code=code)
            for code in valid + registered
        ),
        *(
            Case("7.4", f"close {code} is no code to send", close_frame(code), code=1002)
            for code in invalid
        ),
        Case("5.5.1", "a close without a code", frame(CLOSE), body=b"", code=1005),
        Case("5.5.1", "a close of one byte", frame(CLOSE, b"\x03"), code=1002),
        Case("5.5.1", "a reason", frame(CLOSE, snowman), code=1000, body=snowman),
        Case("5.5.1", "the longest reason", frame(CLOSE, longest), code=1000, body=longest),
        Case("5.5", "a reason that is too long", frame(CLOSE, longest + b"r"), code=1002),
        Case("8.1", "a reason that is no UTF-8", close_frame(1000, b"\xce\xba\xed\xa0"), code=1007),
        Case(
            "5.5.1",
            "nothing is answered after a close",
            close_frame(1000) + frame(TEXT, b"late") + frame(PING, b"late") + close_frame(1001),
            code=1000,
        ),
        Case(
            "5.5.1",
            "what came before a close is answered first",
            frame(PING, b"1") + close_frame(1001),
            ((PONG, b"1"),),
            code=1001,
        ),
        Case(
            "5.4",
            "a close between the pieces of a message",
            frame(TEXT, b"a", fin=False) + close_frame(1000),
            code=1000,
            # websockets takes the message that never ends for an error (1002).
            kinds=OURS,
        ),
    ]


# Hello-µ@ßöäüàá-UTF-8!! and the edges of every length of a code point.
FINE = (
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\0\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff",
    "\ud7ff\ue000\ufffd",
)
BROKEN = {
    "a stray continuation byte": b"a\x80",
    "an impossible byte": b"a\xff",
    "an overlong slash": b"\xc0\xaf",
    "an overlong of three": b"\xe0\x80\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "cut off at its end": "κόσμε".encode()[:-1],
    "in the middle of good text": "κόσμε".encode() + b"\xed\xa0\x80" + b"edited",
}


def utf8() -> list[Case]:
    """8.1: text is UTF-8, wherever it is cut."""
    found: list[Case] = []
    for text in FINE:
        data = text.encode(errors="surrogatepass")
        in_bytes = [data[at : at + 1] for at in range(len(data))]
        pieces = frame(TEXT, in_bytes[0], fin=False)
        pieces += b"".join(frame(CONT, piece, fin=False) for piece in in_bytes[1:]) + frame(CONT)
        found += [
            Case("8.1", f"{text!a} whole", frame(TEXT, data), ((TEXT, data),)),
            Case("8.1", f"{text!a} a byte a piece", pieces, ((TEXT, data),)),
        ]
    for name, data in BROKEN.items():
        half = len(data) // 2
        pieces = frame(TEXT, data[:half], fin=False) + frame(CONT, data[half:])
        found += [
            Case("8.1", f"{name}, whole", frame(TEXT, data), code=1007),
            Case("8.1", f"{name}, in two pieces", pieces, code=1007),
            Case("5.6", f"{name}, but binary", frame(BINARY, data), ((BINARY, data),)),
        ]
    found.append(
        Case(
            "8.1",
            "a broken piece ends it before the message is whole",
            frame(TEXT, b"a\xff", fin=False),
            code=1007,
            # uvicorn looks at whole messages.
            kinds=OURS,
        )
    )
    return found


def reserved() -> list[Case]:
    """5.1 and 5.2: masks, reserved bits, reserved opcodes."""
    return [
        Case("5.1", "an unmasked text", frame(TEXT, b"a", masked=False), code=1002),
        Case("5.1", "an unmasked ping", frame(PING, masked=False), code=1002),
        Case("5.1", "an unmasked close", frame(CLOSE, b"\x03\xe8", masked=False), code=1002),
        Case("5.3", "a mask of zeros", frame(TEXT, b"abc", mask=bytes(4)), ((TEXT, b"abc"),)),
        *(
            Case(
                "5.2", f"reserved bits {rsv:03b} on {name}", frame(opcode, b"a", rsv=rsv), code=1002
            )
            for rsv in (1, 2, 4, 7)
            for opcode, name in ((TEXT, "text"), (PING, "ping"), (CLOSE, "close"))
        ),
        *(
            Case("5.2", f"reserved opcode {opcode}", frame(opcode, b"a"), code=1002)
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        ),
    ]


def too_big() -> list[Case]:
    """7.4.1 and 10.4: what is larger than this endpoint takes."""
    piece = b"x" * (MAX_BYTES // 2 + 1)
    return [
        Case("10.4", "only announced", frame(TEXT, b"", size=MAX_BYTES + 1), code=1009),
        Case("10.4", "announced as 2**62", frame(BINARY, b"", size=2**62), code=1009),
        Case(
            "10.4",
            "too much in all pieces together",
            frame(TEXT, piece, fin=False) + frame(CONT, piece, fin=False),
            code=1009,
        ),
        Case(
            "10.4",
            "after whole messages",
            frame(PING, b"a") + frame(TEXT, b"", size=MAX_BYTES + 1),
            ((PONG, b"a"),),
            code=1009,
        ),
    ]


CASES = [
    *lengths(),
    *fragments(),
    *control(),
    *closing(),
    *utf8(),
    *reserved(),
    *too_big(),
]


def deflated(data: bytes) -> bytes:
    """RFC 7692, 7.2.1."""
    compress = zlib.compressobj(wbits=-12)
    return (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def compressed() -> list[Case]:
    """RFC 7692: messages that are compressed, each on its own."""
    text = ("compressed µ " * 50).encode()
    body = deflated(text)
    third = len(body) // 3
    pieces = frame(TEXT, body[:third], fin=False, rsv=4) + frame(PING, b"p")
    pieces += frame(CONT, body[third:])
    return [
        Case("7692-6.2", "a whole message", frame(TEXT, body, rsv=4), ((TEXT, text),)),
        Case(
            "7692-6.2",
            "the same again, and a plain one",
            frame(TEXT, body, rsv=4) * 2 + frame(TEXT, b"plain"),
            ((TEXT, text), (TEXT, text), (TEXT, b"plain")),
        ),
        Case("7692-6.1", "in pieces", pieces, ((PONG, b"p"), (TEXT, text))),
        Case("7692-7.2.3.6", "an empty one", frame(TEXT, b"\0", rsv=4), ((TEXT, b""),)),
        Case("7692-6.2", "binary", frame(BINARY, deflated(b"\xff"), rsv=4), ((BINARY, b"\xff"),)),
        Case("7692-6.2", "not deflated at all", frame(TEXT, b"\xff" * 20, rsv=4), code=1007),
        Case("8.1", "no UTF-8 when inflated", frame(TEXT, deflated(b"\xff"), rsv=4), code=1007),
        Case(
            "10.4",
            "a bomb",
            frame(BINARY, deflated(bytes(MAX_BYTES + 1)), rsv=4),
            code=1009,
        ),
        Case("7692-6", "RSV1 on a ping", frame(PING, rsv=4), code=1002),
        Case(
            "7692-6.1",
            "RSV1 on a continuation",
            frame(TEXT, body, fin=False, rsv=4) + frame(CONT, rsv=4),
            code=1002,
        ),
        Case("7692-6", "other reserved bits", frame(TEXT, body, rsv=6), code=1002),
    ]
