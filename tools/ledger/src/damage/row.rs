//! One line of the table: what was seen, and what that is called.

use super::wounds::Wound;

/// What a tool said of a damaged directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tool {
    /// Its exit code was 0.
    pub content: bool,
    /// Acknowledged messages that it did not show.
    pub missing: usize,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Row {
    /// The damage.
    pub name: String,
    /// In words.
    pub wound: String,
    /// `log verify`.
    pub verify: Tool,
    /// `log dump`.
    pub dump: Tool,
    /// `replay`.
    pub replay: Tool,
    /// What the start said, if it was refused.
    pub refusal: Option<String>,
    /// Whether that names what is damaged.
    pub by_name: bool,
    /// Messages that the repair said are lost, if there was one.
    pub repair_said: Option<usize>,
    /// Acknowledged messages that are not in the log at the end.
    pub missing: Vec<String>,
    /// Of these, those that had been passed on.
    pub missing_behind: usize,
    /// Messages that the workers processed, in all lives after the damage; `None` when one of these did not say.
    pub processed: Option<usize>,
    /// Acknowledged messages in the log that were not worked on, or not delivered.
    pub not_worked_on: usize,
    /// Repeats that were not recognised.
    pub taken_again: Vec<String>,
    /// Of these, those whose first is there.
    pub taken_twice: usize,
    /// New messages with the shard and offset of an acknowledged one.
    pub offsets_twice: usize,
    /// Acknowledged messages that are at another shard or offset than was answered.
    pub misplaced: usize,
    /// Messages that nobody sent, or with another content.
    pub strange: usize,
    /// What does not go on.
    pub stuck: Vec<String>,
    /// Faults of another kind.
    pub others: Vec<String>,
    notes: Vec<String>,
}

impl Row {
    /// Nothing was seen yet.
    pub fn new(name: &str, wound: &Wound) -> Self {
        Self { name: name.to_owned(), wound: wound.what.clone(), processed: Some(0), ..Self::default() }
    }

    /// Keeps a remark.
    pub fn note(&mut self, remark: Option<String>) {
        self.notes.extend(remark);
    }

    /// The start, or the run, ended with these words.
    pub fn refused(&mut self, why: &str, wound: &Wound) {
        self.by_name = wound.names.is_empty() || wound.names.iter().any(|name| why.contains(name.as_str()));
        self.refusal = Some(why.to_owned());
    }

