//! The functions there are, and what they take.

use crate::ast::Kind;

/// A function.
#[derive(Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub takes: &'static [Kind],
    /// How many of those may be left out, at the end.
    pub optional: usize,
    /// Whether the last may come again and again.
    pub variadic: bool,
    /// What it gives.
    pub gives: Kind,
}

const fn f(name: &'static str, takes: &'static [Kind], gives: Kind) -> Function {
    Function { name, takes, optional: 0, variadic: false, gives }
}

const S: Kind = Kind::Scalar;
const T: Kind = Kind::Text;
const V: Kind = Kind::Vector;
const M: Kind = Kind::Matrix;

/// All of them, by name.
pub const FUNCTIONS: [Function; 87] = [
    f("abs", &[V], V),
    f("absent", &[V], V),
    f("absent_over_time", &[M], V),
    f("acos", &[V], V),
    f("acosh", &[V], V),
    f("asin", &[V], V),
    f("asinh", &[V], V),
    f("atan", &[V], V),
    f("atanh", &[V], V),
    f("avg_over_time", &[M], V),
    f("ceil", &[V], V),
    f("changes", &[M], V),
    f("clamp", &[V, S, S], V),
    f("clamp_max", &[V, S], V),
    f("clamp_min", &[V, S], V),
    f("cos", &[V], V),
    f("cosh", &[V], V),
    f("count_over_time", &[M], V),
    Function { optional: 1, ..f("day_of_month", &[V], V) },
    Function { optional: 1, ..f("day_of_week", &[V], V) },
    Function { optional: 1, ..f("day_of_year", &[V], V) },
    Function { optional: 1, ..f("days_in_month", &[V], V) },
    f("deg", &[V], V),
    f("delta", &[M], V),
    f("deriv", &[M], V),
    f("double_exponential_smoothing", &[M, S, S], V),
    f("end", &[], S),
    f("exp", &[V], V),
    f("first_over_time", &[M], V),
    f("floor", &[V], V),
    f("histogram_fraction", &[S, S, V], V),
    f("histogram_quantile", &[S, V], V),
    f("holt_winters", &[M, S, S], V),
    Function { optional: 1, ..f("hour", &[V], V) },
    f("idelta", &[M], V),
    f("increase", &[M], V),
    Function { optional: 1, ..f("info", &[V, V], V) },
    f("irate", &[M], V),
    Function { variadic: true, optional: 1, ..f("label_join", &[V, T, T, T], V) },
    f("label_replace", &[V, T, T, T, T], V),
    f("last_over_time", &[M], V),
    f("ln", &[V], V),
    f("log10", &[V], V),
    f("log2", &[V], V),
    f("mad_over_time", &[M], V),
    f("max_over_time", &[M], V),
    f("min_over_time", &[M], V),
    Function { optional: 1, ..f("minute", &[V], V) },
    Function { optional: 1, ..f("month", &[V], V) },
    f("pi", &[], S),
    f("predict_linear", &[M, S], V),
    f("present_over_time", &[M], V),
    f("quantile_over_time", &[S, M], V),
    f("rad", &[V], V),
    f("range", &[], S),
    f("rate", &[M], V),
    f("resets", &[M], V),
    Function { optional: 1, ..f("round", &[V, S], V) },
    f("scalar", &[V], S),
    f("sgn", &[V], V),
    f("sin", &[V], V),
    f("sinh", &[V], V),
    f("sort", &[V], V),
    Function { variadic: true, optional: 1, ..f("sort_by_label", &[V, T], V) },
    Function { variadic: true, optional: 1, ..f("sort_by_label_desc", &[V, T], V) },
    f("sort_desc", &[V], V),
    f("sqrt", &[V], V),
    f("start", &[], S),
    f("stddev_over_time", &[M], V),
    f("stdvar_over_time", &[M], V),
    f("step", &[], S),
    f("sum_over_time", &[M], V),
    f("tan", &[V], V),
    f("tanh", &[V], V),
    f("time", &[], S),
    f("timestamp", &[V], V),
    f("ts_of_first_over_time", &[M], V),
    f("ts_of_last_over_time", &[M], V),
    f("ts_of_max_over_time", &[M], V),
    f("ts_of_min_over_time", &[M], V),
    f("vector", &[S], V),
    Function { optional: 1, ..f("year", &[V], V) },
    // Of native histograms only: of other series they give nothing.
    f("histogram_avg", &[V], V),
    f("histogram_count", &[V], V),
    f("histogram_stddev", &[V], V),
    f("histogram_stdvar", &[V], V),
    f("histogram_sum", &[V], V),
];

/// The function of that name.
pub fn named(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}
