//! What a push says, cut to what a provider takes.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use tidings_core::notifications::{Content, Notification};

/// How much of the body stays before anything else is left out for its sake, in bytes. Two lines of a
/// notification, about as much as phones show.
const BODY_KEPT_BYTES: usize = 200;

/// Longest time that providers keep a push for a device that is away, in seconds. FCM and the push
/// services of browsers all have four weeks.
pub(crate) const TTL_MAX_SECS: u64 = 28 * 24 * 60 * 60;

/// What a push says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown<'a> {
    pub(crate) title: Cow<'a, str>,
    pub(crate) body: Option<Cow<'a, str>>,
    pub(crate) url: Option<&'a str>,
    /// JSON.
    pub(crate) data: Option<&'a str>,
    /// Whether something is missing, which the application finds in the inbox.
    pub(crate) is_truncated: bool,
}

/// What there is room for. The body is cut first; if only little of it would remain, `data` goes, then
/// `url`, and the title is cut last. `size` measures, and is asked a dozen times at most for each of these.
pub(crate) fn fit<'a>(content: &'a Content, max_bytes: usize, size: impl Fn(&Shown<'a>) -> usize) -> Shown<'a> {
    let mut shown = Shown {
        title: Cow::Borrowed(content.title.as_str()),
        body: content.body.as_deref().map(Cow::Borrowed),
        url: content.url.as_deref(),
        data: content.data.as_ref().map(|data| data.as_json()),
        is_truncated: false,
    };
    let fits = |shown: &Shown<'a>| size(shown) <= max_bytes;
    if fits(&shown) {
        return shown;
    }
    shown.is_truncated = true;
    let body = content.body.as_deref();
    let with_body = |shown: &Shown<'a>, bytes: usize| Shown {
        body: body.map(|body| cut(body, bytes)).filter(|body| !body.is_empty()),
        ..shown.clone()
    };
    for step in 0..3 {
        match step {
            0 => {}
            1 => shown.data = None,
            _ => shown.url = None,
        }
        // What is kept of the body in any case, as long as there is something else to leave out.
        let least = if shown.data.is_some() || shown.url.is_some() { BODY_KEPT_BYTES } else { 0 };
        if fits(&with_body(&shown, least)) {
            let most = longest(body.map_or(0, str::len), |bytes| fits(&with_body(&shown, bytes)));
            return with_body(&shown, most.max(least));
        }
    }
    shown.body = None;
    let with_title = |bytes| Shown { title: cut(&content.title, bytes), ..shown.clone() };
    with_title(longest(content.title.len(), |bytes| fits(&with_title(bytes))))
}

/// The greatest number up to `most` that fits, given that smaller ones do if a greater one does.
fn longest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// The text, or so many bytes of its beginning and an ellipsis.
fn cut(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes {
        return Cow::Borrowed(text);
    }
    let end = (0..=max_bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    match text[..end].trim_end() {
        "" => Cow::Borrowed(""),
        kept => Cow::Owned(format!("{kept}…")),
    }
}

/// What marks two pushes as versions of one, so that the newer takes the older one's place. Of 32
/// characters of base64url, which is what RFC 8030 §5.4 allows, and never the text itself, which is the
/// application's affair.
pub(crate) fn topic(content: &Content) -> Option<String> {
    let collapse = content.collapse.as_deref()?;
    let digest = digest::digest(&digest::SHA256, collapse.as_bytes());
    // 24 bytes are 32 characters.
    Some(BASE64_URL_SAFE_NO_PAD.encode(digest.as_ref().get(..24)?))
}

/// The topic, else the notification's id: a push that is sent again because its answer was lost does not
/// show twice.
pub(crate) fn tag(notification: &Notification) -> String {
    topic(&notification.content).unwrap_or_else(|| notification.id.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_core::notifications::Kind;
    use tidings_protocol::Data;

    use super::*;

    fn content(title: &str, body: Option<&str>, url: Option<&str>, data: Option<&str>) -> Content {
        Content {
            kind: Kind::default_kind(),
            title: title.to_owned(),
            body: body.map(str::to_owned),
            url: url.map(str::to_owned),
            data: data.map(|json| Data::parse(json).unwrap()),
            collapse: None,
        }
    }

    fn size(shown: &Shown<'_>) -> usize {
        let truncated = shown.is_truncated.then_some("truncated");
        serde_json::json!([shown.title, shown.body, shown.url, shown.data, truncated]).to_string().len()
    }

    #[test]
    fn what_fits_is_whole() {
        let content = content("Rain", Some("The festival is off."), Some("https://example.org/"), Some("{\"a\":1}"));
        let shown = fit(&content, 4096, size);
        assert!(!shown.is_truncated);
        assert_eq!((shown.body.as_deref(), shown.data), (Some("The festival is off."), Some("{\"a\":1}")));
    }

    #[test]
    fn a_long_body_is_cut_and_the_rest_stays() {
        let body = "제주 ".repeat(2000);
        let content = content("Rain", Some(&body), Some("https://example.org/"), Some("{\"a\":1}"));
        let shown = fit(&content, 1000, size);
        assert!(shown.is_truncated && shown.url.is_some() && shown.data.is_some());
        assert!(shown.body.as_deref().unwrap().ends_with("제주…"));
        assert!((990..=1000).contains(&size(&shown)), "{}", size(&shown));
    }

    #[test]
    fn long_data_is_left_out_before_the_body_is_gone() {
        let content = content("Rain", Some(&"b".repeat(900)), None, Some(&format!("{:?}", "d".repeat(900))));
        let shown = fit(&content, 1000, size);
        assert_eq!((shown.data, shown.body.as_deref()), (None, Some(&*"b".repeat(900))));
    }

    #[test]
    fn a_long_title_is_cut_when_it_is_alone() {
        let content = content(&"t".repeat(5000), Some("body"), Some("https://example.org/"), None);
        let shown = fit(&content, 500, size);
        assert_eq!((&shown.body, shown.url), (&None, None));
        assert!((490..=500).contains(&size(&shown)), "{}", size(&shown));
    }

    #[test]
    fn the_same_collapse_is_the_same_topic() {
        let mut content = content("Rain", None, None, None);
        assert_eq!(topic(&content), None);
        content.collapse = Some("weather".to_owned());
        let topic = topic(&content).unwrap();
        assert_eq!((topic.len(), topic.as_str()), (32, "5ecr6048aSbT3J4-LveDO6UM2RnCRgp4"));
    }

    proptest! {
        #[test]
        fn it_always_fits_and_says_when_something_is_missing(
            title in "\\PC{0,300}",
            body in proptest::option::of("\\PC{0,2000}"),
            url in proptest::option::of("[a-z]{0,600}"),
            data in proptest::option::of("[a-z\"\\\\]{0,900}"),
            max_bytes in 200usize..3000,
        ) {
            let data = data.map(|text| serde_json::to_string(&text).unwrap());
            let content = content(&title, body.as_deref(), url.as_deref(), data.as_deref());
            let shown = fit(&content, max_bytes, size);
            prop_assert!(size(&shown) <= max_bytes, "{shown:?}");
            let is_whole = shown.title == title && shown.body.as_deref() == body.as_deref()
                && shown.url == url.as_deref() && shown.data == data.as_deref();
            prop_assert_eq!(is_whole, !shown.is_truncated);
        }
    }
}
