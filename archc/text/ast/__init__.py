"""The syntax tree: what a spec says, node by node, each with the span it was read from.

Nodes compare by identity, so that a pass can keep facts about one occurrence of an expression in a dictionary.
"""

from archc.text.ast.expressions import (
    Arg,
    Arrow,
    AxisDecl,
    AxisList,
    AxisRef,
    Binary,
    BinaryOp,
    Call,
    Contract,
    Expr,
    Ident,
    ListExpr,
    Lookup,
    Name,
    Node,
    Number,
    Override,
    Unary,
    WeightRef,
)
from archc.text.ast.statements import (
    BlockDef,
    File,
    FnDef,
    Frozen,
    Import,
    Init,
    InputDecl,
    Let,
    Loop,
    LoopState,
    ModelDef,
    Param,
    Pattern,
    Return,
    Setting,
    Shared,
    SizeDecl,
    Stmt,
    Tied,
)

__all__ = [
    "Arg", "Arrow", "AxisDecl", "AxisList", "AxisRef", "Binary", "BinaryOp", "BlockDef", "Call", "Contract", "Expr",
    "File", "FnDef", "Frozen", "Ident", "Import", "Init", "InputDecl", "Let", "ListExpr", "Lookup", "Loop",
    "LoopState", "ModelDef", "Name", "Node", "Number", "Override", "Param", "Pattern", "Return", "Setting", "Shared",
    "SizeDecl", "Stmt", "Tied", "Unary", "WeightRef",
]  # fmt: skip
