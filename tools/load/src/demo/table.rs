//! What the demo draws: a table in box characters, bars, and colours where a person looks.

use std::{
    env,
    fmt::Write as _,
    io::{IsTerminal, stdout},
};

/// Colours, or none of them.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    /// Whether escape codes are written.
    pub is_on: bool,
}

impl Paint {
    /// Colours when standard output is a terminal and `NO_COLOR` is not set (no-color.org).
    pub fn detect() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_on: stdout().is_terminal()
                && !refused
                && env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.is_on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// For headings.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what may be skipped.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// For what went well.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// For what did not.
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// For bars.
    pub fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }
}

/// A table whose first column is text and whose others are numbers.
#[derive(Debug)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Whether the last row is a sum, set off by a rule.
    has_sum: bool,
}

impl Table {
    /// A table with these columns.
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|&text| text.to_owned()).collect(), rows: Vec::new(), has_sum: false }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows.push(cells);
    }

    /// Adds the last row.
    pub fn sum(&mut self, cells: Vec<String>) {
        self.row(cells);
        self.has_sum = true;
    }

    /// As text, every line indented by two.
    pub fn draw(&self, paint: Paint) -> String {
        let cells = |column: usize| self.rows.iter().chain([&self.head]).map(move |row| width(&row[column]));
        let widths: Vec<usize> =
            (0..self.head.len()).map(|column| cells(column).max().unwrap_or(0)).collect();
        let rule = |left: &str, middle: &str, right: &str| {
            let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
            format!("  {}\n", paint.dim(&format!("{left}{}{right}", parts.join(middle))))
        };
        let line = |row: &[String], is_bold: bool| {
            let mut text = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let blank = " ".repeat(widths[column].saturating_sub(width(cell)));
                let cell = if is_bold { paint.bold(cell) } else { cell.clone() };
                let (before, after) =
                    if column == 0 { (String::new(), blank) } else { (blank, String::new()) };
                let _ = write!(text, "{} {before}{cell}{after} ", paint.dim("│"));
            }
            text + &paint.dim("│") + "\n"
        };
        let mut text = rule("┌", "┬", "┐") + &line(&self.head, true) + &rule("├", "┼", "┤");
        for (index, row) in self.rows.iter().enumerate() {
            let is_sum = self.has_sum && index + 1 == self.rows.len();
            if is_sum {
                text += &rule("├", "┼", "┤");
            }
            text += &line(row, is_sum);
        }
        text + &rule("└", "┴", "┘")
    }
}

/// Columns on a terminal; every character used here takes one.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// A bar of `value` where `max` is `columns` wide; something is never drawn as nothing.
pub fn bar(value: u64, max: u64, columns: usize) -> String {
    if value == 0 || max == 0 {
        return String::new();
    }
    let filled = (value as f64 / max as f64 * columns as f64).round() as usize;
    "█".repeat(filled.clamp(1, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { is_on: false };

    #[test]
    fn numbers_stand_right_and_text_left() {
        let mut table = Table::new(&["protocol", "sent"]);
        table.row(vec!["h2c".to_owned(), "5".to_owned()]);
        table.sum(vec!["all".to_owned(), "12,345".to_owned()]);
        // The first line stands alone: a line break escaped in a string would take the indent with it.
        let expected = "  ┌──────────┬────────┐
  │ protocol │   sent │
  ├──────────┼────────┤
  │ h2c      │      5 │
  ├──────────┼────────┤
  │ all      │ 12,345 │
  └──────────┴────────┘
";
        assert_eq!(table.draw(PLAIN), expected);
    }

    #[test]
    fn lines_are_equally_wide_with_wide_looking_characters() {
        let mut table = Table::new(&["protocol", "p50"]);
        table.row(vec!["gRPC 4×8".to_owned(), "84 µs".to_owned()]);
        let widths: Vec<usize> = table.draw(PLAIN).lines().map(width).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{widths:?}");
    }

    #[test]
    fn bar_is_in_proportion_and_never_vanishes() {
        assert_eq!(bar(0, 10, 10), "");
        assert_eq!(bar(1, 1000, 10), "█");
        assert_eq!(bar(5, 10, 10).chars().count(), 5);
        assert_eq!(bar(10, 10, 10).chars().count(), 10);
    }

    #[test]
    fn colours_are_only_written_when_on() {
        assert_eq!(PLAIN.bold("x"), "x");
        assert_eq!(Paint { is_on: true }.bold("x"), "\x1b[1mx\x1b[0m");
    }
}