    /// Everything that must not be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |count: usize, text: String| {
            if count > 0 {
                faults.push(text);
            }
        };
        let (missing, behind) = (self.missing.len(), self.missing_behind);
        let silent = missing.saturating_sub(self.repair_said.unwrap_or(0));
        match self.refusal {
            Some(_) => fault(silent, format!("SILENT LOSS {silent}, more than the repair said")),
            None => {
                let unpassed = missing - behind;
                fault(unpassed, format!("SILENT LOSS {unpassed}"));
                // What all consumers have passed is still what `replay` and `dump` promise to show.
                let unseen = if self.verify.content { behind } else { 0 };
                fault(unseen, format!("SILENT LOSS {unseen}, of what was passed"));
            }
        }
        fault(self.not_worked_on, format!("SILENT: {} not worked on", self.not_worked_on));
        for (name, tool) in [("dump", self.dump), ("replay", self.replay)] {
            let missing = if tool.content { tool.missing } else { 0 };
            fault(missing, format!("SILENT: {name} leaves out {missing}, exit code 0"));
        }
        fault(self.taken_twice, format!("SILENT: {} repeats taken twice", self.taken_twice));
        fault(self.offsets_twice, format!("SILENT: {} offsets given twice", self.offsets_twice));
        fault(self.misplaced, format!("SILENT: {} at another shard or offset", self.misplaced));
        fault(self.strange, format!("SILENT: {} altered or invented", self.strange));
        let unnamed = usize::from(self.refusal.is_some() && !self.by_name);
        fault(unnamed, "refused, without a name".to_owned());
        for stuck in &self.stuck {
            fault(1, format!("stuck: {stuck}"));
        }
        for other in &self.others {
            fault(1, other.clone());
        }
        faults
    }

    /// What it is called when nothing is wrong.
    fn good(&self) -> String {
        match (&self.refusal, self.repair_said) {
            (Some(_), Some(said)) => {
                format!("refused by name; the repair says {said} lost, {} are", self.missing.len())
            }
            (Some(_), None) => "refused by name".to_owned(),
            _ => "harmless".to_owned(),
        }
    }

    /// Prints it; whether it is good.
    pub fn print(&self) -> bool {
        let faults = self.faults();
        let verdict = if faults.is_empty() { self.good() } else { faults.join("; ") };
        let code = |tool: Tool| if tool.content { "0" } else { "1" };
        let start = if self.refusal.is_some() { "refused" } else { "starts" };
        let tools = [self.verify, self.dump, self.replay].map(code).join(" ");
        println!("{:<44} {start:<8} {tools}   {verdict}", self.name);
        println!("    {}", self.wound);
        if let Some(refusal) = &self.refusal {
            let short: String = refusal.chars().take(260).collect();
            println!("    said: {short}");
        }
        if let Some(said) = self.repair_said {
            println!("    repair: {said} said to be lost, {} acknowledged ones are", self.missing.len());
        }
        for note in &self.notes {
            println!("    {note}");
        }
        if !self.missing.is_empty() {
            println!("    missing: {}", self.missing.iter().take(4).cloned().collect::<Vec<_>>().join(", "));
        }
        faults.is_empty()
    }

    /// What heads the lines.
    pub fn heading() {
        println!("{:<44} {:<8} {:<7} verdict", "damage", "start", "v d r");
        println!("{:<44} {:<8} (exit codes of log verify, log dump, replay)", "", "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let wound = Wound { what: String::new(), names: vec!["00000000000000000007.segment".to_owned()] };
        let content = Tool { content: true, missing: 0 };
        Row { verify: content, dump: content, replay: content, ..Row::new("any", &wound) }
    }

    fn lost(count: usize) -> Vec<String> {
        (0..count).map(|n| n.to_string()).collect()
    }

    #[test]
    fn a_loss_without_a_word_is_silent_and_what_the_repair_names_is_not() {
        assert_eq!(Row { missing: lost(3), ..row() }.faults(), ["SILENT LOSS 3"]);
        let named = Row { missing: lost(3), refusal: Some(String::new()), by_name: true, ..row() };
        assert!(Row { repair_said: Some(3), ..named }.faults().is_empty());
        let named = Row { missing: lost(3), refusal: Some(String::new()), by_name: true, ..row() };
        assert_eq!(
            Row { repair_said: Some(1), ..named }.faults(),
            ["SILENT LOSS 2, more than the repair said"]
        );
    }

    #[test]
    fn what_was_passed_may_be_gone_only_if_verify_says_so() {
        let gone = || Row { missing: lost(2), missing_behind: 2, ..row() };
        assert_eq!(gone().faults(), ["SILENT LOSS 2, of what was passed"]);
        assert!(Row { verify: Tool { content: false, missing: 0 }, ..gone() }.faults().is_empty());
    }

    #[test]
    fn a_refusal_names_what_is_damaged() {
        let wound = Wound { what: String::new(), names: vec!["7.segment".to_owned(), "shard 1".to_owned()] };
        let mut row = row();
        row.refused("shard 1: offset 9 is missing", &wound);
        assert!(row.faults().is_empty());
        row.refused("something is wrong", &wound);
        assert_eq!(row.faults(), ["refused, without a name"]);
    }

    #[test]
    fn a_tool_that_is_content_has_shown_all() {
        let dump = Tool { content: true, missing: 4 };
        assert_eq!(Row { dump, ..row() }.faults(), ["SILENT: dump leaves out 4, exit code 0"]);
        let dump = Tool { content: false, missing: 4 };
        assert!(Row { dump, ..row() }.faults().is_empty());
    }
}
