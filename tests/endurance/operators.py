"""Source of a module -> its mutants: one small change each, by the syntax tree.

cosmic-ray and mutmut know arithmetic, comparisons and constants; what goes wrong in a training step
are dropped terms, arguments in another order, a missing detach. Hence operators of our own.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
NAMES = {  # of methods and functions that are easily taken for each other
    "argmax": "argmin", "argmin": "argmax", "amax": "amin", "amin": "amax", "max": "min",
    "min": "max", "sum": "mean", "mean": "sum", "any": "all", "all": "any",
    "ones_like": "zeros_like", "zeros_like": "ones_like", "clamp_min": "clamp_max",
    "clamp_max": "clamp_min", "softmax": "log_softmax", "log_softmax": "softmax",
    "l1_loss": "mse_loss", "mse_loss": "l1_loss", "repeat": "repeat_interleave", "eval": "train",
    "train": "eval", "index_add": "index_copy", "index_copy": "index_add",
    "zeros_": "ones_", "LeakyReLU": "ReLU", "ReLU": "LeakyReLU",
}  # fmt: skip
STRINGS = {"border": "zeros", "zeros": "border", "bilinear": "nearest-exact", "nearest": "area"}
DROPPED_CALLS = frozenset({
    "detach", "clone", "float", "abs", "sqrt", "clamp", "clamp_min", "clamp_max", "masked_fill",
    "nan_to_num", "repeat", "eval", "cumsum", "repeat_interleave",
})  # fmt: skip  # x.name(...) -> x
ONE_ORDER = frozenset(
    {"isinstance", "getattr", "hasattr", "max", "min", "super", "partial", "l1_loss", "mse_loss"}
)
# What no test can notice on a CPU, or without breaking zip's own promise.
NO_EFFECT = frozenset({"device", "strict", "non_blocking", "pin_memory"})
SILENT = frozenset({"__repr__", "__str__"})
Located = ast.stmt | ast.expr | ast.keyword  # nodes that know their place


@dataclass(frozen=True)
class Mutant:
    """One change of one file. Lines are counted from 1."""

    file: str
    function: str  # "" at the top of the module
    line: int
    before: str  # the lines that change, in one
    after: str
    source: str  # all of it, changed
    statement: tuple[int, int]  # first and last line of the statement, or of its head
    meaning: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line} {self.function}".rstrip()
        meaning = f"  ({self.meaning})" if self.meaning else ""
        return f"{where}{meaning}\n    - {self.before}\n    + {self.after}"


class Source:
    """A file's text and tree, and the way from one to the other."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self.data = text.encode()
        self.tree = ast.parse(text)
        self.dump = ast.dump(self.tree)
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.places: dict[int, tuple[str, tuple[int, int]]] = {}  # line -> function, statement
        self._place(self.tree.body, "")

    def _place(self, body: list[ast.stmt], function: str) -> None:
        for statement in body:
            blocks = [
                block
                for name in ("body", "orelse", "finalbody")
                if (block := getattr(statement, name, None))
            ]
            blocks += [handler.body for handler in getattr(statement, "handlers", [])]
            last = blocks[0][0].lineno - 1 if blocks else statement.end_lineno or 0
            decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
            first = min([statement.lineno, *(d.lineno for d in decorators)])
            for line in range(first, last + 1):
                self.places[line] = function, (first, last)
            inner = function
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                inner = f"{function}.{statement.name}".lstrip(".")
            for block in blocks:
                self._place(block, inner)

    def span(self, node: Located) -> tuple[int, int]:
        """Byte offsets of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text_of(self, node: Located) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def changed(self, start: int, end: int, new: str, meaning: str = "") -> Mutant:
        first, last = self.line_of(start), self.line_of(max(start, end - 1))
        data = self.data[:start] + new.encode() + self.data[end:]
        after = data[self.starts[first - 1] : self.starts[last] + len(data) - len(self.data)]
        before = self.data[self.starts[first - 1] : self.starts[last]]
        function, head = self.places.get(first, ("", (first, first)))
        tail = self.places.get(last, ("", head))[1]
        lines = head[0], max(head[1], tail[1])
        return Mutant(
            self.file, function, first, _one_line(before), _one_line(after), data.decode(), lines,
            meaning,
        )  # fmt: skip

    def line_of(self, offset: int) -> int:
        low, high = 0, len(self.starts) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= offset else (low, middle)
        return low + 1


def _one_line(data: bytes) -> str:
    return " ".join(data.decode().split())


def fault_mutant(source: Source, before: str, after: str, meaning: str) -> Mutant:
    """ValueError unless `before` is there exactly once, and `after` makes another program."""
    if (times := source.text.count(before)) != 1:
        raise ValueError(f"{source.file}: {meaning!r}: {times} times there, not once: {before!r}")
    start = len(source.text[: source.text.index(before)].encode())
    mutant = source.changed(start, start + len(before.encode()), after, meaning)
    if not _differs(source, mutant):
        raise ValueError(f"{source.file}: {meaning!r}: not another program: {after!r}")
    return mutant


def mutants_of(source: Source, functions: tuple[str, ...] = ()) -> list[Mutant]:
    """The operators' mutants, each once; of the named functions only, where some are named."""
    kept: dict[str, Mutant] = {}
    for start, end, new in _Changes(source).all():
        mutant = source.changed(start, end, new)
        name = mutant.function.rpartition(".")[2]
        if (functions and name not in functions) or mutant.source in kept:
            continue
        if _differs(source, mutant):
            kept[mutant.source] = mutant
    return sorted(kept.values(), key=lambda mutant: mutant.line)


