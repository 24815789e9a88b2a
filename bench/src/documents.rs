//! Writes the pages from the results that there are.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Context as _;

use crate::{
    plan::Section,
    plot, polling_page, render,
    results::{Results, SectionResult},
    scaling_page,
};

/// Writes the page of benchmarks, those of polling and of scaling beside it, and their drawings. What has no result yet
/// is said to have none.
pub fn write(sections: &[Section], results_dir: &Path, document: &Path) -> anyhow::Result<()> {
    let mut results = Results::new();
    for section in sections {
        if let Some(result) = SectionResult::read(results_dir, section.id)? {
            results.insert(section.id.to_owned(), result);
        }
    }
    let dir = document.with_extension("");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let notes = |id: &str| fs::read_to_string(dir.join("notes").join(id).with_extension("md")).ok();
    let mut drawings = BTreeSet::new();
    for section in sections {
        // The small run has other numbers of streams than a drawing speaks of.
        let Some(result) = results.get(section.id).filter(|result| !result.is_quick) else { continue };
        for plot in &section.plots {
            if let Some(svg) = plot::draw(plot, section, result)? {
                write_file(&dir.join(plot.file).with_extension("svg"), &svg)?;
                drawings.insert(plot.file);
            }
        }
    }
    write_file(document, &render::page(sections, &results, &drawings, &notes))?;
    write_file(&document.with_file_name("polling.md"), &polling_page::page(&results, &drawings)?)?;
    write_file(&document.with_file_name("scaling.md"), &scaling_page::page(&results)?)
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        polling::tests::{PHASES_MEASURED, measured},
        sections::{self, Size},
    };

    #[test]
    fn all_pages_and_drawings_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let sections = sections::all(Size { is_quick: false, streams_max: usize::MAX });
        let document = dir.path().join("docs/benchmarks.md");
        let read = |name: &str| fs::read_to_string(dir.path().join("docs").join(name)).unwrap();

        write(&sections, dir.path(), &document).unwrap();
        for page in ["benchmarks.md", "polling.md", "scaling.md"] {
            assert!(read(page).contains("easured yet"), "{page}");
        }
        assert!(!read("polling.md").contains(".svg"));

        measured("10000", PHASES_MEASURED).write(dir.path()).unwrap();
        write(&sections, dir.path(), &document).unwrap();
        assert!(read("benchmarks.md").contains("10,000 users: polling takes 8.0 % of a core"));
        assert!(read("polling.md").contains("(benchmarks/polling-10000.svg)"));
        let svg = read("benchmarks/polling-10000.svg");
        for text in ["10,000 users", "polling", "push", "1 %", "10 %", "100 %"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
    }
}
