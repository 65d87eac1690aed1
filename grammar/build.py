"""Generate `tables.json` from the grammar: `python -m opwright.grammar.build` after an edit.

Lark reads the grammar in strict mode (no conflict, no colliding terminals) and computes the LALR
tables; this file writes them as plain data, numbered the same way on every run. Reading the data
needs no lark: that is `opwright.grammar.lalr`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from opwright.grammar.lalr import FORMAT, GRAMMAR, STARTS, TABLES, grammar_hash


def rule_plan(rule: Mapping[str, Any]) -> list[list[int]]:
    """Say which symbols of a rule become children: rows of (index, spread, absent before).

    A spread symbol is a helper of a repetition, whose children join those of the rule; absent
    counts the optional parts left out before the symbol. The last row has index -1.
    """
    expansion = rule["expansion"]
    marks = "".join(str(int(bit)) for bit in rule["options"]["empty_indices"])
    absent = [len(run) for run in marks.split("0")] if marks else [0] * (len(expansion) + 1)
    plan = []
    pending = 0
    for index, symbol in enumerate(expansion):
        pending += absent[index]
        terminal = symbol["__type__"] == "Terminal"
        if terminal and symbol["filter_out"]:
            continue
        plan.append([index, int(not terminal and symbol["name"].startswith("_")), pending])
        pending = 0
    return [*plan, [-1, 0, pending + absent[-1]]]


def scanner_rows(
    accepted: Iterable[str], terminals: Mapping[str, dict[str, Any]]
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the order in which a contextual lexer tries terminals, and the words it renames.

    Lark's rule: by priority, then the longest possible match; a fixed string that a regular
    expression of the same priority matches whole is a renaming of that match.
    """
    names = sorted(
        (name for name in accepted if name in terminals),
        key=lambda name: (
            -terminals[name]["priority"],
            -terminals[name]["width"],
            -len(terminals[name]["value"]),
            name,
        ),
    )
    renamed: dict[str, dict[str, str]] = {}
    embedded = set()
    for name in names:
        pattern = terminals[name]
        if pattern["fixed"]:
            continue
        for other in names:
            word = terminals[other]
            if not word["fixed"] or word["priority"] != pattern["priority"]:
                continue
            if re.fullmatch(pattern["value"], word["value"]):
                renamed.setdefault(name, {})[word["value"]] = other
                embedded.add(other)
    return [name for name in names if name not in embedded], renamed


def build_tables() -> dict[str, Any]:
    """Compute the tables of the grammar file; raises lark's errors on a conflict."""
    from lark import Lark
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    text = GRAMMAR.read_text(encoding="utf-8")
    parser = Lark(text, parser="lalr", strict=True, start=list(STARTS))
    data, memo = parser.memo_serialize([TerminalDef, Rule])
    conf, table = data["parser"]["lexer_conf"], data["parser"]["parser"]

    terminals = {}
    for definition in parser.terminals:
        terminals[definition.name] = {
            "value": definition.pattern.value,
            "fixed": definition.pattern.type == "str",
            "priority": definition.priority,
            "width": definition.pattern.max_width,
        }
    skip = {name: terminals.pop(name)["value"] for name in conf["ignore"]}

    symbols = table["tokens"]
    order = number_states(table)
    rules: dict[int, int] = {}
    rule_rows: list[dict[str, Any]] = []
    scanners: dict[tuple[str, ...], int] = {}
    scanner_list: list[dict[str, Any]] = []
    states = []
    for state in order:
        actions: dict[str, int] = {}
        gotos: dict[str, int] = {}
        row = sorted((symbols[key], value) for key, value in table["states"][state].items())
        for symbol, (kind, argument) in row:
            if kind == 0:
                target = order[argument]
                (actions if symbol in terminals or symbol == "$END" else gotos)[symbol] = target
                continue
            rule_id = argument["@"]
            if rule_id not in rules:
                rules[rule_id] = len(rules)
                rule_rows.append(rule_row(memo[rule_id]))
            actions[symbol] = -1 - rules[rule_id]
        key = tuple(sorted(actions))
        if key not in scanners:
            scanners[key] = len(scanners)
            names, renamed = scanner_rows(actions, terminals)
            scanner_list.append({"order": names, "renamed": renamed})
        states.append([scanners[key], actions, gotos])
    root, root_renamed = scanner_rows(terminals, terminals)
    return {
        "format": FORMAT,
        "grammar": grammar_hash(text),
        "starts": {name: order[state] for name, state in sorted(table["start_states"].items())},
        "ends": {name: order[state] for name, state in sorted(table["end_states"].items())},
        "skip": sorted(skip.values()),
        "terminals": {
            name: {"value": terminals[name]["value"], "fixed": terminals[name]["fixed"]}
            for name in sorted(terminals)
        },
        "root": {"order": root, "renamed": root_renamed},
        "rules": rule_rows,
        "scanners": scanner_list,
        "states": states,
    }


def rule_row(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return one rule: its symbol, the name of its action, its length and its children."""
    origin = rule["origin"]["name"]
    return {
        "origin": origin,
        "action": rule["alias"] or origin,
        "length": len(rule["expansion"]),
        "single": bool(rule["options"]["expand1"]) and not rule["alias"],
        "helper": origin.startswith("_"),
        "plan": rule_plan(rule),
    }


def number_states(table: Mapping[str, Any]) -> dict[int, int]:
    """Number the states in the order a search by symbol name reaches them.

    Lark's own numbers depend on the hash seed of the process.
    """
    symbols = table["tokens"]
    order: dict[int, int] = {}
    queue = [state for _, state in sorted(table["start_states"].items())]
    while queue:
        state = queue.pop(0)
        if state in order:
            continue
        order[state] = len(order)
        row = sorted((symbols[key], value) for key, value in table["states"][state].items())
        queue.extend(argument for _, (kind, argument) in row if kind == 0)
    # An end state has no row of its own to be reached by when the start symbol is its last.
    for _, state in sorted(table["end_states"].items()):
        order.setdefault(state, len(order))
    return order


def render(tables: Mapping[str, Any]) -> str:
    """Return the tables as JSON, one state, rule, terminal or scanner a line."""
    lines = []
    for key, value in tables.items():
        if isinstance(value, list) and key != "skip":
            rows = ",\n".join("  " + compact(row) for row in value)
            lines.append(f" {compact(key)}:[\n{rows}\n ]")
        elif key == "terminals":
            rows = ",\n".join(f"  {compact(name)}:{compact(row)}" for name, row in value.items())
            lines.append(f" {compact(key)}:{{\n{rows}\n }}")
        else:
            lines.append(f" {compact(key)}:{compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def compact(value: Any) -> str:
    """Return one line of JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def main() -> None:
    """Write the tables beside the grammar."""
    TABLES.write_text(render(build_tables()), encoding="utf-8")
    print(f"wrote {TABLES}")


if __name__ == "__main__":
    main()
