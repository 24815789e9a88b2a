//! Secrets that are made once and kept in the data directory.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use rand::{Rng as _, distr::Alphanumeric};

/// Reads the file in the data directory, or makes it on first use. Two processes that start at once
/// agree on what one of them made.
pub(crate) fn load_or_create(data_dir: &Path, name: &str, make: impl FnOnce() -> String) -> io::Result<String> {
    let path = data_dir.join(name);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    create(data_dir, name, &make())?;
    fs::read_to_string(&path)
}

/// Writes a file aside and links it to its name, which fails if another process was first: the name
/// never stands for half a file, and never changes what it stands for.
fn create(data_dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let aside = data_dir.join(format!(".{name}.{}", random_text(12)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| {
        match fs::hard_link(&aside, data_dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    });
    fs::remove_file(&aside)?;
    written
}

/// Letters and digits from a cryptographic generator, about 6 bits each.
pub(crate) fn random_text(chars: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(chars).map(char::from).collect()
}
