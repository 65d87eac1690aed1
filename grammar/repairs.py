"""The syntax errors that can be mended: what each looks like, its report, and how to go on.

A repair looks at the stack and the text at a failure and either passes or reports the mistake and
returns the stack and the position to go on with. `REPAIRS` is the order in which they are tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from opwright.grammar import syntax_errors as errors
from opwright.grammar.failure import Failure, describe, report_unexpected
from opwright.grammar.lalr import END, WORD, Frame, Token
from opwright.grammar.resync import STATEMENT, innermost_open, open_brackets, resync, under

if TYPE_CHECKING:
    from opwright.grammar.engine import Run

# The stack to go on with (None: give up) and the position.
Repair: TypeAlias = tuple[Frame | None, int]

CLOSERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
# A repair counts when this many tokens follow it.
ENOUGH = 3
# Which missing token is most likely where several would do.
PREFERRED = ("COMMA", "EQUAL", "COLON", "AT", "LBRACE")
# Words that a name or an operator could stand for as well: their lack cannot be told.
NEVER_INSERTED = {"AND", "OR", "NOT", "IF", "INF", "ROUND", "REC", *errors.SECTIONS.values()}
# Keywords that may be read as names, by their text.
KEYWORDS = {**errors.SECTIONS, "op": "OP", "import": "IMPORT", "from": "FROM", "rec": "REC"}


# ---- the start of the file and of an operator ---------------------------------------------------


def repair_start(run: Run, failure: Failure) -> Repair | None:
    """An empty file, or no version line."""
    if run.start != "start" or failure.frame.below is not None:
        return None
    if failure.type == END:
        run.report(errors.EMPTY, 0, 0)
        return None, failure.position
    run.report(errors.NO_VERSION, failure.position, failure.end, found=describe(failure))
    frame = run.insert(failure.frame, "OPWRIGHT", failure.position)
    assert frame is not None
    version = f'"{errors.VERSIONS[-1]}"'
    return run.insert(frame, "STRING", failure.position, version), failure.position


def repair_version(run: Run, failure: Failure) -> Repair | None:
    """A version that is not quoted, not major.minor, or absent."""
    word = re.compile(r"[\w.]+").match(run.text, failure.position)
    if failure.expected == {"STRING"} and word and failure.frame.symbol == "OPWRIGHT":
        run.report(errors.UNQUOTED, word.start(), word.end(), version=word.group())
        return run.insert(failure.frame, "STRING", word.start(), f'"{word.group()}"'), word.end()
    if failure.expected == {"SEMVER"} and word:
        found = word.group()
        run.report(errors.BAD_VERSION, word.start(), word.end(), found=found)
        return run.insert(failure.frame, "SEMVER", word.start(), "0.0"), word.end()
    if failure.expected == {"AT"} and failure.type in ("LBRACE", "STRING"):
        found = describe(failure)
        run.report(errors.MISSING, failure.position, failure.end, missing="@ 1.0", found=found)
        frame = run.insert(failure.frame, "AT", failure.position)
        assert frame is not None
        return run.insert(frame, "SEMVER", failure.position, "0.0"), failure.position
    return None


def repair_no_operator(run: Run, failure: Failure) -> Repair | None:
    """The end of a file without operators."""
    if failure.type == END and "OP" in failure.expected and END not in failure.expected:
        run.report(errors.NO_OPERATOR, failure.position, failure.end)
        return None, failure.position
    return None


# ---- characters and words -----------------------------------------------------------------------


def repair_string(run: Run, failure: Failure) -> Repair | None:
    """A quoted text without its end."""
    if failure.token is not None or run.text[failure.position] != '"':
        return None
    end = run.text.find("\n", failure.position)
    line = run.text[failure.position : len(run.text) if end < 0 else end].rstrip()
    # The brace that opens the operator is code, not part of what was left open.
    line = line.removesuffix("{").rstrip()
    end = failure.position + len(line)
    run.report(errors.OPEN_STRING, failure.position, end)
    return run.insert(failure.frame, "STRING", failure.position, f'{line}"') or failure.frame, end


def repair_stray(run: Run, failure: Failure) -> Repair | None:
    """A character or an operator of other languages."""
    position = failure.position
    if run.text.startswith("**", position - 1) and failure.type == "STAR":
        run.report(
            errors.STRAY, position - 1, position + 1, found="**", cure=errors.FOREIGN["**"][1]
        )
        return failure.frame, failure.end
    for found, (meant, cure) in errors.FOREIGN.items():
        if not run.text.startswith(found, position):
            continue
        if failure.token is not None and len(found) <= len(failure.token.text):
            continue
        end = position + len(found)
        run.report(errors.STRAY, position, end, found=found, cure=cure)
        token = run.tables.scan_any(meant, 0)
        if meant and token:
            return run.insert(failure.frame, token.type, position, meant) or failure.frame, end
        return failure.frame, end
    if run.text.startswith(("//", "/*"), position) and innermost_open(failure.frame) is None:
        run.report(
            errors.STRAY,
            position,
            position + 2,
            found=run.text[position : position + 2],
            cure="a comment begins with `#`",
        )
        end = run.text.find("*/" if run.text[position + 1] == "*" else "\n", position)
        if end < 0:
            return failure.frame, len(run.text)
        return failure.frame, end + 2 * (run.text[position + 1] == "*")
    if failure.token is None:
        char = run.text[position]
        name = char if char.isprintable() else f"U+{ord(char):04X}"
        run.report(errors.STRAY, position, position + 1, found=name, cure="remove it")
        end = position
        while run.text.startswith(char, end):
            end += 1
        if run.progress(failure.frame, end) > 0:
            return failure.frame, end
        return resync(run, failure.frame, end)
    return None


def repair_word(run: Run, failure: Failure) -> Repair | None:
    """A word that is not of the fixed list that stands here."""
    if failure.type not in ("NAME", *errors.WORDS, *errors.SECTIONS.values()):
        return None
    if failure.token is None or "NAME" in failure.expected:
        return None
    found = failure.token.text
    if "DTYPE" in failure.expected and failure.type == "NAME":
        meant = errors.suggest_dtype(found)
        cure = f"write `{meant}`" if meant else f"write one of: {', '.join(errors.DTYPES)}"
        run.report(errors.NOT_DTYPE, failure.position, failure.end, found=found, cure=cure)
        return run.insert(failure.frame, "DTYPE", failure.position, meant or "f32"), failure.end
    for terminal, (kind, words) in errors.WORDS.items():
        if terminal not in failure.expected or failure.type in errors.SECTIONS.values():
            continue
        if failure.first_on_line and len(failure.expected) > 2:
            continue
        meant = errors.suggest(found, words, errors.WORD_HABITS)
        run.report(
            errors.NOT_WORD,
            failure.position,
            failure.end,
            found=found,
            kind=kind,
            hint=errors.did_you_mean(meant),
            words=", ".join(words),
        )
        return run.insert(failure.frame, terminal, failure.position, words[0]), failure.end
    return None


def repair_keyword(run: Run, failure: Failure) -> Repair | None:
    """A misspelt keyword."""
    if failure.token is None or not WORD.fullmatch(failure.token.text):
        return None
    fixed = run.tables.fixed
    words = {fixed[name]: name for name in failure.expected & fixed.keys() if fixed[name].isalpha()}
    for section in errors.SECTIONS:
        words.pop(section, None)
    if not words:
        return None
    meant = errors.suggest(failure.token.text, words, cutoff=0.6)
    if meant is None and "OP" in failure.expected <= {"OP", "IMPORT", "FROM", END}:
        meant = "op"
    if meant is None:
        return None
    frame = run.insert(failure.frame, words[meant], failure.position)
    if run.progress(frame, failure.end) < ENOUGH:
        return None
    report_unexpected(run, failure, f"write `{meant}`")
    return frame, failure.end


# ---- `=` and `==` -------------------------------------------------------------------------------


def repair_equals(run: Run, failure: Failure) -> Repair | None:
    """`=` where values are compared, or `==` where a name is defined."""
    if failure.type == "EQUAL" and failure.frame.symbol == "EQUAL":
        # Where nothing but `=` can stand, `==` is read as two of them.
        if failure.frame.end == failure.position:
            run.report(errors.COMPARES, failure.frame.start, failure.end)
            return failure.frame, failure.end
    if failure.type == "EQUAL" and "CMP" in failure.expected:
        run.report(errors.DEFINES, failure.position, failure.end)
        return run.insert(failure.frame, "CMP", failure.position, "=="), failure.end
    if failure.type == "CMP" and failure.token and failure.token.text == "==":
        if "EQUAL" in failure.expected and "CMP" not in failure.expected:
            run.report(errors.COMPARES, failure.position, failure.end)
            return run.insert(failure.frame, "EQUAL", failure.position), failure.end
    return None


def repair_unnamed(run: Run, failure: Failure) -> Repair | None:
    """A claim without a name."""
    head: Frame | None = failure.frame
    if head is not None and head.symbol == "NAME":
        head = head.below
    if head is None or head.symbol not in ("ENSURES", "LAW"):
        return None
    position = run.tables.after_space(run.text, head.end)
    named = run.insert(head, "NAME", position, "unnamed")
    if named is None:
        return None
    if failure.type == "COLON" and head is failure.frame:
        frame: Frame | None = named
    else:
        frame = run.insert(named, "COLON", position)
    if run.progress(frame, position) < ENOUGH:
        return None
    run.report(errors.UNNAMED, head.start, head.end, keyword=head.value.text)
    return frame, position


# ---- sections and brackets ----------------------------------------------------------------------


def repair_section(run: Run, failure: Failure) -> Repair | None:
    """A word that stands where a section begins and names none."""
    if failure.token is None or not failure.expected >= set(errors.SECTIONS.values()):
        return None
    before = run.text[: failure.position].rstrip()[-1:]
    if failure.type != "NAME" or not (failure.first_on_line or before in "{}"):
        return None
    found = failure.token.text
    meant = errors.suggest(found, errors.SECTIONS, errors.SECTION_HABITS)
    if meant is None and "COMMA" in failure.expected:
        frame = run.insert(failure.frame, "COMMA", failure.position)
        if run.progress(frame, failure.position) >= ENOUGH:
            return None
    run.report(
        errors.UNKNOWN_SECTION,
        failure.position,
        failure.end,
        found=found,
        hint=errors.did_you_mean(meant),
        sections=errors.SECTION_LIST,
    )
    if meant is not None:
        frame = run.insert(failure.frame, errors.SECTIONS[meant], failure.position)
        if run.progress(frame, failure.end) >= ENOUGH:
            return frame, failure.end
    return resync(run, failure.frame, failure.end)


def repair_outside(run: Run, failure: Failure) -> Repair | None:
    """A section or a closing bracket after the end of an operator."""
    if failure.token is None or "OP" not in failure.expected:
        return None
    if failure.type in CLOSERS.values():
        run.report(
            errors.UNMATCHED,
            failure.position,
            failure.end,
            found=failure.token.text,
            cure="remove it",
        )
        return failure.frame, failure.end
    if failure.type not in errors.SECTIONS.values():
        return None
    hint = ""
    frame, closing = run.history[-1] if run.history else (failure.frame, None)
    inside = closing is not None and closing.type == "RBRACE"
    if closing is not None and inside:
        line, col = run.builder.lines.place(closing.start)
        hint = f": `}}` at {line}:{col} closes the one before"
    found = failure.token.text
    run.report(errors.OUTSIDE, failure.position, failure.end, found=found, hint=hint)
    # Go on as if that brace were not there.
    return (frame, failure.position) if inside else resync(run, failure.frame, failure.end)


def repair_empty_block(run: Run, failure: Failure) -> Repair | None:
    """Braces with nothing between them."""
    if failure.type != "RBRACE" or failure.frame.symbol != "LBRACE":
        return None
    body = under(run, failure.frame, "DIMS")
    if body is None:
        return None
    section = next(frame for frame in failure.frame.down() if frame.below is body)
    block = section.value.text if isinstance(section.value, Token) else "def"
    cure = "write what belongs between them, or remove the section"
    run.report(errors.EMPTY_BLOCK, failure.frame.start, failure.end, block=block, cure=cure)
    return resync(run, body, failure.end)


def repair_trailing_comma(run: Run, failure: Failure) -> Repair | None:
    """A comma after the last element of a list."""
    if failure.frame.symbol != "COMMA" or failure.frame.below is None:
        return None
    comma = failure.frame
    before = failure.frame.below
    if not failure.first_on_line and failure.type not in CLOSERS.values():
        return None
    if run.progress(before, failure.position) < 1:
        return None
    expected = errors.describe_expected(failure.expected, run.tables.fixed)
    run.report(errors.TRAILING_COMMA, comma.start, comma.end, expected=expected)
    return before, failure.position


def repair_unclosed(run: Run, failure: Failure) -> Repair | None:
    """An opening bracket without its closing one."""
    frame: Frame | None = failure.frame
    closers = []
    opener = None
    for bracket in open_brackets(failure.frame):
        assert frame is not None
        frame = run.insert(frame, CLOSERS[bracket.symbol], failure.position)
        if frame is None:
            return None
        # A bracket without width was inserted by an earlier repair, which has been reported.
        if opener is None and bracket.end > bracket.start:
            opener = bracket
        closers.append(run.tables.fixed[CLOSERS[bracket.symbol]])
        if run.progress(frame, failure.position) >= min(ENOUGH, tokens_left(run, failure)):
            if opener is not None:
                line, col = run.builder.lines.place(opener.start)
                start, end = unclosed_place(run, failure, opener)
                run.report(
                    errors.UNCLOSED,
                    start,
                    end,
                    opener=opener.value.text,
                    line=line,
                    col=col,
                    closers="".join(closers),
                    found=describe(failure),
                )
            return frame, failure.position
    return None


def unclosed_place(run: Run, failure: Failure, opener: Frame) -> tuple[int, int]:
    """Return the place of the line to mend: where the closing bracket would stand.

    A brace that ends its line is closed on a line of its own, below what it holds.
    """
    if not failure.first_on_line or not run.history:
        return failure.position, failure.end
    if opener.value.text != "{":
        return opener.start, opener.end
    last = run.history[-1][1]
    below = run.text.find("\n", last.end) + 1
    if last.start > opener.start and run.text[opener.end :].split("\n", 1)[0].strip():
        return last.start, last.end
    if last.start > opener.start and 0 < below < failure.position:
        return below, below
    return failure.position, failure.end


def tokens_left(run: Run, failure: Failure) -> int:
    """Return how many tokens follow, up to the number that is enough."""
    count, position = 0, failure.position
    while count < ENOUGH:
        token = run.tables.scan_any(run.text, position)
        if token is None or token.type == END:
            return max(count, 1)
        count, position = count + 1, token.end
    return count


def repair_mismatch(run: Run, failure: Failure) -> Repair | None:
    """A closing bracket of another kind than the one that is open."""
    opener = innermost_open(failure.frame)
    if failure.token is None or failure.type not in CLOSERS.values() or opener is None:
        return None
    frame = run.insert(failure.frame, CLOSERS[opener.symbol], failure.position)
    if frame is None or run.progress(frame, failure.end) < 1:
        return None
    if opener.start == opener.end:
        return frame, failure.end
    line, col = run.builder.lines.place(opener.start)
    meant = run.tables.fixed[CLOSERS[opener.symbol]]
    run.report(
        errors.UNMATCHED,
        failure.position,
        failure.end,
        found=failure.token.text,
        cure=f"write `{meant}`, which closes `{opener.value.text}` at {line}:{col}",
    )
    return frame, failure.end


def repair_opening(run: Run, failure: Failure) -> Repair | None:
    """`(` where `[` opens, as in a shape."""
    if failure.type != "LPAR" or "LSQB" not in failure.expected or "CMP" in failure.expected:
        return None
    frame = run.insert(failure.frame, "LSQB", failure.position)
    if run.progress(frame, failure.end) < 1:
        return None
    report_unexpected(run, failure, "write `[` and `]` around a shape or indices")
    return frame, failure.end


def repair_unclosed_early(run: Run, failure: Failure) -> Repair | None:
    """As `repair_unclosed`, where a new line makes it more likely than a missing comma."""
    if failure.first_on_line or failure.type in (END, *CLOSERS.values()):
        return repair_unclosed(run, failure)
    return None


# ---- one token too few or too many --------------------------------------------------------------


def repair_missing(run: Run, failure: Failure) -> Repair | None:
    """One fixed token that the text lacks."""
    fixed = run.tables.fixed
    names = {name for name in failure.expected - NEVER_INSERTED if name in PREFERRED}
    if failure.frame.symbol in ("LSQB", "COMMA"):
        # There a colon alone is a whole axis: an operand is as likely.
        names.discard("COLON")
    if failure.type in KEYWORDS.values() and failure.first_on_line:
        names &= {"LBRACE"}
    else:
        names |= {
            name
            for name in failure.expected - NEVER_INSERTED
            if fixed.get(name, "").isalpha() or fixed.get(name) == "=>"
        }
    best, most = None, -1
    for name in sorted(names, key=lambda name: (rank(name), name)):
        frame = run.insert(failure.frame, name, failure.position)
        follows = run.progress(frame, failure.position)
        if follows > most:
            best, most = name, follows
    if best is None or most < min(ENOUGH, tokens_left(run, failure)):
        return None
    if failure.type == END or run.progress(failure.frame, failure.end) > most:
        return None
    start, end = failure.position, failure.end
    # `then` and `else` begin a line, as `opwright fmt` breaks one; other words and braces end it
    begins = fixed[best] in ("then", "else") and not STATEMENT.match(run.text, failure.position)
    ends = fixed[best].isalpha() or best == "LBRACE"
    if failure.first_on_line and run.history and ends and not begins:
        start, end = run.history[-1][1].start, run.history[-1][1].end  # its line is the one to mend
    run.report(
        errors.MISSING,
        start,
        end,
        at=failure.position,
        missing=fixed[best],
        found=describe(failure),
    )
    return run.insert(failure.frame, best, failure.position), failure.position


def repair_operand(run: Run, failure: Failure) -> Repair | None:
    """A name or an expression that the text lacks."""
    if "NAME" not in failure.expected or failure.token is None:
        return None
    frame = run.insert(failure.frame, "NAME", failure.position, "missing")
    if run.progress(frame, failure.position) < min(ENOUGH, tokens_left(run, failure)):
        return None
    report_unexpected(run, failure)
    return frame, failure.position


def rank(name: str) -> int:
    """Return how likely a token is to be the missing one; smaller is likelier."""
    return PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)


def repair_extra(run: Run, failure: Failure) -> Repair | None:
    """One token too many."""
    if failure.token is None or failure.type in (END, "LBRACE", *KEYWORDS.values()):
        return None
    if failure.first_on_line and STATEMENT.match(run.text, failure.position):
        return None
    opener = innermost_open(failure.frame)
    if opener is not None and CLOSERS[opener.symbol] == failure.type:
        return None
    if failure.type == "RBRACE" and (opener is None or failure.first_on_line):
        return None
    needed = 1 if failure.type in ("RPAR", "RSQB") else ENOUGH
    if run.progress(failure.frame, failure.end) < needed:
        return None
    if failure.type in CLOSERS.values():
        found = failure.token.text
        run.report(errors.UNMATCHED, failure.position, failure.end, found=found, cure="remove it")
    else:
        report_unexpected(run, failure, f"remove `{failure.token.text}`")
    return failure.frame, failure.end


REPAIRS: tuple[Callable[[Run, Failure], Repair | None], ...] = (
    repair_start,
    repair_version,
    repair_no_operator,
    repair_string,
    repair_stray,
    repair_equals,
    repair_unnamed,
    repair_outside,
    repair_section,
    repair_empty_block,
    repair_trailing_comma,
    repair_word,
    repair_keyword,
    repair_unclosed_early,
    repair_mismatch,
    repair_opening,
    repair_missing,
    repair_unclosed,
    repair_extra,
    repair_operand,
)
