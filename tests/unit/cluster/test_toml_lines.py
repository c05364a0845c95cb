"""Keys and elements of TOML are found in the line in which they are, whatever is around them."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster.toml_lines import lines_of


def leaves(value, where=()):
    """Yield all values that are no tables and no arrays, with the way to them."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*where, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from leaves(below, (*where, index))
    else:
        yield where, value


def everything(value, where=()):
    """Yield the ways to all values."""
    if where:
        yield where
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in pairs:
            yield from everything(below, (*where, key))


def check(text):
    """Check a document in which each value is, or begins with, the line where it should be."""
    document = tomllib.loads(text)
    lines = lines_of(text)
    assert set(lines) == set(everything(document))
    for where, value in leaves(document):
        assert lines[where] == int(str(value).split()[0]), (where, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "a = 1",
        "\n\na = 3 # [b]\n",
        "\r\na = 2\r\n[b]\r\nc = 4\r\n",
        'a = """1 x\n[b]\nc = 7\n"""\nd = 5',
        "a = '''1 x\n[b]\n\\'''\nd = 4",
        'a = """1 ""\n"""""\nb = 3',
        "a = '''1 ''\n'''''\nb = 3",
        'a = "1 \\" # ]"\nb = 2',
        'a = """1 \\""" \\\\"""\nb = 2',
        "a = '1 \\'\nb = 2",
        'a = [1, # "\n  2, [2,\n 3],\n\n  {b = 5, c = "5 }"},\n]\nd = 7',
        "a = [ ]\nb = {}\nc = [[], {}, 3]",
        "a.b.c = 1\na.d = 2\n[e.f]\n[e]\ng.h = 5",
        "[[a]]\nb = 2\n[[a]]\nb = 4\n[a.c]\nd = 6\n[[a.e]]\n[[a.e]]\nf = 9\n[[a]]\nb = 11",
        '"a.b" = 1\n\'c"d\' = 2\n"e\\nf" . g = 3\n["]"."="]\nh = 5',
        "\ta\t=\t1\n  [ b . c ]  # d\n d = 3",
        "a = [\n2\n,\n4\n,]",
    ],
)
def test_lines_are_those_of_the_keys(text):
    check(text)


def test_a_date_with_a_space_is_one_value():
    assert lines_of("a = [1979-05-27 07:32:00,\n1e3]\nb = true") == {
        ("a",): 1,
        ("a", 0): 1,
        ("a", 1): 2,
        ("b",): 3,
    }


def test_a_table_is_where_its_header_is():
    assert lines_of("\n[a]\n\n[[b]]\n[b.c]\n[[b]]") == {
        ("a",): 2,
        ("b",): 4,
        ("b", 0): 4,
        ("b", 0, "c"): 5,
        ("b", 1): 6,
    }


NOISE = st.sampled_from(["", "\n", "\n\n", " # [x]\n", '\n#"""\n', " # '''\n\n"])


class Writer:
    """Writes documents in which each value begins with its line."""

    def __init__(self, draw):
        self.draw = draw
        self.text = ""
        self.keys = 0

    def choose(self, *what):
        return self.draw(st.sampled_from(what))

    def noise(self):
        self.text += self.draw(NOISE)

    def key(self):
        self.keys += 1
        dot = self.choose("", "", ".", " . ")
        shape = self.choose("k{}", "'k {}'", '"k.\\"={}]"', "{}", '"\\u00e9{}#"')
        return shape.format(self.keys) + (f"{dot}x" if dot else "")

    def pair(self, depth):
        self.text += f"{self.key()}{self.choose('=', ' = ')}"
        self.value(depth)

    def value(self, depth, *, inline=False):
        line = self.text.count("\n") + 1
        kinds = ["number", "string", "literal"]
        kinds += [] if inline else ["long", "long literal"]
        kinds += ["array", "table"] if depth else []
        match self.choose(*kinds):
            case "number":
                self.text += str(line)
            case "string":
                self.text += f'"{line} ' + self.choose("", "#", '\\"', "[[a]]", "}", "'''") + '"'
            case "literal":
                self.text += f"'{line} " + self.choose("", "\\", '"""', "]", "a = 1") + "'"
            case "long":
                inside = self.choose("\n", '""\n[a]', "\\\n  b", '\\""" ', "'''\n# x = 3\n")
                self.text += f'"""{line} {inside}' + self.choose("", '"', '""') + '"""'
            case "long literal":
                inside = self.choose("\n", "''\n[a]", "\\\n  b", '"""\n# x = 3\n')
                self.text += f"'''{line} {inside}" + self.choose("", "'", "''") + "'''"
            case "array":
                self.array(depth - 1, inline=inline)
            case "table":
                self.table(depth - 1)

    def array(self, depth, *, inline):
        self.text += "["
        for _ in range(self.draw(st.integers(0, 3))):
            if not inline:
                self.noise()
            self.value(depth, inline=inline)
            self.text += self.choose(",", " , ")
        self.text += "]"

    def table(self, depth):
        self.text += "{"
        for number in range(self.draw(st.integers(0, 3))):
            self.text += ", " if number else " "
            self.text += f"{self.key()} = "
            self.value(depth, inline=True)
        self.text += "}"

    def document(self):
        for number in range(self.draw(st.integers(1, 5))):
            self.noise()
            if number or self.draw(st.booleans()):
                self.text += "\n" + self.choose(
                    f"[t{number}]", "[[a]]", "[[ a.b ]]", f'["u {number}".v]', f"[w.w{number}]"
                )
                self.text += self.draw(st.sampled_from(["\n", " # ]\n"]))
            for _ in range(self.draw(st.integers(0, 3))):
                self.noise()
                self.text += "\n"
                self.pair(2)
            self.text += "\n"
        return self.text


@given(st.data())
def test_lines_are_found_in_any_document(data):
    text = Writer(data.draw).document()
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # [[a.b]] before [[a]]
        assert "[[ a.b ]]" in text
        return
    check(text)
