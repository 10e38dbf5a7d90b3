//! The pieces of a timeline in SVG: marks, lanes, text, and a legend of the marks that were used.
//!
//! There is no background; the greys and colours are readable on white and on black.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};

const WIDTH: f64 = 800.0;
/// Where lanes begin and end; their names are to the left, their results to the right.
pub const LEFT: f64 = 138.0;
pub const RIGHT: f64 = 664.0;
pub const LANE: f64 = 24.0;

const STYLE: &str = "
text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #59636e }
.name { font-weight: 600; font-size: 14px } .small { font-size: 11px }
.bad { fill: #cf222e; font-weight: 600 }
.grid { stroke: #8b949e; stroke-opacity: .25 } .base { stroke: #8b949e; stroke-opacity: .6 }
.end { stroke: #e5534b; stroke-width: 1.5; stroke-dasharray: 4 3 }
.data { fill: #4493f8 } .pong { fill: #2da44e } .late { fill: #e5534b } .wait { fill: #d4792a }
.left { fill: #4493f8; fill-opacity: .3; stroke: #4493f8; stroke-width: .75 }
.grace { fill: #a371f7; fill-opacity: .6 } .closing { fill: #8b949e; fill-opacity: .5 }
@media (prefers-color-scheme: dark) { text { fill: #9198a1 } .bad { fill: #f85149 } }
";

/// The meaning of a mark, in the order of the legend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Message,
    Part,
    Frame,
    Ping,
    Wait,
    Answered,
    Unanswered,
    Left,
    Overdue,
    Grace,
    Closing,
    End,
}

impl Mark {
    fn meaning(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Part => "part of a message",
            Self::Frame => "the peer's ping or pong",
            Self::Ping => "ping written",
            Self::Wait => "waits to be written",
            Self::Answered => "ping until its answer",
            Self::Unanswered => "unanswered ping",
            Self::Left => "time left of a limit, down to 0",
            Self::Overdue => "expired, but not polled yet",
            Self::Grace => "grace: this process was late, not the peer",
            Self::Closing => "closing handshake",
            Self::End => "verdict or end",
        }
    }

    /// Draws it from `x` on in a lane with the middle `y`; only bars have a width.
    fn draw(self, x: f64, y: f64, width: f64) -> String {
        let bar = |class, width: f64, height: f64, y: f64| {
            let y = y - height / 2.0;
            format!(
                "<rect class='{class}' x='{x:.1}' y='{y:.1}' width='{width:.1}' height='{height}'/>"
            )
        };
        match self {
            Self::Message => bar("data", 1.5, 14.0, y),
            Self::Part => bar("data", 1.5, 6.0, y + 4.0),
            Self::Frame => format!("<circle class='pong' cx='{x:.1}' cy='{y:.1}' r='3'/>"),
            Self::Ping => bar("pong", 1.5, 14.0, y),
            Self::Wait => bar("wait", width, 5.0, y),
            Self::Answered => bar("pong", width, 9.0, y),
            Self::Unanswered => bar("late", width, 9.0, y),
            Self::Left => path(
                "left",
                format_args!("M{x:.1} {:.1}v-12l{width} 12z", y + 6.0),
            ),
            Self::Overdue => bar("late", width, 3.0, y + 7.5),
            Self::Grace => bar("grace", width, 9.0, y),
            Self::Closing => bar("closing", width, 9.0, y),
            Self::End => path("end", format_args!("M{x:.1} {:.1}v14", y - 7.0)),
        }
    }
}

fn path(class: &str, d: impl Display) -> String {
    format!("<path class='{class}' d='{d}'/>")
}

/// A drawing that grows downwards.
#[derive(Default)]
pub struct Sheet {
    body: String,
    used: BTreeSet<Mark>,
    /// Where the next element goes.
    pub y: f64,
}

impl Sheet {
    /// Lines of text over the whole width.
    pub fn text(&mut self, class: &str, text: &str) {
        let letters = if class == "name" { 80 } else { 112 };
        let mut line = String::new();
        for word in text.split_whitespace() {
            if line.len() + word.len() >= letters {
                self.line(class, &line);
                line.clear();
            }
            line += if line.is_empty() { "" } else { " " };
            line += word;
        }
        self.line(class, &line);
    }

    fn line(&mut self, class: &str, line: &str) {
        self.y += 18.0;
        self.label(8.0, self.y, class, "start", line);
    }

    pub fn label(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            "<text class='{class}' x='{x:.1}' y='{y:.1}' text-anchor='{anchor}'>{text}</text>"
        ));
    }

    /// Begins the next lane.
    pub fn lane(&mut self, name: &str, result: &str) {
        self.label(LEFT - 10.0, self.y + 16.0, "", "end", name);
        self.label(RIGHT + 8.0, self.y + 16.0, "small", "start", result);
        self.y += LANE;
        self.base("grid", self.y - 3.0);
    }

    /// Puts a mark into the current lane.
    pub fn mark(&mut self, mark: Mark, x: f64, width: f64) {
        let drawn = mark.draw(x, self.y - LANE / 2.0, width);
        // Of many in the same place, one is enough.
        if !self.body.trim_end().ends_with(&drawn) {
            self.add(format_args!("{drawn}"));
        }
        self.used.insert(mark);
    }

    pub fn path(&mut self, class: &str, d: impl Display) {
        self.add(path(class, d));
    }

    /// A line from `top` down to here.
    pub fn vertical(&mut self, class: &str, x: f64, top: f64) {
        let bottom = self.y;
        self.path(class, format_args!("M{x:.1} {top:.1}V{bottom:.1}"));
    }

    /// A line below the lanes.
    pub fn base(&mut self, class: &str, y: f64) {
        self.path(class, format_args!("M{LEFT} {y:.1}H{RIGHT}"));
    }

    pub fn uses(&mut self, mark: Mark) {
        self.used.insert(mark);
    }

    fn add(&mut self, element: impl Display) {
        let _ = writeln!(self.body, "{element}");
    }

    /// The whole picture, with the legend.
    pub fn finish(mut self, title: &str) -> String {
        let mut x = 8.0;
        for mark in std::mem::take(&mut self.used) {
            let width = 42.0 + 6.6 * mark.meaning().len() as f64;
            if x > 8.0 && x + width > WIDTH {
                (x, self.y) = (8.0, self.y + 18.0);
            }
            self.add(mark.draw(x + 4.0, self.y + 14.0, 12.0));
            self.label(x + 22.0, self.y + 18.0, "small", "start", mark.meaning());
            x += width;
        }
        let (title, body, height) = (escape(title), self.body, self.y + 28.0);
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' \
             width='{WIDTH}' role='img'>\n<title>{title}</title>\n<style>{STYLE}</style>\n{body}</svg>"
        )
    }
}

fn escape(text: &str) -> String {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    text.replace(char::is_control, " ")
}
