"""Pick the adapters among the changed files of a pull request; adapters.yml calls it.

Reads file names from standard input, each ended by NUL as `git diff -z` writes them, and prints `adapters=[…]`, a line
for GITHUB_OUTPUT. A name is an attacker's: only names that the registry could load are taken; no other is repeated.
"""

from __future__ import annotations

import json
import re
import sys

# A leading underscore is shared code, no method; the registry takes hyphens for underscores.
_ADAPTER = re.compile(rb"methods/([a-z][a-z0-9]*(?:_[a-z0-9]+)*)\.py", re.ASCII)
_MOST = 20
_LONGEST = 60


def changed_adapters(names: bytes) -> list[str]:
    """Return the names of the methods whose files are among ``names``, sorted.

    Args:
        names: File names, each ended by NUL.

    Raises:
        ValueError: For more adapters than one pull request should bring.
    """
    found = {match[1].decode() for name in names.split(b"\0") if (match := _ADAPTER.fullmatch(name))}
    adapters = sorted(name.replace("_", "-") for name in found if len(name) <= _LONGEST)
    if len(adapters) > _MOST:
        raise ValueError(f"{len(adapters)} adapters in one pull request; at most {_MOST}, so split it")
    return adapters


if __name__ == "__main__":
    try:
        sys.stdout.write(f"adapters={json.dumps(changed_adapters(sys.stdin.buffer.read()))}\n")
    except ValueError as error:
        sys.exit(f"error: {error}")
