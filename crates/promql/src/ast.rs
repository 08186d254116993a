//! What a query says.

use crate::functions::Function;
use crate::labels::Matcher;
use crate::length::Length;
use std::ops::Range;

/// An expression, and where it stands in the query (bytes).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub expr: Expr,
    /// Where it stands.
    pub span: Range<usize>,
}

/// See [`Node`].
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// Series at a moment.
    Vector(Selector),
    /// Series over a time before a moment.
    Matrix {
        /// Which.
        selector: Selector,
        /// How long, ms.
        range: i64,
        /// What that is computed from, if it is.
        written: Option<Length>,
    },
    /// An expression over a time before a moment, at a steady step.
    Subquery {
        /// What is evaluated.
        inner: Box<Node>,
        /// How long, ms.
        range: i64,
        /// Every so many ms; `None`: the default.
        step: Option<i64>,
        /// When.
        time: When,
        /// What its length and its step are computed from, if they are.
        written: (Option<Length>, Option<Length>),
    },
    /// A function.
    Call {
        /// Which.
        function: &'static Function,
        /// With what.
        args: Vec<Node>,
    },
    /// Many series to few.
    Aggregate {
        /// How.
        op: Aggregation,
        /// `topk`'s count and the like.
        param: Option<Box<Node>>,
        /// Of what.
        inner: Box<Node>,
        /// Which labels the groups have.
        grouping: Grouping,
    },
    /// Two sides.
    Binary {
        /// What is done.
        op: BinaryOp,
        /// Left.
        left: Box<Node>,
        /// Right.
        right: Box<Node>,
        /// Whether a comparison gives 0 or 1 instead of filtering.
        returns_bool: bool,
        /// Which series belong together.
        matching: Matching,
    },
    /// The negative.
    Minus(Box<Node>),
    /// The same, with a sign before it.
    Plus(Box<Node>),
    /// In parentheses.
    Paren(Box<Node>),
}

impl Node {
    /// Hands out the selectors in it, from left to right.
    pub fn selectors(&self, take: &mut dyn FnMut(&Selector)) {
        match &self.expr {
            Expr::Number(_) | Expr::Text(_) => {}
            Expr::Vector(selector) | Expr::Matrix { selector, .. } => take(selector),
            Expr::Subquery { inner, .. }
            | Expr::Minus(inner)
            | Expr::Plus(inner)
            | Expr::Paren(inner) => inner.selectors(take),
            // The second of these selects no series of its own.
            Expr::Call { function, args } if function.name == "info" => {
                args.iter().take(1).for_each(|arg| arg.selectors(take));
            }
            Expr::Call { args, .. } => args.iter().for_each(|arg| arg.selectors(take)),
            Expr::Aggregate { param, inner, .. } => {
                param.iter().for_each(|param| param.selectors(take));
                inner.selectors(take);
            }
            Expr::Binary { left, right, .. } => {
                left.selectors(take);
                right.selectors(take);
            }
        }
    }
}

/// Which series.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Selector {
    /// All must pass, the name's among them.
    pub matchers: Vec<Matcher>,
    /// When.
    pub time: When,
}

/// The moment that a selector or a subquery looks at.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct When {
    /// A fixed time instead of the step's.
    pub at: Option<At>,
    /// So many ms before it.
    pub offset: i64,
    /// What that is computed from, if it is.
    pub written: Option<Length>,
}

/// A fixed time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// Unix time, ms.
    Time(i64),
    /// The query's start.
    Start,
    /// The query's end.
    End,
}

/// How series are aggregated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // PromQL's own names
pub enum Aggregation {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    Quantile,
    CountValues,
    Limitk,
    LimitRatio,
}

impl Aggregation {
    /// All, with how they are written.
    pub(crate) const ALL: [(&str, Aggregation); 14] = [
        ("sum", Aggregation::Sum),
        ("avg", Aggregation::Avg),
        ("min", Aggregation::Min),
        ("max", Aggregation::Max),
        ("count", Aggregation::Count),
        ("group", Aggregation::Group),
        ("stddev", Aggregation::Stddev),
        ("stdvar", Aggregation::Stdvar),
        ("topk", Aggregation::Topk),
        ("bottomk", Aggregation::Bottomk),
        ("quantile", Aggregation::Quantile),
        ("count_values", Aggregation::CountValues),
        ("limitk", Aggregation::Limitk),
        ("limit_ratio", Aggregation::LimitRatio),
    ];

