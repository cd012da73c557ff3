//! Tables in Markdown.

/// Rows under a head.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Self { rows: vec![head] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints it: the first column to the left, numbers to the right.
    pub(crate) fn print(&self) {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for (number, cells) in self.rows.iter().enumerate() {
            let cells = cells.iter().zip(&widths).enumerate();
            let line: Vec<_> = cells
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            println!("{}", row(&line));
            if number == 0 {
                let rule: Vec<_> = (0..columns).map(rule).collect();
                println!("| {} |", rule.join(" | "));
            }
        }
        println!();
    }
}

/// The head of a table whose rows are printed one by one, as they come.
pub(crate) fn head(head: &[&str]) -> String {
    let rule: Vec<_> = (0..head.len()).map(rule).collect();
    format!("| {} |\n| {} |", head.join(" | "), rule.join(" | "))
}

/// A row of such a table.
pub(crate) fn row(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

/// What says to which side a column is.
fn rule(column: usize) -> &'static str {
    match column {
        0 => "---",
        _ => "---:",
    }
}

/// Rates as one cell.
pub(crate) fn rates(rates: &[f64]) -> String {
    let rates: Vec<_> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    rates.join(" ")
}
