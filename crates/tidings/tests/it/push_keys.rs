use std::fs;

use crate::command::{run, run_in};

/// What is printed can be added to a configuration as it is.
#[test]
fn a_key_for_web_push_is_printed_as_the_configuration_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let keys = run(&["push", "keys", "--subject", "mailto:ops@example.org"]);
    assert_eq!((keys.code, keys.stderr.as_str()), (Some(0), ""));
    fs::write(dir.path().join("tidings.toml"), &keys.stdout).unwrap();
    let checked = run_in(dir.path(), &["config", "check", "--config", "tidings.toml"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    // The public half is that of the private one, and the only one that is shown again.
    let public = run_in(dir.path(), &["push", "public-key", "--config", "tidings.toml"]);
    assert_eq!(public.stdout.trim_end().len(), 87, "{public:?}");
    assert!(keys.stdout.contains(&format!("# {}", public.stdout)), "{keys:?}");
    let shown = run_in(dir.path(), &["config", "show", "--config", "tidings.toml"]);
    assert!(shown.stdout.contains("vapid_private_key = \"[redacted]\""), "{shown:?}");
}

#[test]
fn no_two_keys_are_the_same() {
    assert_ne!(run(&["push", "keys"]).stdout, run(&["push", "keys"]).stdout);
}

#[test]
fn without_a_key_there_is_no_public_half() {
    let done = run(&["push", "public-key"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
    assert!(done.stderr.contains("tidings push keys"), "{done:?}");
}