    /// By its name.
    pub fn named(name: &str) -> Option<Aggregation> {
        Aggregation::ALL.iter().find(|(written, _)| *written == name).map(|(_, op)| *op)
    }

    /// How it is written.
    pub fn name(self) -> &'static str {
        Aggregation::ALL.iter().find(|(_, op)| *op == self).map_or("", |(written, _)| written)
    }

    /// Whether it takes a parameter before the series.
    pub fn has_param(self) -> bool {
        use Aggregation::*;
        matches!(self, Topk | Bottomk | Quantile | CountValues | Limitk | LimitRatio)
    }
}

/// The labels of groups.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Grouping {
    /// All but these, rather than only these.
    pub without: bool,
    /// The names.
    pub labels: Vec<String>,
}

/// A binary operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // PromQL's own names
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    /// All, with how they are written.
    pub(crate) const ALL: [(&str, BinaryOp); 16] = [
        ("+", BinaryOp::Add),
        ("-", BinaryOp::Sub),
        ("*", BinaryOp::Mul),
        ("/", BinaryOp::Div),
        ("%", BinaryOp::Mod),
        ("^", BinaryOp::Pow),
        ("atan2", BinaryOp::Atan2),
        ("==", BinaryOp::Eq),
        ("!=", BinaryOp::Ne),
        (">", BinaryOp::Gt),
        ("<", BinaryOp::Lt),
        (">=", BinaryOp::Ge),
        ("<=", BinaryOp::Le),
        ("and", BinaryOp::And),
        ("or", BinaryOp::Or),
        ("unless", BinaryOp::Unless),
    ];

    /// By how it is written.
    pub fn named(text: &str) -> Option<BinaryOp> {
        BinaryOp::ALL.iter().find(|(written, _)| *written == text).map(|(_, op)| *op)
    }

    /// How it is written.
    pub fn sign(self) -> &'static str {
        BinaryOp::ALL.iter().find(|(_, op)| *op == self).map_or("", |(written, _)| written)
    }

    /// What binds tighter is greater.
    pub fn precedence(self) -> u8 {
        use BinaryOp::*;
        match self {
            Or => 1,
            And | Unless => 2,
            Eq | Ne | Gt | Lt | Ge | Le => 3,
            Add | Sub => 4,
            Mul | Div | Mod | Atan2 => 5,
            Pow => 6,
        }
    }

    /// Whether it compares.
    pub fn compares(self) -> bool {
        self.precedence() == 3
    }

    /// Whether it is one of sets.
    pub fn of_sets(self) -> bool {
        self.precedence() <= 2
    }
}

/// Which series of the two sides belong together.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Matching {
    /// Only these labels count, rather than all but these.
    pub on: bool,
    /// The labels.
    pub labels: Vec<String>,
    /// Which side may have many.
    pub many: Many,
    /// Labels that are taken over from the side that has one.
    pub include: Vec<String>,
    /// What counts where the left side has no series that belongs to one of the right.
    pub fill_left: Option<f64>,
    /// The other way round.
    pub fill_right: Option<f64>,
}

/// See [`Matching::many`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Many {
    /// Neither.
    #[default]
    Neither,
    /// `group_left`.
    Left,
    /// `group_right`.
    Right,
}

/// What an expression gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number at each step.
    Scalar,
    /// A text.
    Text,
    /// A value for each of some series at each step.
    Vector,
    /// Values over a time.
    Matrix,
}

impl Kind {
    /// As people and clients know it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Scalar => "scalar",
            Kind::Text => "string",
            Kind::Vector => "instant vector",
            Kind::Matrix => "range vector",
        }
    }
}

impl Node {
    /// What it gives.
    pub fn kind(&self) -> Kind {
        match &self.expr {
            Expr::Number(_) => Kind::Scalar,
            Expr::Text(_) => Kind::Text,
            Expr::Vector(_) | Expr::Aggregate { .. } => Kind::Vector,
            Expr::Matrix { .. } | Expr::Subquery { .. } => Kind::Matrix,
            Expr::Call { function, .. } => function.gives,
            Expr::Binary { left, right, .. } => match (left.kind(), right.kind()) {
                (Kind::Scalar, Kind::Scalar) => Kind::Scalar,
                _ => Kind::Vector,
            },
            Expr::Minus(inner) | Expr::Plus(inner) | Expr::Paren(inner) => inner.kind(),
        }
    }
}
