"""`FilePatternMatcher`: which files a pattern of a `.dockerignore` means."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path


class _AbstractPatternMatcher:
    """Base: `matcher(path)` says whether the path matches, `~matcher` the opposite."""

    def __call__(self, path: Path) -> bool:
        raise NotImplementedError

    def __invert__(self) -> _AbstractPatternMatcher:
        return _Inverted(self)

    def can_prune_directories(self) -> bool:
        """Whether a folder that matches can be skipped without a look inside."""
        return False


class _Inverted(_AbstractPatternMatcher):
    def __init__(self, inner: _AbstractPatternMatcher) -> None:
        self._inner = inner

    def __call__(self, path: Path) -> bool:
        return not self._inner(path)


class FilePatternMatcher(_AbstractPatternMatcher):
    """Patterns as in a `.dockerignore`: `*`, `**`, `?`, `[...]`; a leading `!` takes back what matched before.

    A pattern also matches everything below what it matches.

    Example:
        >>> matcher = FilePatternMatcher("**/*.py", "!setup.py")
        >>> matcher(Path("src/a.py")), matcher(Path("setup.py"))
        (True, False)
    """

    def __init__(self, *pattern: str) -> None:
        self._given: Sequence[str] | None = pattern
        self._file: Path | None = None

    @classmethod
    def from_file(cls, file_path: str | Path) -> FilePatternMatcher:
        """Patterns of a file, which is read when they are first needed."""
        matcher = cls()
        matcher._given = None
        matcher._file = Path(file_path)
        return matcher

    @functools.cached_property
    def patterns(self) -> list[tuple[bool, re.Pattern[str]]]:
        """(takes back, expression) of every pattern."""
        if self._given is None:
            assert self._file is not None
            lines: Sequence[str] = self._file.read_text("utf8").splitlines()
        else:
            lines = self._given
        found = []
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            negated = text.startswith("!")
            text = text[1:].strip() if negated else text
            text = text.strip("/") or "."
            found.append((negated, re.compile(_expression(text.removeprefix("./")))))
        return found

    def can_prune_directories(self) -> bool:
        """A folder that matches can be skipped unless a later pattern may take something in it back."""
        return not any(negated for negated, _ in self.patterns)

    def __call__(self, file_path: Path) -> bool:
        text = file_path.as_posix().lstrip("/")
        matched = False
        for negated, expression in self.patterns:
            if negated == matched and expression.fullmatch(text):
                matched = not negated
        return matched

    def __repr__(self) -> str:
        return f"FilePatternMatcher({str(self._file) if self._given is None else ', '.join(map(repr, self._given))})"


def _expression(pattern: str) -> str:
    """A regular expression for one pattern, matching what is below it too."""
    out = ""
    i = 0
    while i < len(pattern):
        char = pattern[i]
        if pattern.startswith("**/", i):
            out += "(?:.*/)?"
            i += 3
            continue
        if pattern.startswith("**", i):
            out += ".*"
            i += 2
            continue
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[" and (end := pattern.find("]", i + 2)) != -1:
            body = pattern[i + 1 : end].replace("\\", "\\\\")
            out += f"[{'^' + body[1:] if body[0] in '!^' else body}]"
            i = end
        elif char == "\\" and i + 1 < len(pattern):
            i += 1
            out += re.escape(pattern[i])
        else:
            out += re.escape(char)
        i += 1
    return out + "(?:/.*)?"


NON_PYTHON_FILES: Callable[[Path], bool] = ~FilePatternMatcher("**/*.py")
