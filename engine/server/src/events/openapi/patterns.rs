//! Regular expressions of texts (JSON Schema's `pattern`).

/// What no id has: control characters.
pub(super) const PRINTABLE: &str = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$";
/// A number as text that is not `NaN` or an infinity.
pub(super) const FINITE: &str = "^[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]{1,2})?$";
/// Every year that a time may be of.
pub(super) const YEARS: &str = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";
/// A length of time as proto JSON writes it.
pub(super) const DURATION: &str = "^-?[0-9]{1,11}(\\.[0-9]{1,9})?s$";

/// A time of RFC 3339, with the capital letters that proto JSON asks for.
pub(super) fn time(years: &str) -> String {
    format!(
        "^{years}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\
         (\\.[0-9]{{1,9}})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
    )
}
