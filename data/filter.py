"""Which rows of a manifest are taken: `duration > 2 and license in ['CC-BY-4.0']`.

A filter is an expression over columns. Python's parser reads it, and nothing is ever evaluated as code: the tree may
hold names of columns, numbers, texts and lists of them, `+ - * /`, comparisons, `in`, `is None`, `and`, `or` and `not`,
and anything else is refused by name. What is left is computed column by column, in Arrow.

A comparison with an empty cell is neither true nor false, as in SQL, and a row is taken only where the whole is true:
`duration > 2` and `not duration > 2` both leave out a row without a duration. `duration is None` takes it.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.columns import KIND, spelt

LONGEST = 2000  # characters: no person writes more, and Python's parser takes memory for each

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: pc.less, ast.LtE: pc.less_equal, ast.Gt: pc.greater, ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal, ast.NotEq: pc.not_equal,
}  # fmt: skip
_COMPUTE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply, ast.Div: pc.divide
}  # fmt: skip
_ALLOWED = "columns, numbers, texts, lists, + - * /, comparisons, in, is None, and, or, not"


class Refused(ValueError):
    """Something that does not stand in a filter; one line."""


@dataclass(frozen=True)
class Filter:
    """A filter that was read. `columns` are those that it asks for, in the order of the text.

    Args:
        text: the expression.
        key: the setting that it is from, for messages.

    Raises:
        ValueError: it is none, naming what does not stand in one.
    """

    text: str
    key: str = "data.filter"
    tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST:
            raise self._refused(f"it has {len(self.text)} characters, and {LONGEST} are the most")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd syntax, which is refused below or harmless
                tree = ast.parse(self.text.replace("\n", " ").strip(), mode="eval").body
        except SyntaxError as error:
            raise self._refused(f"{error.msg} at character {error.offset}; an example: duration > 2") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise self._refused(str(error) or "it is nested too deeply") from None
        try:
            _check(tree)
        except RecursionError:
            raise self._refused("it is nested too deeply") from None
        except Refused as error:
            raise self._refused(str(error)) from None
        object.__setattr__(self, "tree", tree)

    @property
    def columns(self) -> list[str]:
        names = [node for node in ast.walk(self.tree) if isinstance(node, ast.Name)]
        return [*dict.fromkeys(node.id for node in sorted(names, key=lambda node: (node.lineno, node.col_offset)))]

    def check_columns(self, there: Collection[str]) -> None:
        """Raises ValueError where it asks for a column that is not there, with the one that may be meant."""
        for name in self.columns:
            if spelt(name, there) is None and name != KIND:
                near = difflib.get_close_matches(name, there, 1, 0.75)
                meant = f" ({near[0]} is meant?)" if near else ""
                raise self._refused(f"no column {name}{meant}; there are {', '.join(there)}")

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """For each row true where it is taken, else false: bool (rows,).

        Raises:
            ValueError: a column is not there, or holds something else than what it is compared with.
        """
        self.check_columns(table.column_names)
        try:
            taken = _bool(_value(self.tree, table), self.tree)
        except (pa.ArrowException, Refused) as error:
            raise self._refused(" ".join(str(error).split())) from None
        if isinstance(taken, pa.Scalar):
            taken = pa.chunked_array([pa.repeat(taken, table.num_rows)])
        return pc.fill_null(taken, False)

    def _refused(self, why: str) -> ValueError:
        shown = self.text if len(self.text) <= 200 else f"{self.text[:200]}..."
        return ValueError(f"{self.key}={' '.join(shown.split())}: {why}")


def _check(node: ast.AST) -> None:
    """Raises Refused for whatever does not stand in a filter."""
    match node:
        case ast.BoolOp(values=values):
            parts = values
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
            parts = [operand]
        case ast.BinOp(left=left, right=right, op=operator):
            if type(operator) not in _COMPUTE:
                raise Refused(f"{_shown(node)} is no sum, difference, product or quotient")
            parts = [left, right]
        case ast.Compare(left=left, ops=ops, comparators=others):
            for op, other in zip(ops, others, strict=True):
                if isinstance(op, (ast.Is, ast.IsNot)) and not _is_none(other):
                    raise Refused(f"{_shown(node)}: `is` stands in front of None alone; write ==")
            parts = [left, *others]
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            for element in elements:
                if not isinstance(_constant(element), (str, int, float)):
                    raise Refused(f"{_shown(element)} in a list; it may hold texts and numbers")
            parts = []
        case ast.Constant(value=value) if value is None or isinstance(value, (str, bool, int, float)):
            if isinstance(value, int) and abs(value) >= 2**63:
                raise Refused(f"{_shown(node)} is too large a number")
            parts = []
        case ast.Name():
            parts = []
        case _:
            raise Refused(f"{_shown(node)} does not stand in a filter, which may hold {_ALLOWED}")
    for part in parts:
        _check(part)


def _value(node: ast.AST, table: pa.Table) -> Any:
    """What a part of the expression is in each row: an Arrow array, or a scalar where no column is in it."""
    match node:
        case ast.BoolOp(op=op, values=values):
            join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
            first, *rest = (_bool(_value(each, table), each) for each in values)
            for each in rest:
                first = join(first, each)
            return first
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return pc.invert(_bool(_value(operand, table), operand))
        case ast.UnaryOp(op=op, operand=operand):
            number = _number(_value(operand, table), operand)
            return pc.negate(number) if isinstance(op, ast.USub) else number
        case ast.BinOp(op=operator, left=left, right=right):
            return _COMPUTE[type(operator)](_number(_value(left, table), left), _number(_value(right, table), right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [left, *others]
            first, *rest = (_comparison(a, op, b, table) for a, op, b in zip(sides, ops, others, strict=False))
            for each in rest:  # 1 < frames < 9
                first = pc.and_kleene(first, each)
            return first
        case ast.Constant(value=value):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return pa.scalar(float(value), pa.float64())
            return pa.scalar(value)
        case ast.Name(id=name):
            values = table.column(spelt(name, table.column_names) or name)
            return pc.cast(values, pa.float64()) if pa.types.is_integer(values.type) else values
    raise Refused(f"{_shown(node)} is a list; lists stand behind `in`")


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr, table: pa.Table) -> Any:
    if isinstance(op, (ast.Is, ast.IsNot)):
        values = _value(left, table)
        empty = pc.is_null(values, nan_is_null=pa.types.is_floating(values.type))
        if values.type == pa.string():
            empty = pc.or_(empty, pc.fill_null(pc.equal(values, ""), False))
        elif pa.types.is_list(values.type):
            empty = pc.or_(empty, pc.fill_null(pc.equal(pc.list_value_length(values), 0), False))
        return pc.invert(empty) if isinstance(op, ast.IsNot) else empty
    if isinstance(op, (ast.In, ast.NotIn)):
        found = _contained(left, right, table)
        return pc.invert(found) if isinstance(op, ast.NotIn) else found
    a, b = _value(left, table), _value(right, table)
    for value, node in ((a, left), (b, right)):
        if pa.types.is_list(value.type):
            raise Refused(f"{_shown(node)} is a list of values, which `in` looks through: 'cat' in caption")
        if pa.types.is_null(value.type) and isinstance(node, ast.Constant):
            raise Refused("nothing is equal to None; write `is None`")
    kinds = {_kind(a.type), _kind(b.type)} - {"nothing"}
    if len(kinds) > 1:
        raise Refused(f"{_shown(left)} is {_kind(a.type)}, and {_shown(right)} is {_kind(b.type)}")
    if kinds == {"true or false"} and not isinstance(op, (ast.Eq, ast.NotEq)):
        raise Refused(f"{_shown(left)} is true or false, which is neither less nor more")
    return _COMPARE[type(op)](a, b)


def _contained(left: ast.expr, right: ast.expr, table: pa.Table) -> Any:
    """`licence in ['MIT', 'CC0']`, or a text within a column: `'cat' in caption`."""
    value = _value(left, table)
    if isinstance(right, (ast.List, ast.Tuple, ast.Set)):
        wanted = [_constant(each) for each in right.elts]
        kinds = {"a text" if isinstance(each, str) else "a number" for each in wanted}
        if len(kinds) > 1 or (kinds and {_kind(value.type)} - {"nothing"} - kinds):
            raise Refused(f"{_shown(left)} is {_kind(value.type)}, and the list holds {' and '.join(sorted(kinds))}")
        of = pa.float64() if kinds == {"a number"} else pa.string()
        if pa.types.is_null(value.type):
            return pa.scalar(None, pa.bool_()) if isinstance(value, pa.Scalar) else pc.cast(value, pa.bool_())
        found = pc.is_in(value, value_set=pa.array([float(x) if of == pa.float64() else x for x in wanted], of))
        return pc.if_else(pc.is_valid(value), found, pa.scalar(None, pa.bool_()))
    text = _constant(left)
    if not isinstance(text, str):
        raise Refused(f"{_shown(left)} in {_shown(right)}: on the left a text, or on the right a list")
    within = _value(right, table)
    if within.type == pa.string():
        return pc.match_substring(within, text)
    if isinstance(within, pa.ChunkedArray) and within.type == pa.list_(pa.string()):
        return pa.chunked_array([_any_holds(chunk, text) for chunk in within.chunks], pa.bool_())
    raise Refused(f"{_shown(right)} is {_kind(within.type)}, and holds no text")


def _any_holds(lists: pa.ListArray, text: str) -> pa.Array:
    """Whether one of each row's texts holds `text`."""
    rows = pc.list_parent_indices(lists).filter(pc.fill_null(pc.match_substring(lists.flatten(), text), False))
    return pc.is_in(pa.array(range(len(lists)), pa.int64()), value_set=rows.cast(pa.int64()))


def _bool(value: Any, node: ast.AST) -> Any:
    return _typed(value, pa.bool_(), node, ", neither true nor false; compare it with something")


def _number(value: Any, node: ast.AST) -> Any:
    return _typed(value, pa.float64(), node, ", and does not add or multiply")


def _typed(value: Any, wanted: pa.DataType, node: ast.AST, why: str) -> Any:
    """A value of the wanted type; one that is nothing everywhere fits any."""
    if pa.types.is_null(value.type):
        return value.cast(wanted)
    if value.type != wanted:
        raise Refused(f"{_shown(node)} is {_kind(value.type)}{why}")
    return value


def _kind(type: pa.DataType) -> str:
    if pa.types.is_null(type):
        return "nothing"
    if type == pa.bool_():
        return "true or false"
    return "a text" if type == pa.string() else "a number" if pa.types.is_floating(type) else "a list"


def _constant(node: ast.AST) -> Any:
    """The value of a constant, with its sign; None for anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand)
        return -value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return node.value if isinstance(node, ast.Constant) and not isinstance(node.value, bool) else None


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _shown(node: ast.AST) -> str:
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        text = type(node).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
