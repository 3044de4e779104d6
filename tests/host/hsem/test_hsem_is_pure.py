# SPDX-License-Identifier: LGPL-2.1-or-later
"""HSEM collects nothing: it, and all it imports, reaches no Xen, no store, no socket, no clock, no file."""

from __future__ import annotations

import ast
from pathlib import Path

HOST = Path(__file__).resolve().parents[3] / "dom0"
CHANNEL = HOST.parent / "xenstore"
# What a pure module may use of the standard library; anything else is looked at by a person first.
STDLIB = {"__future__", "abc", "array", "ast", "collections", "dataclasses", "enum", "fnmatch", "functools",
          "itertools", "math", "re", "typing"}  # fmt: skip
OURS = (
    "xenwarden_host.hsem",
    "xenwarden_host.records",
    "xenwarden_host.policy.model",
    "xenwarden_host.hrem.history",
    "xenwarden_channel.signals",
)
FORBIDDEN_CALLS = {"open", "exec", "eval", "__import__", "input", "print", "compile"}


def source(module: str) -> Path:
    root = CHANNEL if module.startswith("xenwarden_channel") else HOST
    path = root / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """All imports, those for type checking left out: they are never run."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found |= {node.module} | {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if source(f"{node.module}.{alias.name}").exists()
            }
        found |= imports(node)
    return found


def test_hsem_and_all_that_it_imports_is_pure() -> None:
    start = sorted((HOST / "xenwarden_host/hsem").rglob("*.py"))
    todo = [
        str(p.relative_to(HOST).with_suffix("")).replace("/", ".").removesuffix(".__init__") for p in start
    ]
    assert "xenwarden_host.hsem.hsem" in todo
    seen: set[str] = set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        tree = ast.parse(source(module).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in FORBIDDEN_CALLS, f"{module} calls {node.func.id}"
        for name in imports(tree):
            if name.startswith("xenwarden"):
                assert name.startswith(OURS), f"{module} imports {name}"
                todo.append(name)
            else:
                assert name.partition(".")[0] in STDLIB, f"{module} imports {name}"
    assert "xenwarden_channel.signals" in seen
