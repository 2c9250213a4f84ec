//! The tree of an expression.

use std::ops::Range;

use super::{functions::Function, lexer::Operator, value::Value};

/// A part of an expression and where it stands, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub kind: NodeKind,
    pub span: Range<usize>,
    /// Levels of nodes below and including this one; the parser keeps it within its limit, so recursion over the tree,
    /// and dropping it, is bounded.
    pub height: usize,
}

#[derive(Debug, Clone)]
pub(super) enum NodeKind {
    Literal(Value),
    /// A context by its name.
    Context(String),
    /// A value and the way down into it.
    Access {
        base: Box<Node>,
        path: Vec<Accessor>,
    },
    Call {
        function: Function,
        arguments: Vec<Node>,
    },
    Not(Box<Node>),
    /// A comparison.
    Compare {
        operator: Operator,
        left: Box<Node>,
        right: Box<Node>,
    },
    /// `a && b && c`, at least two.
    And(Vec<Node>),
    /// `a || b || c`, at least two.
    Or(Vec<Node>),
}

/// One step into a value.
#[derive(Debug, Clone)]
pub(super) enum Accessor {
    /// `.name`
    Property(String),
    /// `[index]`
    Index(Node),
    /// `.*` or `[*]`
    Wildcard,
}

impl Node {
    pub(super) fn new(kind: NodeKind, span: Range<usize>) -> Self {
        let mut height = 0;
        for_each_child(&kind, &mut |child| height = height.max(child.height));
        Self { kind, span, height: height + 1 }
    }

    /// Calls `visit` on this node and all below, parents first.
    pub(super) fn walk<'n>(&'n self, visit: &mut dyn FnMut(&'n Node)) {
        visit(self);
        for_each_child(&self.kind, &mut |child| child.walk(visit));
    }
}

fn for_each_child<'n>(kind: &'n NodeKind, visit: &mut dyn FnMut(&'n Node)) {
    match kind {
        NodeKind::Literal(_) | NodeKind::Context(_) => {}
        NodeKind::Access { base, path } => {
            visit(base);
            for accessor in path {
                if let Accessor::Index(index) = accessor {
                    visit(index);
                }
            }
        }
        NodeKind::Not(operand) => visit(operand),
        NodeKind::Compare { left, right, .. } => {
            visit(left);
            visit(right);
        }
        NodeKind::Call { arguments: children, .. } | NodeKind::And(children) | NodeKind::Or(children) => {
            children.iter().for_each(visit);
        }
    }
}
