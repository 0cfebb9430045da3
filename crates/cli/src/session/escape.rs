//! The way out of a guest that no longer answers, as ssh has it: `~.` at the beginning of a line leaves, `~~` is one
//! `~`. Everything else goes through untouched.

/// Where we are in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    AfterTilde,
    Inside,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Pass(Vec<u8>),
    Leave,
}

pub struct Escape {
    place: Place,
}

impl Escape {
    pub fn new() -> Self {
        Escape { place: Place::LineStart }
    }

    /// A tilde that may become an escape is held back until the next key.
    pub fn step(&mut self, typed: &[u8]) -> Step {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            match (self.place, key) {
                (Place::LineStart, b'~') => {
                    self.place = Place::AfterTilde;
                    continue;
                }
                (Place::AfterTilde, b'.') => return Step::Leave,
                (Place::AfterTilde, b'~') | (Place::LineStart | Place::Inside, _) => {}
                (Place::AfterTilde, _) => passed.push(b'~'),
            }
            passed.push(key);
            self.place = if matches!(key, b'\r' | b'\n') { Place::LineStart } else { Place::Inside };
        }
        Step::Pass(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &[&str], expected: Option<&str>) {
        let mut escape = Escape::new();
        let mut passed = Vec::new();
        for keys in typed {
            match escape.step(keys.as_bytes()) {
                Step::Leave => return assert_eq!(expected, None, "{typed:?} left"),
                Step::Pass(bytes) => passed.extend(bytes),
            }
        }
        assert_eq!(Some(String::from_utf8(passed).unwrap().as_str()), expected, "{typed:?}");
    }

    #[test]
    fn a_tilde_and_a_dot_at_the_beginning_of_a_line_leave() {
        check(&["~."], None);
        check(&["ls\r", "~", "."], None);
        check(&["~~\r~."], None);
    }

    #[test]
    fn everything_else_goes_through() {
        check(&["ls ~.\r"], Some("ls ~.\r"));
        check(&["~/bin\r"], Some("~/bin\r"));
        check(&["~~.\r"], Some("~.\r"));
        check(&["cd ~", "."], Some("cd ~."));
        check(&["~", "\r", "~x"], Some("~\r~x"));
    }
}
