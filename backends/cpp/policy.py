"""What a C++ candidate's text may contain, read token by token: arithmetic on its arguments.

An allow-list of headers, of called functions and of attributes; no state that outlives a call, no
initialisers that run when the library is loaded, no assembler, no way to the system. It keeps
mistakes and tricks out of the measurements. It is no security boundary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from opwright.backends.cpp import clang_headers
from opwright.backends.cpp.importer_prelude import trusted
from opwright.backends.cpp.policy_macros import WHY, Conditions, compilers
from opwright.ir.launch import ImportRefusal

HEADERS = frozenset(
    "math.h cmath stdint.h cstdint stddef.h cstddef float.h cfloat limits.h climits stdbool.h "
    "string.h cstring algorithm limits type_traits utility immintrin.h".split()
)
READ = frozenset(clang_headers.HEADERS)  # what a text that is read back may include
PRAGMAS = (
    "omp simd", "omp parallel", "omp for", "GCC unroll", "GCC ivdep", "clang loop", "unroll",
    "once", "STDC FP_CONTRACT",
)  # fmt: skip
ATTRIBUTES = frozenset(
    "always_inline noinline vector_size aligned unused hot cold pure const flatten may_alias "
    "target visibility default maybe_unused likely unlikely gnu assume_aligned nothrow "
    "noreturn fallthrough nodiscard".split()
)
KEYWORDS = frozenset(
    "if for while switch return sizeof alignof decltype static_assert catch else do case "
    "constexpr const static inline void bool char short int long float double signed unsigned "
    "auto noexcept explicit operator alignas typename template class struct union enum using "
    "typedef namespace public private protected friend this true false nullptr goto break "
    "continue default requires concept static_cast const_cast reinterpret_cast and or not "
    "defined __attribute__ __typeof__ typeof __restrict __restrict__ extern volatile "
    "__alignof__ __is_same __integer_pack mutable".split()
)
TYPES = frozenset(
    "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t size_t ptrdiff_t intptr_t "
    "uintptr_t float_t double_t".split()
)
_MATH = (
    "sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh exp exp2 expm1 log log2 "
    "log10 log1p pow sqrt cbrt hypot erf erfc tgamma lgamma ceil floor trunc round nearbyint rint "
    "fabs fmod remainder copysign fmax fmin fdim fma ldexp scalbn ilogb logb nextafter"
).split()
CALLS = frozenset(
    [name + suffix for name in _MATH for suffix in ("", "f", "l")]
    + "abs labs llabs lrint llrint lround llround lrintf llrintf isnan isinf isfinite signbit "
    "min max clamp swap numeric_limits infinity lowest epsilon quiet_NaN fill fill_n copy "
    "copy_n memset memcpy INT64_C UINT64_C INT32_C UINT32_C".split()
)
PREFIXES = ("_mm", "__builtin_", "__m", "_cvt", "_kand", "_kor", "_load_mask", "_store_mask")
FORBIDDEN = {
    **dict.fromkeys("asm __asm __asm__".split(), "assembler"),
    **dict.fromkeys("thread_local __thread".split(), "thread-local state"),
    **dict.fromkeys("new delete malloc calloc realloc free alloca".split(), "memory of its own"),
    **dict.fromkeys("throw try catch typeid dynamic_cast setjmp longjmp".split(), "exceptions"),
    **dict.fromkeys(
        "system popen execv execve execvp execl execlp fork vfork clone syscall kill raise signal "
        "sigaction ptrace dlopen dlsym dlmopen mmap mprotect munmap open openat close read write "
        "fopen fclose fread fwrite printf fprintf sprintf snprintf puts putchar fputs scanf getenv "
        "setenv putenv exit _exit _Exit abort atexit quick_exit socket connect remove rename "
        "unlink time clock gettimeofday clock_gettime rand srand random environ errno stdin stdout "
        "stderr cout cerr cin pthread_create thread jthread async mutex atomic sleep usleep "
        "nanosleep __builtin_return_address __builtin_frame_address __builtin_apply "
        "__builtin_alloca __builtin_longjmp __builtin_setjmp __builtin_trap".split(),
        "the system or other threads",
    ),
    **dict.fromkeys(
        "constructor destructor ifunc alias weak weakref naked section cleanup init_priority "
        "tls_model".split(),
        "code or data outside its kernels",
    ),
    **dict.fromkeys(
        "__builtin_ia32_rdtsc __builtin_ia32_rdtscp __builtin_ia32_rdpmc __builtin_ia32_rdpid "
        "__builtin_readcyclecounter __builtin_readsteadycounter __builtin_ia32_rdrand16_step "
        "__builtin_ia32_rdrand32_step __builtin_ia32_rdrand64_step __builtin_ia32_rdseed_hi_step "
        "__builtin_ia32_rdseed_si_step __builtin_ia32_rdseed_di_step __builtin_cpu_init "
        "__builtin_cpu_is __builtin_cpu_supports __builtin_thread_pointer".split(),
        "clocks, random numbers and the processor's name",
    ),
    **dict.fromkeys("_Pragma __has_include import module co_await co_yield".split(), "directives"),
}
# functions of the standard library that the headers allowed declare, called or only named, with the
# compiler's names for them; and instructions that reach beyond a kernel's own values
LIBRARY = frozenset(
    "secure_getenv mkstemp mkostemp mkdtemp mktemp realpath qsort bsearch on_exit posix_memalign "
    "aligned_alloc valloc reallocarray rand_r drand48 lrand48 mrand48 getloadavg clearenv unsetenv "
    "strdup strndup timespec_get strerror signal bsd_signal difftime mktime localtime gmtime "
    "asctime ctime strftime vprintf vfprintf vsprintf vsnprintf asprintf vasprintf dprintf perror "
    "execle execvpe printf_unlocked puts_unlocked fputc putc abort exit trap unwind_init "
    "extract_return_addr frob_return_addr eh_return va_start va_arg va_end apply apply_args "
    "return return_address frame_address thread_pointer set_thread_pointer alloca_with_align "
    "alloca_with_align_and_max".split()
)
BEYOND = re.compile(
    r"pthread_|sched_|sem_|__gthread|_Unwind|__cxa_|_IO_|__libc_|__sync_|__atomic_"
    r"|_mm_(?:setcsr|getcsr|malloc|free|mwaitx?|monitorx?|pause|clflush(?:opt)?|clwb)$|_MM_SET_"
    r"|__builtin_(?:goacc|coro|eh|dwarf|unwind|nvptx|speculation|init_|adjust_)"
    r"|__builtin_ia32_(?:ldmxcsr|stmxcsr|fx|xsave|xrstor|xget|xset|rd|wr|mon|mwait|umon|umwait"
    r"|tpause|pause|cl[fwzd]|wbinvd|wbnoinvd|invl|inv|enqcmd|llwp|slwp|lwp|xbegin|xend|xabort"
    r"|xtest|ptwrite|inc|rstor|save|set|senduipi|clui|stui|testui|hreset|uiret|emms|sys)"
)
# an optimiser must keep such values in registers; nothing is executed
FENCE = re.compile(r'asm(?:volatile)?\(""(?::"\+\w+"\(\w+\)(?:,"\+\w+"\(\w+\))*)\)')
_TOKEN = re.compile(
    r"(?P<space>[ \t\r\f\v]+)|(?P<newline>\n)|(?P<comment>//[^\n]*|/\*.*?\*/)"
    r'|(?P<raw>(?:u8|[uUL])?R"[^ ()\\\n]*\()'
    r"|(?P<string>(?:u8|[uUL])?\"(?:[^\"\\\n]|\\.)*\"|(?:u8|[uUL])?'(?:[^'\\\n]|\\.)*')"
    r"|(?P<number>\.?\d(?:'?[\w.]|[eEpP][-+])*)|(?P<word>[A-Za-z_$]\w*)"
    r"|(?P<mark>%:%:|##|%:|<%|%>|<:|:>|::|->|\+\+|--|<<|>>|&&|\|\||[-+*/%&|^~!<>=?:;,.()\[\]{}#\\@`])",
    re.S,
)


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is string | number | word | mark; `macro` marks tokens of a #define's body."""

    kind: str
    text: str
    line: int
    macro: bool = False


