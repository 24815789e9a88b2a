//! The keys of backends. Only their digests are kept.

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};

/// Bytes of a digest that make its label: 8 hex digits tell a few hundred keys apart, and say
/// nothing of use about the key.
const LABEL_BYTES: usize = 4;

/// The accepted keys.
#[derive(Default)]
pub(crate) struct ApiKeys {
    keys: Vec<ApiKey>,
}

struct ApiKey {
    digest: digest::Digest,
    label: String,
}

impl ApiKeys {
    pub(crate) fn new(keys: &[String]) -> Self {
        let api_key = |key: &String| {
            let digest = digest_of(key);
            let label = digest.as_ref()[..LABEL_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
            ApiKey { digest, label }
        };
        Self { keys: keys.iter().map(api_key).collect() }
    }

    /// The label of the key, if it is one of them. How long that takes depends on how many keys
    /// there are and on nothing else: neither on the key nor on where it is in the list.
    pub(crate) fn label_of(&self, presented: &str) -> Option<&str> {
        let presented = digest_of(presented);
        let mut found = None;
        for key in &self.keys {
            if verify_slices_are_equal(key.digest.as_ref(), presented.as_ref()).is_ok() {
                found = Some(key.label.as_str());
            }
        }
        found
    }
}

fn digest_of(key: &str) -> digest::Digest {
    digest::digest(&digest::SHA256, key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_whole_and_by_the_beginning_of_its_digest() {
        let keys = ApiKeys::new(&["tk_one".to_owned(), "tk_two".to_owned()]);
        // printf tk_two | sha256sum
        assert_eq!(keys.label_of("tk_two"), Some("51a2241b"));
        assert_ne!(keys.label_of("tk_one"), keys.label_of("tk_two"));
        for unknown in ["tk_", "tk_on", "tk_onee", "tk_One", ""] {
            assert_eq!(keys.label_of(unknown), None, "{unknown}");
        }
        assert_eq!(ApiKeys::default().label_of("tk_one"), None);
    }
}