def _differs(source: Source, mutant: Mutant) -> bool:
    """Whether it is Python, and another program."""
    try:
        return ast.dump(ast.parse(mutant.source)) != source.dump
    except SyntaxError:
        return False


Change = tuple[int, int, str]  # bytes from, to, what stands there instead


class _Changes:
    def __init__(self, source: Source) -> None:
        self.source = source

    def all(self) -> Iterator[Change]:
        for statement in self.source.tree.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                yield from self.block(statement)
            elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
                for node in ast.walk(statement.value):
                    if isinstance(node, ast.Constant):
                        yield from self.constant(node)

    def block(self, owner: ast.FunctionDef | ast.ClassDef) -> Iterator[Change]:
        if owner.name in SILENT:
            return
        if isinstance(owner, ast.FunctionDef):
            arguments = owner.args
            known = {a.arg for a in [*arguments.args, *arguments.kwonlyargs]}
            for default in [*arguments.defaults, *arguments.kw_defaults]:
                if default is not None:
                    yield from self.expression(default)
            yield from self.body(owner.body, known, owner.name == "__init__")
        else:
            for statement in owner.body:
                if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                    yield from self.block(statement)

    def body(self, body: list[ast.stmt], known: set[str], in_init: bool) -> Iterator[Change]:
        for statement in body:
            yield from self.statement(statement, known, in_init)
            known |= {
                n.id
                for n in ast.walk(statement)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }

    def statement(self, node: ast.stmt, known: set[str], in_init: bool) -> Iterator[Change]:
        start, end = self.source.span(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from self.block(node)
            return
        if isinstance(node, ast.Raise | ast.Assert):
            yield start, end, "pass"
            return
        if isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Constant) or _called(node.value) in ("print", "__init__"):
                return
            yield start, end, "pass"
        if isinstance(node, ast.Assign | ast.AugAssign) and self.can_drop(node, known, in_init):
            yield start, end, "pass"
        if isinstance(node, ast.AugAssign):
            yield from self.operator(node.target, node.op, node.value)
        if isinstance(node, ast.Break | ast.Continue):
            yield start, end, "continue" if isinstance(node, ast.Break) else "break"
        if isinstance(node, ast.If | ast.While):
            yield from self.negated(node.test)
        for name, value in ast.iter_fields(node):
            if name == "annotation":
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.stmt):
                    yield from self.body([part], known, in_init)
                elif isinstance(part, ast.expr):
                    yield from self.expression(part)
                elif isinstance(part, ast.withitem):
                    yield from self.expression(part.context_expr)
                elif isinstance(part, ast.ExceptHandler):
                    yield from self.body(part.body, known, in_init)

    def can_drop(self, node: ast.Assign | ast.AugAssign, known: set[str], in_init: bool) -> bool:
        """Whether what it sets is there without it."""
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name) and name.id not in known:
                    return False
                if isinstance(name, ast.Attribute) and in_init and isinstance(node, ast.Assign):
                    return False
        return True

    def expression(self, node: ast.expr) -> Iterator[Change]:
        start, end = self.source.span(node)
        text_of = self.source.text_of
        if isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.Constant):
            yield from self.constant(node)
        elif isinstance(node, ast.BinOp):
            yield from self.operator(node.left, node.op, node.right)
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
            yield start, end, f"({text_of(node.operand)})"
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in pairwise(node.values):
                yield from self.between(left, right, old, new)
        elif isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for left, comparison, right in zip(operands, node.ops, operands[1:], strict=False):
                old, others = COMPARISONS[type(comparison)]
                for new in others:
                    yield from self.between(left, right, old, new)
        elif isinstance(node, ast.IfExp):
            yield from self.negated(node.test)
        elif isinstance(node, ast.Call):
            yield from self.call(node)
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield end - len(node.attr.encode()), end, NAMES[node.attr]
        elif isinstance(node, ast.Dict) and len(node.keys) > 1:
            yield from self.entries(node)
        elif isinstance(node, ast.List | ast.Tuple) and not _axes(node):
            yield from self.swaps(node.elts)
        elif isinstance(node, ast.Slice) and not (node.lower and node.upper):
            if node.lower:
                yield start, end, f":{text_of(node.lower)}"
            elif node.upper:
                yield start, end, f"{text_of(node.upper)}:"
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from self.expression(child)
            elif isinstance(child, ast.keyword):
                if child.arg not in NO_EFFECT:
                    yield from self.expression(child.value)
            elif isinstance(child, ast.comprehension):
                yield from self.expression(child.iter)
                for test in child.ifs:
                    yield from self.negated(test)
                    yield from self.expression(test)

    def constant(self, node: ast.Constant) -> Iterator[Change]:
        start, end = self.source.span(node)
        value = node.value
        if isinstance(value, bool):
            yield start, end, repr(not value)
        elif isinstance(value, int | float):
            yield start, end, repr(value + 1)
            yield start, end, f"({value - 1!r})" if value < 1 else repr(value - 1)
        elif isinstance(value, str) and value in STRINGS:
            yield start, end, f'"{STRINGS[value]}"'

    def operator(self, left: ast.expr, op: ast.operator, right: ast.expr) -> Iterator[Change]:
        if type(op) in ARITHMETIC:
            yield from self.between(left, right, *ARITHMETIC[type(op)])

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Change]:
        """Another operator between two operands."""
        start, end = self.source.span(left)[1], self.source.span(right)[0]
        gap = re.sub(rb"#[^\n]*", lambda m: b" " * len(m[0]), self.source.data[start:end])
        pattern = rb"\s+".join(re.escape(word).encode() for word in old.split())
        if match := re.search(pattern, gap):
            yield start + match.start(), start + match.end(), new

    def negated(self, test: ast.expr) -> Iterator[Change]:
        yield (*self.source.span(test), f"(not ({self.source.text_of(test)}))")

    def call(self, node: ast.Call) -> Iterator[Change]:
        start, end = self.source.span(node)
        name = _called(node)
        if isinstance(node.func, ast.Attribute) and name in DROPPED_CALLS:
            yield start, end, f"({self.source.text_of(node.func.value)})"
        if isinstance(node.func, ast.Name) and name == "range" and len(node.args) == 1:
            yield (*self.source.span(node.args[0]), f"{self.source.text_of(node.args[0])} - 1")
        if name not in ONE_ORDER and not any(isinstance(a, ast.Starred) for a in node.args):
            yield from self.swaps(node.args)
        parts: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        for dropped in node.keywords:
            if dropped.arg in NO_EFFECT:
                continue
            kept = [self.source.text_of(part) for part in parts if part is not dropped]
            spans = [self.source.span(part) for part in parts]
            yield min(spans)[0], max(spans)[1], ", ".join(kept)

    def swaps(self, nodes: list[ast.expr]) -> Iterator[Change]:
        """Neighbours change places."""
        for left, right in pairwise(nodes):
            if isinstance(left, ast.Starred) or isinstance(right, ast.Starred):
                continue
            (start, middle), (then, end) = self.source.span(left), self.source.span(right)
            gap = self.source.data[middle:then].decode()
            yield start, end, f"{self.source.text_of(right)}{gap}{self.source.text_of(left)}"

    def entries(self, node: ast.Dict) -> Iterator[Change]:
        """Without one of its entries."""
        pairs = [(k, v) for k, v in zip(node.keys, node.values, strict=True) if k is not None]
        if len(pairs) < len(node.keys):
            return
        texts = [f"{self.source.text_of(k)}: {self.source.text_of(v)}" for k, v in pairs]
        start, end = self.source.span(node)
        for i in range(len(texts)):
            yield start, end, "{" + ", ".join(texts[:i] + texts[i + 1 :]) + "}"


def _axes(node: ast.List | ast.Tuple) -> bool:
    """Whether it is set, or only numbers: axes to sum over, in any order."""
    return isinstance(node.ctx, ast.Store) or all(
        isinstance(e, ast.Constant) and isinstance(e.value, int) for e in node.elts
    )


def _called(node: ast.expr) -> str:
    """The name of what is called, without where it comes from."""
    if not isinstance(node, ast.Call):
        return ""
    called = node.func
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""