def check_policy(source: str, file: str) -> None:
    """ImportRefusal names the line of the first thing that the text must not contain."""
    for line, what in breaches(source)[:1]:
        raise ImportRefusal(what, file, line)


def breaches(source: str) -> list[tuple[int, str]]:
    """(line, what is wrong) of everything that the text must not contain, in order of lines."""
    return sorted(dict.fromkeys(PolicyReader(source).breaches()))


class PolicyReader:
    """Judges one text; other dialects of C++ have lists of their own."""

    headers: frozenset[str] = HEADERS
    forbidden: ClassVar[Mapping[str, str]] = FORBIDDEN
    allowed: frozenset[str] = CALLS
    prefixes: tuple[str, ...] = PREFIXES
    storage: frozenset[str] = frozenset({'"C"'})  # what may follow extern

    def __init__(self, source: str) -> None:
        self.wrong: list[tuple[int, str]] = []
        self.macros: set[str] = set()
        self.bodies: dict[str, set[str]] = {}  # words of each macro's definitions
        self.conditions = Conditions()
        ours = trusted(source)  # the printer's own vocabulary is not read but known
        self.own = 0 if ours is None else len(ours[0]) - len(ours[0].lstrip("\n"))
        self.tokens = list(self.read(source))
        self.known = self.introduced()

    def breaches(self) -> list[tuple[int, str]]:
        self.words()
        self.calls()
        self.attributes()
        self.declarations()
        return self.wrong

    def fault(self, line: int, what: str) -> None:
        self.wrong.append((line, what))

    # -- tokens ---------------------------------------------------------------------------------

    def read(self, source: str) -> Iterator[Token]:
        """Tokens outside directives, and those of macro bodies."""
        if "??" in source and re.search(r"\?\?[=/'()!<>-]", source):
            self.fault(_line(source, source.index("??")), "a trigraph")
        text = re.sub(r"\\[ \t]*\n", "\v", source)  # spliced lines count when lines are counted
        at, line = 0, 1
        pending: list[Token] = []
        while at < len(text):
            m = _TOKEN.match(text, at)
            if m is None:
                self.fault(line, f"a character that C++ has no use for: {text[at]!r}")
                at += 1
                continue
            kind, found = str(m.lastgroup), m.group()
            at = m.end()
            if kind == "raw":
                self.fault(line, "a raw string")
            if kind in ("string", "number", "word", "mark"):
                pending.append(Token(kind, found, line))
            line += found.count("\n") + found.count("\v")
            if kind == "newline" or at >= len(text):
                yield from self.directive(pending)
                pending = []

    def directive(self, tokens: list[Token]) -> Iterator[Token]:
        """One line's tokens; a directive is judged here and leaves its macro's body."""
        if not tokens or tokens[0].text not in ("#", "%:"):
            if tokens and (wrong := self.conditions.tokens()):
                self.fault(tokens[0].line, wrong)
            yield from tokens
            return
        line = tokens[0].line
        name = tokens[1].text if len(tokens) > 1 else ""
        rest = tokens[2:]
        said = " ".join(t.text for t in rest)
        words = [t.text for t in rest if t.kind == "word"]
        wrong = self.conditions.directive(name, words, said)
        if wrong and line > self.own:
            self.fault(line, wrong)
        if name in ("include", "include_next", "import"):
            header = "".join(t.text for t in rest).strip("<>")
            if name != "include" or header not in self.headers or not said.startswith("<"):
                allowed = ", ".join(f"<{h}>" for h in sorted((self.headers & READ) or self.headers))
                self.fault(line, f"#{name} {''.join(t.text for t in rest)}; allowed: {allowed}")
        elif name == "pragma":
            if not any(said.startswith(p) for p in PRAGMAS):
                self.fault(line, f"#pragma {said}; allowed: {', '.join(PRAGMAS)}")
        elif name == "define" and rest:
            if rest[0].text in KEYWORDS | self.allowed | TYPES or rest[0].text in self.forbidden:
                self.fault(line, f"#define of {rest[0].text}, which has a meaning already")
            if any(t.text in ("##", "%:%:", "#", "%:") for t in rest[1:]):
                self.fault(line, "a macro that pastes or quotes tokens")
            self.macros.add(rest[0].text)
            self.bodies.setdefault(rest[0].text, set()).update(t.text for t in rest[1:])
            for t in rest[1:]:
                yield Token(t.kind, t.text, t.line, True)
        elif name not in ("ifdef", "ifndef", "if", "elif", "else", "endif", "undef", "error", ""):
            self.fault(line, f"#{name}")

    # -- rules ----------------------------------------------------------------------------------

    def is_fence(self, n: int) -> bool:
        """Whether tokens from n on are `asm("" : "+x"(v), ...);`: no instruction, and operands that
        keep their values."""
        rest = iter(self.tokens[n:])
        said = "".join(t.text for t in takewhile(lambda t: t.text != ";", rest))
        return FENCE.fullmatch(said) is not None

    def words(self) -> None:
        for n, t in enumerate(self.tokens):
            if t.kind != "word":
                continue
            before = self.tokens[n - 1].text if n else ""
            if t.text in self.forbidden and before not in (".", "->"):
                if not self.is_fence(n):
                    self.fault(t.line, f"{t.text}: {self.forbidden[t.text]}")
            elif before not in (".", "->") and self.reaches_out(t.text):
                self.fault(t.line, f"{t.text}: the system or the state of the processor")
            elif t.line > self.own and compilers(t.text):
                self.fault(t.line, f"{t.text}: {WHY}")
            elif t.text == "mutable" and before != ")":
                self.fault(t.line, "mutable: state that outlives a call")
            elif t.text == "extern":
                after = self.tokens[n + 1] if n + 1 < len(self.tokens) else t
                if after.text not in self.storage:
                    self.fault(t.line, "extern: a name that is defined elsewhere")
            elif t.text == "namespace" and before == "using":
                self.fault(t.line, "using namespace: write std:: where it is meant")
            elif before == "::" and n >= 2 and self.tokens[n - 2].text == "std":
                if t.text not in self.allowed and t.text not in TYPES:
                    self.fault(t.line, f"std::{t.text} is not among the functions allowed")

    def reaches_out(self, word: str) -> bool:
        """Whether a name is a function of the library or an instruction that no kernel needs."""
        plain = word.removeprefix("__builtin_").removesuffix("_unlocked").removesuffix("_chk")
        if plain != word and plain.strip("_") in self.forbidden:
            return True
        if word in KEYWORDS or (word in self.known and not word.startswith("_")):
            return False
        return plain in LIBRARY or BEYOND.match(word) is not None

    def introduced(self) -> set[str]:
        """Names that the text itself gives a meaning: functions with a body, variables, types."""
        found = set(self.macros)
        for n, t in enumerate(self.tokens):
            if t.kind != "word" or t.text in KEYWORDS:
                continue
            before = self.tokens[n - 1] if n else t
            after = self.tokens[n + 1].text if n + 1 < len(self.tokens) else ""
            typed = before.kind == "word" and before.text not in ("return", "else", "case", "goto")
            if before.text in ("struct", "class", "typename", "enum", "concept", "using"):
                found.add(t.text)
            elif (typed or before.text in ("*", "&", ">", ",", "&&", "...")) and after == "(":
                if self.has_body(n + 1):
                    found.add(t.text)
            elif typed and after in (",", ")", "=", ";", "[", "{", "__attribute__", ":"):
                found.add(t.text)
        return found

    def has_body(self, opening: int) -> bool:
        """Whether a parameter list that opens here is followed by a function's body."""
        end = self.matching(opening)
        for t in self.tokens[end + 1 : end + 12]:
            if t.text == "{":
                return True
            if t.text in (";", ",", ")", "=", "("):
                return False
        return False

    def matching(self, opening: int) -> int:
        depth = 0
        for n in range(opening, len(self.tokens)):
            depth += (self.tokens[n].text in "([{") - (self.tokens[n].text in ")]}")
            if depth == 0:
                return n
        return len(self.tokens) - 1

    def calls(self) -> None:
        for n, t in enumerate(self.tokens[:-1]):
            if t.kind != "word" or self.tokens[n + 1].text != "(":
                continue
            own = (
                t.text in KEYWORDS
                or t.text in self.allowed
                or t.text in TYPES
                or t.text in self.known
            )
            if own or t.text in self.forbidden or t.text in ATTRIBUTES:
                continue
            if not t.text.startswith(self.prefixes):
                self.fault(t.line, f"{t.text}(...) is neither defined here nor among the "
                                   "functions allowed")  # fmt: skip

    def attributes(self) -> None:
        for n, t in enumerate(self.tokens[:-1]):
            here = t.text == "__attribute__" or (t.text == "[" and self.tokens[n + 1].text == "[")
            if not here:
                continue
            end = self.matching(n + 1 if t.text != "[" else n)
            depth = 0
            for x in self.tokens[n + 1 : end]:
                depth += (x.text == "(") - (x.text == ")")
                named = depth == 2 if t.text != "[" else depth == 0
                if named and x.kind == "word" and x.text not in ATTRIBUTES:
                    self.fault(x.line, f"the attribute {x.text}")

    def declarations(self) -> None:
        """No variable outlives a call: constants and functions alone stand outside of kernels."""
        code = [t for t in self.tokens if not t.macro]
        at = 0
        while at < len(code):
            at = self.declaration(code, at)
        depth = 0
        for n, t in enumerate(code):
            depth += (t.text == "{") - (t.text == "}")
            static = t.text == "static" or (
                t.text in self.macros and self.stands_for(t.text, "static")
            )
            if static and depth > 0:
                near = {x.text for x in code[max(0, n - 2) : n + 4]}
                if not near & {"constexpr"} and not self.is_function(code, n):
                    self.fault(t.line, "static: state that outlives a call")
        for t in self.tokens:
            if t.macro and t.text == "static" and self.declares_static(t.line):
                self.fault(t.line, "static in a macro: state that may outlive a call")

    def declares_static(self, line: int) -> bool:
        """Whether the macro that is defined here may declare a variable of its own."""
        return bool({t.text for t in self.tokens if t.macro and t.line == line} & {";", "=", "{"})

    def stands_for(self, macro: str, word: str, seen: tuple[str, ...] = ()) -> bool:
        """Whether a word is in what a macro stands for."""
        words = self.bodies.get(macro, set())
        return word in words or any(
            self.stands_for(w, word, (*seen, macro)) for w in words & self.macros - {macro, *seen}
        )

    @staticmethod
    def is_function(code: Sequence[Token], at: int) -> bool:
        """Whether a declaration has parameters and a body: `static int n(0);` is a variable."""
        for n, t in enumerate(code[at : at + 24], at):
            if t.text == "(":
                for after in code[_closing(code, n) + 1 :]:
                    if after.text in (";", ",", "="):
                        return False
                    if after.text == "{":
                        return True
            if t.text in ("=", ";", "[", "{"):
                return False
        return False

    def declares(self, macro: str) -> bool:
        """Whether what a macro stands for may end a declaration or give a value."""
        return any(self.stands_for(macro, mark) for mark in (";", "=", "{"))

    def declaration(self, code: list[Token], at: int) -> int:
        """Judge one declaration outside of functions; returns where the next one begins."""
        head: list[Token] = []
        parens = False
        closed = 0  # length of the head where the last block closed
        n = at
        while n < len(code):
            t = code[n]
            if t.text in (";", "}"):
                break
            if t.text == "{":
                opened = [x.text for x in head]
                scope = "namespace" in opened or opened == ["extern", '"C"']
                if scope:
                    return n + 1
                end = _closing(code, n)
                if parens and "=" not in opened:
                    self.macro_declares(head)
                    return end + 1
                n, closed = end, len(head)
            elif t.text == "(":
                attribute = bool(head) and head[-1].text in ("__attribute__", "alignas", "decltype")
                attribute = attribute or (bool(head) and head[-1].text == "__typeof__")
                parens = parens or not attribute
                n = _closing(code, n)
            elif t.text == "<" and head and head[-1].text == "template":
                n = _angle(code, n)
            else:
                head.append(t)
            n += 1
        self.macro_declares(head)
        words = {t.text for t in head}
        if self.hides_a_variable(head, words, closed, parens):
            self.fault(head[0].line, f"{_named(head[closed:] or head)}: state that outlives a call")
        harmless = "typedef using struct class union enum template static_assert concept constexpr"
        if head and not words & set(harmless.split()):
            constant = "const" in words and not words & {"*", "&", "&&"}
            if parens and "=" not in words:
                self.fault(head[0].line, f"{_named(head)} is declared here and defined elsewhere")
            elif not constant:
                self.fault(head[0].line, f"{_named(head)}: state that outlives a call")
        return n + 1

    def macro_declares(self, head: Sequence[Token]) -> None:
        for t in head:
            if t.text in self.macros and self.declares(t.text):
                self.fault(t.line, f"{t.text}: a macro that declares something outside of kernels")

    @staticmethod
    def hides_a_variable(head: Sequence[Token], words: set[str], closed: int, parens: bool) -> bool:
        """Whether a declaration of a type, or a template, declares a variable as well."""
        if words & {"typedef", "using", "concept", "static_assert", "constexpr"} or (
            "const" in words and not words & {"*", "&", "&&"}
        ):
            return False
        if words & {"struct", "class", "union", "enum"}:
            rest = [t for t in head[closed:] if t.kind == "word" and t.text not in ATTRIBUTES]
            names = [t for t in rest if t.text not in KEYWORDS]
            if closed:  # a union without a name is a variable itself
                return bool(names) or head[closed - 1].text == "union"
            template = "template" in words
            return not template and not parens and ("=" in words or len(names) > 1)
        return "template" in words and not parens


def _named(head: Sequence[Token]) -> str:
    until = next((n for n, t in enumerate(head) if t.text == "="), len(head))
    words = [t.text for t in head[:until] if t.kind == "word" and t.text not in KEYWORDS]
    return words[-1] if words else head[0].text


def _closing(code: Sequence[Token], opening: int) -> int:
    depth = 0
    for n in range(opening, len(code)):
        depth += (code[n].text in "([{") - (code[n].text in ")]}")
        if depth == 0:
            return n
    return len(code) - 1


def _angle(code: Sequence[Token], opening: int) -> int:
    depth = 0
    for n in range(opening, len(code)):
        text = code[n].text
        depth += (text == "<") - (text == ">") - 2 * (text == ">>")
        if depth <= 0:
            return n
    return len(code) - 1


def _line(source: str, at: int) -> int:
    return source.count("\n", 0, at) + 1
