"""Checks the English of the project: ``python tests/check_words.py [FILE ...]``, all tracked files by default.

Comments, docstrings, messages and documents use the field's terms and American spelling. This finds the words and the
docstring openings that readers stumbled over. Run by `make lint`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

SUFFIXES = (".py", ".md", ".yaml", ".yml", ".cpp", ".h", ".cu", ".cuh", ".toml", ".txt", ".cff")
WORDS = {
    r"alone": "only",
    r"anew": "again",
    r"beside": "next to, besides",
    r"nobody|whom|somebody": "say who",
    r"pictures?": "image, frame, figure",
    r"told|tells|tell of|is told": "report, given",
    r"wants|wanted": "needs, expected, requested",
    r"(?<!there )is no (?!longer|more|less|other|better|worse|slower|faster|larger|smaller)\w+": "is not a",
    r"(?<!there )are no (?!longer|more|less|other|better|worse|slower|faster|larger|smaller)\w+": "are not",
    r"colours?|coloured|grey|centres?|centred|behaviours?|neighbours?|neighbouring": "American",
    r"normalis\w+|optimis(?!ti|m\b)\w+": "American",
    r"initialis\w+|recognis\w+|rasteris\w+|vectoris\w+|parallelis\w+|minimis\w+|maximis\w+|organis\w+": "American",
    r"licence|labelling|modelling|learnt|catalogue": "American",
}
PATTERNS = {
    re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])", re.IGNORECASE): remedy for pattern, remedy in WORDS.items()
}
OPENING = re.compile(r"(?:Of|What|Who|Whose|Whether|Where|Which) ")
EXEMPT = ("tests/check_words.py", "benchmarks/results/archive/", "LICENSE")


def findings_in(file: Path) -> list[str]:
    """Every finding in one file, as ``path:line: text``."""
    text = file.read_text(encoding="utf-8")
    lines = enumerate(text.splitlines(), 1)
    findings = [
        f'{file}:{i}: "{match.group()}" ({remedy})'
        for i, line in lines
        for pattern, remedy in PATTERNS.items()
        if (match := pattern.search(line))
    ]
    if file.suffix == ".py":
        findings += [
            f'{file}:{node.lineno}: a docstring begins with "{opening.group()}"; begin with a noun or an imperative'
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            if (opening := OPENING.match(node.value.value))
        ]
    return findings


def main(arguments: list[str]) -> int:
    """Print all findings; returns 1 if there are any."""
    names = arguments or subprocess.check_output(["git", "ls-files"], text=True).splitlines()
    files = [Path(name) for name in names if name.endswith(SUFFIXES) and not name.startswith(EXEMPT)]
    findings = [finding for file in files for finding in findings_in(file)]
    print(*findings, sep="\n", end="\n" if findings else "")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
