//! `.env`: lines `NAME=VALUE`, as shells, Compose and the older systems' libraries write them.
//!
//! A value in quotes may go on over several lines. Without quotes it is what stands there, quotes and semicolons inside it
//! included, up to a ` #` and without blanks at its ends. `$NAME` and `${NAME}` stand for what was set before, unless in
//! single quotes; a name that nobody has set stays as it is written. An error names the line and does not repeat it: it
//! may hold a secret.

use std::{collections::BTreeMap, io, path::Path};

use super::values::Problem;

/// Variables by name.
type Variables = BTreeMap<String, String>;

/// Reads a file; one that is not there has nothing in it. `set` is what is set already.
///
/// # Errors
/// The first line that cannot be read, with the way to write it.
pub fn read_dotenv(path: &Path, set: &Variables) -> Result<Variables, Problem> {
    let at = path.display();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Variables::new()),
        Err(error) => return Err(Problem(format!("{at} cannot be read: {error}"))),
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Problem(format!("{at}, line {line}: it is not UTF-8; save the file as UTF-8"))
    })?;
    parse(text, set).map_err(|(line, why)| Problem(format!("{at}, line {line}: {why}")))
}

fn parse(text: &str, set: &Variables) -> Result<Variables, (usize, &'static str)> {
    let mut found = Variables::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut number = 0;
    while let Some(line) = lines.get(number) {
        number += 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.strip_prefix("export ").unwrap_or(line).split_once('=');
        let Some((name, value)) = pair.filter(|(name, _)| is_name(name.trim())) else {
            return Err((number, "it is not NAME=VALUE; write it so, or put a # in front of it"));
        };
        let value = value.trim();
        let known = |name: &str| set.get(name).or_else(|| found.get(name));
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let Some((value, more)) = quoted(quote, &value[1..], &lines[number..]) else {
                    if closing(quote, &value[1..]).is_none() {
                        return Err((number, "its quote is never closed; close it, or leave it out"));
                    }
                    // More stands behind the quotes: they are part of the value.
                    found.insert(name.trim().to_owned(), filled_in(bare(value), known));
                    continue;
                };
                number += more;
                if quote == '"' { unescaped(&value, known) } else { value }
            }
            _ => filled_in(bare(value), known),
        };
        found.insert(name.trim().to_owned(), value);
    }
    Ok(found)
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    !text.is_empty() && text.bytes().all(allowed) && !text.as_bytes()[0].is_ascii_digit()
}

/// A value without quotes: up to a comment.
fn bare(text: &str) -> &str {
    let comment = text.char_indices().find(|(at, letter)| {
        *letter == '#' && text[..*at].chars().next_back().is_none_or(char::is_whitespace)
    });
    text[..comment.map_or(text.len(), |(at, _)| at)].trim()
}

/// Where the quote is closed.
fn closing(quote: char, text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices()
        .find(|(_, letter)| {
            let closes = *letter == quote && !escaped;
            escaped = quote == '"' && *letter == '\\' && !escaped;
            closes
        })
        .map(|(at, _)| at)
}

/// A value in quotes behind its first one, and how many further lines it takes; `None` if it is not closed, or something
/// else than a comment stands behind it.
fn quoted(quote: char, first: &str, further: &[&str]) -> Option<(String, usize)> {
    let mut value = first.to_owned();
    for taken in 0..=further.len() {
        if let Some(end) = closing(quote, &value) {
            let rest = value[end + 1..].trim();
            let is_whole = rest.is_empty() || rest.starts_with('#');
            value.truncate(end);
            return is_whole.then_some((value, taken));
        }
        value.push('\n');
        value.push_str(further.get(taken)?);
    }
    None
}

/// What stands between double quotes.
fn unescaped<'a>(text: &str, known: impl Fn(&str) -> Option<&'a String>) -> String {
    let mut value = String::new();
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        value.push_str(&filled_in(&plain, &known));
        plain.clear();
        match letters.next() {
            Some('n') => value.push('\n'),
            Some('r') => value.push('\r'),
            Some('t') => value.push('\t'),
            Some(other @ ('"' | '\\' | '$' | '`')) => value.push(other),
            Some(other) => value.extend(['\\', other]),
            None => value.push('\\'),
        }
    }
    value.push_str(&filled_in(&plain, &known));
    value
}

/// `$NAME` and `${NAME}` replaced by what is known.
fn filled_in<'a>(text: &str, known: impl Fn(&str) -> Option<&'a String>) -> String {
    let mut value = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        value.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let (name, length) = match behind.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = behind.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
                let name = &behind[..end.unwrap_or(behind.len())];
                (name, name.len())
            }
        };
        match known(name) {
            Some(found) => value.push_str(found),
            None => value.push_str(&rest[at..=at + length]),
        }
        rest = &behind[length..];
    }
    value.push_str(rest);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn value(text: &str) -> String {
        parse(text, &Variables::from([("HOME".to_owned(), "/root".to_owned())])).unwrap().remove("A").unwrap()
    }

    #[test]
    fn values_are_read_as_they_stand() {
        for (text, expected) in [
            ("A=1", "1"),
            ("export A=1\n", "1"),
            ("A = 1 ", "1"),
            ("\u{feff}A=true ", "true"),
            ("A=1\r\nB=2\r\n", "1"),
            ("A=", ""),
            ("A=1 # one", "1"),
            ("A=a#b", "a#b"),
            ("A= # nothing", ""),
            ("A=\"a # b\" # c", "a # b"),
            ("A='a $HOME \\n'", "a $HOME \\n"),
            ("A=\"a\\n\\\"b\\\" \\$HOME $HOME\"", "a\n\"b\" $HOME /root"),
            ("A=\"a\nb\"\nB=1", "a\nb"),
            ("A=default-src 'self'; img-src \"x\" *", "default-src 'self'; img-src \"x\" *"),
            ("A='self' https://x; img-src 'none'", "'self' https://x; img-src 'none'"),
            ("A=it's", "it's"),
            ("A=C:\\dir\\new", "C:\\dir\\new"),
            ("A=$HOME/x", "/root/x"),
            ("B=2\nA=${B}1$NOBODY${NEITHER}$", "21$NOBODY${NEITHER}$"),
            ("A=a=b", "a=b"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_names_the_line() {
        for (text, line, why) in [
            ("A=1\nswordfish\n", 2, "NAME=VALUE"),
            ("A: swordfish", 1, "NAME=VALUE"),
            ("=swordfish", 1, "NAME=VALUE"),
            ("1A=swordfish", 1, "NAME=VALUE"),
            ("A=1\n\nB=\"swordfish\nC=2\n", 3, "never closed"),
            ("B='swordfish", 1, "never closed"),
        ] {
            let (found, said) = parse(text, &Variables::new()).unwrap_err();
            assert!(
                found == line && said.contains(why) && !said.contains("swordfish"),
                "{text:?}: {found} {said}"
            );
        }
    }
}
