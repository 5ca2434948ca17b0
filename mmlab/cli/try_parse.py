"""``python -m mmlab.cli.try_parse``: whether commands of ``mmlab fit`` are right, for a sweep that is to run them."""

from __future__ import annotations

import json
import sys

from mmlab.cli.parser import build_parser, parse
from mmlab.errors import UserError


def main() -> int:
    """Parses the commands on standard input, lists of words in JSON; says what is wrong with the first wrong one.

    Returns:
        The exit code: 0, or 2 if one is wrong.
    """
    for words in json.load(sys.stdin):
        try:
            parse(build_parser("fit"), words)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
