"""The code in the documentation runs: README, pages and docstrings.

The blocks of a page run in order, in one process and namespace (see `run_page.py`), in an empty
folder. A block with ``>>>`` is compared with what it prints; any other one has to end without an
exception. What else a page can say, in a comment right before a block:

- ``<!-- not run: reason -->``: the block is Python that is not run;
- ``<!-- file: name.py -->``: the block is put into a file, which later blocks may import or read;
- ``<!-- output -->``: the block is what the block before it printed, ``...`` stands for anything.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in page.relative_to(ROOT).parts
)
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("aiomas", "pki")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py"
)
NOT_PYTHON = {"console", "diff", "ini", "json", "make", "mermaid", "text", "toml", "yaml"}
TIME_LIMIT = 50
"""Seconds for one page, less than a test may take."""

COMMENT = re.compile(r"<!--\s*(?P<word>not run|file|output)\s*(?::\s*(?P<value>.*?)\s*)?-->")
TROUBLE = re.compile(
    r"^(Traceback \(|Exception ignored|.*was never retrieved|.*\w+Warning: )", re.MULTILINE
)


class Block(NamedTuple):
    kind: str
    line: int
    text: str


class PageError(ValueError):
    """A page has a block of which it is not clear whether it should run."""


def blocks(text: str, first_line: int = 0) -> Iterator[Block]:
    """Yield those blocks of a page that `run_page` needs; refuse what it is not sure about."""
    comment = None
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            comment = COMMENT.fullmatch(token.content.strip())
        elif token.type == "fence" and token.map:
            yield from blocks_of_fence(
                token.info.strip(), token.content, first_line + token.map[0], comment
            )
            comment = None
        elif token.nesting == 0 or token.type == "paragraph_open":
            comment = None


def blocks_of_fence(
    language: str, text: str, line: int, comment: re.Match[str] | None
) -> Iterator[Block]:
    word, value = comment.group("word", "value") if comment else (None, None)
    if word in ("not run", "file") and not value:
        raise PageError(f"line {line}: say more: '<!-- {word}: ... -->'")
    if word == "file":
        yield Block(f"file {value}", line, text)
    elif word == "output":
        yield Block("output", line, text)
    elif language.startswith("{"):
        if re.match(r"\{(code|code-block|sourcecode|doctest|testcode)\}", language):
            raise PageError(f"line {line + 1}: {language} would not be run: use ```python")
        if ">>> " in text and "```" not in text:
            raise PageError(f"line {line + 1}: the code in {language} would not be run")
        yield from blocks(text, line + 1)  # of an admonition, for instance
    elif language == "python":
        if word != "not run":
            yield Block("python", line, text)
    elif language not in NOT_PYTHON:
        allowed = ", ".join(sorted(NOT_PYTHON))
        raise PageError(f"line {line + 1}: {language!r} is neither python nor one of {allowed}")


def run_page(page: Path, folder: Path) -> str:
    """Run a page in *folder*; return what went wrong, with all it printed, or an empty string."""
    found = list(blocks(page.read_text(encoding="utf-8")))
    if not any(block.kind == "python" for block in found):
        return ""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", Path(__file__).with_name("run_page.py"), page],
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(json.dumps(found), timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        return f"not done after {TIME_LIMIT} s\n{printed}"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        os.killpg(process.pid, signal.SIGKILL)
        return f"left a process behind\n{printed}"
    if process.returncode:
        return f"exit code {process.returncode}\n{printed}"
    return printed if TROUBLE.search(printed) else ""


@pytest.fixture(scope="module")
def troubles(request, tmp_path_factory) -> dict[Path, str]:
    """What went wrong in each page that is tested: as many run at once as there are processors."""
    items = [item for item in request.session.items if getattr(item, "function", None) is test_page]
    pages = [item.callspec.params["page"] for item in items]
    folders = [tmp_path_factory.mktemp("page") for _ in pages]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(pages, pool.map(run_page, pages, folders), strict=True))


@pytest.mark.timeout(300)  # the first one waits for all of them
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page, troubles):
    trouble = troubles[page]

    assert not trouble, f"{page.relative_to(ROOT)}: {trouble}"


def test_readme_has_code_that_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert any(block.kind == "python" for block in blocks(text))


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        runner.run(test, out=report.append)

    assert not runner.failures, "".join(report)


def page_of(folder: Path, *parts: str) -> Path:
    page = folder / "page.md"
    page.write_text("# A page\n\n" + "\n\n".join(parts), encoding="utf-8")
    return page


def test_blocks_of_a_page_share_a_main_module(tmp_path):
    page = page_of(
        tmp_path,
        "```python\nimport pickle, sys\nclass A:\n    pass\nprint('a', 1.5)\n```",
        "<!-- output -->\n```text\na ...\n```",
        "- a list:\n\n  ```python\n  >>> pickle.loads(pickle.dumps(A)) is A\n  True\n  ```",
        "<!-- file: other.py -->\n```python\nX = 7\n```",
        "````{note}\n```python\n>>> from other import X\n>>> X\n7\n```\n````",
        "<!-- not run: it would divide by zero -->\n```python\n1/0\n```",
        "```console\n$ rm -r everything\n```",
    )

    assert run_page(page, tmp_path) == ""


@pytest.mark.parametrize(
    ("part", "trouble"),
    [
        ("```python\n1 / 0\n```", r'page.md", line 4, in <module>'),
        ("```python\n>>> 1 + 1\n3\n```", r"Expected:\s+3\s+Got:\s+2"),
        ("```python\nprint(1)\n```\n<!-- output -->\n```text\n2\n```", r"Expected:\s+2\s+Got:\s+1"),
        ("```python\nopen('/dev/null')\n```", "ResourceWarning"),
        (
            "```python\nimport os\nos.system('sleep 9 >/dev/null 2>&1 &')\n```",
            "left a process",
        ),
    ],
)
def test_what_is_wrong_with_a_page_is_found(tmp_path, part, trouble):
    assert re.search(trouble, run_page(page_of(tmp_path, part), tmp_path))


@pytest.mark.parametrize(
    "part",
    [
        "```\nx = 1\n```",
        "```py\nx = 1\n```",
        "```pycon\n>>> 1\n```",
        "```{code-block} python\nx = 1\n```",
        "```{eval-rst}\n>>> 1\n1\n```",
        "<!-- not run: -->\n```python\nx = 1\n```",
    ],
)
def test_code_cannot_escape_in_silence(part):
    with pytest.raises(PageError):
        list(blocks(part))
