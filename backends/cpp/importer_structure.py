"""Syntax before it is read: early exits become branches, what a piece of text assigns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from opwright.backends.cpp.clang import BOOL, VOID, CType, Node
from opwright.ir.launch import ImportRefusal

Refuse = Callable[[str, int], ImportRefusal]


def nodes(n: Node | None) -> Iterator[Node]:
    """A node and everything below it, lambdas included."""
    if n is None:
        return
    yield n
    if n.op == "lambda":
        yield from nodes(n.attr[1])
    for a in n.args:
        yield from nodes(a)


def plain(n: Node) -> Node:
    """An expression without its parentheses."""
    while n.op == "paren":
        n = n.args[0]
    return n


def target(n: Node) -> int | None:
    """The variable that an assignment to this expression changes; None for memory."""
    n = plain(n)
    if n.op == "cast":
        return target(n.args[0])
    if n.op == "index" and plain(n.args[0]).type.kind == "vector":  # an element of a variable
        return target(n.args[0])
    return int(n.attr[0]) if n.op == "name" else None


def assigned(*roots: Node | None) -> set[int]:
    """Variables that a text may assign, those handed to functions by reference included."""
    out: set[int] = set()
    for root in roots:
        for n in nodes(root):
            changes = n.op == "assign" or (n.op == "unary" and n.attr in STEPS)
            if changes and (v := target(n.args[0])) is not None:
                out.add(v)
            given: list[Node] = []
            if n.op == "call":
                given = [n.args[i] for i in n.attr[3] if i < len(n.args)]
            elif n.op == "unary" and n.attr == "&":
                given = list(n.args)
            elif n.op == "invoke":
                given = [n.args[i + 1] for i in n.attr if i + 1 < len(n.args)]
            elif n.op == "declare" and n.type.kind == "reference":
                given = list(n.args)
            out |= {v for a in given for v in _places(a)}
    return out


def _places(n: Node) -> set[int]:
    """Variables that a reference may be bound to."""
    n = plain(n)
    if n.op == "cond":
        return {v for a in n.args[1:] for v in _places(a)}
    v = target(n)
    return set() if v is None else {v}


def names(*roots: Node | None) -> set[int]:
    """Variables that a text mentions."""
    return {n.attr[0] for root in roots for n in nodes(root) if n.op == "name"}


STEPS = ("++", "--", "p++", "p--")


def statements(n: Node | None) -> list[Node]:
    """The statements of a block, inner blocks and groups of declarations opened."""
    if n is None:
        return []
    if n.op in ("block", "group"):
        return [s for a in n.args for s in statements(a)]
    return [] if n.op == "empty" else [n]


def holds(body: Sequence[Node], words: tuple[str, ...], loops: bool) -> Node | None:
    """The first of these statements in a text; with `loops` also inside loops."""
    for s in body:
        if s.op in words:
            return s
        inner: list[Node] = []
        if s.op == "if":
            inner = [x for a in s.args[1:] for x in statements(a)]
        elif loops and s.op == "for":
            inner = statements(s.args[3])
        elif loops and s.op == "while":
            inner = statements(s.args[1])
        if inner and (found := holds(inner, words, loops)):
            return found
    return None


def straighten(
    body: list[Node], word: str, refuse: Refuse, end: Callable[[Node], list[Node]]
) -> list[Node]:
    """No `word` is left: `if (c) { word; } rest` is `if (c) {} else { rest }`.

    `end` is what stands in the place of the word.
    """
    for i, s in enumerate(body):
        if s.op == word:
            return [*body[:i], *end(s)]
        if s.op != "if" or holds([s], (word,), False) is None:
            continue
        rest = body[i + 1 :]
        sides = [statements(a) for a in s.args[1:]] + [[]] * (3 - len(s.args))
        ends = [_ends(x, word) for x in sides]
        if rest and not any(ends) and len(rest) > 40:
            raise refuse(f"{word} in a branch that may also go on", s.line)
        done = [straighten([*x, *rest], word, refuse, end) for x in sides]
        blocks = [Node("block", VOID, tuple(x), None, s.line) for x in done]
        return [*body[:i], replace(s, args=(s.args[0], *blocks))]
    return body


def _ends(body: Sequence[Node], word: str) -> bool:
    return any(s.op == word for s in body)


_BREAKS = -1  # numbers of the flags that stand for `break`


def without_break(body: list[Node], flag: int, line: int) -> list[Node]:
    """`break` as a flag that is set, then `continue`; what follows runs while it is not set."""

    def change(s: Node) -> list[Node]:
        if s.op == "break":
            name = Node("name", BOOL, (), (flag, "stopped"), s.line)
            yes = Node("int", BOOL, (), True, s.line)
            setting = Node("assign", BOOL, (name, yes), "", s.line)
            return [
                Node("expr", VOID, (setting,), None, s.line),
                Node("continue", VOID, (), None, s.line),
            ]
        if s.op == "if":
            sides = [
                Node(
                    "block", VOID, tuple(x for y in statements(a) for x in change(y)), None, s.line
                )
                for a in s.args[1:]
            ]
            return [replace(s, args=(s.args[0], *sides))]
        return [s]

    inner = tuple(x for s in body for x in change(s))
    name = Node("name", BOOL, (), (flag, "stopped"), line)
    going = Node("unary", BOOL, (name,), "!", line)
    block = Node("block", VOID, inner, None, line)
    return [Node("if", VOID, (going, block), None, line)]


def last_returns(body: list[Node]) -> list[Node]:
    """A function that ends with a loop: a return in the loop ends just this loop."""
    if not body or body[-1].op != "for" or holds(body[-1:], ("return",), True) is None:
        return body
    return [*body[:-1], _ended(body[-1], "")]


def _ended(loop: Node, how: str) -> Node:
    """The loop with `break` in the place of `return`. In a loop that is all that an outer one does
    it is marked: what it says must still hold when the outer loop goes on."""
    inner = statements(loop.args[3])
    body = [_instead(s, how) for s in inner]
    if inner and inner[-1].op == "for" and all(map(_idle, inner[:-1])):
        body[-1] = _ended(inner[-1], "return")
    block = Node("block", VOID, tuple(body), None, loop.line)
    return replace(loop, args=(*loop.args[:3], block))


def _idle(s: Node) -> bool:
    """Whether a statement of a loop only prepares or ends a trip."""
    calm = not any(
        x.op in ("assign", "call", "invoke", "lambda") or (x.op == "unary" and x.attr in STEPS)
        for x in nodes(s)
    )
    if s.op == "if":
        sides = [statements(a) for a in s.args[1:]]
        return calm and all(x.op in ("break", "continue", "return") for a in sides for x in a)
    return calm and s.op in ("declare", "empty")


def _instead(s: Node, how: str) -> Node:
    """`break` in the place of `return`, outside of inner loops."""
    if s.op == "return":
        return Node("break", VOID, (), how or None, s.line)
    if s.op == "if" and holds([s], ("return",), False) is not None:
        sides = [
            Node("block", VOID, tuple(_instead(x, how) for x in statements(a)), None, s.line)
            for a in s.args[1:]
        ]
        return replace(s, args=(s.args[0], *sides))
    return s


def stops_at(body: Sequence[Node]) -> tuple[Node, int, bool] | None:
    """The condition under which a loop ends where its body begins, which statement says so, and
    whether it ends the loops around, too: `const int r = i + lo; if (r >= n) break;`."""
    known: dict[int, Node] = {}
    for at, s in enumerate(body):
        if s.op == "declare" and s.type.is_integer and s.args and still(s.args[0]):
            known[s.attr[0]] = Node("cast", s.type, (_known(s.args[0], known),), True, s.line)
            continue
        if s.op != "if" or len(s.args) != 2 or not still(s.args[0]):
            return None
        inside = statements(s.args[1])
        if len(inside) != 1 or inside[0].op != "break":
            return None
        return _known(s.args[0], known), at, inside[0].attr == "return"
    return None


def still(n: Node) -> bool:
    """Whether an expression reads no memory and changes nothing."""
    calm = all(x.op not in ("index", "call", "invoke", "assign", "lambda") for x in nodes(n))
    return calm and not any(x.op == "unary" and x.attr in (*STEPS, "*", "&") for x in nodes(n))


def _known(n: Node, by: dict[int, Node]) -> Node:
    """An expression with variables replaced by what they were declared as."""
    found = {id(x): by[x.attr[0]] for x in nodes(n) if x.op == "name" and x.attr[0] in by}
    return changed(n, found)


def steps_apart(s: Node) -> list[Node]:
    """`*p++ = x;` as `*p = x; p++;` and `*++p = x;` as `++p; *p = x;` where that is the same."""
    if s.op not in ("expr", "declare") or not s.args:
        return [s]
    root = plain(s.args[0])
    if root.op == "unary" and root.attr in STEPS:
        return [s]
    found = [n for n in nodes(root) if n.op == "unary" and n.attr in STEPS]
    moved = [target(n.args[0]) for n in found]
    if (
        not found
        or None in moved
        or any(
            n.op in ("cond", "lambda") or (n.op == "binary" and n.attr in ("&&", "||", ","))
            for n in nodes(root)
        )
    ):
        return [s]
    mentioned = [n.attr[0] for n in nodes(root) if n.op == "name"]
    if any(mentioned.count(v) != 1 for v in moved):
        return [s]
    by = {id(n): n.args[0] for n in found}
    whole = replace(s, args=tuple(changed(a, by) for a in s.args))
    steps = [(n.attr[0] == "p", Node("expr", VOID, (n,), None, s.line)) for n in found]
    return [*(x for late, x in steps if not late), whole, *(x for late, x in steps if late)]


def step_within(cond: Node) -> tuple[Node, Node] | None:
    """A condition without the one step that it takes, and the step."""
    found = [n for n in nodes(cond) if n.op == "unary" and n.attr in STEPS]
    if len(found) != 1 or target(found[0].args[0]) is None:
        return None
    (step,) = found
    v = target(step.args[0])
    mentioned = [n for n in nodes(cond) if n.op == "name" and n.attr[0] == v]
    apart = any(n.op in ("cond", "lambda") or n.attr in ("&&", "||", ",") for n in nodes(cond))
    if len(mentioned) != 1 or apart:
        return None
    return changed(cond, {id(step): step.args[0]}), step


def changed(n: Node, by: dict[int, Node]) -> Node:
    """A text with nodes (by identity) replaced."""
    if id(n) in by:
        return by[id(n)]
    args = tuple(changed(a, by) if isinstance(a, Node) else a for a in n.args)
    attr = n.attr
    if n.op == "lambda":
        attr = (attr[0], changed(attr[1], by))
    same = all(a is b for a, b in zip(args, n.args, strict=True)) and attr is n.attr
    return n if same else replace(n, args=args, attr=attr)


def moved_name(n: Node, v: int, sign: str) -> Node:
    """A text that reads a variable one step further on."""
    one = Node("int", CType("int", 32), (), 1, n.line)
    by = {
        id(x): Node("binary", x.type, (x, one), sign, x.line)
        for x in nodes(n)
        if x.op == "name" and x.attr[0] == v
    }
    return changed(n, by)
