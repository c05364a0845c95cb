"""Run the Python blocks of one page of documentation, in order and in one namespace, as `__main__`.

Started by `test_docs_run.py`, with the page's path as the argument and the blocks as JSON on stdin:
a list of `[kind, line, text]`, where *line* counts from 0. The kinds:

- ``python``: is executed; if it has ``>>>`` in it, what it prints is compared with what it says;
- ``output``: is compared with what the block before it printed;
- ``file <name>``: is written to the working directory.

A traceback shows lines of the page.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def main() -> None:
    page = sys.argv[1]
    blocks = json.load(sys.stdin)
    sys.path[0] = str(Path.cwd())
    # The page is the main module: its classes are found where pickle and others look for them.
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    printed = ""
    for kind, line, text in blocks:
        if kind == "python" and ">>> " in text:
            run_session(page, line, text, module.__dict__)
        elif kind == "python":
            printed = run_program(page, line, text, module.__dict__)
        elif kind == "output":
            compare(page, line, text, printed)
        else:
            Path(kind.removeprefix("file ")).write_text(text, encoding="utf-8")


def run_session(page: str, line: int, text: str, namespace: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(text, {}, Path(page).name, page, line + 1)
    test.globs = namespace
    if doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False).failed:
        sys.exit(1)


def run_program(page: str, line: int, text: str, namespace: dict[str, Any]) -> str:
    code = compile("\n" * (line + 1) + text, page, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        exec(code, namespace)
    sys.stdout.write(stdout.getvalue())
    return stdout.getvalue()


def compare(page: str, line: int, want: str, got: str) -> None:
    checker = doctest.OutputChecker()
    if not checker.check_output(want, got, FLAGS):
        example = doctest.Example("", want)
        sys.exit(f"{page}, line {line + 1}:\n{checker.output_difference(example, got, FLAGS)}")


if __name__ == "__main__":
    main()
