//! Received events as lines: for people, or as JSON for programs.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write},
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::value::RawValue;
use tidings_protocol::envelope::Envelope;

use super::client::visible;

/// An event as the stream brought it.
pub(super) struct Received<'a> {
    /// Its type.
    pub(super) event: &'a str,
    /// Its envelope, or whatever else the server sent.
    pub(super) data: &'a str,
    /// The cursor after it.
    pub(super) id: &'a str,
}

/// How an event is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Json,
    Plain,
    Coloured,
}

/// Prints events to where they are wanted.
pub(super) struct Printer<W: Write> {
    out: io::BufWriter<W>,
    style: Style,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    event: &'a str,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<u64>,
}

impl Printer<io::Stdout> {
    /// To standard output; in colour if that is a terminal that wants it (<https://no-color.org>).
    pub(super) fn to_stdout(json: bool) -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let style = match io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb {
            _ if json => Style::Json,
            true => Style::Coloured,
            false => Style::Plain,
        };
        Self { out: io::BufWriter::new(io::stdout()), style }
    }
}

impl<W: Write> Printer<W> {
    /// Prints one event. It is seen after [`Printer::flush`].
    pub(super) fn print(&mut self, received: &Received<'_>) -> io::Result<()> {
        let envelope = serde_json::from_str::<Envelope<'_>>(received.data).ok();
        // What the server sends of its own accord has no envelope.
        let data = match &envelope {
            Some(envelope) => Cow::Borrowed(&*envelope.data),
            None => Cow::Owned(
                RawValue::from_string(received.data.to_owned())
                    .or_else(|_| serde_json::value::to_raw_value(received.data))?,
            ),
        };
        let channel = envelope.as_ref().map(|envelope| &*envelope.channel);
        let sent_at = envelope.as_ref().map(|envelope| envelope.sent_at);
        let line = Line { id: received.id, channel, event: received.event, data: &data, sent_at };
        match self.style {
            Style::Json => {
                serde_json::to_writer(&mut self.out, &line)?;
                self.out.write_all(b"\n")
            }
            Style::Plain => self.print_plain(&line, ["", "", ""]),
            // Dim for the time, cyan for the channel.
            Style::Coloured => self.print_plain(&line, ["\u{1b}[2m", "\u{1b}[36m", "\u{1b}[0m"]),
        }
    }

    fn print_plain(&mut self, line: &Line<'_>, [dim, cyan, off]: [&str; 3]) -> io::Result<()> {
        if let Some(time) = line.sent_at.and_then(time_of_day) {
            write!(self.out, "{dim}{time}{off} ")?;
        }
        if let Some(channel) = line.channel {
            write!(self.out, "{cyan}{}{off} ", visible(channel))?;
        }
        if line.event != "message" {
            write!(self.out, "{dim}{}{off} ", visible(line.event))?;
        }
        // A string is for people to read; its further lines are set in, so that none passes for an event.
        let text = serde_json::from_str::<String>(line.data.get()).unwrap_or_else(|_| line.data.get().to_owned());
        writeln!(self.out, "{}", visible(&text).replace('\n', "\n    "))
    }

    /// Lets what was printed be seen.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Hours, minutes and seconds of a time in milliseconds since the epoch, in UTC.
fn time_of_day(millis: u64) -> Option<String> {
    // Beyond the year 9999 there is no such text, and the time comes from a publisher.
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(millis.min(253_402_300_799_000)))?;
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.get(11..20).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(style: Style, event: &str, data: &str) -> String {
        let mut printer = Printer { out: io::BufWriter::new(Vec::new()), style };
        printer.print(&Received { event, data, id: "AQ" }).unwrap();
        String::from_utf8(printer.out.into_inner().unwrap()).unwrap()
    }

    const ENVELOPE: &str = r#"{"id":"x","channel":"chat:a","event":"said","data":{"n":1.10},"sent_at":3661000}"#;

    #[test]
    fn json_lines_keep_the_data_as_it_was() {
        assert_eq!(
            printed(Style::Json, "said", ENVELOPE),
            "{\"id\":\"AQ\",\"channel\":\"chat:a\",\"event\":\"said\",\"data\":{\"n\":1.10},\"sent_at\":3661000}\n"
        );
        assert_eq!(printed(Style::Json, "unread", "[1]"), "{\"id\":\"AQ\",\"event\":\"unread\",\"data\":[1]}\n");
        assert_eq!(printed(Style::Json, "x", "a\nb"), "{\"id\":\"AQ\",\"event\":\"x\",\"data\":\"a\\nb\"}\n");
    }

    #[test]
    fn lines_for_people_cannot_be_forged() {
        assert_eq!(printed(Style::Plain, "said", ENVELOPE), "01:01:01Z chat:a said {\"n\":1.10}\n");
        let forged =
            r#"{"id":"x","channel":"chat:a","event":"message","data":"a\n\u001b[2Jb","sent_at":18446744073709551615}"#;
        assert_eq!(printed(Style::Plain, "message", forged), "23:59:59Z chat:a a\n    \\u{1b}[2Jb\n");
        assert!(printed(Style::Coloured, "said", ENVELOPE).contains("\u{1b}[36mchat:a\u{1b}[0m"));
    }
}
