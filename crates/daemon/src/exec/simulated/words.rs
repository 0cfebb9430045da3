//! Reads a line as a shell would, as far as a simulated guest needs it: words, quotes, `;`, `&&`, `>&2`.

/// One simple command of a script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simple {
    pub words: Vec<String>,
    /// `>&2`: what it prints goes to stderr.
    pub to_stderr: bool,
    /// Runs only if the one before it ended with 0.
    pub after_success: bool,
}

pub fn script(text: &str) -> Vec<Simple> {
    let mut commands = vec![Simple::default()];
    for token in tokens(text) {
        let current = commands.last_mut().expect("there is always a command under way");
        match token {
            Token::Word(word) => current.words.push(word),
            Token::ToStderr => current.to_stderr = true,
            Token::Then { after_success } => commands.push(Simple { after_success, ..Simple::default() }),
        }
    }
    commands.retain(|command| !command.words.is_empty());
    commands
}

enum Token {
    Word(String),
    ToStderr,
    Then { after_success: bool },
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"'), '\\') | (None, '\\') => word.get_or_insert_default().extend(rest.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t' | '\n' | ';' | '&') => {
                tokens.extend(word.take().map(unquoted));
                if c == '&' && rest.next_if_eq(&'&').is_some() {
                    tokens.push(Token::Then { after_success: true });
                } else if matches!(c, '\n' | ';') {
                    tokens.push(Token::Then { after_success: false });
                }
            }
            (None, '>') if rest.clone().take(2).eq("&2".chars()) => {
                rest.nth(1);
                tokens.extend(word.take().map(unquoted));
                tokens.push(Token::ToStderr);
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word.map(unquoted));
    tokens
}

fn unquoted(word: String) -> Token {
    Token::Word(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&[&str], bool, bool)]) {
        let found = script(text);
        let found: Vec<(Vec<&str>, bool, bool)> = found
            .iter()
            .map(|c| (c.words.iter().map(String::as_str).collect(), c.to_stderr, c.after_success))
            .collect();
        let expected: Vec<(Vec<&str>, bool, bool)> =
            expected.iter().map(|(words, err, then)| (words.to_vec(), *err, *then)).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn scripts_are_read_as_a_shell_reads_them() {
        check("exit 42", &[(&["exit", "42"], false, false)]);
        check(
            "echo out; echo err >&2; exit 42",
            &[(&["echo", "out"], false, false), (&["echo", "err"], true, false), (&["exit", "42"], false, false)],
        );
        check("false && echo 'a  b' \"c;d\"", &[(&["false"], false, false), (&["echo", "a  b", "c;d"], false, true)]);
        check(" ; \n ", &[]);
        check("echo ''", &[(&["echo", ""], false, false)]);
    }
}
