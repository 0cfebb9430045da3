//! The events of long work on stderr: a moving line where a person looks, one plain line per stage elsewhere. Work of
//! less than a second leaves no trace: nobody waited for it.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::control::Event;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Animated,
    Lines,
    Silent,
}

/// One second: whoever waits longer wants to know what for.
const PATIENCE: Duration = Duration::from_secs(1);
/// 100 ms: smooth enough, and no burden on a slow link.
const TICK: Duration = Duration::from_millis(100);

/// All lines of one command; each piece of work has its own.
pub struct Board {
    style: Style,
    bars: MultiProgress,
}

impl Board {
    pub fn new(style: Style) -> Self {
        let target = match style {
            Style::Animated => ProgressDrawTarget::stderr(),
            Style::Lines | Style::Silent => ProgressDrawTarget::hidden(),
        };
        Board { style, bars: MultiProgress::with_draw_target(target) }
    }

    /// A line for one piece of work; `subject` is put before it where there are several.
    pub fn line(&self, subject: Option<&str>) -> Line {
        let prefix = subject.map(|subject| format!("{subject}: ")).unwrap_or_default();
        let how = match self.style {
            Style::Animated => How::Animated(Mutex::new(None)),
            Style::Lines => How::Lines(Plain::begin()),
            Style::Silent => How::Silent,
        };
        Line { bars: self.bars.clone(), prefix, parts: Mutex::default(), how }
    }
}

pub struct Line {
    bars: MultiProgress,
    prefix: String,
    /// Bars of parts that are under way, by name.
    parts: Mutex<HashMap<String, ProgressBar>>,
    how: How,
}

enum How {
    /// Made with the first stage, so that an answer that comes at once draws nothing.
    Animated(Mutex<Option<ProgressBar>>),
    Lines(Plain),
    Silent,
}

impl Line {
    pub fn event<T>(&self, event: &Event<T>) {
        match event {
            Event::Stage { text } => self.stage(&super::plain(text)),
            Event::Progress { done, total, unit } => self.progress(*done, *total, unit),
            Event::Part { name, done, total, unit } => self.part(&super::plain(name), *done, *total, unit),
            Event::Note { text } => self.note(&super::plain(text)),
            Event::Began { .. } | Event::Result { .. } | Event::Fault { .. } | Event::Unknown => {}
        }
    }

    fn stage(&self, text: &str) {
        match &self.how {
            How::Animated(bar) => {
                let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = bar.get_or_insert_with(|| self.bars.add(hidden_bar(&self.prefix)));
                bar.set_style(stage_style());
                bar.set_message(text.to_owned());
                bar.enable_steady_tick(TICK);
            }
            How::Lines(plain) => plain.say(format!("{}{text}", self.prefix)),
            How::Silent => {}
        }
    }

    fn progress(&self, done: u64, total: Option<u64>, unit: &str) {
        let How::Animated(bar) = &self.how else { return };
        let bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = bar.as_ref() else { return };
        bar.set_style(progress_style(unit, total.is_some()));
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    /// A bar of its own below the line, until it is full.
    fn part(&self, name: &str, done: u64, total: Option<u64>, unit: &str) {
        if !matches!(self.how, How::Animated(_)) {
            return;
        }
        let mut parts = lock(&self.parts);
        let bar = parts.entry(name.to_owned()).or_insert_with(|| {
            let bar = self.bars.add(hidden_bar(&format!("  {}", self.prefix)));
            bar.set_message(name.to_owned());
            bar
        });
        bar.set_style(progress_style(unit, total.is_some()));
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
        if Some(done) == total
            && let Some(bar) = parts.remove(name)
        {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }

    /// Notes stay on the screen; they are worth it even where progress is not wanted.
    fn note(&self, text: &str) {
        let line = format!("{}{text}", self.prefix);
        match &self.how {
            How::Animated(_) => {
                // A lost stderr is nobody's loss.
                let _ = self.bars.println(line);
            }
            How::Lines(_) | How::Silent => super::note(&line),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for (_, bar) in lock(&self.parts).drain() {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        if let How::Animated(bar) = &self.how
            && let Some(bar) = bar.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }
}

/// Stages as lines: held back while patience lasts, then the current one, then each as it comes.
struct Plain {
    state: Arc<Mutex<Patience>>,
    waiting: tokio::task::JoinHandle<()>,
}

enum Patience {
    Lasts { stage: Option<String> },
    IsOver,
}

impl Plain {
    fn begin() -> Self {
        let state = Arc::new(Mutex::new(Patience::Lasts { stage: None }));
        let shared = state.clone();
        let waiting = tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            let before = std::mem::replace(&mut *lock(&shared), Patience::IsOver);
            if let Patience::Lasts { stage: Some(stage) } = before {
                super::note(&stage);
            }
        });
        Plain { state, waiting }
    }

    fn say(&self, line: String) {
        match &mut *lock(&self.state) {
            Patience::Lasts { stage } => *stage = Some(line),
            Patience::IsOver => super::note(&line),
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

fn lock<T>(state: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hidden_bar(prefix: &str) -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        .with_style(stage_style())
        .with_prefix(prefix.to_owned())
}

fn stage_style() -> ProgressStyle {
    template("{spinner} {prefix}{msg} {elapsed:.dim}")
}

fn progress_style(unit: &str, bounded: bool) -> ProgressStyle {
    template(match (unit, bounded) {
        ("bytes", true) => {
            "{spinner} {prefix}{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec:.dim}"
        }
        ("bytes", false) => "{spinner} {prefix}{msg} {binary_bytes} {binary_bytes_per_sec:.dim}",
        (_, true) => "{spinner} {prefix}{msg} {wide_bar} {pos}/{len}",
        (_, false) => "{spinner} {prefix}{msg} {pos}",
    })
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("templates are constants, each shown by a test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        stage_style();
        for unit in ["bytes", "items"] {
            progress_style(unit, true);
            progress_style(unit, false);
        }
    }
}
