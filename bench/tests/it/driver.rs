//! The driver and the load generator understand each other: what the plan asks for is measured.

use std::path::Path;

use bench_suite::{
    machine::Machine,
    plan::{KERNEL_BYTES, Section},
    run::Setup,
    sections::{self, Size},
    servers::{Programs, Server},
};

/// The plan with so few streams that it takes no time.
fn plan() -> Vec<Section> {
    sections::all(Size { is_quick: true, streams_max: 20 })
}

fn setup() -> Setup {
    let references = Path::new(env!("CARGO_BIN_EXE_reference-raw")).parent().unwrap().to_owned();
    let tidings = std::env::var_os("TIDINGS_BIN").map_or(references.join("tidings"), Into::into);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    Setup { programs: Programs { tidings, references }, root, repetitions: 1, is_quick: true, cores: None }
}

/// Every case has figures for Tidings and for a reference, and nothing is refused.
#[test]
fn what_the_plan_asks_for_is_measured() {
    for mut section in plan() {
        if !["open-loop", "unicast", "storm", "idle", "publish"].contains(&section.id) {
            continue;
        }
        // The first case of each; of the brokers only what needs no broker.
        section.cases.truncate(1);
        let case = &mut section.cases[0];
        case.contenders.retain(|contender| [Server::Tidings, Server::Raw].contains(&contender.server));
        let result = setup().section(&section, &mut |_| ()).unwrap();
        assert_eq!(result.machine, Machine::this());
        assert!(result.versions.contains_key("Tidings"), "{:?}", result.versions);
        let case = &section.cases[0];
        for contender in &case.contenders {
            let outcome = result.contender(&case.id, &contender.name).unwrap();
            assert_eq!(outcome.refused, [""; 0], "{}", section.id);
            // The kernel's memory cannot be read everywhere.
            for metric in case.metrics.iter().filter(|metric| metric.id != KERNEL_BYTES.id) {
                let summary = result.summary(&case.id, &contender.name, metric.id);
                assert!(summary.is_some(), "{} of {} in {}", metric.id, contender.name, section.id);
            }
        }
    }
}

/// A server that cannot be started is named with its reason, and the others are measured all the same.
#[test]
fn a_contender_that_fails_does_not_end_the_run() {
    let mut section = plan().into_iter().find(|section| section.id == "shards").unwrap();
    for contender in &mut section.cases[0].contenders[..1] {
        contender.environment = vec![("TIDINGS_NO_SUCH__KEY".to_owned(), "1".to_owned())];
    }
    let result = setup().section(&section, &mut |_| ()).unwrap();
    let case = &section.cases[0];
    let [broken, sound] = [0, 1].map(|at| result.contender(&case.id, &case.contenders[at].name).unwrap());
    assert_eq!((broken.refused.len(), broken.samples.len()), (1, 0));
    assert!(broken.refused[0].contains("TIDINGS_NO_SUCH__KEY"), "{:?}", broken.refused);
    assert_eq!((sound.refused.len(), sound.samples.is_empty()), (0, false));
}
