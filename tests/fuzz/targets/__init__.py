"""One parser in each file: what has to hold of it (`check`), and inputs to begin with (`SEEDS`).

`check` raises at anything but the parser's own refusal. Seeds are written by hand; what was found
once and mended stands among them.
"""
