//! `tidings publish`

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
    time::Duration,
};

use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Exit, Failure, PublishArguments,
    client::{Problem, Server, refusal, text},
    note, print,
};

/// How long an answer may take: the server's own deadline for a body, twice.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Most data that is read from standard input; no server takes more (`limits.max_data_bytes`).
const DATA_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How much of an NDJSON file goes into one request: well below `limits.max_batch_events` and
/// `limits.max_batch_bytes`, so that a file may be of any length.
const BATCH_MAX_EVENTS: usize = 1000;
const BATCH_MAX_BYTES: usize = 1024 * 1024;

/// Longest line of an NDJSON file.
const LINE_MAX_BYTES: usize = 64 * 1024 * 1024;

#[derive(Serialize)]
struct Body<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflate: Option<&'a str>,
}

/// The part of an NDJSON answer's line that says whether it failed.
#[derive(Deserialize)]
struct AnswerLine {
    error: Option<Problem>,
}

pub(super) fn run(arguments: PublishArguments) -> Result<(), Failure> {
    let server = Server::new(&arguments.client)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::Failed, "cannot start the runtime", &error))?;
    match (&arguments.ndjson, &arguments.channel, &arguments.data) {
        (Some(file), ..) => publish_lines(&runtime, &server, file),
        (None, Some(channel), Some(data)) => {
            let data = data_of(data)?;
            let body = Body {
                channel: channel.as_str(),
                event: arguments.event.as_deref(),
                data: &data,
                key: arguments.key.as_deref(),
                conflate: arguments.conflate.as_deref(),
            };
            let body = serde_json::to_string(&body)
                .map_err(|error| Failure::of(Exit::Failed, "cannot write the event as JSON", &error))?;
            let answer = runtime.block_on(post(&server, "application/json", body))?;
            print(&format!("{}\n", answer.trim_end()))
        }
        // clap asks for both, or the file.
        (None, ..) => Err(Failure::new(Exit::Usage, "give a channel and data, or --ndjson")),
    }
}

/// The data as JSON: the text itself where it is JSON, else as a string.
pub(super) fn data_of(given: &str) -> Result<Box<RawValue>, Failure> {
    let mut text = given.to_owned();
    if given == "-" {
        text.clear();
        let read = io::stdin().lock().take(DATA_MAX_BYTES + 1).read_to_string(&mut text);
        let read = read.map_err(|error| Failure::of(Exit::Failed, "cannot read standard input", &error))?;
        if read as u64 > DATA_MAX_BYTES {
            return Err(Failure::new(Exit::Usage, format!("standard input is longer than {DATA_MAX_BYTES} bytes")));
        }
        // As `$(…)` does it: the last line's end is that of the line, not of the data.
        if text.ends_with('\n') {
            text.pop();
        }
    }
    RawValue::from_string(text.clone())
        .or_else(|_| serde_json::value::to_raw_value(&text))
        .map_err(|error| Failure::of(Exit::Failed, "cannot write the data as JSON", &error))
}

async fn post(server: &Server, content_type: &str, body: impl Into<reqwest::Body>) -> Result<String, Failure> {
    let request = server.post(server.url("/v1/publish")).header(CONTENT_TYPE, content_type).timeout(ANSWER_TIMEOUT);
    let response = request.body(body).send().await.map_err(|error| server.unanswered(error))?;
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    text(response).await.map_err(|error| server.unanswered(error))
}

fn publish_lines(runtime: &tokio::runtime::Runtime, server: &Server, file: &Path) -> Result<(), Failure> {
    let source: Box<dyn io::Read> = if file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        let what = format!("cannot read {}", file.display());
        Box::new(File::open(file).map_err(|error| Failure::of(Exit::Usage, what, &error))?)
    };
    let mut lines = BufReader::with_capacity(BATCH_MAX_BYTES, source);
    let (mut first, mut refused) = (1, 0);
    loop {
        let (batch, count) = next_batch(&mut lines)
            .map_err(|error| Failure::of(Exit::Failed, format_args!("cannot read {}", file.display()), &error))?;
        if count == 0 {
            break;
        }
        let answer = runtime.block_on(post(server, "application/x-ndjson", batch)).map_err(|failure| Failure {
            text: failure.text.map(|text| format!("events {first} to {}: {text}", first + count - 1)),
            ..failure
        })?;
        print(&answer)?;
        for (at, line) in answer.lines().enumerate() {
            if let Ok(AnswerLine { error: Some(problem) }) = serde_json::from_str(line) {
                note(format_args!("event {}: {problem}", first + at));
                refused += 1;
            }
        }
        first += count;
    }
    match refused {
        0 => Ok(()),
        refused => Err(Failure::new(Exit::Refused, format!("{refused} of {} events were refused", first - 1))),
    }
}

/// The next lines and how many they are. Ends early where no more have arrived, so that a line piped
/// in is published at once.
fn next_batch<R: io::Read>(lines: &mut BufReader<R>) -> io::Result<(Vec<u8>, usize)> {
    let (mut batch, mut count) = (Vec::new(), 0);
    while count < BATCH_MAX_EVENTS && batch.len() < BATCH_MAX_BYTES {
        let start = batch.len();
        let read = lines.by_ref().take(LINE_MAX_BYTES as u64).read_until(b'\n', &mut batch)?;
        if read == 0 {
            break;
        }
        if read == LINE_MAX_BYTES && !batch.ends_with(b"\n") {
            let text = format!("a line is longer than {LINE_MAX_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if batch[start..].trim_ascii().is_empty() {
            // The server has no answer for an empty line, and answers are counted to name events.
            batch.truncate(start);
            continue;
        }
        if !batch.ends_with(b"\n") {
            batch.push(b'\n');
        }
        count += 1;
        if !lines.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok((batch, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_json_where_it_can_be() {
        for (given, json) in [
            ("5", "5"),
            ("1.10", "1.10"),
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("hello", "\"hello\""),
            ("{a}", "\"{a}\""),
            ("", "\"\""),
            ("say \"hi\"", "\"say \\\"hi\\\"\""),
        ] {
            assert_eq!(data_of(given).unwrap().get(), json);
        }
    }

    #[test]
    fn lines_are_sent_in_batches_and_an_empty_one_is_none() {
        let file = "{}\n\n  \n{}\n".repeat(600) + "{\"last\":1}";
        let mut lines = BufReader::with_capacity(64 * 1024, file.as_bytes());
        let mut counts = Vec::new();
        loop {
            let (batch, count) = next_batch(&mut lines).unwrap();
            if count == 0 {
                break;
            }
            assert_eq!(batch.iter().filter(|b| **b == b'\n').count(), count);
            counts.push(count);
        }
        assert_eq!(counts, [1000, 200, 1]);
    }
}
