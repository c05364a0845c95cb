"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import pydoc
from importlib.metadata import version as version_of
from typing import Any

project = "aiomas"
author = "the aiomas contributors"
project_copyright = "2026, the aiomas contributors"
release = version_of("aiomas")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

# Nothing here needs the network: no inventories of other projects, no fonts, no badges.
html_theme = "furo"
html_title = f"aiomas {release}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

default_role = "py:obj"  # `name` in a docstring links to what has that name, if anything has
# A reference that leads nowhere is an error, but for those to other projects, whose inventories
# would need the network, and to what is private.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(_?asyncio|abc|arrow|collections|datetime|decimal|enum|json|np|os)(\..*)?"),
    ("py:.*", r"(pathlib|random|socket|ssl|sys|typing|uuid)(\..*)?"),
    ("py:.*", r"(cryptography|ipaddress)\..*"),
    ("py:.*", r"Arrow|(loop|protocol)\..*"),  # annotations that are not imported at run time
    ("py:.*", r"aiomas\..*\b[A-Z]"),  # type variables
    ("py:.*", r"aiomas\.tls\._Files"),  # the names that a tuple of SSLCerts always has
    ("py:.*", r"Dispatcher|aiomas\.rpc\.(Objects|Sender)"),
    ("py:.*", r"(aiomas\._\w+\.)?(CallOptions|Cancellable|Connected|Handlers|Intake)"),
    ("py:.*", r"(aiomas\.\w+\.)?(Replier|SerializerOf|Served|Shortcuts|Source|Terms)"),
]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_display_short_literal_types = True
python_maximum_signature_line_length = 88


def find_reexported(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Let a reference to a name that a module only passes on lead to where it is described."""
    target = pydoc.locate(node["reftarget"]) if node.get("refdomain") == "py" else None
    if not (hasattr(target, "__module__") and hasattr(target, "__qualname__")):
        return None
    name = f"{target.__module__}.{target.__qualname__}"
    if name == "aiomas._limits.Limits":  # whose public place is the package itself
        name = "aiomas.Limits"
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], name, node, contnode
    )


def leave_out_parts(_app: Any, _name: str, _class: type, _options: Any, bases: list[type]) -> None:
    """Name no base that only is a part of a class, which has a module of its own."""
    bases[:] = [base for base in bases if base.__qualname__ != "Connections"] or [object]


def setup(app: Any) -> None:
    """Be called by Sphinx."""
    app.connect("autodoc-process-bases", leave_out_parts)
    app.connect("missing-reference", find_reexported)
