"""From text to syntax tree, and what is wrong with a text that is not a program."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lark import (
    Lark,
    Token,
    Transformer_NonRecursive,
    UnexpectedCharacters,
    UnexpectedToken,
    v_args,
)
from lark.exceptions import VisitError
from lark.tree import Meta

from tensorlogic.errors import LanguageSyntaxError
from tensorlogic.lang import tree
from tensorlogic.lang.source import Source, Span

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", '"': '"', "\\": "\\"}
_ESCAPE = re.compile(r"\\(u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,8})\}|.)")
_OPENING = {"(": ")", "[": "]", "{": "}"}
_CONTINUED = frozenset(
    {"COMMA", "COLON", "EQUAL", "PLUS", "MINUS", "PRODUCT", "POWER", "COMPARISON", "RANGE"}
    | {"AND", "OR", "NOT", "DOT"}
)

# How an error names what could stand at its place. A terminal that could brings its words, and
# those further down that its words cover are left out.
_EXPECTATIONS: tuple[tuple[str, str, set[str]], ...] = (
    ("LET", "a statement", {"TRUE", "NAME", "LPAR", "STRING", "_NEWLINE"}),
    ("TRUE", "an expression", {"NAME", "LPAR", "STRING", "ELLIPSIS"}),
    ("ELLIPSIS", "a dim", {"NAME"}),
    ("NAME", "a name", set()),
    ("STRING", "a string", set()),
    ("IN", "`in`", set()),
    ("EQUAL", "`=`", set()),
    ("COLON", "`:`", set()),
    ("COMMA", "`,`", set()),
    ("LPAR", "`(`", set()),
    ("RPAR", "`)`", set()),
    ("RSQB", "`]`", set()),
    ("LBRACE", "`{`", {"_NEWLINE"}),
    ("_NEWLINE", "a new line", set()),
    ("RBRACE", "`}`", set()),
)


def parse(source: Source) -> tree.Block:
    """The syntax tree of a program; raises `LanguageSyntaxError` with the place and its line."""
    try:
        parsed = _parser().parse(source.text)
    except UnexpectedToken as error:
        span = _span_of_token(source, error.token)
        message = _unexpected(error.token, error.accepts or error.expected)
        raise LanguageSyntaxError(span.report(message)) from None
    except UnexpectedCharacters as error:
        span = Span(source, error.line, error.column, error.line, error.column + 1)
        message = _unknown_character(error.char)
        raise LanguageSyntaxError(span.report(message)) from None
    except _Refused as error:
        span = _span_of_token(source, error.token)
        raise LanguageSyntaxError(span.report(error.message)) from None
    try:
        block: tree.Block = _Builder(source).transform(parsed)
    except VisitError as error:  # lark wraps what a method of the builder raises
        raise error.orig_exc from None
    return block


@functools.cache
def _parser() -> Lark:
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        grammar,
        start="program",
        parser="lalr",
        lexer="basic",
        postlex=_TokenFilter(),
        propagate_positions=True,
        maybe_placeholders=True,
    )


class _Refused(Exception):
    def __init__(self, message: str, token: Token) -> None:
        self.message = message
        self.token = token


class _Unclosed(_Refused):
    def __init__(self, what: str, token: Token) -> None:
        super().__init__(f"this {what} is never closed", token)


def is_open(text: str) -> bool:
    """Whether a bracket or comment of the text still has to be closed."""
    try:
        for _ in _parser().lex(text):
            pass
    except _Unclosed:
        return True
    except (UnexpectedCharacters, _Refused):
        pass
    return False


class _TokenFilter:
    """Drops the new lines that end no statement; refuses brackets and comments left open."""

    always_accept = ("OPEN_COMMENT",)

    def process(self, stream: Iterable[Token]) -> Iterator[Token]:
        opened: list[Token] = []
        newline: Token | None = None  # held back, for `else` may follow
        previous = ""
        for token in stream:
            if token.type == "OPEN_COMMENT":
                raise _Unclosed("comment", token)
            inside = bool(opened) and opened[-1] != "{"
            if token.type == "_NEWLINE":
                if not inside and previous not in _CONTINUED:
                    newline = newline or token
                continue
            if newline is not None and (token.type, previous) != ("ELSE", "RBRACE"):
                yield newline
            newline = None
            if token in _OPENING:
                opened.append(token)
            elif opened and token == _OPENING[opened[-1]]:
                opened.pop()
            previous = token.type
            yield token
        if opened:
            raise _Unclosed(f"`{opened[-1]}`", opened[-1])
        if newline is not None:
            yield newline


def _span_of_token(source: Source, token: Token) -> Span:
    if token.type == "$END":  # lark gives it the place of the last token
        lines = source.text.rstrip().split("\n")
        column = len(lines[-1]) + 1
        return Span(source, len(lines), column, len(lines), column + 1)
    assert token.line is not None
    assert token.column is not None
    length = 1 if token.type == "_NEWLINE" else len(token)
    return Span(source, token.line, token.column, token.line, token.column + length)


def _unexpected(token: Token, accepted: Iterable[str]) -> str:
    left = set(accepted)
    if token.type == "COMPARISON" and "AND" in left:
        return "comparisons do not chain; write `a < b and b < c`"
    if (
        "AND" in left
    ):  # after an operand a call, an index or an operator can follow: not worth saying
        left -= {"LPAR", "EQUAL"}
    words = []
    for terminal, word, covered in _EXPECTATIONS:
        if terminal in left:
            words.append(word)
            left -= covered
    found = {"$END": "the end of the file", "_NEWLINE": "the end of the line"}.get(
        token.type, f"`{token}`"
    )
    if not words:
        return f"unexpected {found}"
    listed = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
    return f"expected {listed}, found {found}"


def _unknown_character(character: str) -> str:
    if character == '"':
        return "this string does not end on its line"
    shown = f"`{character}`" if character.isprintable() else "the character"
    return f"{shown} (U+{ord(character):04X}) is not part of the language"


@v_args(meta=True)
class _Builder(Transformer_NonRecursive[Token, Any]):
    """Turns lark's tree into ours; without recursion, so that depth of nesting is no limit."""

    def __init__(self, source: Source) -> None:
        super().__init__(visit_tokens=False)
        self._source = source

    def _span(self, meta: Meta) -> Span:
        if meta.empty:
            return Span(self._source, 1, 1, 1, 1)
        return Span(self._source, meta.line, meta.column, meta.end_line, meta.end_column)

    def _at(self, token: Token) -> Span:
        return _span_of_token(self._source, token)

    def _refuse(self, message: str, span: Span) -> LanguageSyntaxError:
        return LanguageSyntaxError(span.report(message))

    def program(self, meta: Meta, items: list[Any]) -> tree.Block:
        return tree.Block(self._span(meta), items)

    block = program

    def function(self, meta: Meta, items: list[Any]) -> tree.Function:
        name, parameters, result, body = items
        seen: set[str] = set()
        for parameter in parameters:
            if parameter.name in seen:
                raise self._refuse(f"two parameters named `{parameter.name}`", parameter.span)
            seen.add(parameter.name)
        return tree.Function(self._at(name), str(name), parameters, result, body)

    def parameters(self, meta: Meta, items: list[Any]) -> list[Any]:
        return items

    arguments = indices = dims = parameters

    def parameter(self, meta: Meta, items: list[Any]) -> tree.Parameter:
        return tree.Parameter(self._at(items[0]), str(items[0]), items[1], items[2])

    def type_name(self, meta: Meta, items: list[Any]) -> tree.TypeName:
        return tree.TypeName(self._span(meta), str(items[0]), items[1])

    def dim(self, meta: Meta, items: list[Token]) -> str:
        return "".join(items)

    def let(self, meta: Meta, items: list[Any]) -> tree.Bind:
        return tree.Bind(self._at(items[0]), str(items[0]), items[1])

    def assign(self, meta: Meta, items: list[Any]) -> tree.Bind:
        target, value = items
        if isinstance(target, tree.Index):
            message = (
                "values do not change in place: instead of `x[i] = v` write "
                "`x = x.update(i, v)`, or `x = where(mask, v, x)`"
            )
            raise self._refuse(message, target.span)
        if not isinstance(target, tree.Name):
            raise self._refuse("only a name can stand before `=`", target.span)
        return tree.Bind(target.span, target.name, value)

    def returned(self, meta: Meta, items: list[Any]) -> tree.Return:
        return tree.Return(self._span(meta), items[0] or tree.Literal(self._span(meta), None))

    def if_(self, meta: Meta, items: list[Any]) -> tree.If:
        return tree.If(self._span(meta), *items)

    def while_(self, meta: Meta, items: list[Any]) -> tree.While:
        return tree.While(self._span(meta), *items)

    def for_(self, meta: Meta, items: list[Any]) -> tree.For:
        name, looped, body = items
        return tree.For(looped.span, str(name), looped, body)

    def leave(self, meta: Meta, items: list[Token]) -> tree.Leave:
        return tree.Leave(self._span(meta), str(items[0]))

    def import_(self, meta: Meta, items: list[Token]) -> tree.Import:
        return tree.Import(self._span(meta), str(self._text_of(items[0])))

    def unary(self, meta: Meta, items: list[Any]) -> tree.Unary:
        return tree.Unary(self._at(items[0]), str(items[0]), items[1])

    def binary(self, meta: Meta, items: list[Any]) -> tree.Binary:
        left, operator, right = items
        return tree.Binary(self._at(operator), str(operator), left, right)

    def logic(self, meta: Meta, items: list[Any]) -> tree.Logic:
        left, operator, right = items
        return tree.Logic(self._at(operator), str(operator), left, right)

    def attribute(self, meta: Meta, items: list[Any]) -> tree.Attribute:
        return tree.Attribute(self._at(items[1]), items[0], str(items[1]))

    def index(self, meta: Meta, items: list[Any]) -> tree.Index:
        return tree.Index(self._span(meta), items[0], items[1])

    def slice(self, meta: Meta, items: list[Any]) -> tree.Slice:
        span = self._span(meta)
        start, stop, step = (item or tree.Literal(span, None) for item in items)
        return tree.Slice(span, start, stop, step)

    def call(self, meta: Meta, items: list[Any]) -> tree.Call:
        callee, arguments = items
        positional: list[tree.Node] = []
        named: dict[str, tree.Node] = {}
        for argument in arguments:
            if not isinstance(argument, tree.Bind):
                if named:
                    raise self._refuse("a named argument stands before this one", argument.span)
                positional.append(argument)
            elif argument.name in named:
                raise self._refuse(f"`{argument.name}` is given twice", argument.span)
            else:
                named[argument.name] = argument.value
        return tree.Call(self._span(meta), callee, positional, named)

    def generic_call(self, meta: Meta, items: list[Any]) -> tree.Call:
        """`tensor<float16>(x)` is `tensor(x, dtype: float16)`."""
        token, arguments = items
        found = re.findall(r"\w+", token)
        callee, dtype = (tree.Name(self._at(token), name) for name in found)
        return self.call(meta, [callee, [*arguments, tree.Bind(dtype.span, "dtype", dtype)]])

    named = let

    def name(self, meta: Meta, items: list[Token]) -> tree.Name:
        return tree.Name(self._span(meta), str(items[0]))

    def number(self, meta: Meta, items: list[Token]) -> tree.Literal:
        token = items[0]
        try:
            value = int(token) if token.replace("_", "").isdecimal() else float(token)
        except ValueError:
            raise self._refuse(f"`{token[:40]}` is not a number", self._at(token)) from None
        return tree.Literal(self._span(meta), value)

    def string(self, meta: Meta, items: list[Token]) -> tree.Literal:
        return tree.Literal(self._span(meta), self._text_of(items[0]))

    def _text_of(self, token: Token) -> str:
        def unescape(match: re.Match[str]) -> str:
            escaped = match[1]
            if escaped in _ESCAPES:
                return _ESCAPES[escaped]
            code = int(match[2] or match[3] or "-1", 16)
            if 0 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF:
                return chr(code)
            at = self._at(token)
            span = at._replace(
                column=at.column + 1 + match.start(), end_column=at.column + 1 + match.end()
            )
            is_code = "is no character" if code >= 0 else "is not an escape of strings"
            raise self._refuse(f"`{match[0]}` {is_code}", span)

        return _ESCAPE.sub(unescape, token[1:-1])

    def ellipsis(self, meta: Meta, items: list[Token]) -> tree.Literal:
        return tree.Literal(self._span(meta), ...)

    def constant(self, meta: Meta, items: list[Token]) -> tree.Literal:
        value = {"true": True, "false": False, "none": None}[items[0]]
        return tree.Literal(self._span(meta), value)

    def list_of(self, meta: Meta, items: list[Any]) -> tree.ListOf:
        return tree.ListOf(self._span(meta), items)
